"""Stabilize color over time: propagate chroma along motion and average it over frames.

Each frame was colorized independently, so its colors flicker. The stabilizer estimates motion from
lightness (`ops.optical_flow`), warps the chroma of earlier and later frames to the current frame,
and averages it with weights that depend on the confidence of the motion:

    forward   x_t = (w' M(x_t-1) + ab_t) / (w' + 1),   w_t = w' + 1,   w' = discount(M(w_t-1))
    backward  the same from `frames_after` frames later, without the frame itself: y_t, v_t
    result    (w_t x_t + v_t y_t) / (w_t + v_t)

x is the running mean, w its weight in frames and M the motion warp. `discount` keeps the fraction
n / (n + 1) of w, with n = `frames_before`, and limits it by the confidence of the motion. After a
cut, and where new content appears, it is about 0 and the mean starts over. Only chroma changes, by
a smooth difference at working size; a video without flicker stays unchanged.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import color, optical_flow, resize
from ...ops.chroma_upsampling import Upsampler
from ...ops.optical_flow import FrameLink, Motion, ShotTracker, working_lab
from ...ops.tensors import as_batch, sanitize

LIGHT_CHANGE = 12.0  # change of L along motion at which a frame's own color has weight 1 / e
MIN_WEIGHT = 0.05  # lowest weight of a frame's own color


@dataclass(frozen=True, kw_only=True)
class StabilizerOptions:
    """User options of the stabilizer.

    Raises:
        ValueError: an option is out of range.
    """

    strength: float = 1.0
    """0 leaves the video unchanged, 1 stabilizes the color fully."""
    frames_before: int = 12
    """Number of earlier frames to average over. More is steadier but reacts later to light."""
    frames_after: int = 8
    """Number of later frames to average over; the output is delayed by as many frames."""
    resolution: int = 256
    """Working resolution for motion and chroma: square root of the area in pixels."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("strength", 0, 1),
            ("frames_before", 1, 240),
            ("frames_after", 0, 64),
            ("resolution", 16, 1024),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")

    @property
    def decay(self) -> float:
        """Fraction of the accumulated weight that is kept from one frame to the next."""
        return self.frames_before / (self.frames_before + 1)


class Accumulated(NamedTuple):
    """Running mean of the chroma of a frame at working size."""

    ab: Tensor
    """(1, 2, h, w) mean chroma in Lab units."""
    weight: Tensor
    """(1, 1, h, w) weight of the mean in frames."""


