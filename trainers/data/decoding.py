"""Decode a photo's file to upright sRGB pixels."""

import io
import logging
from functools import lru_cache

from PIL import Image, ImageOps

from ...media import icc

log = logging.getLogger(__name__)

MAX_PIXELS = 120_000_000  # limit for one decoded image: 0.5 GB in each thread
DECODE_ERRORS = OSError, SyntaxError, ValueError, Image.DecompressionBombError


def decode(data: bytes, min_side: int = 0) -> Image.Image:
    """Return an upright sRGB image.

    Args:
        data: contents of the image file.
        min_side: pixels that the shorter side must keep. A large JPEG is then decoded at 1/2, 1/4
            or 1/8 of its size, which saves most of the decoding time. 0 = full size.
    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: the file cannot be decoded.
    """
    image = Image.open(io.BytesIO(data))
    if min_side:
        image.draft("RGB", (min_side, min_side))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} is {image.width * image.height / 1e6:.0f} megapixels; "
            f"the limit is {MAX_PIXELS // 10**6}"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            return _to_srgb(profile, image.mode)(image)
        except ValueError as error:
            log.debug("color profile ignored, assuming sRGB: %s", error)
    return image.convert("RGB")


_to_srgb = lru_cache(maxsize=16)(icc.cms_transform)
