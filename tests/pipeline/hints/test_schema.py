"""Hints: what is refused and how it is told; where a point lies on a working image; the overlay."""

import json
import re

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.hints.rasterize import cells, overlay, raster
from comfyui_colorist.pipeline.hints.schema import LARGEST, MOST, Hint, read, write
from hypothesis import given, settings
from hypothesis import strategies as st

POINT = {"x": 0.25, "y": 0.5, "color": "#8a5a3c"}
SIDES = [(1, 1), (1, 7), (8, 1), (2, 2), (3, 5), (31, 33), (224, 300)]

colors = st.integers(0, 2**24 - 1).map(lambda value: f"#{value:06x}")
points = st.builds(
    Hint,
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    color=colors,
    size=st.one_of(st.integers(1, LARGEST), st.floats(1, LARGEST)),
)
sides = st.tuples(st.integers(1, 90), st.integers(1, 90))


def text(*given, **changes):
    return json.dumps({"version": 1, "points": [POINT, *given]} | changes)


def at(x, y, size=2, color="#8a5a3c"):
    return Hint(x, y, color, size)


# --- Reading -----------------------------------------------------------------------------------


def test_reads_text_objects_and_lists():
    want = [Hint(0.25, 0.5, "#8a5a3c", 2), Hint(0.25, 0.5, "#8a5a3c", 7.5)]
    given = [POINT, POINT | {"size": 7.5}]
    as_text = json.dumps({"version": 1, "points": given})
    for hints in (as_text, json.loads(as_text), given, tuple(given), [want[0], given[1]], want):
        assert read(hints) == want
    assert read(f"\n {as_text} \t") == want


@pytest.mark.parametrize(
    "hints", ["", "  \n", [], (), '{"version": 1, "points": []}', {"version": 1, "points": []}]
)
def test_nothing_is_no_hints(hints):
    assert read(hints) == []


def test_the_corners_are_legal():
    corners = [{"x": x, "y": y, "color": "#FFffFF"} for x in (0, 1, 1.0) for y in (0.0, 1)]
    assert [(hint.x, hint.y) for hint in read(corners)] == [(p["x"], p["y"]) for p in corners]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": -0.01}, "x is -0.01; expected a number, 0 to 1."),
        ({"x": 1.0001}, "x is 1.0001; expected a number, 0 to 1."),
        ({"y": 10**300}, f"y is 1{'0' * 36}...; expected a number, 0 to 1."),
        ({"x": True}, "x is True; expected a number, 0 to 1."),
        ({"y": False}, "y is False; expected a number, 0 to 1."),
        ({"y": "0.5"}, "y is '0.5'; expected a number, 0 to 1."),
        ({"x": None}, "x is None; expected a number, 0 to 1."),
        ({"x": [0.5]}, "x is [0.5]; expected a number, 0 to 1."),
        ({"x": float("nan")}, "x is nan; expected a number, 0 to 1."),
        ({"y": float("inf")}, "y is inf; expected a number, 0 to 1."),
        ({"y": float("-inf")}, "y is -inf; expected a number, 0 to 1."),
        ({"size": 0}, "size is 0; expected a number, 1 to 64."),
        ({"size": 0.99}, "size is 0.99; expected a number, 1 to 64."),
        ({"size": 64.5}, "size is 64.5; expected a number, 1 to 64."),
        ({"size": True}, "size is True; expected a number, 1 to 64."),
        ({"size": None}, "size is None; expected a number, 1 to 64."),
        ({"size": float("nan")}, "size is nan; expected a number, 1 to 64."),
        ({"color": "8a5a3c"}, "color is '8a5a3c'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#8a5a3"}, "color is '#8a5a3'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#8a5a3g"}, "color is '#8a5a3g'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#8a5a3c\n"}, r"color is '#8a5a3c\n'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#8a5a3c80"}, "color is '#8a5a3c80'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#٨a5a3c"}, "color is '#٨a5a3c'; expected #rrggbb, such as #8a5a3c."),
        ({"color": "red"}, "color is 'red'; expected #rrggbb, such as #8a5a3c."),
        ({"color": 0x8A5A3C}, "color is 9067068; expected #rrggbb, such as #8a5a3c."),
        ({"color": "#" + "f" * 900}, f"color is '#{'f' * 35}...; expected #rrggbb, such as"),
    ],
)
def test_a_bad_value_is_told_with_its_point(change, sentence):
    for hints in (text(POINT, POINT | change), [Hint(0, 0, "#000000"), POINT, POINT | change]):
        with pytest.raises(ValueError, match=f"^{re.escape(f'point 3: {sentence}')}"):
            read(hints)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence.removesuffix('.'))}"):
        Hint(**(POINT | change))


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({"x": 0, "y": 0}, "point 2: color is missing; a point has x, y, color, size."),
        ({}, "point 2: x is missing, y is missing, color is missing; a point has x, y, color, "),
        (POINT | {"colour": 1}, "point 2: colour is unknown; a point has x, y, color, size."),
        (
            {"X": 0, "y": 0, "color": "#000000"},
            "point 2: x is missing, X is unknown; a point has x, y, color, size.",
        ),
        (POINT | {"k" * 99: 1}, f"point 2: {'k' * 40} is unknown; a point has"),
        (
            POINT | dict.fromkeys("fedcba"),
            "point 2: a is unknown, b is unknown, c is unknown, d is unknown; a point has",
        ),
        ([0.5, 0.5, "#000000"], "point 2 is [0.5, 0.5, '#000000']; expected an object with x, y, "),
        (None, "point 2 is None; expected an object with x, y, color."),
        ("#000000", "point 2 is '#000000'; expected an object with x, y, color."),
        ([[[]]], "point 2 is [[[]]]; expected an object with x, y, color."),
    ],
)
def test_a_bad_point_is_told_with_its_number(point, sentence):
    for hints in (text(point), [POINT, point]):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            read(hints)


