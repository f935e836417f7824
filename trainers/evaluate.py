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

import importlib.util
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
from . import pretrained_files
from .data.photos import Photos
from .evaluation.config import Config
from .evaluation.contact_sheet import contact_sheet, save
from .evaluation.scorers import Judges
from .evaluation.tables import _csv, table
from .evaluation.tasks import PROTOCOLS, SIDES, TRUTH, Item, Study, read_ahead
from .runtime import provenance, settings

PRESETS: dict[str, dict] = {}
log = logging.getLogger(__name__)


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
            "sha256": pretrained_files.fingerprint(resolve.locate(name)),
        }
    return {
        "networks": networks,
        "judges": judges.files,
        "settings": provenance.jsonable(config) | {"size": size},
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
        main(settings.parse(Config, PRESETS, arguments, __doc__))
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
