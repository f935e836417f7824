"""Draw hints: as input of a network, and on the photo for people."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import color
from ...ops.gaussian_process import CELL
from ...ops.resize import row_ranges
from .schema import AnyHint, Hint, MaskRegion, Position, Region, Stroke

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# --- For networks --------------------------------------------------------------------------------

MAX_CENTERS = 2000  # of all hints: solving for more takes seconds
MAX_SHAPE_CENTERS = 64  # of a stroke or region
FADE = 0.3  # share of the reach over which a hint loses its effect
_LAYERS = (MaskRegion, Region, Stroke, Hint)  # from the bottom up
Cells = np.ndarray | tuple[slice, slice]
"""Cells of a grid as an index: (rows, columns) bool, or a rectangle."""


class RasterizedHints(NamedTuple):
    """Hints on a working image.

    Points cover strokes, strokes cover regions, and later hints cover earlier ones of their kind.
    """

    ab: Tensor
    """(1, 2, h, w) float32 in Lab units, 0 outside hints."""
    painted: Tensor
    """(1, 1, h, w) float32, 1 at hints."""
    mask: Tensor
    """(1, 1, h, w) float32, 1 at points and at the centers of shapes: networks are trained with
    small hints, and large areas of the mask make their results blocky."""
    centers: Tensor
    """(N, 2) float32: y and x in pixels of the hints that are not completely covered, one for each
    point, and several spread over a stroke or region."""
    values: Tensor
    """(N, 2) float32: ab of these hints."""
    owners: Tensor
    """(N,) their indices."""


def rasterize(hints: Sequence[AnyHint], height: int, width: int) -> RasterizedHints:
    """Draw hints on a working image of `height` x `width`."""
    hint_ab = np.array([hint.ab for hint in hints], np.float32).reshape(-1, 2)
    top_hint = np.full((-(-height // CELL), -(-width // CELL)), -1)  # index of the uppermost hint
    for i in sorted(range(len(hints)), key=lambda i: _LAYERS.index(type(hints[i]))):
        top_hint[_painted_cells(hints[i], height, width)] = i
    visible = np.unique(top_hint)
    visible = visible[visible >= 0]
    points = np.array([isinstance(hints[i], Hint) for i in visible], bool)
    shapes = visible[~points]
    limit = MAX_SHAPE_CENTERS
    if len(shapes):
        limit = max(1, min(limit, (MAX_CENTERS - int(points.sum())) // len(shapes)))
    boxes = hint_boxes([hints[i] for i in visible[points]], height, width)
    centers, owners = [(boxes[:, :2] + boxes[:, 2:]) / 2], [visible[points]]
    in_mask = np.isin(top_hint, visible[points])
    for i in shapes:
        hint = hints[i]
        step = math.ceil((hint.width if isinstance(hint, Stroke) else CELL) / CELL) + 1
        cells = _spread_cells(np.argwhere(top_hint == i), limit, step)
        in_mask[tuple(cells.T)] = True
        centers.append(np.minimum((cells + 0.5) * CELL, (height, width)))
        owners.append(np.full(len(cells), i))
    owner = np.concatenate(owners)
    ab = np.concatenate([hint_ab, np.zeros((1, 2), np.float32)])[top_hint]  # -1 is the last row
    return RasterizedHints(
        _to_pixels(ab.transpose(2, 0, 1), height, width),
        _to_pixels((top_hint >= 0)[None], height, width),
        _to_pixels(in_mask[None], height, width),
        torch.from_numpy(np.concatenate(centers).astype(np.float32)),
        torch.from_numpy(hint_ab[owner]),
        torch.from_numpy(owner),
    )


def _to_pixels(cells: np.ndarray, height: int, width: int) -> Tensor:
    """Enlarge (C, rows, columns) to pixels: (1, C, height, width) float32."""
    pixels = cells.repeat(CELL, axis=1).repeat(CELL, axis=2)[:, :height, :width]
    return torch.from_numpy(pixels.astype(np.float32)[None])


def _painted_cells(hint: AnyHint, height: int, width: int) -> Cells:
    """Return the cells that a hint covers: at least one, unless its mask is empty."""
    size = rows, columns = -(-height // CELL), -(-width // CELL)
    if isinstance(hint, Hint):
        [(top, left, bottom, right)] = hint_boxes([hint], height, width)
        return slice(top // CELL, -(-bottom // CELL)), slice(left // CELL, -(-right // CELL))
    if isinstance(hint, MaskRegion):
        mask = hint.mask.float()[None, None]
        share = F.interpolate(mask, (height, width), mode="area")
        share = F.avg_pool2d(share, CELL, ceil_mode=True)[0, 0].numpy()
        # An area smaller than a cell is drawn, too
        return share >= max(min(0.5, share.max()), np.finfo(np.float32).tiny)
    scale = np.array((width, height)) / CELL
    last_cell = np.array((columns, rows)) - 1
    cells = np.minimum(np.array(hint.points) * scale, last_cell).astype(int)
    vertices = [(int(x), int(y)) for x, y in cells]
    if isinstance(hint, Region):
        return _drawn(size, lambda draw: draw.polygon(vertices, fill=255))
    line = _drawn(
        size,
        lambda draw: (
            draw.line(vertices, fill=255) if len(vertices) > 1 else draw.point(vertices, 255)
        ),
    )
    side = math.ceil(hint.width / CELL)
    before, after = side // 2, (side - 1) // 2
    thick = torch.from_numpy(line.astype(np.float32))[None]
    thick = F.max_pool1d(F.pad(thick, (before, after)), side, 1).mT
    return F.max_pool1d(F.pad(thick, (before, after)), side, 1).mT[0].numpy() > 0


def _drawn(size: tuple[int, int], draw: "Callable[[ImageDraw], None]") -> np.ndarray:
    """Return what `draw` draws on an image of (rows, columns), as bool."""
    from PIL import Image, ImageDraw

    image = Image.new("L", size[::-1])
    draw(ImageDraw.Draw(image))
    return np.asarray(image) > 0


def _spread_cells(cells: np.ndarray, limit: int, step: int) -> np.ndarray:
    """Choose at most `limit` cells (N, 2) that are spread evenly: one per square of `step` cells.

    The squares become larger until there are few enough of them.
    """
    while True:
        square = cells // step
        off_center = np.abs(cells - square * step - (step - 1) / 2).sum(1)
        order = np.argsort(off_center, kind="stable")
        first = np.unique(square[order], axis=0, return_index=True)[1]
        if len(first) <= limit:
            return cells[order[first]]
        step += max(1, step // 4)


def hint_windows(hints: Sequence[AnyHint], height: int, width: int) -> Tensor:
    """Return how far hints with a reach act on each cell of a working image.

    Args:
        hints: hints, of which only those with a reach count.
    Returns:
        (rows, columns, N) float32: 1 where a hint is drawn and near it, 0 from its reach on;
        1 everywhere for hints without a reach.
    """
    windows = np.ones((len(hints), -(-height // CELL), -(-width // CELL)), np.float32)
    for hint, window in zip(hints, windows, strict=True):
        if hint.reach is not None:
            inside = np.zeros(window.shape, bool)
            inside[_painted_cells(hint, height, width)] = True
            distance = _distance_to(inside) * CELL / math.hypot(height, width)
            rise = np.clip((1 - distance / max(hint.reach, 1e-6)) / FADE, 0, 1)
            window[:] = rise * rise * (3 - 2 * rise)
    return torch.from_numpy(windows).movedim(0, -1)


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


def _distance_to(inside: np.ndarray) -> np.ndarray:
    """Return the distance of each cell to the nearest one of `inside` (rows, columns).

    Exact: along the rows first, then along the columns (Felzenszwalb and Huttenlocher, Distance
    Transforms of Sampled Functions, Theory of Computing 2012).
    """
    rows, columns = (np.arange(count, dtype=np.float64) for count in inside.shape)
    left = np.maximum.accumulate(np.where(inside, columns, -np.inf), axis=1)
    right = np.minimum.accumulate(np.where(inside, columns, np.inf)[:, ::-1], axis=1)[:, ::-1]
    in_row = np.minimum(columns - left, right - columns) ** 2
    square = np.full(inside.shape, np.inf)
    for row in np.flatnonzero(inside.any(1)):
        np.minimum(square, in_row[row] + ((rows - row) ** 2)[:, None], out=square)
    return np.sqrt(square)


# --- For people ----------------------------------------------------------------------------------


def draw_hints(rgb: Tensor, hints: Sequence[AnyHint]) -> Tensor:
    """Draw hints on gray photos: points as discs, strokes as lines, regions as outlines.

    They have the hint's color at the lightness of the photo below it, with a white and a black
    rim. Their size depends on the photo alone, so that they are always visible.

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
        colors = dict(zip(map(id, hints), _hint_colors(hints, photo), strict=True))
        for hint in sorted(hints, key=lambda hint: _LAYERS.index(type(hint))):
            for rim, fill in ((0.5, "black"), (0.25, "white"), (0.0, colors[id(hint)])):
                if isinstance(hint, Hint):
                    r = radius * (1 + rim)
                    center = hint.x * width, hint.y * height
                    draw.ellipse([c - r for c in center] + [c + r for c in center], fill=fill)
                else:
                    _draw_line(draw, hint, (width, height), radius * (0.5 + rim), fill)
        result.copy_(torch.from_numpy(np.array(image)))
        result.div_(255)
    return out


