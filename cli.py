"""The command `colorist`: what a user can do without ComfyUI.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
import warnings

from . import (
    __version__,
    cli_colorize,
    cli_exemplar,
    cli_hints,
    cli_measure,
    cli_memory,
    cli_models,
    cli_references,
)
from .cli_common import FAILED, REFUSED, STOPPED, Refusal, say

EVALUATION = ".trainers.evaluate"
TRAINERS = {  # what `colorist train` takes -> its script
    "ddcolor": ".trainers.train_ddcolor",
    "colorformer": ".trainers.train_colorformer",
    "exemplar": ".trainers.train_exemplar",
    "pointhint": ".trainers.train_pointhint",
    "memory": ".trainers.build_color_memory",
    "pairs": ".trainers.build_reference_pairs",
    "evaluate": EVALUATION,
    "export": ".trainers.export",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors leave by SystemExit(2): argparse."""
    # Large pages for large tensors, before torch looks (Linux; docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
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
    models = commands.add_parser(
        "models", help="what networks there are; fetch, check and convert their files"
    )
    cli_models.add_commands(models.add_subparsers(required=True, metavar="COMMAND"))
    train = commands.add_parser(
        "train",
        help="train a network on your own photos",
        epilog="Settings of one of them: colorist train ddcolor --help",
    )
    train.add_argument("what", metavar="WHAT", choices=TRAINERS, help=", ".join(TRAINERS))
    train.add_argument("settings", nargs=argparse.REMAINDER, help="passed on to the trainer")
    train.set_defaults(run=_train)
    evaluate = commands.add_parser(
        "evaluate", help="score a network on colour photos", add_help=False
    )
    evaluate.set_defaults(run=_evaluate)
    return parser


# --- train, evaluate ---------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> int:
    what = arguments.what
    return _script(TRAINERS[what], f"colorist train {what}", arguments.settings)


def _evaluate(arguments: argparse.Namespace) -> int:
    return _script(EVALUATION, "colorist evaluate", arguments.rest)


def _script(name: str, prog: str, settings: list[str]) -> int:
    """Run one of the scripts in trainers/ with the rest of the command line."""
    from importlib import import_module

    from .trainers import common

    script = import_module(name, __package__)
    return common.script(script.main, script.Config, script.PRESETS, script.__doc__, settings, prog)
