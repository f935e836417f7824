"""Photos from folders and tar shards -> deterministic batches of RGB crops, single or in pairs.

Which photo comes at which step, with which reference, and how both are cropped, is a function of
(seed, position) alone: a resumed run sees what the unbroken run would have seen.
"""

import csv
import io
import json
import logging
import math
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..pipeline import color

T = TypeVar("T")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
OVERLAP = 0.25, 0.75  # of two views of one photo: enough to find, and something that is not there
# Where a reference comes from, and how often in the XCNet paper (section 4.1): the best of the five
# retrieved photos, any of the five, any of the rest, another view of the target.
SHARES = {"top1": 0.6, "top5": 0.3, "random": 0.1, "self": 0.0}
log = logging.getLogger(__name__)


class Photos(Sequence[Image.Image]):
    """Photos of folders (recursive) and uncompressed tar files, opened when asked for.

    Args:
        sources: folders and .tar files.
        index: CSV with columns `key` (the file's stem) and `licence_kind`.
        skip_licences: photos whose `licence_kind` is one of these are left out.
    Attributes:
        keys: stem of each photo's file name.
    """

    def __init__(
        self, sources: Sequence[Path], index: Path | None = None, skip_licences: Sequence[str] = ()
    ):
        # File, offset, size; size -1: the whole file.
        self.entries: list[tuple[Path, int, int]] = []
        self.keys: list[str] = []
        skipped = _keys_to_skip(index, skip_licences)
        for source in map(Path, sources):
            if source.is_dir():
                found = [(path.name, (path, 0, -1)) for path in sorted(source.rglob("*"))]
            elif source.is_file() and tarfile.is_tarfile(source):
                with tarfile.open(source, "r:") as tar:
                    found = [(m.name, (source, m.offset_data, m.size)) for m in tar if m.isfile()]
            else:
                raise ValueError(
                    f"{source}: expected a folder of photos or an uncompressed .tar file."
                )
            for name, entry in found:
                path = Path(name)
                if path.suffix.lower() in SUFFIXES and path.stem not in skipped:
                    self.entries.append(entry)
                    self.keys.append(path.stem)
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
    return _view(image, size, (left, top, left + side, top + side), rng)


def _view(
    image: Image.Image, size: int, box: tuple[float, float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """The part `box` squashed to a square, mirrored at random -> (3, size, size) uint8."""
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(crop).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if rng.random() < 0.5 else pixels)


def _unit(pixels: np.ndarray) -> Tensor:
    """uint8 -> float32 in 0..1."""
    return torch.from_numpy(pixels).float() / 255


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
    readable = _order(photos, seed)

    def load(step: int) -> Tensor:
        crops = []
        for position in range(step * batch, (step + 1) * batch):
            _, image, rng = readable(position)
            crops.append(random_crop(image, size(step), rng, smallest))
        return _unit(np.stack(crops))

    return _ahead(load, start, threads)


def _order(
    photos: Photos, seed: int
) -> Callable[[int], tuple[int, Image.Image, np.random.Generator]]:
    """Position in an endless run -> index of a readable photo, the photo, its random numbers."""

    @lru_cache(maxsize=8)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(photos))

    def readable(position: int) -> tuple[int, Image.Image, np.random.Generator]:
        epoch, place = divmod(position, len(photos))
        for shift in range(len(photos)):
            index = int(permutation(epoch)[(place + shift) % len(photos)])
            image = _open(photos, index)
            if image is not None:
                return index, image, np.random.default_rng([seed, epoch, place])
        raise ValueError("not one of the photos could be read.")

    return readable


def _open(photos: Photos, index: int) -> Image.Image | None:
    """The photo, or None if it cannot be read, which the log then says."""
    try:
        return photos[index]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("skipped an unreadable photo: %s (%s)", photos.entries[index], error)
        return None


def _ahead(load: Callable[[int], T], start: int, threads: int) -> Iterator[T]:
    """load(start), load(start + 1), ... without end, computed ahead in threads."""
    with ThreadPoolExecutor(threads) as pool:
        pending = []
        step = start
        while True:
            while len(pending) < 2 * threads:
                pending.append(pool.submit(load, step))
                step += 1
            yield pending.pop(0).result()


# --- Pairs of target and reference -----------------------------------------------------------


