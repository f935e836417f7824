"""Videos, read frame by frame: files, with PyAV (FFmpeg), and folders of images."""

import logging
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import VideoError, error_reason, video_errors
from .formats import IMAGE_SUFFIXES
from .image_io import read_image
from .video_info import VideoInfo, to_fraction
from .yuv import (
    MATRICES,
    display_rotation,
    frame_bit_depth,
    frame_to_rgb,
    planar_format,
    rotate,
)

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream


log = logging.getLogger(__name__)

UNSPECIFIED = (0, 2, 3)  # numbers of primaries and transfers: reserved, unspecified, reserved


# --- Reading -----------------------------------------------------------------------------------


def probe(path: str | Path, *, frame_rate: Fraction | int = 24) -> VideoInfo:
    """Return the properties of a video, or of a folder of images.

    Args:
        path: video file or folder.
        frame_rate: frames per second of a folder.

    Raises:
        VideoError: not a video, damaged, or without a frame that can be decoded.
        ImageError: a folder's first image cannot be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _probe_folder(path, Fraction(frame_rate))
    with video_errors(path.name), open_video(path) as (container, stream):
        first = next(_decode_frames(container, stream, path.name), None)
        if first is None:
            raise _no_frames(path.name)
        return _stream_info(container, stream, first[0])


def read_frames(path: str | Path, start: int = 0) -> Generator[tuple[np.ndarray, int], None, None]:
    """Read frames from number `start` on, one in memory at a time.

    Frames before `start` are decoded, too: only that is exact in every video. RGB is taken for
    sRGB, whatever primaries and transfer the video specifies.

    Yields:
        Pixels (H, W, 3) float32 in 0..1, upright RGB, and their increasing time in units of
        `VideoInfo.time_base`.

    Raises:
        VideoError: as `probe`, or a frame has another size.
        ImageError: an image of a folder cannot be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        yield from _read_folder(path, start)
        return
    with video_errors(path.name), open_video(path) as (container, stream):
        yield from _read_stream(container, stream, path.name, start)


def _read_stream(
    container: "InputContainer", stream: "VideoStream", name: str, start: int
) -> Iterator[tuple[np.ndarray, int]]:
    from av.video.reformatter import VideoReformatter

    frames = _decode_frames(container, stream, name)
    first = next(frames, None)
    if first is None:
        raise _no_frames(name)
    frame, first_time = first
    reformatter, info = VideoReformatter(), _stream_info(container, stream, frame)
    size = frame.width, frame.height
    rotation = display_rotation(frame, stream.codec_context.name)
    if frame.interlaced_frame:
        log.warning(
            "%s: interlaced; colorized and written as if it were not. "
            "Deinterlace it first for the best result.",
            name,
        )
    number, time = 0, first_time
    for number, (frame, time) in enumerate(chain([first], frames)):
        if (frame.width, frame.height) != size:
            raise _other_size(name, number, (frame.width, frame.height), size)
        if number >= start:
            pixels = frame_to_rgb(frame, info.color_tags[0], reformatter)
            yield rotate(pixels, rotation), time
    end = float((time + info.frame_duration - first_time) * info.time_base)
    if info.duration and info.duration - end > 0.5:
        log.warning(
            "%s: its %d frames end after %.1f s of %.1f; the file may be cut short.",
            *(name, number + 1, end, info.duration),
        )


# --- Folders -----------------------------------------------------------------------------------


