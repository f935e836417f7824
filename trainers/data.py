"""Photos of folders, tar shards and streams of shards -> batches of crops, in a repeatable order.

Local photos are opened where they lie: which photo comes at which step, and how it is cropped, is a
function of (seed, position) alone. Shards that are streamed (`streams.Shards`) are read from front
to back, and each batch says how far. In both cases a resumed run sees what the unbroken one would
have seen, and several processes together what one alone would.
"""

import csv
import hashlib
import io
import itertools
import logging
import math
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..media import icc as profiles
from ..ops import color
from . import damage
from .streams import Place, Shards, expanded, is_photo, is_stream

GREY = 2.0  # mean C* of a photo below which it has no colours to teach
# Lab units: what is left of ab when each lightness has one colour, and how far prints leave their
# hue. So 95 to 99.9 % of toned prints are caught, and 0.1 % of colour photos, plain fog
# (benchmarks/toned_prints.py).
TONED, ONE_HUE = 1.4, 3.0
MOST_PIXELS = 120_000_000  # of a picture that cannot be decoded smaller: 0.5 GB in each thread
AHEAD = 3  # batches that each thread makes ahead
UNREADABLE = OSError, SyntaxError, ValueError, Image.DecompressionBombError
log = logging.getLogger(__name__)

# Photo (RGB), its random numbers, step, its index in the Photos (-1: streamed) -> crops, each
# (3, S, S) uint8: the photo's, and what else belongs to the sample.
Cut = Callable[[Image.Image, np.random.Generator, int, int], tuple[Tensor, ...]]


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


# --- One photo -------------------------------------------------------------------------------


def decode(data: bytes, at_least: int = 0) -> Image.Image:
    """A photo as it should be seen: upright, sRGB.

    Args:
        data: its file.
        at_least: pixels that its shorter side must keep; a large JPEG is then decoded at 1/2, 1/4
            or 1/8 of its size, which saves most of the time. 0 = all of it.
    """
    image = Image.open(io.BytesIO(data))
    if at_least:
        image.draft("RGB", (at_least, at_least))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} is {image.width * image.height / 1e6:.0f} megapixels; "
            f"at most {MOST_PIXELS // 10**6} are read"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    icc = image.info.get("icc_profile")
    if icc and image.mode in ("RGB", "CMYK"):
        try:
            return _to_srgb(icc, image.mode)(image)
        except ValueError as error:
            log.debug("taken for sRGB: %s", error)
    return image.convert("RGB")


_to_srgb = lru_cache(maxsize=16)(profiles.managed)


def colourless(image: Image.Image) -> str:
    """What is wrong with a photo as a teacher of colours; "" for most.

    Scans of black-and-white prints are grey, or toned: one hue, one chroma for each lightness.
    """
    small = np.asarray(image.resize((24, 24), Image.Resampling.BOX))
    rgb = torch.from_numpy(small / np.float32(255)).movedim(-1, 0)
    L, ab = color.rgb_to_lab(rgb).flatten(1).split([1, 2])
    if ab.norm(dim=0).mean() < GREY:
        return "it has no colours to learn from"
    curve = (L / 100) ** torch.arange(4)[:, None]
    rest = ab - torch.linalg.lstsq(curve.T, ab.T).solution.T @ curve
    across = torch.linalg.svdvals(ab)[1] / ab.shape[1] ** 0.5  # of the one hue
    if rest.std(dim=1).norm() < TONED and across < ONE_HUE:
        return "it is all of one hue, the same for each lightness, as a toned print"
    return ""


_passed_over: set[str] = set()


def passed_over() -> int:
    """How many photos this process could not use so far."""
    return len(_passed_over)


def _pass_over(name: str, reason: str) -> None:
    if name not in _passed_over:
        _passed_over.add(name)
        log.warning("skipped %s: %s", name, reason)


def colored(name: str, data: bytes, at_least: int) -> Image.Image | None:
    """The photo, or None if it cannot be read or has no colour, which the log then says once."""
    try:
        image = decode(data, at_least)
    except UNREADABLE as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
        _pass_over(name, f"cannot be read ({reason})")
        return None
    if reason := colourless(image):
        _pass_over(name, reason)
        return None
    return image


def random_crop(image: Image.Image, size: int, rng: np.random.Generator, smallest: float) -> Tensor:
    """A random square, mirrored at random -> (3, size, size) uint8.

    Its side is `smallest`..1 of the photo's shorter one.
    """
    side = min(image.size) * rng.uniform(smallest, 1)
    left, top = (rng.uniform(0, length - side) for length in image.size)
    return view(image, size, (left, top, left + side, top + side), rng)


