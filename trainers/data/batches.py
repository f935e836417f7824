"""Batches of training samples, in a repeatable order.

The photo at each step and its random numbers depend on (seed, position) alone for local photos.
Streamed shards (`shards.Shards`) are read sequentially, and each batch records how far. In both
cases a resumed run sees the samples of an uninterrupted one, and several processes together those
of one process.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ops import color
from . import damage
from .color_filter import decode_colored
from .photos import Photos
from .shards import Shards, StreamPosition

PREFETCH = 3  # batches that each worker prepares ahead

# Position in an endless run, shorter side needed -> index of a photo, the photo, its random numbers
PhotoReader = Callable[[int, int], tuple[int, Image.Image, np.random.Generator]]


# --- Transforms ------------------------------------------------------------------------------


class Transform(Protocol):
    """Makes the tensors of one training sample from a photo."""

    def min_side(self, step: int) -> int:
        """Return the shorter side in pixels that a photo needs at `step`."""

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, step: int, index: int
    ) -> tuple[Tensor, ...]:
        """Return crops, each (C, S, S) uint8, the photo's first.

        Args:
            image: the photo.
            rng: its random numbers.
            step: training step.
            index: number of the photo in its `Photos`; -1 for streamed photos.
        """


@dataclass(frozen=True)
class RandomCrop:
    """Transform: a random square of side size(step), and its gray version where `damage` > 0.

    Args:
        size: training step -> side in pixels.
        min_scale: smallest side of the crop, as a fraction of the photo's shorter side.
        damage: probability that the gray version is damaged, see `damage.damage`. Above 0 a batch
            holds the gray versions, (B, 1, S, S), as its second images.
    """

    size: Callable[[int], int]
    min_scale: float = 0.6
    damage: float = 0.0

    def min_side(self, step: int) -> int:
        """Return the shorter side at which the smallest crop is not enlarged."""
        return round(self.size(step) / self.min_scale)

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, step: int, index: int
    ) -> tuple[Tensor, ...]:
        """Return the crop, and its gray version if `damage` is above 0."""
        crop = random_crop(image, self.size(step), rng, self.min_scale)
        return with_gray_version(crop, rng, self.damage) if self.damage else (crop,)


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, min_scale: float
) -> Tensor:
    """Return a random square, mirrored at random: (3, size, size) uint8.

    Its side is `min_scale`..1 of the photo's shorter side.
    """
    side = min(image.size) * rng.uniform(min_scale, 1)
    left, top = (rng.uniform(0, length - side) for length in image.size)
    return resize_box(image, size, (left, top, left + side, top + side), rng)


def resize_box(
    image: Image.Image, size: int, box: tuple[float, float, float, float], rng: np.random.Generator
) -> Tensor:
    """Return the part `box` resized to a square, mirrored at random: (3, size, size) uint8."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(crop).transpose(2, 0, 1)
    return torch.from_numpy(
        np.ascontiguousarray(pixels[:, :, ::-1] if rng.random() < 0.5 else pixels)
    )


def with_gray_version(
    crop: Tensor, rng: np.random.Generator, probability: float
) -> tuple[Tensor, Tensor]:
    """Return a crop (3, S, S) uint8, possibly with a border, and its gray version (1, S, S).

    The gray version is damaged with `probability`, else neutral sRGB of the crop's lightness.
    """
    if rng.random() < probability:
        target, gray = damage.damage(crop.numpy().transpose(1, 2, 0), rng)
        crop = torch.from_numpy(np.ascontiguousarray(target.transpose(2, 0, 1)))
        return crop, torch.from_numpy(gray)[None]
    neutral = color.gray_rgb(color.lightness(crop[None].float() / 255))[0, :1]
    return crop, (neutral * 255).round().clamp(0, 255).to(torch.uint8)


# --- Batches ---------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Samples of one process in one step: its part of a batch that all processes share."""

    rows: Sequence[int]
    """Row numbers in the whole batch."""
    names: list[str]
    """Names of the photos, for messages."""
    images: tuple[Tensor, ...]
    """Results of the transform, each (B, C, S, S) uint8; the photos come first."""
    stream_positions: dict[str, StreamPosition]
    """How far each stream has been read with this batch, by its number."""

    def split(self, parts: int) -> Iterator["Batch"]:
        """Yield equal parts of the batch. The rows of each are a range.

        Args:
            parts: their number, as `load_batches` was called with.
        """
        size = len(self.names) // parts
        for first in range(0, len(self.names), size):
            part = slice(first, first + size)
            rows = range(self.rows[first], self.rows[first] + size)
            images = tuple(image[part] for image in self.images)
            yield Batch(rows, self.names[part], images, self.stream_positions)


class RowBlock(NamedTuple):
    """Rows of a batch prepared by one worker."""

    names: list[str]
    samples: list[tuple[Tensor, ...]]
    stream_positions: dict[str, StreamPosition]


