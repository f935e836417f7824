"""Pairs of target and reference for exemplar training (XCNet paper, section 4.1)."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ops import color
from .batches import random_crop, resize_box
from .photos import Photos
from .shards import Shards

OVERLAP = 0.25, 0.75  # of two views: enough to find, and something that the reference lacks
MIN_VIEW_SCALE = 0.5  # smallest side of a view, as a fraction of the photo's
MAX_AB = 110.0  # range of the network's output
# Kinds of reference and their probabilities in the XCNet paper (section 4.1): the best of the five
# retrieved photos, any of the five, any other photo, another view of the target.
SHARES = {"top1": 0.6, "top5": 0.3, "random": 0.1, "self": 0.0}
log = logging.getLogger(__name__)


class ReferencePair:
    """Transform: a crop of the photo as target, and a reference drawn for it (section 4.1).

    A reference that cannot be used is replaced by another view of the target.

    Args:
        photos: the targets. References come from them, too.
        size: training step -> side in pixels of target and reference.
        pairs: for each photo the indices of the most similar ones, best first, see `load_pairs`.
        shares: probability of each kind of reference, see `validate_shares`.
        min_scale: smallest side of a crop, as a fraction of the photo's shorter side. Views of the
            target are at least MIN_VIEW_SCALE of the photo.
    Raises:
        ValueError: invalid shares, or a number of pairs other than that of the photos.
    """

    def __init__(
        self,
        photos: Photos | Shards,
        size: Callable[[int], int],
        pairs: Sequence[Sequence[int]] | None = None,
        shares: Mapping[str, float] | Sequence[float] = SHARES,
        min_scale: float = 0.6,
    ):
        self.photos, self.size, self.pairs, self.min_scale = photos, size, pairs, min_scale
        self.shares = validate_shares(shares, pairs is not None, isinstance(photos, Shards))
        if pairs is not None and isinstance(photos, Photos) and len(pairs) != len(photos):
            raise ValueError(
                f"pairs has {len(pairs)} rows for {len(photos)} photos; expected one row per photo."
            )

    def min_side(self, step: int) -> int:
        """Return the shorter side at which the smallest crop is not enlarged."""
        return round(self.size(step) / min(self.min_scale, MIN_VIEW_SCALE))

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, step: int, index: int
    ) -> tuple[Tensor, Tensor]:
        """Return target and reference, each (3, S, S) uint8."""
        size, other = self.size(step), None
        if isinstance(self.photos, Photos):
            top = self.pairs[index] if self.pairs else ()
            kind, reference = draw_reference(rng, index, len(self.photos), top, self.shares)
            if kind != "self":
                other = self.photos.load_usable(reference, self.min_side(step))
        if other is None:
            return two_views(image, size, rng)
        target = random_crop(image, size, rng, self.min_scale)
        return target, random_crop(other, size, rng, self.min_scale)


def validate_shares(
    shares: Mapping[str, float] | Sequence[float], has_pairs: bool, streamed: bool = False
) -> tuple[float, ...]:
    """Return the probabilities of the kinds of reference, in the order of SHARES.

    Args:
        shares: kind -> probability, 0 for missing kinds; or the four numbers.
        has_pairs: True with a table of retrieved references.
        streamed: True for photos of a stream, which gives no access to other photos.
    Raises:
        ValueError: unknown kinds, numbers that are not four probabilities, "top1" or "top5" without
            a table, or any kind but "self" for a stream.
    """
    if isinstance(shares, Mapping):
        unknown = sorted(set(shares) - set(SHARES))
        if unknown:
            raise ValueError(
                f"shares has unknown kinds: {', '.join(unknown)}; expected {', '.join(SHARES)}."
            )
        shares = [shares.get(kind, 0.0) for kind in SHARES]
    if len(shares) != len(SHARES) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"shares is {tuple(shares)}; expected probabilities of {', '.join(SHARES)} "
            "that sum to 1."
        )
    if streamed and any(shares[:3]):
        raise ValueError(
            "shares asks for other photos as references, but a stream cannot load them. Use local "
            "photos, or --shares 0 0 0 1 (other views of the same photo)."
        )
    if not has_pairs and (shares[0] or shares[1]):
        raise ValueError(
            "shares asks for retrieved references (top1, top5), but a table of pairs is missing. "
            "Give --pairs, or shares of random and self alone."
        )
    return tuple(shares)


def draw_reference(
    rng: np.random.Generator,
    target: int,
    count: int,
    top: Sequence[int],
    shares: Sequence[float],
) -> tuple[str, int]:
    """Draw the kind and the index of the reference of photo `target`.

    The probabilities of impossible kinds are distributed over the others: "top1" and "top5" without
    retrieved photos, "random" where all photos are retrieved. If the others have none, "random" is
    used, then "self".

    Args:
        rng: random numbers of the target.
        target: index of the target.
        count: number of photos.
        top: indices of the most similar photos, best first; the first five are used.
        shares: probabilities in the order of SHARES.
    """
    top = [index for index in top if index != target][:5]
    excluded = sorted({target, *top})
    possible = np.array([bool(top), bool(top), count > len(excluded), True])
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
    index = int(rng.integers(count - len(excluded)))
    for other in excluded:  # the drawn index counts the remaining photos alone
        index += index >= other
    return kind, index


def two_views(image: Image.Image, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return two views of one photo, each (3, size, size) uint8; the second is relit.

    The windows nearly always share OVERLAP of the smaller one. They are resized to squares and
    mirrored at random.
    """
    first = _random_window(image.size, rng)
    for _ in range(6):
        second = _random_window(image.size, rng)
        if OVERLAP[0] <= overlap(first, second) <= OVERLAP[1]:
            break
    target, reference = (resize_box(image, size, box, rng) for box in (first, second))
    gamma = math.exp(rng.uniform(math.log(0.7), math.log(1.4)))
    relit = relight(reference / 255, gamma, rng.uniform(0.7, 1.2))
    return target, (255 * relit).round().byte()


