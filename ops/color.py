"""sRGB <-> CIE Lab in plain torch, for any leading dimensions and any device.

White point D65, 2 degree observer, as used throughout the colorization literature: the linear-RGB
to XYZ matrix below, whose rows sum to the white point (0.950456, 1, 1.088754), so that a neutral
grey has a = b = 0 exactly. CIE 15:2004 gives the lightness function f and its two constants.

Every function takes channels at dimension -3: (..., 3, H, W), sRGB in 0..1, L in 0..100,
a and b in Lab units (about -86..98 and -108..94 inside sRGB).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
EPSILON = 216 / 24389  # CIE 15:2004: below it f is a line
KAPPA = 24389 / 27


def _to_white(white: Sequence[float] | None = None) -> Tensor:
    """(3, 3) float64: linear RGB to X/Xn, Y/Yn, Z/Zn; `white` is Xn, Yn, Zn."""
    matrix = torch.tensor(RGB_TO_XYZ, dtype=torch.float64)
    if white is None:
        return matrix / matrix.sum(dim=1, keepdim=True)
    return matrix / torch.tensor(white, dtype=torch.float64)[:, None]


def _check(x: Tensor, channels: int, name: str) -> None:
    if x.ndim < 3 or x.shape[-3] != channels:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (..., {channels}, H, W), "
            "channels third from last."
        )


# Intermediate results are written over: on whole photos fresh memory costs more than arithmetic.


def srgb_to_linear(c: Tensor) -> Tensor:
    """IEC 61966-2-1 decoding of values in 0..1, any shape."""
    curve = (c + 0.055).div_(1.055).clamp_min_(0).pow_(2.4)
    return _where(c > 0.04045, curve, c / 12.92)


def linear_to_srgb(c: Tensor) -> Tensor:
    """IEC 61966-2-1 encoding, any shape; negative values continue the linear part."""
    curve = c.clamp_min(0.0031308).pow_(1 / 2.4).mul_(1.055).sub_(0.055)
    return _where(c > 0.0031308, curve, 12.92 * c)


def _f(t: Tensor) -> Tensor:
    return _where(t > EPSILON, t.clamp_min(EPSILON).pow_(1 / 3), (KAPPA * t).add_(16).div_(116))


def _f_inverse(f: Tensor) -> Tensor:
    return _where(f > 6 / 29, f * f * f, (116 * f).sub_(16).div_(KAPPA))


def _where(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where`, over `no` where no gradient is wanted."""
    return torch.where(condition, yes, no, **({} if no.requires_grad else {"out": no}))


def rgb_to_lab(rgb: Tensor, white: Sequence[float] | None = None) -> Tensor:
    """(..., 3, H, W) sRGB in 0..1 -> (..., 3, H, W) Lab; ValueError on another channel count.

    Args:
        white: XYZ of another white point, for programs that use one.
    """
    _check(rgb, 3, "rgb")
    linear = srgb_to_linear(rgb).movedim(-3, -1)
    f = _f(linear @ _to_white(white).T.to(rgb))
    fx, fy, fz = f.unbind(-1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


def lightness(rgb: Tensor) -> Tensor:
    """(..., 3, H, W) sRGB in 0..1 -> (..., 1, H, W) L.

    Equals rgb_to_lab(rgb)[..., :1, :, :] at a third of the work.
    """
    _check(rgb, 3, "rgb")
    red, green, blue = rgb.unbind(-3)
    if torch.equal(red, green) and torch.equal(red, blue):  # a black-and-white photo
        y = srgb_to_linear(red)
    else:
        r, g, b = RGB_TO_XYZ[1]  # they sum up to 1
        red, green, blue = srgb_to_linear(rgb).unbind(-3)
        y = (r * red).add_(green, alpha=g).add_(blue, alpha=b)
    return (116 * _f(y)).sub_(16).unsqueeze(-3)


def lab_to_rgb(lab: Tensor, white: Sequence[float] | None = None) -> Tensor:
    """(..., 3, H, W) Lab -> (..., 3, H, W) sRGB, unclamped: outside 0..1 where out of gamut."""
    _check(lab, 3, "lab")
    return linear_to_srgb(_lab_to_linear(lab, white))


def _lab_to_linear(lab: Tensor, white: Sequence[float] | None = None) -> Tensor:
    L, a, b = lab.unbind(-3)
    fy = (L + 16) / 116
    x, y, z = _f_inverse(fy + a / 500), _f_inverse(fy), _f_inverse(fy - b / 200)
    rows = torch.linalg.inv(_to_white(white)).tolist()
    return torch.stack([(m[0] * x).add_(y, alpha=m[1]).add_(z, alpha=m[2]) for m in rows], dim=-3)


def gray_rgb(L: Tensor) -> Tensor:
    """(..., 1, H, W) L -> (..., 3, H, W) neutral sRGB: Lab (L, 0, 0), three equal channels."""
    _check(L, 1, "L")
    shape = [-1] * L.ndim
    shape[-3] = 3
    return linear_to_srgb(_f_inverse((L + 16) / 116)).clamp(0, 1).expand(shape)


def chroma(ab: Tensor) -> Tensor:
    """(..., 2, H, W) ab -> (..., 1, H, W) C* = sqrt(a^2 + b^2)."""
    return torch.linalg.vector_norm(ab, dim=-3, keepdim=True)


def to_gamut(lab: Tensor, steps: int = 14) -> Tensor:
    """Lab -> sRGB inside 0..1, keeping lightness and hue and reducing chroma only where it must.

    Where (L, a, b) lies outside sRGB the largest t in 0..1 with (L, t a, t b) inside is found by
    bisection, on those pixels alone. Never clips channel by channel, which would shift L and hue.

    Args:
        lab: (..., 3, H, W).
        steps: halvings of the interval; 14 leave chroma within 0.01 of the gamut's edge.
    Returns:
        (..., 3, H, W) sRGB in 0..1.
    """
    _check(lab, 3, "lab")
    linear = _lab_to_linear(lab)
    outside = (linear.amin(dim=-3) < -1e-6) | (linear.amax(dim=-3) > 1 + 1e-6)
    if outside.any():
        points = lab.movedim(-3, 0)[:, outside][..., None]  # (3, N, 1): one column of pixels
        low, high = torch.zeros_like(points[0]), torch.ones_like(points[0])
        for _ in range(steps):
            middle = (low + high) / 2
            inside = _in_gamut(points, middle)
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        fitted = _lab_to_linear(torch.cat([points[:1], points[1:] * low]))
        linear.movedim(-3, 0)[:, outside] = fitted[..., 0]
    return linear_to_srgb(linear).clamp_(0, 1)


def _in_gamut(points: Tensor, scale: Tensor) -> Tensor:
    linear = _lab_to_linear(torch.cat([points[:1], points[1:] * scale]))
    return ((linear >= 0) & (linear <= 1)).all(dim=0)
