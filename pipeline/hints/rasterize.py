"""Draw point hints: as input of a network, and on the photo for people."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...ops import color
from ...ops.gaussian_process import CELL
from ...ops.resize import row_ranges
from .schema import Hint

# --- For networks --------------------------------------------------------------------------------


class RasterizedHints(NamedTuple):
    """Hints on a working image; where hints overlap, the later one wins."""

    ab: Tensor
    """(1, 2, h, w) float32 in Lab units, 0 outside hints."""
    mask: Tensor
    """(1, 1, h, w) float32, 1 at hints."""
    centers: Tensor
    """(N, 2) float32: y and x in pixels of the hints that are not completely covered."""
    values: Tensor
    """(N, 2) float32: ab of these hints."""


def rasterize(hints: Sequence[Hint], height: int, width: int) -> RasterizedHints:
    """Draw hints on a working image of `height` x `width`."""
    boxes = hint_boxes(hints, height, width)
    hint_ab = np.array([hint.ab for hint in hints], np.float32).reshape(-1, 2)
    top_hint = np.full((height, width), -1)  # index of the uppermost hint
    for i, (top, left, bottom, right) in enumerate(boxes):
        top_hint[top:bottom, left:right] = i
    ab = np.concatenate([hint_ab, np.zeros((1, 2), np.float32)])[top_hint]  # -1 is the last row
    visible = np.unique(top_hint)
    visible = visible[visible >= 0]
    centers = (boxes[visible, :2] + boxes[visible, 2:]).astype(np.float32) / 2
    return RasterizedHints(
        torch.from_numpy(ab.transpose(2, 0, 1)[None].copy()),
        torch.from_numpy((top_hint >= 0).astype(np.float32)[None, None]),
        torch.from_numpy(centers),
        torch.from_numpy(hint_ab[visible]),
    )


def hint_boxes(hints: Sequence[Hint], height: int, width: int) -> np.ndarray:
    """Return the boxes of hints on a working image: (N, 4) top, left, bottom, right.

    A hint of up to CELL pixels covers the grid cell that contains it, a larger one a square of
    cells around it, clipped at the image border.
    """
    boxes = np.empty((len(hints), 4), int)
    for box, hint in zip(boxes, hints, strict=True):
        side = CELL * math.ceil(hint.size / CELL)
        for axis, (position, length) in enumerate(((hint.y, height), (hint.x, width))):
            start = CELL * math.floor((position * length - side / 2) / CELL + 0.5)
            last_cell = CELL * ((length - 1) // CELL)  # may be half outside
            box[axis] = min(max(start, 0), last_cell)
            box[axis + 2] = min(max(start + side, box[axis] + 1), length)
    return boxes


# --- For people ----------------------------------------------------------------------------------


def draw_hints(rgb: Tensor, hints: Sequence[Hint]) -> Tensor:
    """Draw hints as discs on gray photos.

    A disc has the hint's color at the lightness of the photo below it, with a white and a black
    rim. Its size depends on the photo alone, so that it is always visible.

    Args:
        rgb: (B, H, W, C) in 0..1.
        hints: hints that all photos share.
    Returns:
        (B, H, W, 3) float32 in 0..1 on the CPU.
    """
    from PIL import Image, ImageDraw

    batch, height, width, _ = rgb.shape
    out = torch.empty(batch, height, width, 3)
    for photo, result in zip(rgb, out, strict=True):
        levels = np.empty((height, width, 3), np.uint8)
        for top, bottom in row_ranges(height, width):
            gray = color.gray_rgb(color.lightness(_to_planes(photo[top:bottom])))
            levels[top:bottom] = (gray.movedim(0, -1) * 255).round().byte().numpy()
        image = Image.fromarray(levels)
        draw, radius = ImageDraw.Draw(image), max(2.0, min(height, width) / 64)
        for hint, disc_color in zip(hints, _disc_colors(hints, photo), strict=True):
            for rim, fill in ((0.5, "black"), (0.25, "white"), (0.0, disc_color)):
                r = radius * (1 + rim)
                center = hint.x * width, hint.y * height
                draw.ellipse([c - r for c in center] + [c + r for c in center], fill=fill)
        result.copy_(torch.from_numpy(np.array(image)))
        result.div_(255)
    return out


def _to_planes(photo: Tensor) -> Tensor:
    """Convert (H, W, C), C = 1, 3 or 4, to (3, H, W) float32 in 0..1 on the CPU."""
    planes = photo[..., :3].detach().cpu().float().movedim(-1, 0)
    return planes.nan_to_num(0).clamp(0, 1).expand(3, -1, -1)


def _disc_colors(hints: Sequence[Hint], photo: Tensor) -> list[tuple[int, ...]]:
    """Return the 8-bit sRGB color of each hint at the lightness of the photo (H, W, C) below it."""
    if not hints:
        return []
    height, width = photo.shape[:2]
    x = torch.tensor([min(int(hint.x * width), width - 1) for hint in hints])
    y = torch.tensor([min(int(hint.y * height), height - 1) for hint in hints])
    pixels = photo[y.to(photo.device), x.to(photo.device)][:, None]  # (N, 1, C): one column
    ab = torch.tensor([hint.ab for hint in hints]).T[..., None]
    lab = torch.cat([color.lightness(_to_planes(pixels)), ab])
    levels = (color.to_gamut(lab)[..., 0].T * 255).round().int().tolist()
    return [tuple(level) for level in levels]
