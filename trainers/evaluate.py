"""Score models on color photos: their gray versions are colorized and compared with the photos.

    # Folders or shards; model files, bundled or installed models, several side by side
    python trainers/evaluate.py --photos photos/ --model ddcolor-nano runs/nano/weights.safetensors
    python trainers/evaluate.py --photos shard-*.tar --model ddcolor-nano --inception inception_fid
    # With hint points (1, 10 and 50 of them) and with references
    python trainers/evaluate.py --photos photos/ --model pointhint-nano --sheet sheet.jpg
    python trainers/evaluate.py --photos photos/ --model exemplar-nano --pairs photos/pairs.json
    colorist evaluate --photos photos/ --model ddcolor-nano --json scores.json   # installed

Prints a table for each role of models: FID, colorfulness and delta-CF, PSNR, SSIM and CIEDE2000;
HIS with references, PEV and B-PSNR with hint points, top-1 and top-5 with a classifier. Baselines
that need no network are listed, too. docs/evaluation.md explains the scores and the protocols of
the papers. Results are quantized to 8 bits, as in files, before they are scored.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import importlib.util
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..console import checks
from ..media.atomic import write_atomic
from ..metrics import image as image_metrics
from ..model_defs import checkpoint
from ..model_store import resolve
from ..pipeline import loader
from ..pipeline.loader import AnyColorizer
from . import pretrained_files
from .data.photos import Photos
from .evaluation.config import Config
from .evaluation.contact_sheet import contact_sheet, save_sheet
from .evaluation.samples import Sample, prefetch
from .evaluation.scorers import FeatureScorers
from .evaluation.scores import TaskScores
from .evaluation.tables import Summary, to_csv, to_markdown
from .evaluation.tasks import GRAY, GROUND_TRUTH, PAPER_SIZES, TASKS, EvaluationTask
from .runtime import provenance
from .runtime.command_line import run_script

PRESETS: dict[str, dict[str, Any]] = {}
SHEET_PHOTOS = 4  # photos in each group of a contact sheet


def main(config: Config) -> dict[str, Any]:
    """Score the models, print the tables and write the requested files.

    Returns:
        the content of --json: {"results": {role: {method: {score: value}}}, "protocol", "missing",
        "skipped"}.
    Raises:
        ValueError, CheckpointError: models, labels or pairs that cannot be used, or no photos left.
        UsageError: an output file cannot be written.
    """
    if importlib.util.find_spec("tqdm") is None:
        raise ValueError("evaluation needs tqdm: pip install tqdm")
    for option, path in (
        ("--json", config.json),
        ("--csv", config.csv),
        ("--sheet", config.sheet),
    ):
        if path:
            checks.check_writable(path.parent, option)
    models = {
        name: loader.load(name, device=config.device, dtype=config.dtype) for name in config.model
    }
    for name, colorizer in models.items():
        if config.stamp and not colorizer.info:
            raise ValueError(
                f"{name}: a published checkpoint has no metadata for scores; convert it with "
                "`colorist models convert`, or leave out --stamp."
            )
    roles = list(dict.fromkeys(colorizer.spec.role for colorizer in models.values()))
    size = config.size if config.size is not None else min(PAPER_SIZES[role] for role in roles)
    if config.finish == "published":
        check_published_size(models, config.resolution, size)
    photos = Photos(config.photos)
    scorers = FeatureScorers.load(config, photos)
    skipped: dict[str, str] = {}
    results: dict[str, Summary] = {}
    rows: list[dict[str, str | float]] = []
    photo_counts: list[int] = []
    sheets: dict[Path, Image.Image] = {}
    for role in roles:
        task = TASKS[role](photos, models, config, size, skipped)
        scores = score_task(task, scorers, config, skipped)
        results[role] = scores.summary()
        print(f"\n{task.title(len(scores.keys), size)}\n\n{to_markdown(results[role])}")
        photo_counts.append(len(scores.keys))
        rows += scores.rows(role)
        if config.sheet:
            sheets[_sheet_path(config.sheet, role, roles)] = draw_sheet(task, scores, config)
    for note in scorers.notes(min(photo_counts)):
        print(f"\n{note}")
    report = {
        "results": results,
        "protocol": protocol(config, models, scorers, size),
        "missing": scorers.missing(),
        "skipped": skipped,
    }
    if config.json:
        write_atomic(config.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    if config.csv:
        write_atomic(config.csv, to_csv(rows).encode())
    for path, sheet in sheets.items():
        save_sheet(sheet, path)
    if config.stamp:
        for name, colorizer in models.items():
            own = scores_of_model(results[colorizer.spec.role], name)
            stamp(resolve.model_path(name), {"size": size, **own})
    return report


def check_published_size(models: Mapping[str, AnyColorizer], resolution: int, size: int) -> None:
    """Check that the official programs return images of the size of the photos.

    Args:
        models: name -> model.
        resolution: working resolution; 0 = the network's default.
        size: side of the squares that photos are resized to; 0 = original size.
    Raises:
        ValueError: a model has no official program, or its result has another size.
    """
    for name, model in models.items():
        spec = model.spec
        if spec.official is None:
            raise ValueError(
                f"finish is 'published', but {name} ({spec.role}) has no published finish; use "
                "--finish ours."
            )
        side = resolution or spec.resolution
        photo = size or 2 * side  # of original sizes any other than the working size
        geometry = spec.official.geometry(photo, photo, side, spec.multiple)
        height, width, _ = spec.official.output_shape(photo, photo, 3, geometry)
        if (height, width) != (photo, photo):
            raise ValueError(
                f"the published result of {name} has {width}x{height} pixels, but the size is "
                f"{size}. Give --size {side}, or --resolution {size}."
            )


# --- Scores --------------------------------------------------------------------------------------


@torch.inference_mode()
def score_task(
    task: EvaluationTask, scorers: FeatureScorers, config: Config, skipped: dict[str, str]
) -> TaskScores:
    """Colorize and score all samples of a task.

    Raises:
        ValueError: none of the photos can be read.
    """
    result = TaskScores()
    for samples in sample_batches(task, config.batch, skipped):
        truth = torch.stack([sample.truth for sample in samples]).to(config.device)
        histograms = _reference_histograms(samples)
        if histograms is not None:
            histograms = histograms.to(config.device)
        for method, rgb in task.results(samples, config.device):
            scores = image_metrics.score_batch(rgb, truth, histograms, task.patches)
            scores["paper_colorfulness"] = image_metrics.absolute_colorfulness(rgb)
            if scorers.classifier is not None:
                scores |= scorers.topk_accuracy(rgb, [sample.index for sample in samples])
            result.add(method, scores)
            if scorers.inception is not None:
                result.add_features(method, scorers.inception(rgb))
        result.indices += [sample.index for sample in samples]
        result.keys += [sample.key for sample in samples]
    if not result.keys:
        raise ValueError("none of the photos can be read.")
    return result


def sample_batches(
    task: EvaluationTask, batch: int, skipped: dict[str, str]
) -> Iterator[list[Sample]]:
    """Yield up to `batch` consecutive samples of equal size."""
    samples: list[Sample] = []
    for sample in prefetch(task.photos, task.indices, task.load, skipped, task.role):
        if samples and (len(samples) == batch or samples[0].truth.shape != sample.truth.shape):
            yield samples
            samples = []
        samples.append(sample)
    if samples:
        yield samples


def _reference_histograms(samples: Sequence[Sample]) -> Tensor | None:
    references = [sample.reference for sample in samples if sample.reference is not None]
    if not references:
        return None
    return torch.cat([image_metrics.ab_histogram(rgb[None]) for rgb in references])


# --- Report --------------------------------------------------------------------------------------


def protocol(
    config: Config, models: Mapping[str, AnyColorizer], scorers: FeatureScorers, size: int
) -> dict[str, Any]:
    """Return the settings, files and versions that must agree for scores to be comparable."""
    networks = {}
    for name, colorizer in models.items():
        networks[name] = {
            "role": colorizer.spec.role,
            "architecture": colorizer.spec.architecture,
            "resolution": config.resolution or colorizer.spec.resolution,
            "sha256": pretrained_files.file_digest(resolve.model_path(name)),
        }
    return {
        "networks": networks,
        "judges": scorers.files,
        "settings": provenance.portable_settings(config) | {"size": size},
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
    """Return the short hash of the checkout, "" for installations.

    The files of git are read because shipped code must not start programs.
    """
    git = Path(__file__).resolve().parents[1] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        branch = head.removeprefix("ref: ")
        if branch == head:  # detached
            return head[:7]
        if (git / branch).is_file():
            return (git / branch).read_text(encoding="utf-8")[:7]
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
    except OSError:  # not a checkout, or a linked work tree
        return ""
    return next((line[:7] for line in packed if line.endswith(f" {branch}")), "")


def scores_of_model(summary: Summary, name: str) -> dict[str, Any]:
    """Return the scores of one model; those of point-hint models by number of hints."""
    prefix = f"{name}, "
    by_hints = {
        method.removeprefix(prefix): row
        for method, row in summary.items()
        if method.startswith(prefix)
    }
    return summary.get(name) or by_hints


def stamp(path: Path, scores: dict[str, Any]) -> None:
    """Write `scores` into the metadata of one of our model files."""
    state, info = checkpoint.read(path)

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        return round(value, 4) if isinstance(value, float) else value

    info["training"] = info.get("training", {}) | {"scores": rounded(scores)}
    write_atomic(path, checkpoint.to_bytes(state, info))


@torch.inference_mode()
def draw_sheet(
    task: EvaluationTask, scores: TaskScores, config: Config, group: int = SHEET_PHOTOS
) -> Image.Image:
    """Return a contact sheet of the first model's best, median and worst photos by PSNR.

    The photos are colorized again, so that only the images on the sheet are in memory.

    Args:
        task: the samples and methods.
        scores: their scores.
        config: settings of the evaluation.
        group: photos in each group.
    """
    model = task.models[0]
    order = np.argsort(-np.array(scores.scores[model]["psnr"]), kind="stable").tolist()
    groups = {f"All photos, best first, by the PSNR of {model}": order}
    if len(order) > 3 * group:
        middle = (len(order) - group) // 2
        groups = {
            f"Best by the PSNR of {model}": order[:group],
            "Median": order[middle : middle + group],
            "Worst": order[-group:],
        }
    rows: list[list[Tensor]] = []
    captions: list[list[str]] = []
    headings: dict[int, str] = {}
    for heading, numbers in groups.items():
        headings[len(rows)] = heading
        for i in numbers:
            sample = task.load(scores.indices[i])
            results = dict(task.results([sample], config.device))
            extras = [image(sample) for image in task.extras.values()]
            rows.append([results.pop(GRAY), *extras, *results.values()])
            psnr = [f"{scores.scores[name]['psnr'][i]:.1f} dB" for name in task.methods]
            captions.append([sample.key, *[""] * len(extras), *psnr, ""])
    names = [GRAY, *task.extras, *task.methods, GROUND_TRUTH]
    return contact_sheet(rows, names, captions, headings)


def _sheet_path(path: Path, role: str, roles: Sequence[str]) -> Path:
    return path if len(roles) == 1 else path.with_stem(f"{path.stem}-{role}")


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
