"""Networks that look at results: Inception for FID, a classifier for top-1 and top-5."""

import csv
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import pretrained_files
from ..data.photos import Photos

if TYPE_CHECKING:
    from .config import Config

FID_WEIGHTS = "inception_fid"
FEW = 2048  # photos: below, the covariance of Inception's 2048 features is not of full rank
HOW_TO = {
    "FID": "give Inception's weights: --inception inception_fid (downloaded once), or their file",
    "top-1 and top-5": "give a classifier: --classifier vgg16 (downloaded once), or its file",
}


@dataclass
class Judges:
    """Networks that look at results: Inception for FID, a classifier for top-1 and top-5."""

    inception: nn.Module | None = None
    """(B, 3, H, W) in 0..1 -> (B, D)."""
    classifier: nn.Module | None = None
    """(B, 3, H, W) in 0..1 -> (B, classes)."""
    classes: list[int | None] = field(default_factory=list)
    """Of each photo, where it is known."""
    files: dict[str, str] = field(default_factory=dict)
    """Kind -> what network it is, and the start of the SHA-256 of its file."""

    @classmethod
    def load(cls, config: "Config", photos: Photos) -> "Judges":
        """Those that the settings name."""
        judges = cls()
        for kind in ("inception", "classifier"):
            if source := getattr(config, kind):
                path = pretrained_files.find(source)
                network = open_judge(kind, path).to(config.device)
                setattr(judges, kind, network)
                judges.files[kind] = f"{network.name} {pretrained_files.fingerprint(path)}"
        if judges.classifier:
            with torch.inference_mode():
                picture = torch.zeros(1, 3, 64, 64, device=config.device)
                known = judges.classifier(picture).shape[1]
            judges.classes = classes_of(photos, config.photos, config.labels, known)
        return judges

    def notes(self, fewest: int) -> list[str]:
        """What a person has to know about these scores; `fewest`: photos of the smallest set."""
        notes = [f"{name}: not measured; {how}." for name, how in self.missing().items()]
        if self.inception and self.inception.name != FID_WEIGHTS:
            notes.append(
                f"FID by {self.inception.name}: it compares with no published one, nor with FID by "
                f"{FID_WEIGHTS}."
            )
        if self.inception and fewest < FEW:
            notes.append(
                f"FID of fewer than {FEW} photos is too high, the more so the fewer: compare it "
                "only between methods on the same photos."
            )
        return notes

    def missing(self) -> dict[str, str]:
        """Score -> how to get it."""
        there = {"FID": self.inception, "top-1 and top-5": self.classifier}
        return {name: how for name, how in HOW_TO.items() if there[name] is None}

    def hits(self, made: Tensor, places: Sequence[int]) -> dict[str, Tensor]:
        """Whether the class of each picture (B, 3, H, W) is the first, among the first five."""
        logits = self.classifier(made)
        known = [self.classes[place] for place in places]
        wanted = torch.tensor([-1 if c is None else c for c in known], device=logits.device)
        right = logits.topk(min(5, logits.shape[1]), dim=1).indices == wanted[:, None]
        unknown = torch.where(wanted < 0, torch.nan, 0.0)
        return {"top1": right[:, 0] + unknown, "top5": right.any(1) + unknown}


def open_judge(kind: str, path: Path) -> nn.Module:
    """`feature_networks.inception` or `feature_networks.classifier` of a file."""
    from . import feature_networks

    return getattr(feature_networks, kind)(path)


def classes_of(
    photos: Photos, sources: Sequence[Path], labels: Path | None, known: int
) -> list[int | None]:
    """The class of each photo, counted from 0; None where it is not told.

    Args:
        labels: CSV with columns `key` and `class`. Without: `.cls` members of shards beside the
            photos; or, where the photos lie in as many folders as there are classes, the place of
            the folder among them, sorted by name, as in ImageNet's layout.
        known: how many the classifier tells apart.
    Raises:
        ValueError: there are no labels, or classes that the classifier does not have.
    """
    if labels:
        with Path(labels).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if rows and not {"key", "class"} <= set(rows[0]):
            raise ValueError(f"{labels}: has columns {', '.join(rows[0])}; expected key,class.")
        told = {row["key"]: row["class"] for row in rows}
    else:
        told = _classes_in_shards(sources)
    folders = sorted(set(photos.folders))
    if not told and len(folders) == known:
        return [folders.index(folder) for folder in photos.folders]
    try:
        stems = [key if key in told else PurePosixPath(key).name for key in photos.keys]
        classes = [int(told[stem]) if stem in told else None for stem in stems]
    except ValueError as error:
        where = labels or "a .cls member"
        raise ValueError(f"{where}: a class is no whole number ({error}).") from None
    found = [c for c in classes if c is not None]
    if not found:
        where = f"{labels} names none of the photos" if labels else (
            f"there are no .cls members in shards, and {len(folders)} folders for {known} classes"
        )  # fmt: skip
        raise ValueError(
            f"the photos' classes are not known: {where}. Give --labels FILE.csv with the columns "
            "key,class, or leave out --classifier."
        )
    if not 0 <= min(found) <= max(found) < known:
        raise ValueError(
            f"the photos' classes go from {min(found)} to {max(found)}; the classifier has "
            f"{known}, 0 to {known - 1}."
        )
    return classes


def _classes_in_shards(sources: Sequence[Path]) -> dict[str, str]:
    """Key -> text of the `.cls` member of that name."""
    told = {}
    for source in map(Path, sources):
        if not source.is_dir():
            with tarfile.open(source, "r:") as tar:
                for member in tar:
                    path = Path(member.name)
                    if member.isfile() and path.suffix == ".cls":
                        told[path.stem] = tar.extractfile(member).read().decode().strip()
    return told
