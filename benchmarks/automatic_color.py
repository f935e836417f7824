"""Scores of automatic colorizers on color photos and on old scans, and a sheet to look at.

    python benchmarks/automatic_color.py --photos eval/ --model ddcolor-nano colorformer-nano
    python benchmarks/automatic_color.py --scans scans/ --model old.safetensors ddcolor-nano \\
        --sheet scans.jpg

For color photos, at each saturation: PSNR over RGB in dB, colorfulness (Hasler and Suesstrunk),
and the share of photos whose PSNR is more than 0.5 dB below that of the gray photo. For scans,
which have no truth: the share of the result's chroma that lies outside hue 25 to 100 degrees in
CIELAB, median over the scans; a sepia picture has 0.
"""

import argparse
import json
import platform
import runpy
import time
from pathlib import Path

from large_photo import ROOT, commit

WORSE = 0.5  # dB below the gray photo
SEPIA = 25.0, 100.0  # degrees of hue


def main() -> None:
    """Print a line for each model and saturation; write sheet and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["ddcolor-nano"])
    parser.add_argument("--photos", type=Path, help="folder of color photos")
    parser.add_argument("--scans", type=Path, help="folder of black-and-white scans")
    parser.add_argument("--saturation", nargs="+", type=float, default=[1.0, 1.2, 1.4])
    parser.add_argument("--resolution", nargs="+", type=int, default=[0], help="0 = the network's")
    parser.add_argument("--every", type=int, default=1, help="use every Nth photo")
    parser.add_argument("--sheet", type=Path, help="picture of the scans, colored")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import comfyui_colorist as colorist
    import torch

    engines = {name: colorist.load(name) for name in options.model}
    rows = []
    for name, engine in engines.items():
        for resolution in options.resolution:
            began = time.perf_counter()
            if options.photos:
                rows += on_photos(engine, resolution or None, options)
            if options.scans:
                rows.append(on_scans(engine, resolution or None, options))
            for row in rows:
                if "model" not in row:
                    row |= {"model": name, "resolution": resolution or engine.spec.resolution}
                    print(row, f"{time.perf_counter() - began:.0f} s", flush=True)
    if options.sheet and options.scans:
        write_sheet(engines, options)
    if options.json:
        info = {"torch": torch.__version__, "machine": platform.machine(), "commit": commit()}
        options.json.write_text(json.dumps(info | {"rows": rows}, indent=1))


def opened(folder: Path, every: int):
    """Yield the photos of a folder as gray (1, 3, H, W) and as they are, both in 0..1."""
    from comfyui_colorist.ops import color
    from comfyui_colorist.trainers.data.photos import Photos
    from comfyui_colorist.trainers.evaluation.tasks import as_tensor

    photos = Photos([folder])
    for index in range(0, len(photos), every):
        true = as_tensor(photos[index])
        yield color.gray_rgb(color.lightness(true)), true


def colored(engine, gray, resolution: int | None, saturation: float = 1.0):
    """Return the result (1, 3, H, W), rounded to 8 bits as a file is."""
    from comfyui_colorist.pipeline.postprocess import Finish

    finish = Finish(saturation=saturation)
    made = engine.colorize(gray.movedim(1, -1), resolution=resolution, finish=finish)
    return (made.movedim(-1, 1) * 255).round() / 255


def on_photos(engine, resolution: int | None, options: argparse.Namespace) -> list[dict]:
    """Return PSNR, colorfulness and the share of worse photos at each saturation."""
    from comfyui_colorist.metrics import image as image_metrics

    scores = {saturation: [] for saturation in options.saturation}
    for gray, true in opened(options.photos, options.every):
        baseline = image_metrics.psnr((gray * 255).round() / 255, true).item()
        for saturation, values in scores.items():
            made = colored(engine, gray, resolution, saturation)
            psnr = image_metrics.psnr(made, true).item()
            worse = psnr < baseline - WORSE
            values.append((psnr, image_metrics.colorfulness(made).item(), worse))
    rows = []
    for saturation, values in scores.items():
        psnr, colorfulness, worse = (sum(v) / len(v) for v in zip(*values, strict=True))
        row = {"saturation": saturation, "psnr": round(psnr, 2)}
        rows.append(row | {"colorfulness": round(colorfulness, 1), "worse": round(worse, 3)})
    return rows


def on_scans(engine, resolution: int | None, options: argparse.Namespace) -> dict:
    """Return the median share of chroma outside SEPIA, and the mean chroma."""
    import torch
    from comfyui_colorist.ops import color

    shares, chromas = [], []
    for gray, _ in opened(options.scans, options.every):
        a, b = color.rgb_to_lab(colored(engine, gray, resolution))[0, 1:]
        chroma, hue = torch.hypot(a, b), torch.rad2deg(torch.atan2(b, a)) % 360
        outside = (hue < SEPIA[0]) | (hue > SEPIA[1])
        shares.append((chroma[outside].sum() / chroma.sum().clamp(min=1e-6)).item())
        chromas.append(chroma.mean().item())
    median = sorted(shares)[len(shares) // 2]
    chroma = sum(chromas) / len(chromas)
    return {"scans": len(shares), "outside": round(median, 3), "chroma": round(chroma, 1)}


def write_sheet(engines: dict, options: argparse.Namespace) -> None:
    """Draw each scan beside the results of all models."""
    from comfyui_colorist.trainers.evaluation.contact_sheet import contact_sheet, save

    rows = []
    for gray, _ in opened(options.scans, options.every):
        rows.append([gray, *(colored(engine, gray, None) for engine in engines.values())])
    save(contact_sheet(rows, ["scan", *engines], cell=320), options.sheet)


if __name__ == "__main__":
    main()
