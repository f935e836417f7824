"""`colorist exemplar`: pictures and folders in, coloured as references are out.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.checks import refuse_unwritable
from ...console.errors import FAILURES, Refusal, sentence
from ...console.output import say
from .. import video
from ..jobs import Job, alone, pictures_in
from ..options import (
    DEFAULT_EXEMPLAR,
    add_finish,
    add_network,
    add_pictures,
    device_of,
    finishing,
    load_role,
)
from ..runner import Painters, color_all, write_missing

if TYPE_CHECKING:
    from ...media.image_data import Picture
    from ...pipeline.by_reference import ExemplarColorizer, References


def add_exemplar(parser: argparse.ArgumentParser) -> None:
    """The command `colorist exemplar`."""
    parser.description = (
        "Colour pictures and films as references are coloured, a film as some of its frames. "
        "Several references are looked at together, and each place takes its colour from where it "
        "finds its like. Outputs that are there already are left alone, and a stopped run goes on "
        "where it was."
    )
    add_pictures(parser)
    video.add_film(parser)
    add = parser.add_argument
    add(
        "--reference",
        type=Path,
        nargs="+",
        required=True,
        metavar="REF",
        help="colour pictures (transparent parts give no colour), which serve all of IN; or one "
        "folder, in which the best for each picture are found",
    )
    add(
        "--best",
        type=int,
        default=1,
        metavar="N",
        help="references taken from a folder for each picture (default: %(default)s)",
    )
    add(
        "--fallback",
        metavar="MODEL",
        help="automatic network that takes over where the references tell little",
    )
    add(
        "--threshold",
        type=float,
        metavar="X",
        help="how soon the fallback takes over: 0 = never ... 1 = everywhere (default: 0.5)",
    )
    add(
        "--confidence",
        action="store_true",
        help="write NAME-confidence.png, too: white = the references surely tell the colour",
    )
    add_network(parser, DEFAULT_EXEMPLAR)
    add_finish(parser, published=True)
    parser.set_defaults(run=_exemplar)


def _exemplar(arguments: argparse.Namespace) -> int:
    if arguments.threshold is not None and not arguments.fallback:
        raise Refusal("--threshold says when a fallback takes over; name one with --fallback.")
    if arguments.fallback and arguments.finish == "published":
        raise Refusal("--finish published is the official script's picture; leave out --fallback.")
    if arguments.best < 1:
        raise Refusal(f"--best is {arguments.best}; expected 1 or more.")
    arguments.naming = _with_confidence if arguments.confidence else alone
    return color_all(arguments, _painter)


def _with_confidence(target: Path) -> list[Path]:
    return [target, target.with_name(f"{target.stem}-confidence.png")]


def _painter(arguments: argparse.Namespace, jobs: list[Job]) -> Painters:
    """What colours and writes; everything that all pictures need is checked here."""
    from ...pipeline.by_reference import THRESHOLD

    folder = arguments.reference[0] if os.path.isdir(arguments.reference[0]) else None
    if folder and len(arguments.reference) > 1:
        raise Refusal("--reference takes pictures, or one folder to choose from; not both.")
    try:
        exemplar = load_role(arguments, arguments.model, "exemplar")
        options = finishing(arguments, exemplar.spec)
        if arguments.fallback:
            options["fallback"] = load_role(arguments, arguments.fallback, "automatic")
        options["threshold"] = THRESHOLD if arguments.threshold is None else arguments.threshold
        if not 0 <= options["threshold"] <= 1:
            raise Refusal(f"--threshold is {options['threshold']}; expected 0 to 1.")
        choose = _Chooser(arguments, exemplar, folder) if folder else None
        given = None if folder else exemplar.read(_pictures(arguments.reference))
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    if folder and any(job.film for job in jobs):
        raise Refusal(
            "--reference names a folder to choose from for each picture, which would change from "
            "frame to frame; name coloured frames of the film."
        )
    refuse_unwritable(jobs[0].target.parent)

    def color(picture: "Picture", outputs: list[Path]) -> None:
        reference = choose(picture) if choose else given
        colored, confidence = exemplar.colorize_with_confidence(
            picture.pixels, reference=reference, **options
        )
        results = [(colored, picture.keep), (confidence[..., None], None)]
        write_missing(arguments, outputs, results[: len(outputs)])

    alike = video.Alike(lambda frames: exemplar.colorize(frames, reference=given, **options))
    return Painters(color, lambda: alike, exemplar.placement.device)


def _pictures(paths: list[Path]) -> list:
    """References, read."""
    from ...media import image_io

    return [image_io.read(path).pixels for path in paths]


class _Chooser:
    """Finds the best references in a folder for one picture after another."""

    def __init__(self, arguments: argparse.Namespace, exemplar: "ExemplarColorizer", folder: Path):
        from ...pipeline import loader
        from ...pipeline.references import descriptors
        from ...pipeline.references import search as reference_search

        self.exemplar, self.best = exemplar, arguments.best
        self.photos = [job.source for job in pictures_in(folder) if not job.error]
        if not self.photos:
            raise Refusal(f"{folder}: no pictures in this folder to take as references.")
        self.encoder = loader.load(descriptors.ENCODER, device=device_of(arguments))
        self.index = reference_search.open_index(folder, self.encoder)

    def __call__(self, picture: "Picture") -> "References":
        from ...pipeline.references import search as reference_search

        found = reference_search.find(
            picture.pixels, self.photos, self.encoder, count=self.best, index=self.index
        )
        chosen = [self.photos[match.index] for match in found.matches]
        say("  as " + ", ".join(path.name for path in chosen))
        return self.exemplar.read(_pictures(chosen))
