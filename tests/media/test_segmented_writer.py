"""Written videos: times, tags and values, and how an interrupted run resumes."""

import itertools
import os
import runpy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media import segmented_writer
from comfyui_colorist.media.errors import VideoError
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.media.video_reader import probe, read_frames
from comfyui_colorist.media.yuv import FULL

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
make_video = helpers.make_video
copy_video = helpers.copy_video
decoded = helpers.decoded
is_close = helpers.is_close
luma = helpers.luma
other_packets = helpers.other_packets
color_tags = helpers.color_tags
file_names = helpers.file_names
write_four_frames = helpers.write_four_frames


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("y.mkv", None, "yuv420p"),
        ("y.mp4", None, "yuv420p"),
        ("y.mov", None, "yuv420p"),
        ("y.m4v", None, "yuv420p"),
        ("y.webm", None, "yuv420p"),
        ("y.mp4", "h265", "yuv420p"),
        ("y.mkv", "h265", "yuv420p"),
        ("y.mkv", "vp9", "yuv420p"),
        ("y.mov", "prores", "yuv422p10le"),
        ("y.mkv", "ffv1", "yuv444p"),
    ],
)
def test_times_tags_and_lightness_in_every_container(tmp_path, name, codec, pixel_format):
    source = make_video(tmp_path / "x.mp4", tags=(1, 5, 5, 6), sound="aac")
    result = copy_video(source, tmp_path / name, codec=codec)
    planes, times = decoded(result)
    shift = times[0]  # Matroska cannot begin before 0, where the sound does
    assert shift == 0 or (result.suffix == ".mkv" and shift == Fraction(21, 1000))
    exact = 0 if result.suffix in (".mp4", ".mov", ".m4v") else Fraction(1, 1000)
    for number, time in enumerate(times):
        assert abs(time - shift - Fraction(number, 24)) <= exact
    assert color_tags(result) == (1, 5, 5, 6, pixel_format)
    assert probe(result).frame_rate == 24
    for plane, original in zip(planes, decoded(source)[0], strict=True):
        if codec == "ffv1":
            assert np.array_equal(plane, original)
        assert is_close(plane / (4 if pixel_format.endswith("10le") else 1), original)
    if result.suffix != ".webm":
        assert other_packets(result)[0] == other_packets(source)[0]
        apart = other_packets(result)[1][0] - shift - other_packets(source)[1][0]
        assert abs(apart) < Fraction(1, 1000)
    with av.open(str(result)) as container:
        assert [stream.type for stream in container.streams][1:] == ["audio"]
        if codec == "h265" and name == "y.mp4":
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("name", ["y.mkv", "y.mov"])
def test_varying_times_ten_bits_and_pcm(tmp_path, name):
    times = [500, 540, 541, 590, 700, 1500, 1501, 1502, 1503, 1600, 2500, 3000]
    source = make_video(
        tmp_path / "x.mkv",
        kind="yuv420p10le",
        time_base=Fraction(1, 1000),
        times=times,
        tags=(1, 1, 1, 1),
        sound="pcm_s16le",
    )
    result = copy_video(source, tmp_path / name, codec="h265", quality=6)
    planes, seconds = decoded(result)
    assert [time * 1000 for time in seconds] == times
    assert color_tags(result) == (1, 1, 1, 1, "yuv420p10le")
    for plane, original in zip(planes, decoded(source)[0], strict=True):
        assert is_close(plane / 4, original / 4)
    assert other_packets(result)[0] == other_packets(source)[0]
    for time, before in zip(other_packets(result)[1], other_packets(source)[1], strict=True):
        assert abs(time - before) < Fraction(1, 1000)


def test_late_start_is_moved_to_0(tmp_path):
    source = make_video(
        tmp_path / "x.ts",
        codec="mpeg2video",
        time_base=Fraction(1, 24),
        times=list(range(2400, 2412)),
        options={"bf": "2"},
    )
    begin = decoded(source)[1][0]
    assert begin > 99
    for name in ("y.mkv", "y.mp4"):
        times = decoded(copy_video(source, tmp_path / name))[1]
        assert times[0] == 0
        for number, time in enumerate(times):
            assert abs(time - Fraction(number, 24)) < Fraction(1, 1000)


