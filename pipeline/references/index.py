"""What is known of the photos of a folder, kept in one file, so that a search reads only new ones.

The file lies in a cache folder, never beside the photos, and can be deleted at any time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ...media.atomic import write_whole
from ...model_store import paths

log = logging.getLogger(__name__)

VERSION = 1  # of the file, and of what a descriptor is made of
COLOR, GREYISH, UNREADABLE = "color", "grey", "unreadable"
SAVE_EVERY = 500  # photos, so that an interruption costs little


class Entry(NamedTuple):
    """One photo: what its file was like, and what became of it."""

    size: int
    modified: int
    """Nanoseconds."""
    kind: str
    what: Tensor | str | None
    """Descriptor (D,) float16 of a colour photo, None of a grey one, the reason of a bad one."""


def cache_folder() -> Path:
    """$COLORIST_CACHE, else `cache` in the platform's user data folder."""
    if chosen := os.environ.get("COLORIST_CACHE"):
        return Path(chosen)
    return paths.data_folder() / "cache"


def index_file(folder: str | Path, cache: Path | None = None) -> Path:
    """Where the index of a folder of photos lies: named by its real path, in `cache`."""
    real = os.path.normcase(os.path.realpath(folder))
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    return (cache or cache_folder()) / "references" / f"{name}.safetensors"


class Index:
    """What is known of photo files, by path relative to their folder, size and time.

    A file that is missing, damaged, of another version or of another encoder is an empty index; one
    that cannot be written costs a warning.

    Args:
        file: where it is kept.
        folder: of the photos.
        encoder: name of what describes photos; another one makes all descriptors worthless.
    """

    def __init__(self, file: Path, folder: str | Path, encoder: str):
        self.file, self.folder, self.encoder = Path(file), Path(folder), encoder
        self.entries = self._load()
        self._facts: dict[int, tuple[str, int, int]] = {}
        self._unsaved, self._changed, self._writable = 0, False, True

    def begin(self, gallery: Sequence) -> list[tuple[str, Tensor | str | None] | None]:
        """(kind, what) of each photo that is known and unchanged, else None; forgets the others.

        What is no file (pixels, a file that is gone) is None and never kept.
        """
        self._facts, kept, found = {}, {}, []
        for place, photo in enumerate(gallery):
            entry, facts = None, self._facts_of(photo)
            if facts is not None:
                self._facts[place] = facts
                name, *rest = facts
                entry = self.entries.get(name)
                if entry is not None and [entry.size, entry.modified] == rest:
                    kept[name] = entry
                else:
                    entry = None
            found.append(entry and (entry.kind, entry.what))
        self._changed = len(kept) != len(self.entries)
        self.entries = kept
        return found

    def add(self, place: int, kind: str, what: Tensor | str | None) -> None:
        """Note what became of the photo at `place` of the gallery that `begin` was given."""
        if place in self._facts:
            name, size, modified = self._facts[place]
            if kind == UNREADABLE and not os.access(self.folder / name, os.R_OK):
                return  # may be allowed to us tomorrow
            self.entries[name] = Entry(size, modified, kind, what)
            self._changed = True
            self._unsaved += 1
            if self._unsaved >= SAVE_EVERY:
                self.save()

    def save(self) -> None:
        """Write the file, whole or not at all, if anything is new."""
        if not self._changed or not self._writable:
            return
        try:
            write_whole(self.file, self._bytes())
            self._unsaved, self._changed = 0, False
        except OSError as error:
            self._writable = False
            log.warning(
                "%s: the index of photos cannot be kept (%s); the next search reads all photos "
                "again. Set COLORIST_CACHE to a folder that can be written.",
                *(self.file, error.strerror or error),
            )

    def _facts_of(self, photo: object) -> tuple[str, int, int] | None:
        if not isinstance(photo, str | Path):
            return None
        try:
            found = os.stat(photo)
        except OSError:
            return None
        try:
            name = os.path.relpath(photo, self.folder)
        except ValueError:  # on another drive
            name = os.path.abspath(photo)
        return Path(name).as_posix(), found.st_size, found.st_mtime_ns

    def _bytes(self) -> bytes:
        rows = [entry.what for entry in self.entries.values() if entry.kind == COLOR]
        listed = [
            [name, entry.size, entry.modified, entry.kind, *self._words(entry)]
            for name, entry in self.entries.items()
        ]
        about = {"version": VERSION, "encoder": self.encoder, "photos": listed}
        tensors = {"descriptors": torch.stack(rows) if rows else torch.zeros(0, 0).half()}
        return to_safetensors(tensors, metadata={"references": json.dumps(about)})

    @staticmethod
    def _words(entry: Entry) -> list[str]:
        return [entry.what] if entry.kind == UNREADABLE else []

    def _load(self) -> dict[str, Entry]:
        try:
            with safe_open(self.file, framework="pt") as file:
                about = json.loads((file.metadata() or {})["references"])
                if (about["version"], about["encoder"]) != (VERSION, self.encoder):
                    return {}
                # A copy, as Windows replaces no file that is still mapped.
                descriptors = file.get_tensor("descriptors").clone()
            if not descriptors.isfinite().all() or descriptors.dtype != torch.float16:
                raise ValueError("descriptors that are no numbers")
            rows, entries = iter(descriptors.unbind()), {}
            for name, size, modified, kind, *words in about["photos"]:
                what = next(rows) if kind == COLOR else words[0] if words else None
                entries[name] = Entry(size, modified, kind, what)
            if next(rows, None) is not None:
                raise ValueError("more descriptors than photos")
            return entries
        except FileNotFoundError:
            return {}
        except (
            *(OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError),
            *(StopIteration, RecursionError),
        ) as error:
            log.warning("%s: a damaged index of photos; made anew (%s).", self.file, error)
            return {}
