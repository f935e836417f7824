"""Estimate dense motion between video frames and how reliable it is.

The estimate is coarse to fine: at each scale, the least-squares shift of a window around every
pixel (Lucas and Kanade 1981), iterated with the frame warped by the current estimate, as in
Bouguet, "Pyramidal implementation of the affine Lucas Kanade feature tracker". Windows without
texture get the motion of their surroundings. Frames are compared by local contrast, so that fades,
flicker and switched lamps do not count as motion.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import color, resize

MIN_SIDE = 9  # shorter side in pixels of the coarsest scale
ITERATIONS = 4  # at each scale
CUT_CORRELATION = 0.45  # a lower correlation is a cut; pans have about .7 to .95, cuts 0 to .25
MAX_FLASH_FRAMES = 3  # a shot may resume after at most this many different frames
MAX_STEP = 1.5  # pixels per iteration
WINDOW_SIGMA = 1.5  # pixels; window whose shift is estimated
FILL_SIGMA = 2.5  # pixels; surroundings from which areas without texture take their motion
CONTRAST_SIGMA = 4.0  # pixels; surroundings that define local contrast
GRAIN_DEVIATION = 1.5  # standard deviation of L that does not count as texture
OUTLIER_CONTRAST = 0.7  # contrast difference at which a pixel has half its weight
REGULARIZATION = 0.02  # added to the structure tensor: weaker texture gives no shift
# Sundaram, Brox, Keutzer, ECCV 2010, eq. 5: tolerated forward-backward difference
CYCLE_TOLERANCE, CYCLE_TOLERANCE_PER_PIXEL = 0.5, 0.02


class Motion(NamedTuple):
    """Motion from the pixels of one frame to those of another."""

    flow: Tensor
    """(B, 2, h, w) x and y in pixels: the content of pixel p is at p + flow in the other frame."""
    confidence: Tensor
    """(B, 1, h, w) in 0..1; about 0 where the content is hidden in the other frame."""
    correlation: Tensor
    """(B,) correlation of the frames after motion compensation: 1 if equal, about 0 after a cut."""


class FrameLink(NamedTuple):
    """Motion between a frame and the earlier frame that it continues."""

    gap: int
    """Number of frames between them: 1, or more across a flash."""
    backward: Motion
    """From pixels of the frame to those of the earlier frame."""
    forward: Motion
    """From pixels of the earlier frame to those of the frame."""


@dataclass(frozen=True)
class ShotTracker:
    """Frames that the next frame may continue: the last one, and the last one before a flash."""

    last_L: Tensor
    """(1, 1, h, w) lightness of the last frame at working size."""
    anchor_L: Tensor | None = None
    """Lightness of the last frame before a possible flash, if one began a few frames ago."""
    anchor_age: int = 0
    """Number of frames since `anchor_L`."""
    frame_count: int = 1
    """Number of frames since the start of the video."""

    def advance(self, L: Tensor) -> tuple[FrameLink | None, "ShotTracker"]:
        """Return the link of the next frame to an earlier one, None at a cut, and the new tracker.

        Raises:
            ValueError: the frame has another size than the previous ones.
        """
        if L.shape != self.last_L.shape:
            (h, w), (last_h, last_w) = L.shape[2:], self.last_L.shape[2:]
            raise ValueError(
                f"frame {self.frame_count} is {w}x{h} at working size, but the previous frames are "
                f"{last_w}x{last_h}; all parts of a video need the same size and resolution."
            )
        age = self.anchor_age + 1 if self.anchor_L is not None else 0
        links = [FrameLink(1, *estimate_flow(self.last_L, L))]
        if self.anchor_L is not None:
            links.append(FrameLink(age, *estimate_flow(self.anchor_L, L)))
        link = max(links, key=lambda link: link.backward.correlation.item())
        is_cut = link.backward.correlation.item() < CUT_CORRELATION
        anchor_L = self.anchor_L
        if is_cut and anchor_L is None:
            anchor_L, age = self.last_L, 1
        elif (link.gap > 1 and not is_cut) or age > MAX_FLASH_FRAMES:
            anchor_L, age = None, 0
        return None if is_cut else link, ShotTracker(L, anchor_L, age, self.frame_count + 1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors for a safetensors file."""
        tensors = {
            "L": self.last_L.contiguous(),
            "counts": torch.tensor([self.anchor_age, self.frame_count]),
        }
        if self.anchor_L is not None:
            tensors["parked.L"] = self.anchor_L.contiguous()
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], device: torch.device | str | None = None
    ) -> "ShotTracker":
        """Restore the state that `to_tensors` returned.

        Raises:
            KeyError: a tensor is missing.
        """
        anchor_age, frame_count = tensors["counts"].tolist()
        anchor_L = tensors.get("parked.L")
        return cls(
            tensors["L"].to(device),
            None if anchor_L is None else anchor_L.to(device),
            anchor_age,
            frame_count,
        )