@dataclass(frozen=True)
class StabilizerState:
    """State after a frame, from which another stabilizer can continue; about a megabyte."""

    tracker: ShotTracker
    last: Accumulated
    """Color of the last frame."""
    anchor: Accumulated | None = None
    """Color of the last frame before a possible flash, if the tracker has one."""

    def source(self, gap: int) -> tuple[Tensor, Accumulated]:
        """Return L and color of the frame that a link with this gap continues."""
        if gap > 1 and self.tracker.anchor_L is not None and self.anchor is not None:
            return self.tracker.anchor_L, self.anchor
        return self.tracker.last_L, self.last

    def to(self, device: torch.device | str) -> "StabilizerState":
        """Return a copy on `device`."""
        return self.from_tensors({name: x.to(device) for name, x in self.to_tensors().items()})

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors for a safetensors file."""
        tensors = {"ab": self.last.ab, "weight": self.last.weight}
        if self.anchor is not None:
            tensors |= {"parked.ab": self.anchor.ab, "parked.weight": self.anchor.weight}
        tensors = {name: x.contiguous() for name, x in tensors.items()}
        return self.tracker.to_tensors() | tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "StabilizerState":
        """Restore the state that `to_tensors` returned.

        Raises:
            KeyError: a tensor is missing.
        """
        tracker = ShotTracker.from_tensors(tensors)
        anchor = None
        if tracker.anchor_L is not None:
            anchor = Accumulated(tensors["parked.ab"], tensors["parked.weight"])
        return cls(tracker, Accumulated(tensors["ab"], tensors["weight"]), anchor)


@dataclass
class _BufferedFrame:
    """Frame that waits for later frames."""

    number: int
    rgb: Tensor
    """(1, 3 or 4, H, W) input frame."""
    L: Tensor
    """(1, 1, h, w) lightness at working size."""
    observed: Tensor
    """(1, 2, h, w) chroma of the frame itself at working size."""
    weight: Tensor
    """(1, 1, h, w) weight of `observed`."""
    accumulated: Accumulated
    """Mean over this frame and earlier ones."""
    state: StabilizerState
    """State after this frame."""
    link: FrameLink | None
    """Link to the earlier frame whose color was propagated to this one."""


class Stabilizer:
    """Stabilize the color of a video frame by frame, with a delay of `frames_after` frames.

    The result does not depend on how the frames are divided among calls of `push`. A stabilizer
    that starts from the state of another one continues its work; only the last `frames_after`
    frames of the first one then lack the contribution of later frames.

    Args:
        options: see `StabilizerOptions`.
        device: where to compute.
        state: state of the stabilizer that processed the previous part of the video.
        check_interrupt: called before each frame; may raise to stop.
    Attributes:
        state: state after the last frame that was pushed; None before the first one.
        committed_state: state after the last frame that was returned. A stabilizer that starts from
            it and receives the frames after that one again gives exactly the same result.
        cuts: numbers of the frames that begin a shot, counted from the start of the video.
    """

    def __init__(
        self,
        options: StabilizerOptions | None = None,
        *,
        device: torch.device | str = "cpu",
        state: StabilizerState | None = None,
        check_interrupt: Callable[[], None] | None = None,
    ):
        self.options = options or StabilizerOptions()
        self.device = torch.device(device)
        self.state = self.committed_state = state and state.to(self.device)
        self.cuts: list[int] = []
        self._check_interrupt = check_interrupt
        self._buffer: deque[_BufferedFrame] = deque()

    @torch.inference_mode()
    def push(self, frames: Tensor) -> Tensor:
        """Add frames and return those that are finished.

        Args:
            frames: (T, H, W, C) sRGB in 0..1, C of 3 or 4; alpha is kept.
        Returns:
            (N, H, W, C) finished frames in order; N may be 0.
        Raises:
            ValueError: the frames are gray or have another size than the previous ones.
        """
        frames, _ = as_batch(frames, "video")
        if frames.shape[-1] == 1:
            raise ValueError("the video is gray (one channel) and has no color to stabilize.")
        finished = []
        for frame in frames.split(1):
            if self._check_interrupt:
                self._check_interrupt()
            self._ingest(frame)
            if len(self._buffer) > self.options.frames_after:
                finished.append(self._emit())
        return torch.cat(finished) if finished else frames[:0]

    @torch.inference_mode()
    def finish(self) -> Iterator[Tensor]:
        """Yield the frames (1, H, W, C) that still wait for later ones."""
        while self._buffer:
            yield self._emit()

    def _ingest(self, frame: Tensor) -> None:
        """Append a frame to the buffer with the color propagated from earlier frames."""
        rgb = sanitize(frame.movedim(-1, 1), "video")
        L, observed = working_lab(rgb[:, :3], self.options.resolution, self.device)
        previous = self.state
        if previous is None:
            number, link, tracker = 0, None, ShotTracker(L)
        else:
            number = previous.tracker.frame_count
            link, tracker = previous.tracker.advance(L)
        weight = torch.ones_like(L)
        accumulated, anchor = Accumulated(observed, weight), None
        if link is None or previous is None:
            self.cuts.append(number)
        else:
            if link.gap > 1:  # the frames in between were a flash, not a shot
                self.cuts = [cut for cut in self.cuts if cut <= number - link.gap]
            source_L, source = previous.source(link.gap)
            weight, accumulated = self._accumulate(L, observed, source_L, source, link.backward)
        if tracker.anchor_L is not None and previous is not None:
            new_anchor = tracker.anchor_L is previous.tracker.last_L
            anchor = previous.last if new_anchor else previous.anchor
        self.state = StabilizerState(tracker, accumulated, anchor)
        self._buffer.append(
            _BufferedFrame(number, rgb, L, observed, weight, accumulated, self.state, link)
        )

    def _accumulate(
        self, L: Tensor, observed: Tensor, source_L: Tensor, source: Accumulated, backward: Motion
    ) -> tuple[Tensor, Accumulated]:
        """Return the weight of a frame's own chroma and its mean with the source's color."""
        warped = optical_flow.warp(torch.cat([source_L, *source], dim=1), backward.flow)
        warped_L, ab, accumulated_weight = warped.split([1, 2, 1], dim=1)
        # A change of light on the same content, such as a flicker or a flash, changes its color
        # only for a moment, so the frame's own color counts less.
        light_change = optical_flow.gaussian_blur(L - warped_L, optical_flow.CONTRAST_SIGMA)
        weight = (-(light_change / LIGHT_CHANGE).square()).exp()
        weight = torch.lerp(torch.ones_like(L), weight, backward.confidence).clamp_min(MIN_WEIGHT)
        accumulated_weight = self._discount(accumulated_weight, backward.confidence)
        total = accumulated_weight + weight
        return weight, Accumulated((accumulated_weight * ab + weight * observed) / total, total)

    def _discount(self, weight: Tensor, confidence: Tensor) -> Tensor:
        """Decay accumulated weight and limit it by the odds of the motion being right."""
        odds = (confidence / (1 - confidence).clamp_min(1e-3)).square()
        weight = self.options.decay * weight
        return weight * odds / (weight + odds).clamp_min(1e-9)

    def _emit(self) -> Tensor:
        """Remove the first buffered frame and stabilize it with the frames after it."""
        frame = self._buffer.popleft()
        chain: list[tuple[_BufferedFrame, Motion]] = []
        last_number = frame.number
        for later in self._buffer:
            if later.link is not None and later.number - later.link.gap == last_number:
                chain.append((later, later.link.forward))
                last_number = later.number
        later_ab, later_weight = torch.zeros_like(frame.observed), torch.zeros_like(frame.weight)
        for later, forward in reversed(chain):
            total = later_weight + later.weight
            later_ab = (later_weight * later_ab + later.weight * later.observed) / total
            warped = optical_flow.warp(torch.cat([later_ab, total], dim=1), forward.flow)
            later_ab, total = warped.split([2, 1], dim=1)
            later_weight = self._discount(total, forward.confidence)
        mean, weight = frame.accumulated
        stable = (weight * mean + later_weight * later_ab) / (weight + later_weight)
        self.committed_state = frame.state
        change = self.options.strength * (stable - frame.observed)
        return self._add_chroma(frame.rgb, frame.L, change)

    def _add_chroma(self, rgb: Tensor, L: Tensor, change: Tensor) -> Tensor:
        """Add a change of chroma at working size to (1, C, H, W); return (1, H, W, C)."""
        out = rgb.clone()
        height, width = rgb.shape[2:]
        upsampler = Upsampler(change, L, (height, width))
        for top, bottom in resize.row_ranges(height, width):
            rows = rgb[:, :3, top:bottom].to(self.device, torch.float32)
            lab = color.rgb_to_lab(rows)
            row_change = upsampler.rows(top, bottom, lab[:, :1])
            changed = color.to_gamut(torch.cat([lab[:, :1], lab[:, 1:] + row_change], dim=1))
            unchanged = (row_change == 0).all(1, keepdim=True)
            out[:, :3, top:bottom] = torch.where(unchanged, rows, changed)
        return out.movedim(1, -1)
