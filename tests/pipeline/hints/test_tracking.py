"""Hints that go with what they lie on, on films whose motion is known."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.pipeline.hints import schema as hint_schema
from comfyui_colorist.pipeline.hints.schema import Hint
from comfyui_colorist.pipeline.hints.tracking import Follower, of_picture

FILMS = Path(__file__).resolve().parents[2] / "films.py"
films = SimpleNamespace(**runpy.run_path(str(FILMS)))

RED = Hint(0.5, 0.5, "#c02020", 4)
EDGE = Hint(0.03, 0.5, "#20c020")


def frames(film):
    return film.movedim(-1, 1).split(1)


def test_hints_go_with_a_pan():
    film = films.pan(0, 8, (2.0, 1.0))  # what is at x was at x + 2
    follower = Follower([RED, EDGE])
    found = [follower.next(frame) for frame in frames(film)]
    assert found[0] == [RED, EDGE]
    (last,) = found[-1]  # the other one has left the picture
    assert last.x == pytest.approx(0.5 - 7 * 2 / 128, abs=0.01)
    assert last.y == pytest.approx(0.5 - 7 * 1 / 96, abs=0.01)
    assert (last.color, last.size) == (RED.color, RED.size)


def test_a_hint_that_is_hidden_is_gone():
    film, disc = films.with_disc(films.pan(1, 6, (0.0, 0.0)), first=3, speed=0.0)
    follower = Follower([Hint(1 / 3, 0.5, "#c02020"), Hint(0.8, 0.8, "#20c020")])
    found = [follower.next(frame) for frame in frames(film)]
    assert [len(hints) for hints in found] == [2, 2, 2, 1, 1, 1]


def test_cuts_flashes_and_new_hints():
    one, two = frames(films.pan(2, 6, (0.0, 0.0))), frames(films.pan(12, 3, (0.0, 0.0)))
    flash = frames(films.pan(20, 1))
    follower = Follower([RED])
    found = [follower.next(frame) for frame in (*one[:2], *flash, *one[3:5], *two[:2])]
    assert [len(hints) for hints in found] == [1, 1, 0, 1, 1, 0, 0]
    follower.replace([EDGE])
    assert follower.next(two[2]) == [EDGE]


@pytest.mark.parametrize("stop", [0, 2, 3, 5])
def test_goes_on_from_its_tensors(stop):
    film = (*frames(films.pan(3, 3)), *frames(films.pan(20, 1)), *frames(films.pan(3, 6))[4:])
    whole = Follower([RED])
    expected = [whole.next(frame) for frame in film]
    first = Follower([RED])
    found = [first.next(frame) for frame in film[:stop]]
    again = Follower.of(first.tensors())
    assert [*found, *(again.next(frame) for frame in film[stop:])] == expected


def test_hints_of_a_key_frame():
    picture = torch.full((1, 3, 96, 128), 0.5)
    picture[:, :, :, 64:] = torch.tensor([0.7, 0.4, 0.35])[:, None, None]
    hints = of_picture(picture)
    assert 200 < len(hints) <= hint_schema.MOST
    grey, red = ([h for h in hints if (h.x > 0.5) == side] for side in (False, True))
    assert max(abs(v) for hint in grey for v in hint.ab) < 1
    assert all(hint.ab == pytest.approx((29, 19), abs=3) for hint in red)
    # None on an edge of colour
    picture[:, :, :, 62:] = torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    assert not [hint for hint in of_picture(picture) if abs(hint.x * 128 - 62) < 2]
    assert len(of_picture(torch.rand(1, 3, 1, 1))) == 1
    assert len(of_picture(torch.full((1, 3, 20, 4000), 0.4))) <= hint_schema.MOST
