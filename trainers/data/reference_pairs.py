"""Pairs of target and reference for training by reference (XCNet paper, section 4.1)."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ops import color
from .batches import Batch, cut_batches, pixels_needed, random_crop, usable, view
from .photos import Photos
from .shards import Shards

OVERLAP = 0.25, 0.75  # of two views of one photo: enough to find, and something that is not there
# Where a reference comes from, and how often in the XCNet paper (section 4.1): the best of the five
# retrieved photos, any of the five, any of the rest, another view of the target.
SHARES = {"top1": 0.6, "top5": 0.3, "random": 0.1, "self": 0.0}
log = logging.getLogger(__name__)


def pair_batches(
    photos: Photos | Shards,
    *,
    size: Callable[[int], int],
    batch: int,
    seed: int,
    pairs: Sequence[Sequence[int]] | None = None,
    shares: Mapping[str, float] | Sequence[float] = SHARES,
    smallest: float = 0.6,
    **how: object,
) -> Iterator[Batch]:
    """Endless batches of targets and references.

    Targets come as in `batches.batches`, and a reference is drawn for each anew (section 4.1). What
    cannot be used as a reference is replaced by another view of the target.

    Args:
        pairs: indices of the photos most like each photo, best first (`load_pairs`).
        shares: how often a reference is of each kind; see `check_shares`. Only "self" of streams.
        smallest: see `random_crop`, which cuts both unless they are views of one photo.
        how: see `cut_batches`.
    Raises:
        ValueError: shares that are no probabilities, or that need what is not there.
    """
    shares = check_shares(shares, pairs is not None, isinstance(photos, Shards))
    if pairs is not None and len(pairs) != len(photos):
        raise ValueError(f"pairs has {len(pairs)} rows for {len(photos)} photos; expected as many.")
    at_least = partial(pixels_needed, size, min(smallest, 0.5))

    def cut(
        image: Image.Image, rng: np.random.Generator, step: int, target: int
    ) -> tuple[Tensor, Tensor]:
        kind, index = "self", target
        if target >= 0:
            top = pairs[target] if pairs else ()
            kind, index = draw_reference(rng, target, len(photos), top, shares)
        other = None if kind == "self" else usable(photos, index, at_least(step))
        if other is None:
            return views(image, size(step), rng)
        target_crop, reference_crop = (
            random_crop(photo, size(step), rng, smallest) for photo in (image, other)
        )
        return target_crop, reference_crop

    return cut_batches(photos, cut, at_least, batch=batch, seed=seed, **how)


def check_shares(
    shares: Mapping[str, float] | Sequence[float], retrieved: bool, streamed: bool = False
) -> tuple[float, float, float, float]:
    """Probabilities of the kinds of reference, in the order of SHARES.

    Args:
        shares: kind -> probability, others 0; or the four numbers.
        retrieved: whether there is a table of retrieved photos.
        streamed: whether photos come one after the other, none of them to be had at will.
    Raises:
        ValueError: unknown kinds, no four probabilities, "top1", "top5" without a table, or
            anything but "self" of a stream.
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
    if streamed and any(shares[:3]):
        raise ValueError(
            "shares asks for other photos as references, which a stream cannot find. Give local "
            "photos, or --shares 0 0 0 1 (other views of the same photo)."
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
    """Two views of one photo, each (3, size, size) uint8; the lightness of the second is changed.

    Their windows mostly share OVERLAP of the smaller one; squashed to squares, mirrored at random.
    """
    first = _window(image.size, rng)
    for _ in range(6):
        second = _window(image.size, rng)
        if OVERLAP[0] <= overlap(first, second) <= OVERLAP[1]:
            break
    target, reference = (view(image, size, box, rng) for box in (first, second))
    gamma = math.exp(rng.uniform(math.log(0.7), math.log(1.4)))
    relit = relight(reference / 255, gamma, rng.uniform(0.7, 1.2))
    return target, (255 * relit).round().byte()


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
    generator: torch.Generator,
    which: float = 1.0,
    rows: range | None = None,
    of: int = 0,
) -> tuple[Tensor, Tensor]:
    """Recolour targets and their references by one random map, another for each pair.

    The true colours then are in the reference and nowhere else: what the network knows of grass is
    no help. All hues are turned by any angle, chroma is multiplied by 0.5..1.4 and shifted by a few
    units; less where colours would leave the range of the network's answer, |a|, |b| <= 110.

    Args:
        target_ab, reference_ab: (B, 2, H, W) in Lab units.
        generator: of random numbers, on the CPU.
        which: probability that a pair is recoloured.
        rows, of: these pairs are rows of a batch of so many, and get the numbers that they would
            get in the whole of it.
    """
    B = len(target_ab)
    rows, of = rows or range(B), of or B
    mine = slice(rows.start, rows.stop)
    angle = 2 * math.pi * torch.rand(of, generator=generator)[mine]
    stretch = 0.5 + 0.9 * torch.rand(of, generator=generator)[mine]
    shift = (6 * torch.randn(of, 2, generator=generator)).clamp(-15, 15)[mine].to(target_ab)
    chosen = torch.rand(of, generator=generator)[mine] < which
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


def load_pairs(path: Path, photos: Photos, targets: Photos | None = None) -> list[list[int]]:
    """The table of retrieved photos, brought into the order of `photos` by their keys.

    Photos that the table does not know get an empty row, and candidates that are not among the
    photos are left out; so are keys that two photos share, as the log says.

    Args:
        path: JSON {"version": 1, "keys": [key of each photo], "top": [[indices into keys, best
            first], ...]}.
        photos: the references.
        targets: photos to find references for; None = for the references themselves.
    Returns:
        for each target indices of photos, best first.
    Raises:
        ValueError: another version, damaged, or a table of other photos.
    """
    named = _read(path)
    every = photos.keys if targets is None else photos.keys + targets.keys
    times = Counter(every)
    shared = [key for key, count in times.items() if count > 1]
    if shared:
        log.warning("%d keys name several photos, the first '%s'", len(shared), shared[0])
    places = {key: i for i, key in enumerate(photos.keys) if times[key] == 1}
    pairs = {
        key: [places[other] for other in others if other in places]
        for key, others in named.items()
        if times[key] == 1
    }
    if not any(pairs.values()):
        raise ValueError(f"{path}: not one of its pairs is among the photos; a table of others?")
    return [pairs.get(key, []) for key in (photos if targets is None else targets).keys]


def _read(path: Path) -> dict[str, list[str]]:
    """Key of each photo of a table -> keys of the photos most like it, best first."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        version = table["version"]
        if version != 1:
            raise ValueError(f"version is {version!r}; this program reads version 1")
        keys, top = table["keys"], table["top"]
        named = {keys[i]: [keys[j] for j in row if j >= 0] for i, row in enumerate(top)}
        if len(keys) != len(top):
            raise ValueError(f"{len(keys)} keys but {len(top)} rows")
        return named
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: not a table of pairs ({error!r}). Make one with build_reference_pairs.py."
        ) from error
