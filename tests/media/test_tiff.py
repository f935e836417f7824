"""TIFF: depths, layouts, pages, damage, and kinds that need an optional library."""

import runpy
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.media.errors import ImageError, UnsupportedImageError
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import list_pages, read_image, write_image
from PIL import Image, TiffImagePlugin

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
random = helpers.random
save = helpers.save
write_tiff = helpers.write_tiff
gray_page = helpers.gray_page
XMP = helpers.XMP
photo_exif = helpers.photo_exif

tifffile = pytest.importorskip("tifffile")

LAYOUTS = [
    {},
    {"byteorder": ">"},
    {"bigtiff": True},
    {"bigtiff": True, "byteorder": ">"},
    {"tile": (16, 32)},
    {"tile": (16, 16), "byteorder": ">", "compression": "zlib", "predictor": True},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 5, "byteorder": ">"},
]


def levels(path, most: float = 65535) -> np.ndarray:
    """Return the pixels of a file as integers."""
    return np.rint(read_image(path).pixels.astype(np.float64) * most).astype(np.int64)


# --- Layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rgb_is_exact_in_every_layout(tmp_path, options, planar, dtype):
    values = random(33, 17, 3, dtype=dtype)
    stored = np.ascontiguousarray(values.transpose(2, 0, 1)) if planar else values
    tifffile.imwrite(
        tmp_path / "x.tif",
        stored,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
        **options,
    )
    image = read_image(tmp_path / "x.tif")
    assert image.metadata.bit_depth == np.iinfo(dtype).bits
    assert np.array_equal(np.rint(image.pixels * np.iinfo(dtype).max), values)


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_is_exact_in_every_layout(tmp_path, options, photometric, dtype):
    values, most = random(33, 17, dtype=dtype), np.iinfo(dtype).max
    tifffile.imwrite(tmp_path / "x.tif", values, photometric=photometric, **options)
    expected = values if photometric == "minisblack" else most - values
    assert np.array_equal(levels(tmp_path / "x.tif", most)[..., 0], expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_compressions_of_libtiff(tmp_path, compression, mode):
    values = random(33, 17, dtype=np.uint16)
    order = "<" if mode == "I;16" else ">"
    image = Image.frombytes(mode, (17, 33), values.astype(f"{order}u2").tobytes())
    image.save(tmp_path / "x.tif", compression=compression)
    assert np.array_equal(levels(tmp_path / "x.tif")[..., 0], values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_extra_sample(tmp_path, dtype, channels, planar, kind):
    most = np.iinfo(dtype).max
    values = random(9, 7, channels, dtype=dtype)
    alpha = np.maximum(values[..., -1:], most // 2)
    values[..., -1:] = alpha
    stored = values.astype(np.float64)
    if kind == "assocalpha":
        stored[..., :-1] *= alpha / most
    stored = np.rint(stored).astype(dtype)
    tifffile.imwrite(
        tmp_path / "x.tif",
        np.ascontiguousarray(stored.transpose(2, 0, 1)) if planar else stored,
        photometric="rgb" if channels == 4 else "minisblack",
        planarconfig="separate" if planar else "contig",
        extrasamples=[kind],
    )
    image = read_image(tmp_path / "x.tif")
    assert image.metadata.bit_depth == np.iinfo(dtype).bits
    colors = values[..., :-1]
    if kind == "unspecified":
        assert np.array_equal(np.rint(image.pixels * most), colors)
        return
    expected = np.concatenate([np.broadcast_to(colors, (9, 7, 3)), alpha], axis=2)
    tolerance = 1.01 if kind == "assocalpha" else 0.01
    assert np.abs(image.pixels.astype(np.float64) * most - expected).max() < tolerance


def test_writer_is_read_by_others(tmp_path):
    for channels, dtype in ((3, np.uint16), (3, np.uint8), (4, np.uint8)):
        values = random(700, 301, channels, dtype=dtype)  # several strips
        metadata = ImageMetadata(
            bit_depth=np.iinfo(dtype).bits, exif=photo_exif(1).tobytes(), xmp=XMP, dpi=(300, 300)
        )
        write_image(tmp_path / "x.tif", values / np.iinfo(dtype).max, metadata)
        with Image.open(tmp_path / "x.tif") as image:
            image.load()
        with tifffile.TiffFile(tmp_path / "x.tif") as file:
            page = file.pages[0]
            assert page.tags["ExifTag"].value["DateTimeOriginal"] == "1954:06:01 12:00:00"
        assert np.array_equal(tifffile.imread(tmp_path / "x.tif"), values)


# --- Depths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
def test_packed_bits(tmp_path, bits, photometric, order):
    most = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, most, (5, 7), endpoint=True)
    write_tiff(tmp_path / "x.tif", gray_page(values, bits, _262=photometric), order=order)
    expected = most - values if photometric == 0 else values
    assert np.array_equal(levels(tmp_path / "x.tif", most)[..., 0], expected)
    assert read_image(tmp_path / "x.tif").metadata.bit_depth == (16 if bits > 8 else 8)


@pytest.mark.parametrize("bits", [1, 4, 10, 12])
@pytest.mark.parametrize("compression", [1, 8])
def test_horizontal_predictor_of_packed_bits(tmp_path, bits, compression):
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    differences = np.diff(values, axis=1, prepend=0) % 2**bits
    page = gray_page(differences, bits, _317=2, _259=compression)
    if compression == 8:
        page["strips"] = [zlib.compress(page["strips"][0])]
    write_tiff(tmp_path / "x.tif", page)
    assert np.array_equal(levels(tmp_path / "x.tif", 2**bits - 1)[..., 0], values)


def test_tiles_in_the_tags_of_strips(tmp_path):
    """As the Silicon Graphics Image Library wrote them."""
    values = random(20, 30)
    padded = np.pad(values, ((0, 12), (0, 2)))
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16)]
    write_tiff(tmp_path / "x.tif", gray_page(values, _322=16, _323=16) | {"strips": tiles})
    assert np.array_equal(levels(tmp_path / "x.tif", 255)[..., 0], values)


