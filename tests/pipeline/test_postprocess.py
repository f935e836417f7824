"""Finished images keep their lightness; each control has its documented effect."""

import math

import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import postprocess
from comfyui_colorist.pipeline.postprocess import Finish, suppress_low_chroma


@pytest.fixture
def photo():
    """Gray ramp with a colored patch, (1, 3, 40, 60)."""
    gray = torch.linspace(0.1, 0.9, 60).expand(1, 3, 40, 60).clone()
    gray[:, :, 10:20, 10:20] = torch.tensor([0.8, 0.3, 0.2]).view(3, 1, 1)
    return gray


@pytest.fixture
def predicted():
    """Chroma 30 toward a and 20 toward b at (10, 15), and its lightness."""
    ab = torch.tensor([30.0, 20.0]).view(1, 2, 1, 1).expand(1, 2, 10, 15).contiguous()
    return ab, torch.full((1, 1, 10, 15), 50.0)


def finished(photo, predicted, mask=None, **controls):
    out = torch.empty_like(photo)
    postprocess.apply_finish(photo, *predicted, Finish(**controls), out, mask)
    return out


def middle(rgb):
    return color.rgb_to_lab(rgb)[0, :, 30, 30]


def test_lightness_is_kept(photo, predicted):
    out = finished(photo, predicted)
    torch.testing.assert_close(color.lightness(out), color.lightness(photo), atol=0.01, rtol=0)
    torch.testing.assert_close(middle(out)[1:], torch.tensor([30.0, 20.0]), atol=0.05, rtol=0)


def test_out_of_gamut_keeps_lightness_and_hue(photo, predicted):
    out = finished(photo, (predicted[0] * 6, predicted[1]))
    torch.testing.assert_close(color.lightness(out), color.lightness(photo), atol=0.01, rtol=0)
    _, a, b = middle(out)
    assert (b / a).item() == pytest.approx(20 / 30, abs=0.01)


def test_strength(photo, predicted):
    assert torch.equal(finished(photo, predicted, strength=0), photo)
    torch.testing.assert_close(
        middle(finished(photo, predicted, strength=0.5))[1:],
        torch.tensor([15.0, 10]),
        atol=0.05,
        rtol=0,
    )


def test_saturation_and_ceiling(photo, predicted):
    assert (
        color.chroma(color.rgb_to_lab(finished(photo, predicted, saturation=0))[:, 1:]).max() < 0.01
    )
    _, a, b = middle(finished(photo, predicted, saturation=0.5))
    assert (a.item(), b.item()) == pytest.approx((15, 10), abs=0.05)
    bent = middle(finished(photo, predicted, chroma_ceiling=20))
    assert torch.hypot(*bent[1:]).item() < 20
    assert (bent[2] / bent[1]).item() == pytest.approx(20 / 30, abs=0.01)


def test_fade_removes_weak_color_and_keeps_strong_color(photo, predicted):
    """C*^3 / (C*^2 + fade^2) halves C* = fade and keeps hue; 0 is off."""
    ab = torch.tensor([0.0, 3, 10, 60]).view(1, 1, 2, 2) * torch.tensor([0.6, -0.8]).view(
        1, 2, 1, 1
    )
    assert suppress_low_chroma(ab, 0.0) is ab
    out = suppress_low_chroma(ab, 10.0)
    want = torch.tensor([0, 27 / 109, 5, 60 * 3600 / 3700])
    torch.testing.assert_close(color.chroma(out).flatten(), want)
    assert (out[:, 0] * ab[:, 1] == out[:, 1] * ab[:, 0]).all()
    c = math.hypot(30, 20)
    _, a, b = middle(finished(photo, predicted, fade=c))
    assert (a.item(), b.item()) == pytest.approx((15, 10), abs=0.05)


def test_mask(photo, predicted):
    mask = torch.zeros(1, 40, 60)
    mask[:, :, 30:] = 1
    out = finished(photo, predicted, mask)
    assert torch.equal(out[..., :30], photo[..., :30])
    torch.testing.assert_close(
        out[..., 30:], finished(photo, predicted)[..., 30:], atol=1e-4, rtol=0
    )


def test_keep_color(photo, predicted):
    out = finished(photo, predicted, keep_color=1)
    assert torch.equal(out[:, :, 12:18, 12:18], photo[:, :, 12:18, 12:18])
    assert middle(out)[1].item() == pytest.approx(30, abs=0.05)


def test_strips_are_invisible(photo, predicted, monkeypatch):
    from comfyui_colorist.ops import resize

    ab, L = torch.randn_like(predicted[0]) * 20, torch.rand_like(predicted[1]) * 100
    whole = finished(photo, (ab, L))
    monkeypatch.setattr(resize, "STRIP_PIXELS", 60 * 7)
    torch.testing.assert_close(finished(photo, (ab, L)), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", 1.1),
        ("strength", float("nan")),
        ("saturation", -1),
        ("chroma_ceiling", 1e9),
        ("fade", 51),
        ("keep_color", 2),
    ],
)
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; expected"):
        Finish(**{name: value})
