"""Point hints: the JSON that people and programs write, checked."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Real

import torch

from ...ops import color

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
