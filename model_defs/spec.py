"""What the pipeline must know about a network, so that it never asks which architecture it is."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MemorySizes:
    """What a color memory must have to fit a network; the number of entries is free."""

    key_width: int
    """k: width of a semantic key."""
    groups: int
    """n: colours of one entry."""


class Entries(NamedTuple):
    """What a color memory gives a network."""

    keys: Tensor
    """S: (m, k) semantic keys."""
    values: Tensor
    """C_1 ... C_n: (n, m, 2), ab in Lab units."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Facts about one network that its caller needs."""

    architecture: str
    """Name in the registry."""
    role: Literal["automatic", "exemplar", "pointhint"]
    """Which wire it travels on."""
    model_input: Literal["gray_rgb", "L", "Lab", "L_hints"]
    """What the network takes: grey RGB in 0..1; L in 0..100; L three times and Lab references,
    scaled to -1..1; or L and the ab of hints, scaled so, and a mask of the hints."""
    multiple: int
    """Height and width of the working image are padded to multiples of this."""
    resolution: int
    """Default working resolution: square root of the working image's area, in pixels."""
    activation_bytes_per_pixel: int
    """Peak of one float32 forward pass, per working pixel; scaled by the dtype's size."""
    activation_bytes: int = 2**24
    """What it takes beside that, whatever the size: maps made in strips, packed filters."""
    attention_bytes: float = 0.0
    """What each reference adds to that, for each pixel of the working image's longer side."""
    published_picture: Literal["photo", "working", "middle"] = "photo"
    """The picture that the network's official script makes: of the photo's size; of the network's
    working size; or of that size, from the middle of the photo."""
    fade: float = 0.0
    """Of automatic networks: C* in Lab units of which half is to be left, see
    `postprocess.faded`."""
    gain: float = 1.0
    """Factor on what is left, by which colour is as vivid as it should be."""
    aligned: bool = False
    """Set where the network was trained with rows and columns of target and reference in step: they
    then work at one size. Otherwise each reference keeps its own aspect ratio."""
    prior: bool = False
    """Set where a point-hint network was trained with a guess between hints in place of zeros, see
    `pipeline.by_hints.fill`: such a network also takes colours that the hints correct."""
    memory: MemorySizes | None = None
    """Set where the network works with a color memory.

    Such a network takes Entries in place of its own: `forward(gray, entries)`. The pipeline also
    needs `encoder`, whose vectors name it; `encode(gray)` with `.features` (B, c, h, w) and
    `.weights` (B, n); `decode(encoded, entries, weights)`; `semantics(gray)` (B, h, w, c), what is
    clustered; and `memory` with `keys` (m, k), `values` (n, m, 2), `attend(features, values)`, and
    `components` (k, c) and `offset` (k,) where its projection is kept.
    """
