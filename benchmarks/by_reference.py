"""What an exemplar network makes of references, beside classical colour transfer.

    python benchmarks/by_reference.py --photos eval/ --pairs eval/pairs.json --model exemplar-nano

Three protocols, photos squashed to 224x224:

    pairs   photos with references of other photos: PSNR and SSIM to the photo, HIS to the reference
    self    photos with another view of themselves (two parts 62 % wide and 80 % high that overlap
            in the middle, one of them mirrored): the true colours are to be found
    tints   the pairs, their references tinted red and tinted blue: how far results follow

PAIRS is a list of {"target": file, "reference": file}, relative to PHOTOS. Near-grey photos (mean
C* below 4) are left out of self. Beside the network: grey; the reference's mean colour, which is
what Reinhard et al. 2001 comes to on a grey target; Welsh et al. 2002 (200 jittered samples,
lightness and its deviation in 5x5); and nearest patches: texture of several sizes and the place.
HIS is to be read with SSIM: Welsh has much of the one and little of the other. Last: error by
confidence, on both protocols.
"""

import argparse
import importlib
import itertools
import json
import runpy
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from large_photo import ROOT, commit
from PIL import Image
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial import cKDTree

SIDE = 224
COLORFUL = 4.0  # mean C* below which a photo says nothing about colour
TINTS = {"red": (30.0, 15.0), "blue": (0.0, -35.0)}  # added to a reference's ab


def squashed(image: Image.Image) -> np.ndarray:
    """(SIDE, SIDE, 3) float32 in 0..1."""
    image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255


