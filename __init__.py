"""ComfyUI-Colorist: colour black-and-white photos and film in ComfyUI, a terminal, or Python.

import comfyui_colorist as colorist
engine = colorist.load("ddcolor_modelscope.pth", device="cuda")
rgb = engine.colorize(rgb)
"""

__version__ = "1.0.0"

WEB_DIRECTORY = "./web"
# Public name -> (sub-module, name there); imported when first asked for: our import stays cheap.
_LAZY = {
    "load": (".pipeline.loader", "load"),
    "load_model": (".pipeline.loader", "load_model"),
    "Colorizer": (".pipeline.automatic", "Colorizer"),
    "ColorMemory": (".pipeline.color_memory.memory", "ColorMemory"),
    "build_memory": (".pipeline.color_memory.builder", "build"),
    "load_memory": (".pipeline.color_memory.memory", "load"),
    "save_memory": (".pipeline.color_memory.memory", "save"),
    "Finish": (".pipeline.postprocess", "Finish"),
    "CheckpointError": (".model_defs.checkpoint", "CheckpointError"),
}
__all__ = [
    "CheckpointError",
    "ColorMemory",
    "Colorizer",
    "Finish",
    "__version__",
    "build_memory",
    "load",
    "load_memory",
    "load_model",
    "save_memory",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module, __name__), attribute)


async def comfy_entrypoint():
    """What the host calls to learn our nodes."""
    from .nodes import extension

    return extension()
