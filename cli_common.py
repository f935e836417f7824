"""What the commands share: exit codes, refusals, options of the network, words for the user.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

DEFAULT_MODEL = "ddcolor-nano"
DEFAULT_COLORFORMER = "colorformer-nano"  # where it takes a network with a color memory
DTYPES = ("float32", "bfloat16", "float16")
# What a file or a setting can bring up; anything else is a bug and may show its traceback.
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 130


class Refusal(Exception):
    """What was asked for cannot be begun; nothing has been written."""


def add_network(parser: argparse.ArgumentParser, default: str) -> None:
    """Options that say which network runs, and how."""
    add = parser.add_argument
    add("--model", default=default, help="name or checkpoint file (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write again what is there already")
    add("--json", action="store_true", help="print what was done as JSON")


def refuse_unwritable(folder: Path) -> None:
    """Make a folder; Refusal where no file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
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


def sentence(error: BaseException, name: str = "") -> str:
    """One line for the user, which names the file."""
    from .pipeline.files import PictureError

    if isinstance(error, OSError) and error.strerror:
        name, text = name or str(error.filename), f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{name}: {text}" if name and not isinstance(error, PictureError) else text


def say(text: str) -> None:
    """Progress and errors go to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)
