"""Flicker, against films whose flicker is known."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.metrics.flicker import Flicker
from comfyui_colorist.ops import color

FILMS = Path(__file__).resolve().parents[1] / "films.py"
films = SimpleNamespace(**runpy.run_path(str(FILMS)))


def scores(film, parts=100):
    flicker = Flicker()
    for part in film.split(parts):
        flicker.push(part)
    return flicker.scores()


def moved(film, shifts):
    """Each frame with its chroma moved by a row of `shifts`, far inside the gamut."""
    lab = color.rgb_to_lab(film.movedim(-1, 1))
    lab[:, :1] = 40 + 0.2 * lab[:, :1]
    lab[:, 1:] = 0.1 * lab[:, 1:] + shifts[:, :, None, None]
    return color.lab_to_rgb(lab).movedim(1, -1)


def test_known_changes_of_a_still_film():
    film = films.pan(0, 1).expand(8, -1, -1, -1)
    shifts = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).repeat(4, 1)
    found = scores(moved(film, shifts))
    assert found["flicker"] == pytest.approx(5, abs=0.05)
    assert found["still_deviation"] == pytest.approx(2.5, abs=0.03)
    assert (found["frames"], found["cuts"]) == (8, 0)


def test_a_pan_without_flicker_has_none():
    film = films.pan(1, 8, (3.0, 1.0))
    found = scores(moved(film, torch.zeros(8, 2)))
    assert found["flicker"] < 0.2
    assert found["still_deviation"] == 0  # nothing is still
    shifts = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).repeat(4, 1)
    assert scores(moved(film, shifts))["flicker"] == pytest.approx(5, abs=0.2)


def test_cuts_do_not_flicker():
    shifts = torch.tensor([[20.0, 0.0]] * 4 + [[-20.0, 0.0]] * 4)
    film = torch.cat([films.pan(2, 4), films.pan(12, 4)])
    found = scores(moved(film, shifts))
    assert found["cuts"] == 1
    assert found["flicker"] < 0.3


def test_parts_make_no_difference():
    film = moved(films.pan(3, 6), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))
    assert scores(film, 1) == pytest.approx(scores(film), abs=1e-4)


def test_grey_and_single_frames():
    film = films.pan(4, 3)
    assert scores(film[..., :1])["flicker"] < 1e-3
    assert scores(film[:1]) == {"flicker": 0, "still_deviation": 0, "frames": 1, "cuts": 0}
    assert Flicker().scores()["frames"] == 0


def test_another_size_is_refused():
    flicker = Flicker()
    flicker.push(films.pan(5, 1))
    with pytest.raises(ValueError, match="frame 1 is 96x128 at working size"):
        flicker.push(films.pan(5, 1).swapaxes(1, 2))
