r"""Scores of automatic models on color photos and on old scans, and a contact sheet.

    python benchmarks/automatic_color.py --photos eval/ --model ddcolor-nano colorformer-nano
    python benchmarks/automatic_color.py --scans scans/ --model old.safetensors ddcolor-nano \
        --sheet scans.jpg

For color photos, at each saturation: PSNR over RGB in dB, colorfulness (Hasler and Suesstrunk),
and the fraction of photos whose PSNR is more than 0.5 dB below that of the gray photo. Scans have
no ground truth. For them: the fraction of the result's chroma outside hue 25 to 100 degrees in
CIELAB, median over the scans; 0 for a sepia image.
"""

import argparse
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench
import comfyui_colorist as colorist
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.automatic import Colorizer
from comfyui_colorist.pipeline.postprocess import Finish
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.evaluation.contact_sheet import contact_sheet, save_sheet
from torch import Tensor

WORSE_DB = 0.5  # below the gray photo
SEPIA_HUES = 25.0, 100.0  # degrees


def main() -> None:
    """Print a line for each model and saturation; write the contact sheet and JSON."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--model", nargs="+", default=["ddcolor-nano"])
    parser.add_argument("--photos", type=Path, help="folder of color photos")
    parser.add_argument("--scans", type=Path, help="folder of black-and-white scans")
    parser.add_argument("--saturation", nargs="+", type=float, default=[1.0, 1.2, 1.4])
    parser.add_argument("--resolution", nargs="+", type=int, default=[0], help="0 = the network's")
    parser.add_argument("--every", type=int, default=1, help="use every Nth photo")
    parser.add_argument("--sheet", type=Path, help="contact sheet of the colorized scans")
    options = parser.parse_args()

    models = {name: colorist.load(name) for name in options.model}
    rows = []
    for name, colorizer in models.items():
        for resolution in options.resolution:
            start = time.perf_counter()
            new_rows = []
            if options.photos:
                new_rows += score_photos(colorizer, resolution or None, options)
            if options.scans:
                new_rows.append(score_scans(colorizer, resolution or None, options))
            for row in new_rows:
                row |= {"model": name, "resolution": resolution or colorizer.spec.resolution}
                print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
            rows += new_rows
    if options.sheet and options.scans:
        draw_sheet(models, options)
    info = {"torch": torch.__version__, "machine": platform.machine(), "commit": bench.commit()}
    bench.write_json(options.json, info | {"rows": rows})


def gray_and_color(folder: Path, every: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield photos of a folder as gray (1, 3, H, W) and in color, both in 0..1."""
    photos = Photos([folder])
    for index in range(0, len(photos), every):
        truth = bench.to_batch(photos[index])
        yield color.gray_rgb(color.lightness(truth)), truth


def colorize(
    colorizer: Colorizer, gray: Tensor, resolution: int | None, saturation: float = 1.0
) -> Tensor:
    """Return the result (1, 3, H, W), quantized to 8 bits."""
    finish = Finish(saturation=saturation)
    rgb = colorizer.colorize(gray.movedim(1, -1), resolution=resolution, finish=finish)
    return bench.quantize(rgb.movedim(-1, 1))


def score_photos(
    colorizer: Colorizer, resolution: int | None, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return PSNR, colorfulness and the fraction of worse photos at each saturation."""
    scores: dict[float, list[tuple[float, float, bool]]] = {s: [] for s in options.saturation}
    for gray, truth in gray_and_color(options.photos, options.every):
        baseline = image_metrics.psnr(bench.quantize(gray), truth).item()
        for saturation, values in scores.items():
            rgb = colorize(colorizer, gray, resolution, saturation)
            psnr = image_metrics.psnr(rgb, truth).item()
            worse = psnr < baseline - WORSE_DB
            values.append((psnr, image_metrics.colorfulness(rgb).item(), worse))
    rows = []
    for saturation, values in scores.items():
        psnr, colorfulness, worse = (sum(v) / len(v) for v in zip(*values, strict=True))
        row = {"saturation": saturation, "psnr": round(psnr, 2)}
        rows.append(row | {"colorfulness": round(colorfulness, 1), "worse": round(worse, 3)})
    return rows


def score_scans(
    colorizer: Colorizer, resolution: int | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the median fraction of chroma outside SEPIA_HUES, and the mean chroma."""
    fractions, chromas = [], []
    for gray, _ in gray_and_color(options.scans, options.every):
        a, b = color.rgb_to_lab(colorize(colorizer, gray, resolution))[0, 1:]
        chroma, hue = torch.hypot(a, b), torch.rad2deg(torch.atan2(b, a)) % 360
        outside = (hue < SEPIA_HUES[0]) | (hue > SEPIA_HUES[1])
        fractions.append((chroma[outside].sum() / chroma.sum().clamp(min=1e-6)).item())
        chromas.append(chroma.mean().item())
    median = sorted(fractions)[len(fractions) // 2]
    mean = sum(chromas) / len(chromas)
    return {"scans": len(fractions), "outside": round(median, 3), "chroma": round(mean, 1)}


def draw_sheet(models: dict[str, Colorizer], options: argparse.Namespace) -> None:
    """Write a contact sheet of each scan beside the results of all models."""
    rows = [
        [gray, *(colorize(colorizer, gray, None) for colorizer in models.values())]
        for gray, _ in gray_and_color(options.scans, options.every)
    ]
    save_sheet(contact_sheet(rows, ["scan", *models], cell=320), options.sheet)


if __name__ == "__main__":
    main()
