"""Point hints and their versioned JSON format."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Real

import torch

from ...ops import color

VERSION = 1
MAX_POINTS = 1000
DEFAULT_SIZE = 2  # pixels of the working image: a patch as in the paper
MAX_SIZE = 64
_COLOR = re.compile("#(?:[0-9a-fA-F]{3}){1,2}")
_KEYS = ("x", "y", "color", "size")


@dataclass(frozen=True)
class Hint:
    """Point with a color."""

    x: float
    """Horizontal position, 0 (left) to 1 of the image width."""
    y: float
    """Vertical position, 0 (top) to 1 of the image height."""
    color: str
    """sRGB as #rrggbb, #rgb or a CSS name, stored as #rrggbb; only its chroma is used."""
    size: float = DEFAULT_SIZE
    """Side in pixels of the network's working image, 1 to MAX_SIZE."""

    def __post_init__(self) -> None:
        for name, low, high in (("x", 0, 1), ("y", 0, 1), ("size", 1, MAX_SIZE)):
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise ValueError(
                    f"{name} is {_quote(value)}; expected a number from {low} to {high}"
                )
            object.__setattr__(self, name, value if isinstance(value, int) else float(value))
        object.__setattr__(self, "color", _parse_color(self.color))

    @cached_property
    def ab(self) -> tuple[float, float]:
        """Chroma in Lab units."""
        levels = [int(self.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        rgb = torch.tensor(levels, dtype=torch.float64).view(3, 1, 1)
        a, b = color.rgb_to_lab(rgb)[1:].flatten().tolist()
        return a, b


def _parse_color(value: object) -> str:
    """Return a color as #rrggbb; ValueError for anything else than #rrggbb, #rgb and CSS names."""
    from PIL import ImageColor  # nodes must not import Pillow when they load

    if isinstance(value, str) and _COLOR.fullmatch(value):
        return value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
    if isinstance(value, str) and value.lower() in ImageColor.colormap:
        red, green, blue = ImageColor.getrgb(value)[:3]
        return f"#{red:02x}{green:02x}{blue:02x}"
    raise ValueError(f"color is {_quote(value)}; expected #rrggbb, such as #8a5a3c, or a CSS name")


HintInput = str | Mapping[str, object] | Sequence[Hint | Mapping[str, object]] | None
"""Hints as users pass them: JSON text, the decoded object, or a list of points."""


def parse_hints(hints: HintInput) -> list[Hint]:
    """Return validated hints; empty for "", [] and None.

    Raises:
        ValueError: invalid hints; the message names the number of an invalid point, from 1.
    """
    if isinstance(hints, str):
        hints = hints.removeprefix("\ufeff").strip()  # editors may write a byte order mark
        hints = _decode_json(hints) if hints else None
    if hints is None:
        return []
    points = _points_of(hints) if isinstance(hints, Mapping) else hints
    if not isinstance(points, Sequence):
        raise ValueError(
            f"the hints are {_quote(points)}; expected their JSON or a list of points."
        )
    if len(points) > MAX_POINTS:
        raise ValueError(f"there are {len(points)} hints; at most {MAX_POINTS} are allowed.")
    return [_parse_point(number, point) for number, point in enumerate(points, 1)]


def dump_hints(hints: Sequence[Hint]) -> str:
    """Return hints as compact JSON."""
    points = [asdict(hint) for hint in hints]
    return json.dumps({"version": VERSION, "points": points}, separators=(",", ":"))


def _decode_json(text: str) -> Mapping[str, object]:
    try:
        hints = json.loads(text)
    except (ValueError, RecursionError) as error:
        described = isinstance(error, json.JSONDecodeError | RecursionError)
        reason = error if described else "a number has too many digits"
        raise ValueError(
            f"the hints are not JSON ({reason}); expected "
            '{"version": 1, "points": [{"x": 0.5, "y": 0.5, "color": "#8a5a3c"}]}.'
        ) from error
    if not isinstance(hints, dict):
        raise ValueError(
            f"the hints are {_quote(hints)}; expected an object with version and points."
        )
    return hints


def _points_of(hints: Mapping[str, object]) -> Sequence[object]:
    """Return the points of a hints object; ValueError for another version or unknown keys."""
    version = hints.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ValueError(
            f"the hints have version {_quote(version)}; this release reads version {VERSION}."
        )
    points = hints.get("points")
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise ValueError(f"the hints' points are {_quote(points)}; expected a list.")
    unknown = _printable_keys(key for key in hints if key not in ("version", "points"))
    if unknown:
        raise ValueError(f"the hints have {', '.join(unknown)}; expected version and points.")
    return points


def _parse_point(number: int, point: object) -> Hint:
    if isinstance(point, Hint):
        return point
    if not isinstance(point, Mapping):
        raise ValueError(
            f"point {number} is {_quote(point)}; expected an object with x, y and color."
        )
    missing = [key for key in _KEYS[:3] if key not in point]
    unknown = _printable_keys(key for key in point if key not in _KEYS)
    if missing or unknown:
        problems = [f"{key} is missing" for key in missing]
        problems += [f"{key} is unknown" for key in unknown]
        raise ValueError(f"point {number}: {', '.join(problems)}; a point has {', '.join(_KEYS)}.")
    try:
        return Hint(**point)
    except ValueError as error:
        raise ValueError(f"point {number}: {error}.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _printable_keys(keys: Iterable[object]) -> list[str]:
    """Return up to four keys for an error message, shortened and printable."""
    return sorted(_printable(str(key))[:40] for key in keys)[:4]


def _quote(value: object) -> str:
    """Return a short, printable representation for an error message."""
    try:
        text = _printable(repr(value))
    except ValueError:  # an integer with thousands of digits
        text = "a very large number"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _printable(text: str) -> str:
    """Escape lone surrogates, which are legal in JSON."""
    return text.encode(errors="backslashreplace").decode()
