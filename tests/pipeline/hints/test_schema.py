"""JSON of hints: what is read, what is refused and with which message."""

import json
import re

import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.hints.schema import (
    MAX_POINTS,
    MAX_SHAPES,
    MAX_SIZE,
    MAX_VERTICES,
    Hint,
    MaskRegion,
    Region,
    Stroke,
    dump_hints,
    parse_hints,
)
from hypothesis import given, settings
from hypothesis import strategies as st

POINT = {"x": 0.25, "y": 0.5, "color": "#8a5a3c"}

points = st.builds(
    Hint,
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    color=st.integers(0, 2**24 - 1).map(lambda value: f"#{value:06x}"),
    size=st.one_of(st.integers(1, MAX_SIZE), st.floats(1, MAX_SIZE)),
)


def text(*more_points, **changes):
    return json.dumps({"version": 1, "points": [POINT, *more_points]} | changes)


# --- Parsing -----------------------------------------------------------------------------------


def test_parses_text_objects_and_lists():
    want = [Hint(0.25, 0.5, "#8a5a3c", 2), Hint(0.25, 0.5, "#8a5a3c", 7.5)]
    mixed = [POINT, POINT | {"size": 7.5}]
    as_text = json.dumps({"version": 1, "points": mixed})
    for hints in (as_text, json.loads(as_text), mixed, tuple(mixed), [want[0], mixed[1]], want):
        assert parse_hints(hints) == want
    assert parse_hints(f"\n {as_text} \t") == want


@pytest.mark.parametrize(
    "hints", ["", "  \n", [], (), '{"version": 1, "points": []}', {"version": 1, "points": []}]
)
def test_empty_input_has_no_hints(hints):
    assert parse_hints(hints) == []


@pytest.mark.parametrize(
    ("color", "stored"),
    [("#f00", "#ff0000"), ("#AbC", "#AAbbCC"), ("red", "#ff0000"), ("RebeccaPurple", "#663399")],
)
def test_short_colors_and_names_are_stored_as_rrggbb(color, stored):
    for _ in range(2):  # Pillow keeps names that were looked up in another form
        hints = parse_hints(text(POINT | {"color": color}))
        assert hints[1] == Hint(**(POINT | {"color": stored}))
    assert f'"color":"{stored}"' in dump_hints(hints)


def test_corners_are_allowed():
    corners = [{"x": x, "y": y, "color": "#FFffFF"} for x in (0, 1, 1.0) for y in (0.0, 1)]
    assert [(hint.x, hint.y) for hint in parse_hints(corners)] == [
        (p["x"], p["y"]) for p in corners
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": -0.01}, "x is -0.01; expected a number from 0 to 1."),
        ({"x": 1.0001}, "x is 1.0001; expected a number from 0 to 1."),
        ({"y": 10**300}, f"y is 1{'0' * 36}...; expected a number from 0 to 1."),
        ({"x": True}, "x is True; expected a number from 0 to 1."),
        ({"y": False}, "y is False; expected a number from 0 to 1."),
        ({"y": "0.5"}, "y is '0.5'; expected a number from 0 to 1."),
        ({"x": None}, "x is None; expected a number from 0 to 1."),
        ({"x": [0.5]}, "x is [0.5]; expected a number from 0 to 1."),
        ({"x": float("nan")}, "x is nan; expected a number from 0 to 1."),
        ({"y": float("inf")}, "y is inf; expected a number from 0 to 1."),
        ({"y": float("-inf")}, "y is -inf; expected a number from 0 to 1."),
        ({"size": 0}, "size is 0; expected a number from 1 to 64."),
        ({"size": 0.99}, "size is 0.99; expected a number from 1 to 64."),
        ({"size": 64.5}, "size is 64.5; expected a number from 1 to 64."),
        ({"size": True}, "size is True; expected a number from 1 to 64."),
        ({"size": None}, "size is None; expected a number from 1 to 64."),
        ({"size": float("nan")}, "size is nan; expected a number from 1 to 64."),
        ({"color": "8a5a3c"}, "color is '8a5a3c'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#8a5a3"}, "color is '#8a5a3'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#8a5a3g"}, "color is '#8a5a3g'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#8a5a3c\n"}, r"color is '#8a5a3c\n'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#8a5a3c80"}, "color is '#8a5a3c80'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#٨a5a3c"}, "color is '#٨a5a3c'; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#f001"}, "color is '#f001'; expected #rrggbb, such as #8a5a3c,"),
        ({"color": "reddish"}, "color is 'reddish'; expected #rrggbb, such as #8a5a3c, or a CSS"),
        ({"color": "rgb(1, 2, 3)"}, "color is 'rgb(1, 2, 3)'; expected #rrggbb, such as #8a5a3c,"),
        ({"color": ""}, "color is ''; expected #rrggbb, such as #8a5a3c, or a CSS name."),
        ({"color": 0x8A5A3C}, "color is 9067068; expected #rrggbb, such as #8a5a3c, or"),
        ({"color": "#" + "f" * 900}, f"color is '#{'f' * 35}...; expected #rrggbb, such as"),
    ],
)
def test_errors_name_the_point_of_a_bad_value(change, sentence):
    for hints in (text(POINT, POINT | change), [Hint(0, 0, "#000000"), POINT, POINT | change]):
        with pytest.raises(ValueError, match=f"^{re.escape(f'point 3: {sentence}')}"):
            parse_hints(hints)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence.removesuffix('.'))}"):
        Hint(**(POINT | change))


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({"x": 0, "y": 0}, "point 2: color is missing; a point has x, y, color, size"),
        ({}, "point 2: x is missing, y is missing, color is missing; a point has x, y, color, "),
        (POINT | {"colour": 1}, "point 2: colour is unknown; a point has x, y, color, size"),
        (
            {"X": 0, "y": 0, "color": "#000000"},
            "point 2: x is missing, X is unknown; a point has x, y, color, size",
        ),
        (POINT | {"k" * 99: 1}, f"point 2: {'k' * 40} is unknown; a point has"),
        (
            POINT | dict.fromkeys("fedcba"),
            "point 2: a is unknown, b is unknown, c is unknown, d is unknown; a point has",
        ),
        (
            [0.5, 0.5, "#000000"],
            "point 2 is [0.5, 0.5, '#000000']; expected an object with x, y and ",
        ),
        (None, "point 2 is None; expected an object with x, y and color."),
        ("#000000", "point 2 is '#000000'; expected an object with x, y and color."),
        ([[[]]], "point 2 is [[[]]]; expected an object with x, y and color."),
    ],
)
def test_errors_name_the_number_of_a_bad_point(point, sentence):
    for hints in (text(point), [POINT, point]):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            parse_hints(hints)


