"""A picture with what its file says beside its pixels."""

from dataclasses import dataclass

import numpy as np

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825


class PictureError(ValueError):
    """Not a picture we can read or write; the message says what it is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What a picture's file says beside its pixels, ready to be written with a coloured result."""

    bits: int = 8
    """Per channel: 8 or 16."""
    exif: bytes = b""
    """Without preview, and upright."""
    icc: bytes = b""
    """An sRGB profile, or none."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    lossless: bool = True
    """False for JPEG and lossy WebP: a WebP result is then lossy, too."""


@dataclass(frozen=True)
class Picture:
    """Upright, in sRGB: pixels (H, W, C) float32 in 0..1, C = 1 (grey), 3, or 4 (alpha)."""

    pixels: np.ndarray
    keep: Keep
