"""Properties of a video stream that its colorized copy keeps."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Size, timing and color encoding of a video."""

    width: int
    """Width of the upright frames."""
    height: int
    """Height of the upright frames."""
    frame_rate: Fraction
    """Frames per second; the average if it varies."""
    time_base: Fraction
    """Unit of the frames' times (pts), in seconds."""
    bit_depth: int
    """Bits per channel: 8, or 10 for all greater depths."""
    frame_count: int | None
    """An estimate; None if unknown."""
    duration: float | None
    """Seconds, an estimate; None if unknown."""
    color_tags: tuple[int, int, int]
    """FFmpeg's numbers of matrix, primaries and transfer; the usual ones for the size if the video
    does not specify them."""
    full_range: bool
    """True for full range, False for limited range."""
    pixel_aspect: Fraction
    """Width of a pixel divided by its height."""

    @property
    def frame_duration(self) -> int:
        """Time from one frame to the next, in units of `time_base`."""
        return max(1, round(1 / (self.frame_rate * self.time_base)))


class Rational(Protocol):
    """A fraction of Python or, before PyAV 19, one of PyAV's own."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


def to_fraction(value: Rational | None) -> Fraction | None:
    """Convert one of PyAV's rationals; None for 0 and for unknown values."""
    return Fraction(value.numerator, value.denominator) if value else None
