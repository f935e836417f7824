"""Looks: lightness stays, values are checked, the user's own are found."""

import json

import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import looks
from comfyui_colorist.pipeline.looks import Look
from comfyui_colorist.pipeline.postprocess import Finish, adjust_chroma

NAMES = list(looks.bundled_looks())


def to_lab(rgb: torch.Tensor) -> torch.Tensor:
    return color.rgb_to_lab(rgb[..., :3].movedim(-1, 1))


def test_natural_comes_first_and_changes_nothing():
    assert NAMES[0] == looks.DEFAULT == "natural"
    ab, L = 40 * torch.randn(2, 2, 6, 7), 100 * torch.rand(2, 1, 6, 7)
    assert looks.find_look("natural").apply(ab, L) is ab


@pytest.mark.parametrize("name", NAMES)
def test_looks_change_chroma_alone(name):
    rgb = torch.rand(2, 20, 30, 3)
    before, after = to_lab(rgb), to_lab(looks.apply_look(rgb, looks.find_look(name)))
    assert (after[:, :1] - before[:, :1]).abs().max() < 0.01
    changed = (after[:, 1:] - before[:, 1:]).abs().max() > 1
    assert changed == (name != "natural")


@pytest.mark.parametrize("name", NAMES)
def test_all_engines_apply_looks_at_the_working_size(name):
    """The node and the finish of a colorizer agree."""
    rgb = 0.3 + 0.4 * torch.rand(1, 8, 8, 3)  # far from the gamut's boundary
    lab = to_lab(rgb)
    ab = adjust_chroma(lab[:, 1:], lab[:, :1], Finish(look=name))
    expected = color.to_gamut(torch.cat([lab[:, :1], ab], dim=1)).movedim(1, -1)
    torch.testing.assert_close(looks.apply_look(rgb, looks.find_look(name)), expected)


def test_each_tone_has_its_own_values():
    look = Look(saturation=(0.5, 1, 2), tint=((1, 0), (0, 0), (0, -3)))
    L = torch.tensor([0.0, 25, 50, 75, 100]).view(1, 1, 1, 5)
    a, b = look.apply(torch.full((1, 2, 1, 5), 10.0), L)[0, :, 0]
    assert a.tolist() == [6, 8, 10, 15, 20]
    assert b.tolist() == [5, 7.5, 10, 13.5, 17]


def test_vibrance_and_ceiling():
    ab = torch.tensor([[1.0, 40], [0, 0]]).view(1, 2, 1, 2)
    L = torch.full((1, 1, 1, 2), 50.0)
    weak, strong = Look(vibrance=1).apply(ab, L)[0, 0, 0]
    assert weak / 1 > 1.9 and 1.2 < strong / 40 < 1.4
    assert Look(ceiling=20).apply(ab, L)[0, 0, 0, 1] < 20


def test_strength_mask_alpha_and_gray():
    rgba = torch.rand(2, 9, 7, 4)
    look = looks.find_look("warm")
    assert torch.equal(looks.apply_look(rgba, look, strength=0), rgba)
    mask = torch.zeros(1, 9, 7)
    mask[:, :, 4:] = 1
    result = looks.apply_look(rgba, look, mask=mask)
    assert torch.equal(result[:, :, :4], rgba[:, :, :4])
    assert torch.equal(result[..., 3], rgba[..., 3])
    assert (to_lab(result)[..., 4:] - to_lab(rgba)[..., 4:]).abs().max() > 1
    assert looks.apply_look(torch.rand(1, 9, 7, 1), look).shape == (1, 9, 7, 3)
    half = to_lab(looks.apply_look(rgba, look, strength=0.5)) - to_lab(rgba)
    full = to_lab(looks.apply_look(rgba, look)) - to_lab(rgba)
    assert half.abs().mean() < 0.7 * full.abs().mean()


def test_with_tint_adds_to_the_look():
    assert looks.find_look("warm").with_tint([[0, 1]] * 3).tint == ((1, 2), (2, 7), (1, 5))
    assert Look().with_tint([[99, -99]] * 3).tint == ((60, -60),) * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"saturation": [1, 1]}, r"saturation is \(1, 1\); expected 3 numbers from 0 to 4"),
        ({"saturation": [1, 1, 9]}, "expected 3 numbers from 0 to 4"),
        ({"saturation": "much"}, "saturation is much"),
        ({"matrix": [[1, 0], [0, float("nan")]]}, "expected 2 x 2 numbers from -4 to 4"),
        ({"tint": [[1, 2]] * 2}, "expected 3 x 2 numbers"),
        ({"vibrance": 1e400}, "vibrance is inf; expected a number from -1 to 2"),
        ({"contrast": 1}, "expected an object with ceiling, description, matrix"),
        ([1], "look 'mine': expected an object"),
    ],
)
def test_wrong_values_are_named(tmp_path, values, message):
    (tmp_path / "looks.json").write_text(json.dumps({"mine": values}))
    with pytest.raises(ValueError, match=message) as error:
        looks.find_look("mine", tmp_path)
    assert "looks.json: these looks cannot be read (look 'mine'" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\xff"])
def test_damaged_files(tmp_path, text):
    (tmp_path / "looks.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="these looks cannot be read"):
        looks.available_looks(tmp_path)


def test_looks_of_the_user(tmp_path, monkeypatch):
    table = {"mine": {"saturation": [0, 0, 0]}, "vivid": {"vibrance": 2}}
    (tmp_path / "looks.json").write_text(json.dumps(table))
    assert list(looks.available_looks(tmp_path)) == [*NAMES, "mine"]
    assert looks.find_look("vivid", tmp_path) == Look(vibrance=2)
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path))
    assert Finish(look="mine").look == Look(saturation=(0, 0, 0))
    with pytest.raises(ValueError, match="look is 'sepia'; expected one of natural, vivid"):
        Finish(look="sepia")
