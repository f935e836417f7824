"""Streams, chapters and metadata beside the video, copied from the source into the result."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import error_reason
from .video_info import to_fraction

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream


log = logging.getLogger(__name__)

# Keys that describe the old file and would be wrong for the new one.
FILE_SPECIFIC_METADATA = re.compile(
    "encoder|major_brand|minor_version|compatible_brands|duration|rotate|bps|number_of_.*|_stat.*",
    re.IGNORECASE,
)


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
) -> "dict[int, Stream]":
    """Add a stream to the result for each stream that its container can hold.

    Args:
        source: open source.
        video: its colorized stream.
        result: container to write.
        out: name of the result, for warnings.
        frame_rate: of the video.

    Returns:
        Index of the source's stream -> stream of the result.
    """
    copies: dict[int, Stream] = {}
    for stream in source.streams:
        if stream.index == video.index or stream.type in ("data", "unknown"):
            continue  # data: timecode and names of chapters, which FFmpeg writes itself
        if stream.type != "video" and _can_hold(result.format.name, stream):
            copies[stream.index] = copy = result.add_stream_from_template(stream)
            copy.metadata.update(lasting_metadata(stream, frame_rate))
            copy.disposition = stream.disposition
            continue
        details = getattr(stream, "name", None), stream.metadata.get("language")
        what = f"{stream.type} stream {stream.index} ({', '.join(filter(None, details))})"
        remedy = "" if stream.type == "video" or out.suffix == ".mkv" else "; write .mkv to keep it"
        log.warning("%s: %s is left out%s.", out.name, what, remedy)
    return copies


def _can_hold(container_format: str, stream: "Stream") -> bool:
    """Return True if FFmpeg starts a file of this format with a copy of the stream."""
    import av

    trial = av.open(io.BytesIO(), "w", format=container_format)
    try:
        trial.add_stream_from_template(stream)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def passthrough_packets(
    source: "InputContainer", copies: "dict[int, Stream]", start: Fraction
) -> "Iterator[Packet[Stream]]":
    """Yield the packets of the copied streams, `start` seconds earlier.

    Args:
        source: open source.
        copies: as `add_passthrough_streams` returns them.
        start: seconds at which the source starts.
    """
    import av

    last: dict[int, int] = {}
    try:
        for packet in source.demux([source.streams[index] for index in copies]) if copies else ():
            index = packet.stream_index
            dts = packet.pts if packet.dts is None else packet.dts
            pts = packet.dts if packet.pts is None else packet.pts
            if dts is None or pts is None:  # at the end, or before the first packet with a time
                continue
            shift = round(start / packet.time_base)
            # Decoding times must rise, or FFmpeg refuses the packet.
            packet.dts = max(dts - shift, last.get(index, dts - shift - 1) + 1)
            packet.pts = max(pts - shift, packet.dts)
            last[index] = packet.dts
            packet.stream = copies[index]
            yield packet
    except (av.FFmpegError, OSError) as error:
        log.warning("%s: the copied streams end early (%s).", source.name, error_reason(error))