def list_frames(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of their numbers: frame2 before frame10.

    Raises:
        VideoError: there are none.
    """

    def natural_order(path: Path) -> tuple[list[tuple[str, int]], str]:
        parts = re.findall(r"(\D*)(\d*)", path.name)
        return [(text, int(digits or 0)) for text, digits in parts], path.name

    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise VideoError(f"{folder}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
    return sorted(images, key=natural_order)


def _probe_folder(folder: Path, frame_rate: Fraction) -> VideoInfo:
    if frame_rate <= 0:
        raise VideoError(f"{folder.name}: {frame_rate} frames per second; expected more than 0.")
    images = list_frames(folder)
    first = read_image(images[0])
    height, width = first.pixels.shape[:2]
    return VideoInfo(
        width=width,
        height=height,
        frame_rate=frame_rate,
        time_base=1 / frame_rate,
        bit_depth=min(first.metadata.bit_depth, 10),
        frame_count=len(images),
        duration=float(len(images) / frame_rate),
        color_tags=_usual_color_tags(width, height),
        full_range=False,
        pixel_aspect=Fraction(1),
    )


def _read_folder(folder: Path, start: int) -> Iterator[tuple[np.ndarray, int]]:
    info = probe(folder)
    for number, path in enumerate(list_frames(folder)[start:], start):
        pixels = read_image(path).pixels[..., :3]
        height, width = pixels.shape[:2]
        if (width, height) != (info.width, info.height):
            size = info.width, info.height
            raise _other_size(f"{folder.name}/{path.name}", number, (width, height), size)
        yield np.repeat(pixels, 3 // pixels.shape[2], axis=2), number


# --- Files -------------------------------------------------------------------------------------


def open_input(path: Path) -> "InputContainer":
    """Open a local file for reading.

    A colon in the name does not select a protocol, and a playlist cannot open a connection.
    """
    import av

    options = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", "r", options=options, **_undecodable_metadata())


def open_output(
    path: Path, container_format: str, options: dict[str, str] | None = None
) -> "OutputContainer":
    """Open a local file for writing."""
    import av

    return av.open(
        f"file:{path}", "w", format=container_format, options=options, **_undecodable_metadata()
    )


def _undecodable_metadata() -> dict[str, Any]:
    """Return the option that keeps metadata in other encodings than UTF-8 as it is."""
    import av

    always = int(av.__version__.split(".")[0]) >= 19
    return {} if always else {"metadata_errors": "surrogateescape"}


@contextmanager
def open_video(
    path: Path,
) -> "Generator[tuple[InputContainer, VideoStream], None, None]":
    """Open a video's container and its first video stream that is not a cover image.

    Raises:
        VideoError: not a video, damaged, or without a video stream.
    """
    from av.stream import Disposition

    if not os.path.isfile(path):
        reason = "not an ordinary file" if os.path.exists(path) else "no such file"
        raise VideoError(f"{path.name}: {reason}; expected a video or a folder of images.")
    if not os.path.getsize(path):
        raise VideoError(f"{path.name}: the file is empty (0 bytes); get it again.")
    with video_errors(path.name):
        container = open_input(path)
    with container:
        cover = Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            types = ", ".join(stream.type for stream in container.streams) or "nothing"
            types = types.replace("video", "cover")
            raise VideoError(f"{path.name}: a file without video (it holds {types}).")
        if streams[0].codec_context is None:
            raise VideoError(
                f"{path.name}: damaged, or in a format that this PyAV cannot decode; "
                "get it again, or convert it to H.264."
            )
        yield container, streams[0]


def _decode_frames(
    container: "InputContainer", stream: "VideoStream", name: str
) -> "Iterator[tuple[VideoFrame, int]]":
    """Yield all sound frames and their increasing times; damage is skipped as players do."""
    import av

    stream.thread_type = "AUTO"
    step, last, damaged, number = None, None, False, 0

    def packets() -> "Iterator[Packet[VideoStream] | None]":
        try:
            yield from container.demux(stream)
        except (av.FFmpegError, OSError) as error:
            log.warning("%s: damaged behind frame %d (%s).", name, number, error_reason(error))
            yield None  # flushes the decoder

    for packet in packets():
        try:
            frames = stream.decode(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            if not damaged:
                log.warning("%s: damaged near frame %d (%s).", name, number, error_reason(error))
            damaged = True
            continue
        for frame in frames:
            damaged = False
            time = frame.pts
            if time is None:
                step = step or _stream_info(container, stream, frame).frame_duration
                time = 0 if last is None else last + step
            elif last is not None and time <= last:
                time = last + 1
            last = time
            yield frame, time
            number += 1


def _stream_info(
    container: "InputContainer", stream: "VideoStream", frame: "VideoFrame"
) -> VideoInfo:
    """Combine what the container, the stream and the first frame specify."""
    time_base = to_fraction(stream.time_base) or Fraction(1, 1000)
    frame_rate = to_fraction(stream.average_rate) or to_fraction(stream.guessed_rate)
    frame_rate = frame_rate or Fraction(25)
    duration = _duration(container, stream, time_base)
    pixel_aspect = to_fraction(stream.sample_aspect_ratio) or Fraction(1)
    layout, full_range = planar_format(frame)
    transposed = display_rotation(frame, stream.codec_context.name).transpose
    return VideoInfo(
        width=frame.height if transposed else frame.width,
        height=frame.width if transposed else frame.height,
        frame_rate=frame_rate,
        time_base=time_base,
        bit_depth=10 if frame_bit_depth(frame) > 8 else 8,
        frame_count=stream.frames or round(duration * frame_rate) or None,
        duration=float(duration) or None,
        color_tags=_color_tags(stream, frame),
        full_range=full_range and layout.startswith("yuv"),
        pixel_aspect=1 / pixel_aspect if transposed else pixel_aspect,
    )


def _duration(
    container: "InputContainer", stream: "VideoStream", time_base: Fraction
) -> Fraction | float:
    """Return the stream's duration in seconds; the container's, or 0, where it has none."""
    if stream.duration:
        return stream.duration * time_base
    matroska = re.match(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    if matroska:
        hours, minutes, seconds = map(float, matroska.groups())
        return 3600 * hours + 60 * minutes + seconds
    return (container.duration or 0) / 1e6


def _color_tags(stream: "VideoStream", frame: "VideoFrame") -> tuple[int, int, int]:
    """Return matrix, primaries and transfer; the usual ones in place of unspecified ones."""
    context = stream.codec_context
    matrix, primaries, transfer = frame.colorspace, context.color_primaries, context.color_trc
    usual = _usual_color_tags(frame.width, frame.height)
    return (
        matrix if matrix in MATRICES else usual[0],
        primaries if primaries not in UNSPECIFIED else usual[1],
        transfer if transfer not in UNSPECIFIED else usual[2],
    )


def _usual_color_tags(width: int, height: int) -> tuple[int, int, int]:
    """Return BT.709 for HD, else BT.601 of 625 or 525 lines."""
    if width >= 1280 or height > 576:
        return 1, 1, 1
    return (5, 5, 6) if height in (288, 576) else (6, 6, 6)


def _no_frames(name: str) -> VideoError:
    return VideoError(f"{name}: none of its frames can be decoded; get it again.")


def _other_size(
    name: str, number: int, size: tuple[int, int], first: tuple[int, int]
) -> VideoError:
    return VideoError(
        f"{name}: frame {number} is {size[0]}x{size[1]}, the first {first[0]}x{first[1]}; "
        "scale all frames to one size, or cut the video there."
    )