def view(
    image: Image.Image, size: int, box: tuple[float, float, float, float], rng: np.random.Generator
) -> Tensor:
    """The part `box` squashed to a square, mirrored at random -> (3, size, size) uint8."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(crop).transpose(2, 0, 1)
    return torch.from_numpy(
        np.ascontiguousarray(pixels[:, :, ::-1] if rng.random() < 0.5 else pixels)
    )


# --- Batches ---------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What one process trains on in one step: its part of a batch that all of them share."""

    rows: Sequence[int]
    """Of the whole batch."""
    names: list[str]
    """Of the photos, for messages."""
    pictures: tuple[Tensor, ...]
    """Each (b, 3, S, S) uint8: the photos; what else belongs to them."""
    places: dict[str, Place]
    """Of streams: how far each has been read with this batch."""

    def parts(self, number: int) -> Iterator["Batch"]:
        """The batch in equal parts, as `cut_batches` was told; the rows of each are a range."""
        size = len(self.names) // number
        for first in range(0, len(self.names), size):
            some = slice(first, first + size)
            rows = range(self.rows[first], self.rows[first] + size)
            pictures = tuple(picture[some] for picture in self.pictures)
            yield Batch(rows, self.names[some], pictures, self.places)


class Rows(NamedTuple):
    """A part of a batch, made by one thread."""

    names: list[str]
    pictures: list[tuple[Tensor, ...]]
    place: dict[str, Place]


def batches(
    photos: Photos | Shards,
    *,
    size: Callable[[int], int],
    batch: int,
    seed: int,
    smallest: float = 0.6,
    damaged: float = 0.0,
    **how: object,
) -> Iterator[Batch]:
    """Endless batches of random squares of side size(step).

    Each pass over the photos is a new permutation. What cannot be read, and what has no colour, is
    named in the log and replaced by the next.

    Args:
        batch: photos in a step, over all processes.
        smallest: see `random_crop`.
        damaged: part of the photos whose gray version is damaged, see `damage.damage`. Above 0 a
            batch holds the gray versions, (b, 1, S, S), as its second pictures.
        how: see `cut_batches`.
    """

    def cut(image: Image.Image, rng: np.random.Generator, step: int, _: int) -> tuple[Tensor, ...]:
        crop = random_crop(image, size(step), rng, smallest)
        return with_damage(crop, rng, damaged) if damaged else (crop,)

    at_least = partial(pixels_needed, size, smallest)
    return cut_batches(photos, cut, at_least, batch=batch, seed=seed, **how)


def with_damage(crop: Tensor, rng: np.random.Generator, share: float) -> tuple[Tensor, Tensor]:
    """(3, S, S) uint8 -> the crop, maybe with a border; gray (1, S, S), damaged in `share` of them.

    The gray of an undamaged crop is neutral sRGB of its lightness.
    """
    if rng.random() < share:
        target, gray = damage.damage(crop.numpy().transpose(1, 2, 0), rng)
        crop = torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1)))
        return crop, torch.from_numpy(gray)[None]
    gray = color.gray_rgb(color.lightness(crop[None].float() / 255))[0, :1]
    return crop, (gray * 255).round().clamp(0, 255).to(torch.uint8)


def pixels_needed(size: Callable[[int], int], smallest: float, step: int) -> int:
    """Shorter side that a photo must have for its smallest crop not to be enlarged."""
    return round(size(step) / smallest)


