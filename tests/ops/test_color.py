"""Color conversions: invariants and reference values."""

import pytest
import torch
from comfyui_colorist.ops import color
from hypothesis import given, settings
from hypothesis import strategies as st

KNOWN = {  # sRGB primaries and gray in CIE Lab, D65; Lindbloom's calculator, to its two decimals
    (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
    (0.0, 1.0, 0.0): (87.74, -86.18, 83.18),
    (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
}


def pixel(*values):
    return torch.tensor(values).view(1, 3, 1, 1)


@pytest.fixture
def image():
    return torch.rand(2, 3, 33, 17, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("rgb", "lab"), KNOWN.items())
def test_known_values(rgb, lab):
    torch.testing.assert_close(color.rgb_to_lab(pixel(*rgb)), pixel(*lab), atol=0.02, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(0, 1, width=32)] * 3))
def test_round_trip(rgb):
    back = color.lab_to_rgb(color.rgb_to_lab(pixel(*rgb)))
    torch.testing.assert_close(back, pixel(*rgb), atol=2e-5, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1, width=32))
def test_gray_axis_has_no_chroma(value):
    assert color.chroma(color.rgb_to_lab(pixel(value, value, value))[:, 1:]) < 1e-3


def test_lightness_is_monotonic():
    ramp = torch.linspace(0, 1, 4096).expand(3, 1, -1)
    assert (color.lightness(ramp).diff() > 0).all()


def test_lightness_is_the_first_channel(image):
    torch.testing.assert_close(
        color.lightness(image), color.rgb_to_lab(image)[:, :1], atol=1e-4, rtol=0
    )


def test_gray_rgb_has_the_same_lightness(image):
    L = color.lightness(image)
    gray = color.gray_rgb(L)
    assert gray.shape == image.shape and torch.equal(gray[:, 0], gray[:, 2])
    torch.testing.assert_close(color.lightness(gray), L, atol=1e-3, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 100), st.floats(-120, 120), st.floats(-120, 120))
def test_gamut_keeps_lightness_and_hue(L, a, b):
    lab = pixel(L, a, b)
    rgb = color.to_gamut(lab)
    assert rgb.min() >= 0 and rgb.max() <= 1
    back = color.rgb_to_lab(rgb)
    assert (back[:, 0] - L).abs().item() < 0.01
    # hue: the result lies on the ray from gray to (a, b), no further out than (a, b)
    cross = back[0, 1] * b - back[0, 2] * a
    assert abs(cross.item()) < 0.02 * max(1.0, (a * a + b * b) ** 0.5)
    assert color.chroma(back[:, 1:]) <= (a * a + b * b) ** 0.5 + 0.02


def test_gamut_keeps_colors_inside(image):
    torch.testing.assert_close(color.to_gamut(color.rgb_to_lab(image)), image, atol=2e-5, rtol=0)


def test_gamut_reaches_the_edge():
    """Chroma is reduced no more than necessary."""
    lab = torch.tensor([[50.0, 0, 150]]).T.view(1, 3, 1, 1)
    rgb = color.to_gamut(lab)
    further = color.rgb_to_lab(rgb)
    further[:, 1:] *= 1.01
    outside = color.lab_to_rgb(further)
    assert outside.min() < 0 or outside.max() > 1


@pytest.mark.parametrize(
    "function", [color.rgb_to_lab, color.lightness, color.lab_to_rgb, color.to_gamut]
)
def test_refuses_other_channel_counts(function):
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\); expected \(\.\.\., 3, H, W\)"):
        function(torch.rand(1, 4, 2, 2))


def test_any_leading_dimensions(image):
    stacked = (
        image.expand(2, 3, -1, -1, -1, -1)
        if image.ndim == 3
        else image[None].expand(4, -1, -1, -1, -1)
    )
    torch.testing.assert_close(color.rgb_to_lab(stacked)[2], color.rgb_to_lab(image))


def test_gradient():
    rgb = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: color.lab_to_rgb(color.rgb_to_lab(x) * 0.9), rgb)
