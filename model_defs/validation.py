"""Strict validation of dataclasses whose values come from files: types, ranges, choices.

A dataclass states its limits in its annotations, such as `Annotated[int, Range(1, 64)]`, and calls
`validate_fields` in `__post_init__`. Values of Python code and of files pass the same checks.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

MAX_ITEMS = 64  # of a tuple without a fixed length
MAX_SHOWN = 60  # characters of a rejected value in an error message


class Range(NamedTuple):
    """Smallest and largest allowed number."""

    low: float
    high: float


class Choice(NamedTuple):
    """Allowed values."""

    values: tuple[str | int, ...]


Width = Annotated[int, Range(1, 2**14)]
"""Number of channels."""
Depth = Annotated[int, Range(1, 64)]
"""Number of blocks in a row."""
Heads = Annotated[int, Range(1, 1024)]
Side = Annotated[int, Range(1, 64)]
"""Side of an attention window or a pooled map, in tokens."""


def validate_fields(instance: Any, label: str) -> None:
    """Check every field of a dataclass against its annotation, and normalize it in place.

    JSON has neither tuples nor dataclasses, so lists become tuples and mappings become the
    dataclass that is expected. Integers are accepted where a float is expected.

    Args:
        instance: a dataclass, frozen or not.
        label: put before the name of a field in error messages.
    Raises:
        ValueError: a value has the wrong type, is out of range, NaN or infinite.
    """
    for name, hint in _field_types(type(instance)).items():
        value = _validated(getattr(instance, name), hint, f"{label}: {name}")
        object.__setattr__(instance, name, value)


@cache
def _field_types(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _validated(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint`, or raise ValueError."""
    limits: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        limits = tuple(rest)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (each for each in arguments if each is not type(None))
        return _validated(value, hint, name)
    if origin is Literal:
        return _choice(value, arguments, name)
    if origin is tuple:
        return _tuple(value, arguments, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _dataclass(value, hint, name)
    if hint is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    exact = hint in (int, float, bool, str)
    if not (type(value) is hint if exact else isinstance(value, hint)):
        raise ValueError(f"{name} is {shown(value)}; expected {_TYPE_NAMES.get(hint, hint)}.")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number.")
    for limit in limits:
        if isinstance(limit, Choice):
            _choice(value, limit.values, name)
        elif not limit.low <= value <= limit.high:
            raise ValueError(
                f"{name} is {shown(value)}; expected {limit.low:g} to {limit.high:,g}."
            )
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _choice(value: Any, values: tuple[Any, ...], name: str) -> Any:
    if not any(type(value) is type(each) and value == each for each in values):
        expected = ", ".join(map(str, values))
        raise ValueError(f"{name} is {shown(value)}; expected one of {expected}.")
    return value


def _tuple(value: Any, arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {shown(value)}; expected a list.")
    if arguments[1:] == (...,):
        if len(value) > MAX_ITEMS:
            raise ValueError(f"{name} has {len(value)} values; expected at most {MAX_ITEMS}.")
        arguments = arguments[:1] * len(value)
    elif len(value) != len(arguments):
        raise ValueError(f"{name} is {shown(value)}; expected {len(arguments)} values.")
    return tuple(_validated(*pair, name) for pair in zip(value, arguments, strict=True))


def _dataclass(value: Mapping[str, Any], hint: Any, name: str) -> Any:
    check_names(value, hint, name)
    return hint(**value)


def check_names(fields: Mapping[str, Any], cls: Any, label: str) -> None:
    """Raise ValueError unless `fields` are fields of a dataclass and include all required ones."""
    expected = dataclasses.fields(cls)
    unknown = fields.keys() - {field.name for field in expected}
    if unknown:
        raise ValueError(f"{label} has the unknown field {shown(sorted(unknown, key=str)[0])}.")
    for field in expected:
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in fields:
            raise ValueError(f"{label} lacks the field '{field.name}'.")


def shown(value: Any) -> str:
    """Return a short text for a value of a file, however long or deeply nested it is."""
    if isinstance(value, (list, tuple)):
        if len(value) > MAX_SHOWN:
            return f"a list of {len(value)} values"
        items = (shown(each) if not isinstance(each, (list, tuple)) else "a list" for each in value)
        text = f"({', '.join(items)})"
    elif isinstance(value, int) and value.bit_length() > 128:  # not printable beyond 4300 digits
        return f"a whole number of {value.bit_length()} bits"
    elif isinstance(value, str):
        text = repr(value[:MAX_SHOWN])
    elif isinstance(value, float | int | None):
        text = repr(value)
    else:
        return f"a {type(value).__name__}"
    return text if len(text) <= 4 * MAX_SHOWN else f"{text[: 4 * MAX_SHOWN]}..."
