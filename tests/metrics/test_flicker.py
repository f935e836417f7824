"""Flicker of videos with known flicker."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.metrics.flicker import FlickerMeter
from comfyui_colorist.ops import color

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[1] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))


def scores(video, parts=100):
    flicker = FlickerMeter()
    for part in video.split(parts):
        flicker.push(part)
    return flicker.scores()


def moved(video, shifts):
    """Shift the chroma of each frame by a row of `shifts`, far inside the gamut."""
    lab = color.rgb_to_lab(video.movedim(-1, 1))
    lab[:, :1] = 40 + 0.2 * lab[:, :1]
    lab[:, 1:] = 0.1 * lab[:, 1:] + shifts[:, :, None, None]
    return color.lab_to_rgb(lab).movedim(1, -1)


def test_known_changes_of_a_static_video():
    video = synthetic_video.pan(0, 1).expand(8, -1, -1, -1)
    shifts = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).repeat(4, 1)
    result = scores(moved(video, shifts))
    assert result["flicker"] == pytest.approx(5, abs=0.05)
    assert result["still_deviation"] == pytest.approx(2.5, abs=0.03)
    assert (result["frames"], result["cuts"]) == (8, 0)


def test_pan_without_flicker():
    video = synthetic_video.pan(1, 8, (3.0, 1.0))
    result = scores(moved(video, torch.zeros(8, 2)))
    assert result["flicker"] < 0.2
    assert result["still_deviation"] == 0  # nothing is still
    shifts = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).repeat(4, 1)
    assert scores(moved(video, shifts))["flicker"] == pytest.approx(5, abs=0.2)


def test_cuts_do_not_flicker():
    shifts = torch.tensor([[20.0, 0.0]] * 4 + [[-20.0, 0.0]] * 4)
    video = torch.cat([synthetic_video.pan(2, 4), synthetic_video.pan(12, 4)])
    result = scores(moved(video, shifts))
    assert result["cuts"] == 1
    assert result["flicker"] < 0.3


def test_result_does_not_depend_on_batches():
    video = moved(
        synthetic_video.pan(3, 6), torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    )
    assert scores(video, 1) == pytest.approx(scores(video), abs=1e-4)


def test_gray_and_single_frames():
    video = synthetic_video.pan(4, 3)
    assert scores(video[..., :1])["flicker"] < 1e-3
    assert scores(video[:1]) == {"flicker": 0, "still_deviation": 0, "frames": 1, "cuts": 0}
    assert FlickerMeter().scores()["frames"] == 0


def test_frames_of_another_size_are_rejected():
    flicker = FlickerMeter()
    flicker.push(synthetic_video.pan(5, 1))
    with pytest.raises(ValueError, match="frame 1 is 96x128 at working size"):
        flicker.push(synthetic_video.pan(5, 1).swapaxes(1, 2))
