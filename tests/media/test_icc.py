"""ICC profiles: conversion to sRGB, and which profile the result gets."""

import io
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.media import icc
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import read_image, write_image
from PIL import Image, ImageCms

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
random = helpers.random
save = helpers.save
make_profile = helpers.make_profile
WHITE = helpers.WHITE
GRAY_GAMMA = helpers.GRAY_GAMMA
ADOBE_RGB = helpers.ADOBE_RGB


def test_srgb_profile_is_the_same_every_time_and_recognized():
    profile = icc.srgb_profile()
    assert profile == icc.srgb_profile()
    pixels = random(5, 4, 3).astype(np.float32) / 255
    same, kept = icc.to_srgb(pixels, profile)
    assert same is pixels
    assert kept == profile


@pytest.mark.parametrize("bits", [8, 16])
def test_adobe_rgb_is_converted(tmp_path, bits):
    values = random(16, 16, 3)
    if bits == 8:
        path = save(tmp_path / "x.tif", values, icc_profile=ADOBE_RGB)
    else:
        path = tmp_path / "x.tif"
        write_image(
            path, values.astype(np.float32) / 255, ImageMetadata(bit_depth=16, icc=ADOBE_RGB)
        )
    decoded = read_image(path)
    expected = ImageCms.profileToProfile(
        Image.fromarray(values),
        io.BytesIO(ADOBE_RGB),
        ImageCms.createProfile("sRGB"),
        renderingIntent=1,
    )
    assert np.abs(decoded.pixels * 255 - np.asarray(expected)).max() < 2.1
    assert decoded.metadata.icc == icc.srgb_profile()
    assert decoded.metadata.bit_depth == bits


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_profile_is_converted_and_never_written_with_color(tmp_path, suffix):
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None]
    path = save(tmp_path / f"x{suffix}", values, icc_profile=GRAY_GAMMA)
    decoded = read_image(path)
    linear = (values / 65535.0) ** (461 / 256)  # 1.8 as the profile holds it
    expected = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert decoded.pixels.shape == (1, 64, 1)
    assert np.abs(decoded.pixels[..., 0] - expected).max() < 1e-5
    write_image(tmp_path / f"y{suffix}", np.repeat(decoded.pixels, 3, axis=2), decoded.metadata)
    with Image.open(tmp_path / f"y{suffix}") as image:
        assert image.info["icc_profile"][16:20] == b"RGB "


def test_gray_image_with_an_rgb_profile(tmp_path):
    path = save(tmp_path / "x.jpg", random(8, 8), icc_profile=icc.srgb_profile())
    assert read_image(path).pixels.shape == (8, 8, 1)
    path = save(tmp_path / "x.jpg", random(8, 8), icc_profile=ADOBE_RGB)
    pixels = read_image(path).pixels
    assert pixels.shape == (8, 8, 3)
    assert np.ptp(pixels, axis=2).max() < 1e-5


@pytest.mark.parametrize(
    "profile", [b"nonsense", GRAY_GAMMA, ADOBE_RGB[:150]], ids=["text", "gray", "cut"]
)
def test_useless_profile_is_dropped_with_a_warning(tmp_path, profile, caplog):
    values = random(8, 8, 3)
    decoded = read_image(save(tmp_path / "x.png", values, icc_profile=profile))
    assert np.array_equal(np.rint(decoded.pixels * 255), values)
    assert decoded.metadata.icc == b""
    assert "sRGB is assumed" in caplog.text


def test_tables_agree_with_curves():
    """Pillow's color management, which serves measured profiles, and our own computation."""
    values = random(16, 16, 3).astype(np.float32) / 255
    by_curves, by_tables = (
        icc._curve_transform(ADOBE_RGB),
        icc._table_transform(ADOBE_RGB),
    )
    assert np.abs(by_curves(values) - by_tables(values)).max() < 2.1 / 255
    gray = values[..., :1]
    by_curves, by_tables = (
        icc._curve_transform(GRAY_GAMMA),
        icc._table_transform(GRAY_GAMMA),
    )
    assert np.abs(by_curves(gray) - by_tables(gray)).max() < 2.1 / 255


def test_profile_curves():
    x = np.linspace(0, 1, 257, dtype=np.float32)
    table = b"curv\0\0\0\0" + struct.pack(">I256H", 256, *range(0, 65536, 257))
    assert np.allclose(icc._curve(table)(x), x, atol=1e-6)
    assert np.allclose(icc._curve(b"curv\0\0\0\0\0\0\0\0")(x), x)
    srgb = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]
    para = b"para\0\0\0\0\0\3\0\0" + struct.pack(">5i", *(round(v * 65536) for v in srgb))
    expected = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    assert np.allclose(icc._curve(para)(x), expected, atol=1e-4)
    plain = b"para\0\0\0\0\0\0\0\0" + struct.pack(">i", 2 * 65536)
    assert np.allclose(icc._curve(plain)(x), x**2)


def test_adobe_cmyk_jpeg_has_the_right_brightness(tmp_path):
    """Adobe programs store CMYK inverted in JPEG; Pillow writes it so, with an Adobe segment."""
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:, 3] = 255  # left half no ink, right half black
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "x.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
    pixels = read_image(tmp_path / "x.jpg").pixels
    assert pixels[:, :4].min() > 0.98
    assert pixels[:, 4:].max() < 0.02


def test_cmyk_by_its_profile(tmp_path):
    """A press whose black is a dark yellow: L = 50, b = 40."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    lab = np.array([[255 - 127 * ink.max(), 128, 168] for ink in corners], np.uint8)
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0\4\3\2\0" + struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table = head + 4 * ramp + lab.tobytes() + 3 * ramp
    profile = make_profile(b"CMYK", b"Lab ", wtpt=WHITE, A2B0=table)
    profile = profile[:12] + b"prtr" + profile[16:]
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[:, 4:, 3] = 255
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "x.tif", icc_profile=profile)
    decoded = read_image(tmp_path / "x.tif")
    assert decoded.pixels[:, :4].min() > 0.99
    assert np.allclose(decoded.pixels[0, 7] * 255, (135, 118, 48), atol=2)
    assert decoded.metadata.icc == icc.srgb_profile()


def test_cmyk_with_a_useless_profile(tmp_path, caplog):
    Image.fromarray(np.zeros((8, 8, 4), np.uint8), "CMYK").save(
        tmp_path / "x.jpg", icc_profile=b"x" * 200
    )
    assert read_image(tmp_path / "x.jpg").pixels.min() > 0.98
    assert "converted without it" in caplog.text


def test_lab_tiff(tmp_path):
    lab = Image.new("LAB", (8, 8), (128, 128, 128))  # L = 50.2, neutral
    lab.paste((220, 48, 208), (4, 0, 8, 8))  # L = 86, a = -80, b = 80: green
    lab.save(tmp_path / "x.tif")
    image = read_image(tmp_path / "x.tif")
    assert np.allclose(image.pixels[0, 0] * 255, 119, atol=1.5)
    red, green, blue = image.pixels[0, 7]
    assert green > 0.9
    assert max(red, blue) < 0.5
    assert image.metadata.icc == b""


def test_long_profile_survives_jpeg(tmp_path):
    profile = icc.srgb_profile() + bytes(100_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    write_image(tmp_path / "x.jpg", np.zeros((4, 4, 3), np.float32), ImageMetadata(icc=profile))
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.info["icc_profile"] == profile
