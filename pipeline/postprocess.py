"""From predicted chroma to the finished picture: the photo's own lightness, at full size.

Every engine ends here. `Finish` holds the controls a user sees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import color
from ..ops.chroma_upsampling import METHODS, Upsampler
from ..ops.resize import strips

# C* between which existing colour counts as grey (0) ... as colour (1)
KEEP_FROM, KEEP_TO = 4.0, 14.0


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Controls shared by all engines."""

    strength: float = 1.0
    """0 leaves the photo as it is, 1 gives the full new colour."""
    saturation: float = 1.0
    """Factor on the predicted chroma, 0..4."""
    chroma_ceiling: float = 0.0
    """Largest C* of the new colour, bent softly; 0 = no ceiling."""
    fade: float = 0.0
    """C* of the predicted colour of which half is left; weaker, more doubtful colour goes to
    neutral, stronger stays. 0 = none fades."""
    keep_color: float = 0.0
    """How much colour the photo already has is kept where it has any, 0..1."""
    upsample: str = METHODS[0]
    """How chroma is brought to full size."""

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
        if self.upsample not in METHODS:
            raise ValueError(
                f"upsample is '{self.upsample}'; expected one of {', '.join(METHODS)}."
            )


def apply_finish(
    rgb: Tensor, ab: Tensor, L: Tensor, controls: Finish, out: Tensor, mask: Tensor | None = None
) -> None:
    """Join full-size lightness with working-size chroma, strip by strip, into `out`.

    Args:
        rgb: (B, 3, H, W) sRGB in 0..1, on any device; its L is kept.
        ab: (B, 2, h, w) predicted chroma of the working image, on the device that computes.
        L: (B, 1, h, w) lightness of the working image.
        controls: see `Finish`.
        out: (B, 3, H, W), written; any device.
        mask: (B or 1, H, W) in 0..1, 1 = take the new colour; None = everywhere.
    """
    ab = shape_chroma(ab, controls)
    upsampler = Upsampler(ab, L, rgb.shape[2:], controls.upsample)
    for top, bottom in strips(*rgb.shape[2:], rgb.shape[0]):
        rows = rgb[:, :, top:bottom].to(ab.device, torch.float32).contiguous()
        rows_mask = None if mask is None else mask[:, None, top:bottom].to(ab.device, torch.float32)
        out[:, :, top:bottom] = compose(rows, upsampler, top, controls, rows_mask)


def compose(
    rgb: Tensor, upsampler: Upsampler, top: int, controls: Finish, mask: Tensor | None
) -> Tensor:
    """One strip: (B, 3, n, W) sRGB rows from `top` on -> the same, coloured: equal L, in gamut."""
    plain = controls.strength == 1 and not controls.keep_color and mask is None
    if plain:
        L = color.lightness(rgb)
        ab = upsampler.rows(top, top + rgb.shape[2], L)
        return color.to_gamut(torch.cat([L, ab], dim=1))
    lab = color.rgb_to_lab(rgb)
    L, own = lab[:, :1], lab[:, 1:]
    weight = torch.full_like(L, controls.strength)
    if mask is not None:
        weight = weight * mask.clamp(0, 1)
    if controls.keep_color:
        has_color = ((color.chroma(own) - KEEP_FROM) / (KEEP_TO - KEEP_FROM)).clamp(0, 1)
        weight = weight * (1 - controls.keep_color * has_color)
    ab = torch.lerp(own, upsampler.rows(top, top + rgb.shape[2], L), weight)
    colored = color.to_gamut(torch.cat([L, ab], dim=1))
    return torch.where(weight > 0, colored, rgb)


def faded(ab: Tensor, fade: float) -> Tensor:
    """Chroma (B, 2, h, w) without what is weak: C* becomes C*^3 / (C*^2 + fade^2).

    A network that has learned by the squared error answers with the mean of the colours that it
    holds possible: the less it knows, the nearer to grey. What is left of many colours is a tint
    that is wrong more often than right (docs/training-log.md).
    """
    if not fade:
        return ab
    square = ab.square().sum(1, keepdim=True)
    return ab * (square / (square + fade**2))


def shape_chroma(ab: Tensor, controls: Finish) -> Tensor:
    """Fade, saturation, ceiling on (B, 2, h, w): hue stays, C* is bent, scaled, bent again."""
    ab = faded(ab, controls.fade) * controls.saturation
    if not controls.chroma_ceiling:
        return ab
    c = color.chroma(ab)
    ceiling = controls.chroma_ceiling
    return ab * (ceiling * torch.tanh(c / ceiling) / c.clamp_min(1e-6))
