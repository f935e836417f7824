"""A stand-in for the parts of ComfyUI that nodes/host uses, like v0.33 on the CPU.

`install()` puts it into sys.modules. If COMFYUI_PATH is set, the tests use that host instead.
"""

import inspect
import os
import sys
from dataclasses import dataclass, field
from types import ModuleType

import torch

# ---- comfy_api ----


class Input:
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        self.id, self.display_name, self.optional, self.tooltip = (
            id,
            display_name,
            optional,
            tooltip,
        )
        self.lazy, self.extra_dict, self.raw_link, self.advanced = (
            lazy,
            extra_dict,
            raw_link,
            advanced,
        )


class WidgetInput(Input):
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        socketless=None,
        widget_type=None,
        force_input=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link, advanced)
        self.default, self.socketless, self.widget_type = default, socketless, widget_type
        self.force_input = force_input


class Output:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip
        self.is_output_list = is_output_list


class NumberInput(WidgetInput):
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        min=None,
        max=None,
        step=None,
        display_mode=None,
        socketless=None,
        force_input=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        super().__init__(
            id,
            display_name,
            optional,
            tooltip,
            lazy,
            default,
            socketless,
            None,
            force_input,
            extra_dict,
            raw_link,
            advanced,
        )
        self.min, self.max, self.step, self.display_mode = min, max, step, display_mode


class IntInput(NumberInput):
    __signature__ = inspect.signature(NumberInput).replace(
        parameters=[
            *inspect.signature(NumberInput).parameters.values(),
            inspect.Parameter("control_after_generate", inspect.Parameter.KEYWORD_ONLY),
        ]
    )

    def __init__(self, *args, control_after_generate=None, **options):
        super().__init__(*args, **options)
        self.control_after_generate = control_after_generate


