"""A decoded image and the metadata that a colorized copy keeps."""

from dataclasses import dataclass

import numpy as np

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """Metadata of an image file, ready to be written with a colorized result."""

    bit_depth: int = 8
    """Bits per channel of the result: 8 or 16."""
    exif: bytes = b""
    """EXIF of an upright image, without preview."""
    icc: bytes = b""
    """An sRGB profile, or empty."""
    xmp: bytes = b""
    iptc: bytes = b""
    """IPTC-IIM records."""
    comment: bytes = b""
    """Comment of a JPEG."""
    png_text: tuple[tuple[bytes, bytes], ...] = ()
    """Text chunks of a PNG, type and data, without XMP and other blocks of metadata."""
    inferred_by: str = ""
    """Model that inferred the colors; it is recorded in the XMP of the result."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution of the upright image; None if the file gives none."""
    lossless: bool = True
    """False for JPEG and lossy WebP. A WebP result is then lossy, too."""


@dataclass(frozen=True)
class DecodedImage:
    """An upright sRGB image: pixels (H, W, C) float32 in 0..1; C is 1 (gray), 3, or 4 (alpha)."""

    pixels: np.ndarray
    metadata: ImageMetadata
