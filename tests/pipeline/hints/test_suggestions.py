"""Suggested colors for a position."""

import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.hints import suggestions


def flat(a, b, size=(8, 8)):
    """Return a map of constant chroma (1, 2, h, w)."""
    return torch.tensor([float(a), float(b)]).view(1, 2, 1, 1).expand(-1, -1, *size)


def lab(code):
    levels = torch.tensor([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return color.rgb_to_lab(levels.view(3, 1, 1))[:, 0, 0]


@pytest.fixture
def gray():
    return torch.full((30, 40, 3), 0.5)


def test_suggestions_have_the_maps_chroma_at_the_photos_lightness(gray):
    gray[:, 20:] = 0.7
    for x, level in ((0.2, 0.5), (0.8, 0.7)):
        [code] = suggestions.suggest_colors(gray, [flat(20, -10)], x, 0.5)
        L = color.lightness(torch.full((3, 1, 1), level)).item()
        torch.testing.assert_close(lab(code), torch.tensor([L, 20, -10]), atol=1.0, rtol=0)


def test_out_of_gamut_suggestions_keep_hue_and_lightness(gray):
    [code] = suggestions.suggest_colors(gray, [flat(150, -150)], 0.5, 0.5)
    L, a, b = lab(code).tolist()
    assert pytest.approx(53.4, abs=1) == L
    assert b / a == pytest.approx(-1, abs=0.05)


def test_neighbors_of_a_position_count_a_little(gray):
    halves = flat(30, 0).clone()
    halves[..., 4:] = torch.tensor([0.0, 30.0]).view(1, 2, 1, 1)
    at = [
        suggestions.suggest_colors(gray, [halves], x, 0.5)[0] for x in (0, 0.3, 0.49, 0.51, 0.8, 1)
    ]
    assert at[0] == at[1] and at[4] == at[5] and at[1] != at[4]
    for code in at[2:4]:  # at the edge both are in the mean
        assert lab(code)[1] > 5 and lab(code)[2] > 5


def test_likely_colors_come_first(gray):
    """The base, then the prediction, then candidates by their distance from the base."""
    base = flat(30, 30)
    maps = torch.cat([flat(0, 40), flat(-40, -40), flat(30, 20), flat(50, 0)])
    colors = suggestions.suggest_colors(gray, [base, maps], 0.5, 0.5)
    order = [(30, 30), (0, 40), (30, 20), (50, 0), (-40, -40)]
    assert len(colors) == 5
    for code, (a, b) in zip(colors[:4], order, strict=False):
        assert lab(code)[1:].tolist() == pytest.approx([a, b], abs=1)


def test_similar_colors_are_suggested_once(gray):
    maps = torch.cat([flat(30, 0), flat(33, 3), flat(27, -4), flat(30, 8)])
    colors = [lab(code)[1:] for code in suggestions.suggest_colors(gray, [maps], 0.5, 0.5)]
    assert len(colors) == 2
    assert torch.dist(*colors) >= suggestions.MIN_DISTANCE


def test_gray_is_left_out_if_there_are_colors(gray):
    maps = torch.cat([flat(0, 0), flat(3, 3), flat(30, 0)])
    [code] = suggestions.suggest_colors(gray, [maps], 0.5, 0.5)
    assert lab(code)[1] > 25
    [code] = suggestions.suggest_colors(gray, [maps[:2]], 0.5, 0.5)
    assert code == "#808080"


def test_at_most_eight(gray):
    maps = torch.cat([flat(x, y) for x in range(-30, 40, 10) for y in range(-30, 40, 10)])
    colors = suggestions.suggest_colors(gray, [maps], 0.5, 0.5)
    assert len(colors) == suggestions.MAX_COLORS == 8


def test_black_and_white_have_one_color():
    for level in (0.0, 1.0):
        colors = suggestions.suggest_colors(torch.full((4, 4, 3), level), [flat(60, 0)], 0.5, 0.5)
        assert len(colors) == 1


def test_candidates_of_a_network_with_a_color_memory(mini_colorformer):
    rgb = torch.rand(50, 70, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 3)
    maps = suggestions.predict_candidates(rgb, mini_colorformer)
    groups = mini_colorformer.spec.memory.groups
    assert len(maps) == 1 + groups * len(suggestions.SPREADS)
    assert maps.shape[1] == 2 and maps.dtype == torch.float32
    assert maps.shape[3] / maps.shape[2] == pytest.approx(70 / 50, abs=0.02)
    own = mini_colorformer.chroma(rgb.movedim(-1, 0)[None])
    torch.testing.assert_close(maps[:1], own, atol=1e-3, rtol=1e-4)
    far = (maps[1:] - maps[:1]).flatten(1).norm(dim=1)
    assert (far[groups:] > far[:groups]).all()  # a group alone leads further than by half
    assert torch.equal(suggestions.predict_candidates(rgb, mini_colorformer), maps)
