"""Accuracy and cost of methods that upsample chroma guided by full-size lightness.

    python benchmarks/chroma_upsampling.py --photos DIR [--model FILE] [--json OUT]

True chroma: the ab of each photo is downscaled with antialiasing by 2, 4 and 8, then upsampled by
each method; by 4 and 8 also with Gaussian grain added to L. Predicted chroma (--model): the network
colorizes each photo at a half and a quarter of its size. Rejected methods exist in this file only.
"""

import math
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import bench
import comfyui_colorist as colorist
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import color, resize
from comfyui_colorist.ops.chroma_upsampling import Upsampler
from PIL import Image
from torch import Tensor

SCALES, GRAIN_SCALES, GRAIN = (2, 4, 8), (4, 8), 6.0  # grain: standard deviation in units of L
Method = Callable[[Tensor, Tensor, Tensor], Tensor]  # ab, L at working size, L at full size -> ab
Scores = dict[str, dict[str, float]]  # method -> column -> value

# --- Methods -----------------------------------------------------------------------------------


def ours(name: str) -> Method:
    """Return a method of the package, applied in strips as in the finishing pass."""

    def upsample(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
        upsampler = Upsampler(ab, L, full_L.shape[2:], name)
        out = torch.empty(len(ab), 2, *full_L.shape[2:])
        for top, bottom in resize.row_ranges(*full_L.shape[2:], len(ab)):
            out[:, :, top:bottom] = upsampler.rows(top, bottom, full_L[:, :, top:bottom])
        return out

    return upsample


def scale_up(x: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    return F.interpolate(x, size=tuple(size), mode=mode)


def scale_down(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)


def box_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def bicubic(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
    return scale_up(ab, full_L.shape[2:], "bicubic")


def guided_filter(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
    """Fast guided filter (He and Sun 2015): radius 1 and eps 20 at working size."""
    mean_L, mean_ab = box_mean(L), box_mean(ab)
    slope = (box_mean(L * ab) - mean_L * mean_ab) / (box_mean(L * L) - mean_L * mean_L + 20)
    slope, intercept = box_mean(slope), box_mean(mean_ab - slope * mean_L)
    return scale_up(slope, full_L.shape[2:]) * full_L + scale_up(intercept, full_L.shape[2:])


def joint_bilateral(radius: int, sigma_space: float, sigma_L: float) -> Method:
    """Return joint bilateral upsampling (Kopf et al. 2007, eq. 2).

    Radius 0 uses the four nearest pixels with bilinear spatial weights.
    """

    def taps(full: int, small: int) -> list[tuple[Tensor, Tensor]]:
        position = (torch.arange(full) + 0.5) * small / full - 0.5
        if not radius:
            fraction = position - position.floor()
            low = position.floor().long()
            return [
                (low.clamp(0, small - 1), 1 - fraction),
                ((low + 1).clamp(0, small - 1), fraction),
            ]
        near = [position.round() + i for i in range(-radius, radius + 1)]
        weights = [torch.exp(-((n - position) ** 2) / (2 * sigma_space**2)) for n in near]
        return [(n.long().clamp(0, small - 1), w) for n, w in zip(near, weights, strict=True)]

    def upsample(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
        total, norm = 0, 0
        for y, wy in taps(full_L.shape[2], L.shape[2]):
            for x, wx in taps(full_L.shape[3], L.shape[3]):
                similarity = torch.exp(-((full_L - L[:, :, y][..., x]) ** 2) / (2 * sigma_L**2))
                weight = wy[:, None] * wx * (similarity + 1e-6)
                total, norm = total + weight * ab[:, :, y][..., x], norm + weight
        return total / norm

    return upsample


def bilateral_grid(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
    """Bilateral grid (Chen et al. 2007): cells of 2 x 2 pixels x 5 L, blur (1, 2, 1)."""
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
    height, width = full_L.shape[2:]
    ys = ((torch.arange(height) + 0.5) / height * h / rows - 1)[:, None].expand(height, width)
    xs = ((torch.arange(width) + 0.5) / width * w / columns - 1).expand(height, width)
    points = torch.stack([xs.expand(len(ab), -1, -1), ys.expand(len(ab), -1, -1)], dim=-1)
    points = torch.cat([points, (full_L[:, 0] / 50 - 1)[..., None]], dim=-1)
    depth = (bins - 1) / bins  # align_corners=False: bin centers 0..bins-1 lie inside -1..1
    points[..., 2] *= depth
    sliced = F.grid_sample(grid, points[:, None], padding_mode="border", align_corners=False)
    sliced, plain = sliced[:, :, 0], scale_up(ab, full_L.shape[2:])
    return (sliced[:, :2] + 1e-3 * plain) / (sliced[:, 2:] + 1e-3)


def back_projected(method: Method, steps: int = 3) -> Method:
    """Return a method with back-projection: its downscaled result equals the working chroma."""

    def upsample(ab: Tensor, L: Tensor, full_L: Tensor) -> Tensor:
        out = method(ab, L, full_L)
        for _ in range(steps):
            out = out + scale_up(ab - scale_down(out, ab.shape[2:]), full_L.shape[2:])
        return out

    return upsample


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

# --- Scores ------------------------------------------------------------------------------------


def psnr(rgb: Tensor, truth: Tensor) -> float:
    return -10 * math.log10((rgb - truth).square().mean().item() + 1e-12)


def edge_error(ab: Tensor, truth: Tensor) -> float:
    """Return the mean absolute error on the tenth of pixels with the largest chroma gradient."""
    gradient = gradient_norm(truth)
    edges = gradient >= gradient.flatten().quantile(0.9)
    return (ab - truth).abs().mean(1, keepdim=True)[edges].mean().item()


def gradient_norm(x: Tensor) -> Tensor:
    """Return the norm of central differences over all channels: (B, C, H, W) -> (B, 1, H, W)."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, along = p[:, :, 1:-1, 2:] - p[:, :, 1:-1, :-2], p[:, :, 2:, 1:-1] - p[:, :, :-2, 1:-1]
    return torch.linalg.vector_norm(torch.cat([across, along], dim=1), dim=1, keepdim=True) / 2


def bleeding(ab: Tensor, L: Tensor) -> float:
    """Return the chroma gradient on the smoother half of L over that on its strongest edges."""
    edges, gradient = gradient_norm(L), gradient_norm(ab)
    smooth = edges <= edges.flatten().quantile(0.5)
    strong = edges >= edges.flatten().quantile(0.9)
    return (gradient[smooth].mean() / gradient[strong].mean().clamp_min(1e-6)).item()


def score_true_chroma(photos: list[Tensor]) -> Scores:
    """Score every method on downscaled true chroma."""
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    generator = torch.Generator().manual_seed(0)
    for rgb in photos:
        lab = color.rgb_to_lab(rgb)
        full_L, truth = lab[:, :1], lab[:, 1:]
        grainy = (full_L + GRAIN * torch.randn(full_L.shape, generator=generator)).clamp(0, 100)
        for scale in SCALES:
            size = [max(1, round(side / scale)) for side in full_L.shape[2:]]
            ab, L = scale_down(truth, size), color.lightness(scale_down(rgb, size))
            for name, method in METHODS.items():
                out = method(ab, L, full_L)
                columns = scores[name]
                columns.setdefault(f"x{scale}", []).append((out - truth).abs().mean().item())
                columns.setdefault(f"edges x{scale}", []).append(edge_error(out, truth))
                result = color.lab_to_rgb(torch.cat([full_L, out], dim=1)).clamp(0, 1)
                columns.setdefault(f"psnr x{scale}", []).append(psnr(result, rgb))
                if scale in GRAIN_SCALES:
                    out = method(ab, scale_down(grainy, size), grainy)
                    error = (out - truth).abs().mean().item()
                    columns.setdefault(f"grain x{scale}", []).append(error)
    return {name: column_means(columns) for name, columns in scores.items()}


def score_predicted_chroma(photos: list[Tensor], model: Path) -> Scores:
    """Score PSNR and bleeding of chroma predicted at a fraction of the photo's size."""
    colorizer = colorist.load(model, device="cpu")
    multiple = colorizer.spec.multiple
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in METHODS}
    for rgb in photos:
        full_L = color.lightness(rgb)
        for scale in (2, 4):
            side = max(multiple, math.sqrt(full_L.numel()) / scale)
            geometry = resize.working_geometry(*full_L.shape[2:], round(side), multiple)
            L = color.lightness(resize.downscale(rgb, geometry, "cpu"))
            ab = colorizer.predict_ab(L, geometry)
            for name, method in METHODS.items():
                out = method(ab, L, full_L)
                result = color.lab_to_rgb(torch.cat([full_L, out], dim=1)).clamp(0, 1)
                columns = scores[name]
                columns.setdefault(f"predicted psnr x{scale}", []).append(psnr(result, rgb))
                columns.setdefault(f"bleeding x{scale}", []).append(bleeding(out, full_L))
    return {name: column_means(columns) for name, columns in scores.items()}


def column_means(columns: dict[str, list[float]]) -> dict[str, float]:
    return {key: statistics.fmean(values) for key, values in columns.items()}


def sorted_seconds(method: Method, height: int, width: int, repeats: int) -> list[float]:
    """Return sorted times for one photo with a working size of 512, after one warm-up."""
    generator = torch.Generator().manual_seed(0)
    geometry = resize.working_geometry(height, width, 512, 32)
    full_L = torch.rand(1, 1, height, width, generator=generator).mul_(100)
    size = geometry.scaled_height, geometry.scaled_width
    ab = 20 * torch.randn(1, 2, *size, generator=generator)
    L = scale_down(full_L, size)
    seconds = [bench.seconds_of(lambda: method(ab, L, full_L)) for _ in range(repeats + 1)]
    return sorted(seconds[1:])


# --- Report ------------------------------------------------------------------------------------


def load_photos(folder: Path, count: int) -> list[Tensor]:
    """Load `count` photos (1, 3, H, W) in 0..1, spread evenly over the sorted folder."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not paths:
        raise SystemExit(f"{folder}: no .jpg or .png photos.")
    return [
        bench.to_batch(Image.open(path)) for path in paths[:: max(1, len(paths) // count)][:count]
    ]


def print_scores(scores: Scores) -> None:
    """Print a table with a row for each method."""
    keys = list(next(iter(scores.values())))
    digits = {key: 2 if "psnr" in key or key.startswith("s ") else 3 for key in keys}
    bench.print_table(
        ["method", *keys],
        [[name, *(f"{row[k]:.{digits[k]}f}" for k in keys)] for name, row in scores.items()],
    )
    print()


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of color photos")
    parser.add_argument("--count", type=int, default=50, help="photos to use (default 50)")
    parser.add_argument("--model", type=Path, help="checkpoint for predicted chroma")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; 0 = no timing")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    spread: dict[str, list[float]] = {}
    times: Scores = {name: {} for name in METHODS}
    if options.repeats:  # first, before other libraries start threads
        for label, size in {"s 12 MP": (3000, 4000), "s 24 MP": (4000, 6000)}.items():
            for name, method in METHODS.items():
                seconds = sorted_seconds(method, *size, options.repeats)
                times[name][label] = seconds[len(seconds) // 2]
                spread[f"{name}, {label}"] = [seconds[0], seconds[-1]]
    photos = load_photos(options.photos, options.count)
    true = score_true_chroma(photos)
    predicted: Scores = {name: {} for name in METHODS}
    if options.model:
        predicted = score_predicted_chroma(photos, options.model)
    rows = {name: true[name] | predicted[name] | times[name] for name in METHODS}
    for prefix in ("x", "grain", "edges", "psnr", "predicted", "bleeding", "s "):
        selected = {
            name: {key: value for key, value in row.items() if key.startswith(prefix)}
            for name, row in rows.items()
        }
        if any(selected.values()):
            print_scores(selected)
    facts = {
        "photos": len(photos),
        "model": options.model.name if options.model else None,
        "seed": 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(facts)
    bench.write_json(options.json, facts | {"methods": rows, "spread": spread})


if __name__ == "__main__":
    main()