def test_odd_sizes_and_pixel_aspect(tmp_path, caplog):
    source = make_video(tmp_path / "x.mkv", kind="yuv444p", size=(63, 47), aspect=Fraction(8, 9))
    for name, codec, size in (
        ("y.mkv", None, (64, 48)),
        ("y.mp4", "h265", (64, 48)),
        ("z.mp4", "vp9", (63, 47)),
        ("y.mov", "prores", (63, 47)),
    ):
        caplog.clear()
        result = copy_video(source, tmp_path / name, codec=codec)
        assert ("63x47 is written as 64x48" in caplog.text) == (size != (63, 47))
        with av.open(str(result)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == size
            assert stream.sample_aspect_ratio == Fraction(8, 9)
        for plane, original in zip(decoded(result)[0], decoded(source)[0], strict=True):
            plane = plane / (4 if codec == "prores" else 1)
            assert is_close(plane[:47, :63], original)
            assert np.abs(plane[47:, :63] - original[-1:]).max(initial=0) < 12


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [("y.mov", "prores", "yuva444p12le"), ("y.webm", "vp9", "yuva420p")]
    + [("y.mkv", "ffv1", "yuva444p"), ("z.mkv", "vp9", "yuva420p")],
)
def test_alpha_is_kept(tmp_path, name, codec, kind):
    alpha = luma(3)  # differs from pixel to pixel
    source = make_video(tmp_path / "x.mkv", codec="ffv1", kind="yuva444p", frames=7)
    with SegmentedVideoWriter(
        source, tmp_path / name, probe(source), settings={}, codec=codec
    ) as writer:
        assert writer.keeps_alpha
        frames = read_frames(source, alpha=True)
        shown = (np.dstack([p[..., :3], alpha / np.float32(255)]) for p, _ in frames)
        timed = zip(shown, range(0, 294, 42), strict=True)
        while writer.write(itertools.islice(timed, 3)):
            pass
        writer.join()
    result = list(read_frames(tmp_path / name, alpha=True))
    assert len(result) == 7
    for number, (pixels, _) in enumerate(result):
        assert is_close(255 * pixels[..., 3], alpha)
        assert is_close(16 + 219 * pixels[..., 0], luma(number))


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [("y.mp4", None, True), ("y.mkv", None, True), ("y.mov", "prores", True)]
    + [("z.mkv", "ffv1", True), ("z.mp4", "h265", False), ("y.webm", None, False)],
)
@pytest.mark.parametrize("order", ["tff", "bff"])
def test_field_order_is_kept(tmp_path, name, codec, kept, order):
    source = make_video(tmp_path / "x.mkv", codec="ffv1", frames=4)
    info = replace(probe(source), field_order=order)
    with SegmentedVideoWriter(source, tmp_path / name, info, settings={}, codec=codec) as writer:
        assert writer.keeps_fields == kept
        writer.write(read_frames(source))
        writer.join()
    # FFV1 has no place for the order in a frame; Matroska says no more than that it is interlaced.
    found = probe(tmp_path / name).field_order
    assert (found is not None) == kept if codec == "ffv1" else found == (order if kept else None)
    for plane, original in zip(decoded(tmp_path / name)[0], decoded(source)[0], strict=True):
        assert is_close(plane / (4 if codec == "prores" else 1), original)


def test_wide_gamut_is_written_as_bt709(tmp_path):
    """Gray is the same in both; sRGB colors tagged as BT.2020 would be too saturated."""
    source = make_video(tmp_path / "x.mkv", kind="yuv420p10le", tags=(1, 9, 9, 14))
    result = copy_video(source, tmp_path / "y.mp4")
    assert color_tags(result) == (1, 1, 1, 1, "yuv420p")
    for plane, original in zip(decoded(result)[0], decoded(source)[0], strict=True):
        assert is_close(plane, original / 4)


def test_full_range_is_kept_except_in_prores(tmp_path):
    source = make_video(tmp_path / "x.mkv", codec="ffv1", tags=(2, 1, 1, 1))
    assert color_tags(copy_video(source, tmp_path / "y.mkv", codec="ffv1"))[0] == FULL
    assert np.array_equal(decoded(tmp_path / "y.mkv")[0], decoded(source)[0])
    result = copy_video(source, tmp_path / "y.mov", codec="prores")
    for (pixels, _), (original, _) in zip(read_frames(result), read_frames(source), strict=True):
        assert np.abs(pixels - original).max() < 1.1 / 255


# --- Resuming ------------------------------------------------------------------------------------


def test_interrupted_run_resumes(tmp_path):
    source = make_video(tmp_path / "x.mkv", frames=23, sound="aac")
    whole = copy_video(source, tmp_path / "whole.mkv", size=5)
    out = tmp_path / "y.mkv"

    def stopped(frames, at):
        for number, frame in enumerate(frames):
            if number == at:
                raise KeyboardInterrupt
            yield frame

    done = 0
    for at in (13, 7, 99):
        with SegmentedVideoWriter(source, out, probe(source), settings={"a": 1}) as writer:
            assert writer.done == done
            assert writer.state == (b"%d" % done if done else b"")
            frames = stopped(read_frames(source, writer.done), at)
            try:
                while writer.write(itertools.islice(frames, 5), lambda: b"%d" % (writer.done + 5)):
                    assert not out.exists()
                writer.join()
            except KeyboardInterrupt:
                assert "unfinished.mkv" not in file_names(writer.folder)
            done = writer.done
        assert out.exists() == (at == 99)
        assert done == {13: 10, 7: 15, 99: 23}[at]
    assert file_names(tmp_path) == ["whole.mkv", "x.mkv", "y.mkv"]
    for actual, expected in zip(decoded(out), decoded(whole), strict=True):
        assert np.array_equal(actual, expected)
    assert other_packets(out) == other_packets(whole)


