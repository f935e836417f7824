"""Interpolate chroma between hints by kriging (Gaussian-process regression).

Kriging is the best linear unbiased estimate of values whose correlation falls with distance.
Distance is measured either in (y, x, L), so that a hint affects nearby cells of similar lightness
(`Kernel`), or in coordinates that a network predicts for each cell, so that a hint affects cells of
the same object (`model_defs.gp_kernel`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 2  # side in pixels of the grid cells that hold hints; networks are trained on this grid
MAX_PAIRS = 2**22  # distances computed at a time
MAX_LOCAL_HINTS = 48  # hints with a limited window that one cell regards: the strongest there
MIN_WINDOW = 1e-4  # keeps the noise finite


class Field(NamedTuple):
    """Gaussian-process parameters of the n = h w cells of a batch of images, in row order.

    The covariance of cells p and q is

    k(p, q) = scale(p) scale(q) near(p, q) (constant + sum_k amplitude_k exp(-|x_k(p) - x_k(q)|))
    near(p, q) = exp(-|position(p) - position(q)|)

    Parameters with a leading 2 hold one value for colors and one for corrections of a base image's
    colors.
    """

    coordinates: Tensor
    """x: (K, B, n, D)."""
    amplitude: Tensor
    """(2, K) variance of the part of the color that varies with coordinates x_k."""
    constant: Tensor
    """(2,) variance of the part of the color that all cells share."""
    noise: Tensor
    """(B, n) observation noise variance of a hint in the cell."""
    scale: Tensor
    """(B, n) standard deviation factor of the color of the cell."""
    mean: Tensor
    """(B, n, 2) prior mean: ab in Lab units in the absence of hints."""
    position: Tensor | None
    """(B, n, 2) y and x, divided by the reach of a hint; None for an unlimited reach."""
    correction_position: Tensor | None
    """(B, n, 2) `position` for corrections; None for an unlimited reach."""

    def to(self, device: torch.device | str) -> "Field":
        """Return a copy on `device`."""
        position, correction_position = self.position, self.correction_position
        return Field(
            coordinates=self.coordinates.to(device),
            amplitude=self.amplitude.to(device),
            constant=self.constant.to(device),
            noise=self.noise.to(device),
            scale=self.scale.to(device),
            mean=self.mean.to(device),
            position=None if position is None else position.to(device),
            correction_position=(
                None if correction_position is None else correction_position.to(device)
            ),
        )

    def select_images(self, indices: list[int]) -> "Field":
        """Return the field of the images `indices` of the batch."""
        return self._map_cells(lambda tensor: tensor[indices])

    def gather(self, cells: Tensor) -> "Field":
        """Return the field of some cells of each image, by their indices (B, N)."""
        images = torch.arange(len(cells), device=cells.device)[:, None]
        return self._map_cells(lambda tensor: tensor[images, cells])

    def split(self, size: int) -> Iterator["Field"]:
        """Yield the field in ranges of `size` cells."""
        for start in range(0, self.scale.shape[1], size):
            yield self._map_cells(lambda tensor, start=start: tensor[:, start : start + size])

    def corrections(self) -> "Field":
        """Return the field for corrections of a base image's colors, with zero mean."""
        return self._replace(
            amplitude=self.amplitude.flip(0),
            constant=self.constant.flip(0),
            mean=torch.zeros_like(self.mean),
            position=self.correction_position,
            correction_position=self.position,
        )

    def _map_cells(self, fn: Callable[[Tensor], Tensor]) -> "Field":
        """Return a copy with `fn` applied to every per-cell tensor (B, n, ...)."""
        return self._replace(
            coordinates=torch.stack([fn(x) for x in self.coordinates]),
            noise=fn(self.noise),
            scale=fn(self.scale),
            mean=fn(self.mean),
            position=None if self.position is None else fn(self.position),
            correction_position=(
                None if self.correction_position is None else fn(self.correction_position)
            ),
        )


