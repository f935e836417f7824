"""A photo's file -> upright sRGB pixels."""

import io
import logging
from functools import lru_cache

from PIL import Image, ImageOps

from ...media import icc as profiles

log = logging.getLogger(__name__)

MOST_PIXELS = 120_000_000  # of a picture that cannot be decoded smaller: 0.5 GB in each thread
UNREADABLE = OSError, SyntaxError, ValueError, Image.DecompressionBombError


def decode(data: bytes, at_least: int = 0) -> Image.Image:
    """A photo as it should be seen: upright, sRGB.

    Args:
        data: its file.
        at_least: pixels that its shorter side must keep; a large JPEG is then decoded at 1/2, 1/4
            or 1/8 of its size, which saves most of the time. 0 = all of it.
    """
    image = Image.open(io.BytesIO(data))
    if at_least:
        image.draft("RGB", (at_least, at_least))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width}x{image.height} is {image.width * image.height / 1e6:.0f} megapixels; "
            f"at most {MOST_PIXELS // 10**6} are read"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    icc = image.info.get("icc_profile")
    if icc and image.mode in ("RGB", "CMYK"):
        try:
            return _to_srgb(icc, image.mode)(image)
        except ValueError as error:
            log.debug("taken for sRGB: %s", error)
    return image.convert("RGB")


_to_srgb = lru_cache(maxsize=16)(profiles.managed)
