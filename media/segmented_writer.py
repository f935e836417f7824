"""Films written: in parts, so that a stopped run goes on, and joined at the end.

All that the source holds beside its pictures (sound, subtitles, chapters, names) is copied into the
result as it is.
"""

import heapq
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .. import __version__
from . import atomic
from .remux import _copied, _kept, _lasting, _moved
from .video_info import Film, FilmError, reason, step_of
from .video_reader import open_file, opened, pictures_in
from .yuv import FULL, LIMITED, frame_of

if TYPE_CHECKING:
    from av import Packet, VideoCodecContext, VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream


log = logging.getLogger(__name__)

FORMATS = {  # suffix -> FFmpeg's name, and what we write into it, the default first
    ".mkv": ("matroska", ("h264", "h265", "vp9", "ffv1", "prores")),
    ".mp4": ("mp4", ("h264", "h265", "vp9")),
    ".m4v": ("mp4", ("h264", "h265")),
    ".mov": ("mov", ("h264", "h265", "prores")),
    ".webm": ("webm", ("vp9",)),
}
CODECS = {  # name -> FFmpeg's encoder, its quality (CRF: default, most; None: has none), options
    "h264": ("libx264", (16, 51), {"preset": "medium"}),
    "h265": ("libx265", (18, 51), {"preset": "medium", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", (24, 63), {"b": "0", "row-mt": "1", "cpu-used": "2"}),
    "prores": ("prores_ks", None, {"vendor": "apl0"}),  # its profile for 4:2:2 is HQ
    "ffv1": ("ffv1", None, {"level": "3", "g": "1", "slicecrc": "1"}),
}
TICK = Fraction(1, 25)  # between the frames of a part, which is to number them: Matroska holds ms


class Parts:
    """The unfinished result of one film: parts in a hidden folder beside it, each of them whole.

    A stopped run goes on behind its last finished part, if film, settings and programs are still
    the same. To be used in a `with`: meanwhile, other runs for the same result are refused.
    """

    def __init__(
        self,
        source: str | Path,
        out: str | Path,
        film: Film,
        *,
        settings: Mapping[str, object],
        codec: str | None = None,
        quality: int | None = None,
    ) -> None:
        """Take up the unfinished result `out`, or begin it.

        Args:
            source: film or folder of pictures; `join` copies what else is in it.
            film: what its pictures are like, as `probe` says.
            settings: all else that changes the result, as JSON can hold it.
            codec: of CODECS; None for what is usual in files like `out`.
            quality: CRF, less is better; None for the codec's default.
        Raises:
            FilmError: it cannot be written like this, or another run is writing it.
            OSError: its folder cannot be made.
        """
        import av

        self.source, self.out, self.film = Path(source), Path(out), film
        self.codec, self._encoder, self._options, self._kind = _encoding(
            self.out, film, codec, quality
        )
        self._full = film.full and self.codec != "prores"  # which is limited always
        if os.path.exists(self.out) and os.path.samefile(self.source, self.out):
            raise FilmError(f"{self.out} is the film itself; originals are never overwritten.")
        self.folder = self.out.with_name(f".colorist-{self.out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder / "lock")
        made = {
            "film": [_identity(self.source), str(film)],
            "settings": dict(settings),
            "encoder": [self._encoder, self._kind, self._options],
            "version": [__version__, av.__version__],
        }
        self._parts = self._found(json.loads(json.dumps(made)))

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Leave finished parts to a later run; without any, nothing is left."""
        if not self._lock.closed:
            self._lock.close()
            if not self._parts:
                shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def done(self) -> int:
        """Frames in finished parts: where to go on."""
        return sum(len(part["times"]) for part in self._parts)

    @property
    def state(self) -> bytes:
        """What `write` was given to keep with the last finished part; empty without one."""
        return self._path(len(self._parts) - 1, "state").read_bytes() if self._parts else b""

    def write(
        self, frames: Iterable[tuple[np.ndarray, int]], state: Callable[[], bytes] = bytes
    ) -> int:
        """Write a part, frame by frame as they come; returns how many there were.

        Args:
            frames: pixels (H, W, 3) in 0..1 and times, as `read` gives them.
            state: called behind the last frame, for what a later run needs to go on there.
        Raises:
            FilmError: it cannot be written, or a frame does not belong to this film.
        """
        film, unfinished, number = self.film, self.folder / "unfinished.mkv", len(self._parts)
        last = self._parts[-1]["times"][-1] if self._parts else None
        times, order = [], []  # of frames; of packets, by number of frame
        with self._explained():
            container, stream = self._part(unfinished)

        def mux(frame: "VideoFrame | None") -> None:
            for packet in stream.encode(frame):
                # x265 gives wrong times to decode at now and then; no codec is more than 16 ahead.
                packet.dts, packet.time_base = len(order) - 16, TICK
                order.append(packet.pts)
                container.mux(packet)

        try:
            for pixels, time in frames:
                later = last is None or time > last
                if pixels.shape != (film.height, film.width, 3) or not later:
                    raise FilmError(
                        f"frame {self.done + len(times)} is {pixels.shape} at {time} after {last}; "
                        f"expected {(film.height, film.width, 3)} at a later time."
                    )
                with self._explained():
                    frame = frame_of(pixels, self._kind, film.color[0], self._full)
                    frame.pts, frame.time_base = len(times), 1 / film.rate
                    mux(frame)
                last = time
                times.append(time)
            with self._explained():
                if times:
                    mux(None)
                container.close()
        except BaseException:
            with suppress(Exception):
                container.close()
            unfinished.unlink(missing_ok=True)
            raise
        if not times:
            return 0
        # Frames by which decoding is ahead of showing
        delay = max(place - shown for place, shown in enumerate(order))
        part, kept = {"times": times, "delay": delay}, state()
        with self._explained():
            _sync(unfinished)
            os.replace(unfinished, self._path(number, "mkv"))
            atomic.write_whole(self._path(number, "state"), kept)
            atomic.write_whole(self._path(number, "json"), json.dumps(part).encode())
            # The part counts from here on.
            self._path(number - 1, "state").unlink(missing_ok=True)
        self._parts.append(part)
        return len(times)

    def join(self) -> None:
        """Make the film of its parts and of all that the source has beside its pictures.

        Nothing is encoded again. The parts go when the film is there, whole. Where the source
        begins later than at 0, the film does not: all of its times are moved.

        Raises:
            FilmError: there are no parts, or the film cannot be written.
        """
        if not self._parts:
            raise FilmError(f"{self.out}: there are no frames to make a film of.")
        joined = self.folder / f"joined{self.out.suffix}"
        with self._explained():
            try:
                self._join(joined)
                _sync(joined)
                os.replace(joined, self.out)
            finally:
                joined.unlink(missing_ok=True)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self, made: dict) -> list[dict]:
        """The finished parts; none, and removed, if they were made otherwise."""
        description = self.folder / "made.json"
        try:
            before = json.loads(description.read_bytes())
        except (OSError, ValueError):
            before = {}
        if before == made:
            paths = (self._path(number, "json") for number in count())
            return [json.loads(path.read_bytes()) for path in takewhile(os.path.exists, paths)]
        if os.path.exists(self._path(0, "json")):
            changed = ", ".join(key for key in made if made[key] != before.get(key))
            log.warning("%s: begun anew, as this was changed: %s.", self.out.name, changed)
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()
        atomic.write_whole(description, json.dumps(made).encode())
        return []

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:05}.{suffix}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            raise FilmError(
                f"{self.out}: cannot be written as {self.codec} ({reason(error)}); "
                f"{self.done} finished frames are kept in {self.folder}."
            ) from error

    def _part(self, path: Path) -> "tuple[OutputContainer, VideoStream]":
        container = open_file(path, "w", format="matroska")
        options = dict(self._options)
        stream = container.add_stream(self._encoder, rate=self.film.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = self.film.width, self.film.height, self._kind
        stream.codec_context.time_base = 1 / self.film.rate
        stream.thread_type = "AUTO"  # PyAV's choice, threads within frames, costs x264 quality
        self._tag(stream.codec_context)
        return container, stream

    def _tag(self, context: "VideoCodecContext") -> None:
        context.colorspace, context.color_primaries, context.color_trc = self.film.color
        context.color_range = FULL if self._full else LIMITED
        context.sample_aspect_ratio = self.film.aspect

    def _join(self, path: Path) -> None:
        import av

        kind, film, options = FORMATS[self.out.suffix.lower()][0], self.film, {}
        if kind in ("mp4", "mov"):  # which would round the time at which a stream begins to 1 ms
            unit = min(math.lcm(1000, film.time_base.denominator), 2**31 - 1)
            options = {"movie_timescale": str(unit)}
        with ExitStack() as stack:
            part = stack.enter_context(open_file(self._path(0, "mkv")))
            result = stack.enter_context(open_file(path, "w", format=kind, options=options))
            video = result.add_stream_from_template(part.streams.video[0])
            self._tag(video.codec_context)
            video.codec_context.framerate = film.rate
            video.time_base = video.codec_context.time_base = film.time_base
            if self.codec == "h265" and kind in ("mp4", "mov"):
                video.codec_context.codec_tag = "hvc1"  # which Apple's players want
            packets = self._shown(video, Fraction(0))
            if not os.path.isdir(self.source):
                source, pictures = stack.enter_context(opened(self.source))
                start = Fraction(max(source.start_time or 0, 0), 10**6)
                result.metadata.update(_lasting(source, film.rate))
                video.metadata.update(_lasting(pictures, film.rate))
                if hasattr(result, "set_chapters"):  # not in PyAV 14.2
                    result.set_chapters([_moved(chapter, start) for chapter in source.chapters()])
                kept = _kept(source, pictures, result, self)
                both = self._shown(video, start), _copied(source, kept, start)
                packets = heapq.merge(*both, key=lambda packet: packet.dts * packet.time_base)
            damaged = set()
            for packet in packets:
                try:
                    result.mux(packet)
                except (av.error.InvalidDataError, ValueError) as error:
                    if packet.stream is video:
                        raise
                    if packet.stream.index not in damaged:
                        about = self.out.name, packet.stream.type, reason(error)
                        log.warning("%s: damaged %s is left out (%s).", *about)
                    damaged.add(packet.stream.index)

    def _shown(self, video: "VideoStream", start: Fraction) -> "Iterator[Packet]":
        """The pictures' packets at the times of their frames, `start` seconds earlier."""
        step, shift = step_of(self.film), round(start / self.film.time_base)
        first, delay = self._parts[0]["times"][0] - shift, max(p["delay"] for p in self._parts)
        # Frames are decoded at the times at which frames are shown, earlier by the delay. The
        # encoder's own times fit no other part where the rate varies.
        waiting = [first - step * early for early in range(delay, 0, -1)]
        for number, part in enumerate(self._parts):
            with open_file(self._path(number, "mkv")) as container:
                for packet in container.demux(video=0):
                    if packet.size:  # not the last, which is to flush a decoder
                        shown = part["times"][round(packet.pts * packet.time_base / TICK)] - shift
                        packet.stream, packet.time_base = video, self.film.time_base
                        packet.pts, packet.dts = shown, heapq.heappushpop(waiting, shown)
                        packet.duration = step
                        yield packet


def _encoding(
    out: Path, film: Film, codec: str | None, quality: int | None
) -> tuple[str, str, dict[str, str], str]:
    """Codec, FFmpeg's encoder, its options, kind of frames; FilmError for what cannot be."""
    import av

    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise FilmError(f"{out.name}: films are written as {', '.join(FORMATS)}.")
    held = FORMATS[suffix][1]
    codec = codec or held[0]
    at_hand = [name for name in held if CODECS[name][0] in av.codecs_available]
    if codec not in at_hand:
        why = "this PyAV cannot write" if codec in held else f"{suffix} does not hold"
        others = ", ".join(at_hand) or "none; install PyAV from PyPI"
        raise FilmError(f"{out.name}: {why} {codec}. At hand for it: {others}.")
    encoder, crf, options = CODECS[codec]
    if quality is not None and (crf is None or not 0 <= quality <= crf[1]):
        expected = f"expected 0 (best) to {crf[1]}" if crf else "it has none to choose"
        raise FilmError(f"quality {quality} for {codec}: {expected}.")
    if crf:
        options = {**options, "crf": str(crf[0] if quality is None else quality)}
    size = {"ffv1": "444", "prores": "422"}.get(codec, "420")
    size = "444" if film.width % 2 or film.height % 2 else size
    kind = f"yuv{size}p10le" if film.bits > 8 or codec == "prores" else f"yuv{size}p"
    kinds = [found.name for found in av.Codec(encoder, "w").video_formats or ()]
    if kinds and kind not in kinds:
        log.warning("%s: this PyAV writes %s with 8 bits only.", out.name, codec)
        kind = kind.removesuffix("10le")
    if film.aspect != 1 and codec in ("vp9", "prores") and suffix in (".mkv", ".webm"):
        what = f"{codec} in {suffix} cannot say that pixels are not square"  # through PyAV
        log.warning("%s: %s; write .mp4 or .mov to keep their shape.", out.name, what)
    return codec, encoder, options, kind


def _identity(source: Path) -> list[int]:
    """Number, bytes and newest time of a film's files."""
    found = pictures_in(source) if os.path.isdir(source) else [source]
    stats = [os.stat(path) for path in found]
    return [len(stats), sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)]


def _lock(path: Path) -> BinaryIO:
    """Hold a file until it is closed or the process ends; FilmError where another run does."""
    file = path.open("wb")
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise FilmError(
            f"{path.parent}: in use by another run; wait for it, or stop it."
        ) from error
    except OSError as error:  # some network drives have no locks
        log.warning("%s: cannot be locked (%s); start no second run.", path.parent, reason(error))
    return file


def _sync(path: Path) -> None:
    """Have all of a file on the disk before it gets its name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
