"""The command `colorist`: what a user can do without ComfyUI.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import os
import warnings

from .. import __version__
from ..console.errors import FAILED, REFUSED, STOPPED, Refusal
from ..console.output import say
from .commands import colorize, exemplar, hints, measure, references, variations
from .commands import memory as cli_memory
from .commands import models as cli_models
from .commands.train import TRAINERS, _evaluate, _train


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
    colorize.add_colorize(
        commands.add_parser("colorize", help="colour pictures or folders of pictures")
    )
    variations.add_variations(
        commands.add_parser("variations", help="several results of each picture")
    )
    exemplar.add_exemplar(
        commands.add_parser("exemplar", help="colour pictures as references are coloured")
    )
    hints.add_hints(commands.add_parser("hints", help="colour pictures from a few coloured points"))
    references.add_references(
        commands.add_parser("references", help="find the best references for a picture")
    )
    memory = commands.add_parser("memory", help="color memories: built of your own colour photos")
    cli_memory.add_commands(memory.add_subparsers(required=True, metavar="COMMAND"))
    measure.add_measure(
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