@pytest.mark.parametrize("version", [0, 2, 1.5, "1", True, None, [1], float("nan"), 10**300])
def test_other_versions_are_refused(version):
    with pytest.raises(
        ValueError, match=r"the hints have version .*; this release reads version 1"
    ):
        read(text(version=version))


def test_a_version_there_must_be():
    with pytest.raises(ValueError, match="the hints have version None; this release"):
        read('{"points": []}')


@pytest.mark.parametrize("given", [None, {}, "[]", 3, POINT])
def test_points_are_a_list(given):
    with pytest.raises(ValueError, match="^the hints' points are .*; expected a list."):
        read(json.dumps({"version": 1, "points": given}))
    with pytest.raises(ValueError, match="^the hints' points are None; expected a list."):
        read('{"version": 1}')


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        (text(colors=[], base=1), "the hints have base, colors; expected version and points."),
        ("[]", "the hints are []; expected an object with version."),
        (json.dumps([POINT]), "the hints are [{'x': 0.25, 'y': 0.5, 'color': '#8a5...; expected"),
        ("null", "the hints are None; expected an object with version."),
        ("7", "the hints are 7; expected an object with version."),
        ('"#8a5a3c"', "the hints are '#8a5a3c'; expected an object with version."),
        ("#8a5a3c", "the hints are not JSON (Expecting value"),
        (text()[:-1], "the hints are not JSON (Expecting ',' delimiter"),
        (text() + "}", "the hints are not JSON (Extra data"),
        ("[" * 10**5, "the hints are not JSON (maximum recursion depth"),
        ('{"version": 1, "points": [' + "[" * 10**5, "the hints are not JSON (maximum recursion"),
    ],
)
def test_what_is_no_hints_at_all(hints, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        read(hints)


def test_a_sentence_about_json_shows_what_is_right():
    with pytest.raises(ValueError) as caught:
        read("{")
    example = re.search(r"expected ({.*})\.$", str(caught.value))[1]
    assert read(example) == [Hint(0.5, 0.5, "#8a5a3c")]


def test_numbers_in_json_that_python_alone_reads():
    for number, shown in (("NaN", "nan"), ("Infinity", "inf"), ("1e999", "inf")):
        hints = text().replace("0.25", number)
        with pytest.raises(ValueError, match=f"^point 1: x is {shown}; expected a number, 0 to 1"):
            read(hints)


def test_an_integer_of_many_digits_is_refused_as_the_hints():
    """Python itself refuses to read more than 4300 digits."""
    hints = text().replace("0.25", "1" * 5000)
    with pytest.raises(ValueError, match="^the hints are not JSON|^point 1: x is "):
        read(hints)


@pytest.mark.parametrize(
    "hints",
    [
        '{"version": 1, "points": [{"x": 0, "y": 0, "color": "#000000", "\\ud800": 1}]}',
        '{"version": 1, "points": [{"x": 0, "y": 0, "color": "\\ud800"}]}',
        '{"version": "\\ud800", "points": []}',
        '{"version": 1, "points": [], "\\ud800": 1}',
    ],
)
def test_every_refusal_can_be_printed(hints):
    """Half of a UTF-16 pair is legal JSON, but neither a terminal nor a file takes it."""
    with pytest.raises(ValueError) as caught:
        read(hints)
    str(caught.value).encode()


def test_refusals_are_short():
    for hints in (text(**{"k" * 10**5: 1}), text({"k" * 10**5: 1}), text(version="v" * 10**5)):
        with pytest.raises(ValueError) as caught:
            read(hints)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("keys", [[3], [3, "a"]])
def test_keys_that_are_no_text(keys):
    with pytest.raises(ValueError, match="3"):
        read({"version": 1, "points": []} | dict.fromkeys(keys))
    with pytest.raises(ValueError, match="^point 1: 3 is unknown"):
        read([POINT | dict.fromkeys(keys)])


def test_at_most_a_thousand():
    assert len(read([POINT] * MOST)) == MOST == 1000
    for hints in ([POINT] * 1001, json.dumps({"version": 1, "points": [POINT] * 1001})):
        with pytest.raises(ValueError, match="^there are 1001 hints; at most 1000 are taken"):
            read(hints)


# --- Writing -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(points, max_size=5))
def test_what_is_written_is_read(hints):
    assert read(write(hints)) == hints


def test_writing_is_compact_and_versioned():
    assert write([]) == '{"version":1,"points":[]}'
    one = '{"version":1,"points":[{"x":0.25,"y":0.5,"color":"#8a5a3c","size":2}]}'
    assert write(read([POINT])) == one
    assert write(read(one)) == one


# --- Colour ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ab"),
    [  # CIE Lab, D65, of the sRGB primaries, as any table of them has it
        ("#ff0000", (80.1, 67.2)),
        ("#00ff00", (-86.2, 83.2)),
        ("#0000FF", (79.2, -107.9)),
        ("#ffff00", (-21.6, 94.5)),
        ("#000000", (0, 0)),
        ("#808080", (0, 0)),
        ("#ffffff", (0, 0)),
    ],
)
def test_chroma_of_known_colours(code, ab):
    assert Hint(0, 0, code).ab == pytest.approx(ab, abs=0.1)


