"""Options for videos.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..console.errors import UsageError, as_usage_errors

if TYPE_CHECKING:
    from ..pipeline.video.frame_colorizers import FrameColorizer
    from ..pipeline.video.stabilizer import StabilizerOptions

NO_VIDEO_OPTIONS = {
    "stabilize": False,
    "frames": False,
    "frames_before": None,
    "frames_after": None,
    "rate": None,
    "codec": None,
    "quality": None,
    "deinterlace": False,
    "videos_in_folders": False,
}
"""Defaults for commands without options for videos."""


def add_video_options(parser: argparse.ArgumentParser, *, in_folders: bool = True) -> None:
    """Add the options for videos.

    Args:
        parser: parser of a command.
        in_folders: the command colorizes videos in folders beside the images.
    """
    parser.set_defaults(videos_in_folders=in_folders)
    add = parser.add_argument_group("video").add_argument
    add(
        "--stabilize",
        action="store_true",
        help="reduce flicker: color follows motion and is averaged over time, up to the next cut. "
        "IN may also be a folder of frames",
    )
    add(
        "--frames-before",
        type=int,
        metavar="N",
        help="preceding frames that influence the color of a frame (default: 12)",
    )
    add(
        "--frames-after",
        type=int,
        metavar="N",
        help="following frames that influence the color of a frame (default: 8)",
    )
    add(
        "--deinterlace",
        action="store_true",
        help="turn both fields of each frame of an interlaced video into one full frame",
    )
    add(
        "--codec",
        help="h264 (default; 8 bits, plays everywhere), h265 (up to 10 bits), vp9 (default of "
        ".webm), prores (.mov), ffv1 (lossless; .mkv)",
    )
    add("--quality", type=int, metavar="CRF", help="lower is better and larger (default: 16)")
    add(
        "--rate",
        type=Fraction,
        metavar="FPS",
        help="frames per second of a folder of frames or of a pattern such as frames/%%05d.dpx: 24 "
        "or 24000/1001 (default: 24)",
    )
    add("--frames", action="store_true", help="write a video as images into the folder OUT/NAME")


def stabilizer_options(arguments: argparse.Namespace) -> "StabilizerOptions | None":
    """Return the options of the stabilizer, or None without --stabilize.

    Raises:
        UsageError: an option for videos is out of range, or needs --stabilize.
    """
    from ..pipeline.video.stabilizer import StabilizerOptions

    before, after = arguments.frames_before, arguments.frames_after
    if arguments.rate is not None and arguments.rate <= 0:
        raise UsageError(f"--rate is {arguments.rate}; expected more than 0 frames per second.")
    if not arguments.stabilize:
        if before is not None or after is not None:
            raise UsageError("--frames-before and --frames-after need --stabilize; add it.")
        return None
    options = StabilizerOptions()
    if before is not None:
        with as_usage_errors("--frames-before"):
            options = replace(options, frames_before=before)
    if after is not None:
        with as_usage_errors("--frames-after"):
            options = replace(options, frames_after=after)
    return options


def colorize_video(
    arguments: argparse.Namespace, source: Path, target: Path, colorizer: "FrameColorizer"
) -> None:
    """Colorize one video as the options specify, with a progress bar.

    Raises:
        ValueError, OSError: the video cannot be read or written.
    """
    from ..console.progress import Progress
    from ..pipeline.video import job

    with Progress(source.name, " frames", keep=False) as bar:
        job.colorize_video(
            source,
            target,
            colorizer,
            stabilize=stabilizer_options(arguments) or False,
            frame_rate=24 if arguments.rate is None else arguments.rate,
            deinterlace=arguments.deinterlace,
            codec=arguments.codec,
            quality=arguments.quality,
            overwrite=arguments.overwrite,
            progress=bar.report,
        )
