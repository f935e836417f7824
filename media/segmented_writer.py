"""Videos, written in segments so that an interrupted run can resume, and joined at the end.

Sound, subtitles, chapters and metadata of the source are copied into the result.
"""

import heapq
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import count, takewhile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np
from filelock import FileLock, Timeout

from .. import __version__
from .atomic import make_work_folder, write_atomic
from .errors import VideoError, error_reason
from .formats import VIDEO_FORMATS
from .remux import (
    add_passthrough_streams,
    lasting_metadata,
    passthrough_packets,
    set_timecode,
    shift_chapter,
)
from .video_container import open_input, open_output, open_video
from .video_encoders import choose_encoder
from .video_filters import FieldMarker
from .video_info import VideoInfo
from .video_reader import has_streams
from .video_sequence import is_sequence, list_frames
from .yuv import FULL, LIMITED, rgb_to_frame

if TYPE_CHECKING:
    from av import Packet, VideoCodecContext, VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream


log = logging.getLogger(__name__)

# Within a segment, frames are numbered by their time. Matroska stores whole milliseconds.
SEGMENT_TIME_BASE = Fraction(1, 25)
# Frames by which packets are stored ahead; no codec reorders more. x265 sometimes gives wrong
# decoding times, which this replaces.
MAX_REORDERING = 16


class Segment(TypedDict):
    """A finished segment, as its JSON file describes it."""

    times: list[int]
    """Times of its frames in units of `VideoInfo.time_base`."""
    delay: int
    """Frames by which decoding is ahead of display."""


