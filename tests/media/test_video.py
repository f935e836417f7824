"""Films: what is read, what the result keeps, how a stopped run goes on, what is refused."""

import gc
import itertools
import os
import re
import tracemalloc
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from comfyui_colorist.media import (
    image_data,
    image_io,
    segmented_writer,
    video_info,
    video_reader,
    yuv,
)
from comfyui_colorist.media.segmented_writer import Parts
from comfyui_colorist.media.video_info import FilmError
from PIL import Image

WIDTH, HEIGHT = 64, 48
TIMES = [500 * number for number in range(12)]


def luma(number: int, width: int = WIDTH, height: int = HEIGHT, bits: int = 8) -> np.ndarray:
    """A soft pattern that moves, within the limited range."""
    y, x = np.mgrid[:height, :width] / 16
    wave = 0.5 + 0.5 * np.sin(x + number / 3) * np.cos(y - number / 5)
    return np.rint((20 + 200 * wave) * 2 ** (bits - 8)).astype(np.uint8 if bits == 8 else np.uint16)


def film(
    path,
    *,
    frames: int = 12,
    codec: str = "libx264",
    kind: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: Fraction = Fraction(24),
    time_base: Fraction | None = None,
    times: list[int] | None = None,
    tags: tuple[int, int, int, int] = (0, 2, 2, 2),
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    sound: str | None = None,
    values: tuple | None = None,
    prepare=lambda container, stream: None,
):
    """By PyAV alone, so that our reader is not tested with our writer.

    tags: range, matrix, primaries, transfer; values: of the planes, instead of `luma` and grey.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        (stream.width, stream.height), stream.pix_fmt = size, kind
        context = stream.codec_context
        context.time_base = time_base or 1 / rate
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        context.sample_aspect_ratio = aspect or Fraction(0)
        prepare(container, stream)
        packets = []
        if sound:
            voice = container.add_stream(sound, rate=48000)
            voice.layout, voice.metadata["language"] = "mono", "deu"
            seconds = np.arange(int(48000 * frames / rate)) / 48000
            tone = (10000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts = 48000, 0
            resampler = av.AudioResampler(voice.format.name, "mono", 48000, 1024)
            for piece in [*resampler.resample(heard), *resampler.resample(None), None]:
                packets += voice.encode(piece)
        for number in range(frames):
            frame = av.VideoFrame(*size, kind)
            bits = frame.format.components[0].bits
            for index, plane in enumerate(frame.planes):
                rows = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
                rows[:] = np.resize(values[index], rows.shape) if values else 2 ** (bits - 1)
                if index == 0 and not values:
                    rows = rows.reshape(plane.height, -1)[:, : plane.width]
                    rows[:] = luma(number, *size, bits)
            frame.pts, frame.time_base = times[number] if times else number, context.time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def grey(number: int, bits: int = 8, **size: int) -> np.ndarray:
    """What is to be read of `luma`: (H, W) in 0..1."""
    values = luma(number, bits=bits, **size).astype(float)
    return (values / 2 ** (bits - 8) - 16) / 219


def color(source, out, *, size: int = 5, **options):
    """A run from beginning to end that leaves the pixels as they are."""
    with Parts(source, out, video_reader.probe(source), settings={}, **options) as parts:
        frames = video_reader.read(source, parts.done)
        while parts.write(itertools.islice(frames, size)):
            pass
        parts.join()
    return out


def decoded(path) -> tuple[list[np.ndarray], list[Fraction]]:
    """First planes, and times in seconds."""
    planes, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            rows = np.frombuffer(frame.planes[0], dtype).reshape(frame.height, -1)
            planes.append(rows[:, : frame.width].copy())
            times.append(frame.pts * frame.time_base)
    return planes, times


def alike(found: np.ndarray, expected: np.ndarray) -> bool:
    """Levels of 8 bits through a lossy codec: small errors, and no lighter or darker."""
    away = found.astype(float) - expected
    return np.abs(away).mean() < 1.5 and np.abs(away).max() < 12 and abs(away.mean()) < 0.3


def copied(path, kind: str = "audio") -> tuple[list[bytes], list[Fraction]]:
    """Packets of the other streams, and their times in seconds."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux() if p.stream.type == kind and p.size]
        return [bytes(p) for p in packets], [p.pts * p.time_base for p in packets]