@pytest.mark.parametrize("what", ["settings", "source", "encoder", "version"])
def test_changed_settings_start_over(tmp_path, monkeypatch, caplog, what):
    source, out = make_video(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    assert write_four_frames(source, out, {"model": "a", "size": (1, 2)}).done == 4
    assert write_four_frames(source, out, {"size": [1, 2], "model": "a"}).done == 8
    assert not caplog.records
    options = {"quality": 20} if what == "encoder" else {}
    if what == "source":
        os.utime(source, (1, 1))
    elif what == "version":
        monkeypatch.setattr(segmented_writer, "__version__", "0.0")
    settings = {"model": "b" if what == "settings" else "a", "size": [1, 2]}
    with SegmentedVideoWriter(source, out, probe(source), settings=settings, **options) as writer:
        assert writer.done == 0
        assert writer.state == b""
        assert file_names(writer.folder) == ["lock", "manifest.json"]
    assert f"y.mkv: started over, because this was changed: {what}." in caplog.text


def test_only_one_run_at_a_time(tmp_path):
    source, out = make_video(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    info = probe(source)
    with SegmentedVideoWriter(source, out, info, settings={}):
        message = ".colorist-y.mkv.parts: in use by another run; wait for it, or stop it."
        with pytest.raises(VideoError, match=message):
            SegmentedVideoWriter(source, out, info, settings={})
        SegmentedVideoWriter(source, tmp_path / "z.mkv", info, settings={}).close()
    SegmentedVideoWriter(source, out, info, settings={}).close()
    assert file_names(tmp_path) == ["x.mkv"]  # nothing was finished


def test_old_result_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    source, out = make_video(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    out.write_bytes(b"old")
    write_four_frames(source, out, {})
    assert out.read_bytes() == b"old"

    def fail(*_):
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        SegmentedVideoWriter(source, out, probe(source), settings={}) as writer,
    ):
        patch.setattr(segmented_writer, "passthrough_packets", fail)
        with pytest.raises(VideoError, match=r"y.mkv: cannot be written as h264 \(No space left"):
            writer.join()
        assert writer.done == 4
    assert out.read_bytes() == b"old"
    assert not [name for name in file_names(writer.folder) if name.startswith("joined")]
    copy_video(source, out, size=4)
    assert len(decoded(out)[0]) == 12
    assert file_names(tmp_path) == ["x.mkv", "y.mkv"]


def test_full_disk_keeps_finished_segments(tmp_path):
    resource = pytest.importorskip("resource")
    source, out = make_video(tmp_path / "x.mkv", frames=8), tmp_path / "y.mkv"
    writer = write_four_frames(source, out, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        message = (
            r"y.mkv: cannot be written as h264 \(File too large\); 4 finished frames are kept in"
        )
        with pytest.raises(VideoError, match=message):
            write_four_frames(source, out, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file_names(writer.folder) == [
        "00000.json",
        "00000.mkv",
        "00000.state",
        "lock",
        "manifest.json",
    ]
    assert write_four_frames(source, out, {}).done == 8


def test_foreign_frames_are_refused(tmp_path):
    source = make_video(tmp_path / "x.mkv")
    frames = list(read_frames(source))
    with SegmentedVideoWriter(source, tmp_path / "y.mkv", probe(source), settings={}) as writer:
        assert writer.write([]) == 0
        with pytest.raises(VideoError, match="there are no frames to write."):
            writer.join()
        assert writer.write(frames[:3]) == 3
        for wrong, message in (
            (
                frames[2:4],
                r"frame 3 is \(48, 64, 3\) at 83 after 83; expected .* at a later",
            ),
            (
                [(frames[3][0][1:], 125)],
                r"frame 3 is \(47, 64, 3\) at 125 after 83; expected",
            ),
        ):
            with pytest.raises(VideoError, match=message):
                writer.write(wrong)
        assert writer.done == 3
    short = replace(probe(source), width=2, height=2)
    with (
        SegmentedVideoWriter(
            source, tmp_path / "z.mp4", short, settings={}, codec="h265"
        ) as writer,
        pytest.raises(VideoError, match="z.mp4: cannot be written as h265"),
    ):
        writer.write([(np.zeros((2, 2, 3), np.float32), 0)])


def test_links_do_not_lead_to_other_files(tmp_path):
    """Neither a work folder that is a link, nor links in it, empty or remove files elsewhere."""
    source, out = make_video(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    other, work = tmp_path / "other", tmp_path / ".colorist-y.mkv.parts"
    other.mkdir()
    for name in ("lock", "unfinished.mkv", "joined.mkv", "photo"):
        (other / name).write_bytes(b"precious")
    work.symlink_to(other)
    with pytest.raises(FileExistsError, match="parts: a link or file in place of our work folder"):
        copy_video(source, out, size=4)
    work.unlink()
    work.mkdir()
    for name in ("lock", "unfinished.mkv", "joined.mkv"):
        (work / name).symlink_to(other / name)
    copy_video(source, out, size=4)
    assert len(decoded(out)[0]) == 12
    assert {path.read_bytes() for path in other.iterdir()} == {b"precious"}
    assert len(list(other.iterdir())) == 4
