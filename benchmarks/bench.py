"""Helpers shared by the benchmarks: the package, command lines, photos, memory and reports.

Importing this module makes `comfyui_colorist` importable from the checkout. It imports neither
torch nor anything else that is heavy, so that a benchmark can still set environment variables.
"""

import argparse
import json
import resource
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MIN_CHROMA = 4.0  # mean C* below which a photo says nothing about color

runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()


# --- Command lines and reports -----------------------------------------------------------------


def argument_parser(doc: str | None, *, json_report: bool = True) -> argparse.ArgumentParser:
    """Return a parser that shows the docstring of a benchmark, with the option --json."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if json_report:
        parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser


def write_json(path: Path | None, content: object) -> None:
    """Write a report as JSON if a path is given; objects such as paths become strings."""
    if path:
        text = json.dumps(content, indent=1, default=str)
        path.write_text(text + "\n", encoding="utf-8")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]] = ()) -> None:
    """Print a Markdown table, or its head only; `print_row` adds rows."""
    print_row(headings)
    print_row(["---"] * len(headings))
    for row in rows:
        print_row(row)


def print_row(cells: Sequence[object]) -> None:
    """Print a row of a Markdown table at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def commit() -> str:
    """Return the short hash of the checkout, "" outside of one."""
    run = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return run.stdout.strip()


# --- Time and memory ---------------------------------------------------------------------------


def run_in_process(script: str, arguments: Sequence[object]) -> dict[str, Any]:
    """Run a benchmark in its own process and return the JSON in its last line of output."""
    command = [sys.executable, script, *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved_seconds(
    works: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each work, run in turns after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            elapsed = seconds_of(work)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def peak_bytes() -> int:
    """Return the peak resident set of this process; on Linux without that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Return the current resident set of this process; its peak on systems without /proc."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_bytes()
    return int(statm.read_text().split()[1]) * resource.getpagesize()


# --- Images ------------------------------------------------------------------------------------


def list_photos(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the .jpg files of a folder in order, at most `limit`."""
    return sorted(folder.glob("*.jpg"))[:limit]


def to_batch(image: "Image.Image") -> "torch.Tensor":
    """Convert an image to (1, 3, H, W) float32 in 0..1."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.movedim(-1, 0)[None].float() / 255


def resize_square(image: "Image.Image", side: int) -> "Image.Image":
    """Return an RGB image squashed to a square, as the papers do."""
    from PIL import Image

    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def mean_chroma(image: "Image.Image") -> float:
    """Return the mean C* of an image reduced to 64x64."""
    from comfyui_colorist.ops import color

    lab = color.rgb_to_lab(to_batch(image.convert("RGB").resize((64, 64))))
    return color.chroma(lab[0, 1:]).mean().item()


def quantize(rgb: "torch.Tensor") -> "torch.Tensor":
    """Round images in 0..1 to 8 bits, as in files."""
    return (rgb * 255).round() / 255


def gray_image(height: int, width: int) -> "torch.Tensor":
    """Return a synthetic gray photo (H, W, 3) in 0..1 with edges and gradients."""
    import torch

    rows = torch.linspace(0, 1, height)[:, None, None]
    columns = torch.linspace(0, 20, width)[None, :, None].sin()
    return (0.5 + 0.3 * rows * columns).expand(-1, -1, 3).contiguous()
