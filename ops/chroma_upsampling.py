"""Upsample chroma from the working size to full size along the edges of the photo.

The "edge" method models chroma around each working pixel as a linear function of L. Its slope comes
from the working image; the full-size L selects the point on that line. See
docs/development/chroma-upsampling.md for equations, measurements and alternatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("edge", "bilinear", "nearest")
# Chosen on 50 photos at x2, x4 and x8, with and without grain, 2026-11; the optima are flat.
SLOPE_NOISE = 20.0  # variance of L attributed to grain and texture, which have no slope
CHROMA_NOISE = 10.0  # variance of a or b below which a fit is not trusted
SHARPENING_STEPS = 5  # iterations of back-projection
OVERSHOOT = 0.5  # limit for sharpened chroma beyond the local range, as a fraction of that range
BLOCK_PIXELS = 2**18  # pixels interpolated at a time, over all images; fits in a CPU cache


class Upsampler:
    """Upsample the chroma of a batch of working images to arbitrary row ranges at full size.

    The result does not depend on how rows are divided into ranges. A working image larger than the
    photo is scaled down first, with antialiasing.

    Args:
        ab: (B, 2, h, w) chroma in Lab units.
        L: (B, 1, h, w) lightness 0..100 of the same working images.
        size: (H, W) of the photo.
        method: "edge", "bilinear", or "nearest" (blocks, for comparison).
    Raises:
        ValueError: the method is unknown.
    """

    def __init__(self, ab: Tensor, L: Tensor, size: tuple[int, int], method: str = METHODS[0]):
        if method not in METHODS:
            raise ValueError(
                f"chroma upsampling is '{method}'; expected one of {', '.join(METHODS)}."
            )
        self.size, self.method = size, method
        if method == "nearest":
            self.planes = ab
            return
        ab, L = _limit_size(ab, self.size), _limit_size(L, self.size)
        self.planes = edge_planes(ab, L, self.size) if method == "edge" else ab

    def rows(self, top: int, bottom: int, L: Tensor) -> Tensor:
        """Return chroma (B, 2, n, W) of the full-size rows top..bottom.

        Args:
            L: (B, 1, n, W) lightness of these rows.
        """
        if self.method == "nearest":
            return self._nearest(top, bottom)
        batch, width = self.planes.shape[0], self.size[1]
        step = max(1, BLOCK_PIXELS // (batch * width))
        if self.method == "bilinear":
            blocks = [self._bilinear(y, min(y + step, bottom)) for y in range(top, bottom, step)]
            return torch.cat(blocks, dim=2)
        ab = torch.empty(batch, 2, bottom - top, width, device=L.device, dtype=L.dtype)
        for y in range(top, bottom, step):
            end = min(y + step, bottom)
            base, slope, darkest, lightest, working_L = self._bilinear(y, end).split(
                (2, 2, 1, 1, 1), dim=1
            )
            clamped = torch.maximum(L[:, :, y - top : end - top], darkest)
            offset = torch.minimum(clamped, lightest, out=clamped).sub_(working_L)
            torch.addcmul(base, slope, offset, out=ab[:, :, y - top : end - top])
        return ab

    def _bilinear(self, top: int, bottom: int) -> Tensor:
        """Return all planes at the full-size rows top..bottom: (B, C, bottom - top, W)."""
        h = self.planes.shape[2]
        y = torch.arange(top, bottom, device=self.planes.device) + 0.5
        y = (y * (h / self.size[0]) - 0.5).clamp(0, h - 1)
        low = y.floor().long()
        high = (low + 1).clamp_max(h - 1)
        rows = torch.lerp(self.planes[:, :, low], self.planes[:, :, high], (y - low)[:, None])
        lines = F.interpolate(rows.flatten(1, 2), size=self.size[1], mode="linear")
        return lines.unflatten(1, rows.shape[1:3])

    def _nearest(self, top: int, bottom: int) -> Tensor:
        y = torch.arange(top, bottom, device=self.planes.device) + 0.5
        y = (y * (self.planes.shape[2] / self.size[0])).long()
        return F.interpolate(
            self.planes[:, :, y], size=(bottom - top, self.size[1]), mode="nearest-exact"
        )


def edge_planes(ab: Tensor, L: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the planes at working size that the "edge" method interpolates to full size.

    At full size, with U for bilinear interpolation:
    ab = U(base) + U(slope) (clamp(L, U(darkest), U(lightest)) - U(L_working)).

    Args:
        ab: (B, 2, h, w) chroma.
        L: (B, 1, h, w) lightness.
        size: (H, W), h <= H and w <= W.
    Returns:
        (B, 7, h, w): base (2), slope (2), darkest, lightest, L_working.
    """
    mean_L, mean_ab = _binomial_blur(L), _binomial_blur(ab)
    var_L = (_binomial_blur(L * L) - mean_L * mean_L).clamp_min(0)
    var_ab = (_binomial_blur(ab * ab) - mean_ab * mean_ab).clamp_min(0)
    cov = _binomial_blur(L * ab) - mean_L * mean_ab
    # Ridge regression, scaled by the correlation so that a poor fit follows L less.
    correlation = cov.abs() / ((var_L + SLOPE_NOISE) * (var_ab + CHROMA_NOISE)).sqrt()
    slope = cov / (var_L + SLOPE_NOISE) * correlation
    # Outside the local range of L, the line leaves the local colors: white beside orange would
    # turn blue.
    darkest, lightest = _local_range(L)
    return torch.cat([_sharpen(ab, L, slope, size), slope, darkest, lightest, L], dim=1)


