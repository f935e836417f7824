"""A first guess of the colour between hints: kriging on place and lightness.

Kriging, or Gaussian-process regression, is the best linear guess for values that are the more alike
the nearer they are. Near here means in (y, x, L): a hint speaks for what lies close to it and is as
light as it is.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .hints import CELL  # it is guessed on a grid of cells, as hints lie on one

AT_ONCE = 2**22  # distances that are held at once


@dataclass(frozen=True)
class Kernel:
    """Covariance exp(-d) + `mean`; d the distance in (y / reach, x / reach, L / light)."""

    reach: float
    """Distance over which likeness falls by e, as part of the picture's diagonal."""
    light: float
    """The same in units of L."""
    mean: float
    """Variance of what all places share: the mean, unknown but about zero."""
    noise: float
    """Variance of what each hint has for itself."""


# For colours: constants of the strongest classical method for few random hints.
COLORS = Kernel(reach=1.0, light=50.0, mean=0.3, noise=0.02)
# For corrections of colours that are known by other means: these reach less far.
CORRECTIONS = Kernel(reach=0.3, light=20.0, mean=0.0, noise=0.02)


def krige(L: Tensor, places: Tensor, ab: Tensor, valid: Tensor, kernel: Kernel = COLORS) -> Tensor:
    """Values between hints: ab(q) = k(q, P) (k(P, P) + noise I)^-1 ab(P).

    Args:
        L: (B, 1, H, W) lightness in 0..100, of the working images.
        places: (B, N, 2) y and x of the hints' centres, in pixels.
        ab: (B, N, 2) their colours, or corrections of colours, in Lab units.
        valid: (B, N) False where a row holds no hint.
    Returns:
        (B, 2, H, W) in Lab units, smooth within cells; 0 without hints.
    """
    B, _, H, W = L.shape
    coarse = F.avg_pool2d(L.float(), CELL, ceil_mode=True)
    h, w = coarse.shape[2:]
    if not ab.shape[1]:
        return L.new_zeros(B, 2, H, W)
    scale = kernel.reach * (H**2 + W**2) ** 0.5
    y, x = (torch.arange(n, device=L.device) * CELL + CELL / 2 for n in (h, w))
    grid = torch.stack(
        [
            (y / scale).view(1, h, 1).expand(B, h, w),
            (x / scale).view(1, 1, w).expand(B, h, w),
            coarse[:, 0] / kernel.light,
        ],
        dim=-1,
    ).flatten(1, 2)
    cell = (places / CELL).long()
    row = cell[..., 0].clamp(0, h - 1) * w + cell[..., 1].clamp(0, w - 1)
    light = coarse.flatten(1).gather(1, row) / kernel.light
    points = torch.cat([places.float() / scale, light[..., None]], dim=-1)

    def covariance(a: Tensor) -> Tensor:
        """(B, n, 3) -> (B, n, N) with the hints; 0 with those that are none."""
        d = torch.cdist(a, points, compute_mode="donot_use_mm_for_euclid_dist")
        return (torch.exp(-d) + kernel.mean) * valid[:, None]

    noise = kernel.noise * torch.eye(ab.shape[1], device=L.device)
    weights = torch.linalg.solve(covariance(points) + noise, ab.float())
    step = max(1, AT_ONCE // (B * ab.shape[1]))
    found = torch.cat([covariance(part) @ weights for part in grid.split(step, dim=1)], dim=1)
    found = found.movedim(-1, 1).unflatten(2, (h, w))
    return F.interpolate(found, scale_factor=CELL, mode="bilinear")[:, :, :H, :W]