def tags(path) -> tuple:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        names = ("color_range", "colorspace", "color_primaries", "color_trc", "pix_fmt")
        return tuple(getattr(context, name) for name in names)


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Reading -----------------------------------------------------------------------------------


def test_probe(tmp_path):
    path = film(
        tmp_path / "x.mkv",
        kind="yuv420p10le",
        rate=Fraction(24000, 1001),
        tags=(1, 9, 9, 16),
        aspect=Fraction(4, 3),
    )
    assert video_reader.probe(path) == video_info.Film(
        width=WIDTH,
        height=HEIGHT,
        rate=Fraction(24000, 1001),
        time_base=Fraction(1, 1000),
        bits=10,
        frames=12,
        seconds=pytest.approx(0.5, abs=0.01),
        color=(9, 9, 16),
        full=False,
        aspect=Fraction(4, 3),
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1280, 544), (1, 1, 1)),
        ((960, 720), (1, 1, 1)),
        ((720, 576), (5, 5, 6)),
        ((720, 480), (6, 6, 6)),
    ],
)
def test_usual_colors(tmp_path, size, expected):
    path = film(tmp_path / "x.mkv", frames=1, size=size, options={"preset": "ultrafast"})
    assert video_reader.probe(path).color == expected


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("yuv420p", 8), ("yuv411p", 8), ("yuv444p10le", 10), ("yuv422p12le", 12), ("yuv420p16le", 16)],
)
def test_grey_values_are_exact(tmp_path, kind, bits):
    path = film(tmp_path / "x.mkv", frames=3, codec="ffv1", kind=kind)
    for number, (pixels, _) in enumerate(video_reader.read(path)):
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert pixels.dtype == np.float32
        assert np.ptp(pixels, axis=2).max() == 0
        assert np.abs(pixels[..., 0] - grey(number, bits)).max() < 1e-6
    assert number == 2


