"""What a point-hint network makes of random hints, beside what needs no network.

    python benchmarks/point_hints.py --photos eval/ --model pointhint-nano --base ddcolor-nano

The protocol of Li et al., section 4.3, and of what it is compared with: photos squashed to 224x224,
hints are patches of 2x2 pixels of an aligned grid in the mean colour of the photo there, as many
for every method. Near-grey photos (mean C* below 4) are left out. Through the whole pipeline:
a hint is a colour #rrggbb, a result has 8 bits.

`--where wrong` puts the hints where the base is most wrong instead, one after the other and 24
pixels or more apart: what a person does who corrects it.

    PSNR, SSIM   to the photo          PEV      variance of the error over patches of 16x16
    B-PSNR       PSNR at patch borders hints    mean error of a and b at the hints' own patches
"""

import argparse
import importlib
import json
import runpy
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from large_photo import ROOT, commit
from PIL import Image

SIDE, CELL = 224, 2
APART = 24  # pixels between hints that are put where the base is wrong
COLORFUL = 4.0  # mean C* below which a photo says nothing about colour


def main() -> None:
    """Print a table for each number of hints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["pointhint-nano"])
    parser.add_argument("--base", help="automatic network whose colours are corrected, too")
    parser.add_argument("--hints", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--where", choices=("random", "wrong"), default="random")
    parser.add_argument("--resolution", type=int, help="default: the network's own")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="folder for the pictures of ten hints")
    options = parser.parse_args()
    if options.where == "wrong" and not options.base:
        parser.error("--where wrong needs the --base that is wrong")
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch
    import torch.nn.functional as F

    color, image_metrics, hint_schema, rasterize, by_hints = (
        importlib.import_module(f"{package}.{name}")
        for name in (
            "ops.color",
            "metrics.image",
            "pipeline.hints.schema",
            "pipeline.hints.rasterize",
            "pipeline.by_hints",
        )
    )
    load = importlib.import_module(package).load
    models = {name: load(name) for name in options.model}
    base = load(options.base) if options.base else None

    def random(lab: torch.Tensor, count: int, name: str) -> list[int]:
        """Cells of a photo: seeded by its name, as in the field."""
        rng = np.random.default_rng([options.seed, zlib.crc32(name.encode()), count])
        return rng.choice((SIDE // CELL) ** 2, size=count, replace=False).tolist()

    def wrong(lab: torch.Tensor, count: int, name: str) -> list[int]:
        """Cells at which the base is most wrong over a patch of 9x9 cells."""
        error = (known(color.gray_rgb(lab[:, :1])) - lab[:, 1:]).norm(dim=1, keepdim=True)
        error = F.avg_pool2d(F.avg_pool2d(error, CELL), 9, 1, 4)[0, 0]
        y, x = torch.meshgrid(*[torch.arange(n) for n in error.shape], indexing="ij")
        cells = []
        for _ in range(count):
            cells.append(int(error.argmax()))
            row, column = divmod(cells[-1], error.shape[1])
            error[(y - row).square() + (x - column).square() < (APART / CELL) ** 2] = -1
        return cells

    def drawn(lab: torch.Tensor, count: int, name: str) -> list:
        """Hints of a photo."""
        side = SIDE // CELL
        out = []
        for cell in (wrong if options.where == "wrong" else random)(lab, count, name):
            y, x = divmod(cell, side)
            patch = lab[:, :, y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
            rgb = color.lab_to_rgb(patch.mean((2, 3), keepdim=True)).clamp(0, 1)
            code = "".join(f"{v:02x}" for v in (255 * rgb).round().int().flatten().tolist())
            place = ((x + 0.5) * CELL / SIDE, (y + 0.5) * CELL / SIDE)
            out.append(hint_schema.Hint(*place, f"#{code}"))
        return out

    def known(gray: torch.Tensor) -> torch.Tensor:
        """The base's chroma, as corrections begin with it."""
        return by_hints.base_chroma(base, gray, color.lightness(gray))

    def painted(L: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
        return color.to_gamut(torch.cat([L, ab], dim=1))

    def kriged(L: torch.Tensor, hints: list, ab: torch.Tensor | None = None) -> torch.Tensor:
        return painted(L, by_hints.spread(L, hints, ab, prior=True)[0])

    def mean_of(L: torch.Tensor, hints: list) -> torch.Tensor:
        ab = torch.tensor([hint.ab for hint in hints]).view(-1, 2).sum(0) / max(1, len(hints))
        return painted(L, ab.view(1, 2, 1, 1).expand(-1, -1, SIDE, SIDE))

    def network(engine: object, gray: torch.Tensor, **given: object) -> torch.Tensor:
        out = engine.colorize(gray.movedim(1, -1), resolution=options.resolution, **given)
        return out.movedim(-1, 1)

    def methods(L: torch.Tensor, hints: list) -> dict:
        """Name -> what makes the picture."""
        gray = color.gray_rgb(L).contiguous()
        found = {
            "grey": lambda: gray,
            "mean of the hints": partial(mean_of, L, hints),
            "kriging": partial(kriged, L, hints),
        }
        for name, engine in models.items():
            found[name] = partial(network, engine, gray, hints=hints)
        if base is None:
            return found
        ab = known(gray)
        found[options.base] = partial(painted, L, ab)
        found[f"{options.base}, kriged corrections"] = partial(kriged, L, hints, ab)
        for name, engine in models.items():
            if engine.spec.prior:
                what = f"{options.base} corrected by {name}"
                found[what] = partial(network, engine, gray, hints=hints, base=base)
        return found

    photos = []
    for path in sorted(options.photos.glob("*.jpg")):
        small = Image.open(path).convert("RGB").resize((64, 64))
        lab = color.rgb_to_lab(torch.from_numpy(np.array(small)).movedim(-1, 0) / 255)
        if color.chroma(lab[1:]).mean() >= COLORFUL and len(photos) < options.limit:
            whole = Image.open(path).convert("RGB")
            whole = np.array(whole.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            photos.append((path.stem, torch.from_numpy(whole).movedim(-1, 0)[None] / 255))

    scores = [
        image_metrics.psnr,
        image_metrics.ssim,
        image_metrics.patch_error_variance,
        image_metrics.boundary_psnr,
    ]
    torch.set_grad_enabled(False)
    summary: dict[str, dict] = {}
    for count in options.hints:
        rows: dict[str, list[list[float]]] = {}
        for name, true in photos:
            L, true_ab = color.rgb_to_lab(true).split([1, 2], dim=1)
            hints = drawn(color.rgb_to_lab(true), count, name)
            _, mask = rasterize.raster(hints, SIDE, SIDE)
            for what, run in methods(L, hints).items():
                began = time.perf_counter()
                rgb = (run() * 255).round() / 255
                seconds = time.perf_counter() - began
                error = (color.rgb_to_lab(rgb)[:, 1:] - true_ab).abs()
                numbers = [f(rgb, true).item() for f in scores]
                at_hints = (error * mask).sum() / (2 * mask.sum().clamp_min(1))
                numbers += [at_hints.item(), image_metrics.colorfulness(rgb).item(), seconds]
                rows.setdefault(what, []).append(numbers)
                if options.save and count == 10:
                    options.save.mkdir(parents=True, exist_ok=True)
                    picture = (rgb[0].movedim(0, -1) * 255).byte().numpy()
                    Image.fromarray(picture).save(options.save / f"{name} {_file(what)}.png")
        print(f"\n{count} hints, {len(photos)} photos\n")
        print("| method | PSNR | SSIM | PEV | B-PSNR | hints | colourfulness | ms |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        summary[str(count)] = {}
        for what, numbers in rows.items():
            p, s, v, b, h, c, t = mean = np.mean(numbers, axis=0).tolist()
            summary[str(count)][what] = mean
            print(
                f"| {what} | {p:.2f} | {s:.4f} | {v:.1f} | {b:.2f} | {h:.1f} | {c:.1f} "
                f"| {1000 * t:.0f} |"
            )
    if options.json:
        facts = {"options": vars(options), "commit": commit(), "torch": torch.__version__}
        options.json.write_text(
            json.dumps(summary | facts, indent=1, default=str) + "\n", encoding="utf-8"
        )


def _file(what: str) -> str:
    """A method's name as that of a file."""
    return what.replace("/", "_").replace("\\", "_").strip("_.")


if __name__ == "__main__":
    main()
