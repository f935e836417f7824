"""`colorist colorize`: colorize images and videos automatically.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.errors import ExitCode, as_usage_errors
from ..jobs import Job, single_output
from ..options import (
    DEFAULT_COLORFORMER,
    DEFAULT_MODEL,
    FinishOptions,
    add_finish_options,
    add_input_options,
    add_memory_option,
    add_model_options,
    finish_options,
    load_engine,
    result_metadata,
)
from ..runner import Backends, run_jobs, write_missing
from ..video import add_video_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ...media.image_data import DecodedImage
    from ...ops.tensors import Image
    from ...pipeline.automatic import Colorizer
    from ...pipeline.video.frame_colorizers import FrameColorizer


def add_colorize(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist colorize`."""
    parser.description = (
        "Colorize images and videos. A folder is colorized with all its subfolders, which are "
        "repeated below OUT; if OUT is the name of a video, the images of the folder are its "
        "frames. Existing outputs are skipped, and an interrupted run is resumed by the same "
        "command."
    )
    add_input_options(parser)
    add_video_options(parser)
    add_model_options(parser, None, f"{DEFAULT_MODEL}; with --memory {DEFAULT_COLORFORMER}")
    add_memory_option(parser)
    add_finish_options(parser, published=True)
    parser.set_defaults(run=_run_colorize, naming=single_output)


def _run_colorize(arguments: argparse.Namespace) -> ExitCode:
    return run_jobs(arguments, _load_backends)


def load_automatic(arguments: argparse.Namespace) -> "tuple[Colorizer, FinishOptions]":
    """Load the automatic model with its color memory, and check the options for postprocessing.

    Raises:
        ValueError, OSError: the model, the memory or an option cannot be used.
    """
    from ...model_store import resolve
    from ...pipeline.color_memory.memory import load_memory

    model = arguments.model
    if model is None:
        model = DEFAULT_COLORFORMER if arguments.memory else DEFAULT_MODEL
    engine = load_engine(arguments, model, "automatic")
    options = finish_options(arguments, engine.spec)
    if arguments.memory:
        engine = engine.with_memory(load_memory(resolve.memory_path(arguments.memory)))
    return engine, options


def _load_backends(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load the engine, and check everything that concerns all inputs."""
    from ...pipeline.video.frame_colorizers import IndependentFrames

    with as_usage_errors():
        engine, options = load_automatic(arguments)

    def colorize(pixels: "np.ndarray") -> "Image":
        return engine.colorize(
            pixels, mask=options.mask, resolution=options.resolution, finish=options.finish
        )

    def colorize_image(image: "DecodedImage", outputs: list[Path]) -> None:
        metadata = result_metadata(arguments, image.metadata, engine)
        write_missing(arguments, outputs, [(colorize(image.pixels), metadata)])

    def video_colorizer(settings: "Mapping[str, object]") -> "FrameColorizer":
        return IndependentFrames(colorize, engine.device_manager.device, settings)

    return Backends(colorize_image, video_colorizer)
