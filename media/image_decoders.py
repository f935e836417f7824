"""Decoders: the bytes of an image file to upright pixels, in the colors of the file."""

import logging
import os
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from . import tiff_reader
from .errors import ImageError, UnsupportedImageError, error_reason
from .icc import cmyk_to_srgb, lab_to_srgb, srgb_profile
from .image_data import ORIENTATION
from .image_metadata import (
    PHOTOSHOP_IPTC,
    Resolution,
    clean_exif,
    file_resolution,
    photoshop_iptc,
    png_text,
    valid_iptc,
)
from .image_xmp import clean_xmp
from .tiff_directory import Page, Tag, read_pages

log = logging.getLogger(__name__)

PILLOW_READERS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM"),
    *("JPEG2000", "QOI", "AVIF"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
UNSUPPORTED_SIGNATURES = {
    b"8BPS": "a Photoshop document",
    b"gimp xcf": "a GIMP document",
    b"%PDF": "a PDF document",
    b"AT&TFORM": "a DjVu document",
    b"<svg": "an SVG drawing",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"v/1\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"P7": "a PAM image",
    b"PF": "a PFM image",
    b"Pf": "a PFM image",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"FOVb": "a camera's raw file",
    b"IIRO": "a camera's raw file",
    b"IIU\0": "a camera's raw file",
    b"II\x1a\0": "a camera's raw file",
}
"""First bytes of files that are images, or hold some, but are not read."""
JPEGS = ("JPEG", "MPO")  # Pillow's names
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
AVIF_SIGNATURES = (b"ftypavif", b"ftypavis")
OPTIONAL_CODECS = (34925, 50000, 50001)  # LZMA, Zstandard, WebP: not in every build of libtiff
HEADER_BYTES = 65536  # that are searched for the bit depth
EIGHT_BITS = "%s: read with 8 of its bits per channel."
MAX_PIXELS = 300_000_000  # per image; more is taken for an attack on memory
MAX_AVIF_PIXELS = 2**28  # limit of libavif, which calls larger images damaged
# A strip or tile of a TIFF is decompressed as an image of bytes: up to 4 samples of 8 bytes.
MAX_SEGMENT_BYTES = 32 * MAX_PIXELS


@dataclass
class StoredImage:
    """An upright image in the colors of its file."""

    pixels: np.ndarray
    """(H, W, 1, 3 or 4) float32 in 0..1."""
    bit_depth: int
    icc: bytes
    """The profile of `pixels`, or empty for sRGB."""
    exif: bytes
    xmp: bytes
    iptc: bytes
    dpi: Resolution | None
    lossless: bool
    comment: bytes = b""
    png_text: tuple[tuple[bytes, bytes], ...] = ()


def decode_image(file: BinaryIO, name: str, page: int | None) -> StoredImage:
    """Decode an image file.

    Raises:
        ImageError: not an image, too large, animated, or of an unsupported kind.
        Exception: whatever the libraries raise on damaged files; see `image_errors`.
    """
    head = file.read(16)
    if not head:
        raise ImageError(f"{name}: the file is empty (0 bytes); get it again.")
    if head[:4] in TIFF_SIGNATURES:
        with _raised_pixel_limit(MAX_SEGMENT_BYTES):
            return _decode_tiff(file, name, page)
    if page not in (None, 1):
        raise ImageError(f"{name}: no such page; only TIFF files have pages.")
    try:
        with _raised_pixel_limit(MAX_PIXELS):
            return _decode_with_pillow(file, head, name)
    except Image.DecompressionBombError as error:  # raised before we know the size
        raise ImageError(
            f"{name}: more than {2 * MAX_PIXELS // 10**6} megapixels; the limit is "
            f"{MAX_PIXELS // 10**6}. Scale it down, or cut it into parts."
        ) from error


# --- Limits ------------------------------------------------------------------------------------

_limit_lock = threading.Lock()
_limit_users = 0
_host_limit: int | None = None


@contextmanager
def _raised_pixel_limit(limit: int) -> Generator[None, None, None]:
    """Let Pillow decode at least `limit` pixels; it refuses twice as many.

    Pillow's limit is global, 179 megapixels by default, and part of several of its readers. Other
    code in the process may rely on it, so it is put back when the last thread leaves. Our own limit
    is checked on each image.
    """
    global _limit_users, _host_limit
    with _limit_lock:
        if not _limit_users:
            _host_limit = Image.MAX_IMAGE_PIXELS
        if Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if not _limit_users:
                Image.MAX_IMAGE_PIXELS = _host_limit


def _check_size(width: int, height: int, name: str, limit: int | None = None) -> None:
    limit = limit or MAX_PIXELS
    if width * height > limit:
        raise ImageError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} megapixels; "
            f"the limit is {limit // 10**6}. Scale it down, or cut it into parts."
        )


