"""Films on the command line, as a user types it."""

import json
import runpy
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from comfyui_colorist import cli
from comfyui_colorist.media import image_io, video_reader
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.metrics import flicker
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.by_hints import PointHintColorizer
from comfyui_colorist.pipeline.video import frame_sinks, job
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
synthetic_video = SimpleNamespace(**runpy.run_path(str(ROOT / "synthetic_video.py")))
FRAMES, SIZE = 14, (48, 64)
LOSSLESS = ["--codec", "ffv1"]


@pytest.fixture(scope="module")
def model(mini_file) -> list[str]:
    return ["--model", str(mini_file), "--device", "cpu"]


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """A grey pan with a cut behind frame 8, at times of its own, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    pictures = torch.cat(
        [synthetic_video.pan(0, 9, size=SIZE), synthetic_video.pan(10, FRAMES - 9, size=SIZE)]
    )
    levels = (255 * color.gray_rgb(color.lightness(pictures.movedim(-1, 1)))).round().byte()
    with av.open(str(path), "w") as container:
        video_stream = container.add_stream("ffv1", rate=25)
        video_stream.width, video_stream.height, video_stream.pix_fmt = *SIZE[::-1], "yuv444p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number, picture in enumerate(levels.movedim(1, -1).numpy()):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = 2 * number + number % 3, Fraction(1, 50)
            container.mux(video_stream.encode(frame))
        container.mux(video_stream.encode())
        wave = (8000 * np.sin(np.arange(4480) / 3)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def frames(path: Path) -> np.ndarray:
    return np.stack([pixels for pixels, _ in video_reader.read_frames(path)])


def times(path: Path) -> list[Fraction]:
    base = video_reader.probe(path).time_base
    return [when * base for _, when in video_reader.read_frames(path)]


def wavering(film: np.ndarray) -> float:
    measured = flicker.FlickerMeter()
    measured.push(torch.from_numpy(film))
    return measured.scores()["flicker"]


def stop_behind(count: int, sink: type, patch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come behind that many parts."""
    written, write = [], sink.write

    def stopped(self, *arguments):
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(write(self, *arguments))
        return written[-1]

    patch.setattr(sink, "write", stopped)


def test_video_keeps_times_and_sound(tmp_path, film, model, capsys):
    out = tmp_path / "out.mkv"
    assert run("colorize", film, "-o", out, *model, *LOSSLESS) == 0
    assert capsys.readouterr().err.endswith("1 written.\n")
    before, after = frames(film), frames(out)
    assert after.shape == before.shape == (FRAMES, *SIZE, 3)
    assert np.abs(after - after.mean(-1, keepdims=True)).max() > 0.02
    L, own = (color.lightness(torch.from_numpy(x).movedim(-1, 1)) for x in (after, before))
    assert (L - own).abs().max() < 1.0
    assert times(out) == times(film)
    with av.open(str(film)) as one, av.open(str(out)) as other:
        sound = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (one, other)]
    assert sound[0] and sound[0] == sound[1]
    assert not list(tmp_path.glob(".*"))
    # Once more: nothing to do
    assert run("colorize", film, "-o", out, *model, *LOSSLESS) == 0
    assert capsys.readouterr().err.endswith("1 skipped.\n")


def test_frames_equal_single_images(tmp_path, film, model, mini):
    assert run("colorize", film, "-o", tmp_path / "out.mkv", *model, *LOSSLESS) == 0
    alone = mini.colorize(frames(film)[3])
    assert np.abs(frames(tmp_path / "out.mkv")[3] - alone).max() < 0.012  # 8 bits of YUV


def test_stabilize_reduces_flicker(tmp_path, film, model):
    for name, options in (("plain", []), ("steady", ["--stabilize"])):
        assert run("colorize", film, "-o", tmp_path / f"{name}.mkv", *model, *options) == 0
    plain, steady = (frames(tmp_path / f"{name}.mkv") for name in ("plain", "steady"))
    assert wavering(steady) < wavering(plain)
    assert times(tmp_path / "steady.mkv") == times(film)


