"""Options that several commands share.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, overload

from ..console.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ..media.image_data import ImageMetadata
    from ..model_defs.spec import Role, Spec
    from ..pipeline.automatic import Colorizer
    from ..pipeline.by_hints import PointHintColorizer
    from ..pipeline.by_reference import ExemplarColorizer
    from ..pipeline.loaded_network import LoadedNetwork
    from ..pipeline.loader import AnyColorizer
    from ..pipeline.postprocess import Finish, FinishOption
    from .jobs import Page

DEFAULT_MODEL = "ddcolor-nano"
DEFAULT_COLORFORMER = "colorformer-nano"
"""Default of commands that need a model with a color memory."""
DEFAULT_EXEMPLAR = "exemplar-nano"
DEFAULT_POINTHINT = "pointhint-nano"
DTYPES = ("float32", "bfloat16", "float16")
COMMAND_OF_ROLE = {"automatic": "colorize", "exemplar": "exemplar", "pointhint": "hints"}
FINISH_FIELDS = (
    *("strength", "saturation", "look", "chroma_ceiling", "fade", "keep_color", "upsample"),
)
"""Fields of `Finish` that have an option of the same name."""


def add_model_options(
    parser: argparse.ArgumentParser, default: str | None, default_help: str = ""
) -> None:
    """Add the options for the model, and those of every command that writes outputs.

    Args:
        parser: parser of a command.
        default: default of --model.
        default_help: description of the default in --help, if it is not simply `default`.
    """
    add = parser.add_argument
    add(
        "--model",
        default=default,
        help=f"model name or checkpoint file (default: {default_help or default})",
    )
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda if available)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write outputs again that already exist")
    add("--json", action="store_true", help="print a report as JSON")


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for inputs and outputs."""
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="image, video or folder")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="output folder; or, for a single IN, the name of an image or video",
    )
    add_page_option(parser)


def add_page_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the page of multi-page files."""
    parser.add_argument(
        "--page",
        type=_page,
        metavar="N",
        help="page of multi-page TIFFs, from 1, or all; in a folder the output is called "
        "NAME-pageN (default: the first full-size page)",
    )


def _page(value: str) -> "Page":
    """Parse the value of --page."""
    if value == "all":
        return "all"
    if value.isdecimal() and int(value):
        return int(value)
    raise argparse.ArgumentTypeError(f"{value}; expected a number from 1, or all")


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for a color memory."""
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="NAME",
        help="color memory used instead of the model's: file, or name of a saved one",
    )


def add_finish_options(parser: argparse.ArgumentParser, *, published: bool = False) -> None:
    """Add the options for postprocessing.

    Args:
        parser: parser of a command.
        published: add --finish, which selects the output of the official script.
    """
    add = parser.add_argument
    if published:
        add(
            "--finish",
            choices=("exact", "published"),
            default="exact",
            help="exact: keep the lightness of the photo; published: output of the official "
            "script, for comparison",
        )
    for name, kind, metavar, text in (
        ("--resolution", int, "N", "side of the working image (default: that of the model)"),
        ("--strength", float, "X", "blend from 0 = original to 1 = new color (default: 1)"),
        ("--saturation", float, "X", "factor on the new color, 0 to 4 (default: 1)"),
        ("--look", str, "NAME", "color grading, such as vivid or 'hand-tinted' (default: natural)"),
        ("--chroma-ceiling", float, "C", "limit of C* of the new color (default: 0 = none)"),
        (
            "--fade",
            float,
            "C",
            "C* that is reduced by half; weaker, uncertain color fades to gray (default: 0 = off)",
        ),
        ("--keep-color", float, "X", "amount of existing color to keep, 0 to 1 (default: 0)"),
        ("--upsample", str, "METHOD", "method that brings color to full resolution"),
        ("--mask", Path, "FILE", "image of the same size; white = colorize, black = leave"),
    ):
        add(name, type=kind, metavar=metavar, help=text)
    add(
        "--no-provenance",
        action="store_true",
        help="do not record in the metadata of images that a model inferred the colors",
    )