def _check_avif_size(file: BinaryIO, name: str) -> None:
    file.seek(0)
    head = file.read(HEADER_BYTES)
    place = head.find(b"ispe") + 8  # image spatial extents (ISO 23008-12, 6.5.3)
    if 8 <= place <= len(head) - 8:
        width, height = struct.unpack_from(">II", head, place)
        _check_size(width, height, name, MAX_AVIF_PIXELS)


# --- Orientation -------------------------------------------------------------------------------


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8, to pixels (H, W, C)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _upright_resolution(dpi: Resolution | None, orientation: int) -> Resolution | None:
    return (dpi[1], dpi[0]) if dpi and orientation >= 5 else dpi


# --- TIFF --------------------------------------------------------------------------------------


def _decode_tiff(file: BinaryIO, name: str, number: int | None) -> StoredImage:
    pages = read_pages(file)
    page = tiff_reader.choose_page(pages, name, number)
    _check_size(page.width, page.height, name)
    if page.width < 1 or page.height < 1:
        raise ValueError(f"{page.width}x{page.height} pixels")
    xmp, icc = page.data(Tag.XMP), page.data(Tag.ICC_PROFILE)
    exif = tiff_reader.page_exif(file, page, name)
    pixels, bit_depth, icc = _decode_page(file, page, icc, name)
    return StoredImage(
        pixels=pixels,
        bit_depth=bit_depth,
        icc=icc,
        exif=clean_exif(exif, page.orientation, pixels.shape, name),
        xmp=clean_xmp(xmp, name),
        iptc=valid_iptc(page.data(Tag.IPTC)) or photoshop_iptc(page.data(Tag.PHOTOSHOP)),
        dpi=_upright_resolution(tiff_reader.page_resolution(page), page.orientation),
        lossless=True,
    )


def _decode_page(
    file: BinaryIO, page: Page, icc: bytes, name: str
) -> tuple[np.ndarray, int, bytes]:
    """Return upright pixels, their bit depth and their profile."""
    try:
        decoded = _decode_samples(file, page, name)
        if decoded is None:
            return _decode_page_with_pillow(file, page, icc, name)
    except OSError:
        if page.number(Tag.COMPRESSION, 1) not in OPTIONAL_CODECS:
            raise
        decoded = tiff_reader.read_with_tifffile(file, page, name)
    pixels, bit_depth = decoded
    if tiff_reader.is_cmyk(page):
        pixels, icc = _cmyk_pixels_to_srgb(pixels, icc, name)
        if bit_depth > 8:
            log.warning(EIGHT_BITS, name)
            bit_depth = 8
    return _upright(pixels, page.orientation), bit_depth, icc


def _decode_samples(file: BinaryIO, page: Page, name: str) -> tuple[np.ndarray, int] | None:
    """Decode with our own reader or tifffile; None for pages that Pillow reads."""
    if (decoded := tiff_reader.read_with_samples(file, page, name)) is not None:
        return decoded
    try:
        tiff_reader.open_with_pillow(file, page)
    except (SyntaxError, KeyError) as error:  # a kind that Pillow lacks
        log.debug("%s: not for Pillow (%s)", name, error_reason(error))
        return tiff_reader.read_with_tifffile(file, page, name)
    return None


def _decode_page_with_pillow(
    file: BinaryIO, page: Page, icc: bytes, name: str
) -> tuple[np.ndarray, int, bytes]:
    image = tiff_reader.open_with_pillow(file, page)
    pixels, icc = _pixels_of(image, icc, name)
    if max(page.numbers(Tag.BITS_PER_SAMPLE, (1,))) > 8:
        log.warning(EIGHT_BITS, name)
    remaining = image.getexif().get(ORIENTATION, 1)  # Pillow turns TIFF images upright
    return _upright(pixels, remaining), 8, icc


