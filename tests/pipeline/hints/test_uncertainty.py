"""Where colors are uncertain, and which points would tell most."""

import pytest
import torch
from comfyui_colorist.ops import gaussian_process
from comfyui_colorist.pipeline.hints import uncertainty
from comfyui_colorist.pipeline.hints.schema import Hint, Region, Stroke
from comfyui_colorist.pipeline.hints.uncertainty import Uncertainty, resize_doubt


def halves(height: int = 32, width: int = 64) -> torch.Tensor:
    """Lightness of a photo: the left half dark, the right half bright."""
    L = torch.full((1, 1, height, width), 20.0)
    L[..., width // 2 :] = 80
    return L


def of(L: torch.Tensor, **options) -> Uncertainty:
    field = gaussian_process.CORRECTION_KERNEL.field(L)
    return Uncertainty(field, (L.shape[2], L.shape[3]), **options)


def hints_at(positions, **options):
    return [Hint(x, y, "gray", **options) for x, y in positions]


def total_variance(L: torch.Tensor, points) -> float:
    field = gaussian_process.CORRECTION_KERNEL.field(L)
    known = field.gather(of(L)._cells_at(points)[None])
    return float(gaussian_process.posterior_variance(field, known).sum())


def test_each_area_gets_a_point():
    positions = of(halves()).choose_points([], 2).positions
    assert sorted(x > 0.5 for x, _ in positions) == [False, True]


def test_the_first_point_lowers_the_total_variance_most():
    L = 50 + 30 * torch.randn(1, 1, 16, 24).cumsum(-1).cos()
    [best] = of(L).choose_points([], 1).positions
    others = [((2 * j + 1) / 24, (2 * i + 1) / 16) for i in range(8) for j in range(12)]
    assert total_variance(L, [best]) == pytest.approx(
        min(total_variance(L, [point]) for point in others), rel=1e-5
    )


def test_shares_are_those_of_the_variance():
    L = halves(16, 24)
    chosen = of(L).choose_points([], 3)
    expected = [total_variance(L, chosen.positions[:k]) / total_variance(L, []) for k in range(4)]
    assert chosen.remaining == pytest.approx(expected, rel=1e-4)
    assert chosen.remaining[0] == 1
    assert chosen.remaining == sorted(chosen.remaining, reverse=True)


def test_existing_hints_count_like_chosen_points():
    known = of(halves())
    both = known.choose_points([], 4)
    later = known.choose_points(hints_at(both.positions[:2]), 2)
    assert later.positions == both.positions[2:]
    assert later.remaining == pytest.approx(both.remaining[2:], abs=1e-4)


def test_skipped_points_are_passed_over_and_tell_nothing():
    known = of(halves())
    first, second = known.choose_points([], 2).positions
    skipping = known.choose_points([], 1, [first])
    assert skipping.positions == [second]
    assert skipping.remaining[0] == 1
    assert skipping.remaining[1] == known.choose_points(hints_at([second]), 1).remaining[0]


def test_doubt_falls_at_a_hint_and_where_it_tells():
    known = of(halves())
    before, after = known.doubt_map([]), known.doubt_map(hints_at([(0.25, 0.5)]))
    assert before.shape == (16, 32)
    assert torch.allclose(before, torch.ones(16, 32))
    assert after.min() >= 0 and after[8, 8] < 0.2
    assert after[:, :16].mean() < after[:, 16:].mean() - 0.15


def test_a_hint_with_a_reach_tells_nothing_beyond_it():
    known = of(halves())
    [hint] = hints_at([(0.1, 0.5)], reach=0.15)
    before, after = known.doubt_map([]), known.doubt_map([hint])
    assert after[8, 3] < 0.2
    assert torch.equal(after[:, 10:], before[:, 10:])
    both = [known.choose_points([each], 3) for each in (hint, *hints_at([(0.1, 0.5)]))]
    assert 1 > both[0].remaining[0] > both[1].remaining[0]
    assert all(abs(x - 0.1) > 0.05 for x, _ in both[0].positions)


def test_area_of_effect():
    """A hint acts on what is like it, less behind other hints, and not beyond its reach."""
    known = of(halves())
    [hint], others = hints_at([(0.25, 0.5)]), hints_at([(0.4, 0.5)])
    area = known.area_of_effect(hint, [])
    assert area.shape == (16, 32) and area.min() >= 0 and area.max() <= 1
    assert area[8, 8] > 0.95
    assert area[:, :16].mean() > 3 * area[:, 16:].mean()
    beside = known.area_of_effect(hint, others)
    assert beside[8, 12] < 0.1 < area[8, 12]
    limited = known.area_of_effect(*hints_at([(0.25, 0.5)], reach=0.1), others)
    assert limited[8, 8] > 0.95 and limited[:, 13:].max() == 0
    for shape in (
        Stroke([(0.1, 0.2), (0.1, 0.8)], "red"),
        Region([(0, 0), (0.2, 0), (0, 1)], "red"),
    ):
        assert known.area_of_effect(shape, others)[6, 2:4].max() > 0.8


def test_points_lie_in_the_mask():
    weights = torch.zeros(16, 32)
    weights[:, 20:] = 1
    positions = of(halves(), weights=weights.flatten()).choose_points([], 5).positions
    assert all(x > 20 / 32 for x, _ in positions)
    empty = of(halves(), weights=torch.zeros(16 * 32)).choose_points([], 1)
    assert empty.positions == of(halves()).choose_points([], 1).positions


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (5, 400), (301, 2)])
def test_images_of_any_size(size):
    height, width = size
    known = of(torch.rand(1, 1, height, width) * 100)
    chosen = known.choose_points(hints_at([(1.0, 1.0), (0.0, 0.0)]), 3)
    cells = -(-height // 2) * -(-width // 2)
    assert len(chosen.positions) == min(3, cells)
    assert len(set(chosen.positions)) == len(chosen.positions)
    assert all(0 < x <= 1 and 0 < y <= 1 for x, y in chosen.positions)
    assert known.doubt_map([]).shape == (-(-height // 2), -(-width // 2))


def test_the_grid_is_bounded(monkeypatch):
    monkeypatch.setattr(uncertainty, "MAX_GRID_CELLS", 20)
    known = of(halves())
    assert len(known.choose_points([], 100).positions) <= 20


def test_doubt_is_scaled_to_the_photo():
    doubt = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    scaled = resize_doubt(doubt, 5, 9)
    assert scaled.shape == (5, 9)
    assert scaled[:, 0].max() == 0 and scaled[:, -1].min() > 0.999
