"""Map a photo to the working image of a network and back.

A working image keeps the aspect ratio: it is scaled to an area of about `resolution` squared and
padded at the right and bottom to the multiple that the network needs. Undoing the mapping removes
the padding; `chroma_upsampling` brings chroma back to full size.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SIDE_RATIO = 4  # longest working side divided by the resolution, for any aspect ratio
STRIP_PIXELS = 2**18  # pixels per strip in passes over a full-size image; fits in a CPU cache


@dataclass(frozen=True)
class Geometry:
    """Sizes of a photo and of its working image before and after padding."""

    height: int
    width: int
    scaled_height: int
    scaled_width: int
    padded_height: int
    padded_width: int

    @property
    def working_pixels(self) -> int:
        """Area of the padded working image."""
        return self.padded_height * self.padded_width


def working_geometry(height: int, width: int, resolution: float, multiple: int) -> Geometry:
    """Return the geometry of a photo at `resolution`, padded to `multiple`.

    Raises:
        ValueError: the photo is empty or the resolution is below `multiple`.
    """
    if height < 1 or width < 1:
        raise ValueError(
            f"the image is {width}x{height} pixels; each side needs at least one pixel."
        )
    if resolution < multiple:
        raise ValueError(f"resolution is {resolution}; this network needs at least {multiple}.")
    scale = min(
        resolution / math.sqrt(height * width), MAX_SIDE_RATIO * resolution / max(height, width)
    )
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Geometry(
        height, width, h, w, math.ceil(h / multiple) * multiple, math.ceil(w / multiple) * multiple
    )


def squashed_geometry(height: int, width: int, resolution: int, multiple: int) -> Geometry:
    """Return the geometry of the official scripts: squashed to a square, without padding.

    Raises:
        ValueError: the resolution is not a multiple of `multiple`.
    """
    if resolution % multiple:
        raise ValueError(
            f"resolution is {resolution}; the published finish needs a multiple of {multiple}."
        )
    return Geometry(height, width, resolution, resolution, resolution, resolution)


def row_ranges(height: int, width: int, images: int = 1) -> list[tuple[int, int]]:
    """Split an image into row ranges (top, bottom) of about STRIP_PIXELS pixels over all images."""
    rows = max(1, STRIP_PIXELS // (width * images))
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def downscale(image: Tensor, geometry: Geometry, device: torch.device | str) -> Tensor:
    """Scale (B, C, H, W) with antialiasing to the working size before padding.

    Columns are scaled first, strip by strip, so that at most H x w pixels are held however wide
    the photo is.

    Returns:
        (B, C, h, w) float32 on `device`.
    """
    h, w = geometry.scaled_height, geometry.scaled_width
    batch, channels, height, width = image.shape
    narrow = torch.empty(batch, channels, height, w, device=device)
    for top, bottom in row_ranges(height, width, batch):
        strip = image[:, :, top:bottom].to(device, torch.float32).contiguous()
        narrow[:, :, top:bottom] = _resize_antialiased(strip, (bottom - top, w))
    return _resize_antialiased(narrow, (h, w))


def _resize_antialiased(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """Pad (B, C, h, w) at the right and bottom to the network's multiple.

    Reflection beats repeating the edge (22.72 against 22.46 dB on 100 photos at resolution 112,
    2026-11): small networks mistake the streaks of a repeated edge for content. Images too small
    to reflect repeat their edge.
    """
    bottom, right = geometry.padded_height - x.shape[2], geometry.padded_width - x.shape[3]
    mode = "reflect" if bottom < x.shape[2] and right < x.shape[3] else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode) if bottom or right else x


def unpad(x: Tensor, geometry: Geometry) -> Tensor:
    """Remove the padding that `pad` added."""
    return x[:, :, : geometry.scaled_height, : geometry.scaled_width]
