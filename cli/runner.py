"""Run jobs: colorize images and videos, write the results, report.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..console.checks import check_writable
from ..console.errors import EXPECTED_ERRORS, ExitCode, UsageError, format_error
from ..console.output import configure_logging, log_stderr
from ..media import atomic
from . import video
from .jobs import Job, OutputNaming, plan_jobs, single_output
from .video_worker import ColorizeVideo, VideoWorker

if TYPE_CHECKING:
    from ..media.image_data import DecodedImage, ImageMetadata
    from ..ops.tensors import Image
    from ..pipeline.video.frame_colorizers import FrameColorizer

ColorizeFn = Callable[["DecodedImage", list[Path]], None]
"""Colorizes an image and writes its outputs."""
Result = tuple["Image", "ImageMetadata | None"]
"""Pixels of an output, and the metadata of its file."""
VIDEO_SETTINGS_EXCLUDED = (
    "inputs",
    "out",
    "overwrite",
    "json",
    "run",
    "naming",
    "rest",
    "device",
    "page",
    "no_provenance",
    "videos_in_folders",
)
"""Arguments that do not change the frames of a video."""


class Backends(NamedTuple):
    """The functions that colorize the inputs of one command."""

    image: ColorizeFn
    video: "Callable[[Mapping[str, object]], FrameColorizer] | None" = None
    """Returns a colorizer for one video; the argument is everything that changes its result."""


def run_jobs(
    arguments: argparse.Namespace,
    load_backends: Callable[[argparse.Namespace, list[Job]], Backends],
) -> ExitCode:
    """Colorize all inputs, even if some of them fail, and return the exit code.

    Args:
        arguments: of the command.
        load_backends: called with the arguments and the jobs to do; raises UsageError if an option
            cannot be used.
    """
    configure_logging()
    naming: OutputNaming = arguments.naming
    video.stabilizer_options(arguments)
    jobs = plan_jobs(
        arguments.inputs,
        arguments.out,
        naming,
        stabilize=arguments.stabilize,
        frames=arguments.frames,
        page=arguments.page,
        videos_in_folders=arguments.videos_in_folders
        and naming is single_output
        and arguments.page is None,
    )
    if isinstance(arguments.page, int) and any(job.is_video for job in jobs):
        raise UsageError("--page is for TIFF images, and IN has a video; leave it out.")
    if naming is not single_output and any(job.is_video for job in jobs):
        raise UsageError("a video has a single result; leave out the option for additional images.")
    for job in jobs:
        outputs = job.outputs(naming)
        if outputs and not (job.error or arguments.overwrite) and all(map(_is_written, outputs)):
            job.status = "skipped"
    code = ExitCode.OK
    try:
        _process(jobs, arguments, load_backends)
    except KeyboardInterrupt:
        log_stderr("stopped; finished outputs are complete, and the same command resumes here.")
        code = ExitCode.INTERRUPTED
    counts = {
        status: sum(job.status == status for job in jobs)
        for status in ("written", "skipped", "failed", "waiting")
    }
    if arguments.json:
        print(json.dumps({"files": [job.record(naming) for job in jobs], **counts}, indent=1))
    log_stderr(", ".join(f"{count} {status}" for status, count in counts.items() if count) + ".")
    return code or (ExitCode.FAILED if counts["failed"] else ExitCode.OK)


def _process(
    jobs: list[Job],
    arguments: argparse.Namespace,
    load_backends: Callable[[argparse.Namespace, list[Job]], Backends],
) -> None:
    """Do the waiting jobs, and print a line for each that is written or failed."""
    waiting = [job for job in jobs if job.status == "waiting"]
    videos = [job for job in waiting if job.is_video]
    with ExitStack() as stack:
        worker, backends = None, None
        if videos and len(waiting) > 1:  # a crash must not end the others
            load = partial(_load_video_function, arguments, load_backends, videos)
            worker = stack.enter_context(VideoWorker(load))
        if worker and len(videos) == len(waiting):
            worker.start()
        elif waiting:
            backends = load_backends(arguments, waiting)
        if waiting and waiting[0].target:
            check_writable(waiting[0].target.parent)
        for folder in {job.target.parent for job in jobs if job.target}:
            atomic.remove_abandoned_parts(folder)
        images = _read_ahead([job for job in waiting if not job.is_video])
        for number, job in enumerate(jobs, 1):
            if job.status == "skipped":
                continue
            if job.status == "waiting" and job.target:
                started = time.monotonic()
                try:
                    if job.is_video and worker:
                        worker.colorize(job.source, job.target)
                    elif job.is_video and backends:
                        _video_function(arguments, backends)(job.source, job.target)
                    elif backends:
                        backends.image(next(images).result(), job.outputs(arguments.naming))
                    job.status = "written"
                except EXPECTED_ERRORS as error:
                    job.status, job.error = "failed", format_error(error, job.label)
                finally:
                    job.seconds = round(time.monotonic() - started, 3)
            result = f"failed: {job.error}" if job.error else job.label
            log_stderr(f"[{number}/{len(jobs)}] {result} {job.seconds:.1f} s")


def _load_video_function(
    arguments: argparse.Namespace,
    load_backends: Callable[[argparse.Namespace, list[Job]], Backends],
    jobs: list[Job],
) -> ColorizeVideo:
    """Load the function that colorizes one video after another, in a `VideoWorker`."""
    return _video_function(arguments, load_backends(arguments, jobs))


def _video_function(arguments: argparse.Namespace, backends: Backends) -> ColorizeVideo:
    def colorize(source: Path, target: Path) -> None:
        if backends.video is None:
            raise ValueError("this command colorizes images only.")
        colorizer = backends.video(_video_settings(arguments))
        video.colorize_video(arguments, source, target, colorizer)

    return colorize


def write_missing(
    arguments: argparse.Namespace,
    outputs: list[Path],
    results: "Sequence[Result]",
) -> None:
    """Write the results (pixels, metadata) to the outputs that do not exist yet."""
    import numpy as np

    from ..media import image_io

    for path, (pixels, metadata) in zip(outputs, results, strict=True):
        if arguments.overwrite or not _is_written(path):
            image_io.write_image(path, np.asarray(pixels), metadata)


def _video_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the options that change the frames of a video, as values that JSON can hold."""
    options = sorted(vars(arguments).items())
    return {
        name: _with_file_stamps(value)
        for name, value in options
        if name not in VIDEO_SETTINGS_EXCLUDED
    }


def _with_file_stamps(value: object) -> object:
    """Return the value of an option with size and time of the files that it names."""
    if isinstance(value, list):
        return [_with_file_stamps(item) for item in value]
    try:
        path = Path(str(value))
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, os.stat(file)) for file in files]
    except (OSError, ValueError):  # not the name of a file
        return str(value)
    return [str(value), *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]


def _read_ahead(jobs: list[Job]) -> Iterator["Future[DecodedImage]"]:
    """Yield the image of each job while a thread reads the next one."""
    from ..media import image_io

    with ThreadPoolExecutor(1) as reader:
        upcoming = None
        for job, following in zip(jobs, [*jobs, None][1:], strict=True):
            current = upcoming or reader.submit(image_io.read_image, job.source, page=job.page)
            upcoming = None
            if following:
                upcoming = reader.submit(image_io.read_image, following.source, page=following.page)
            yield current


def _is_written(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0
