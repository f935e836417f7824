"""Evaluation samples: photos as models see them, hint points, references and their selection."""

import json
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...ops import color, gaussian_process
from ...pipeline.hints import schema as hint_schema
from ..data.decoding import DECODE_ERRORS
from ..data.photos import Photos
from ..data.reference_pairs import load_pairs
from .config import MIN_SIDE, Config

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Sample:
    """A photo to colorize and its guidance."""

    index: int
    """Number of the photo."""
    key: str
    truth: Tensor
    """(3, H, W) in 0..1, quantized to 8 bits."""
    reference: Tensor | None = None
    """(3, H', W') in 0..1."""
    hints: dict[int, list[hint_schema.Hint]] = field(default_factory=dict)
    """Number of hint points -> the hint points."""


def as_tensor(photo: Image.Image) -> Tensor:
    """Convert a photo to (1, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.array(photo)).movedim(-1, 0)[None].float() / 255


def quantize_8bit(rgb: Tensor) -> Tensor:
    """Round images in 0..1 to the values of an 8-bit file."""
    return (255 * rgb.clamp(0, 1)).round() / 255


def resize_to_square(photo: Image.Image, size: int) -> Tensor:
    """Return (3, size, size) in 0..1; with size 0 the unchanged photo.

    Raises:
        ValueError: the photo is too small to be scored.
    """
    if size:
        photo = photo.resize((size, size), Image.Resampling.BICUBIC)
    elif min(photo.size) < MIN_SIDE:
        raise ValueError(
            f"{photo.width}x{photo.height} pixels; both sides must be at least {MIN_SIDE}"
        )
    return as_tensor(photo)[0]


def split_views(photo: Image.Image, size: int, key: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return target and reference: the left and the mirrored right part of a photo.

    Both are 62 % wide and 80 % high and share a strip in the middle. Their vertical positions
    depend on the key and the seed alone.
    """
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    width, height = int(photo.width * 0.62), int(photo.height * 0.8)
    parts = []
    for left in (0, photo.width - width):
        top = int(rng.integers(0, photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height))
        parts.append(resize_to_square(part, size))
    return parts[0], parts[1].flip(-1)


def random_hints(truth: Tensor, count: int, key: str, seed: int) -> list[hint_schema.Hint]:
    """Draw hint points: cells of 2x2 pixels of (3, H, W) in their mean color, without replacement.

    They depend on the key, their number and the seed alone, so all methods get the same.
    """
    cell = gaussian_process.CELL
    rows, columns = (length // cell for length in truth.shape[1:])
    rng = np.random.default_rng([seed, zlib.crc32(key.encode()), count])
    cells = rng.choice(rows * columns, size=min(count, rows * columns), replace=False)
    means = F.avg_pool2d(color.rgb_to_lab(truth), cell).flatten(1)[:, cells]
    levels = (255 * color.lab_to_rgb(means[..., None]).clamp(0, 1)[..., 0]).round().int()
    return [
        hint_schema.Hint(
            (x + 0.5) * cell / truth.shape[2],
            (y + 0.5) * cell / truth.shape[1],
            "#" + "".join(f"{level:02x}" for level in rgb),
        )
        for y, x, rgb in zip(*divmod(cells, columns), levels.T.tolist(), strict=True)
    ]


# --- Selection -------------------------------------------------------------------------------


def read_pairs(path: Path, photos: Photos) -> list[tuple[int, int]]:
    """Return targets and references as indices of `photos`, matched by name.

    Args:
        path: JSON [{"target": file, "reference": file}, ...]; lines `target<TAB>reference`; or the
            table of build_reference_pairs, whose best references are used.
        photos: all photos.
    Raises:
        ValueError: an unknown format, or none of the pairs is among the photos.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    pairs: list[tuple[str, str]]
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            if isinstance(content, dict):
                rows = load_pairs(path, photos)
                return [(index, row[0]) for index, row in enumerate(rows) if row]
            pairs = [(pair["target"], pair["reference"]) for pair in content]
        else:
            lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
            pairs = []
            for line in lines:
                target, reference = line.split("\t")[:2]
                pairs.append((target, reference))
        reference_of = dict(reversed(pairs))  # of repeated targets the first pair counts
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a list of pairs ({error}). Expected JSON "
            '[{"target": FILE, "reference": FILE}, ...], lines of two files separated by a tab, or '
            "the output of build_reference_pairs.py."
        ) from error
    indices = {PurePosixPath(key).name: index for index, key in enumerate(photos.keys)}
    indices |= {key: index for index, key in enumerate(photos.keys)}

    def find(name: str) -> int | None:
        """Find a photo by its path below the folder, or by its name alone."""
        path = PurePath(name)
        return indices.get(path.with_suffix("").as_posix(), indices.get(path.stem))

    matched: dict[tuple[int, int], None] = {}  # ordered, without duplicates
    for target_name, reference_name in reference_of.items():
        pair = find(target_name), find(reference_name)
        if pair[0] is not None and pair[1] is not None:
            matched[pair[0], pair[1]] = None
    if not matched:
        raise ValueError(
            f"{path}: none of its pairs is among the photos. Check that --photos names the right "
            "folder."
        )
    if left_out := len(pairs) - len(matched):
        log.warning(
            "%s: left out %d of %d pairs: photos not found, or targets listed twice",
            path,
            left_out,
            len(pairs),
        )
    return list(matched)[::-1]


def select_photos(photos: Photos, config: Config, skipped: dict[str, str]) -> list[int]:
    """Return the indices of the photos to use. They are read only if `min_chroma` is set.

    Raises:
        ValueError: no photos are left.
    """
    indices: Iterable[int] = range(config.skip, len(photos))
    if config.min_chroma:

        def mean_chroma(index: int) -> tuple[int, float]:
            lab = color.rgb_to_lab(as_tensor(photos[index].resize((64, 64)))[0])
            return index, color.chroma(lab[1:]).mean().item()

        measured = prefetch(photos, range(config.skip, len(photos)), mean_chroma, skipped, "chroma")
        indices = (index for index, chroma in measured if chroma >= config.min_chroma)
    # `indices` is the last argument, so that zip never reads a photo beyond the limit.
    limited = [i for _, i in zip(range(config.limit or len(photos)), indices, strict=False)]
    if not limited:
        raise ValueError(f"none of {len(photos)} photos is left; lower --skip or --min-chroma.")
    return limited


def prefetch(
    photos: Photos,
    indices: Iterable[int],
    load: Callable[[int], T],
    skipped: dict[str, str],
    description: str,
) -> Iterator[T]:
    """Yield load(index) for each index, loading ahead in two threads, with a progress bar.

    Unreadable photos are left out, logged and recorded in `skipped`: name -> reason.
    """
    from tqdm import tqdm

    indices = list(indices)
    pending: deque[tuple[int, Future[T]]] = deque()
    remaining = iter(indices)
    with ThreadPoolExecutor(2) as pool:
        for _ in tqdm(indices, desc=description, unit="photo", disable=None):
            while len(pending) < 16 and (index := next(remaining, None)) is not None:
                pending.append((index, pool.submit(load, index)))
            index, future = pending.popleft()
            try:
                yield future.result()
            except DECODE_ERRORS as error:
                name = photos.name(index)
                if name not in skipped:
                    skipped[name] = str(error)
                    log.warning("skipped %s: %s", name, error)
