"""What a film's file says beside its pictures."""

from dataclasses import dataclass
from fractions import Fraction


class FilmError(ValueError):
    """Not a film we can read or write; the message says what it is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """What a film's file says beside its pictures, as far as the result's must say it, too."""

    width: int
    """Of the upright pictures, as is height."""
    height: int
    rate: Fraction
    """Frames per second, on average where it varies."""
    time_base: Fraction
    """Unit of the frames' times (pts), in seconds."""
    bits: int
    """Per channel: 8, or 10 for all above."""
    frames: int | None
    """An estimate, None if unknown; as are seconds."""
    seconds: float | None
    color: tuple[int, int, int]
    """FFmpeg's numbers of matrix, primaries and transfer; what is usual for the size, where the
    film does not say it."""
    full: bool
    """Full range, or limited."""
    aspect: Fraction
    """Width of a pixel by its height."""


def step_of(film: Film) -> int:
    """From one frame to the next, in `Film.time_base`."""
    return max(1, round(1 / (film.rate * film.time_base)))


def fraction(value) -> Fraction | None:
    """Of PyAV's rationals, which are of its own kind since 19; None for 0 and for unknown."""
    return Fraction(value.numerator, value.denominator) if value else None


def reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
