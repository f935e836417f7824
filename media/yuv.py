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


def has_alpha(frame: "VideoFrame") -> bool:
    """Return True if the frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def planar_format(frame: "VideoFrame") -> tuple[str, bool]:
    """Return the 4:4:4 or gray pixel format that holds the frame's values unchanged.

    The second value is True for full range.
    """
    pixel_format, bits = frame.format, frame_bit_depth(frame)
    suffix = "" if bits <= 8 else f"{min(bits, 16)}le"
    is_gray_alpha = has_alpha(frame) and len(pixel_format.components) == 2
    if (
        pixel_format.is_rgb
        or pixel_format.has_palette
        or is_gray_alpha
        or pixel_format.name.startswith("xyz")
    ):
        return f"gbr{'ap' if has_alpha(frame) else 'p'}{suffix}", True
    if has_alpha(frame):
        return f"yuva444p{suffix}", frame.color_range == FULL
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
    """Convert a decoded frame to RGB, or RGB and alpha (H, W, 3 or 4), float32 in 0..1.

    FFmpeg's own conversion to RGB is up to 4 levels of 10 bits off (2026-07).
    """
    layout, full_range = planar_format(frame)
    same = FULL if full_range else LIMITED  # the same range on both sides changes nothing
    ranges = {"src_color_range": same, "dst_color_range": same}
    frame = reformatter.reformat(frame, format=layout, src_colorspace=1, dst_colorspace=1, **ranges)
    planes, bits = plane_views(frame), frame_bit_depth(frame)
    peak = np.float32(2**bits - 1)
    if layout.startswith("gbr"):
        return np.stack([planes[2], *planes[:2], *planes[3:]], axis=-1) / peak
    transform, offset = yuv_transform(matrix, full_range, bits)
    if layout.startswith("gray"):
        planes = [planes[0], *[np.full_like(planes[0], offset[1])] * 2]
    yuv = np.stack(planes[:3], axis=-1) - offset
    rgb = yuv @ np.linalg.inv(transform).T.astype(np.float32)
    rgb = rgb.clip(0, 1, out=rgb)
    return rgb if len(planes) < 4 else np.dstack([rgb, planes[3] / peak])


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Lay RGB and alpha (H, W, 4) on white; RGB alone stays as it is."""
    if pixels.shape[2] < 4:
        return pixels
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + (1 - alpha)


def rgb_to_frame(
    pixels: np.ndarray, pixel_format: str, matrix: int, full_range: bool
) -> "VideoFrame":
    """Convert RGB (H, W, 3), or RGB and alpha (H, W, 4), in 0..1 to a planar YUV frame.

    Values are rounded to the nearest. Without alpha in `pixel_format`, that of `pixels` is ignored.
    """
    import av

    height, width = pixels.shape[:2]
    frame = av.VideoFrame(width, height, pixel_format)
    peak = 2 ** frame_bit_depth(frame) - 1
    transform, offset = yuv_transform(matrix, full_range, frame_bit_depth(frame))
    rgb = np.asarray(pixels[..., :3], np.float32)
    if width % 2 or height % 2:  # the last chroma sample belongs to one pixel alone
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    yuv = transform.astype(np.float32) @ rgb.reshape(-1, 3).T
    yuv = yuv.reshape(3, *rgb.shape[:2]) + offset[:, None, None]
    luma, chroma = yuv[0, :height, :width], yuv[1:]
    if "444" in pixel_format:
        chroma = chroma[:, :height, :width]
    else:  # a chroma sample is co-sited with the left one of two pixels
        left = np.concatenate([chroma[..., :1], chroma[..., 1:-1:2]], axis=2)
        chroma = (left + 2 * chroma[..., ::2] + chroma[..., 1::2]) / 4
    if "420" in pixel_format:
        chroma = (chroma[:, ::2] + chroma[:, 1::2]) / 2
    elif "422" in pixel_format:
        chroma = chroma[:, :height]
    alpha = [pixels[..., 3] * peak] if pixel_format.startswith("yuva") else []
    for plane, values in zip(plane_views(frame), (luma, *chroma, *alpha), strict=True):
        plane[:] = np.rint(values).clip(0, peak)
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
