"""Animated images as videos."""

import runpy
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media.errors import VideoError
from comfyui_colorist.media.image_io import read_image
from comfyui_colorist.media.video_animation import is_animated
from comfyui_colorist.media.video_reader import probe, read_frames
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
copy_video = helpers.copy_video
decoded = helpers.decoded
LEVELS, DURATIONS = (20, 120, 220), (100, 300, 50)


def write_animation(path: Path, mode: str = "L") -> Path:
    frames = []
    for level in LEVELS:
        values = np.full((30, 40), level, np.uint8)
        values[:, 20:] //= 2
        frame = Image.fromarray(values).convert(mode)
        if mode == "RGBA":
            alpha = np.full((30, 40), 255, np.uint8)
            alpha[:10] = 0
            frame.putalpha(Image.fromarray(alpha))
        frames.append(frame)
    options = {".webp": {"lossless": True}, ".gif": {"disposal": 2}}.get(path.suffix, {})
    frames[0].save(
        path,
        "PNG" if path.suffix == ".apng" else None,
        save_all=True,
        append_images=frames[1:],
        duration=list(DURATIONS),
        **options,
    )
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng"])
def test_all_frames_and_their_durations(tmp_path, suffix):
    source = write_animation(tmp_path / f"x{suffix}")
    assert is_animated(source)
    info = probe(source)
    assert (info.width, info.height, info.frame_count, info.has_alpha) == (40, 30, 3, False)
    assert info.frame_rate == Fraction(3000, 450)
    frames = list(read_frames(source))
    assert [time for _, time in frames] == [0, 100, 400]
    for (pixels, _), level in zip(frames, LEVELS, strict=True):
        assert np.abs(pixels[:, :20] * 255 - level).max() < 3
        assert np.abs(pixels[:, 20:] * 255 - level // 2).max() < 3
    assert [time for _, time in read_frames(source, 2)] == [400]
    result = copy_video(source, tmp_path / "y.mp4", quality=4)
    planes, times = decoded(result)
    assert [float(time) for time in times] == [0, 0.1, 0.4]
    assert abs(planes[1][15, 5] - (16 + 219 * 120 / 255)) < 3
    with av.open(str(result)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(0.45)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_transparent_parts(tmp_path, suffix):
    source = write_animation(tmp_path / f"x{suffix}", "RGBA")
    assert probe(source).has_alpha
    for pixels, _ in read_frames(source, alpha=True):
        assert (pixels[:10, :, 3] == 0).all() and (pixels[10:, :, 3] == 1).all()
    for pixels, _ in read_frames(source):
        assert (pixels[:10] == 1).all() and pixels[10:].max() < 0.9


def test_animation_chunk_of_a_single_frame(tmp_path):
    path = write_animation(tmp_path / "x.png")
    data = bytearray(path.read_bytes())
    place = data.index(b"acTL")
    data[place + 4 : place + 8] = struct.pack(">I", 1)
    data[place + 12 : place + 16] = struct.pack(">I", zlib.crc32(data[place : place + 12]))
    path.write_bytes(data)
    assert not is_animated(path)
    assert np.rint(read_image(path).pixels[0, 0] * 255) == LEVELS[0]


def test_images_are_not_animated(tmp_path):
    for name in ("a.gif", "a.webp", "a.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
        assert not is_animated(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "c.gif").write_bytes(b"GIF89a")
    for name in ("b.png", "c.gif", "missing.png"):
        assert not is_animated(tmp_path / name)


def test_a_damaged_animation_names_the_file(tmp_path):
    source = write_animation(tmp_path / "x.webp")
    source.write_bytes(source.read_bytes()[:-40])
    with pytest.raises(VideoError, match="x.webp: "):
        list(read_frames(source))
        probe(source)


def test_frames_beyond_the_edge_enlarge_all(tmp_path):
    """GIF allows them, though the header gives the size of the canvas."""

    def gif(width: int, level: int) -> bytes:
        image = Image.new("P", (width, 8), level)
        image.putpalette([value for level in range(256) for value in (level,) * 3])
        image.save(tmp_path / "x.gif", optimize=False)
        return (tmp_path / "x.gif").read_bytes()

    small, large = gif(10, 50), gif(14, 200)
    descriptor = large.index(b"\x2c\x00\x00\x00\x00\x0e\x00\x08\x00")
    (tmp_path / "x.gif").write_bytes(small[:-1] + large[descriptor:])
    info = probe(tmp_path / "x.gif")
    assert (info.width, info.height, info.frame_count, info.has_alpha) == (14, 8, 2, True)
    first, second = (frame for frame, _ in read_frames(tmp_path / "x.gif", alpha=True))
    assert first.shape == second.shape == (8, 14, 4)
    assert (first[:, :10, 3] == 1).all() and (first[:, 10:, 3] == 0).all()
    assert (second[..., 3] == 1).all()
