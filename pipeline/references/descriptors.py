"""Describe photos for the reference search and compare them.

Only lightness is used, so that a gray target and a color photo of the same scene get similar
descriptors. All images are squashed to SIDE x SIDE, as in the exemplar paper. Shapes: B images,
P = GRID x GRID cells, C channels of a cell, D width of a descriptor vector. The constants were
chosen with benchmarks/reference_search.py.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops import color
from ...ops.resize import downscale, squashed_geometry
from ...ops.tensors import sanitize
from ..color_memory.memory import identify_encoder
from ..loaded_network import LoadedNetwork
from ..photos import is_gray

ENCODER = "ddcolor-nano"  # pretrained on ImageNet, so that its last map describes things
SIDE = 224
POOLED_MAP = 3  # at 1/32, by its mean; its deviation and the map at 1/16 add nothing
CELL_MAP = 1  # map whose cells are compared
GRID = 10  # cells per side
CELL = 16  # pixels per side of a cell, in which lightness is counted
PCA_DIMENSIONS = 128  # paper, section 4.1
WHITENING = 0.5  # exponent of the whitening: 0 = plain PCA, 1 = equal variance in all directions
HISTOGRAM_BINS = 50  # for the lightness of a cell, 0..100
# Weight of the histogram distance relative to the feature distance. He et al. use 0.25 and the
# paper's program 0.5, with VGG-19. With this encoder, feature distances vary seven times less than
# histogram distances, which would dominate the ranking at 0.25 and make it worse.
HISTOGRAM_WEIGHT = 0.05
BATCH_SIZE = 8  # images per forward pass; even on a CPU, because they are small
MIN_RELATIVE_VARIANCE = 1e-10  # relative to the largest variance; directions below it are noise


class Descriptors(NamedTuple):
    """Descriptors of B images, on the CPU."""

    vectors: Tensor
    """(B, D) float16: mean of the last map."""
    cells: Tensor
    """(B, P, C) float16: features of unit length."""
    histograms: Tensor
    """(B, P, HISTOGRAM_BINS) uint8: pixels per lightness bin."""

    def select(self, indices: int | Tensor) -> "Descriptors":
        """Return the descriptors of some images; B becomes 1, or the shape of `indices`."""
        rows = torch.tensor([indices]) if isinstance(indices, int) else indices
        return Descriptors(self.vectors[rows], self.cells[rows], self.histograms[rows])


def concat(parts: Sequence[Descriptors]) -> Descriptors:
    """Concatenate descriptors along the batch."""
    return Descriptors(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


# --- Photos to working images ------------------------------------------------------------------


def to_working_images(rgb: Tensor, name: str) -> Tensor:
    """Squash photos (B, H, W, C) float sRGB to (B, 3, SIDE, SIDE) float32 on the CPU.

    Transparent pixels become gray, because they cannot give color.
    """
    rgb = rgb.expand(*rgb.shape[:3], 3) if rgb.shape[-1] == 1 else rgb
    rgb = sanitize(rgb.movedim(-1, 1), name)
    if rgb.shape[1] == 4:
        rgb, alpha = rgb.split([3, 1], dim=1)
        rgb = rgb * alpha + 0.5 * (1 - alpha)
    height, width = rgb.shape[2:]
    return downscale(rgb, squashed_geometry(height, width, SIDE, SIDE), "cpu")


def is_gray_reference(image: Tensor) -> bool:
    """Return True if a working image (3, h, w) has too little chroma to be a reference."""
    return is_gray(image[:, ::2, ::2].contiguous())  # every second pixel is enough


# --- Working images to descriptors -------------------------------------------------------------


class _EncoderNetwork(Protocol):
    """Network with an encoder that gives maps at 1/4 to 1/32."""

    encoder: nn.Module
    mean: Tensor
    std: Tensor


def encoder_name(colorizer: LoadedNetwork) -> str:
    """Return an identifier of the encoder's weights and dtype."""
    dtype = str(colorizer.dtype).removeprefix("torch.")
    return f"{identify_encoder(_acquire(colorizer, 0).encoder)}-{dtype}"


def _acquire(colorizer: LoadedNetwork, memory_required: int) -> _EncoderNetwork:
    network = colorizer.device_manager.acquire(memory_required)
    if not all(hasattr(network, name) for name in ("encoder", "mean", "std")):
        raise ValueError(
            f"{colorizer.name} has no encoder that can describe photos; use {ENCODER}."
        )
    return cast(_EncoderNetwork, network)


