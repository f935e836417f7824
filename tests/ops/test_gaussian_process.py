"""Kriging against a dense solve, and what must not change it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import gaussian_process
from comfyui_colorist.ops.gaussian_process import COLORS, CORRECTIONS, Field, Kernel, krige

SIZES = [(1, 1), (1, 9), (3, 5), (16, 24), (31, 33)]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def task(batch=1, count=5, height=16, width=24, seed=0):
    """Lightness, hints in different cells, their colours; all valid."""
    h, w = -(-height // 2), -(-width // 2)
    L = 100 * random(batch, 1, height, width, seed=seed)
    order = random(batch, h * w, seed=seed + 1).argsort(1)[:, :count]
    places = torch.stack([order // w, order % w], dim=-1) * 2 + 1.0
    ab = 100 * random(batch, count, 2, seed=seed + 2) - 50
    return L, places, ab, torch.ones(batch, count, dtype=torch.bool)


def dense(L, places, ab, kernel):
    """One picture in float64, cell by cell: (H, W), (N, 2), (N, 2) -> (2, h, w) of cells."""
    H, W = L.shape
    h, w = -(-H // 2), -(-W // 2)
    cell = np.array([[L[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(w)]
                     for i in range(h)])  # fmt: skip
    scale = kernel.reach * np.hypot(H, W)
    grid = [((2 * i + 1) / scale, (2 * j + 1) / scale, cell[i, j] / kernel.light)
            for i in range(h) for j in range(w)]  # fmt: skip
    known = [(y / scale, x / scale, cell[min(int(y) // 2, h - 1), min(int(x) // 2, w - 1)]
              / kernel.light) for y, x in places]  # fmt: skip

    def covariance(a, b):
        distance = np.linalg.norm(np.array(a)[:, None] - np.array(b)[None], axis=-1)
        return np.exp(-distance) + kernel.mean

    own = covariance(known, known) + kernel.noise * np.eye(len(known))
    return (covariance(grid, known) @ np.linalg.solve(own, ab)).T.reshape(2, h, w)


def cells_of(found):
    """(B, 2, H, W) of even size -> the cells (B, 2, h, w) that it was brought up from.

    Scaled up bilinearly by 2 the four pixels about a corner hold each cell's share of 9 / 16.
    """
    up = F.interpolate(torch.eye(found.shape[2] // 2)[None], scale_factor=2, mode="linear")[0].T
    across = F.interpolate(torch.eye(found.shape[3] // 2)[None], scale_factor=2, mode="linear")[0].T
    return torch.linalg.pinv(up.double()) @ found.double() @ torch.linalg.pinv(across.double()).T


@pytest.mark.parametrize("kernel", [COLORS, CORRECTIONS, Kernel(0.5, 10.0, 1.0, 0.1)])
@pytest.mark.parametrize("size", SIZES)
def test_equals_a_dense_solve(size, kernel):
    L, places, ab, valid = task(count=min(7, -(-size[0] // 2) * -(-size[1] // 2)), height=size[0],
                                width=size[1])  # fmt: skip
    want = dense(L[0, 0].double().numpy(), places[0].numpy(), ab[0].double().numpy(), kernel)
    want = F.interpolate(torch.from_numpy(want)[None], scale_factor=2, mode="bilinear")
    want = want[:, :, : size[0], : size[1]].float()
    found = krige(L, places, ab, valid, kernel)
    assert found.shape == (1, 2, *size) and found.dtype == torch.float32
    torch.testing.assert_close(found, want, atol=2e-3, rtol=0)


def learned(batch, cells, seed=0):
    """A field such as a network might give."""
    rng = torch.Generator().manual_seed(seed)

    def some(*shape):
        return torch.rand(*shape, generator=rng)

    return Field(
        some(3, batch, cells, 4),
        amplitude=some(2, 3),
        shared=some(2),
        noise=0.01 + some(batch, cells),
        spread=0.5 + some(batch, cells),
        mean=20 * some(batch, cells, 2) - 10,
        place=None,
        nearby=2 * some(batch, cells, 2),
    )


@pytest.mark.parametrize("of_base", [False, True])
def test_a_field_equals_a_dense_solve(of_base):
    """The formula of `Field`, cell by cell; corrections have numbers of their own and no mean."""
    L, places, ab, valid = task(2)
    field, h, w = learned(2, 96), 8, 12
    found = cells_of(krige(L, places, ab, valid, field.corrections() if of_base else field))
    for i in range(2):
        x, amplitude, shared, noise, spread, mean = (part.double() for part in field[:6])
        place = field.nearby.double() if of_base else 0 * field.nearby
        rows = (places[i, :, 0].long() // 2) * w + places[i, :, 1].long() // 2

        def k(p, q, i=i, x=x, amplitude=amplitude, shared=shared, spread=spread, place=place):
            alike = shared[int(of_base)] + sum(
                a * torch.exp(-(y[i, p] - y[i, q]).norm())
                for a, y in zip(amplitude[int(of_base)], x, strict=True)
            )
            near = torch.exp(-(place[i, p] - place[i, q]).norm())
            return spread[i, p] * spread[i, q] * alike * near

        own = torch.tensor([[k(p, q) for q in rows] for p in rows]) + noise[i, rows].diag()
        before = 0 * mean[i] if of_base else mean[i]
        weights = torch.linalg.solve(own, ab[i].double() - before[rows])
        across = torch.tensor([[k(p, q) for q in rows] for p in range(h * w)])
        want = (before + across @ weights).T.view(2, h, w)
        torch.testing.assert_close(found[i], want, atol=2e-3, rtol=0)


def test_parts_of_a_field():
    field = learned(3, 10)
    assert field.to("cpu").place is None and torch.equal(field.to("cpu").mean, field.mean)
    some, rows = field.some([2, 0]), torch.tensor([[1, 7], [0, 0], [9, 2]])
    assert torch.equal(some.mean, field.mean[[2, 0]]) and some.coordinates.shape == (3, 2, 10, 4)
    assert torch.equal(field.cells(rows).coordinates[1, 2, 0], field.coordinates[1, 2, 9])
    assert torch.equal(field.cells(rows).noise[0], field.noise[0, [1, 7]])
    parts = list(field.split(4))
    assert [part.spread.shape[1] for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.mean for part in parts], dim=1), field.mean)


def test_without_hints_the_mean():
    L, field = torch.zeros(1, 1, 16, 24), learned(1, 96)
    for count in (0, 2):
        none = torch.zeros(1, count) > 0
        found = krige(L, torch.zeros(1, count, 2), torch.full((1, count, 2), 9.0), none, field)
        want = field.mean.mT.view(1, 2, 8, 12).double()
        torch.testing.assert_close(cells_of(found), want, atol=1e-4, rtol=0)


def test_the_constants_of_colours_are_the_published_ones():
    """Those of the classical method that it stands for."""
    assert Kernel(reach=1.0, light=50.0, mean=0.3, noise=0.02) == COLORS


@pytest.mark.parametrize("kernel", [COLORS, CORRECTIONS])
def test_hints_get_about_their_colours(kernel):
    L, places, ab, valid = task(count=4)
    at = places[0].long() // 2
    errors = []
    for noise in (kernel.noise, 1e-4):
        exact = Kernel(kernel.reach, kernel.light, kernel.mean, noise)
        cells = cells_of(krige(L, places, ab, valid, exact))
        errors.append((cells[0, :, at[:, 0], at[:, 1]].T - ab[0]).abs().max().item())
    assert errors[0] < 10 and errors[1] < 0.1
    assert errors[1] < errors[0] / 20


def test_a_lone_hint_reaches_further_where_it_is_as_light():
    L = torch.full((1, 1, 32, 32), 40.0)
    L[..., 16:] = 90
    place, ab = torch.tensor([[[15.0, 9.0]]]), torch.tensor([[[30.0, -20.0]]])
    found = krige(L, place, ab, torch.ones(1, 1, dtype=torch.bool))
    size = found.norm(dim=1)[0]
    assert size[15, 8] > size[15, 2] > size[1, 2]  # falls with distance
    assert size[15, 3] > size[15, 17] + 3  # and more across an edge of lightness
    torch.testing.assert_close(found[0, 1], found[0, 0] * (-2 / 3))  # the hue stays


def test_no_hints_no_colour():
    for kernel in (COLORS, CORRECTIONS):
        none = krige(
            random(2, 1, 9, 7), torch.zeros(2, 0, 2), torch.zeros(2, 0, 2), torch.zeros(2, 0) > 0,
            kernel,
        )  # fmt: skip
        assert none.shape == (2, 2, 9, 7) and not none.any()
        L, places, ab, valid = task(2)
        assert not krige(L, places, ab, ~valid, kernel).any()


def test_rows_that_hold_no_hint_have_no_influence():
    L, places, ab, valid = task(count=6)
    valid[:, [1, 4]] = False
    kept = valid[0]
    want = krige(L, places[:, kept], ab[:, kept], valid[:, kept])
    torch.testing.assert_close(krige(L, places, ab, valid), want, atol=1e-3, rtol=0)
    places[:, ~kept], ab[:, ~kept] = 1e4, 1e4
    torch.testing.assert_close(krige(L, places, ab, valid), want, atol=1e-3, rtol=0)


def test_a_batch_equals_its_pictures():
    L, places, ab, valid = task(3)
    valid[0, 1:], valid[1], valid[2, 0] = False, False, False
    together = krige(L, places, ab, valid)
    assert not together[1].any()
    for i in range(3):
        one = krige(*(x[i : i + 1] for x in (L, places, ab, valid)))
        torch.testing.assert_close(together[i : i + 1], one, atol=1e-3, rtol=0)


@pytest.mark.parametrize("at_once", [1, 100, 1001])
def test_pieces_change_nothing(monkeypatch, at_once):
    given = task(2, count=7, height=31, width=33)
    whole = krige(*given)
    monkeypatch.setattr(gaussian_process, "AT_ONCE", at_once)
    torch.testing.assert_close(krige(*given), whole, atol=1e-4, rtol=0)


def test_two_hints_at_one_place_are_averaged():
    L, places, ab, valid = task(count=2)
    places[0, 1] = places[0, 0]
    found = krige(L, places, ab, valid)
    y, x = places[0, 0].long() // 2
    cell = cells_of(found)[0, :, y, x]
    assert found.isfinite().all()
    torch.testing.assert_close(cell.float(), ab[0].mean(0), atol=1, rtol=0.02)


def test_a_thousand_hints():
    """Many of them in one place: float32 must do."""
    L, places, ab, valid = task(count=1000, height=64, width=80)
    places[0, 500:] = places[0, 500]
    found = krige(L, places, ab, valid)
    assert found.isfinite().all() and found.abs().max() < 70
    want = dense(L[0, 0].double().numpy(), places[0].numpy(), ab[0].double().numpy(), COLORS)
    torch.testing.assert_close(cells_of(found)[0], torch.from_numpy(want), atol=0.2, rtol=0)


def test_smooth_within_cells_and_of_their_own_place():
    """A colour that grows along x grows evenly along pixels: nothing is shifted by half a cell."""
    L, x = torch.full((1, 1, 4, 40), 50.0), torch.arange(1.0, 40, 2)
    places = torch.stack([torch.full_like(x, 1), x], dim=-1)[None]
    ab = torch.stack([x - 20, 20 - x], dim=-1)[None]
    exact = Kernel(reach=1.0, light=50.0, mean=1.0, noise=1e-4)
    found = krige(L, places, ab, torch.ones(1, 20, dtype=torch.bool), exact)
    want = torch.arange(40) + 0.5 - 20
    torch.testing.assert_close(found[0, 0, 0, 2:-2], want[2:-2], atol=0.1, rtol=0)
    torch.testing.assert_close(found[0, 1, 1, 2:-2], -want[2:-2], atol=0.25, rtol=0)
