"""Pixels and what a file keeps -> the bytes of a picture file."""

import io
import logging
import struct
import zlib
from itertools import accumulate

import numpy as np

from .image_data import EXIF_IFD, GPS_IFD, Keep, PictureError

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
STRIP_BYTES = 2**20  # of a TIFF strip, and of what is rounded at once


def _encode(pixels: np.ndarray, kind: str, keep: Keep, name: str) -> bytes:
    import av

    if kind in ("JPEG", "BMP") and pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        if alpha.min() < 1:
            log.warning("%s: %s has no transparency; laid on white.", name, kind)
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    bits = keep.bits if kind in ("PNG", "TIFF") else 8
    values = _rounded(pixels, bits)
    try:
        if kind == "TIFF":
            return _tiff(values, keep)
        return _png16(values, keep) if bits == 16 else _with_pillow(values, kind, keep, name)
    except (ValueError, OSError, struct.error, av.FFmpegError) as error:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise PictureError(f"{name}: {size} cannot be written as {kind} ({error}).") from error


def _rounded(pixels: np.ndarray, bits: int) -> np.ndarray:
    """0..1 -> uint8 or uint16, to the nearest."""
    values = np.empty(pixels.shape, np.uint8 if bits == 8 else np.uint16)
    rows = max(1, STRIP_BYTES // (pixels.shape[1] * pixels.shape[2]))
    for top in range(0, len(pixels), rows):
        part = slice(top, top + rows)
        values[part] = np.rint(pixels[part].clip(0, 1) * (2**bits - 1))
    return values


def _with_pillow(values: np.ndarray, kind: str, keep: Keep, name: str) -> bytes:
    from PIL import Image, PngImagePlugin

    options: dict[str, object] = {"dpi": keep.dpi} if keep.dpi else {}
    if kind != "BMP":
        options |= {"icc_profile": keep.icc or None}
        options |= {"exif": keep.exif} if keep.exif else {}
    if kind == "JPEG":
        for what in ("exif", "xmp"):  # a JPEG segment holds 64 KB
            if len(getattr(keep, what)) > 65_000:
                log.warning("%s: %s is too long for JPEG and left out.", name, what.upper())
                options.pop(what, None)
            elif what == "xmp" and keep.xmp:
                options["xmp"] = keep.xmp
        options |= {"quality": JPEG_QUALITY, "subsampling": 0}
    elif kind == "WEBP":
        options |= {"lossless": keep.lossless, "quality": 75 if keep.lossless else JPEG_QUALITY}
        options |= {"xmp": keep.xmp, "exact": True}
    elif kind == "PNG" and keep.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", keep.xmp.decode("utf-8", "replace"))
    out = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(out, kind, **options)
    return out.getvalue()


def _png16(values: np.ndarray, keep: Keep) -> bytes:
    """A 16-bit PNG: pixels by PyAV, all else as chunks behind its header (PNG, section 11.3)."""
    from fractions import Fraction

    import av

    height, width, channels = values.shape
    kind = {1: "gray16be", 3: "rgb48be", 4: "rgba64be"}[channels]
    frame = av.VideoFrame(width, height, kind)
    plane = frame.planes[0]
    rows = np.zeros((height, plane.line_size // 2), ">u2")
    rows[:, : width * channels] = values.reshape(height, -1)
    plane.update(rows)
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        width,
        height,
        kind,
        Fraction(1),
    )
    encoder.options = {"pred": "mixed"}
    png = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])

    chunks = []
    if keep.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(keep.icc)))
    if keep.dpi:
        chunks.append(
            (b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in keep.dpi), 1))
        )
    if keep.exif:
        chunks.append((b"eXIf", keep.exif.removeprefix(b"Exif\0\0")))
    if keep.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + keep.xmp))
    extra = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    header = 33  # signature and IHDR
    return png[:header] + extra + png[header:]


def _tiff(values: np.ndarray, keep: Keep) -> bytes:
    """8 or 16 bits, deflate with horizontal differences (TIFF 6.0, section 14); EXIF as tags."""
    from PIL import Image, TiffImagePlugin

    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder("<"))
    rows = max(1, STRIP_BYTES // (width * channels * values.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = values[top : top + rows].copy()
        strip[:, 1:] -= values[top : top + rows, :-1]
        strips.append(zlib.compress(strip.tobytes()))

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if keep.exif:
        exif = Image.Exif()
        exif.load(keep.exif)
        for tag, value in exif.items():
            tags[tag] = exif.get_ifd(tag) if tag in (EXIF_IFD, GPS_IFD) else value
    tags[256], tags[257] = width, height
    tags[258] = (values.itemsize * 8,) * channels
    tags[259], tags[317] = 8, 2  # deflate, horizontal differences
    tags[262] = 1 if channels == 1 else 2  # black is zero, RGB
    tags[277], tags[278], tags[284] = channels, rows, 1
    if channels == 4:
        tags[338] = (2,)  # alpha, colours not multiplied by it
    if keep.dpi:
        tags[282], tags[283], tags[296] = *keep.dpi, 2
    if keep.icc:
        tags[34675], tags.tagtype[34675] = keep.icc, 7
    if keep.xmp:
        tags[700], tags.tagtype[700] = keep.xmp, 1
    lengths = [len(strip) for strip in strips]
    tags[279], tags.tagtype[279] = lengths, 4
    # Pillow adds to these the place where the directory ends, which is where the strips begin.
    tags[273], tags.tagtype[273] = [0, *accumulate(lengths[:-1])], 4
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + b"".join(strips)
