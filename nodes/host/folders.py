"""Photos in the host's input folder, and the cache folder."""

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ...media import formats
from ...pipeline.references import index as reference_index

# Bounds of the search for photos, which runs whenever the host asks for the schema.
INPUT_LEVELS = 4  # depth below the input folder
INPUT_FOLDERS = 1000


def input_folders() -> list[str]:
    """Return the folders below the host's input folder that contain photos, at any depth."""
    return _folder_names(_photos_by_folder())


def input_photos(name: str) -> list[Path]:
    """Return the photos in a folder of `input_folders` and its subfolders.

    Names are untrusted: only listed folders are read.

    Raises:
        ValueError: The name is not in the list.
    """
    photos_by_folder = _photos_by_folder()
    names = _folder_names(photos_by_folder)
    if name not in names:
        raise ValueError(
            f"folder '{name}' is not in the list ({', '.join(names) or 'the list is empty'}). "
            f"Put a folder of photos into {folder_paths.get_input_directory()}, press R and choose "
            "again."
        )
    root = Path(name)
    return [
        photo
        for folder, photos in sorted(photos_by_folder.items())
        if root in (folder, *folder.parents)
        for photo in photos
    ]


def input_folder_path(name: str) -> Path:
    """Return the path of a folder of `input_folders`, without checking the name."""
    return Path(folder_paths.get_input_directory(), name)


def cache_folder() -> Path:
    """Return $COLORIST_CACHE, else a folder in the host's user folder, which is kept."""
    user = getattr(folder_paths, "get_user_directory", None)
    if user is None or os.environ.get("COLORIST_CACHE"):
        return reference_index.cache_folder()
    return Path(user(), "__colorist", "cache")


def _folder_names(folders: Iterable[Path]) -> list[str]:
    """Return the names of all folders and their parents below the input folder."""
    all_folders = {path for folder in folders for path in (folder, *folder.parents)}
    return sorted(path.as_posix() for path in all_folders if path.name)


def _photos_by_folder() -> dict[Path, list[Path]]:
    """Return folder, relative to the input folder -> its photos. Links are followed once."""
    root = Path(folder_paths.get_input_directory())
    photos_by_folder: dict[Path, list[Path]] = {}
    visited, queue = set(), deque([Path()])
    while queue and len(visited) < INPUT_FOLDERS:
        folder = queue.popleft()
        real_path = os.path.realpath(root / folder)
        if real_path in visited:
            continue  # a link loop
        visited.add(real_path)
        try:
            with os.scandir(real_path) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
            subfolders = sorted(entry.name for entry in entries if entry.is_dir())
            photos = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(formats.IMAGE_SUFFIXES) and entry.is_file()
            )
        except OSError:
            continue  # not readable
        if photos:
            photos_by_folder[folder] = [root / folder / name for name in photos]
        if len(folder.parts) < INPUT_LEVELS:
            queue.extend(folder / name for name in subfolders)
    return photos_by_folder
