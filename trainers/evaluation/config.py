"""Settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .contact_sheet import pillow_format

MIN_SIDE = 33  # pixels; smaller images have no border between two patches of 32
FINISHES = "ours", "published"


@dataclass
class Config:
    """Settings of an evaluation."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards of color photos."""
    model: tuple[str, ...] = ("ddcolor-nano",)
    """Model files, bundled or installed models, of any role."""
    size: int | None = None
    """Resize photos to a square of this side; 0 = keep their size and shape.

    Default: 256 as in the papers, or 224 if there are guided networks.
    """
    resolution: int = 0
    """Working resolution; 0 = the network's default."""
    finish: str = "ours"
    """ours, or published: the result of the official script."""
    saturation: float = 1.0
    """Factor on chroma."""
    fade: float = 0.0
    """C* that is reduced to half, see `pipeline.postprocess`."""
    dtype: str = "float32"
    """Data type of the models: float32, bfloat16 or float16."""
    hints: tuple[int, ...] = (1, 10, 50)
    """Numbers of random hint points, for point-hint models."""
    pairs: str = "self"
    """References for exemplar models: JSON or TSV of targets and references, or the table of
    build_reference_pairs, whose best references are used; self: another view of the photo."""
    inception: str = ""
    """Inception weights for FID: a file, or inception_fid."""
    classifier: str = ""
    """Classifier for top-1 and top-5 accuracy: a weights file, or a name such as vgg16."""
    labels: Path | None = None
    """CSV `key,class`; default: .cls members of shards, or one folder per class."""
    min_chroma: float = 0.0
    """Leave out photos with a lower mean C*; ignored with pairs."""
    skip: int = 0
    """Leave out this many photos at the start."""
    limit: int = 0
    """Number of photos, or pairs, to use; 0 = all."""
    seed: int = 0
    """Random seed of hint points and views."""
    batch: int = 8
    """Batch size for photos of equal size."""
    json: Path | None = None
    """Write all scores and the protocol."""
    csv: Path | None = None
    """Write the scores of each photo."""
    sheet: Path | None = None
    """Write a contact sheet of the four best, median and worst photos by the first model's PSNR.

    Models of several roles get one sheet per role, whose name ends in the role.
    """
    stamp: bool = False
    """Write the scores into the metadata of the model files; published checkpoints have none."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """PyTorch device."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.finish not in FINISHES:
            raise ValueError(f"finish is '{self.finish}'; expected {' or '.join(FINISHES)}.")
        if self.finish == "published" and (self.saturation != 1 or self.fade):
            raise ValueError(
                f"saturation is {self.saturation} and fade is {self.fade}, but the published "
                "finish has neither; leave them out, or use --finish ours."
            )
        if self.size is not None and self.size and self.size < MIN_SIDE:
            raise ValueError(f"size is {self.size}; expected 0, or {MIN_SIDE} or more.")
        if self.sheet:
            pillow_format(self.sheet)
        for name in ("hints", "batch"):
            if np.min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        for name in ("limit", "skip", "resolution"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more.")
