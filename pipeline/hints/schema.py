"""Hints (points, strokes, regions) and their versioned JSON format."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from numbers import Real
from typing import TypeAlias, TypeGuard, TypeVar

import torch
from torch import Tensor

from ...ops import color

VERSIONS = (1, 2)
MAX_POINTS = 1000
MAX_SHAPES = 200  # strokes, and as many regions
MAX_VERTICES = 10_000  # of all strokes and regions together
DEFAULT_SIZE = 2  # pixels of the working image: a patch as in the paper
MAX_SIZE = 64
_COLOR = re.compile("#(?:[0-9a-fA-F]{3}){1,2}")
Position: TypeAlias = tuple[float, float]
"""x and y, 0..1 of the image from the top left."""


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
    reach: float | None = None
    """Radius of the area of effect as a fraction of the image diagonal, at most 1; None =
    everything similar, anywhere in the image."""

    def __post_init__(self) -> None:
        _store(self, x=_bounded("x", self.x), y=_bounded("y", self.y))
        _store(self, size=_bounded("size", self.size, 1, MAX_SIZE), reach=_parse_reach(self.reach))
        _store(self, color=parse_color(self.color))

    @property
    def ab(self) -> tuple[float, float]:
        """Chroma in Lab units."""
        return _chroma(self.color)


@dataclass(frozen=True)
class Stroke:
    """Line with a color."""

    points: Sequence[Position]
    """Vertices, stored as a tuple; a single one is a dot."""
    color: str
    """See `Hint`."""
    width: float = DEFAULT_SIZE
    """Thickness in pixels of the network's working image, 1 to MAX_SIZE."""
    reach: float | None = None
    """See `Hint`; measured from the line."""

    def __post_init__(self) -> None:
        _store(self, points=_parse_vertices(self.points, 1), color=parse_color(self.color))
        width = _bounded("width", self.width, 1, MAX_SIZE)
        _store(self, width=width, reach=_parse_reach(self.reach))

    @property
    def ab(self) -> tuple[float, float]:
        """Chroma in Lab units."""
        return _chroma(self.color)


@dataclass(frozen=True)
class Region:
    """Polygon filled with a color."""

    points: Sequence[Position]
    """Vertices, stored as a tuple."""
    color: str
    """See `Hint`."""
    reach: float = 0
    """How far the color goes beyond the border, as a fraction of the image diagonal, 0 to 1."""

    def __post_init__(self) -> None:
        _store(self, points=_parse_vertices(self.points, 3), color=parse_color(self.color))
        _store(self, reach=_bounded("reach", self.reach))

    @property
    def ab(self) -> tuple[float, float]:
        """Chroma in Lab units."""
        return _chroma(self.color)


@dataclass(frozen=True, eq=False)
class MaskRegion:
    """Area of any shape filled with a color; JSON cannot hold it."""

    mask: Tensor = field(repr=False)
    """(H, W) in 0..1 of the whole image, at any size; inside from 0.5 on."""
    color: str
    """See `Hint`."""
    reach: float = 0
    """See `Region`."""

    def __post_init__(self) -> None:
        _store(self, color=parse_color(self.color), reach=_bounded("reach", self.reach))

    @property
    def ab(self) -> tuple[float, float]:
        """Chroma in Lab units."""
        return _chroma(self.color)


AnyHint: TypeAlias = Hint | Stroke | Region | MaskRegion
H = TypeVar("H", bound=Hint | Stroke | Region)


@lru_cache(maxsize=4 * MAX_POINTS)
def _chroma(code: str) -> tuple[float, float]:
    """Return a and b in Lab units of #rrggbb."""
    levels = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgb = torch.tensor(levels, dtype=torch.float64).view(3, 1, 1)
    a, b = color.rgb_to_lab(rgb)[1:].flatten().tolist()
    return a, b


def _store(hint: object, **values: object) -> None:
    """Replace values of a frozen object while it is created."""
    for name, value in values.items():
        object.__setattr__(hint, name, value)


def _bounded(name: str, value: object, low: float = 0, high: float = 1) -> float:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} is {_quote(value)}; expected a number from {low} to {high}")
    return value if isinstance(value, int) else float(value)


def _parse_reach(value: object) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(
            f"reach is {_quote(value)}; expected a number above 0, at most 1, or none for no limit"
        )
    return float(value)


def _parse_vertices(value: object, fewest: int) -> tuple[Position, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"points are {_quote(value)}; expected a list of positions [x, y]")
    if not fewest <= len(value) <= MAX_VERTICES:
        raise ValueError(
            f"there are {len(value)} positions; expected at least {fewest}, at most {MAX_VERTICES}"
        )
    vertices: list[Position] = []
    for number, position in enumerate(value, 1):
        if not isinstance(position, Sequence) or isinstance(position, str) or len(position) != 2:
            raise ValueError(f"position {number} is {_quote(position)}; expected [x, y]")
        x, y = (
            _bounded(f"{name} of position {number}", each)
            for name, each in zip("xy", position, strict=True)
        )
        vertices.append((x, y))
    return tuple(vertices)


def parse_color(value: object) -> str:
    """Return a color as #rrggbb; ValueError for anything else than #rrggbb, #rgb and CSS names."""
    from PIL import ImageColor  # nodes must not import Pillow when they load

    if isinstance(value, str) and _COLOR.fullmatch(value):
        return value if len(value) == 7 else "#" + "".join(2 * digit for digit in value[1:])
    if isinstance(value, str) and value.lower() in ImageColor.colormap:
        red, green, blue = ImageColor.getrgb(value)[:3]
        return f"#{red:02x}{green:02x}{blue:02x}"
    raise ValueError(f"color is {_quote(value)}; expected #rrggbb, such as #8a5a3c, or a CSS name")


