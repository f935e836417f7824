"""What the pipeline must know about a network, so that it never asks which architecture it is."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Facts about one network that its caller needs."""

    architecture: str
    """Name in the registry."""
    role: Literal["automatic", "exemplar", "pointhint"]
    """Which wire it travels on."""
    model_input: Literal["gray_rgb", "L"]
    """What the network takes: grey RGB in 0..1, or L in 0..100."""
    multiple: int
    """Height and width of the working image are padded to multiples of this."""
    resolution: int
    """Default working resolution: square root of the working image's area, in pixels."""
    activation_bytes_per_pixel: int
    """Peak of one float32 forward pass, per working pixel; scaled by the dtype's size."""
