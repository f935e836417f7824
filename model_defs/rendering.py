"""Interface between predicted chroma and the output image.

The pipeline runs preprocess -> predict ab -> render. A renderer owns the first and the last step.
`pipeline.postprocess.ExactRenderer` is the normal one. Subclasses of `OfficialRenderer`, in the
NAME_official modules beside the architectures, reproduce the output of a network's official
program for comparison and are set as `Spec.official`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..ops import color, resize
from ..ops.resize import Geometry


class WorkingImage(NamedTuple):
    """Batch of working images before padding, on the device that computes."""

    rgb: Tensor
    """(B, 3, h, w) float32 sRGB in 0..1."""
    L: Tensor
    """(B, 1, h, w) lightness in 0..100."""

    @classmethod
    def from_rgb(cls, rgb: Tensor) -> "WorkingImage":
        """Return the working image of `rgb` (B, 3, h, w)."""
        return cls(rgb, color.lightness(rgb))


class Renderer(Protocol):
    """First and last step of colorization: preprocess photos and render predicted chroma."""

    @property
    def adjustable(self) -> bool:
        """True if masks, fallback colorizers and transparent references are supported."""
        ...

    def geometry(self, height: int, width: int, resolution: int, multiple: int) -> Geometry:
        """Return the working geometry of a photo; ValueError for an unusable resolution."""
        ...

    def reference_geometry(
        self, height: int, width: int, target: Geometry, *, multiple: int, aligned: bool
    ) -> Geometry:
        """Return the geometry of a reference image of `height` x `width`.

        Args:
            target: geometry of the photos to color.
            multiple, aligned: from the network's `Spec`.
        """
        ...

    def output_shape(
        self, height: int, width: int, channels: int, geometry: Geometry
    ) -> tuple[int, int, int]:
        """Return (height, width, channels) of the result for a photo of the given shape."""
        ...

    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """Scale photos (B, 3, H, W) in 0..1 from any device to the working size on `device`."""
        ...

    def rgb_to_lab(self, rgb: Tensor) -> Tensor:
        """Convert preprocessed references (B, 3, h, w) to Lab."""
        ...

    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """Write the result into `out`.

        Args:
            rgb: (B, 3, H, W) photos in 0..1, on any device.
            working: result of `preprocess`.
            ab: (B, 2, h, w) predicted chroma in Lab units, on the device that computes.
            out: (B, 3, H', W') of `output_shape`, on any device.
            mask: (B or 1, H, W) in 0..1, 1 = use the new color; None = everywhere.
        """
        ...


@dataclass(frozen=True)
class OfficialRenderer(ABC):
    """Reproduce the output image of a network's official program.

    Images are squashed to a square working image. The result has the working size and no alpha
    unless a subclass overrides `output_shape`. Renderers hold no state: two of one class are equal.
    """

    adjustable = False

    def geometry(self, height: int, width: int, resolution: int, multiple: int) -> Geometry:
        """See `Renderer.geometry`."""
        return resize.squashed_geometry(height, width, resolution, multiple)

    def reference_geometry(
        self, height: int, width: int, target: Geometry, *, multiple: int, aligned: bool
    ) -> Geometry:
        """See `Renderer.reference_geometry`."""
        return resize.squashed_geometry(height, width, target.scaled_height, multiple)

    def output_shape(
        self, height: int, width: int, channels: int, geometry: Geometry
    ) -> tuple[int, int, int]:
        """See `Renderer.output_shape`."""
        return geometry.scaled_height, geometry.scaled_width, 3

    @abstractmethod
    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """See `Renderer.preprocess`."""

    def rgb_to_lab(self, rgb: Tensor) -> Tensor:
        """See `Renderer.rgb_to_lab`."""
        return color.rgb_to_lab(rgb)

    @abstractmethod
    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """See `Renderer.render`; `mask` is None because official programs support no masks."""
