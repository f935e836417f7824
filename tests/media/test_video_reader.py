"""Reading of videos and folders: order, rotation, damage, refusals."""

import gc
import io
import runpy
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media import video_reader
from comfyui_colorist.media.errors import VideoError
from comfyui_colorist.media.icc import srgb_profile
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import write_image
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.media.video_info import VideoInfo
from comfyui_colorist.media.video_reader import probe, read_frames
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("video_helpers.py"))))
WIDTH, HEIGHT = helpers.WIDTH, helpers.HEIGHT
luma = helpers.luma
make_video = helpers.make_video
copy_video = helpers.copy_video
decoded = helpers.decoded
is_close = helpers.is_close
color_tags = helpers.color_tags
other_packets = helpers.other_packets

TIMES = [500 * number for number in range(12)]


def test_probe(tmp_path):
    path = make_video(
        tmp_path / "x.mkv",
        kind="yuv420p10le",
        rate=Fraction(24000, 1001),
        tags=(1, 9, 9, 16),
        aspect=Fraction(4, 3),
    )
    assert probe(path) == VideoInfo(
        width=WIDTH,
        height=HEIGHT,
        frame_rate=Fraction(24000, 1001),
        time_base=Fraction(1, 1000),
        bit_depth=10,
        frame_count=12,
        duration=pytest.approx(0.5, abs=0.01),
        color_tags=(9, 9, 16),
        full_range=False,
        pixel_aspect=Fraction(4, 3),
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
    path = make_video(tmp_path / "x.mkv", frames=1, size=size, options={"preset": "ultrafast"})
    assert probe(path).color_tags == expected


@pytest.mark.parametrize("degrees", [90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path, degrees, mirrored):
    source = make_video(
        tmp_path / "x.mp4",
        frames=2,
        aspect=Fraction(4, 3),
        prepare=lambda _, stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    expected = np.rot90(decoded(source)[0][0], degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    expected = (expected.astype(float) - 16) / 219
    assert np.abs(next(read_frames(source))[0][..., 0] - expected).max() < 1e-6
    result = copy_video(source, tmp_path / "y.mkv")
    assert is_close(decoded(result)[0][0], expected * 219 + 16)
    with av.open(str(result)) as container:
        assert next(container.decode(video=0)).rotation == 0
        shape = Fraction(4, 3) if degrees == 180 else Fraction(3, 4)
        assert container.streams.video[0].sample_aspect_ratio == shape


def video_of_image_files(path, codec: str, file_format: str, **options):
    """Write three frames as the files that Pillow makes of them, left half dark, right half light.

    Side data of such frames, EXIF and ICC, must not be read through PyAV: it fails, or crashes.
    """
    values = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    values[:, WIDTH // 2 :] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
        for number in range(3):
            file = io.BytesIO()
            Image.fromarray(values).save(file, file_format, **options)
            packet = av.Packet(file.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 24)
            packet.pts = packet.dts = number
            packet.duration = 1
            container.mux(packet)
    return path


@pytest.mark.parametrize(("codec", "file_format"), [("png", "PNG"), ("mjpeg", "JPEG")])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("with_profile", [False, True])
def test_frames_with_exif_and_profile(tmp_path, codec, file_format, orientation, with_profile):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Kodak"
    options = {"exif": exif} | ({"icc_profile": srgb_profile()} if with_profile else {})
    path = video_of_image_files(tmp_path / "x.mov", codec, file_format, **options)
    with av.open(str(path)) as container:  # FFmpeg applies EXIF since version 8
        turns = round(next(container.decode(video=0)).rotation / 90)
    expected = np.full((HEIGHT, WIDTH), 40 / 255)
    expected[:, WIDTH // 2 :] = 200 / 255
    expected = np.rot90(expected, turns)
    info = probe(path)
    assert (info.height, info.width) == expected.shape
    frames = list(read_frames(path))
    assert len(frames) == 3
    for pixels, _ in frames:
        assert np.abs(pixels - expected[..., None]).max() < 0.06
    gc.collect()  # side data with metadata would crash here
    assert len(decoded(copy_video(path, tmp_path / "y.mkv"))[0]) == 3


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, RecursionError])
def test_every_error_of_a_decoder_names_the_file(tmp_path, monkeypatch, error):
    path = make_video(tmp_path / "x.mkv", frames=2)

    def fail(*_):
        raise error("?")

    monkeypatch.setattr(video_reader, "frame_to_rgb", fail)
    with pytest.raises(VideoError, match="x.mkv: not a video, or damaged") as caught:
        next(read_frames(path))
    assert isinstance(caught.value.__cause__, error)


def test_start_equals_skipping(tmp_path):
    path = make_video(tmp_path / "x.mkv", frames=20, options={"g": "7"})
    all_frames = list(read_frames(path))
    assert len(all_frames) == 20
    for start in (0, 1, 9, 19, 20, 30):
        frames = list(read_frames(path, start))
        assert len(frames) == max(0, 20 - start)
        for (pixels, time), (expected, when) in zip(frames, all_frames[start:], strict=True):
            assert time == when
            assert np.array_equal(pixels, expected)


def test_reading_holds_few_frames(tmp_path):
    """Without Python's search for cycles: it is rare, and frames of video are large."""
    path = make_video(tmp_path / "x.mkv", frames=300, options={"preset": "ultrafast"})
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        number = sum(1 for _ in read_frames(path))
        _, peak = tracemalloc.get_traced_memory()
        held = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        tracemalloc.stop()
        gc.enable()
    assert number == 300
    assert peak < 20 * HEIGHT * WIDTH * 3 * 4
    assert held < 10


@pytest.mark.parametrize(
    ("name", "codec", "kind", "size", "aspect"),
    [
        ("x.dv", "dvvideo", "yuv420p", (720, 576), Fraction(16, 15)),
        ("x.avi", "dvvideo", "yuv411p", (720, 480), Fraction(8, 9)),
        ("x.mxf", "mpeg2video", "yuv422p", (720, 576), Fraction(64, 45)),
    ],
)
def test_tape_formats(tmp_path, name, codec, kind, size, aspect):
    rate = Fraction(25) if size[1] == 576 else Fraction(30000, 1001)
    options = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {}
    source = make_video(
        tmp_path / name,
        frames=3,
        codec=codec,
        kind=kind,
        size=size,
        rate=rate,
        aspect=aspect,
        options={**options, "b": "20000k"},
    )
    info = probe(source)
    assert (info.width, info.height, info.frame_rate) == (*size, rate)
    assert (info.pixel_aspect, info.field_order) == (aspect, "bff")
    assert info.chroma == ("422" if kind == "yuv422p" else "420")
    result = copy_video(source, tmp_path / "y.mp4")
    assert len(decoded(result)[0]) == 3
    for plane, original in zip(decoded(result)[0], decoded(source)[0], strict=True):
        assert np.abs(plane.astype(float) - original).mean() < 2
    assert (probe(result).pixel_aspect, probe(result).field_order) == (aspect, "bff")


def test_negative_start(tmp_path):
    source = make_video(
        tmp_path / "x.mov",
        time_base=Fraction(1, 12000),
        times=[500 * (number - 3) for number in range(12)],
        sound="aac",
        options={"bf": "0"},
    )
    before = decoded(source)[1]
    for name in ("y.mp4", "y.mov", "y.mkv"):
        result = copy_video(source, tmp_path / name)
        times = decoded(result)[1]
        assert len(times) == len(before)
        assert np.allclose(np.diff(np.array(times, float)), 1 / 24, atol=0.0011)
        audio_offset = other_packets(source)[1][0] - before[0]
        assert abs(other_packets(result)[1][0] - times[0] - audio_offset) < Fraction(2, 1000)


def test_alpha_is_laid_on_white_unless_it_is_read(tmp_path):
    values = (60, 128, 128, 102)
    for name, codec, kind in (
        ("x.mov", "prores_ks", "yuva444p10le"),
        ("x.webm", "libvpx-vp9", "yuva420p"),
        ("x.mkv", "ffv1", "yuva444p"),
        ("y.mov", "qtrle", "argb"),
        ("z.mov", "png", "rgba"),
    ):

        def prepare(container, stream):
            stream.metadata["alpha_mode"] = "1"

        scale = 4 if kind.endswith("10le") else 1
        planes = (values[3],) if len(av.VideoFormat(kind, 2, 2).components) and "rgb" in kind else 0
        source = make_video(
            tmp_path / name,
            frames=2,
            codec=codec,
            kind=kind,
            values=planes or tuple(value * scale for value in values),
            prepare=prepare,
        )
        assert probe(source).has_alpha, name
        pixels = next(read_frames(source, alpha=True))[0]
        assert pixels.shape == (HEIGHT, WIDTH, 4), name
        expected = 102 / 255 if planes else (60 - 16) / 219
        assert np.abs(pixels[..., :3] - expected).max() < 0.02, name
        assert np.abs(pixels[..., 3] - 102 / 255).max() < 0.02, name
        laid = next(read_frames(source))[0]
        assert laid.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(laid - (0.4 * expected + 0.6)).max() < 0.02, name


# --- Damage --------------------------------------------------------------------------------------


def test_truncated_video_yields_its_frames(tmp_path, caplog):
    path = make_video(tmp_path / "x.mkv", rate=Fraction(4), sound="aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = len(list(read_frames(path)))
    assert 2 < count < 10
    assert (
        f"x.mkv: its {count} frames end after {count / 4:.1f} s of 3.0; the file may" in caplog.text
    )
    assert len(decoded(copy_video(path, tmp_path / "y.mkv"))[0]) == count


def test_damaged_frames_are_skipped(tmp_path, caplog):
    path = make_video(tmp_path / "x.mp4", codec="mpeg4", time_base=Fraction(1, 12000), times=TIMES)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        data[packets[5].pos : packets[5].pos + packets[5].size] = bytes(packets[5].size)
    path.write_bytes(data)
    times = [time for _, time in read_frames(path)]
    assert times == [time for time in TIMES if time != 2500]
    assert "x.mp4: damaged near frame 5" in caplog.text
    assert [time * 12000 for time in decoded(copy_video(path, tmp_path / "y.mp4"))[1]] == times


def test_other_frame_size_is_refused(tmp_path):
    small = make_video(tmp_path / "a.ts", codec="mpeg2video").read_bytes()
    large = make_video(tmp_path / "b.ts", codec="mpeg2video", size=(96, 64)).read_bytes()
    (tmp_path / "x.ts").write_bytes(small + large)
    message = r"x.ts: frame 1\d is 96x64, the first 64x48; scale all frames to one size, or cut"
    with pytest.raises(VideoError, match=message):
        list(read_frames(tmp_path / "x.ts"))


def test_refusals(tmp_path):
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "text.mkv").write_text("Dear diary, today I saw a video.")
    (tmp_path / "list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "sound.mka"), "w", format="matroska") as container:
        voice = container.add_stream("pcm_s16le", rate=48000)
        Image.new("L", (64, 48)).save(tmp_path / "cover.png")
        container.add_attachment("cover.png", "image/png", (tmp_path / "cover.png").read_bytes())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
        silence.sample_rate = 48000
        container.mux(voice.encode(silence))
    for name, message in {
        "missing.mkv": "missing.mkv: no such file; expected a video or a folder of images.",
        "empty.mkv": r"empty.mkv: the file is empty \(0 bytes\); get it again.",
        "text.mkv": r"text.mkv: not a video, or damaged \(Invalid data found when processing",
        "list.mkv": "list.mkv: not a video, or damaged",
        "sound.mka": r"sound.mka: a file without video \(it holds audio, cover\).",
        "folder": r"folder: no images in this folder \(\.jpg, ",
    }.items():
        with pytest.raises(VideoError, match=message):
            probe(tmp_path / name)
        with pytest.raises(VideoError, match=message):
            next(read_frames(tmp_path / name))


# --- Folders -------------------------------------------------------------------------------------


def test_folder_of_images(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for number in range(11):
        Image.fromarray(luma(number)).save(folder / f"frame{number + 1}.png")
    info = probe(folder, frame_rate=Fraction(18))
    assert (info.frame_rate, info.time_base, info.frame_count) == (18, Fraction(1, 18), 11)
    assert (info.width, info.height, info.bit_depth, info.color_tags) == (
        WIDTH,
        HEIGHT,
        8,
        (6, 6, 6),
    )
    for number, (pixels, time) in enumerate(read_frames(folder, 2), 2):
        assert time == number
        assert np.array_equal(np.rint(pixels * 255), luma(number)[..., None].repeat(3, axis=2))
    with SegmentedVideoWriter(folder, tmp_path / "y.mp4", info, settings={}) as writer:
        writer.write(read_frames(folder))
        writer.join()
    assert decoded(tmp_path / "y.mp4")[1] == [Fraction(number, 18) for number in range(11)]
    assert probe(tmp_path / "y.mp4").frame_rate == 18

    Image.fromarray(luma(0, 80)).save(folder / "frame12.png")
    with pytest.raises(VideoError, match="frames/frame12.png: frame 11 is 80x48, the first 64x48"):
        list(read_frames(folder))
    with pytest.raises(VideoError, match="frames: 0 frames per second; expected more than 0."):
        probe(folder, frame_rate=0)


def test_16_bit_images_make_10_bit_video(tmp_path):
    folder = tmp_path / "frames"
    values = np.linspace(0, 1, WIDTH * HEIGHT * 3, dtype=np.float32).reshape(HEIGHT, WIDTH, 3)
    write_image(folder / "1.png", values, ImageMetadata(bit_depth=16))
    assert color_tags(copy_video(folder, tmp_path / "y.mkv", codec="ffv1"))[-1] == "yuv444p10le"
    assert np.abs(next(read_frames(tmp_path / "y.mkv"))[0] - values).max() < 2 / 1023