@pytest.mark.parametrize("options", [[], ["--stabilize", "--frames-after", "3"]])
def test_interrupted_run_is_resumed(tmp_path, film, model, options, monkeypatch, capsys):
    monkeypatch.setattr(job, "SEGMENT_FRAMES", 4)
    command = ["colorize", film, *model, *LOSSLESS, *options]
    assert run(*command, "-o", tmp_path / "whole.mkv") == 0
    with monkeypatch.context() as patch:
        stop_behind(2, SegmentedVideoWriter, patch)
        assert run(*command, "-o", tmp_path / "out.mkv") == 130
    assert not (tmp_path / "out.mkv").exists()
    capsys.readouterr()
    assert run(*command, "-o", tmp_path / "out.mkv") == 0
    assert "resuming after frame 8" in capsys.readouterr().err
    whole, parts = frames(tmp_path / "whole.mkv"), frames(tmp_path / "out.mkv")
    assert np.abs(whole - parts).max() < 0.009  # two levels


def test_folder_of_frames(tmp_path, film, model):
    folder = tmp_path / "frames"
    for number, pixels in enumerate(frames(film)):
        image_io.write_image(folder / f"f{number}.png", pixels)  # f10 behind f9
    assert run("colorize", folder, "-o", tmp_path / "a.mkv", "--rate", "12", *model, *LOSSLESS) == 0
    assert video_reader.probe(tmp_path / "a.mkv").frame_rate == 12
    assert run("colorize", film, "-o", tmp_path / "b.mkv", *model, *LOSSLESS) == 0
    a, b = frames(tmp_path / "a.mkv"), frames(tmp_path / "b.mkv")
    assert np.abs(a - b).max() < 0.012
    # ... and back into a folder, steadied
    out = tmp_path / "out"
    assert run("colorize", folder, "-o", out, "--stabilize", *model) == 0
    assert sorted(path.name for path in out.glob("*.png")) == sorted(
        path.name for path in folder.iterdir()
    )
    steady = np.stack([image_io.read_image(out / f"f{i}.png").pixels for i in range(FRAMES)])
    assert wavering(steady) < wavering(a)


def test_frames_as_images(tmp_path, film, model, monkeypatch, capsys):
    monkeypatch.setattr(job, "SEGMENT_FRAMES", 5)
    command = ["colorize", film, "-o", tmp_path, "--frames", "--stabilize", *model]
    with monkeypatch.context() as patch:
        stop_behind(1, frame_sinks.FrameFolderSink, patch)
        assert run(*command) == 130
    assert len(list((tmp_path / "film").glob("*.png"))) == 5
    assert run(*command) == 0
    assert "resuming after frame 5" in capsys.readouterr().err
    parts = [image_io.read_image(tmp_path / "film" / f"{i:06}.png").pixels for i in range(FRAMES)]
    assert run(*[x if x != tmp_path else tmp_path / "whole" for x in command]) == 0
    whole = [
        image_io.read_image(tmp_path / "whole/film" / f"{i:06}.png").pixels for i in range(FRAMES)
    ]
    assert np.abs(np.stack(parts) - np.stack(whole)).max() < 0.005  # a level
    # Finished: a later run writes nothing, unless it is told to
    (tmp_path / "film" / "000003.png").unlink()
    assert run(*command) == 0
    assert not (tmp_path / "film" / "000003.png").exists()
    assert run(*command, "--overwrite") == 0
    assert (tmp_path / "film" / "000003.png").exists()


def test_other_images_are_not_overwritten(tmp_path, film, model, capsys):
    image_io.write_image(tmp_path / "film" / "000003.png", frames(film)[0])
    before = (tmp_path / "film" / "000003.png").read_bytes()
    assert run("colorize", film, "-o", tmp_path, "--frames", *model) == 1
    assert "already holds other images; name another folder" in capsys.readouterr().err
    assert (tmp_path / "film" / "000003.png").read_bytes() == before


