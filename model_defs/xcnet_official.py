"""Output image of XCNet's official notebook, for comparison."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import color
from ..ops.resize import Geometry
from .rendering import OfficialRenderer, WorkingImage

WHITE_POINT = (0.95047, 1.0, 1.08883)  # scikit-image's; ab differs by up to 0.005 from ours


class XCNetRenderer(OfficialRenderer):
    """Crop the center of photo and references; the result keeps the working size."""

    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """See `center_square`."""
        rgb = rgb.to(device, torch.float32)
        return WorkingImage.from_rgb(center_square(rgb, geometry.scaled_height))

    def rgb_to_lab(self, rgb: Tensor) -> Tensor:
        """Convert with scikit-image's white point."""
        return color.rgb_to_lab(rgb, WHITE_POINT)

    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """Combine lightness and chroma with scikit-image's Lab, which treats f(Z) < 0 as 0."""
        L = self.rgb_to_lab(working.rgb)[:, :1]
        b = torch.minimum(ab[:, 1:], 200 * (L + 16) / 116)
        lab = torch.cat([L, ab[:, :1], b], dim=1)
        out.copy_(color.lab_to_rgb(lab, WHITE_POINT).clamp(0, 1))


def center_square(rgb: Tensor, side: int) -> Tensor:
    """Return the square that XCNet's notebook takes from `rgb` (B, 3, H, W) in 0..1.

    A photo that is not square is cropped to its central side x side pixels, with black beyond its
    edges. A square photo is scaled with antialiasing and rounded to 8 bits.
    """
    height, width = rgb.shape[2:]
    if height != width:
        top, left = round((height - side) / 2), round((width - side) / 2)
        return F.pad(rgb, (-left, side - width + left, -top, side - height + top))
    if height != side:
        rgb = F.interpolate(rgb, size=(side, side), mode="bilinear", antialias=True)
        rgb = (255 * rgb).round() / 255
    return rgb
