"""`colorist references`: which photos of a folder are the best references for a picture.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
from pathlib import Path

from ...console.errors import DONE, FAILED, FAILURES, Refusal, sentence
from ...console.output import left_out, pace, say, show
from ..jobs import pictures_in
from ..options import device_of


def add_references(parser: argparse.ArgumentParser) -> None:
    """The arguments of `colorist references`."""
    parser.description = (
        "List the colour photos of FOLDER and below it that are the best references for TARGET, "
        "best first. What is learned of the photos is kept, so that the next search is quick; grey "
        "and unreadable photos are left out."
    )
    add = parser.add_argument
    add("target", type=Path, metavar="TARGET", help="the picture to colour")
    add("folder", type=Path, metavar="FOLDER", help="folder of colour photos")
    add("--count", type=int, default=5, metavar="N", help="how many, at most (default: 5)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    add("--no-index", action="store_true", help="keep nothing, and use nothing that was kept")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_references)


def _references(arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise Refusal(f"--count is {arguments.count}; expected at least 1.")
    if not arguments.target.is_file():
        raise Refusal(f"{arguments.target}: no such picture.")
    if not arguments.folder.is_dir():
        raise Refusal(f"{arguments.folder}: no such folder.")
    jobs = list(pictures_in(arguments.folder))
    for job in jobs:
        if job.status == "failed":
            say(job.error)
    photos = [job.source for job in jobs if job.status != "failed"]
    if not photos:
        return FAILED
    device = device_of(arguments)

    from ...pipeline import loader
    from ...pipeline.references import descriptors
    from ...pipeline.references import search as reference_search

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        colorizer = loader.load(descriptors.ENCODER, device=device)
        index = None
        if not arguments.no_index:
            index = reference_search.open_index(arguments.folder, colorizer)
        found = reference_search.find(
            arguments.target,
            photos,
            colorizer,
            count=arguments.count,
            index=index,
            progress=pace(say),
        )
    except FAILURES as error:
        say(f"colorist: error: {sentence(error)}")
        return FAILED
    if arguments.json:
        listed = [
            {"file": str(photos[m.index]), "score": m.score, "similarity": m.similarity}
            for m in found.matches
        ]
        record = {"target": str(arguments.target), "references": listed, "photos": found.photos}
        record["grey"] = [str(photos[place]) for place in found.grey]
        record["unreadable"] = [
            {"file": str(photos[place]), "error": why} for place, why in found.unreadable.items()
        ]
        print(json.dumps(record, indent=1))
    else:
        for match in found.matches:
            show(f"{match.score:.4f}  {photos[match.index]}")
    if line := left_out(len(found.grey), len(found.unreadable)):
        say(line)
    return DONE
