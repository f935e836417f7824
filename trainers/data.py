"""Photos from folders and tar shards -> deterministic batches of RGB crops.

Which photo comes at which step, and how it is cropped, is a function of (seed, position) alone:
a resumed run sees what the unbroken run would have seen.
"""

import csv
import io
import logging
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
log = logging.getLogger(__name__)


class Photos(Sequence[Image.Image]):
    """Photos of folders (recursive) and uncompressed tar files, opened when asked for.

    Args:
        sources: folders and .tar files.
        index: CSV with columns `key` (the file's stem) and `licence_kind`.
        skip_licences: photos whose `licence_kind` is one of these are left out.
    """

    def __init__(
        self, sources: Sequence[Path], index: Path | None = None, skip_licences: Sequence[str] = ()
    ):
        # File, offset, size; size -1: the whole file.
        self.entries: list[tuple[Path, int, int]] = []
        skipped = _keys_to_skip(index, skip_licences)
        for source in map(Path, sources):
            if source.is_dir():
                found = [
                    (path, 0, -1)
                    for path in sorted(source.rglob("*"))
                    if path.suffix.lower() in SUFFIXES
                ]
                self.entries += [entry for entry in found if entry[0].stem not in skipped]
            elif source.is_file() and tarfile.is_tarfile(source):
                with tarfile.open(source, "r:") as tar:
                    members = [
                        m for m in tar if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES
                    ]
                self.entries += [
                    (source, m.offset_data, m.size)
                    for m in members
                    if Path(m.name).stem not in skipped
                ]
            else:
                raise ValueError(
                    f"{source}: expected a folder of photos or an uncompressed .tar file."
                )
        if not self.entries:
            raise ValueError(f"no photos found in {', '.join(map(str, sources))}.")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Image.Image:
        path, offset, size = self.entries[index]
        with path.open("rb") as file:
            file.seek(offset)
            return Image.open(io.BytesIO(file.read(size))).convert("RGB")


def _keys_to_skip(index: Path | None, licences: Sequence[str]) -> set[str]:
    if index is None:
        return set()
    with Path(index).open(newline="", encoding="utf-8") as file:
        return {row["key"] for row in csv.DictReader(file) if row["licence_kind"] in licences}


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, smallest: float
) -> np.ndarray:
    """A random square, mirrored at random -> (3, size, size) uint8.

    Its side is `smallest`..1 of the photo's shorter one.
    """
    side = min(image.size) * rng.uniform(smallest, 1)
    left, top = (rng.uniform(0, length - side) for length in image.size)
    crop = image.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(crop).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if rng.random() < 0.5 else pixels)


def batches(
    photos: Photos,
    *,
    size: Callable[[int], int],
    batch: int,
    seed: int,
    smallest: float = 0.6,
    start: int = 0,
    threads: int = 2,
) -> Iterator[Tensor]:
    """Endless batches (B, 3, S, S) float32 in 0..1 from step `start` on; S = size(step).

    Each pass over the photos is a new permutation. Unreadable photos are named in the log and
    replaced by the next. Threads decode ahead (Pillow releases the GIL).
    """

    @lru_cache(maxsize=8)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(photos))

    def sample(position: int, side: int) -> np.ndarray:
        epoch, place = divmod(position, len(photos))
        rng = np.random.default_rng([seed, epoch, place])
        for shift in range(len(photos)):
            index = order(epoch)[(place + shift) % len(photos)]
            try:
                return random_crop(photos[index], side, rng, smallest)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                log.warning("skipped an unreadable photo: %s (%s)", photos.entries[index], error)
        raise ValueError("not one of the photos could be read.")

    def load(step: int) -> Tensor:
        crops = [sample(step * batch + i, size(step)) for i in range(batch)]
        return torch.from_numpy(np.stack(crops)).float() / 255

    with ThreadPoolExecutor(threads) as pool:
        pending = []
        step = start
        while True:
            while len(pending) < 2 * threads:
                pending.append(pool.submit(load, step))
                step += 1
            yield pending.pop(0).result()