def _random_window(
    size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a random box (left, top, right, bottom), each side 0.5..1 of the photo's.

    Its width is 3/4..4/3 of its height where the shape of the photo allows that.
    """
    side = math.sqrt(size[0] * size[1]) * rng.uniform(MIN_VIEW_SCALE, 1)
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(4 / 3))
    width, height = (
        min(max(wanted, MIN_VIEW_SCALE * length), length)
        for wanted, length in zip((side * stretch, side / stretch), size, strict=True)
    )
    left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return left, top, left + width, top + height


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the intersection of two boxes (left, top, right, bottom) over the smaller area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return max(width, 0) * max(height, 0) / smaller


def relight(rgb: Tensor, gamma: float, contrast: float) -> Tensor:
    """Return an image (3, H, W) in 0..1 with changed L and, as far as sRGB allows, the same ab.

    Args:
        rgb: the image.
        gamma: exponent applied to L / 100.
        contrast: factor applied to the difference of L from its mean.
    """
    lab = color.rgb_to_lab(rgb)
    L = (lab[:1] / 100).clamp(0, 1) ** gamma
    L = torch.lerp(L.mean(), L, contrast).clamp(0, 1)
    return color.lab_to_rgb(torch.cat([100 * L, lab[1:]])).clamp(0, 1)


def recolor_pairs(
    target_ab: Tensor,
    reference_ab: Tensor,
    generator: torch.Generator,
    probability: float = 1.0,
    rows: range | None = None,
    batch: int = 0,
) -> tuple[Tensor, Tensor]:
    """Recolor targets and references alike, with one random map per pair.

    The true colors are then found in the reference alone, and learned colors of objects do not
    help. All hues are rotated by any angle. Chroma is multiplied by 0.5..1.4 and shifted by a few
    units; less where colors would leave the network's output range, |a|, |b| <= MAX_AB.

    Args:
        target_ab, reference_ab: (B, 2, H, W) in Lab units.
        generator: random numbers, on the CPU.
        probability: probability that a pair is recolored.
        rows, batch: the pairs are these rows of a batch of this size, and get the random numbers
            that they would get in the whole batch. Default: they are the whole batch.
    """
    B = len(target_ab)
    rows, batch = rows or range(B), batch or B
    own = slice(rows.start, rows.stop)
    angle = 2 * math.pi * torch.rand(batch, generator=generator)[own]
    stretch = 0.5 + 0.9 * torch.rand(batch, generator=generator)[own]
    shift = (6 * torch.randn(batch, 2, generator=generator)).clamp(-15, 15)[own].to(target_ab)
    selected = torch.rand(batch, generator=generator)[own] < probability
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    matrix = torch.stack([cos, -sin, sin, cos], dim=1).view(B, 2, 2).to(target_ab)
    mapped = [
        torch.einsum("Bdc,Bchw->Bdhw", matrix, ab) + shift[:, :, None, None]
        for ab in (target_ab, reference_ab)
    ]
    largest = torch.maximum(*(ab.abs().amax(dim=(1, 2, 3)) for ab in mapped))
    scale = (MAX_AB / largest.clamp_min(MAX_AB)).view(B, 1, 1, 1)
    selected = selected.to(target_ab.device).view(B, 1, 1, 1)
    target, reference = (
        torch.where(selected, scale * new, ab)
        for new, ab in zip(mapped, (target_ab, reference_ab), strict=True)
    )
    return target, reference


def load_pairs(path: Path, photos: Photos, targets: Photos | None = None) -> list[list[int]]:
    """Load a table of retrieved references and reorder it to match `photos` by their keys.

    Photos missing from the table get an empty row. Candidates that are not among the photos are
    left out, and so are keys shared by two photos.

    Args:
        path: JSON {"version": 1, "keys": [key of each photo], "top": [[indices into keys, best
            first], ...]}.
        photos: the references.
        targets: photos to find references for; None = the references themselves.
    Returns:
        indices of `photos` for each target, best first.
    Raises:
        ValueError: an unknown version, a damaged table, or a table of other photos.
    """
    table = _read_table(path)
    keys = photos.keys if targets is None else photos.keys + targets.keys
    counts = Counter(keys)
    duplicates = [key for key, count in counts.items() if count > 1]
    if duplicates:
        log.warning(
            "%d keys name several photos and get no references, the first is '%s'",
            len(duplicates),
            duplicates[0],
        )
    index_of = {key: i for i, key in enumerate(photos.keys) if counts[key] == 1}
    pairs = {
        key: [index_of[other] for other in others if other in index_of]
        for key, others in table.items()
        if counts[key] == 1
    }
    if not any(pairs.values()):
        raise ValueError(
            f"{path}: none of its pairs is among the photos. Build a table of these photos with "
            "build_reference_pairs.py."
        )
    return [pairs.get(key, []) for key in (photos if targets is None else targets).keys]


def _read_table(path: Path) -> dict[str, list[str]]:
    """Return the key of each photo of a table -> keys of its references, best first."""
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        version = table["version"]
        if version != 1:
            raise ValueError(f"version is {version!r}; this program reads version 1")
        keys, top = table["keys"], table["top"]
        references = {keys[i]: [keys[j] for j in row if j >= 0] for i, row in enumerate(top)}
        if len(keys) != len(top):
            raise ValueError(f"{len(keys)} keys but {len(top)} rows")
        return references
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: not a table of pairs ({error!r}). Build one with build_reference_pairs.py."
        ) from error
