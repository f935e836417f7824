"""Working images keep the aspect ratio, fit the network, and can be undone exactly."""

import pytest
import torch
from comfyui_colorist.ops import resize
from hypothesis import given, settings
from hypothesis import strategies as st

SIDES = st.integers(1, 12_000)


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.sampled_from([32, 160, 256, 512, 1024]))
def test_working_geometry(height, width, resolution):
    shape = resize.working_geometry(height, width, resolution, 32)
    assert shape.padded_height % 32 == 0 and shape.padded_width % 32 == 0
    assert 0 <= shape.padded_height - shape.scaled_height < 32
    assert shape.scaled_height * shape.scaled_width <= 1.3 * resolution**2 + 4 * resolution
    assert max(shape.scaled_height, shape.scaled_width) <= 4 * resolution
    # Rounding to whole pixels is the only distortion.
    if min(shape.scaled_height, shape.scaled_width) > 16:
        ratio = (shape.scaled_height / shape.scaled_width) / (height / width)
        assert abs(ratio - 1) < 0.07


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 65), (300, 10)])
def test_pad_then_unpad(size):
    shape = resize.working_geometry(*size, 64, 32)
    x = torch.rand(2, 1, shape.scaled_height, shape.scaled_width)
    padded = resize.pad(x, shape)
    assert padded.shape[2:] == (shape.padded_height, shape.padded_width)
    assert torch.equal(resize.unpad(padded, shape), x)


def test_padding_reflects():
    shape = resize.Geometry(40, 30, 40, 30, 64, 32)
    x = torch.rand(1, 1, 40, 30)
    padded = resize.pad(x, shape)
    assert torch.equal(padded[0, 0, 40:, :30], x[0, 0, 15:39].flip(0))
    assert torch.equal(padded[0, 0, :40, 30:], x[0, 0, :, 27:29].flip(1))


def test_downscale_by_strips_equals_downscale_at_once(monkeypatch):
    image = torch.rand(2, 3, 211, 173)
    shape = resize.working_geometry(211, 173, 64, 32)
    whole = resize.downscale(image, shape, "cpu")
    monkeypatch.setattr(resize, "STRIP_PIXELS", 173 * 2 * 7)
    torch.testing.assert_close(resize.downscale(image, shape, "cpu"), whole)
    direct = torch.nn.functional.interpolate(
        image, size=whole.shape[2:], mode="bilinear", antialias=True
    )
    torch.testing.assert_close(whole, direct, atol=1e-5, rtol=1e-4)


def test_row_ranges_cover_every_row_once():
    for height, width in ((1, 1), (10, 3_000_000), (4000, 3000)):
        ranges = resize.row_ranges(height, width)
        assert [row for top, bottom in ranges for row in range(top, bottom)] == list(range(height))


def test_refusals():
    with pytest.raises(ValueError, match="at least one pixel"):
        resize.working_geometry(0, 5, 64, 32)
    with pytest.raises(ValueError, match="resolution is 16; this network needs at least 32"):
        resize.working_geometry(5, 5, 16, 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        resize.squashed_geometry(5, 5, 100, 32)
