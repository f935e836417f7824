"""Atomic file writes, and hidden files and folders for unfinished results."""

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None

_PART_NAME = re.compile(r"\.colorist-[0-9a-f]+\.part")
_checked_folders: set[str] = set()
"""Folders in which this process has looked for the files of killed runs."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either its old content or all of `data`.

    Missing folders are created. The first write into a folder removes what killed runs have left
    there.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`. Nothing is left behind.
    """
    write_atomic_together({path: data})


def write_atomic_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files like `write_atomic`: all are complete before the first is replaced.

    Raises:
        OSError: see `write_atomic`.
    """
    with ExitStack() as parts:
        temporaries = {}
        for path, data in contents.items():
            with _naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = os.path.abspath(path.parent)
                if folder not in _checked_folders:
                    _checked_folders.add(folder)
                    remove_abandoned_parts(path.parent)
                temporaries[path] = parts.enter_context(_written_part(path.parent, data))
        for path, temporary in temporaries.items():
            with _naming(path):
                os.replace(temporary, path)


def remove_abandoned_parts(folder: Path) -> None:
    """Remove the unfinished files of `write_atomic` that no living process is writing.

    A file is abandoned if it can be locked. Links, and files of other users, are left alone, and so
    is everything on drives without locks.
    """
    try:
        parts = [
            Path(entry.path) for entry in os.scandir(folder) if _PART_NAME.fullmatch(entry.name)
        ]
    except OSError:  # the folder does not exist yet or is unreadable
        return
    if parts:
        with suppress(OSError):
            owner = _owner_of_new_files(folder)
            for part in parts:
                with suppress(OSError):
                    _remove_if_abandoned(part, owner)


def make_work_folder(folder: Path) -> None:
    """Create a hidden folder for unfinished results, or check one that exists.

    The folder and its files are written and removed by name. Links would turn that against files
    elsewhere, so a link in place of the folder is refused, and links inside of it are removed.

    Raises:
        OSError: it cannot be created, is not a folder, or belongs to another user.
    """
    check_work_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def check_work_folder(folder: Path) -> None:
    """Check a work folder, and remove the links in it; see `make_work_folder`. It may not exist.

    Raises:
        OSError: it is not a folder, or belongs to another user.
    """
    if not os.path.lexists(folder):
        return
    status = os.lstat(folder)
    is_link = os.path.islink(folder) or getattr(os.path, "isjunction", os.path.islink)(folder)
    if is_link or not stat.S_ISDIR(status.st_mode):
        raise FileExistsError(
            f"{folder}: a link or file in place of our work folder; remove it, or name another "
            "output."
        )
    if status.st_uid != _owner_of_new_files(folder.parent):
        raise PermissionError(
            f"{folder}: the work folder of another user; remove it, or name another output."
        )
    for entry in os.scandir(folder):
        if entry.is_symlink():
            os.unlink(entry.path)


@contextmanager
def _naming(path: Path) -> Generator[None, None, None]:
    """Put `path` into the OSErrors of temporary files."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def _written_part(folder: Path, data: bytes) -> Generator[Path, None, None]:
    """Write an unfinished file, which is locked inside the context and removed unless renamed."""
    temporary, file = _create_part(folder)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if not fcntl:
                file.close()
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_part(folder: Path) -> tuple[Path, BinaryIO]:
    """Create and lock an unfinished file; it counts as abandoned once the lock is gone."""
    while True:
        part = folder / f".colorist-{secrets.token_hex(8)}.part"
        file = part.open("xb")
        if fcntl:
            with suppress(OSError):  # some network drives have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink or not fcntl:
            return part, file
        file.close()  # another run has removed it just before it was locked


def _remove_if_abandoned(part: Path, owner: int) -> None:
    """Remove an unfinished file unless a process holds its lock.

    Raises:
        OSError: it is locked, not a file, or cannot be removed.
    """
    if not fcntl:
        if stat.S_ISREG(os.lstat(part).st_mode):
            os.unlink(part)
        return
    descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(part)
    finally:
        os.close(descriptor)


def _owner_of_new_files(folder: Path) -> int:
    """Return the user that files get in this folder; network drives may have their own."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_uid