def cut_batches(
    photos: Photos | Shards,
    cut: Cut,
    at_least: Callable[[int], int],
    *,
    batch: int,
    seed: int,
    start: int = 0,
    places: dict[str, Place] | None = None,
    rank: int = 0,
    ranks: int = 1,
    parts: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Endless batches of what `cut` makes of photos.

    Args:
        at_least: step -> shorter side that photos have to keep.
        start: step of the first batch.
        places: `Batch.places` of the step before it, of all processes: where streams go on.
        rank, ranks: this process gets its share of each batch: of each of its `parts`, so that a
            part, too, holds the same photos whatever the number of processes.
        threads: that decode ahead (Pillow releases the GIL); streams have one each.
    Raises:
        ValueError: a batch that the processes cannot share evenly; no readable photo.
    """
    if batch % (ranks * parts):
        raise ValueError(
            f"a batch of {batch} photos cannot be shared evenly by {ranks} processes in {parts} "
            "parts."
        )
    lanes: dict[tuple[int, ...], Iterator[Rows]] = {}  # rows -> who makes them
    if isinstance(photos, Shards):
        streams = photos.streams(batch // parts)
        sources = photos.shared(streams, rank, ranks, seed, places or {})
        for stream, source in sources.items():
            rows = share(batch, stream, streams, parts)
            lanes[rows] = _streamed(stream, source, len(rows), cut, at_least, seed, start)
    else:
        readable, mine = _order(photos, seed), share(batch, rank, ranks, parts)
        threads = min(threads, len(mine))
        bounds = [len(mine) * i // threads for i in range(threads + 1)]
        for rows in (mine[a:b] for a, b in itertools.pairwise(bounds)):
            lanes[rows] = _opened(photos, readable, rows, cut, at_least, batch, start)
    return _together(lanes)


def share(batch: int, one: int, of: int, parts: int) -> tuple[int, ...]:
    """Rows of a batch that one of so many makes: as many of each part."""
    size = batch // (of * parts)
    firsts = ((part * of + one) * size for part in range(parts))
    return tuple(row for first in firsts for row in range(first, first + size))


def _opened(
    photos: Photos,
    readable: Callable[[int, int], tuple[int, Image.Image, np.random.Generator]],
    rows: Sequence[int],
    cut: Cut,
    at_least: Callable[[int], int],
    batch: int,
    start: int,
) -> Iterator[Rows]:
    """Some rows of each batch from `start` on."""
    for step in itertools.count(start):
        names, pictures = [], []
        for row in rows:
            index, image, rng = readable(step * batch + row, at_least(step))
            names.append(photos.keys[index])
            pictures.append(cut(image, rng, step, index))
        yield Rows(names, pictures, {})


def _order(
    photos: Photos, seed: int
) -> Callable[[int, int], tuple[int, Image.Image, np.random.Generator]]:
    """Position in an endless run, pixels needed -> index of a photo, the photo, its random numbers.

    Photos that cannot be used are passed over.
    """

    @lru_cache(maxsize=8)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(photos))

    def readable(position: int, at_least: int) -> tuple[int, Image.Image, np.random.Generator]:
        epoch, place = divmod(position, len(photos))
        stride = _stride(seed, position, len(photos))
        for shift in range(len(photos)):
            index = int(permutation(epoch)[(place + shift * stride) % len(photos)])
            image = usable(photos, index, at_least)
            if image is not None:
                return index, image, np.random.default_rng([seed, epoch, place])
        raise ValueError("not one of the photos could be read and has colour.")

    return readable


def _stride(seed: int, position: int, count: int) -> int:
    """Where the next photo is looked for: elsewhere for each position, and all are met in turn.

    Were it the next in order, all the neighbours of a usable photo would be replaced by it.
    """
    rng = np.random.default_rng([seed, position, 1])
    while math.gcd(stride := int(rng.integers(1, count + 1)), count) > 1:
        pass
    return stride


def usable(photos: Photos, index: int, at_least: int) -> Image.Image | None:
    """See `colored`; what could not be used before is not tried again."""
    name = photos.name(index)
    if name in _passed_over:
        return None
    try:
        data = photos.read(index)
    except OSError as error:
        _pass_over(name, f"cannot be read ({error})")
        return None
    return colored(name, data, at_least)


def _streamed(
    stream: int,
    source: Iterator[tuple[Place, str, bytes]],
    rows: int,
    cut: Cut,
    at_least: Callable[[int], int],
    seed: int,
    start: int,
) -> Iterator[Rows]:
    """The rows of each batch that one stream gives."""
    usable_pass = None  # over the shards, in which there was a photo to learn from
    for step in itertools.count(start):
        names, pictures, place = [], [], (0, 0, 0)
        while len(pictures) < rows:
            place, key, data = next(source)
            image = colored(key, data, at_least(step))
            usable_pass = place[0] if image is not None or usable_pass is None else usable_pass
            if place[0] > usable_pass + 1:
                raise ValueError("not one of the streamed photos could be read and has colour.")
            if image is not None:
                names.append(key)
                rng = np.random.default_rng([seed, stream, *place])
                pictures.append(cut(image, rng, step, -1))
        yield Rows(names, pictures, {str(stream): place})


def _together(lanes: dict[tuple[int, ...], Iterator[Rows]]) -> Iterator[Batch]:
    """Rows of all lanes, each computed ahead in a thread of its own, as batches in their order."""
    made = [row for rows in lanes for row in rows]
    order = sorted(range(len(made)), key=made.__getitem__)
    with ExitStack() as stack:
        pools = [ThreadPoolExecutor(1, "photos") for _ in lanes]
        for pool in pools:
            stack.callback(pool.shutdown, cancel_futures=True)
        waiting = [
            deque(pool.submit(next, lane) for _ in range(AHEAD))
            for pool, lane in zip(pools, lanes.values(), strict=True)
        ]
        while True:
            found = [futures.popleft().result() for futures in waiting]
            for pool, lane, futures in zip(pools, lanes.values(), waiting, strict=True):
                futures.append(pool.submit(next, lane))
            names = [name for rows in found for name in rows.names]
            pictures = [row for rows in found for row in rows.pictures]
            yield Batch(
                sorted(made),
                [names[i] for i in order],
                tuple(map(torch.stack, zip(*(pictures[i] for i in order), strict=True))),
                {name: place for rows in found for name, place in rows.place.items()},
            )
