"""An exemplar model beside classical color transfer.

    python benchmarks/by_reference.py --photos eval/ --pairs eval/pairs.json --model exemplar-nano

Three protocols with photos squashed to 224x224:

    pairs   photos with references of other photos: PSNR and SSIM to the photo, HIS to the reference
    self    photos with another view of themselves (two parts, 62 % wide and 80 % high, that overlap
            in the middle, one of them mirrored), so the true colors are in the reference
    tints   the pairs with references tinted red and blue: how far results follow

PAIRS is a list of {"target": file, "reference": file}, relative to PHOTOS. `self` leaves out
near-gray photos (mean C* below 4). Baselines: gray; the reference's mean color, to which Reinhard
et al. 2001 reduces for a gray target; Welsh et al. 2002 (200 jittered samples, lightness and its
deviation in 5x5); and nearest patches (texture at several scales, and position). HIS must be read
together with SSIM: Welsh has a high HIS and a low SSIM. The last table shows the error by
confidence for pairs and self.
"""

import itertools
import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import bench
import comfyui_colorist as colorist
import numpy as np
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.by_reference import ExemplarColorizer
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial import cKDTree

SIDE = 224
TINTS = {"red": (30.0, 15.0), "blue": (0.0, -35.0)}  # added to the reference's ab
Sample = tuple[np.ndarray, np.ndarray]  # target and reference, (SIDE, SIDE, 3) in 0..1


def main() -> None:
    """Print the scores of pairs and self, of tints, and the error by confidence."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--model", default="exemplar-nano")
    parser.add_argument("--resolution", type=int, help="default: the network's")
    parser.add_argument("--limit", type=int, default=80, help="photos of the protocol self")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    colorizer = colorist.load(options.model)
    pairs = [
        (square(options.photos / pair["target"]), square(options.photos / pair["reference"]))
        for pair in json.loads(options.pairs.read_text(encoding="utf-8"))
    ]
    views = []
    for path in bench.list_photos(options.photos):
        enough = len(views) >= options.limit
        if not enough and bench.mean_chroma(Image.open(path)) >= bench.MIN_CHROMA:
            views.append(split_views(path, options.seed))

    report: dict[str, dict[str, Any]] = {}
    reliability: dict[str, np.ndarray] = {}
    for protocol, samples in (("pairs", pairs), ("self", views)):
        means, reliability[protocol] = score(samples, colorizer, options.model, options.resolution)
        report[protocol] = means
        print(f"\n{protocol}, {len(samples)} targets\n")
        bench.print_table(
            ["method", "PSNR", "SSIM", "HIS", "colorfulness"],
            [
                [name, f"{psnr:.2f}", f"{ssim:.4f}", f"{his:.3f}", f"{colorfulness:.1f}"]
                for name, (psnr, ssim, his, colorfulness) in means.items()
            ],
        )

    follow, redder = follow_tints(pairs, colorizer, options.resolution)
    report["tints"] = {"follow": follow, "redder": redder}
    print(
        f"\ntints: the difference of results is {follow:.2f} of that of red and blue references;\n"
        f"the red one gives the redder result for {round(redder * len(pairs))} of {len(pairs)}\n"
    )
    bench.print_table(["confidence, quartiles of all pixels", "lowest", "", "", "highest"])
    for protocol, (confidence, error) in reliability.items():
        quartiles = np.array_split(np.argsort(confidence, kind="stable"), 4)
        for name, values in (("confidence", confidence), ("mean error in ab", error)):
            quartile_means = [float(values[part].mean()) for part in quartiles]
            report[protocol][name] = quartile_means
            bench.print_row([f"{protocol}, {name}", *(f"{v:.2f}" for v in quartile_means)])
    facts = {"model": options.model, "commit": bench.commit(), "torch": torch.__version__}
    bench.write_json(options.json, report | facts)


# --- Samples -----------------------------------------------------------------------------------


def square(path: Path) -> np.ndarray:
    """Read a photo as (SIDE, SIDE, 3) float32 in 0..1."""
    return np.asarray(bench.resize_square(Image.open(path), SIDE), np.float32) / 255


def split_views(path: Path, seed: int) -> Sample:
    """Return target and reference: left and right part of one photo, the right one mirrored."""
    image = Image.open(path).convert("RGB")
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    width, height = int(image.width * 0.62), int(image.height * 0.8)
    parts = []
    for left in (0, image.width - width):
        top = int(rng.integers(0, image.height - height + 1))
        part = image.crop((left, top, left + width, top + height))
        parts.append(np.asarray(bench.resize_square(part, SIDE), np.float32) / 255)
    return parts[0], parts[1][:, ::-1].copy()


def to_batch(rgb: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) to (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None]


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB (H, W, 3) to Lab."""
    return color.rgb_to_lab(to_batch(rgb))[0].movedim(0, -1).numpy()