def test_chroma_is_that_of_a_picture():
    rgb = torch.tensor([0x8A, 0x5A, 0x3C]).view(3, 1, 1) / 255
    want = color.rgb_to_lab(rgb)[1:].flatten().tolist()
    assert Hint(0, 0, "#8A5a3C").ab == pytest.approx(want, abs=1e-4)


# --- Places ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(sides, st.floats(0, 1), st.floats(0, 1), st.sampled_from([1, 1.5, 2]))
def test_a_small_hint_is_the_cell_it_lies_in(side, x, y, size):
    """Specification, section 4: cell = floor(x w / 2) * 2; 1 is the last pixel."""
    height, width = side
    [(top, left, bottom, right)] = cells([at(x, y, size)], height, width).tolist()
    for start, end, part, length in ((top, bottom, y, height), (left, right, x, width)):
        assert start == int(min(part * length, length - 1) // 2 * 2)
        assert end == min(start + 2, length)


def test_odd_rims_hold_half_a_cell():
    assert cells([at(1, 1), at(0.999, 0), at(0.5, 0.5)], 5, 3).tolist() == [
        [4, 2, 5, 3],
        [0, 2, 2, 3],
        [2, 0, 4, 2],
    ]
    assert cells([at(1, 0), at(0, 1)], 1, 1).tolist() == [[0, 0, 1, 1]] * 2


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
def test_larger_hints_are_squares_of_cells_about_their_place(size, x, want):
    [row] = cells([at(x, 0.5, size)], 100, 100).tolist()
    assert (row[1], row[3]) == want


@settings(max_examples=200, deadline=None)
@given(sides, points)
def test_places_are_never_empty_inside_aligned_and_hold_their_point(side, hint):
    [row] = cells([hint], *side).tolist()
    whole = 2 * -(-hint.size // 2)
    for start, end, part, length in zip(row[:2], row[2:], (hint.y, hint.x), side, strict=True):
        assert 0 <= start < end <= length
        assert start % 2 == 0 and (end % 2 == 0 or end == length)
        assert end - start <= whole
        assert start <= min(part * length, length - 1) < end
        if start > 0 and end < length:  # not cut by the rim
            assert end - start == whole
            assert abs((start + end) / 2 - part * length) <= 1


@pytest.mark.parametrize("side", SIDES)
def test_every_size_fits_every_image(side):
    hints = [at(x, y, s) for s in range(1, 65) for x, y in ((0, 0), (1, 1), (0.5, 0.5), (0.99, 0))]
    places = cells(hints, *side)
    assert places.shape == (256, 4)
    assert (places[:, :2] >= 0).all() and (places[:, :2] < places[:, 2:]).all()
    assert (places[:, 2:] <= side).all()


def test_no_hints_have_no_places():
    assert cells([], 9, 9).shape == (0, 4)
    ab, mask = raster([], 9, 7)
    assert ab.shape == (1, 2, 9, 7) and mask.shape == (1, 1, 9, 7)
    assert not ab.any() and not mask.any()


@settings(max_examples=50, deadline=None)
@given(sides, st.lists(points, max_size=6))
def test_each_pixel_has_the_last_hint_on_it(side, hints):
    ab, mask = raster(hints, *side)
    assert ab.dtype == mask.dtype == torch.float32
    want, covered = np.zeros((*side, 2)), np.zeros(side)
    for hint, (top, left, bottom, right) in zip(hints, cells(hints, *side), strict=True):
        for y in range(top, bottom):
            for x in range(left, right):
                want[y, x], covered[y, x] = hint.ab, 1
    np.testing.assert_allclose(ab[0].permute(1, 2, 0), want, atol=1e-5)
    np.testing.assert_array_equal(mask[0, 0], covered)


def test_the_later_of_two_wins():
    red, blue = at(0.5, 0.5, 8, "#ff0000"), at(0.51, 0.5, 2, "#0000ff")
    ab, mask = raster([red, blue], 32, 32)
    assert ab[0, :, 16, 16].tolist() == pytest.approx(blue.ab, abs=1e-4)
    assert ab[0, :, 14, 14].tolist() == pytest.approx(red.ab, abs=1e-4)
    assert mask.sum() == 64
    ab, mask = raster([blue, red], 32, 32)
    assert ab[0, :, 16, 16].tolist() == pytest.approx(red.ab, abs=1e-4)
    assert mask.sum() == 64


def test_a_grey_hint_is_marked():
    ab, mask = raster([at(0.5, 0.5, color="#777777")], 8, 8)
    assert ab.abs().max() < 1e-3 and mask.sum() == 4


# --- Overlay -----------------------------------------------------------------------------------


def picture(batch=1, height=80, width=120, channels=3):
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(batch, height, width, channels, generator=generator)


def grey_of(rgb):
    rgb = rgb[..., :3].expand(-1, -1, -1, 3).movedim(-1, 1)
    return color.gray_rgb(color.lightness(rgb)).movedim(1, -1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_overlay_is_the_grey_photo(channels):
    rgb = picture(2, channels=channels)
    before = rgb.clone()
    out = overlay(rgb, [])
    assert out.shape == (2, 80, 120, 3) and out.dtype == torch.float32
    torch.testing.assert_close(out, grey_of(rgb), atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(rgb, before)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_overlay_draws_each_hint_at_its_place(channels):
    rgb = picture(2, channels=channels)
    hints = [at(0.25, 0.75, color="#a03030"), at(0.75, 0.25, 64, "#3050a0")]
    out = overlay(rgb, hints)
    drawn = (out - grey_of(rgb)).abs().amax(-1) > 0.01
    ys, xs = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    far = torch.ones(80, 120, dtype=torch.bool)
    for hint in hints:
        y, x = int(hint.y * 80), int(hint.x * 120)
        distance = torch.hypot(ys - hint.y * 80, xs - hint.x * 120)
        far &= distance > 6
        assert drawn[:, distance < 1.5].all()
        assert (out[:, (distance > 1) & (distance < 5)].amin(-1) > 0.9).any()  # the white rim
        assert (out[:, (distance > 1) & (distance < 5)].amax(-1) < 0.1).any()  # the black rim
        for one, own in zip(out, grey_of(rgb), strict=True):
            lab = color.rgb_to_lab(one[y, x].view(3, 1, 1)).flatten()
            light = color.lightness(own[y, x].view(3, 1, 1)).item()
            assert lab[0].item() == pytest.approx(light, abs=1)
            assert lab[1:].tolist() == pytest.approx(hint.ab, abs=2)
    assert not drawn[:, far].any()


@pytest.mark.parametrize("side", SIDES)
def test_overlay_of_any_size(side):
    hints = [at(x, y, 64) for x in (0, 0.5, 1) for y in (0, 0.5, 1)]
    out = overlay(torch.rand(1, *side, 3), hints)
    assert out.shape == (1, *side, 3)
    assert out.min() >= 0 and out.max() <= 1


def test_overlay_shows_the_later_on_top():
    hints = [at(0.5, 0.5, color="#a03030"), at(0.5, 0.5, color="#3050a0")]
    out = overlay(picture(), hints)
    assert torch.equal(out, overlay(picture(), hints[1:]))


def test_overlay_of_values_that_are_none():
    rgb = picture()
    rgb[0, 40, 60], rgb[0, 5, 5] = float("nan"), 7.0
    out = overlay(rgb, [at(0.5, 0.5)])
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


def test_the_canvas_and_the_queue_agree_on_what_is_fine(root):
    """tests/js reads the same table."""
    table = json.loads((root / "tests" / "js" / "hint_texts.json").read_text(encoding="utf-8"))
    assert len(table["fine"]) > 20 and len(table["refused"]) > 50
    for text in table["fine"]:
        read(text)
    for text in table["refused"]:
        with pytest.raises(ValueError, match="hints|point"):
            read(text)
