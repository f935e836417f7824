"""Which way of enlarging chroma is closest to the truth, and what it costs.

    python benchmarks/chroma_upsampling.py --photos DIR [--model FILE] [--json OUT]

True chroma: the ab of each photo is scaled down, antialiased, by 2, 4 and 8, then enlarged by each
method, guided by the full-size L; by 4 and 8 once more with Gaussian grain added to L. Predicted
chroma (--model): the network colours each photo at a half and a quarter of its size. Methods that
lost live here and nowhere else.
"""

import argparse
import json
import math
import platform
import runpy
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()

import numpy as np
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import color, resize
from comfyui_colorist.ops.chroma_upsampling import Upsampler
from PIL import Image
from torch import Tensor

SCALES, GRAIN_SCALES, GRAIN = (2, 4, 8), (4, 8), 6.0  # grain: standard deviation in units of L
Method = Callable[[Tensor, Tensor, Tensor], Tensor]  # ab, L at working size, L at full size -> ab


def ours(name: str) -> Method:
    """A method of the package, by strips as in the finishing pass."""

    def enlarge(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
        upsampler = Upsampler(ab, L, full.shape[2:], name)
        out = torch.empty(len(ab), 2, *full.shape[2:])
        for top, bottom in resize.strips(*full.shape[2:], len(ab)):
            out[:, :, top:bottom] = upsampler.rows(top, bottom, full[:, :, top:bottom])
        return out

    return enlarge


def up(x: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    return F.interpolate(x, size=tuple(size), mode=mode)


def down(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)


def box(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def bicubic(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
    return up(ab, full.shape[2:], "bicubic")


def guided_filter(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
    """He and Sun 2015, fast guided filter: radius 1 and eps 20 at working size."""
    mean_L, mean_ab = box(L), box(ab)
    slope = (box(L * ab) - mean_L * mean_ab) / (box(L * L) - mean_L * mean_L + 20)
    slope, intercept = box(slope), box(mean_ab - slope * mean_L)
    return up(slope, full.shape[2:]) * full + up(intercept, full.shape[2:])


def joint_bilateral(radius: int, sigma_space: float, sigma_L: float) -> Method:
    """Kopf et al. 2007, eq. 2. Radius 0: the four nearest, spatial weights bilinear."""

    def taps(full: int, small: int) -> list[tuple[Tensor, Tensor]]:
        place = (torch.arange(full) + 0.5) * small / full - 0.5
        if not radius:
            part = place - place.floor()
            low = place.floor().long()
            return [
                (low.clamp(0, small - 1), 1 - part),
                ((low + 1).clamp(0, small - 1), part),
            ]
        near = [place.round() + i for i in range(-radius, radius + 1)]
        weights = [torch.exp(-((n - place) ** 2) / (2 * sigma_space**2)) for n in near]
        return [(n.long().clamp(0, small - 1), w) for n, w in zip(near, weights, strict=True)]

    def enlarge(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
        total, norm = 0, 0
        for y, wy in taps(full.shape[2], L.shape[2]):
            for x, wx in taps(full.shape[3], L.shape[3]):
                similar = torch.exp(-((full - L[:, :, y][..., x]) ** 2) / (2 * sigma_L**2))
                weight = wy[:, None] * wx * (similar + 1e-6)
                total, norm = total + weight * ab[:, :, y][..., x], norm + weight
        return total / norm

    return enlarge


def bilateral_grid(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
    """Chen et al. 2007: cells of 2 x 2 pixels x 5 L, blurred (1, 2, 1), sliced by full L."""
    (h, w), bins = L.shape[2:], 21
    rows, columns = (h + 1) // 2, (w + 1) // 2
    y, x = torch.arange(h)[:, None] // 2, torch.arange(w) // 2
    cell = ((L[:, 0] / 5).round().long().clamp(0, bins - 1) * rows + y) * columns + x
    values = torch.cat([ab, torch.ones_like(L)], dim=1).flatten(2)
    grid = torch.zeros(len(ab), 3, bins * rows * columns)
    grid = grid.scatter_add_(2, cell.flatten(1)[:, None].expand(-1, 3, -1), values)
    grid = grid.view(len(ab) * 3, 1, bins, rows, columns)
    tent = torch.tensor([0.25, 0.5, 0.25])
    kernel = tent[:, None, None] * tent[:, None] * tent
    grid = F.conv3d(F.pad(grid, (1,) * 6, mode="replicate"), kernel[None, None])
    grid = grid.view(len(ab), 3, bins, rows, columns)
    height, width = full.shape[2:]
    ys = ((torch.arange(height) + 0.5) / height * h / rows - 1)[:, None].expand(height, width)
    xs = ((torch.arange(width) + 0.5) / width * w / columns - 1).expand(height, width)
    place = torch.stack([xs.expand(len(ab), -1, -1), ys.expand(len(ab), -1, -1)], dim=-1)
    place = torch.cat([place, (full[:, 0] / 50 - 1)[..., None]], dim=-1)
    depth = (bins - 1) / bins  # align_corners=False: bin centres 0..bins-1 lie inside -1..1
    place[..., 2] *= depth
    sliced = F.grid_sample(grid, place[:, None], padding_mode="border", align_corners=False)[
        :, :, 0
    ]
    plain = up(ab, full.shape[2:])
    return (sliced[:, :2] + 1e-3 * plain) / (sliced[:, 2:] + 1e-3)


def back_projected(method: Method, steps: int = 3) -> Method:
    """The result scaled down must be the working chroma: what is missing is added, bilinearly."""

    def enlarge(ab: Tensor, L: Tensor, full: Tensor) -> Tensor:
        out = method(ab, L, full)
        for _ in range(steps):
            out = out + up(ab - down(out, ab.shape[2:]), full.shape[2:])
        return out

    return enlarge


METHODS: dict[str, Method] = {
    "**edge** (default)": ours("edge"),
    "bilinear": ours("bilinear"),
    "nearest (official script)": ours("nearest"),
    "bicubic": bicubic,
    "bilinear + back-projection": back_projected(ours("bilinear")),
    "guided filter": guided_filter,
    "joint bilateral 2x2": joint_bilateral(0, 0, 8),
    "joint bilateral 5x5": joint_bilateral(2, 0.7, 10),
    "joint bilateral 2x2 + back-projection": back_projected(joint_bilateral(0, 0, 8)),
    "joint bilateral 5x5 + back-projection": back_projected(joint_bilateral(2, 0.7, 10)),
    "bilateral grid + back-projection": back_projected(bilateral_grid),
}


def photos(folder: Path, count: int) -> list[Tensor]:
    """`count` photos spread over the sorted folder, (1, 3, H, W) sRGB in 0..1."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not found:
        raise SystemExit(f"{folder}: no .jpg or .png photos.")
    chosen = found[:: max(1, len(found) // count)][:count]
    pixels = [np.array(Image.open(path).convert("RGB")) for path in chosen]
    return [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in pixels]


def psnr(rgb: Tensor, truth: Tensor) -> float:
    return -10 * math.log10((rgb - truth).square().mean().item() + 1e-12)


def edge_error(ab: Tensor, truth: Tensor) -> float:
    """Mean absolute error on the tenth of pixels where true chroma changes most."""
    change = steepness(truth)
    there = change >= change.flatten().quantile(0.9)
    return (ab - truth).abs().mean(1, keepdim=True)[there].mean().item()


def steepness(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W) length of the central difference over all channels."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, along = p[:, :, 1:-1, 2:] - p[:, :, 1:-1, :-2], p[:, :, 2:, 1:-1] - p[:, :, :-2, 1:-1]
    return torch.linalg.vector_norm(torch.cat([across, along], dim=1), dim=1, keepdim=True) / 2


def bleeding(ab: Tensor, L: Tensor) -> float:
    """Change of chroma on the calmer half of L over that on the strongest tenth of its edges."""
    edges, change = steepness(L), steepness(ab)
    calm = edges <= edges.flatten().quantile(0.5)
    strong = edges >= edges.flatten().quantile(0.9)
    return (change[calm].mean() / change[strong].mean().clamp_min(1e-6)).item()


def true_chroma(pictures: list[Tensor]) -> dict[str, dict[str, float]]:
    """Errors of every method on chroma whose truth is known."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    generator = torch.Generator().manual_seed(0)
    for rgb in pictures:
        lab = color.rgb_to_lab(rgb)
        full, truth = lab[:, :1], lab[:, 1:]
        grainy = (full + GRAIN * torch.randn(full.shape, generator=generator)).clamp(0, 100)
        for scale in SCALES:
            size = [max(1, round(side / scale)) for side in full.shape[2:]]
            ab, L = down(truth, size), color.lightness(down(rgb, size))
            for name, method in METHODS.items():
                out = method(ab, L, full)
                add = scores[name].setdefault
                add(f"x{scale}", []).append((out - truth).abs().mean().item())
                add(f"edges x{scale}", []).append(edge_error(out, truth))
                picture = color.lab_to_rgb(torch.cat([full, out], dim=1)).clamp(0, 1)
                add(f"psnr x{scale}", []).append(psnr(picture, rgb))
                if scale in GRAIN_SCALES:
                    out = method(ab, down(grainy, size), grainy)
                    add(f"grain x{scale}", []).append((out - truth).abs().mean().item())
    return {name: _means(columns) for name, columns in scores.items()}


def predicted_chroma(pictures: list[Tensor], model: Path) -> dict[str, dict[str, float]]:
    """PSNR against the photo, and bleeding, of chroma predicted at a part of the photo's size."""
    import comfyui_colorist as colorist

    engine = colorist.load(model, device="cpu")
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    for rgb in pictures:
        full = color.lightness(rgb)
        for scale in (2, 4):
            side = max(engine.spec.multiple, math.sqrt(full.numel()) / scale)
            shape = resize.fit(*full.shape[2:], round(side), engine.spec.multiple)
            L = color.lightness(resize.shrink(rgb, shape, "cpu"))
            ab = resize.unpad(engine.predict(resize.pad(L, shape), shape), shape)
            for name, method in METHODS.items():
                out = method(ab, L, full)
                picture = color.lab_to_rgb(torch.cat([full, out], dim=1)).clamp(0, 1)
                scores[name].setdefault(f"predicted psnr x{scale}", []).append(psnr(picture, rgb))
                scores[name].setdefault(f"bleeding x{scale}", []).append(bleeding(out, full))
    return {name: _means(columns) for name, columns in scores.items()}


def _means(columns: dict[str, list[float]]) -> dict[str, float]:
    return {key: sum(values) / len(values) for key, values in columns.items()}


def seconds(method: Method, height: int, width: int, repeats: int) -> list[float]:
    """Times for one photo with a 512 working image, after one warm-up, shortest first."""
    generator = torch.Generator().manual_seed(0)
    shape = resize.fit(height, width, 512, 32)
    full = torch.rand(1, 1, height, width, generator=generator).mul_(100)
    ab = 20 * torch.randn(1, 2, shape.scaled_height, shape.scaled_width, generator=generator)
    L, taken = down(full, ab.shape[2:]), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        method(ab, L, full)
        taken.append(time.perf_counter() - began)
    return sorted(taken[1:])


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, one line a method."""
    keys = list(next(iter(rows.values())))
    lines = ["| method | " + " | ".join(keys) + " |", "| --- |" + " ---: |" * len(keys)]
    for name, row in rows.items():
        digits = {key: 2 if "psnr" in key or key.startswith("s ") else 3 for key in keys}
        lines.append(f"| {name} | " + " | ".join(f"{row[k]:.{digits[k]}f}" for k in keys) + " |")
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="folder of colour photos")
    parser.add_argument("--count", type=int, default=50, help="photos to use (default 50)")
    parser.add_argument("--model", type=Path, help="checkpoint, for predicted chroma too")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; 0 = no timing")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    spread = {}
    times: dict[str, dict[str, float]] = {name: {} for name in METHODS}
    if args.repeats:  # first, while no library keeps threads of its own busy
        for label, size in {"s 12 MP": (3000, 4000), "s 24 MP": (4000, 6000)}.items():
            for name, method in METHODS.items():
                taken = seconds(method, *size, args.repeats)
                times[name][label] = taken[len(taken) // 2]
                spread[f"{name}, {label}"] = [taken[0], taken[-1]]
    pictures = photos(args.photos, args.count)
    true = true_chroma(pictures)
    guess = predicted_chroma(pictures, args.model) if args.model else {name: {} for name in METHODS}
    rows = {name: true[name] | guess[name] | times[name] for name in METHODS}
    for part in ("x", "grain", "edges", "psnr", "predicted", "bleeding", "s "):
        chosen = {
            name: {key: value for key, value in row.items() if key.startswith(part)}
            for name, row in rows.items()
        }
        if any(chosen.values()):
            print(table(chosen) + "\n")
    facts = {
        "photos": len(pictures),
        "model": args.model.name if args.model else None,
        "seed": 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(facts)
    if args.json:
        args.json.write_text(json.dumps(facts | {"methods": rows, "spread": spread}, indent=1))


if __name__ == "__main__":
    main()