def pair_batches(
    photos: Photos,
    *,
    size: Callable[[int], int],
    batch: int,
    seed: int,
    pairs: Sequence[Sequence[int]] | None = None,
    shares: Mapping[str, float] | Sequence[float] = SHARES,
    smallest: float = 0.6,
    start: int = 0,
    threads: int = 2,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (target, reference), each (B, 3, S, S) float32 in 0..1, from step `start` on.

    Targets come as in `batches`, and a reference is drawn for each anew (XCNet paper, section 4.1).
    An unreadable reference is replaced by another view of the target.

    Args:
        pairs: indices of the photos most like each photo, best first (`load_pairs`).
        shares: how often a reference is of each kind; see `check_shares`.
        smallest: see `random_crop`, which cuts both unless they are views of one photo.
    Raises:
        ValueError: shares that are no probabilities, or that need `pairs` where there are none.
    """
    shares = check_shares(shares, pairs is not None)
    if pairs is not None and len(pairs) != len(photos):
        raise ValueError(f"pairs has {len(pairs)} rows for {len(photos)} photos; expected as many.")
    readable = _order(photos, seed)

    def sample(position: int, side: int) -> tuple[Tensor, Tensor]:
        target, image, rng = readable(position)
        kind, index = draw_reference(
            rng, target, len(photos), pairs[target] if pairs else (), shares
        )
        other = None if kind == "self" else _open(photos, index)
        if other is None:
            return views(image, side, rng)
        crops = (random_crop(photo, side, rng, smallest) for photo in (image, other))
        return tuple(map(_unit, crops))

    def load(step: int) -> tuple[Tensor, Tensor]:
        side, first = size(step), step * batch
        targets, references = zip(
            *(sample(position, side) for position in range(first, first + batch)), strict=True
        )
        return torch.stack(targets), torch.stack(references)

    return _ahead(load, start, threads)


def check_shares(
    shares: Mapping[str, float] | Sequence[float], retrieved: bool
) -> tuple[float, float, float, float]:
    """Probabilities of the kinds of reference, in the order of SHARES.

    Args:
        shares: kind -> probability, others 0; or the four numbers.
        retrieved: whether there is a table of retrieved photos.
    Raises:
        ValueError: unknown kinds, no four probabilities, or "top1", "top5" without a table.
    """
    if isinstance(shares, Mapping):
        unknown = sorted(set(shares) - set(SHARES))
        if unknown:
            raise ValueError(f"shares has {', '.join(unknown)}; known: {', '.join(SHARES)}.")
        shares = [shares.get(kind, 0.0) for kind in SHARES]
    if len(shares) != len(SHARES) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"shares is {tuple(shares)}; expected probabilities of {', '.join(SHARES)} "
            "that sum to 1."
        )
    if not retrieved and (shares[0] or shares[1]):
        raise ValueError(
            "shares asks for retrieved references (top1, top5) but there is no table of pairs. "
            "Give one, or shares of random and self alone."
        )
    return tuple(shares)


def draw_reference(
    rng: np.random.Generator,
    target: int,
    count: int,
    top: Sequence[int],
    shares: Sequence[float],
) -> tuple[str, int]:
    """Which photo is the reference of photo `target`, and of which kind it is.

    Shares of kinds that cannot be had go to the others: "top1" and "top5" where `top` is empty,
    "random" where all photos are in it; to "random", then "self", where the others have none.

    Args:
        count: number of photos.
        top: indices of the photos most like the target, best first; five are looked at.
        shares: probabilities in the order of SHARES.
    """
    top = [index for index in top if index != target][:5]
    barred = sorted({target, *top})
    possible = np.array([bool(top), bool(top), count > len(barred), True])
    weights = np.where(possible, shares, 0.0)
    if not weights.any():
        weights[2 if possible[2] else 3] = 1.0
    kind = list(SHARES)[rng.choice(len(SHARES), p=weights / weights.sum())]
    if kind == "top1":
        return kind, top[0]
    if kind == "top5":
        return kind, top[rng.integers(len(top))]
    if kind == "self":
        return kind, target
    index = int(rng.integers(count - len(barred)))
    for other in barred:  # the index counts the photos that are left
        index += index >= other
    return kind, index


def views(image: Image.Image, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two views of one photo, each (3, size, size) in 0..1; the lightness of the second is changed.

    Their windows mostly share OVERLAP of the smaller one; squashed to squares, mirrored at random.
    """
    first = _window(image.size, rng)
    for _ in range(6):
        second = _window(image.size, rng)
        if OVERLAP[0] <= overlap(first, second) <= OVERLAP[1]:
            break
    target, reference = (_unit(_view(image, size, box, rng)) for box in (first, second))
    gamma = math.exp(rng.uniform(math.log(0.7), math.log(1.4)))
    return target, relight(reference, gamma, rng.uniform(0.7, 1.2))


def _window(size: tuple[int, int], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random box (left, top, right, bottom) of a photo: each side 0.5..1 of the photo's.

    Its width is 3/4..4/3 of its height where a photo of this shape allows that.
    """
    side = math.sqrt(size[0] * size[1]) * rng.uniform(0.5, 1)
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(4 / 3))
    width, height = (
        min(max(wanted, length / 2), length)
        for wanted, length in zip((side * stretch, side / stretch), size, strict=True)
    )
    left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return left, top, left + width, top + height


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """What two boxes (left, top, right, bottom) share, as part of the smaller one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller


def relight(rgb: Tensor, gamma: float, contrast: float) -> Tensor:
    """Change L alone of (3, H, W) in 0..1: L / 100 to the power of gamma, stretched about its mean.

    ab stays as far as sRGB reaches.
    """
    lab = color.rgb_to_lab(rgb)
    L = (lab[:1] / 100).clamp(0, 1) ** gamma
    L = torch.lerp(L.mean(), L, contrast).clamp(0, 1)
    return color.lab_to_rgb(torch.cat([100 * L, lab[1:]])).clamp(0, 1)


def recolor_alike(
    target_ab: Tensor,
    reference_ab: Tensor,
    generator: torch.Generator | None = None,
    which: Tensor | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Recolour targets and their references by one random map, another for each pair.

    The true colours then are in the reference and nowhere else: what the network knows of grass is
    no help. All hues are turned by any angle, chroma is multiplied by 0.5..1.4 and shifted by a few
    units; less where colours would leave the range of the network's answer, |a|, |b| <= 110.

    Args:
        target_ab, reference_ab: (B, 2, H, W) in Lab units.
        generator: of random numbers, on the CPU.
        which: (B,) bool, the pairs to recolour; or a probability.
    """
    B = len(target_ab)
    angle = 2 * math.pi * torch.rand(B, generator=generator)
    stretch = 0.5 + 0.9 * torch.rand(B, generator=generator)
    shift = (6 * torch.randn(B, 2, generator=generator)).clamp(-15, 15).to(target_ab)
    chosen = torch.rand(B, generator=generator)
    chosen = which.cpu() if isinstance(which, Tensor) else chosen < which
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    change = torch.stack([cos, -sin, sin, cos], dim=1).view(B, 2, 2).to(target_ab)
    moved = [
        torch.einsum("Bdc,Bchw->Bdhw", change, ab) + shift[:, :, None, None]
        for ab in (target_ab, reference_ab)
    ]
    widest = torch.maximum(*(ab.abs().amax(dim=(1, 2, 3)) for ab in moved))
    fit = (110 / widest.clamp_min(110)).view(B, 1, 1, 1)
    chosen = chosen.to(target_ab.device).view(B, 1, 1, 1)
    target, reference = (
        torch.where(chosen, fit * new, ab)
        for new, ab in zip(moved, (target_ab, reference_ab), strict=True)
    )
    return target, reference


def load_pairs(path: Path, photos: Photos) -> list[list[int]]:
    """The table of retrieved photos, brought into the order of `photos` by their keys.

    Photos that the table does not know get an empty row, and candidates that are not among the
    photos are left out; so are keys that two photos share, as the log says.

    Args:
        path: JSON {"version": 1, "keys": [key of each photo], "top": [[indices into keys, best
            first], ...]}.
    Raises:
        ValueError: another version, damaged, or a table of other photos.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        version = table["version"]
        if version != 1:
            raise ValueError(f"version is {version!r}; this program reads version 1")
        keys, top = table["keys"], table["top"]
        named = [(keys[i], [keys[j] for j in row if j >= 0]) for i, row in enumerate(top)]
        if len(keys) != len(top):
            raise ValueError(f"{len(keys)} keys but {len(top)} rows")
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: not a table of pairs ({error!r}). Make one with build_reference_pairs.py."
        ) from error
    times = Counter(photos.keys)
    shared = [key for key, count in times.items() if count > 1]
    if shared:
        log.warning("%d keys name several photos, the first '%s'", len(shared), shared[0])
    places = {key: i for i, key in enumerate(photos.keys) if times[key] == 1}
    pairs: list[list[int]] = [[] for _ in photos.keys]
    for key, others in named:
        if key in places:
            pairs[places[key]] = [places[other] for other in others if other in places]
    if not any(pairs):
        raise ValueError(f"{path}: not one of its pairs is among the photos; a table of others?")
    return pairs
