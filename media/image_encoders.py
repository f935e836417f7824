"""Encoders: pixels and metadata to the bytes of an image file."""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

import numpy as np
from PIL import Image, TiffImagePlugin

from .errors import ImageError, error_reason
from .image_data import EXIF_IFD, GPS_IFD, ImageMetadata
from .image_metadata import (
    INCHES_PER_METER,
    PNG_XMP,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    photoshop_resources,
    png_iptc_chunk,
)
from .image_xmp import add_origin, clean_xmp

log = logging.getLogger(__name__)

JPEG_QUALITY = 95
MAX_JPEG_SEGMENT = 65_000  # bytes of EXIF or XMP; a segment holds 64 KiB with its header
STRIP_BYTES = 2**20  # of a TIFF strip, and of the pixels rounded in one go


def encode_image(pixels: np.ndarray, file_format: str, metadata: ImageMetadata, name: str) -> bytes:
    """Encode pixels (H, W, 1, 3 or 4) in 0..1 as JPEG, PNG, TIFF, WEBP or BMP.

    Raises:
        ImageError: the format cannot hold the image.
    """
    import av

    if file_format in ("JPEG", "BMP") and pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        if alpha.min() < 1:
            log.warning("%s: %s has no transparency; laid on white.", name, file_format)
        pixels = pixels[..., :3] * alpha + (1 - alpha)
    if metadata.inferred_by:
        xmp = add_origin(clean_xmp(metadata.xmp, name), metadata.inferred_by)
        metadata = replace(metadata, xmp=xmp)
    bit_depth = metadata.bit_depth if file_format in ("PNG", "TIFF") else 8
    values = _quantize(pixels, bit_depth)
    try:
        if file_format == "TIFF":
            return _encode_tiff(values, metadata)
        if file_format == "PNG":
            return _encode_png(values, metadata)
        return _encode_with_pillow(values, file_format, metadata, name)
    except (ValueError, OSError, struct.error, av.FFmpegError) as error:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        reason = error_reason(error)
        raise ImageError(
            f"{name}: {size} cannot be written as {file_format} ({reason})."
        ) from error


def _quantize(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Round 0..1 to the nearest uint8 or uint16."""
    values = np.empty(pixels.shape, np.uint8 if bit_depth == 8 else np.uint16)
    rows = max(1, STRIP_BYTES // (pixels.shape[1] * pixels.shape[2]))
    for top in range(0, len(pixels), rows):
        strip = slice(top, top + rows)
        values[strip] = np.rint(pixels[strip].clip(0, 1) * (2**bit_depth - 1))
    return values


def _encode_with_pillow(
    values: np.ndarray, file_format: str, metadata: ImageMetadata, name: str
) -> bytes:
    options: dict[str, object] = {}
    if file_format in ("JPEG", "BMP"):
        options |= {"dpi": metadata.dpi} if metadata.dpi else {}
    if file_format == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": 0, "icc_profile": metadata.icc or None}
        options |= _jpeg_metadata(metadata, name)
    elif file_format == "WEBP":
        lossless = metadata.lossless
        options |= {"lossless": lossless, "quality": 75 if lossless else JPEG_QUALITY}
        options |= {"exact": True, "icc_profile": metadata.icc or None, "xmp": metadata.xmp}
        if exif := _exif_with_dpi(metadata):
            options["exif"] = exif
        if metadata.iptc:
            log.warning("%s: WebP cannot hold IPTC, which is left out.", name)
    out = io.BytesIO()
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    image.save(out, file_format, **options)
    return out.getvalue()


def _jpeg_metadata(metadata: ImageMetadata, name: str) -> dict[str, object]:
    """Return Pillow's options for the metadata of a JPEG; what is too long is left out."""
    blocks = {
        "exif": metadata.exif,
        "xmp": metadata.xmp,
        "iptc": metadata.iptc,
        "comment": metadata.comment,
    }
    for block, data in blocks.items():
        if len(data) > MAX_JPEG_SEGMENT:
            log.warning("%s: %s is too long for JPEG and left out.", name, block.upper())
    kept = {block: data for block, data in blocks.items() if 0 < len(data) <= MAX_JPEG_SEGMENT}
    segments = b""
    if xmp := kept.pop("xmp", b""):  # an option of newer versions of Pillow only
        segments += _jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)
    if iptc := kept.pop("iptc", b""):
        segments += _jpeg_segment(0xED, b"Photoshop 3.0\0" + photoshop_resources(iptc))
    return {**kept, "extra": segments}


