"""Point hints as a network sees them, and as people do."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...ops import color
from ...ops.gaussian_process import CELL
from ...ops.resize import strips
from .schema import Hint

# --- What a network sees ------------------------------------------------------------------------


def cells(hints: Sequence[Hint], height: int, width: int) -> np.ndarray:
    """Where hints lie on a working image of height x width: (N, 4) top, left, bottom, right.

    A hint of SIZE 2 is the cell of the grid of 2 x 2 that it lies in; a larger one is the square of
    cells about it. All stay inside the picture.
    """
    places = np.empty((len(hints), 4), int)
    for row, hint in zip(places, hints, strict=True):
        side = CELL * math.ceil(hint.size / CELL)
        for axis, (part, length) in enumerate(((hint.y, height), (hint.x, width))):
            start = CELL * math.floor((part * length - side / 2) / CELL + 0.5)
            last = CELL * ((length - 1) // CELL)  # the rim's cell, which may be half
            row[axis] = min(max(start, 0), last)
            row[axis + 2] = min(max(start + side, row[axis] + 1), length)
    return places


def raster(hints: Sequence[Hint], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Hints on a working image: ab (1, 2, h, w) in Lab units, 0 elsewhere; mask (1, 1, h, w).

    Where two overlap the later one wins.
    """
    ab, mask = np.zeros((2, height, width), np.float32), np.zeros((1, height, width), np.float32)
    for hint, (top, left, bottom, right) in zip(hints, cells(hints, height, width), strict=True):
        ab[:, top:bottom, left:right] = np.reshape(hint.ab, (2, 1, 1))
        mask[:, top:bottom, left:right] = 1
    return torch.from_numpy(ab)[None], torch.from_numpy(mask)[None]


def on_top(hints: Sequence[Hint], height: int, width: int) -> list[Hint]:
    """The hints of which something is to be seen: a later one may lie over all of an earlier."""
    owner = np.full((height, width), -1)
    for i, (top, left, bottom, right) in enumerate(cells(hints, height, width)):
        owner[top:bottom, left:right] = i
    return [hints[i] for i in np.unique(owner) if i >= 0]


# --- For people ---------------------------------------------------------------------------------


def overlay(rgb: Tensor, hints: Sequence[Hint]) -> Tensor:
    """Pictures (B, H, W, C) in 0..1 -> (B, H, W, 3): grey, with the hints on them as discs.

    A disc has the colour that a hint asks for at the lightness below it, and a white and a black
    rim. It is as large as can be seen, whatever the size of the hint.
    """
    from PIL import Image, ImageDraw

    batch, height, width, _ = rgb.shape
    out = torch.empty(batch, height, width, 3)
    for picture, drawn in zip(rgb, out, strict=True):
        levels = np.empty((height, width, 3), np.uint8)
        for top, bottom in strips(height, width):
            gray = color.gray_rgb(color.lightness(_planes(picture[top:bottom])))
            levels[top:bottom] = (gray.movedim(0, -1) * 255).round().byte().numpy()
        image = Image.fromarray(levels)
        draw, radius = ImageDraw.Draw(image), max(2.0, min(height, width) / 64)
        for hint, shown in zip(hints, _shown_colors(hints, picture), strict=True):
            for grow, fill in ((0.5, "black"), (0.25, "white"), (0.0, shown)):
                r = radius * (1 + grow)
                centre = hint.x * width, hint.y * height
                draw.ellipse([c - r for c in centre] + [c + r for c in centre], fill=fill)
        drawn.copy_(torch.from_numpy(np.array(image)))
        drawn.div_(255)
    return out


def _planes(picture: Tensor) -> Tensor:
    """(H, W, C), C = 1, 3 or 4 -> (3, H, W) float32 in 0..1 on the CPU."""
    planes = picture[..., :3].detach().cpu().float().movedim(-1, 0)
    return planes.nan_to_num(0).clamp(0, 1).expand(3, -1, -1)


def _shown_colors(hints: Sequence[Hint], picture: Tensor) -> list[tuple[int, ...]]:
    """Each hint's 8-bit sRGB at the lightness of (H, W, C) below it."""
    if not hints:
        return []
    height, width = picture.shape[:2]
    x = torch.tensor([min(int(hint.x * width), width - 1) for hint in hints])
    y = torch.tensor([min(int(hint.y * height), height - 1) for hint in hints])
    below = picture[y.to(picture.device), x.to(picture.device)][:, None]  # (N, 1, C): one column
    ab = torch.tensor([hint.ab for hint in hints]).T[..., None]
    lab = torch.cat([color.lightness(_planes(below)), ab])
    levels = (color.to_gamut(lab)[..., 0].T * 255).round().int().tolist()
    return [tuple(level) for level in levels]