# --- All other formats -------------------------------------------------------------------------


def _decode_with_pillow(file: BinaryIO, head: bytes, name: str) -> StoredImage:
    image = _open(file, head, name)
    _check_size(*image.size, name)
    _reject_animated(image, name)
    exif = _read_exif(image, name)
    orientation = exif.get(ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    dpi = file_resolution(image, file, exif)
    lossless = _is_lossless(image, file)
    icc = image.info.get("icc_profile") or b""
    bit_depth = 8
    if image.format == "PNG" and _png_bit_depth(file) == 16:
        pixels, bit_depth = _decode_png16(image, file), 16
    elif image.mode.startswith("I"):  # 16-bit PGM and JPEG 2000, scaled to 0..65535 by Pillow
        pixels = np.asarray(image).astype(np.float32)[..., None] / np.float32(65535)
        bit_depth = 16
    else:
        pixels, icc = _pixels_of(image, icc, name)
        if _stored_bits(image, file) > 8:
            log.warning(EIGHT_BITS, name)
    pixels = _upright(pixels, orientation)
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text, iptc = png_text(file) if image.format == "PNG" else ((), b"")
    if image.format in JPEGS:
        iptc = valid_iptc(image.info.get("photoshop", {}).get(PHOTOSHOP_IPTC, b""))
    comment = image.info.get("comment")
    return StoredImage(
        pixels=pixels,
        bit_depth=bit_depth,
        icc=icc,
        exif=clean_exif(exif, orientation, pixels.shape, name),
        xmp=clean_xmp(xmp, name),
        iptc=iptc,
        dpi=_upright_resolution(dpi, orientation),
        lossless=lossless,
        comment=comment if isinstance(comment, bytes) and image.format in JPEGS else b"",
        png_text=text,
    )


def _open(file: BinaryIO, head: bytes, name: str) -> Image.Image:
    """Open an image of one of `PILLOW_READERS`, whatever other plug-ins are installed."""
    for signature, kind in UNSUPPORTED_SIGNATURES.items():
        if head.startswith(signature):
            raise UnsupportedImageError(
                f"{name}: {kind}, which cannot be read; save it as TIFF, PNG or JPEG."
            )
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return _open_heif(file, name)
    if head[4:12] in AVIF_SIGNATURES:
        _check_avif_size(file, name)
    Image.init()
    reason = ""
    is_tga = name.lower().endswith(".tga")  # TGA has no signature
    for reader in [*filter(Image.OPEN.get, PILLOW_READERS), *(["TGA"] if is_tga else [])]:
        factory, accept = Image.OPEN[reader]
        if accept is None or accept(head) is True:
            file.seek(0)
            try:
                return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reason = error_reason(error)
    if reason:
        raise ImageError(f"{name}: damaged or cut short ({reason}); get the file again.")
    if head[4:12] in AVIF_SIGNATURES:
        raise UnsupportedImageError(
            f"{name}: an AVIF image, which needs Pillow 11.3 or newer; update it, or save the "
            "image as PNG or JPEG."
        )
    if head[4:8] == b"ftyp":
        raise UnsupportedImageError(
            f"{name}: a video or a camera's raw file, not an image; name a video with its own "
            "suffix, such as .mp4, and develop a raw file to TIFF or JPEG."
        )
    raise ImageError(
        f"{name}: not an image. Known: JPEG, PNG, TIFF, WebP, BMP, GIF, PBM, PGM, PPM, JPEG 2000, "
        "QOI, TGA, AVIF, HEIC."
    )


def _open_heif(file: BinaryIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise UnsupportedImageError(
            f"{name}: a HEIC image; install its reader with pip install 'comfyui-colorist[heif]', "
            "or save it as PNG or JPEG."
        ) from error
    file.seek(0)
    return HeifImageFile(file, name)


def _reject_animated(image: Image.Image, name: str) -> None:
    """Refuse several frames; of several images that are not frames, note which one is read."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("MPO", "HEIF"):
        log.info(
            "%s: the main image of %d is read; the others are previews, or the other half of a "
            "stereo pair.",
            *(name, frames),
        )
    elif getattr(image, "is_animated", False):
        kind = str(image.format).replace("WEBP", "WebP")
        raise ImageError(
            f"{name}: an animated {kind} with {frames} frames. Save it as a video (.mkv, .mp4), "
            "or its frames as files."
        )


def _read_exif(image: Image.Image, name: str) -> Image.Exif:
    try:
        return image.getexif()
    except Exception as error:  # Pillow's parser raises anything; metadata never stops an image
        log.warning("%s: damaged EXIF is left out (%s).", name, error_reason(error))
        return Image.Exif()


def _pixels_of(image: Image.Image, icc: bytes, name: str) -> tuple[np.ndarray, bytes]:
    """Return pixels (H, W, 1, 3 or 4) float32 in 0..1 of an 8-bit image, and their profile."""
    image.load()
    if image.mode == "CMYK":
        image, icc = _cmyk_to_srgb(image, icc, name)
    elif image.mode == "LAB":
        image, icc = lab_to_srgb(image), b""
    elif image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("P", "RGBX", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "RGBA"):
        raise UnsupportedImageError(
            f"{name}: pixels of kind '{image.mode}' are not supported; "
            "save it as gray or RGB with 8 or 16 bits."
        )
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    return values.astype(np.float32) / np.float32(255), icc


def _cmyk_to_srgb(image: Image.Image, icc: bytes, name: str) -> tuple[Image.Image, bytes]:
    try:
        return cmyk_to_srgb(image, icc), srgb_profile() if icc else b""
    except ValueError as error:
        log.warning("%s: %s; converted without it.", name, error)
        return image.convert("RGB"), srgb_profile()


def _cmyk_pixels_to_srgb(pixels: np.ndarray, icc: bytes, name: str) -> tuple[np.ndarray, bytes]:
    """Convert CMYK pixels (H, W, 4, or 5 with alpha) in 0..1 to sRGB with 8 bits."""
    inks = np.rint(pixels[..., :4] * np.float32(255)).astype(np.uint8)
    image = Image.frombytes("CMYK", (pixels.shape[1], pixels.shape[0]), inks.tobytes())
    image, icc = _cmyk_to_srgb(image, icc, name)
    colors = np.asarray(image).astype(np.float32) / np.float32(255)
    return np.concatenate([colors, pixels[..., 4:]], axis=2), icc


def _stored_bits(image: Image.Image, file: BinaryIO) -> int:
    """Return the bits per channel of JPEG 2000, AVIF and HEIC, of which Pillow reads 8."""
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if image.format == "JPEG2000":  # SIZ marker (ISO 15444-1, A.5.1)
        place = head.find(b"\xff\x4f\xff\x51") + 42
        return (head[place] & 0x7F) + 1 if 42 <= place < len(head) else 8
    if image.format == "AVIF":  # AV1 configuration: high_bitdepth, twelve_bit
        place = head.find(b"av1C") + 6
        flags = head[place] if 6 <= place < len(head) else 0
        return 12 if flags & 0x20 else 10 if flags & 0x40 else 8
    return 8


def _png_bit_depth(file: BinaryIO) -> int:
    file.seek(24)  # IHDR: after signature, length, name, width, height
    return file.read(1)[0]


def _decode_png16(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """Decode a 16-bit PNG with FFmpeg: (H, W, 1, 3 or 4) float32 in 0..1."""
    import av

    image.load()  # raises on damage; FFmpeg would fill the rest with anything
    file.seek(0)
    with av.open(file, "r") as container:
        frame = next(container.decode(video=0))
    pixel_format = frame.format.name
    channels = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}[pixel_format[:-2]]
    plane, dtype = frame.planes[0], f"{'>' if pixel_format.endswith('be') else '<'}u2"
    values = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, plane.line_size // 2)
    values = values[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    pixels = values.astype(np.float32) / np.float32(65535)
    return pixels[..., [0, 0, 0, 1]] if channels == 2 else pixels


def _is_lossless(image: Image.Image, file: BinaryIO) -> bool:
    if image.format == "WEBP":  # a VP8L chunk: first, or after VP8X and its companions
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            size = struct.unpack("<I", head[4:])[0]
            file.seek(size + size % 2, os.SEEK_CUR)
    return image.format not in (*JPEGS, "WEBP", "AVIF", "HEIF")
