"""Kriging agrees with a dense solve and is invariant to batching and padding."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import gaussian_process
from comfyui_colorist.ops.gaussian_process import (
    COLOR_KERNEL,
    CORRECTION_KERNEL,
    Field,
    Kernel,
    krige,
)

SIZES = [(1, 1), (1, 9), (3, 5), (16, 24), (31, 33)]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def random_hints(batch=1, count=5, height=16, width=24, seed=0):
    """Return lightness, hint centers in different cells, their colors and an all-True mask."""
    h, w = -(-height // 2), -(-width // 2)
    L = 100 * random(batch, 1, height, width, seed=seed)
    order = random(batch, h * w, seed=seed + 1).argsort(1)[:, :count]
    centers = torch.stack([order // w, order % w], dim=-1) * 2 + 1.0
    ab = 100 * random(batch, count, 2, seed=seed + 2) - 50
    return L, centers, ab, torch.ones(batch, count, dtype=torch.bool)


def dense(L, centers, ab, kernel):
    """Solve for one image in float64: (H, W), (N, 2), (N, 2) -> cells (2, h, w)."""
    H, W = L.shape
    h, w = -(-H // 2), -(-W // 2)
    cell = np.array([[L[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(w)]
                     for i in range(h)])  # fmt: skip
    scale = kernel.spatial_scale * np.hypot(H, W)
    grid = [((2 * i + 1) / scale, (2 * j + 1) / scale, cell[i, j] / kernel.lightness_scale)
            for i in range(h) for j in range(w)]  # fmt: skip
    hint_cells = [(y / scale, x / scale, cell[min(int(y) // 2, h - 1), min(int(x) // 2, w - 1)]
              / kernel.lightness_scale) for y, x in centers]  # fmt: skip

    def covariance(a, b):
        distance = np.linalg.norm(np.array(a)[:, None] - np.array(b)[None], axis=-1)
        return np.exp(-distance) + kernel.mean_variance

    system = covariance(hint_cells, hint_cells) + kernel.noise_variance * np.eye(len(hint_cells))
    return (covariance(grid, hint_cells) @ np.linalg.solve(system, ab)).T.reshape(2, h, w)


def cells_of(result):
    """Recover the cells (B, 2, h, w) from their bilinear upsampling (B, 2, H, W) of even size.

    Scaled up bilinearly by 2 the four pixels about a corner hold each cell's share of 9 / 16.
    """
    up = F.interpolate(torch.eye(result.shape[2] // 2)[None], scale_factor=2, mode="linear")[0].T
    across = F.interpolate(torch.eye(result.shape[3] // 2)[None], scale_factor=2, mode="linear")[
        0
    ].T
    return torch.linalg.pinv(up.double()) @ result.double() @ torch.linalg.pinv(across.double()).T


@pytest.mark.parametrize("kernel", [COLOR_KERNEL, CORRECTION_KERNEL, Kernel(0.5, 10.0, 1.0, 0.1)])
@pytest.mark.parametrize("size", SIZES)
def test_equals_a_dense_solve(size, kernel):
    cells = -(-size[0] // 2) * -(-size[1] // 2)
    L, centers, ab, valid = random_hints(count=min(7, cells), height=size[0], width=size[1])
    want = dense(L[0, 0].double().numpy(), centers[0].numpy(), ab[0].double().numpy(), kernel)
    want = F.interpolate(torch.from_numpy(want)[None], scale_factor=2, mode="bilinear")
    want = want[:, :, : size[0], : size[1]].float()
    result = krige(L, centers, ab, valid, kernel)
    assert result.shape == (1, 2, *size) and result.dtype == torch.float32
    torch.testing.assert_close(result, want, atol=2e-3, rtol=0)


def random_field(batch, cells, seed=0):
    """Return a field as a network might predict it."""
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=rng)

    return Field(
        rand(3, batch, cells, 4),
        amplitude=rand(2, 3),
        constant=rand(2),
        noise=0.01 + rand(batch, cells),
        scale=0.5 + rand(batch, cells),
        mean=20 * rand(batch, cells, 2) - 10,
        position=None,
        correction_position=2 * rand(batch, cells, 2),
    )


@pytest.mark.parametrize("of_base", [False, True])
def test_a_field_equals_a_dense_solve(of_base):
    """The formula of `Field`, cell by cell; corrections have their own parameters and no mean."""
    L, centers, ab, valid = random_hints(2)
    field, h, w = random_field(2, 96), 8, 12
    result = cells_of(krige(L, centers, ab, valid, field.corrections() if of_base else field))
    for i in range(2):
        x, amplitude, constant, noise, scale, mean = (part.double() for part in field[:6])
        position = field.correction_position.double() if of_base else 0 * field.correction_position
        rows = (centers[i, :, 0].long() // 2) * w + centers[i, :, 1].long() // 2

        def k(
            p, q, i=i, x=x, amplitude=amplitude, constant=constant, scale=scale, position=position
        ):
            covariance = constant[int(of_base)] + sum(
                a * torch.exp(-(y[i, p] - y[i, q]).norm())
                for a, y in zip(amplitude[int(of_base)], x, strict=True)
            )
            near = torch.exp(-(position[i, p] - position[i, q]).norm())
            return scale[i, p] * scale[i, q] * covariance * near

        system = torch.tensor([[k(p, q) for q in rows] for p in rows]) + noise[i, rows].diag()
        before = 0 * mean[i] if of_base else mean[i]
        weights = torch.linalg.solve(system, ab[i].double() - before[rows])
        across = torch.tensor([[k(p, q) for q in rows] for p in range(h * w)])
        want = (before + across @ weights).T.view(2, h, w)
        torch.testing.assert_close(result[i], want, atol=2e-3, rtol=0)


def test_parts_of_a_field():
    field = random_field(3, 10)
    assert field.to("cpu").position is None and torch.equal(field.to("cpu").mean, field.mean)
    subset, rows = field.select_images([2, 0]), torch.tensor([[1, 7], [0, 0], [9, 2]])
    assert torch.equal(subset.mean, field.mean[[2, 0]]) and subset.coordinates.shape == (
        3,
        2,
        10,
        4,
    )
    assert torch.equal(field.gather(rows).coordinates[1, 2, 0], field.coordinates[1, 2, 9])
    assert torch.equal(field.gather(rows).noise[0], field.noise[0, [1, 7]])
    parts = list(field.split(4))
    assert [part.scale.shape[1] for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.mean for part in parts], dim=1), field.mean)


def test_no_hints_give_the_prior_mean():
    L, field = torch.zeros(1, 1, 16, 24), random_field(1, 96)
    for count in (0, 2):
        none = torch.zeros(1, count) > 0
        result = krige(L, torch.zeros(1, count, 2), torch.full((1, count, 2), 9.0), none, field)
        want = field.mean.mT.view(1, 2, 8, 12).double()
        torch.testing.assert_close(cells_of(result), want, atol=1e-4, rtol=0)


def test_color_kernel_constants():
    """The constants of the published classical method."""
    assert Kernel(1.0, 50.0, 0.3, 0.02) == COLOR_KERNEL


@pytest.mark.parametrize("kernel", [COLOR_KERNEL, CORRECTION_KERNEL])
def test_hints_are_nearly_interpolated(kernel):
    L, centers, ab, valid = random_hints(count=4)
    at = centers[0].long() // 2
    errors = []
    for noise in (kernel.noise_variance, 1e-4):
        exact = Kernel(kernel.spatial_scale, kernel.lightness_scale, kernel.mean_variance, noise)
        cells = cells_of(krige(L, centers, ab, valid, exact))
        errors.append((cells[0, :, at[:, 0], at[:, 1]].T - ab[0]).abs().max().item())
    assert errors[0] < 10 and errors[1] < 0.1
    assert errors[1] < errors[0] / 20


def test_a_hint_reaches_further_at_similar_lightness():
    L = torch.full((1, 1, 32, 32), 40.0)
    L[..., 16:] = 90
    position, ab = torch.tensor([[[15.0, 9.0]]]), torch.tensor([[[30.0, -20.0]]])
    result = krige(L, position, ab, torch.ones(1, 1, dtype=torch.bool))
    size = result.norm(dim=1)[0]
    assert size[15, 8] > size[15, 2] > size[1, 2]  # falls with distance
    assert size[15, 3] > size[15, 17] + 3  # and more across an edge of lightness
    torch.testing.assert_close(result[0, 1], result[0, 0] * (-2 / 3))  # the hue stays


def test_no_hints_give_no_color():
    for kernel in (COLOR_KERNEL, CORRECTION_KERNEL):
        none = krige(
            random(2, 1, 9, 7), torch.zeros(2, 0, 2), torch.zeros(2, 0, 2), torch.zeros(2, 0) > 0,
            kernel,
        )  # fmt: skip
        assert none.shape == (2, 2, 9, 7) and not none.any()
        L, centers, ab, valid = random_hints(2)
        assert not krige(L, centers, ab, ~valid, kernel).any()


def test_invalid_rows_have_no_influence():
    L, centers, ab, valid = random_hints(count=6)
    valid[:, [1, 4]] = False
    kept = valid[0]
    want = krige(L, centers[:, kept], ab[:, kept], valid[:, kept])
    torch.testing.assert_close(krige(L, centers, ab, valid), want, atol=1e-3, rtol=0)
    centers[:, ~kept], ab[:, ~kept] = 1e4, 1e4
    torch.testing.assert_close(krige(L, centers, ab, valid), want, atol=1e-3, rtol=0)


def test_batch_equals_single_images():
    L, centers, ab, valid = random_hints(3)
    valid[0, 1:], valid[1], valid[2, 0] = False, False, False
    together = krige(L, centers, ab, valid)
    assert not together[1].any()
    for i in range(3):
        single = krige(*(x[i : i + 1] for x in (L, centers, ab, valid)))
        torch.testing.assert_close(together[i : i + 1], single, atol=1e-3, rtol=0)


@pytest.mark.parametrize("max_pairs", [1, 100, 1001])
def test_chunks_do_not_change_the_result(monkeypatch, max_pairs):
    inputs = random_hints(2, count=7, height=31, width=33)
    whole = krige(*inputs)
    monkeypatch.setattr(gaussian_process, "MAX_PAIRS", max_pairs)
    torch.testing.assert_close(krige(*inputs), whole, atol=1e-4, rtol=0)


def test_two_hints_in_one_cell_are_averaged():
    L, centers, ab, valid = random_hints(count=2)
    centers[0, 1] = centers[0, 0]
    result = krige(L, centers, ab, valid)
    y, x = centers[0, 0].long() // 2
    cell = cells_of(result)[0, :, y, x]
    assert result.isfinite().all()
    torch.testing.assert_close(cell.float(), ab[0].mean(0), atol=1, rtol=0.02)


def test_many_coincident_hints():
    """Hundreds of hints in one cell remain well conditioned in float32."""
    L, centers, ab, valid = random_hints(count=1000, height=64, width=80)
    centers[0, 500:] = centers[0, 500]
    result = krige(L, centers, ab, valid)
    assert result.isfinite().all() and result.abs().max() < 70
    want = dense(L[0, 0].double().numpy(), centers[0].numpy(), ab[0].double().numpy(), COLOR_KERNEL)
    torch.testing.assert_close(cells_of(result)[0], torch.from_numpy(want), atol=0.2, rtol=0)


def test_interpolation_is_not_shifted():
    """A linear ramp of hints stays linear; no shift by half a cell."""
    L, x = torch.full((1, 1, 4, 40), 50.0), torch.arange(1.0, 40, 2)
    centers = torch.stack([torch.full_like(x, 1), x], dim=-1)[None]
    ab = torch.stack([x - 20, 20 - x], dim=-1)[None]
    exact = Kernel(1.0, 50.0, 1.0, 1e-4)
    result = krige(L, centers, ab, torch.ones(1, 20, dtype=torch.bool), exact)
    want = torch.arange(40) + 0.5 - 20
    torch.testing.assert_close(result[0, 0, 0, 2:-2], want[2:-2], atol=0.1, rtol=0)
    torch.testing.assert_close(result[0, 1, 1, 2:-2], -want[2:-2], atol=0.25, rtol=0)


def test_variance_of_a_dense_solve():
    L, centers, _, _ = random_hints()
    field = COLOR_KERNEL.field(L)
    cells = ((centers[..., 0] // 2) * 12 + centers[..., 1] // 2).long()
    hints = field.gather(cells)
    prior = gaussian_process.covariance(field, field)[0].double()
    known, cross = prior[cells[0]][:, cells[0]], prior[cells[0]]
    inverse = torch.linalg.inv(known + COLOR_KERNEL.noise_variance * torch.eye(5))
    expected = (prior - cross.T @ inverse @ cross).diagonal()
    assert torch.allclose(gaussian_process.prior_variance(field)[0].double(), prior.diagonal())
    variance = gaussian_process.posterior_variance(field, hints)[0]
    assert torch.allclose(variance.double(), expected, atol=1e-5)
    assert torch.equal(
        gaussian_process.posterior_variance(field, field.gather(cells[:, :0])),
        gaussian_process.prior_variance(field),
    )


def test_variance_in_parts_equals_the_whole(monkeypatch):
    L, centers, _, _ = random_hints(batch=2)
    field = COLOR_KERNEL.field(L)
    hints = field.gather(((centers[..., 0] // 2) * 12 + centers[..., 1] // 2).long())
    whole = gaussian_process.posterior_variance(field, hints)
    monkeypatch.setattr(gaussian_process, "MAX_PAIRS", 100)
    assert torch.allclose(gaussian_process.posterior_variance(field, hints), whole, atol=1e-6)


# ---- windows ----


def scene(count, seed=0, side=48):
    """Return L, cell indices, colors and centers of random hints."""
    generator = torch.Generator().manual_seed(seed)
    L = 100 * torch.rand(1, 1, side, side, generator=generator)
    cells = torch.randperm((side // 2) ** 2, generator=generator)[:count]
    ab = 60 * torch.rand(1, count, 2, generator=generator) - 30
    return L, cells[None], ab, torch.ones(1, count, dtype=torch.bool)


def disc_windows(cells, reach, side=48):
    """Return windows (n, N) that fall from 1 at 0.7 reach to 0 at the reach, in cells."""
    n = side // 2
    yx = torch.stack([torch.arange(n * n) // n, torch.arange(n * n) % n], 1).float()
    return ((1 - torch.cdist(yx, yx[cells[0]]) / reach) / 0.3).clamp(0, 1)


def test_full_windows_change_nothing():
    L, cells, ab, valid = scene(20)
    field = gaussian_process.COLOR_KERNEL.field(L)
    want = gaussian_process.krige_cells(field, cells, ab, valid)
    windows = torch.ones(576, 20)
    got = gaussian_process.krige_cells(field, cells, ab, valid, windows)
    torch.testing.assert_close(got, want)


def test_a_hint_acts_within_its_window_alone():
    L, cells, ab, valid = scene(12)
    field = gaussian_process.COLOR_KERNEL.field(L)
    windows = torch.ones(576, 12)
    windows[:, 8:] = disc_windows(cells[:, 8:], torch.tensor([4.0, 5.0, 6.0, 9.0]))
    result = gaussian_process.krige_cells(field, cells, ab, valid, windows)[0]
    for i in range(8, 12):  # without one of them, all outside its window stays exactly the same
        kept = torch.arange(12) != i
        without = gaussian_process.krige_cells(
            field, cells[:, kept], ab[:, kept], valid[:, kept], windows[:, kept]
        )[0]
        outside = windows[:, i] == 0
        torch.testing.assert_close(result[outside], without[outside], atol=1e-3, rtol=0)
        assert (result - without)[~outside].abs().max() > 3
    none_left = (windows[:, 8:] == 0).all(1)
    others = gaussian_process.krige_cells(field, cells[:, :8], ab[:, :8], valid[:, :8])[0]
    assert torch.equal(result[none_left], others[none_left])


def test_200_hints_with_windows_are_stable_and_keep_their_colors():
    """Chains of windows that contain each other's hints, but not all, are the hard case."""
    L, cells, ab, valid = scene(200, seed=3)
    exact = dataclasses.replace(gaussian_process.COLOR_KERNEL, noise_variance=1e-3)
    reach = 2 + 10 * torch.rand(200, generator=torch.Generator().manual_seed(1))
    windows = disc_windows(cells, reach)
    windows[:, ::4] = 1
    result = gaussian_process.krige_cells(exact.field(L), cells, ab, valid, windows)[0]
    assert result.isfinite().all() and result.abs().max() < 60
    assert (result[cells[0]] - ab[0]).abs().mean() < 0.5
    row = torch.tensor([[100, 103, 106]])
    colors = torch.tensor([[[30.0, 0], [-30, 0], [30, 0]]])
    chain = disc_windows(row, torch.full((3,), 4.0))
    result = gaussian_process.krige_cells(exact.field(L), row, colors, valid[:, :3], chain)[0]
    assert result.abs().max() < 40
    torch.testing.assert_close(result[row[0]], colors[0], atol=0.5, rtol=0)


def test_windows_fade_evenly():
    """A hint alone has its window's share of its effect."""
    L, cells, ab, valid = scene(1)
    field = gaussian_process.COLOR_KERNEL.field(L)
    full = gaussian_process.krige_cells(field, cells, ab, valid)
    windows = torch.linspace(0.001, 0.999, 576)[:, None]
    windows[cells[0]] = 1
    result = gaussian_process.krige_cells(field, cells, ab, valid, windows)
    torch.testing.assert_close(result, full * windows, atol=1e-2, rtol=1e-3)
