"""Image files: pixels that survive, limits, and refusals."""

import runpy
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
from comfyui_colorist.media import image_decoders
from comfyui_colorist.media.errors import ImageError, UnsupportedImageError
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import read_image, write_image
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
random = helpers.random
save = helpers.save
bomb = helpers.bomb

PILLOW = tuple(int(part) for part in PIL.__version__.split(".")[:2])
needs_pillow_13 = pytest.mark.skipif(PILLOW < (13, 0), reason="this Pillow is too old")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("bits", "most", "is_noted"),
    [(16, 4095, True), (16, 5000, False), (16, 0, False), (8, 9, False)],
)
def test_nearly_black_image_is_noted(tmp_path, suffix, bits, most, is_noted, caplog):
    pixels = np.full((4, 4, 1), most / (2**bits - 1), np.float32)
    write_image(tmp_path / f"x{suffix}", pixels, ImageMetadata(bit_depth=bits))
    read_image(tmp_path / f"x{suffix}")
    note = f"x{suffix}: nearly black, the lightest value is 6.2% of white. If the file holds fewer"
    assert (note in caplog.text) == is_noted


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits_return_exactly(tmp_path, suffix, channels):
    values = random(7, 5, channels)
    values[..., 3:] = 255 if suffix == ".bmp" else values[..., 3:]
    path = tmp_path / f"x{suffix}"
    write_image(path, values.astype(np.float32) / 255, ImageMetadata())
    decoded = read_image(path)
    assert decoded.pixels.dtype == np.float32
    assert decoded.metadata.bit_depth == 8
    actual = np.rint(decoded.pixels * 255)
    expected = values if suffix != ".bmp" else values[..., :3]
    assert actual.shape[2] == expected.shape[2] or (suffix, channels) == (".webp", 1)  # has no gray
    assert np.array_equal(actual, np.broadcast_to(expected, actual.shape))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 401)])
def test_sixteen_bits_return_exactly(tmp_path, suffix, channels, size):
    values = random(*size, channels, dtype=np.uint16)
    path = tmp_path / f"x{suffix}"
    write_image(path, values.astype(np.float32) / 65535, ImageMetadata(bit_depth=16))
    decoded = read_image(path)
    assert decoded.metadata.bit_depth == 16
    assert np.array_equal(np.rint(decoded.pixels * 65535).astype(np.uint16), values)
    with Image.open(path) as image:  # a second opinion: Pillow reads the upper halves
        image.load()
        if channels == 1:
            assert np.array_equal(np.asarray(image), values[..., 0])
        else:
            assert np.array_equal(np.asarray(image), values >> 8)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("1", ".png", 1),
        ("L", ".png", 1),
        ("L", ".jpg", 1),
        ("LA", ".png", 4),
        ("P", ".png", 3),
        ("P", ".gif", 3),
        ("RGB", ".tif", 3),
        ("RGB", ".ppm", 3),
        ("L", ".pgm", 1),
        ("RGBA", ".png", 4),
        ("RGBA", ".webp", 4),
        ("CMYK", ".jpg", 3),
        ("CMYK", ".tif", 3),
        pytest.param("YCbCr", ".tif", 3, marks=needs_pillow_13),  # others cannot read their own
    ],
)
def test_modes(tmp_path, mode, suffix, channels):
    path = save(tmp_path / f"x{suffix}", random(6, 4, 3 if mode == "P" else 4), mode)
    pixels = read_image(path).pixels
    assert pixels.shape == (6, 4, channels)
    assert pixels.min() >= 0
    assert 0.5 < pixels.max() <= 1


def test_transparent_palette_and_color_key_become_alpha(tmp_path):
    image = Image.fromarray(random(6, 4, 3)).convert("P")
    image.save(tmp_path / "p.png", transparency=int(image.getpixel((0, 0))))
    assert read_image(tmp_path / "p.png").pixels[0, 0, 3] == 0
    gray = save(tmp_path / "l.png", np.array([[0, 255]], np.uint8), transparency=0)
    assert read_image(gray).pixels[0, :, 3].tolist() == [0, 1]


def test_sixteen_bit_gray_with_alpha(tmp_path):
    values = random(3, 2, 2, dtype=np.uint16)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 3, 16, 4, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )
    (tmp_path / "x.png").write_bytes(png)
    pixels = read_image(tmp_path / "x.png").pixels
    assert np.array_equal(np.rint(pixels * 65535), values[..., [0, 0, 0, 1]])


