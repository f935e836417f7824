"""The command `colorist`: what a user can do without ComfyUI.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    from .pipeline.files import Picture

DEFAULT_MODEL = "ddcolor-nano"
DEFAULT_COLORFORMER = "colorformer-nano"  # where it takes a network with a color memory
DTYPES = ("float32", "bfloat16", "float16")
TRAINERS = {  # what `colorist train` takes -> its script
    "ddcolor": ".trainers.train_ddcolor",
    "colorformer": ".trainers.train_colorformer",
}
EVALUATION = ".trainers.evaluate"
CONTROLS = ("strength", "saturation", "chroma_ceiling", "keep_color", "upsample")  # of Finish
# What a file or a setting can bring up; anything else is a bug and may show its traceback.
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 130


class Refusal(Exception):
    """What was asked for cannot be begun; nothing has been written."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors leave by SystemExit(2): argparse."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not _evaluate:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    warnings.filterwarnings("ignore", module="PIL")  # it repeats in worse words what we report
    try:
        return arguments.run(arguments)
    except Refusal as refusal:
        say(f"colorist: error: {refusal}")
        return REFUSED
    except OSError as error:  # stdout itself: a full disk, a closed pipe
        say(f"colorist: error: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("stopped.")
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    from . import cli_memory  # which takes its exit codes and sentences from here

    parser = argparse.ArgumentParser(
        prog="colorist",
        description="Colour black-and-white photos and train the networks that do it.",
    )
    parser.add_argument("--version", action="version", version=f"colorist {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_colorize(commands.add_parser("colorize", help="colour pictures or folders of pictures"))
    _add_variations(commands.add_parser("variations", help="several results of each picture"))
    memory = commands.add_parser("memory", help="color memories: built of your own colour photos")
    cli_memory.add_commands(memory.add_subparsers(required=True, metavar="COMMAND"))
    models = commands.add_parser("models", help="what networks there are; convert their files")
    _add_models(models.add_subparsers(required=True, metavar="COMMAND"))
    train = commands.add_parser(
        "train",
        help="train a network on your own photos",
        epilog="Settings of one trainer: colorist train ARCH --help",
    )
    train.add_argument("architecture", metavar="ARCH", choices=TRAINERS, help=", ".join(TRAINERS))
    train.add_argument("settings", nargs=argparse.REMAINDER, help="passed on to the trainer")
    train.set_defaults(run=_train)
    evaluate = commands.add_parser(
        "evaluate", help="score a network on colour photos", add_help=False
    )
    evaluate.set_defaults(run=_evaluate)
    return parser


def _add_colorize(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Colour pictures. A folder is coloured with all below it, its tree repeated under OUT. "
        "Outputs that are there already are left alone, so a stopped run goes on where it was."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture or folder")
    add(
        "-o", "--out", type=Path, required=True, help="folder; or a picture's name, for a single IN"
    )
    add_network(parser, DEFAULT_MODEL)
    _add_finish(parser)
    add(
        "--finish",
        choices=("exact", "published"),
        default="exact",
        help="exact: the photo's own lightness; published: as the official script, to compare",
    )
    parser.set_defaults(run=_colorize, count=None)


def _add_variations(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write several results of each picture, NAME-1, NAME-2, ..., which lean towards different "
        "colours of the network's color memory."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="IN", help="picture or folder")
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add("--count", type=int, default=4, metavar="N", help="results, 1 to 64 (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="other seeds, other results (default: 0)")
    add(
        "--spread",
        type=float,
        default=0.5,
        metavar="X",
        help="how far they lean: 0 = not at all ... 1 = to one colour only (default: %(default)s)",
    )
    add_network(parser, DEFAULT_COLORFORMER)
    _add_finish(parser)
    parser.set_defaults(run=_variations, finish="exact")


def add_network(parser: argparse.ArgumentParser, default: str) -> None:
    """Options that say which network runs, and how."""
    add = parser.add_argument
    add("--model", default=default, help="name or checkpoint file (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write again what is there already")
    add("--json", action="store_true", help="print what was done as JSON")


def _add_finish(parser: argparse.ArgumentParser) -> None:
    """Options of what becomes of a predicted colour."""
    add = parser.add_argument
    add("--memory", type=Path, metavar="FILE", help="color memory used instead of the network's")
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


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("list", help="networks in the box and in the models folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_models_list)
    parser = commands.add_parser("convert", help="write any readable checkpoint as our safetensors")
    parser.add_argument("input", metavar="IN", help="name or checkpoint file")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="file that ends in .safetensors"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="default: %(default)s (exact)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.set_defaults(run=_models_convert)


# --- colorize, variations ----------------------------------------------------------------------


@dataclass
class Job:
    """One picture on its way."""

    source: Path
    target: Path | None = None
    status: str = "waiting"
    """waiting, then written, skipped (it was there already) or failed."""
    error: str | None = None
    seconds: float = 0.0

    def outputs(self, count: int | None) -> list[Path]:
        """The target; or, for `count` variations, NAME-1 ... in its place."""
        if self.target is None or count is None:
            return [self.target] if self.target else []
        return [self.target.with_stem(f"{self.target.stem}-{i + 1}") for i in range(count)]

    def record(self, count: int | None) -> dict:
        """What --json prints."""
        written = [str(path) for path in self.outputs(count)]
        paths = {"input": str(self.source)}
        if count is None:
            paths |= {"output": written[0] if written else None}
        else:
            paths |= {"outputs": written}
        return paths | {"status": self.status, "seconds": self.seconds, "error": self.error}


def _colorize(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    jobs = plan(arguments.inputs, arguments.out)
    for job in jobs:
        outputs = job.outputs(arguments.count)
        finished = outputs and not arguments.overwrite and all(map(_holds_something, outputs))
        job.status = "skipped" if finished and not job.error else job.status
    waiting = [job for job in jobs if job.status == "waiting"]
    code = DONE
    try:
        color = _painter(arguments, waiting) if waiting else None
        pictures = _read_ahead(waiting)
        for number, job in enumerate(jobs, 1):
            if job.status == "skipped":
                continue
            began = time.monotonic()
            if job.status == "waiting":
                try:
                    color(next(pictures).result(), job.outputs(arguments.count))
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
        print(
            json.dumps({"files": [job.record(arguments.count) for job in jobs], **counts}, indent=1)
        )
    say(", ".join(f"{count} {status}" for status, count in counts.items() if count) + ".")
    return code or (FAILED if counts["failed"] else DONE)


def plan(inputs: list[Path], out: Path) -> list[Job]:
    """Which picture goes where: one picture to the file `out`, all others into the folder `out`.

    Raises:
        Refusal: two pictures with one output, an output that is an input, an impossible `out`.
    """
    from .pipeline.files import FORMATS, SUFFIXES

    suffix = out.suffix.lower()
    if suffix in SUFFIXES and not os.path.isdir(out):
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
        found = [job for given in inputs for job in pictures_in(given, out)]
        jobs = list({(str(job.source.absolute()), str(job.target)): job for job in found}.values())
    sources = {identity(job.source) for job in jobs if os.path.exists(job.source)}
    targets: dict[str, Path] = {}
    for job in jobs:
        if job.target is None:
            continue
        if os.path.exists(job.target) and identity(job.target) in sources:
            raise Refusal(f"{job.target} is an input; originals are never overwritten. Change -o.")
        other = targets.setdefault(os.path.normcase(os.path.abspath(job.target)), job.source)
        if other != job.source:
            raise Refusal(
                f"{other} and {job.source} would both become {job.target}; use two folders."
            )
    return jobs


def pictures_in(given: Path, out: Path) -> Iterator[Job]:
    """Jobs for a file, or for all pictures in and below a folder, without hidden ones and `out`."""
    from .pipeline.files import FORMATS, SUFFIXES

    def target(path: Path) -> Path:
        return out / (path if path.suffix.lower() in FORMATS else path.with_suffix(".png"))

    if not os.path.isdir(given):
        yield Job(given, target(Path(given.name)))
        return
    count, unreadable = 0, []
    for folder, folders, names in os.walk(given, onerror=unreadable.append):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(here / name) != os.path.realpath(out)
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
    from .pipeline.files import SUFFIXES

    if arguments.out.suffix.lower() in SUFFIXES and not os.path.isdir(arguments.out):
        raise Refusal(f"-o {arguments.out} names one picture; name a folder for the variations.")
    if arguments.count < 1:
        raise Refusal(f"--count is {arguments.count}; expected 1 to 64 results.")
    return _colorize(arguments)


def _painter(
    arguments: argparse.Namespace, jobs: list[Job]
) -> Callable[["Picture", list[Path]], None]:
    """What colours and writes one picture; everything that all pictures need is checked here."""
    import numpy as np

    from .pipeline import engine, files, finish, geometry, memory

    given = {name: getattr(arguments, name) for name in CONTROLS}
    given = {name: value for name, value in given.items() if value is not None}
    published, resolution = arguments.finish == "published", arguments.resolution
    if published and (given or arguments.mask):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--mask"
        raise Refusal(f"--finish published is the official script's picture; leave out {options}.")
    try:
        controls = "published" if published else finish.Finish(**given)
        mask = files.read(arguments.mask).pixels[..., :3].mean(-1) if arguments.mask else None
        colorizer = engine.load(arguments.model, device=device_of(arguments), dtype=arguments.dtype)
        if resolution is not None:
            fit = geometry.square if published else geometry.fit
            fit(1, 1, resolution, colorizer.spec.multiple)
        if arguments.memory:
            colorizer = colorizer.with_memory(memory.load(arguments.memory))
        sampling = {name: getattr(arguments, name, None) for name in ("count", "seed", "spread")}
        if arguments.count is not None:  # a picture of one pixel shows whether it can be done
            least = colorizer.spec.multiple
            colorizer.vary(np.zeros((1, 1, 3), np.float32), resolution=least, **sampling)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(jobs[0].target.parent)

    def color(picture: "Picture", outputs: list[Path]) -> None:
        options = {"mask": mask, "resolution": resolution, "finish": controls}
        if arguments.count is None:
            results = [colorizer.colorize(picture.pixels, **options)]
        else:
            results = colorizer.vary(picture.pixels, **sampling, **options)
        for path, pixels in zip(outputs, results, strict=True):
            files.write(path, pixels, picture.keep)

    return color


def refuse_unwritable(folder: Path) -> None:
    """Make a folder; Refusal where no file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refusal(f"cannot write into {folder} ({error.strerror}). Change -o.") from error


def device_of(arguments: argparse.Namespace) -> str | None:
    """What --device says; Refusal where this machine has no such device."""
    import torch

    try:
        if arguments.device:
            torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise Refusal(f"--device {arguments.device} cannot be used ({reason}).") from error
    return arguments.device


def _read_ahead(jobs: list[Job]) -> Iterator["Future[Picture]"]:
    """The picture of each job, while a thread reads the next one."""
    from .pipeline import files

    with ThreadPoolExecutor(1) as reader:
        coming = None
        for job, following in zip(jobs, [*jobs, None][1:], strict=True):
            reading = coming or reader.submit(files.read, job.source)
            coming = following and reader.submit(files.read, following.source)
            yield reading


def _holds_something(path: Path) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def sentence(error: BaseException, name: str = "") -> str:
    """One line for the user, which names the file."""
    from .pipeline.files import PictureError

    if isinstance(error, OSError) and error.strerror:
        name, text = name or str(error.filename), f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{name}: {text}" if name and not isinstance(error, PictureError) else text


def say(text: str) -> None:
    """Progress and errors go to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)


# --- models, train -----------------------------------------------------------------------------


def _models_list(arguments: argparse.Namespace) -> int:
    from .pipeline import models

    boxed = models.boxed()
    found = [
        {"name": name, "file": str(path), "bytes": path.stat().st_size, "boxed": name in boxed}
        for name, path in models.available().items()
    ]
    if arguments.json:
        print(json.dumps({"models": found, "folder": str(models.models_folder())}, indent=1))
        return DONE
    for model in found:
        place = "in the box" if model["boxed"] else "models folder"
        print(f"{model['name']:40} {model['bytes'] / 1e6:8.1f} MB  {place}")
    say(f"models folder: {models.models_folder()}")
    return DONE


def _models_convert(arguments: argparse.Namespace) -> int:
    import torch

    from .model_defs import checkpoint, registry
    from .pipeline import files, models

    out = arguments.out
    if out.suffix != ".safetensors":
        raise Refusal(f"-o {out}: the name must end in .safetensors.")
    if os.path.exists(out) and not arguments.overwrite:
        raise Refusal(f"{out} is there already; give another name, or --overwrite.")
    try:
        source = models.locate(arguments.input)
        if os.path.exists(out) and identity(out) == identity(source):
            raise Refusal(f"{out} is the input; originals are never overwritten. Change -o.")
        network, spec, info = registry.load(source)
        dtype, state = getattr(torch, arguments.dtype), {}
        for name, tensor in network.state_dict().items():
            state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            if not torch.equal(state[name].isfinite(), tensor.isfinite()):
                raise Refusal(
                    f"{source.name}: {name} does not fit into {arguments.dtype}; use bfloat16."
                )
        # What is known of an older file of ours goes on; where a foreign one came from is noted.
        origin = {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
        config = {"architecture": spec.architecture, "config": asdict(network.config)}
        files.write_whole(out, checkpoint.to_bytes(state, {"origin": origin, **info, **config}))
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    say(f"{out}: {spec.architecture}, {arguments.dtype}, {out.stat().st_size / 1e6:.1f} MB")
    return DONE


def _train(arguments: argparse.Namespace) -> int:
    architecture = arguments.architecture
    return _script(TRAINERS[architecture], f"colorist train {architecture}", arguments.settings)


def _evaluate(arguments: argparse.Namespace) -> int:
    return _script(EVALUATION, "colorist evaluate", arguments.rest)


def _script(name: str, prog: str, settings: list[str]) -> int:
    """Run one of the scripts in trainers/ with the rest of the command line."""
    from importlib import import_module

    from .trainers import common

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    script = import_module(name, __package__)
    config = common.parse(script.Config, script.PRESETS, settings, script.__doc__, prog)
    try:
        script.main(config)
    except (ValueError, OSError) as error:
        say(f"colorist: error: {sentence(error)}")
        return FAILED
    return DONE
