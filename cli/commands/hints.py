"""`colorist hints`: pictures and folders in, coloured from a few coloured points out.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.checks import refuse_unwritable
from ...console.errors import FAILURES, Refusal, sentence
from .. import video
from ..jobs import Job, alone
from ..options import DEFAULT_POINTHINT, add_finish, add_network, add_pictures, finishing, load_role
from ..runner import Painters, color_all, write_missing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ...media.image_data import Picture
    from ...pipeline.by_hints import PointHintColorizer
    from ...pipeline.hints.schema import Hint


def add_hints(parser: argparse.ArgumentParser) -> None:
    """The command `colorist hints`."""
    parser.description = (
        "Colour pictures and films from a few coloured points, or correct an automatic network's "
        "colours by them. Outputs that are there already are left alone, and a stopped run goes on "
        "where it was."
    )
    add_pictures(parser)
    video.add_film(parser)
    add = parser.add_argument
    add(
        "--hints",
        required=True,
        metavar="HINTS",
        help='points that serve all of IN: a file, JSON such as {"version": 1, "points": [{"x": '
        '0.4, "y": 0.2, "color": "#8a5a3c"}]}, or - for stdin; or a folder with NAME.json for '
        "each picture. Of a film: those of its first frame, which go with what they lie on; or a "
        "folder with NUMBER.json, or NUMBER.png in colour, for some of its frames",
    )
    add(
        "--base",
        metavar="MODEL",
        help="automatic network whose colours the points correct",
    )
    add(
        "--overlay",
        action="store_true",
        help="write NAME-hints.png, too: the picture in grey with the points on it",
    )
    add_network(parser, DEFAULT_POINTHINT)
    add_finish(parser)
    parser.set_defaults(run=_hints, finish="exact")


def _hints(arguments: argparse.Namespace) -> int:
    arguments.naming = _with_overlay if arguments.overlay else alone
    return color_all(arguments, _painter)


def _with_overlay(target: Path) -> list[Path]:
    return [target, target.with_name(f"{target.stem}-hints.png")]


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Painters:
    """What colours and writes; everything that all pictures need is checked here."""
    import numpy as np
    import torch

    from ...pipeline.hints import rasterize

    try:
        films = [job.film for job in jobs]
        if any(films) and not all(films):
            raise Refusal("colour films and pictures in two runs: their hints mean other things.")
        hints_of = None if any(films) else _reader(arguments, jobs)
        keys_of = _keys(arguments) if any(films) else None
        pointhint = load_role(arguments, arguments.model, "pointhint")
        options = finishing(arguments, pointhint.spec)
        if arguments.base:
            base = options["base"] = load_role(arguments, arguments.base, "automatic")
            # A picture of one pixel shows whether it can be done.
            pointhint.prepare(np.zeros((1, 1, 3), np.float32), base=base)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(jobs[0].target.parent)

    def color(picture: "Picture", outputs: list[Path]) -> None:
        hints = hints_of(outputs[0])
        results = [(pointhint.colorize(picture.pixels, hints=hints, **options), picture.keep)]
        if arguments.overlay:
            whole = torch.from_numpy(picture.pixels)[None]
            results.append((rasterize.overlay(whole, hints)[0].numpy(), None))
        write_missing(arguments, outputs, results)

    device = pointhint.placement.device
    return Painters(color, lambda: _Frames(pointhint, options, keys_of(), device), device)


class _Frames:
    """Colours a film by hints that go with what they lie on: a painter of `video`."""

    def __init__(
        self,
        pointhint: "PointHintColorizer",
        options: dict,
        keys: "dict[int, list[Hint]]",
        device: object,
    ):
        from ...pipeline.hints.tracking import Follower

        self.pointhint, self.options, self.keys = pointhint, options, keys
        self.number, self.follower = 0, Follower(device=device)

    def paint(self, frames: "np.ndarray") -> "tuple[np.ndarray, list[dict[str, Tensor]]]":
        """See `video.Painter`."""
        import torch

        each, left = [], []
        for frame in frames:
            if self.number in self.keys:
                self.follower.replace(self.keys[self.number])
            each.append(self.follower.next(torch.from_numpy(frame).movedim(-1, 0)[None]))
            left.append(self.follower.tensors())
            self.number += 1
        return self.pointhint.colorize(frames, each=each, **self.options), left

    def restore(self, tensors: "dict[str, Tensor]", number: int) -> None:
        """See `video.Painter`."""
        from ...pipeline.hints.tracking import Follower

        self.follower, self.number = Follower.of(tensors, self.follower.device), number


def _reader(arguments: argparse.Namespace, jobs: list[Job]) -> Callable[[Path], list["Hint"]]:
    """What reads the hints of the picture with this target.

    Raises:
        Refusal, ValueError, OSError: hints for all pictures that are not there, or wrong.
    """
    from ...pipeline.hints import schema as hint_schema

    given = arguments.hints
    if os.path.isdir(given):
        sources = {job.target: job.source for job in jobs}
        return lambda target: _own(Path(given), sources[target], arguments.inputs)
    if given == "-":
        text = sys.stdin.read()
    elif given.lstrip().startswith(("{", "[")) or not given.strip():
        text = given
    elif os.path.exists(given):
        return _always(_file(Path(given)))
    else:
        raise Refusal(
            f"--hints {given}: no such file or folder, and no JSON, which begins with a brace."
        )
    return _always(hint_schema.read(text))


def _keys(arguments: argparse.Namespace) -> "Callable[[], dict[int, list[Hint]]]":
    """What gives the hints of a film by the numbers of the frames that they were made for."""
    import torch

    from ...media import image_io
    from ...pipeline.hints import tracking

    given = Path(arguments.hints)
    if not os.path.isdir(given):
        hints = _reader(arguments, [])(given)
        return lambda: {0: hints}
    keys: dict[int, list[Hint]] = {}
    for path in sorted(given.iterdir()):
        if not path.stem.isdecimal():
            continue
        number = int(path.stem)
        if number in keys:
            raise Refusal(f"{given}: two files for frame {number}; keep one of them.")
        if path.suffix.lower() == ".json":
            keys[number] = _file(path)
        elif path.suffix.lower() in image_io.SUFFIXES:
            rgb = torch.from_numpy(image_io.read(path).pixels[..., :3]).movedim(-1, 0)[None]
            keys[number] = tracking.of_picture(rgb.expand(-1, 3, -1, -1))
    if not keys:
        raise Refusal(
            f"{given}: no hints for frames of a film; expected files with their numbers for "
            "names, such as 0.json with points, or 120.png, that frame in colour."
        )
    return lambda: keys


def _always(hints: list["Hint"]) -> Callable[[Path], list["Hint"]]:
    return lambda target: hints


def _own(folder: Path, source: Path, inputs: list[Path]) -> list["Hint"]:
    """The hints of one picture: under its name in the folder, whose tree is that of IN."""
    above = next((given for given in inputs if given in source.parents), source.parent)
    place = (folder / source.relative_to(above)).with_suffix(".json")
    if not place.is_file():
        raise ValueError(
            f"it has no hints; expected them in {place}. For none, write "
            '{"version": 1, "points": []} into it.'
        )
    return _file(place)


def _file(path: Path) -> list["Hint"]:
    from ...pipeline.hints import schema as hint_schema

    try:
        return hint_schema.read(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
