"""Feature networks that score results: Inception for FID, a classifier for top-1 and top-5."""

import csv
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from .. import pretrained_files
from ..data.photos import Photos
from . import feature_networks
from .config import Config
from .feature_networks import FrozenNetwork

FID_WEIGHTS = "inception_fid"
MIN_FID_PHOTOS = 2048  # with fewer, the covariance of Inception's 2048 features is rank-deficient
HOW_TO = {
    "FID": "give Inception's weights: --inception inception_fid (downloaded once), or their file",
    "top-1 and top-5": "give a classifier: --classifier vgg16 (downloaded once), or its file",
}


@dataclass
class FeatureScorers:
    """Inception for FID and a classifier for top-1 and top-5 accuracy, each optional."""

    inception: FrozenNetwork | None = None
    """(B, 3, H, W) in 0..1 -> (B, D)."""
    classifier: FrozenNetwork | None = None
    """(B, 3, H, W) in 0..1 -> (B, classes)."""
    classes: list[int | None] = field(default_factory=list)
    """Class of each photo; None = unknown."""
    files: dict[str, str] = field(default_factory=dict)
    """Kind -> name of the network, and the start of the SHA-256 of its file."""

    @classmethod
    def load(cls, config: Config, photos: Photos) -> "FeatureScorers":
        """Load the networks that the settings name."""
        scorers = cls()
        if config.inception:
            path = pretrained_files.locate(config.inception)
            scorers.inception = feature_networks.load_inception(path).to(config.device)
            scorers.files["inception"] = _describe(scorers.inception, path)
        if config.classifier:
            path = pretrained_files.locate(config.classifier)
            scorers.classifier = feature_networks.load_classifier(path).to(config.device)
            scorers.files["classifier"] = _describe(scorers.classifier, path)
            with torch.inference_mode():
                probe = torch.zeros(1, 3, 64, 64, device=config.device)
                count = scorers.classifier(probe).shape[1]
            scorers.classes = photo_classes(photos, config.photos, config.labels, count)
        return scorers

    def notes(self, fewest: int) -> list[str]:
        """Return remarks on the scores for the reader.

        Args:
            fewest: photos of the smallest set.
        """
        notes = [f"{name}: not measured; {how}." for name, how in self.missing().items()]
        if self.inception and self.inception.name != FID_WEIGHTS:
            notes.append(
                f"FID by {self.inception.name}: not comparable with published values, nor with FID "
                f"by {FID_WEIGHTS}."
            )
        if self.inception and fewest < MIN_FID_PHOTOS:
            notes.append(
                f"FID of fewer than {MIN_FID_PHOTOS} photos is too high, the more so the fewer: "
                "compare it only between methods on the same photos."
            )
        return notes

    def missing(self) -> dict[str, str]:
        """Return score -> how to get it, for the scores that are not measured."""
        networks = {"FID": self.inception, "top-1 and top-5": self.classifier}
        return {name: how for name, how in HOW_TO.items() if networks[name] is None}

    def topk_accuracy(self, rgb: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return top-1 and top-5 hits (B,): 1, 0, or NaN for photos without a class.

        Args:
            rgb: results (B, 3, H, W) in 0..1.
            indices: numbers of their photos.
        Raises:
            ValueError: no classifier is loaded.
        """
        if self.classifier is None:
            raise ValueError("top-1 and top-5 need a classifier; give --classifier.")
        logits = self.classifier(rgb)
        classes = [self.classes[index] for index in indices]
        labels = torch.tensor([-1 if c is None else c for c in classes], device=logits.device)
        correct = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        unknown = torch.where(labels < 0, torch.nan, 0.0)
        return {"top1": correct[:, 0] + unknown, "top5": correct.any(1) + unknown}


def _describe(network: FrozenNetwork, path: Path) -> str:
    return f"{network.name} {pretrained_files.file_digest(path)}"


def photo_classes(
    photos: Photos, sources: Sequence[Path], labels: Path | None, count: int
) -> list[int | None]:
    """Return the class of each photo, counted from 0; None where unknown.

    Args:
        photos: all photos.
        sources: the folders and shards they come from.
        labels: CSV with columns `key` and `class`. Default: `.cls` members of shards beside the
            photos; or, if the photos lie in as many folders as there are classes, the rank of the
            folder's name, as in the layout of ImageNet.
        count: number of classes of the classifier.
    Raises:
        ValueError: labels are missing, or have classes that the classifier does not have.
    """
    class_of = _read_labels(labels) if labels else _read_shard_labels(sources)
    folders = sorted(set(photos.folders))
    if not class_of and len(folders) == count:
        return [folders.index(folder) for folder in photos.folders]
    try:
        keys = [key if key in class_of else PurePosixPath(key).name for key in photos.keys]
        classes = [int(class_of[key]) if key in class_of else None for key in keys]
    except ValueError as error:
        source = labels or "a .cls member"
        raise ValueError(f"{source}: a class is not an integer ({error}).") from None
    known_classes = [c for c in classes if c is not None]
    if not known_classes:
        reason = (
            f"{labels} names none of the photos"
            if labels
            else f"shards have no .cls members, and {len(folders)} folders do not fit {count} "
            "classes"
        )
        raise ValueError(
            f"the classes of the photos are unknown: {reason}. Give --labels FILE.csv with the "
            "columns key,class, or leave out --classifier."
        )
    low, high = min(known_classes), max(known_classes)
    if not 0 <= low <= high < count:
        raise ValueError(
            f"the classes of the photos are {low} to {high}; the classifier has {count}, 0 to "
            f"{count - 1}."
        )
    return classes


def _read_labels(path: Path) -> dict[str, str]:
    """Return key -> class of a CSV file."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"key", "class"} <= set(rows[0]):
        raise ValueError(f"{path}: has columns {', '.join(rows[0])}; expected key,class.")
    return {row["key"]: row["class"] for row in rows}


def _read_shard_labels(sources: Sequence[Path]) -> dict[str, str]:
    """Return key -> text of the `.cls` member of that name."""
    labels = {}
    for source in map(Path, sources):
        if source.is_dir():
            continue
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                path = Path(member.name)
                if path.suffix == ".cls" and (file := tar.extractfile(member)):
                    labels[path.stem] = file.read().decode().strip()
    return labels
