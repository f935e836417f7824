"""`colorist colorize`: pictures and folders in, coloured ones out.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.checks import refuse_unwritable
from ...console.errors import FAILURES, Refusal, sentence
from .. import video
from ..jobs import Job, alone
from ..options import (
    DEFAULT_COLORFORMER,
    DEFAULT_MODEL,
    add_finish,
    add_network,
    add_pictures,
    finishing,
    load_role,
    locate_memory,
)
from ..runner import Painters, color_all, write_missing

if TYPE_CHECKING:
    from ...media.image_data import Picture


def add_colorize(parser: argparse.ArgumentParser) -> None:
    """The command `colorist colorize`."""
    parser.description = (
        "Colour pictures and films. A folder is coloured with all below it, its tree repeated "
        "under OUT; if OUT is a film's name, its pictures are the frames. Outputs that are there "
        "already are left alone, and a stopped run goes on where it was."
    )
    add_pictures(parser)
    video.add_film(parser)
    add_network(parser, None, f"{DEFAULT_MODEL}; with --memory {DEFAULT_COLORFORMER}")
    _add_memory(parser)
    add_finish(parser, published=True)
    parser.set_defaults(run=_colorize, count=None, naming=alone)


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="NAME",
        help="color memory used instead of the network's: file, or name of a saved one",
    )


def _colorize(arguments: argparse.Namespace) -> int:
    return color_all(arguments, _painter)


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Painters:
    """What colours and writes; everything that all pictures need is checked here."""
    import numpy as np

    from ...pipeline.color_memory import memory

    try:
        model = arguments.model or (DEFAULT_COLORFORMER if arguments.memory else DEFAULT_MODEL)
        colorizer = load_role(arguments, model, "automatic")
        options = finishing(arguments, colorizer.spec)
        if arguments.memory:
            colorizer = colorizer.with_memory(memory.load(locate_memory(arguments.memory)))
        sampling = {name: getattr(arguments, name, None) for name in ("count", "seed", "spread")}
        if arguments.count is not None:  # a picture of one pixel shows whether it can be done
            least = colorizer.spec.multiple
            colorizer.vary(np.zeros((1, 1, 3), np.float32), resolution=least, **sampling)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(jobs[0].target.parent)

    def color(picture: "Picture", outputs: list[Path]) -> None:
        if arguments.count is None:
            results = [colorizer.colorize(picture.pixels, **options)]
        else:
            results = colorizer.vary(picture.pixels, **sampling, **options)
        write_missing(arguments, outputs, ((pixels, picture.keep) for pixels in results))

    alike = video.Alike(lambda frames: colorizer.colorize(frames, **options))
    return Painters(color, lambda: alike, colorizer.placement.device)
