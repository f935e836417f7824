"""Index of the descriptors of a folder's photos, so that a search reads only new photos.

The index is a file in a cache folder, never beside the photos, and can be deleted at any time.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ...media.atomic import write_atomic
from ...model_store import paths
from ..photos import Photo

log = logging.getLogger(__name__)

VERSION = 2  # of the file format and of the descriptors
Kind = Literal["color", "grey", "unreadable"]
COLOR: Kind = "color"
GRAY: Kind = "grey"
UNREADABLE: Kind = "unreadable"
SAVE_INTERVAL = 500  # photos between saves, so that an interruption costs little


class PhotoRecord(NamedTuple):
    """Result of examining a photo."""

    kind: Kind
    vector: Tensor | None = None
    """(D,) float16 descriptor of a color photo."""
    error: str = ""
    """Reason why an unreadable photo cannot be used."""


class FileStamp(NamedTuple):
    """Identifies a version of a file in the folder."""

    name: str
    """Path relative to the folder."""
    size: int
    modified: int
    """Nanoseconds."""


def cache_folder() -> Path:
    """Return $COLORIST_CACHE, or `cache` in the platform's user data folder."""
    if configured := os.environ.get("COLORIST_CACHE"):
        return Path(configured)
    return paths.data_folder() / "cache"


def index_file(folder: str | Path, cache: Path | None = None) -> Path:
    """Return the path of the index of a folder of photos, named after the folder's real path."""
    real = os.path.normcase(os.path.realpath(folder))
    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:32]
    return (cache or cache_folder()) / "references" / f"{name}.safetensors"


class ReferenceIndex:
    """Records of photo files by relative path, size and modification time.

    A file that is missing, damaged, of another version or of another encoder counts as an empty
    index. Failing to write it causes a warning.

    Args:
        file: path of the index.
        folder: folder of the photos.
        encoder: identifier of the encoder; descriptors of another encoder are discarded.
    """

    def __init__(self, file: Path, folder: str | Path, encoder: str):
        self.file, self.folder, self.encoder = Path(file), Path(folder), encoder
        self._records = self._load()
        self._stamps: dict[int, FileStamp] = {}
        self._unsaved, self._changed, self._writable = 0, False, True

    def lookup(self, gallery: Sequence[Photo]) -> list[PhotoRecord | None]:
        """Return the records of unchanged photos, None for the others, and drop all other records.

        Pixels and missing files have no record.
        """
        kept: dict[FileStamp, PhotoRecord] = {}
        records: list[PhotoRecord | None] = []
        self._stamps = {}
        for i, photo in enumerate(gallery):
            stamp = self._stamp(photo)
            record = None
            if stamp is not None:
                self._stamps[i] = stamp
                record = self._records.get(stamp)
                if record is not None:
                    kept[stamp] = record
            records.append(record)
        self._changed = len(kept) != len(self._records)
        self._records = kept
        return records

    def add(self, index: int, record: PhotoRecord) -> None:
        """Add the record of photo `index` of the gallery that was passed to `lookup`."""
        stamp = self._stamps.get(index)
        if stamp is None:
            return
        if record.kind == UNREADABLE and not os.access(self.folder / stamp.name, os.R_OK):
            return  # permissions may change without a change of the file
        self._records[stamp] = record
        self._changed = True
        self._unsaved += 1
        if self._unsaved >= SAVE_INTERVAL:
            self.save()

    def save(self) -> None:
        """Write the file atomically if there are changes."""
        if not self._changed or not self._writable:
            return
        try:
            write_atomic(self.file, self._to_bytes())
            self._unsaved, self._changed = 0, False
        except OSError as error:
            self._writable = False
            log.warning(
                "%s: cannot write the index of photos (%s); the next search reads all photos "
                "again. Set COLORIST_CACHE to a writable folder.",
                *(self.file, error.strerror or error),
            )

    def _stamp(self, photo: Photo) -> FileStamp | None:
        if isinstance(photo, Tensor):
            return None
        try:
            status = os.stat(photo)
        except OSError:
            return None
        try:
            name = os.path.relpath(photo, self.folder)
        except ValueError:  # on another drive
            name = os.path.abspath(photo)
        return FileStamp(Path(name).as_posix(), status.st_size, status.st_mtime_ns)

    def _to_bytes(self) -> bytes:
        vectors = [record.vector for record in self._records.values() if record.vector is not None]
        photos = [
            [*stamp, record.kind, *([record.error] if record.kind == UNREADABLE else [])]
            for stamp, record in self._records.items()
        ]
        header = {"version": VERSION, "encoder": self.encoder, "photos": photos}
        tensors = {"descriptors": torch.stack(vectors) if vectors else torch.zeros(0, 0).half()}
        return to_safetensors(tensors, metadata={"references": json.dumps(header)})

    def _load(self) -> dict[FileStamp, PhotoRecord]:
        try:
            with safe_open(self.file, framework="pt") as file:
                header = json.loads((file.metadata() or {})["references"])
                if (header["version"], header["encoder"]) != (VERSION, self.encoder):
                    return {}
                # A copy, because Windows cannot replace a file that is still mapped
                descriptors = file.get_tensor("descriptors").clone()
            if not descriptors.isfinite().all() or descriptors.dtype != torch.float16:
                raise ValueError("descriptors are not finite float16 numbers")
            vectors = iter(descriptors.unbind())
            records: dict[FileStamp, PhotoRecord] = {}
            for name, size, modified, kind, *errors in header["photos"]:
                vector = next(vectors) if kind == COLOR else None
                error = errors[0] if errors else ""
                records[FileStamp(name, size, modified)] = PhotoRecord(kind, vector, error)
            if next(vectors, None) is not None:
                raise ValueError("more descriptors than photos")
            return records
        except FileNotFoundError:
            return {}
        except (
            *(OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError),
            *(StopIteration, RecursionError),
        ) as error:
            log.warning("%s: rebuilding the index of photos, it is damaged (%s).", self.file, error)
            return {}
