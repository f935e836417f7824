r"""Accuracy, speed and size of Find References, by descriptor and weight.

    python benchmarks/reference_search.py --photos shard-000.tar shard-001.tar --index index.csv \
        --limit 3000 --json references.json
    python benchmarks/reference_search.py --photos photos/             # speed and size alone

`--index` is a CSV with `key`, `set` and `label` of each photo; a label counts if it differs from
the name of the set and at least 15 photos have it. Each photo is described in gray by several
descriptors.

    label   fraction of the five nearest photos with the label of the photo
    set     fraction from the same set of photos
    HIS     intersection of the ab histograms (21 x 21 bins) of the photo and the nearest five
    self@1  a changed gray view of a photo (cropped to 0.6..0.85, mirrored at random, a gamma of
    self@5  0.6..1.6, brightness 0.8..1.1) finds the photo first, or among the first five

The second table is about the best of the five: as ranked by the descriptors, and by the patchwise
comparison with several weights of its histogram term.
"""

import csv
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench
import comfyui_colorist as colorist
import numpy as np
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.references import descriptors, search
from comfyui_colorist.trainers.data.photos import Photos
from torch import Tensor

ENCODERS = ("ddcolor-nano",)
MAPS = ((0,), (1,), (2,), (3,), (0, 1), (2, 3), (0, 1, 2, 3))
HISTOGRAM_WEIGHTS = (0.0, 0.02, descriptors.HISTOGRAM_WEIGHT, 0.1, 0.25, 0.5)
THUMBNAIL = "thumbnail 16x16"
VIEWS = 600  # photos that are searched for by changed views
MIN_LABEL_PHOTOS = 15
Rows = tuple[Tensor, Tensor]  # of photos, of views


