"""Measure networks on colour photos: their grey versions are coloured and compared with them.

    # A folder or shards; a file, boxed or installed network, several beside each other
    python trainers/evaluate.py --photos photos/ --model ddcolor-nano runs/nano/weights.safetensors
    python trainers/evaluate.py --photos shard-*.tar --model ddcolor-nano --inception inception_fid
    # By points (1, 10 and 50 of them) and by reference
    python trainers/evaluate.py --photos photos/ --model pointhint-nano --sheet sheet.jpg
    python trainers/evaluate.py --photos photos/ --model exemplar-nano --pairs photos/pairs.json
    colorist evaluate --photos photos/ --model ddcolor-nano --json scores.json   # installed

Prints a table for each role among the networks: FID, colourfulness and delta-CF, PSNR, SSIM,
CIEDE2000; for references HIS, for points PEV and B-PSNR; top-1 and top-5 where a classifier is
given. What needs no network stands beside it. docs/evaluation.md says what each number means and
how the papers take it. Results are rounded to 8 bits, as files are, before they are measured.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import csv
import importlib.util
import io
import json
import logging
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..console import checks, errors, output
from ..media.atomic import write_whole
from ..metrics import fid
from ..metrics import image as image_metrics
from ..model_defs import checkpoint
from ..model_store import resolve
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from . import common, weights
from .contact_sheet import contact_sheet, kind_of, save
from .data import Photos
from .judges import Judges
from .protocols import PROTOCOLS, SIDES, SMALLEST, TRUTH, Item, Study, read_ahead

PRESETS: dict[str, dict] = {}
FINISHES = "ours", "published"
COLUMNS = {  # score -> heading, format
    "fid": ("FID", ".2f"),
    "colorfulness": ("CF", ".2f"),
    "delta_colorfulness": ("delta-CF", ".2f"),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "ciede2000": ("CIEDE2000", ".2f"),
    "his": ("HIS", ".3f"),
    "pev16": ("PEV 16", ".1f"),
    "bpsnr16": ("B-PSNR 16", ".2f"),
    "pev32": ("PEV 32", ".1f"),
    "bpsnr32": ("B-PSNR 32", ".2f"),
    "top1": ("top-1", ".1f"),
    "top5": ("top-5", ".1f"),
}
# What the photos themselves have by definition: "-" in their row
TRIVIAL = ("fid", "delta_", "psnr", "ssim", "ciede2000", "pev", "bpsnr")
log = logging.getLogger(__name__)


@dataclass
class Config:
    """Settings of one evaluation."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards of colour photos."""
    model: tuple[str, ...] = ("ddcolor-nano",)
    """Files, boxed or installed networks, of any roles."""
    size: int | None = None
    """Photos are squashed to a square of this side; 0 = their own size and shape.

    Default: as the papers do, 256, or 224 with guided networks.
    """
    resolution: int = 0
    """Working resolution; 0 = the network's own."""
    finish: str = "ours"
    """ours, or published: the official script's picture."""
    saturation: float = 1.0
    fade: float = 0.0
    """C* of which half is left, see `pipeline.postprocess`."""
    dtype: str = "float32"
    """float32, bfloat16 or float16, of the networks that colour."""
    hints: tuple[int, ...] = (1, 10, 50)
    """Numbers of random points for networks that take points."""
    pairs: str = "self"
    """For networks that take references: JSON or TSV of targets and references, or the table of
    build_reference_pairs, of which the best is taken; self: another view of the photo."""
    inception: str = ""
    """Inception weights for FID: their file, or inception_fid."""
    classifier: str = ""
    """Classifier for top-1 and top-5: the file of its weights, or a name such as vgg16."""
    labels: Path | None = None
    """CSV `key,class`; without: .cls members of shards, or a folder for each class."""
    min_chroma: float = 0.0
    """Leave out photos with a mean C* below this (not of pairs)."""
    skip: int = 0
    """Leave out the first photos."""
    limit: int = 0
    """Use only so many photos, or pairs; 0 = all."""
    seed: int = 0
    batch: int = 8
    """Photos at once, where their sizes agree."""
    json: Path | None = None
    """Write all numbers and the protocol."""
    csv: Path | None = None
    """Write the numbers of each photo."""
    sheet: Path | None = None
    """Write a contact sheet: the four best, middle and worst photos by the first network's PSNR.

    With networks of several roles, one for each, their names ending in the role.
    """
    stamp: bool = False
    """Write the scores into the metadata of the model files, which must be ours."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.finish not in FINISHES:
            raise ValueError(f"finish is '{self.finish}'; expected {' or '.join(FINISHES)}.")
        if self.finish == "published" and (self.saturation != 1 or self.fade):
            raise ValueError(
                f"saturation is {self.saturation} and fade {self.fade}, but finish is published, "
                "which has none; leave out the one or the other."
            )
        if self.size is not None and self.size and self.size < SMALLEST:
            raise ValueError(f"size is {self.size}; expected 0, or {SMALLEST} or more.")
        if self.sheet:
            kind_of(self.sheet)
        for name in ("hints", "batch"):
            if np.min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        for name in ("limit", "skip", "resolution"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more.")


def main(config: Config) -> dict:
    """Measure, print the tables, write what was asked for.

    Returns:
        what --json writes: {"results": {role: {method: {score: value}}}, "protocol", "missing",
        "skipped"}.
    Raises:
        ValueError, CheckpointError: networks, labels or pairs that cannot be used; no photos left.
        Refusal: a file cannot be written where it was asked for.
    """
    if importlib.util.find_spec("tqdm") is None:
        raise ValueError("evaluation needs tqdm: pip install tqdm")
    for path in (config.json, config.csv, config.sheet):
        if path:
            checks.refuse_unwritable(path.parent)
    engines = {
        name: loader.load(name, device=config.device, dtype=config.dtype) for name in config.model
    }
    for name, colorizer in engines.items():
        if config.stamp and not colorizer.info:
            raise ValueError(f"{name}: not a file of ours, so it has no metadata for scores.")
    roles = dict.fromkeys(colorizer.spec.role for colorizer in engines.values())
    size = config.size if config.size is not None else min(SIDES[role] for role in roles)
    if config.finish == "published":
        refuse_unless_published(engines, config.resolution, size)
    photos = Photos(config.photos)
    judges = Judges.load(config, photos)
    skipped: dict[str, str] = {}
    results, rows, sets, sheets = {}, [], [], {}
    for role in roles:
        some = {name: own for name, own in engines.items() if own.spec.role == role}
        study = PROTOCOLS[role](photos, some, config, size, skipped)
        found = run(study, judges, config, skipped)
        results[role] = found.summary()
        print(f"\n{study.title(len(found.keys), size)}\n\n{table(results[role])}")
        sets.append(found.keys)
        rows += found.rows(role)
        if config.sheet:
            sheets[_sheet_file(config.sheet, role, roles)] = sheet(study, found, config)
    for note in judges.notes(min(map(len, sets))):
        print(f"\n{note}")
    report = {
        "results": results,
        "protocol": protocol(config, engines, judges, size),
        "missing": judges.missing(),
        "skipped": skipped,
    }
    if config.json:
        write_whole(config.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    if config.csv:
        write_whole(config.csv, _csv(rows).encode())
    for path, picture in sheets.items():
        save(picture, path)
    if config.stamp:
        for name, colorizer in engines.items():
            own = stamped(results[colorizer.spec.role], name)
            stamp(resolve.locate(name), {"size": size, **own})
    return report


def refuse_unless_published(engines: dict[str, Colorizer], resolution: int, size: int) -> None:
    """ValueError where a network has no published picture, or one of another size."""
    for name, colorizer in engines.items():
        spec = colorizer.spec
        if spec.role == "pointhint":
            raise ValueError(
                "finish is 'published', which networks for points do not have; use finish ours."
            )
        side = resolution or spec.resolution
        if spec.published_picture != "photo" and side != size:
            raise ValueError(
                f"the published picture of {name} is of {side}x{side} pixels, but the size is "
                f"{size}. Give --size {side}, or --resolution {size}."
            )


# --- The run -------------------------------------------------------------------------------------


@dataclass
class Findings:
    """Scores of all photos and methods of a study."""

    places: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Method -> score -> of each photo; NaN where it has none."""
    moments: dict[str, fid.Moments] = field(default_factory=dict)
    """Method -> Inception's features."""

    def add(self, name: str, scores: dict[str, Tensor]) -> None:
        """Scores (B,) of the next photos."""
        own = self.scores.setdefault(name, {})
        for score_name, values in scores.items():
            own.setdefault(score_name, []).extend(values.tolist())

    def add_features(self, name: str, features: Tensor) -> None:
        """Inception's (B, D) of the next photos."""
        if name not in self.moments:
            self.moments[name] = fid.Moments(features.shape[1])
        self.moments[name].add(features)

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Method -> score -> mean over the photos; FID and delta-CF of the whole set."""
        summary = {}
        true_colorful = np.array(self.scores[TRUTH]["colorfulness"])
        for name, scores in self.scores.items():
            colorful = np.array(scores["colorfulness"])
            row: dict[str, float | int | None] = {"photos": len(self.keys)}
            for score_name, values in scores.items():
                known = np.array(values)[~np.isnan(values)]
                if score_name in ("top1", "top5"):
                    row["photos_with_class"] = len(known)
                    known = 100 * known
                row[score_name] = float(known.mean()) if len(known) else None
            row["delta_colorfulness"] = abs(float(colorful.mean() - true_colorful.mean()))
            row["photo_delta_colorfulness"] = float(np.abs(colorful - true_colorful).mean())
            if name in self.moments and len(self.keys) > 1:
                row["fid"] = fid.frechet_distance(self.moments[TRUTH], self.moments[name])
            summary[name] = row
        return summary

    def rows(self, role: str) -> list[dict]:
        """A row for each photo and method."""
        return [
            {"role": role, "photo": key, "method": name}
            | {
                score_name: round(values[i], 5)
                for score_name, values in scores.items()
                if not math.isnan(values[i])
            }
            for i, key in enumerate(self.keys)
            for name, scores in self.scores.items()
        ]


@torch.inference_mode()
def run(study: Study, judges: Judges, config: Config, skipped: dict[str, str]) -> Findings:
    """Colour and measure all photos of a study."""
    found = Findings()
    for items in batches(study, config, skipped):
        true = torch.stack([item.true for item in items]).to(config.device)
        wanted = None
        if items[0].reference is not None:
            histograms = [image_metrics.ab_histogram(item.reference[None]) for item in items]
            wanted = torch.cat(histograms).to(config.device)
        for name, made in study.made(items, config.device):
            scores = image_metrics.scores(made, true, wanted, study.patches)
            if judges.classifier is not None:
                scores |= judges.hits(made, [item.place for item in items])
            found.add(name, scores)
            if judges.inception is not None:
                found.add_features(name, judges.inception(made))
        found.places += [item.place for item in items]
        found.keys += [item.key for item in items]
    if not found.keys:
        raise ValueError("not one of the photos could be read.")
    return found


def batches(study: Study, config: Config, skipped: dict[str, str]) -> Iterator[list[Item]]:
    """Up to `config.batch` photos of one shape, in order."""
    items: list[Item] = []
    for item in read_ahead(study.photos, study.places, study.load, skipped, study.role):
        if items and (len(items) == config.batch or items[0].true.shape != item.true.shape):
            yield items
            items = []
        items.append(item)
    if items:
        yield items


def protocol(config: Config, engines: dict[str, Colorizer], judges: Judges, size: int) -> dict:
    """All that must be equal for numbers to be comparable, and what has made them."""
    networks = {}
    for name, colorizer in engines.items():
        networks[name] = {
            "role": colorizer.spec.role,
            "architecture": colorizer.spec.architecture,
            "resolution": config.resolution or colorizer.spec.resolution,
            "sha256": weights.fingerprint(resolve.locate(name)),
        }
    return {
        "networks": networks,
        "judges": judges.files,
        "settings": common.jsonable(config) | {"size": size},
        "versions": {
            "colorist": __version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": Image.__version__,
            "python": platform.python_version(),
        },
    }


def _commit() -> str:
    """Short hash of the checkout, "" outside of one."""
    git = Path(__file__).resolve().parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        name = head.removeprefix("ref: ")
        if name == head:  # no branch
            return head[:7]
        if (git / name).is_file():
            return (git / name).read_text(encoding="utf-8")[:7]
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:  # no checkout, or a work tree elsewhere
        return ""
    return next((line[:7] for line in packed if line.endswith(f" {name}")), "")


# --- For people ----------------------------------------------------------------------------------


def table(summary: dict[str, dict]) -> str:
    """A study's scores in Markdown."""
    columns = [name for name in COLUMNS if any(name in row for row in summary.values())]
    lines = [
        "| method | " + " | ".join(COLUMNS[name][0] for name in columns) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]
    for method, row in summary.items():
        cells = [method]
        for name in columns:
            own = method == TRUTH and name.startswith(TRIVIAL)
            value = None if own else row.get(name)
            cells.append("-" if value is None else format(value, COLUMNS[name][1]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _csv(rows: list[dict]) -> str:
    names = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def stamped(summary: dict[str, dict], name: str) -> dict:
    """What a network's file keeps of a study: its own scores, by number of hints where it has."""
    start = f"{name}, "
    hinted = {
        method.removeprefix(start): row
        for method, row in summary.items()
        if method.startswith(start)
    }
    return summary.get(name) or hinted


def stamp(path: Path, scores: dict) -> None:
    """Put `scores` into the metadata of one of our files."""
    state, info = checkpoint.read(path)

    def short(value: object) -> object:
        if isinstance(value, dict):
            return {key: short(inner) for key, inner in value.items()}
        return round(value, 4) if isinstance(value, float) else value

    info["training"] = info.get("training", {}) | {"scores": short(scores)}
    write_whole(path, checkpoint.to_bytes(state, info))


@torch.inference_mode()
def sheet(study: Study, found: Findings, config: Config, each: int = 4) -> Image.Image:
    """A contact sheet of the photos on which the first network is best, in the middle, and worst.

    They are coloured again: no more pictures are in memory than the sheet shows.
    """
    first = study.networks[0]
    order = np.argsort(-np.array(found.scores[first]["psnr"]), kind="stable").tolist()
    groups = {f"All photos, best first, by the PSNR of {first}": order}
    if len(order) > 3 * each:
        middle = (len(order) - each) // 2
        groups = {
            f"Best by the PSNR of {first}": order[:each],
            "In the middle": order[middle : middle + each],
            "Worst": order[-each:],
        }
    rows, captions, headings = [], [], {}
    for heading, indices in groups.items():
        headings[len(rows)] = heading
        for i in indices:
            item = study.load(found.places[i])
            made = dict(study.made([item], config.device))
            extras = [show(item) for show in study.extras.values()]
            rows.append([made.pop("grey"), *extras, *made.values()])
            decibels = [f"{found.scores[name]['psnr'][i]:.1f} dB" for name in study.methods]
            captions.append([item.key, *[""] * len(extras), *decibels, ""])
    names = ["grey", *study.extras, *study.methods, TRUTH]
    return contact_sheet(rows, names, captions, headings)


def _sheet_file(path: Path, role: str, roles: Sequence[str]) -> Path:
    return path if len(roles) == 1 else path.with_stem(f"{path.stem}-{role}")


def command(arguments: list[str] | None = None) -> int:
    """The script: `main` with what the command line says, and its exit code."""
    try:
        main(common.parse(Config, PRESETS, arguments, __doc__))
    except (errors.Refusal, *errors.FAILURES) as error:
        output.say(f"error: {errors.sentence(error)}")
        return errors.FAILED
    except KeyboardInterrupt:
        output.say("stopped.")
        return errors.STOPPED
    return errors.DONE


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(command())
