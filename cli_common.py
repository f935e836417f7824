"""What the commands share: exit codes, refusals, options of the network, words for the user.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DEFAULT_MODEL = "ddcolor-nano"
DEFAULT_COLORFORMER = "colorformer-nano"  # where it takes a network with a color memory
DEFAULT_EXEMPLAR = "exemplar-nano"
DEFAULT_POINTHINT = "pointhint-nano"
DTYPES = ("float32", "bfloat16", "float16")
# What a file or a setting can bring up; anything else is a bug and may show its traceback.
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 130


class Refusal(Exception):
    """What was asked for cannot be begun; nothing has been written."""


def add_network(parser: argparse.ArgumentParser, default: str | None, told: str = "") -> None:
    """Options that say which network runs, and how; `told`: what --help says of the default."""
    add = parser.add_argument
    add("--model", default=default, help=f"name or checkpoint file (default: {told or default})")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write again what is there already")
    add("--json", action="store_true", help="print what was done as JSON")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refusal where the file `out` would replace a folder, or unasked a file."""
    if os.path.isdir(out):
        raise Refusal(f"{out} is a folder; give the name of a file.")
    if os.path.lexists(out) and not overwrite:
        raise Refusal(f"{out} is there already; give another name, or --overwrite.")


def refuse_unwritable(folder: Path) -> None:
    """Refusal where no file can be written into a folder; it is made only when one is written."""
    nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise Refusal(f"cannot write into {folder} ({error.strerror}). Change -o.") from error


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


def identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def locate_memory(given: Path) -> Path:
    """A color memory's path: `given` if it is there, else the saved memory of that name.

    Raises:
        Refusal: nothing of that name; lists what there is.
    """
    from .model_store import paths

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


def pace(tell: Callable[[str], None], every: float = 2.0) -> Callable[[int, int], None]:
    """What tells of (done, total) photos: their number and pace, a line each `every` seconds."""
    began = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= every or done == total:
            said = now
            tell(f"[{done}/{total}] {done / max(now - began, 1e-3):.1f} photos/s")

    return progress


def left_out(grey: int, unreadable: int) -> str:
    """The line about photos of which a color memory was not built; empty where there are none."""
    counts = {"grey": grey, "unreadable": unreadable}
    some = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return some and f"left out: {some}."


def sentence(error: BaseException, name: str = "") -> str:
    """One line for the user, which names the file."""
    from .media.image_data import PictureError
    from .media.video_info import FilmError

    if isinstance(error, OSError) and error.strerror:
        name, text = name or str(error.filename), f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{name}: {text}" if name and not isinstance(error, PictureError | FilmError) else text


def show(text: str) -> None:
    """A result goes to stdout, with escapes for what stdout cannot show: undecodable file names."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say(text: str) -> None:
    """Progress and errors go to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)
