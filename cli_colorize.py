"""`colorist colorize` and `colorist variations`: pictures and folders in, coloured ones out.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import cli_film
from .cli_common import (
    DEFAULT_COLORFORMER,
    DEFAULT_MODEL,
    DONE,
    FAILED,
    FAILURES,
    STOPPED,
    Refusal,
    add_network,
    device_of,
    identity,
    locate_memory,
    refuse_unwritable,
    say,
    sentence,
)

if TYPE_CHECKING:
    from .media.image_data import Picture
    from .model_defs.spec import Spec
    from .pipeline.automatic import Colorizer

Paint = Callable[["Picture", list[Path]], None]  # colours a picture and writes its outputs


class Painters(NamedTuple):
    """What colours the inputs."""

    picture: Paint
    frames: Callable[[], cli_film.Painter]
    """One for each film."""
    device: object
    """Where films are steadied."""


Naming = Callable[[Path], list[Path]]  # a job's target -> all that is written for it

MOST = 64  # variations of a picture
# Role -> its command.
COMMANDS = {"automatic": "colorize", "exemplar": "exemplar", "pointhint": "hints"}
# Fields of Finish
CONTROLS = ("strength", "saturation", "chroma_ceiling", "fade", "keep_color", "upsample")


def add_colorize(parser: argparse.ArgumentParser) -> None:
    """The command `colorist colorize`."""
    parser.description = (
        "Colour pictures and films. A folder is coloured with all below it, its tree repeated "
        "under OUT; if OUT is a film's name, its pictures are the frames. Outputs that are there "
        "already are left alone, and a stopped run goes on where it was."
    )
    add_pictures(parser)
    cli_film.add_film(parser)
    add_network(parser, None, f"{DEFAULT_MODEL}; with --memory {DEFAULT_COLORFORMER}")
    _add_memory(parser)
    add_finish(parser, published=True)
    parser.set_defaults(run=_colorize, count=None, naming=alone)


def add_variations(parser: argparse.ArgumentParser) -> None:
    """The command `colorist variations`."""
    parser.description = (
        "Write several results of each picture, NAME-1, NAME-2, ..., which lean towards different "
        "colours of the network's color memory."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture or folder")
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add(
        "--count",
        type=int,
        default=4,
        metavar="N",
        help=f"results, 1 to {MOST} (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="other seeds, other results (default: 0)")
    add(
        "--spread",
        type=float,
        default=0.5,
        metavar="X",
        help="how far they lean: 0 = not at all ... 1 = to one colour only (default: %(default)s)",
    )
    add_network(parser, DEFAULT_COLORFORMER)
    _add_memory(parser)
    add_finish(parser)
    parser.set_defaults(run=_variations, finish="exact", **cli_film.NONE)


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="NAME",
        help="color memory used instead of the network's: file, or name of a saved one",
    )


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """What is coloured, and where it goes."""
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture, film or folder")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder; or the name of a picture or film, for a single IN",
    )


def add_finish(parser: argparse.ArgumentParser, *, published: bool = False) -> None:
    """Options of what becomes of a predicted colour."""
    add = parser.add_argument
    if published:
        add(
            "--finish",
            choices=("exact", "published"),
            default="exact",
            help="exact: the photo's own lightness; published: as the official script, to compare",
        )
    add(
        "--resolution",
        type=int,
        metavar="N",
        help="side of the working image (default: the network's)",
    )
    add(
        "--strength",
        type=float,
        metavar="X",
        help="0 = as it was ... 1 = full new colour (default)",
    )
    add("--saturation", type=float, metavar="X", help="factor on the colour, 0 to 4 (default: 1)")
    add(
        "--chroma-ceiling",
        type=float,
        metavar="C",
        help="largest C* of new colour (default: 0 = none)",
    )
    add(
        "--fade",
        type=float,
        metavar="C",
        help="C* of which half is left; weaker, doubtful colour goes to neutral (default: 0 = off)",
    )
    add(
        "--keep-color",
        type=float,
        metavar="X",
        help="keep colour the photo has, 0 to 1 (default: 0)",
    )
    add("--upsample", metavar="METHOD", help="how colour is brought to full size")
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="white = colour here, black = leave; the photo's size",
    )


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


def _colorize(arguments: argparse.Namespace) -> int:
    return color_all(arguments, _painter)


def color_all(arguments: argparse.Namespace, painter: Callable[..., Painters]) -> int:
    """Colour what is asked for, whatever becomes of single pictures; returns the exit code.

    Args:
        painter: (arguments, jobs) -> what colours them; Refusal where it cannot.
    """
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    naming = arguments.naming
    cli_film.check(arguments)
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
    cli_film.color_film(
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
    from .media.image_io import FORMATS, SUFFIXES
    from .media.segmented_writer import FORMATS as FILMS

    suffix = out.suffix.lower()
    films = list(map(cli_film.is_film, inputs))
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
    from .media.segmented_writer import FORMATS

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
    from .media.image_io import FORMATS, SUFFIXES

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


def _variations(arguments: argparse.Namespace) -> int:
    from .media.image_io import SUFFIXES

    if arguments.out.suffix.lower() in SUFFIXES and not os.path.isdir(arguments.out):
        raise Refusal(f"-o {arguments.out} names one picture; name a folder for the variations.")
    if not 1 <= arguments.count <= MOST:
        raise Refusal(f"--count is {arguments.count}; expected 1 to {MOST} results.")
    if arguments.seed < 0:
        raise Refusal(f"--seed is {arguments.seed}; expected 0 or more.")
    arguments.naming = numbered(arguments.count)
    return _colorize(arguments)


def finishing(arguments: argparse.Namespace, spec: "Spec") -> dict:
    """Mask, resolution and finish for an engine's `colorize`, as the options say.

    Raises:
        Refusal: options that do not go together.
        ValueError, OSError: options that cannot be used.
    """
    from .media import image_io
    from .ops import resize
    from .pipeline import postprocess

    given = {name: getattr(arguments, name) for name in CONTROLS}
    given = {name: value for name, value in given.items() if value is not None}
    published, resolution = arguments.finish == "published", arguments.resolution
    if published and (given or arguments.mask):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--mask"
        raise Refusal(f"--finish published is the official script's picture; leave out {options}.")
    controls = "published" if published else postprocess.Finish(**given)
    mask = image_io.read(arguments.mask).pixels[..., :3].mean(-1) if arguments.mask else None
    if resolution is not None:
        fit = resize.square if published else resize.fit
        fit(1, 1, resolution, spec.multiple)
    return {"mask": mask, "resolution": resolution, "finish": controls}


def load_role(arguments: argparse.Namespace, model: str, role: str) -> "Colorizer":
    """The network called `model`; ValueError where it is of another role."""
    from .pipeline import loader

    colorizer = loader.load(model, device=device_of(arguments), dtype=arguments.dtype)
    if colorizer.spec.role != role:
        other = COMMANDS.get(colorizer.spec.role)
        raise ValueError(
            f"{model} is a network of the role '{colorizer.spec.role}' "
            f"({colorizer.spec.architecture}); colorist {COMMANDS[role]} takes '{role}' networks. "
            + (f"Its command is colorist {other}." if other else "")
        )
    return colorizer


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Painters:
    """What colours and writes; everything that all pictures need is checked here."""
    import numpy as np

    from .pipeline.color_memory import memory

    try:
        model = arguments.model or (DEFAULT_COLORFORMER if arguments.memory else DEFAULT_MODEL)
        colorizer = load_role(arguments, model, "automatic")
        options = finishing(arguments, colorizer.spec)
        if arguments.memory:
            colorizer = colorizer.with_memory(memory.load(locate_memory(arguments.memory)))
        sampling = {name: getattr(arguments, name, None) for name in ("count", "seed", "spread")}
        if arguments.count is not None:  # a picture of one pixel shows whether it can be done
            least = colorizer.spec.multiple
            colorizer.vary(np.zeros((1, 1, 3), np.float32), resolution=least, **sampling)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(jobs[0].target.parent)

    def color(picture: "Picture", outputs: list[Path]) -> None:
        if arguments.count is None:
            results = [colorizer.colorize(picture.pixels, **options)]
        else:
            results = colorizer.vary(picture.pixels, **sampling, **options)
        write_missing(arguments, outputs, ((pixels, picture.keep) for pixels in results))

    alike = cli_film.Alike(lambda frames: colorizer.colorize(frames, **options))
    return Painters(color, lambda: alike, colorizer.placement.device)


def write_missing(
    arguments: argparse.Namespace, outputs: list[Path], results: Iterable[tuple]
) -> None:
    """Write each (pixels, what a file keeps), except what is there already."""
    from .media import image_io

    for path, (pixels, keep) in zip(outputs, results, strict=True):
        if arguments.overwrite or not _holds_something(path):
            image_io.write(path, pixels, keep)


def _read_ahead(jobs: list[Job]) -> Iterator["Future[Picture]"]:
    """The picture of each job, while a thread reads the next one."""
    from .media import image_io

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for job, following in zip(jobs, [*jobs, None][1:], strict=True):
            reading = coming or reader.submit(image_io.read, job.source)
            coming = following and reader.submit(image_io.read, following.source)
            yield reading


def _holds_something(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0
