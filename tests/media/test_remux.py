"""Sound, subtitles, attachments, chapters and metadata that the result keeps."""

import io
import re
import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
make_video = helpers.make_video
copy_video = helpers.copy_video
decoded = helpers.decoded
other_packets = helpers.other_packets
with_extras = helpers.with_extras


@pytest.mark.parametrize("name", ["y.mp4", "y.mov", "y.mkv"])
def test_sound_stays_where_it_was(tmp_path, name):
    """A transport stream, which starts at any time; frames 1/24 s behind the sound."""
    source = make_video(tmp_path / "x.ts", sound="libmp3lame", times=list(range(1, 13)))
    before = decoded(source)[1][0] - other_packets(source)[1][0]
    result = copy_video(source, tmp_path / name)
    exact = Fraction(1, 1000 if name == "y.mkv" else 20000)
    assert abs(decoded(result)[1][0] - other_packets(result)[1][0] - before) <= exact
    assert other_packets(result)[0] == other_packets(source)[0]


def test_damaged_sound_does_not_stop_a_video(tmp_path, caplog):
    source = make_video(tmp_path / "x.ts", sound="aac")
    data = bytearray(source.read_bytes())
    for place in [match.start() for match in re.finditer(b"\xff\xf1", data)][5:12:2]:
        data[place + 2 : place + 5] = b"\xff\xff\xff"
    source.write_bytes(data)
    result = copy_video(source, tmp_path / "y.mp4")
    assert len(decoded(result)[0]) == 12
    assert len(other_packets(result)[0]) > 5
    message = "y.mp4: damaged audio is left out (Invalid data found when processing input)."
    assert caplog.text.count(message) == 1


def test_subtitles_fonts_chapters_and_names_are_copied(tmp_path, caplog):
    source = with_extras(tmp_path / "x.mkv")
    result = copy_video(source, tmp_path / "y.mkv")
    assert other_packets(result, "subtitle") == other_packets(source, "subtitle")
    assert other_packets(result, "subtitle")[0] == [b"Hello"]
    with av.open(str(result)) as container:
        assert container.metadata["title"] == "Ein Film"
        assert container.metadata["ENCODER"].startswith("Lavf")
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "One"}]
        video, sound, text, font = container.streams
        assert video.metadata["title"] == "Picture"
        assert sound.metadata["language"] == "deu"
        assert text.metadata["language"] == "fra"
        assert text.disposition & av.stream.Disposition.forced
        assert (font.type, font.metadata["filename"]) == ("attachment", "a.ttf")
    assert not caplog.records


def test_what_a_container_cannot_hold_is_left_out_and_named(tmp_path, caplog):
    source = with_extras(tmp_path / "x.mkv")
    result = copy_video(source, tmp_path / "y.webm")
    with av.open(str(result)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    assert len(decoded(result)[0]) == 12
    assert re.search(r"subtitle stream 2 \((srt|subrip), fra\) is left out; write", caplog.text)


@pytest.mark.parametrize(
    ("name", "sound", "codec"),
    [
        ("y.mp4", "pcm_s16le", "AAC"),
        ("y.m4v", "mp2", "AAC"),
        ("y.webm", "pcm_s16le", "Opus"),
    ],
)
def test_sound_that_would_not_play_is_encoded_again(tmp_path, caplog, name, sound, codec):
    source = make_video(tmp_path / "x.mkv", frames=24, sound=sound)
    result = copy_video(source, tmp_path / name)
    message = f"{name}: sound stream 1 ({sound}) is encoded as {codec}, which plays in {name[1:]}"
    assert message in caplog.text
    with av.open(str(result)) as container:
        stream = container.streams.audio[0]
        assert stream.name in (codec.lower(), f"lib{codec.lower()}")
        assert stream.metadata["language"] == "deu"
        assert stream.layout.name == "mono"
        resampler = av.AudioResampler("flt", "mono", 48000)
        pieces = [
            (round(float(frame.time) * 48000), piece.to_ndarray()[0])
            for frame in container.decode(audio=0)
            for piece in resampler.resample(frame)
        ]
    start = pieces[0][0]
    heard = np.concatenate([samples for _, samples in pieces])
    tone = 10000 / 32768 * np.sin(2 * np.pi * 440 * (start + np.arange(len(heard))) / 48000)
    middle = slice(12000, 36000)
    assert np.abs(heard[middle] - tone[middle]).mean() < 0.02  # a shift by 1 ms would give 0.2
    assert abs(len(heard) - 48000) < 4000


@pytest.mark.parametrize(("timecode", "kept"), [("01:00:00:05", True), ("01:00:00;05", False)])
def test_timecode_is_kept_unless_it_is_wrong(tmp_path, timecode, kept):
    def prepare(container, stream):
        container.metadata["title"] = stream.metadata["timecode"] = timecode

    source = make_video(tmp_path / "x.mkv", prepare=prepare)
    with av.open(str(copy_video(source, tmp_path / "y.mov"))) as container:
        assert container.metadata["title"] == timecode
        timecodes = [stream.metadata.get("timecode") for stream in container.streams]
        assert timecodes == ([timecode] * 2 if kept else [None])


def with_cover(path, form: str = "JPEG"):
    """Write a video with two sound tracks, a cover image and a timecode."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(file, form)
    codec = "mjpeg" if form == "JPEG" else "png"

    def prepare(container, stream):
        cover = container.add_stream(codec, rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p" if form == "JPEG" else "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        second = container.add_stream("aac", rate=48000)
        second.layout, second.metadata["language"] = "mono", "fra"
        container.metadata["timecode"] = "01:00:00:05"
        container.start_encoding()
        packet = av.Packet(file.getvalue())
        packet.stream, packet.time_base = cover, Fraction(1, 1000)
        packet.pts = packet.dts = 0
        container.mux(packet)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 48000, 0
        for packet in [*second.encode(silence), *second.encode(None)]:
            container.mux(packet)

    return make_video(path, prepare=prepare), file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("name", ["y.mp4", "y.mkv", "y.m4v"])
def test_cover_images_and_tracks_are_kept(tmp_path, caplog, name, form):
    source, cover = with_cover(tmp_path / "x.mp4", form)
    result = copy_video(source, tmp_path / name)
    with av.open(str(result)) as container:
        covers = [s for s in container.streams.video if s.disposition & 1024]
        assert covers and [bytes(p) for p in container.demux(covers) if p.size] == [cover]
        assert [s.metadata.get("language") for s in container.streams.audio] == ["fra"]
        timecodes = [s.metadata["timecode"] for s in container.streams if s.type == "data"]
        tags = {key.lower(): value for key, value in container.metadata.items()}
        if name == "y.mkv":
            tags |= {k.lower(): v for k, v in container.streams.video[0].metadata.items()}
            timecodes.append(tags["timecode"])
        assert timecodes == ["01:00:00:05"]
    assert len(decoded(result)[0]) == 12
    assert not caplog.records
    again = copy_video(result, tmp_path / "again.mkv")
    with av.open(str(again)) as container:
        covers = [s for s in container.streams.video if s.disposition & 1024]
        assert [bytes(p) for p in container.demux(covers) if p.size] == [cover]


def test_a_cover_that_is_left_out_is_named(tmp_path, caplog):
    source, _ = with_cover(tmp_path / "x.mp4")
    copy_video(source, tmp_path / "y.mov")
    assert re.search(
        r"y.mov: cover image \d \(mjpeg\) is left out; write .mp4 or .mkv", caplog.text
    )
