"""Videos, read frame by frame: files, with PyAV (FFmpeg); image sequences; animated images."""

import logging
import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from .errors import VideoError, error_reason, video_errors
from .video_animation import is_animated, probe_animation, read_animation
from .video_container import decoder_activity, open_video
from .video_filters import deinterlaced, field_order
from .video_info import VideoInfo, frame_size_error, to_fraction, usual_color_tags
from .video_sequence import is_sequence, probe_sequence, read_sequence
from .yuv import (
    MATRICES,
    display_rotation,
    frame_bit_depth,
    frame_to_rgb,
    has_alpha,
    on_white,
    planar_format,
    rotate,
)

if TYPE_CHECKING:
    from av import Packet, VideoCodecContext, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


log = logging.getLogger(__name__)

Frames: TypeAlias = Iterator[tuple[np.ndarray, int]]
UNSPECIFIED = (0, 2, 3)  # numbers of primaries and transfers: reserved, unspecified, reserved
# Codec -> the decoder that reads alpha, too. FFmpeg's own leave it out.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


# --- Reading -----------------------------------------------------------------------------------


def probe(path: str | Path, *, frame_rate: Fraction | int = 24) -> VideoInfo:
    """Return the properties of a video.

    Args:
        path: video file or animated image; folder of frames; or their pattern, such as
            frames/%05d.png.
        frame_rate: frames per second of a folder or pattern.

    Raises:
        VideoError: not a video, damaged, or without a frame that can be decoded.
        ImageError: a folder's first image cannot be read.
    """
    path = Path(path)
    if is_sequence(path):
        return probe_sequence(path, Fraction(frame_rate))
    if is_animated(path):
        return probe_animation(path)
    with video_errors(path.name), open_video(path) as (container, stream):
        first = next(_decode_frames(container, stream, path.name), None)
        if first is None:
            raise _no_frames(path.name)
        return _stream_info(container, stream, first[0])


def read_frames(
    path: str | Path, start: int = 0, *, alpha: bool = False, deinterlace: bool = False
) -> Generator[tuple[np.ndarray, int], None, None]:
    """Read frames from number `start` on, one in memory at a time.

    Frames before `start` are decoded, too: only that is exact in every video. RGB is taken for
    sRGB, whatever primaries and transfer the video specifies.

    Args:
        path: see `probe`.
        start: number of the first frame.
        alpha: return the alpha channel of videos that have one; else they are laid on white.
        deinterlace: turn both fields of a frame into one full frame.

    Yields:
        Pixels (H, W, 3 or 4) float32 in 0..1, upright RGB, and their increasing time in units of
        `VideoInfo.time_base`.

    Raises:
        VideoError: as `probe`, or a frame has another size.
        ImageError: an image of a folder cannot be read.
    """
    path = Path(path)
    if is_sequence(path):
        frames = read_sequence(path, start)
    elif is_animated(path):
        frames = read_animation(path, start)
    else:
        frames = _read_file(path, start, deinterlace=deinterlace)
    for pixels, time in frames:
        yield pixels if alpha else on_white(pixels), time


def has_streams(path: Path) -> bool:
    """Return True for a file with streams beside the video, False for files of images."""
    return not (is_sequence(path) or is_animated(path))


# --- Files -------------------------------------------------------------------------------------


def _read_file(path: Path, start: int, *, deinterlace: bool) -> Frames:
    with video_errors(path.name), open_video(path) as (container, stream):
        yield from _read_stream(container, stream, path.name, start, deinterlace=deinterlace)


