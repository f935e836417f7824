"""Projection from encoder features to keys of a color memory: ColorFormer, Algorithm 1, line 9.

The file of a network may contain its projection. Otherwise a projection is fitted to the keys that
the network attends to; a network that has not been trained yet gets a new one by PCA. Rows are
features of patches and arrive in batches.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...model_defs.protocols import MemoryNetwork
from ...ops.moments import RunningMoments
from .memory import Projection

MAX_PHOTOS = 512  # photos that a projection is fitted to
PCA_ROWS = 4096  # rows per step of the incremental PCA
# Root mean square norm of the keys of a new memory. The attention has no 1/sqrt(d): with keys of
# norm 9, as an EfficientNet-Lite's features give, a trained network used one entry everywhere.
KEY_NORM = 0.35
RIDGE = 1e-3  # regularization, as a fraction of the mean variance of the features
# Variance, as a fraction of the mean square, below which values count as constant
MIN_RELATIVE_VARIANCE = 1e-8

Rows = tuple[Tensor, ...]
"""Tensors (rows, ...) with one row per patch."""


def load_projection(network: MemoryNetwork) -> Projection | None:
    """Return the projection in the weights of a network; None without one."""
    components = getattr(network.memory, "components", None)
    offset = getattr(network.memory, "offset", None)
    if components is None or offset is None or not components.any():
        return None
    return Projection(*(x.detach().float().cpu().clone() for x in (components, offset)))


def extract_features(network: MemoryNetwork, gray_rgb: Tensor) -> tuple[Tensor]:
    """Return the features (B, h, w, c) that a color memory clusters."""
    return (network.semantics(gray_rgb),)


def extract_attended_keys(
    network: MemoryNetwork, gray_rgb: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the features of each patch and the keys that the network attends to there.

    Returns:
        Features (B, h, w, c); mean of the keys attended to in a patch (B, h, w, k); and their
        variance in the patch, summed over the k dimensions, (B, h, w, 1).
    """
    features = network.semantics(gray_rgb)
    maps = network.encode(gray_rgb).features.permute(0, 2, 3, 1)
    keys = network.memory.keys.float()
    center = keys.mean(0)
    centered = keys - center  # attend() rounds to the network's dtype: three digits in bfloat16
    moments = torch.cat([centered, centered.square().sum(1, keepdim=True)], dim=1)
    attended = network.memory.attend(maps, moments.expand(len(gray_rgb), -1, -1)).float()
    attended = F.interpolate(attended.movedim(-1, 1), size=features.shape[1:3], mode="area")
    mean, mean_square = attended.movedim(1, -1).split([len(center), 1], dim=-1)
    return features, mean + center, mean_square - mean.square().sum(-1, keepdim=True)


def fit_pca(batches: Iterable[Rows], width: int) -> tuple[Projection, float]:
    """Fit a PCA to `width` dimensions, batch by batch, and scale it to keys of norm KEY_NORM.

    Args:
        batches: tuples whose first tensor is features (rows, c).
    Returns:
        The projection and the fraction of the variance that it explains.
    Raises:
        ValueError: there are fewer rows or channels than dimensions.
    """
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(width)
    pending: list[Tensor] = []
    for features, *_ in batches:
        pending.append(features)
        if sum(map(len, pending)) >= PCA_ROWS + width:
            rows = torch.cat(pending)
            pca.partial_fit(rows[:PCA_ROWS].numpy())
            pending = [rows[PCA_ROWS:]]  # at least `width` rows, which the last step needs
    rows = torch.cat(pending)
    if width > min(rows.shape):
        raise ValueError(
            f"the network needs keys of width {width}, but its features have {rows.shape[1]} "
            f"channels and the photos {len(rows)} patches. Add more photos."
        )
    pca.partial_fit(rows.numpy())
    components, mean = (torch.from_numpy(x).float() for x in (pca.components_, pca.mean_))
    variance = float(pca.explained_variance_.sum())
    components *= KEY_NORM / math.sqrt(max(variance, 1e-12))
    return Projection(components, -(components @ mean)), float(pca.explained_variance_ratio_.sum())


def fit_ridge(batches: Iterable[Rows], width: int) -> tuple[Projection, float, float]:
    """Fit a ridge regression from features to the keys that the network attends to.

    For networks whose projection is lost: the official program discards its PCA basis.

    Args:
        batches: rows as `extract_attended_keys` computes them, one per patch.
        width: k.
    Returns:
        The projection; the fraction of the attended keys' variance that it explains; and the
        variance of the network's own keys, weighted by how often these photos attend to them and
        summed over the k dimensions.
    """
    moments, variance_within = None, 0.0
    for features, attended, variance, *_ in batches:
        rows = torch.cat([features, attended], dim=1)
        moments = moments or RunningMoments(rows.shape[1])
        moments.add(rows)
        variance_within += float(variance.double().sum())
    if moments is None:
        raise ValueError("no patches to fit a projection to; add photos.")
    mean, covariance = moments.mean, moments.covariance(correction=0)
    channels = len(mean) - width
    x, y = slice(0, channels), slice(channels, None)
    cov_xx, cov_xy, cov_yy = covariance[x, x], covariance[x, y], covariance[y, y]
    ridge = RIDGE * cov_xx.diagonal().mean()
    ridge = ridge + MIN_RELATIVE_VARIANCE * mean[x].square().mean() + 1e-12
    regularized = cov_xx + ridge * torch.eye(channels, dtype=torch.double)
    components = torch.linalg.solve(regularized, cov_xy).mT
    error = cov_yy - components @ (2 * cov_xy) + components @ cov_xx @ components.mT
    explained = 1 - float(error.trace() / cov_yy.trace().clamp_min(1e-12))
    offset = mean[y] - components @ mean[x]
    key_variance = variance_within / moments.count + float(cov_yy.trace())
    return Projection(components.float(), offset.float()), explained, key_variance


def rescale_variance(
    variance: float, keys: np.ndarray, counts: np.ndarray, projection: Projection
) -> tuple[np.ndarray, Projection]:
    """Scale the keys of a fitted projection about their mean to a given variance.

    Regression shrinks keys, as do the softmax in its targets and the mean over a cluster, and the
    network would attend to shrunken keys more evenly than in training. A single factor for all
    dimensions keeps those small that the features predict poorly. The target is the variance of the
    network's keys as these photos use them: photos of forests alone must not spread over all keys.

    Args:
        variance: target, summed over the dimensions.
        keys: (m, k).
        counts: (m,) number of rows of each key.
        projection: fitted projection that made the keys.
    Returns:
        Scaled keys and projection; both unchanged if the keys are all alike.
    """
    mean = counts @ keys / counts.sum()
    current = counts @ np.square(keys - mean).sum(1) / counts.sum()
    if current <= MIN_RELATIVE_VARIANCE * np.square(mean).sum():  # a single entry, or rounding
        return keys, projection
    factor = math.sqrt(max(variance, 0.0) / current)
    center = torch.from_numpy(mean).float()
    scaled = Projection(
        projection.components * factor, center + factor * (projection.offset - center)
    )
    return mean + factor * (keys - mean), scaled
