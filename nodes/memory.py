"""Color memories: built of your own photos, used, kept, brought back."""

import hashlib
import json
import time
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from ..model_defs.checkpoint import CheckpointError
from ..pipeline.automatic import Colorizer
from ..pipeline.color_memory import builder as memory_builder
from ..pipeline.color_memory import memory as memories
from ..pipeline.color_memory.memory import ColorMemory
from . import controls, host, search_terms
from .host import io, make
from .load import fingerprint

Memory = io.Custom("COLOR_MEMORY")
CATEGORY = "Colorist/memory"
IMAGES = "(images)"  # in the combo of folders: the connected images
ALIASES = [*search_terms.COLORING, "colour memory", "colorformer"]

LONGEST = 200  # bytes of a name that someone chooses; file systems take 255
REFUSED = '/\\:*?"<>|'  # in a name, by one system or another
DEVICES = {"CON", "PRN", "AUX", "NUL"} | {d + n for d in ("COM", "LPT") for n in "123456789¹²³"}


class BuildMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristBuildMemory",
            display_name="Build Color Memory",
            category=CATEGORY,
            description="Learns which colours belong to what from your own colour photos, in a "
            "minute or so and without training, for a ColorFormer network. Needs the Python "
            "package scikit-learn.",
            search_aliases=[*ALIASES, "palette", "own photos", "learn colors"],
            inputs=[
                controls.colorizer(
                    "From Load Automatic Colorizer: a ColorFormer network. The memory fits this "
                    "network alone."
                ),
                controls.image(
                    "images",
                    "Colour photos of what you want to colour: of the place, the people, the "
                    "time. Used when folder is (images).",
                    optional=True,
                ),
                make(
                    io.Combo.Input,
                    "folder",
                    display_name="folder",
                    options=[IMAGES, *(name for name in host.input_folders() if name != IMAGES)],
                    default=IMAGES,
                    tooltip="(images): the connected images. Or a folder of colour photos inside "
                    "ComfyUI's input folder, with those below it; the connected images are then "
                    "not used. Press R after adding a folder.",
                ),
                io.Int.Input(
                    "entries",
                    display_name="entries",
                    default=512,
                    min=1,
                    max=8192,
                    tooltip="How many kinds of things the memory tells apart, at most. With the "
                    "network in the box each photo brings one, with the published one about four.",
                ),
                make(
                    io.Int.Input,
                    "seed",
                    display_name="seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Start of the search for kinds. The same seed and photos give the same "
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
                    tooltip="Photos used and left out, patches, entries.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        colorizer: None = None,
        images: None = None,
        folder: str = IMAGES,
        entries: int = 512,
        seed: int = 0,
    ) -> str:
        return folder_fingerprint(folder)

    @classmethod
    def execute(
        cls,
        colorizer: Colorizer,
        folder: str = IMAGES,
        entries: int = 512,
        seed: int = 0,
        images: Tensor | None = None,
    ) -> io.NodeOutput:
        began = time.monotonic()
        memory = memory_builder.build(
            colorizer,
            _photos(folder, images),
            entries=entries,
            seed=seed,
            progress=host.progress(1),
        )
        return io.NodeOutput(memory, report(memory, time.monotonic() - began))


class ApplyMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristApplyMemory",
            display_name="Apply Color Memory",
            category=CATEGORY,
            description="Gives a ColorFormer network another color memory: it then takes its "
            "colours from there. The network that came in stays as it is.",
            search_aliases=ALIASES,
            inputs=[
                controls.colorizer(
                    "From Load Automatic Colorizer: the ColorFormer network that the memory was "
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
        return make(
            io.Schema,
            node_id="ColoristSaveMemory",
            display_name="Save Color Memory",
            category=CATEGORY,
            description="Keeps a color memory as a file in models/colorization/memories. Never "
            "overwrites another one: the new file then gets a number.",
            search_aliases=ALIASES,
            is_output_node=True,
            inputs=[
                Memory.Input("memory", display_name="memory", tooltip="From Build Color Memory."),
                io.String.Input(
                    "name",
                    display_name="name",
                    default="my-memory",
                    tooltip="Name of the file, without folders and ending.",
                ),
            ],
            outputs=[
                Memory.Output(
                    "saved",
                    display_name="memory",
                    tooltip="The memory that came in. Connect to Apply Color Memory.",
                ),
                io.String.Output(
                    "file",
                    display_name="file",
                    tooltip="Name of the file, as Load Color Memory lists it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Refuses a bad name before the memory is built; None = known only during the run."""
        try:
            if name is not None:
                plain_name(name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, memory: ColorMemory, name: str = "my-memory") -> io.NodeOutput:
        return io.NodeOutput(memory, keep(memory, name))


class LoadMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristLoadMemory",
            display_name="Load Color Memory",
            category=CATEGORY,
            description="Opens a color memory that was kept as a file, for the Apply Color Memory "
            "node.",
            search_aliases=ALIASES,
            inputs=[
                make(
                    io.Combo.Input,
                    "file",
                    display_name="file",
                    options=host.memory_names(),
                    tooltip="A file (.safetensors) in models/colorization/memories, where Save "
                    "Color Memory keeps them. Press R after adding a file.",
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
        return fingerprint(file, host.memory_path)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(memories.load(host.memory_path(file)))


def folder_fingerprint(folder: str) -> str:
    """Changes when a photo of the folder chosen in a combo does; "" for the connected images."""
    if folder == IMAGES:
        return ""
    try:
        facts = [(str(photo), photo.stat()) for photo in host.input_photos(folder)]
    except (ValueError, OSError):
        return f"{folder}: missing"  # execute says why
    listed = "\n".join(f"{name}:{fact.st_mtime_ns}:{fact.st_size}" for name, fact in facts)
    return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()


def report(memory: ColorMemory, seconds: float) -> str:
    """What a memory was built of, and how fast, for a person."""
    made = memory.provenance
    pace = (made["photos"] + made["grey"] + made["unreadable"]) / max(seconds, 1e-3)
    names = ", ".join(made["skipped"])
    if made["unreadable"] > len(made["skipped"]):
        names += ", ..."
    return "\n".join(
        (
            f"Photos used: {made['photos']}",
            f"Grey, left out: {made['grey']}",
            f"Unreadable, left out: {made['unreadable']}{f' ({names})' if names else ''}",
            f"Patches: {made['patches']}",
            f"Entries: {made['entries']} (asked for {made['entries_asked']})",
            f"Time: {seconds:.1f} s ({pace:.1f} photos per second)",
        )
    )


def plain_name(name: str) -> str:
    """`name` as the name of a file in a folder that it cannot leave, on any system; no ending.

    Raises:
        ValueError: a name that would not do.
    """
    plain = name.strip()
    if plain.lower().endswith(host.MEMORY_SUFFIX):
        plain = plain[: -len(host.MEMORY_SUFFIX)].strip()
    if (
        not plain
        or plain.startswith(".")
        or any(letter in REFUSED or not letter.isprintable() for letter in plain)
        or len(plain.encode()) > LONGEST
        or plain.split(".")[0].strip().upper() in DEVICES
    ):
        raise ValueError(
            f"name is {name!r}; expected a plain file name such as my-memory: no folders, none of "
            f"{' '.join(REFUSED)}, no dot in front, no device name of Windows (CON, NUL, ...), "
            f"1 to {LONGEST} letters."
        )
    return plain


def keep(memory: ColorMemory, name: str) -> str:
    """Save `memory` under `name`, or with -2, -3, ... where that is another one; the file's name.

    Nothing is written where the same memory lies under that name already.

    Raises:
        ValueError: see `plain_name`.
    """
    plain = plain_name(name)
    for number in count(1):
        file = plain + (f"-{number}" if number > 1 else "") + host.MEMORY_SUFFIX
        there = host.memory_file(file)
        if there is None:
            memories.save(memory, host.new_memory_file(file))
            return file
        if _holds(there, memory):
            return file


def _holds(path: Path, memory: ColorMemory) -> bool:
    """Whether the file holds exactly this memory."""
    try:
        kept = memories.load(path)
    except CheckpointError:
        return False  # something else, which is not ours to overwrite either
    return _facts(kept) == _facts(memory) and all(
        torch.equal(one, other) for one, other in zip(_tensors(kept), _tensors(memory), strict=True)
    )


def _tensors(memory: ColorMemory) -> list[Tensor]:
    tensors = [memory.keys, memory.values, *(memory.projection or ())]
    return [tensor.float().cpu() for tensor in tensors]


def _facts(memory: ColorMemory) -> tuple:
    provenance = json.dumps(memory.provenance, sort_keys=True)
    return memory.encoder, memory.projection is None, provenance


def _photos(folder: str, images: Tensor | None) -> list[Path] | list[Tensor]:
    """What the combo says: the connected images, (H, W, C) each, or the photos of a folder."""
    if folder != IMAGES:
        return host.input_photos(folder)
    if images is None:
        raise ValueError(
            "there are no photos to build a memory of: connect images, or choose a folder "
            "(put one into ComfyUI's input folder and press R)."
        )
    return list(images)
