"""Picture files: what is read, what survives, what is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from comfyui_colorist.media import atomic, image_io
from comfyui_colorist.media import icc as profiles
from comfyui_colorist.media.image_data import Keep, PictureError
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin


def random(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path, values: np.ndarray, mode: str | None = None, **options):
    """By Pillow alone, so that our reader is not tested with our writer."""
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def profile(space: bytes, pcs: bytes = b"XYZ ", **tags: bytes) -> bytes:
    """A minimal ICC profile."""
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
GREY_GAMMA = profile(b"GRAY", wtpt=WHITE, kTRC=gamma(1.8))
ADOBE_RGB = profile(
    b"RGB ",
    wtpt=WHITE,
    rXYZ=xyz(0.60974, 0.31111, 0.01947),
    gXYZ=xyz(0.20528, 0.62567, 0.06087),
    bXYZ=xyz(0.14919, 0.06322, 0.74457),
    rTRC=gamma(2.19921875),
    gTRC=gamma(2.19921875),
    bTRC=gamma(2.19921875),
)


# --- Pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits_return_exactly(tmp_path, suffix, channels):
    values = random(7, 5, channels)
    values[..., 3:] = 255 if suffix == ".bmp" else values[..., 3:]
    path = tmp_path / f"x{suffix}"
    image_io.write(path, values.astype(np.float32) / 255, Keep())
    picture = image_io.read(path)
    assert picture.pixels.dtype == np.float32
    assert picture.keep.bits == 8
    found = np.rint(picture.pixels * 255)
    expected = values if suffix != ".bmp" else values[..., :3]
    assert found.shape[2] == expected.shape[2] or (suffix, channels) == (".webp", 1)  # has no grey
    assert np.array_equal(found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 401)])
def test_sixteen_bits_return_exactly(tmp_path, suffix, channels, size):
    values = random(*size, channels, dtype=np.uint16)
    path = tmp_path / f"x{suffix}"
    image_io.write(path, values.astype(np.float32) / 65535, Keep(bits=16))
    picture = image_io.read(path)
    assert picture.keep.bits == 16
    assert np.array_equal(np.rint(picture.pixels * 65535).astype(np.uint16), values)
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
        ("YCbCr", ".tif", 3),
    ],
)
def test_modes(tmp_path, mode, suffix, channels):
    path = save(tmp_path / f"x{suffix}", random(6, 4, 3 if mode == "P" else 4), mode)
    pixels = image_io.read(path).pixels
    assert pixels.shape == (6, 4, channels)
    assert pixels.min() >= 0
    assert 0.5 < pixels.max() <= 1


def test_transparent_palette_and_color_key_become_alpha(tmp_path):
    image = Image.fromarray(random(6, 4, 3)).convert("P")
    image.save(tmp_path / "p.png", transparency=int(image.getpixel((0, 0))))
    assert image_io.read(tmp_path / "p.png").pixels[0, 0, 3] == 0
    grey = save(tmp_path / "l.png", np.array([[0, 255]], np.uint8), transparency=0)
    assert image_io.read(grey).pixels[0, :, 3].tolist() == [0, 1]


def test_sixteen_bit_grey_with_alpha(tmp_path):
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
    pixels = image_io.read(tmp_path / "x.png").pixels
    assert np.array_equal(np.rint(pixels * 65535), values[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"bigtiff": True}], ids=str)
def test_rare_sixteen_bit_tiffs_are_read_with_eight(tmp_path, options, caplog):
    tifffile = pytest.importorskip("tifffile")
    values = random(32, 16, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", **options)
    picture = image_io.read(tmp_path / "x.tif")
    assert picture.keep.bits == 8
    assert np.array_equal(np.rint(picture.pixels * 255), values >> 8)
    assert "read with 8 bits" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 5, "byteorder": ">"},
        {"compression": "zlib"},
    ],
    ids=str,
)
def test_common_sixteen_bit_tiffs_are_read_exactly(tmp_path, options):
    tifffile = pytest.importorskip("tifffile")
    values = random(32, 17, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", **options)
    assert np.array_equal(np.rint(image_io.read(tmp_path / "x.tif").pixels * 65535), values)


def test_tiff_we_write_is_read_by_others(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    for channels, dtype in ((3, np.uint16), (3, np.uint8), (4, np.uint8)):
        values = random(700, 301, channels, dtype=dtype)  # several strips
        most = np.iinfo(dtype).max
        keep = Keep(
            bits=np.iinfo(dtype).bits, exif=photo_exif(1).tobytes(), xmp=XMP, dpi=(300, 300)
        )
        image_io.write(tmp_path / "x.tif", values / most, keep)
        with Image.open(tmp_path / "x.tif") as image:
            image.load()
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            page = file.pages[0]
            assert page.tags["ExifTag"].value["DateTimeOriginal"] == "1954:06:01 12:00:00"
        assert np.array_equal(tifffile.imread(tmp_path / "x.tif"), values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_tiff_in_which_white_is_zero(tmp_path, dtype):
    tifffile = pytest.importorskip("tifffile")
    most = np.iinfo(dtype).max
    values = np.array([[0, 100, most]], dtype)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="miniswhite")
    assert np.array_equal(
        np.rint((1 - image_io.read(tmp_path / "x.tif").pixels[..., 0]) * most), values
    )


def test_sixteen_bit_planes_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = random(3, 32, 16, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", planarconfig="separate")
    with pytest.raises(PictureError, match="x.tif: a 16-bit TIFF with separate planes; save it"):
        image_io.read(tmp_path / "x.tif")


def test_rounding_is_to_nearest(tmp_path):
    image_io.write(tmp_path / "x.png", np.array([[[0.4], [0.6], [254.49], [-3], [999]]]) / 255)
    with Image.open(tmp_path / "x.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 254, 0, 255]]


def test_alpha_is_laid_on_white_in_jpeg(tmp_path, caplog):
    image_io.write(tmp_path / "x.jpg", np.zeros((8, 8, 4), np.float32))
    assert image_io.read(tmp_path / "x.jpg").pixels.min() > 0.99
    assert "no transparency" in caplog.text


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_webp_is_lossless_only_where_the_source_was(tmp_path):
    values = random(40, 40, 3)
    for lossless in (True, False):
        path = save(
            tmp_path / "x.webp", values, lossless=lossless, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"
        )
        assert image_io.read(path).keep.lossless is lossless
    assert not image_io.read(save(tmp_path / "x.jpg", values)).keep.lossless
    image_io.write(tmp_path / "y.webp", values.astype(np.float32) / 255, Keep(lossless=False))
    assert not image_io.read(tmp_path / "y.webp").keep.lossless


def test_jpeg_is_written_without_chroma_subsampling(tmp_path):
    image_io.write(tmp_path / "x.jpg", np.zeros((16, 16, 3), np.float32))
    with Image.open(tmp_path / "x.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


# --- What survives -----------------------------------------------------------------------------

XMP = b"<x:xmpmeta><a tiff:Orientation=\"6\" dc:creator='M\xc3\xbcller'/></x:xmpmeta>"


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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_icc_xmp_and_dpi_survive_and_the_picture_is_upright(tmp_path, suffix, bits):
    source, result = tmp_path / "in.jpg", tmp_path / f"out{suffix}"
    values = np.zeros((7, 5, 3), np.uint8)
    values[0] = 255  # top row; under orientation 6 it is seen at the right
    icc = profiles.srgb_profile()
    exif = photo_exif()
    save(source, values, exif=exif, icc_profile=icc, dpi=(300, 150), xmp=XMP, quality=100)
    picture = image_io.read(source)
    assert picture.pixels.shape == (5, 7, 3)
    assert picture.pixels[:, -1].min() > 0.9
    assert picture.pixels[:, 0].max() < 0.1
    assert picture.keep.icc == icc

    image_io.write(result, picture.pixels, Keep(**{**vars(picture.keep), "bits": bits}))
    again = image_io.read(result)
    assert np.abs(again.pixels - picture.pixels).max() < 0.05
    assert again.keep.icc == icc
    assert again.keep.xmp == XMP.replace(b'"6"', b'"1"')
    if suffix != ".webp":
        assert again.keep.dpi == pytest.approx((150, 300), abs=0.02)
    with Image.open(result) as image:
        found = image.getexif()
        assert found.get(0x0112, 1) == 1
        assert (found[0x010F], found[0x013B]) == ("Kodak", "Vivian M.")
        details = found.get_ifd(0x8769)
        assert (details[0xA002], details[0xA003], details[0xA001]) == (7, 5, 1)
        assert details[0x9003] == "1954:06:01 12:00:00"
        assert float(details[0x829A]) == pytest.approx(0.01)
        assert found.get_ifd(0x8825)[2] == (41.0, 53.0, 0.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_does_it(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", random(4, 3, 3), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.rint(image_io.read(path).pixels * 255), expected)


def test_a_grey_preview_is_not_carried_over(tmp_path):
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
    kept = image_io.read(path).keep.exif
    assert b"Kodak" in kept
    assert b"preview" not in kept


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_stop_a_picture(tmp_path):
    path = save(tmp_path / "x.jpg", random(4, 4, 3), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    image_io.write(tmp_path / "y.jpg", (picture := image_io.read(path)).pixels, picture.keep)
    assert image_io.read(tmp_path / "y.jpg").pixels.shape == (4, 4, 3)


# --- Colour profiles ---------------------------------------------------------------------------


def test_srgb_profile_is_the_same_every_time_and_recognised():
    icc = profiles.srgb_profile()
    assert icc == profiles.srgb_profile()
    pixels = random(5, 4, 3).astype(np.float32) / 255
    same, kept = profiles.to_srgb(pixels, icc)
    assert same is pixels
    assert kept == icc


@pytest.mark.parametrize("bits", [8, 16])
def test_adobe_rgb_is_converted(tmp_path, bits):
    values = random(16, 16, 3)
    if bits == 8:
        path = save(tmp_path / "x.tif", values, icc_profile=ADOBE_RGB)
    else:
        path = tmp_path / "x.tif"
        image_io.write(path, values.astype(np.float32) / 255, Keep(bits=16, icc=ADOBE_RGB))
    picture = image_io.read(path)
    expected = ImageCms.profileToProfile(
        Image.fromarray(values),
        io.BytesIO(ADOBE_RGB),
        ImageCms.createProfile("sRGB"),
        renderingIntent=1,
    )
    assert np.abs(picture.pixels * 255 - np.asarray(expected)).max() < 2.1
    assert picture.keep.icc == profiles.srgb_profile()
    assert picture.keep.bits == bits


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_profile_is_converted_and_never_written_with_colour(tmp_path, suffix):
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None]
    path = save(tmp_path / f"x{suffix}", values, icc_profile=GREY_GAMMA)
    picture = image_io.read(path)
    linear = (values / 65535.0) ** (461 / 256)  # 1.8 as the profile holds it
    expected = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert picture.pixels.shape == (1, 64, 1)
    assert np.abs(picture.pixels[..., 0] - expected).max() < 1e-5
    image_io.write(tmp_path / f"y{suffix}", np.repeat(picture.pixels, 3, axis=2), picture.keep)
    with Image.open(tmp_path / f"y{suffix}") as image:
        assert image.info["icc_profile"][16:20] == b"RGB "


def test_grey_picture_with_an_rgb_profile(tmp_path):
    path = save(tmp_path / "x.jpg", random(8, 8), icc_profile=profiles.srgb_profile())
    assert image_io.read(path).pixels.shape == (8, 8, 1)
    path = save(tmp_path / "x.jpg", random(8, 8), icc_profile=ADOBE_RGB)
    pixels = image_io.read(path).pixels
    assert pixels.shape == (8, 8, 3)
    assert np.ptp(pixels, axis=2).max() < 1e-5


@pytest.mark.parametrize(
    "icc", [b"nonsense", GREY_GAMMA, ADOBE_RGB[:150]], ids=["text", "grey", "cut"]
)
def test_useless_profile_is_dropped_with_a_warning(tmp_path, icc, caplog):
    values = random(8, 8, 3)
    picture = image_io.read(save(tmp_path / "x.png", values, icc_profile=icc))
    assert np.array_equal(np.rint(picture.pixels * 255), values)
    assert picture.keep.icc == b""
    assert "taken for sRGB" in caplog.text


def test_tables_agree_with_curves():
    """Pillow's colour management, which serves measured profiles, and our own computation."""
    values = random(16, 16, 3).astype(np.float32) / 255
    by_curves, by_tables = profiles._from_curves(ADOBE_RGB), profiles._from_tables(ADOBE_RGB)
    assert np.abs(by_curves(values) - by_tables(values)).max() < 2.1 / 255
    grey = values[..., :1]
    by_curves, by_tables = profiles._from_curves(GREY_GAMMA), profiles._from_tables(GREY_GAMMA)
    assert np.abs(by_curves(grey) - by_tables(grey)).max() < 2.1 / 255


