"""`colorist hints`: colorize images and videos by hint points.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.errors import ExitCode, UsageError, as_usage_errors
from ..jobs import Job, single_output
from ..options import (
    DEFAULT_POINTHINT,
    add_finish_options,
    add_input_options,
    add_model_options,
    finish_options,
    load_engine,
    result_metadata,
)
from ..runner import Backends, Result, run_jobs, write_missing
from ..video import add_video_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...media.image_data import DecodedImage
    from ...pipeline.hints.schema import Hint
    from ...pipeline.video.frame_colorizers import FrameColorizer

HintsOf = Callable[[Path], "list[Hint]"]
"""Target of an image -> its hints."""


def add_hints(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist hints`."""
    parser.description = (
        "Colorize images and videos by hint points, or correct the colors of an automatic model "
        "with them. Existing outputs are skipped, and an interrupted run is resumed by the same "
        "command."
    )
    add_input_options(parser)
    add_video_options(parser, in_folders=False)
    add = parser.add_argument
    add(
        "--hints",
        required=True,
        metavar="HINTS",
        help='hint points for all of IN: a file, JSON such as {"version": 1, "points": [{"x": '
        '0.4, "y": 0.2, "color": "#8a5a3c"}]}, or - for stdin; or a folder with NAME.json for '
        "each image. For a video: the hint points of its first frame, which follow what they lie "
        "on; or a folder with NUMBER.json, or NUMBER.png in color, for some of its frames",
    )
    add("--base", metavar="MODEL", help="automatic model whose colors the hint points correct")
    add(
        "--overlay",
        action="store_true",
        help="also write NAME-hints.png: the image in gray with the hint points",
    )
    add_model_options(parser, DEFAULT_POINTHINT)
    add_finish_options(parser)
    parser.set_defaults(run=_run_hints, finish="exact")


def _run_hints(arguments: argparse.Namespace) -> ExitCode:
    arguments.naming = _with_overlay if arguments.overlay else single_output
    if arguments.hints == "-":  # once: videos may be colorized in another process
        arguments.hints = sys.stdin.read() or " "
    return run_jobs(arguments, _load_backends)


def _with_overlay(target: Path) -> list[Path]:
    return [target, target.with_name(f"{target.stem}-hints.png")]


def _load_backends(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load engine and hints, and check everything that concerns all inputs."""
    import numpy as np
    import torch

    from ...pipeline.hints.rasterize import draw_hints
    from ...pipeline.video.frame_colorizers import HintedFrames

    videos = [job for job in jobs if job.is_video]
    if videos and len(videos) < len(jobs):
        raise UsageError(
            "hints have another meaning for videos than for images; colorize them in two runs."
        )
    with as_usage_errors():
        if videos:
            keyframes = _keyframe_hints(arguments.hints)
        else:
            hints_of = _image_hints(arguments, jobs)
        engine = load_engine(arguments, arguments.model, "pointhint")
        options = finish_options(arguments, engine.spec)
        base = None
        if arguments.base is not None:
            base = load_engine(arguments, arguments.base, "automatic")
            # An image of one pixel shows whether it is possible
            engine.prepare(np.zeros((1, 1, 3), np.float32), base=base)

    def colorize_image(image: "DecodedImage", outputs: list[Path]) -> None:
        hints = hints_of(outputs[0])
        colored = engine.colorize(
            image.pixels,
            hints=hints,
            base=base,
            mask=options.mask,
            resolution=options.resolution,
            finish=options.controls,
        )
        metadata = result_metadata(arguments, image.metadata, engine, base)
        results: list[Result] = [(colored, metadata)]
        if arguments.overlay:
            batch = torch.from_numpy(image.pixels)[None]
            results.append((draw_hints(batch, hints)[0].numpy(), None))
        write_missing(arguments, outputs, results)

    def video_colorizer(settings: "Mapping[str, object]") -> "FrameColorizer":
        return HintedFrames(
            lambda frames, hints: engine.colorize(
                frames,
                hints_per_image=hints,
                base=base,
                mask=options.mask,
                resolution=options.resolution,
                finish=options.controls,
            ),
            keyframes,
            engine.device_manager.device,
            settings,
        )

    return Backends(colorize_image, video_colorizer)


def _image_hints(arguments: argparse.Namespace, jobs: list[Job]) -> HintsOf:
    """Return a function that gives the hints of an image by its target.

    Raises:
        UsageError, ValueError, OSError: hints for all images that do not exist or are wrong.
    """
    if os.path.isdir(arguments.hints):
        folder = Path(arguments.hints)
        sources = {job.target: job.source for job in jobs}
        return lambda target: _hints_in_folder(folder, sources[target], arguments.inputs)
    hints = _shared_hints(arguments.hints)
    return lambda target: hints


def _shared_hints(value: str) -> "list[Hint]":
    """Read hints for all images: from JSON, or from a file."""
    from ...pipeline.hints.schema import parse_hints

    if value.lstrip().startswith(("{", "[")) or not value.strip():
        return parse_hints(value)
    if os.path.exists(value):
        return _read_hints(Path(value))
    raise UsageError(
        f"--hints {value}: no such file or folder, and not JSON, which begins with a brace."
    )


def _keyframe_hints(value: str) -> "dict[int, list[Hint]]":
    """Return the hints of a video: frame number -> hints.

    Raises:
        UsageError: two files for one frame, or no file for any frame.
        ValueError, OSError: hints that are wrong or cannot be read.
    """
    import torch

    from ...media import formats, image_io
    from ...pipeline.hints.tracking import hints_from_image

    folder = Path(value)
    if not os.path.isdir(folder):
        return {0: _shared_hints(value)}
    keyframes: dict[int, list[Hint]] = {}
    for path in sorted(folder.iterdir()):
        is_image = path.suffix.lower() in formats.IMAGE_SUFFIXES
        if not path.stem.isdecimal() or not (is_image or path.suffix.lower() == ".json"):
            continue
        number = int(path.stem)
        if number in keyframes:
            raise UsageError(f"{folder}: two files for frame {number}; keep one of them.")
        if is_image:
            pixels = torch.from_numpy(image_io.read_image(path).pixels[..., :3])
            rgb = pixels.movedim(-1, 0)[None].expand(-1, 3, -1, -1)
            keyframes[number] = hints_from_image(rgb)
        else:
            keyframes[number] = _read_hints(path)
    if not keyframes:
        raise UsageError(
            f"{folder}: no hints for frames of a video; expected files named by frame number, such "
            "as 0.json with hint points, or 120.png, that frame in color."
        )
    return keyframes


def _hints_in_folder(folder: Path, source: Path, inputs: list[Path]) -> "list[Hint]":
    """Read the hints of one image: NAME.json in a folder with the same subfolders as IN."""
    root = next((path for path in inputs if path in source.parents), source.parent)
    path = (folder / source.relative_to(root)).with_suffix(".json")
    if not path.is_file():
        raise ValueError(
            f"it has no hints; expected {path}. For an image without hints, write "
            '{"version": 1, "points": []} into that file.'
        )
    return _read_hints(path)


def _read_hints(path: Path) -> "list[Hint]":
    from ...pipeline.hints.schema import parse_hints

    try:
        return parse_hints(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
