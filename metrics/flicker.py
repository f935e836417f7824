"""Measure how much the color of a video flickers."""

from typing import TypedDict

import torch
from torch import Tensor

from ..ops import optical_flow
from ..ops.tensors import as_batch

RESOLUTION = 256  # working resolution for motion: square root of the area in pixels
STILL_MOTION = 0.3  # largest motion per frame, in working pixels, of a still pixel
MIN_STILL_FRAMES = 4  # shortest run of still frames that counts


class FlickerScores(TypedDict):
    """Flicker of a video; 0 without pixels to compare."""

    flicker: float
    """Mean change of chroma along motion from frame to frame, in ab units."""
    still_deviation: float
    """Mean standard deviation over time of the chroma of still pixels, in ab units."""
    frames: int
    cuts: int
    """Number of cuts; frames are not compared across them."""


class FlickerMeter:
    """Measure flicker of frames that are added in order, in constant memory.

    Computes the warping error of Lai et al. 2018 ("Learning blind video temporal consistency",
    eq. 8) of chroma instead of RGB, because lightness is that of the input video, and the standard
    deviation of chroma over time where nothing moves.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.frames, self.cuts = 0, 0
        self._previous: tuple[Tensor, Tensor] | None = None
        self._change_sum = self._change_weight = 0.0
        self._deviation_sum = self._still_count = 0.0
        # Count, mean and sum of squares of the current run of still frames of each pixel
        self._run: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.inference_mode()
    def push(self, frames: Tensor) -> None:
        """Add frames (T, H, W, C), sRGB in 0..1; gray frames do not flicker.

        Raises:
            ValueError: the frames have another size than the previous ones.
        """
        frames, _ = as_batch(frames, "video")
        rgb = frames.movedim(-1, 1)
        rgb = rgb.expand(-1, 3, -1, -1) if rgb.shape[1] == 1 else rgb[:, :3]
        for frame in rgb.split(1):
            L, ab = optical_flow.working_lab(frame, RESOLUTION, self.device)
            self._add_frame(L, ab)
            self._previous = L, ab
            self.frames += 1

    def scores(self) -> FlickerScores:
        """Return the scores of the frames so far."""
        deviation_sum, still_count = self._deviation_sum, self._still_count
        if self._run:
            ended = torch.ones_like(self._run[0], dtype=torch.bool)
            last_deviations, last_count = _ended_runs(self._run, ended)
            deviation_sum, still_count = deviation_sum + last_deviations, still_count + last_count
        return {
            "flicker": self._change_sum / max(self._change_weight, 1e-6),
            "still_deviation": deviation_sum / max(still_count, 1e-6),
            "frames": self.frames,
            "cuts": self.cuts,
        }

    def _add_frame(self, L: Tensor, ab: Tensor) -> None:
        if self._previous is None or self._run is None:
            self._run = torch.ones_like(L), ab, torch.zeros_like(L)
            return
        previous_L, previous_ab = self._previous
        if previous_L.shape != L.shape:
            (h, w), (previous_h, previous_w) = L.shape[2:], previous_L.shape[2:]
            raise ValueError(
                f"frame {self.frames} is {w}x{h} at working size, but the previous frames are "
                f"{previous_w}x{previous_h}; measure videos of different sizes separately."
            )
        backward, _ = optical_flow.estimate_flow(previous_L, L)
        is_cut = backward.correlation.item() < optical_flow.CUT_CORRELATION
        self.cuts += is_cut
        confidence = backward.confidence * (not is_cut)
        change = ab - optical_flow.warp(previous_ab, backward.flow)
        change = torch.linalg.vector_norm(change, dim=1, keepdim=True)
        self._change_sum += (confidence * change).sum().item()
        self._change_weight += confidence.sum().item()
        moved = torch.linalg.vector_norm(backward.flow, dim=1, keepdim=True) > STILL_MOTION
        moved = moved | (confidence < 0.5)
        deviation_sum, still_count = _ended_runs(self._run, moved)
        self._deviation_sum += deviation_sum
        self._still_count += still_count
        # Welford 1962
        count, mean, squares = self._run
        count = torch.where(moved, 1, count + 1)
        difference = ab - mean
        mean = torch.where(moved, ab, mean + difference / count)
        squares = squares + (difference * (ab - mean)).sum(1, keepdim=True)
        self._run = count, mean, torch.where(moved, 0, squares)


def _ended_runs(run: tuple[Tensor, Tensor, Tensor], ended: Tensor) -> tuple[float, float]:
    """Sum the deviations of the runs that ended, weighted by their frames, and those frames."""
    count, _, squares = run
    weight = count * (ended & (count >= MIN_STILL_FRAMES))
    deviation = (squares / count).sqrt()
    return (deviation * weight).sum().item(), weight.sum().item()
