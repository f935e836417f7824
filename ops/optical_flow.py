"""How things move from one frame of a film to another, and where that is known.

Dense, coarse to fine: at each scale the least-squares shift of a window about every place (Lucas
and Kanade 1981), found again with the frame moved so far, as in Bouguet's "Pyramidal implementation
of the affine Lucas Kanade feature tracker". Windows without texture take the motion of those about
them. Frames are compared by local contrast, so that a lamp, a flicker or a fade of the film's
brightness is no motion.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import color, resize

SMALLEST = 9  # shorter side in pixels of the coarsest scale
STEPS = 4  # at each scale
CUT = 0.45  # likeness below it is another shot; pans and cuts lie about .7 to .95 and 0 to .25
FLASH = 3  # frames of another look after which a shot may go on
FARTHEST = 1.5  # pixels in one step
WINDOW = 1.5  # sigma in pixels of the window that is compared
SURROUND = 2.5  # sigma of the surroundings from which places without texture take their motion
CONTRAST = 4.0  # sigma of the surroundings that contrast is measured against
GRAIN = 1.5  # deviation of L that counts as no texture
OUTLIER = 0.7  # difference in contrast at which a pixel counts half
STIFF = 0.02  # of a window's gradients: a shift must be seen by more than this
# Sundaram, Brox, Keutzer, ECCV 2010, eq. 5: there and back may differ by so much
DRIFT, DRIFT_PER_PIXEL = 0.5, 0.02


class Motion(NamedTuple):
    """From the places of one frame to those of another."""

    flow: Tensor
    """(B, 2, h, w) x and y in pixels: what is here was at here + flow."""
    trust: Tensor
    """(B, 1, h, w) in 0..1: how surely; about 0 where the other frame does not show it."""
    likeness: Tensor
    """(B,) correlation of the frames with motion undone: 1 = the same, about 0 after a cut."""


class Link(NamedTuple):
    """What a frame has to do with one before it."""

    gap: int
    """How many frames before: 1, or more over a flash."""
    came: Motion
    """Where the places of the frame were in that one."""
    went: Motion
    """Where the places of that one are in the frame."""


@dataclass(frozen=True)
class Trail:
    """Which frames the next frame of a film may follow: the last, or the last before a flash."""

    last: Tensor
    """(1, 1, h, w) lightness."""
    parked: Tensor | None = None
    """The same of the last frame before the look of the film changed, a few frames ago."""
    since: int = 0
    """How many frames ago that was."""
    number: int = 1
    """Frames of the film so far."""

    def follow(self, L: Tensor) -> tuple[Link | None, "Trail"]:
        """The frame that the next frame L follows, None at a cut; and the trail after it.

        Raises:
            ValueError: L is of another size.
        """
        if L.shape != self.last.shape:
            (h, w), (was_h, was_w) = L.shape[2:], self.last.shape[2:]
            raise ValueError(
                f"frame {self.number} is {w}x{h} at working size, but the frames before it are "
                f"{was_w}x{was_h}; films of different sizes, or resolutions, do not go on."
            )
        since = self.since + 1 if self.parked is not None else 0
        links = [Link(1, *between(self.last, L))]
        if self.parked is not None:
            links.append(Link(since, *between(self.parked, L)))
        link = max(links, key=lambda link: link.came.likeness.item())
        cut = link.came.likeness.item() < CUT
        parked = self.parked
        if cut and parked is None:
            parked, since = self.last, 1
        elif (link.gap > 1 and not cut) or since > FLASH:
            parked, since = None, 0
        return None if cut else link, Trail(L, parked, since, self.number + 1)


def small_lab(rgb: Tensor, resolution: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """L and ab of (B, 3, H, W) at working size, never larger than the film: on `device`."""
    height, width = rgb.shape[2:]
    shape = resize.fit(height, width, min(resolution, math.sqrt(height * width)), 1)
    return color.rgb_to_lab(resize.shrink(rgb, shape, device)).split([1, 2], dim=1)


def contrast(L: Tensor) -> Tensor:
    """What is compared: L (B, 1, h, w) less its surroundings, by their deviation."""
    mean = blur(L, CONTRAST)
    deviation = (blur(L * L, CONTRAST) - mean * mean).clamp_min(0).sqrt()
    return (L - mean) / (deviation + GRAIN)


def between(before: Tensor, after: Tensor) -> tuple[Motion, Motion]:
    """Motion between two frames, in both directions.

    Args:
        before, after: lightness of frames, (B, 1, h, w) in 0..100.
    Returns:
        where the places of `after` were in `before`; where those of `before` are in `after`.
    """
    scales = _scales(torch.cat([after, before]))
    flow = _flow(scales)
    here = scales[0]
    there = _swapped(here)
    back = _swapped(flow)
    # There and back again
    drift = (flow + warp(back, flow)).square().sum(1, keepdim=True)
    far = flow.square().sum(1, keepdim=True) + back.square().sum(1, keepdim=True)
    moved = warp(there, flow)
    difference = blur((here - moved).square(), WINDOW)
    trust = torch.exp(-drift / (DRIFT + DRIFT_PER_PIXEL * far) - difference / OUTLIER**2)
    inside = _inside(flow)
    trust = trust * inside
    products = here * moved, here * here, moved * moved
    xy, xx, yy = ((product * inside).flatten(1).sum(1) for product in products)
    likeness = xy / (xx * yy).sqrt().clamp_min(1e-6)
    (one, two), (t1, t2), (l1, l2) = flow.chunk(2), trust.chunk(2), likeness.chunk(2)
    both = torch.minimum(l1, l2)
    return Motion(one, t1, both), Motion(two, t2, both)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """x (B, C, h, w) at here + flow, bilinear; beyond the rim what is on it."""
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(w, device=x.device, dtype=flow.dtype)
    gx = (columns + flow[:, 0]) * (2 / w) + (1 / w - 1)
    gy = (rows + flow[:, 1]) * (2 / h) + (1 / h - 1)
    grid = torch.stack([gx, gy], dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _inside(flow: Tensor) -> Tensor:
    """1 where here + flow lies in the frame, else 0."""
    h, w = flow.shape[2:]
    x = torch.arange(w, device=flow.device) + flow[:, :1]
    y = torch.arange(h, device=flow.device)[:, None] + flow[:, 1:]
    return ((x > -1) & (x < w) & (y > -1) & (y < h)).to(flow.dtype)


def _scales(L: Tensor) -> list[Tensor]:
    """Contrast of lightness at full size, half, a quarter, ..."""
    scales = [contrast(L)]
    while min(L.shape[2:]) >= 2 * SMALLEST:
        L = _resized(L, tuple(-(-side // 2) for side in L.shape[2:]))
        scales.append(contrast(L))
    return scales


def _flow(scales: list[Tensor]) -> Tensor:
    """(2 B, 2, h, w) from the first half of the frames to the second, and back."""
    flow = torch.zeros_like(scales[-1]).repeat(1, 2, 1, 1)
    for here in reversed(scales):
        size = here.shape[2:]
        if flow.shape[2:] != size:
            factor = flow.new_tensor([size[1] / flow.shape[3], size[0] / flow.shape[2]])
            flow = _resized(flow, size) * factor[:, None, None]
        there = _swapped(here)
        for _ in range(STEPS):
            flow = _step(here, there, flow)
    return flow


def _swapped(x: Tensor) -> Tensor:
    """The second half of a batch before the first."""
    return torch.cat(x.chunk(2)[::-1])


def _step(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """The flow, moved on by the shift that fits best in the window about each place."""
    moved = warp(there, flow)
    left = here - moved
    dx, dy = _gradients((here + moved) / 2)
    weight = _inside(flow) / (1 + (left / OUTLIER).square())
    xx, xy, yy, x, y = blur(
        torch.cat([dx * dx, dx * dy, dy * dy, dx * left, dy * left], dim=1) * weight, WINDOW
    ).split(1, dim=1)
    xx, yy = xx + STIFF, yy + STIFF
    determinant = xx * yy - xy * xy
    shift = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / determinant
    length = torch.hypot(*shift.split(1, dim=1))
    flow = flow + shift * (FARTHEST / length.clamp_min(FARTHEST))
    # Texture both ways tells motion (Shi and Tomasi 1994); it is spread to what has none
    seen = determinant / (xx + yy) - STIFF / 2 + 1e-4
    return blur(flow * seen, SURROUND) / blur(seen, SURROUND)


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    return dx, (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    smaller = size[0] < x.shape[2]
    return F.interpolate(x, size=size, mode="bilinear", antialias=smaller)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian, edges repeated; as sums of moved pictures, three times as fast as a convolution."""
    reach = round(2.5 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)]
    x = F.pad(x, (reach,) * 4, mode="replicate")
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * reach
        total = torch.zeros_like(x.narrow(dim, 0, size))
        for i, weight in enumerate(weights):
            total.add_(x.narrow(dim, i, size), alpha=weight / sum(weights))
        x = total
    return x
