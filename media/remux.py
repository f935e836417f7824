"""Streams, chapters and metadata beside the video, copied from the source into the result."""

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import error_reason
from .sound import SOUND_ENCODERS, SoundEncoder
from .video_container import is_cover, open_input
from .video_info import to_fraction

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Disposition, Stream


log = logging.getLogger(__name__)

# Keys that describe the old file and would be wrong for the new one.
FILE_SPECIFIC_METADATA = re.compile(
    "encoder|major_brand|minor_version|compatible_brands|duration|rotate|bps|number_of_.*|_stat.*",
    re.IGNORECASE,
)
PLAYED_IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus", "libopus")
"""Sound that common players play in MP4. MP4 can hold more, such as PCM and MP2."""


def lasting_metadata(source: "InputContainer | Stream", frame_rate: Fraction) -> dict[str, str]:
    """Return the metadata that also holds for the result.

    A timecode that does not fit the frame rate is left out: FFmpeg refuses it.
    """
    metadata = {
        key: text
        for key, text in source.metadata.items()
        if not FILE_SPECIFIC_METADATA.fullmatch(key)
    }
    timecode = re.fullmatch(r"\d\d:\d\d:\d\d([:;.])\d\d", metadata.get("timecode", ""))
    drop_frame = timecode is not None and timecode[1] != ":"
    allowed = (30, 60) if drop_frame else range(1, 61)
    if not timecode or round(frame_rate) not in allowed:
        metadata.pop("timecode", None)
    return metadata


def shift_chapter(chapter: "Chapter", start: Fraction) -> "Chapter":
    """Return a chapter `start` seconds earlier."""
    time_base = to_fraction(chapter["time_base"])
    shift = round(start / time_base) if time_base else 0
    return {**chapter, "start": chapter["start"] - shift, "end": chapter["end"] - shift}


def add_passthrough_streams(
    source: "InputContainer",
    video: "Stream",
    result: "OutputContainer",
    out: Path,
    frame_rate: Fraction,
) -> "dict[int, Stream | SoundEncoder]":
    """Add a stream to the result for each stream that its container can hold.

    Sound that it cannot hold, or that few players know in it, is encoded again.

    Args:
        source: open source.
        video: its colorized stream.
        result: container to write.
        out: name of the result, for warnings.
        frame_rate: of the video.

    Returns:
        Index of the source's stream -> stream of the result.
    """
    copies: dict[int, Stream | SoundEncoder] = {}
    for stream in source.streams:
        if stream.index == video.index or _is_rewritten(stream, source):
            continue
        if is_cover(stream) and _can_attach(result):
            _attach_cover(source, stream, result)
        elif _may_copy(result.format.name, stream, out) and _can_hold(result.format.name, stream):
            copy = result.add_stream_from_template(stream)
            _describe(copy, stream, frame_rate)
            copies[stream.index] = copy
        elif stream.type == "audio" and _can_encode(result.format.name, stream):
            encoder = SoundEncoder(cast("AudioStream", stream), result)
            _describe(encoder.stream, stream, frame_rate)
            copies[stream.index] = encoder
            log.warning(
                "%s: sound stream %d (%s) is encoded as %s, which plays in %s; "
                "write .mkv to copy it.",
                *(out.name, stream.index, stream.name, encoder.name, out.suffix),
            )
        else:
            details = getattr(stream, "name", None), stream.metadata.get("language")
            kind = "cover image" if is_cover(stream) else f"{stream.type} stream"
            what = f"{kind} {stream.index} ({', '.join(filter(None, details)) or 'unknown'})"
            remedy = _remedy(stream, out)
            remedy = remedy and f"; write {remedy} keep it"
            log.warning("%s: %s is left out%s.", out.name, what, remedy)
    return copies


def _describe(copy: "Stream", stream: "Stream", frame_rate: Fraction) -> None:
    copy.metadata.update(lasting_metadata(stream, frame_rate))
    # Before PyAV 18, the setter refuses the type of the getter
    copy.disposition = cast("Disposition", stream.disposition.value)


def set_timecode(result: "OutputContainer", video: "Stream") -> None:
    """Leave the timecode to the video alone, where MP4 and MOV have a track for each video.

    A cover image would get a timecode track, too, from the timecode of the file.
    """
    if result.format.name in ("mp4", "mov") and "timecode" in result.metadata:
        video.metadata.setdefault("timecode", result.metadata.pop("timecode"))