def views(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Target and reference: left and right part of one photo, one of them mirrored."""
    image = Image.open(path).convert("RGB")
    rng = np.random.default_rng([seed, zlib.crc32(path.stem.encode())])
    width, height = int(image.width * 0.62), int(image.height * 0.8)
    parts = []
    for left in (0, image.width - width):
        top = int(rng.integers(0, image.height - height + 1))
        parts.append(squashed(image.crop((left, top, left + width, top + height))))
    return parts[0], parts[1][:, ::-1].copy()


def mean_color(L: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Reinhard et al. 2001: a grey target has no deviation of a and b; its mean moves alone."""
    return np.broadcast_to(reference[..., 1:].mean((0, 1)), (*L.shape, 2))


def welsh(L: np.ndarray, reference: np.ndarray, samples: int = 200, seed: int = 0) -> np.ndarray:
    """Welsh, Ashikhmin, Mueller 2002: the sample nearest in lightness and its deviation."""
    known = reference[..., 0]
    known = (known - known.mean()) * (L.std() / max(known.std(), 1e-6)) + L.mean()
    rng, side = np.random.default_rng(seed), int(np.ceil(samples**0.5))
    grid = (np.arange(side)[:, None] + rng.random((2, side, side)) * 1.0) / side
    y = np.minimum((grid[0] * known.shape[0]).astype(int), known.shape[0] - 1).ravel()
    x = np.minimum((grid[1].T * known.shape[1]).astype(int), known.shape[1] - 1).ravel()
    tree = cKDTree(0.5 * _looks(known)[y, x])
    _, nearest = tree.query(0.5 * _looks(L).reshape(-1, 2), p=1)
    return reference[y, x, 1:][nearest].reshape(*L.shape, 2)


def nearest_patches(L: np.ndarray, reference: np.ndarray, seed: int = 0) -> np.ndarray:
    """Mean of the twelve most similar of 6000 places, then smoothed along edges of L."""
    known = reference[..., 0]
    known = (known - known.mean()) * (L.std() / max(known.std(), 1e-6)) + L.mean()
    rng = np.random.default_rng(seed)
    places = rng.choice(known.size, min(6000, known.size), replace=False)
    tree = cKDTree(_patches(known).reshape(-1, 13)[places])
    distance, nearest = tree.query(_patches(L).reshape(-1, 13), k=12)
    weight = 1 / (distance + 1) ** 2
    ab = reference[..., 1:].reshape(-1, 2)[places][nearest]
    ab = (ab * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    return _along_edges(L / 100, ab.reshape(*L.shape, 2))


def _patches(L: np.ndarray) -> np.ndarray:
    """Lightness and texture of several sizes, and the place: (H, W, 13)."""
    blurred = [gaussian_filter(L, sigma, mode="reflect") for sigma in (1, 2, 4, 8, 16)]
    rough = [1.5 * _looks(L, width)[..., 1] for width in (5, 11, 23)]
    bands = [1.5 * (fine - coarse) for fine, coarse in itertools.pairwise(blurred)]
    y, x = np.mgrid[0 : 24 : L.shape[0] * 1j, 0 : 12 : L.shape[1] * 1j]
    return np.stack([L, *blurred[2:], *rough, *bands, y, x], axis=-1)


def _along_edges(
    guide: np.ndarray, ab: np.ndarray, side: int = 17, eps: float = 1e-3
) -> np.ndarray:
    """Guided filter (He, Sun, Tang 2010)."""
    mean = partial(uniform_filter, size=side, mode="reflect")
    center = mean(guide)
    variance, out = mean(guide * guide) - center**2, []
    for plane in np.moveaxis(ab, -1, 0):
        slope = (mean(guide * plane) - center * mean(plane)) / (variance + eps)
        out.append(mean(slope) * guide + mean(mean(plane) - slope * center))
    return np.stack(out, axis=-1)


def _looks(L: np.ndarray, width: int = 5) -> np.ndarray:
    mean = uniform_filter(L, width, mode="reflect")
    spread = uniform_filter(L * L, width, mode="reflect") - mean**2
    return np.stack([L, np.sqrt(np.maximum(spread, 0))], axis=-1)


def main() -> None:
    """Print three tables and the reliability of confidence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--model", default="exemplar-nano")
    parser.add_argument("--resolution", type=int, help="default: the network's own")
    parser.add_argument("--limit", type=int, default=80, help="photos of the protocol self")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch

    color = importlib.import_module(f"{package}.ops.color")
    image_metrics = importlib.import_module(f"{package}.metrics.image")
    engine = importlib.import_module(package).load(options.model)

    def batch(rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None]

    def lab_of(rgb: np.ndarray) -> np.ndarray:
        return color.rgb_to_lab(batch(rgb))[0].movedim(0, -1).numpy()

    def painted(L: np.ndarray, ab: np.ndarray) -> torch.Tensor:
        return color.to_gamut(batch(np.concatenate([L[..., None], ab], -1).astype(np.float32)))

    def network(gray: torch.Tensor, reference: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        out, sure = engine.colorize_with_confidence(
            gray.movedim(1, -1),
            reference=torch.from_numpy(reference.copy()),
            resolution=options.resolution,
        )
        return out.movedim(-1, 1), sure

    given = json.loads(options.pairs.read_text(encoding="utf-8"))
    both = [
        [squashed(Image.open(options.photos / p[k])) for k in ("target", "reference")]
        for p in given
    ]
    own = []
    for path in sorted(options.photos.glob("*.jpg")):
        if len(own) < options.limit:
            small = np.asarray(Image.open(path).convert("RGB").resize((64, 64)), np.float32) / 255
            if np.hypot(*lab_of(small)[..., 1:].reshape(-1, 2).T).mean() >= COLORFUL:
                own.append(views(path, options.seed))

    summary: dict[str, dict] = {}
    trust: dict[str, list[np.ndarray]] = {}
    for protocol, items in (("pairs", both), ("self", own)):
        rows: dict[str, list[list[float]]] = {}
        for true, reference in items:
            L, look, want = lab_of(true)[..., 0], lab_of(reference), batch(true)
            gray = color.gray_rgb(batch(L[..., None]))
            mine, sure = network(gray, reference)
            results = {
                "grey": gray,
                "mean colour (Reinhard)": painted(L, mean_color(L, look)),
                "Welsh": painted(L, welsh(L, look)),
                "nearest patches": painted(L, nearest_patches(L, look)),
                options.model: mine,
                "the photo itself": want,
            }
            for name, rgb in results.items():
                numbers = [f(rgb, want).item() for f in (image_metrics.psnr, image_metrics.ssim)]
                numbers.append(image_metrics.his(rgb, batch(reference)).item())
                rows.setdefault(name, []).append([*numbers, image_metrics.colorfulness(rgb).item()])
            ab = lab_of(mine[0].movedim(0, -1).numpy())[..., 1:]
            error = np.hypot(*(ab - lab_of(true)[..., 1:]).reshape(-1, 2).T)
            trust.setdefault(protocol, []).append(np.stack([sure.numpy().ravel(), error]))
        print(f"\n{protocol}, {len(items)} targets\n")
        print("| method | PSNR | SSIM | HIS | colourfulness |\n| --- | --- | --- | --- | --- |")
        summary[protocol] = {}
        for name, numbers in rows.items():
            mean = np.mean(numbers, axis=0).tolist()
            summary[protocol][name] = mean
            print(f"| {name} | {mean[0]:.2f} | {mean[1]:.4f} | {mean[2]:.3f} | {mean[3]:.1f} |")

    moved = []
    for true, reference in both:
        gray = color.gray_rgb(color.lightness(batch(true)))
        look, means = lab_of(reference), {}
        for name, tint in TINTS.items():
            lab = batch(np.concatenate([look[..., :1], look[..., 1:] + np.float32(tint)], -1))
            tinted = color.to_gamut(lab)[0].movedim(0, -1).numpy()
            made, _ = network(gray, tinted)
            means[name] = [
                lab_of(x)[..., 1:].mean((0, 1)) for x in (tinted, made[0].movedim(0, -1).numpy())
            ]
        asked, got = (means["red"][i] - means["blue"][i] for i in (0, 1))
        moved.append([got @ asked / (asked @ asked), got[0] > 0])
    follow, redder = np.mean(moved, axis=0)
    summary["tints"] = {"follow": float(follow), "redder": float(redder)}
    print(f"\ntints: results move {follow:.2f} of the way that red and blue references are apart; ")
    print(f"the red one gives the redder result for {round(redder * len(moved))} of {len(moved)}\n")

    print("| confidence, fourths of all places | lowest | | | highest |")
    print("| --- | --- | --- | --- | --- |")
    for protocol, parts in trust.items():
        sure, error = np.concatenate(parts, axis=1)
        fourths = np.array_split(np.argsort(sure, kind="stable"), 4)
        for what, values in (("confidence", sure), ("mean error in ab", error)):
            means = [float(values[part].mean()) for part in fourths]
            summary[protocol][what] = means
            print(f"| {protocol}, {what} | {' | '.join(f'{v:.2f}' for v in means)} |")
    if options.json:
        facts = {"model": options.model, "commit": commit(), "torch": torch.__version__}
        options.json.write_text(json.dumps(summary | facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
