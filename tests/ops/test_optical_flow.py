"""Motion between frames, against motion that is known."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.ops import color, optical_flow

FILMS = Path(__file__).resolve().parents[1] / "films.py"
films = SimpleNamespace(**runpy.run_path(str(FILMS)))

INNER = (..., slice(10, -10), slice(10, -10))  # beyond the rim that came into sight


def lightness(film):
    return color.lightness(film.movedim(-1, 1))


@pytest.mark.parametrize("step", [(0.0, 0.0), (0.4, -0.3), (3.0, 1.0), (-9.0, 5.0), (14.0, 0.0)])
def test_finds_a_pan(step):
    L = lightness(films.pan(0, 2, step))
    came, went = optical_flow.between(L[:1], L[1:])
    error = torch.linalg.vector_norm(came.flow - torch.tensor(step)[:, None, None], dim=1)
    back = torch.linalg.vector_norm(went.flow + torch.tensor(step)[:, None, None], dim=1)
    assert error[INNER].median() < 0.1
    assert back[INNER].median() < 0.1
    assert came.likeness > 0.9
    seen = came.trust[INNER][0, 0, :, 12:-15]  # not what came into sight by this step
    assert seen.mean() > 0.8


def test_another_light_is_no_motion():
    L = lightness(films.pan(1, 2, (3.0, 1.0)))
    came, _ = optical_flow.between(L[:1], 0.7 * L[1:] + 12)
    assert (came.flow - torch.tensor([3.0, 1.0])[:, None, None])[INNER].abs().median() < 0.1
    assert came.likeness > 0.9


def test_grain_is_no_texture():
    random = torch.Generator().manual_seed(0)
    L = lightness(films.pan(2, 2, (3.0, 1.0)))
    came, _ = optical_flow.between(L[:1], L[1:] + 2 * torch.randn(L[1:].shape, generator=random))
    assert (came.flow - torch.tensor([3.0, 1.0])[:, None, None])[INNER].abs().median() < 0.2


def test_another_scene_is_unlike():
    for seed in range(4):
        before, after = lightness(films.pan(seed, 1)), lightness(films.pan(seed + 10, 1))
        came, went = optical_flow.between(before, after)
        assert came.likeness < 0.35
        assert torch.equal(came.likeness, went.likeness)


def test_what_comes_into_sight_is_not_trusted():
    film, disc = films.with_disc(films.pan(3, 2, (1.0, 0.0)), first=1)
    L = lightness(film)
    came, _ = optical_flow.between(L[:1], L[1:])
    new, old = came.trust[0, 0][disc[1]], came.trust[0, 0][~disc[1]]
    assert new.mean() < 0.25
    assert old.mean() > 0.7


def test_a_batch_is_its_pairs():
    L = lightness(films.pan(4, 3, (2.0, -1.0)))
    both, _ = optical_flow.between(L[:2], L[1:])
    for i in range(2):
        one, _ = optical_flow.between(L[i : i + 1], L[i + 1 : i + 2])
        torch.testing.assert_close(both.flow[i : i + 1], one.flow, atol=1e-4, rtol=0)


def test_warp_takes_what_the_flow_points_to():
    x = torch.rand(1, 2, 7, 9)
    flow = torch.zeros(1, 2, 7, 9)
    assert torch.allclose(optical_flow.warp(x, flow), x, atol=1e-6)
    flow[:, 0], flow[:, 1] = 2, 1
    moved = optical_flow.warp(x, flow)
    assert torch.allclose(moved[..., :-1, :-2], x[..., 1:, 2:], atol=1e-5)
    assert torch.allclose(moved[..., :-1, -1], x[..., 1:, -1], atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 7), (64, 8)])
def test_any_size(size):
    L = 100 * torch.rand(1, 1, *size)
    came, went = optical_flow.between(L, L)
    for found in (came, went):
        assert found.flow.shape == (1, 2, *size)
        assert all(x.isfinite().all() for x in found)
        assert found.flow.abs().max() < 0.5


def test_trail_follows_cuts_and_flashes():
    one, two = lightness(films.pan(6, 12)), lightness(films.pan(16, 12))
    flash = [lightness(films.pan(seed, 1)) for seed in (20, 21, 22, 23, 24)]

    def gaps(frames):
        trail, found = optical_flow.Trail(frames[0]), []
        for L in frames[1:]:
            link, trail = trail.follow(L)
            found.append(link and link.gap)
        assert trail.number == len(frames)
        return found

    frames = one.split(1)
    assert gaps(frames[:4]) == [1, 1, 1]
    assert gaps([*frames[:2], *two.split(1)[:3]]) == [1, None, 1, 1]
    assert gaps([*frames[:2], flash[0], *frames[3:5]]) == [1, None, 2, 1]
    assert gaps([*frames[:2], *flash[:2], *frames[4:6]]) == [1, None, None, 3, 1]
    # Longer than a flash: what comes after is new
    assert gaps([*frames[:2], *flash[:4], *frames[2:4]]) == [1, None, None, None, None, None, 1]
    # A cut behind a flash
    assert gaps([*frames[:2], flash[0], *two.split(1)[:3]]) == [1, None, None, 1, 1]