def _is_rewritten(stream: "Stream", source: "InputContainer") -> bool:
    """Return True for tracks that FFmpeg writes itself: timecode, and names of chapters."""
    if stream.type != "data":
        return False
    return "timecode" in stream.metadata or bool(hasattr(source, "chapters") and source.chapters())


def _may_copy(container_format: str, stream: "Stream", out: Path) -> bool:
    """Return False for what FFmpeg would drop in silence, further videos, and unplayable sound."""
    if stream.type == "video":
        return is_cover(stream) and container_format == "mp4"
    if stream.type == "audio" and out.suffix.lower() in (".mp4", ".m4v"):
        return str(getattr(stream, "name", "")).startswith(PLAYED_IN_MP4)
    return stream.type not in ("data", "unknown")


def _remedy(stream: "Stream", out: Path) -> str:
    """Return the containers that would hold a stream; empty if there are none."""
    suffix = out.suffix.lower()
    if is_cover(stream):
        return ".mp4 or .mkv to"
    if stream.type in ("video", "data", "unknown"):
        return ""
    if stream.type == "subtitle" and getattr(stream, "name", "") == "mov_text":
        return ".mp4 or .mov to" if suffix not in (".mp4", ".mov") else ""
    return ".mkv to" if suffix != ".mkv" else ""


def _can_attach(result: "OutputContainer") -> bool:
    return result.format.name == "matroska" and hasattr(result, "add_attachment")  # PyAV 14.2: no


def _attach_cover(source: "InputContainer", stream: "Stream", result: "OutputContainer") -> None:
    """Attach a cover image to a Matroska file, where others have a video stream."""
    with open_input(Path(source.name.removeprefix("file:"))) as container:
        packets = container.demux(container.streams[stream.index])
        data = next((bytes(packet) for packet in packets if packet.size), b"")
    if data:
        kind = "png" if getattr(stream, "name", "") == "png" else "jpeg"
        name = "cover.png" if kind == "png" else "cover.jpg"
        result.add_attachment(name, f"image/{kind}", data)


def _can_hold(container_format: str, stream: "Stream") -> bool:
    """Return True if FFmpeg starts a file of this format with a copy of the stream."""
    return _can_start(container_format, lambda trial: trial.add_stream_from_template(stream))


def _can_encode(container_format: str, stream: "Stream") -> bool:
    """Return True if FFmpeg starts a file of this format with the stream's sound encoded again."""
    return container_format in SOUND_ENCODERS and _can_start(
        container_format, lambda trial: SoundEncoder(cast("AudioStream", stream), trial)
    )


def _can_start(container_format: str, add: "Callable[[OutputContainer], object]") -> bool:
    import av

    trial = av.open(io.BytesIO(), "w", format=container_format)
    try:
        add(trial)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def passthrough_packets(
    source: "InputContainer", copies: "dict[int, Stream | SoundEncoder]", start: Fraction
) -> "Iterator[Packet[Stream]]":
    """Yield the packets of the copied streams, `start` seconds earlier.

    Args:
        source: open source.
        copies: as `add_passthrough_streams` returns them.
        start: seconds at which the source starts.
    """
    import av

    last: dict[Stream, int] = {}

    def shifted(packet: "Packet[Any]", copy: "Stream") -> "Iterator[Packet[Stream]]":
        dts = packet.pts if packet.dts is None else packet.dts
        pts = packet.dts if packet.pts is None else packet.pts
        if packet.size and is_cover(packet.stream):  # one packet, mostly without a time
            dts = pts = round(start / packet.time_base)
            packet.duration = 0
        if dts is None or pts is None:  # at the end, or before the first packet with a time
            return
        shift = round(start / packet.time_base)
        # Decoding times must rise, or FFmpeg refuses the packet.
        packet.dts = max(dts - shift, last.get(copy, dts - shift - 1) + 1)
        packet.pts = max(pts - shift, packet.dts)
        last[copy] = packet.dts
        packet.stream = copy
        yield packet

    try:
        for packet in source.demux([source.streams[index] for index in copies]) if copies else ():
            copy = copies[packet.stream.index]
            if isinstance(copy, SoundEncoder):
                for encoded in copy.encode(packet):
                    yield from shifted(encoded, copy.stream)
            else:
                yield from shifted(packet, copy)
    except (av.FFmpegError, OSError) as error:
        log.warning("%s: the copied streams end early (%s).", source.name, error_reason(error))
    for copy in copies.values():
        if isinstance(copy, SoundEncoder):
            for encoded in copy.flush():
                yield from shifted(encoded, copy.stream)
