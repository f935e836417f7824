"""Hints of one frame of a film for the frames after it: each goes with what it lies on."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import color, optical_flow
from ...ops.gaussian_process import CELL
from ...ops.optical_flow import small_lab
from .schema import MOST, Hint

RESOLUTION = 256  # square root of the area at which motion is looked for
TRUST = 0.3  # below it a hint is out of sight
GRID = 16  # hints along a key frame's shorter side
EVEN = 8.0  # deviation of chroma in a cell above which it gives no hint: an edge


class Follower:
    """Takes the frames of a film in order and tells the hints of each.

    A hint whose place is hidden, or leaves the picture, is gone; so are all of them at a cut. A
    flash of a few frames has none, and the frames after it have them again.

    Args:
        hints: of the first frame.
        device: where to compute.
    """

    def __init__(self, hints: Sequence[Hint] = (), device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._new: list[Hint] | None = list(hints)
        self._trail: optical_flow.Trail | None = None
        self._last: list[Hint] = []
        self._parked: list[Hint] = []

    def replace(self, hints: Sequence[Hint]) -> None:
        """Have these in place of all others from the next frame on."""
        self._new = list(hints)

    @torch.inference_mode()
    def next(self, rgb: Tensor) -> list[Hint]:
        """The hints of the next frame (1, 3, H, W), sRGB in 0..1.

        Raises:
            ValueError: a frame of another size than those before.
        """
        L, _ = small_lab(rgb, RESOLUTION, self.device)
        before, hints = self._trail, []
        if before is None:
            self._trail = optical_flow.Trail(L)
        else:
            link, self._trail = before.follow(L)
            if link is not None:
                hints = _moved(self._last if link.gap == 1 else self._parked, link.went)
            if self._trail.parked is not None and self._trail.parked is before.last:
                self._parked = self._last
        if self._new is not None:
            hints, self._new = self._new, None
        self._last = hints
        return hints

    def tensors(self) -> dict[str, Tensor]:
        """All that the frames so far have left, for a safetensors file."""
        lists = [self._last, self._parked, self._new]
        text = json.dumps([one and [asdict(hint) for hint in one] for one in lists])
        found = {"hints": torch.tensor(list(text.encode()), dtype=torch.uint8)}
        if (trail := self._trail) is None:
            return found
        found |= {"L": trail.last, "counts": torch.tensor([trail.since, trail.number])}
        return found if trail.parked is None else found | {"parked.L": trail.parked}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "Follower":
        """One that goes on where those tensors were taken."""
        made = cls(device=device)
        lists = json.loads(bytes(tensors["hints"].tolist()))
        made._last, made._parked, made._new = (
            one if one is None else [Hint(**hint) for hint in one] for one in lists
        )
        made._last, made._parked = made._last or [], made._parked or []
        if "L" in tensors:
            since, number = tensors["counts"].tolist()
            parked = tensors.get("parked.L")
            parked = None if parked is None else parked.to(device)
            made._trail = optical_flow.Trail(tensors["L"].to(device), parked, since, number)
        return made


def _moved(hints: Sequence[Hint], went: optical_flow.Motion) -> list[Hint]:
    """Hints where their places went, without those that are out of sight."""
    if not hints:
        return []
    h, w = went.flow.shape[2:]
    at = torch.tensor([[hint.x, hint.y] for hint in hints], device=went.flow.device)
    told = torch.cat([went.flow, went.trust], dim=1)
    told = F.grid_sample(told, 2 * at[None, None] - 1, padding_mode="border", align_corners=False)[
        0, :, 0
    ].T
    places = at + told[:, :2] / at.new_tensor([w, h])
    seen = (told[:, 2] > TRUST) & (places >= 0).all(1) & (places <= 1).all(1)
    return [
        replace(hint, x=x, y=y)
        for hint, (x, y), yes in zip(hints, places.tolist(), seen.tolist(), strict=True)
        if yes
    ]


def of_picture(rgb: Tensor) -> list[Hint]:
    """Hints from a frame that is in colour: (1, 3, H, W) in 0..1 -> one for each even cell.

    About GRID of them along the shorter side, where colour changes little.
    """
    height, width = rgb.shape[2:]
    step = max(CELL, min(height, width) / GRID, math.sqrt(height * width / (MOST / 2)))
    count = max(1, round(height / step)), max(1, round(width / step))
    ab = color.rgb_to_lab(rgb.float())[:, 1:]
    mean = F.adaptive_avg_pool2d(ab, count)
    square = F.adaptive_avg_pool2d(ab.square(), count)
    deviation = (square - mean.square()).clamp_min(0).sum(1).sqrt()[0]
    lab = torch.cat([torch.full_like(mean[:, :1], 60), mean], dim=1)
    levels = (color.to_gamut(lab)[0].movedim(0, -1) * 255).round().int().tolist()
    return [
        Hint((j + 0.5) / count[1], (i + 0.5) / count[0], "#{:02x}{:02x}{:02x}".format(*level))
        for i, row in enumerate(levels)
        for j, level in enumerate(row)
        if deviation[i, j] < EVEN
    ]