def _to_planes(photo: Tensor) -> Tensor:
    """Convert (H, W, C), C = 1, 3 or 4, to (3, H, W) float32 in 0..1 on the CPU."""
    planes = photo[..., :3].detach().cpu().float().movedim(-1, 0)
    return planes.nan_to_num(0).clamp(0, 1).expand(3, -1, -1)


def _draw_line(
    draw: "ImageDraw",
    hint: Stroke | Region | MaskRegion,
    size: tuple[int, int],
    thickness: float,
    fill: str | tuple[int, ...],
) -> None:
    """Draw a stroke, or the outline of a region, on an image of (width, height)."""
    from PIL import Image, ImageFilter

    if isinstance(hint, MaskRegion):
        inside = Image.fromarray(((hint.mask >= 0.5) * 255).byte().cpu().numpy())
        inside = inside.resize(size, Image.Resampling.NEAREST)
        side = 2 * math.ceil(thickness / 2) + 1
        outline = np.asarray(inside) > np.asarray(inside.filter(ImageFilter.MinFilter(side)))
        draw.bitmap((0, 0), Image.fromarray((outline * 255).astype(np.uint8)), fill=fill)
        return
    points = [(x * size[0], y * size[1]) for x, y in hint.points]
    closed = [*points, points[0]] if isinstance(hint, Region) else points
    draw.line(closed, fill=fill, width=max(1, round(thickness)), joint="curve")
    r = thickness / 2
    for x, y in (closed[0], closed[-1]):  # round ends
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)