def test_profile_curves():
    x = np.linspace(0, 1, 257, dtype=np.float32)
    table = b"curv\0\0\0\0" + struct.pack(">I256H", 256, *range(0, 65536, 257))
    assert np.allclose(profiles._curve(table)(x), x, atol=1e-6)
    assert np.allclose(profiles._curve(b"curv\0\0\0\0\0\0\0\0")(x), x)
    srgb = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]
    para = b"para\0\0\0\0\0\3\0\0" + struct.pack(">5i", *(round(v * 65536) for v in srgb))
    expected = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    assert np.allclose(profiles._curve(para)(x), expected, atol=1e-4)
    plain = b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", 2 * 65536)
    assert np.allclose(profiles._curve(plain)(x), x**2)


def test_adobe_cmyk_jpeg_has_the_right_brightness(tmp_path):
    """Adobe programs store CMYK inverted in JPEG; Pillow writes it so, with an Adobe segment."""
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:, 3] = 255  # left half no ink, right half black
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    pixels = image_io.read(tmp_path / "x.jpg").pixels
    assert pixels[:, :4].min() > 0.98
    assert pixels[:, 4:].max() < 0.02


def test_cmyk_by_its_profile(tmp_path):
    """A press whose black is a dark yellow: L = 50, b = 40."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lab = np.array([[255 - 127 * ink.max(), 128, 168] for ink in corners], np.uint8)
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0\4\3\2\0" + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = head + 4 * ramp + lab.tobytes() + 3 * ramp
    icc = profile(b"CMYK", b"Lab ", wtpt=WHITE, A2B0=table)
    icc = icc[:12] + b"prtr" + icc[16:]
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:, 3] = 255
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "x.tif", icc_profile=icc)
    picture = image_io.read(tmp_path / "x.tif")
    assert picture.pixels[:, :4].min() > 0.99
    assert np.allclose(picture.pixels[0, 7] * 255, (135, 118, 48), atol=2)
    assert picture.keep.icc == profiles.srgb_profile()


def test_cmyk_with_a_useless_profile(tmp_path, caplog):
    Image.fromarray(np.zeros((8, 8, 4), np.uint8), "CMYK").save(
        tmp_path / "x.jpg", icc_profile=b"x" * 200
    )
    assert image_io.read(tmp_path / "x.jpg").pixels.min() > 0.98
    assert "converted without it" in caplog.text


# --- Refusals ----------------------------------------------------------------------------------


@pytest.fixture
def frames():
    return [Image.fromarray(random(8, 8, 3) // (1 + i)) for i in range(3)]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x.gif", "x.gif: an animated GIF with 3 pictures. Save it as a film"),
        ("x.webp", "x.webp: an animated WebP with 3 pictures. Save it as a film"),
        ("x.png", "x.png: an animated PNG with 3 pictures. Save it as a film"),
        ("x.tif", "x.tif: a multi-page TIFF with 3 pictures. Save each page"),
    ],
)
def test_film_is_refused(tmp_path, frames, name, sentence):
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(PictureError, match=sentence):
        image_io.read(tmp_path / name)


def test_tiff_with_a_reduced_copy_is_one_picture(tmp_path, frames):
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    frames[1].encoderinfo = {"tiffinfo": reduced}
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=[frames[1]])
    assert np.array_equal(
        np.rint(image_io.read(tmp_path / "x.tif").pixels * 255), np.asarray(frames[0])
    )


def test_stereo_jpeg_is_its_first_picture(tmp_path, frames):
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert image_io.read(tmp_path / "x.jpg").pixels.shape == (8, 8, 3)


@pytest.mark.parametrize(
    "name", ["x.jpg", "x.png", "x.tif", "x.webp", "x.bmp", "deep.png", "deep.tif"]
)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_file(tmp_path, name, part):
    pixels = random(64, 64, 3).astype(np.float32) / 255
    image_io.write(tmp_path / name, pixels, Keep(bits=16 if name.startswith("deep") else 8))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(
        PictureError, match=f"{name}: damaged or cut short .*; get the file again."
    ) as caught:
        image_io.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_no_picture(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("Dear diary, today I took a photo.")
    (tmp_path / "folder.png").mkdir()
    for name, sentence in {
        "empty.jpg": r"empty.jpg: the file is empty \(0 bytes\); get it again.",
        "text.jpg": "text.jpg: not a picture. Known: JPEG, PNG, TIFF, WebP, BMP, GIF, PGM, PPM.",
        "folder.png": "folder.png: a folder; expected a picture file.",
        "missing.png": "missing.png: no such file; expected a picture file.",
    }.items():
        with pytest.raises(PictureError, match=sentence):
            image_io.read(tmp_path / name)


def test_float_tiff_is_refused(tmp_path):
    path = save(tmp_path / "x.tif", np.ones((4, 4), np.float32))
    with pytest.raises(
        PictureError, match="x.tif: pixels of kind 'F' cannot be coloured; save it as"
    ):
        image_io.read(path)


def bomb(path, width: int, height: int):
    """A PNG header that promises much."""
    png = io.BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    data = bytearray(png.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def test_huge_pictures(tmp_path, recwarn):
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(
        PictureError, match="x.png: 30000x20000 is 600 megapixels; at most 300 are read."
    ):
        image_io.read(bomb(tmp_path / "x.png", 30000, 20000))
    # Pillow refuses 179 megapixels; we get as far as the pixels, which are not there
    with pytest.raises(PictureError, match="damaged or cut short"):
        image_io.read(bomb(tmp_path / "x.png", 20000, 10000))
    assert before == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


# --- Whole or not at all -----------------------------------------------------------------------


def test_write_whole_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.bin"
    atomic.write_whole(path, b"old")
    atomic.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch, error):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(type(error)):
        image_io.write(path, np.zeros((4, 4, 3), np.float32))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_formats_that_cannot_hold_a_picture(tmp_path):
    with pytest.raises(PictureError, match="x.gif: pictures are written as .jpg"):
        image_io.write(tmp_path / "x.gif", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(PictureError, match="x.webp: 17000x1 cannot be written as WEBP"):
        image_io.write(tmp_path / "x.webp", np.zeros((1, 17000, 3), np.float32))
    assert not list(tmp_path.iterdir())


def test_long_exif_is_left_out_of_jpeg(tmp_path, caplog):
    exif = Image.Exif()
    exif[0x010E] = "long " * 20_000
    keep = Keep(exif=exif.tobytes())
    image_io.write(tmp_path / "x.jpg", np.zeros((4, 4, 3), np.float32), keep)
    assert "EXIF is too long" in caplog.text
    image_io.write(tmp_path / "x.tif", np.zeros((4, 4, 3), np.float32), keep)
    assert len(image_io.read(tmp_path / "x.tif").keep.exif) > 100_000


def test_long_profile_survives_jpeg(tmp_path):
    icc = profiles.srgb_profile() + bytes(100_000)
    icc = struct.pack(">I", len(icc)) + icc[4:]
    image_io.write(tmp_path / "x.jpg", np.zeros((4, 4, 3), np.float32), Keep(icc=icc))
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.info["icc_profile"] == icc


def test_xmp_of_a_png(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x/>")
    path = save(tmp_path / "x.png", random(4, 4, 3), pnginfo=info)
    assert image_io.read(path).keep.xmp == b"<x/>"