def test_reference_frames(tmp_path, film, mini_exemplar_file):
    shown = torch.tensor([1.0, 0.7, 0.5]) * torch.from_numpy(frames(film)[0])
    image_io.write_image(tmp_path / "key.png", shown.numpy())
    model = ["--model", mini_exemplar_file, "--resolution", "64", "--device", "cpu"]
    options = ["--reference", tmp_path / "key.png", "--stabilize", *model]
    assert run("exemplar", film, "-o", tmp_path / "out.mkv", *options) == 0
    assert frames(tmp_path / "out.mkv").shape == (FRAMES, *SIZE, 3)
    assert run("exemplar", film, "-o", tmp_path, "--reference", tmp_path, *model) == 2


def test_hints_follow_motion(tmp_path, film, mini_pointhint_file, monkeypatch, capsys):
    monkeypatch.setattr(job, "SEGMENT_FRAMES", 4)
    keys = tmp_path / "keys"
    keys.mkdir()
    red = {"version": 1, "points": [{"x": 0.5, "y": 0.5, "color": "#c03030", "size": 8}]}
    (keys / "0.json").write_text(json.dumps(red))
    shown = torch.tensor([0.5, 0.7, 1.0]) * torch.from_numpy(frames(film)[9])
    image_io.write_image(keys / "9.png", shown.numpy())
    model = ["--model", mini_pointhint_file, "--resolution", "64", "--device", "cpu", *LOSSLESS]
    command = ["hints", film, "--hints", keys, *model]
    given, colorize = [], PointHintColorizer.colorize

    def seen(self, frames, *, hints_per_image, **options):
        given.extend(hints_per_image)
        return colorize(self, frames, hints_per_image=hints_per_image, **options)

    monkeypatch.setattr(PointHintColorizer, "colorize", seen)
    assert run(*command, "-o", tmp_path / "out.mkv") == 0
    assert len(given) == FRAMES
    assert [len(hints) for hints in given[:9]] == [1] * 9
    assert given[8][0].x == pytest.approx(0.5 - 8 * 2 / 64, abs=0.03)
    assert min(len(hints) for hints in given[9:]) > 20
    # A run that was stopped goes on with the same hints
    whole = list(given)
    with monkeypatch.context() as patch:
        stop_behind(1, SegmentedVideoWriter, patch)
        assert run(*command, "-o", tmp_path / "two.mkv") == 130
    given.clear()
    with monkeypatch.context() as patch:
        stop_behind(1, SegmentedVideoWriter, patch)
        assert run(*command, "-o", tmp_path / "two.mkv") == 130
    assert given[0] == whole[4]
    given.clear()
    assert run(*command, "-o", tmp_path / "two.mkv") == 0
    assert given == whole[8:]
    # ... but not with others
    with monkeypatch.context() as patch:
        stop_behind(1, SegmentedVideoWriter, patch)
        assert run(*command, "-o", tmp_path / "three.mkv") == 130
    (keys / "0.json").write_text(json.dumps({"version": 1, "points": []}))
    given.clear()
    assert run(*command, "-o", tmp_path / "three.mkv") == 0
    assert len(given) == FRAMES and not given[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["-o", "x.png"],
            "-o x.png is the name of an image, but IN is a video; name a video or a folder.",
        ),
        (["-o", "x.mkv", "--frames-after", "3"], "need --stabilize; add it."),
        (
            ["-o", "x.mkv", "--stabilize", "--frames-before", "0"],
            "--frames-before: frames_before is 0; expected 1 to 240.",
        ),
        (
            ["-o", "x.mkv", "--frames"],
            "is the name of a video, but --frames writes images; name a folder.",
        ),
        (["-o", "x.mkv", "--rate", "0"], "--rate is 0; expected more than 0 frames per second"),
    ],
)
def test_usage_errors(film, model, arguments, sentence, capsys):
    assert run("colorize", film, *arguments, *model) == 2
    assert sentence in capsys.readouterr().err


def test_image_as_a_video(tmp_path, film, model, capsys):
    image_io.write_image(tmp_path / "a.png", frames(film)[0])
    assert run("colorize", tmp_path / "a.png", "-o", tmp_path / "x.mkv", *model) == 2
    assert (
        "is the name of a single video; give one video, or one folder of frames"
        in capsys.readouterr().err
    )


