"""Films, read frame by frame: files, by PyAV (FFmpeg), and folders of pictures."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import files

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

SUFFIXES = (  # read
    *(".mkv", ".mp4", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".m2v", ".ts"),
    *(".mts", ".m2ts", ".wmv", ".asf", ".flv", ".mxf", ".ogv", ".dv", ".3gp", ".nut"),
)
# FFmpeg's number of a matrix -> Kr, Kb (ITU-T H.273, table 4)
MATRICES = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601 of 625 lines
    6: (0.299, 0.114),  # BT.601 of 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges
UNSAID = (0, 2, 3)  # and of primaries and transfers that say nothing


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


# --- Reading -----------------------------------------------------------------------------------


def probe(path: str | Path, *, rate: Fraction | int = 24) -> Film:
    """What a film, or a folder of pictures, is like.

    Args:
        rate: frames per second of a folder.
    Raises:
        FilmError: no film, damaged, or without a picture that can be decoded.
        PictureError: a folder's first picture cannot be read.
    """
    path = Path(path)
    if not os.path.isdir(path):
        with opened(path) as (container, stream):
            frame = next(_decoded(container, stream, path.name), None)
            if frame is None:
                raise FilmError(f"{path.name}: none of its pictures can be decoded; get it again.")
            return _film(container, stream, frame)
    if rate <= 0:
        raise FilmError(f"{path.name}: {rate} frames per second; expected more than 0.")
    pictures, rate = pictures_in(path), Fraction(rate)
    first = files.read(pictures[0])
    height, width = first.pixels.shape[:2]
    return Film(
        width=width,
        height=height,
        rate=rate,
        time_base=1 / rate,
        bits=min(first.keep.bits, 10),
        frames=len(pictures),
        seconds=float(len(pictures) / rate),
        color=_usual_color(width, height),
        full=False,
        aspect=Fraction(1),
    )


def read(path: str | Path, start: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """Frames from number `start` on, one in memory at a time, each with its time.

    Those before `start` are decoded, too, as only that is exact in every film. Colour is taken
    for sRGB, whatever primaries and transfer the film names.

    Yields:
        (H, W, 3) float32 in 0..1, upright RGB; and its time in `Film.time_base`, which rises.
    Raises:
        FilmError: as `probe`, or a frame of another size.
        PictureError: a folder's picture cannot be read.
    """
    from av.video.reformatter import VideoReformatter

    path = Path(path)
    if os.path.isdir(path):
        yield from _read_folder(path, start)
        return
    reformatter, film = VideoReformatter(), None
    with opened(path) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream, path.name)):
            if film is None:
                film, first, turn = _film(container, stream, frame), frame, _turn(frame)
                if frame.interlaced_frame:
                    log.warning(
                        "%s: interlaced; coloured and written as if it were not. "
                        "Deinterlace it first for the best result.",
                        path.name,
                    )
            if (frame.width, frame.height) != (first.width, first.height):
                sizes = (frame.width, frame.height), (first.width, first.height)
                raise _other_size(path.name, number, *sizes)
            if number >= start:
                yield _upright(_pixels(frame, film.color[0], reformatter), *turn), frame.pts
    if film is None:
        raise FilmError(f"{path.name}: none of its pictures can be decoded; get it again.")
    ended = float((frame.pts + step_of(film) - first.pts) * film.time_base)
    if film.seconds and film.seconds - ended > 0.5:
        log.warning(
            "%s: its %d frames end after %.1f s of %.1f; the file may be cut short.",
            *(path.name, number + 1, ended, film.seconds),
        )


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers: frame2 before frame10.

    Raises:
        FilmError: there are none.
    """

    def order(path: Path) -> tuple[list[tuple[str, int]], str]:
        parts = re.findall(r"(\D*)(\d*)", path.name)
        return [(text, int(digits or 0)) for text, digits in parts], path.name

    found = [path for path in folder.iterdir() if path.suffix.lower() in files.SUFFIXES]
    found = sorted((path for path in found if not path.name.startswith(".")), key=order)
    if not found:
        raise FilmError(f"{folder}: no pictures in this folder ({', '.join(files.SUFFIXES)}).")
    return found