def test_uncompressed_strip_without_byte_count(tmp_path):
    page = gray_page(np.arange(12).reshape(3, 4), 16)
    data = bytearray(write_tiff(tmp_path / "x.tif", page).read_bytes())
    place = data.index(struct.pack("<HHI", 279, 4, 1)) + 8
    data[place : place + 4] = bytes(4)
    (tmp_path / "x.tif").write_bytes(data)
    expected = np.frombuffer(page["strips"][0], "<u2").reshape(3, 4)
    assert np.array_equal(levels(tmp_path / "x.tif")[..., 0], expected)


@pytest.mark.parametrize("compression", [1, 8])
def test_reversed_bit_order(tmp_path, compression):
    values = np.random.default_rng(0).integers(0, 4095, (5, 7), endpoint=True)
    page = gray_page(values, 12, _266=2, _259=compression)
    data = page["strips"][0] if compression == 1 else zlib.compress(page["strips"][0])
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    page["strips"] = [np.packbits(bits, bitorder="little").tobytes()]
    write_tiff(tmp_path / "x.tif", page)
    assert np.array_equal(levels(tmp_path / "x.tif", 4095)[..., 0], values)


@pytest.mark.parametrize("order", ["<", ">"])
def test_24_bits(tmp_path, order):
    values = np.random.default_rng(0).integers(0, 2**24 - 1, (5, 7), endpoint=True)
    data = values.astype(f"{order}u4").tobytes()
    parts = np.frombuffer(data, np.uint8).reshape(-1, 4)
    parts = parts[:, :3] if order == "<" else parts[:, 1:]
    page = gray_page(values, 24) | {"strips": [parts.tobytes()]}
    write_tiff(tmp_path / "x.tif", page, order=order)
    pixels = read_image(tmp_path / "x.tif").pixels[..., 0]
    assert np.abs(pixels - values / (2**24 - 1)).max() < 1e-6


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_float_is_read_as_sixteen_bits(tmp_path, dtype, order, caplog):
    values = np.random.default_rng(0).random((9, 7)).astype(f"{order}{dtype}")
    values[0, :2] = 0, 1
    tifffile.imwrite(tmp_path / "x.tif", values, byteorder=order)
    image = read_image(tmp_path / "x.tif")
    assert image.metadata.bit_depth == 16
    assert np.abs(image.pixels[..., 0] - values.astype(float)).max() < 1e-6
    assert f"{values.dtype.itemsize * 8}-bit float samples; values 0 to 1 are" in caplog.text


