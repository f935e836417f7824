"""The command `colorist`: what a user can do without ComfyUI.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import hashlib
import json
import logging
import os
import warnings
from dataclasses import asdict
from pathlib import Path

from . import (
    __version__,
    cli_colorize,
    cli_exemplar,
    cli_hints,
    cli_measure,
    cli_memory,
    cli_references,
)
from .cli_common import (
    DONE,
    DTYPES,
    FAILED,
    FAILURES,
    REFUSED,
    STOPPED,
    Refusal,
    identity,
    refuse_existing,
    say,
    sentence,
    show,
)

TRAINERS = {  # what `colorist train` takes -> its script
    "ddcolor": ".trainers.train_ddcolor",
    "colorformer": ".trainers.train_colorformer",
    "exemplar": ".trainers.train_exemplar",
    "pointhint": ".trainers.train_pointhint",
}
EVALUATION = ".trainers.evaluate"


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
    parser = argparse.ArgumentParser(
        prog="colorist",
        description="Colour black-and-white photos and train the networks that do it.",
    )
    parser.add_argument("--version", action="version", version=f"colorist {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cli_colorize.add_colorize(
        commands.add_parser("colorize", help="colour pictures or folders of pictures")
    )
    cli_colorize.add_variations(
        commands.add_parser("variations", help="several results of each picture")
    )
    cli_exemplar.add_exemplar(
        commands.add_parser("exemplar", help="colour pictures as references are coloured")
    )
    cli_hints.add_hints(
        commands.add_parser("hints", help="colour pictures from a few coloured points")
    )
    cli_references.add_references(
        commands.add_parser("references", help="find the best references for a picture")
    )
    memory = commands.add_parser("memory", help="color memories: built of your own colour photos")
    cli_memory.add_commands(memory.add_subparsers(required=True, metavar="COMMAND"))
    cli_measure.add_measure(
        commands.add_parser("measure", help="compare coloured pictures with the true ones")
    )
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
        show(f"{model['name']:40} {model['bytes'] / 1e6:8.1f} MB  {place}")
    say(f"models folder: {models.models_folder()}")
    return DONE


def _models_convert(arguments: argparse.Namespace) -> int:
    import torch

    from .model_defs import checkpoint, registry
    from .pipeline import files, models

    out = arguments.out
    if out.suffix != ".safetensors":
        raise Refusal(f"-o {out}: the name must end in .safetensors.")
    refuse_existing(out, arguments.overwrite)
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
