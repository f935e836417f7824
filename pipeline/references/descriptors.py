"""What Find References sees in a picture, and how two pictures are compared.

Only lightness is looked at, so that a grey target and a colour photo of the same thing look alike.
All pictures are squashed to `SIDE` x `SIDE`, as in the exemplar paper. `P` cells of 16 x 16 pixels,
`C` channels, `D` width of a descriptor. Choices say what benchmarks/reference_search.py measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import color
from ...ops.resize import shrink, square
from ...ops.tensors import repaired
from ..automatic import Colorizer
from ..color_memory.builder import GREY
from ..color_memory.memory import fingerprint

ENCODER = "ddcolor-nano"  # in the box; the other boxed encoder is as good, and 1.5 times as slow
SIDE = 160
GRID = 10  # cells each way
CELL = SIDE // GRID
# Maps at 1/4 and 1/8, by mean and deviation. Of the five nearest of 3000 photos 15 % have the label
# of the photo, with the deeper maps added 14 %, by a deeper one alone 5 %; with outlines 21 %.
POOLED = (0, 1)
LOCAL = 1  # map whose cells are compared
HOG_SIDE, HOG_GRID, HOG_BINS = 64, 4, 9  # coarse outlines, which pooled maps do not hold
HOG_WIDTH = HOG_GRID**2 * HOG_BINS
HOG_WEIGHT = 0.5  # beside the pooled maps, as blocks of equal variance
PRINCIPAL = 128  # dimensions (paper, section 4.1)
WHITENING = 0.5  # power of a principal deviation divided by: 0 = plain PCA, 1 = all alike
BINS = 50  # of a cell's lightness, 0..100
# Beside the distance of features. He et al. take 0.25 and the paper's program 0.5, with VGG-19; the
# distances of this encoder differ seven times less than those of histograms, which with 0.25 decide
# nearly alone and rank worse.
HISTOGRAM_WEIGHT = 0.05
AT_ONCE = 8  # pictures in one pass of the encoder at most; on a CPU, too: they are small
EVEN = 1e-10  # variance, as part of the largest, below which a direction is noise


class Looks(NamedTuple):
    """What is known of pictures, on the CPU."""

    descriptors: Tensor
    """(B, D) float16: pooled maps, then outlines."""
    cells: Tensor
    """(B, P, C) float16: features of unit length."""
    histograms: Tensor
    """(B, P, BINS) uint8: pixels of each lightness."""


# --- Photos to working pictures ----------------------------------------------------------------


def working_pictures(rgb: Tensor, name: str) -> Tensor:
    """(B, H, W, C) float sRGB -> (B, 3, SIDE, SIDE) float32 on the CPU, squashed.

    What is transparent is grey: it can give no colour either.
    """
    rgb = rgb.expand(*rgb.shape[:3], 3) if rgb.shape[-1] == 1 else rgb
    rgb = repaired(rgb.movedim(-1, 1), name)
    if rgb.shape[1] == 4:
        rgb, alpha = rgb.split([3, 1], dim=1)
        rgb = rgb * alpha + 0.5 * (1 - alpha)
    return shrink(rgb, square(*rgb.shape[2:], SIDE, CELL), "cpu")


def is_grey(small: Tensor) -> bool:
    """Whether a working picture (3, h, w) has too little colour to be a reference."""
    every_second = small[:, ::2, ::2].contiguous()
    return bool(color.chroma(color.rgb_to_lab(every_second)[1:]).mean() < GREY)


# --- Working pictures to descriptors and cells -------------------------------------------------


def encoder_name(colorizer: Colorizer) -> str:
    """Names what describes photos: the encoder's weights, and the dtype they run in."""
    dtype = str(colorizer.dtype).removeprefix("torch.")
    return f"{fingerprint(_network(colorizer, 0).encoder)}-{dtype}"


def _network(colorizer: Colorizer, memory_required: int) -> nn.Module:
    network = colorizer.placement.acquire(memory_required)
    if not all(hasattr(network, name) for name in ("encoder", "mean", "std")):
        raise ValueError(
            f"{colorizer.name} has no encoder that describes pictures; take {ENCODER}."
        )
    return network


def looks(colorizer: Colorizer, pictures: Tensor) -> Looks:
    """What is known of working pictures (B, 3, SIDE, SIDE) in 0..1; their colour is not looked at.

    Raises:
        ValueError: the network has no encoder that gives maps at 1/4 and 1/8.
    """
    placement = colorizer.placement
    spec = colorizer.spec
    required = SIDE * SIDE * spec.activation_bytes_per_pixel + spec.activation_bytes
    at_once = AT_ONCE
    if placement.device.type != "cpu":
        at_once = min(AT_ONCE, placement.images_at_once(required))
    parts = []
    for part in pictures.split(at_once):
        network = _network(colorizer, len(part) * required)
        with torch.inference_mode():
            L = color.lightness(part.to(placement.device))
            gray = ((color.gray_rgb(L) - network.mean) / network.std).to(colorizer.dtype)
            gray = gray.contiguous(memory_format=torch.channels_last)
            maps = [x.float() for x in network.encoder(gray)[: max(*POOLED, LOCAL) + 1]]
            pooled = [f(maps[i]) for i in POOLED for f in (_mean, _deviation)]
            cells = F.normalize(F.adaptive_avg_pool2d(maps[LOCAL], GRID).flatten(2), dim=1).mT
            found = (torch.cat([*pooled, outlines(L)], dim=1).half(), cells.half(), histograms(L))
            parts.append(Looks(*(x.cpu().clone() for x in found)))
    return joined(parts)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=(2, 3))