def test_float_predictor(tmp_path):
    """Bytes by significance, then differences (TIFF Technical Note 3)."""
    values = np.random.default_rng(0).random((9, 7, 3)).astype(np.float32)
    by_significance = values.astype(">f4").view(np.uint8).reshape(9, 21, 4).swapaxes(1, 2)
    rows = by_significance.reshape(9, 28, 3).copy()
    rows[:, 1:] -= rows[:, :-1].copy()
    page = {"strips": [zlib.compress(rows.tobytes())], 256: 7, 257: 9, 258: [32] * 3, 259: 8}
    page |= {262: 2, 277: 3, 278: 9, 317: 3, 339: [3] * 3}
    write_tiff(tmp_path / "x.tif", page)
    assert np.abs(read_image(tmp_path / "x.tif").pixels - values).max() < 1e-6


@pytest.mark.parametrize(
    ("low", "high", "black", "white"),
    [
        (0, 0.5, 0, 1),
        (-0.1, 1.3, 0, 1),
        (0, 7, 0, 7),
        (0, 200, 0, 255),
        (0, 255, 0, 255),
        (0, 60000, 0, 65535),
        (-3, 3, -3, 3),
    ],
)
def test_scale_of_float_samples(tmp_path, low, high, black, white):
    values = np.linspace(low, high, 35, dtype=np.float32).reshape(5, 7)
    tifffile.imwrite(tmp_path / "x.tif", values)
    expected = np.clip((values - black) / (white - black), 0, 1)
    assert np.abs(read_image(tmp_path / "x.tif").pixels[..., 0] - expected).max() < 1e-6


def test_nan_is_black(tmp_path):
    values = np.array([[0.5, np.nan, np.inf, -np.inf, 1]], np.float32)
    tifffile.imwrite(tmp_path / "x.tif", values)
    assert read_image(tmp_path / "x.tif").pixels.ravel().tolist() == [0.5, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 2**32 - 1], np.uint32, [0, 1]),
        ([0, 30000, 65535], np.uint32, [0, 30000 / 65535, 1]),
        ([0, 32767], np.int16, [0, 1]),
        ([-32768, 32767], np.int16, [0, 1]),
    ],
)
def test_other_integers(tmp_path, values, dtype, expected, caplog):
    tifffile.imwrite(tmp_path / "x.tif", np.array([values], dtype), photometric="minisblack")
    image = read_image(tmp_path / "x.tif")
    assert image.pixels.ravel().tolist() == pytest.approx(expected, abs=1e-6)
    assert image.metadata.bit_depth == 16
    assert "-bit integer samples; values" in caplog.text


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"_281": 4095}, [0, 1000 / 4095, 1, 1]),
        ({"_280": 1000, "_281": 4095}, [0, 0, 1, 1]),
        ({"_340": 0.0, "_341": 4095.0}, [0, 1000 / 4095, 1, 1]),
        ({"_281": 65535}, [0, 1000 / 65535, 4095 / 65535, 5000 / 65535]),
        ({"_280": 300, "_281": 64000}, [0, 1000 / 65535, 4095 / 65535, 5000 / 65535]),  # statistics
        ({"_281": 65535, "_341": 4095}, [0, 1000 / 65535, 4095 / 65535, 5000 / 65535]),
        ({"_280": 4095, "_281": 4095}, [0, 1000 / 65535, 4095 / 65535, 5000 / 65535]),
    ],
)
def test_declared_sample_values(tmp_path, tags, expected, caplog):
    values = np.array([[0, 1000, 4095, 5000]])
    page = gray_page(values, 16, **tags)
    write_tiff(tmp_path / "x.tif", page, order=">")
    assert read_image(tmp_path / "x.tif").pixels.ravel() == pytest.approx(expected, abs=1e-6)
    assert ("are read as black to white" in caplog.text) == (expected[2] == 1)


