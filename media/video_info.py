"""Properties of a video stream that its colorized copy keeps."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias

from .errors import VideoError

FieldOrder: TypeAlias = Literal["tff", "bff"]

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
LINEAR_TRANSFERS = {8: "linear", 9: "logarithmic", 10: "logarithmic"}
WIDE_PRIMARIES = (9, 11, 12)  # BT.2020, DCI-P3, Display P3


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
    chroma: Literal["420", "422", "444"] = "420"
    """Resolution of chroma; 420 if there is none, or less."""
    has_alpha: bool = False
    """The frames have an alpha channel."""
    field_order: FieldOrder | None = None
    """Field that comes first if the video is interlaced: the top or the bottom one."""
    last_duration: int | None = None
    """Duration of the last frame, in units of `time_base`, if it is known."""

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


def usual_color_tags(width: int, height: int) -> tuple[int, int, int]:
    """Return BT.709 for HD, else BT.601 of 625 or 525 lines."""
    if width >= 1280 or height > 576:
        return 1, 1, 1
    return (5, 5, 6) if height in (288, 576) else (6, 6, 6)


def written_color_tags(color_tags: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the tags of a colorized copy.

    Colors are computed in sRGB. With the primaries of a wider gamut they would be shown too
    saturated; gray is the same in all of them.
    """
    return (1, 1, 1) if color_tags[1] in WIDE_PRIMARIES else color_tags


def check_transfer(info: VideoInfo, name: str) -> None:
    """Raise VideoError if the values of a video are not those of a standard dynamic range."""
    transfer = info.color_tags[2]
    if kind := HDR_TRANSFERS.get(transfer):
        raise VideoError(
            f"{name}: an HDR video ({kind}), whose colors would come out wrong; convert it to SDR "
            "(BT.709) first."
        )
    if kind := LINEAR_TRANSFERS.get(transfer):
        raise VideoError(
            f"{name}: a {kind} transfer, with which colors would come out wrong; convert it to "
            "BT.709 first."
        )


def frame_size_error(
    name: str, number: int, size: tuple[int, int], first: tuple[int, int]
) -> VideoError:
    """Return the error about a frame whose size differs from that of the first."""
    return VideoError(
        f"{name}: frame {number} is {size[0]}x{size[1]}, the first {first[0]}x{first[1]}; "
        "scale all frames to one size, or cut the video there."
    )
