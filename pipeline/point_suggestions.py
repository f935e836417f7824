"""Suggest hint points for a photo: the public function for Python."""

from dataclasses import replace
from typing import cast

from ..ops.tensors import Image
from . import loader
from .automatic import Colorizer
from .by_hints import PointHintColorizer, SuggestedPoints
from .hints.schema import HintInput
from .hints.uncertainty import resize_doubt

ENGINE = "pointhint-nano"  # chooses the points unless the caller names another network


def suggest_points(
    rgb: Image,
    count: int = 10,
    *,
    hints: HintInput = None,
    engine: PointHintColorizer | None = None,
    base: Colorizer | None = None,
    mask: Image | None = None,
    resolution: int | None = None,
) -> SuggestedPoints:
    """Suggest the hint points whose colors would tell most about a photo.

    Example:
        points = colorist.suggest_points(rgb, count=10).hints
        # correct the colors of the points, then
        rgb = colorist.load("pointhint-nano").colorize(rgb, hints=points)

    Args:
        rgb: (H, W, C) or (1, H, W, C) float sRGB in 0..1; only its lightness counts.
        count: number of points to suggest; a tiny photo may have fewer.
        hints: existing hints, which the suggested ones supplement.
        engine: point-hint network; None = pointhint-nano.
        base: automatic colorizer whose colors the hints correct.
        mask, resolution: see `PointHintColorizer.colorize`.
    Returns:
        the existing and suggested hints with likely colors, and the doubt of each pixel.
    Raises:
        ValueError: see `PointHintColorizer.suggest_points` and `prepare`.
    """
    engine = engine or cast(PointHintColorizer, loader.load(ENGINE))
    prepared = engine.prepare(rgb, base=base, mask=mask, resolution=resolution)
    suggested = engine.suggest_points(prepared, count, hints)
    width, height = prepared.size
    return replace(suggested, doubt=resize_doubt(suggested.doubt, height, width))
