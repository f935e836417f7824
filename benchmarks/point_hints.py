"""A point-hint model with random hint points, beside methods that need no network.

    python benchmarks/point_hints.py --photos eval/ --model pointhint-nano --base ddcolor-nano

The protocol of Li et al., section 4.3, and of related work: photos squashed to 224x224; hints are
patches of 2x2 pixels on an aligned grid in the mean color of the photo there, equal for all
methods. Near-gray photos (mean C* below 4) are left out. The whole pipeline runs: hint colors are
#rrggbb, and results have 8 bits.

`--where suggested` places the hints where the kernel of the first model would learn most, before
any color is known.

`--where wrong` places the hints at the largest errors of the base, one after the other and at least
24 pixels apart, as a person would who corrects it.

    PSNR, SSIM   to the photo          PEV      variance of the error over patches of 16x16
    B-PSNR       PSNR at patch borders hints    mean error of a and b at the hint patches
"""

import argparse
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench
import comfyui_colorist as colorist
import numpy as np
import torch
import torch.nn.functional as F
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import by_hints
from comfyui_colorist.pipeline.automatic import Colorizer
from comfyui_colorist.pipeline.by_hints import PointHintColorizer
from comfyui_colorist.pipeline.hints import rasterize
from comfyui_colorist.pipeline.hints.schema import Hint
from PIL import Image
from torch import Tensor

SIDE, CELL = 224, 2
MIN_DISTANCE = 24  # pixels between hints at errors of the base
METRICS = (
    image_metrics.psnr,
    image_metrics.ssim,
    image_metrics.patch_error_variance,
    image_metrics.boundary_psnr,
)


