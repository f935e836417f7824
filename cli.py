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
DTYPES = ("float32", "bfloat16", "float16")
TRAINERS = {"ddcolor": ".trainers.train_ddcolor"}  # what `colorist train` takes -> its script
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
        _say(f"colorist: error: {refusal}")
        return REFUSED
    except OSError as error:  # stdout itself: a full disk, a closed pipe
        _say(f"colorist: error: {error}")
        return FAILED
    except KeyboardInterrupt:
        _say("stopped.")
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="colorist",
        description="Colour black-and-white photos and train the networks that do it.",
    )
    parser.add_argument("--version", action="version", version=f"colorist {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_colorize(commands.add_parser("colorize", help="colour pictures or folders of pictures"))
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
    add("--model", default=DEFAULT_MODEL, help="name or checkpoint file (default: %(default)s)")
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
        "--finish",
        choices=("exact", "published"),
        default="exact",
        help="exact: the photo's own lightness; published: as the official script, to compare",
    )
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="white = colour here, black = leave; the photo's size",
    )
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: %(default)s)")
    add("--overwrite", action="store_true", help="write again what is there already")
    add("--json", action="store_true", help="print what became of each file as JSON")
    parser.set_defaults(run=_colorize)


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


# --- colorize ----------------------------------------------------------------------------------


@dataclass
class Job:
    """One picture on its way."""

    source: Path
    target: Path | None = None
    status: str = "waiting"
    """waiting, then written, skipped (it was there already) or failed."""
    error: str | None = None
    seconds: float = 0.0

    def record(self) -> dict:
        """What --json prints."""
        paths = {"input": str(self.source), "output": self.target and str(self.target)}
        return paths | {"status": self.status, "seconds": self.seconds, "error": self.error}


def _colorize(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    jobs = plan(arguments.inputs, arguments.out)
    for job in jobs:
        finished = job.target and not arguments.overwrite and _holds_something(job.target)
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
                    color(next(pictures).result(), job.target)
                    job.status = "written"
                except FAILURES as error:
                    job.status, job.error = "failed", _sentence(error, job.source.name)
            job.seconds = round(time.monotonic() - began, 3)
            what = f"failed: {job.error}" if job.error else job.source.name
            _say(f"[{number}/{len(jobs)}] {what} {job.seconds:.1f} s")
    except KeyboardInterrupt:
        _say("stopped; what is written is complete, and the same command goes on from here.")
        code = STOPPED
    counts = {
        status: sum(job.status == status for job in jobs)
        for status in ("written", "skipped", "failed", "waiting")
    }
    if arguments.json:
        print(json.dumps({"files": [job.record() for job in jobs], **counts}, indent=1))
    _say(", ".join(f"{count} {status}" for status, count in counts.items() if count) + ".")
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
        found = [job for given in inputs for job in _pictures_in(given, out)]
        jobs = list({(str(job.source.absolute()), str(job.target)): job for job in found}.values())
    sources = {_identity(job.source) for job in jobs if os.path.exists(job.source)}
    targets: dict[str, Path] = {}
    for job in jobs:
        if job.target is None:
            continue
        if os.path.exists(job.target) and _identity(job.target) in sources:
            raise Refusal(f"{job.target} is an input; originals are never overwritten. Change -o.")
        other = targets.setdefault(os.path.normcase(os.path.abspath(job.target)), job.source)
        if other != job.source:
            raise Refusal(
                f"{other} and {job.source} would both become {job.target}; use two folders."
            )
    return jobs


def _pictures_in(given: Path, out: Path) -> Iterator[Job]:
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
        yield Job(Path(error.filename), None, "failed", error=_sentence(error, str(given)))
    if not count and not unreadable:
        known = ", ".join(SUFFIXES)
        yield Job(given, None, "failed", error=f"{given}: no pictures in this folder ({known}).")


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Callable[["Picture", Path], None]:
    """What colours and writes one picture; everything that all pictures need is checked here."""
    from .pipeline import engine, files, finish, geometry

    given = {name: getattr(arguments, name) for name in CONTROLS}
    given = {name: value for name, value in given.items() if value is not None}
    published, resolution = arguments.finish == "published", arguments.resolution
    if published and (given or arguments.mask):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--mask"
        raise Refusal(f"--finish published is the official script's picture; leave out {options}.")
    try:
        controls = "published" if published else finish.Finish(**given)
        mask = files.read(arguments.mask).pixels[..., :3].mean(-1) if arguments.mask else None
        colorizer = engine.load(arguments.model, device=_device(arguments), dtype=arguments.dtype)
        if resolution is not None:
            fit = geometry.square if published else geometry.fit
            fit(1, 1, resolution, colorizer.spec.multiple)
    except FAILURES as error:
        raise Refusal(_sentence(error)) from error
    folder = jobs[0].target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refusal(f"cannot write into {folder} ({error.strerror}). Change -o.") from error

    def color(picture: "Picture", target: Path) -> None:
        pixels = colorizer.colorize(
            picture.pixels, mask=mask, resolution=resolution, finish=controls
        )
        files.write(target, pixels, picture.keep)

    return color


def _device(arguments: argparse.Namespace) -> str | None:
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


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _sentence(error: BaseException, name: str = "") -> str:
    """One line for the user, which names the file."""
    from .pipeline.files import PictureError

    if isinstance(error, OSError) and error.strerror:
        name, text = name or str(error.filename), f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{name}: {text}" if name and not isinstance(error, PictureError) else text


def _say(text: str) -> None:
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
    _say(f"models folder: {models.models_folder()}")
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
        if os.path.exists(out) and _identity(out) == _identity(source):
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
        raise Refusal(_sentence(error)) from error
    _say(f"{out}: {spec.architecture}, {arguments.dtype}, {out.stat().st_size / 1e6:.1f} MB")
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
        _say(f"colorist: error: {_sentence(error)}")
        return FAILED
    return DONE
