"""How well Find References finds: which description, which weight, how fast, how large.

    python benchmarks/reference_search.py --photos shard-000.tar shard-001.tar --index index.csv \\
        --limit 3000 --json references.json
    python benchmarks/reference_search.py --photos photos/             # time and size alone

`--index` is a CSV with `key`, `set` and `label` of each photo; a label counts where it is not the
set's name and at least 15 photos have it. Each photo is described in grey by several descriptors.

    label   part of the five nearest that have the photo's label
    set     ... that come from the same set of photos
    HIS     intersection of the ab histograms (21 x 21 bins) of photo and nearest five: colour alike
    self@1  a grey view of a photo (cropped to 0.6..0.85, mirrored at random, its tones bent by a
    self@5  power of 0.6..1.6, brightness 0.8..1.1) finds the photo first, or among the first five

The second table is about the best of the five: as the descriptors rank them, and as the patchwise
comparison does with several weights of the histogram term.
"""

import argparse
import csv
import json
import platform
import runpy
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from large_photo import ROOT, commit
from torch import Tensor

runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
import comfyui_colorist as colorist
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.references import descriptors
from comfyui_colorist.pipeline.references import search as reference_search
from comfyui_colorist.trainers.data.photos import Photos

ENCODERS = ("ddcolor-nano", "colorformer-nano")
MAPS = ((0,), (1,), (2,), (3,), (0, 1), (0, 1, 2), (0, 1, 2, 3))
WEIGHTS = (0.0, 0.02, descriptors.HISTOGRAM_WEIGHT, 0.1, 0.25, 0.5)
THUMBNAIL, OUTLINES = "thumbnail 16x16", "outlines (HOG 4x4x9)"
VIEWS = 600  # photos whose changed views are searched for
OFTEN = 15  # photos of a label that counts
Both = tuple[Tensor, Tensor]  # rows of photos, rows of views


