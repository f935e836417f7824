"""Options that commands share, and what they mean.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..console.errors import Refusal

if TYPE_CHECKING:
    from ..model_defs.spec import Spec
    from ..pipeline.automatic import Colorizer


DEFAULT_MODEL = "ddcolor-nano"
DEFAULT_COLORFORMER = "colorformer-nano"  # where it takes a network with a color memory
DEFAULT_EXEMPLAR = "exemplar-nano"
DEFAULT_POINTHINT = "pointhint-nano"
DTYPES = ("float32", "bfloat16", "float16")


def add_network(parser: argparse.ArgumentParser, default: str | None, told: str = "") -> None:
    """Options that say which network runs, and how; `told`: what --help says of the default."""
    add = parser.add_argument
    add("--model", default=default, help=f"name or checkpoint file (default: {told or default})")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write again what is there already")
    add("--json", action="store_true", help="print what was done as JSON")


def device_of(arguments: argparse.Namespace) -> str | None:
    """What --device says; Refusal where this machine has no such device."""
    import torch

    try:
        if arguments.device:
            torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise Refusal(f"--device {arguments.device} cannot be used ({reason}).") from error
    return arguments.device


def locate_memory(given: Path) -> Path:
    """A color memory's path: `given` if it is there, else the saved memory of that name.

    Raises:
        Refusal: nothing of that name; lists what there is.
    """
    from ..model_store import paths

    folder = paths.models_folder() / paths.MEMORIES
    for path in (given, folder / given, folder / f"{given}.safetensors"):
        if path.is_file():
            return path
    if os.path.exists(given):
        return given  # a folder, which reading refuses by name
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    raise Refusal(
        f"{given}: no such file, and no color memory of that name. "
        f"At hand: {', '.join(found) or 'none'}; saved memories lie in {folder}."
    )


# Role -> its command.
COMMANDS = {"automatic": "colorize", "exemplar": "exemplar", "pointhint": "hints"}
# Fields of Finish
CONTROLS = ("strength", "saturation", "chroma_ceiling", "fade", "keep_color", "upsample")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """What is coloured, and where it goes."""
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture, film or folder")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder; or the name of a picture or film, for a single IN",
    )


def add_finish(parser: argparse.ArgumentParser, *, published: bool = False) -> None:
    """Options of what becomes of a predicted colour."""
    add = parser.add_argument
    if published:
        add(
            "--finish",
            choices=("exact", "published"),
            default="exact",
            help="exact: the photo's own lightness; published: as the official script, to compare",
        )
    add(
        "--resolution",
        type=int,
        metavar="N",
        help="side of the working image (default: the network's)",
    )
    add(
        "--strength",
        type=float,
        metavar="X",
        help="0 = as it was ... 1 = full new colour (default)",
    )
    add("--saturation", type=float, metavar="X", help="factor on the colour, 0 to 4 (default: 1)")
    add(
        "--chroma-ceiling",
        type=float,
        metavar="C",
        help="largest C* of new colour (default: 0 = none)",
    )
    add(
        "--fade",
        type=float,
        metavar="C",
        help="C* of which half is left; weaker, doubtful colour goes to neutral (default: 0 = off)",
    )
    add(
        "--keep-color",
        type=float,
        metavar="X",
        help="keep colour the photo has, 0 to 1 (default: 0)",
    )
    add("--upsample", metavar="METHOD", help="how colour is brought to full size")
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="white = colour here, black = leave; the photo's size",
    )


def finishing(arguments: argparse.Namespace, spec: "Spec") -> dict:
    """Mask, resolution and finish for an engine's `colorize`, as the options say.

    Raises:
        Refusal: options that do not go together.
        ValueError, OSError: options that cannot be used.
    """
    from ..media import image_io
    from ..ops import resize
    from ..pipeline import postprocess

    given = {name: getattr(arguments, name) for name in CONTROLS}
    given = {name: value for name, value in given.items() if value is not None}
    published, resolution = arguments.finish == "published", arguments.resolution
    if published and (given or arguments.mask):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--mask"
        raise Refusal(f"--finish published is the official script's picture; leave out {options}.")
    controls = "published" if published else postprocess.Finish(**given)
    mask = image_io.read(arguments.mask).pixels[..., :3].mean(-1) if arguments.mask else None
    if resolution is not None:
        fit = resize.square if published else resize.fit
        fit(1, 1, resolution, spec.multiple)
    return {"mask": mask, "resolution": resolution, "finish": controls}


def load_role(arguments: argparse.Namespace, model: str, role: str) -> "Colorizer":
    """The network called `model`; ValueError where it is of another role."""
    from ..pipeline import loader

    colorizer = loader.load(model, device=device_of(arguments), dtype=arguments.dtype)
    if colorizer.spec.role != role:
        other = COMMANDS.get(colorizer.spec.role)
        raise ValueError(
            f"{model} is a network of the role '{colorizer.spec.role}' "
            f"({colorizer.spec.architecture}); colorist {COMMANDS[role]} takes '{role}' networks. "
            + (f"Its command is colorist {other}." if other else "")
        )
    return colorizer