def working_lab(rgb: Tensor, resolution: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return L and ab of frames (B, 3, H, W) at working size on `device`, never enlarged."""
    height, width = rgb.shape[2:]
    resolution_limit = min(resolution, math.sqrt(height * width))
    geometry = resize.working_geometry(height, width, resolution_limit, 1)
    L, ab = color.rgb_to_lab(resize.downscale(rgb, geometry, device)).split([1, 2], dim=1)
    return L, ab


def local_contrast(L: Tensor) -> Tensor:
    """Return L (B, 1, h, w) minus its local mean, divided by its local standard deviation."""
    mean = gaussian_blur(L, CONTRAST_SIGMA)
    deviation = (gaussian_blur(L * L, CONTRAST_SIGMA) - mean * mean).clamp_min(0).sqrt()
    return (L - mean) / (deviation + GRAIN_DEVIATION)


def estimate_flow(previous: Tensor, current: Tensor) -> tuple[Motion, Motion]:
    """Estimate the motion between two frames in both directions.

    Args:
        previous, current: lightness of frames, (B, 1, h, w) in 0..100.
    Returns:
        Backward motion, from pixels of `current` to `previous`, and forward motion, from pixels of
        `previous` to `current`.
    """
    pyramid = _contrast_pyramid(torch.cat([current, previous]))
    flow = _pyramid_flow(pyramid)
    source = pyramid[0]
    target, reverse = _swap_halves(source), _swap_halves(flow)
    cycle_error = (flow + warp(reverse, flow)).square().sum(1, keepdim=True)
    length = flow.square().sum(1, keepdim=True) + reverse.square().sum(1, keepdim=True)
    warped = warp(target, flow)
    difference = gaussian_blur((source - warped).square(), WINDOW_SIGMA)
    confidence = torch.exp(
        -cycle_error / (CYCLE_TOLERANCE + CYCLE_TOLERANCE_PER_PIXEL * length)
        - difference / OUTLIER_CONTRAST**2
    )
    inside = _inside_frame(flow)
    confidence = confidence * inside
    products = source * warped, source * source, warped * warped
    xy, xx, yy = ((product * inside).flatten(1).sum(1) for product in products)
    correlation = torch.minimum(*(xy / (xx * yy).sqrt().clamp_min(1e-6)).chunk(2))
    backward_flow, forward_flow = flow.chunk(2)
    backward_confidence, forward_confidence = confidence.chunk(2)
    return (
        Motion(backward_flow, backward_confidence, correlation),
        Motion(forward_flow, forward_confidence, correlation),
    )


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x (B, C, h, w) bilinearly at p + flow for every pixel p, with replicated edges."""
    h, w = x.shape[2:]
    rows = torch.arange(h, device=x.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(w, device=x.device, dtype=flow.dtype)
    gx = (columns + flow[:, 0]) * (2 / w) + (1 / w - 1)
    gy = (rows + flow[:, 1]) * (2 / h) + (1 / h - 1)
    grid = torch.stack([gx, gy], dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _inside_frame(flow: Tensor) -> Tensor:
    """Return 1 where p + flow lies inside the frame, else 0."""
    h, w = flow.shape[2:]
    x = torch.arange(w, device=flow.device) + flow[:, :1]
    y = torch.arange(h, device=flow.device)[:, None] + flow[:, 1:]
    return ((x > -1) & (x < w) & (y > -1) & (y < h)).to(flow.dtype)


def _contrast_pyramid(L: Tensor) -> list[Tensor]:
    """Return the local contrast at full size, half, a quarter, ..."""
    pyramid = [local_contrast(L)]
    while min(L.shape[2:]) >= 2 * MIN_SIDE:
        h, w = L.shape[2:]
        L = _resize(L, (-(-h // 2), -(-w // 2)))
        pyramid.append(local_contrast(L))
    return pyramid


def _pyramid_flow(pyramid: list[Tensor]) -> Tensor:
    """Return the flow (2 B, 2, h, w) from the first half of the batch to the second, and back."""
    flow = torch.zeros_like(pyramid[-1]).repeat(1, 2, 1, 1)
    for source in reversed(pyramid):
        h, w = source.shape[2:]
        if flow.shape[2:] != (h, w):
            factor = flow.new_tensor([w / flow.shape[3], h / flow.shape[2]])
            flow = _resize(flow, (h, w)) * factor[:, None, None]
        target = _swap_halves(source)
        for _ in range(ITERATIONS):
            flow = _lucas_kanade_step(source, target, flow)
    return flow


def _swap_halves(x: Tensor) -> Tensor:
    """Exchange the halves of a batch."""
    return torch.cat(x.chunk(2)[::-1])


def _lucas_kanade_step(source: Tensor, target: Tensor, flow: Tensor) -> Tensor:
    """Add the least-squares shift of the window around each pixel to the flow."""
    warped = warp(target, flow)
    residual = source - warped
    dx, dy = _gradients((source + warped) / 2)
    weight = _inside_frame(flow) / (1 + (residual / OUTLIER_CONTRAST).square())
    products = torch.cat([dx * dx, dx * dy, dy * dy, dx * residual, dy * residual], dim=1)
    xx, xy, yy, x, y = gaussian_blur(products * weight, WINDOW_SIGMA).split(1, dim=1)
    xx, yy = xx + REGULARIZATION, yy + REGULARIZATION
    determinant = xx * yy - xy * xy
    shift = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / determinant
    length = torch.hypot(*shift.split(1, dim=1))
    flow = flow + shift * (MAX_STEP / length.clamp_min(MAX_STEP))
    # Texture in both directions determines motion (Shi and Tomasi 1994); spread it to the rest.
    cornerness = determinant / (xx + yy) - REGULARIZATION / 2 + 1e-4
    return gaussian_blur(flow * cornerness, FILL_SIGMA) / gaussian_blur(cornerness, FILL_SIGMA)


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return central differences along x and y."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    return dx, (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    smaller = size[0] < x.shape[2]
    return F.interpolate(x, size=size, mode="bilinear", antialias=smaller)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur with replicated edges; weighted sums of shifted images are 3x as fast as convolution."""
    radius = round(2.5 * sigma)
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-radius, radius + 1)]
    x = F.pad(x, (radius,) * 4, mode="replicate")
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * radius
        total = torch.zeros_like(x.narrow(dim, 0, size))
        for i, weight in enumerate(weights):
            total.add_(x.narrow(dim, i, size), alpha=weight / sum(weights))
        x = total
    return x
