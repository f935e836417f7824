"""Colorizers of the frames of one video, in order, and what they need to resume."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..automatic import Colorizer
from ..by_hints import PointHintColorizer
from ..by_reference import ExemplarColorizer
from ..hints.schema import AnyHint, HintInput, dump_hints, parse_hints
from ..hints.tracking import HintTracker
from ..loader import AnyColorizer
from ..postprocess import Finish, FinishOption

ResumeTensors: TypeAlias = dict[str, Tensor]
"""Tensors by name that a resumed run needs to continue behind a frame."""
Images: TypeAlias = Tensor | np.ndarray


@runtime_checkable
class FrameColorizer(Protocol):
    """Colorizes the frames of one video, in order."""

    device: torch.device
    """Where to stabilize the frames."""
    settings: Mapping[str, object]
    """Everything that changes the result, as values that JSON can hold."""

    def colorize_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[ResumeTensors]]:
        """Colorize the next frames (B, H, W, 3), sRGB in 0..1.

        Returns:
            the colorized frames; for each of them, what `restore` needs to continue behind it.
        """
        ...

    def restore(self, tensors: ResumeTensors, number: int) -> None:
        """Continue at frame `number` with the tensors returned for the frame before it."""


@dataclass
class IndependentFrames:
    """Colorizes each frame on its own. See `FrameColorizer`."""

    colorize: Callable[[np.ndarray], Images]
    """(B, H, W, 3) -> the same, colorized."""
    device: torch.device
    settings: Mapping[str, object]

    def colorize_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[ResumeTensors]]:
        """See `FrameColorizer`."""
        return np.asarray(self.colorize(frames)), [{} for _ in frames]

    def restore(self, tensors: ResumeTensors, number: int) -> None:
        """See `FrameColorizer`; there is nothing to restore."""


class HintedFrames:
    """Colorizes a video by hint points that follow what they lie on. See `FrameColorizer`."""

    def __init__(
        self,
        colorize: Callable[[np.ndarray, list[list[AnyHint]]], Images],
        keyframes: Mapping[int, list[AnyHint]],
        device: torch.device,
        settings: Mapping[str, object],
    ) -> None:
        """Start at frame 0.

        Args:
            colorize: (frames, hints of each frame) -> colorized frames.
            keyframes: frame number -> hints of that frame, which replace all earlier ones.
            device: where to track the hints.
            settings: see `FrameColorizer`.
        """
        self.device, self.settings = device, settings
        self._keyframes, self._colorize = keyframes, colorize
        self._number, self._tracker = 0, HintTracker(device=device)

    def colorize_frames(self, frames: np.ndarray) -> tuple[np.ndarray, list[ResumeTensors]]:
        """See `FrameColorizer`."""
        hints, states = [], []
        for frame in frames:
            if self._number in self._keyframes:
                self._tracker.replace(self._keyframes[self._number])
            hints.append(self._tracker.track(torch.from_numpy(frame).movedim(-1, 0)[None]))
            states.append(self._tracker.to_tensors())
            self._number += 1
        return np.asarray(self._colorize(frames, hints)), states

    def restore(self, tensors: ResumeTensors, number: int) -> None:
        """See `FrameColorizer`."""
        self._tracker = HintTracker.from_tensors(tensors, self.device)
        self._number = number


def frame_colorizer(
    engine: AnyColorizer,
    *,
    finish: FinishOption = None,
    resolution: int | None = None,
    mask: Images | None = None,
    reference: Images | Sequence[Images] | None = None,
    hints: HintInput | Mapping[int, HintInput] = None,
) -> FrameColorizer:
    """Return a frame colorizer for an engine of any role. See `job.colorize_video`.

    Raises:
        ValueError: `reference` or `hints` do not belong to the role of the engine.
    """
    role, device = engine.spec.role, engine.device_manager.device
    for name, value, needed in (
        ("reference", reference, "exemplar"),
        ("hints", hints, "pointhint"),
    ):
        if value is not None and role != needed:
            raise ValueError(
                f"{engine.name} is a model with the role '{role}'; it accepts no `{name}`."
            )
    memory = engine.memory if isinstance(engine, Colorizer) else None
    settings: dict[str, object] = {
        "engine": [engine.name, str(engine.dtype), json.dumps(engine.info, default=str)],
        "memory": _digest([memory.keys, memory.values]) if memory else None,
        "finish": repr(finish),
        "resolution": resolution,
        "mask": _digest([mask]) if mask is not None else None,
    }
    if isinstance(engine, PointHintColorizer):
        controls = finish if isinstance(finish, Finish) else None
        if finish is not controls:
            raise ValueError(f"{engine.name}: finish is {finish!r}; expected a Finish.")
        keyframes = _keyframes(hints)
        settings["hints"] = {number: dump_hints(each) for number, each in keyframes.items()}
        return HintedFrames(
            lambda frames, hints: engine.colorize(
                frames, hints_per_image=hints, finish=controls, resolution=resolution, mask=mask
            ),
            keyframes,
            device,
            settings,
        )
    if isinstance(engine, ExemplarColorizer):
        if reference is None:
            raise ValueError(
                f"{engine.name} is a model with the role '{role}'; it needs `reference`."
            )
        images = [reference] if isinstance(reference, Tensor | np.ndarray) else list(reference)
        settings["reference"] = _digest(images)
        references = engine.prepare_references(images)
        return IndependentFrames(
            lambda frames: engine.colorize(
                frames, reference=references, finish=finish, resolution=resolution, mask=mask
            ),
            device,
            settings,
        )
    return IndependentFrames(
        lambda frames: engine.colorize(frames, finish=finish, resolution=resolution, mask=mask),
        device,
        settings,
    )


def _keyframes(hints: HintInput | Mapping[int, HintInput]) -> dict[int, list[AnyHint]]:
    """Return frame number -> hints; hints without number are those of the first frame."""
    if isinstance(hints, Mapping) and all(isinstance(key, int) for key in hints):
        keyframes = cast("Mapping[int, HintInput]", hints)
        return {number: parse_hints(each) for number, each in keyframes.items()}
    return {0: parse_hints(cast("HintInput", hints))}


def _digest(images: Sequence[Images]) -> str:
    """Return the SHA-256 of images or other tensors, with their shapes and dtypes."""
    digest = hashlib.sha256()
    for image in images:
        array = np.ascontiguousarray(torch.as_tensor(image).cpu().numpy())
        digest.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()
