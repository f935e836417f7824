"""`colorist measure`: score colorized images and videos.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...console.errors import EXPECTED_ERRORS, ExitCode, UsageError, format_error
from ...console.output import configure_logging, log_stderr, print_result
from ..jobs import is_video
from ..paired_files import MeasureEntry, pair_images

if TYPE_CHECKING:
    from torch import Tensor

ScoreFn = Callable[[Path, Path | None, Path | None], dict[str, float]]
"""(result, truth, reference) -> scores."""

COLUMNS = {  # score -> heading, format; HIS is never shown without SSIM
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "his": ("HIS", ".3f"),
    "ciede2000": ("CIEDE2000", ".2f"),
    "colorfulness": ("colorfulness", ".1f"),
    "delta_colorfulness": ("delta-CF", ".1f"),
    "flicker": ("flicker", ".2f"),
    "still_deviation": ("still", ".2f"),
}
HIS_NOTE = (
    "read HIS together with SSIM: a global color transfer from the reference makes HIS high, "
    "wherever the colors are."
)
MIN_COLUMN_WIDTH = 6
MAX_NAME_WIDTH = 60  # a longer name shifts its row


def add_measure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `colorist measure`."""
    parser.description = (
        "Compare colorized images with the ground truth: PSNR, SSIM, CIEDE2000, colorfulness and "
        "its difference. Without TRUTH, colorfulness only. Images in folders are paired by path, "
        "then by name without suffix. For videos: means over all frames; flicker, the change of "
        "color along motion from frame to frame; and the deviation at still places."
    )
    add = parser.add_argument
    add("result", type=Path, metavar="RESULT", help="colorized image, video, or folder of images")
    add(
        "truth",
        type=Path,
        nargs="?",
        metavar="TRUTH",
        help="ground truth for all results; or a folder with one for each",
    )
    add(
        "--reference",
        type=Path,
        metavar="REF",
        help="reference image, or a folder with one for each result: adds HIS",
    )
    add(
        "--film",
        action="store_true",
        help="RESULT and TRUTH are folders with the frames of a video",
    )
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_measure)


def _run_measure(arguments: argparse.Namespace) -> ExitCode:
    configure_logging()
    if arguments.reference and not arguments.truth:
        raise UsageError(
            "--reference adds HIS, which is only meaningful together with SSIM: a wrong image in "
            "the right colors has a high HIS. Give TRUTH as well, or leave out --reference."
        )
    if arguments.film or is_video(arguments.result):
        entries, score = [_video_entry(arguments)], _score_video
    else:
        entries = pair_images(arguments.result, arguments.truth, arguments.reference)
        has_single_truth = bool(arguments.truth) and not os.path.isdir(arguments.truth)
        score = _image_scorer(cache_truth=has_single_truth)
    width = min(max(len(entry.name) for entry in entries), MAX_NAME_WIDTH)
    measured = _measure(entries, score, width, as_json=arguments.json)
    keys = measured[0] if measured else {}
    mean = {key: sum(scores[key] for scores in measured) / len(measured) for key in keys}
    failed = len(entries) - len(measured)
    if arguments.json:
        files = [entry.record() for entry in entries]
        counts = {"measured": len(measured), "failed": failed}
        print(json.dumps({"files": files, "mean": mean, **counts}, indent=1))
    elif len(measured) > 1:
        print_result(_row("mean", mean, width))
    if "his" in mean:
        log_stderr(HIS_NOTE)
    log_stderr(f"{len(measured)} measured" + (f", {failed} failed." if failed else "."))
    return ExitCode.FAILED if failed else ExitCode.OK


def _measure(
    entries: list[MeasureEntry], score: ScoreFn, width: int, *, as_json: bool
) -> list[dict[str, float]]:
    """Score the entries and print each row as soon as it is known; return the scores."""
    measured: list[dict[str, float]] = []
    for number, entry in enumerate(entries, 1):
        started = time.monotonic()
        if entry.result and not entry.error:
            try:
                entry.scores = score(entry.result, entry.truth, entry.reference)
            except EXPECTED_ERRORS as error:
                entry.error = format_error(error, entry.name)
        if entry.error:
            log_stderr(f"[{number}/{len(entries)}] failed: {entry.error}")
            continue
        measured.append(entry.scores)
        if as_json:
            seconds = time.monotonic() - started
            log_stderr(f"[{number}/{len(entries)}] {entry.name} {seconds:.1f} s")
            continue
        if len(measured) == 1:
            print_result(_heading(entry.scores, width))
        print_result(_row(entry.name, entry.scores, width))
    return measured


