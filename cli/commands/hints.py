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
from ...console.output import log_stderr
from ..jobs import Job, OutputNaming, is_video, single_output
from ..options import (
    DEFAULT_POINTHINT,
    FINISH_FIELDS,
    FinishOptions,
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
    from ...pipeline.automatic import Colorizer
    from ...pipeline.by_hints import PointHintColorizer, RegionInput
    from ...pipeline.hints.schema import AnyHint
    from ...pipeline.video.frame_colorizers import FrameColorizer

HintsOf = Callable[[Path], "list[AnyHint]"]
"""First output of an image -> its hints."""


def add_hints(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist hints`."""
    parser.description = (
        "Colorize images and videos by hint points, or correct the colors of an automatic model "
        "with them; or suggest where to put points. Existing outputs are skipped, and an "
        "interrupted run is resumed by the same command."
    )
    add_input_options(parser)
    add_video_options(parser, in_folders=False)
    add = parser.add_argument
    add(
        "--hints",
        metavar="HINTS",
        help='hint points for all of IN: a file, JSON such as {"version": 1, "points": [{"x": '
        '0.4, "y": 0.2, "color": "#8a5a3c"}]}, or - for stdin; or a folder with NAME.json for '
        "each image. For a video: the hint points of its first frame, which follow what they lie "
        "on; or a folder with NUMBER.json, or NUMBER.png in color, for some of its frames",
    )
    add(
        "--region",
        metavar="MASK=COLOR",
        action="append",
        default=[],
        help="area that has one color, such as dress.png=#8a5a3c or sky.png=steelblue: an image of "
        "the same size, white = inside; repeat it for several. Hint points lie on top",
    )
    add("--base", metavar="MODEL", help="automatic model whose colors the hint points correct")
    add(
        "--overlay",
        action="store_true",
        help="also write NAME-hints.png: the image in gray with the hint points",
    )
    add(
        "--suggest",
        type=int,
        metavar="N",
        help="write hint points instead of a colorized image: those of --hints, and the N whose "
        "colors would tell the model most, with likely colors to correct. -o is a JSON file, or a "
        "folder for NAME.json of each image",
    )
    add_model_options(parser, DEFAULT_POINTHINT)
    add_finish_options(parser)
    parser.set_defaults(run=_run_hints, finish="exact")


def _run_hints(arguments: argparse.Namespace) -> ExitCode:
    if arguments.hints is None and arguments.suggest is None and not arguments.region:
        raise UsageError("--hints is missing; or let --suggest N choose where to put hint points.")
    if arguments.region and any(map(is_video, arguments.inputs)):
        raise UsageError(
            "--region is for images, as a mask does not follow motion; draw regions into --hints."
        )
    if arguments.hints == "-":  # once: videos may be colorized in another process
        arguments.hints = sys.stdin.read() or " "
    if arguments.suggest is not None:
        _plan_suggestions(arguments)
        return run_jobs(arguments, _load_suggestions)
    arguments.naming = _with_overlay if arguments.overlay else single_output
    return run_jobs(arguments, _load_backends)


def _plan_suggestions(arguments: argparse.Namespace) -> None:
    """Choose the outputs of --suggest.

    Raises:
        UsageError: a video, options without effect, or an `out` that does not suit the inputs.
    """
    from ...media.formats import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    if any(map(is_video, arguments.inputs)):
        raise UsageError(
            "--suggest is for images; suggest points for the first frame of the video, and color "
            "the video with --hints."
        )
    unused = [name for name in FINISH_FIELDS if getattr(arguments, name) is not None]
    if unused:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise UsageError(f"--suggest writes hint points, not an image; leave out {options}.")
    out = arguments.out
    suffix = out.suffix.lower()
    if suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not os.path.isdir(out):
        raise UsageError(f"-o {out}: --suggest writes hint points; name a .json file or a folder.")
    is_file = suffix == ".json" and not os.path.isdir(out)
    if is_file and (len(arguments.inputs) > 1 or os.path.isdir(arguments.inputs[0])):
        raise UsageError(
            f"-o {out} holds the hint points of a single image, but there are more; name a folder."
        )
    arguments.naming = _suggestion_naming(out if is_file else None, arguments.overlay)
    if is_file:
        arguments.out = out.parent


def _suggestion_naming(file: Path | None, overlay: bool) -> OutputNaming:
    """Name the hint points NAME.json, or `file`, and the overlay NAME-hints.png."""

    def outputs(target: Path) -> list[Path]:
        hints = file or target.with_suffix(".json")
        return [hints, *_with_overlay(hints)[1:]] if overlay else [hints]

    return outputs


def _load_suggestions(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load engine and hints, and check everything that concerns all inputs."""
    import torch

    from ...media import atomic, image_io
    from ...pipeline.hints.rasterize import draw_hints
    from ...pipeline.hints.schema import MAX_POINTS, dump_hints

    if not 1 <= arguments.suggest <= MAX_POINTS:
        raise UsageError(f"--suggest is {arguments.suggest}; expected 1 to {MAX_POINTS}.")
    with as_usage_errors():
        hints_of = _image_hints(arguments, jobs)
        engine, options, base = _load_engines(arguments)
        regions = _read_regions(arguments.region)

    def suggest(image: "DecodedImage", outputs: list[Path]) -> None:
        if outputs[0].is_file() and not arguments.overwrite:  # only its overlay is missing
            hints = _read_hints(outputs[0])
        else:
            prepared = engine.prepare(
                image.pixels,
                base=base,
                mask=options.mask,
                regions=regions,
                resolution=options.resolution,
            )
            points = engine.suggest_points(prepared, arguments.suggest, hints_of(outputs[0]))
            hints = points.hints
            atomic.write_atomic(outputs[0], dump_hints(hints).encode() + b"\n")
            log_stderr(
                f"{outputs[0]}: {len(hints)} points leave {points.remaining[-1]:.0%} of the doubt "
                "about the colors."
            )
        if arguments.overlay:
            batch = torch.from_numpy(image.pixels)[None]
            overlay = draw_hints(batch, [*_mask_regions(regions), *hints])[0].numpy()
            image_io.write_image(outputs[1], overlay, None)

    return Backends(suggest)


def _load_engines(
    arguments: argparse.Namespace,
) -> "tuple[PointHintColorizer, FinishOptions, Colorizer | None]":
    """Load the point-hint model and the base.

    Raises:
        UsageError, ValueError, OSError: options or models that cannot be used.
    """
    import numpy as np

    engine = load_engine(arguments, arguments.model, "pointhint")
    options = finish_options(arguments, engine.spec)
    base = None
    if arguments.base is not None:
        base = load_engine(arguments, arguments.base, "automatic")
        # An image of one pixel shows whether it is possible
        engine.prepare(np.zeros((1, 1, 3), np.float32), base=base)
    return engine, options, base


def _with_overlay(target: Path) -> list[Path]:
    return [target, target.with_name(f"{target.stem}-hints.png")]


def _load_backends(arguments: argparse.Namespace, jobs: list[Job]) -> Backends:
    """Load engine and hints, and check everything that concerns all inputs."""
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
        engine, options, base = _load_engines(arguments)
        regions = _read_regions(arguments.region)

    def colorize_image(image: "DecodedImage", outputs: list[Path]) -> None:
        hints = hints_of(outputs[0])
        colored = engine.colorize(
            image.pixels,
            hints=hints,
            regions=regions,
            base=base,
            mask=options.mask,
            resolution=options.resolution,
            finish=options.controls,
        )
        metadata = result_metadata(arguments, image.metadata, engine, base)
        results: list[Result] = [(colored, metadata)]
        if arguments.overlay:
            batch = torch.from_numpy(image.pixels)[None]
            overlay = draw_hints(batch, [*_mask_regions(regions), *hints])[0].numpy()
            results.append((overlay, None))
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


def _read_regions(values: list[str]) -> "list[RegionInput]":
    """Read the masks of --region.

    Raises:
        UsageError: a value that is not MASK=COLOR.
        ValueError, OSError: a wrong color, or a mask that cannot be read.
    """
    from ...media import image_io
    from ...pipeline.hints.schema import parse_color

    regions: list[RegionInput] = []
    for value in values:
        path, separator, code = value.rpartition("=")
        if not separator or not path:
            raise UsageError(f"--region {value}: expected MASK=COLOR, such as dress.png=#8a5a3c.")
        try:
            code = parse_color(code)
        except ValueError as error:
            raise UsageError(f"--region {value}: {error}.") from error
        regions.append((image_io.read_image(Path(path)).pixels[..., :3].mean(-1), code))
    return regions


def _mask_regions(regions: "list[RegionInput]") -> "list[AnyHint]":
    import torch

    from ...pipeline.hints.schema import MaskRegion

    return [MaskRegion(torch.as_tensor(mask), code) for mask, code, *_ in regions]


def _image_hints(arguments: argparse.Namespace, jobs: list[Job]) -> HintsOf:
    """Return a function that gives the hints of an image by its first output.

    Raises:
        UsageError, ValueError, OSError: hints for all images that do not exist or are wrong.
    """
    if arguments.hints is None:
        return lambda output: []
    if os.path.isdir(arguments.hints):
        folder = Path(arguments.hints)
        sources = {job.outputs(arguments.naming)[0]: job.source for job in jobs}
        return lambda output: _hints_in_folder(folder, sources[output], arguments.inputs)
    hints = _shared_hints(arguments.hints)
    return lambda output: hints


def _shared_hints(value: str) -> "list[AnyHint]":
    """Read hints for all images: from JSON, or from a file."""
    from ...pipeline.hints.schema import parse_hints

    if value.lstrip().startswith(("{", "[")) or not value.strip():
        return parse_hints(value)
    if os.path.exists(value):
        return _read_hints(Path(value))
    raise UsageError(
        f"--hints {value}: no such file or folder, and not JSON, which begins with a brace."
    )


def _keyframe_hints(value: str) -> "dict[int, list[AnyHint]]":
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
    keyframes: dict[int, list[AnyHint]] = {}
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
            keyframes[number] = [*hints_from_image(rgb)]
        else:
            keyframes[number] = _read_hints(path)
    if not keyframes:
        raise UsageError(
            f"{folder}: no hints for frames of a video; expected files named by frame number, such "
            "as 0.json with hint points, or 120.png, that frame in color."
        )
    return keyframes


def _hints_in_folder(folder: Path, source: Path, inputs: list[Path]) -> "list[AnyHint]":
    """Read the hints of one image: NAME.json in a folder with the same subfolders as IN."""
    root = next((path for path in inputs if path in source.parents), source.parent)
    path = (folder / source.relative_to(root)).with_suffix(".json")
    if not path.is_file():
        raise ValueError(
            f"it has no hints; expected {path}. For an image without hints, write "
            '{"version": 1, "points": []} into that file.'
        )
    return _read_hints(path)


def _read_hints(path: Path) -> "list[AnyHint]":
    from ...pipeline.hints.schema import parse_hints

    try:
        return parse_hints(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
