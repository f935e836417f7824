"""Upsampled chroma follows the edges of the photo and keeps everything else."""

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.ops import chroma_upsampling
from comfyui_colorist.ops.chroma_upsampling import METHODS, Upsampler
from hypothesis import given, settings
from hypothesis import strategies as st


def enlarge(ab, L, full, method="edge"):
    return Upsampler(ab, L, full.shape[2:], method).rows(0, full.shape[2], full)


def down(x, size):
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def photo(height, width, batch=1, seed=0):
    """Return smooth random (L, ab) whose ab partly follows L."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 3, height // 6 + 2, width // 6 + 2, generator=generator)
    noise = F.interpolate(noise, size=(height, width), mode="bicubic")
    L = (50 + 25 * noise[:, :1]).clamp(0, 100)
    return L, torch.cat([0.4 * (L - 50) + 8 * noise[:, 1:2], -0.3 * L + 8 * noise[:, 2:]], dim=1)


def step(height=64, width=96, at=41):
    """Return (L, ab) of two flat fields that meet between two working pixels' centers."""
    right = (torch.arange(width) >= at).float().expand(1, 1, height, width)
    return 30 + 45 * right, torch.cat([40 - 60 * right, -20 + 50 * right], dim=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("small", [(1, 1), (1, 9), (12, 16), (40, 50)])
@pytest.mark.parametrize("size", [(1, 1), (1, 13), (17, 1), (37, 51), (12, 16)])
def test_any_size_keeps_constant_chroma(method, small, size):
    ab = torch.tensor([37.5, -12.25]).view(1, 2, 1, 1).expand(2, 2, *small).contiguous()
    L, full = 100 * torch.rand(2, 1, *small), 100 * torch.rand(2, 1, *size)
    out = enlarge(ab, L, full, method)
    assert out.shape == (2, 2, *size)
    torch.testing.assert_close(out, ab[:, :, :1, :1].expand_as(out), rtol=0, atol=1e-3)


def test_bilinear_equals_torch():
    ab, L, full = torch.randn(2, 2, 12, 17), torch.zeros(2, 1, 12, 17), torch.zeros(2, 1, 53, 61)
    wanted = F.interpolate(ab, size=(53, 61), mode="bilinear")
    torch.testing.assert_close(enlarge(ab, L, full, "bilinear"), wanted, rtol=0, atol=1e-5)


def test_nearest_repeats_whole_pixels():
    ab = torch.randn(1, 2, 5, 7)
    out = enlarge(ab, torch.zeros(1, 1, 5, 7), torch.zeros(1, 1, 15, 28), "nearest")
    assert torch.equal(out, ab.repeat_interleave(3, 2).repeat_interleave(4, 3))


def test_flat_guidance_is_bilinear():
    """Flat L gives bilinear interpolation of sharpened chroma; planes stay unchanged."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    ab = torch.stack([2 * x - y, 0.5 * y + 3])[None]
    L, full = torch.full((1, 1, 20, 30), 60.0), torch.full((1, 1, 71, 113), 60.0)
    out, plain = enlarge(ab, L, full), enlarge(ab, L, full, "bilinear")
    inner = (..., slice(20, -20), slice(20, -20))
    torch.testing.assert_close(out[inner], plain[inner], rtol=0, atol=1e-2)

    ab = torch.randn(1, 2, 20, 30)
    base = chroma_upsampling.edge_planes(ab, L, (71, 113))[:, :2]
    wanted = enlarge(base, L, full, "bilinear")
    torch.testing.assert_close(enlarge(ab, L, full), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_step_bleeds_less_than_bilinear(scale):
    full, truth = step()
    size = 64 // scale, 96 // scale
    ab, L = down(truth, size), down(full, size)
    edge, plain = (
        (enlarge(ab, L, full, method) - truth).abs().mean() for method in ("edge", "bilinear")
    )
    assert edge < 0.5 * plain


def test_grain_does_not_change_chroma():
    """Grain over two fields of equal lightness causes no speckle in chroma."""
    _, truth = step()
    full = 50 + 6 * torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    ab, L, calm = down(truth, (16, 24)), down(full, (16, 24)), torch.full_like(full, 50)
    speckle = enlarge(ab, L, full) - enlarge(ab, down(calm, (16, 24)), calm)
    assert speckle.abs().mean() < 0.25  # the fields differ by 60


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.sampled_from(METHODS), st.sampled_from([2**9, 2**18]))
def test_any_strips_give_the_same_rows(rows, method, block):
    full, truth = photo(61, 45, batch=2)
    ab, L = down(truth, (13, 11)), down(full, (13, 11))
    whole = enlarge(ab, L, full, method)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chroma_upsampling, "BLOCK_PIXELS", block)
        upsampler = Upsampler(ab, L, (61, 45), method)
        ends = [(top, min(top + rows, 61)) for top in range(0, 61, rows)]
        strips = [upsampler.rows(t, b, full[:, :, t:b]) for t, b in ends]
    torch.testing.assert_close(torch.cat(strips, dim=2), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_batch_equals_images_one_by_one(method):
    full, truth = photo(50, 70, batch=3)
    ab, L = down(truth, (14, 19)), down(full, (14, 19))
    singles = [enlarge(ab[i : i + 1], L[i : i + 1], full[i : i + 1], method) for i in range(3)]
    together = enlarge(ab, L, full, method)
    torch.testing.assert_close(together, torch.cat(singles), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_downscaled_result_equals_the_working_chroma(scale):
    full, truth = photo(96, 128)
    size = 96 // scale, 128 // scale
    ab, L = down(truth, size), down(full, size)
    lost = {m: (down(enlarge(ab, L, full, m), size) - ab).abs().mean() for m in METHODS[:2]}
    assert lost["edge"] < 0.5 * lost["bilinear"]


def test_stays_near_the_range_of_nearby_chroma():
    generator = torch.Generator().manual_seed(3)
    ab = 60 * torch.randn(1, 2, 20, 20, generator=generator)
    L, full = (100 * torch.rand(1, 1, n, n, generator=generator) for n in (20, 160))
    highest, lowest = F.max_pool2d(ab, 5, 1, 2), -F.max_pool2d(-ab, 5, 1, 2)
    slack = (chroma_upsampling.OVERSHOOT + 0.5) * (highest - lowest)
    out = enlarge(ab, L, full)
    assert (out <= F.interpolate(F.max_pool2d(highest + slack, 3, 1, 1), size=(160, 160))).all()
    assert (out >= F.interpolate(-F.max_pool2d(slack - lowest, 3, 1, 1), size=(160, 160))).all()


def test_no_complementary_halo():
    """Orange beside ribbed white is sharpened on both sides without turning blue."""
    x = torch.arange(96)
    right = (x >= 41).float().expand(1, 1, 64, 96)
    full = 60 + right * (30 + 10 * (x % 8 < 4))
    truth = torch.cat([40 * (1 - right), 60 * (1 - right)], dim=1)
    assert enlarge(down(truth, (16, 24)), down(full, (16, 24)), full).min() > -0.3


def test_working_image_larger_than_the_photo_is_averaged():
    ab = torch.randn(1, 2, 64, 64)
    out = enlarge(ab, torch.full((1, 1, 64, 64), 50.0), torch.full((1, 1, 16, 16), 50.0))
    torch.testing.assert_close(out, down(ab, (16, 16)), rtol=0, atol=1e-5)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="'sharp'; expected one of edge, bilinear, nearest"):
        Upsampler(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), (8, 8), "sharp")