def _video_entry(arguments: argparse.Namespace) -> MeasureEntry:
    """Return the entry of a video.

    Raises:
        UsageError: a path is not a video or a folder, or --reference is given.
    """
    if arguments.reference:
        raise UsageError("--reference is for images; leave it out.")
    for path in filter(None, (arguments.result, arguments.truth)):
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder.")
        if not (is_video(path) or os.path.isdir(path)):
            raise UsageError(f"{path}: not a video; expected a video or a folder of frames.")
    return MeasureEntry(arguments.result.name, arguments.result, arguments.truth)


# --- Table -------------------------------------------------------------------------------------


def _heading(scores: dict[str, float], width: int) -> str:
    return _line("", {key: COLUMNS[key][0] for key in COLUMNS if key in scores}, width)


def _row(name: str, scores: dict[str, float], width: int) -> str:
    cells = {key: format(scores[key], COLUMNS[key][1]) for key in COLUMNS if key in scores}
    return _line(name, cells, width)


def _line(name: str, cells: dict[str, str], width: int) -> str:
    widths = {key: max(len(COLUMNS[key][0]), MIN_COLUMN_WIDTH) for key in cells}
    return "  ".join([name.ljust(width), *(cells[key].rjust(widths[key]) for key in cells)])


# --- Scores ------------------------------------------------------------------------------------


def _image_scorer(*, cache_truth: bool) -> ScoreFn:
    """Return a function that scores images.

    Args:
        cache_truth: all results have the same truth; read it once.
    """
    from ...metrics import image as image_metrics

    @lru_cache
    def histogram(path: Path) -> "Tensor":
        return image_metrics.ab_histogram(_read_rgb(path))

    read_truth = lru_cache(1)(_read_rgb) if cache_truth else _read_rgb

    def score(result: Path, truth: Path | None, reference: Path | None) -> dict[str, float]:
        # The histogram comes first, so that the pixels of the reference can be freed
        reference_histogram = histogram(reference) if reference else None
        rgb = _read_rgb(result)
        if not truth:
            return image_metrics.score_image(rgb)
        true_rgb = read_truth(truth)
        _check_same_size(rgb, true_rgb, truth)
        return image_metrics.score_image(rgb, true_rgb, reference_histogram)

    return score


def _score_video(result: Path, truth: Path | None, _: Path | None) -> dict[str, float]:
    """Return the mean scores of the frames of a video, and its flicker."""
    import torch

    from ...media import video_reader
    from ...metrics import image as image_metrics
    from ...metrics.flicker import FlickerMeter

    flicker, totals = FlickerMeter(), Counter[str]()
    true_frames = video_reader.read_frames(truth) if truth else None
    for pixels, _time in video_reader.read_frames(result):
        frame, true_rgb = torch.from_numpy(pixels)[None], None
        flicker.push(frame)
        rgb = frame.movedim(-1, 1)
        if truth and true_frames:
            true_frame = next(true_frames, None)
            if true_frame is None:
                raise ValueError(f"its truth {truth.name} ends before frame {flicker.frames - 1}.")
            true_rgb = torch.from_numpy(true_frame[0])[None].movedim(-1, 1)
            _check_same_size(rgb, true_rgb, truth)
        totals.update(image_metrics.score_image(rgb, true_rgb))
    if truth and true_frames and next(true_frames, None):
        raise ValueError(f"its truth {truth.name} continues after frame {flicker.frames - 1}.")
    means = {name: total / flicker.frames for name, total in totals.items()}
    return {**means, **cast("dict[str, float]", flicker.scores())}


def _read_rgb(path: Path) -> "Tensor":
    """Read an image as (1, 3, H, W), sRGB in 0..1, without alpha."""
    import torch

    from ...media import image_io

    pixels = torch.from_numpy(image_io.read_image(path).pixels[..., :3])
    return pixels.movedim(-1, 0)[None].expand(-1, 3, -1, -1)


def _check_same_size(rgb: "Tensor", true_rgb: "Tensor", truth: Path) -> None:
    """Raise ValueError if a result and its truth differ in size."""
    if rgb.shape != true_rgb.shape:
        size, true_size = (f"{x.shape[3]}x{x.shape[2]}" for x in (rgb, true_rgb))
        raise ValueError(
            f"{size} pixels, but its truth {truth.name} has {true_size}; the sizes must agree."
        )
