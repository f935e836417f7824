"""`colorist measure`: numbers that tell how good coloured pictures are.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...console.errors import DONE, FAILED, FAILURES, Refusal, sentence
from ...console.output import say, show
from ..jobs import Job, pictures_in
from ..video import is_film

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = {  # score -> heading, format; HIS only ever beside SSIM
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "his": ("HIS", ".3f"),
    "ciede2000": ("CIEDE2000", ".2f"),
    "colorfulness": ("colourfulness", ".1f"),
    "delta_colorfulness": ("delta-CF", ".1f"),
    "flicker": ("flicker", ".2f"),
    "still_deviation": ("still", ".2f"),
}
WHY_BOTH = (
    "read HIS with SSIM: a global transfer of the reference's colours alone makes HIS high, "
    "wherever they land."
)
NUMBER_WIDTH = 6  # of a column with a short heading
NAME_WIDTH = 60  # a longer name pushes its line to the right


def add_measure(parser: argparse.ArgumentParser) -> None:
    """The command `colorist measure`."""
    parser.description = (
        "Compare coloured pictures with the true ones: PSNR, SSIM, CIEDE2000, colourfulness and "
        "its difference. Without TRUTH, colourfulness alone. Pictures of folders belong together "
        "by path, then by name without suffix. Of films the means over all frames; flicker, the "
        "change of colour along motion from frame to frame; and its deviation at still places."
    )
    add = parser.add_argument
    add("result", type=Path, metavar="RESULT", help="coloured picture, film, or folder of pictures")
    add(
        "truth",
        type=Path,
        nargs="?",
        metavar="TRUTH",
        help="the true picture, for all results; or a folder with one for each",
    )
    add(
        "--reference",
        type=Path,
        metavar="REF",
        help="picture whose colours were asked for, or a folder with one for each: adds HIS",
    )
    add(
        "--film",
        action="store_true",
        help="RESULT, and TRUTH, are folders that hold the frames of one film",
    )
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_measure)


@dataclass
class Measured:
    """One result, and what belongs to it."""

    name: str
    """As the table calls it."""
    result: Path | None = None
    """None: a picture of TRUTH without a result."""
    truth: Path | None = None
    reference: Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def record(self) -> dict:
        """What --json prints."""
        paths = {"result": self.result, "truth": self.truth, "reference": self.reference}
        told = {name: path and str(path) for name, path in paths.items()}
        return told | self.scores | {"error": self.error}


class Partners:
    """TRUTH or REF: one picture that belongs to all results, or a folder with one for each."""

    def __init__(self, given: Path, others: list[Path]):
        """Raises Refusal where there is nothing of that name, or no picture in the folder."""
        if not os.path.exists(given):
            raise Refusal(f"{given}: no such file or folder.")
        self.given, self.one_for_all = given, not os.path.isdir(given)
        found = [] if self.one_for_all else _pictures(given, others)
        self.unreadable = [job.error for job in found if job.error]
        self.paths = [job.source.relative_to(given) for job in found if not job.error]
        self.by_stem: dict[str, list[Path]] = {}
        for path in self.paths:
            self.by_stem.setdefault(path.stem, []).append(path)
        if not self.one_for_all and not self.paths:
            raise Refusal(self.unreadable[0] if found else f"{given}: no pictures of its own.")

    def of(self, name: Path) -> Path:
        """Who belongs to the result with the path `name` in its folder.

        The same path; else the only one with the same stem in the same sub-folder, then anywhere.
        Raises ValueError, which does not name the result.
        """
        if self.one_for_all:
            return self.given
        alike = self.by_stem.get(name.stem, [])
        if name in alike:
            return self.given / name
        found = [path for path in alike if path.parent == name.parent] or alike
        if not found:
            raise ValueError(f"no picture of this name in {self.given}.")
        if len(found) > 1:
            names = ", ".join(path.as_posix() for path in found)
            raise ValueError(f"{len(found)} pictures of this name in {self.given}: {names}.")
        return self.given / found[0]


def _measure(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    if arguments.reference and not arguments.truth:
        raise Refusal(
            "--reference adds HIS, which is only meaningful with SSIM to a truth: a wrong picture "
            "in the right colours has a high HIS. Give TRUTH as well, or leave out --reference."
        )
    film = arguments.film or is_film(arguments.result)
    if film:
        entries = [_film(arguments)]
    else:
        entries = _plan(arguments.result, arguments.truth, arguments.reference)
    keep_truth = bool(arguments.truth) and not os.path.isdir(arguments.truth)
    score = _score_film if film else _scorer(keep_truth)
    width = min(max(len(entry.name) for entry in entries), NAME_WIDTH)
    measured: list[dict[str, float]] = []
    for number, entry in enumerate(entries, 1):
        began = time.monotonic()
        if not entry.error:
            try:
                entry.scores = score(entry)
            except FAILURES as error:
                entry.error = sentence(error, entry.name)
        if entry.error:
            say(f"[{number}/{len(entries)}] failed: {entry.error}")
            continue
        measured.append(entry.scores)
        if arguments.json:
            say(f"[{number}/{len(entries)}] {entry.name} {time.monotonic() - began:.1f} s")
        else:
            if len(measured) == 1:
                show(_heading(entry.scores, width))
            show(_row(entry.name, entry.scores, width))
    keys = measured[0] if measured else {}
    mean = {key: sum(scores[key] for scores in measured) / len(measured) for key in keys}
    failed = len(entries) - len(measured)
    if arguments.json:
        files = [entry.record() for entry in entries]
        counts = {"measured": len(measured), "failed": failed}
        print(json.dumps({"files": files, "mean": mean, **counts}, indent=1))
    elif len(measured) > 1:
        show(_row("mean", mean, width))
    if "his" in mean:
        say(WHY_BOTH)
    say(f"{len(measured)} measured" + (f", {failed} failed." if failed else "."))
    return FAILED if failed else DONE


def _heading(scores: dict[str, float], width: int) -> str:
    return _line("", {key: COLUMNS[key][0] for key in COLUMNS if key in scores}, width)


def _row(name: str, scores: dict[str, float], width: int) -> str:
    cells = {key: format(scores[key], COLUMNS[key][1]) for key in COLUMNS if key in scores}
    return _line(name, cells, width)


def _line(name: str, cells: dict[str, str], width: int) -> str:
    widths = {key: max(len(COLUMNS[key][0]), NUMBER_WIDTH) for key in cells}
    return "  ".join([name.ljust(width), *(cells[key].rjust(widths[key]) for key in cells)])


# --- Who is compared with whom -----------------------------------------------------------------


def _film(arguments: argparse.Namespace) -> Measured:
    """A film, and its truth. Refusal where one of them is none."""
    if arguments.reference:
        raise Refusal("--reference is for pictures; leave it out.")
    for path in filter(None, (arguments.result, arguments.truth)):
        if not os.path.exists(path):
            raise Refusal(f"{path}: no such file or folder.")
        if not (is_film(path) or os.path.isdir(path)):
            raise Refusal(f"{path}: not a film; expected a film or a folder of frames.")
    return Measured(arguments.result.name, arguments.result, arguments.truth)


def _plan(result: Path, truth: Path | None, reference: Path | None) -> list[Measured]:
    """All results with what belongs to them, and whatever has no partner, each with its error."""
    folders = [given for given in (result, truth, reference) if given]
    truths = Partners(truth, folders) if truth else None
    references = Partners(reference, folders) if reference else None
    entries, used = [], set()
    for job in _pictures(result, folders):
        inside = job.source != result
        path = job.source.relative_to(result) if inside else Path(job.source.name)
        entry = Measured(path.as_posix(), job.source, error=job.error)
        if not entry.error:
            try:
                entry.truth = truths and truths.of(path)
                used.add(entry.truth)
                entry.reference = references and references.of(path)
            except ValueError as error:
                entry.error = f"{entry.name}: {error}"
        entries.append(entry)
    for partners in filter(None, (truths, references)):
        entries += [Measured("", error=error) for error in partners.unreadable]
    if truths and os.path.isdir(result):
        for path in truths.paths:
            if (whole := truths.given / path) not in used:
                error = f"{whole}: no result of this name in {result}."
                entries.append(Measured(path.as_posix(), truth=whole, error=error))
    if not entries:
        raise Refusal(f"{result}: no pictures of its own.")
    return entries


def _pictures(given: Path, others: list[Path]) -> list[Job]:
    """A picture, or those in and below a folder, except below such `others` as lie inside it."""
    own = Path(os.path.realpath(given))
    inner = [path for path in map(Path, map(os.path.realpath, others)) if own in path.parents]
    return [
        job
        for job in pictures_in(given)
        if not any(Path(os.path.realpath(job.source.parent)).is_relative_to(i) for i in inner)
    ]


# --- Numbers -----------------------------------------------------------------------------------


def _scorer(keep_truth: bool) -> Callable[[Measured], dict[str, float]]:
    """What measures one entry; `keep_truth`: all have the same, which is read once."""
    from ...media import image_io
    from ...metrics import image as image_metrics

    def read(path: Path) -> "Tensor":
        """(1, 3, H, W) without transparency."""
        import torch

        pixels = torch.from_numpy(image_io.read(path).pixels[..., :3])
        return pixels.movedim(-1, 0)[None].expand(-1, 3, -1, -1)

    @lru_cache
    def histogram(path: Path) -> "Tensor":
        return image_metrics.ab_histogram(read(path))

    read_truth = lru_cache(1)(read) if keep_truth else read

    def score(entry: Measured) -> dict[str, float]:
        wanted = entry.reference and histogram(entry.reference)  # first: its pixels can go
        rgb = read(entry.result)
        if not entry.truth:
            return image_metrics.of_picture(rgb)
        true_rgb = read_truth(entry.truth)
        if rgb.shape != true_rgb.shape:
            size, true_size = (f"{x.shape[3]}x{x.shape[2]}" for x in (rgb, true_rgb))
            raise ValueError(
                f"{size} pixels, but its truth {entry.truth.name} has {true_size}; "
                "the sizes must agree."
            )
        return image_metrics.of_picture(rgb, true_rgb, wanted)

    return score


def _score_film(entry: Measured) -> dict[str, float]:
    """Means over the frames of a film, and how much its colour flickers."""
    import torch

    from ...media import video_reader
    from ...metrics import image as image_metrics
    from ...metrics.flicker import Flicker

    flicker, totals = Flicker(), Counter()
    truths = entry.truth and video_reader.read(entry.truth)
    for pixels, _ in video_reader.read(entry.result):
        frame = torch.from_numpy(pixels)[None]
        flicker.push(frame)
        true = truths and next(truths, None)
        if truths and true is None:
            raise ValueError(
                f"its truth {entry.truth.name} ends before frame {flicker.frames - 1}."
            )
        true_rgb = torch.from_numpy(true[0])[None].movedim(-1, 1) if true else None
        rgb = frame.movedim(-1, 1)
        if true and rgb.shape != true_rgb.shape:
            size, true_size = (f"{x.shape[3]}x{x.shape[2]}" for x in (rgb, true_rgb))
            raise ValueError(f"{size} pixels, but its truth {entry.truth.name} has {true_size}.")
        totals.update(image_metrics.of_picture(rgb, true_rgb))
    if truths and next(truths, None):
        raise ValueError(f"its truth {entry.truth.name} goes on behind frame {flicker.frames - 1}.")
    return {name: total / flicker.frames for name, total in totals.items()} | flicker.scores()
