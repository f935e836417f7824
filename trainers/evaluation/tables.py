"""Score tables as Markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

from .tasks import GROUND_TRUTH

Summary = dict[str, dict[str, float | int | None]]  # method -> score -> value

COLUMNS = {  # score -> heading, number format
    "fid": ("FID", ".2f"),
    "colorfulness": ("CF", ".2f"),
    "delta_colorfulness": ("delta-CF", ".2f"),
    "paper_colorfulness": ("CF, papers", ".2f"),
    "paper_delta_colorfulness": ("delta-CF, papers", ".2f"),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "ciede2000": ("CIEDE2000", ".2f"),
    "his": ("HIS", ".3f"),
    "pev16": ("PEV 16", ".1f"),
    "bpsnr16": ("B-PSNR 16", ".2f"),
    "pev32": ("PEV 32", ".1f"),
    "bpsnr32": ("B-PSNR 32", ".2f"),
    "top1": ("top-1", ".1f"),
    "top5": ("top-5", ".1f"),
}
# Prefixes of scores that the photos themselves have by definition: "-" in their row.
TRIVIAL_SCORES = ("fid", "delta_", "paper_delta_", "psnr", "ssim", "ciede2000", "pev", "bpsnr")


def to_markdown(summary: Summary) -> str:
    """Return the scores of a task as a Markdown table."""
    columns = [name for name in COLUMNS if any(name in row for row in summary.values())]
    lines = [
        "| method | " + " | ".join(COLUMNS[name][0] for name in columns) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]
    for method, row in summary.items():
        cells = [method]
        for name in columns:
            trivial = method == GROUND_TRUTH and name.startswith(TRIVIAL_SCORES)
            value = None if trivial else row.get(name)
            cells.append("-" if value is None else format(value, COLUMNS[name][1]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_csv(rows: Sequence[Mapping[str, str | float]]) -> str:
    """Return rows as CSV, with a column for each name in any row."""
    names = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