HintInput = str | Mapping[str, object] | Sequence[AnyHint | Mapping[str, object]] | None
"""Hints as users pass them: JSON text, the decoded object, or a list of hints and points."""


def parse_hints(hints: HintInput) -> list[AnyHint]:
    """Return validated hints; empty for "", [] and None.

    Raises:
        ValueError: invalid hints; the message names kind and number of an invalid hint, from 1.
    """
    if isinstance(hints, str):
        hints = hints.removeprefix("\ufeff").strip()  # editors may write a byte order mark
        hints = _decode_json(hints) if hints else None
    if hints is None:
        return []
    parsed: list[AnyHint]
    if isinstance(hints, Mapping):
        parsed = _parse_object(hints)
    elif isinstance(hints, Sequence):
        parsed = [
            value if isinstance(value, AnyHint) else _parse_mapping(Hint, number, value, 2)
            for number, value in enumerate(hints, 1)
        ]
    else:
        raise ValueError(f"the hints are {_quote(hints)}; expected their JSON or a list of points.")
    check_counts(parsed)
    return parsed


def check_counts(hints: Sequence[AnyHint]) -> None:
    """Raise ValueError if there are too many hints or vertices."""
    points = sum(isinstance(hint, Hint) for hint in hints)
    strokes = sum(isinstance(hint, Stroke) for hint in hints)
    regions = len(hints) - points - strokes
    for kind, count, highest in (
        ("hints", points, MAX_POINTS),
        ("strokes", strokes, MAX_SHAPES),
        ("regions", regions, MAX_SHAPES),
    ):
        if count > highest:
            raise ValueError(f"there are {count} {kind}; at most {highest} are allowed.")
    vertices = sum(len(hint.points) for hint in hints if isinstance(hint, Stroke | Region))
    if vertices > MAX_VERTICES:
        raise ValueError(
            f"the strokes and regions have {vertices} positions; at most {MAX_VERTICES} are "
            "allowed."
        )


def dump_hints(hints: Sequence[AnyHint]) -> str:
    """Return hints as compact JSON: version 1, which all releases read, if it can hold them.

    Raises:
        ValueError: regions with a mask, which JSON cannot hold.
    """
    if any(isinstance(hint, MaskRegion) for hint in hints):
        raise ValueError("JSON cannot hold a region with a mask; use a polygon.")
    only_points = all(isinstance(hint, Hint) and hint.reach is None for hint in hints)
    lists = {
        key: [hint_values(hint) for hint in hints if isinstance(hint, cls)]
        for key, cls in _CLASSES.items()
    }
    kept = {key: values for key, values in lists.items() if values or key == "points"}
    version = {"version": 1 if only_points else 2}
    return json.dumps(version | kept, separators=(",", ":"))


def unlimited(hints: Sequence[AnyHint]) -> list[AnyHint]:
    """Return the hints without a reach."""
    return [hint for hint in hints if hint.reach is None]


def hint_values(hint: AnyHint) -> dict[str, object]:
    """Return the values of a hint as in JSON."""
    return {key: value for key, value in asdict(hint).items() if key != "reach" or value}


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


_CLASSES: Mapping[str, type[Hint | Stroke | Region]] = {
    "points": Hint,
    "strokes": Stroke,
    "regions": Region,
}


def _parse_object(hints: Mapping[str, object]) -> list[AnyHint]:
    """Parse a hints object; ValueError for unknown versions and keys."""
    version = hints.get("version")
    if version not in VERSIONS or isinstance(version, bool):
        raise ValueError(
            f"the hints have version {_quote(version)}; this release reads versions 1 and 2."
        )
    kinds = ["points"] if version == 1 else list(_CLASSES)
    parsed: list[AnyHint] = []
    for kind in kinds:
        values = hints.get(kind, [] if version == 2 else None)
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(f"the hints' {kind} are {_quote(values)}; expected a list.")
        parsed += [
            _parse_mapping(_CLASSES[kind], number, value, int(version))
            for number, value in enumerate(values, 1)
        ]
    unknown = _printable_keys(key for key in hints if key not in ("version", *kinds))
    if unknown:
        raise ValueError(
            f"the hints have {', '.join(unknown)}; expected version{_join_words(kinds)}."
        )
    return parsed


def _join_words(words: Sequence[str]) -> str:
    """Return " and points", or ", points, strokes and regions"."""
    return "".join(f", {word}" for word in words[:-1]) + f" and {words[-1]}"


def _parse_mapping(cls: type[H], number: int, value: object, version: int) -> H:
    name = {Hint: "point", Stroke: "stroke", Region: "region"}[cls]
    if isinstance(value, cls):
        return value
    keys = [each.name for each in fields(cls) if version > 1 or each.name != "reach"]
    required = [key for key in keys if key in ("x", "y", "points", "color")]
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} {number} is {_quote(value)}; expected an object with "
            f"{', '.join(required[:-1])} and {required[-1]}."
        )
    missing = [key for key in required if key not in value]
    unknown = _printable_keys(key for key in value if key not in keys)
    if missing or unknown:
        problems = [f"{key} is missing" for key in missing]
        problems += [f"{key} is unknown" for key in unknown]
        raise ValueError(f"{name} {number}: {', '.join(problems)}; a {name} has {', '.join(keys)}.")
    try:
        return cls(**value)
    except ValueError as error:
        raise ValueError(f"{name} {number}: {error}.") from error


def _is_number(value: object) -> TypeGuard[float]:
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
