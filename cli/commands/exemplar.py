"""`colorist exemplar`: colorize images and videos by reference images.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.errors import ExitCode, UsageError, as_usage_errors
from ...console.output import log_stderr
from ..jobs import Job, find_images, single_output
from ..options import (
    DEFAULT_EXEMPLAR,
    add_finish_options,
    add_input_options,
    add_model_options,
    finish_options,
    load_engine,
    load_reference_encoder,
    result_metadata,
)
from ..runner import Backends, run_jobs, write_missing
from ..video import add_video_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ...media.image_data import DecodedImage
    from ...pipeline.by_reference import ExemplarColorizer, ReferenceSet
    from ...pipeline.video.frame_colorizers import FrameColorizer


def add_exemplar(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist exemplar`."""
    parser.description = (
        "Colorize images and videos by reference images; a video by some of its frames in "
        "color. Several references are used together: each region takes its color from the most "
        "similar one. Existing outputs are skipped, and an interrupted run is resumed by the same "
        "command."
    )
    add_input_options(parser)
    add_video_options(parser)
    add = parser.add_argument
    add(
        "--reference",
        type=Path,
        nargs="+",
        required=True,
        metavar="REF",
        help="color images that are used for all of IN (transparent parts are ignored); or one "
        "folder, from which the best references for each image are chosen",
    )
    add(
        "--best",
        type=int,
        default=1,
        metavar="N",
        help="number of references chosen from a folder for each image (default: %(default)s)",
    )
    add(
        "--fallback",
        metavar="MODEL",
        help="automatic model for regions where the references give little information",
    )
    add(
        "--threshold",
        type=float,
        metavar="X",
        help="confidence below which the fallback is used: 0 = never to 1 = everywhere "
        "(default: 0.5)",
    )
    add(
        "--confidence",
        action="store_true",
        help="also write NAME-confidence.png: white = high confidence in the references",
    )
    add_model_options(parser, DEFAULT_EXEMPLAR)
    add_finish_options(parser, published=True)
    parser.set_defaults(run=_run_exemplar)


def _run_exemplar(arguments: argparse.Namespace) -> ExitCode:
    if arguments.threshold is not None and not arguments.fallback:
        raise UsageError("--threshold needs a fallback model; name one with --fallback.")
    if arguments.best < 1:
        raise UsageError(f"--best is {arguments.best}; expected 1 or more.")
    arguments.naming = _with_confidence if arguments.confidence else single_output
    return run_jobs(arguments, _load_backends)


def _with_confidence(target: Path) -> list[Path]:
    return [target, target.with_name(f"{target.stem}-confidence.png")]


def _load_backends(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load engine and references, and check everything that concerns all inputs."""
    from ...pipeline.by_reference import DEFAULT_THRESHOLD
    from ...pipeline.postprocess import select_renderer
    from ...pipeline.video.frame_colorizers import IndependentFrames

    folder = arguments.reference[0] if os.path.isdir(arguments.reference[0]) else None
    if folder and len(arguments.reference) > 1:
        raise UsageError("--reference accepts images, or one folder to choose from; not both.")
    with as_usage_errors():
        engine = load_engine(arguments, arguments.model, "exemplar")
        options = finish_options(arguments, engine.spec)
        if (
            arguments.fallback is not None
            and not select_renderer(options.finish, engine.spec).adjustable
        ):
            raise UsageError(
                f"--finish {arguments.finish} is the output of the official script; leave out "
                "--fallback."
            )
        fallback = None
        if arguments.fallback is not None:
            fallback = load_engine(arguments, arguments.fallback, "automatic")
        threshold = DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold
        if not 0 <= threshold <= 1:
            raise UsageError(f"--threshold is {threshold}; expected 0 to 1.")
        if folder:
            choose = _ReferenceChooser(arguments, engine, folder).choose
        else:
            references = engine.prepare_references(_read_pixels(arguments.reference))
    if folder and any(job.is_video for job in jobs):
        raise UsageError(
            "--reference names a folder to choose from for each image, which would change the "
            "reference from frame to frame; name frames of the video in color."
        )

    def colorize_image(image: "DecodedImage", outputs: list[Path]) -> None:
        colored, confidence = engine.colorize_with_confidence(
            image.pixels,
            reference=choose(image) if folder else references,
            fallback=fallback,
            threshold=threshold,
            mask=options.mask,
            resolution=options.resolution,
            finish=options.finish,
        )
        metadata = result_metadata(arguments, image.metadata, engine, fallback)
        results = [(colored, metadata), (confidence[..., None], None)]
        write_missing(arguments, outputs, results[: len(outputs)])

    def video_colorizer(settings: "Mapping[str, object]") -> "FrameColorizer":
        return IndependentFrames(
            lambda frames: engine.colorize(
                frames,
                reference=references,
                fallback=fallback,
                threshold=threshold,
                mask=options.mask,
                resolution=options.resolution,
                finish=options.finish,
            ),
            engine.device_manager.device,
            settings,
        )

    return Backends(colorize_image, video_colorizer)


def _read_pixels(paths: Sequence[Path]) -> "list[np.ndarray]":
    from ...media import image_io

    return [image_io.read_image(path).pixels for path in paths]


class _ReferenceChooser:
    """Chooses the best references from a folder for one image after another."""

    def __init__(
        self, arguments: argparse.Namespace, engine: "ExemplarColorizer", folder: Path
    ) -> None:
        """Index the folder.

        Raises:
            UsageError: the folder has no images.
        """
        from ...pipeline.references import search

        self._engine, self._count = engine, arguments.best
        self._photos = [job.source for job in find_images(folder) if not job.error]
        if not self._photos:
            raise UsageError(f"{folder}: no images in this folder to use as references.")
        self._encoder = load_reference_encoder(arguments)
        self._index = search.open_index(folder, self._encoder)

    def choose(self, image: "DecodedImage") -> "ReferenceSet":
        """Return the best references for an image, and print their names."""
        from ...pipeline.references import search

        ranking = search.find_references(
            image.pixels, self._photos, self._encoder, count=self._count, index=self._index
        )
        chosen = [self._photos[match.index] for match in ranking.matches]
        log_stderr("  reference: " + ", ".join(path.name for path in chosen))
        return self._engine.prepare_references(_read_pixels(chosen))
