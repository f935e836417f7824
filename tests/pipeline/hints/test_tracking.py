"""Hint tracking on synthetic videos of known motion."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.pipeline.hints.schema import (
    MAX_POINTS,
    Hint,
    MaskRegion,
    Region,
    Stroke,
)
from comfyui_colorist.pipeline.hints.tracking import HintTracker, hints_from_image

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[2] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))

RED = Hint(0.5, 0.5, "#c02020", 4)
EDGE = Hint(0.03, 0.5, "#20c020")


def frames(video):
    return video.movedim(-1, 1).split(1)


def test_hints_follow_a_pan():
    video = synthetic_video.pan(0, 8, (2.0, 1.0))  # content moves by -2 per frame
    tracker = HintTracker([RED, EDGE])
    tracked = [tracker.track(frame) for frame in frames(video)]
    assert tracked[0] == [RED, EDGE]
    (last,) = tracked[-1]  # the other hint has left the frame
    assert last.x == pytest.approx(0.5 - 7 * 2 / 128, abs=0.01)
    assert last.y == pytest.approx(0.5 - 7 * 1 / 96, abs=0.01)
    assert (last.color, last.size) == (RED.color, RED.size)


def test_hidden_hints_disappear():
    video, disc = synthetic_video.with_disc(
        synthetic_video.pan(1, 6, (0.0, 0.0)), first=3, speed=0.0
    )
    tracker = HintTracker([Hint(1 / 3, 0.5, "#c02020"), Hint(0.8, 0.8, "#20c020")])
    tracked = [tracker.track(frame) for frame in frames(video)]
    assert [len(hints) for hints in tracked] == [2, 2, 2, 1, 1, 1]


def test_strokes_and_regions_follow_vertex_by_vertex():
    video = synthetic_video.pan(0, 8, (2.0, 1.0))  # content moves by -2 per frame
    stroke = Stroke([(0.03, 0.5), (0.4, 0.5), (0.6, 0.6)], "red", 4, 0.2)
    square = Region([(0.03, 0.3), (0.3, 0.3), (0.3, 0.5), (0.2, 0.5)], "blue", 0.1)
    lost = Region([(0.03, 0.3), (0.3, 0.3), (0.3, 0.5)], "blue")
    tracker = HintTracker([stroke, RED, square, lost])
    tracked = [tracker.track(frame) for frame in frames(video)]
    assert [len(hints) for hints in tracked][::7] == [4, 3]
    moved, point, triangle = tracked[-1]
    assert isinstance(point, Hint)
    assert (moved.color, moved.width, moved.reach) == ("#ff0000", 4, 0.2)
    for hint, before in ((moved, stroke.points[1:]), (triangle, square.points[1:])):
        want = [(x - 14 / 128, y - 7 / 96) for x, y in before]
        assert hint.points == tuple(pytest.approx(each, abs=0.01) for each in want)
    assert triangle.reach == 0.1


def test_a_hidden_vertex_divides_a_stroke():
    """The parts do not cross what hides it."""
    video, disc = synthetic_video.with_disc(
        synthetic_video.pan(1, 6, (0.0, 0.0)), first=3, speed=0.0
    )
    ends = [(0.02, 0.5), (0.06, 0.5), (1 / 3, 0.5), (0.9, 0.5), (0.95, 0.5)]
    tracker = HintTracker([Stroke(ends, "red")])
    last = [tracker.track(frame) for frame in frames(video)][-1]
    assert [len(stroke.points) for stroke in last] == [2, 2]


def test_a_mask_cannot_follow():
    tracker = HintTracker([MaskRegion(torch.ones(4, 4), "red")])
    first, second = frames(synthetic_video.pan(0, 2))
    tracker.track(first)
    with pytest.raises(ValueError, match="a region with a mask cannot follow motion; use a poly"):
        tracker.track(second)


def test_reads_the_state_of_version_1():
    """Its hints were lists of points."""
    tracker = HintTracker([RED])
    [frame] = frames(synthetic_video.pan(0, 1))
    tracker.track(frame)
    old = [[{"x": 0.5, "y": 0.5, "color": "#c02020", "size": 4}], [], None]
    state = torch.tensor(list(json.dumps(old).encode()), dtype=torch.uint8)
    restored = HintTracker.from_tensors(tracker.to_tensors() | {"hints": state})
    assert restored.track(frame)[0].x == pytest.approx(0.5, abs=1e-3)


def test_cuts_flashes_and_new_hints():
    scene, next_scene = (
        frames(synthetic_video.pan(2, 6, (0.0, 0.0))),
        frames(synthetic_video.pan(12, 3, (0.0, 0.0))),
    )
    flash = frames(synthetic_video.pan(20, 1))
    tracker = HintTracker([RED])
    tracked = [tracker.track(frame) for frame in (*scene[:2], *flash, *scene[3:5], *next_scene[:2])]
    assert [len(hints) for hints in tracked] == [1, 1, 0, 1, 1, 0, 0]
    tracker.replace([EDGE])
    assert tracker.track(next_scene[2]) == [EDGE]


@pytest.mark.parametrize("stop", [0, 2, 3, 5])
def test_resumes_from_its_tensors(stop):
    video = (
        *frames(synthetic_video.pan(3, 3)),
        *frames(synthetic_video.pan(20, 1)),
        *frames(synthetic_video.pan(3, 6))[4:],
    )
    hints = [RED, Stroke([(0.4, 0.5), (0.6, 0.5)], "red", reach=0.2)]
    whole = HintTracker(hints)
    expected = [whole.track(frame) for frame in video]
    first = HintTracker(hints)
    tracked = [first.track(frame) for frame in video[:stop]]
    resumed = HintTracker.from_tensors(first.to_tensors())
    assert [*tracked, *(resumed.track(frame) for frame in video[stop:])] == expected


def test_hints_of_a_key_frame():
    image = torch.full((1, 3, 96, 128), 0.5)
    image[:, :, :, 64:] = torch.tensor([0.7, 0.4, 0.35])[:, None, None]
    hints = hints_from_image(image)
    assert 200 < len(hints) <= MAX_POINTS
    gray, red = ([h for h in hints if (h.x > 0.5) == side] for side in (False, True))
    assert max(abs(v) for hint in gray for v in hint.ab) < 1
    assert all(hint.ab == pytest.approx((29, 19), abs=3) for hint in red)
    # No hint on an edge of color
    image[:, :, :, 62:] = torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    assert not [hint for hint in hints_from_image(image) if abs(hint.x * 128 - 62) < 2]
    assert len(hints_from_image(torch.rand(1, 3, 1, 1))) == 1
    assert len(hints_from_image(torch.full((1, 3, 20, 4000), 0.4))) <= MAX_POINTS
