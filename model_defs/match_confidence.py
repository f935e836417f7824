"""Confidence of exemplar colorization from attention variance and feature similarity.

Maps are (B, C, h, w); level l has 1/2^(l-1) of the image's height and width. References are
(G, ...): one group per target, or one group for all; `S` counts the cells of all references of a
group.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Taps

MATCH_LEVELS = (3, 4)  # levels whose features are compared, on the grid of level 4
MAX_PAIRS = 2**22  # pairs of cells compared at once; bounds memory
MIN_TRUST = 1e-4  # trust below this counts as none


class MatchCandidates(NamedTuple):
    """Cells of all references at one level."""

    center: Tensor
    """(G, C, 1, 1) mean feature."""
    features: Tensor
    """(G, S, C) unit vectors about the center, times trust."""
    ab: Tensor
    """(G, S, 2) their colors in Lab units."""


def color_moments(ab: Tensor, trust: Tensor | None, size: Sequence[int]) -> Tensor:
    """Average trust, a, b and a^2 + b^2 over the cells of a reference: (G, 4, h, w).

    Attention averages them like values, so each target cell receives the mean and variance of the
    colors that it attends to, and their trust.

    Args:
        ab: (G, 2, H, W) in Lab units, times trust.
        trust: (G, 1, H, W) in 0..1; None = 1.
        size: (h, w).
    """
    trust = torch.ones_like(ab[:, :1]) if trust is None else trust
    moments = torch.cat([trust, ab, ab.square().sum(1, keepdim=True)], dim=1)
    return average_pool(moments, size)


def match_candidates(
    references: Sequence[tuple[Tensor, Tensor | None, Taps]],
) -> dict[int, MatchCandidates]:
    """Collect the cells of all references by level.

    Args:
        references: ab (G, 2, H, W) in Lab units times trust, trust (G, 1, H, W), backbone maps.
    """
    candidates = {}
    for level in MATCH_LEVELS:
        centers = [taps[level].mean(dim=(2, 3), keepdim=True) for *_, taps in references]
        center, features, colors = torch.stack(centers).mean(0), [], []
        for ab, trust, taps in references:
            grid = taps[4].shape[2:]
            unit = F.normalize(average_pool(taps[level], grid) - center, dim=1)
            if trust is not None:
                unit = unit * average_pool(trust, grid)
            features.append(unit.flatten(2).mT)
            ab = average_pool(ab, grid)
            if trust is not None:
                ab = ab / average_pool(trust, grid).clamp_min(MIN_TRUST)
            colors.append(ab.flatten(2).mT)
        candidates[level] = MatchCandidates(
            center, torch.cat(features, dim=1), torch.cat(colors, dim=1)
        )
    return candidates


def _best_match(tap: Tensor, candidates: MatchCandidates) -> tuple[Tensor, Tensor]:
    """Find the most similar reference cell for each target cell.

    Returns:
        its cosine similarity (B, 1, h, w); its color (B, 2, h, w).
    """
    unit = F.normalize(tap - candidates.center, dim=1).flatten(2).mT
    rows = max(1, MAX_PAIRS // (len(tap) * candidates.features.shape[1]))
    best = [(chunk @ candidates.features.mT).max(-1) for chunk in unit.split(rows, dim=1)]
    cosine, index = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
    ab = candidates.ab.expand(len(tap), -1, -1)
    ab = ab.gather(1, index[..., None].expand(-1, -1, 2))
    cosine, ab = (x.mT.unflatten(2, tap.shape[2:]).float() for x in (cosine[..., None], ab))
    return cosine, ab


def confidence_cues(
    ab: Tensor,
    moments: Mapping[int, Tensor],
    taps: Taps,
    candidates: Mapping[int, MatchCandidates],
) -> tuple[Tensor, Tensor]:
    """Compute the inputs of `confidence`: trust (B, 1, h, w) and cues (B, 7, h, w).

    The cues are, in order:

    1. deviation of the attended colors in Lab units, averaged over the levels;
    2. for each of MATCH_LEVELS, the cosine of the most similar reference cell;
    3. for each of MATCH_LEVELS, the distance of the predicted color from that cell's color;
    4. for each of MATCH_LEVELS, the mean cosine over the image, which is low if the reference
       shows something else.

    Args:
        ab: predicted colors in Lab units.
        moments: level -> `color_moments` after attention, (B, 4, h, w).
        taps: level -> features of the target.
        candidates: see `match_candidates`.
    """
    size = moments[MATCH_LEVELS[0]].shape[2:]
    trusts, deviations = [], []
    for level_moments in moments.values():
        trust, mean, square = level_moments.float().split([1, 2, 1], dim=1)
        weight = trust.clamp_min(MIN_TRUST)
        variance = square / weight - (mean / weight).square().sum(1, keepdim=True)
        trusts.append(resize_bilinear(trust, size))
        deviations.append(resize_bilinear(variance.clamp_min(0).sqrt(), size))
    trust, deviation = (torch.stack(maps).mean(0) for maps in (trusts, deviations))
    predicted = F.interpolate(ab.float(), size=size, mode="area")
    cosines, distances = [], []
    for level in MATCH_LEVELS:
        tap = average_pool(taps[level], taps[4].shape[2:])
        cosine, colors = _best_match(tap, candidates[level])
        cosines.append(resize_bilinear(_smooth(cosine), size))
        distance = colors - resize_bilinear(predicted, colors.shape[2:])
        distance = distance.norm(dim=1, keepdim=True)
        distances.append(resize_bilinear(_smooth(distance), size))
    means = [x.mean(dim=(2, 3), keepdim=True).expand_as(x) for x in cosines]
    return trust, torch.cat([deviation, *cosines, *distances, *means], dim=1)


def _smooth(x: Tensor) -> Tensor:
    """Average over 5x5 cells: single cells find a good match by chance."""
    return F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)


def average_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average a map (B, C, H, W) over the cells of a grid of `size` (h, w)."""
    return F.adaptive_avg_pool2d(x, (size[0], size[1]))


def resize_bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map (B, C, H, W) bilinearly to `size` (h, w)."""
    return F.interpolate(x, size=size, mode="bilinear")


def confidence(trust: Tensor, cues: Tensor, weights: Sequence[float]) -> Tensor:
    """Compute trust x sigmoid(w_0 + w . cues): (B, 1, h, w) in 0..1.

    The trainer fits the weights by logistic regression: the sigmoid is the probability that the
    predicted color is right.
    """
    w = cues.new_tensor(weights[1:]).view(1, -1, 1, 1)
    return trust * (weights[0] + (w * cues).sum(1, keepdim=True)).sigmoid()
