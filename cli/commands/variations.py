"""`colorist variations`: write several results for each image.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.errors import ExitCode, UsageError, as_usage_errors
from ..jobs import Job, numbered_outputs
from ..options import (
    DEFAULT_COLORFORMER,
    add_finish_options,
    add_memory_option,
    add_model_options,
    add_page_option,
    result_metadata,
)
from ..runner import Backends, run_jobs, write_missing
from ..video import NO_VIDEO_OPTIONS
from .colorize import load_automatic

if TYPE_CHECKING:
    from ...media.image_data import DecodedImage

MAX_VARIATIONS = 64


def add_variations(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist variations`."""
    parser.description = (
        "Write several results for each image, NAME-1, NAME-2, ..., which favor different colors "
        "of the color memory."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="image or folder")
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="output folder")
    add_page_option(parser)
    add(
        "--count",
        type=int,
        default=4,
        metavar="N",
        help=f"number of results, 1 to {MAX_VARIATIONS} (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add(
        "--spread",
        type=float,
        default=0.5,
        metavar="X",
        help="difference between the results, 0 = none to 1 = largest (default: %(default)s)",
    )
    add_model_options(parser, DEFAULT_COLORFORMER)
    add_memory_option(parser)
    add_finish_options(parser)
    parser.set_defaults(run=_run_variations, finish="exact", **NO_VIDEO_OPTIONS)


def _run_variations(arguments: argparse.Namespace) -> ExitCode:
    from ...media.formats import IMAGE_SUFFIXES

    if arguments.out.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(arguments.out):
        raise UsageError(
            f"-o {arguments.out} is the name of a single image; name a folder for the variations."
        )
    if not 1 <= arguments.count <= MAX_VARIATIONS:
        raise UsageError(f"--count is {arguments.count}; expected 1 to {MAX_VARIATIONS} results.")
    if arguments.seed < 0:
        raise UsageError(f"--seed is {arguments.seed}; expected 0 or more.")
    arguments.naming = numbered_outputs(arguments.count)
    return run_jobs(arguments, _load_backends)


def _load_backends(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load the engine, and check everything that concerns all inputs."""
    import numpy as np

    with as_usage_errors():
        engine, options = load_automatic(arguments)
        # An image of one pixel shows whether it is possible
        engine.vary(
            np.zeros((1, 1, 3), np.float32),
            count=arguments.count,
            seed=arguments.seed,
            spread=arguments.spread,
            resolution=engine.spec.multiple,
        )

    def colorize_image(image: "DecodedImage", outputs: list[Path]) -> None:
        results = engine.vary(
            image.pixels,
            count=arguments.count,
            seed=arguments.seed,
            spread=arguments.spread,
            mask=options.mask,
            resolution=options.resolution,
            finish=options.controls,
        )
        metadata = result_metadata(arguments, image.metadata, engine)
        write_missing(arguments, outputs, [(pixels, metadata) for pixels in results])

    return Backends(colorize_image)