def test_declared_range_of_float_samples(tmp_path):
    values = np.array([[-5, 0, 7, 10]], np.float32)
    page = gray_page(values.astype(int), 32, _339=3, _340=-5.0, _341=10.0)
    write_tiff(tmp_path / "x.tif", page | {"strips": [values.tobytes()]})
    pixels = read_image(tmp_path / "x.tif").pixels.ravel()
    assert pixels == pytest.approx([0, 1 / 3, 0.8, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 100, 200], [0, 100, 200]),  # unsigned, marked wrongly
        ([110, 120, 130, 140], [110, 120, 130, 140]),
        ([-50, -10, 0, 50], [78, 118, 128, 178]),
        ([0, -1, -1, 0], [0, 255, 255, 0]),  # a drawing
        ([-128, -60, 10, 80, 127], [0, 68, 138, 208, 255]),
        ([50, 60], [50, 60]),
    ],
)
def test_signed_bytes(tmp_path, stored, expected, caplog):
    write_tiff(tmp_path / "x.tif", gray_page(np.array([stored]), 8, _339=2))
    assert levels(tmp_path / "x.tif", 255).ravel().tolist() == expected
    assert ("8-bit signed samples; -128 to 127 are" in caplog.text) == (min(stored) < -1)


def test_declared_values_of_8_bits_are_statistics(tmp_path):
    write_tiff(tmp_path / "x.tif", gray_page(np.array([[10, 100]]), 8, _280=10, _281=100))
    assert levels(tmp_path / "x.tif", 255).ravel().tolist() == [10, 100]


# --- Colors ------------------------------------------------------------------------------------


def naive_rgb(inks: np.ndarray) -> np.ndarray:
    """Return RGB of 8-bit CMYK (H, W, 4) by Pillow's plain formula."""
    return np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"planarconfig": "separate"},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("extra", [None, "unassalpha", "unspecified"])
def test_cmyk(tmp_path, options, dtype, extra, caplog):
    if dtype == np.float32 and "predictor" in options:
        pytest.skip("tifffile needs a codec")
    values = random(33, 17, 5 if extra else 4)
    stored = values.astype(dtype) * (257 if dtype is np.uint16 else 1)
    stored = stored / np.float32(255) if dtype is np.float32 else stored
    stored = stored.astype(dtype)
    if "planarconfig" in options:
        stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
    extras = {"extrasamples": [extra]} if extra else {}
    tifffile.imwrite(
        tmp_path / "x.tif", stored, photometric="separated", **options, **extras, metadata=None
    )
    image = read_image(tmp_path / "x.tif")
    actual = np.rint(image.pixels * 255)
    assert np.array_equal(actual[..., :3], naive_rgb(np.ascontiguousarray(values[..., :4])))
    if extra == "unassalpha":
        assert np.array_equal(actual[..., 3], values[..., 4])
    else:
        assert actual.shape[2] == 3
    assert image.metadata.bit_depth == 8
    assert ("read with 8 of its bits" in caplog.text) == (dtype is not np.uint8)


