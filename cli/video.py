"""Films on the command line: frames are read, coloured in batches, steadied, written in parts.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..console.errors import Refusal
from ..console.output import say

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ..media.video_info import Film

log = logging.getLogger(__name__)
PART = 240  # frames that are finished together: what a stopped run does again at most
BATCH_PIXELS = 2**24  # of frames that are coloured at once,
BATCH = 16  # and the most of them
EVERY = 5.0  # seconds between lines about progress
NONE = {"stabilize": False, "frames": False, "frames_before": None, "frames_after": None}
NONE |= {"rate": None, "codec": None, "quality": None}  # for commands without options for films
STATE = "stabilizer."  # before its names, among what is kept for going on


class Painter(Protocol):
    """Colours the frames of one film, in order."""

    def paint(self, frames: "np.ndarray") -> "tuple[np.ndarray, list[dict[str, Tensor]]]":
        """(B, H, W, 3) in 0..1 -> the same, coloured; what goes on needs behind each of them."""

    def restore(self, tensors: "dict[str, Tensor]", number: int) -> None:
        """Go on at frame `number`, with what `paint` gave behind the frame before it."""


@dataclass
class Alike:
    """Colours each frame by itself: a painter."""

    colorize: "Callable[[np.ndarray], np.ndarray]"

    def paint(self, frames: "np.ndarray") -> "tuple[np.ndarray, list[dict[str, Tensor]]]":
        """See `Painter`."""
        return self.colorize(frames), [{}] * len(frames)

    def restore(self, tensors: "dict[str, Tensor]", number: int) -> None:
        """See `Painter`."""


class Done(NamedTuple):
    """A frame that is finished."""

    pixels: "np.ndarray"
    time: int
    left: "dict[str, Tensor]"
    """What goes on needs behind it."""


def add_film(parser: argparse.ArgumentParser) -> None:
    """Options for films."""
    add = parser.add_argument_group("films").add_argument
    add(
        "--stabilize",
        action="store_true",
        help="steady the colour over time: it is carried along what moves; cuts begin anew. IN may "
        "be a folder of frames, too",
    )
    add(
        "--frames-before",
        type=int,
        metavar="N",
        help="frames before that have a say in a frame's colour (default: 12)",
    )
    add(
        "--frames-after",
        type=int,
        metavar="N",
        help="frames after that have a say, too (default: 8)",
    )
    add(
        "--codec",
        help="h264 (default), h265, vp9 (default of .webm), prores, ffv1 (no loss; .mkv)",
    )
    add("--quality", type=int, metavar="CRF", help="less is better, and larger (default: 16)")
    add(
        "--rate",
        type=Fraction,
        metavar="FPS",
        help="frames per second of a folder of frames, such as 24 or 24000/1001 (default: 24)",
    )
    add("--frames", action="store_true", help="write a film as pictures into the folder OUT/NAME")


def is_film(path: Path) -> bool:
    """Whether the name is that of a film file."""
    from ..media.video_reader import SUFFIXES

    return path.suffix.lower() in SUFFIXES and not os.path.isdir(path)


def check(arguments: argparse.Namespace) -> dict:
    """Options of the stabilizer. Refusal where they, or others for films, do not go together."""
    from ..pipeline.video.stabilizer import Controls

    given = {"frames": arguments.frames_before, "ahead": arguments.frames_after}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not arguments.stabilize:
        raise Refusal("--frames-before and --frames-after belong to --stabilize; add it.")
    if arguments.rate is not None and arguments.rate <= 0:
        raise Refusal(f"--rate is {arguments.rate}; expected frames per second, more than 0.")
    try:
        Controls(**given)
    except ValueError as error:
        text = str(error).replace("frames is", "--frames-before is")
        raise Refusal(text.replace("ahead is", "--frames-after is")) from error
    return given


def color_film(
    arguments: argparse.Namespace,
    source: Path,
    target: Path,
    painter: Painter,
    device: object,
    settings: dict,
) -> None:
    """Colour one film; a stopped run goes on behind its last finished part.

    Args:
        source: film, or folder of frames.
        target: film; or a folder, for pictures.
        painter: colours the frames.
        device: where to steady them.
        settings: all that changes the result, beside the options for films: those of the command.
    Raises:
        ValueError, OSError: it cannot be read or written.
    """
    import torch
    from safetensors.torch import load, save

    from ..media import video_reader
    from ..pipeline.video.stabilizer import Controls, Stabilizer, State

    controls = check(arguments)
    film = video_reader.probe(source, rate=24 if arguments.rate is None else arguments.rate)
    settings = settings | {"stabilize": arguments.stabilize, **controls}
    with _sink(arguments, source, target, film, settings) as sink:
        left = load(sink.state) if sink.state else {}
        if sink.done:
            say(f"  {source.name}: goes on behind frame {sink.done}")
            painter.restore(_named(left, "painter."), sink.done)
        stabilizer = None
        if arguments.stabilize:
            state = _named(left, STATE)
            stabilizer = Stabilizer(
                Controls(**controls), device=device, state=State.of(state) if state else None
            )
        with closing(video_reader.read(source, sink.done)) as frames:
            colored = _colored(frames, painter, film)
            finished = _steadied(colored, stabilizer) if stabilizer else colored
            told = _telling(finished, source.name, sink.done, film.frames)
            last: dict[str, torch.Tensor] = {}

            def kept() -> Iterator[tuple["np.ndarray", int]]:
                for pixels, when, behind in islice(told, PART):
                    last.clear()
                    last.update(behind)
                    yield pixels, when

            while sink.write(kept(), lambda: save(last) if last else b"") == PART:
                pass
        sink.join()


def _named(tensors: "dict[str, Tensor]", prefix: str) -> "dict[str, Tensor]":
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _colored(
    frames: "Iterator[tuple[np.ndarray, int]]", painter: Painter, film: "Film"
) -> Iterator[Done]:
    """Frames coloured in batches."""
    import numpy as np

    batch = max(1, min(BATCH, BATCH_PIXELS // (film.width * film.height)))
    while some := list(islice(frames, batch)):
        pixels, times = zip(*some, strict=True)
        colored, left = painter.paint(np.stack(pixels))
        for one, when, own in zip(colored, times, left, strict=True):
            yield Done(one, when, {f"painter.{name}": x for name, x in own.items()})


def _steadied(colored: Iterable[Done], stabilizer) -> Iterator[Done]:
    """Frames steadied, which come later than they go in."""
    import torch

    waiting: deque[Done] = deque()

    def given(frame: "Tensor") -> Done:
        own = waiting.popleft()
        state = stabilizer.given.tensors()
        left = own.left | {f"{STATE}{name}": x.cpu() for name, x in state.items()}
        return Done(frame.numpy(), own.time, left)

    for done in colored:
        waiting.append(done._replace(pixels=None))
        for frame in stabilizer.push(torch.from_numpy(done.pixels)[None]):
            yield given(frame)
    for frame in stabilizer.finish():
        yield given(frame[0])


def _telling(done: Iterator[Done], name: str, begin: int, total: int | None) -> Iterator[Done]:
    """The same, with a line about progress every few seconds."""
    began = said = time.monotonic()
    for number, frame in enumerate(done, 1):
        yield frame
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            of = f"/{total}" if total else ""
            say(f"  {name}: {begin + number}{of} frames, {number / (now - began):.1f} a second")


def _sink(arguments: argparse.Namespace, source: Path, target: Path, film: "Film", settings: dict):
    from ..media.segmented_writer import FORMATS, Parts

    if target.suffix.lower() not in FORMATS:
        return _Pictures(source, target, settings, overwrite=arguments.overwrite)
    return Parts(
        source,
        target,
        film,
        settings=settings,
        codec=arguments.codec,
        quality=arguments.quality,
    )


class _Pictures:
    """The coloured frames of a film as pictures in a folder; used as `Parts` is."""

    def __init__(self, source: Path, folder: Path, settings: dict, *, overwrite: bool):
        """Raises FilmError where other pictures are in the folder and not to be overwritten."""
        from ..media import image_io, video_info, video_reader

        self.folder, self.work = folder, folder / ".colorist-film"
        self.sources = video_reader.pictures_in(source) if os.path.isdir(source) else None
        stat = os.stat(source)
        made = [str(source.absolute()), stat.st_size, stat.st_mtime_ns, settings]
        self.made = json.loads(json.dumps(made))
        if self.sources:
            self.made[1:3] = [len(self.sources), 0]  # OUT may lie in it
        self.done, self.state = 0, b""
        try:
            kept = json.loads((self.work / "made.json").read_bytes())
            if kept["made"] == self.made and not (overwrite and kept["state"] is None):
                name = kept["state"]  # None: finished
                self.state = (self.work / name).read_bytes() if name else b""
                self.done = kept["done"]
            elif kept["made"] != self.made:
                log.warning("%s: begun anew, as the film or a setting was changed.", folder)
        except (OSError, ValueError, KeyError):
            there = folder.iterdir() if folder.is_dir() else ()
            if not overwrite and any(path.suffix.lower() in image_io.SUFFIXES for path in there):
                raise video_info.FilmError(
                    f"{folder} holds other pictures; name another folder, or --overwrite."
                ) from None

    def __enter__(self) -> "_Pictures":
        return self

    def __exit__(self, *_) -> None: ...

    def write(self, frames: Iterable[tuple], state: Callable[[], bytes]) -> int:
        """See `Parts.write`."""
        from ..media import atomic, image_io

        count = 0
        for count, (pixels, _) in enumerate(frames, 1):
            if self.done + count == 1:
                self._note("")  # from here on these pictures are ours
            number, keep = self.done + count - 1, None
            name = f"{number:06}.png"
            if self.sources:
                own = self.sources[number]
                keep = image_io.read(own).keep
                name = own.name if own.suffix.lower() in image_io.FORMATS else f"{own.stem}.png"
            image_io.write(self.folder / name, pixels, keep)
        if count:
            before, self.done = self.done, self.done + count
            atomic.write_whole(self.work / f"{self.done}.state", state())
            self._note(f"{self.done}.state")
            (self.work / f"{before}.state").unlink(missing_ok=True)
        return count

    def join(self) -> None:
        """Note that it is finished; a run that finds this has nothing to do."""
        self._note(None)
        (self.work / f"{self.done}.state").unlink(missing_ok=True)

    def _note(self, state: str | None) -> None:
        from ..media import atomic

        kept = {"made": self.made, "state": state, "done": self.done}
        atomic.write_whole(self.work / "made.json", json.dumps(kept).encode())