def load_batches(
    photos: Photos | Shards,
    transform: Transform,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    stream_positions: dict[str, StreamPosition] | None = None,
    rank: int = 0,
    world_size: int = 1,
    parts: int = 1,
    threads: int = 2,
) -> Generator[Batch, None, None]:
    """Yield batches endlessly.

    Each pass over the photos is a new permutation. Unreadable and colorless photos are logged and
    replaced.

    Args:
        photos: local or streamed photos.
        transform: makes a sample from a photo.
        batch: samples per step, over all processes.
        seed: seed of order and transforms.
        start: step of the first batch.
        stream_positions: `Batch.stream_positions` of the step before, of all processes.
        rank, world_size: number of this process, and of all. A process gets its rows of each part
            of the batch, so a part holds the same photos whatever the number of processes.
        parts: parts that a batch is split into, see `Batch.split`.
        threads: threads that decode ahead (Pillow releases the GIL); streams have one each.
    Raises:
        ValueError: the batch cannot be divided evenly, or no photo is usable.
    """
    if batch % (world_size * parts):
        raise ValueError(
            f"a batch of {batch} photos cannot be divided evenly over {world_size} processes and "
            f"{parts} parts."
        )
    workers: dict[tuple[int, ...], Iterator[RowBlock]] = {}  # rows of the batch -> their worker
    if isinstance(photos, Shards):
        count = photos.stream_count(batch // parts)
        streams = photos.open_streams(count, rank, world_size, seed, stream_positions or {})
        for stream, source in streams.items():
            rows = rank_rows(batch, stream, count, parts)
            workers[rows] = _streamed_rows(
                photos, stream, source, len(rows), transform, seed, start
            )
    else:
        read, own_rows = _shuffled_reader(photos, seed), rank_rows(batch, rank, world_size, parts)
        threads = min(threads, len(own_rows))
        bounds = [len(own_rows) * i // threads for i in range(threads + 1)]
        for rows in (own_rows[a:b] for a, b in itertools.pairwise(bounds)):
            workers[rows] = _local_rows(photos, read, rows, transform, batch, start)
    return _merge_workers(workers)


def rank_rows(batch: int, rank: int, world_size: int, parts: int) -> tuple[int, ...]:
    """Return the rows of a batch assigned to `rank`, equally many from each part."""
    size = batch // (world_size * parts)
    firsts = ((part * world_size + rank) * size for part in range(parts))
    return tuple(row for first in firsts for row in range(first, first + size))


def _local_rows(
    photos: Photos,
    read: PhotoReader,
    rows: Sequence[int],
    transform: Transform,
    batch: int,
    start: int,
) -> Iterator[RowBlock]:
    """Yield `rows` of each batch from step `start` on."""
    for step in itertools.count(start):
        names, samples = [], []
        for row in rows:
            index, image, rng = read(step * batch + row, transform.min_side(step))
            names.append(photos.keys[index])
            samples.append(transform(image, rng, step, index))
        yield RowBlock(names, samples, {})


def _shuffled_reader(photos: Photos, seed: int) -> PhotoReader:
    """Return a function that reads the photo at a position of an endless shuffled run."""

    @lru_cache(maxsize=8)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(photos))

    def read(position: int, min_side: int) -> tuple[int, Image.Image, np.random.Generator]:
        epoch, offset = divmod(position, len(photos))
        stride = _replacement_stride(seed, position, len(photos))
        for attempt in range(len(photos)):
            index = int(permutation(epoch)[(offset + attempt * stride) % len(photos)])
            image = photos.load_usable(index, min_side)
            if image is not None:
                return index, image, np.random.default_rng([seed, epoch, offset])
        raise ValueError("none of the photos is readable and colored.")

    return read


def _replacement_stride(seed: int, position: int, count: int) -> int:
    """Return the stride of the search for a replacement, coprime to `count`.

    It is random for each position. With a fixed stride of 1, a usable photo would replace all
    unusable ones before it.
    """
    rng = np.random.default_rng([seed, position, 1])
    while math.gcd(stride := int(rng.integers(1, count + 1)), count) > 1:
        pass
    return stride


def _streamed_rows(
    shards: Shards,
    stream: int,
    source: Iterator[tuple[StreamPosition, str, bytes]],
    rows: int,
    transform: Transform,
    seed: int,
    start: int,
) -> Iterator[RowBlock]:
    """Yield the rows of each batch that one stream fills."""
    last_usable_pass: int | None = None  # latest pass over the shards with a usable photo
    for step in itertools.count(start):
        names, samples = [], []
        position: StreamPosition = (0, 0, 0)
        while len(samples) < rows:
            position, key, data = next(source)
            image = decode_colored(key, data, transform.min_side(step), shards.skipped)
            if image is not None or last_usable_pass is None:
                last_usable_pass = position[0]
            if position[0] > last_usable_pass + 1:
                raise ValueError("none of the streamed photos is readable and colored.")
            if image is not None:
                names.append(key)
                rng = np.random.default_rng([seed, stream, *position])
                samples.append(transform(image, rng, step, -1))
        yield RowBlock(names, samples, {str(stream): position})


def _merge_workers(
    workers: dict[tuple[int, ...], Iterator[RowBlock]],
) -> Generator[Batch, None, None]:
    """Run each worker ahead in its own thread and yield batches with their rows in order."""
    rows = [row for block in workers for row in block]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    with ExitStack() as stack:
        pools = [ThreadPoolExecutor(1, "photos") for _ in workers]
        for pool in pools:
            stack.callback(pool.shutdown, cancel_futures=True)
        queues: list[deque[Future[RowBlock]]] = [
            deque(pool.submit(next, worker) for _ in range(PREFETCH))
            for pool, worker in zip(pools, workers.values(), strict=True)
        ]
        while True:
            blocks = [queue.popleft().result() for queue in queues]
            for pool, worker, queue in zip(pools, workers.values(), queues, strict=True):
                queue.append(pool.submit(next, worker))
            names = [name for block in blocks for name in block.names]
            samples = [sample for block in blocks for sample in block.samples]
            yield Batch(
                sorted(rows),
                [names[i] for i in order],
                tuple(map(torch.stack, zip(*(samples[i] for i in order), strict=True))),
                {key: at for block in blocks for key, at in block.stream_positions.items()},
            )
