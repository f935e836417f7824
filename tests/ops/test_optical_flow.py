"""Estimated motion between frames against known motion."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.ops import color, optical_flow

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[1] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))

INNER = (..., slice(10, -10), slice(10, -10))  # beyond the rim that backward into sight


def lightness(video):
    return color.lightness(video.movedim(-1, 1))


@pytest.mark.parametrize("step", [(0.0, 0.0), (0.4, -0.3), (3.0, 1.0), (-9.0, 5.0), (14.0, 0.0)])
def test_finds_a_pan(step):
    L = lightness(synthetic_video.pan(0, 2, step))
    backward, forward = optical_flow.estimate_flow(L[:1], L[1:])
    error = torch.linalg.vector_norm(backward.flow - torch.tensor(step)[:, None, None], dim=1)
    back = torch.linalg.vector_norm(forward.flow + torch.tensor(step)[:, None, None], dim=1)
    assert error[INNER].median() < 0.1
    assert back[INNER].median() < 0.1
    assert backward.correlation > 0.9
    seen = backward.confidence[INNER][0, 0, :, 12:-15]  # not what backward into sight by this step
    assert seen.mean() > 0.8


def test_light_changes_are_not_motion():
    L = lightness(synthetic_video.pan(1, 2, (3.0, 1.0)))
    backward, _ = optical_flow.estimate_flow(L[:1], 0.7 * L[1:] + 12)
    assert (backward.flow - torch.tensor([3.0, 1.0])[:, None, None])[INNER].abs().median() < 0.1
    assert backward.correlation > 0.9


def test_grain_is_not_texture():
    random = torch.Generator().manual_seed(0)
    L = lightness(synthetic_video.pan(2, 2, (3.0, 1.0)))
    backward, _ = optical_flow.estimate_flow(
        L[:1], L[1:] + 2 * torch.randn(L[1:].shape, generator=random)
    )
    assert (backward.flow - torch.tensor([3.0, 1.0])[:, None, None])[INNER].abs().median() < 0.2


def test_different_scenes_do_not_correlate():
    for seed in range(4):
        before, after = (
            lightness(synthetic_video.pan(seed, 1)),
            lightness(synthetic_video.pan(seed + 10, 1)),
        )
        backward, forward = optical_flow.estimate_flow(before, after)
        assert backward.correlation < 0.35
        assert torch.equal(backward.correlation, forward.correlation)


def test_new_content_has_low_confidence():
    video, disc = synthetic_video.with_disc(synthetic_video.pan(3, 2, (1.0, 0.0)), first=1)
    L = lightness(video)
    backward, _ = optical_flow.estimate_flow(L[:1], L[1:])
    new, old = backward.confidence[0, 0][disc[1]], backward.confidence[0, 0][~disc[1]]
    assert new.mean() < 0.25
    assert old.mean() > 0.7


def test_batch_equals_single_pairs():
    L = lightness(synthetic_video.pan(4, 3, (2.0, -1.0)))
    both, _ = optical_flow.estimate_flow(L[:2], L[1:])
    for i in range(2):
        single, _ = optical_flow.estimate_flow(L[i : i + 1], L[i + 1 : i + 2])
        torch.testing.assert_close(both.flow[i : i + 1], single.flow, atol=1e-4, rtol=0)


def test_warp_samples_at_the_flow_target():
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
    backward, forward = optical_flow.estimate_flow(L, L)
    for motion in (backward, forward):
        assert motion.flow.shape == (1, 2, *size)
        assert all(x.isfinite().all() for x in motion)
        assert motion.flow.abs().max() < 0.5


def test_shot_tracker_follows_cuts_and_flashes():
    first, second = lightness(synthetic_video.pan(6, 12)), lightness(synthetic_video.pan(16, 12))
    flash = [lightness(synthetic_video.pan(seed, 1)) for seed in (20, 21, 22, 23, 24)]

    def gaps(frames):
        tracker, links = optical_flow.ShotTracker(frames[0]), []
        for L in frames[1:]:
            link, tracker = tracker.advance(L)
            links.append(link and link.gap)
        assert tracker.frame_count == len(frames)
        return links

    frames = first.split(1)
    assert gaps(frames[:4]) == [1, 1, 1]
    assert gaps([*frames[:2], *second.split(1)[:3]]) == [1, None, 1, 1]
    assert gaps([*frames[:2], flash[0], *frames[3:5]]) == [1, None, 2, 1]
    assert gaps([*frames[:2], *flash[:2], *frames[4:6]]) == [1, None, None, 3, 1]
    # Longer than a flash: what comes after is new
    assert gaps([*frames[:2], *flash[:4], *frames[2:4]]) == [1, None, None, None, None, None, 1]
    # A cut behind a flash
    assert gaps([*frames[:2], flash[0], *second.split(1)[:3]]) == [1, None, None, 1, 1]