def combine(L: np.ndarray, ab: np.ndarray) -> torch.Tensor:
    """Return the image (1, 3, H, W) of L (H, W) and ab (H, W, 2)."""
    return color.to_gamut(to_batch(np.concatenate([L[..., None], ab], -1).astype(np.float32)))


# --- Scores ------------------------------------------------------------------------------------


def colorize(
    colorizer: ExemplarColorizer, gray: torch.Tensor, reference: np.ndarray, resolution: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result (1, 3, H, W) and its confidence."""
    rgb, confidence = colorizer.colorize_with_confidence(
        gray.movedim(1, -1), reference=torch.from_numpy(reference.copy()), resolution=resolution
    )
    return rgb.movedim(-1, 1), confidence


def score(
    samples: list[Sample], colorizer: ExemplarColorizer, model: str, resolution: int | None
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Score all methods.

    Returns:
        method -> mean PSNR, SSIM, HIS and colorfulness; (2, N) confidence and error in ab of each
        pixel of the model's results.
    """
    scores: dict[str, list[list[float]]] = {}
    reliability = []
    for target, reference in samples:
        target_lab, reference_lab, truth = lab_of(target), lab_of(reference), to_batch(target)
        L = target_lab[..., 0]
        gray = color.gray_rgb(to_batch(L[..., None]))
        result, confidence = colorize(colorizer, gray, reference, resolution)
        results = {
            "gray": gray,
            "mean color (Reinhard)": combine(L, mean_color(L, reference_lab)),
            "Welsh": combine(L, welsh(L, reference_lab)),
            "nearest patches": combine(L, nearest_patches(L, reference_lab)),
            model: result,
            "ground truth": truth,
        }
        for name, rgb in results.items():
            his = image_metrics.histogram_intersection(rgb, to_batch(reference))
            values = [image_metrics.psnr(rgb, truth), image_metrics.ssim(rgb, truth), his]
            values.append(image_metrics.colorfulness(rgb))
            scores.setdefault(name, []).append([value.item() for value in values])
        ab = lab_of(result[0].movedim(0, -1).numpy())[..., 1:]
        error = np.hypot(*(ab - target_lab[..., 1:]).reshape(-1, 2).T)
        reliability.append(np.stack([confidence.numpy().ravel(), error]))
    means = {name: np.mean(rows, axis=0).tolist() for name, rows in scores.items()}
    return means, np.concatenate(reliability, axis=1)


def follow_tints(
    samples: list[Sample], colorizer: ExemplarColorizer, resolution: int | None
) -> tuple[float, float]:
    """Tint the references red and blue.

    Returns:
        difference of the results along that of the references, as a fraction of it; fraction of
        samples with the redder result for the red reference.
    """
    rows = []
    for target, reference in samples:
        gray = color.gray_rgb(color.lightness(to_batch(target)))
        lab = lab_of(reference)
        means = {}
        for name, tint in TINTS.items():
            tinted = combine(lab[..., 0], lab[..., 1:] + np.float32(tint))[0].movedim(0, -1).numpy()
            result, _ = colorize(colorizer, gray, tinted, resolution)
            images = tinted, result[0].movedim(0, -1).numpy()
            means[name] = [lab_of(rgb)[..., 1:].mean((0, 1)) for rgb in images]
        expected, actual = (means["red"][i] - means["blue"][i] for i in (0, 1))
        rows.append([actual @ expected / (expected @ expected), actual[0] > 0])
    follow, redder = np.mean(rows, axis=0)
    return float(follow), float(redder)


# --- Classical methods -------------------------------------------------------------------------


def mean_color(L: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the reference's mean ab everywhere, as Reinhard et al. 2001 for a gray target."""
    return np.broadcast_to(reference[..., 1:].mean((0, 1)), (*L.shape, 2))


def match_lightness(source: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Return `source` with the mean and deviation of L."""
    return (source - source.mean()) * (L.std() / max(source.std(), 1e-6)) + L.mean()


def welsh(L: np.ndarray, reference: np.ndarray, samples: int = 200, seed: int = 0) -> np.ndarray:
    """Copy ab of the sample nearest in lightness and deviation (Welsh, Ashikhmin, Mueller 2002)."""
    reference_L = match_lightness(reference[..., 0], L)
    rng, side = np.random.default_rng(seed), int(np.ceil(samples**0.5))
    grid = (np.arange(side)[:, None] + rng.random((2, side, side)) * 1.0) / side
    height, width = reference_L.shape
    y = np.minimum((grid[0] * height).astype(int), height - 1).ravel()
    x = np.minimum((grid[1].T * width).astype(int), width - 1).ravel()
    tree = cKDTree(0.5 * lightness_statistics(reference_L)[y, x])
    _, nearest = tree.query(0.5 * lightness_statistics(L).reshape(-1, 2), p=1)
    return reference[y, x, 1:][nearest].reshape(*L.shape, 2)


def nearest_patches(L: np.ndarray, reference: np.ndarray, seed: int = 0) -> np.ndarray:
    """Average the twelve most similar of 6000 positions, then smooth along the edges of L."""
    reference_L = match_lightness(reference[..., 0], L)
    rng = np.random.default_rng(seed)
    positions = rng.choice(reference_L.size, min(6000, reference_L.size), replace=False)
    tree = cKDTree(patch_features(reference_L).reshape(-1, 13)[positions])
    distance, nearest = tree.query(patch_features(L).reshape(-1, 13), k=12)
    weight = 1 / (distance + 1) ** 2
    ab = reference[..., 1:].reshape(-1, 2)[positions][nearest]
    ab = (ab * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    return guided_filter(L / 100, ab.reshape(*L.shape, 2))


def patch_features(L: np.ndarray) -> np.ndarray:
    """Return lightness, texture at several scales and position: (H, W, 13)."""
    blurred = [gaussian_filter(L, sigma, mode="reflect") for sigma in (1, 2, 4, 8, 16)]
    deviations = [1.5 * lightness_statistics(L, width)[..., 1] for width in (5, 11, 23)]
    bands = [1.5 * (fine - coarse) for fine, coarse in itertools.pairwise(blurred)]
    y, x = np.mgrid[0 : 24 : L.shape[0] * 1j, 0 : 12 : L.shape[1] * 1j]
    return np.stack([L, *blurred[2:], *deviations, *bands, y, x], axis=-1)


def lightness_statistics(L: np.ndarray, width: int = 5) -> np.ndarray:
    """Return lightness and its deviation in a window: (H, W, 2)."""
    mean = uniform_filter(L, width, mode="reflect")
    variance = uniform_filter(L * L, width, mode="reflect") - mean**2
    return np.stack([L, np.sqrt(np.maximum(variance, 0))], axis=-1)


def guided_filter(
    guide: np.ndarray, ab: np.ndarray, side: int = 17, eps: float = 1e-3
) -> np.ndarray:
    """Smooth ab along the edges of `guide` (He, Sun, Tang 2010)."""
    mean = partial(uniform_filter, size=side, mode="reflect")
    center = mean(guide)
    variance = mean(guide * guide) - center**2
    planes = []
    for plane in np.moveaxis(ab, -1, 0):
        slope = (mean(guide * plane) - center * mean(plane)) / (variance + eps)
        planes.append(mean(slope) * guide + mean(mean(plane) - slope * center))
    return np.stack(planes, axis=-1)


if __name__ == "__main__":
    main()
