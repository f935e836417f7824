"""Test images written with Pillow alone, and small ICC profiles."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def random(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path, values: np.ndarray, mode: str | None = None, **options):
    """Write an image with Pillow alone, so that our reader is not tested with our writer."""
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def make_profile(space: bytes, pcs: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """Return a minimal ICC profile."""
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name.encode(), place + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = bytearray(128)
    head[8:12], head[12:16], head[16:20], head[20:24] = b"\x02\x40\0\0", b"mntr", space, pcs
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)  # D50
    icc = bytes(head) + struct.pack(">I", len(tags)) + table + data
    return struct.pack(">I", len(icc)) + icc[4:]


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WHITE = xyz(0.9642, 1, 0.8249)


GRAY_GAMMA = make_profile(b"GRAY", wtpt=WHITE, kTRC=gamma(1.8))


ADOBE_RGB = make_profile(
    b"RGB ",
    wtpt=WHITE,
    rXYZ=xyz(0.60974, 0.31111, 0.01947),
    gXYZ=xyz(0.20528, 0.62567, 0.06087),
    bXYZ=xyz(0.14919, 0.06322, 0.74457),
    rTRC=gamma(2.19921875),
    gTRC=gamma(2.19921875),
    bTRC=gamma(2.19921875),
)


XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" rdf:about="" tiff:Make="Kodak">
   <dc:creator xmlns:dc="http://purl.org/dc/elements/1.1/">Müller</dc:creator>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta><?xpacket end="w"?>""".replace("\n<x:xmpmeta", "<x:xmpmeta").encode()
"""A packet as `clean_xmp` writes it."""

SIDEWAYS_XMP = XMP.replace(b' tiff:Make="', b' tiff:Orientation="6" tiff:Make="')


def photo_exif(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x013B] = orientation, "Kodak", "Vivian M."
    exif[0x8769] = {
        0xA002: 5,
        0xA003: 7,
        0xA001: 65535,
        0x9003: "1954:06:01 12:00:00",
        0x829A: 0.01,
    }
    exif[0x8825] = {1: "N", 2: (41.0, 53.0, 0.0)}
    return exif


def bomb(path, width: int, height: int):
    """Write a PNG whose header promises a large image."""
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    data = bytearray(png.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def write_tiff(path, *pages: dict, order: str = "<"):
    """Write pages from raw strips and tags: {"strips": [bytes], tag: value or values}.

    Integers become LONG, floats DOUBLE, bytes UNDEFINED.
    """
    out = io.BytesIO(b"II*\0" + bytes(4) if order == "<" else b"MM\0*" + bytes(4))
    out.seek(8)
    link = 4
    for page in pages:
        tags = {tag: value for tag, value in page.items() if tag != "strips"}
        offsets = []
        for strip in page["strips"]:
            offsets.append(out.tell())
            out.write(strip + bytes(len(strip) % 2))
        tags |= {273: offsets, 279: [len(strip) for strip in page["strips"]]}
        entries = b""
        for tag, value in sorted(tags.items()):
            if isinstance(value, bytes):
                kind, count, data = 7, len(value), value
            else:
                values = value if isinstance(value, list | tuple) else [value]
                is_float = any(isinstance(item, float) for item in values)
                kind, code = (12, "d") if is_float else (4, "I")
                count, data = len(values), struct.pack(f"{order}{len(values)}{code}", *values)
            if len(data) > 4:
                place = out.tell()
                out.write(data + bytes(len(data) % 2))
                data = struct.pack(f"{order}I", place)
            entries += struct.pack(f"{order}HHI", tag, kind, count) + data.ljust(4, b"\0")
        place = out.tell()
        out.seek(link)
        out.write(struct.pack(f"{order}I", place))
        out.seek(place)
        out.write(struct.pack(f"{order}H", len(entries) // 12) + entries)
        link = out.tell()
        out.write(bytes(4))
    path.write_bytes(out.getvalue())
    return path


def gray_page(values: np.ndarray, bits: int = 8, **tags) -> dict:
    """Return a page of one gray strip, packed from the highest bit on (see `write_tiff`)."""
    height, width = values.shape
    places = np.arange(bits - 1, -1, -1)
    packed = np.packbits((values[..., None] >> places & 1).reshape(height, -1), axis=1)
    page = {"strips": [packed.tobytes()], 256: width, 257: height, 258: bits, 259: 1, 262: 1}
    return page | {277: 1, 278: height} | {int(tag[1:]): value for tag, value in tags.items()}