def describe(colorizer: LoadedNetwork, images: Tensor) -> Descriptors:
    """Describe the lightness of working images (B, 3, SIDE, SIDE) in 0..1.

    Raises:
        ValueError: the network has no encoder that gives four maps, at 1/4 to 1/32.
    """
    device_manager = colorizer.device_manager
    spec = colorizer.spec
    required = SIDE * SIDE * spec.activation_bytes_per_pixel + spec.fixed_activation_bytes
    batch_size = BATCH_SIZE
    if device_manager.device.type != "cpu":
        batch_size = min(BATCH_SIZE, device_manager.max_batch_size(required))
    parts = []
    for batch in images.split(batch_size):
        network = _acquire(colorizer, len(batch) * required)
        with torch.inference_mode():
            L = color.lightness(batch.to(device_manager.device))
            gray = ((color.gray_rgb(L) - network.mean) / network.std).to(colorizer.dtype)
            gray = gray.contiguous(memory_format=torch.channels_last)
            maps = network.encoder(gray)
            vectors = maps[POOLED_MAP].float().mean(dim=(2, 3)).half()
            cells = F.adaptive_avg_pool2d(maps[CELL_MAP].float(), GRID).flatten(2)
            cells = F.normalize(cells, dim=1).mT.half()
            tensors = vectors, cells, lightness_histograms(L)
            parts.append(Descriptors(*(x.cpu().clone() for x in tensors)))
    return concat(parts)


def lightness_histograms(L: Tensor) -> Tensor:
    """Count pixels per lightness bin in each cell: L (B, 1, SIDE, SIDE) -> (B, P, bins) uint8.

    L is reduced to cells of 16 x 16 pixels; the paper's patches of that size are then the cells
    themselves. 256 pixels in one bin count as 255.
    """
    L = F.interpolate(L, size=(GRID * CELL, GRID * CELL), mode="area")
    patches = F.unfold(L, CELL, stride=CELL).mT
    bins = (patches * (HISTOGRAM_BINS / 100)).long().clamp(0, HISTOGRAM_BINS - 1)
    counts = torch.zeros(*bins.shape[:2], HISTOGRAM_BINS, device=L.device)
    counts.scatter_add_(2, bins, torch.ones_like(patches))
    return counts.clamp_max(255).to(torch.uint8)


# --- Comparison --------------------------------------------------------------------------------


class WhitenedSpace:
    """Space in which the descriptor vectors of a gallery are compared.

    Vectors are standardized, projected by PCA, partially whitened and normalized to unit length.
    The space is rebuilt from all vectors (n, D) float32 for each search, so that removed photos
    have no influence.
    """

    def __init__(self, vectors: Tensor):
        rows = vectors.double()
        self.center = rows.mean(0)
        deviation = rows.std(0, correction=0)
        self.scale = torch.where(deviation > 0, 1 / deviation, 0.0)
        rows = (rows - self.center) * self.scale
        variance, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
        dimensions = min(PCA_DIMENSIONS, max(1, len(rows) - 1), rows.shape[1])
        variance, axes = variance[-dimensions:], axes[:, -dimensions:]
        significant = variance > MIN_RELATIVE_VARIANCE * variance[-1]
        whitening = variance.clamp_min(1e-300) ** (-WHITENING / 2)
        self.axes = axes * torch.where(significant, whitening, 0.0)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Map (B, D) to unit vectors (B, d) float32 whose dot product is their similarity."""
        return F.normalize(((vectors.double() - self.center) * self.scale) @ self.axes).float()


def patch_distances(target: Descriptors, candidates: Descriptors) -> Tensor:
    """Return the patchwise distance of K candidates (B, K, P, ...) to each of B targets: (B, K).

    mean_p [1 - cos(f_p, f_q)] + HISTOGRAM_WEIGHT mean_p [1 - corr(hist_p, hist_q)] over the cells p
    of a target, where q is the candidate's cell whose features are most similar to p's (He et al.
    2018, section 4.2). Lower is better.
    """
    similarity = target.cells.float()[:, None] @ candidates.cells.float().mT  # (B, K, P, P)
    cosine, nearest = similarity.max(dim=-1)
    matched = _centered_unit(candidates.histograms)
    matched = matched.gather(2, nearest[..., None].expand(-1, -1, -1, HISTOGRAM_BINS))
    correlation = (_centered_unit(target.histograms)[:, None] * matched).sum(-1)
    return (1 - cosine).mean(-1) + HISTOGRAM_WEIGHT * (1 - correlation).mean(-1)


def _centered_unit(counts: Tensor) -> Tensor:
    """Return histograms as vectors whose dot product is their correlation."""
    counts = counts.float()
    return F.normalize(counts - counts.mean(-1, keepdim=True), dim=-1)