def outlines(L: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005): L (B, 1, h, w) -> (B, HOG_WIDTH).

    9 directions in each of 4 x 4 cells, of unit length, on a thumbnail.
    """
    small = F.interpolate(L, size=(HOG_SIDE, HOG_SIDE), mode="area") / 100
    dx = F.pad(small[..., 2:] - small[..., :-2], (1, 1, 0, 0))
    dy = F.pad(small[..., 2:, :] - small[..., :-2, :], (0, 0, 1, 1))
    bins = (torch.atan2(dy, dx) % torch.pi / torch.pi * HOG_BINS).long().clamp(0, HOG_BINS - 1)
    weight = F.one_hot(bins[:, 0], HOG_BINS).movedim(-1, 1) * torch.hypot(dx, dy)
    return F.normalize(F.adaptive_avg_pool2d(weight, HOG_GRID), dim=1, eps=1e-4).flatten(1)


def histograms(L: Tensor) -> Tensor:
    """Pixels of each lightness in each cell: L (B, 1, SIDE, SIDE) -> (B, P, BINS) uint8.

    Patches of 16 x 16 pixels centred on cells of 16 pixels are the cells: none reaches beyond an
    edge. 256 pixels in one bin count as 255.
    """
    patches = F.unfold(L, CELL, stride=CELL).mT
    bins = (patches * (BINS / 100)).long().clamp(0, BINS - 1)
    counts = torch.zeros(*bins.shape[:2], BINS, device=L.device)
    counts.scatter_add_(2, bins, torch.ones_like(patches))
    return counts.clamp_max(255).to(torch.uint8)


# --- Comparing ---------------------------------------------------------------------------------


class Space:
    """Where descriptors of a gallery are compared: standardised, PCA, half whitened, unit length.

    Made of all descriptors of the gallery (n, D) float32, anew for each search: an index holds no
    trace of photos that are gone.
    """

    def __init__(self, descriptors: Tensor):
        rows = descriptors.double()
        self.center = rows.mean(0)
        deviation = rows.std(0, correction=0)
        self.scale = torch.where(deviation > 0, 1 / deviation, 0.0)
        pooled = rows.shape[1] - HOG_WIDTH
        self.scale[:pooled] /= pooled**0.5
        self.scale[pooled:] *= HOG_WEIGHT / HOG_WIDTH**0.5
        rows = (rows - self.center) * self.scale
        variance, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        dimensions = min(PRINCIPAL, max(1, len(rows) - 1), rows.shape[1])
        variance, axes = variance[-dimensions:], axes[:, -dimensions:]
        some = variance > EVEN * variance[-1]
        self.axes = axes * torch.where(some, variance.clamp_min(1e-300) ** (-WHITENING / 2), 0.0)

    def __call__(self, descriptors: Tensor) -> Tensor:
        """(B, D) -> (B, d) float32 of unit length; the dot product of two is their nearness."""
        return F.normalize(((descriptors.double() - self.center) * self.scale) @ self.axes).float()


def scores_of(target: Looks, candidates: Looks) -> Tensor:
    """Patchwise distances of K candidates (B, K, P, ...) for each of B targets -> (B, K).

    mean_p [1 - cos(f_p, f_q)] + HISTOGRAM_WEIGHT mean_p [1 - corr(hist_p, hist_q)] over the cells p
    of a target, where q is the candidate's cell whose features are most similar to p's. Both terms
    are distances (He et al. 2018, section 4.2); lowest is best.
    """
    features = target.cells.float()[:, None] @ candidates.cells.float().mT  # (B, K, P, P)
    cosine, nearest = features.max(dim=-1)
    theirs = _centred(candidates.histograms)
    theirs = theirs.gather(2, nearest[..., None].expand(-1, -1, -1, BINS))
    correlation = (_centred(target.histograms)[:, None] * theirs).sum(-1)
    return (1 - cosine).mean(-1) + HISTOGRAM_WEIGHT * (1 - correlation).mean(-1)


def _centred(counts: Tensor) -> Tensor:
    """Histograms as vectors whose dot product is their correlation."""
    counts = counts.float()
    return F.normalize(counts - counts.mean(-1, keepdim=True), dim=-1)


def rows(known: Looks, which: int | Tensor) -> Looks:
    """Some of the pictures: B = 1, or the shape of `which`."""
    which = torch.tensor([which]) if isinstance(which, int) else which
    return Looks(*(x[which] for x in known))


def joined(parts: Sequence[Looks]) -> Looks:
    """All pictures of several looks."""
    return Looks(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