def _hint_colors(hints: Sequence[AnyHint], photo: Tensor) -> list[tuple[int, ...]]:
    """Return the 8-bit sRGB color of each hint at the lightness of the photo (H, W, C) below it."""
    if not hints:
        return []
    height, width = photo.shape[:2]
    positions = [_middle(hint) for hint in hints]
    x = torch.tensor([min(int(x * width), width - 1) for x, _ in positions])
    y = torch.tensor([min(int(y * height), height - 1) for _, y in positions])
    pixels = photo[y.to(photo.device), x.to(photo.device)][:, None]  # (N, 1, C): one column
    ab = torch.tensor([hint.ab for hint in hints]).T[..., None]
    lab = torch.cat([color.lightness(_to_planes(pixels)), ab])
    levels = (color.to_gamut(lab)[..., 0].T * 255).round().int().tolist()
    return [tuple(level) for level in levels]


def _middle(hint: AnyHint) -> Position:
    """Return a position on the hint."""
    if isinstance(hint, Hint):
        return hint.x, hint.y
    if isinstance(hint, MaskRegion):
        cells = (hint.mask >= 0.5).nonzero()
        row, column = cells[len(cells) // 2].tolist() if len(cells) else (0, 0)
        return column / hint.mask.shape[1], row / hint.mask.shape[0]
    return hint.points[len(hint.points) // 2]
