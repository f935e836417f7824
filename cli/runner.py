"""The loop over pictures and films: colour, write, report.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..console.errors import DONE, FAILED, FAILURES, STOPPED, Refusal, sentence
from ..console.output import say
from . import video
from .jobs import Job, alone, plan

if TYPE_CHECKING:
    from ..media.image_data import Picture


Paint = Callable[["Picture", list[Path]], None]  # colours a picture and writes its outputs


class Painters(NamedTuple):
    """What colours the inputs."""

    picture: Paint
    frames: Callable[[], video.Painter]
    """One for each film."""
    device: object
    """Where films are steadied."""


def color_all(arguments: argparse.Namespace, painter: Callable[..., Painters]) -> int:
    """Colour what is asked for, whatever becomes of single pictures; returns the exit code.

    Args:
        painter: (arguments, jobs) -> what colours them; Refusal where it cannot.
    """
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    naming = arguments.naming
    video.check(arguments)
    jobs = plan(
        arguments.inputs,
        arguments.out,
        naming,
        stabilize=arguments.stabilize,
        frames=arguments.frames,
    )
    if naming is not alone and any(job.film for job in jobs):
        raise Refusal("a film has one result; leave out what is written beside pictures.")
    for job in jobs:
        outputs = job.outputs(naming)
        finished = outputs and not arguments.overwrite and all(map(_holds_something, outputs))
        job.status = "skipped" if finished and not job.error else job.status
    waiting = [job for job in jobs if job.status == "waiting"]
    code = DONE
    try:
        painters = painter(arguments, waiting) if waiting else None
        pictures = _read_ahead([job for job in waiting if not job.film])
        for number, job in enumerate(jobs, 1):
            if job.status == "skipped":
                continue
            began = time.monotonic()
            if job.status == "waiting":
                try:
                    if job.film:
                        _color_film(arguments, job, painters)
                    else:
                        painters.picture(next(pictures).result(), job.outputs(naming))
                    job.status = "written"
                except FAILURES as error:
                    job.status, job.error = "failed", sentence(error, job.source.name)
            job.seconds = round(time.monotonic() - began, 3)
            what = f"failed: {job.error}" if job.error else job.source.name
            say(f"[{number}/{len(jobs)}] {what} {job.seconds:.1f} s")
    except KeyboardInterrupt:
        say("stopped; what is written is complete, and the same command goes on from here.")
        code = STOPPED
    counts = {
        status: sum(job.status == status for job in jobs)
        for status in ("written", "skipped", "failed", "waiting")
    }
    if arguments.json:
        print(json.dumps({"files": [job.record(naming) for job in jobs], **counts}, indent=1))
    say(", ".join(f"{count} {status}" for status, count in counts.items() if count) + ".")
    return code or (FAILED if counts["failed"] else DONE)


def _color_film(arguments: argparse.Namespace, job: Job, painters: Painters) -> None:
    left_out = ("inputs", "out", "overwrite", "json", "run", "naming", "rest", "device")
    given = sorted((k, v) for k, v in vars(arguments).items() if k not in left_out)
    settings = {name: _with_files(value) for name, value in given}
    video.color_film(
        arguments, job.source, job.target, painters.frames(), painters.device, settings
    )


def _with_files(value: object) -> object:
    """An option's value, with size and time of the files that it names: those of a folder, too."""
    if isinstance(value, list):
        return list(map(_with_files, value))
    try:
        path = Path(str(value))
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [(file.name, os.stat(file)) for file in files]
        return [str(value), *([name, stat.st_size, stat.st_mtime_ns] for name, stat in found)]
    except (OSError, ValueError):  # no file of that name; a name that none can have
        return str(value)


def write_missing(
    arguments: argparse.Namespace, outputs: list[Path], results: Iterable[tuple]
) -> None:
    """Write each (pixels, what a file keeps), except what is there already."""
    from ..media import image_io

    for path, (pixels, keep) in zip(outputs, results, strict=True):
        if arguments.overwrite or not _holds_something(path):
            image_io.write(path, pixels, keep)


def _read_ahead(jobs: list[Job]) -> Iterator["Future[Picture]"]:
    """The picture of each job, while a thread reads the next one."""
    from ..media import image_io

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for job, following in zip(jobs, [*jobs, None][1:], strict=True):
            reading = coming or reader.submit(image_io.read, job.source)
            coming = following and reader.submit(image_io.read, following.source)
            yield reading


def _holds_something(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0
