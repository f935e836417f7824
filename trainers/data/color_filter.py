"""Reject photos that teach no colors: gray scans, toned prints and unreadable files."""

import logging
import threading

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ...ops import color
from .decoding import DECODE_ERRORS, decode

log = logging.getLogger(__name__)

# Lab units: spread of ab around one color for each lightness, and spread of ab across the main hue.
# The limits catch 95 to 99.9 % of toned prints and 0.1 % of color photos, which show plain fog
# (benchmarks/toned_prints.py).
MAX_TONED_RESIDUAL, MAX_TONED_WIDTH = 1.4, 3.0


class SkippedPhotos:
    """Names of photos that cannot be used, each logged once. Threads may share an instance."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, reason: str) -> None:
        """Record a photo and log why it is skipped."""
        with self._lock:
            new = name not in self._names
            self._names.add(name)
        if new:
            log.warning("skipped %s: %s", name, reason)


def no_color_reason(image: Image.Image) -> str:
    """Return why a photo has no colors to learn from, or "" if it has some.

    Scans of black-and-white prints are gray or toned. Toned prints have one hue, and one chroma for
    each lightness.
    """
    small = np.asarray(image.resize((24, 24), Image.Resampling.BOX))
    rgb = torch.from_numpy(small / np.float32(255)).movedim(-1, 0)
    L, ab = color.rgb_to_lab(rgb).flatten(1).split([1, 2])
    if ab.norm(dim=0).mean() < color.MIN_MEAN_CHROMA:
        return "it has no colors to learn from"
    powers = (L / 100) ** torch.arange(4)[:, None]
    residual = ab - torch.linalg.lstsq(powers.T, ab.T).solution.T @ powers
    width = torch.linalg.svdvals(ab)[1] / ab.shape[1] ** 0.5
    if residual.std(dim=1).norm() < MAX_TONED_RESIDUAL and width < MAX_TONED_WIDTH:
        return "it is a toned print: one hue, and one chroma for each lightness"
    return ""


def decode_colored(
    name: str, data: bytes, min_side: int, skipped: SkippedPhotos
) -> Image.Image | None:
    """Decode a photo; return None and record it in `skipped` if it is unreadable or colorless.

    Args:
        name: the photo's name in the log.
        data: contents of its file.
        min_side: see `decode`.
        skipped: record of unusable photos.
    """
    try:
        image = decode(data, min_side)
    except DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        skipped.add(name, f"cannot be read ({reason})")
        return None
    if reason := no_color_reason(image):
        skipped.add(name, reason)
        return None
    return image