def test_damaged_video_does_not_stop_the_rest(tmp_path, film, model, capsys):
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(b"no film at all")
    assert run("colorize", bad, film, "-o", tmp_path / "out", *model) == 1
    told = capsys.readouterr().err
    assert "failed: bad.mkv: not a video, or damaged" in told
    assert (tmp_path / "out" / "film.mkv").exists()


def test_measure_flicker(tmp_path, film, model, capsys):
    assert run("colorize", film, "-o", tmp_path / "plain.mkv", *model, *LOSSLESS) == 0
    assert run("colorize", film, "-o", tmp_path, "--frames", "--stabilize", *model) == 0
    capsys.readouterr()
    assert run("measure", tmp_path / "plain.mkv", "--json") == 0
    plain = json.loads(capsys.readouterr().out)["mean"]
    assert plain["flicker"] == pytest.approx(wavering(frames(tmp_path / "plain.mkv")), rel=1e-4)
    assert (plain["frames"], plain["cuts"]) == (FRAMES, 1)
    command = ["measure", tmp_path / "film", tmp_path / "plain.mkv", "--film"]
    assert run(*command, "--json") == 0
    steady = json.loads(capsys.readouterr().out)["mean"]
    assert steady["flicker"] < plain["flicker"]
    assert 30 < steady["psnr"] <= 50
    assert run(*command) == 0
    assert "flicker" in capsys.readouterr().out.splitlines()[0]
    (tmp_path / "film" / "000013.png").unlink()
    assert run(*command) == 1
    assert "its truth plain.mkv continues after frame 12" in capsys.readouterr().err
    assert run("measure", film, tmp_path / "film" / "000001.png") == 2
    assert "not a video; expected a video or a folder of frames" in capsys.readouterr().err


# --- Kinds of sources ----------------------------------------------------------------------------


