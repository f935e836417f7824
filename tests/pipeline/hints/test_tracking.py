"""Hint tracking on synthetic videos of known motion."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.pipeline.hints.schema import MAX_POINTS, Hint
from comfyui_colorist.pipeline.hints.tracking import HintTracker, hints_from_image

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[2] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))

RED = Hint(0.5, 0.5, "#c02020", 4)
EDGE = Hint(0.03, 0.5, "#20c020")


def frames(film):
    return film.movedim(-1, 1).split(1)


def test_hints_follow_a_pan():
    film = synthetic_video.pan(0, 8, (2.0, 1.0))  # what is at x was at x + 2
    tracker = HintTracker([RED, EDGE])
    found = [tracker.track(frame) for frame in frames(film)]
    assert found[0] == [RED, EDGE]
    (last,) = found[-1]  # the other one has left the picture
    assert last.x == pytest.approx(0.5 - 7 * 2 / 128, abs=0.01)
    assert last.y == pytest.approx(0.5 - 7 * 1 / 96, abs=0.01)
    assert (last.color, last.size) == (RED.color, RED.size)


def test_hidden_hints_disappear():
    film, disc = synthetic_video.with_disc(
        synthetic_video.pan(1, 6, (0.0, 0.0)), first=3, speed=0.0
    )
    tracker = HintTracker([Hint(1 / 3, 0.5, "#c02020"), Hint(0.8, 0.8, "#20c020")])
    found = [tracker.track(frame) for frame in frames(film)]
    assert [len(hints) for hints in found] == [2, 2, 2, 1, 1, 1]


def test_cuts_flashes_and_new_hints():
    one, two = (
        frames(synthetic_video.pan(2, 6, (0.0, 0.0))),
        frames(synthetic_video.pan(12, 3, (0.0, 0.0))),
    )
    flash = frames(synthetic_video.pan(20, 1))
    tracker = HintTracker([RED])
    found = [tracker.track(frame) for frame in (*one[:2], *flash, *one[3:5], *two[:2])]
    assert [len(hints) for hints in found] == [1, 1, 0, 1, 1, 0, 0]
    tracker.replace([EDGE])
    assert tracker.track(two[2]) == [EDGE]


@pytest.mark.parametrize("stop", [0, 2, 3, 5])
def test_resumes_from_its_tensors(stop):
    film = (
        *frames(synthetic_video.pan(3, 3)),
        *frames(synthetic_video.pan(20, 1)),
        *frames(synthetic_video.pan(3, 6))[4:],
    )
    whole = HintTracker([RED])
    expected = [whole.track(frame) for frame in film]
    first = HintTracker([RED])
    found = [first.track(frame) for frame in film[:stop]]
    again = HintTracker.from_tensors(first.to_tensors())
    assert [*found, *(again.track(frame) for frame in film[stop:])] == expected


def test_hints_of_a_key_frame():
    picture = torch.full((1, 3, 96, 128), 0.5)
    picture[:, :, :, 64:] = torch.tensor([0.7, 0.4, 0.35])[:, None, None]
    hints = hints_from_image(picture)
    assert 200 < len(hints) <= MAX_POINTS
    grey, red = ([h for h in hints if (h.x > 0.5) == side] for side in (False, True))
    assert max(abs(v) for hint in grey for v in hint.ab) < 1
    assert all(hint.ab == pytest.approx((29, 19), abs=3) for hint in red)
    # None on an edge of colour
    picture[:, :, :, 62:] = torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    assert not [hint for hint in hints_from_image(picture) if abs(hint.x * 128 - 62) < 2]
    assert len(hints_from_image(torch.rand(1, 3, 1, 1))) == 1
    assert len(hints_from_image(torch.full((1, 3, 20, 4000), 0.4))) <= MAX_POINTS
