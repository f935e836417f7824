"""`colorist hints`: pictures and folders in, coloured from a few coloured points out.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_colorize import (
    Job,
    Paint,
    add_finish,
    add_pictures,
    alone,
    color_all,
    finishing,
    load_role,
    write_missing,
)
from .cli_common import (
    DEFAULT_POINTHINT,
    FAILURES,
    Refusal,
    add_network,
    refuse_unwritable,
    sentence,
)

if TYPE_CHECKING:
    from .pipeline.files import Picture
    from .pipeline.hints import Hint


def add_hints(parser: argparse.ArgumentParser) -> None:
    """The command `colorist hints`."""
    parser.description = (
        "Colour pictures from a few coloured points, or correct an automatic network's colours by "
        "them. Outputs that are there already are left alone, so a stopped run goes on where it "
        "was."
    )
    add_pictures(parser)
    add = parser.add_argument
    add(
        "--hints",
        required=True,
        metavar="HINTS",
        help='points that serve all of IN: a file, JSON such as {"version": 1, "points": [{"x": '
        '0.4, "y": 0.2, "color": "#8a5a3c"}]}, or - for stdin; or a folder with NAME.json for '
        "each picture",
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


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Paint:
    """What colours and writes one picture; everything that all pictures need is checked here."""
    import numpy as np
    import torch

    from .pipeline import hints as hint_points

    try:
        hints_of = _reader(arguments, jobs)
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
            results.append((hint_points.overlay(whole, hints)[0].numpy(), None))
        write_missing(arguments, outputs, results)

    return color


def _reader(arguments: argparse.Namespace, jobs: list[Job]) -> Callable[[Path], list["Hint"]]:
    """What reads the hints of the picture with this target.

    Raises:
        Refusal, ValueError, OSError: hints for all pictures that are not there, or wrong.
    """
    from .pipeline import hints as hint_points

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
    return _always(hint_points.read(text))


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
    from .pipeline import hints as hint_points

    try:
        return hint_points.read(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
