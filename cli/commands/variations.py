"""`colorist variations`: several results of each picture.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import os
from pathlib import Path

from ...console.errors import Refusal
from .. import video
from ..jobs import numbered
from ..options import (
    DEFAULT_COLORFORMER,
    add_finish,
    add_network,
)
from .colorize import _add_memory, _colorize

MOST = 64  # variations of a picture


def add_variations(parser: argparse.ArgumentParser) -> None:
    """The command `colorist variations`."""
    parser.description = (
        "Write several results of each picture, NAME-1, NAME-2, ..., which lean towards different "
        "colours of the network's color memory."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture or folder")
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add(
        "--count",
        type=int,
        default=4,
        metavar="N",
        help=f"results, 1 to {MOST} (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="other seeds, other results (default: 0)")
    add(
        "--spread",
        type=float,
        default=0.5,
        metavar="X",
        help="how far they lean: 0 = not at all ... 1 = to one colour only (default: %(default)s)",
    )
    add_network(parser, DEFAULT_COLORFORMER)
    _add_memory(parser)
    add_finish(parser)
    parser.set_defaults(run=_variations, finish="exact", **video.NONE)


def _variations(arguments: argparse.Namespace) -> int:
    from ...media.image_io import SUFFIXES

    if arguments.out.suffix.lower() in SUFFIXES and not os.path.isdir(arguments.out):
        raise Refusal(f"-o {arguments.out} names one picture; name a folder for the variations.")
    if not 1 <= arguments.count <= MOST:
        raise Refusal(f"--count is {arguments.count}; expected 1 to {MOST} results.")
    if arguments.seed < 0:
        raise Refusal(f"--seed is {arguments.seed}; expected 0 or more.")
    arguments.naming = numbered(arguments.count)
    return _colorize(arguments)
