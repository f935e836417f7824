"""What a film holds beside its pictures, copied into the result as it is."""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING

from .video_info import fraction, reason

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

    from .segmented_writer import Parts


log = logging.getLogger(__name__)

STALE = re.compile(  # names of what describes the old file and would be wrong of the new one
    "encoder|major_brand|minor_version|compatible_brands|duration|rotate|bps|number_of_.*|_stat.*",
    re.IGNORECASE,
)


def _lasting(of: "InputContainer | Stream", rate: Fraction) -> dict[str, str]:
    """Metadata without what is stale, and without timecode that FFmpeg takes for an error."""
    found = {key: text for key, text in of.metadata.items() if not STALE.fullmatch(key)}
    timecode = re.fullmatch(r"\d\d:\d\d:\d\d([:;.])\d\d", found.get("timecode", ""))
    allowed = (30, 60) if timecode and timecode[1] != ":" else range(1, 61)  # ; drops numbers
    if not timecode or round(rate) not in allowed:
        found.pop("timecode", None)
    return found


def _moved(chapter: dict, start: Fraction) -> dict:
    shift = round(start / fraction(chapter["time_base"]))
    return {**chapter, "start": chapter["start"] - shift, "end": chapter["end"] - shift}


def _kept(
    source: "InputContainer", pictures: "Stream", result: "OutputContainer", parts: "Parts"
) -> "dict[int, Stream]":
    """Adds streams to the result for all that it can hold; by index of the source's."""
    kept, out = {}, parts.out
    for stream in source.streams:
        if stream.index == pictures.index or stream.type in ("data", "unknown"):
            continue  # data: timecode and names of chapters, which FFmpeg writes anew
        if stream.type != "video" and _fits(stream, result.format.name):
            kept[stream.index] = target = result.add_stream_from_template(stream)
            target.metadata.update(_lasting(stream, parts.film.rate))
            target.disposition = stream.disposition
            continue
        about = getattr(stream, "name", None), stream.metadata.get("language")
        what = f"{stream.type} stream {stream.index} ({', '.join(filter(None, about))})"
        remedy = "" if stream.type == "video" or out.suffix == ".mkv" else "; write .mkv to keep it"
        log.warning("%s: %s is left out%s.", out.name, what, remedy)
    return kept


def _fits(stream: "Stream", kind: str) -> bool:
    """Whether FFmpeg begins a file of this kind with a copy of the stream."""
    import av

    trial = av.open(io.BytesIO(), "w", format=kind)
    try:
        trial.add_stream_from_template(stream)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):
            trial.close()
    return True


def _copied(
    source: "InputContainer", kept: "dict[int, Stream]", start: Fraction
) -> "Iterator[Packet]":
    """Packets of the kept streams, `start` seconds earlier."""
    import av

    last: dict[int, int] = {}
    try:
        for packet in source.demux([source.streams[index] for index in kept]) if kept else ():
            index, decoded, shown = packet.stream_index, packet.dts, packet.pts
            decoded, shown = (
                b if a is None else a for a, b in ((decoded, shown), (shown, decoded))
            )
            if decoded is None:  # at the end, or before the first that has a time
                continue
            shift = round(start / packet.time_base)
            packet.dts = max(decoded - shift, last.get(index, decoded - shift - 1) + 1)
            packet.pts = max(shown - shift, packet.dts)
            last[index] = packet.dts  # which must rise, or FFmpeg refuses it
            packet.stream = kept[index]
            yield packet
    except (av.FFmpegError, OSError) as error:
        log.warning("%s: what is copied ends early (%s).", source.name, reason(error))