def _jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _exif_with_dpi(metadata: ImageMetadata) -> bytes:
    """Return EXIF that also holds the resolution, for formats without another place for it."""
    if not metadata.dpi:
        return metadata.exif
    exif = Image.Exif()
    if metadata.exif:
        exif.load(metadata.exif)
    exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *metadata.dpi, 2
    return exif.tobytes()


def _encode_png(values: np.ndarray, metadata: ImageMetadata) -> bytes:
    """Encode a PNG: Pillow or FFmpeg compress the pixels, all other chunks are ours (PNG, 11.3)."""
    if values.dtype == np.uint16:
        encoded = _compress_png16(values)
    else:
        encoded = _encode_with_pillow(values, "PNG", metadata, "")
    header = 33  # signature and IHDR
    pixels = b"".join(
        _png_chunk(kind, data) for kind, data in _parse_png(encoded) if kind == b"IDAT"
    )
    return encoded[:header] + _metadata_chunks(metadata) + pixels + _png_chunk(b"IEND", b"")


def _compress_png16(values: np.ndarray) -> bytes:
    import av

    height, width, channels = values.shape
    pixel_format = {1: "gray16be", 3: "rgb48be", 4: "rgba64be"}[channels]
    frame = av.VideoFrame(width, height, pixel_format)
    plane = frame.planes[0]
    rows = np.zeros((height, plane.line_size // 2), ">u2")
    rows[:, : width * channels] = values.reshape(height, -1)
    plane.update(rows.tobytes())
    encoder = av.VideoCodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, pixel_format
    encoder.time_base = Fraction(1)
    encoder.options = {"pred": "mixed"}
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def _parse_png(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and data of each chunk (PNG, section 5.3)."""
    start = 8
    while start < len(png):
        length, kind = struct.unpack_from(">I4s", png, start)
        yield kind, png[start + 8 : start + 8 + length]
        start += 12 + length


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _metadata_chunks(metadata: ImageMetadata) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        per_meter = (round(value / INCHES_PER_METER) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", *per_meter, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp:
        chunks.append((b"iTXt", PNG_XMP + bytes(5) + metadata.xmp))
    if metadata.iptc:
        chunks.append(png_iptc_chunk(metadata.iptc))
    chunks += metadata.png_text
    return b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _encode_tiff(values: np.ndarray, metadata: ImageMetadata) -> bytes:
    """Encode a TIFF of 8 or 16 bits: deflate, horizontal differencing (TIFF 6.0, section 14)."""
    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder("<"))
    rows = max(1, STRIP_BYTES // (width * channels * values.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = values[top : top + rows].copy()
        strip[:, 1:] -= values[top : top + rows, :-1]
        strips.append(zlib.compress(strip.tobytes()))

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if metadata.exif:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag, value in exif.items():
            tags[tag] = exif.get_ifd(tag) if tag in (EXIF_IFD, GPS_IFD) else value
    tags[256], tags[257] = width, height
    tags[258] = (values.itemsize * 8,) * channels
    tags[259], tags[317] = 8, 2  # deflate, horizontal differencing
    tags[262] = 1 if channels == 1 else 2  # black is zero, RGB
    tags[277], tags[278], tags[284] = channels, rows, 1
    if channels == 4:
        tags[338] = (2,)  # unassociated alpha
    if metadata.dpi:
        tags[282], tags[283], tags[296] = *metadata.dpi, 2
    if metadata.icc:
        tags[34675], tags.tagtype[34675] = metadata.icc, 7
    if metadata.xmp:
        tags[700], tags.tagtype[700] = metadata.xmp, 1
    if metadata.iptc:
        tags[33723], tags.tagtype[33723] = metadata.iptc, 7
    lengths = [len(strip) for strip in strips]
    tags[279], tags.tagtype[279] = lengths, 4
    # Pillow adds the end of the directory to these offsets: the strips begin there.
    tags[273], tags.tagtype[273] = [0, *accumulate(lengths[:-1])], 4
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + b"".join(strips)
