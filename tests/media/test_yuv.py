"""Colors of frames: matrices, ranges, bit depths, and the position of chroma samples."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.media.video_reader import probe, read_frames
from comfyui_colorist.media.yuv import plane_views, rgb_to_frame

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
WIDTH, HEIGHT = helpers.WIDTH, helpers.HEIGHT
luma = helpers.luma
make_video = helpers.make_video
gray = helpers.gray


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("yuv420p", 8), ("yuv411p", 8), ("yuv444p10le", 10), ("yuv422p12le", 12), ("yuv420p16le", 16)],
)
def test_gray_values_are_exact(tmp_path, kind, bits):
    path = make_video(tmp_path / "x.mkv", frames=3, codec="ffv1", kind=kind)
    for number, (pixels, _) in enumerate(read_frames(path)):
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert pixels.dtype == np.float32
        assert np.ptp(pixels, axis=2).max() == 0
        assert np.abs(pixels[..., 0] - gray(number, bits)).max() < 1e-6
    assert number == 2


@pytest.mark.parametrize(("kind", "bits"), [("gray", 8), ("gray10le", 10), ("gray16le", 16)])
def test_gray_formats_are_full_range_unless_they_say_otherwise(tmp_path, kind, bits):
    path = make_video(tmp_path / "x.mkv", frames=1, codec="ffv1", kind=kind)
    pixels, _ = next(read_frames(path))
    expected = luma(0, bits=bits) / (2**bits - 1)
    assert np.abs(pixels - expected[..., None]).max() < 1e-6
    limited = make_video(tmp_path / "y.mkv", frames=1, codec="ffv1", kind="gray", tags=(1, 1, 1, 1))
    assert np.abs(next(read_frames(limited))[0][..., 0] - gray(0)).max() < 1e-6


@pytest.mark.parametrize(
    ("codec", "kind", "tags", "values", "expected"),
    [  # red as BT.601 and BT.709 give it
        ("ffv1", "yuv444p", (1, 5, 5, 6), (81, 90, 240), (1, 0, 0)),
        ("ffv1", "yuv420p", (1, 1, 1, 1), (63, 102, 240), (1, 0, 0)),
        ("ffv1", "yuv444p10le", (1, 1, 1, 1), (250, 409, 960), (1, 0, 0)),
        ("ffv1", "yuv444p", (2, 5, 5, 6), (76, 85, 255), (1, 0, 0)),
        ("mjpeg", "yuvj444p", (2, 5, 5, 6), (150, 44, 21), (0, 1, 0)),
        ("ffv1", "bgr0", (0, 2, 2, 2), ((51, 102, 204, 0),), (0.8, 0.4, 0.2)),
    ],
)
def test_colors_by_the_tags(tmp_path, codec, kind, tags, values, expected):
    options = {"q:v": "1"} if codec == "mjpeg" else {}
    path = make_video(
        *(tmp_path / "x.mkv",),
        frames=1,
        codec=codec,
        kind=kind,
        tags=tags,
        values=values,
        options=options,
    )
    assert np.abs(next(read_frames(path))[0] - expected).max() < 0.01


def test_colors_survive(tmp_path):
    """Chroma lies where it was: a red left half, a blue right one."""
    source = make_video(tmp_path / "x.mkv", frames=2)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    pixels[:, : WIDTH // 2] = 0.8, 0.1, 0.2
    pixels[:, WIDTH // 2 :] = 0.1, 0.2, 0.9
    for name, codec, bound in (("y.mkv", "ffv1", 0.006), ("z.mp4", "h264", 0.02)):
        with SegmentedVideoWriter(
            source, tmp_path / name, probe(source), settings={}, codec=codec
        ) as writer:
            writer.write((pixels, time) for _, time in read_frames(source))
            writer.join()
        for actual, _ in read_frames(tmp_path / name):
            away = np.abs(actual - pixels)
            away[:, WIDTH // 2 - 2 : WIDTH // 2 + 2] = 0 if codec == "h264" else away[:, 30:34]
            assert away.max() < bound


def test_chroma_samples_lie_left():
    """On a linear slope, each 4:2:0 sample equals the value at the left one of its two columns."""
    slope = np.linspace(0.2, 0.8, WIDTH)[None, :, None].repeat(HEIGHT, axis=0)
    pixels = np.concatenate([slope, 0.5 + 0 * slope, 1 - slope], axis=2).astype(np.float32)
    whole = plane_views(rgb_to_frame(pixels, "yuv444p10le", 1, False))
    half = plane_views(rgb_to_frame(pixels, "yuv420p10le", 1, False))
    for index in (1, 2):
        assert half[index].shape == (HEIGHT // 2, WIDTH // 2)
        assert np.abs(half[index][:, 1:].astype(int) - whole[index][::2, 2::2]).max() <= 1
