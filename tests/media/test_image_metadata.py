"""EXIF, IPTC, XMP, text, resolution and orientation that the result keeps."""

import runpy
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.media.icc import srgb_profile
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import read_image, write_image
from PIL import Image, IptcImagePlugin, PngImagePlugin

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
random = helpers.random
save = helpers.save
XMP = helpers.XMP
SIDEWAYS_XMP = helpers.SIDEWAYS_XMP
photo_exif = helpers.photo_exif


XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
PREVIEW = b"8BIM\x04\x0c\x03abc" + struct.pack(">I", 13) + b"gray preview!\0"
IPTC = b"".join(
    bytes([0x1C, record, number]) + struct.pack(">H", len(text)) + text
    for record, number, text in ((1, 90, b"\x1b%G"), (2, 5, b"Harbor"), (2, 80, b"Vivian M."))
)


def photoshop_block(iptc: bytes) -> bytes:
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)


def insert_segments(path: Path, *segments: tuple[int, bytes]) -> None:
    """Insert segments into a JPEG."""
    data = path.read_bytes()
    new = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in segments
    )
    path.write_bytes(data[:2] + new + data[2:])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_icc_xmp_and_dpi_survive_and_the_image_is_upright(tmp_path, suffix, bits):
    source, result = tmp_path / "in.jpg", tmp_path / f"out{suffix}"
    values = np.zeros((7, 5, 3), np.uint8)
    values[0] = 255  # top row; under orientation 6 it is seen at the right
    icc = srgb_profile()
    exif = photo_exif()
    save(source, values, exif=exif, icc_profile=icc, dpi=(300, 150), quality=100)
    insert_segments(source, (0xE1, XMP_HEADER + SIDEWAYS_XMP))
    decoded = read_image(source)
    assert decoded.pixels.shape == (5, 7, 3)
    assert decoded.pixels[:, -1].min() > 0.9
    assert decoded.pixels[:, 0].max() < 0.1
    assert decoded.metadata.icc == icc

    write_image(
        result, decoded.pixels, ImageMetadata(**{**vars(decoded.metadata), "bit_depth": bits})
    )
    again = read_image(result)
    assert np.abs(again.pixels - decoded.pixels).max() < 0.05
    assert again.metadata.icc == icc
    assert again.metadata.xmp == XMP
    assert again.metadata.dpi == pytest.approx((150, 300), abs=0.02)
    with Image.open(result) as image:
        actual = image.getexif()
        assert actual.get(0x0112, 1) == 1
        assert (actual[0x010F], actual[0x013B]) == ("Kodak", "Vivian M.")
        details = actual.get_ifd(0x8769)
        assert (details[0xA002], details[0xA003], details[0xA001]) == (7, 5, 1)
        assert details[0x9003] == "1954:06:01 12:00:00"
        assert float(details[0x829A]) == pytest.approx(0.01)
        assert actual.get_ifd(0x8825)[2] == (41.0, 53.0, 0.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_does_it(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", random(4, 3, 3), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.rint(read_image(path).pixels * 255), expected)


def test_a_gray_preview_is_not_carried_over(tmp_path):
    exif, preview = photo_exif(1), b"\xff\xd8 preview \xff\xd9"
    data = exif.tobytes()
    body = bytearray(data[6:])
    link = 8 + 2 + 12 * struct.unpack_from(">H", body, 8)[0]
    struct.pack_into(">I", body, link, len(body))
    place = len(body) + 2 + 24 + 4
    body += struct.pack(">HHHIIHHIII", 2, 0x0201, 4, 1, place, 0x0202, 4, 1, len(preview), 0)
    body += preview
    path = save(tmp_path / "x.jpg", random(4, 4, 3), exif=b"Exif\0\0" + bytes(body))
    assert b"preview" in path.read_bytes()
    kept = read_image(path).metadata.exif
    assert b"Kodak" in kept
    assert b"preview" not in kept


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_stop_a_image(tmp_path):
    path = save(tmp_path / "x.jpg", random(4, 4, 3), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    write_image(tmp_path / "y.jpg", (decoded := read_image(path)).pixels, decoded.metadata)
    assert read_image(tmp_path / "y.jpg").pixels.shape == (4, 4, 3)


def test_long_exif_is_left_out_of_jpeg(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x010E] = "long " * 20_000
    keep = ImageMetadata(exif=exif.tobytes())
    write_image(tmp_path / "x.jpg", np.zeros((4, 4, 3), np.float32), keep)
    assert "EXIF is too long" in caplog.text
    write_image(tmp_path / "x.tif", np.zeros((4, 4, 3), np.float32), keep)
    assert len(read_image(tmp_path / "x.tif").metadata.exif) > 100_000


def test_xmp_of_a_png(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    path = save(tmp_path / "x.png", random(4, 4, 3), pnginfo=info)
    assert read_image(path).metadata.xmp == XMP


# --- IPTC, comments and text ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_iptc_survives(tmp_path, suffix, bits):
    path = save(tmp_path / "in.jpg", random(4, 4, 3))
    insert_segments(path, (0xED, b"Photoshop 3.0\0" + PREVIEW + photoshop_block(IPTC)))
    decoded = read_image(path)
    assert decoded.metadata.iptc == IPTC
    result = tmp_path / f"out{suffix}"
    write_image(result, decoded.pixels, replace(decoded.metadata, bit_depth=bits))
    assert read_image(result).metadata.iptc == IPTC
    assert b"gray preview" not in result.read_bytes()
    if suffix != ".png":  # which Pillow does not read
        with Image.open(result) as image:
            records = IptcImagePlugin.getiptcinfo(image)
            assert records[(2, 5)] == b"Harbor" and records[(2, 80)] == b"Vivian M."


def test_iptc_is_missed_in_webp(tmp_path, caplog):
    metadata = ImageMetadata(iptc=IPTC)
    write_image(tmp_path / "x.webp", np.zeros((4, 4, 3), np.float32), metadata)
    assert "x.webp: WebP cannot hold IPTC, which is left out." in caplog.text


@pytest.mark.parametrize("tag", [33723, 34377])
@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_of_a_tiff(tmp_path, tag, order):
    data = IPTC + bytes(-len(IPTC) % 4)
    if tag == 33723 and order == "<":  # swapped by a program that took it for numbers
        data = np.frombuffer(data, ">u4").astype("<u4").tobytes()
    data = photoshop_block(IPTC) if tag == 34377 else data
    page = helpers.gray_page(np.zeros((4, 4), int)) | {tag: data}
    path = helpers.write_tiff(tmp_path / "x.tif", page, order=order)
    assert read_image(path).metadata.iptc == IPTC


@pytest.mark.parametrize("cut", [1, 4, 9, len(b"8BIM") + 8])
def test_damaged_iptc_is_cut(tmp_path, cut):
    page = helpers.gray_page(np.zeros((4, 4), int))
    for tag, data in ((33723, IPTC), (34377, photoshop_block(IPTC))):
        path = helpers.write_tiff(tmp_path / "x.tif", page | {tag: data[:-cut]})
        assert IPTC.startswith(read_image(path).metadata.iptc)


def test_comment_of_a_jpeg_survives(tmp_path):
    path = save(tmp_path / "x.jpg", random(4, 4, 3), comment=b"in the harbor")
    decoded = read_image(path)
    write_image(tmp_path / "y.jpg", decoded.pixels, decoded.metadata)
    with Image.open(tmp_path / "y.jpg") as image:
        assert image.info["comment"] == b"in the harbor"


@pytest.mark.parametrize("bits", [8, 16])
def test_text_of_a_png_survives(tmp_path, bits):
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Vivian M.")
    info.add_text("Comment", "long " * 500, zip=True)
    info.add_itxt("Title", "Hafen", "de", "Titel")
    info.add_text("Raw profile type exif", "\nexif\n 4\n00000000\n")
    info.add(b"tEXt", b"Source\0scanner", after_idat=True)
    path = save(tmp_path / "x.png", random(4, 4, 3), pnginfo=info)
    decoded = read_image(path)
    write_image(tmp_path / "y.png", decoded.pixels, replace(decoded.metadata, bit_depth=bits))
    with Image.open(tmp_path / "y.png") as image:
        assert list(image.text) == ["Author", "Comment", "Title", "Source"]
        assert image.text["Comment"] == "long " * 500
        assert (image.text["Title"], image.text["Title"].lang) == ("Hafen", "de")


# --- Resolution --------------------------------------------------------------------------------


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, start = [], 8
    while start < len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        chunks.append((kind, data[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dpi", [None, (600, 300)])
def test_png_has_one_resolution_or_none(tmp_path, bits, dpi):
    metadata = ImageMetadata(bit_depth=bits, dpi=dpi)
    write_image(tmp_path / "x.png", random(4, 4, 3) / 255, metadata)
    chunks = png_chunks((tmp_path / "x.png").read_bytes())
    expected = [struct.pack(">IIB", 23622, 11811, 1)] if dpi else []
    assert [data for kind, data in chunks if kind == b"pHYs"] == expected
    assert read_image(tmp_path / "x.png").metadata.dpi == (dpi and pytest.approx(dpi, abs=0.01))


def test_first_of_two_png_resolutions_counts(tmp_path):
    save(tmp_path / "x.png", random(4, 4, 3))
    data = (tmp_path / "x.png").read_bytes()
    extra = b""
    for values in ((23622, 11811, 1), (0, 0, 1)):
        chunk = b"pHYs" + struct.pack(">IIB", *values)
        extra += struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(data[:33] + extra + data[33:])
    assert read_image(tmp_path / "x.png").metadata.dpi == pytest.approx((600, 300), abs=0.01)


def test_png_aspect_ratio_is_no_resolution(tmp_path):
    save(tmp_path / "x.png", random(4, 4, 3))
    data = (tmp_path / "x.png").read_bytes()
    chunk = b"pHYs" + struct.pack(">IIB", 4, 3, 0)
    chunk = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    assert read_image(tmp_path / "x.png").metadata.dpi is None


def jpeg(path, unit: int, density: tuple[int, int], exif: dict[int, object]):
    """Write a JPEG with the given JFIF unit and EXIF."""
    block = Image.Exif()
    for tag, value in exif.items():
        block[tag] = value
    save(path, random(4, 4, 3), exif=block, dpi=(1, 1))
    data = bytearray(path.read_bytes())
    place = data.index(b"JFIF\0") + 7
    data[place : place + 5] = struct.pack(">BHH", unit, *density)
    path.write_bytes(data)
    return path


MAKER, ACROSS, DOWN, UNIT = 0x010F, 0x011A, 0x011B, 0x0128


@pytest.mark.parametrize(
    ("unit", "density", "exif", "expected"),
    [
        (0, (1, 1), {}, None),
        (0, (1, 1), {MAKER: "Kodak"}, None),  # Pillow makes 72 dpi of it
        (0, (1, 1), {ACROSS: 1.0, DOWN: 1.0, UNIT: 1}, None),  # Pillow makes 1 dpi of it
        (0, (4, 3), {ACROSS: 300.0, DOWN: 150.0, UNIT: 2}, (300, 150)),
        (0, (4, 3), {ACROSS: 100.0, DOWN: 50.0, UNIT: 3}, (254, 127)),
        (1, (300, 150), {}, (300, 150)),
        (2, (100, 50), {ACROSS: 72.0, DOWN: 72.0, UNIT: 2}, (254, 127)),
        (1, (0, 0), {ACROSS: 300.0, DOWN: 150.0, UNIT: 2}, (300, 150)),
    ],
)
def test_resolution_of_a_jpeg(tmp_path, unit, density, exif, expected):
    path = jpeg(tmp_path / "x.jpg", unit, density, exif)
    image = read_image(path)
    assert image.metadata.dpi == (expected and pytest.approx(expected, abs=0.01))
    for suffix in (".jpg", ".png", ".tif"):
        write_image(tmp_path / f"y{suffix}", image.pixels, image.metadata)
        again = read_image(tmp_path / f"y{suffix}").metadata.dpi
        assert again == (expected and pytest.approx(expected, abs=0.6))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_rotated_resolution_is_swapped_in_exif_too(tmp_path, suffix):
    exif = {ACROSS: 300.0, DOWN: 150.0, UNIT: 2, 0x0112: 6}
    image = read_image(jpeg(tmp_path / "x.jpg", 0, (1, 1), exif))
    write_image(tmp_path / f"y{suffix}", image.pixels, image.metadata)
    with Image.open(tmp_path / f"y{suffix}") as result:
        kept = result.getexif()
        assert (float(kept[ACROSS]), float(kept[DOWN])) == (150, 300)
        assert [float(value) for value in result.info["dpi"]] == [150, 300]
