"""Plan which input is written to which output.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict

from ..console.checks import file_id
from ..console.errors import UsageError, format_error
from ..console.output import log_stderr

OutputNaming = Callable[[Path], list[Path]]
"""Target of a job -> all files that are written for it."""
Status = Literal["waiting", "written", "skipped", "failed"]
Page = int | Literal["all"] | None
"""Value of --page; None is the first full-size page of each file."""
MAX_LISTED = 20
"""Names in one message."""
MAX_RENAMES = 8
"""Attempts to find free names for outputs; one nearly always suffices."""


class JobRecord(TypedDict, total=False):
    """One input in the JSON report; `output` or `outputs`, as the command documents."""

    input: str
    output: str | None
    outputs: list[str]
    status: Status
    seconds: float
    error: str | None
    page: int


@dataclass
class Job:
    """One input and its output."""

    source: Path
    target: Path | None = None
    status: Status = "waiting"
    error: str | None = None
    seconds: float = 0.0
    is_video: bool = False
    """The source is a video or a folder of frames, the target a video or a folder of images."""
    page: int | None = None
    """Page of a multi-page image, from 1; None for its first full-size page."""

    @property
    def label(self) -> str:
        """Name for progress and messages."""
        return self.source.name + (f", page {self.page}" if self.page else "")

    def outputs(self, naming: OutputNaming) -> list[Path]:
        """Return all files to write; empty if there is no target."""
        return naming(self.target) if self.target else []

    def record(self, naming: OutputNaming) -> JobRecord:
        """Return the entry of this job in the JSON report."""
        outputs = [str(path) for path in self.outputs(naming)]
        record: JobRecord = {"input": str(self.source)}
        if naming is single_output:
            record["output"] = outputs[0] if outputs else None
        else:
            record["outputs"] = outputs
        record |= {"status": self.status, "seconds": self.seconds, "error": self.error}
        return record | {"page": self.page} if self.page else record


def single_output(target: Path) -> list[Path]:
    """Name a single result like the target."""
    return [target]


def numbered_outputs(count: int) -> OutputNaming:
    """Name several results NAME-1, NAME-2, ... instead of the target."""
    return lambda target: [target.with_stem(f"{target.stem}-{i + 1}") for i in range(count)]


def is_video(path: Path) -> bool:
    """Return True for a video file, an animated image, and the pattern of an image sequence."""
    from ..media.formats import ANIMATED_SUFFIXES, VIDEO_SUFFIXES
    from ..media.video_sequence import is_pattern

    suffix = path.suffix.lower()
    if suffix in ANIMATED_SUFFIXES and not is_pattern(path):
        from ..media.video_animation import is_animated

        return is_animated(path)
    return (suffix in VIDEO_SUFFIXES and not os.path.isdir(path)) or is_pattern(path)


def is_frame_folder(path: Path, stabilize: bool) -> bool:
    """Return True for a folder whose images are the frames of one video.

    Those are all folders of images with `stabilize`, and all with DPX, which holds nothing else.
    """
    from ..media.formats import FRAME_SUFFIXES

    if not os.path.isdir(path):
        return False
    suffixes = {Path(name).suffix.lower() for name in os.listdir(path) if name[:1] != "."}
    return bool(suffixes & {*FRAME_SUFFIXES}) if stabilize else ".dpx" in suffixes


def plan_jobs(
    inputs: list[Path],
    out: Path,
    naming: OutputNaming = single_output,
    *,
    stabilize: bool = False,
    frames: bool = False,
    page: Page = None,
    videos_in_folders: bool = False,
) -> list[Job]:
    """Return a job for each input: a single one to the file `out`, all others into that folder.

    Args:
        inputs: images, videos and folders.
        out: value of --out.
        naming: names of the files that are written for a target.
        stabilize: treat folders as frames of a video.
        frames: write videos as images into a folder.
        page: page of all files, or "all" pages of multi-page files. In a folder, it is part of the
            name of an output.
        videos_in_folders: colorize the videos in folders, too, not only the images.

    Raises:
        UsageError: inputs of two folders with the same output, an output that is an input, or an
            `out` that does not suit the inputs.
    """
    from ..media.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, VIDEO_FORMATS

    suffix, is_folder = out.suffix.lower(), os.path.isdir(out)
    if suffix in VIDEO_FORMATS and not is_folder:
        jobs = [_single_video_job(inputs, out, frames)]
    elif suffix in IMAGE_SUFFIXES and not is_folder:
        jobs = [_single_image_job(inputs, out, page)]
    elif os.path.exists(out) and not is_folder:
        formats = ", ".join(IMAGE_FORMATS)
        raise UsageError(f"-o {out} is a file; name a folder, or an image ({formats}).")
    else:
        jobs = _folder_jobs(inputs, out, stabilize, frames, videos_in_folders)
        _resolve_clashes(jobs, naming)
        jobs = [page_job for job in jobs for page_job in _page_jobs(job, page)]
    _check_conflicts(jobs, naming)
    return jobs


def find_images(
    path: Path, out: Path | None = None, *, videos: bool = False, frames: bool = False
) -> Iterator[Job]:
    """Yield a job for an image file, or for every image in and below a folder.

    Hidden files and folders are skipped. What cannot be read becomes a failed job.

    Args:
        path: file or folder.
        out: output folder. It is skipped if it lies inside `path`. None: jobs have no target.
        videos: yield the videos in and below the folder, too; they need `out`.
        frames: write those as images into a folder.
    """
    from ..media.formats import IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, output_name

    def target(name: Path) -> Path | None:
        return out and out / name.with_name(output_name(name))

    if not os.path.isdir(path):
        yield Job(path, target(Path(path.name)))
        return
    excluded = out and os.path.realpath(out)
    count = 0
    unsupported: Counter[str] = Counter()
    unreadable: list[OSError] = []
    for folder, subfolders, names in os.walk(path, onerror=unreadable.append):
        parent = Path(folder)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(parent / name) != excluded
        )
        for name in sorted(names):
            file = parent / name
            if name.startswith("."):
                continue
            if videos and out and is_video(file):
                count += 1
                subfolder = out / parent.relative_to(path)
                yield Job(file, _video_target(file, subfolder, frames), is_video=True)
            elif file.suffix.lower() in IMAGE_SUFFIXES:
                count += 1
                yield Job(file, target(file.relative_to(path)))
            elif file.suffix.lower() in UNSUPPORTED_SUFFIXES:
                unsupported[file.suffix.lower()] += 1
    if unsupported:
        counts = ", ".join(f"{number} {suffix}" for suffix, number in sorted(unsupported.items()))
        log_stderr(f"{path}: formats that are not read are left out: {counts}.")
    for error in unreadable:
        yield Job(Path(error.filename), None, "failed", error=format_error(error, str(path)))
    if not count and not unreadable:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        kinds = "images or videos" if videos else "images"
        yield Job(path, None, "failed", error=f"{path}: no {kinds} in this folder ({suffixes}).")


def _single_video_job(inputs: list[Path], out: Path, frames: bool) -> Job:
    if len(inputs) > 1 or not (is_video(inputs[0]) or os.path.isdir(inputs[0])):
        raise UsageError(
            f"-o {out} is the name of a single video; give one video, or one folder of frames."
        )
    if frames:
        raise UsageError(
            f"-o {out} is the name of a video, but --frames writes images; name a folder."
        )
    return Job(inputs[0], out, is_video=True)


def _single_image_job(inputs: list[Path], out: Path, page: Page) -> Job:
    from ..media.formats import IMAGE_FORMATS
    from ..media.image_io import list_pages

    if any(map(is_video, inputs)):
        raise UsageError(
            f"-o {out} is the name of an image, but IN is a video; name a video or a folder."
        )
    if len(inputs) > 1 or os.path.isdir(inputs[0]):
        raise UsageError(
            f"-o {out} is the name of a single image, but there are more to write; name a folder."
        )
    if out.suffix.lower() not in IMAGE_FORMATS:
        raise UsageError(f"-o {out}: images are written as {', '.join(IMAGE_FORMATS)}.")
    if page == "all":
        if pages := list_pages(inputs[0]):
            raise UsageError(
                f"-o {out} is the name of a single image, but {inputs[0]} has {len(pages)} pages; "
                "name a folder."
            )
        page = None
    return Job(inputs[0], out, page=page)


def _page_jobs(job: Job, page: Page) -> list[Job]:
    """Return the jobs of the pages of an image: one, or those of "all" full-size pages."""
    from ..media.image_io import list_pages

    pages = [page]
    if page == "all":
        pages = [] if job.is_video or job.error else list_pages(job.source)
    if not job.target or not pages or page is None:
        return [job]
    return [
        replace(job, target=job.target.with_stem(f"{job.target.stem}-page{number}"), page=number)
        for number in pages
        if number != "all"
    ]


def _folder_jobs(
    inputs: list[Path], out: Path, stabilize: bool, frames: bool, videos_in_folders: bool
) -> list[Job]:
    """Return jobs that write into the folder `out`, without repetitions."""
    jobs: list[Job] = []
    for path in inputs:
        if is_video(path) or is_frame_folder(path, stabilize):
            jobs.append(Job(path, _video_target(path, out, frames), is_video=True))
        else:
            jobs += find_images(path, out, videos=videos_in_folders, frames=frames)
    return list({(str(job.source.absolute()), str(job.target)): job for job in jobs}.values())


def _video_target(path: Path, out: Path, frames: bool) -> Path:
    """Return the output of a video in the folder `out`; for an image sequence, `out` itself."""
    from ..media.formats import VIDEO_FORMATS
    from ..media.video_sequence import is_sequence

    if is_sequence(path):
        return out
    if frames:
        return out / path.stem
    writable = path.suffix.lower() in VIDEO_FORMATS
    return out / (path.name if writable else f"{path.stem}.mp4")


def _resolve_clashes(jobs: list[Job], naming: OutputNaming) -> None:
    """Rename the outputs that several inputs of one folder share: a.gif -> a.gif.png.

    The input whose own name an output has keeps it. This depends on the inputs alone, so that a
    resumed run chooses the same names.
    """
    renamed: dict[int, Job] = {}
    for _ in range(MAX_RENAMES):
        jobs_of = _jobs_by_output(jobs, naming)
        clashing: dict[int, Job] = {}
        for output, claimants in jobs_of.items():
            for job in claimants:
                is_owner = job.source.name == output.name and job.target == output
                siblings = sum(other.source.parent == job.source.parent for other in claimants)
                if siblings > 1 and not is_owner and not os.path.isdir(job.source):
                    clashing[id(job)] = job
        if not clashing:
            break
        for key, job in clashing.items():
            if job.target:
                name = job.target.name if key in renamed else job.source.name
                job.target = job.target.with_name(name + job.target.suffix)
        renamed |= clashing
    if renamed:
        names = [f"{job.source} -> {job.target and job.target.name}" for job in renamed.values()]
        log_stderr(
            "named after the full name of the input, because another one has the same output: "
            + _listed(names)
        )


def _jobs_by_output(jobs: list[Job], naming: OutputNaming) -> dict[Path, list[Job]]:
    jobs_of: dict[Path, list[Job]] = {}
    for job in jobs:
        for output in job.outputs(naming):
            key = Path(os.path.normcase(os.path.abspath(output)))
            jobs_of.setdefault(key, []).append(job)
    return jobs_of


def _check_conflicts(jobs: list[Job], naming: OutputNaming) -> None:
    """Raise UsageError if outputs are inputs, or belong to two inputs."""
    sources = {file_id(job.source) for job in jobs if os.path.exists(job.source)}
    overwritten = [
        str(output)
        for job in jobs
        for output in job.outputs(naming)
        if os.path.exists(output) and file_id(output) in sources
    ]
    if overwritten:
        verb = "is an input" if len(overwritten) == 1 else "are inputs"
        raise UsageError(
            f"{_listed(overwritten)} {verb}; originals are never overwritten. Change -o."
        )
    clashes = [
        f"{' and '.join(str(job.source) for job in claimants)} would both be written to {output}"
        for output, claimants in _jobs_by_output(jobs, naming).items()
        if len(claimants) > 1
    ]
    if clashes:
        raise UsageError(f"{_listed(clashes)}; use two folders.")


def _listed(items: list[str]) -> str:
    """Join items with commas; the rest of a long list is counted."""
    rest = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f", and {rest} more" if rest > 0 else "")
