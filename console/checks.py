"""What is looked at before anything is written.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import os
import tempfile
from pathlib import Path

from .errors import Refusal


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


def identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