def test_fourth_sample_without_a_tag_is_alpha(tmp_path):
    """As Pillow reads 8 bits; many programs leave ExtraSamples out."""
    for bits in (8, 16):
        values = random(5, 7, 4, dtype=f"u{bits // 8}")
        page = {"strips": [values.astype(f"<u{bits // 8}").tobytes()], 256: 7, 257: 5}
        page |= {258: [bits] * 4, 259: 1, 262: 2, 277: 4, 278: 5}
        write_tiff(tmp_path / "x.tif", page)
        assert np.array_equal(levels(tmp_path / "x.tif", 2**bits - 1), values)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_palette(tmp_path, bits, order):
    colors = random(3, 2**bits, dtype=np.uint16)
    indices = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    page = gray_page(indices, bits, _262=3, _320=colors.ravel().tolist())
    if bits == 16:
        page["strips"] = [indices.astype(f"{order}u2").tobytes()]
    write_tiff(tmp_path / "x.tif", page, order=order)
    image = read_image(tmp_path / "x.tif")
    expected = colors.T[indices]
    if bits == 16:
        assert image.metadata.bit_depth == 16
        assert np.array_equal(np.rint(image.pixels * 65535), expected)
    else:
        assert image.metadata.bit_depth == 8
        assert np.array_equal(np.rint(image.pixels * 255), expected >> 8)


def test_palette_of_8_bits_is_not_black(tmp_path):
    page = gray_page(np.array([[0, 1]]), 8, _262=3, _320=[255, 100] + [0] * 254 + [7] * 512)
    write_tiff(tmp_path / "x.tif", page)
    assert levels(tmp_path / "x.tif", 255).tolist() == [[[255, 7, 7], [100, 7, 7]]]


def test_short_palette(tmp_path):
    write_tiff(tmp_path / "x.tif", gray_page(np.zeros((4, 4), int), 8, _262=3, _320=[1] * 6))
    with pytest.raises(ImageError, match="damaged.*a palette of 2 colors for 8 bits per pixel"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 4), None])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("reference", [None, [16.0, 235.0, 128.0, 240.0, 128.0, 240.0]])
