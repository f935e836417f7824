"""Settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .contact_sheet import kind_of
from .tasks import SMALLEST

FINISHES = "ours", "published"


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
