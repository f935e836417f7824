"""The way from an encoder's features to keys of a color memory: Algorithm 1 (supplement), line 9.

A network's file may keep its projection. Where it does not, one is fitted to what the network
attends to; a network that is yet to be trained gets a new one, by PCA. Rows are features of
patches, and come batch by batch.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import Projection

PHOTOS = 512  # at most, of which a projection is made
PCA_ROWS = 4096  # rows that PCA takes at once
RIDGE = 1e-3  # part of the features' mean variance
EVEN = 1e-8  # variance, as part of the mean square, below which features are all alike


def own(network: nn.Module) -> Projection | None:
    """The projection in the network's weights; None where there is none."""
    memory = network.memory
    if not hasattr(memory, "components") or not memory.components.any():
        return None
    components, offset = (x.detach().float().cpu() for x in (memory.components, memory.offset))
    return Projection(components.clone(), offset.clone())


def features(network: nn.Module, gray: Tensor) -> tuple[Tensor]:
    """(B, h, w, c): what is clustered."""
    return (network.semantics(gray),)


def features_and_attended(network: nn.Module, gray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `fitted` needs of a picture, patch by patch.

    Returns:
        features (B, h, w, c); mean of the keys attended to in a patch, (B, h, w, k); and their
        variance there, summed over the k dimensions, (B, h, w, 1).
    """
    semantics = network.semantics(gray)
    maps = network.encode(gray).features.permute(0, 2, 3, 1)
    keys = network.memory.keys.float()
    center = keys.mean(0)
    centred = keys - center  # attend() rounds to the network's dtype: three digits in bfloat16
    known = torch.cat([centred, centred.square().sum(1, keepdim=True)], dim=1)
    attended = network.memory.attend(maps, known.expand(len(gray), -1, -1)).float()
    attended = F.interpolate(attended.movedim(-1, 1), size=semantics.shape[1:3], mode="area")
    mean, square = attended.movedim(1, -1).split([len(center), 1], dim=-1)
    return semantics, mean + center, square - mean.square().sum(-1, keepdim=True)


class Moments:
    """Mean and covariance of rows that pass by, in float64, about the first batch's mean."""

    def __init__(self) -> None:
        self.rows, self.start, self.sum, self.products = 0, None, 0.0, 0.0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        if self.start is None:
            self.start = rows.mean(0)
        rows = rows - self.start
        self.rows += len(rows)
        self.sum = self.sum + rows.sum(0)
        self.products = self.products + rows.mT @ rows

    def of(self) -> tuple[Tensor, Tensor]:
        """Mean (c,) and covariance (c, c)."""
        mean = self.sum / self.rows
        return self.start + mean, self.products / self.rows - torch.outer(mean, mean)


def principal(rows: Iterable[tuple[Tensor, ...]], width: int) -> tuple[Projection, float]:
    """PCA to `width` dimensions, batch by batch: projection, explained part of the variance.

    Args:
        rows: tuples that begin with features (rows, c).
    Raises:
        ValueError: fewer rows or channels than dimensions.
    """
    from sklearn.decomposition import IncrementalPCA

    pca, waiting = IncrementalPCA(width), []
    for some, *_ in rows:
        waiting.append(some)
        if sum(map(len, waiting)) >= PCA_ROWS + width:
            joined = torch.cat(waiting)
            pca.partial_fit(joined[:PCA_ROWS].numpy())
            waiting = [joined[PCA_ROWS:]]  # at least `width` rows, which the last batch needs
    joined = torch.cat(waiting)
    if width > min(joined.shape):
        raise ValueError(
            f"the network wants keys of width {width}, but its features have {joined.shape[1]} "
            f"channels and the photos {len(joined)} patches. Give more photos."
        )
    pca.partial_fit(joined.numpy())
    components, mean = (torch.from_numpy(x).float() for x in (pca.components_, pca.mean_))
    return Projection(components, -(components @ mean)), float(pca.explained_variance_ratio_.sum())


def fitted(rows: Iterable[tuple[Tensor, ...]], width: int) -> tuple[Projection, float, float]:
    """Ridge regression from a patch's features to the key that the network attends to there.

    For networks whose projection is lost (the published program throws its PCA basis away).

    Args:
        rows: tuples that begin with what `features_and_attended` makes, a row for each patch.
    Returns:
        projection, explained part of the attended keys' variance, and the variance, summed over
        the k dimensions, of the network's own keys, each counted as often as these photos attend
        to it.
    """
    moments, inside = Moments(), 0.0
    for some, attended, variance, *_ in rows:
        moments.add(torch.cat([some, attended], dim=1))
        inside += float(variance.double().sum())
    mean, covariance = moments.of()
    channels = len(mean) - width
    x, y = slice(0, channels), slice(channels, None)
    within = covariance[x, x]
    ridge = RIDGE * within.diagonal().mean() + EVEN * mean[x].square().mean() + 1e-12
    within = within + ridge * torch.eye(channels, dtype=torch.double)
    components = torch.linalg.solve(within, covariance[x, y]).mT
    error = covariance[y, y] - components @ (2 * covariance[x, y])
    error = error + components @ covariance[x, x] @ components.mT
    explained = 1 - float(error.trace() / covariance[y, y].trace().clamp_min(1e-12))
    offset = mean[y] - components @ mean[x]
    variance = inside / moments.rows + float(covariance[y, y].trace())
    return Projection(components.float(), offset.float()), explained, variance


def stretched(
    variance: float, keys: np.ndarray, counts: np.ndarray, projection: Projection
) -> tuple[np.ndarray, Projection]:
    """Keys of a fitted projection, stretched from their mean until they have this variance.

    Regression shrinks, and so do the softmax in its targets and the mean over a cluster; shrunken
    keys would be attended to more evenly than those the network has learned with. One factor for
    all dimensions: a dimension that features tell little about stays as small as it should. As
    measure serve the network's own keys as these photos use them, not all keys: photos of nothing
    but forests must not be stretched over all the world.
    """
    mean = counts @ keys / counts.sum()
    now = counts @ np.square(keys - mean).sum(1) / counts.sum()
    if now <= EVEN * np.square(mean).sum():  # a single entry, or rounding
        return keys, projection
    factor = math.sqrt(max(variance, 0.0) / now)
    center = torch.from_numpy(mean).float()
    wider = Projection(
        projection.components * factor, center + factor * (projection.offset - center)
    )
    return mean + factor * (keys - mean), wider
