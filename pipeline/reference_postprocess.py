"""The official scripts' pictures, for comparison: squashed to a square, colour in blocks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import color

XCNET_WHITE = (0.95047, 1.0, 1.08883)  # of scikit-image, whose Lab it is


def join(rgb: Tensor, ab: Tensor) -> Tensor:
    """Lightness of `rgb` (B, 3, H, W) with `ab` at the nearest place, channels clipped to 0..1."""
    ab = F.interpolate(ab, size=rgb.shape[2:], mode="nearest")
    return color.lab_to_rgb(torch.cat([color.lightness(rgb), ab], dim=1)).clamp(0, 1)


def join_xcnet(rgb: Tensor, ab: Tensor) -> Tensor:
    """The same for (B, 2, H, W) of one size, in XCNet's Lab, where f(Z) below 0 counts as 0."""
    L = xcnet_lab(rgb)[:, :1]
    ab = torch.cat([ab[:, :1], torch.minimum(ab[:, 1:], 200 * (L + 16) / 116)], dim=1)
    return color.lab_to_rgb(torch.cat([L, ab], dim=1), XCNET_WHITE).clamp(0, 1)


def xcnet_lab(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1 -> Lab with XCNet's white point, by which ab differs by 0.005."""
    return color.rgb_to_lab(rgb, XCNET_WHITE)


def middle(rgb: Tensor, side: int) -> Tensor:
    """A square of (B, 3, H, W) in 0..1, as XCNet's notebook cuts it.

    The middle side x side pixels of a photo that is no square, black beyond its edges; squares are
    scaled, antialiased, and rounded to 8 bits.
    """
    height, width = rgb.shape[2:]
    if height != width:
        top, left = round((height - side) / 2), round((width - side) / 2)
        rgb = F.pad(rgb, (-left, side - width + left, -top, side - height + top))
    elif height != side:
        rgb = F.interpolate(rgb, size=(side, side), mode="bilinear", antialias=True)
        rgb = (255 * rgb).round() / 255
    return rgb


def resize_bytes(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """`rgb` (B, 3, H, W) in 0..1 resized as OpenCV does it with 8-bit pictures (INTER_LINEAR).

    Its fixed-point arithmetic drops bits on the way, which is worth up to one level; a network
    answers to that, so the official picture can be met only this way.
    """
    pixels = (255 * rgb).round().long()
    (top, bottom, up, down), (left, right, before, after) = (
        _neighbours(length, wanted, rgb.device)
        for length, wanted in zip(rgb.shape[2:], size, strict=True)
    )
    rows = (pixels[:, :, line] for line in (top, bottom))  # gathered first: photos can be large
    upper, lower = (r[..., left] * before + r[..., right] * after for r in rows)
    up, down = up[:, None], down[:, None]
    return ((((up * (upper >> 4)) >> 16) + ((down * (lower >> 4)) >> 16) + 2) >> 2).float() / 255


def _neighbours(
    length: int, wanted: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both neighbours of each wanted place on an axis, and their weights in 1/2048."""
    place = (torch.arange(wanted, device=device) + 0.5) * (length / wanted) - 0.5
    place = place.clamp(0, length - 1)
    first = place.floor()
    weight = (2048 * (place - first)).round().long()
    first = first.long()
    return first, (first + 1).clamp_max(length - 1), 2048 - weight, weight
