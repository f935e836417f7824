"""Suggested hint points: `PointHintColorizer.suggest_points` and the function for Python."""

import comfyui_colorist as colorist
import numpy as np
import pytest
import torch
from comfyui_colorist.pipeline import point_suggestions

RED = {"x": 0.25, "y": 0.5, "color": "#c03030", "size": 4}


@pytest.fixture
def photo() -> torch.Tensor:
    """(40, 56, 3) of soft gray patches."""
    small = torch.rand(1, 1, 4, 5)
    rgb = torch.nn.functional.interpolate(small, (40, 56), mode="bilinear").expand(-1, 3, -1, -1)
    return rgb[0].movedim(0, 2).contiguous()


@pytest.fixture
def suggest(mini_pointhint, photo):
    def run(count: int = 3, image=photo, **options):
        options = {"engine": mini_pointhint, "resolution": 64, **options}
        return colorist.suggest_points(image, count, **options)

    return run


def test_existing_hints_come_first(suggest):
    result = suggest(hints=[RED])
    assert len(result.hints) == 4
    assert result.hints[0].color == "#c03030" and result.hints[0].size == 4
    assert len(result.remaining) == 4
    assert 1 > result.remaining[0] > result.remaining[-1] > 0
    assert result.hints[1:] != suggest().hints


def test_colors_are_those_of_the_result(suggest, mini_pointhint, monkeypatch):
    seen = []

    def predict_ab(L, hints, base_ab, field):
        seen.append(hints)
        return torch.full((1, 2, *L.shape[2:]), 12.0)

    monkeypatch.setattr(mini_pointhint, "predict_ab", predict_ab)
    existing, *suggested = suggest(hints=[RED]).hints
    assert seen == [[existing]]
    assert all(hint.ab == pytest.approx((12, 12), abs=1) for hint in suggested)


def test_doubt_has_the_size_of_the_photo(suggest, photo):
    result = suggest(hints=[RED])
    assert result.doubt.shape == photo.shape[:2]
    assert 0 <= result.doubt.min() < result.doubt.max() <= 1
    assert result.doubt[20, 14] < result.doubt.mean()


@pytest.mark.parametrize("form", ["array", "batch of one", "gray"])
def test_forms_of_images(suggest, photo, form):
    forms = {"array": photo.numpy(), "batch of one": photo[None], "gray": photo[..., 0].numpy()}
    assert suggest(image=forms[form]).hints == suggest().hints


def test_a_base_changes_the_choice_to_its_corrections(suggest, mini):
    assert suggest(base=mini).remaining != suggest().remaining


def test_networks_without_a_kernel_use_that_of_kriging(photo, mini_pointhint_config, mini):
    import dataclasses

    from comfyui_colorist.model_defs import pointhint, registry
    from comfyui_colorist.pipeline import loader

    config = dataclasses.replace(mini_pointhint_config, kernel=None)
    spec = dataclasses.replace(pointhint.spec(config), prior=True)
    engine = loader.wrap(registry.build("pointhint", config).eval(), spec)
    for base in (None, mini):
        result = colorist.suggest_points(photo, 5, engine=engine, base=base, resolution=64)
        assert len({(hint.x, hint.y) for hint in result.hints}) == 5
        assert result.remaining[-1] < 0.9


def test_points_lie_in_the_mask(suggest):
    mask = np.zeros((40, 56), np.float32)
    mask[:, 30:] = 1
    assert all(hint.x > 0.5 for hint in suggest(8, mask=mask).hints)


@pytest.mark.parametrize("count, hints", [(0, []), (-1, []), (1001, []), (999, [RED, RED])])
def test_wrong_counts(suggest, count, hints):
    with pytest.raises(ValueError, match=f"points to suggest is {count}; expected 1 to"):
        suggest(count, hints=hints)


def test_several_images_are_refused(suggest, photo):
    with pytest.raises(ValueError, match="single image; 2 were given"):
        suggest(image=torch.stack([photo, photo]))


def test_the_bundled_network_is_the_default(photo, mini_pointhint, monkeypatch):
    asked = []
    monkeypatch.setattr(
        point_suggestions.loader, "load", lambda name: asked.append(name) or mini_pointhint
    )
    assert len(colorist.suggest_points(photo).hints) == 10
    assert asked == ["pointhint-nano"]