@pytest.mark.parametrize("version", [0, 3, 1.5, "1", True, None, [1], float("nan"), 10**300])
def test_other_versions_are_refused(version):
    with pytest.raises(
        ValueError, match=r"the hints have version .*; this release reads versions 1 and 2"
    ):
        parse_hints(text(version=version))


def test_the_version_is_required():
    with pytest.raises(ValueError, match="the hints have version None; this release"):
        parse_hints('{"points": []}')


@pytest.mark.parametrize("value", [None, {}, "[]", 3, POINT])
def test_points_are_a_list(value):
    with pytest.raises(ValueError, match="^the hints' points are .*; expected a list."):
        parse_hints(json.dumps({"version": 1, "points": value}))
    with pytest.raises(ValueError, match="^the hints' points are None; expected a list."):
        parse_hints('{"version": 1}')


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        (text(colors=[], base=1), "the hints have base, colors; expected version and points."),
        ("[]", "the hints are []; expected an object with version and points."),
        (json.dumps([POINT]), "the hints are [{'x': 0.25, 'y': 0.5, 'color': '#8a5...; expected"),
        ("null", "the hints are None; expected an object with version and points."),
        ("7", "the hints are 7; expected an object with version and points."),
        ('"#8a5a3c"', "the hints are '#8a5a3c'; expected an object with version and points."),
        ("#8a5a3c", "the hints are not JSON (Expecting value"),
        (text()[:-1], "the hints are not JSON (Expecting ',' delimiter"),
        (text() + "}", "the hints are not JSON (Extra data"),
        ("[" * 10**5, "the hints are not JSON (maximum recursion depth"),
        ('{"version": 1, "points": [' + "[" * 10**5, "the hints are not JSON (maximum recursion"),
    ],
)
def test_other_input_is_refused(hints, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        parse_hints(hints)


def test_the_example_in_the_json_error_is_valid():
    with pytest.raises(ValueError) as caught:
        parse_hints("{")
    example = re.search(r"expected ({.*})\.$", str(caught.value))[1]
    assert parse_hints(example) == [Hint(0.5, 0.5, "#8a5a3c")]


def test_non_finite_numbers_are_refused():
    for number, shown in (("NaN", "nan"), ("Infinity", "inf"), ("1e999", "inf")):
        hints = text().replace("0.25", number)
        with pytest.raises(
            ValueError, match=f"^point 1: x is {shown}; expected a number from 0 to 1"
        ):
            parse_hints(hints)


def test_a_huge_integer_is_refused():
    """Python itself parses at most 4300 digits."""
    hints = text().replace("0.25", "1" * 5000)
    with pytest.raises(ValueError, match="^the hints are not JSON|^point 1: x is "):
        parse_hints(hints)


@pytest.mark.parametrize(
    "hints",
    [
        '{"version": 1, "points": [{"x": 0, "y": 0, "color": "#000000", "\\ud800": 1}]}',
        '{"version": 1, "points": [{"x": 0, "y": 0, "color": "\\ud800"}]}',
        '{"version": "\\ud800", "points": []}',
        '{"version": 1, "points": [], "\\ud800": 1}',
    ],
)
def test_every_error_is_printable(hints):
    """A lone surrogate is legal JSON but cannot be encoded."""
    with pytest.raises(ValueError) as caught:
        parse_hints(hints)
    str(caught.value).encode()


def test_errors_are_short():
    for hints in (text(**{"k" * 10**5: 1}), text({"k" * 10**5: 1}), text(version="v" * 10**5)):
        with pytest.raises(ValueError) as caught:
            parse_hints(hints)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("keys", [[3], [3, "a"]])
def test_keys_that_are_not_strings(keys):
    with pytest.raises(ValueError, match="3"):
        parse_hints({"version": 1, "points": []} | dict.fromkeys(keys))
    with pytest.raises(ValueError, match="^point 1: 3 is unknown"):
        parse_hints([POINT | dict.fromkeys(keys)])


def test_at_most_a_thousand():
    assert len(parse_hints([POINT] * MAX_POINTS)) == MAX_POINTS == 1000
    for hints in ([POINT] * 1001, json.dumps({"version": 1, "points": [POINT] * 1001})):
        with pytest.raises(ValueError, match="^there are 1001 hints; at most 1000 are allowed"):
            parse_hints(hints)


# --- Version 2 ---------------------------------------------------------------------------------

STROKE = {"points": [[0, 0.5], [1, 0.5]], "color": "sienna"}
REGION = {"points": [[0, 0], [1, 0], [1, 1]], "color": "#3060b0"}


def shapes(**lists):
    return json.dumps({"version": 2, **lists})


def test_parses_strokes_and_regions():
    hints = parse_hints(
        shapes(
            points=[POINT | {"reach": 0.2}],
            strokes=[STROKE, STROKE | {"width": 8, "reach": 1}],
            regions=[REGION, REGION | {"reach": 0.1}],
        )
    )
    ends, corners = ((0, 0.5), (1, 0.5)), ((0, 0), (1, 0), (1, 1))
    assert hints == [
        Hint(0.25, 0.5, "#8a5a3c", 2, 0.2),
        Stroke(ends, "#a0522d"),
        Stroke(ends, "#a0522d", 8, 1.0),
        Region(corners, "#3060b0"),
        Region(corners, "#3060b0", 0.1),
    ]
    assert parse_hints(dump_hints(hints)) == hints
    assert parse_hints(shapes()) == []
    assert parse_hints([POINT | {"reach": 0.2}, hints[1]]) == hints[:2]


@pytest.mark.parametrize("change", [{"reach": 0.2}, {"reach": None}])
def test_version_1_has_points_without_reach(change):
    with pytest.raises(ValueError, match="^point 2: reach is unknown; a point has x, y, color, si"):
        parse_hints(text(POINT | change))
    with pytest.raises(ValueError, match="^the hints have strokes; expected version and points."):
        parse_hints(text(strokes=[]))


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"points": [POINT | {"reach": 0}]}, "point 1: reach is 0; expected a number above 0, at"),
        ({"points": [POINT | {"reach": 1.1}]}, "point 1: reach is 1.1; expected a number above"),
        ({"points": [POINT | {"reach": True}]}, "point 1: reach is True; expected a number above"),
        ({"strokes": [STROKE, 3]}, "stroke 2 is 3; expected an object with points and color."),
        ({"strokes": [{"points": []}]}, "stroke 1: color is missing; a stroke has points, color, "),
        ({"strokes": [STROKE, STROKE | {"size": 2}]}, "stroke 2: size is unknown; a stroke has "),
        ({"strokes": [STROKE | {"width": 65}]}, "stroke 1: width is 65; expected a number from 1"),
        ({"strokes": [STROKE | {"points": []}]}, "stroke 1: there are 0 positions; expected at le"),
        ({"strokes": [STROKE | {"points": "x"}]}, "stroke 1: points are 'x'; expected a list of"),
        ({"strokes": [STROKE | {"points": [[0, 0], [1]]}]}, "stroke 1: position 2 is [1]; expecte"),
        ({"strokes": [STROKE | {"points": [[0, 2]]}]}, "stroke 1: y of position 1 is 2; expected"),
        ({"regions": [REGION | {"points": [[0, 0], [1, 1]]}]}, "region 1: there are 2 positions; "),
        ({"regions": [REGION | {"width": 3}]}, "region 1: width is unknown; a region has points,"),
        ({"regions": [REGION | {"reach": -1}]}, "region 1: reach is -1; expected a number from 0"),
        ({"regions": [REGION | {"color": "x"}]}, "region 1: color is 'x'; expected #rrggbb, such"),
        ({"strokes": {}}, "the hints' strokes are {}; expected a list."),
        ({"masks": []}, "the hints have masks; expected version, points, strokes and regions."),
        (
            {"strokes": [STROKE] * (MAX_SHAPES + 1)},
            "there are 201 strokes; at most 200 are allowed",
        ),
        (
            {"regions": [REGION] * (MAX_SHAPES + 1)},
            "there are 201 regions; at most 200 are allowed",
        ),
        ({"points": [POINT] * (MAX_POINTS + 1)}, "there are 1001 hints; at most 1000 are allowed"),
        (
            {"strokes": [STROKE | {"points": [[0, 0]] * (MAX_VERTICES // 2 + 1)}] * 2},
            "the strokes and regions have 10002 positions; at most 10000 are allowed.",
        ),
    ],
)
def test_errors_of_version_2(lists, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        parse_hints(shapes(**lists))


def test_a_mask_has_no_json():
    with pytest.raises(ValueError, match="JSON cannot hold a region with a mask; use a polygon"):
        dump_hints([MaskRegion(torch.ones(2, 2), "red")])


def test_plain_points_are_written_as_version_1():
    """Saved workflows and older releases read them."""
    assert dump_hints([Hint(0, 0, "red")]).startswith('{"version":1,"points":[')
    assert dump_hints([Hint(0, 0, "red", reach=0.5)]).startswith('{"version":2,"points":[')
    assert dump_hints([Stroke([(0, 0)], "red")]) == (
        '{"version":2,"points":[],"strokes":[{"points":[[0,0]],"color":"#ff0000","width":2}]}'
    )


# --- Dumping -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(points, max_size=5))
def test_round_trip(hints):
    assert parse_hints(dump_hints(hints)) == hints


def test_json_is_compact_and_versioned():
    assert dump_hints([]) == '{"version":1,"points":[]}'
    one = '{"version":1,"points":[{"x":0.25,"y":0.5,"color":"#8a5a3c","size":2}]}'
    assert dump_hints(parse_hints([POINT])) == one
    assert dump_hints(parse_hints(one)) == one


# --- Color -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ab"),
    [  # CIE Lab, D65, of the sRGB primaries, from published tables
        ("#ff0000", (80.1, 67.2)),
        ("#00ff00", (-86.2, 83.2)),
        ("#0000FF", (79.2, -107.9)),
        ("#ffff00", (-21.6, 94.5)),
        ("#000000", (0, 0)),
        ("#808080", (0, 0)),
        ("#ffffff", (0, 0)),
    ],
)
def test_chroma_of_known_colors(code, ab):
    assert Hint(0, 0, code).ab == pytest.approx(ab, abs=0.1)


def test_chroma_equals_that_of_an_image():
    rgb = torch.tensor([0x8A, 0x5A, 0x3C]).view(3, 1, 1) / 255
    want = color.rgb_to_lab(rgb)[1:].flatten().tolist()
    assert Hint(0, 0, "#8A5a3C").ab == pytest.approx(want, abs=1e-4)


def test_python_and_javascript_agree(root):
    """tests/js uses the same table."""
    table = json.loads((root / "tests" / "js" / "hint_texts.json").read_text(encoding="utf-8"))
    assert len(table["fine"]) > 20 and len(table["refused"]) > 50
    for text in table["fine"]:
        parse_hints(text)
    for text in table["refused"]:
        with pytest.raises(ValueError, match="hints|point"):
            parse_hints(text)


def test_python_and_javascript_know_the_same_color_names(root):
    from PIL import ImageColor

    script = (root / "web" / "js" / "point_hints" / "css_colors.js").read_text(encoding="utf-8")
    names = dict(re.findall(r"\b([a-z]+) ([0-9a-f]{6})\b", script))
    assert set(names) == set(ImageColor.colormap)
    for name, value in names.items():
        assert Hint(0, 0, name).color == f"#{value}"
