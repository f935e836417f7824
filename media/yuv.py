"""Conversion between decoded frames and upright RGB in 0..1: matrices, ranges and bit depths."""

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from av.sidedata.sidedata import SideData
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
# Decoders whose side data is safe to read; see `display_rotation`.
SAFE_SIDE_DATA = frozenset(
    ("h264", "hevc", "av1", "libdav1d", "mpeg4", "h263", "mpeg2video", "vp8", "vp9", "prores")
)


class Rotation(NamedTuple):
    """Steps from a decoded frame to an upright one, in this order."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


def frame_bit_depth(frame: "VideoFrame") -> int:
    """Return the bits of the deepest channel."""
    return max(component.bits for component in frame.format.components)


def planar_format(frame: "VideoFrame") -> tuple[str, bool]:
    """Return the 4:4:4 or gray pixel format that holds the frame's values unchanged.

    The second value is True for full range.
    """
    pixel_format, bits = frame.format, frame_bit_depth(frame)
    suffix = "" if bits <= 8 else f"{min(bits, 16)}le"
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.name.startswith("xyz"):
        return f"gbrp{suffix}", True
    if len(pixel_format.components) < 3:  # FFmpeg assumes full range for unspecified gray
        return f"gray{suffix}", frame.color_range != LIMITED
    if pixel_format.name.startswith("yuvj"):
        return "yuvj444p", True
    return f"yuv444p{suffix}", frame.color_range == FULL


def yuv_transform(matrix: int, full_range: bool, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return M (3, 3) and offset (3,) of: YUV = M RGB + offset, RGB in 0..1 (H.273, eq. 20-43)."""
    red, blue = MATRICES[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb, cr = (([0, 0, 1] - luma) / (2 - 2 * blue), ([1, 0, 0] - luma) / (2 - 2 * red))
    unit, peak = 2 ** (bits - 8), 2**bits - 1
    if full_range:
        scale, black = np.full(3, peak), 0
    else:
        scale, black = np.array([219, 224, 224]) * unit, 16 * unit
    offset = np.array([black, 128 * unit, 128 * unit], np.float32)
    return np.stack([luma, cb, cr]) * scale[:, None], offset


def plane_views(frame: "VideoFrame") -> list[np.ndarray]:
    """Return a view (h, w) of each plane."""
    dtype = np.uint8 if frame_bit_depth(frame) <= 8 else np.dtype("<u2")
    rows = [
        np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1) for plane in frame.planes
    ]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


def frame_to_rgb(frame: "VideoFrame", matrix: int, reformatter: "VideoReformatter") -> np.ndarray:
    """Convert a decoded frame to RGB (H, W, 3) float32 in 0..1.

    FFmpeg's own conversion to RGB is up to 4 levels of 10 bits off (2026-07).
    """
    layout, full_range = planar_format(frame)
    same = FULL if full_range else LIMITED  # the same range on both sides changes nothing
    ranges = {"src_color_range": same, "dst_color_range": same}
    frame = reformatter.reformat(frame, format=layout, src_colorspace=1, dst_colorspace=1, **ranges)
    planes, bits = plane_views(frame), frame_bit_depth(frame)
    if layout.startswith("gbrp"):
        return np.stack([planes[2], *planes[:2]], axis=-1) / np.float32(2**bits - 1)
    transform, offset = yuv_transform(matrix, full_range, bits)
    if layout.startswith("gray"):
        planes = [planes[0], *[np.full_like(planes[0], offset[1])] * 2]
    yuv = np.stack(planes, axis=-1) - offset
    rgb = yuv @ np.linalg.inv(transform).T.astype(np.float32)
    return rgb.clip(0, 1, out=rgb)


def rgb_to_frame(
    pixels: np.ndarray, pixel_format: str, matrix: int, full_range: bool
) -> "VideoFrame":
    """Convert RGB (H, W, 3) in 0..1 to a planar YUV frame, rounded to the nearest values."""
    import av

    frame = av.VideoFrame(pixels.shape[1], pixels.shape[0], pixel_format)
    transform, offset = yuv_transform(matrix, full_range, frame_bit_depth(frame))
    yuv = transform.astype(np.float32) @ np.asarray(pixels, np.float32).reshape(-1, 3).T
    yuv = yuv.reshape(3, *pixels.shape[:2]) + offset[:, None, None]
    luma, chroma = yuv[0], yuv[1:]
    if "444" not in pixel_format:  # a chroma sample is co-sited with the left one of two pixels
        left = np.concatenate([chroma[..., :1], chroma[..., 1:-1:2]], axis=2)
        chroma = (left + 2 * chroma[..., ::2] + chroma[..., 1::2]) / 4
    if "420" in pixel_format:
        chroma = (chroma[:, ::2] + chroma[:, 1::2]) / 2
    for plane, values in zip(plane_views(frame), (luma, *chroma), strict=True):
        plane[:] = np.rint(values).clip(0, 2 ** frame_bit_depth(frame) - 1)
    return frame


def display_rotation(frame: "VideoFrame", decoder: str) -> Rotation:
    """Return the steps that make frames upright. Call it for one frame of a video only.

    PyAV's `side_data` forms a reference cycle, which keeps a frame until the garbage collector
    runs. It also fails on types that it does not know (EXIF) and crashes the process on those with
    metadata (ICC profiles of PNG frames). Hence it is read for video codecs only; the frames of all
    others are rotated, but not mirrored.

    Args:
        frame: the first decoded frame.
        decoder: name of its codec.
    """
    if decoder in SAFE_SIDE_DATA:
        try:
            matrix = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
        except (ValueError, KeyError):  # a type that this PyAV does not know
            matrix = None
        if matrix is not None:
            a, b, _, c, d = np.frombuffer(memoryview(matrix), np.int32)[
                :5
            ]  # x' = ax + cy, y' = bx + dy
            if abs(b) > abs(a):
                return Rotation(True, bool(b < 0), bool(c < 0))
            return Rotation(False, bool(d < 0), bool(a < 0))
    quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise
    return (
        Rotation(),
        Rotation(True, flip_rows=True),
        Rotation(False, True, True),
        Rotation(True, flip_columns=True),
    )[quarter_turns]


def rotate(pixels: np.ndarray, rotation: Rotation) -> np.ndarray:
    """Make a frame (H, W, C) upright."""
    pixels = pixels.swapaxes(0, 1) if rotation.transpose else pixels
    rows = -1 if rotation.flip_rows else 1
    columns = -1 if rotation.flip_columns else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])