class FinishOptions(NamedTuple):
    """Arguments for `colorize` of any engine."""

    mask: "np.ndarray | None"
    resolution: int | None
    finish: "FinishOption"
    controls: "Finish"
    """The value of `finish` for engines that always finish exactly."""


def finish_options(arguments: argparse.Namespace, spec: "Spec") -> FinishOptions:
    """Return mask, resolution and finish as the options specify.

    Raises:
        UsageError: options that exclude each other.
        ValueError, OSError: a value is out of range, or the mask cannot be read.
    """
    from ..media import image_io
    from ..pipeline.postprocess import Finish, finish_choice, select_renderer

    values = {name: getattr(arguments, name) for name in FINISH_FIELDS}
    values = {name: value for name, value in values.items() if value is not None}
    controls = Finish(**values)
    finish = finish_choice(arguments.finish, controls)
    renderer = select_renderer(finish, spec)
    if not renderer.adjustable and (values or arguments.mask):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in values) or "--mask"
        raise UsageError(
            f"--finish {arguments.finish} is the output of the official script; leave out "
            f"{options}."
        )
    mask = image_io.read_image(arguments.mask).pixels[..., :3].mean(-1) if arguments.mask else None
    if arguments.resolution is not None:  # raises for one that this network does not support
        renderer.geometry(1, 1, arguments.resolution, spec.multiple)
    return FinishOptions(mask, arguments.resolution, finish, controls)


def result_metadata(
    arguments: argparse.Namespace, metadata: "ImageMetadata", *models: "LoadedNetwork | None"
) -> "ImageMetadata":
    """Return the metadata of a result, with the models that inferred its colors.

    Nothing is recorded with --no-provenance, or if the options leave the photo without new color.
    """
    has_new_color = arguments.strength != 0 and arguments.saturation != 0
    if arguments.no_provenance or not has_new_color:
        return metadata
    return replace(metadata, inferred_by=" and ".join(model.name for model in models if model))


def load_reference_encoder(arguments: argparse.Namespace) -> "Colorizer":
    """Load the model whose encoder compares photos, on the device of the options."""
    from ..pipeline import loader
    from ..pipeline.references import descriptors

    encoder = loader.load(descriptors.ENCODER, device=device_option(arguments))
    return cast("Colorizer", encoder)


def device_option(arguments: argparse.Namespace) -> str | None:
    """Return the value of --device.

    Raises:
        UsageError: this machine has no such device.
    """
    import torch

    try:
        if arguments.device:
            torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UsageError(f"--device {arguments.device} cannot be used ({reason}).") from error
    return arguments.device


@overload
def load_engine(
    arguments: argparse.Namespace, model: str, role: Literal["automatic"]
) -> "Colorizer": ...


@overload
def load_engine(
    arguments: argparse.Namespace, model: str, role: Literal["exemplar"]
) -> "ExemplarColorizer": ...


@overload
def load_engine(
    arguments: argparse.Namespace, model: str, role: Literal["pointhint"]
) -> "PointHintColorizer": ...


def load_engine(arguments: argparse.Namespace, model: str, role: "Role") -> "AnyColorizer":
    """Load a model on the device and with the dtype of the options.

    Raises:
        ValueError: the model has another role; the message names the command for it.
    """
    from ..pipeline import loader

    engine = loader.load(model, device=device_option(arguments), dtype=arguments.dtype)
    if engine.spec.role != role:
        other = COMMAND_OF_ROLE.get(engine.spec.role)
        raise ValueError(
            f"{model} is a model with the role '{engine.spec.role}' ({engine.spec.architecture}); "
            f"expected one with the role '{role}'. "
            + (f"Use colorist {other} for this model." if other else "")
        )
    return engine