def _read_folder(folder: Path, start: int) -> Iterator[tuple[np.ndarray, int]]:
    film = probe(folder)
    for number, path in enumerate(pictures_in(folder)[start:], start):
        pixels = files.read(path).pixels[..., :3]
        height, width = pixels.shape[:2]
        if (width, height) != (film.width, film.height):
            size = film.width, film.height
            raise _other_size(f"{folder.name}/{path.name}", number, (width, height), size)
        yield np.repeat(pixels, 3 // pixels.shape[2], axis=2), number


def open_file(path: Path, mode: str = "r", **options: object) -> "InputContainer | OutputContainer":
    """av.open for files alone: a colon in a name makes no protocol, a playlist no connection."""
    import av

    if int(av.__version__.split(".")[0]) < 19:  # since then it is always so
        options["metadata_errors"] = "surrogateescape"
    if mode == "r":
        options["options"] = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", mode, **options)


@contextmanager
def opened(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """A film's container, and its first stream of pictures that is no cover."""
    import av

    if not os.path.isfile(path):
        found = "not an ordinary file" if os.path.exists(path) else "no such file"
        raise FilmError(f"{path.name}: {found}; expected a film or a folder of pictures.")
    if not os.path.getsize(path):
        raise FilmError(f"{path.name}: the file is empty (0 bytes); get it again.")
    try:
        container = open_file(path)
    except PermissionError as error:
        raise FilmError(f"{path.name}: cannot be read ({error.strerror}).") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise FilmError(f"{path.name}: not a film, or damaged ({reason(error)}).") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            found = ", ".join(stream.type for stream in container.streams) or "nothing"
            found = found.replace("video", "cover")
            raise FilmError(f"{path.name}: a film without pictures (it holds {found}).")
        if streams[0].codec_context is None:
            raise FilmError(
                f"{path.name}: damaged, or in a format that this PyAV cannot decode; "
                "get it again, or convert it to H.264."
            )
        yield container, streams[0]


def _decoded(
    container: "InputContainer", stream: "VideoStream", name: str
) -> "Iterator[VideoFrame]":
    """All frames that can be decoded, at times that rise; damage is stepped over, as players do."""
    import av

    stream.thread_type = "AUTO"
    step, last, damaged, number = None, None, False, 0

    def packets() -> "Iterator[Packet | None]":
        try:
            yield from container.demux(stream)
        except (av.FFmpegError, OSError) as error:
            log.warning("%s: damaged behind frame %d (%s).", name, number, reason(error))
            yield None  # gives what the decoder still holds

    for packet in packets():
        try:
            frames = stream.decode(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            if not damaged:
                log.warning("%s: damaged near frame %d (%s).", name, number, reason(error))
            damaged = True
            continue
        for frame in frames:
            damaged = False
            if frame.pts is None:
                step = step or step_of(_film(container, stream, frame))
                frame.pts = 0 if last is None else last + step
            elif last is not None and frame.pts <= last:
                frame.pts = last + 1
            last = frame.pts
            yield frame
            number += 1


def _film(container: "InputContainer", stream: "VideoStream", frame: "VideoFrame") -> Film:
    """What the streams and the first frame say."""
    time_base = fraction(stream.time_base)
    rate = fraction(stream.average_rate) or fraction(stream.guessed_rate) or Fraction(25)
    seconds = (container.duration or 0) / 1e6  # of the longest stream
    if stream.duration:
        seconds = stream.duration * time_base
    elif said := re.match(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, said.groups())  # Matroska's
        seconds += 3600 * hours + 60 * minutes
    aspect = fraction(stream.sample_aspect_ratio) or Fraction(1)
    layout, full = _layout(frame)
    context, turned = stream.codec_context, _turn(frame)[0]
    named = frame.colorspace, int(context.color_primaries), int(context.color_trc)
    known = named[0] in MATRICES, named[1] not in UNSAID, named[2] not in UNSAID
    usual = _usual_color(frame.width, frame.height)
    return Film(
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        rate=rate,
        time_base=time_base,
        bits=10 if _bits(frame) > 8 else 8,
        frames=stream.frames or round(seconds * rate) or None,
        seconds=float(seconds) or None,
        color=tuple(a if sure else b for a, b, sure in zip(named, usual, known, strict=True)),
        full=full and layout.startswith("yuv"),
        aspect=1 / aspect if turned else aspect,
    )


def _usual_color(width: int, height: int) -> tuple[int, int, int]:
    """BT.709 for HD, else BT.601 of 625 or 525 lines."""
    if width >= 1280 or height > 576:
        return 1, 1, 1
    return (5, 5, 6) if height in (288, 576) else (6, 6, 6)


def step_of(film: Film) -> int:
    """From one frame to the next, in `Film.time_base`."""
    return max(1, round(1 / (film.rate * film.time_base)))


def fraction(value) -> Fraction | None:
    """Of PyAV's rationals, which are of its own kind since 19; None for 0 and for unknown."""
    return Fraction(value.numerator, value.denominator) if value else None


def reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _other_size(
    name: str, number: int, found: tuple[int, int], first: tuple[int, int]
) -> FilmError:
    return FilmError(
        f"{name}: frame {number} is {found[0]}x{found[1]}, the first {first[0]}x{first[1]}; "
        "bring all to one size, or cut the film there."
    )


# --- Pixels ------------------------------------------------------------------------------------


def _bits(frame: "VideoFrame") -> int:
    return max(component.bits for component in frame.format.components)


def _layout(frame: "VideoFrame") -> tuple[str, bool]:
    """A kind of planes at full size that holds the frame's values as they are; if in full range."""
    kind, bits = frame.format, _bits(frame)
    deep = "" if bits <= 8 else f"{min(bits, 16)}le"
    if kind.is_rgb or kind.has_palette or kind.name.startswith("xyz"):
        return f"gbrp{deep}", True
    if len(kind.components) < 3:  # which FFmpeg takes for full unless told otherwise
        return f"gray{deep}", frame.color_range != LIMITED
    if kind.name.startswith("yuvj"):
        return "yuvj444p", True
    return f"yuv444p{deep}", frame.color_range == FULL


def _equation(matrix: int, full: bool, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """M and offset of: YUV = M RGB + offset, RGB in 0..1 (ITU-T H.273, equations 20 to 43)."""
    red, blue = MATRICES[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb, cr = (([0, 0, 1] - luma) / (2 - 2 * blue), ([1, 0, 0] - luma) / (2 - 2 * red))
    unit, most = 2 ** (bits - 8), 2**bits - 1
    scale, dark = (np.full(3, most), 0) if full else (np.array([219, 224, 224]) * unit, 16 * unit)
    return np.stack([luma, cb, cr]) * scale[:, None], np.float32([dark, 128 * unit, 128 * unit])


def _planes(frame: "VideoFrame") -> list[np.ndarray]:
    """(h, w) of each plane; they are views."""
    dtype = np.uint8 if _bits(frame) <= 8 else np.dtype("<u2")
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


def _pixels(frame: "VideoFrame", matrix: int, reformatter: "VideoReformatter") -> np.ndarray:
    """(H, W, 3) float32 in 0..1. FFmpeg's own RGB is up to 4 levels of 10 bits off (2026-07)."""
    layout, full = _layout(frame)
    same = FULL if full else LIMITED  # said on both sides, it changes nothing
    ranges = {"src_color_range": same, "dst_color_range": same}
    frame = reformatter.reformat(frame, format=layout, src_colorspace=1, dst_colorspace=1, **ranges)
    planes, bits = _planes(frame), _bits(frame)
    if layout.startswith("gbrp"):
        return np.stack([planes[2], *planes[:2]], axis=-1) / np.float32(2**bits - 1)
    matrix, offset = _equation(matrix, full, bits)
    if layout.startswith("gray"):
        planes = [planes[0], *[np.full_like(planes[0], offset[1])] * 2]
    yuv = np.stack(planes, axis=-1) - offset
    rgb = yuv @ np.linalg.inv(matrix).T.astype(np.float32)
    return rgb.clip(0, 1, out=rgb)


def frame_of(pixels: np.ndarray, kind: str, matrix: int, full: bool) -> "VideoFrame":
    """(H, W, 3) in 0..1 -> yuv420p, yuv422p10le or the like, each value the nearest."""
    import av

    frame = av.VideoFrame(pixels.shape[1], pixels.shape[0], kind)
    matrix, offset = _equation(matrix, full, _bits(frame))
    yuv = matrix.astype(np.float32) @ np.asarray(pixels, np.float32).reshape(-1, 3).T
    yuv = yuv.reshape(3, *pixels.shape[:2]) + offset[:, None, None]
    luma, chroma = yuv[0], yuv[1:]
    if "444" not in kind:  # a sample lies on the left one of two pixels
        left = np.concatenate([chroma[..., :1], chroma[..., 1:-1:2]], axis=2)
        chroma = (left + 2 * chroma[..., ::2] + chroma[..., 1::2]) / 4
    if "420" in kind:
        chroma = (chroma[:, ::2] + chroma[:, 1::2]) / 2
    for plane, value in zip(_planes(frame), (luma, *chroma), strict=True):
        plane[:] = np.rint(value).clip(0, 2 ** _bits(frame) - 1)
    return frame


def _turn(frame: "VideoFrame") -> tuple[bool, bool, bool]:
    """How a film becomes upright: axes swapped, then rows and columns reversed.

    Of one frame only: PyAV's side data make a cycle, which keeps a frame until Python looks for it.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]  # x' = ax + cy, y' = bx + dy
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def _upright(pixels: np.ndarray, swapped: bool, rows: bool, columns: bool) -> np.ndarray:
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
