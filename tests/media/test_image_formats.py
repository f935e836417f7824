"""Formats of image files: what is read, what is refused by its name, and the name of the output."""

import runpy
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.media import formats
from comfyui_colorist.media.errors import ImageError, UnsupportedImageError
from comfyui_colorist.media.image_io import read_image
from PIL import Image, features

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
random = helpers.random
save = helpers.save

RAMP = np.add.outer(np.arange(48), 3 * np.arange(64)).astype(np.uint8)
needs_jpeg_2000 = pytest.mark.skipif(
    not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000"
)
needs_avif = pytest.mark.skipif(
    "avif" not in features.modules or not features.check("avif"), reason="this Pillow has no AVIF"
)


@pytest.mark.parametrize(
    ("suffix", "tolerance"),
    [
        *((".pgm", 0), (".pnm", 0), (".tga", 0), (".gif", 0), (".mpo", 8)),
        pytest.param(".jp2", 0, marks=needs_jpeg_2000),
        pytest.param(".j2k", 0, marks=needs_jpeg_2000),
        pytest.param(".avif", 12, marks=needs_avif),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_formats_that_are_read_only(tmp_path, suffix, tolerance, channels):
    values = RAMP if channels == 1 else np.stack([RAMP, RAMP // 2, RAMP // 3], axis=-1)
    if suffix in (".pnm", ".mpo"):
        path = save(tmp_path / "x", values, format={".pnm": "PPM", ".mpo": "JPEG"}[suffix])
        path = path.rename(tmp_path / f"x{suffix}")
    else:
        path = save(tmp_path / f"x{suffix}", values)
    pixels = np.rint(read_image(path).pixels * 255)
    if suffix == ".gif" and channels == 3:
        tolerance = 40  # its palette
    assert np.abs(pixels - (values if channels == 3 else values[..., None])).max() <= tolerance


def test_bilevel_pbm(tmp_path):
    path = save(tmp_path / "x.pbm", RAMP > 128)
    assert np.array_equal(read_image(path).pixels[..., 0], RAMP > 128)


def test_qoi(tmp_path):
    head = b"qoif" + struct.pack(">IIBB", 1, 1, 3, 0)
    (tmp_path / "x.qoi").write_bytes(head + b"\xfe\x10\x20\x30" + bytes(7) + b"\x01")
    assert np.rint(read_image(tmp_path / "x.qoi").pixels * 255).tolist() == [[[16, 32, 48]]]


@needs_avif
def test_avif_beyond_its_decoder_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "x.avif", RAMP)
    data = bytearray(path.read_bytes())
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", 17000, 17000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="x.avif: 17000x17000 is 289 megapixels; the limit is 268"):
        read_image(path)


def test_tga_is_known_by_its_suffix(tmp_path):
    path = save(tmp_path / "x.tga", RAMP)
    path.rename(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="x.jpg: not an image"):
        read_image(tmp_path / "x.jpg")


@needs_jpeg_2000
def test_sixteen_bits_of_jpeg_2000(tmp_path, caplog):
    gray = RAMP.astype(np.uint16) * 257
    image = read_image(save(tmp_path / "x.jp2", gray))
    assert image.metadata.bit_depth == 16
    assert np.array_equal(np.rint(image.pixels[..., 0] * 65535), gray)
    assert not caplog.records
    path = save(tmp_path / "y.jp2", random(8, 8, 3))
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\x4f\xff\x51") + 42] = 11  # 12 bits per channel
    path.write_bytes(data)
    read_image(path)
    assert "y.jp2: read with 8 of its bits per channel." in caplog.text


def test_first_image_of_several(tmp_path, caplog):
    caplog.set_level("INFO")
    other = Image.fromarray(random(8, 8, 3))
    Image.fromarray(RAMP).save(tmp_path / "x.mpo", save_all=True, append_images=[other])
    assert read_image(tmp_path / "x.mpo").pixels.shape == (48, 64, 1)
    assert "x.mpo: the main image of 2 is read; the others are previews, or the" in caplog.text


# --- HEIC and AVIF -------------------------------------------------------------------------------

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0heic" + bytes(64)


def test_heic_without_its_reader(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(HEIC)
    message = r"x.heic: a HEIC image; install .* pip install 'comfyui-colorist\[heif\]', or save it"
    with pytest.raises(UnsupportedImageError, match=message):
        read_image(tmp_path / "x.heic")


@pytest.mark.parametrize("bits", [8, 10])
def test_heic_with_its_reader(tmp_path, monkeypatch, caplog, bits):
    """A stand-in for pillow-heif, which opens an image like a plug-in of Pillow."""
    module = ModuleType("pillow_heif")

    def open_image(file, name):
        assert file.read() == HEIC
        image = Image.fromarray(RAMP)
        image.format, image.info = "HEIF", {"bit_depth": bits, "exif": b""}
        return image

    monkeypatch.setattr(module, "HeifImageFile", open_image, raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    (tmp_path / "x.jpg").write_bytes(HEIC)
    image = read_image(tmp_path / "x.jpg")
    assert np.array_equal(np.rint(image.pixels[..., 0] * 255), RAMP)
    assert not image.metadata.lossless
    assert ("x.jpg: read with 8 of its bits per channel." in caplog.text) is (bits == 10)


def test_heic_file(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(np.stack([RAMP] * 3, axis=-1))).save(
        tmp_path / "x.heic", quality=100
    )
    assert np.abs(read_image(tmp_path / "x.heic").pixels * 255 - RAMP[..., None]).max() < 8


def test_avif_without_its_reader(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(64))
    with pytest.raises(UnsupportedImageError, match="an AVIF image, which needs Pillow 11.3 or"):
        read_image(tmp_path / "x.avif")


# --- Sound, but not read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            b"8BPS\0\x01",
            "a Photoshop document, which cannot be read; save it as TIFF, PNG or JPEG.",
        ),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image, which cannot be read"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image, which cannot be read"),
        (b"%PDF-1.7", "a PDF document, which cannot be read"),
        (b"v/1\x01\x02\0\0\0", "an OpenEXR image, which cannot be read"),
        (b"P7\nWIDTH 1\n", "a PAM image, which cannot be read"),
        (b"PF\n1 1\n-1.0\n", "a PFM image, which cannot be read"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file, which cannot be read"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "a video or a camera's raw file, not an image"),
        (b"\0\0\0\x18ftypisom\0\0\0\1", "a video or a camera's raw file, not an image"),
    ],
)
def test_known_kinds_are_named(tmp_path, data, kind):
    (tmp_path / "x.jpg").write_bytes(data + bytes(64))
    with pytest.raises(UnsupportedImageError, match=f"x.jpg: {kind}"):
        read_image(tmp_path / "x.jpg")


# --- Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output"),
    [
        *(("a.jpg", "a.jpg"), ("a.TIF", "a.TIF"), ("a.b.webp", "a.b.webp"), ("a.bmp", "a.bmp")),
        *(("a.mpo", "a.jpg"), ("a.HEIC", "a.png"), ("a.gif", "a.png"), ("a.b.jp2", "a.b.png")),
    ],
)
def test_name_of_the_output(name, output):
    assert formats.output_name(Path("sub", name)) == output


def test_no_suffix_is_in_two_tables():
    tables = (
        *(formats.IMAGE_FORMATS, formats.READ_ONLY_FORMATS, formats.UNSUPPORTED_SUFFIXES),
        formats.VIDEO_SUFFIXES,
    )
    suffixes = [suffix for table in tables for suffix in table]
    assert len(suffixes) == len(set(suffixes))
