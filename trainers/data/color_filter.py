"""Photos that teach no colours are left out."""

import logging

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ...ops import color
from .decoding import UNREADABLE, decode

log = logging.getLogger(__name__)

GREY = 2.0  # mean C* of a photo below which it has no colours to teach
# Lab units: what is left of ab when each lightness has one colour, and how far prints leave their
# hue. So 95 to 99.9 % of toned prints are caught, and 0.1 % of colour photos, plain fog
# (benchmarks/toned_prints.py).
TONED, ONE_HUE = 1.4, 3.0


def colourless(image: Image.Image) -> str:
    """What is wrong with a photo as a teacher of colours; "" for most.

    Scans of black-and-white prints are grey, or toned: one hue, one chroma for each lightness.
    """
    small = np.asarray(image.resize((24, 24), Image.Resampling.BOX))
    rgb = torch.from_numpy(small / np.float32(255)).movedim(-1, 0)
    L, ab = color.rgb_to_lab(rgb).flatten(1).split([1, 2])
    if ab.norm(dim=0).mean() < GREY:
        return "it has no colours to learn from"
    curve = (L / 100) ** torch.arange(4)[:, None]
    rest = ab - torch.linalg.lstsq(curve.T, ab.T).solution.T @ curve
    across = torch.linalg.svdvals(ab)[1] / ab.shape[1] ** 0.5  # of the one hue
    if rest.std(dim=1).norm() < TONED and across < ONE_HUE:
        return "it is all of one hue, the same for each lightness, as a toned print"
    return ""


_passed_over: set[str] = set()


def passed_over() -> int:
    """How many photos this process could not use so far."""
    return len(_passed_over)


def _pass_over(name: str, reason: str) -> None:
    if name not in _passed_over:
        _passed_over.add(name)
        log.warning("skipped %s: %s", name, reason)


def colored(name: str, data: bytes, at_least: int) -> Image.Image | None:
    """The photo, or None if it cannot be read or has no colour, which the log then says once."""
    try:
        image = decode(data, at_least)
    except UNREADABLE as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
        _pass_over(name, f"cannot be read ({reason})")
        return None
    if reason := colourless(image):
        _pass_over(name, reason)
        return None
    return image
