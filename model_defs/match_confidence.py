"""How surely references tell the colour of a place: what attention carries along, and likeness.

The confidence of an exemplar network. Maps are (B, C, h, w); level l has 1/2^(l-1) of the picture's
sides; references are (G, ...), one group for each target or one for all; `S` cells of all of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MATCHED = (3, 4)  # levels whose features are searched for what looks like the target, at level 4
COMPARED = 2**22  # pairs of cells that are compared at once
FAINT = 1e-4  # trust below which a reference's cell is as good as not there


class Likes(NamedTuple):
    """All cells of the references at one level."""

    center: Tensor
    """Mean feature, (G, C, 1, 1)."""
    features: Tensor
    """Unit vectors about the center, times trust: (G, S, C)."""
    ab: Tensor
    """Their colours in Lab units: (G, S, 2)."""


def traces(ab: Tensor, trust: Tensor | None, size: Sequence[int]) -> Tensor:
    """(G, 4, h, w): mean trust, a, b and a^2 + b^2 of a cell, in Lab units.

    Attention carries them like values: what arrives are mean and variance of the colours that a
    target's cell attends to, and how far they are to be trusted.

    Args:
        ab: (G, 2, H, W) of a reference, times trust.
        trust: (G, 1, H, W) in 0..1; None = 1.
    """
    trust = torch.ones_like(ab[:, :1]) if trust is None else trust
    facts = torch.cat([trust, ab, ab.square().sum(1, keepdim=True)], dim=1)
    return F.adaptive_avg_pool2d(facts, size)


def likes(
    seen: Sequence[tuple[Tensor, Tensor | None, Mapping[int | str, Tensor]]],
) -> dict[int, Likes]:
    """All cells of all references, by level: of their ab (times trust), trust and backbone maps."""
    found = {}
    for level in MATCHED:
        centers = [taps[level].mean(dim=(2, 3), keepdim=True) for *_, taps in seen]
        center, features, colors = torch.stack(centers).mean(0), [], []
        for ab, trust, taps in seen:
            grid = taps[4].shape[2:]
            unit = F.normalize(F.adaptive_avg_pool2d(taps[level], grid) - center, dim=1)
            if trust is not None:
                unit = unit * F.adaptive_avg_pool2d(trust, grid)
            features.append(unit.flatten(2).mT)
            ab = F.adaptive_avg_pool2d(ab, grid)
            if trust is not None:
                ab = ab / F.adaptive_avg_pool2d(trust, grid).clamp_min(FAINT)
            colors.append(ab.flatten(2).mT)
        found[level] = Likes(center, torch.cat(features, dim=1), torch.cat(colors, dim=1))
    return found


def _most_like(tap: Tensor, cells: Likes) -> tuple[Tensor, Tensor]:
    """For each cell of the target the most similar one of the references.

    Returns:
        its cosine (B, 1, h, w); its colour (B, 2, h, w).
    """
    unit = F.normalize(tap - cells.center, dim=1).flatten(2).mT
    rows = max(1, COMPARED // (len(tap) * cells.features.shape[1]))
    best = [(some @ cells.features.mT).max(-1) for some in unit.split(rows, dim=1)]
    cosine, place = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
    ab = cells.ab.expand(len(tap), -1, -1).gather(1, place[..., None].expand(-1, -1, 2))
    maps = (x.mT.unflatten(2, tap.shape[2:]).float() for x in (cosine[..., None], ab))
    return tuple(maps)


def clues(
    ab: Tensor,
    traced: Mapping[int, Tensor],
    taps: Mapping[int | str, Tensor],
    cells: Mapping[int, Likes],
) -> tuple[Tensor, Tensor]:
    """Trust (B, 1, h, w) and clues (B, 7, h, w) of each place.

    The clues: deviation of the attended colours in Lab units, mean over the levels; for each level
    of MATCHED the cosine of the most similar place of the references, and how far the answer is
    from the colour of that place; and the means of the cosines over the picture, by which a
    reference of something else is known.

    Args:
        ab: the answer in Lab units.
        traced: level -> what attention carried to the target, (B, 4, h, w).
        taps: level -> the target's features.
        cells: see `likes`.
    """
    size = traced[MATCHED[0]].shape[2:]
    trusts, deviations = [], []
    for trace in traced.values():
        trust, mean, square = trace.float().split([1, 2, 1], dim=1)
        known = trust.clamp_min(FAINT)
        variance = square / known - (mean / known).square().sum(1, keepdim=True)
        trusts.append(resized(trust, size))
        deviations.append(resized(variance.clamp_min(0).sqrt(), size))
    trust, deviation = (torch.stack(maps).mean(0) for maps in (trusts, deviations))
    answer = F.interpolate(ab.float(), size=size, mode="area")
    local, apart = [], []
    for level in MATCHED:
        tap = F.adaptive_avg_pool2d(taps[level], taps[4].shape[2:])
        cosine, colors = _most_like(tap, cells[level])
        local.append(resized(_calm(cosine), size))
        distance = (colors - resized(answer, colors.shape[2:])).norm(dim=1, keepdim=True)
        apart.append(resized(_calm(distance), size))
    whole = [x.mean(dim=(2, 3), keepdim=True).expand_as(x) for x in local]
    return trust, torch.cat([deviation, *local, *apart, *whole], dim=1)


def _calm(x: Tensor) -> Tensor:
    """Mean of five by five: single cells find their like by chance."""
    return F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """A map at another size, bilinearly."""
    return F.interpolate(x, size=size, mode="bilinear")


def confidence(trust: Tensor, clues: Tensor, weights: Sequence[float]) -> Tensor:
    """Trust x sigmoid(w_0 + w . clues): (B, 1, h, w) in 0..1.

    The trainer fits the weights so that the sigmoid is the part of such places where the colour was
    right.
    """
    w = clues.new_tensor(weights[1:]).view(1, -1, 1, 1)
    return trust * (weights[0] + (w * clues).sum(1, keepdim=True)).sigmoid()
