"""Which picture or film goes where.

As in `cli`, only the standard library is imported at the top.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..console.checks import identity
from ..console.errors import Refusal, sentence
from . import video

Naming = Callable[[Path], list[Path]]  # a job's target -> all that is written for it


@dataclass
class Job:
    """One picture, or film, on its way."""

    source: Path
    target: Path | None = None
    status: str = "waiting"
    """waiting, then written, skipped (it was there already) or failed."""
    error: str | None = None
    seconds: float = 0.0
    film: bool = False
    """The source is a film or a folder of frames, the target a film or a folder of pictures."""

    def outputs(self, naming: Naming) -> list[Path]:
        """All that is to be written; nothing where there is no target."""
        return naming(self.target) if self.target else []

    def record(self, naming: Naming) -> dict:
        """What --json prints."""
        written = [str(path) for path in self.outputs(naming)]
        paths = {"input": str(self.source)}
        if naming is alone:
            paths |= {"output": written[0] if written else None}
        else:
            paths |= {"outputs": written}
        return paths | {"status": self.status, "seconds": self.seconds, "error": self.error}


def alone(target: Path) -> list[Path]:
    """One result, under the target's own name."""
    return [target]


def numbered(count: int) -> Naming:
    """Several results, NAME-1 ... in place of the target."""
    return lambda target: [target.with_stem(f"{target.stem}-{i + 1}") for i in range(count)]


def plan(
    inputs: list[Path],
    out: Path,
    naming: Naming = alone,
    *,
    stabilize: bool = False,
    frames: bool = False,
) -> list[Job]:
    """Which picture goes where: one picture to the file `out`, all others into the folder `out`.

    Args:
        naming: what is written for each target.
        stabilize: folders hold the frames of a film.
        frames: films become pictures in a folder.
    Raises:
        Refusal: two pictures with one output, an output that is an input, an impossible `out`.
    """
    from ..media.image_io import FORMATS, SUFFIXES
    from ..media.segmented_writer import FORMATS as FILMS

    suffix = out.suffix.lower()
    films = list(map(video.is_film, inputs))
    if suffix in FILMS and not os.path.isdir(out):
        if len(inputs) > 1 or not (films[0] or os.path.isdir(inputs[0])):
            raise Refusal(
                f"-o {out} names one film; give one film, or one folder of frames, to colour."
            )
        if frames:
            raise Refusal(f"-o {out} names a film, but --frames writes pictures; name a folder.")
        jobs = [Job(inputs[0], out, film=True)]
    elif suffix in SUFFIXES and not os.path.isdir(out):
        if any(films):
            raise Refusal(f"-o {out} names a picture, but IN is a film; name a film or a folder.")
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            raise Refusal(
                f"-o {out} names one picture, but there are more to write; name a folder."
            )
        if suffix not in FORMATS:
            raise Refusal(f"-o {out}: pictures are written as {', '.join(FORMATS)}.")
        jobs = [Job(inputs[0], out)]
    elif os.path.exists(out) and not os.path.isdir(out):
        raise Refusal(f"-o {out} is a file; name a folder, or a picture ({', '.join(FORMATS)}).")
    else:
        found = []
        for given, film in zip(inputs, films, strict=True):
            if film or (stabilize and os.path.isdir(given)):
                found.append(Job(given, _film_target(given, out, frames), film=True))
            else:
                found += pictures_in(given, out)
        jobs = list({(str(job.source.absolute()), str(job.target)): job for job in found}.values())
    sources = {identity(job.source) for job in jobs if os.path.exists(job.source)}
    targets: dict[str, Path] = {}
    for job in jobs:
        for target in job.outputs(naming):
            if os.path.exists(target) and identity(target) in sources:
                raise Refusal(f"{target} is an input; originals are never overwritten. Change -o.")
            other = targets.setdefault(os.path.normcase(os.path.abspath(target)), job.source)
            if other != job.source:
                raise Refusal(
                    f"{other} and {job.source} would both become {target}; use two folders."
                )
    return jobs


def _film_target(given: Path, out: Path, frames: bool) -> Path:
    """Where a film goes below the folder `out`; a folder of frames becomes `out` itself."""
    from ..media.segmented_writer import FORMATS

    if os.path.isdir(given):
        return out
    if frames:
        return out / given.stem
    known = given.suffix.lower() in FORMATS
    return out / (given.name if known else f"{given.stem}.mkv")


def pictures_in(given: Path, out: Path | None = None) -> Iterator[Job]:
    """Jobs for a file, or for all pictures in and below a folder, without hidden ones and `out`.

    Without `out`, jobs have no target and no folder is passed over.
    """
    from ..media.image_io import FORMATS, SUFFIXES

    passed_over = out and os.path.realpath(out)

    def target(path: Path) -> Path | None:
        known = path.suffix.lower() in FORMATS
        return out and out / (path if known else path.with_suffix(".png"))

    if not os.path.isdir(given):
        yield Job(given, target(Path(given.name)))
        return
    count, unreadable = 0, []
    for folder, folders, names in os.walk(given, onerror=unreadable.append):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(here / name) != passed_over
        )
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                count += 1
                yield Job(here / name, target((here / name).relative_to(given)))
    for error in unreadable:
        yield Job(Path(error.filename), None, "failed", error=sentence(error, str(given)))
    if not count and not unreadable:
        known = ", ".join(SUFFIXES)
        yield Job(given, None, "failed", error=f"{given}: no pictures in this folder ({known}).")
