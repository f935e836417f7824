"""Suggest plausible colors for a position in a photo, from an automatic network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops import color, resize
from ..automatic import Colorizer

MAX_COLORS = 8  # suggestions per position
MIN_DISTANCE = 6.0  # Lab units between two suggestions, and between a color and gray
SPREADS = (0.5, 1.0)  # see `color_memory.memory.sample_fusion_weights`
NEIGHBORS = 1  # cells of a map on each side of a position that are averaged


@torch.inference_mode()
def predict_candidates(rgb: Tensor, colorizer: Colorizer) -> Tensor:
    """Predict the chroma that a network with a color memory considers possible.

    The first map is the network's prediction. The others lean towards one color group of the memory
    each. Unlike `Colorizer.vary`, the result is deterministic and the interrupt is not checked.

    Args:
        rgb: (H, W, 3) float sRGB in 0..1.
        colorizer: automatic network with a color memory.
    Returns:
        (N, 2, h, w) in Lab units on the CPU.
    Raises:
        ValueError: the network has no color memory.
    """
    spec = colorizer.spec
    if spec.memory is None:
        raise ValueError(f"{colorizer.name} has no color memory and cannot suggest colors.")
    height, width = rgb.shape[:2]
    rgb = rgb.movedim(-1, 0)[None]
    geometry = resize.working_geometry(height, width, spec.resolution, spec.multiple)
    L = color.lightness(resize.downscale(rgb, geometry, colorizer.device_manager.device))
    maps = [colorizer.predict_ab(L, geometry)]
    single_groups = torch.eye(spec.memory.groups)
    for spread in SPREADS:
        maps += colorizer.predict_variations(L, geometry, single_groups, spread)
    return torch.cat([ab.cpu() for ab in maps])


@torch.inference_mode()
def suggest_colors(rgb: Tensor, candidates: Sequence[Tensor], x: float, y: float) -> list[str]:
    """Return up to MAX_COLORS distinct colors for a position, the most likely first.

    The first map of each group comes first; the others follow by their distance from the very first
    one. Gray is left out if there are colors.

    Args:
        rgb: (H, W, 3) float sRGB in 0..1 on the CPU: the photo.
        candidates: groups of chroma maps, (N, 2, h, w) each, of any size.
        x, y: position, 0..1 from the top left.
    Returns:
        colors as #rrggbb at the photo's lightness.
    """
    L = color.lightness(_mean_around(rgb.movedim(-1, 0), x, y)[:, None, None])
    leading, following = [], []
    for group in candidates:
        first, *rest = (_mean_around(ab, x, y) for ab in group)
        leading.append(first)
        following += rest
    if leading:
        following.sort(key=lambda ab: float(torch.dist(ab, leading[0])))
    suggestions: dict[str, Tensor] = {}
    for ab in [*leading, *following]:
        levels = (color.to_gamut(torch.cat([L, ab[:, None, None]])) * 255).round()
        shown_ab = color.rgb_to_lab(levels / 255)[1:, 0, 0]
        if all(torch.dist(shown_ab, other) >= MIN_DISTANCE for other in suggestions.values()):
            code = "#{:02x}{:02x}{:02x}".format(*levels.flatten().int().tolist())
            suggestions[code] = shown_ab
    colored = [code for code, ab in suggestions.items() if ab.norm() >= MIN_DISTANCE]
    return (colored or list(suggestions))[:MAX_COLORS]


def _mean_around(image: Tensor, x: float, y: float) -> Tensor:
    """Average (C, H, W) over a position and its neighbors: (C,)."""
    height, width = image.shape[1:]
    row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
    rows, columns = (
        slice(max(0, index - NEIGHBORS), index + NEIGHBORS + 1) for index in (row, column)
    )
    return image[:, rows, columns].mean(dim=(1, 2))
