"""Image sequences named by a pattern, and DPX."""

import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media.errors import VideoError
from comfyui_colorist.media.video_reader import probe, read_frames
from comfyui_colorist.media.video_sequence import DPX_TRANSFER, is_pattern, list_frames
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
copy_video = helpers.copy_video
color_tags = helpers.color_tags
decoded = helpers.decoded
luma = helpers.luma
WIDTH, HEIGHT = helpers.WIDTH, helpers.HEIGHT


def write_dpx(path: Path, values: np.ndarray, kind: str = "gbrp10be") -> Path:
    """Write gray values of 8 bits with FFmpeg."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("dpx", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, kind
        rgb = np.repeat(values[..., None], 3, axis=2)
        frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=kind)
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


@pytest.mark.parametrize(("kind", "depth"), [("gbrp10be", 10), ("rgb24", 8), ("gray", 8)])
def test_dpx(tmp_path, caplog, kind, depth):
    for number in range(3):
        write_dpx(tmp_path / f"scan{number + 98:05}.dpx", luma(number), kind)
    for source in (tmp_path, tmp_path / "scan%05d.dpx"):
        info = probe(source, frame_rate=Fraction(18))
        assert (info.width, info.height, info.frame_count) == (WIDTH, HEIGHT, 3)
        assert (info.bit_depth, info.frame_rate) == (depth, 18)
        frames = list(read_frames(source))
        assert len(frames) == 3
        for number, (pixels, time) in enumerate(frames):
            assert time == number
            assert np.abs(pixels * 255 - luma(number)[..., None]).max() < 1.1
    assert not caplog.records
    result = copy_video(tmp_path / "scan%05d.dpx", tmp_path / "y.mp4", quality=4)
    assert len(decoded(result)[0]) == 3


@pytest.mark.parametrize(("transfer", "word"), [(1, "logarithmic (printing"), (2, "linear")])
def test_dpx_with_other_transfers_is_named(tmp_path, caplog, transfer, word):
    path = write_dpx(tmp_path / "scan1.dpx", luma(0))
    data = bytearray(path.read_bytes())
    data[DPX_TRANSFER] = transfer
    path.write_bytes(data)
    probe(tmp_path / "scan%d.dpx")
    assert f"scan%d.dpx: {word}" in caplog.text


def test_damaged_dpx_names_the_file(tmp_path):
    path = write_dpx(tmp_path / "scan1.dpx", luma(0))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(VideoError, match="scan1.dpx: not a video, or damaged"):
        probe(tmp_path)


def test_patterns(tmp_path, caplog):
    for number in (8, 9, 10, 12):
        Image.fromarray(luma(number)).save(tmp_path / f"f{number:04}.png")
    Image.fromarray(luma(1)).save(tmp_path / "f1.png")
    Image.fromarray(luma(1)).save(tmp_path / "f0001.jpg")
    pattern = tmp_path / "f%04d.png"
    assert is_pattern(pattern)
    assert [path.name for path in list_frames(pattern)] == [
        "f0008.png",
        "f0009.png",
        "f0010.png",
        "f0012.png",
    ]
    assert probe(pattern).frame_count == 4
    assert "f%04d.png: frames are missing (1, the first is number 11); the others" in caplog.text
    assert [path.name for path in list_frames(tmp_path / "f%d.png")][0] == "f1.png"
    with pytest.raises(VideoError, match="g%d.png: no file has a name of this form."):
        probe(tmp_path / "g%d.png")
    (tmp_path / "100%d.txt").touch()
    assert not is_pattern(tmp_path / "100%d.txt")
    assert not is_pattern(tmp_path / "a%db%d.png")
