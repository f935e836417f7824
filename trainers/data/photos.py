"""Photo sources: folders, tar files and streamed shards."""

import csv
import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...media.errors import ImageError
from .color_filter import SkippedPhotos, decode_colored
from .decoding import DECODE_ERRORS, decode
from .shards import Shards, expand_braces, is_photo, is_stream


class FileSlice(NamedTuple):
    """Location of a photo: a whole file, or a member of a tar file."""

    path: Path
    offset: int = 0
    size: int = -1
    """Bytes; -1 = the whole file."""


class Photos(Sequence[Image.Image]):
    """Photos in folders (recursive) and uncompressed tar files, opened on access.

    Args:
        sources: folders and .tar files.
        index: CSV files with columns `key` (the file's stem) and `licence_kind`.
        skip_licences: photos whose `licence_kind` is one of these are left out.
    Attributes:
        entries: location of each photo.
        keys: path of each photo below its source, without suffix.
        folders: name of the folder of each photo.
        skipped: photos found to be unusable so far. Subsets share it.
    Raises:
        ValueError: a source does not exist is not a plain tar file, or has no photos.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        index: Sequence[Path] = (),
        skip_licences: Sequence[str] = (),
    ):
        self.entries: list[FileSlice] = []
        self.keys: list[str] = []
        self.folders: list[str] = []
        self.skipped = SkippedPhotos()
        excluded = stems_with_licences(index, skip_licences)
        for source in map(Path, sources):
            for name, entry in _list_files(source):
                path = PurePosixPath(name)
                if is_photo(path) and path.stem not in excluded:
                    self.entries.append(entry)
                    self.keys.append(path.with_suffix("").as_posix())
                    self.folders.append(path.parent.name or (source.name if entry.size < 0 else ""))
        if not self.entries:
            raise ValueError(f"no photos found in {', '.join(map(str, sources))}.")

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "Photos": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | Photos":
        """Decode a photo, or return a subset."""
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return decode(self.read_bytes(index))

    def read_bytes(self, index: int) -> bytes:
        """Return the encoded file of a photo."""
        path, offset, size = self.entries[index]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def load_usable(self, index: int, min_side: int) -> Image.Image | None:
        """Return a photo, or None if it is unreadable or colorless.

        Unusable photos are recorded in `skipped` and not read again.

        Args:
            index: number of the photo.
            min_side: see `decoding.decode`.
        """
        name = self.name(index)
        if name in self.skipped:
            return None
        try:
            data = self.read_bytes(index)
        except OSError as error:
            self.skipped.add(name, f"cannot be read ({error})")
            return None
        return decode_colored(name, data, min_side, self.skipped)

    def name(self, index: int) -> str:
        """Return the name of a photo for messages: its path, and its key within a tar file."""
        path, _, size = self.entries[index]
        return str(path) if size < 0 else f"{path}: {self.keys[index]}"

    def counts(self) -> dict[str, int]:
        """Return the number of photos, for logs and metadata."""
        return {"photos": len(self)}

    def digest(self) -> str:
        """Return the SHA-256, in hex, of the sorted keys, one per line."""
        lines = "".join(f"{key}\n" for key in sorted(self.keys))
        return hashlib.sha256(lines.encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> "Photos":
        """Return the photos at `indices`, in this order."""
        subset = Photos.empty()
        subset.entries = [self.entries[i] for i in indices]
        subset.keys = [self.keys[i] for i in indices]
        subset.folders = [self.folders[i] for i in indices]
        subset.skipped = self.skipped
        return subset

    @classmethod
    def empty(cls) -> "Photos":
        """Return a collection without photos."""
        photos = object.__new__(cls)
        photos.entries, photos.keys, photos.folders = [], [], []
        photos.skipped = SkippedPhotos()
        return photos


class PhotoInputs(Sequence[Path | Tensor]):
    """Photos as the pipeline accepts them: files as paths, members of tar files as pixels.

    Args:
        photos: the photos.
        limit: number of photos to use; 0 = all.
    """

    def __init__(self, photos: Photos, limit: int = 0):
        self.photos = photos[: limit or None]

    def __len__(self) -> int:
        return len(self.photos)

    @overload
    def __getitem__(self, index: int) -> Path | Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "PhotoInputs": ...
    def __getitem__(self, index: int | slice) -> "Path | Tensor | PhotoInputs":
        """Return a path, or (H, W, 3) float32 in 0..1.

        Raises:
            ImageError: the member of a tar file is damaged.
        """
        if isinstance(index, slice):
            return PhotoInputs(self.photos[index])
        path, offset, size = self.photos.entries[index]
        if size < 0:
            return path
        try:
            pixels = np.array(self.photos[index])
        except DECODE_ERRORS as error:
            raise ImageError(f"{path.name} at byte {offset}: damaged ({error}).") from error
        return torch.from_numpy(pixels).float() / 255


def _list_files(source: Path) -> list[tuple[str, FileSlice]]:
    """Return path below the source, and location, of all files of a folder or a tar file."""
    if source.is_dir():
        paths = sorted(source.rglob("*"))
        return [(path.relative_to(source).as_posix(), FileSlice(path)) for path in paths]
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder; expected photos or a .tar file.")
    try:
        with tarfile.open(source, "r:") as tar:
            return [
                (member.name, FileSlice(source, member.offset_data, member.size))
                for member in tar
                if member.isfile()
            ]
    except (tarfile.ReadError, OSError) as error:
        with source.open("rb") as file:
            compressed = file.read(4)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
        fault = "compressed; unpack it" if compressed else "damaged, truncated or not a .tar file"
        raise ValueError(
            f"{source}: {fault}. Expected a folder of photos or an uncompressed .tar file."
        ) from error


def stems_with_licences(indices: Sequence[Path], licences: Sequence[str]) -> set[str]:
    """Return the keys of photos whose `licence_kind` in the CSV files is one of `licences`."""
    keys = set()
    for path in indices:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            keys |= {row["key"] for row in rows if row["licence_kind"] in licences}
    return keys


def open_photos(
    sources: Sequence[str | Path],
    index: Sequence[Path] = (),
    skip_licences: Sequence[str] = (),
    stream: bool = False,
) -> Photos | Shards:
    """Open the photos of a trainer.

    Args:
        sources: folders and .tar shards. URLs and `pipe:` commands are streamed; `{000..099}` names
            many shards.
        index, skip_licences: see `Photos`.
        stream: read local shards sequentially, too, which suits slow disks and network drives.
    """
    sources = expand_braces(sources)
    if stream or any(map(is_stream, sources)):
        return Shards(sources, stems_with_licences(index, skip_licences))
    return Photos(sources, index, skip_licences)


def hold_out(
    photos: Photos | Shards, count: int, seed: int, watch: Sequence[str] = ()
) -> tuple[Photos | Shards, Photos]:
    """Split photos into those to train on and those to evaluate during training.

    Args:
        photos: all photos. None can be held out of a stream.
        count: photos to hold out; at most a tenth of all.
        seed: seed of the random choice.
        watch: folders or .tar files of photos to evaluate instead.
    """
    if watch:
        return photos, Photos(watch)
    if isinstance(photos, Shards):
        return photos, Photos.empty()
    count = min(count, len(photos) // 10)
    order = np.random.default_rng([seed, 1]).permutation(len(photos))
    return photos.subset(sorted(order[count:])), photos.subset(sorted(order[:count]))
