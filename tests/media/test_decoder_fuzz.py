"""Mutated images and videos: each is read, or refused in one sentence.

The short run is part of the suite. The long one is `pytest -m slow` of this file, which also
bounds the memory.
"""

import io
import resource
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from comfyui_colorist.media import image_io
from comfyui_colorist.media.errors import ImageError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

LIMITS = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
RGB, GRAY = Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., 0])
GRAY16 = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E], EXIF[0x011A] = 6, "a caption", 300.0
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r/></x:xmpmeta>'


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def seed_images() -> list[bytes]:
    """Return small sound files of many kinds."""
    seeds = [
        encode(RGB, "PNG", exif=EXIF, dpi=(300, 300)),
        encode(GRAY16, "PNG"),
        encode(RGB.quantize(16), "PNG", transparency=3),
        encode(RGB, "JPEG", exif=EXIF, xmp=XMP, dpi=(72, 72)),
        encode(GRAY, "JPEG", progressive=True),
        encode(RGB.convert("CMYK"), "JPEG"),
        encode(RGB, "WEBP", exif=EXIF),
        encode(RGB, "WEBP", lossless=True, xmp=XMP),
        encode(RGB, "BMP"),
        encode(RGB, "GIF"),
        encode(GRAY, "PPM"),
        encode(RGB, "TGA"),
        encode(GRAY16, "TIFF"),
        encode(RGB, "TIFF", compression="tiff_lzw", exif=EXIF),
        encode(RGB, "TIFF", compression="tiff_adobe_deflate"),
        encode(RGB, "TIFF", compression="jpeg"),
        encode(GRAY.convert("1"), "TIFF", compression="group4"),
        encode(RGB.convert("RGBA"), "TIFF", compression="packbits"),
        encode(RGB, "TIFF", save_all=True, append_images=[RGB.resize((10, 6))]),
    ]
    if features.check("jpg_2000"):
        seeds.append(encode(RGB, "JPEG2000"))
    if features.check("avif"):
        seeds.append(encode(RGB, "AVIF"))
    return seeds


def seed_videos() -> list[bytes]:
    """Return small sound videos of some containers and codecs."""
    seeds = []
    for container_format, codec, pixel_format in (
        ("mp4", "libx264", "yuv420p"),
        ("matroska", "ffv1", "yuv444p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("webm", "libvpx-vp9", "yuv420p"),
        ("gif", "gif", "rgb8"),
    ):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 48, 32, pixel_format
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(np.roll(PIXELS[:, :32], number, 1), "rgb24")
                frame = frame.reformat(48, 32)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        seeds.append(buffer.getvalue())
    return seeds


@st.composite
def mutations(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a file with one to three cuts, insertions or overwritten fields."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, 400, 10**9])))))
        piece = draw(
            st.one_of(
                st.sampled_from(
                    [b"", b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]
                ),
                st.binary(max_size=8),
            )
        )
        end = draw(st.sampled_from([start, start + 1, start + len(piece), len(data)]))
        data = data[:start] + piece + data[end:]
    return data


def is_sentence(text: str, name: str) -> bool:
    return name in text and "\n" not in text and len(text) < 500 and text.endswith((".", ")"))


@pytest.mark.parametrize(
    "count",
    [pytest.param(150, id="short"), pytest.param(5000, id="long", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore")
def test_mutated_images(tmp_path, count):
    path = tmp_path / "mutated.bin"
    outcomes = {"read": 0, "refused": 0}

    @settings(max_examples=count, **LIMITS)
    @given(mutations(seed_images()))
    def mutate(data):
        path.write_bytes(data)
        try:
            image = image_io.read_image(path)
        except ImageError as error:
            assert is_sentence(str(error), path.name), error
            outcomes["refused"] += 1
            return
        outcomes["read"] += 1
        assert image.pixels.dtype == np.float32 and image.pixels.ndim == 3
        assert np.isfinite(image.pixels).all()
        assert image.pixels.min() >= 0 and image.pixels.max() <= 1
        if image.pixels.size < 10**6:
            for suffix in (".png", ".jpg", ".tif"):  # with the metadata, however odd
                image_io.write_image(
                    path.with_name(f"result{suffix}"), image.pixels, image.metadata
                )

    mutate()
    assert min(outcomes.values()) > count / 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20  # KiB


VIDEO_RUN = """
import runpy, sys
from pathlib import Path
runpy.run_path(sys.argv[1])["package"]()
from comfyui_colorist.media import video_reader
from comfyui_colorist.media.errors import VideoError, ImageError
for path in sorted(Path(sys.argv[2]).iterdir()):
    print(path.name, end=" ", flush=True)
    try:
        video_reader.probe(path)
        for frame, _ in video_reader.read_frames(path):
            assert 0 <= frame.min() and frame.max() <= 65535
        print("read", flush=True)
    except (VideoError, ImageError) as error:
        text = str(error)
        assert path.name in text and "\\n" not in text and len(text) < 500, text
        print("refused", flush=True)
"""


@pytest.mark.parametrize(
    "count",
    [pytest.param(30, id="short"), pytest.param(500, id="long", marks=pytest.mark.slow)],
)
def test_mutated_videos(tmp_path, root, count):
    """In a process of their own, because decoders may crash."""
    number = 0

    @settings(max_examples=count, **LIMITS)
    @given(mutations(seed_videos()))
    def write(data):
        nonlocal number
        number += 1
        (tmp_path / f"{number:04}").write_bytes(data)

    write()
    command = [sys.executable, "-c", VIDEO_RUN, root / "trainers" / "_standalone.py", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20 * count)
    assert result.returncode == 0, f"{result.stdout.splitlines()[-1]}\n{result.stderr}"
    outcomes = [line.split()[1] for line in result.stdout.splitlines()]
    assert len(outcomes) == number
    assert {"read", "refused"} == set(outcomes)