def main() -> None:
    """Print the tables."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, shards")
    parser.add_argument("--index", type=Path, help="CSV with key, set, label")
    parser.add_argument("--limit", type=int, default=3000, help="photos to use")
    parser.add_argument("--no-cost", action="store_true", help="skip speed and size")
    options = parser.parse_args()
    photos = Photos(options.photos)
    count = min(options.limit, len(photos))
    report: dict[str, Any] = {
        "photos": count,
        "torch": torch.__version__,
        "commit": bench.commit(),
        "machine": platform.processor(),
        "threads": torch.get_num_threads(),
    }
    if not options.no_cost:
        report["cost"] = measure_cost(photos, count)
    if options.index:
        rows, described = describe(photos, count)
        truth = Truth(photos, count, options.index)
        report["ranking"] = rank(rows, *described, truth)
        report["best of five"] = best_of_five(*described, truth)
    bench.write_json(options.json, report)


def measure_cost(photos: Photos, count: int) -> dict[str, float]:
    """Return seconds and bytes of an index of `count` photos and of searches with it."""
    colorizer = colorist.load(descriptors.ENCODER)
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album"
        album.mkdir()
        for i, entry in enumerate(photos.entries[:count]):
            suffix = entry.path.suffix if entry.size < 0 else ".jpg"
            (album / f"{i:06}{suffix}").write_bytes(photos.read_bytes(i))
        gallery = sorted(album.iterdir())
        for ordinal in ("first", "second", "third"):
            start = time.monotonic()
            index = search.open_index(album, colorizer, Path(folder))
            result = search.find_references(gallery[0], gallery, colorizer, count=5, index=index)
            results[f"{ordinal} search, s"] = round(time.monotonic() - start, 2)
        results["photos to choose from"] = result.photos
        results["photos per second"] = round(count / results["first search, s"], 1)
        results["index, bytes"] = index.file.stat().st_size
    for name, value in results.items():
        print(f"{name}: {value}")
    return results


# --- Photos, views and ground truth ------------------------------------------------------------


def working_images(photos: Photos, count: int, views: bool) -> Iterator[Tensor]:
    """Yield working images (b, 3, SIDE, SIDE) of photos, or of changed views, in batches."""
    rng = np.random.default_rng(0)
    for first in range(0, count, descriptors.BATCH_SIZE):
        batch = []
        for i in range(first, min(first + descriptors.BATCH_SIZE, count)):
            rgb = torch.from_numpy(np.array(photos[i])).float() / 255
            rgb = change_view(rgb, rng) if views else rgb
            batch.append(descriptors.to_working_images(rgb[None], photos.keys[i]))
        yield torch.cat(batch)


def change_view(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """Crop, mirror at random and change the tones of a photo (H, W, 3)."""
    scale = rng.uniform(0.6, 0.85)
    h, w = (int(length * scale) for length in rgb.shape[:2])
    top, left = (int(rng.uniform(0, n * (1 - scale))) for n in rgb.shape[:2])
    rgb = rgb[top : top + h, left : left + w]
    rgb = rgb.flip(1) if rng.random() < 0.5 else rgb
    return (rgb ** rng.uniform(0.6, 1.6) * rng.uniform(0.8, 1.1)).clamp(0, 1)


def describe(
    photos: Photos, count: int
) -> tuple[dict[str, Rows], tuple[descriptors.Descriptors, descriptors.Descriptors]]:
    """Return every descriptor of photos and views, and the descriptors that the search uses."""
    colorizers = {name: colorist.load(name, device="cpu") for name in ENCODERS}
    rows: list[dict[str, Tensor]] = []
    used: list[descriptors.Descriptors] = []
    for views in (False, True):
        parts: dict[str, list[Tensor]] = {}
        used_parts = []
        for rgb in working_images(photos, min(VIEWS, count) if views else count, views):
            L = color.lightness(rgb)
            parts.setdefault(THUMBNAIL, []).append(F.adaptive_avg_pool2d(L, 16).flatten(1))
            for name, colorizer in colorizers.items():
                network = colorizer.device_manager.acquire(0)
                with torch.inference_mode():
                    gray = (color.gray_rgb(L) - network.mean) / network.std
                    for i, x in enumerate(network.encoder(gray)):
                        parts.setdefault(f"{name} map {i}", []).append(x.mean((2, 3)))
            used_parts.append(descriptors.describe(colorizers[descriptors.ENCODER], rgb))
        rows.append({name: torch.cat(tensors) for name, tensors in parts.items()})
        used.append(descriptors.concat(used_parts))
    return {name: (rows[0][name], rows[1][name]) for name in rows[0]}, (used[0], used[1])


class Truth:
    """Labels, sets and color histograms of the photos, which score search results."""

    def __init__(self, photos: Photos, count: int, index: Path):
        with index.open(newline="", encoding="utf-8") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        keys = photos.keys[:count]
        self.sets = np.array([rows[key]["set"] for key in keys])
        labels = np.array([rows[key]["label"] for key in keys])
        self.labels = np.char.add(np.char.add(self.sets, "/"), labels)
        counts = Counter(self.labels)
        frequent = np.array([counts[label] >= MIN_LABEL_PHOTOS for label in self.labels])
        self.counted = frequent & (labels != self.sets)
        images = working_images(photos, count, views=False)
        self.histograms = torch.cat([histogram(color.rgb_to_lab(x)[:, 1:]) for x in images])

    def scores(self, top: Tensor) -> dict[str, float]:
        """Score the photos (n, k) found for the first n photos."""
        n, counted = len(top), self.counted[: len(top)]
        same_label = self.labels[top] == self.labels[:n, None]
        his = torch.minimum(self.histograms[:n, None], self.histograms[top]).sum(-1)
        return {
            "label": float(same_label[counted].mean()),
            "set": float((self.sets[top] == self.sets[:n, None]).mean()),
            "HIS": float(his.mean()),
        }


def histogram(ab: Tensor) -> Tensor:
    """Return histograms of (B, 2, h, w) with 21 x 21 bins: (B, 441), normalized to 1."""
    a, b = ((ab.clamp(-110, 109.9) + 110) / 220 * 21).long().flatten(2).unbind(1)
    counts = torch.zeros(len(ab), 441).scatter_add_(1, a * 21 + b, torch.ones(a.shape))
    return counts / counts.sum(1, keepdim=True)


# --- Tables ------------------------------------------------------------------------------------


def concatenate(rows: dict[str, Rows], parts: list[str]) -> Rows:
    """Concatenate descriptors, each standardized."""
    blocks = []
    for name in parts:
        photos, _ = rows[name]
        center, deviation = photos.mean(0), photos.std(0).clamp_min(1e-6)
        scale = 1 / deviation / photos.shape[1] ** 0.5
        blocks.append([(x - center) * scale for x in rows[name]])
    photos, views = (torch.cat(x, dim=1) for x in zip(*blocks, strict=True))
    return photos, views


def principal_components(rows: Rows, whitening: float) -> Rows:
    """Return normalized principal components; whitening 0 = plain PCA, 1 = equal variances."""
    photos, views = rows
    _, deviation, axes = torch.linalg.svd(photos, full_matrices=False)
    d = min(descriptors.PCA_DIMENSIONS, len(photos) - 1, photos.shape[1])
    axes = axes[:d].T / deviation[:d].clamp_min(1e-9) ** whitening
    return F.normalize(photos @ axes, dim=1), F.normalize(views @ axes, dim=1)


def nearest(photos: Tensor, views: Tensor) -> Rows:
    """Return indices of the five nearest: of photos (n, 5) without themselves, of views (m, 5)."""
    similarity = photos @ photos.T
    similarity.fill_diagonal_(-torch.inf)
    of_photos, of_views = (
        x.topk(search.SHORTLIST, 1).indices for x in (similarity, views @ photos.T)
    )
    return of_photos, of_views


def whitened(photos: descriptors.Descriptors, views: descriptors.Descriptors) -> Rows:
    """Return the vectors in the space that the search uses."""
    space = descriptors.WhitenedSpace(photos.vectors.float())
    return space(photos.vectors.float()), space(views.vectors.float())


def print_scores(name: str, scores: dict[str, float]) -> dict[str, float]:
    """Print a line of the table and return the scores."""
    print(f"{name:56}" + "".join(f"{value:8.3f}" for value in scores.values()), flush=True)
    return scores


def rank(
    rows: dict[str, Rows],
    photos: descriptors.Descriptors,
    views: descriptors.Descriptors,
    truth: Truth,
) -> dict[str, dict[str, float]]:
    """Print and return the first table."""
    choices = {THUMBNAIL: [THUMBNAIL]}
    for name in ENCODERS:
        for maps in MAPS:
            choices[f"{name} maps {maps}"] = [f"{name} map {i}" for i in maps]
    print(f"{len(truth.labels)} photos, {int(truth.counted.sum())} with a label that counts")
    columns = ("label", "set", "HIS", "self@1", "self@5")
    print(f"{'':56}" + "".join(f"{column:>8}" for column in columns))
    chance = torch.randint(len(truth.labels), (len(truth.labels), 5))
    table = {"chance": print_scores("chance", truth.scores(chance))}

    def add(name: str, vectors: Rows) -> None:
        of_photos, of_views = nearest(*vectors)
        correct = of_views == torch.arange(len(of_views))[:, None]
        own = {
            "self@1": float(correct[:, 0].float().mean()),
            "self@5": float(correct.any(1).float().mean()),
        }
        table[name] = print_scores(name, truth.scores(of_photos) | own)

    for name, parts in choices.items():
        for whitening in (0, 0.5, 1) if name.endswith(f"({descriptors.POOLED_MAP},)") else (0.5,):
            vectors = principal_components(concatenate(rows, parts), whitening)
            add(f"{name}, whitening {whitening}", vectors)
    add("as used", whitened(photos, views))
    return table


def best_of_five(
    photos: descriptors.Descriptors, views: descriptors.Descriptors, truth: Truth
) -> dict[str, dict[str, float]]:
    """Print and return the second table."""
    of_photos, of_views = nearest(*whitened(photos, views))
    targets = torch.arange(len(of_views))
    print(f"\n{f'best of five, {len(targets)} targets':56}   label     set     HIS  self@1")
    table = {}

    def add(name: str, best_of_photos: Tensor, best_of_views: Tensor) -> None:
        own = {"self@1": float((best_of_views == targets).float().mean())}
        table[name] = print_scores(name, truth.scores(best_of_photos[:, None]) | own)

    def rerank(queries: descriptors.Descriptors, shortlist: Tensor) -> Tensor:
        """Return the best of each row of the shortlist by the patchwise comparison."""
        best = [
            descriptors.patch_distances(
                queries.select(part), photos.select(shortlist[part])
            ).argmin(1)
            for part in targets.split(16)
        ]
        return shortlist[targets, torch.cat(best)]

    add("as ranked by the descriptors", of_photos[targets, 0], of_views[:, 0])
    used_weight = descriptors.HISTOGRAM_WEIGHT
    for weight in HISTOGRAM_WEIGHTS:
        descriptors.HISTOGRAM_WEIGHT = weight
        name = f"patchwise, histogram weight {weight}"
        add(name, rerank(photos, of_photos), rerank(views, of_views))
    descriptors.HISTOGRAM_WEIGHT = used_weight
    return table


if __name__ == "__main__":
    main()
