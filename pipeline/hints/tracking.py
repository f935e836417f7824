"""Carry hints from frame to frame of a video along the motion of what they mark."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import color
from ...ops.gaussian_process import CELL
from ...ops.optical_flow import Motion, ShotTracker, working_lab
from .schema import (
    MAX_POINTS,
    AnyHint,
    Hint,
    MaskRegion,
    Position,
    Region,
    Stroke,
    dump_hints,
    parse_hints,
)

RESOLUTION = 256  # square root of the area at which motion is estimated
MIN_CONFIDENCE = 0.3  # motion confidence below which a hint counts as hidden
GRID = 16  # hints along a key frame's shorter side
MAX_DEVIATION = 8.0  # standard deviation of chroma above which a cell lies on an edge


class HintTracker:
    """Track hints through the frames of a video, in order.

    A point disappears when its content is hidden or leaves the frame; all hints disappear at a cut.
    A stroke loses such vertices and falls into parts there; a polygon loses them, and disappears
    with fewer than three. The reach of hints stays.
    A flash of a few frames has no hints, and the frames after it continue with those before it.

    Args:
        hints: hints of the first frame.
        device: where to compute.
    """

    def __init__(self, hints: Sequence[AnyHint] = (), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._replacement: list[AnyHint] | None = list(hints)
        self._shot: ShotTracker | None = None
        self._current: list[AnyHint] = []
        self._before_flash: list[AnyHint] = []

    def replace(self, hints: Sequence[AnyHint]) -> None:
        """Use `hints` instead of all others from the next frame on."""
        self._replacement = list(hints)

    @torch.inference_mode()
    def track(self, rgb: Tensor) -> list[AnyHint]:
        """Return the hints of the next frame.

        Args:
            rgb: (1, 3, H, W) sRGB in 0..1.
        Raises:
            ValueError: the frame has another size than the previous ones.
        """
        L, _ = working_lab(rgb, RESOLUTION, self.device)
        hints: list[AnyHint] = []
        if self._shot is None:
            self._shot = ShotTracker(L)
        else:
            previous = self._shot
            link, self._shot = previous.advance(L)
            if link is not None:
                source = self._current if link.gap == 1 else self._before_flash
                hints = _move_hints(source, link.forward)
            if self._shot.anchor_L is not None and self._shot.anchor_L is previous.last_L:
                self._before_flash = self._current
        if self._replacement is not None:
            hints, self._replacement = self._replacement, None
        self._current = hints
        return hints

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors for a safetensors file."""
        lists = [self._current, self._before_flash, self._replacement]
        text = json.dumps([None if hints is None else dump_hints(hints) for hints in lists])
        tensors = {"hints": torch.tensor(list(text.encode()), dtype=torch.uint8)}
        return tensors if self._shot is None else tensors | self._shot.to_tensors()

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> "HintTracker":
        """Restore the state that `to_tensors` returned."""
        tracker = cls(device=device)
        current, before_flash, replacement = (
            # Version 1.0.0 stored a list of points
            None if hints is None else parse_hints(hints)
            for hints in json.loads(bytes(tensors["hints"].tolist()))
        )
        tracker._current, tracker._before_flash = current or [], before_flash or []
        tracker._replacement = replacement
        if "L" in tensors:
            tracker._shot = ShotTracker.from_tensors(tensors, device)
        return tracker


def _move_hints(hints: Sequence[AnyHint], motion: Motion) -> list[AnyHint]:
    """Return hints at their new positions, without what is hidden or outside the frame."""
    positions = [position for hint in hints for position in _positions(hint)]
    if not positions:
        return []
    h, w = motion.flow.shape[2:]
    old = torch.tensor(positions, device=motion.flow.device)
    maps = torch.cat([motion.flow, motion.confidence], dim=1)
    grid = 2 * old[None, None] - 1
    samples = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, :, 0].T
    new = old + samples[:, :2] / old.new_tensor([w, h])
    visible = (samples[:, 2] > MIN_CONFIDENCE) & (new >= 0).all(1) & (new <= 1).all(1)
    rows = zip(new.tolist(), visible.tolist(), strict=True)
    moved = iter([(x, y) if is_visible else None for (x, y), is_visible in rows])
    return [
        part for hint in hints for part in _move_hint(hint, [next(moved) for _ in _positions(hint)])
    ]


def _positions(hint: AnyHint) -> Sequence[Position]:
    if isinstance(hint, Hint):
        return [(hint.x, hint.y)]
    if isinstance(hint, MaskRegion):
        raise ValueError("a region with a mask cannot follow motion; use a polygon.")
    return hint.points


def _move_hint(hint: AnyHint, moved: Sequence[Position | None]) -> list[AnyHint]:
    """Return what is left of a hint, given its new positions; None = lost."""
    visible = [position for position in moved if position is not None]
    if isinstance(hint, Hint):
        return [replace(hint, x=x, y=y) for x, y in visible]
    if isinstance(hint, Region):
        return [replace(hint, points=visible)] if len(visible) >= 3 else []
    if isinstance(hint, Stroke):
        groups = groupby(moved, lambda position: position is None)
        runs = [[p for p in run if p is not None] for lost, run in groups if not lost]
        shortest = min(2, len(moved))  # a rest of one vertex would be a dot
        return [replace(hint, points=run) for run in runs if len(run) >= shortest]
    return []


def hints_from_image(rgb: Tensor) -> list[Hint]:
    """Derive hints from a colored key frame: one per grid cell of nearly constant chroma.

    Args:
        rgb: (1, 3, H, W) sRGB in 0..1.
    """
    height, width = rgb.shape[2:]
    step = max(CELL, min(height, width) / GRID, math.sqrt(height * width / (MAX_POINTS / 2)))
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    ab = color.rgb_to_lab(rgb.float())[:, 1:]
    mean = F.adaptive_avg_pool2d(ab, (rows, columns))
    mean_square = F.adaptive_avg_pool2d(ab.square(), (rows, columns))
    deviation = (mean_square - mean.square()).clamp_min(0).sum(1).sqrt()[0]
    lab = torch.cat([torch.full_like(mean[:, :1], 60), mean], dim=1)
    levels = (color.to_gamut(lab)[0].movedim(0, -1) * 255).round().int().tolist()
    return [
        Hint((j + 0.5) / columns, (i + 0.5) / rows, "#{:02x}{:02x}{:02x}".format(*level))
        for i, row in enumerate(levels)
        for j, level in enumerate(row)
        if deviation[i, j] < MAX_DEVIATION
    ]
