"""Decoded frames <-> RGB in 0..1, upright: matrices, ranges and bit depths of films."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter


# FFmpeg's number of a matrix -> Kr, Kb (ITU-T H.273, table 4)
MATRICES = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601 of 625 lines
    6: (0.299, 0.114),  # BT.601 of 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020
}
LIMITED, FULL = 1, 2  # FFmpeg's numbers of ranges


def _bits(frame: "VideoFrame") -> int:
    return max(component.bits for component in frame.format.components)


def _layout(frame: "VideoFrame") -> tuple[str, bool]:
    """A kind of planes at full size that holds the frame's values as they are; if in full range."""
    kind, bits = frame.format, _bits(frame)
    deep = "" if bits <= 8 else f"{min(bits, 16)}le"
    if kind.is_rgb or kind.has_palette or kind.name.startswith("xyz"):
        return f"gbrp{deep}", True
    if len(kind.components) < 3:  # which FFmpeg takes for full unless told otherwise
        return f"gray{deep}", frame.color_range != LIMITED
    if kind.name.startswith("yuvj"):
        return "yuvj444p", True
    return f"yuv444p{deep}", frame.color_range == FULL


def _equation(matrix: int, full: bool, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """M and offset of: YUV = M RGB + offset, RGB in 0..1 (ITU-T H.273, equations 20 to 43)."""
    red, blue = MATRICES[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb, cr = (([0, 0, 1] - luma) / (2 - 2 * blue), ([1, 0, 0] - luma) / (2 - 2 * red))
    unit, most = 2 ** (bits - 8), 2**bits - 1
    scale, dark = (np.full(3, most), 0) if full else (np.array([219, 224, 224]) * unit, 16 * unit)
    return np.stack([luma, cb, cr]) * scale[:, None], np.float32([dark, 128 * unit, 128 * unit])


def _planes(frame: "VideoFrame") -> list[np.ndarray]:
    """(h, w) of each plane; they are views."""
    dtype = np.uint8 if _bits(frame) <= 8 else np.dtype("<u2")
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


def _pixels(frame: "VideoFrame", matrix: int, reformatter: "VideoReformatter") -> np.ndarray:
    """(H, W, 3) float32 in 0..1. FFmpeg's own RGB is up to 4 levels of 10 bits off (2026-07)."""
    layout, full = _layout(frame)
    same = FULL if full else LIMITED  # said on both sides, it changes nothing
    ranges = {"src_color_range": same, "dst_color_range": same}
    frame = reformatter.reformat(frame, format=layout, src_colorspace=1, dst_colorspace=1, **ranges)
    planes, bits = _planes(frame), _bits(frame)
    if layout.startswith("gbrp"):
        return np.stack([planes[2], *planes[:2]], axis=-1) / np.float32(2**bits - 1)
    matrix, offset = _equation(matrix, full, bits)
    if layout.startswith("gray"):
        planes = [planes[0], *[np.full_like(planes[0], offset[1])] * 2]
    yuv = np.stack(planes, axis=-1) - offset
    rgb = yuv @ np.linalg.inv(matrix).T.astype(np.float32)
    return rgb.clip(0, 1, out=rgb)


def frame_of(pixels: np.ndarray, kind: str, matrix: int, full: bool) -> "VideoFrame":
    """(H, W, 3) in 0..1 -> yuv420p, yuv422p10le or the like, each value the nearest."""
    import av

    frame = av.VideoFrame(pixels.shape[1], pixels.shape[0], kind)
    matrix, offset = _equation(matrix, full, _bits(frame))
    yuv = matrix.astype(np.float32) @ np.asarray(pixels, np.float32).reshape(-1, 3).T
    yuv = yuv.reshape(3, *pixels.shape[:2]) + offset[:, None, None]
    luma, chroma = yuv[0], yuv[1:]
    if "444" not in kind:  # a sample lies on the left one of two pixels
        left = np.concatenate([chroma[..., :1], chroma[..., 1:-1:2]], axis=2)
        chroma = (left + 2 * chroma[..., ::2] + chroma[..., 1::2]) / 4
    if "420" in kind:
        chroma = (chroma[:, ::2] + chroma[:, 1::2]) / 2
    for plane, value in zip(_planes(frame), (luma, *chroma), strict=True):
        plane[:] = np.rint(value).clip(0, 2 ** _bits(frame) - 1)
    return frame


def _turn(frame: "VideoFrame") -> tuple[bool, bool, bool]:
    """How a film becomes upright: axes swapped, then rows and columns reversed.

    Of one frame only: PyAV's side data make a cycle, which keeps a frame until Python looks for it.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]  # x' = ax + cy, y' = bx + dy
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def _upright(pixels: np.ndarray, swapped: bool, rows: bool, columns: bool) -> np.ndarray:
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
