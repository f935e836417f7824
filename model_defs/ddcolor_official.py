"""Output image of DDColor's official inference script, for comparison."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import color
from ..ops.resize import Geometry
from .rendering import OfficialRenderer, WorkingImage


class DDColorRenderer(OfficialRenderer):
    """Predict on a squashed square; upsample chroma by nearest neighbor to the photo's size."""

    def output_shape(
        self, height: int, width: int, channels: int, geometry: Geometry
    ) -> tuple[int, int, int]:
        """See `Renderer.output_shape`."""
        return height, width, channels

    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """Resize bilinearly without antialiasing."""
        size = (geometry.scaled_height, geometry.scaled_width)
        rgb = F.interpolate(rgb.to(device, torch.float32), size=size, mode="bilinear")
        return WorkingImage.from_rgb(rgb)

    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """See `combine_nearest`."""
        out.copy_(combine_nearest(rgb.to(ab.device, torch.float32), ab))


def combine_nearest(rgb: Tensor, ab: Tensor) -> Tensor:
    """Combine the lightness of `rgb` with nearest-neighbor chroma and clip channels to 0..1.

    Args:
        rgb: (B, 3, H, W) sRGB in 0..1.
        ab: (B, 2, h, w) in Lab units.
    Returns:
        (B, 3, H, W) sRGB in 0..1.
    """
    ab = F.interpolate(ab, size=rgb.shape[2:], mode="nearest")
    return color.lab_to_rgb(torch.cat([color.lightness(rgb), ab], dim=1)).clamp(0, 1)