def write_video(path: Path, codec: str, kind: str, **tags: int) -> Path:
    """Write three gray frames with PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE[::-1], kind
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(3):
            levels = np.linspace(20 + 40 * number, 220, SIZE[0] * SIZE[1]).reshape(SIZE)
            rgba = np.dstack([levels.astype(np.uint8)] * 3 + [np.full(SIZE, 102, np.uint8)])
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=kind)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_videos_in_folders(tmp_path, model, capsys):
    """Photos, videos and animations of a folder; containers that cannot be written become MP4."""
    album = tmp_path / "album"
    (album / "tapes").mkdir(parents=True)
    write_video(album / "tapes" / "a.avi", "mpeg4", "yuv420p")
    Image.new("L", SIZE[::-1], 90).save(album / "photo.png")
    stills = [Image.new("L", SIZE[::-1], level) for level in (60, 120)]
    stills[0].save(album / "b.gif", save_all=True, append_images=stills[1:], duration=80)
    assert run("colorize", album, "-o", tmp_path / "out", *model) == 0
    names = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")]
    assert sorted(names) == ["b.mp4", "photo.png", "tapes/a.mp4"]
    assert times(tmp_path / "out" / "b.mp4") == [0, Fraction(2, 25)]
    assert len(frames(tmp_path / "out" / "tapes" / "a.mp4")) == 3
    assert capsys.readouterr().err.endswith("3 written.\n")


def test_animation_into_a_named_video(tmp_path, model, capsys):
    stills = [Image.new("L", SIZE[::-1], level) for level in (60, 120)]
    gif = tmp_path / "b.gif"
    stills[0].save(gif, save_all=True, append_images=stills[1:], duration=80)
    assert run("colorize", gif, "-o", tmp_path / "b.mkv", *model) == 0
    assert len(frames(tmp_path / "b.mkv")) == 2
    assert run("colorize", gif, "-o", tmp_path / "b.png", *model) == 2
    assert "is the name of an image, but IN is a video" in capsys.readouterr().err


def test_pattern_of_frames(tmp_path, film, model):
    folder = tmp_path / "frames"
    for number, pixels in enumerate(frames(film)[:3]):
        image_io.write_image(folder / f"f{number + 7:04}.png", pixels)
    pattern, out = folder / "f%04d.png", tmp_path / "out"
    assert run("colorize", pattern, "-o", tmp_path / "a.mp4", "--rate", "12", *model) == 0
    assert times(tmp_path / "a.mp4") == [Fraction(n, 12) for n in range(3)]
    assert run("colorize", pattern, "-o", out, "--stabilize", *model) == 0
    assert sorted(p.name for p in out.glob("*.png")) == ["f0007.png", "f0008.png", "f0009.png"]
    assert run("colorize", folder / "g%d.png", "-o", tmp_path / "b.mp4", *model) == 1


@pytest.mark.parametrize(
    ("transfer", "sentence"), [(16, "an HDR video (PQ)"), (18, "an HDR video (HLG)"), (8, "linear")]
)
def test_hdr_is_refused(tmp_path, model, capsys, transfer, sentence):
    source = write_video(tmp_path / "a.mkv", "ffv1", "yuv420p10le", color_trc=transfer)
    assert run("colorize", source, "-o", tmp_path / "b.mkv", *model) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "b.mkv").exists()


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [("b.mov", "prores", True), ("b.webm", "vp9", True), ("b.mp4", "h264", False)],
)
@pytest.mark.parametrize("options", [[], ["--stabilize"]])
def test_transparency(tmp_path, model, capsys, name, codec, kept, options):
    source = write_video(tmp_path / "a.mov", "qtrle", "argb")
    command = ["colorize", source, "-o", tmp_path / name, "--codec", codec, *model, *options]
    assert run(*command) == 0
    errors = capsys.readouterr().err
    assert ("a.mov: transparency is laid on white; --codec prores (.mov)" in errors) != kept
    pixels = next(video_reader.read_frames(tmp_path / name, alpha=True))[0]
    if kept:
        assert np.abs(pixels[..., 3] - 0.4).max() < 0.02
        assert pixels[0, 0, :3].mean() < 0.2
    else:
        assert pixels.shape[2] == 3
        assert pixels[0, 0].mean() > 0.55  # 0.4 * 20 / 255 + 0.6


def test_transparency_in_frames(tmp_path, model):
    source = write_video(tmp_path / "a.mov", "qtrle", "argb")
    assert run("colorize", source, "-o", tmp_path, "--frames", *model) == 0
    pixels = image_io.read_image(tmp_path / "a" / "000001.png").pixels
    assert np.abs(pixels[..., 3] - 0.4).max() < 0.01


def test_interlaced(tmp_path, model, capsys):
    source = tmp_path / "a.mpg"
    with av.open(str(source), "w") as container:
        options = {"flags": "+ildct+ilme"}
        stream = container.add_stream("mpeg2video", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE[::-1], "yuv420p"
        for number in range(4):
            levels = np.full(SIZE, 40, np.uint8)
            levels[::2, 8 * number + 4 :][:, :16] = levels[1::2, 8 * number :][:, :16] = 200
            frame = av.VideoFrame.from_ndarray(levels, "gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    combs = {}
    for name, options, sentence in (
        ("b.mp4", [], "a.mpg: interlaced, and written as interlaced; --deinterlace makes full"),
        ("b.webm", [], "a.mpg: interlaced, but written as full frames, which show combs"),
        ("c.mp4", ["--deinterlace"], ""),
    ):
        assert run("colorize", source, "-o", tmp_path / name, *options, *model) == 0
        errors = capsys.readouterr().err
        assert errors.count("a.mpg: interlaced") == (1 if sentence else 0)
        assert sentence in errors
        kept = video_reader.probe(tmp_path / name).field_order
        assert kept == ("bff" if name == "b.mp4" else None)
        middle = frames(tmp_path / name)[1:3].mean(-1)
        combs[name] = np.abs(np.diff(middle[:, 8:-8], axis=1)).max()
    assert combs["b.mp4"] > 0.4
    assert combs["c.mp4"] < 0.2
