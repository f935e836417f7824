"""Image files: read into float arrays with their metadata, written atomically."""

import logging
import os
from pathlib import Path

import numpy as np

from .atomic import write_atomic
from .errors import ImageError, image_errors
from .formats import IMAGE_FORMATS
from .icc import to_srgb
from .image_data import DecodedImage, ImageMetadata
from .image_decoders import TIFF_SIGNATURES, StoredImage, decode_image
from .image_encoders import encode_image
from .tiff_directory import read_pages
from .tiff_reader import page_numbers

log = logging.getLogger(__name__)

NEARLY_BLACK = 2**12 / 2**16  # largest value of 12 bits in a file that declares 16


def read_image(path: str | Path, *, page: int | None = None) -> DecodedImage:
    """Read an image file, upright and in sRGB.

    Args:
        path: file of a format in `formats`; the content counts, not the suffix.
        page: page of a TIFF, from 1; None for its first full-size page.

    Raises:
        ImageError: not an image, damaged, animated, too large, or of an unsupported kind.
    """
    path = Path(path)
    name = path.name if page is None else f"{path.name}, page {page}"
    if not os.path.isfile(path):
        reason = "not an ordinary file" if os.path.exists(path) else "no such file"
        reason = "a folder" if os.path.isdir(path) else reason
        raise ImageError(f"{name}: {reason}; expected an image file.")
    with image_errors(name), path.open("rb") as file:
        stored = decode_image(file, name, page)
        _note_if_nearly_black(stored, name)
        pixels, icc = _to_srgb(stored, name)
    metadata = ImageMetadata(
        bit_depth=stored.bit_depth,
        exif=stored.exif,
        icc=icc,
        xmp=stored.xmp,
        iptc=stored.iptc,
        comment=stored.comment,
        png_text=stored.png_text,
        dpi=stored.dpi,
        lossless=stored.lossless,
    )
    return DecodedImage(pixels, metadata)


def list_pages(path: str | Path) -> list[int]:
    """Return the numbers of the full-size pages of a multi-page file; empty for all other files."""
    try:
        if not os.path.isfile(path):  # a pipe would wait for ever
            return []
        with open(path, "rb") as file:
            is_tiff = file.read(4) in TIFF_SIGNATURES
            numbers = page_numbers(read_pages(file)) if is_tiff else []
    except (OSError, ValueError):  # reported when the image is read
        return []
    return numbers if len(numbers) > 1 else []


def write_image(
    path: str | Path, pixels: np.ndarray, metadata: ImageMetadata | None = None
) -> None:
    """Write an image atomically, in the format of the suffix. Missing folders are created.

    Alpha is laid on white where the format has none (JPEG, BMP). 16 bits become 8 except in PNG
    and TIFF.

    Args:
        path: file to write or replace.
        pixels: (H, W, 1, 3 or 4) float sRGB in 0..1.
        metadata: what to write beside the pixels.

    Raises:
        ImageError: the suffix is unknown, or the format cannot hold the image.
        OSError: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    path, metadata = Path(path), metadata or ImageMetadata()
    file_format = IMAGE_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ImageError(f"{path.name}: images are written as {', '.join(IMAGE_FORMATS)}.")
    write_atomic(path, encode_image(pixels, file_format, metadata, path.name))


def _note_if_nearly_black(stored: StoredImage, name: str) -> None:
    """Warn about images with more than 8 bits whose values use a small part of the range."""
    if stored.bit_depth <= 8 or not stored.pixels.size:
        return
    highest = float(stored.pixels[..., :3].max())
    if 0 < highest < NEARLY_BLACK:
        log.warning(
            "%s: nearly black, the lightest value is %.1f%% of white. If the file holds fewer bits "
            "than it declares, stretch its levels first.",
            *(name, 100 * highest),
        )


def _to_srgb(stored: StoredImage, name: str) -> tuple[np.ndarray, bytes]:
    """Return the pixels in sRGB, and the profile for an RGB result."""
    pixels, icc = stored.pixels, stored.icc
    if not icc:
        return pixels, b""
    has_alpha = pixels.shape[2] == 4
    colors = min(pixels.shape[2], 3)
    if has_alpha and icc[16:20] == b"GRAY" and np.array_equal(pixels[..., 0], pixels[..., 1]):
        colors = 1  # gray with alpha is spread over three channels
    try:
        converted, icc = to_srgb(pixels[..., :colors].copy(), icc)
    except ValueError as error:
        log.warning("%s: %s; sRGB is assumed.", name, error)
        return pixels, b""
    if not has_alpha:
        return converted, icc
    pixels[..., :3] = converted
    return pixels, icc
