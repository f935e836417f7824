"""The command line of `colorist`: its commands, and the arguments of one call.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse

from .. import __version__
from ..console.output import ArgumentParser
from .commands import (
    colorize,
    exemplar,
    hints,
    measure,
    memory,
    models,
    references,
    train,
    variations,
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `run` of the result is the function of the command.

    Raises:
        SystemExit: with code 2 for a command line that cannot be parsed.
    """
    parser = create_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.run is not train.run_evaluate:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = ArgumentParser(
        prog="colorist",
        description="Colorize black-and-white photos and videos, and train the models for it.",
    )
    parser.add_argument("--version", action="version", version=f"colorist {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text, add in (
        ("colorize", "colorize images, folders and videos", colorize.add_colorize),
        ("variations", "write several results for each image", variations.add_variations),
        ("exemplar", "colorize by reference images", exemplar.add_exemplar),
        ("hints", "colorize by hint points", hints.add_hints),
        ("references", "find the best reference images for a photo", references.add_references),
        ("memory", "build color memories from your own photos", memory.add_memory),
        ("measure", "compare results with the original images", measure.add_measure),
        ("models", "list, download, verify and convert models", models.add_models),
        ("train", "train a model on your own photos", train.add_train),
    ):
        add(commands.add_parser(name, help=text))
    train.add_evaluate(
        commands.add_parser("evaluate", help="score models on color photos", add_help=False)
    )
    return parser
