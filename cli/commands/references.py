"""`colorist references`: find the best reference images for a photo.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
from pathlib import Path

from ...console.errors import ExitCode, UsageError
from ...console.output import configure_logging, log_stderr, print_result, skipped_summary
from ..jobs import find_images
from ..options import load_reference_encoder


def add_references(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist references`."""
    parser.description = (
        "List the color photos in and below FOLDER that are the best references for TARGET, best "
        "first. Descriptors of the photos are cached to speed up the next search; gray and "
        "unreadable photos are left out."
    )
    add = parser.add_argument
    add("target", type=Path, metavar="TARGET", help="image to colorize")
    add("folder", type=Path, metavar="FOLDER", help="folder of color photos")
    add("--count", type=int, default=5, metavar="N", help="number of references (default: 5)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: cuda if available)")
    add("--no-index", action="store_true", help="neither use nor write the cache")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_references)


def _run_references(arguments: argparse.Namespace) -> ExitCode:
    if arguments.count < 1:
        raise UsageError(f"--count is {arguments.count}; expected at least 1.")
    if not arguments.target.is_file():
        raise UsageError(f"{arguments.target}: no such image.")
    if not arguments.folder.is_dir():
        raise UsageError(f"{arguments.folder}: no such folder.")
    configure_logging()
    jobs = list(find_images(arguments.folder))
    for job in jobs:
        if job.error:
            log_stderr(job.error)
    photos = [job.source for job in jobs if not job.error]
    if not photos:
        return ExitCode.FAILED

    from ...console.progress import Progress
    from ...pipeline.references import search

    encoder = load_reference_encoder(arguments)
    index = None if arguments.no_index else search.open_index(arguments.folder, encoder)
    with Progress("photos", " photos") as bar:
        ranking = search.find_references(
            arguments.target,
            photos,
            encoder,
            count=arguments.count,
            index=index,
            progress=bar.report,
        )
    if arguments.json:
        record = {
            "target": str(arguments.target),
            "references": [
                {"file": str(photos[m.index]), "score": m.score, "similarity": m.similarity}
                for m in ranking.matches
            ],
            "photos": ranking.photos,
            "grey": [str(photos[index]) for index in ranking.gray],
            "unreadable": [
                {"file": str(photos[index]), "error": reason}
                for index, reason in ranking.unreadable.items()
            ],
        }
        print(json.dumps(record, indent=1))
    else:
        for match in ranking.matches:
            print_result(f"{match.score:.4f}  {photos[match.index]}")
    if line := skipped_summary(len(ranking.gray), len(ranking.unreadable)):
        log_stderr(line)
    return ExitCode.OK
