"""`colorist train` and `colorist evaluate`: run the scripts in trainers/.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse

from ...console.errors import ExitCode

EVALUATE = "...trainers.evaluate"
SCRIPTS = {
    "ddcolor": "...trainers.train_ddcolor",
    "colorformer": "...trainers.train_colorformer",
    "exemplar": "...trainers.train_exemplar",
    "pointhint": "...trainers.train_pointhint",
    "memory": "...trainers.build_color_memory",
    "pairs": "...trainers.build_reference_pairs",
    "evaluate": EVALUATE,
    "export": "...trainers.export",
}
"""Argument of `colorist train` -> script."""


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist train`."""
    parser.epilog = "For the settings of a script: colorist train ddcolor --help"
    parser.add_argument("script", metavar="WHAT", choices=SCRIPTS, help=", ".join(SCRIPTS))
    parser.add_argument("settings", nargs=argparse.REMAINDER, help="settings of the script")
    parser.set_defaults(run=_run_train)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add `colorist evaluate`, which passes all arguments to its script."""
    parser.set_defaults(run=run_evaluate)


def _run_train(arguments: argparse.Namespace) -> ExitCode:
    program = f"colorist train {arguments.script}"
    return _run_script(SCRIPTS[arguments.script], program, arguments.settings)


def run_evaluate(arguments: argparse.Namespace) -> ExitCode:
    """Run `colorist evaluate` with all arguments that the command line left unparsed."""
    return _run_script(EVALUATE, "colorist evaluate", arguments.rest)


def _run_script(name: str, program: str, settings: list[str]) -> ExitCode:
    """Run a script in trainers/ with the rest of the command line."""
    from importlib import import_module

    from ...trainers.runtime.command_line import run_script

    script = import_module(name, __package__)
    return run_script(script.main, script.Config, script.PRESETS, script.__doc__, settings, program)
