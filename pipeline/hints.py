"""Point hints: the JSON that people and programs write, checked; and what a network sees of it."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from ..ops import color
from ..ops.gaussian_process import CELL
from ..ops.resize import strips

VERSION = 1
MOST = 1000  # points
SIZE = 2  # pixels of the working image: a patch as in the paper
LARGEST = 64
_COLOR = re.compile("#[0-9a-fA-F]{6}")
_KEYS = ("x", "y", "color", "size")


@dataclass(frozen=True)
class Hint:
    """One coloured point."""

    x: float
    """0..1 of the picture's width, 0 = left."""
    y: float
    """0..1 of the picture's height, 0 = top."""
    color: str
    """sRGB as #rrggbb; only its chroma counts."""
    size: float = SIZE
    """Side in pixels of the network's working image, 1 to LARGEST."""

    def __post_init__(self) -> None:
        for name, low, high in (("x", 0, 1), ("y", 0, 1), ("size", 1, LARGEST)):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(f"{name} is {_shown(value)}; expected a number, {low} to {high}")
            object.__setattr__(self, name, value if isinstance(value, int) else float(value))
        if not isinstance(self.color, str) or not _COLOR.fullmatch(self.color):
            raise ValueError(f"color is {_shown(self.color)}; expected #rrggbb, such as #8a5a3c")

    @cached_property
    def ab(self) -> tuple[float, float]:
        """Its chroma in Lab units."""
        levels = [int(self.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        rgb = torch.tensor(levels, dtype=torch.float64).view(3, 1, 1)
        return tuple(color.rgb_to_lab(rgb)[1:].flatten().tolist())


def read(hints: str | Mapping | Sequence[Hint | Mapping] | None) -> list[Hint]:
    """Hints from their JSON, the same as objects, or a list of points; "", [], None are no hints.

    Raises:
        ValueError: what is wrong, of a point with its number (counted from 1).
    """
    if isinstance(hints, str):
        hints = hints.removeprefix("\ufeff").strip() or None  # what editors put before a text
    if hints is None:
        return []
    if isinstance(hints, str):
        try:
            hints = json.loads(hints)
        except (ValueError, RecursionError) as error:
            known = isinstance(error, json.JSONDecodeError | RecursionError)
            why = error if known else "a number of too many digits"
            raise ValueError(
                f"the hints are not JSON ({why}); expected "
                '{"version": 1, "points": [{"x": 0.5, "y": 0.5, "color": "#8a5a3c"}]}.'
            ) from error
        if not isinstance(hints, dict):
            raise ValueError(f"the hints are {_shown(hints)}; expected an object with version.")
    if isinstance(hints, Mapping):
        hints = _points(hints)
    if not isinstance(hints, Sequence):
        raise ValueError(f"the hints are {_shown(hints)}; expected their JSON or a list of points.")
    if len(hints) > MOST:
        raise ValueError(f"there are {len(hints)} hints; at most {MOST} are taken.")
    return [_hint(number, point) for number, point in enumerate(hints, 1)]


def _points(hints: Mapping) -> Sequence:
    version = hints.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ValueError(
            f"the hints have version {_shown(version)}; this release reads version {VERSION}."
        )
    points = hints.get("points")
    if not isinstance(points, list | tuple):
        raise ValueError(f"the hints' points are {_shown(points)}; expected a list.")
    unknown = _names(key for key in hints if key not in ("version", "points"))
    if unknown:
        raise ValueError(f"the hints have {', '.join(unknown)}; expected version and points.")
    return points


def _hint(number: int, point: Hint | Mapping) -> Hint:
    if isinstance(point, Hint):
        return point
    if not isinstance(point, Mapping):
        raise ValueError(f"point {number} is {_shown(point)}; expected an object with x, y, color.")
    missing = [key for key in _KEYS[:3] if key not in point]
    unknown = _names(key for key in point if key not in _KEYS)
    if missing or unknown:
        what = [f"{key} is missing" for key in missing]
        what += [f"{key} is unknown" for key in unknown]
        raise ValueError(f"point {number}: {', '.join(what)}; a point has {', '.join(_KEYS)}.")
    try:
        return Hint(**point)
    except ValueError as error:
        raise ValueError(f"point {number}: {error}.") from error


def _names(keys: Iterable[object]) -> list[str]:
    """For messages: four of them, short, and such as can be printed."""
    return sorted(_printable(str(key))[:40] for key in keys)[:4]


def _shown(value: object) -> str:
    """For messages: short, and such as can be printed."""
    try:
        text = _printable(repr(value))
    except ValueError:  # an integer of thousands of digits
        text = "a very large number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _printable(text: str) -> str:
    """JSON may hold halves of characters."""
    return text.encode(errors="backslashreplace").decode()


def write(hints: Sequence[Hint]) -> str:
    """Hints as their JSON."""
    points = [asdict(hint) for hint in hints]
    return json.dumps({"version": VERSION, "points": points}, separators=(",", ":"))


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
