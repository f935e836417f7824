"""Photos in the host's input folder, and a folder for what is kept."""

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ...media import image_io
from ...pipeline.references import index as reference_index

INPUT_LEVELS = 4  # of folders below the host's input folder that are looked at,
INPUT_FOLDERS = 1000  # and how many: a combo is made of them at every look


def input_folders() -> list[str]:
    """Names for a combo: folders below the host's input folder that hold photos, or whose do."""
    return _names(_input_photos())


def input_photos(name: str) -> list[Path]:
    """The photos in a folder of `input_folders` and in those below it.

    Names are untrusted: no other folder is ever read.

    Raises:
        ValueError: a name that is not in the list.
    """
    found = _input_photos()
    if name not in _names(found):
        raise ValueError(
            f"folder '{name}' is not in the list "
            f"({', '.join(_names(found)) or 'which is empty'}). Put a folder of photos into "
            f"{folder_paths.get_input_directory()}, press R, and choose again."
        )
    chosen = Path(name)
    return [
        photo
        for folder, photos in sorted(found.items())
        if chosen in (folder, *folder.parents)
        for photo in photos
    ]


def input_place(name: str) -> Path:
    """Where a folder of `input_folders` lies; for its name alone, as nothing is checked."""
    return Path(folder_paths.get_input_directory(), name)


def cache_folder() -> Path:
    """$COLORIST_CACHE, else in the host's user folder, which outlives it as its temp does not."""
    user = getattr(folder_paths, "get_user_directory", None)
    if user is None or os.environ.get("COLORIST_CACHE"):
        return reference_index.cache_folder()
    return Path(user(), "__colorist", "cache")


def _names(found: Iterable[Path]) -> list[str]:
    both = {place for folder in found for place in (folder, *folder.parents)}
    return sorted(place.as_posix() for place in both if place.name)


def _input_photos() -> dict[Path, list[Path]]:
    """Folder, relative to the host's input folder -> the photos in it. Links are followed once."""
    root = Path(folder_paths.get_input_directory())
    found, seen, ahead = {}, set(), deque([Path()])
    while ahead and len(seen) < INPUT_FOLDERS:
        folder = ahead.popleft()
        place = os.path.realpath(root / folder)
        if place in seen:
            continue  # a link that leads back
        seen.add(place)
        try:
            with os.scandir(place) as inside:
                entries = [entry for entry in inside if not entry.name.startswith(".")]
            below = sorted(entry.name for entry in entries if entry.is_dir())
            photos = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(image_io.SUFFIXES) and entry.is_file()
            )
        except OSError:
            continue  # not ours to read
        if photos:
            found[folder] = [root / folder / name for name in photos]
        if len(folder.parts) < INPUT_LEVELS:
            ahead.extend(folder / name for name in below)
    return found
