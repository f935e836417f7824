"""Facts about a network that the pipeline needs, so that it never asks for the architecture."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from torch import Tensor

from .rendering import OfficialRenderer
from .validation import Range, Width, validate_fields

AB_SCALE = 110.0  # Lab units of a network input or output a or b of 1

Role = Literal["automatic", "exemplar", "pointhint"]


@dataclass(frozen=True, kw_only=True)
class MemorySizes:
    """Sizes that a color memory must have to fit a network; the number of entries is free."""

    key_width: Width
    """k: width of a semantic key."""
    groups: Annotated[int, Range(1, 64)]
    """n: colors per entry."""


class MemoryEntries(NamedTuple):
    """Keys and values of a color memory, as a network reads them."""

    keys: Tensor
    """S: (m, k) semantic keys."""
    values: Tensor
    """C_1 ... C_n: (n, m, 2), ab in Lab units."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Facts about one network that its callers need."""

    architecture: str
    """Name in the registry."""
    role: Role
    """Task of the network; decides which node and command accept it."""
    model_input: Literal["gray_rgb", "L", "Lab", "L_hints"]
    """Input of the network.

    - gray_rgb: gray RGB in 0..1.
    - L: lightness in 0..100.
    - Lab: L / 50 - 1 three times for the target; L / 50 - 1, a / 110, b / 110 for references.
    - L_hints: L / 50 - 1; a / 110 and b / 110 of the hints; hint mask.
    """
    multiple: Annotated[int, Range(1, 256)]
    """The working image is padded to multiples of this height and width."""
    resolution: Annotated[int, Range(1, 2048)]
    """Default working resolution in pixels: square root of the working image's area."""
    activation_bytes_per_pixel: Annotated[int, Range(0, 2**24)]
    """Peak memory of one float32 forward pass per working pixel; scaled by the dtype's size."""
    fixed_activation_bytes: Annotated[int, Range(0, 2**40)] = 2**24
    """Fixed activation memory in bytes, independent of resolution: strips and packed filters."""
    attention_bytes: Annotated[float, Range(0, 2**24)] = 0.0
    """Added to `activation_bytes_per_pixel` for each reference, per pixel of the longer side."""
    official: OfficialRenderer | None = None
    """Reproduces the output image of the network's official program; None without one."""
    fade: Annotated[float, Range(0, 50)] = 0.0
    """Automatic networks: chroma C* in Lab units that is reduced by half, see `postprocess`."""
    gain: Annotated[float, Range(0, 4)] = 1.0
    """Automatic networks: factor on the chroma after fading."""
    aligned: bool = False
    """Exemplar networks: True if rows and columns of target and reference corresponded in
    training. Both are then resized to one size; otherwise references keep their aspect ratio."""
    prior: bool = False
    """Point-hint networks: True if trained with an interpolated color prior between hints instead
    of zeros (see `pipeline.by_hints`). Only such networks can correct the colors of a base."""
    memory: MemorySizes | None = None
    """Sizes of the color memory; None for networks without one. The network then satisfies
    `protocols.MemoryNetwork`."""

    def __post_init__(self) -> None:
        validate_fields(self, "spec")
