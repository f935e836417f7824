"""`colorist train` and `colorist evaluate`: the scripts in trainers/.

As in `cli`, only the standard library is imported at the top.
"""

import argparse

EVALUATION = "...trainers.evaluate"
TRAINERS = {  # what `colorist train` takes -> its script
    "ddcolor": "...trainers.train_ddcolor",
    "colorformer": "...trainers.train_colorformer",
    "exemplar": "...trainers.train_exemplar",
    "pointhint": "...trainers.train_pointhint",
    "memory": "...trainers.build_color_memory",
    "pairs": "...trainers.build_reference_pairs",
    "evaluate": EVALUATION,
    "export": "...trainers.export",
}


def _train(arguments: argparse.Namespace) -> int:
    what = arguments.what
    return _script(TRAINERS[what], f"colorist train {what}", arguments.settings)


def _evaluate(arguments: argparse.Namespace) -> int:
    return _script(EVALUATION, "colorist evaluate", arguments.rest)


def _script(name: str, prog: str, settings: list[str]) -> int:
    """Run one of the scripts in trainers/ with the rest of the command line."""
    from importlib import import_module

    from ...trainers.runtime import settings as common

    script = import_module(name, __package__)
    return common.script(script.main, script.Config, script.PRESETS, script.__doc__, settings, prog)
