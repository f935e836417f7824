"""Convert between sRGB and CIE Lab in plain torch, for any leading dimensions and any device.

The white point is D65 with the 2 degree observer, as in the colorization literature. The rows of
the matrix from linear RGB to XYZ sum to the white point (0.950456, 1, 1.088754), so that neutral
gray has exactly a = b = 0. The lightness function f and its two constants are those of CIE 15:2004.

All functions expect channels at dimension -3: (..., 3, H, W) with sRGB in 0..1, L in 0..100, and a
and b in Lab units (about -86..98 and -108..94 inside sRGB).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
EPSILON = 216 / 24389  # CIE 15:2004: f is linear below
KAPPA = 24389 / 27
MIN_MEAN_CHROMA = 2.0  # mean C* below which a photo counts as gray


def _rgb_to_relative_xyz(white: Sequence[float] | None = None) -> Tensor:
    """Return the (3, 3) float64 matrix from linear RGB to XYZ relative to `white` (Xn, Yn, Zn)."""
    matrix = torch.tensor(RGB_TO_XYZ, dtype=torch.float64)
    if white is None:
        return matrix / matrix.sum(dim=1, keepdim=True)
    return matrix / torch.tensor(white, dtype=torch.float64)[:, None]


def _check_channels(x: Tensor, channels: int, name: str) -> None:
    if x.ndim < 3 or x.shape[-3] != channels:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (..., {channels}, H, W), "
            "channels third from last."
        )


# The functions below work in place where they can: on whole photos, allocating memory costs more
# than arithmetic.


def srgb_to_linear(c: Tensor) -> Tensor:
    """Decode sRGB values in 0..1 of any shape to linear light (IEC 61966-2-1)."""
    curve = (c + 0.055).div_(1.055).clamp_min_(0).pow_(2.4)
    return _select(c > 0.04045, curve, c / 12.92)


def linear_to_srgb(c: Tensor) -> Tensor:
    """Encode linear light of any shape to sRGB (IEC 61966-2-1); the linear part extends below 0."""
    curve = c.clamp_min(0.0031308).pow_(1 / 2.4).mul_(1.055).sub_(0.055)
    return _select(c > 0.0031308, curve, 12.92 * c)


def _f(t: Tensor) -> Tensor:
    return _select(t > EPSILON, t.clamp_min(EPSILON).pow_(1 / 3), (KAPPA * t).add_(16).div_(116))


def _f_inverse(f: Tensor) -> Tensor:
    return _select(f > 6 / 29, f * f * f, (116 * f).sub_(16).div_(KAPPA))


def _select(condition: Tensor, if_true: Tensor, if_false: Tensor) -> Tensor:
    """Return `torch.where`, computed in place of `if_false` unless that needs a gradient."""
    if if_false.requires_grad:
        return torch.where(condition, if_true, if_false)
    return torch.where(condition, if_true, if_false, out=if_false)


def rgb_to_lab(rgb: Tensor, white: Sequence[float] | None = None) -> Tensor:
    """Convert sRGB in 0..1 to Lab, both (..., 3, H, W).

    Args:
        white: XYZ of a white point other than D65, for programs that use one.
    Raises:
        ValueError: the input does not have three channels.
    """
    _check_channels(rgb, 3, "rgb")
    linear = srgb_to_linear(rgb).movedim(-3, -1)
    f = _f(linear @ _rgb_to_relative_xyz(white).T.to(rgb))
    fx, fy, fz = f.unbind(-1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


def lightness(rgb: Tensor) -> Tensor:
    """Convert sRGB (..., 3, H, W) in 0..1 to L (..., 1, H, W).

    Equals rgb_to_lab(rgb)[..., :1, :, :] at a third of the cost.
    """
    _check_channels(rgb, 3, "rgb")
    red, green, blue = rgb.unbind(-3)
    if torch.equal(red, green) and torch.equal(red, blue):  # a black-and-white photo
        y = srgb_to_linear(red)
    else:
        r, g, b = RGB_TO_XYZ[1]  # sums to 1
        red, green, blue = srgb_to_linear(rgb).unbind(-3)
        y = (r * red).add_(green, alpha=g).add_(blue, alpha=b)
    return (116 * _f(y)).sub_(16).unsqueeze(-3)


def lab_to_rgb(lab: Tensor, white: Sequence[float] | None = None) -> Tensor:
    """Convert Lab to sRGB, both (..., 3, H, W), unclamped: out-of-gamut colors lie outside 0..1."""
    _check_channels(lab, 3, "lab")
    return linear_to_srgb(_lab_to_linear(lab, white))


def _lab_to_linear(lab: Tensor, white: Sequence[float] | None = None) -> Tensor:
    L, a, b = lab.unbind(-3)
    fy = (L + 16) / 116
    x, y, z = _f_inverse(fy + a / 500), _f_inverse(fy), _f_inverse(fy - b / 200)
    rows = torch.linalg.inv(_rgb_to_relative_xyz(white)).tolist()
    return torch.stack([(m[0] * x).add_(y, alpha=m[1]).add_(z, alpha=m[2]) for m in rows], dim=-3)


def gray_rgb(L: Tensor) -> Tensor:
    """Convert L (..., 1, H, W) to neutral sRGB (..., 3, H, W) with three equal channels."""
    _check_channels(L, 1, "L")
    shape = [-1] * L.ndim
    shape[-3] = 3
    return linear_to_srgb(_f_inverse((L + 16) / 116)).clamp(0, 1).expand(shape)


def chroma(ab: Tensor) -> Tensor:
    """Return chroma C* = sqrt(a^2 + b^2) (..., 1, H, W) of ab (..., 2, H, W)."""
    return torch.linalg.vector_norm(ab, dim=-3, keepdim=True)


def to_gamut(lab: Tensor, steps: int = 14) -> Tensor:
    """Convert Lab to in-gamut sRGB, keeping lightness and hue.

    For each pixel outside sRGB, bisection finds the largest t in 0..1 for which (L, t a, t b) is
    inside. Clipping channels instead would shift lightness and hue.

    Args:
        lab: (..., 3, H, W).
        steps: bisection steps; 14 bring chroma within 0.01 of the gamut boundary.
    Returns:
        (..., 3, H, W) sRGB in 0..1.
    """
    _check_channels(lab, 3, "lab")
    linear = _lab_to_linear(lab)
    outside = (linear.amin(dim=-3) < -1e-6) | (linear.amax(dim=-3) > 1 + 1e-6)
    if outside.any():
        points = lab.movedim(-3, 0)[:, outside][..., None]  # (3, N, 1): one column of pixels
        low, high = torch.zeros_like(points[0]), torch.ones_like(points[0])
        for _ in range(steps):
            middle = (low + high) / 2
            inside = _in_gamut(points, middle)
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        in_gamut = _lab_to_linear(torch.cat([points[:1], points[1:] * low]))
        linear.movedim(-3, 0)[:, outside] = in_gamut[..., 0]
    return linear_to_srgb(linear).clamp_(0, 1)


def _in_gamut(points: Tensor, scale: Tensor) -> Tensor:
    linear = _lab_to_linear(torch.cat([points[:1], points[1:] * scale]))
    return ((linear >= 0) & (linear <= 1)).all(dim=0)
