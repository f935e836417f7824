"""Turn predicted chroma into the output image: the photo's own lightness at full size.

Every colorizer ends here. `Finish` holds the controls that users see, `ExactRenderer` applies them,
and `select_renderer` decides between it and the renderer of the network's official program.
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from ..model_defs.rendering import Renderer, WorkingImage
from ..model_defs.spec import Spec
from ..ops import color, resize
from ..ops.chroma_upsampling import METHODS, Upsampler
from ..ops.resize import Geometry
from .looks import DEFAULT as DEFAULT_LOOK
from .looks import Look, find_look, limit_chroma

# With `keep_color`: C* up to which existing color counts as gray, and from which it is kept fully.
GRAY_CHROMA, KEPT_CHROMA = 4.0, 14.0
FINISHES = ("exact", "published")
"""Choices of `finish` in nodes and on the command line; see `finish_choice`."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Controls shared by all colorizers."""

    strength: float = 1.0
    """0 leaves the photo as it is, 1 applies the new color fully."""
    saturation: float = 1.0
    """Factor on the predicted chroma, 0 to 4."""
    look: Look | str = DEFAULT_LOOK
    """Color grading of the new color: a `Look`, or the name of an available one."""
    chroma_ceiling: float = 0.0
    """Soft limit for the chroma C* of the new color, 0 to 200; 0 = no limit."""
    fade: float = 0.0
    """Chroma C* that is reduced by half, 0 to 50. Weaker, less certain color fades to neutral,
    stronger color stays. 0 = off."""
    keep_color: float = 0.0
    """How far color that the photo already has is kept, 0 to 1."""
    upsample: str = METHODS[0]
    """Method that brings chroma to full size."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("strength", 0, 1),
            ("saturation", 0, 4),
            ("chroma_ceiling", 0, 200),
            ("fade", 0, 50),
            ("keep_color", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")
        if isinstance(self.look, str):
            object.__setattr__(self, "look", find_look(self.look))
        if self.upsample not in METHODS:
            raise ValueError(
                f"upsample is '{self.upsample}'; expected one of {', '.join(METHODS)}."
            )


FinishOption = Finish | Literal["published"] | None
"""Values of `finish` in Python: controls, "published", or None for the default controls."""


@dataclass(frozen=True)
class ExactRenderer:
    """Keep size, aspect ratio and lightness of the photo; see `Renderer` for the methods."""

    finish: Finish = Finish()

    adjustable = True

    def geometry(self, height: int, width: int, resolution: int, multiple: int) -> Geometry:
        """Return a working geometry that keeps the aspect ratio."""
        return resize.working_geometry(height, width, resolution, multiple)

    def reference_geometry(
        self, height: int, width: int, target: Geometry, *, multiple: int, aligned: bool
    ) -> Geometry:
        """Return the geometry of a reference: the target's area, or its exact size if `aligned`.

        References are not padded. They are stretched by a few pixels to a multiple instead.
        """
        if aligned:
            h, w = target.padded_height, target.padded_width
        else:
            side = round((target.scaled_height * target.scaled_width) ** 0.5)
            fitted = resize.working_geometry(height, width, max(side, multiple), multiple)
            h, w = (
                max(multiple, multiple * round(length / multiple))
                for length in (fitted.scaled_height, fitted.scaled_width)
            )
        return Geometry(height, width, h, w, h, w)

    def output_shape(
        self, height: int, width: int, channels: int, geometry: Geometry
    ) -> tuple[int, int, int]:
        """Return the photo's shape."""
        return height, width, channels

    def preprocess(
        self, rgb: Tensor, geometry: Geometry, device: torch.device | str
    ) -> WorkingImage:
        """Scale with antialiasing, strip by strip."""
        return WorkingImage.from_rgb(resize.downscale(rgb, geometry, device))

    def rgb_to_lab(self, rgb: Tensor) -> Tensor:
        """Convert to Lab (D65)."""
        return color.rgb_to_lab(rgb)

    def render(
        self, rgb: Tensor, working: WorkingImage, ab: Tensor, out: Tensor, mask: Tensor | None
    ) -> None:
        """See `apply_finish`."""
        apply_finish(rgb, ab, working.L, self.finish, out, mask)