@pytest.mark.parametrize(("kind", "bits"), [("gray", 8), ("gray10le", 10), ("gray16le", 16)])
def test_grey_formats_are_full_range_unless_they_say_otherwise(tmp_path, kind, bits):
    path = film(tmp_path / "x.mkv", frames=1, codec="ffv1", kind=kind)
    pixels, _ = next(video_reader.read(path))
    expected = luma(0, bits=bits) / (2**bits - 1)
    assert np.abs(pixels - expected[..., None]).max() < 1e-6
    limited = film(tmp_path / "y.mkv", frames=1, codec="ffv1", kind="gray", tags=(1, 1, 1, 1))
    assert np.abs(next(video_reader.read(limited))[0][..., 0] - grey(0)).max() < 1e-6


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
    path = film(
        *(tmp_path / "x.mkv",),
        frames=1,
        codec=codec,
        kind=kind,
        tags=tags,
        values=values,
        options=options,
    )
    assert np.abs(next(video_reader.read(path))[0] - expected).max() < 0.01


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path, degrees, mirrored):
    source = film(
        tmp_path / "x.mp4",
        frames=2,
        aspect=Fraction(4, 3),
        prepare=lambda _, stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    expected = np.rot90(decoded(source)[0][0], degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    expected = (expected.astype(float) - 16) / 219
    assert np.abs(next(video_reader.read(source))[0][..., 0] - expected).max() < 1e-6
    result = color(source, tmp_path / "y.mkv")
    assert alike(decoded(result)[0][0], expected * 219 + 16)
    with av.open(str(result)) as container:
        assert next(container.decode(video=0)).rotation == 0
        shape = Fraction(4, 3) if degrees == 180 else Fraction(3, 4)
        assert container.streams.video[0].sample_aspect_ratio == shape


def test_start_is_as_skipping(tmp_path):
    path = film(tmp_path / "x.mkv", frames=20, options={"g": "7"})
    all_frames = list(video_reader.read(path))
    assert len(all_frames) == 20
    for start in (0, 1, 9, 19, 20, 30):
        found = list(video_reader.read(path, start))
        assert len(found) == max(0, 20 - start)
        for (pixels, time), (expected, when) in zip(found, all_frames[start:], strict=True):
            assert time == when
            assert np.array_equal(pixels, expected)


def test_reading_holds_few_frames(tmp_path):
    """Without Python's search for cycles: it is rare, and frames of film are large."""
    path = film(tmp_path / "x.mkv", frames=300, options={"preset": "ultrafast"})
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        number = sum(1 for _ in video_reader.read(path))
        _, peak = tracemalloc.get_traced_memory()
        held = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        tracemalloc.stop()
        gc.enable()
    assert number == 300
    assert peak < 20 * HEIGHT * WIDTH * 3 * 4
    assert held < 10


def test_interlaced_films_are_named(tmp_path, caplog):
    path = film(tmp_path / "x.mpg", codec="mpeg2video", options={"flags": "+ildct+ilme"})
    assert len(list(video_reader.read(path))) == 12
    assert "x.mpg: interlaced; coloured and written as if it were not." in caplog.text


# --- Damage ------------------------------------------------------------------------------------


def test_a_film_cut_short_gives_what_there_is(tmp_path, caplog):
    path = film(tmp_path / "x.mkv", rate=Fraction(4), sound="aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = len(list(video_reader.read(path)))
    assert 2 < count < 10
    assert (
        f"x.mkv: its {count} frames end after {count / 4:.1f} s of 3.0; the file may" in caplog.text
    )
    assert len(decoded(color(path, tmp_path / "y.mkv"))[0]) == count


def test_damage_in_the_middle_is_stepped_over(tmp_path, caplog):
    path = film(tmp_path / "x.mp4", codec="mpeg4", time_base=Fraction(1, 12000), times=TIMES)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        data[packets[5].pos : packets[5].pos + packets[5].size] = bytes(packets[5].size)
    path.write_bytes(data)
    times = [time for _, time in video_reader.read(path)]
    assert times == [time for time in TIMES if time != 2500]
    assert "x.mp4: damaged near frame 5" in caplog.text
    assert [time * 12000 for time in decoded(color(path, tmp_path / "y.mp4"))[1]] == times


def test_frames_of_another_size(tmp_path):
    small = film(tmp_path / "a.ts", codec="mpeg2video").read_bytes()
    large = film(tmp_path / "b.ts", codec="mpeg2video", size=(96, 64)).read_bytes()
    (tmp_path / "x.ts").write_bytes(small + large)
    sentence = r"x.ts: frame 1\d is 96x64, the first 64x48; bring all to one size, or cut"
    with pytest.raises(FilmError, match=sentence):
        list(video_reader.read(tmp_path / "x.ts"))


def test_no_film(tmp_path):
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "text.mkv").write_text("Dear diary, today I saw a film.")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.mka"), "w", format="matroska") as container:
        voice = container.add_stream("pcm_s16le", rate=48000)
        Image.new("L", (64, 48)).save(tmp_path / "cover.png")
        container.add_attachment("cover.png", "image/png", (tmp_path / "cover.png").read_bytes())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
        silence.sample_rate = 48000
        container.mux(voice.encode(silence))
    for name, sentence in {
        "missing.mkv": "missing.mkv: no such file; expected a film or a folder of pictures.",
        "empty.mkv": r"empty.mkv: the file is empty \(0 bytes\); get it again.",
        "text.mkv": r"text.mkv: not a film, or damaged \(Invalid data found when processing",
        "list.mkv": "list.mkv: not a film, or damaged",
        "sound.mka": r"sound.mka: a film without pictures \(it holds audio, cover\).",
        "folder": r"folder: no pictures in this folder \(\.jpg, ",
    }.items():
        with pytest.raises(FilmError, match=sentence):
            video_reader.probe(tmp_path / name)
        with pytest.raises(FilmError, match=sentence):
            next(video_reader.read(tmp_path / name))


# --- What the result keeps ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "found"),
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
def test_times_tags_and_lightness_in_every_container(tmp_path, name, codec, found):
    source = film(tmp_path / "x.mp4", tags=(1, 5, 5, 6), sound="aac")
    result = color(source, tmp_path / name, codec=codec)
    planes, times = decoded(result)
    shift = times[0]  # Matroska cannot begin before 0, where the sound does
    assert shift == 0 or (result.suffix == ".mkv" and shift == Fraction(21, 1000))
    exact = 0 if result.suffix in (".mp4", ".mov", ".m4v") else Fraction(1, 1000)
    for number, time in enumerate(times):
        assert abs(time - shift - Fraction(number, 24)) <= exact
    assert tags(result) == (1, 5, 5, 6, found)
    assert video_reader.probe(result).rate == 24
    for plane, original in zip(planes, decoded(source)[0], strict=True):
        if codec == "ffv1":
            assert np.array_equal(plane, original)
        assert alike(plane / (4 if found.endswith("10le") else 1), original)
    if result.suffix != ".webm":
        assert copied(result)[0] == copied(source)[0]
        apart = copied(result)[1][0] - shift - copied(source)[1][0]
        assert abs(apart) < Fraction(1, 1000)
    with av.open(str(result)) as container:
        assert [stream.type for stream in container.streams][1:] == ["audio"] * (name != "y.webm")
        if codec == "h265" and name == "y.mp4":
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("name", ["y.mkv", "y.mp4"])
def test_varying_times_ten_bits_and_pcm(tmp_path, name):
    times = [500, 540, 541, 590, 700, 1500, 1501, 1502, 1503, 1600, 2500, 3000]
    source = film(
        tmp_path / "x.mkv",
        kind="yuv420p10le",
        time_base=Fraction(1, 1000),
        times=times,
        tags=(1, 1, 1, 1),
        sound="pcm_s16le",
    )
    result = color(source, tmp_path / name, quality=6)
    planes, found = decoded(result)
    assert [time * 1000 for time in found] == times
    assert tags(result) == (1, 1, 1, 1, "yuv420p10le")
    for plane, original in zip(planes, decoded(source)[0], strict=True):
        assert alike(plane / 4, original / 4)
    assert copied(result)[0] == copied(source)[0]
    for time, before in zip(copied(result)[1], copied(source)[1], strict=True):
        assert abs(time - before) < Fraction(1, 1000)


def test_a_film_that_begins_late_is_moved_to_0(tmp_path):
    source = film(
        tmp_path / "x.ts",
        codec="mpeg2video",
        time_base=Fraction(1, 24),
        times=list(range(2400, 2412)),
        options={"bf": "2"},
    )
    begin = decoded(source)[1][0]
    assert begin > 99
    for name in ("y.mkv", "y.mp4"):
        times = decoded(color(source, tmp_path / name))[1]
        assert times[0] == 0
        for number, time in enumerate(times):
            assert abs(time - Fraction(number, 24)) < Fraction(1, 1000)


@pytest.mark.parametrize("name", ["y.mp4", "y.mov", "y.mkv"])
def test_sound_stays_where_it_was(tmp_path, name):
    """A transport stream, which begins at any time; pictures 1/24 s behind the sound."""
    source = film(tmp_path / "x.ts", sound="libmp3lame", times=list(range(1, 13)))
    before = decoded(source)[1][0] - copied(source)[1][0]
    result = color(source, tmp_path / name)
    exact = Fraction(1, 1000 if name == "y.mkv" else 20000)
    assert abs(decoded(result)[1][0] - copied(result)[1][0] - before) <= exact
    assert copied(result)[0] == copied(source)[0]


def test_damaged_sound_does_not_stop_a_film(tmp_path, caplog):
    source = film(tmp_path / "x.ts", sound="aac")
    data = bytearray(source.read_bytes())
    for place in [found.start() for found in re.finditer(b"\xff\xf1", data)][5:12:2]:
        data[place + 2 : place + 5] = b"\xff\xff\xff"
    source.write_bytes(data)
    result = color(source, tmp_path / "y.mp4")
    assert len(decoded(result)[0]) == 12
    assert len(copied(result)[0]) > 5
    sentence = "y.mp4: damaged audio is left out (Invalid data found when processing input)."
    assert caplog.text.count(sentence) == 1


def with_extras(path, kind: str = "matroska"):
    """Two languages, subtitles, a font, chapters, a title."""

    def prepare(container, stream):
        container.metadata.update(title="Ein Film", encoder="old")
        stream.metadata.update(language="eng", title="Picture")
        container.add_attachment("a.ttf", "application/x-truetype-font", b"font")
        chapter = {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000)}
        container.set_chapters([{**chapter, "metadata": {"title": "One"}}])

    plain = film(path.with_name("plain.mkv"), sound="pcm_s16le", prepare=prepare)
    subtitles = path.with_name("x.srt")
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,400\nHello\n\n", encoding="utf-8")
    with (
        av.open(str(plain)) as one,
        av.open(str(subtitles)) as two,
        av.open(str(path), "w", format=kind) as out,
    ):
        out.metadata.update(one.metadata)
        out.set_chapters(one.chapters())
        streams = {}
        for stream in [*one.streams, *two.streams]:
            streams[stream] = out.add_stream_from_template(stream)
            streams[stream].metadata.update(stream.metadata)
        for stream in two.streams:
            streams[stream].metadata["language"], streams[stream].disposition = "fra", 64
        for source in (one, two):
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream]
                    out.mux(packet)
    return path


