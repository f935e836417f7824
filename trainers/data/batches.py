"""Photos of folders, tar shards and streams of shards -> batches of crops, in a repeatable order.

Local photos are opened where they lie: which photo comes at which step, and how it is cropped, is a
function of (seed, position) alone. Shards that are streamed (`shards.Shards`) are read from front
to back, and each batch says how far. In both cases a resumed run sees what the unbroken one would
have seen, and several processes together what one alone would.
"""

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ops import color
from . import damage
from .color_filter import _pass_over, _passed_over, colored
from .photos import Photos
from .shards import Place, Shards

AHEAD = 3  # batches that each thread makes ahead
log = logging.getLogger(__name__)

# Photo (RGB), its random numbers, step, its index in the Photos (-1: streamed) -> crops, each
# (3, S, S) uint8: the photo's, and what else belongs to the sample.
Cut = Callable[[Image.Image, np.random.Generator, int, int], tuple[Tensor, ...]]


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
