"""Output image of ColorFormer's official inference script, for comparison."""

import torch
from torch import Tensor

from ..ops.resize import Geometry
from .ddcolor_official import combine_nearest
from .rendering import OfficialRenderer, WorkingImage


class ColorFormerRenderer(OfficialRenderer):
    """Squash the photo to a square as OpenCV does; the result keeps the working size."""

    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """See `resize_as_opencv`."""
        size = (geometry.scaled_height, geometry.scaled_width)
        return WorkingImage.from_rgb(resize_as_opencv(rgb.to(device, torch.float32), size))

    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """Combine lightness and chroma of the working image."""
        out.copy_(combine_nearest(working.rgb, ab))


def resize_as_opencv(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `rgb` (B, 3, H, W) in 0..1 as OpenCV resizes 8-bit images (INTER_LINEAR).

    OpenCV's fixed-point arithmetic drops bits, which changes a pixel by up to one level. The
    network is sensitive to that, so the official result cannot be reproduced without it.
    """
    pixels = (255 * rgb).round().long()
    (top, bottom, weight_top, weight_bottom), (left, right, weight_left, weight_right) = (
        _neighbors(length, out_length, rgb.device)
        for length, out_length in zip(rgb.shape[2:], size, strict=True)
    )
    # Rows are gathered before the arithmetic because photos can be large.
    rows = (pixels[:, :, indices] for indices in (top, bottom))
    upper, lower = (r[..., left] * weight_left + r[..., right] * weight_right for r in rows)
    weight_top, weight_bottom = weight_top[:, None], weight_bottom[:, None]
    blend = ((weight_top * (upper >> 4)) >> 16) + ((weight_bottom * (lower >> 4)) >> 16)
    return ((blend + 2) >> 2).float() / 255


def _neighbors(
    length: int, out_length: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both source indices of each output pixel on an axis and their weights in 1/2048."""
    position = (torch.arange(out_length, device=device) + 0.5) * (length / out_length) - 0.5
    position = position.clamp(0, length - 1)
    first = position.floor()
    weight = (2048 * (position - first)).round().long()
    first = first.long()
    return first, (first + 1).clamp_max(length - 1), 2048 - weight, weight
