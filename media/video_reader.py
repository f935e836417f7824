"""Films, read frame by frame: files, by PyAV (FFmpeg), and folders of pictures."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import image_io
from .video_info import Film, FilmError, fraction, reason, step_of
from .yuv import MATRICES, _bits, _layout, _pixels, _turn, _upright

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream


log = logging.getLogger(__name__)

SUFFIXES = (  # read
    *(".mkv", ".mp4", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".m2v", ".ts"),
    *(".mts", ".m2ts", ".wmv", ".asf", ".flv", ".mxf", ".ogv", ".dv", ".3gp", ".nut"),
)
UNSAID = (0, 2, 3)  # and of primaries and transfers that say nothing


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
    first = image_io.read(pictures[0])
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

    found = [path for path in folder.iterdir() if path.suffix.lower() in image_io.SUFFIXES]
    found = sorted((path for path in found if not path.name.startswith(".")), key=order)
    if not found:
        raise FilmError(f"{folder}: no pictures in this folder ({', '.join(image_io.SUFFIXES)}).")
    return found


def _read_folder(folder: Path, start: int) -> Iterator[tuple[np.ndarray, int]]:
    film = probe(folder)
    for number, path in enumerate(pictures_in(folder)[start:], start):
        pixels = image_io.read(path).pixels[..., :3]
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


def _other_size(
    name: str, number: int, found: tuple[int, int], first: tuple[int, int]
) -> FilmError:
    return FilmError(
        f"{name}: frame {number} is {found[0]}x{found[1]}, the first {first[0]}x{first[1]}; "
        "bring all to one size, or cut the film there."
    )
