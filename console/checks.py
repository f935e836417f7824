"""Checks of paths before anything is written.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import os
import tempfile
from pathlib import Path

from .errors import UsageError


def check_output_file(path: Path, overwrite: bool) -> None:
    """Raise UsageError if `path` is a folder, or an existing file that may not be overwritten."""
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; give the name of a file.")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} already exists; give another name, or add --overwrite.")


def check_writable(folder: Path, option: str = "-o") -> None:
    """Raise UsageError if no file can be written into `folder`.

    Args:
        folder: need not exist yet.
        option: option of the command line to change.
    """
    nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder} ({error.strerror}). Change {option}."
        ) from error


def file_id(path: Path) -> tuple[int, int]:
    """Return (device, inode), equal for all hard links and aliases of one file."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