def main() -> None:
    """Print a table for each number of hints."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["pointhint-nano"])
    parser.add_argument("--base", help="automatic model whose colors are corrected, too")
    parser.add_argument("--hints", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--where", choices=("random", "suggested", "wrong"), default="random")
    parser.add_argument("--resolution", type=int, help="default: the network's")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for the results with ten hints")
    options = parser.parse_args()
    if options.where == "wrong" and not options.base:
        parser.error("--where wrong needs --base")
    models = {name: colorist.load(name) for name in options.model}
    base = colorist.load(options.base) if options.base else None
    photos = load_photos(options.photos, options.limit)
    torch.set_grad_enabled(False)
    report: dict[str, Any] = {}
    for count in options.hints:
        scores: dict[str, list[list[float]]] = {}
        for name, truth in photos:
            lab = color.rgb_to_lab(truth)
            if options.where == "wrong":
                cells = largest_error_cells(base, lab, count)
            elif options.where == "suggested":
                cells = suggested_cells(models[options.model[0]], lab, count)
            else:
                cells = random_cells(count, name, options.seed)
            hints = hints_at(lab, cells)
            mask = rasterize.rasterize(hints, SIDE, SIDE).mask
            for method, run in methods(lab[:, :1], hints, models, base, options).items():
                start = time.perf_counter()
                rgb = bench.quantize(run())
                seconds = time.perf_counter() - start
                error = (color.rgb_to_lab(rgb)[:, 1:] - lab[:, 1:]).abs()
                values = [metric(rgb, truth).item() for metric in METRICS]
                at_hints = (error * mask).sum() / (2 * mask.sum().clamp_min(1))
                values += [at_hints.item(), image_metrics.colorfulness(rgb).item(), seconds]
                scores.setdefault(method, []).append(values)
                if options.save and count == 10:
                    options.save.mkdir(parents=True, exist_ok=True)
                    pixels = (rgb[0].movedim(0, -1) * 255).byte().numpy()
                    Image.fromarray(pixels).save(options.save / f"{name} {file_name(method)}.png")
        print(f"\n{count} hints, {len(photos)} photos\n")
        bench.print_table(
            ["method", "PSNR", "SSIM", "PEV", "B-PSNR", "hints", "colorfulness", "ms"]
        )
        report[str(count)] = {}
        for method, rows in scores.items():
            means = np.mean(rows, axis=0).tolist()
            report[str(count)][method] = means
            psnr, ssim, pev, bpsnr, at_hints, colorfulness, seconds = means
            bench.print_row(
                [
                    *(method, f"{psnr:.2f}", f"{ssim:.4f}", f"{pev:.1f}", f"{bpsnr:.2f}"),
                    *(f"{at_hints:.1f}", f"{colorfulness:.1f}", f"{1000 * seconds:.0f}"),
                ]
            )
    facts = {"options": vars(options), "commit": bench.commit(), "torch": torch.__version__}
    bench.write_json(options.json, report | facts)


def load_photos(folder: Path, limit: int) -> list[tuple[str, Tensor]]:
    """Return names and photos (1, 3, SIDE, SIDE) in 0..1, without near-gray ones."""
    photos = []
    for path in bench.list_photos(folder):
        image = Image.open(path)
        if len(photos) < limit and bench.mean_chroma(image) >= bench.MIN_CHROMA:
            photos.append((path.stem, bench.to_batch(bench.resize_square(image, SIDE))))
    return photos


# --- Hints -------------------------------------------------------------------------------------


def random_cells(count: int, name: str, seed: int) -> list[int]:
    """Draw cells of a photo, seeded by its name."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), count])
    return rng.choice((SIDE // CELL) ** 2, size=count, replace=False).tolist()


def suggested_cells(model: PointHintColorizer, lab: Tensor, count: int) -> list[int]:
    """Return the cells whose colors would tell the model most, as `suggest_points` does."""
    gray = color.gray_rgb(lab[:, :1]).movedim(1, -1)
    positions = model.prepare(gray).uncertainty.choose_points([], count).positions
    return [int(y * SIDE / CELL) * (SIDE // CELL) + int(x * SIDE / CELL) for x, y in positions]


def largest_error_cells(base: Colorizer, lab: Tensor, count: int) -> list[int]:
    """Return cells with the largest error of the base, averaged over 9x9 cells."""
    gray = color.gray_rgb(lab[:, :1])
    base_ab = by_hints.predict_base_ab(base, gray, color.lightness(gray))
    error = (base_ab - lab[:, 1:]).norm(dim=1, keepdim=True)
    error = F.avg_pool2d(F.avg_pool2d(error, CELL), 9, 1, 4)[0, 0]
    y, x = torch.meshgrid(*[torch.arange(n) for n in error.shape], indexing="ij")
    cells = []
    for _ in range(count):
        cells.append(int(error.argmax()))
        row, column = divmod(cells[-1], error.shape[1])
        error[(y - row).square() + (x - column).square() < (MIN_DISTANCE / CELL) ** 2] = -1
    return cells


def hints_at(lab: Tensor, cells: list[int]) -> list[Hint]:
    """Return hints in the mean colors of the cells."""
    hints = []
    for cell in cells:
        y, x = divmod(cell, SIDE // CELL)
        patch = lab[:, :, y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
        rgb = color.lab_to_rgb(patch.mean((2, 3), keepdim=True)).clamp(0, 1)
        code = "".join(f"{v:02x}" for v in (255 * rgb).round().int().flatten().tolist())
        hints.append(Hint((x + 0.5) * CELL / SIDE, (y + 0.5) * CELL / SIDE, f"#{code}"))
    return hints


# --- Methods -----------------------------------------------------------------------------------


def methods(
    L: Tensor,
    hints: list[Hint],
    models: dict[str, PointHintColorizer],
    base: Colorizer | None,
    options: argparse.Namespace,
) -> dict[str, Callable[[], Tensor]]:
    """Return name -> function that colorizes the photo (1, 3, H, W)."""
    gray = color.gray_rgb(L).contiguous()

    def network(model: PointHintColorizer, base: Colorizer | None = None) -> Tensor:
        rgb = model.colorize(
            gray.movedim(1, -1), hints=hints, base=base, resolution=options.resolution
        )
        return rgb.movedim(-1, 1)

    named: dict[str, Callable[[], Tensor]] = {
        "gray": lambda: gray,
        "mean of the hints": partial(mean_of_hints, L, hints),
        "kriging": partial(kriging, L, hints),
    }
    named |= {name: partial(network, model) for name, model in models.items()}
    if base is None:
        return named
    ab = by_hints.predict_base_ab(base, gray, color.lightness(gray))
    named[options.base] = partial(combine, L, ab)
    named[f"{options.base}, kriged corrections"] = partial(kriging, L, hints, ab)
    for name, model in models.items():
        if model.spec.prior:
            named[f"{options.base} corrected by {name}"] = partial(network, model, base)
    return named


def combine(L: Tensor, ab: Tensor) -> Tensor:
    return color.to_gamut(torch.cat([L, ab], dim=1))


def kriging(L: Tensor, hints: list[Hint], base_ab: Tensor | None = None) -> Tensor:
    return combine(L, by_hints.encode_hints(L, hints, base_ab, prior=True)[0])


def mean_of_hints(L: Tensor, hints: list[Hint]) -> Tensor:
    ab = torch.tensor([hint.ab for hint in hints]).view(-1, 2).sum(0) / max(1, len(hints))
    return combine(L, ab.view(1, 2, 1, 1).expand(-1, -1, SIDE, SIDE))


def file_name(method: str) -> str:
    """Return a method's name without characters that file names exclude."""
    return method.replace("/", "_").replace("\\", "_").strip("_.")


if __name__ == "__main__":
    main()
