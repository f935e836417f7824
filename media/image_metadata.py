"""EXIF, XMP and resolution of an image file, as a colorized copy may keep them."""

import logging
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

from .image_data import EXIF_IFD, GPS_IFD, ORIENTATION

log = logging.getLogger(__name__)

Resolution = tuple[float, float]

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
# Tags of the main EXIF directory that describe the photo. All others describe the old file
# (strips, compression) or its preview, which is gray and would be displayed.
KEPT_EXIF_TAGS = (
    *(0x010D, 0x010E, 0x010F, 0x0110),  # document name, description, maker, model
    *(ORIENTATION, X_RESOLUTION, Y_RESOLUTION, 0x011D, RESOLUTION_UNIT),
    *(0x0131, 0x0132, 0x013B, 0x013C),  # software, date, artist, host computer
    *(0x4746, 0x4749, 0x8298),  # rating, rating in percent, copyright
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # title, comment, ... as Windows writes them
)
COLOR_SPACE, EXIF_WIDTH, EXIF_HEIGHT, INTEROP_IFD = 0xA001, 0xA002, 0xA003, 0xA005
SRGB = 1
INCHES_PER_CM, INCHES_PER_METER = 2.54, 0.0254
UNIT_SCALE = {2: 1.0, 3: INCHES_PER_CM}  # TIFF and EXIF ResolutionUnit -> factor to dpi; 1: none
MAX_DPI = 1e6


def clean_exif(exif: Image.Exif, orientation: int, shape: tuple[int, ...], name: str) -> bytes:
    """Return the EXIF of the upright sRGB result, without preview; empty if it is damaged.

    Args:
        exif: EXIF of the source.
        orientation: orientation of the source, 1 to 8.
        shape: (H, W, ...) of the upright image.
        name: file name for warnings.
    """
    cleaned = Image.Exif()
    try:
        for tag in KEPT_EXIF_TAGS:
            if tag in exif:
                cleaned[tag] = exif[tag]
        if ORIENTATION in cleaned:
            cleaned[ORIENTATION] = 1
        if orientation >= 5 and X_RESOLUTION in cleaned and Y_RESOLUTION in cleaned:
            across, down = cleaned[X_RESOLUTION], cleaned[Y_RESOLUTION]
            cleaned[X_RESOLUTION], cleaned[Y_RESOLUTION] = down, across
        for ifd in (EXIF_IFD, GPS_IFD):
            if entries := dict(exif.get_ifd(ifd)):
                entries.pop(INTEROP_IFD, None)
                if ifd == EXIF_IFD:
                    current = {EXIF_HEIGHT: shape[0], EXIF_WIDTH: shape[1], COLOR_SPACE: SRGB}
                    entries |= {tag: value for tag, value in current.items() if tag in entries}
                cleaned[ifd] = entries
        return cleaned.tobytes() if len(cleaned) else b""
    except (
        *(ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError, struct.error),
        *(ZeroDivisionError, SyntaxError, IndexError),
    ) as error:
        log.warning("%s: damaged EXIF is left out (%s).", name, error)
        return b""


def clean_xmp(xmp: str | bytes) -> bytes:
    """Return an XMP packet whose orientation is that of an upright image."""
    data = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>))[1-8]", rb"\g<1>1", data)


def valid_resolution(across: Any, down: Any, scale: float = 1.0) -> Resolution | None:
    """Return dpi from two numbers of a file; None unless both are possible."""
    try:
        dpi = float(across) * scale, float(down) * scale
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return dpi if all(math.isfinite(value) and 0 < value < MAX_DPI for value in dpi) else None


def file_resolution(image: Image.Image, file: BinaryIO, exif: Image.Exif) -> Resolution | None:
    """Return the dpi that a file gives, as stored; None if it gives none or only an aspect ratio.

    Pillow's own `info["dpi"]` takes numbers without a unit for dpi, invents 72 dpi for JPEG, and
    reads the last pHYs chunk of a PNG that has several; decoders ignore all but the first.
    """
    if image.format == "PNG":
        for kind, data in png_chunks(file):
            if kind == b"pHYs" and len(data) == 9:
                across, down, unit = struct.unpack(">IIB", data)
                return valid_resolution(across, down, INCHES_PER_METER) if unit == 1 else None
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") in (1, 2):
        scale = UNIT_SCALE[image.info["jfif_unit"] + 1]
        across, down = image.info["jfif_density"]
        if dpi := valid_resolution(across, down, scale):
            return dpi
    if image.format in ("JPEG", "MPO"):
        return exif_resolution(exif)
    if image.format == "PNG":
        return None
    across, down = image.info.get("dpi", (None, None))
    return valid_resolution(across, down)


def exif_resolution(exif: Image.Exif) -> Resolution | None:
    """Return the dpi of EXIF, as stored; None without one."""
    scale = UNIT_SCALE.get(exif.get(RESOLUTION_UNIT, 2))
    if scale is None:
        return None
    return valid_resolution(exif.get(X_RESOLUTION), exif.get(Y_RESOLUTION), scale)


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and data of the chunks before the first IDAT chunk (PNG, section 5)."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return
        data = file.read(length)
        file.seek(4, 1)  # CRC
        yield kind, data