def test_subtitles_fonts_chapters_and_names_are_copied(tmp_path, caplog):
    source = with_extras(tmp_path / "x.mkv")
    result = color(source, tmp_path / "y.mkv")
    assert copied(result, "subtitle") == copied(source, "subtitle")
    assert copied(result, "subtitle")[0] == [b"Hello"]
    with av.open(str(result)) as container:
        assert container.metadata["title"] == "Ein Film"
        assert container.metadata["ENCODER"].startswith("Lavf")
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "One"}]
        picture, sound, text, font = container.streams
        assert picture.metadata["title"] == "Picture"
        assert sound.metadata["language"] == "deu"
        assert text.metadata["language"] == "fra"
        assert text.disposition & av.stream.Disposition.forced
        assert (font.type, font.metadata["filename"]) == ("attachment", "a.ttf")
    assert not caplog.records


def test_what_a_container_cannot_hold_is_left_out_and_named(tmp_path, caplog):
    source = with_extras(tmp_path / "x.mkv")
    result = color(source, tmp_path / "y.webm")
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

    source = film(tmp_path / "x.mkv", prepare=prepare)
    with av.open(str(color(source, tmp_path / "y.mov"))) as container:
        assert container.metadata["title"] == timecode
        found = [stream.metadata.get("timecode") for stream in container.streams]
        assert found == ([timecode] * 2 if kept else [None])


