"""Bring chroma from working size to full size along the photo's own edges, row range by row range.

Method "edge": around every working pixel chroma is a line in L. Its slope comes from the working
image; full-size L says where on that line a pixel lies. Equations, figures and what else was tried:
docs/chroma-upsampling.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("edge", "bilinear", "nearest")
# Chosen on 50 photos at x2, x4 and x8, with and without grain, 2026-11; the optima are flat.
SLOPE_NOISE = 20.0  # variance of L that carries no slope: grain, texture
CHROMA_NOISE = 10.0  # variance of a or b below which a fit is not trusted
SHARPENING = 5  # steps of back-projection
OVERSHOOT = 0.5  # sharpened chroma leaves its neighbours' range by at most this part of it
BLOCK_PIXELS = 2**18  # of all images together, interpolated at once: stays in a CPU's cache


class Upsampler:
    """Chroma of one working image -> any rows of it at full size.

    Rows do not depend on how they are cut into ranges. A working image larger than the photo is
    first scaled down, antialiased.

    Args:
        ab: (B, 2, h, w) chroma in Lab units.
        L: (B, 1, h, w) lightness 0..100 of the same working image.
        size: (H, W) of the photo.
        method: "edge", "bilinear", or "nearest" (blocks, for comparison).
    Raises:
        ValueError: unknown method.
    """

    def __init__(self, ab: Tensor, L: Tensor, size: tuple[int, int], method: str = METHODS[0]):
        if method not in METHODS:
            raise ValueError(
                f"chroma upsampling is '{method}'; expected one of {', '.join(METHODS)}."
            )
        self.size, self.method = (int(size[0]), int(size[1])), method
        if method == "nearest":
            self.planes = ab
            return
        ab, L = _no_larger(ab, self.size), _no_larger(L, self.size)
        self.planes = edge_planes(ab, L, self.size) if method == "edge" else ab

    def rows(self, top: int, bottom: int, L: Tensor) -> Tensor:
        """Rows top..bottom: L (B, 1, n, W) of the photo's -> ab (B, 2, n, W)."""
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
            base, slope, low, high, own = self._bilinear(y, end).split((2, 2, 1, 1, 1), dim=1)
            seen = torch.maximum(L[:, :, y - top : end - top], low)
            offset = torch.minimum(seen, high, out=seen).sub_(own)
            torch.addcmul(base, slope, offset, out=ab[:, :, y - top : end - top])
        return ab

    def _bilinear(self, top: int, bottom: int) -> Tensor:
        """All planes at rows top..bottom of the photo, (B, C, bottom - top, W)."""
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
    """What "edge" interpolates to full size, computed once at working size.

    At full size, with U bilinear interpolation:
    ab = U(base) + U(slope) (clamp(L, U(darkest), U(lightest)) - U(L_working)).

    Args:
        ab: (B, 2, h, w); L: (B, 1, h, w); size: (H, W), h <= H and w <= W.
    Returns:
        (B, 7, h, w): base (2), slope (2), darkest, lightest, L_working.
    """
    mean_L, mean_ab = _binomial(L), _binomial(ab)
    var_L = (_binomial(L * L) - mean_L * mean_L).clamp_min(0)
    var_ab = (_binomial(ab * ab) - mean_ab * mean_ab).clamp_min(0)
    cov = _binomial(L * ab) - mean_L * mean_ab
    # Ridge regression, times the correlation: what L explains badly is not drawn from it.
    correlation = cov.abs() / ((var_L + SLOPE_NOISE) * (var_ab + CHROMA_NOISE)).sqrt()
    slope = cov / (var_L + SLOPE_NOISE) * correlation
    # Past the neighbours' L the line would leave their colours: white beside orange turns blue.
    darkest, lightest = _range(L)
    return torch.cat([_sharpened(ab, L, slope, size), slope, darkest, lightest, L], dim=1)


def _sharpened(ab: Tensor, L: Tensor, slope: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 2, h, w) base whose full-size result, scaled down again, is about `ab`.

    Back-projection without leaving the working size: scaling up bilinearly and down antialiased is,
    on working pixels, a small blur, on average (1/6, 2/3, 1/6) each way: the triangle with itself.
    """
    wy, wx = (1 / 6 if full > small else 0 for full, small in zip(size, ab.shape[2:], strict=True))
    wanted = ab - _blur(slope, wy, wx) * (L - _blur(L, wy, wx))  # the rest is drawn from L
    base = ab
    for _ in range(SHARPENING):
        base = base + (wanted - _blur(base, wy, wx))
    lowest, highest = _range(ab)
    slack = OVERSHOOT * (highest - lowest)
    # Away from neutral it grows by that part at most, and never across: no halo of the complement.
    least = torch.maximum(lowest - slack, (lowest * (1 + OVERSHOOT)).clamp_max(0))
    most = torch.minimum(highest + slack, (highest * (1 + OVERSHOOT)).clamp_min(0))
    return torch.minimum(torch.maximum(base, least), most)


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest of three by three."""
    return -F.max_pool2d(-x, 3, 1, 1), F.max_pool2d(x, 3, 1, 1)


def _binomial(x: Tensor) -> Tensor:
    return _blur(x, 0.25, 0.25)


def _blur(x: Tensor, wy: float, wx: float) -> Tensor:
    """Three by three, separable, each side (w, 1 - 2w, w), edges repeated."""
    p = F.pad(x, (0, 0, 1, 1), mode="replicate")
    x = (1 - 2 * wy) * x + wy * (p[:, :, :-2] + p[:, :, 2:])
    p = F.pad(x, (1, 1, 0, 0), mode="replicate")
    return (1 - 2 * wx) * x + wx * (p[..., :-2] + p[..., 2:])


def _no_larger(x: Tensor, size: tuple[int, int]) -> Tensor:
    fits = min(x.shape[2], size[0]), min(x.shape[3], size[1])
    if fits == tuple(x.shape[2:]):
        return x
    return F.interpolate(x, size=fits, mode="bilinear", antialias=True)
