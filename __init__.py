"""ComfyUI-Colorist: colorize black-and-white photos and video in ComfyUI, a terminal or Python.

Example:
    import comfyui_colorist as colorist

    colorizer = colorist.load("ddcolor_modelscope.pth", device="cuda")
    rgb = colorizer.colorize(rgb)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import Colorist

__version__ = "1.0.0"

WEB_DIRECTORY = "./web"
# Public name -> (module, name in it). Imported on first use, so that importing us is cheap.
_LAZY = {
    "load": (".pipeline.loader", "load"),
    "load_model": (".pipeline.loader", "load_model"),
    "Colorizer": (".pipeline.automatic", "Colorizer"),
    "ColorMemory": (".pipeline.color_memory.memory", "ColorMemory"),
    "build_memory": (".pipeline.color_memory.builder", "build_memory"),
    "colorize_video": (".pipeline.video.job", "colorize_video"),
    "load_memory": (".pipeline.color_memory.memory", "load_memory"),
    "save_memory": (".pipeline.color_memory.memory", "save_memory"),
    "suggest_points": (".pipeline.point_suggestions", "suggest_points"),
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
    "colorize_video",
    "load",
    "load_memory",
    "load_model",
    "save_memory",
    "suggest_points",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    return getattr(import_module(module, __name__), attribute)


async def comfy_entrypoint() -> "Colorist":
    """Return the node extension; called by ComfyUI."""
    from .nodes import extension

    return extension()
