"""Picture files: read into float arrays with what must survive, written whole or not at all.

Pillow reads and writes. It has no mode for 16-bit colour, so those pixels go through PyAV (PNG and
TIFF in, PNG out) and through a small TIFF writer of our own.
"""

import io
import logging
import os
import re
import secrets
import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np

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
JPEG_QUALITY = 95
STRIP_BYTES = 2**20  # of a TIFF strip, and of what is rounded at once

# Tags of the main EXIF directory that say something about the photo. What is not named here
# describes the old file (strips, compression) or its preview, which is grey and would be shown.
EXIF_TAGS = (
    *(0x010D, 0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x011D, 0x0128),  # what, camera, dpi
    *(0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298),  # software, date, artist, rights
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),  # title, comment, ... as Windows writes them
)
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
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


class PictureError(ValueError):
    """Not a picture we can read or write; the message says what it is and what to do."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What a picture's file says beside its pixels, ready to be written with a coloured result."""

    bits: int = 8
    """Per channel: 8 or 16."""
    exif: bytes = b""
    """Without preview, and upright."""
    icc: bytes = b""
    """An sRGB profile, or none."""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    lossless: bool = True
    """False for JPEG and lossy WebP: a WebP result is then lossy, too."""


@dataclass(frozen=True)
class Picture:
    """Upright, in sRGB: pixels (H, W, C) float32 in 0..1, C = 1 (grey), 3, or 4 (alpha)."""

    pixels: np.ndarray
    keep: Keep


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
        from .profiles import srgb_profile

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
    from .profiles import cmyk_to_srgb

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
    from .profiles import to_srgb

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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds its old content or all of `data`, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".colorist-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