class SegmentedVideoWriter:
    """The unfinished result of one video: finished segments in a hidden folder beside it.

    An interrupted run resumes after its last finished segment if source, settings and program
    versions are unchanged. Use it as a context manager: it locks the folder against other runs.
    """

    def __init__(
        self,
        source: str | Path,
        out: str | Path,
        info: VideoInfo,
        *,
        settings: Mapping[str, object],
        codec: str | None = None,
        quality: int | None = None,
    ) -> None:
        """Resume or start the result `out`.

        Args:
            source: as for `read_frames`; `join` copies its other streams.
            out: video to write.
            info: properties of the source, from `probe`.
            settings: all else that changes the result; must be serializable as JSON.
            codec: key of `CODECS`; None for the default of the container.
            quality: constant rate factor, lower is better; None for the default of the codec.

        Raises:
            VideoError: it cannot be written like this, or another run is writing it.
            OSError: its folder cannot be created, or is a link.
        """
        import av

        self.source, self.out, self.info = Path(source), Path(out), info
        self.encoder = choose_encoder(self.out, info, codec, quality)
        if _is_same_file(self.source, self.out):
            raise VideoError(f"{self.out} is the source itself; originals are never overwritten.")
        self.folder = self.out.with_name(f".colorist-{self.out.name}.parts")
        make_work_folder(self.folder)
        self._lock = _lock_folder(self.folder)
        manifest = {
            "source": [_file_signature(self.source), str(info)],
            "settings": dict(settings),
            "encoder": [self.encoder.encoder, self.encoder.pixel_format, self.encoder.options],
            "version": [__version__, av.__version__],
        }
        self._closed = False
        self._segments = self._resume(json.loads(json.dumps(manifest)))

    def __enter__(self) -> "SegmentedVideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder. Finished segments stay for a later run; an empty folder goes."""
        if not self._closed:
            self._closed = True
            self._lock.release()
            if not self._segments:
                shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def keeps_alpha(self) -> bool:
        """True if the frames to write have an alpha channel."""
        return self.encoder.has_alpha

    @property
    def keeps_fields(self) -> bool:
        """True if interlaced frames are marked as such."""
        return self.encoder.field_order is not None

    @property
    def done(self) -> int:
        """Frames in finished segments: the number of the frame to resume at."""
        return sum(len(segment["times"]) for segment in self._segments)

    @property
    def state(self) -> bytes:
        """The state that `write` stored with the last finished segment; empty without one."""
        if not self._segments:
            return b""
        return self._path(len(self._segments) - 1, "state").read_bytes()

    def write(
        self, frames: Iterable[tuple[np.ndarray, int]], state: Callable[[], bytes] = bytes
    ) -> int:
        """Encode frames into a new segment, one at a time, and return their number.

        Args:
            frames: pixels (H, W, 3) in 0..1 and times, as `read_frames` yields them; (H, W, 4) if
                `keeps_alpha`.
            state: called after the last frame; returns what a later run needs to resume there.

        Raises:
            VideoError: the segment cannot be written, or a frame does not belong to this video.
        """
        unfinished = self.folder / "unfinished.mkv"
        try:
            segment = self._encode_segment(unfinished, frames)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        if not segment["times"]:
            unfinished.unlink(missing_ok=True)
            return 0
        number, state_bytes = len(self._segments), state()
        with self._write_errors():
            _sync(unfinished)
            os.replace(unfinished, self._path(number, "mkv"))
            write_atomic(self._path(number, "state"), state_bytes)
            write_atomic(self._path(number, "json"), json.dumps(segment).encode())
            # From here on the segment counts as finished.
            self._path(number - 1, "state").unlink(missing_ok=True)
        self._segments.append(segment)
        return len(segment["times"])

    def join(self) -> None:
        """Join the segments with the other streams of the source; nothing is encoded again.

        The segments are removed once the result is complete. If the source starts later than at 0,
        all times are shifted so that the result does not.

        Raises:
            VideoError: there are no segments, or the result cannot be written.
        """
        if not self._segments:
            raise VideoError(f"{self.out}: there are no frames to write.")
        joined = self.folder / f"joined{self.out.suffix}"
        with self._write_errors():
            try:
                self._join(joined)
                _sync(joined)
                os.replace(joined, self.out)
            finally:
                joined.unlink(missing_ok=True)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- Segments ------------------------------------------------------------------------------

    def _resume(self, manifest: dict[str, object]) -> list[Segment]:
        """Return the finished segments; remove them if they were written under other conditions."""
        file = self.folder / "manifest.json"
        try:
            previous = json.loads(file.read_bytes())
        except (OSError, ValueError):
            previous = {}
        if previous == manifest:
            paths = (self._path(number, "json") for number in count())
            return [json.loads(path.read_bytes()) for path in takewhile(os.path.exists, paths)]
        if os.path.exists(self._path(0, "json")):
            changed = ", ".join(key for key in manifest if manifest[key] != previous.get(key))
            log.warning("%s: started over, because this was changed: %s.", self.out.name, changed)
        for path in self.folder.iterdir():
            if path.name != "lock" and not path.is_dir():
                path.unlink()
        write_atomic(file, json.dumps(manifest).encode())
        return []

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:05}.{suffix}"

    @contextmanager
    def _write_errors(self) -> Generator[None, None, None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise VideoError(
                f"{self.out}: cannot be written as {self.encoder.codec} ({error_reason(error)}); "
                f"{self.done} finished frames are kept in {self.folder}."
            ) from error

    def _encode_segment(self, path: Path, frames: Iterable[tuple[np.ndarray, int]]) -> Segment:
        info, settings = self.info, self.encoder
        shape = (info.height, info.width, 4 if settings.has_alpha else 3)
        padding = ((0, settings.height - info.height), (0, settings.width - info.width), (0, 0))
        marker = FieldMarker(settings.field_order) if settings.field_order else None
        last = self._segments[-1]["times"][-1] if self._segments else None
        times: list[int] = []
        order: list[int] = []  # of packets, by number of frame
        with self._write_errors():
            container, stream = self._open_segment(path)

        def encode(frame: "VideoFrame | None") -> None:
            for packet in stream.encode(frame):
                packet.dts, packet.time_base = len(order) - MAX_REORDERING, SEGMENT_TIME_BASE
                assert packet.pts is not None  # encoders number their packets
                order.append(packet.pts)
                container.mux(packet)

        try:
            for pixels, time in frames:
                is_later = last is None or time > last
                if pixels.shape != shape or not is_later:
                    raise VideoError(
                        f"frame {self.done + len(times)} is {pixels.shape} at {time} after {last}; "
                        f"expected {shape} at a later time."
                    )
                with self._write_errors():
                    matrix = settings.color_tags[0]
                    padded = np.pad(pixels, padding, "edge") if np.any(padding) else pixels
                    frame = rgb_to_frame(padded, settings.pixel_format, matrix, settings.full_range)
                    frame.pts, frame.time_base = len(times), 1 / info.frame_rate
                    encode(marker.mark(frame) if marker else frame)
                last = time
                times.append(time)
            with self._write_errors():
                if times:
                    encode(None)
                container.close()
        except BaseException:
            with suppress(Exception):
                container.close()
            raise
        delay = max((place - number for place, number in enumerate(order)), default=0)
        return {"times": times, "delay": delay}

    def _open_segment(self, path: Path) -> "tuple[OutputContainer, VideoStream]":
        container = open_output(path, "matroska")
        info, settings = self.info, self.encoder
        options = dict(settings.options)
        stream = cast(
            "VideoStream",
            container.add_stream(settings.encoder, rate=info.frame_rate, options=options),
        )
        stream.width, stream.height = settings.width, settings.height
        stream.pix_fmt = settings.pixel_format
        stream.codec_context.time_base = 1 / info.frame_rate
        stream.thread_type = "AUTO"  # PyAV's default, threads within frames, costs x264 quality
        self._tag_color(stream.codec_context)
        return container, stream

    def _tag_color(self, context: "VideoCodecContext") -> None:
        context.colorspace, context.color_primaries, context.color_trc = self.encoder.color_tags
        context.color_range = FULL if self.encoder.full_range else LIMITED
        context.sample_aspect_ratio = self.info.pixel_aspect

    # --- Joining -------------------------------------------------------------------------------

    def _join(self, path: Path) -> None:
        container_format, info = VIDEO_FORMATS[self.out.suffix.lower()][0], self.info
        is_mp4 = container_format in ("mp4", "mov")
        options: dict[str, str] = {}
        if is_mp4:  # by default the start time of a stream is rounded to 1 ms
            unit = min(math.lcm(1000, info.time_base.denominator), 2**31 - 1)
            options = {"movie_timescale": str(unit)}
        with ExitStack() as stack:
            first = stack.enter_context(open_input(self._path(0, "mkv")))
            result = stack.enter_context(open_output(path, container_format, options))
            video = result.add_stream_from_template(first.streams.video[0])
            self._tag_color(video.codec_context)
            video.codec_context.framerate = info.frame_rate
            video.time_base = video.codec_context.time_base = info.time_base
            if self.encoder.codec == "h265" and is_mp4:
                video.codec_context.codec_tag = "hvc1"  # required by Apple's players
            if self.encoder.has_alpha and self.encoder.codec == "vp9":
                video.metadata["alpha_mode"] = "1"
            if has_streams(self.source):
                source, original = stack.enter_context(open_video(self.source))
                packets = self._merged_packets(source, original, result, video)
            else:
                packets = self._retimed_packets(video, Fraction(0))
            self._mux(packets, result, video)

    def _merged_packets(
        self,
        source: "InputContainer",
        original: "VideoStream",
        result: "OutputContainer",
        video: "VideoStream",
    ) -> "Iterator[Packet[VideoStream] | Packet[Stream]]":
        """Copy metadata, chapters and other streams; yield all packets in decoding order."""
        frame_rate = self.info.frame_rate
        start = Fraction(max(source.start_time or 0, 0), 10**6)
        result.metadata.update(lasting_metadata(source, frame_rate))
        video.metadata.update(lasting_metadata(original, frame_rate))
        if hasattr(result, "set_chapters"):  # not in PyAV 14.2
            result.set_chapters([shift_chapter(chapter, start) for chapter in source.chapters()])
        set_timecode(result, video)
        copies = add_passthrough_streams(source, original, result, self.out, frame_rate)
        return heapq.merge(
            self._retimed_packets(video, start),
            passthrough_packets(source, copies, start),
            key=_decoding_time,
        )

    def _mux(
        self,
        packets: "Iterable[Packet[VideoStream] | Packet[Stream]]",
        result: "OutputContainer",
        video: "VideoStream",
    ) -> None:
        """Write packets; damaged ones of other streams than the video are left out."""
        import av

        damaged: set[int] = set()
        for packet in packets:
            try:
                result.mux(packet)
            except (av.error.InvalidDataError, ValueError) as error:
                if packet.stream is video:
                    raise
                if packet.stream.index not in damaged:
                    details = self.out.name, packet.stream.type, error_reason(error)
                    log.warning("%s: damaged %s is left out (%s).", *details)
                damaged.add(packet.stream.index)

    def _retimed_packets(
        self, video: "VideoStream", start: Fraction
    ) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets of all segments at the times of their frames, `start` seconds earlier.

        Decoding times are the display times in order, earlier by the largest delay. The encoder's
        own do not fit the next segment if the frame rate varies.
        """
        step, shift = self.info.frame_duration, round(start / self.info.time_base)
        first_time = self._segments[0]["times"][0] - shift
        last_time = self._segments[-1]["times"][-1] - shift
        last_duration = self.info.last_duration or step
        delay = max(segment["delay"] for segment in self._segments)
        waiting = [first_time - step * early for early in range(delay, 0, -1)]
        for number, segment in enumerate(self._segments):
            with open_input(self._path(number, "mkv")) as container:
                for packet in container.demux(video=0):
                    if packet.size and packet.pts is not None:  # the last one, empty, is to flush
                        index = round(packet.pts * packet.time_base / SEGMENT_TIME_BASE)
                        time = segment["times"][index] - shift
                        packet.stream, packet.time_base = video, self.info.time_base
                        packet.pts, packet.dts = time, heapq.heappushpop(waiting, time)
                        packet.duration = last_duration if time == last_time else step
                        yield packet


def _decoding_time(packet: "Packet[VideoStream] | Packet[Stream]") -> Fraction:
    assert packet.dts is not None  # set by both sources of packets
    return packet.dts * packet.time_base


def _is_same_file(source: Path, out: Path) -> bool:
    return os.path.exists(source) and os.path.exists(out) and os.path.samefile(source, out)


def _file_signature(source: Path) -> list[int]:
    """Return number, bytes and newest modification time of a video's files."""
    files = list_frames(source) if is_sequence(source) else [source]
    stats = [os.stat(path) for path in files]
    return [len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)]


def _lock_folder(folder: Path) -> FileLock:
    """Lock a folder until the lock is released or the process ends.

    Raises:
        VideoError: another run holds the lock.
    """
    lock = FileLock(folder / "lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise VideoError(f"{folder}: in use by another run; wait for it, or stop it.") from error
    except (NotImplementedError, OSError) as error:  # some network drives have no locks
        reason = error_reason(error)
        log.warning("%s: cannot be locked (%s); do not start a second run.", folder, reason)
    return lock


def _sync(path: Path) -> None:
    """Flush a file to the disk before it is renamed."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
