"""Steady colour: what flickers is calmed, what changes may change, L never does."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.metrics.flicker import Flicker
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.video.stabilizer import Controls, Stabilizer, State

FILMS = Path(__file__).resolve().parents[2] / "films.py"
films = SimpleNamespace(**runpy.run_path(str(FILMS)))

AHEAD = Controls().ahead


def steady(film, parts=None, **controls):
    stabilizer = Stabilizer(Controls(**controls))
    given = [stabilizer.push(part) for part in film.split(parts or len(film))]
    return torch.cat([*given, *stabilizer.finish()])


def tinted(film, shifts):
    """Each frame of the film with its chroma moved by a row of `shifts` (T, 2)."""
    lab = color.rgb_to_lab(film.movedim(-1, 1))
    lab[:, 1:] = 0.5 * lab[:, 1:] + shifts[:, :, None, None]
    return color.to_gamut(lab).movedim(1, -1)


def flickering(film, deviation=6.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    return tinted(film, deviation * torch.randn(len(film), 2, generator=random))


def ab(film):
    return color.rgb_to_lab(film.movedim(-1, 1))[:, 1:]


def lightness(film):
    return color.lightness(film.movedim(-1, 1))


def flicker(film):
    measured = Flicker()
    measured.push(film)
    return measured.scores()["flicker"]


@pytest.fixture(scope="module")
def film():
    return flickering(films.pan(0, 20))


@pytest.fixture(scope="module")
def steadied(film):
    return steady(film)


def test_flicker_goes_and_colour_stays(film, steadied):
    assert steadied.shape == film.shape
    assert flicker(steadied) < 0.15 * flicker(film)
    true = tinted(films.pan(0, 20), torch.zeros(20, 2))
    error = torch.linalg.vector_norm(ab(steadied) - ab(true), dim=1).mean()
    before = torch.linalg.vector_norm(ab(film) - ab(true), dim=1).mean()
    assert error < 0.5 * before
    vivid, vivid_before = (torch.linalg.vector_norm(ab(x), dim=1).mean() for x in (steadied, film))
    assert vivid > 0.9 * vivid_before


def test_lightness_stays(film, steadied):
    assert (lightness(steadied) - lightness(film)).abs().max() < 0.02


def test_steady_film_stays():
    film = tinted(films.pan(1, 1), torch.zeros(1, 2)).expand(6, -1, -1, -1)
    assert (steady(film) - film).abs().max() < 2e-3


def test_strength_zero_changes_no_bit(film):
    assert torch.equal(steady(film[:4], strength=0.0), film[:4])


@pytest.mark.parametrize("parts", [1, 7])
def test_parts_make_no_difference(film, steadied, parts):
    assert (steady(film, parts) - steadied).abs().max() < 1e-4


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_state_goes_on_where_the_part_before_stopped(film, ahead):
    whole = steady(film, ahead=ahead)
    done, state = [], None
    for part in film.split(8):
        stabilizer = Stabilizer(Controls(ahead=ahead), state=state)
        done += [stabilizer.push(part), *stabilizer.finish()]
        state = State.of(stabilizer.state.tensors())
    parts = torch.cat(done)
    # All but the last `ahead` frames of a part that is followed by another are the same
    same = torch.ones(len(film), dtype=torch.bool)
    for end in (8, 16):
        same[end - ahead : end] = False
    assert (parts - whole)[same].abs().max() < 1e-4
    if ahead:
        assert (parts - whole)[~same].abs().max() > 1e-3


def test_goes_on_from_the_last_frame_given(film, steadied):
    first = Stabilizer()
    given = first.push(film[:15])
    again = Stabilizer(state=State.of(first.given.tensors()))
    rest = torch.cat([again.push(film[len(given) :]), *again.finish()])
    assert (torch.cat([given, rest]) - steadied).abs().max() < 1e-4


def test_waits_for_no_more_than_it_says(film):
    stabilizer = Stabilizer()
    numbers = [len(stabilizer.push(frame)) for frame in film[:12].split(1)]
    assert numbers == [0] * AHEAD + [1] * (12 - AHEAD)
    assert len([*stabilizer.finish()]) == AHEAD


@pytest.mark.parametrize("ahead", [0, AHEAD])
def test_no_colour_crosses_a_cut(ahead):
    red, blue = torch.tensor([[40.0, 20.0]]), torch.tensor([[0.0, -40.0]])
    one = tinted(films.pan(2, 6), red.expand(6, -1))
    two = tinted(films.pan(12, 6), blue.expand(6, -1))
    stabilizer = Stabilizer(Controls(ahead=ahead))
    both = torch.cat([stabilizer.push(torch.cat([one, two])), *stabilizer.finish()])
    apart = torch.cat([steady(one, ahead=ahead), steady(two, ahead=ahead)])
    assert stabilizer.cuts == [0, 6]
    assert (both - apart).abs().max() < 1e-4


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_leaves_nothing_behind(length):
    film = tinted(films.pan(3, 12), torch.zeros(12, 2))
    flashed = film.clone()
    other = tinted(films.pan(30, length, (0.0, 0.0)), torch.tensor([[60.0, 40.0]] * length))
    flashed[5 : 5 + length] = other
    stabilizer = Stabilizer(Controls(ahead=0))
    after = torch.cat([stabilizer.push(flashed), *stabilizer.finish()])[5 + length :]
    assert (ab(after) - ab(film[5 + length :])).abs().mean() < 1.0
    assert stabilizer.cuts == [0]
    # and the colour from before it is still there
    assert stabilizer.state.last.weight.median() > 5


def test_a_brighter_moment_has_little_say():
    film = tinted(films.pan(4, 9), torch.zeros(9, 2))
    lab = color.rgb_to_lab(film.movedim(-1, 1))
    lab[4, :1] = 0.6 * lab[4, :1] + 40
    lab[4, 1:] += 30
    bright = color.to_gamut(lab).movedim(1, -1)
    steadied = steady(bright, ahead=0)
    assert (ab(steadied[5:]) - ab(film[5:])).abs().mean() < 1.5


def test_what_comes_into_sight_has_its_own_colour():
    film, disc = films.with_disc(tinted(films.pan(5, 8, (1.0, 0.0)), torch.zeros(8, 2)), first=4)
    steadied = steady(film, ahead=0)
    change, was = (
        torch.linalg.vector_norm(ab(other) - ab(film[4:5]), dim=1)[0][disc[4]].mean()
        for other in (steadied[4:5], film[3:4])
    )
    assert was > 40
    assert change < 0.25 * was


def test_alpha_and_dtype_stay(film):
    alpha = torch.rand(3, *film.shape[1:3], 1)
    out = steady(torch.cat([film[:3], alpha], dim=-1).half())
    assert out.dtype == torch.float16
    assert torch.equal(out[..., 3:], alpha.half())


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (40, 6)])
def test_any_size(size):
    out = steady(torch.rand(3, *size, 3))
    assert out.shape == (3, *size, 3)
    assert out.isfinite().all()


def test_refusals(film):
    with pytest.raises(ValueError, match="the film is grey"):
        Stabilizer().push(film[..., :1])
    stabilizer = Stabilizer()
    stabilizer.push(film[:1])
    with pytest.raises(ValueError, match="frame 1 is 96x128 at working size, but the frames"):
        stabilizer.push(film[:1].swapaxes(1, 2))
    with pytest.raises(ValueError, match="frames is 0; expected 1 to 240"):
        Controls(frames=0)


def test_stops_where_asked(film):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stabilizer(before_each=stop).push(film)