def test_odd_sizes_and_thin_pixels(tmp_path):
    source = film(tmp_path / "x.mkv", kind="yuv444p", size=(63, 47), aspect=Fraction(8, 9))
    for name, codec in (("y.mkv", None), ("y.mp4", "h265"), ("y.mov", "prores")):
        result = color(source, tmp_path / name, codec=codec)
        with av.open(str(result)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == (63, 47)
            assert stream.sample_aspect_ratio == Fraction(8, 9)
        for plane, original in zip(decoded(result)[0], decoded(source)[0], strict=True):
            assert alike(plane / (4 if codec == "prores" else 1), original)


def test_full_range_is_kept_but_in_prores(tmp_path):
    source = film(tmp_path / "x.mkv", codec="ffv1", tags=(2, 1, 1, 1))
    assert tags(color(source, tmp_path / "y.mkv", codec="ffv1"))[0] == yuv.FULL
    assert np.array_equal(decoded(tmp_path / "y.mkv")[0], decoded(source)[0])
    result = color(source, tmp_path / "y.mov", codec="prores")
    for (pixels, _), (original, _) in zip(
        video_reader.read(result), video_reader.read(source), strict=True
    ):
        assert np.abs(pixels - original).max() < 1.1 / 255


def test_colors_survive(tmp_path):
    """Chroma lies where it was: a red left half, a blue right one."""
    source = film(tmp_path / "x.mkv", frames=2)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    pixels[:, : WIDTH // 2] = 0.8, 0.1, 0.2
    pixels[:, WIDTH // 2 :] = 0.1, 0.2, 0.9
    for name, codec, bound in (("y.mkv", "ffv1", 0.006), ("z.mp4", "h264", 0.02)):
        with Parts(
            source, tmp_path / name, video_reader.probe(source), settings={}, codec=codec
        ) as parts:
            parts.write((pixels, time) for _, time in video_reader.read(source))
            parts.join()
        for found, _ in video_reader.read(tmp_path / name):
            away = np.abs(found - pixels)
            away[:, WIDTH // 2 - 2 : WIDTH // 2 + 2] = 0 if codec == "h264" else away[:, 30:34]
            assert away.max() < bound


def test_chroma_samples_lie_left():
    """Of a linear slope, each sample of 4:2:0 is the value at the left one of its two columns."""
    slope = np.linspace(0.2, 0.8, WIDTH)[None, :, None].repeat(HEIGHT, axis=0)
    pixels = np.concatenate([slope, 0.5 + 0 * slope, 1 - slope], axis=2).astype(np.float32)
    whole = yuv._planes(yuv.frame_of(pixels, "yuv444p10le", 1, False))
    half = yuv._planes(yuv.frame_of(pixels, "yuv420p10le", 1, False))
    for index in (1, 2):
        assert half[index].shape == (HEIGHT // 2, WIDTH // 2)
        assert np.abs(half[index][:, 1:].astype(int) - whole[index][::2, 2::2]).max() <= 1


# --- Going on ----------------------------------------------------------------------------------


def test_a_stopped_run_goes_on(tmp_path):
    source = film(tmp_path / "x.mkv", frames=23, sound="aac")
    whole = color(source, tmp_path / "whole.mkv", size=5)
    out = tmp_path / "y.mkv"

    def stopped(frames, at):
        for number, frame in enumerate(frames):
            if number == at:
                raise KeyboardInterrupt
            yield frame

    done = 0
    for at in (13, 7, 99):
        with Parts(source, out, video_reader.probe(source), settings={"a": 1}) as parts:
            assert parts.done == done
            assert parts.state == (b"%d" % done if done else b"")
            frames = stopped(video_reader.read(source, parts.done), at)
            try:
                while parts.write(itertools.islice(frames, 5), lambda: b"%d" % (parts.done + 5)):
                    assert not out.exists()
                parts.join()
            except KeyboardInterrupt:
                assert "unfinished.mkv" not in left(parts.folder)
            done = parts.done
        assert out.exists() == (at == 99)
        assert done == {13: 10, 7: 15, 99: 23}[at]
    assert left(tmp_path) == ["whole.mkv", "x.mkv", "y.mkv"]
    for found, expected in zip(decoded(out), decoded(whole), strict=True):
        assert np.array_equal(found, expected)
    assert copied(out) == copied(whole)


def begun(source, out, settings) -> Parts:
    with Parts(source, out, video_reader.probe(source), settings=settings) as parts:
        parts.write(itertools.islice(video_reader.read(source, parts.done), 4))
    return parts


@pytest.mark.parametrize("what", ["settings", "film", "encoder", "version"])
def test_other_settings_begin_anew(tmp_path, monkeypatch, caplog, what):
    source, out = film(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    assert begun(source, out, {"model": "a", "size": (1, 2)}).done == 4
    assert begun(source, out, {"size": [1, 2], "model": "a"}).done == 8
    assert not caplog.records
    options = {"quality": 20} if what == "encoder" else {}
    if what == "film":
        os.utime(source, (1, 1))
    elif what == "version":
        monkeypatch.setattr(segmented_writer, "__version__", "0.0")
    settings = {"model": "b" if what == "settings" else "a", "size": [1, 2]}
    with Parts(source, out, video_reader.probe(source), settings=settings, **options) as parts:
        assert parts.done == 0
        assert parts.state == b""
        assert left(parts.folder) == ["lock", "made.json"]
    assert f"y.mkv: begun anew, as this was changed: {what}." in caplog.text


def test_only_one_run_at_a_time(tmp_path):
    source, out = film(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    info = video_reader.probe(source)
    with Parts(source, out, info, settings={}):
        sentence = ".colorist-y.mkv.parts: in use by another run; wait for it, or stop it."
        with pytest.raises(FilmError, match=sentence):
            Parts(source, out, info, settings={})
        Parts(source, tmp_path / "z.mkv", info, settings={}).close()
    Parts(source, out, info, settings={}).close()
    assert left(tmp_path) == ["x.mkv"]  # as nothing was finished


def test_an_old_result_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    source, out = film(tmp_path / "x.mkv"), tmp_path / "y.mkv"
    out.write_bytes(b"old")
    begun(source, out, {})
    assert out.read_bytes() == b"old"

    def fail(*_):
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        Parts(source, out, video_reader.probe(source), settings={}) as parts,
    ):
        patch.setattr(segmented_writer, "_copied", fail)
        with pytest.raises(FilmError, match=r"y.mkv: cannot be written as h264 \(No space left"):
            parts.join()
        assert parts.done == 4
    assert out.read_bytes() == b"old"
    assert not [name for name in left(parts.folder) if name.startswith("joined")]
    color(source, out, size=4)
    assert len(decoded(out)[0]) == 12
    assert left(tmp_path) == ["x.mkv", "y.mkv"]


def test_a_full_disk_keeps_finished_parts(tmp_path):
    resource = pytest.importorskip("resource")
    source, out = film(tmp_path / "x.mkv", frames=8), tmp_path / "y.mkv"
    parts = begun(source, out, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        sentence = (
            r"y.mkv: cannot be written as h264 \(File too large\); 4 finished frames are kept in"
        )
        with pytest.raises(FilmError, match=sentence):
            begun(source, out, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(parts.folder) == ["00000.json", "00000.mkv", "00000.state", "lock", "made.json"]
    assert begun(source, out, {}).done == 8


# --- Folders -----------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_a_film(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for number in range(11):
        Image.fromarray(luma(number)).save(folder / f"frame{number + 1}.png")
    info = video_reader.probe(folder, rate=Fraction(18))
    assert (info.rate, info.time_base, info.frames) == (18, Fraction(1, 18), 11)
    assert (info.width, info.height, info.bits, info.color) == (WIDTH, HEIGHT, 8, (6, 6, 6))
    for number, (pixels, time) in enumerate(video_reader.read(folder, 2), 2):
        assert time == number
        assert np.array_equal(np.rint(pixels * 255), luma(number)[..., None].repeat(3, axis=2))
    with Parts(folder, tmp_path / "y.mp4", info, settings={}) as parts:
        parts.write(video_reader.read(folder))
        parts.join()
    assert decoded(tmp_path / "y.mp4")[1] == [Fraction(number, 18) for number in range(11)]
    assert video_reader.probe(tmp_path / "y.mp4").rate == 18

    Image.fromarray(luma(0, 80)).save(folder / "frame12.png")
    with pytest.raises(FilmError, match="frames/frame12.png: frame 11 is 80x48, the first 64x48"):
        list(video_reader.read(folder))
    with pytest.raises(FilmError, match="frames: 0 frames per second; expected more than 0."):
        video_reader.probe(folder, rate=0)


def test_deep_pictures_make_ten_bits(tmp_path):
    folder = tmp_path / "frames"
    values = np.linspace(0, 1, WIDTH * HEIGHT * 3, dtype=np.float32).reshape(HEIGHT, WIDTH, 3)
    image_io.write(folder / "1.png", values, image_data.Keep(bits=16))
    assert tags(color(folder, tmp_path / "y.mkv", codec="ffv1"))[-1] == "yuv444p10le"
    assert np.abs(next(video_reader.read(tmp_path / "y.mkv"))[0] - values).max() < 2 / 1023


# --- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("y.avi", {}, "y.avi: films are written as .mkv, .mp4, .m4v, .mov, .webm."),
        ("y.webm", {"codec": "h264"}, "y.webm: .webm does not hold h264. At hand for it: vp9."),
        ("y.mp4", {"codec": "xvid"}, "y.mp4: .mp4 does not hold xvid. At hand for it: h264, h265"),
        ("y.mp4", {"quality": 52}, r"quality 52 for h264: expected 0 \(best\) to 51."),
        ("y.mov", {"codec": "prores", "quality": 1}, "quality 1 for prores: it has none to choose"),
        ("x.mkv", {}, "x.mkv is the film itself; originals are never overwritten."),
    ],
)
def test_what_cannot_be_written(tmp_path, name, options, sentence):
    source = film(tmp_path / "x.mkv", frames=2)
    with pytest.raises(FilmError, match=sentence):
        Parts(source, tmp_path / name, video_reader.probe(source), settings={}, **options)
    assert left(tmp_path) == ["x.mkv"]


def test_a_codec_this_pyav_lacks(tmp_path, monkeypatch):
    source = film(tmp_path / "x.mkv", frames=2)
    monkeypatch.setitem(segmented_writer.CODECS, "h264", ("libnothing", (16, 51), {}))
    with pytest.raises(FilmError, match="y.mov: this PyAV cannot write h264. At hand for it: h265"):
        Parts(source, tmp_path / "y.mov", video_reader.probe(source), settings={})


def test_eight_bits_where_the_codec_has_no_more(tmp_path, caplog):
    source = film(tmp_path / "x.mkv", kind="yuv420p10le", aspect=Fraction(2))
    formats = [found.name for found in av.Codec("libvpx-vp9", "w").video_formats]
    result = color(source, tmp_path / "y.webm")
    assert tags(result)[-1] in formats
    if "yuv420p10le" not in formats:
        assert "y.webm: this PyAV writes vp9 with 8 bits only." in caplog.text
    assert "y.webm: vp9 in .webm cannot say that pixels are not square; write" in caplog.text


def test_frames_that_do_not_belong(tmp_path):
    source = film(tmp_path / "x.mkv")
    frames = list(video_reader.read(source))
    with Parts(source, tmp_path / "y.mkv", video_reader.probe(source), settings={}) as parts:
        assert parts.write([]) == 0
        with pytest.raises(FilmError, match="there are no frames to make a film of."):
            parts.join()
        assert parts.write(frames[:3]) == 3
        for wrong, sentence in (
            (
                frames[2:4],
                r"frame 3 is \(48, 64, 3\) at 83 after 83; expected .* at a later",
            ),
            (
                [(frames[3][0][1:], 125)],
                r"frame 3 is \(47, 64, 3\) at 125 after 83; expected",
            ),
        ):
            with pytest.raises(FilmError, match=sentence):
                parts.write(wrong)
        assert parts.done == 3
    short = replace(video_reader.probe(source), width=2, height=2)
    with (
        Parts(source, tmp_path / "z.mp4", short, settings={}, codec="h265") as parts,
        pytest.raises(FilmError, match="z.mp4: cannot be written as h265"),
    ):
        parts.write([(np.zeros((2, 2, 3), np.float32), 0)])
