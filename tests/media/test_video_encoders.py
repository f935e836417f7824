"""Choice of codec, quality and pixel format, and what is refused."""

import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from comfyui_colorist.media import video_encoders
from comfyui_colorist.media.errors import VideoError
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.media.video_reader import probe

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
make_video = helpers.make_video
copy_video = helpers.copy_video
color_tags = helpers.color_tags
file_names = helpers.file_names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("y.avi", {}, "y.avi: videos are written as .mkv, .mp4, .m4v, .mov, .webm."),
        ("y.webm", {"codec": "h264"}, "y.webm: .webm cannot hold h264. Available for it: vp9."),
        ("y.mp4", {"codec": "xvid"}, "y.mp4: .mp4 cannot hold xvid. Available for it: h264, h265"),
        ("y.mp4", {"quality": 52}, r"quality 52 for h264: expected 0 \(best\) to 51."),
        (
            "y.mov",
            {"codec": "prores", "quality": 1},
            "quality 1 for prores: it has no quality setting",
        ),
        ("x.mkv", {}, "x.mkv is the source itself; originals are never overwritten."),
    ],
)
def test_refusals(tmp_path, name, options, message):
    source = make_video(tmp_path / "x.mkv", frames=2)
    with pytest.raises(VideoError, match=message):
        SegmentedVideoWriter(source, tmp_path / name, probe(source), settings={}, **options)
    assert file_names(tmp_path) == ["x.mkv"]


def test_missing_encoder(tmp_path, monkeypatch):
    source = make_video(tmp_path / "x.mkv", frames=2)
    monkeypatch.setitem(
        video_encoders.CODECS, "h264", video_encoders.Codec("libnothing", (16, 51), {})
    )
    with pytest.raises(
        VideoError, match="y.mov: this PyAV cannot write h264. Available for it: h265"
    ):
        SegmentedVideoWriter(source, tmp_path / "y.mov", probe(source), settings={})


def test_eight_bits_if_the_encoder_has_no_more(tmp_path, caplog):
    source = make_video(tmp_path / "x.mkv", kind="yuv420p10le", aspect=Fraction(2))
    formats = [f.name for f in av.Codec("libvpx-vp9", "w").video_formats]
    result = copy_video(source, tmp_path / "y.webm")
    assert color_tags(result)[-1] in formats
    if "yuv420p10le" not in formats:
        assert "y.webm: this PyAV writes vp9 with 8 bits only." in caplog.text
    assert "y.webm: vp9 in .webm cannot say that pixels are not square; write" in caplog.text


@pytest.mark.parametrize(
    ("codec", "kind", "pixel_format"),
    [
        (None, "yuv422p10le", "yuv420p"),
        ("h264", "yuv420p10le", "yuv420p"),
        ("h265", "yuv422p10le", "yuv420p10le"),
        ("ffv1", "yuv422p10le", "yuv444p10le"),
    ],
)
def test_h264_is_what_every_player_shows(tmp_path, caplog, codec, kind, pixel_format):
    source = make_video(tmp_path / "x.mkv", kind=kind, frames=2)
    with caplog.at_level("INFO"):
        result = copy_video(source, tmp_path / "y.mkv", codec=codec)
    assert color_tags(result)[-1] == pixel_format
    note = "y.mkv: written with 8 bits and 4:2:0, which every player shows; the source has 10 bits"
    assert (note in caplog.text) == (codec in (None, "h264"))
