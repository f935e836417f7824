"""Where photos lie: folders, tar files and shards."""

import csv
import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from .decoding import decode
from .shards import Shards, expanded, is_photo, is_stream


class Photos(Sequence[Image.Image]):
    """Photos of folders (recursive) and uncompressed tar files, opened when asked for.

    Args:
        sources: folders and .tar files.
        index: CSV files with columns `key` (the file's stem) and `licence_kind`.
        skip_licences: photos whose `licence_kind` is one of these are left out.
    Attributes:
        keys: of each photo: its path below the source, without suffix.
        folders: name of the folder that each photo lies in.
    """

    def __init__(
        self,
        sources: Sequence[str | Path],
        index: Sequence[Path] = (),
        skip_licences: Sequence[str] = (),
    ):
        # File, offset, size; size -1: the whole file.
        self.entries: list[tuple[Path, int, int]] = []
        self.keys: list[str] = []
        self.folders: list[str] = []
        skipped = keys_to_skip(index, skip_licences)
        for source in map(Path, sources):
            for name, entry in _files(source):
                path = PurePosixPath(name)
                if is_photo(path) and path.stem not in skipped:
                    self.entries.append(entry)
                    self.keys.append(path.with_suffix("").as_posix())
                    self.folders.append(path.parent.name or (source.name if entry[2] < 0 else ""))
        if not self.entries:
            raise ValueError(f"no photos found in {', '.join(map(str, sources))}.")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Image.Image:
        return decode(self.read(index))

    def read(self, index: int) -> bytes:
        """A photo's file as it is."""
        path, offset, size = self.entries[index]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def name(self, index: int) -> str:
        """What a person finds the photo by."""
        path, _, size = self.entries[index]
        return str(path) if size < 0 else f"{path}: {self.keys[index]}"

    def counted(self) -> dict[str, int]:
        """How many there are."""
        return {"photos": len(self)}

    def digest(self) -> str:
        """SHA-256, in hex, of the sorted keys, one a line."""
        lines = "".join(f"{key}\n" for key in sorted(self.keys))
        return hashlib.sha256(lines.encode()).hexdigest()

    def part(self, indices: Sequence[int]) -> "Photos":
        """Some of the photos, in this order."""
        part = Photos.none()
        for name in ("entries", "keys", "folders"):
            values = getattr(self, name)
            setattr(part, name, [values[i] for i in indices])
        return part

    @classmethod
    def none(cls) -> "Photos":
        """No photos."""
        none = object.__new__(cls)
        none.entries, none.keys, none.folders = [], [], []
        return none


def _files(source: Path) -> list[tuple[str, tuple[Path, int, int]]]:
    """Path below the source, and entry, of all files of a folder or a tar file."""
    if source.is_dir():
        found = sorted(source.rglob("*"))
        return [(path.relative_to(source).as_posix(), (path, 0, -1)) for path in found]
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder; expected photos or a .tar file.")
    try:
        with tarfile.open(source, "r:") as tar:
            return [(m.name, (source, m.offset_data, m.size)) for m in tar if m.isfile()]
    except (tarfile.ReadError, OSError) as error:
        with source.open("rb") as file:
            packed = file.read(4)[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
        what = "compressed; unpack it" if packed else "damaged, cut short, or no .tar file"
        raise ValueError(
            f"{source}: {what}. Expected a folder of photos or an uncompressed .tar file."
        ) from error


def keys_to_skip(indices: Sequence[Path], licences: Sequence[str]) -> set[str]:
    """Keys of the photos whose `licence_kind` in the CSV files `indices` is one of `licences`."""
    skipped = set()
    for path in indices:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            skipped |= {row["key"] for row in rows if row["licence_kind"] in licences}
    return skipped


def open_photos(
    sources: Sequence[str],
    index: Sequence[Path] = (),
    skip_licences: Sequence[str] = (),
    stream: bool = False,
) -> Photos | Shards:
    """Where a trainer's photos come from.

    Args:
        sources: folders and .tar shards; URLs and `pipe:` commands of shards, `{000..099}` for
            many, are streamed.
        stream: read local shards from front to back, too, as disks and networks like it.
    """
    sources = expanded(sources)
    if stream or any(map(is_stream, sources)):
        return Shards(sources, keys_to_skip(index, skip_licences))
    return Photos(sources, index, skip_licences)


def hold_out(
    photos: Photos | Shards, count: int, seed: int, watch: Sequence[str] = ()
) -> tuple[Photos | Shards, Photos]:
    """Photos to train on and photos to look at on the way: `count` of them, at most a tenth.

    None of a stream, whose photos are not known beforehand; those in `watch`, where it is given.
    """
    if watch:
        return photos, Photos(watch)
    if isinstance(photos, Shards):
        return photos, Photos.none()
    count = min(count, len(photos) // 10)
    order = np.random.default_rng([seed, 1]).permutation(len(photos))
    return photos.part(sorted(order[count:])), photos.part(sorted(order[:count]))
