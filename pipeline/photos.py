"""Read photos ahead of their use and recognize gray ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from ..ops import color
from ..ops.tensors import as_batch

READER_THREADS = 2  # each one holds a whole photo for a moment

Photo = str | Path | Tensor
"""A file, or pixels (H, W, C) float sRGB in 0..1."""

T = TypeVar("T")


def read_photo(photos: Sequence[Photo], index: int) -> Tensor:
    """Return photo `index` as (1, H, W, C) float sRGB in 0..1.

    Raises:
        ImageError: the file cannot be read.
        ValueError: the pixels have another shape.
    """
    from ..media import image_io  # it imports Pillow, which nodes must not do when they load

    photo = photos[index]
    rgb, _ = as_batch(photo if isinstance(photo, Tensor) else image_io.read_image(photo).pixels)
    if len(rgb) != 1:
        raise ValueError(f"photo {index + 1} has shape {tuple(rgb.shape)}; expected (H, W, C).")
    return rgb


def is_gray(rgb: Tensor) -> bool:
    """Return True if an image (3, H, W) has too little chroma to give colors."""
    return bool(color.chroma(color.rgb_to_lab(rgb)[1:]).mean() < color.MIN_MEAN_CHROMA)


def read_ahead(read: Callable[[int], T], indices: Iterable[int]) -> Iterator["Future[T]"]:
    """Yield the futures of `read(index)` in order; threads read a few photos ahead."""
    with ThreadPoolExecutor(READER_THREADS) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for index in indices:
                pending.append(pool.submit(read, index))
                if len(pending) > 2 * READER_THREADS:
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