def select_renderer(finish: FinishOption, spec: Spec) -> Renderer:
    """Return the renderer for a value of `finish` and a network.

    Raises:
        ValueError: `finish` has another value, or the network has no official program.
    """
    if finish is None or isinstance(finish, Finish):
        return ExactRenderer(finish or Finish())
    if finish != "published":
        raise ValueError(f"finish is {finish!r}; expected a Finish or 'published'.")
    if spec.official is None:
        raise ValueError(
            f"finish is 'published', but {spec.architecture} networks have no official program to "
            "reproduce; expected a Finish."
        )
    return spec.official


def finish_choice(name: str, controls: Finish) -> FinishOption:
    """Return the value of `finish` for a user's choice of FINISHES: exact applies `controls`.

    Raises:
        ValueError: unknown name.
    """
    options: dict[str, FinishOption] = {"exact": controls, "published": "published"}
    if name not in options:
        raise ValueError(f"finish is '{name}'; expected {' or '.join(FINISHES)}.")
    return options[name]


def apply_finish(
    rgb: Tensor, ab: Tensor, L: Tensor, finish: Finish, out: Tensor, mask: Tensor | None = None
) -> None:
    """Combine full-size lightness with working-size chroma, strip by strip, into `out`.

    Args:
        rgb: (B, 3, H, W) sRGB in 0..1 on any device; its lightness is kept.
        ab: (B, 2, h, w) predicted chroma of the working image, on the device that computes.
        L: (B, 1, h, w) lightness of the working image.
        finish: user controls.
        out: (B, 3, H, W) on any device; overwritten.
        mask: (B or 1, H, W) in 0..1, 1 = use the new color; None = everywhere.
    """
    batch, _, height, width = rgb.shape
    upsampler = Upsampler(adjust_chroma(ab, L, finish), L, (height, width), finish.upsample)
    for top, bottom in resize.row_ranges(height, width, batch):
        strip = rgb[:, :, top:bottom].to(ab.device, torch.float32).contiguous()
        strip_mask = (
            None if mask is None else mask[:, None, top:bottom].to(ab.device, torch.float32)
        )
        out[:, :, top:bottom] = _compose(strip, upsampler, top, finish, strip_mask)


def _compose(
    rgb: Tensor, upsampler: Upsampler, top: int, finish: Finish, mask: Tensor | None
) -> Tensor:
    """Color one strip (B, 3, n, W) that starts at row `top`: equal lightness, within the gamut."""
    bottom = top + rgb.shape[2]
    if finish.strength == 1 and not finish.keep_color and mask is None:
        L = color.lightness(rgb)
        return color.to_gamut(torch.cat([L, upsampler.rows(top, bottom, L)], dim=1))
    lab = color.rgb_to_lab(rgb)
    L, photo_ab = lab[:, :1], lab[:, 1:]
    weight = torch.full_like(L, finish.strength)
    if mask is not None:
        weight = weight * mask.clamp(0, 1)
    if finish.keep_color:
        colored = (color.chroma(photo_ab) - GRAY_CHROMA) / (KEPT_CHROMA - GRAY_CHROMA)
        weight = weight * (1 - finish.keep_color * colored.clamp(0, 1))
    ab = torch.lerp(photo_ab, upsampler.rows(top, bottom, L), weight)
    result = color.to_gamut(torch.cat([L, ab], dim=1))
    return torch.where(weight > 0, result, rgb)


def suppress_low_chroma(ab: Tensor, half_chroma: float) -> Tensor:
    """Reduce weak chroma: C* becomes C*^3 / (C*^2 + half_chroma^2).

    A network trained with a squared error predicts the mean of all plausible colors, so uncertain
    colors come out close to gray. The remaining tint is wrong more often than right
    (docs/development/training-log.md).

    Args:
        ab: (B, 2, h, w) in Lab units.
        half_chroma: C* that is reduced by half; 0 = off.
    """
    if not half_chroma:
        return ab
    square = ab.square().sum(1, keepdim=True)
    return ab * (square / (square + half_chroma**2))


def adjust_chroma(ab: Tensor, L: Tensor, finish: Finish) -> Tensor:
    """Apply fade, saturation, look and chroma ceiling to ab (B, 2, h, w); L is (B, 1, h, w)."""
    ab = suppress_low_chroma(ab, finish.fade) * finish.saturation
    ab = cast(Look, finish.look).apply(ab, L)
    if not finish.chroma_ceiling:
        return ab
    return limit_chroma(ab, finish.chroma_ceiling)
