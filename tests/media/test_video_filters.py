"""Interlaced frames: their order, and full frames from them."""

import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media.video_filters import FieldMarker, deinterlaced, field_order
from comfyui_colorist.media.video_reader import probe, read_frames

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
make_video = helpers.make_video
WIDTH, HEIGHT = helpers.WIDTH, helpers.HEIGHT


def combed(left: int, right: int) -> np.ndarray:
    """Return a frame with a bar at `left` in the top field and at `right` in the bottom one."""
    values = np.full((HEIGHT, WIDTH), 30, np.uint8)
    values[::2, left : left + 12] = values[1::2, right : right + 12] = 200
    return values


def frame_of(values: np.ndarray, kind: str = "gray") -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(values, "gray").reformat(format=kind)
    frame.pts, frame.time_base = 0, Fraction(1, 24)
    return frame


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p10le", "yuvj420p", "gray"])
def test_mark_and_find_the_field_order(order, kind):
    marker = FieldMarker(order)
    for number in range(3):
        frame = frame_of(combed(10, 20), kind)
        assert field_order(frame) is None
        frame.pts = number
        marked = marker.mark(frame)
        assert (field_order(marked), marked.pts, marked.format.name) == (order, number, kind)


@pytest.mark.parametrize("kind", ["gray", "yuv420p", "yuv411p", "yuv422p10le", "gbrp"])
def test_deinterlaced_frames_are_full_and_keep_their_times(kind):
    times = [3, 40, 41, 90, 100]
    frames = [
        (FieldMarker("tff").mark(frame_of(combed(8 * n, 8 * n + 4), kind)), time)
        for n, time in enumerate(times)
    ]
    result = list(deinterlaced(iter(frames), "x"))
    assert [time for _, time in result] == times
    for frame, _ in result[1:-1]:
        rows = frame.reformat(format="gray").to_ndarray().astype(int)[4:-4]
        assert (frame.width, frame.height) == (WIDTH, HEIGHT)
        assert np.abs(rows[1:] - rows[:-1]).max() < 40  # 170 with combs


def test_read_frames_deinterlaces_whatever_the_start(tmp_path):
    source = make_video(tmp_path / "x.mpg", codec="mpeg2video", options={"flags": "+ildct+ilme"})
    assert probe(source).field_order
    whole = list(read_frames(source, deinterlace=True))
    plain = list(read_frames(source))
    assert [time for _, time in whole] == [time for _, time in plain]
    assert any(np.abs(a - b).max() > 0.005 for (a, _), (b, _) in zip(whole, plain, strict=True))
    for (pixels, time), (expected, when) in zip(
        read_frames(source, 7, deinterlace=True), whole[7:], strict=True
    ):
        assert time == when
        assert np.array_equal(pixels, expected)
