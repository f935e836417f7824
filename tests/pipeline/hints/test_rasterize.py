"""Rasterized hints, and the overlay for people."""

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.hints.rasterize import (
    draw_hints,
    hint_boxes,
    hint_windows,
    rasterize,
)
from comfyui_colorist.pipeline.hints.schema import MAX_SIZE, Hint, MaskRegion, Region, Stroke
from hypothesis import given, settings
from hypothesis import strategies as st

SIDES = [(1, 1), (1, 7), (8, 1), (2, 2), (3, 5), (31, 33), (224, 300)]

points = st.builds(
    Hint,
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    color=st.integers(0, 2**24 - 1).map(lambda value: f"#{value:06x}"),
    size=st.one_of(st.integers(1, MAX_SIZE), st.floats(1, MAX_SIZE)),
)
sides = st.tuples(st.integers(1, 90), st.integers(1, 90))


def at(x, y, size=2, color="#8a5a3c"):
    return Hint(x, y, color, size)


# --- Boxes -------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(sides, st.floats(0, 1), st.floats(0, 1), st.sampled_from([1, 1.5, 2]))
def test_a_small_hint_is_the_cell_it_lies_in(side, x, y, size):
    """Specification, section 4: cell = floor(x w / 2) * 2; 1 is the last pixel."""
    height, width = side
    [(top, left, bottom, right)] = hint_boxes([at(x, y, size)], height, width).tolist()
    for start, end, part, length in ((top, bottom, y, height), (left, right, x, width)):
        assert start == int(min(part * length, length - 1) // 2 * 2)
        assert end == min(start + 2, length)


def test_odd_sides_end_in_half_a_cell():
    assert hint_boxes([at(1, 1), at(0.999, 0), at(0.5, 0.5)], 5, 3).tolist() == [
        [4, 2, 5, 3],
        [0, 2, 2, 3],
        [2, 0, 4, 2],
    ]
    assert hint_boxes([at(1, 0), at(0, 1)], 1, 1).tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize(
    ("size", "x", "want"),
    [
        (2, 0.5, (50, 52)),
        (2, 0.4999, (48, 50)),
        (3, 0.5, (48, 52)),
        (4, 0.5, (48, 52)),
        (4, 0.52, (50, 54)),
        (6, 0.51, (48, 54)),
        (64, 0.5, (18, 82)),
        (4, 0, (0, 2)),
        (64, 0, (0, 32)),
        (64, 1, (68, 100)),
        (2, 1, (98, 100)),
    ],
)
def test_larger_hints_are_squares_of_cells_around_their_position(size, x, want):
    [row] = hint_boxes([at(x, 0.5, size)], 100, 100).tolist()
    assert (row[1], row[3]) == want


@settings(max_examples=200, deadline=None)
@given(sides, points)
def test_boxes_are_aligned_and_contain_their_point(side, hint):
    [row] = hint_boxes([hint], *side).tolist()
    whole = 2 * -(-hint.size // 2)
    for start, end, part, length in zip(row[:2], row[2:], (hint.y, hint.x), side, strict=True):
        assert 0 <= start < end <= length
        assert start % 2 == 0 and (end % 2 == 0 or end == length)
        assert end - start <= whole
        assert start <= min(part * length, length - 1) < end
        if start > 0 and end < length:  # not clipped
            assert end - start == whole
            assert abs((start + end) / 2 - part * length) <= 1


@pytest.mark.parametrize("side", SIDES)
def test_every_size_fits_every_image(side):
    hints = [at(x, y, s) for s in range(1, 65) for x, y in ((0, 0), (1, 1), (0.5, 0.5), (0.99, 0))]
    boxes = hint_boxes(hints, *side)
    assert boxes.shape == (256, 4)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes[:, 2:] <= side).all()


def test_no_hints():
    assert hint_boxes([], 9, 9).shape == (0, 4)
    ab, mask = rasterize([], 9, 7)[:2]
    assert ab.shape == (1, 2, 9, 7) and mask.shape == (1, 1, 9, 7)
    assert not ab.any() and not mask.any()


@settings(max_examples=50, deadline=None)
@given(sides, st.lists(points, max_size=6))
def test_each_pixel_has_the_last_hint_on_it(side, hints):
    ab, mask = rasterize(hints, *side)[:2]
    assert ab.dtype == mask.dtype == torch.float32
    want, covered = np.zeros((*side, 2)), np.zeros(side)
    for hint, (top, left, bottom, right) in zip(hints, hint_boxes(hints, *side), strict=True):
        for y in range(top, bottom):
            for x in range(left, right):
                want[y, x], covered[y, x] = hint.ab, 1
    np.testing.assert_allclose(ab[0].permute(1, 2, 0), want, atol=1e-5)
    np.testing.assert_array_equal(mask[0, 0], covered)


def test_the_later_of_two_wins():
    red, blue = at(0.5, 0.5, 8, "#ff0000"), at(0.51, 0.5, 2, "#0000ff")
    ab, mask = rasterize([red, blue], 32, 32)[:2]
    assert ab[0, :, 16, 16].tolist() == pytest.approx(blue.ab, abs=1e-4)
    assert ab[0, :, 14, 14].tolist() == pytest.approx(red.ab, abs=1e-4)
    assert mask.sum() == 64
    ab, mask = rasterize([blue, red], 32, 32)[:2]
    assert ab[0, :, 16, 16].tolist() == pytest.approx(red.ab, abs=1e-4)
    assert mask.sum() == 64


def test_a_gray_hint_is_in_the_mask():
    ab, mask = rasterize([at(0.5, 0.5, color="#777777")], 8, 8)[:2]
    assert ab.abs().max() < 1e-3 and mask.sum() == 4


def test_only_visible_hints_are_listed():
    """A hint below a later one is left out; a partly covered one keeps its center."""
    hidden, small = at(0.5, 0.5), at(0.51, 0.52, color="#3060b0")
    large = at(0.2, 0.2, 8, "#408040")
    hints = [hidden, large, small, at(0.2, 0.2, color="#777777")]
    raster = rasterize(hints, 32, 32)
    boxes = hint_boxes(hints, 32, 32)[[1, 2, 3]]
    assert raster.centers.tolist() == ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    want = [hint.ab for hint in hints[1:]]
    torch.testing.assert_close(raster.values, torch.tensor(want))


# --- Overlay -----------------------------------------------------------------------------------


def random_photo(batch=1, height=80, width=120, channels=3):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(batch, height, width, channels, generator=generator)


def gray_of(rgb):
    rgb = rgb[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1)
    return color.gray_rgb(color.lightness(rgb)).movedim(1, -1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_overlay_is_the_gray_photo(channels):
    rgb = random_photo(2, channels=channels)
    before = rgb.clone()
    out = draw_hints(rgb, [])
    assert out.shape == (2, 80, 120, 3) and out.dtype == torch.float32
    torch.testing.assert_close(out, gray_of(rgb), atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(rgb, before)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_overlay_draws_each_hint_at_its_position(channels):
    rgb = random_photo(2, channels=channels)
    hints = [at(0.25, 0.75, color="#a03030"), at(0.75, 0.25, 64, "#3050a0")]
    out = draw_hints(rgb, hints)
    drawn = (out - gray_of(rgb)).abs().amax(-1) > 0.01
    ys, xs = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    far = torch.ones(80, 120, dtype=torch.bool)
    for hint in hints:
        y, x = int(hint.y * 80), int(hint.x * 120)
        distance = torch.hypot(ys - hint.y * 80, xs - hint.x * 120)
        far &= distance > 6
        assert drawn[:, distance < 1.5].all()
        assert (out[:, (distance > 1) & (distance < 5)].amin(-1) > 0.9).any()  # the white rim
        assert (out[:, (distance > 1) & (distance < 5)].amax(-1) < 0.1).any()  # the black rim
        for result, gray in zip(out, gray_of(rgb), strict=True):
            lab = color.rgb_to_lab(result[y, x].view(3, 1, 1)).flatten()
            light = color.lightness(gray[y, x].view(3, 1, 1)).item()
            assert lab[0].item() == pytest.approx(light, abs=1)
            assert lab[1:].tolist() == pytest.approx(hint.ab, abs=2)
    assert not drawn[:, far].any()


@pytest.mark.parametrize("side", SIDES)
def test_overlay_of_any_size(side):
    hints = [at(x, y, 64) for x in (0, 0.5, 1) for y in (0, 0.5, 1)]
    out = draw_hints(torch.rand(1, *side, 3), hints)
    assert out.shape == (1, *side, 3)
    assert out.min() >= 0 and out.max() <= 1


def test_overlay_shows_the_later_on_top():
    hints = [at(0.5, 0.5, color="#a03030"), at(0.5, 0.5, color="#3050a0")]
    out = draw_hints(random_photo(), hints)
    assert torch.equal(out, draw_hints(random_photo(), hints[1:]))


def test_overlay_of_invalid_values():
    rgb = random_photo()
    rgb[0, 40, 60], rgb[0, 5, 5] = float("nan"), 7.0
    out = draw_hints(rgb, [at(0.5, 0.5)])
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


# --- Strokes, regions and reach ----------------------------------------------------------------


def test_a_stroke_covers_its_line():
    stroke = Stroke([(0.1, 0.5), (0.9, 0.5)], "#ff0000", 6)
    raster = rasterize([stroke], 40, 60)
    rows, columns = raster.painted[0, 0].nonzero().T
    assert (rows.min(), rows.max()) == (18, 23) and columns.min() <= 6 and columns.max() >= 54
    assert raster.ab[0, :, 20, 30].tolist() == pytest.approx(stroke.ab, abs=1e-4)
    assert len(raster.centers) == pytest.approx(60 * 0.8 / 8, abs=3)
    assert raster.mask.sum() == 4 * len(raster.centers)  # small hints, as in training
    assert (raster.mask <= raster.painted).all()
    dot = rasterize([Stroke([(0.5, 0.5)], "red")], 40, 60)
    assert dot.painted.sum() == 4 and dot.centers.tolist() == [[21, 31]]


def test_a_region_is_filled():
    region = Region([(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8)], "blue")
    raster = rasterize([region], 100, 100)
    assert raster.painted[0, 0, 22:78, 22:78].all()
    assert not raster.painted[0, 0, :18].any() and not raster.painted[0, 0, :, 84:].any()
    assert 30 < len(raster.centers) <= 64
    y, x = raster.centers.T / 100
    assert ((y > 0.18) & (y < 0.84) & (x > 0.18) & (x < 0.84)).all()
    assert y.min() < 0.3 and y.max() > 0.7 and x.min() < 0.3 and x.max() > 0.7


@pytest.mark.parametrize("size", [(7, 9), (100, 100), (300, 200)])
def test_a_mask_of_any_size_is_a_region(size):
    mask = torch.zeros(size)
    mask[:, size[1] // 3 :] = 1
    painted = rasterize([MaskRegion(mask, "blue")], 60, 90).painted[0, 0]
    assert not painted[:, :28].any() and painted[:, 34:].all()
    tiny = torch.zeros(400, 400)
    tiny[100, 300] = 1
    [center] = rasterize([MaskRegion(tiny, "blue")], 60, 90).centers.tolist()
    assert center == pytest.approx([15, 67.5], abs=2)
    assert not len(rasterize([MaskRegion(torch.zeros(5, 5), "blue")], 60, 90).centers)


def test_points_lie_on_strokes_and_strokes_on_regions():
    region = Region([(0, 0), (1, 0), (1, 1), (0, 1)], "red")
    stroke, point = Stroke([(0, 0.5), (1, 0.5)], "blue", 4), at(0.5, 0.5, 2, "lime")
    raster = rasterize([point, stroke, region], 40, 40)
    for position, hint in (((20, 20), point), ((20, 30), stroke), ((5, 5), region)):
        y, x = position
        assert raster.ab[0, :, y, x].tolist() == pytest.approx(hint.ab, abs=1e-4)
    assert sorted(set(raster.owners.tolist())) == [0, 1, 2]
    for (y, x), owner in zip(raster.centers.long().tolist(), raster.owners.tolist(), strict=True):
        ab = (point, stroke, region)[owner].ab
        assert raster.ab[0, :, y, x].tolist() == pytest.approx(ab, abs=1e-4)


def test_centers_are_bounded():
    strokes = [Stroke([(0, i / 200), (1, i / 200)], "red") for i in range(200)]
    raster = rasterize([*strokes, *(at(i / 1000, 0.5) for i in range(1000))], 224, 224)
    assert len(raster.centers) <= 2000
    assert len(set(raster.owners.tolist()) & set(range(200))) > 90  # visible ones keep theirs


@pytest.mark.parametrize("side", SIDES)
def test_shapes_of_any_size(side):
    hints = [
        Stroke([(0, 0), (1, 1), (0.3, 0.9)], "red", 64),
        Region([(0, 0), (0, 0), (0, 0)], "blue", 0.5),
        MaskRegion(torch.ones(3, 3), "lime", 0.5),
        Stroke([(1, 1)], "red", 1, 0.01),
    ]
    raster = rasterize(hints, *side)
    assert raster.ab.shape == (1, 2, *side) and raster.mask.shape == (1, 1, *side)
    assert (raster.centers >= 0).all() and (raster.centers <= torch.tensor(side)).all()
    windows = hint_windows(hints, *side)
    assert windows.shape == (-(-side[0] // 2), -(-side[1] // 2), 4)
    assert windows.min() >= 0 and windows.max() == 1
    assert draw_hints(torch.rand(1, *side, 3), hints).shape == (1, *side, 3)


def test_windows_fall_to_0_at_the_reach():
    point, free = Hint(0.5, 0.5, "red", reach=0.2), at(0.1, 0.1)
    near, everywhere = hint_windows([point, free], 60, 80).unbind(-1)
    y, x = torch.meshgrid(torch.arange(30) * 2 + 1, torch.arange(40) * 2 + 1, indexing="ij")
    distance = torch.hypot(y - 31.0, x - 41.0)
    assert (near[distance < 13] == 1).all() and (near[distance >= 20] == 0).all()
    fading = near[(distance > 15) & (distance < 19)]
    assert fading.min() > 0 and fading.max() < 1
    assert (everywhere == 1).all()
    [border] = hint_windows([Region([(0, 0), (0.5, 0), (0.5, 1), (0, 1)], "red")], 60, 80).unbind(
        -1
    )
    assert (border[:, :20] == 1).all() and (border[:, 22:] == 0).all()


def test_distances_are_exact():
    inside = np.random.default_rng(0).random((13, 17)) < 0.05
    window = hint_windows(
        [MaskRegion(torch.from_numpy(inside.repeat(2, 0).repeat(2, 1)), "red", 0.5)], 26, 34
    )[..., 0]
    cells = np.argwhere(inside)
    grid = np.argwhere(np.ones_like(inside))
    want = np.linalg.norm(grid[:, None] - cells, axis=-1).min(1).reshape(13, 17) * 2
    rise = np.clip((1 - want / np.hypot(26, 34) / 0.5) / 0.3, 0, 1)
    np.testing.assert_allclose(window, rise * rise * (3 - 2 * rise), atol=1e-6)


def test_overlay_draws_strokes_and_outlines():
    mask = torch.zeros(80, 120)
    mask[50:70, 80:110] = 1
    hints = [
        Stroke([(0.1, 0.2), (0.5, 0.2)], "#a03030"),
        Region([(0.1, 0.5), (0.4, 0.5), (0.4, 0.9), (0.1, 0.9)], "#3050a0"),
        MaskRegion(mask, "#30a050"),
    ]
    out = draw_hints(random_photo(), hints)
    drawn = (out - gray_of(random_photo())).abs().amax(-1)[0] > 0.02
    assert drawn[16, 12:60].all() and drawn[40, 12:48].all() and drawn[40:72, 12].all()
    assert drawn[50:70, 80].all() and drawn[69, 80:110].all()
    assert not drawn[56, 24:34].any() and not drawn[58:62, 90:100].any()  # areas stay visible
    assert not drawn[:10].any()
