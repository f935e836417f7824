"""EXIF, IPTC and resolution of an image file, as a colorized copy may keep them."""

import logging
import math
import struct
import zlib
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
PHOTOSHOP_SIGNATURE, PHOTOSHOP_IPTC = b"8BIM", 0x0404
IPTC_MARKER = b"\x1c"
PNG_TEXT, PNG_XMP, PNG_PROFILE = (
    (b"tEXt", b"zTXt", b"iTXt"),
    b"XML:com.adobe.xmp",
    b"Raw profile type ",
)
MAX_PNG_PROFILE = 2**22  # bytes of its text


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


def photoshop_iptc(resources: bytes) -> bytes:
    """Return the IPTC records among Photoshop's image resources; empty if there are none.

    The other resources describe the old file, such as its gray preview.
    """
    place = 0
    while resources[place : place + 4] == PHOTOSHOP_SIGNATURE and place + 8 <= len(resources):
        number, name_length = struct.unpack_from(">HB", resources, place + 4)
        start = place + 6 + (name_length + 2) // 2 * 2  # the name has an even length, with its own
        if start + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, start)
        if number == PHOTOSHOP_IPTC:
            return valid_iptc(resources[start + 4 : start + 4 + size])
        place = start + 4 + size + size % 2
    return b""


def photoshop_resources(iptc: bytes) -> bytes:
    """Return IPTC records as Photoshop's image resource."""
    head = PHOTOSHOP_SIGNATURE + struct.pack(">HHI", PHOTOSHOP_IPTC, 0, len(iptc))
    return head + iptc + bytes(len(iptc) % 2)


def valid_iptc(data: bytes) -> bytes:
    """Return IPTC records without padding; empty if they are damaged.

    In a TIFF, they may be stored as 32-bit numbers in the byte order of the file.
    """
    if data[:1] != IPTC_MARKER and data[3:4] == IPTC_MARKER and len(data) % 4 == 0:
        data = struct.pack(f">{len(data) // 4}I", *struct.unpack(f"<{len(data) // 4}I", data))
    place = 0
    while data[place : place + 1] == IPTC_MARKER and place + 5 <= len(data):
        (length,) = struct.unpack_from(">H", data, place + 3)
        size_bytes = length & 0x7FFF if length & 0x8000 else 0  # a long record
        if size_bytes:
            length = int.from_bytes(data[place + 5 : place + 5 + size_bytes], "big")
        following = place + 5 + size_bytes + length
        if following > len(data):
            break
        place = following
    return data[:place]


def png_text(file: BinaryIO) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """Return the text chunks of a PNG without blocks of metadata, and its IPTC records."""
    kept, iptc = [], b""
    for kind, data in png_chunks(file, all_chunks=True):
        keyword = data.split(b"\0", 1)[0]
        if kind not in PNG_TEXT or keyword == PNG_XMP:
            continue
        if not keyword.startswith(PNG_PROFILE):
            kept.append((kind, data))
        elif keyword in (PNG_PROFILE + b"iptc", PNG_PROFILE + b"8bim"):
            iptc = iptc or _png_profile_iptc(kind, data)
    return tuple(kept), iptc


def png_iptc_chunk(iptc: bytes) -> tuple[bytes, bytes]:
    """Return IPTC records as the chunk that ImageMagick and ExifTool read."""
    resources = photoshop_resources(iptc)
    digits = resources.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    text = f"\niptc\n{len(resources):8}\n{lines}\n"
    return b"zTXt", PNG_PROFILE + b"iptc\0\0" + zlib.compress(text.encode())


def _png_profile_iptc(kind: bytes, data: bytes) -> bytes:
    """Decode a chunk "Raw profile type ...": name and length, then hexadecimal digits."""
    text = data.split(b"\0", 1)[-1]
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], MAX_PNG_PROFILE)
        block = bytes.fromhex(b"".join(text.split(maxsplit=2)[2:]).decode("ascii"))
    except (ValueError, zlib.error):
        return b""
    return photoshop_iptc(block) if block.startswith(PHOTOSHOP_SIGNATURE) else valid_iptc(block)


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
    if image.format in ("JPEG", "MPO", "WEBP", "AVIF", "HEIF"):
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


def png_chunks(file: BinaryIO, *, all_chunks: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and data of the chunks before the first IDAT chunk (PNG, section 5).

    Args:
        file: PNG file.
        all_chunks: also yield those after it.
    """
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or (kind == b"IDAT" and not all_chunks):
            return
        if kind == b"IDAT":
            file.seek(length + 4, 1)
            continue
        data = file.read(length)
        file.seek(4, 1)  # CRC
        yield kind, data
