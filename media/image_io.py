"""Picture files: read into float arrays with what must survive, written whole or not at all.

Pillow reads and writes. It has no mode for 16-bit colour, so those pixels go through PyAV (PNG and
TIFF in, PNG out) and through a small TIFF writer of our own.
"""

import logging
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .atomic import write_whole
from .image_data import EXIF_IFD, GPS_IFD, ORIENTATION, Keep, Picture, PictureError
from .image_encoders import _encode

log = logging.getLogger(__name__)

FORMATS = {  # suffix -> what is written; all of these are read, too
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
SUFFIXES = (*FORMATS, ".gif", ".pgm", ".ppm")  # read
READERS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")  # Pillow's names
# More is taken for an attack on memory; Pillow's own limit is 179 million.
PIXEL_LIMIT = 300_000_000

# Tags of the main EXIF directory that say something about the photo. What is not named here
# describes the old file (strips, compression) or its preview, which is grey and would be shown.
EXIF_TAGS = (
    *(0x010D, 0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x011D, 0x0128),  # what, camera, dpi
    *(0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298),  # software, date, artist, rights
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # title, comment, ... as Windows writes them
)
COLOR_SPACE, EXIF_WIDTH, EXIF_HEIGHT, INTEROP_IFD = 0xA001, 0xA002, 0xA003, 0xA005
UPRIGHT = {  # EXIF orientation -> (H, W, C) as it should be seen
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


# --- Reading -----------------------------------------------------------------------------------


def read(path: str | Path) -> Picture:
    """Read a picture file, upright and in sRGB.

    Raises:
        PictureError: no picture, damaged, a film, too large, or of a kind that cannot be coloured.
    """
    import av

    path = Path(path)
    if not os.path.isfile(path):
        found = "not an ordinary file" if os.path.exists(path) else "no such file"
        found = "a folder" if os.path.isdir(path) else found
        raise PictureError(f"{path.name}: {found}; expected a picture file.")
    try:
        with path.open("rb") as file:
            return _read(file, path.name)
    except PictureError:
        raise
    except PermissionError as error:
        raise PictureError(f"{path.name}: cannot be read ({error.strerror}).") from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
        *(KeyError, IndexError, TypeError, AttributeError, OverflowError, av.FFmpegError),
    ) as error:  # all that Pillow's readers raise on damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        message = f"{path.name}: damaged or cut short ({reason}); get the file again."
        raise PictureError(message) from error


def _read(file: BinaryIO, name: str) -> Picture:
    image = _open(file, name)
    width, height = image.size
    if width * height > PIXEL_LIMIT:
        raise PictureError(
            f"{name}: {width}x{height} is {width * height / 1e6:.0f} megapixels; "
            f"at most {PIXEL_LIMIT // 10**6} are read. Make it smaller or cut it into parts."
        )
    _refuse_film(image, name)
    icc, xmp = image.info.get("icc_profile") or b"", _xmp(image)
    dpi, lossless = image.info.get("dpi"), _is_lossless(image, file)
    exif = image.getexif()
    pixels, bits = _pixels(image, file, icc, name)
    if image.mode == "CMYK":
        from .icc import srgb_profile

        icc = srgb_profile() if icc else b""
    elif icc:
        pixels, icc = _in_srgb(pixels, icc, name)
    orientation = exif.get(ORIENTATION, 1)
    if orientation in UPRIGHT:
        pixels = np.ascontiguousarray(UPRIGHT[orientation](pixels))
        dpi = dpi[::-1] if dpi and orientation >= 5 else dpi
    xmp = re.sub(rb"(tiff:Orientation(?:=[\"']|>))[1-8]", rb"\g<1>1", xmp)
    if image.format == "TIFF" and (282 not in image.tag_v2 or image.tag_v2.get(296, 2) == 1):
        dpi = None  # Pillow makes 1 dpi of what is not said, and dpi of an aspect ratio
    if dpi and not all(0 < float(value) < 1e6 for value in dpi):
        dpi = None
    keep = Keep(
        bits=bits,
        exif=_exif(exif, pixels.shape, name),
        icc=icc,
        xmp=xmp,
        dpi=tuple(float(value) for value in dpi) if dpi else None,
        lossless=lossless,
    )
    return Picture(pixels, keep)


def _open(file: BinaryIO, name: str):
    """Image.open without its pixel limit, which is a global that other packs may rely on."""
    from PIL import Image

    Image.init()
    head = file.read(16)
    if not head:
        raise PictureError(f"{name}: the file is empty (0 bytes); get it again.")
    reason = ""
    for reader in READERS:
        factory, accept = Image.OPEN[reader]
        if accept is None or accept(head) is True:
            file.seek(0)
            try:
                return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reason = f" ({error})"
    if reason:
        raise PictureError(f"{name}: damaged or cut short{reason}; get the file again.")
    raise PictureError(f"{name}: not a picture. Known: JPEG, PNG, TIFF, WebP, BMP, GIF, PGM, PPM.")


def _refuse_film(image, name: str) -> None:
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return  # MPO: a JPEG with previews or a stereo partner behind it
    frames, what = image.n_frames, "an animated"
    remedy = "Save it as a film (.mkv, .mp4), or its frames as files."
    if image.format == "TIFF":
        frames, what, remedy = 0, "a multi-page", "Save each page as a file of its own."
        for index in range(image.n_frames):
            image.seek(index)
            frames += not image.tag_v2.get(254, 0) & 5  # 1: a reduced copy, 4: a mask
        image.seek(0)
        if frames < 2:
            return
    kind = image.format.replace("WEBP", "WebP")
    raise PictureError(f"{name}: {what} {kind} with {frames} pictures. {remedy}")


def _pixels(image, file: BinaryIO, icc: bytes, name: str) -> tuple[np.ndarray, int]:
    """(H, W, 1, 3 or 4) float32 in 0..1, and bits per channel."""
    from .icc import cmyk_to_srgb

    bits = _bits(image, file)
    if bits == 16 and image.mode in ("RGB", "RGBA", "LA") or (bits == 16 and image.format == "PNG"):
        deep = _deep(image, file, name)
        if deep is not None:
            return deep, 16
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.float32)[..., None] / np.float32(65535)
        negative = image.format == "TIFF" and image.tag_v2.get(262) == 0  # Pillow turns only 8 bits
        return (1 - values if negative else values), 16
    image.load()
    if image.mode == "CMYK":
        try:
            image = cmyk_to_srgb(image, icc)
        except ValueError as error:
            log.warning("%s: %s; converted without it.", name, error)
            image = image.convert("RGB")
    elif image.mode in ("LA", "La", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in ("P", "RGBX", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "RGBA"):
        raise PictureError(
            f"{name}: pixels of kind '{image.mode}' cannot be coloured; "
            "save it as grey or RGB with 8 or 16 bits."
        )
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    return values.astype(np.float32) / np.float32(255), 8


def _bits(image, file: BinaryIO) -> int:
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format == "PNG":
        file.seek(24)  # IHDR: after signature, length, name, width, height
        return file.read(1)[0]
    return 8


def _deep(image, file: BinaryIO, name: str) -> np.ndarray | None:
    """A 16-bit PNG or TIFF, (H, W, 1, 3 or 4); None where PyAV would misread the layout."""
    import av

    associated = False
    if image.format == "TIFF":
        tags = image.tag_v2
        file.seek(0)
        if tags.get(284, 1) != 1:  # Pillow 13 takes the lower bytes of such files
            raise PictureError(
                f"{name}: a 16-bit TIFF with separate planes; save it with interleaved channels."
            )
        if 322 in tags or file.read(4) not in (b"II*\0", b"MM\0*"):
            log.warning("%s: a 16-bit TIFF in tiles or BigTIFF form; read with 8 bits.", name)
            return None
        associated = 1 in tags.get(338, ())
    image.load()  # a damaged file raises here; PyAV would fill the rest with anything
    file.seek(0)
    with av.open(file) as container:
        frame = next(container.decode(video=0))
    kind = frame.format.name
    channels = {"gray16": 1, "ya16": 2, "rgb48": 3, "rgba64": 4}[kind[:-2]]
    plane, dtype = frame.planes[0], f"{'>' if kind.endswith('be') else '<'}u2"
    values = np.frombuffer(plane, dtype).reshape(frame.height, plane.line_size // 2)
    values = values[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    pixels = values.astype(np.float32) / np.float32(65535)
    if channels == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    if channels == 4 and image.mode == "RGB":
        pixels = pixels[..., :3]  # a fourth channel that is not alpha
    if associated:
        pixels[..., :3] /= np.maximum(pixels[..., 3:], 1 / 65535)
    return pixels.clip(0, 1)


def _in_srgb(pixels: np.ndarray, icc: bytes, name: str) -> tuple[np.ndarray, bytes]:
    from .icc import to_srgb

    colors = min(pixels.shape[2], 3)
    grey_in_rgb = icc[16:20] == b"GRAY" and colors == 3 and pixels.shape[2] == 4
    if grey_in_rgb and np.array_equal(pixels[..., 0], pixels[..., 1]):
        colors = 1  # grey with alpha was spread over three channels
    try:
        converted, icc = to_srgb(pixels[..., :colors].copy(), icc)
    except ValueError as error:
        log.warning("%s: %s; taken for sRGB.", name, error)
        return pixels, b""
    if pixels.shape[2] == 4:
        pixels[..., :3] = converted
        return pixels, icc
    return converted, icc


def _xmp(image) -> bytes:
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return found.encode() if isinstance(found, str) else bytes(found)


def _is_lossless(image, file: BinaryIO) -> bool:
    if image.format == "WEBP":  # a VP8L chunk: first, or after VP8X and its companions
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8L"
            size = struct.unpack("<I", head[4:])[0]
            file.seek(size + size % 2, os.SEEK_CUR)
    return image.format not in ("JPEG", "MPO", "WEBP")


def _exif(exif, shape: tuple[int, ...], name: str) -> bytes:
    """EXIF of the result: upright, of its size, in sRGB, without preview."""
    from PIL import Image

    kept = Image.Exif()
    try:
        for tag in EXIF_TAGS:
            if tag in exif:
                kept[tag] = exif[tag]
        if ORIENTATION in kept:
            kept[ORIENTATION] = 1
        for ifd in (EXIF_IFD, GPS_IFD):
            if entries := dict(exif.get_ifd(ifd)):
                entries.pop(INTEROP_IFD, None)
                new = {EXIF_HEIGHT: shape[0], EXIF_WIDTH: shape[1], COLOR_SPACE: 1}
                entries |= {
                    tag: value for tag, value in new.items() if tag in entries and ifd == EXIF_IFD
                }
                kept[ifd] = entries
        return kept.tobytes() if len(kept) else b""
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        OSError,
        struct.error,
    ) as error:
        log.warning("%s: damaged EXIF is left out (%s).", name, error)
        return b""


# --- Writing -----------------------------------------------------------------------------------


def write(path: str | Path, pixels: np.ndarray, keep: Keep | None = None) -> None:
    """Write (H, W, 1, 3 or 4) float sRGB in 0..1 in the format of the suffix; folders are made.

    Alpha is laid on white where the format has none (JPEG, BMP). 16 bits become 8 except in PNG
    and TIFF.

    Raises:
        PictureError: a suffix we do not write, or a picture the format cannot hold.
        OSError: the folder cannot be written, the disk is full. Nothing is left behind.
    """
    path, keep = Path(path), keep or Keep()
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise PictureError(f"{path.name}: pictures are written as {', '.join(FORMATS)}.")
    write_whole(path, _encode(pixels, kind, keep, path.name))