def test_ycbcr(tmp_path, subsampling, compression, reference):
    """Blocks of luma with their Cb and Cr, in strips of 8 rows (TIFF 6.0, section 21)."""
    across, down = subsampling or (2, 2)
    luma = random(22, 19).astype(int)
    generator = np.random.default_rng(1)
    chroma = generator.integers(100, 156, (-(-22 // down), -(-19 // across), 2))
    padded = np.pad(luma, ((0, -22 % down), (0, -19 % across)))
    blocks = padded.reshape(len(chroma), down, chroma.shape[1], across).swapaxes(1, 2)
    units = np.concatenate([blocks.reshape(*chroma.shape[:2], -1), chroma], axis=2)
    rows = 8 // down
    strips = [units[i : i + rows].astype(np.uint8).tobytes() for i in range(0, len(units), rows)]
    strips = [zlib.compress(strip) for strip in strips] if compression == 8 else strips
    page = {"strips": strips, 256: 19, 257: 22, 258: [8] * 3, 259: compression, 262: 6, 277: 3}
    page |= {278: 8} | ({530: list(subsampling)} if subsampling else {})
    page |= {532: reference} if reference else {}
    write_tiff(tmp_path / "x.tif", page)
    cb, cr = np.moveaxis(chroma.repeat(down, 0).repeat(across, 1)[:22, :19] - 128.0, 2, 0)
    y = luma.astype(float)
    if reference:
        y, cb, cr = (y - 16) * 255 / 219, cb * 127 / 112, cr * 127 / 112
    green = y - 0.344136 * cb - 0.714136 * cr
    expected = np.stack([y + 1.402 * cr, green, y + 1.772 * cb], axis=2)
    pixels = read_image(tmp_path / "x.tif").pixels
    assert np.abs(pixels * 255 - expected.clip(0, 255)).max() < 0.01


@pytest.mark.parametrize(
    "tags", [{529: [0.0, 0.5, 0.5]}, {532: [0.0] * 6}, {532: [float("nan")] * 6}], ids=str
)
def test_invalid_ycbcr(tmp_path, tags):
    page = {"strips": [bytes(48)], 256: 4, 257: 4, 258: [8] * 3, 259: 1, 262: 6, 277: 3, 278: 4}
    write_tiff(tmp_path / "x.tif", page | {530: [1, 1]} | tags)
    with pytest.raises(ImageError, match="damaged or cut short .invalid YCbCr"):
        read_image(tmp_path / "x.tif")


# --- Pages -------------------------------------------------------------------------------------


def page_of(value: int, size: tuple[int, int] = (16, 12), **tags) -> dict:
    return gray_page(np.full(size, value), **tags)


@pytest.mark.parametrize(
    ("pages", "chosen"),
    [
        ([page_of(1, (4, 3), _254=1), page_of(2)], 2),  # a marked thumbnail first
        ([page_of(1, (4, 3)), page_of(2)], 2),  # an unmarked one
        ([page_of(1), page_of(2, (4, 3))], 1),
        ([page_of(1), page_of(2, _254=1), page_of(3, _254=4)], 1),  # a copy, a mask
        ([page_of(1, (4, 3), _254=1), page_of(2, _254=1)], 2),  # all marked: the largest
    ],
)
def test_full_size_page_is_chosen(tmp_path, pages, chosen, caplog):
    path = write_tiff(tmp_path / "x.tif", *pages)
    pixels = read_image(path).pixels
    assert pixels.shape == (16, 12, 1)
    assert np.rint(pixels * 255).max() == chosen
    is_named = f"x.tif: page {chosen} of {len(pages)} is read, 12x16;" in caplog.text
    assert is_named or all(254 in page for page in pages[1:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_infrared_page_is_passed_over(tmp_path, dtype, caplog):
    photo, infrared = random(9, 7, 3, dtype=dtype), random(9, 7, dtype=dtype)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(photo, photometric="rgb")
        file.write(infrared, photometric="minisblack")
    assert np.array_equal(levels(tmp_path / "x.tif", np.iinfo(dtype).max), photo)
    assert "x.tif: page 1 of 2 is read, 7x9; the others are smaller, masks" in caplog.text


def test_marked_copies_are_not_mentioned(tmp_path, caplog):
    write_tiff(tmp_path / "x.tif", page_of(1), page_of(2, (4, 3), _254=1))
    read_image(tmp_path / "x.tif")
    assert not caplog.records


def test_sub_ifd_holds_the_photo(tmp_path, caplog):
    """Camera files: a marked thumbnail, with the photo in a directory below it."""
    photo, thumbnail = random(40, 30, 3), random(4, 3, 3)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1)
        file.write(photo, photometric="rgb")
    assert np.array_equal(levels(tmp_path / "x.tif", 255), photo)
    assert "x.tif: page 1 of 1 (SubIFD) is read, 30x40" in caplog.text


@pytest.mark.parametrize("options", [{}, {"compression": "jpeg"}, {"compression": "group4"}])
def test_several_full_size_pages(tmp_path, options, caplog):
    mode = "1" if options.get("compression") == "group4" else "L"
    images = [Image.new(mode, (24, 16), value) for value in (0, 1, 255)]
    images[0].save(tmp_path / "x.tif", save_all=True, append_images=images[1:], **options)
    assert list_pages(tmp_path / "x.tif") == [1, 2, 3]
    first = read_image(tmp_path / "x.tif").pixels
    assert "x.tif: page 1 of 3 is read, 24x16; 2 other pages are as large." in caplog.text
    assert np.array_equal(first, read_image(tmp_path / "x.tif", page=1).pixels)
    for number, image in enumerate(images, 1):
        expected = np.asarray(image.convert("L"))
        pixels = read_image(tmp_path / "x.tif", page=number).pixels[..., 0]
        assert np.abs(pixels * 255 - expected).max() < 2
    with pytest.raises(ImageError, match="x.tif, page 4: no such page; expected 1 to 3."):
        read_image(tmp_path / "x.tif", page=4)


def test_pages_in_sub_ifds_are_chosen_by_number(tmp_path):
    photos = [random(40, 30, 3) // (1 + i) for i in range(2)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for photo in photos:
            file.write(photo[:4, :3], photometric="rgb", subfiletype=1, subifds=1)
            file.write(photo, photometric="rgb")
    assert list_pages(tmp_path / "x.tif") == [1, 2]
    for number, photo in enumerate(photos, 1):
        pixels = read_image(tmp_path / "x.tif", page=number).pixels
        assert np.array_equal(np.rint(pixels * 255), photo)


def test_files_without_several_full_size_pages_have_no_list(tmp_path):
    write_tiff(tmp_path / "x.tif", page_of(1, (4, 3), _254=1), page_of(2))
    save(tmp_path / "x.png", random(4, 4, 3))
    (tmp_path / "y.tif").write_bytes(b"II*\0 cut")
    for name in ("x.tif", "x.png", "y.tif", "missing.tif", "."):
        assert list_pages(tmp_path / name) == []


def test_only_tiff_has_pages(tmp_path):
    save(tmp_path / "x.png", random(4, 4, 3))
    assert read_image(tmp_path / "x.png", page=1).pixels.shape == (4, 4, 3)
    with pytest.raises(ImageError, match="x.png, page 2: no such page; only TIFF files have"):
        read_image(tmp_path / "x.png", page=2)


def test_damaged_second_directory_ends_the_list(tmp_path):
    path = write_tiff(tmp_path / "x.tif", page_of(1), page_of(2))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert np.rint(read_image(path).pixels * 255).max() == 1


def test_directories_in_a_circle(tmp_path):
    path = write_tiff(tmp_path / "x.tif", page_of(1))
    data = bytearray(path.read_bytes())
    data[-4:] = data[4:8]  # the next directory is the first one
    path.write_bytes(data)
    assert np.rint(read_image(path).pixels * 255).max() == 1


# --- Rotation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_and_resolution(tmp_path, orientation, dtype):
    """8 bits are decoded by Pillow, 16 by our own reader."""
    from PIL import ImageOps

    values = random(6, 4, 3, dtype=dtype)
    tags = [(274, "H", 1, orientation), (271, "s", 0, "Kodak")]
    tifffile.imwrite(
        tmp_path / "x.tif",
        values,
        photometric="rgb",
        resolution=(300, 150),
        resolutionunit="inch",
        extratags=tags,
    )
    exif = Image.Exif()
    exif[274] = orientation
    upright = Image.fromarray((values >> (8 if dtype is np.uint16 else 0)).astype(np.uint8))
    upright.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(upright))
    image = read_image(tmp_path / "x.tif")
    most = np.iinfo(dtype).max
    actual = np.rint(image.pixels * most).astype(dtype) >> (8 if dtype is np.uint16 else 0)
    assert np.array_equal(actual, expected)
    dpi = (150, 300) if orientation >= 5 else (300, 150)
    assert image.metadata.dpi == dpi
    kept = Image.Exif()
    kept.load(image.metadata.exif)
    assert (float(kept[282]), float(kept[283])) == dpi
    assert (kept[274], kept[271]) == (1, "Kodak")


@pytest.mark.parametrize(("unit", "dpi"), [(1, None), (2, (72, 36)), (3, (72 * 2.54, 36 * 2.54))])
def test_resolution_unit(tmp_path, unit, dpi):
    page = gray_page(np.zeros((4, 4), int), 16, _282=72.0, _283=36.0, _296=unit)
    assert read_image(write_tiff(tmp_path / "x.tif", page)).metadata.dpi == dpi


# --- Unsupported and damaged -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"_262": 32803}, "x.tif: a camera's raw file; develop it to TIFF or JPEG first."),
        ({"_259": 34713}, "x.tif: a camera's raw file; develop it to TIFF or JPEG first."),
        ({"_259": 50002}, r"x.tif: an unsupported kind of TIFF \(JPEG XL, gray, 16 bits\); instal"),
        ({"_259": 50001}, r"x.tif: an unsupported kind of TIFF \(WebP, gray, 16 bits\); install m"),
        ({"_259": 9}, r"x.tif: an unsupported kind of TIFF \(compression 9, gray, 16 bits\); inst"),
        ({"_262": 6}, r"x.tif: .* TIFF \(uncompressed, YCbCr, 16 bits\); save it as gray or RGB"),
        ({"_277": 99}, r"x.tif: .* TIFF \(uncompressed, gray, 16 bits, 99 channels\); save it as"),
        ({"_339": 6}, r"x.tif: .* TIFF \(uncompressed, gray, 16 bits complex\); save it as gray"),
    ],
)
def test_sound_but_unsupported(tmp_path, tags, message):
    write_tiff(tmp_path / "x.tif", gray_page(np.zeros((4, 4), int), 16, **tags))
    with pytest.raises(UnsupportedImageError, match=message):
        read_image(tmp_path / "x.tif")


def test_without_tifffile(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    write_tiff(tmp_path / "x.tif", gray_page(np.zeros((4, 4), int), 16, _259=50002))
    message = (
        r"install more codecs with pip install 'comfyui-colorist\[tiff\]', or save it as gray or "
        "RGB without compression."
    )
    with pytest.raises(UnsupportedImageError, match=message):
        read_image(tmp_path / "x.tif")


def test_tifffile_reads_what_pillow_cannot(tmp_path, monkeypatch):
    """Tifffile stands in with the pixels that its codec would decode."""
    values = random(5, 7, 3, dtype=np.uint16)

    def asarray(page):
        assert page.compression == 50002
        return values

    monkeypatch.setattr(tifffile.TiffPage, "asarray", asarray)
    page = {"strips": [b"?"], 256: 7, 257: 5, 258: [16] * 3, 259: 50002, 262: 2, 277: 3, 278: 5}
    image = read_image(write_tiff(tmp_path / "x.tif", page))
    assert image.metadata.bit_depth == 16
    assert np.array_equal(np.rint(image.pixels * 65535), values)


def test_codec_that_this_libtiff_lacks(tmp_path):
    page = gray_page(np.zeros((4, 4), int), 8, _259=50001) | {"strips": [b"RIFF"]}
    with pytest.raises(UnsupportedImageError, match="WebP, gray, 8 bits"):
        read_image(write_tiff(tmp_path / "x.tif", page))


@pytest.mark.parametrize(
    "tags",
    [
        {"strips": [b"short"]},
        {"strips": []},
        {256: 0},
        {256: 10, 257: 1000},
        {258: [16, 8]},
        {322: 0, 323: 0, 324: 8, 325: 8},
        {262: 2},
    ],
    ids=str,
)
def test_damage(tmp_path, tags):
    page = gray_page(np.zeros((4, 4), int), 16) | tags
    with pytest.raises(ImageError, match="x.tif: "):
        read_image(write_tiff(tmp_path / "x.tif", page))


def test_size_limit(tmp_path):
    page = gray_page(np.zeros((4, 4), int), 16) | {256: 30000, 257: 20000}
    with pytest.raises(ImageError, match="x.tif: 30000x20000 is 600 megapixels; the limit is 300."):
        read_image(write_tiff(tmp_path / "x.tif", page))


@pytest.mark.filterwarnings("ignore")
def test_mutations_never_raise_anything_else(tmp_path):
    generator = np.random.default_rng(0)
    sources = []
    for options in ({}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}):
        tifffile.imwrite(tmp_path / "s.tif", random(20, 17, 3, dtype=np.uint16), **options)
        sources.append((tmp_path / "s.tif").read_bytes())
    sources.append(save(tmp_path / "s.tif", random(20, 17, 3)).read_bytes())
    refused = 0
    for number in range(120):
        data = bytearray(sources[number % len(sources)])
        for place in generator.integers(0, min(len(data), 400), generator.integers(1, 6)):
            data[place] = generator.choice([0, 1, 255, generator.integers(0, 256)])
        (tmp_path / "x.tif").write_bytes(data)
        try:
            pixels = read_image(tmp_path / "x.tif").pixels
        except ImageError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert pixels.ndim == 3
        assert np.isfinite(pixels).all()
    assert 0 < refused < 120


def test_reduced_copy_of_pillow(tmp_path):
    frames = [Image.fromarray(random(8, 8, 3) // (1 + i)) for i in range(2)]
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    frames[1].encoderinfo = {"tiffinfo": reduced}
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=[frames[1]])
    assert np.array_equal(levels(tmp_path / "x.tif", 255), np.asarray(frames[0]))