def test_rounding_is_to_nearest(tmp_path):
    write_image(tmp_path / "x.png", np.array([[[0.4], [0.6], [254.49], [-3], [999]]]) / 255)
    with Image.open(tmp_path / "x.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 254, 0, 255]]


def test_alpha_is_laid_on_white_in_jpeg(tmp_path, caplog):
    write_image(tmp_path / "x.jpg", np.zeros((8, 8, 4), np.float32))
    assert read_image(tmp_path / "x.jpg").pixels.min() > 0.99
    assert "no transparency" in caplog.text


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_webp_is_lossless_only_where_the_source_was(tmp_path):
    values = random(40, 40, 3)
    for lossless in (True, False):
        path = save(
            tmp_path / "x.webp", values, lossless=lossless, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
        )
        assert read_image(path).metadata.lossless is lossless
    assert not read_image(save(tmp_path / "x.jpg", values)).metadata.lossless
    write_image(tmp_path / "y.webp", values.astype(np.float32) / 255, ImageMetadata(lossless=False))
    assert not read_image(tmp_path / "y.webp").metadata.lossless


def test_jpeg_is_written_without_chroma_subsampling(tmp_path):
    write_image(tmp_path / "x.jpg", np.zeros((16, 16, 3), np.float32))
    with Image.open(tmp_path / "x.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


@pytest.fixture
def frames():
    return [Image.fromarray(random(8, 8, 3) // (1 + i)) for i in range(3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.gif", "x.gif: an animated GIF with 3 frames. Save it as a video"),
        ("x.webp", "x.webp: an animated WebP with 3 frames. Save it as a video"),
        ("x.png", "x.png: an animated PNG with 3 frames. Save it as a video"),
    ],
)
def test_animation_is_refused(tmp_path, frames, name, message):
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / name)


@pytest.mark.skipif(PILLOW < (11, 3), reason="this Pillow writes damaged MPO files")
def test_stereo_jpeg_is_its_first_image(tmp_path, frames):
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.jpg").pixels.shape == (8, 8, 3)


@pytest.mark.parametrize(
    "name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.bmp", "deep.png", "deep.tif"]
)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file(tmp_path, name, part):
    pixels = random(64, 64, 3).astype(np.float32) / 255
    write_image(
        tmp_path / name, pixels, ImageMetadata(bit_depth=16 if name.startswith("deep") else 8)
    )
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(
        ImageError, match=f"{name}: damaged or cut short .*; get the file again."
    ) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_no_image(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("Dear diary, today I took a photo.")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "empty.jpg": r"empty.jpg: the file is empty \(0 bytes\); get it again.",
        "text.jpg": "text.jpg: not an image. Known: JPEG, PNG, TIFF, WebP, BMP, GIF, PBM, ",
        "folder.png": "folder.png: a folder; expected an image file.",
        "missing.png": "missing.png: no such file; expected an image file.",
    }.items():
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)


def test_huge_images(tmp_path, recwarn):
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        ImageError, match="x.png: 30000x20000 is 600 megapixels; the limit is 300. Scale it down"
    ):
        read_image(bomb(tmp_path / "x.png", 30000, 20000))
    # Pillow refuses 179 megapixels; we get as far as the pixels, which are not there
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(bomb(tmp_path / "x.png", 20000, 10000))
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


HEADERS = {  # files of one header, with the size that they promise
    "x.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x3f\x9c\0\x3f\x9c\0",  # 40000x40000
    "x.gif": b"GIF89a\x20\0\x20\0\xf1\x03\0" + bytes(12) + b"!\xf9\x04\xc9\0\0\0\0"
    b"\x2c\0\0\0\0\xff\xff\xff\xff\x29\x05\0\x8f",  # a frame of 65535x65535
    "x.ppm": b"P6 30000 20000 255 ",
    "x.bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 30000, 20000, 1, 24, 0) + bytes(20),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=needs_pillow_13) if "webp" in name else name for name in HEADERS],
)
def test_headers_that_promise_too_much(tmp_path, name, recwarn):
    (tmp_path / name).write_bytes(HEADERS[name])
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=f"{name}: .* megapixels; the limit is 300. Scale it down"):
        read_image(tmp_path / name)
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


SUFFIXES = [".jpg", ".png", ".tif", ".webp", ".bmp", ".gif", ".ppm"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_limit_of_pillow_does_not_count(tmp_path, monkeypatch, suffix, recwarn):
    path = save(tmp_path / f"x{suffix}", random(64, 64, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path).pixels.shape == (64, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    assert not recwarn.list


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_limit_holds_for_every_format(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"x{suffix}", random(64, 64, 3))
    monkeypatch.setattr(image_decoders, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ImageError, match="64x64 is 0 megapixels; the limit is 0. Scale it down"):
        read_image(path)
    monkeypatch.setattr(image_decoders, "MAX_PIXELS", 64 * 64)
    assert read_image(path).pixels.shape == (64, 64, 3)


def test_limit_of_pillow_is_restored_after_threads(tmp_path):
    path = save(tmp_path / "x.tif", random(64, 64, 3))
    before = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [path] * 100))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "error",
    [Image.DecompressionBombError, RecursionError, struct.error, AssertionError, RuntimeError],
)
def test_every_error_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    path = save(tmp_path / "x.png", random(4, 4, 3))

    def fail(*_):
        raise error("?")

    monkeypatch.setattr(image_decoders, "clean_exif", fail)
    with pytest.raises(ImageError, match=r"^x\.png: ") as caught:
        read_image(path)
    assert isinstance(caught.value.__cause__, error)


def test_unsupported_is_not_called_damaged(tmp_path):
    path = save(tmp_path / "x.bmp", random(4, 4, 3))
    data = bytearray(path.read_bytes())
    data[30] = 6  # a compression that Pillow lacks
    path.write_bytes(data)
    with pytest.raises(UnsupportedImageError, match=r"x.bmp: cannot be read \(Unsupported BMP"):
        read_image(path)


def test_too_little_memory(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(image_decoders, "clean_exif", fail)
    with pytest.raises(ImageError, match="x.png: not enough memory to decode it; scale it down."):
        read_image(save(tmp_path / "x.png", random(4, 4, 3)))


def test_formats_that_cannot_hold_a_image(tmp_path):
    with pytest.raises(ImageError, match="x.gif: images are written as .jpg"):
        write_image(tmp_path / "x.gif", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ImageError, match="x.webp: 17000x1 cannot be written as WEBP"):
        write_image(tmp_path / "x.webp", np.zeros((1, 17000, 3), np.float32))
    assert not list(tmp_path.iterdir())
