"""Sound, subtitles, attachments, chapters and metadata that the result keeps."""

import re
import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

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
        assert [stream.type for stream in container.streams] == ["video"]
    assert len(decoded(result)[0]) == 12
    assert (
        "y.webm: audio stream 1 (pcm_s16le, deu) is left out; write .mkv to keep it." in caplog.text
    )
    assert re.search(r"subtitle stream 2 \((srt|subrip), fra\) is left out; write", caplog.text)


@pytest.mark.parametrize(("timecode", "kept"), [("01:00:00:05", True), ("01:00:00;05", False)])
def test_timecode_is_kept_unless_it_is_wrong(tmp_path, timecode, kept):
    def prepare(container, stream):
        container.metadata["title"] = stream.metadata["timecode"] = timecode

    source = make_video(tmp_path / "x.mkv", prepare=prepare)
    with av.open(str(copy_video(source, tmp_path / "y.mov"))) as container:
        assert container.metadata["title"] == timecode
        timecodes = [stream.metadata.get("timecode") for stream in container.streams]
        assert timecodes == ([timecode] * 2 if kept else [None])