@dataclass(frozen=True)
class Kernel:
    """Covariance exp(-d) + mean_variance with fixed constants.

    d is the Euclidean distance in (y / spatial_scale, x / spatial_scale, L / lightness_scale).
    """

    spatial_scale: float
    """Length scale in the image plane, as a fraction of the image diagonal."""
    lightness_scale: float
    """Length scale in units of L."""
    mean_variance: float
    """Variance of the unknown mean color, whose prior mean is 0."""
    noise_variance: float
    """Observation noise of each hint."""

    def field(self, L: Tensor) -> Field:
        """Return the field of images with lightness L (B, 1, H, W) in 0..100."""
        lightness = cell_lightness(L)
        height, width = L.shape[2:]
        yx = cell_coordinates(height, width, L.device) / self.spatial_scale
        ones = torch.ones_like(lightness[..., 0])
        return Field(
            torch.cat([yx.expand(len(L), -1, -1), lightness / self.lightness_scale], dim=-1)[None],
            amplitude=ones.new_ones(2, 1),
            constant=ones.new_full((2,), self.mean_variance),
            noise=self.noise_variance * ones,
            scale=ones,
            mean=torch.zeros_like(lightness).expand(-1, -1, 2),
            position=None,
            correction_position=None,
        )


def cell_coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """Return y and x of the cell centers of an image (n, 2), as fractions of its diagonal."""
    h, w = -(-height // CELL), -(-width // CELL)
    y, x = (torch.arange(n, device=device) * CELL + CELL / 2 for n in (h, w))
    grid = torch.stack([y[:, None].expand(-1, w), x[None].expand(h, -1)], dim=-1)
    return grid.flatten(0, 1) / (height**2 + width**2) ** 0.5


def cell_lightness(L: Tensor) -> Tensor:
    """Average lightness (B, 1, H, W) over the cells: (B, n, 1) float32."""
    return F.avg_pool2d(L.float(), CELL, ceil_mode=True).flatten(2).mT


# Colors: constants of the strongest classical method for few random hints. Corrections of a base
# image's colors reach less far.
COLOR_KERNEL = Kernel(
    spatial_scale=1.0, lightness_scale=50.0, mean_variance=0.3, noise_variance=0.02
)
CORRECTION_KERNEL = Kernel(
    spatial_scale=0.3, lightness_scale=20.0, mean_variance=0.0, noise_variance=0.02
)


def krige(
    L: Tensor,
    centers: Tensor,
    ab: Tensor,
    valid: Tensor,
    kernel: Kernel | Field = COLOR_KERNEL,
    windows: Tensor | None = None,
) -> Tensor:
    """Interpolate hints: ab(q) = m(q) + k(q, P) (k(P, P) + noise I)^-1 (ab(P) - m(P)).

    Args:
        L: (B, 1, H, W) lightness of the working images, 0..100.
        centers: (B, N, 2) y and x of the hint centers in pixels.
        ab: (B, N, 2) their colors, or corrections of colors, in Lab units.
        valid: (B, N) False for rows without a hint.
        kernel: constants, or the field that a network predicts for these images.
        windows: see `krige_cells`.
    Returns:
        (B, 2, H, W) in Lab units, interpolated bilinearly between cells; the prior mean m
        without hints.
    """
    H, W = L.shape[2:]
    field = kernel.field(L) if isinstance(kernel, Kernel) else kernel
    cell_ab = krige_cells(field, cell_indices(centers, H, W), ab, valid, windows)
    cell_ab = cell_ab.movedim(-1, 1).unflatten(2, (-(-H // CELL), -(-W // CELL)))
    return F.interpolate(cell_ab, scale_factor=CELL, mode="bilinear")[:, :, :H, :W]


def cell_indices(centers: Tensor, height: int, width: int) -> Tensor:
    """Return the indices (..., N) of the cells that contain y and x in pixels (..., N, 2)."""
    h, w = -(-height // CELL), -(-width // CELL)
    cell = (centers / CELL).long()
    return cell[..., 0].clamp(0, h - 1) * w + cell[..., 1].clamp(0, w - 1)


def krige_cells(
    field: Field, indices: Tensor, ab: Tensor, valid: Tensor, windows: Tensor | None = None
) -> Tensor:
    """Interpolate hints to all cells, see `krige`.

    Args:
        field: (B, n) cells.
        indices: (B, N) cells that hold hints.
        ab, valid: see `krige`.
        windows: (n, N) in 0..1: how far each hint acts on each cell, 1 in its own cell. None =
            fully on all.
    Returns:
        (B, n, 2) in Lab units.
    """
    if windows is None:
        return predict(field, fit(field.gather(indices), ab, valid))[0]
    rows = zip(indices, ab, valid, strict=True)
    with torch.autocast(ab.device.type, enabled=False):
        images = [
            _krige_windowed(field.select_images([i]), row[valid], values[valid], windows[:, valid])
            for i, (row, values, valid) in enumerate(rows)
        ]
    return torch.stack(images)


def _krige_windowed(field: Field, indices: Tensor, ab: Tensor, windows: Tensor) -> Tensor:
    """Krige each cell of one image with the hints that act on it.

    A window of w raises the noise of a hint, for this cell, so far that the hint alone would have w
    times its effect. Unlike a covariance multiplied by windows, this covariance stays positive
    definite, whatever the windows; a hint keeps its color, and hints whose windows end before a
    cell have no effect there.

    Args:
        field: (1, n) cells.
        indices, ab, windows: (N,), (N, 2), (n, N) of valid hints.
    Returns:
        (n, 2).
    """
    is_local = (windows < 1).any(0)
    everywhere, local = (field.gather(indices[None, part]) for part in (~is_local, is_local))
    ones = torch.ones_like(everywhere.scale, dtype=torch.bool)
    mean = predict(field, fit(everywhere, ab[None, ~is_local], ones))[0][0]
    if not is_local.any():
        return mean
    windows = windows[:, is_local]
    reached = windows.amax(1).nonzero()[:, 0]
    residual = ab[is_local].float() - mean[indices[is_local]]
    system = covariance(everywhere, everywhere) + everywhere.noise.diag_embed()
    explained = torch.linalg.solve(system, covariance(everywhere, local))

    def covariance_left(cells: Field) -> Tensor:
        """Return the covariance of cells (m) and local hints given the others: (m, N)."""
        return (covariance(cells, local) - covariance(cells, everywhere) @ explained)[0]

    between = covariance_left(local)
    count = min(MAX_LOCAL_HINTS, between.shape[1])
    variance, noise = between.diagonal(), local.noise[0].float()
    out = mean.clone()
    for part in reached.split(max(1, MAX_PAIRS // max(count**2, len(indices)))):
        cross = covariance_left(field.gather(part[None]))
        window = windows[part]
        nearest = (window * cross.abs()).topk(count, dim=1).indices
        window, cross = window.gather(1, nearest), cross.gather(1, nearest)
        acts = (window > 0).float()
        system = between[nearest[:, :, None], nearest[:, None]] * acts[:, :, None] * acts[:, None]
        raised = (variance + noise)[nearest] / window.clamp_min(MIN_WINDOW) - variance[nearest]
        system = system + torch.where(acts > 0, raised, 1.0).diag_embed()
        weights = torch.linalg.solve(system, cross * acts)
        out[part] += (weights[..., None] * residual[nearest]).sum(1)
    return out


class Posterior(NamedTuple):
    """Gaussian process conditioned on hints; applies to any image."""

    cells: Field
    """Field of the N cells that hold hints."""
    weights: Tensor
    """(k(P, P) + noise I)^-1 (ab(P) - m(P)): (B, N, 2)."""


def fit(cells: Field, ab: Tensor, valid: Tensor) -> Posterior:
    """Solve for the weights of hints.

    Args:
        cells: field of the cells (B, N) that hold hints.
        ab: (B, N, 2) their colors, or corrections of colors, in Lab units.
        valid: (B, N) False for rows without a hint.
    """
    with torch.autocast(ab.device.type, enabled=False):
        mask = valid.float()[..., None]
        noise = torch.where(valid, cells.noise, 1.0)
        system = covariance(cells, cells) * mask * mask.mT + noise.diag_embed()
        weights = torch.linalg.solve(system, (ab.float() - cells.mean) * mask) * mask
    return Posterior(cells, weights)


def concat_fields(fields: Sequence[Field]) -> Field:
    """Concatenate the cells of several images into one field without positions."""
    return fields[0]._replace(
        coordinates=torch.cat([field.coordinates for field in fields], dim=2),
        noise=torch.cat([field.noise for field in fields], dim=1),
        scale=torch.cat([field.scale for field in fields], dim=1),
        mean=torch.cat([field.mean for field in fields], dim=1),
        position=None,
        correction_position=None,
    )


def predict(field: Field, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Return the posterior mean of every cell and its highest correlation with a hint.

    Args:
        posterior: for each image of `field`, or one for all.
    Returns:
        m(q) + k(q, P) weights: (B, n, 2); highest correlation with a cell of P: (B, n) in 0..1.
    """
    count = posterior.weights.shape[1]
    if not count:
        return field.mean, torch.zeros_like(field.scale)
    step = max(1, MAX_PAIRS // (len(field.mean) * count * len(field.coordinates)))
    means: list[Tensor] = []
    correlations: list[Tensor] = []
    hints = posterior.cells
    with torch.autocast(field.mean.device.type, enabled=False):
        for cells in field.split(step):
            cross = covariance(cells, hints)
            means.append(cells.mean + cross @ posterior.weights)
            with torch.no_grad():
                scaled = cross / hints.scale[:, None]
                correlations.append(scaled.amax(-1) / cells.scale)
        variance = field.constant[0] + field.amplitude[0].sum()
        return torch.cat(means, dim=1), torch.cat(correlations, dim=1) / variance.detach()


def prior_variance(field: Field) -> Tensor:
    """Return k(q, q) of every cell: (B, n)."""
    return (field.constant[0] + field.amplitude[0].sum()) * field.scale.square()


def posterior_variance(field: Field, hints: Field) -> Tensor:
    """Return the variance of every cell given hints, whose colors do not matter.

    Args:
        field: (B, n) cells.
        hints: (B, N) cells that hold hints.
    Returns:
        k(q, q) - k(q, P) (k(P, P) + noise I)^-1 k(P, q): (B, n).
    """
    prior = prior_variance(field)
    count = hints.scale.shape[1]
    if not count:
        return prior
    system = covariance(hints, hints) + hints.noise.diag_embed()
    step = max(1, MAX_PAIRS // (len(prior) * count * len(field.coordinates)))
    explained: list[Tensor] = []
    for cells in field.split(step):
        cross = covariance(hints, cells)
        explained.append((cross * torch.linalg.solve(system, cross)).sum(1))
    return (prior - torch.cat(explained, dim=1)).clamp_min(0)


def covariance(a: Field, b: Field) -> Tensor:
    """Return k of cells (B, m) and cells (B, N): (B, m, N)."""
    total = a.constant[0]
    for x, y, amplitude in zip(a.coordinates, b.coordinates, a.amplitude[0], strict=True):
        total = total + amplitude * torch.exp(-_distance(x, y))
    if a.position is not None and b.position is not None:
        total = total * torch.exp(-_distance(a.position, b.position))
    return total * a.scale[..., None] * b.scale[:, None]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances (B, m, N); matrix products are too imprecise for small ones."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