def _read_stream(
    container: "InputContainer", stream: "VideoStream", name: str, start: int, *, deinterlace: bool
) -> Frames:
    from av.video.reformatter import VideoReformatter

    frames = _decode_frames(container, stream, name)
    first = next(frames, None)
    if first is None:
        raise _no_frames(name)
    frame, first_time = first
    reformatter, info = VideoReformatter(), _stream_info(container, stream, frame)
    size = frame.width, frame.height
    rotation = display_rotation(frame, stream.codec_context.name)
    frames = _checked_sizes(chain([first], frames), size, name)
    number, time = 0, first_time
    for number, (frame, time) in enumerate(deinterlaced(frames, name) if deinterlace else frames):
        if number >= start:
            pixels = frame_to_rgb(frame, info.color_tags[0], reformatter)
            yield rotate(pixels, rotation), time
    end = float((time + info.frame_duration - first_time) * info.time_base)
    if info.duration and info.duration - end > 0.5:
        log.warning(
            "%s: its %d frames end after %.1f s of %.1f; the file may be cut short.",
            *(name, number + 1, end, info.duration),
        )


def _checked_sizes(
    frames: "Iterator[tuple[VideoFrame, int]]", size: tuple[int, int], name: str
) -> "Iterator[tuple[VideoFrame, int]]":
    """Yield the frames; raise VideoError if one has another size."""
    for number, (frame, time) in enumerate(frames):
        if (frame.width, frame.height) != size:
            raise frame_size_error(name, number, (frame.width, frame.height), size)
        yield frame, time


def _decode_frames(
    container: "InputContainer", stream: "VideoStream", name: str
) -> "Iterator[tuple[VideoFrame, int]]":
    """Yield all sound frames and their increasing times; damage is skipped as players do."""
    import av

    stream.thread_type = "AUTO"
    decoder = _alpha_decoder(stream) or stream
    step, last, damaged, number = None, None, False, 0

    def packets() -> "Iterator[Packet[VideoStream] | None]":
        demuxed = container.demux(stream)
        try:
            while True:
                with decoder_activity:
                    packet = next(demuxed, None)
                if packet is None:
                    return
                yield packet
        except (av.FFmpegError, OSError) as error:
            log.warning("%s: damaged behind frame %d (%s).", name, number, error_reason(error))
            yield None  # flushes the decoder

    for packet in packets():
        try:
            with decoder_activity:
                frames = decoder.decode(packet)
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


def _alpha_decoder(stream: "VideoStream") -> "VideoCodecContext | None":
    """Return a decoder for streams that store alpha beside the image (WebM), if any."""
    import av

    name = ALPHA_DECODERS.get(stream.codec_context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if tags.get("alpha_mode") != "1" or name not in av.codecs_available:
        return None
    return cast("VideoCodecContext", av.CodecContext.create(name, "r"))


def _stream_info(
    container: "InputContainer", stream: "VideoStream", frame: "VideoFrame"
) -> VideoInfo:
    """Combine what the container, the stream and the first frame specify."""
    time_base = to_fraction(stream.time_base) or Fraction(1, 1000)
    average, guessed = to_fraction(stream.average_rate), to_fraction(stream.guessed_rate)
    if average and guessed and average > 4 * guessed:  # raw DV has 60000
        average = None
    frame_rate = average or guessed or Fraction(25)
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
        chroma=_chroma(frame),
        has_alpha=has_alpha(frame),
        field_order=None if transposed else field_order(frame),
    )


def _chroma(frame: "VideoFrame") -> Literal["420", "422", "444"]:
    """Return the resolution of chroma, rounded down to what encoders have."""
    components = frame.format.components
    if len(components) < 3:
        return "420"
    if components[1].width < components[0].width:
        half = components[1].width * 2 >= components[0].width
        return "422" if half and components[1].height == components[0].height else "420"
    return "444" if components[1].height == components[0].height else "420"


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
    usual = usual_color_tags(frame.width, frame.height)
    return (
        matrix if matrix in MATRICES else usual[0],
        primaries if primaries not in UNSPECIFIED else usual[1],
        transfer if transfer not in UNSPECIFIED else usual[2],
    )


def _no_frames(name: str) -> VideoError:
    return VideoError(f"{name}: none of its frames can be decoded; get it again.")
