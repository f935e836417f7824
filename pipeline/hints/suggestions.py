"""Which colours a place of a photo may have, by what an automatic network holds possible."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops import color, resize
from ..automatic import Colorizer

MOST = 8  # colours suggested
ALIKE = 6.0  # Lab units between two colours below which they are one, and from grey
SPREADS = (0.5, 1.0)  # how far each group of colours leads; see `memory.sample_fusion_weights`
NEAR = 1  # cells of a map to each side of a place that count, too


@torch.inference_mode()
def guesses(rgb: Tensor, colorizer: Colorizer) -> Tensor:
    """Chroma that a network with a color memory holds possible: (N, 2, h, w) on the CPU.

    What it predicts comes first, then what each group of its memory's colours would make of the
    photo. Unlike `Colorizer.vary` nothing is drawn by lot, and no interrupt is looked for.

    Args:
        rgb: (H, W, 3) float sRGB in 0..1.
        colorizer: an automatic network with a color memory.
    """
    rgb = rgb.movedim(-1, 0)[None]
    spec = colorizer.spec
    shape = resize.fit(*rgb.shape[2:], spec.resolution, spec.multiple)
    L = color.lightness(resize.shrink(rgb, shape, colorizer.placement.device))
    L = resize.pad(L, shape)
    maps = list(colorizer.predict(L, shape))
    leads = torch.eye(spec.memory.groups)
    for spread in SPREADS:
        maps += colorizer.predict(L, shape, (leads, spread))
    return torch.cat([resize.unpad(ab, shape).cpu() for ab in maps])


@torch.inference_mode()
def colors(rgb: Tensor, maps: Sequence[Tensor], x: float, y: float) -> list[str]:
    """At most MOST different colours for a place, as #rrggbb at its lightness, most likely first.

    The first map of each group of maps is taken as it comes; what follows is the likelier the
    nearer it is to the first of all. Grey is left out where there are colours.

    Args:
        rgb: (H, W, 3) float sRGB in 0..1 on the CPU: the photo.
        maps: groups of chroma, (N, 2, h, w) each, of any size.
        x, y: the place, 0..1 from the top left.
    """
    gray = _about(rgb.movedim(-1, 0), x, y)
    L = color.lightness(gray[:, None, None])
    firsts, others = [], []
    for group in maps:
        first, *rest = (_about(ab, x, y) for ab in group)
        firsts.append(first)
        others += rest
    if firsts:
        others.sort(key=lambda ab: float(torch.dist(ab, firsts[0])))
    found: dict[str, Tensor] = {}
    for ab in [*firsts, *others]:
        rgb_there = (color.to_gamut(torch.cat([L, ab[:, None, None]])) * 255).round()
        shown = color.rgb_to_lab(rgb_there / 255)[1:, 0, 0]
        if all(torch.dist(shown, other) >= ALIKE for other in found.values()):
            levels = rgb_there.flatten().int().tolist()
            found["#{:02x}{:02x}{:02x}".format(*levels)] = shown
    colored = [code for code, ab in found.items() if ab.norm() >= ALIKE]
    return (colored or list(found))[:MOST]


def _about(image: Tensor, x: float, y: float) -> Tensor:
    """Mean of (C, H, W) over a place and its neighbours: (C,)."""
    height, width = image.shape[1:]
    row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
    rows, columns = (slice(max(0, at - NEAR), at + NEAR + 1) for at in (row, column))
    return image[:, rows, columns].mean(dim=(1, 2))
