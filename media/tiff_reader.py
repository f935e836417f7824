"""TIFF images: choice of the page, samples to 0..1, and what is left to Pillow or tifffile."""

import io
import logging
from typing import IO, BinaryIO, cast

import numpy as np
from PIL import Image, TiffImagePlugin

from .errors import ImageError, UnsupportedImageError, error_reason
from .image_metadata import UNIT_SCALE, Resolution, valid_resolution
from .tiff_colors import apply_palette, ycbcr_to_rgb
from .tiff_directory import Page, Tag
from .tiff_samples import (
    FLOAT,
    MAX_SAMPLES_PER_PIXEL,
    SIGNED,
    UNDEFINED,
    UNSIGNED,
    YCBCR,
    SampleLayout,
    read_samples,
)

log = logging.getLogger(__name__)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
COLOR_CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
CAMERA_RAW = (32803, 34892)  # color filter array, linear raw
CAMERA_RAW_COMPRESSION = (34713,)  # Nikon
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
COMPRESSION_NAMES = {
    **{1: "uncompressed", 5: "LZW", 6: "old-style JPEG", 7: "JPEG", 8: "deflate", 32946: "deflate"},
    **{32809: "ThunderScan", 34676: "SGI Log", 34677: "SGI Log", 34887: "LERC", 34925: "LZMA"},
    **{33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34661: "JBIG", 34933: "PNG"},
    **{34934: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"},
}
COLOR_NAMES = {
    **{0: "gray", 1: "gray", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr"},
    **{8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32844: "LogL", 32845: "LogLuv"},
}
FORMAT_NAMES = {SIGNED: " signed", FLOAT: " float", 5: " complex", 6: " complex"}
INSTALL_CODECS = "install more codecs with pip install 'comfyui-colorist[tiff]'"
# An unmarked page with at most this share of the pixels of the largest is a thumbnail.
THUMBNAIL_SHARE = 1 / 4
SAMPLED_ROWS = 256  # that decide whether bytes are signed
SIGNED_SPREAD = 32  # of both signs, in photos with signed bytes
FLOAT_SCALES = (255.0, 65535.0, 2.0**32 - 1)  # of integers that were stored as float
FLOAT_OVERSHOOT = 0.25  # negative values of an image in 0..1, as resampling leaves them


# --- Pages -------------------------------------------------------------------------------------


def choose_page(pages: list[Page], name: str, number: int | None = None) -> Page:
    """Return the page to colorize, and log which of several it is.

    Thumbnails, masks and the infrared channel of a scan are passed over.

    Args:
        pages: those of the file.
        name: file name for messages.
        number: page that the user chose, from 1; None for the first full-size page.

    Raises:
        ImageError: the file has fewer pages.
    """
    count = pages[-1].index + 1
    if number is not None:
        if not 1 <= number <= count:
            raise ImageError(f"{name}: no such page; expected 1 to {count}.")
        return _full_size_pages([page for page in pages if page.index == number - 1])[0]
    if len(pages) == 1:
        return pages[0]
    full_size = _full_size_pages(pages)
    page = full_size[0]
    place = f"page {page.index + 1} of {count}" + (" (SubIFD)" if page.in_sub_ifd else "")
    size = f"{page.width}x{page.height}"
    if len(full_size) > 1:
        log.warning(
            "%s: %s is read, %s; %d other pages are as large. Choose with --page N or --page all.",
            *(name, place, size, len(full_size) - 1),
        )
    elif page.index or page.in_sub_ifd or any(not other.is_secondary for other in pages[1:]):
        log.warning(
            "%s: %s is read, %s; the others are smaller, masks, or infrared.", name, place, size
        )
    return page


def page_numbers(pages: list[Page]) -> list[int]:
    """Return the numbers, from 1, of the full-size pages, which `--page all` colorizes."""
    return sorted({page.index + 1 for page in _full_size_pages(pages)})


def _full_size_pages(pages: list[Page]) -> list[Page]:
    """Return the pages that may be the photo; SubIFDs count only if no other page does."""
    main = [page for page in pages if not page.in_sub_ifd]
    marked_full = [page for page in main if not page.is_secondary]
    if not marked_full:
        marked_full = [page for page in pages if not page.is_secondary and not _is_raw(page)]
    candidates = marked_full or pages
    largest = max(page.width * page.height for page in candidates)
    candidates = [
        page for page in candidates if page.width * page.height > THUMBNAIL_SHARE * largest
    ]
    if not marked_full:
        return [max(candidates, key=lambda page: page.width * page.height)]
    color = [page for page in candidates if page.number(Tag.SAMPLES_PER_PIXEL, 1) >= 3]
    is_infrared = (
        len(candidates) == 2
        and color == candidates[:1]
        and (candidates[0].width, candidates[0].height)
        == (candidates[1].width, candidates[1].height)
    )
    return color if is_infrared else candidates


def _is_raw(page: Page) -> bool:
    return (
        page.number(Tag.PHOTOMETRIC, -1) in CAMERA_RAW
        or page.number(Tag.COMPRESSION, 1) in CAMERA_RAW_COMPRESSION
    )


class PageFile(io.RawIOBase):
    """A TIFF file whose header points at one page, so that readers see that page first."""

    def __init__(self, file: BinaryIO, page: Page) -> None:
        super().__init__()
        self._file = file
        order = "little" if page.byte_order == "<" else "big"
        file.seek(0)
        start = 8 if page.big else 4
        self._head = file.read(start) + page.offset.to_bytes(start, order)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read like the file, with the header replaced."""
        position = self._file.tell()
        data = self._file.read(size)
        return self._head[position : position + len(data)] + data[len(self._head[position:]) :]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor of the file; libtiff is given the offset of the page with it."""
        return self._file.fileno()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


# --- Pixels ------------------------------------------------------------------------------------


def read_with_samples(file: BinaryIO, page: Page, name: str) -> tuple[np.ndarray, int] | None:
    """Read uncompressed or losslessly compressed samples of any depth at full precision.

    Returns:
        Pixels (H, W, C) float32 in 0..1 as stored, before rotation, and the bit depth of a result
        that keeps their precision: 8 or 16. C is 1, 3 or 4 (gray, RGB, RGBA); 4 or 5 for CMYK
        without and with alpha (see `is_cmyk`). None for pages that are left to Pillow.
    """
    photometric = _photometric(page)
    layout = SampleLayout.of(page)
    if layout is None or photometric not in COLOR_CHANNELS:
        return None
    if photometric in (PALETTE, YCBCR) and (layout.sample_format != UNSIGNED or layout.bits > 16):
        return None
    colors = COLOR_CHANNELS[photometric]
    if layout.samples < colors:
        kind = COLOR_NAMES[photometric]
        raise ValueError(f"{layout.samples} samples per pixel for {kind}")
    extra = page.numbers(Tag.EXTRA_SAMPLES, ())[: layout.samples - colors]
    if photometric == RGB and layout.samples == 4 and not extra:
        extra = (UNASSOCIATED_ALPHA,)  # many programs leave the tag out
    kinds = (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
    alpha = next((index for index, kind in enumerate(extra) if kind in kinds), None)
    channels = [*range(colors), *([] if alpha is None else [colors + alpha])]
    samples = read_samples(file, layout, channels)
    if layout.bits == 8 and page.number(Tag.SAMPLE_FORMAT, UNSIGNED) == SIGNED:
        samples = _from_signed_bytes(samples, name)
    if photometric in (PALETTE, YCBCR):
        pixels = _to_rgb(samples, layout, page)
        photometric, colors = RGB, 3
    else:
        pixels = _scale(samples, layout, page, colors, name)
    if photometric == WHITE_IS_ZERO:
        pixels[..., :colors] = 1 - pixels[..., :colors]
    if alpha is not None:
        if extra[alpha] == ASSOCIATED_ALPHA:
            smallest = np.float32(1 / (2 ** min(layout.bits, 16) - 1))
            pixels[..., :colors] /= np.maximum(pixels[..., colors:], smallest)
            pixels.clip(0, 1, out=pixels)
        if colors == 1:
            pixels = pixels[..., [0, 0, 0, 1]]
    return pixels, 16 if layout.bits > 8 else 8


def is_cmyk(page: Page) -> bool:
    """Return True if the pixels of a page are amounts of ink."""
    return _photometric(page) == CMYK


def _to_rgb(samples: np.ndarray, layout: SampleLayout, page: Page) -> np.ndarray:
    """Convert palette indices or YCbCr samples, with or without alpha, to RGB or RGBA in 0..1."""
    if _photometric(page) == PALETTE:
        colors = apply_palette(samples[..., 0], page, layout.bits)
        alpha = samples[..., 1:]
    else:
        colors = ycbcr_to_rgb(samples[..., :3], page, _full_range(layout)[1])
        alpha = samples[..., 3:]
    if not alpha.shape[2]:
        return colors
    alpha = alpha.astype(np.float32)
    _normalize(alpha, *_full_range(layout))
    return np.concatenate([colors, alpha], axis=2)


def _scale(
    samples: np.ndarray, layout: SampleLayout, page: Page, colors: int, name: str
) -> np.ndarray:
    """Scale samples (H, W, C), of which `colors` are not alpha, to 0..1."""
    with np.errstate(over="ignore"):  # float64
        pixels = samples.astype(np.float32)
    if layout.sample_format == FLOAT:
        np.nan_to_num(pixels, copy=False)  # NaN becomes 0
    black, white = _value_range(samples[..., :colors], layout, page, name)
    _normalize(pixels[..., :colors], black, white)
    _normalize(pixels[..., colors:], *_full_range(layout))
    return pixels


def _from_signed_bytes(samples: np.ndarray, name: str) -> np.ndarray:
    """Return bytes that are marked as signed with black at 0.

    Many such files hold 0..255 all the same. Of a photo, the reading with the smaller steps between
    neighbors is right, because the other one jumps from black to white within the range. Drawings
    have such jumps; their -1 is a white of 255.
    """
    rows = samples[:: max(1, len(samples) // SAMPLED_ROWS)].view(np.int8).astype(np.int16)
    low, high = np.percentile(rows, (1, 99))
    signed_steps = np.abs(np.diff(rows, axis=1)).sum()
    unsigned_steps = np.abs(np.diff(rows & 255, axis=1)).sum()
    if signed_steps >= unsigned_steps or low > -SIGNED_SPREAD or high < SIGNED_SPREAD:
        return samples
    log.warning("%s: 8-bit signed samples; -128 to 127 are read as black to white.", name)
    return samples ^ 128


def _photometric(page: Page) -> int:
    """Return the kind of colors; gray or RGB by the number of samples if the page has no tag."""
    is_color = page.number(Tag.SAMPLES_PER_PIXEL, 1) >= 3
    return page.number(Tag.PHOTOMETRIC, RGB if is_color else BLACK_IS_ZERO)


def _normalize(pixels: np.ndarray, black: float, white: float) -> None:
    """Map black..white to 0..1 in place; values outside are clipped."""
    if black:
        pixels -= np.float32(black)
    pixels /= np.float32(white - black)
    pixels.clip(0, 1, out=pixels)


def _full_range(layout: SampleLayout) -> tuple[float, float]:
    """Return the sample values of 0 and 1 by the type alone."""
    if layout.sample_format == FLOAT:
        return 0.0, 1.0
    return 0.0, float(2 ** (layout.bits - (layout.sample_format == SIGNED)) - 1)


def _value_range(
    samples: np.ndarray, layout: SampleLayout, page: Page, name: str
) -> tuple[float, float]:
    """Return the sample values of black and white.

    MinSampleValue and MaxSampleValue are statistics by the standard, but scanners and microscopes
    declare with them that 16 bits hold 10, 12 or 14. Hence they count where they span at most half
    of the full scale, and always for types without a natural scale (float, 32 bits and more).
    """
    black, white = _full_range(layout)
    declared = _declared_range(page, layout)
    natural_scale = layout.sample_format == UNSIGNED and layout.bits <= 24
    if layout.bits <= 8:
        return black, white
    if declared and (not natural_scale or declared[1] - declared[0] <= (white - black) / 2):
        if declared != (black, white):
            log.warning("%s: values %g to %g are read as black to white.", name, *declared)
        return declared
    if natural_scale:
        return black, white
    low, high = _extremes(samples)
    if layout.sample_format == FLOAT:
        black, white = _float_range(low, high)
    elif layout.sample_format == SIGNED and low < 0:
        black = float(-(2 ** (layout.bits - 1)))
    elif layout.bits >= 32 and high <= 65535:
        white = 65535.0
    kind = "float" if layout.sample_format == FLOAT else "integer"
    log.warning(
        "%s: %d-bit %s samples; values %g to %g are read as black to white, with 16 bits.",
        *(name, layout.bits, kind, black, white),
    )
    return black, white


def _float_range(low: float, high: float) -> tuple[float, float]:
    """Return black and white of float samples by their extremes."""
    if low >= -FLOAT_OVERSHOOT and high <= 2:
        return 0.0, 1.0  # values above 1 are highlights
    if low >= 0:
        scales = (scale for scale in FLOAT_SCALES if scale / 4 < high <= scale)
        return 0.0, next(scales, high)
    return low, high if high > low else low + 1


def _extremes(samples: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest finite sample; 0 and 1 if there are none."""
    finite = np.isfinite(samples)
    if not finite.any():
        return 0.0, 1.0
    low = samples.min(where=finite, initial=samples.flat[np.argmax(finite)])
    high = samples.max(where=finite, initial=samples.flat[np.argmax(finite)])
    return float(low), float(high)


def _declared_range(page: Page, layout: SampleLayout) -> tuple[float, float] | None:
    """Return the smallest and the largest sample value that the file declares; None without."""
    pairs = [
        (Tag.MIN_SAMPLE_VALUE, Tag.MAX_SAMPLE_VALUE),
        (Tag.SMIN_SAMPLE_VALUE, Tag.SMAX_SAMPLE_VALUE),
    ]
    if layout.sample_format == FLOAT:
        pairs.reverse()  # the first pair holds 16-bit integers only
    for low_tag, high_tag in pairs:
        if high := page.decimals(high_tag):
            declared = min(page.decimals(low_tag) or (0.0,)), max(high)
            return declared if np.isfinite(declared).all() and declared[0] < declared[1] else None
    return None


def read_with_tifffile(file: BinaryIO, page: Page, name: str) -> tuple[np.ndarray, int]:
    """Read gray or RGB of a compression that Pillow lacks, with the optional tifffile.

    Raises:
        UnsupportedImageError: tifffile or one of its codecs is not installed, or the colors are of
            an unknown kind.
    """
    if _is_raw(page):
        raise UnsupportedImageError(
            f"{name}: a camera's raw file; develop it to TIFF or JPEG first."
        )
    photometric = _photometric(page)
    bits = page.number(Tag.BITS_PER_SAMPLE, 1)
    remedy = "save it as gray or RGB without compression"
    unsupported = f"{name}: an unsupported kind of TIFF ({_description(page)})"
    readable_samples = (
        page.number(Tag.SAMPLE_FORMAT, UNSIGNED) in (UNSIGNED, FLOAT, UNDEFINED)
        and page.number(Tag.SAMPLES_PER_PIXEL, 1) <= MAX_SAMPLES_PER_PIXEL
    )
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or not readable_samples:
        raise UnsupportedImageError(f"{unsupported}; {remedy}.")
    file.seek(0)
    try:
        import tifffile

        with tifffile.TiffFile(file) as tiff:
            candidates = [*tiff.pages, *(sub for main in tiff.pages for sub in main.pages or ())]
            samples = next(p for p in candidates if p.offset == page.offset).asarray()
    except (ValueError, KeyError, ImportError) as error:
        log.debug("%s: not for tifffile (%s)", name, error_reason(error))
        raise UnsupportedImageError(f"{unsupported}; {INSTALL_CODECS}, or {remedy}.") from error
    if samples.ndim == 2:
        samples = samples[..., None]
    elif page.number(Tag.PLANAR_CONFIGURATION, 1) == 2:
        samples = np.moveaxis(samples, 0, -1)
    if samples.shape[:2] != (page.height, page.width):
        raise ValueError(f"{samples.shape} samples for {page.width}x{page.height} pixels")
    samples = samples[..., : 3 if photometric == RGB else 1]
    pixels = samples.astype(np.float32)
    _normalize(pixels, 0, 1 if samples.dtype.kind == "f" else 2 ** min(bits, 64) - 1)
    return 1 - pixels if photometric == WHITE_IS_ZERO else pixels, 16 if bits > 8 else 8


def _description(page: Page) -> str:
    """Describe how the pixels of a page are stored."""
    compression, photometric = page.number(Tag.COMPRESSION, 1), _photometric(page)
    kind = FORMAT_NAMES.get(page.number(Tag.SAMPLE_FORMAT, UNSIGNED), "")
    samples = page.number(Tag.SAMPLES_PER_PIXEL, 1)
    channels = f", {samples} channels" if samples > MAX_SAMPLES_PER_PIXEL else ""
    return (
        f"{COMPRESSION_NAMES.get(compression, f'compression {compression}')}, "
        f"{COLOR_NAMES.get(photometric, f'colors of kind {photometric}')}, "
        f"{page.number(Tag.BITS_PER_SAMPLE, 1)} bits{kind}{channels}"
    )


# --- Metadata ----------------------------------------------------------------------------------


def page_resolution(page: Page) -> Resolution | None:
    """Return the dpi of a page, as stored; None if it gives none or only an aspect ratio."""
    across, down = page.decimals(Tag.X_RESOLUTION), page.decimals(Tag.Y_RESOLUTION)
    scale = UNIT_SCALE.get(page.number(Tag.RESOLUTION_UNIT, 2))
    if not across or not down or scale is None:
        return None
    return valid_resolution(across[0], down[0], scale)


def page_exif(file: BinaryIO, page: Page, name: str) -> Image.Exif:
    """Return the tags of a page, its EXIF and GPS directories included; empty if damaged."""
    exif = Image.Exif()
    if page.big and page.byte_order == ">":
        return exif  # Pillow takes such directories for those of a small TIFF
    try:
        exif.endian, exif.bigtiff = page.byte_order, page.big
        exif.load_from_fp(file, page.offset)
    except Exception as error:  # Pillow's parser raises anything; metadata never stops an image
        log.warning("%s: damaged EXIF is left out (%s).", name, error_reason(error))
        return Image.Exif()
    return exif


def open_with_pillow(file: BinaryIO, page: Page) -> Image.Image:
    """Open one page with Pillow; errors of Pillow are not translated."""
    return TiffImagePlugin.TiffImageFile(cast(IO[bytes], PageFile(file, page)))
