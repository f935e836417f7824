"""Color memories: build one from your own photos, apply, save and load it."""

import json
import time
from pathlib import Path

import torch
from torch import Tensor

from ..model_defs.checkpoint import CheckpointError
from ..model_store.resolve import MEMORY_SUFFIX
from ..pipeline.automatic import Colorizer
from ..pipeline.color_memory.builder import build_memory
from ..pipeline.color_memory.memory import ColorMemory, load_memory, save_memory
from . import controls, host
from .host import build_supported, io
from .load import cache_key
from .photo_source import CONNECTED_IMAGES, folder_cache_key, folder_input, load_source

Memory = io.Custom("COLOR_MEMORY")
CATEGORY = "Colorist/memory"
ALIASES = ["colour memory", "colorformer"]

MAX_NAME_BYTES = 200  # file systems allow 255; leaves room for a number and the suffix
FORBIDDEN_CHARACTERS = '/\\:*?"<>|'  # in file names, on at least one operating system
WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL"} | {
    port + number for port in ("COM", "LPT") for number in "123456789¹²³"
}


class BuildMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristBuildMemory",
            display_name="Build Color Memory",
            category=CATEGORY,
            description="Builds a color memory for a ColorFormer model from your own color photos, "
            "in about a minute and without training. The model then uses the colors of similar "
            "things in your photos. Needs the Python package scikit-learn.",
            search_aliases=[*ALIASES, "palette", "own photos", "learn colors"],
            inputs=[
                controls.colorizer(
                    "A ColorFormer model from Load Automatic Colorizer. The memory works only with "
                    "this model."
                ),
                controls.image(
                    "images",
                    "Color photos of the subject you want to colorize: the same place, people or "
                    "time. Used if folder is (images).",
                    optional=True,
                ),
                folder_input("images"),
                io.Int.Input(
                    "entries",
                    display_name="entries",
                    default=512,
                    min=1,
                    max=8192,
                    tooltip="Maximum number of entries, the kinds of things the memory tells "
                    "apart. A photo yields about one entry with the bundled model, and about four "
                    "with the published model.",
                ),
                build_supported(
                    io.Int.Input,
                    "seed",
                    display_name="seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Random seed of the clustering. The same seed and photos give the same "
                    "memory.",
                ),
            ],
            outputs=[
                Memory.Output(
                    "memory",
                    display_name="memory",
                    tooltip="Connect to Apply Color Memory or Save Color Memory.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Number of photos used and skipped, of patches and of entries.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        colorizer: None = None,
        images: None = None,
        folder: str = CONNECTED_IMAGES,
        entries: int = 512,
        seed: int = 0,
    ) -> str:
        return folder_cache_key(folder)

    @classmethod
    def execute(
        cls,
        colorizer: Colorizer,
        folder: str = CONNECTED_IMAGES,
        entries: int = 512,
        seed: int = 0,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        started = time.monotonic()
        memory = build_memory(
            colorizer,
            load_source(folder, images, "images"),
            entries=entries,
            seed=seed,
            progress=host.progress(1),
        )
        return io.NodeOutput(memory, build_report(memory, time.monotonic() - started))


class ApplyMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristApplyMemory",
            display_name="Apply Color Memory",
            category=CATEGORY,
            description="Gives a ColorFormer model another color memory, from which it then takes "
            "its colors. The input model does not change.",
            search_aliases=ALIASES,
            inputs=[
                controls.colorizer(
                    "From Load Automatic Colorizer: the ColorFormer model that the memory was "
                    "built with."
                ),
                Memory.Input(
                    "memory",
                    display_name="memory",
                    tooltip="From Build Color Memory or Load Color Memory.",
                ),
            ],
            outputs=[
                controls.Automatic.Output(
                    "with_memory",
                    display_name="colorizer",
                    tooltip="Connect to Colorize, Colorize Variations, Colorize by Reference "
                    "(fallback colorizer) or Colorize by Point Hints (base colorizer).",
                )
            ],
        )

    @classmethod
    def execute(cls, colorizer: Colorizer, memory: ColorMemory) -> io.NodeOutput:
        return io.NodeOutput(colorizer.with_memory(memory))


class SaveMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristSaveMemory",
            display_name="Save Color Memory",
            category=CATEGORY,
            description="Saves a color memory as a file in models/colorization/memories. Existing "
            "files are never overwritten: the new file gets a number instead.",
            search_aliases=ALIASES,
            is_output_node=True,
            inputs=[
                Memory.Input("memory", display_name="memory", tooltip="From Build Color Memory."),
                io.String.Input(
                    "name",
                    display_name="name",
                    default="my-memory",
                    tooltip="File name, without folder or extension.",
                ),
            ],
            outputs=[
                Memory.Output(
                    "saved",
                    display_name="memory",
                    tooltip="The same memory. Connect to Apply Color Memory.",
                ),
                io.String.Output(
                    "file",
                    display_name="file",
                    tooltip="File name, as listed by Load Color Memory.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Reject an invalid name before the run; None stands for a connected input."""
        try:
            if name is not None:
                validate_file_name(name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, memory: ColorMemory, name: str = "my-memory") -> io.NodeOutput:
        return io.NodeOutput(memory, save_unique(memory, name))


class LoadMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristLoadMemory",
            display_name="Load Color Memory",
            category=CATEGORY,
            description="Loads a color memory from a file, for the Apply Color Memory node.",
            search_aliases=ALIASES,
            inputs=[
                build_supported(
                    io.Combo.Input,
                    "file",
                    display_name="file",
                    options=host.memory_names(),
                    tooltip="A .safetensors file in models/colorization/memories, where Save "
                    "Color Memory writes them. Press R after adding a file.",
                ),
            ],
            outputs=[
                Memory.Output(
                    "memory", display_name="memory", tooltip="Connect to Apply Color Memory."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "") -> str:
        return cache_key(file, host.memory_path)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_memory(host.memory_path(file)))


def build_report(memory: ColorMemory, seconds: float) -> str:
    """Return what the memory was built from and how fast, one fact per line."""
    facts = memory.provenance
    skipped = ", ".join(facts["skipped"])
    if facts["unreadable"] > len(facts["skipped"]):
        skipped += ", ..."
    pace = (facts["photos"] + facts["grey"] + facts["unreadable"]) / max(seconds, 1e-3)
    return "\n".join(
        (
            f"Photos used: {facts['photos']}",
            f"Gray photos skipped: {facts['grey']}",
            f"Unreadable files skipped: {facts['unreadable']}{f' ({skipped})' if skipped else ''}",
            f"Patches: {facts['patches']}",
            f"Entries: {facts['entries']} (requested {facts['entries_asked']})",
            f"Time: {seconds:.1f} s ({pace:.1f} photos per second)",
        )
    )


def validate_file_name(name: str) -> str:
    """Return `name` stripped of white space and suffix.

    Raises:
        ValueError: The name could leave its folder or is invalid on some operating system.
    """
    stem = name.strip()
    if stem.lower().endswith(MEMORY_SUFFIX):
        stem = stem[: -len(MEMORY_SUFFIX)].strip()
    if (
        not stem
        or stem.startswith(".")
        or any(letter in FORBIDDEN_CHARACTERS or not letter.isprintable() for letter in stem)
        or len(stem.encode()) > MAX_NAME_BYTES
        or stem.split(".")[0].strip().upper() in WINDOWS_DEVICES
    ):
        raise ValueError(
            f"name is {name!r}; expected a plain file name such as my-memory: without folders, "
            f"none of {' '.join(FORBIDDEN_CHARACTERS)}, not starting with a dot, no device name of "
            f"Windows (CON, NUL, ...), 1 to {MAX_NAME_BYTES} bytes."
        )
    return stem


def save_unique(memory: ColorMemory, name: str) -> str:
    """Save `memory` under `name`, or under name-2, name-3, ... if another memory has that name.

    A file that already holds the same memory is not written again.

    Returns:
        The file name.

    Raises:
        ValueError: See `validate_file_name`.
    """
    stem = validate_file_name(name)
    number = 1
    while True:
        file = stem + (f"-{number}" if number > 1 else "") + MEMORY_SUFFIX
        existing = host.memory_file(file)
        if existing is None:
            save_memory(memory, host.new_memory_file(file))
            return file
        if _file_holds(existing, memory):
            return file
        number += 1


def _file_holds(path: Path, memory: ColorMemory) -> bool:
    """Return True if the file holds exactly this memory."""
    try:
        stored = load_memory(path)
    except CheckpointError:
        return False  # some other file; not to be overwritten either
    return _metadata(stored) == _metadata(memory) and all(
        torch.equal(tensor, other)
        for tensor, other in zip(_tensors(stored), _tensors(memory), strict=True)
    )


def _tensors(memory: ColorMemory) -> list[Tensor]:
    tensors = [memory.keys, memory.values, *(memory.projection or ())]
    return [tensor.float().cpu() for tensor in tensors]


def _metadata(memory: ColorMemory) -> tuple[str, bool, str]:
    provenance = json.dumps(memory.provenance, sort_keys=True)
    return memory.encoder, memory.projection is None, provenance