def _sharpen(ab: Tensor, L: Tensor, slope: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the base (B, 2, h, w) whose full-size result scales down to about `ab`.

    This is back-projection at working size: bilinear upscaling followed by antialiased downscaling
    is, on average, a blur of working pixels with weights (1/6, 2/3, 1/6) along each axis (a
    triangle filter convolved with itself).
    """
    wy, wx = (1 / 6 if full > small else 0 for full, small in zip(size, ab.shape[2:], strict=True))
    target = ab - _blur(slope, wy, wx) * (L - _blur(L, wy, wx))  # the slope term adds the rest
    base = ab
    for _ in range(SHARPENING_STEPS):
        base = base + (target - _blur(base, wy, wx))
    lowest, highest = _local_range(ab)
    slack = OVERSHOOT * (highest - lowest)
    # Chroma may grow away from neutral by that fraction but never cross it: crossing would give a
    # halo of the complementary color.
    minimum = torch.maximum(lowest - slack, (lowest * (1 + OVERSHOOT)).clamp_max(0))
    maximum = torch.minimum(highest + slack, (highest * (1 + OVERSHOOT)).clamp_min(0))
    return torch.minimum(torch.maximum(base, minimum), maximum)


def _local_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum and maximum over 3x3 neighborhoods."""
    return -F.max_pool2d(-x, 3, 1, 1), F.max_pool2d(x, 3, 1, 1)


def _binomial_blur(x: Tensor) -> Tensor:
    return _blur(x, 0.25, 0.25)


def _blur(x: Tensor, wy: float, wx: float) -> Tensor:
    """Apply a separable 3x3 filter with weights (w, 1 - 2w, w) per axis and replicated edges."""
    p = F.pad(x, (0, 0, 1, 1), mode="replicate")
    x = (1 - 2 * wy) * x + wy * (p[:, :, :-2] + p[:, :, 2:])
    p = F.pad(x, (1, 1, 0, 0), mode="replicate")
    return (1 - 2 * wx) * x + wx * (p[..., :-2] + p[..., 2:])


def _limit_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (B, C, h, w) down to at most `size`, with antialiasing."""
    limited = min(x.shape[2], size[0]), min(x.shape[3], size[1])
    if limited == tuple(x.shape[2:]):
        return x
    return F.interpolate(x, size=limited, mode="bilinear", antialias=True)