class ComboInput(WidgetInput):
    def __init__(
        self,
        id,
        options=None,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        default=None,
        socketless=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        super().__init__(
            id,
            display_name,
            optional,
            tooltip,
            lazy,
            default,
            socketless,
            None,
            None,
            extra_dict,
            raw_link,
            advanced,
        )
        self.options = options


class StringInput(WidgetInput):
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        multiline=False,
        placeholder=None,
        default=None,
        dynamic_prompts=None,
        socketless=None,
        force_input=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        super().__init__(
            id,
            display_name,
            optional,
            tooltip,
            lazy,
            default,
            socketless,
            None,
            force_input,
            extra_dict,
            raw_link,
            advanced,
        )
        self.multiline, self.placeholder = multiline, placeholder
        self.dynamic_prompts = dynamic_prompts


def comfytype(io_type: str):
    """The host's decorator for custom input types."""

    def named(cls):
        cls.io_type = cls.Input.io_type = io_type
        return cls

    return named


def comfy_type(name: str, base: type[Input]) -> type:
    cls = type(name, (), {"io_type": name})
    cls.Input = type("Input", (base,), {"io_type": name})
    cls.Output = type("Output", (Output,), {"io_type": name})
    return cls


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list = field(default_factory=list)
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args, self.ui = args, ui
        self.expand, self.block_execution = expand, block_execution

    @property
    def result(self):
        return self.args or None


class ComfyNode:
    hidden = None  # set while the node runs

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        return cls.define_schema()


class ComfyExtension:
    async def on_load(self) -> None: ...


def comfy_api() -> dict[str, ModuleType]:
    io = ModuleType("comfy_api.latest.io")
    io.Schema, io.NodeOutput, io.ComfyNode = Schema, NodeOutput, ComfyNode
    io.Custom = lambda name: comfy_type(name, Input)
    io.Image, io.Mask = comfy_type("IMAGE", Input), comfy_type("MASK", Input)
    io.Int, io.Float = comfy_type("INT", IntInput), comfy_type("FLOAT", NumberInput)
    io.String = comfy_type("STRING", StringInput)
    io.Boolean = comfy_type("BOOLEAN", WidgetInput)
    io.Combo = comfy_type("COMBO", ComboInput)
    io.WidgetInput, io.comfytype = WidgetInput, comfytype
    io.Hidden = type("Hidden", (), {"unique_id": "UNIQUE_ID"})
    io.NumberDisplay = type("NumberDisplay", (), {"number": "number", "slider": "slider"})
    api = ModuleType("comfy_api.v0_0_2")
    api.io, api.ui, api.ComfyExtension = io, ModuleType("ui"), ComfyExtension
    package = ModuleType("comfy_api")
    package.v0_0_2 = package.latest = api
    return {"comfy_api": package, "comfy_api.v0_0_2": api, "comfy_api.latest": api}


# ---- comfy ----


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


class InterruptProcessingException(BaseException):
    pass


class ProgressBar:
    def __init__(self, total, node_id=None):
        self.total, self.current = total, 0

    def update_absolute(self, value, total=None, preview=None):
        self.current = value


def model_management() -> ModuleType:
    mm = ModuleType("comfy.model_management")
    cpu, interrupted = torch.device("cpu"), [False]

    def load_models_gpu(
        models,
        memory_required=0,
        force_patch_weights=False,
        minimum_memory_required=None,
        force_full_load=False,
    ):
        for patcher in models:
            patcher.model.to(patcher.load_device)

    def interrupt_current_processing(value=True):
        interrupted[0] = value

    def throw_exception_if_processing_interrupted():
        if interrupted[0]:
            interrupted[0] = False
            raise InterruptProcessingException

    mm.get_torch_device = mm.unet_offload_device = mm.intermediate_device = lambda: cpu
    mm.intermediate_dtype = lambda: torch.float32
    mm.should_use_bf16 = lambda device=None: False
    mm.get_free_memory = lambda device=None: 2**33
    mm.soft_empty_cache = lambda force=False: None
    mm.OOM_EXCEPTION = torch.OutOfMemoryError
    mm.is_oom = lambda error: isinstance(error, torch.OutOfMemoryError)
    mm.load_models_gpu = load_models_gpu
    mm.InterruptProcessingException = InterruptProcessingException
    mm.interrupt_current_processing = interrupt_current_processing
    mm.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    return mm


def comfy() -> dict[str, ModuleType]:
    package = ModuleType("comfy")
    package.model_management = model_management()
    package.model_patcher, package.utils = (
        ModuleType("comfy.model_patcher"),
        ModuleType("comfy.utils"),
    )
    package.model_patcher.ModelPatcher = ModelPatcher
    package.model_patcher.CoreModelPatcher = ModelPatcher
    package.utils.ProgressBar = ProgressBar
    parts = ("model_management", "model_patcher", "utils")
    return {"comfy": package, **{f"comfy.{part}": getattr(package, part) for part in parts}}


# ---- server ----


def server() -> ModuleType:
    """Return a module `server`; `install` leaves it out, and tests add it if needed."""
    from aiohttp import web

    class PromptQueue:
        running = 0

        def get_tasks_remaining(self):
            return self.running

    class PromptServer:
        def __init__(self):
            self.routes, self.prompt_queue = web.RouteTableDef(), PromptQueue()

    module = ModuleType("server")
    module.PromptServer, PromptServer.instance = PromptServer, PromptServer()
    return module


# ---- folder_paths ----


def folder_paths() -> ModuleType:
    paths = ModuleType("folder_paths")
    paths.models_dir = os.path.join(os.sep, "no", "such", "models")
    paths.folder_names_and_paths = {}
    paths.input_directory = os.path.join(os.sep, "no", "such", "input")
    paths.temp_directory = os.path.join(os.sep, "no", "such", "temp")

    def add_model_folder_path(key, folder, is_default=False):
        folders, _ = paths.folder_names_and_paths.setdefault(key, ([], set()))
        if folder not in folders:
            folders.insert(0 if is_default else len(folders), folder)

    def get_filename_list(key):
        folders, suffixes = paths.folder_names_and_paths[key]
        names = set()
        for folder in folders:
            for where, _, files in os.walk(folder, followlinks=True):
                names |= {os.path.relpath(os.path.join(where, name), folder) for name in files}
        return sorted(
            n for n in names if not suffixes or os.path.splitext(n)[1].lower() in suffixes
        )

    def get_full_path(key, name):
        name = os.path.relpath(os.path.join("/", name), "/")
        for folder in paths.folder_names_and_paths[key][0]:
            if os.path.isfile(full := os.path.join(folder, name)):
                return full
        return None

    def get_full_path_or_raise(key, name):
        if full := get_full_path(key, name):
            return full
        raise FileNotFoundError(f"Model in folder '{key}' with filename '{name}' not found.")

    def set_input_directory(folder):
        paths.input_directory = folder

    def set_temp_directory(folder):
        paths.temp_directory = folder

    paths.get_input_directory = lambda: paths.input_directory
    paths.set_input_directory = set_input_directory
    paths.get_temp_directory = lambda: paths.temp_directory
    paths.set_temp_directory = set_temp_directory
    paths.add_model_folder_path = add_model_folder_path
    paths.get_folder_paths = lambda key: list(paths.folder_names_and_paths[key][0])
    paths.get_filename_list = get_filename_list
    paths.get_full_path = get_full_path
    paths.get_full_path_or_raise = get_full_path_or_raise
    return paths


def install() -> None:
    """Add the stand-in to sys.modules."""
    sys.modules.update({**comfy_api(), **comfy(), "folder_paths": folder_paths()})
