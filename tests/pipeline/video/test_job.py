"""`colorize_video`, called from Python."""

import logging
import runpy
from pathlib import Path
from types import SimpleNamespace

import comfyui_colorist as colorist
import numpy as np
import pytest
import torch
from comfyui_colorist.media import image_io, video_reader
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import loader
from comfyui_colorist.pipeline.video import job
from comfyui_colorist.pipeline.video.stabilizer import StabilizerOptions

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[2] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))
COUNT, SIZE = 6, (48, 64)


@pytest.fixture(scope="module")
def frames_folder(tmp_path_factory) -> Path:
    """Gray frames of a pan."""
    folder = tmp_path_factory.mktemp("frames")
    for number, frame in enumerate(synthetic_video.pan(0, COUNT, size=SIZE)):
        gray = color.gray_rgb(color.lightness(frame.movedim(-1, 0)[None]))[0].movedim(0, -1)
        image_io.write_image(folder / f"{number}.png", gray.numpy())
    return folder


def read(path: Path) -> np.ndarray:
    return np.stack([pixels for pixels, _ in video_reader.read_frames(path)])


def test_frames_are_those_of_colorize(tmp_path, frames_folder, mini):
    reported = []
    colorist.colorize_video(
        frames_folder,
        tmp_path / "out.mkv",
        mini,
        codec="ffv1",
        progress=lambda *now: reported.append(now),
    )
    expected = mini.colorize(read(frames_folder))
    assert np.abs(read(tmp_path / "out.mkv") - expected).max() < 0.012  # 8 bits of YUV
    assert reported == [(number, COUNT) for number in range(COUNT + 1)]


def test_frames_into_a_folder(tmp_path, frames_folder, mini):
    for name, options in (("plain", {}), ("stable", {"stabilize": True})):
        colorist.colorize_video(frames_folder, tmp_path / name, mini, **options)
    plain, stable = read(tmp_path / "plain"), read(tmp_path / "stable")
    assert plain.shape == stable.shape == (COUNT, *SIZE, 3)
    assert np.abs(plain - stable).max() > 0.004


def test_an_interrupted_run_is_resumed(tmp_path, frames_folder, mini, monkeypatch, caplog):
    monkeypatch.setattr(job, "SEGMENT_FRAMES", 2)
    options = {"codec": "ffv1", "stabilize": StabilizerOptions(frames_after=1)}
    colorist.colorize_video(frames_folder, tmp_path / "whole.mkv", mini, **options)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    out = tmp_path / "out.mkv"
    with pytest.raises(KeyboardInterrupt):
        colorist.colorize_video(frames_folder, out, mini, progress=stop, **options)
    assert not out.exists()
    with caplog.at_level(logging.INFO):
        colorist.colorize_video(frames_folder, out, mini, **options)
    assert "resuming after frame" in caplog.text
    assert np.abs(read(out) - read(tmp_path / "whole.mkv")).max() < 0.009  # two levels


def test_other_options_start_over(tmp_path, frames_folder, mini, monkeypatch, caplog):
    monkeypatch.setattr(job, "SEGMENT_FRAMES", 2)
    out, written, write = tmp_path / "out.mkv", [], SegmentedVideoWriter.write

    def stop_after_one(self, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(write(self, *arguments))
        return written[0]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SegmentedVideoWriter, "write", stop_after_one)
        colorist.colorize_video(frames_folder, out, mini, codec="ffv1")
    with caplog.at_level(logging.INFO):
        finish = colorist.Finish(saturation=0.5)
        colorist.colorize_video(frames_folder, out, mini, codec="ffv1", finish=finish)
    assert "resuming" not in caplog.text
    assert np.abs(read(out) - mini.colorize(read(frames_folder), finish=finish)).max() < 0.012


def test_by_reference_and_by_hints(
    tmp_path, frames_folder, mini_exemplar_file, mini_pointhint_file
):
    frames = read(frames_folder)
    reference = torch.tensor([1.0, 0.7, 0.5]) * torch.from_numpy(frames[0])
    engine = loader.load(mini_exemplar_file, device="cpu")
    out = tmp_path / "reference.mkv"
    colorist.colorize_video(
        frames_folder, out, engine, reference=reference, resolution=64, codec="ffv1"
    )
    expected = engine.colorize(frames, reference=reference, resolution=64)
    assert np.abs(read(out) - expected).max() < 0.012

    engine = loader.load(mini_pointhint_file, device="cpu")
    hints = [{"x": 0.5, "y": 0.5, "color": "#c03030", "size": 8}]
    for number, given in enumerate((hints, {0: hints})):
        out = tmp_path / f"{number}.mkv"
        colorist.colorize_video(
            frames_folder, out, engine, hints=given, resolution=64, codec="ffv1"
        )
        first = engine.colorize(frames[0], hints=hints, resolution=64)
        assert np.abs(read(out)[0] - first).max() < 0.012


def test_options_of_another_role(tmp_path, frames_folder, mini, mini_exemplar_file):
    out = tmp_path / "out.mkv"
    with pytest.raises(ValueError, match="accepts no `hints`"):
        colorist.colorize_video(frames_folder, out, mini, hints="")
    with pytest.raises(ValueError, match="accepts no `reference`"):
        colorist.colorize_video(frames_folder, out, mini, reference=torch.rand(8, 8, 3))
    with pytest.raises(ValueError, match="needs `reference`"):
        colorist.colorize_video(frames_folder, out, loader.load(mini_exemplar_file, device="cpu"))
    assert not list(tmp_path.iterdir())