def main() -> None:
    """Print the tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, shards")
    parser.add_argument("--index", type=Path, help="CSV with key, set, label")
    parser.add_argument("--limit", type=int, default=3000, help="photos to use")
    parser.add_argument("--no-cost", action="store_true", help="leave time and size out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    photos = Photos(options.photos)
    count = min(options.limit, len(photos))
    record = {"photos": count, "torch": torch.__version__, "commit": commit()}
    record |= {"machine": platform.processor(), "threads": torch.get_num_threads()}
    if not options.no_cost:
        record["cost"] = cost(photos, count)
    if options.index:
        known, local = described(photos, count)
        truth = Truth(photos, count, options.index)
        record["ranking"] = ranking(known, local[0], local[1], truth)
        record["best of five"] = best_of_five(*local, truth)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def cost(photos: Photos, count: int) -> dict[str, float]:
    """Seconds and bytes of an index of `count` photos, and of searches with it."""
    colorizer = colorist.load(descriptors.ENCODER)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album"
        album.mkdir()
        for i, (path, offset, size) in enumerate(photos.entries[:count]):
            with path.open("rb") as file:
                file.seek(offset)
                suffix = path.suffix if size < 0 else ".jpg"
                (album / f"{i:06}{suffix}").write_bytes(file.read(size))
        gallery = sorted(album.iterdir())
        for what in ("first", "second", "third"):
            began = time.monotonic()
            index = reference_search.open_index(album, colorizer, Path(folder))
            result = reference_search.find(gallery[0], gallery, colorizer, count=5, index=index)
            found[f"{what} search, s"] = round(time.monotonic() - began, 2)
        found["photos to choose from"] = result.photos
        found["photos per second"] = round(count / found["first search, s"], 1)
        found["index, bytes"] = index.file.stat().st_size
    for name, value in found.items():
        print(f"{name}: {value}")
    return found


# --- Photos, views, what is known of them ------------------------------------------------------


def pictures(photos: Photos, count: int, views: bool) -> Iterator[Tensor]:
    """Working pictures (b, 3, SIDE, SIDE), a few at a time: photos, or changed views of them."""
    generator = np.random.default_rng(0)
    for first in range(0, count, descriptors.AT_ONCE):
        some = []
        for i in range(first, min(first + descriptors.AT_ONCE, count)):
            rgb = torch.from_numpy(np.array(photos[i])).float() / 255
            rgb = changed(rgb, generator) if views else rgb
            some.append(descriptors.working_pictures(rgb[None], photos.keys[i]))
        yield torch.cat(some)


def changed(rgb: Tensor, generator: np.random.Generator) -> Tensor:
    """Another view of a photo (H, W, 3): cropped, mirrored at random, other tones."""
    part = generator.uniform(0.6, 0.85)
    h, w = (int(length * part) for length in rgb.shape[:2])
    top, left = (int(generator.uniform(0, n * (1 - part))) for n in rgb.shape[:2])
    rgb = rgb[top : top + h, left : left + w]
    rgb = rgb.flip(1) if generator.random() < 0.5 else rgb
    return (rgb ** generator.uniform(0.6, 1.6) * generator.uniform(0.8, 1.1)).clamp(0, 1)


def described(
    photos: Photos, count: int
) -> tuple[dict[str, Both], tuple[descriptors.Looks, descriptors.Looks]]:
    """Every descriptor of photos and views, and their looks as they are used."""
    colorizers = {name: colorist.load(name, device="cpu") for name in ENCODERS}
    both, local = [], []
    for views in (False, True):
        rows: dict[str, list[Tensor]] = {}
        seen = []
        for rgb in pictures(photos, min(VIEWS, count) if views else count, views):
            L = color.lightness(rgb)
            rows.setdefault(THUMBNAIL, []).append(F.adaptive_avg_pool2d(L, 16).flatten(1))
            rows.setdefault(OUTLINES, []).append(descriptors.outlines(L))
            for name, colorizer in colorizers.items():
                network = colorizer.placement.acquire(0)
                with torch.inference_mode():
                    gray = (color.gray_rgb(L) - network.mean) / network.std
                    for i, x in enumerate(network.encoder(gray)):
                        pooled = torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)
                        rows.setdefault(f"{name} map {i}", []).append(pooled)
            seen.append(descriptors.looks(colorizers[descriptors.ENCODER], rgb))
        both.append({name: torch.cat(parts) for name, parts in rows.items()})
        local.append(descriptors.joined(seen))
    return {name: (both[0][name], both[1][name]) for name in both[0]}, tuple(local)


class Truth:
    """Labels, sets and colours of the photos, and scores of what was found."""

    def __init__(self, photos: Photos, count: int, index: Path):
        with index.open(newline="", encoding="utf-8") as file:
            facts = {row["key"]: row for row in csv.DictReader(file)}
        keys = photos.keys[:count]
        self.sets = np.array([facts[key]["set"] for key in keys])
        labels = np.array([facts[key]["label"] for key in keys])
        self.labels = np.char.add(np.char.add(self.sets, "/"), labels)
        times = Counter(self.labels)
        often = np.array([times[label] >= OFTEN for label in self.labels])
        self.counted = often & (labels != self.sets)
        found = [histogram(color.rgb_to_lab(x)[:, 1:]) for x in pictures(photos, count, False)]
        self.colors = torch.cat(found)

    def scores(self, top: Tensor) -> dict[str, float]:
        """Of photos (n, k) found for the first n photos."""
        n, counted = len(top), self.counted[: len(top)]
        same_label = self.labels[top] == self.labels[:n, None]
        his = torch.minimum(self.colors[:n, None], self.colors[top]).sum(-1)
        return {
            "label": float(same_label[counted].mean()),
            "set": float((self.sets[top] == self.sets[:n, None]).mean()),
            "HIS": float(his.mean()),
        }


def histogram(ab: Tensor) -> Tensor:
    """Colours of pictures (B, 2, h, w) in 21 x 21 bins: (B, 441), sums 1."""
    a, b = ((ab.clamp(-110, 109.9) + 110) / 220 * 21).long().flatten(2).unbind(1)
    counts = torch.zeros(len(ab), 441).scatter_add_(1, a * 21 + b, torch.ones(a.shape))
    return counts / counts.sum(1, keepdim=True)


# --- Tables ------------------------------------------------------------------------------------


def blocks(known: dict[str, Both], parts: list[tuple[str, float]]) -> Both:
    """Descriptors side by side, each standardised and of its weight."""
    out = []
    for name, weight in parts:
        rows, _ = known[name]
        center, deviation = rows.mean(0), rows.std(0).clamp_min(1e-6)
        scale = weight / deviation / rows.shape[1] ** 0.5
        out.append([(x - center) * scale for x in known[name]])
    return tuple(torch.cat(x, dim=1) for x in zip(*out, strict=True))


def principal(both: Both, whitening: float) -> Both:
    """Principal components of unit length; 0 = plain PCA, 1 = all of the same variance."""
    rows, _ = both
    _, deviation, axes = torch.linalg.svd(rows, full_matrices=False)
    d = min(descriptors.PRINCIPAL, len(rows) - 1, rows.shape[1])
    axes = axes[:d].T / deviation[:d].clamp_min(1e-9) ** whitening
    return tuple(F.normalize(x @ axes, dim=1) for x in both)


def nearest(points: Tensor, views: Tensor) -> Both:
    """Places of the five nearest: of photos (n, 5) without themselves, and of views (m, 5)."""
    near = points @ points.T
    near.fill_diagonal_(-torch.inf)
    return tuple(x.topk(reference_search.SHORTLIST, 1).indices for x in (near, views @ points.T))


def told(name: str, scores: dict[str, float]) -> dict[str, float]:
    """The scores, printed as a line of the table."""
    print(f"{name:56}" + "".join(f"{value:8.3f}" for value in scores.values()), flush=True)
    return scores


def ranking(
    known: dict[str, Both], photos: descriptors.Looks, views: descriptors.Looks, truth: Truth
) -> dict[str, dict]:
    """The first table."""
    choices = {name: [(name, 1.0)] for name in (THUMBNAIL, OUTLINES)}
    for name in ENCODERS:
        for maps in MAPS:
            choices[f"{name} maps {maps}"] = [(f"{name} map {i}", 1.0) for i in maps]
        choices[f"{name} maps {descriptors.POOLED} + outlines"] = [
            *((f"{name} map {i}", 1.0) for i in descriptors.POOLED),
            (OUTLINES, 0.5),
        ]
    print(f"{len(truth.labels)} photos, {int(truth.counted.sum())} with a label that counts")
    columns = ("label", "set", "HIS", "self@1", "self@5")
    print(f"{'':56}" + "".join(f"{column:>8}" for column in columns))
    chance = torch.randint(len(truth.labels), (len(truth.labels), 5))
    table = {"chance": told("chance", truth.scores(chance))}

    def measured(name: str, both: Both) -> None:
        top, hits = nearest(*both)
        found = hits == torch.arange(len(hits))[:, None]
        own = {"self@1": float(found[:, 0].float().mean())}
        own["self@5"] = float(found.any(1).float().mean())
        table[name] = told(name, truth.scores(top) | own)

    for name, parts in choices.items():
        for whitening in (0, 0.5, 1) if "+" in name else (0.5,):
            both = principal(blocks(known, parts), whitening)
            measured(f"{name}, whitening {whitening}", both)
    space = descriptors.Space(photos.descriptors.float())
    measured("as it is used", tuple(space(x.descriptors.float()) for x in (photos, views)))
    return table


def best_of_five(
    photos: descriptors.Looks, views: descriptors.Looks, truth: Truth
) -> dict[str, dict]:
    """The second table."""
    space = descriptors.Space(photos.descriptors.float())
    top, hits = nearest(*(space(x.descriptors.float()) for x in (photos, views)))
    first = torch.arange(len(hits))
    print(f"\n{f'best of five, {len(first)} targets':56}   label     set     HIS  self@1")
    table = {}

    def measured(name: str, of_photos: Tensor, of_views: Tensor) -> None:
        own = {"self@1": float((of_views == first).float().mean())}
        table[name] = told(name, truth.scores(of_photos[:, None]) | own)

    def best(targets: descriptors.Looks, found: Tensor) -> Tensor:
        chosen = [
            descriptors.scores_of(
                descriptors.rows(targets, part), descriptors.rows(photos, found[part])
            ).argmin(1)
            for part in first.split(16)
        ]
        return found[first, torch.cat(chosen)]

    measured("as the descriptors rank them", top[first, 0], hits[:, 0])
    used = descriptors.HISTOGRAM_WEIGHT
    for weight in WEIGHTS:
        descriptors.HISTOGRAM_WEIGHT = weight
        measured(f"patchwise, histogram weight {weight}", best(photos, top), best(views, hits))
    descriptors.HISTOGRAM_WEIGHT = used
    return table


if __name__ == "__main__":
    main()
