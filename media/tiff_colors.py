"""Colors of TIFF pages that are neither gray nor RGB: palettes and YCbCr (TIFF 6.0)."""

import numpy as np

from .tiff_directory import Page, Tag

REC601 = (0.299, 0.587, 0.114)
FULL_RANGE = (0.0, 1.0, 0.5, 1.0, 0.5, 1.0)  # black and white of Y, Cb, Cr by the full scale
ROWS_PER_STEP = 256  # bounds the memory of the conversion


def apply_palette(indices: np.ndarray, page: Page, bits: int) -> np.ndarray:
    """Return the colors (H, W, 3), float32 in 0..1, of palette indices (H, W) of `bits` bits.

    Raises:
        ValueError: the palette is missing or too short.
    """
    size = 2**bits
    values = np.array(page.numbers(Tag.COLOR_MAP, ()), np.int64)
    if len(values) < 3 * size:
        raise ValueError(f"a palette of {len(values) // 3} colors for {bits} bits per pixel")
    palette = values[: 3 * size].reshape(3, size).T
    if palette.max() < 256:  # old programs wrote 8 bits
        scale = 255
    elif bits <= 8:  # 8 bits of which many programs leave the lower byte of 16 empty
        palette, scale = palette >> 8, 255
    else:
        scale = 65535
    return (palette / scale).clip(0, 1).astype(np.float32)[indices]


def ycbcr_to_rgb(samples: np.ndarray, page: Page, white: float) -> np.ndarray:
    """Convert YCbCr samples (H, W, 3) in 0..`white` to RGB, float32 in 0..1 (TIFF 6.0, section 21).

    Raises:
        ValueError: the coefficients or the reference levels make no sense.
    """
    coefficients = page.decimals(Tag.YCBCR_COEFFICIENTS) or REC601
    default = tuple(round(level * (white + 1)) if level < 1 else white for level in FULL_RANGE)
    levels = page.decimals(Tag.REFERENCE_BLACK_WHITE) or default
    if len(coefficients) != 3 or not min(coefficients) > 0 or len(levels) != 6:
        raise ValueError("invalid YCbCr coefficients")
    red, green, blue = coefficients
    black, span = np.array(levels[::2]), np.array(levels[1::2]) - np.array(levels[::2])
    if not (np.isfinite([*levels, *coefficients]).all() and (span > 0).all()):
        raise ValueError("invalid YCbCr reference levels")
    chroma_span = white // 2 / white  # 127 of 255
    scale = np.array([1, chroma_span, chroma_span]) / span
    to_rgb = np.array(
        [
            [1, 0, 2 - 2 * red],
            [1, -blue * (2 - 2 * blue) / green, -red * (2 - 2 * red) / green],
            [1, 2 - 2 * blue, 0],
        ]
    )
    matrix = (to_rgb * scale).T.astype(np.float32)
    pixels = np.empty(samples.shape, np.float32)
    for top in range(0, len(samples), ROWS_PER_STEP):
        rows = slice(top, top + ROWS_PER_STEP)
        pixels[rows] = ((samples[rows] - black.astype(np.float32)) @ matrix).clip(0, 1)
    return pixels
