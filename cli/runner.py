"""Run jobs: colorize images and videos, write the results, report.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..console.checks import check_writable
from ..console.errors import EXPECTED_ERRORS, ExitCode, UsageError, format_error
from ..console.output import configure_logging, log_stderr
from ..media import atomic
from . import video
from .jobs import Job, OutputNaming, plan_jobs, single_output

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
    if arguments.page is not None and arguments.page < 1:
        raise UsageError(f"--page is {arguments.page}; pages are counted from 1.")
    jobs = plan_jobs(
        arguments.inputs,
        arguments.out,
        naming,
        stabilize=arguments.stabilize,
        frames=arguments.frames,
        page=arguments.page,
    )
    if arguments.page is not None and any(job.is_video for job in jobs):
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
    backends = load_backends(arguments, waiting) if waiting else None
    if waiting and waiting[0].target:
        check_writable(waiting[0].target.parent)
    for folder in {job.target.parent for job in jobs if job.target}:
        atomic.remove_abandoned_parts(folder)
    images = _read_ahead([job for job in waiting if not job.is_video], arguments.page)
    for number, job in enumerate(jobs, 1):
        if job.status == "skipped":
            continue
        if job.status == "waiting" and backends and job.target:
            started = time.monotonic()
            try:
                if job.is_video and backends.video:
                    colorizer = backends.video(_video_settings(arguments))
                    video.colorize_video(arguments, job.source, job.target, colorizer)
                else:
                    backends.image(next(images).result(), job.outputs(arguments.naming))
                job.status = "written"
            except EXPECTED_ERRORS as error:
                job.status, job.error = "failed", format_error(error, job.source.name)
            finally:
                job.seconds = round(time.monotonic() - started, 3)
        result = f"failed: {job.error}" if job.error else job.source.name
        log_stderr(f"[{number}/{len(jobs)}] {result} {job.seconds:.1f} s")


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


def _read_ahead(jobs: list[Job], page: int | None) -> Iterator["Future[DecodedImage]"]:
    """Yield the image of each job while a thread reads the next one."""
    from ..media import image_io

    with ThreadPoolExecutor(1) as reader:
        upcoming = None
        for job, following in zip(jobs, [*jobs, None][1:], strict=True):
            current = upcoming or reader.submit(image_io.read_image, job.source, page=page)
            upcoming = None
            if following:
                upcoming = reader.submit(image_io.read_image, following.source, page=page)
            yield current


def _is_written(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0
