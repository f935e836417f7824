"""Each metric against its definition, published values and invariances.

PSNR and colorfulness are also losses and are tested in trainers/test_losses.
"""

import math

import numpy as np
import pytest
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color
from hypothesis import given, settings
from hypothesis import strategies as st

# Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula: implementation notes,
# supplementary test data, and mathematical observations", Color Research and Application 30(1),
# table 1: L, a, b of two colors, and their difference. Among them are hues half a turn apart
# (pairs 9 to 16) and colors without hue (7, 8), where most slips show.
SHARMA = """
    50.0000   2.6772 -79.7751  50.0000   0.0000 -82.7485   2.0425
    50.0000   3.1571 -77.2803  50.0000   0.0000 -82.7485   2.8615
    50.0000   2.8361 -74.0200  50.0000   0.0000 -82.7485   3.4412
    50.0000  -1.3802 -84.2814  50.0000   0.0000 -82.7485   1.0000
    50.0000  -1.1848 -84.8006  50.0000   0.0000 -82.7485   1.0000
    50.0000  -0.9009 -85.5211  50.0000   0.0000 -82.7485   1.0000
    50.0000   0.0000   0.0000  50.0000  -1.0000   2.0000   2.3669
    50.0000  -1.0000   2.0000  50.0000   0.0000   0.0000   2.3669
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0009   7.1792
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0010   7.1792
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0011   7.2195
    50.0000   2.4900  -0.0010  50.0000  -2.4900   0.0012   7.2195
    50.0000  -0.0010   2.4900  50.0000   0.0009  -2.4900   4.8045
    50.0000  -0.0010   2.4900  50.0000   0.0010  -2.4900   4.8045
    50.0000  -0.0010   2.4900  50.0000   0.0011  -2.4900   4.7461
    50.0000   2.5000   0.0000  50.0000   0.0000  -2.5000   4.3065
    50.0000   2.5000   0.0000  73.0000  25.0000 -18.0000  27.1492
    50.0000   2.5000   0.0000  61.0000  -5.0000  29.0000  22.8977
    50.0000   2.5000   0.0000  56.0000 -27.0000  -3.0000  31.9030
    50.0000   2.5000   0.0000  58.0000  24.0000  15.0000  19.4535
    50.0000   2.5000   0.0000  50.0000   3.1736   0.5854   1.0000
    50.0000   2.5000   0.0000  50.0000   3.2972   0.0000   1.0000
    50.0000   2.5000   0.0000  50.0000   1.8634   0.5757   1.0000
    50.0000   2.5000   0.0000  50.0000   3.2592   0.3350   1.0000
    60.2574 -34.0099  36.2677  60.4626 -34.1751  39.4387   1.2644
    63.0109 -31.0961  -5.8663  62.8187 -29.7946  -4.0864   1.2630
    61.2901   3.7196  -5.3901  61.4292   2.2480  -4.9620   1.8731
    35.0831 -44.1164   3.7933  35.0232 -40.0716   1.5901   1.8645
    22.7233  20.0904 -46.6940  23.0331  14.9730 -42.5619   2.0373
    36.4612  47.8580  18.3852  36.2715  50.5065  21.2231   1.4146
    90.8027  -2.0831   1.4410  91.1528  -1.6435   0.0447   1.4441
    90.9257  -0.5406  -0.9208  88.6381  -0.8985  -0.7239   1.5381
     6.7747  -0.2908  -2.4247   5.8714  -0.0985  -2.2286   0.6377
     2.0776   0.0795  -1.1350   0.9033  -0.0636  -0.5514   0.9082
"""


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two images, and the same with noise."""
    rgb = random(2, 3, 23, 31)
    return rgb, (rgb + 0.3 * (random(2, 3, 23, 31, seed=1) - 0.5)).clamp(0, 1)


def flat(*rgb: float, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, *size)


@pytest.fixture
def small_parts(monkeypatch):
    """Shrink tiles and chunks so that small images have many, some of them incomplete."""
    monkeypatch.setattr(image_metrics, "SSIM_TILE", 7)
    monkeypatch.setattr(image_metrics, "CHUNK_PIXELS", 100)


# --- SSIM --------------------------------------------------------------------------------------


def test_ssim_is_its_definition(pair, small_parts):
    """Wang et al. 2004, eq. 13: each window separately, with central moments."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    window /= window.sum()
    for ours, x_image, y_image in zip(
        image_metrics.ssim(*pair), *(p.double().numpy() for p in pair), strict=True
    ):
        values = []
        for channel in range(3):
            for row in range(23 - 10):
                for column in range(31 - 10):
                    window_at = (channel, slice(row, row + 11), slice(column, column + 11))
                    p, q = x_image[window_at], y_image[window_at]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    both = (window * (p - mp) * (q - mq)).sum()
                    values.append(
                        (2 * mp * mq + 0.01**2) * (2 * both + 0.03**2)
                        / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2))
                    )  # fmt: skip
        assert ours.item() == pytest.approx(np.mean(values), abs=1e-10)


def test_ssim_of_known_images():
    rgb = random(1, 3, 20, 20)
    assert image_metrics.ssim(rgb, rgb).item() == 1
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)  # no structure: means alone
    assert image_metrics.ssim(flat(*[0.25] * 3), flat(*[0.75] * 3)).item() == pytest.approx(
        expected
    )
    assert image_metrics.ssim(rgb, 1 - rgb).item() < -0.5  # the negative


def test_ssim_is_symmetric(pair):
    value = image_metrics.ssim(*pair)
    assert value.dtype == torch.float64 and value.shape == (2,)
    assert (value > 0).all() and (value < 1).all()
    torch.testing.assert_close(image_metrics.ssim(*pair[::-1]), value)
    turned = (image.transpose(2, 3).flip(3) for image in pair)
    torch.testing.assert_close(image_metrics.ssim(*turned), value)


def test_ssim_falls_with_noise():
    rgb, noise = random(1, 3, 40, 40), random(1, 3, 40, 40, seed=1) - 0.5
    values = [image_metrics.ssim(rgb, rgb + amount * noise).item() for amount in (0, 0.1, 0.3, 1)]
    assert values == sorted(values, reverse=True)


def test_ssim_rejects_images_smaller_than_its_window():
    assert image_metrics.ssim(*2 * [random(1, 3, 11, 11)]).item() == 1
    for size, size_text in (((10, 40), "40x10"), ((40, 10), "10x40"), ((1, 1), "1x1")):
        with pytest.raises(ValueError, match=f"have {size_text} pixels; SSIM needs at least 11x11"):
            image_metrics.ssim(*2 * [random(1, 3, *size)])


@pytest.mark.parametrize(
    "measured", [image_metrics.psnr, image_metrics.ssim, image_metrics.ciede2000]
)
def test_images_of_different_shapes_are_rejected(measured):
    with pytest.raises(
        ValueError, match=r"\(1, 3, 20, 20\) and \(1, 3, 20, 21\); they must be equal"
    ):
        measured(random(1, 3, 20, 20), random(1, 3, 20, 21))


# --- CIEDE2000 ---------------------------------------------------------------------------------


def test_delta_e_of_the_published_pairs():
    numbers = [[float(x) for x in line.split()] for line in SHARMA.strip().split("\n")]
    rows = torch.tensor(numbers, dtype=torch.float64)
    first, second = rows[:, :3, None, None], rows[:, 3:6, None, None]
    for order in ((first, second), (second, first)):
        result = image_metrics.delta_e(*order)
        assert result.shape == (34, 1, 1)
        torch.testing.assert_close(result.flatten(), rows[:, 6], atol=5.1e-5, rtol=0)
    # float32 rounds hues half a turn apart to either side, where the formula itself jumps
    smooth = [*range(8), *range(16, 34)]
    result = image_metrics.delta_e(first[smooth].float(), second[smooth].float())
    torch.testing.assert_close(result.flatten().double(), rows[smooth, 6], atol=1e-4, rtol=0)


def test_ciede2000_of_known_images(pair):
    rgb, other = pair
    assert image_metrics.ciede2000(rgb, rgb).tolist() == [0, 0]
    assert image_metrics.ciede2000(flat(0, 0, 0), flat(1, 1, 1)).item() == pytest.approx(
        100, abs=1e-3
    )
    expected = image_metrics.delta_e(color.rgb_to_lab(rgb), color.rgb_to_lab(other)).mean((1, 2))
    torch.testing.assert_close(image_metrics.ciede2000(rgb, other), expected.double())
    # Half the pixels changed: half the difference
    half = torch.where(torch.arange(16) < 8, flat(1, 0, 0), flat(0, 0, 1))
    whole = image_metrics.ciede2000(flat(1, 0, 0), flat(0, 0, 1)).item()
    assert image_metrics.ciede2000(half, flat(1, 0, 0)).item() == pytest.approx(whole / 2)


# --- Histograms --------------------------------------------------------------------------------


def binned(ab_norm: np.ndarray) -> np.ndarray:
    """Bin (2, N) to (441,), sharing each pixel among the four corners of its grid cell."""
    histogram = np.zeros((21, 21))
    for a, b in (ab_norm.clip(-1, 1).T + 1) * 10:
        i, j = min(int(a), 19), min(int(b), 19)
        u, v = a - i, b - j
        histogram[i, j] += (1 - u) * (1 - v)
        histogram[i + 1, j] += u * (1 - v)
        histogram[i, j + 1] += (1 - u) * v
        histogram[i + 1, j + 1] += u * v
    return histogram.flatten() / ab_norm.shape[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([0.05, 0.5, 1.3]))
def test_soft_histogram_is_bilinear_binning(seed, count, reach):
    ab_norm = np.random.default_rng(seed).uniform(-reach, reach, (2, 2, count))
    result = image_metrics.soft_histogram(torch.from_numpy(ab_norm))
    assert result.shape == (2, 441)
    for ours, pixels in zip(result.numpy(), ab_norm, strict=True):
        np.testing.assert_allclose(ours, binned(pixels), atol=1e-12)
        assert ours.sum() == pytest.approx(1)


def test_soft_histogram_of_known_colors():
    def of(a: float, b: float) -> dict[tuple[int, int], float]:
        result = image_metrics.soft_histogram(torch.tensor([a, b]).view(1, 2, 1, 1)).view(21, 21)
        return {
            (i, j): round(result[i, j].item(), 4) for i, j in (result > 1e-5).nonzero().tolist()
        }

    assert of(0, 0) == {(10, 10): 1}
    assert of(1, -1) == {(20, 0): 1}
    assert of(7, -1.01) == {(20, 0): 1}  # out of range: at its edge
    assert of(0.325, -0.9) == {(13, 1): 0.75, (14, 1): 0.25}
    assert of(0.05, 0.05) == {(10, 10): 0.25, (10, 11): 0.25, (11, 10): 0.25, (11, 11): 0.25}


def test_soft_histogram_in_single_precision_and_autocast():
    ab_norm = random(1, 2, 60, 80) * 2 - 1
    exact = image_metrics.soft_histogram(ab_norm.double())
    with torch.autocast("cpu", torch.bfloat16):
        result = image_metrics.soft_histogram(ab_norm)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, atol=1e-7, rtol=0)
    assert image_metrics.soft_histogram(ab_norm.bfloat16()).dtype == torch.float32


def test_soft_histogram_has_a_gradient():
    ab_norm = (random(2, 2, 7).double() * 1.6 - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: image_metrics.soft_histogram(x).pow(2), ab_norm)
    edges = torch.tensor([-2.0, -1, -0.9, 0, 1e-9, 0.05, 1, 2])  # corners of the weights
    edges = torch.stack([edges, edges.flip(0)])[None].requires_grad_()
    torch.log(image_metrics.soft_histogram(edges) + 1e-5).sum().backward()
    assert edges.grad.isfinite().all()
    assert not edges.grad[0, :, [0, -1]].any()  # outside nothing pulls


def test_soft_histogram_moves_colors():
    """Gradient descent on the exemplar paper's loss moves colors to nearby ones."""
    histogram = image_metrics.soft_histogram(torch.tensor([0.33, -0.21]).view(1, 2, 1))
    ab_norm = torch.tensor([0.27, -0.26]).view(1, 2, 1).requires_grad_()
    optimizer = torch.optim.Adam([ab_norm], lr=0.005)
    for _ in range(50):
        result = image_metrics.soft_histogram(ab_norm)
        loss = 2 * ((result - histogram) ** 2 / (result + histogram + 1e-5)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(ab_norm.flatten(), torch.tensor([0.33, -0.21]), atol=0.01, rtol=0)


def test_soft_histogram_rejects_other_shapes():
    for shape in ((1, 3, 4, 4), (1, 2), (1, 2, 0)):
        with pytest.raises(ValueError, match=r"ab_norm has shape .*; expected \(B, 2, \.\.\.\)\."):
            image_metrics.soft_histogram(torch.zeros(shape))


def test_ab_histogram_of_known_images(pair):
    gray = image_metrics.ab_histogram(random(1, 1, 9, 9).expand(1, 3, 9, 9))
    assert gray[0, 10 * 21 + 10].item() == pytest.approx(1, abs=1e-4)
    ab_norm = color.rgb_to_lab(pair[0].double())[:, 1:] / 110
    expected = image_metrics.soft_histogram(ab_norm)
    torch.testing.assert_close(image_metrics.ab_histogram(pair[0]), expected, atol=1e-6, rtol=0)


def test_his_of_known_images(pair):
    rgb, other = pair
    assert image_metrics.histogram_intersection(rgb, rgb).tolist() == pytest.approx([1, 1])
    assert image_metrics.histogram_intersection(flat(1, 0, 0), flat(0, 0, 1)).item() == 0
    half = torch.where(torch.arange(16) < 8, flat(1, 0, 0), flat(0, 0, 1))
    assert image_metrics.histogram_intersection(half, flat(0, 0, 1)).item() == pytest.approx(0.5)
    value = image_metrics.histogram_intersection(rgb, other)
    assert ((value > 0) & (value < 1)).all()
    torch.testing.assert_close(image_metrics.histogram_intersection(other, rgb), value)


def test_his_ignores_positions_and_sizes(pair):
    """A shuffled image has all the colors and no structure, so HIS needs SSIM beside it."""
    rgb, _ = pair
    permutation = torch.randperm(23 * 31, generator=torch.Generator().manual_seed(0))
    shuffled = rgb.flatten(2)[:, :, permutation].view_as(rgb)
    assert image_metrics.histogram_intersection(shuffled, rgb).tolist() == pytest.approx(
        [1, 1], abs=1e-6
    )
    assert image_metrics.ssim(shuffled, rgb).max() < 0.1
    larger = rgb.repeat_interleave(3, 2).repeat_interleave(2, 3)
    assert image_metrics.histogram_intersection(larger, rgb).tolist() == pytest.approx(
        [1, 1], abs=1e-6
    )


def test_his_with_one_reference_for_all(pair):
    rgb, other = pair
    expected = torch.cat(
        [
            image_metrics.histogram_intersection(rgb[:1], other[:1]),
            image_metrics.histogram_intersection(rgb[1:], other[:1]),
        ]
    )
    torch.testing.assert_close(image_metrics.histogram_intersection(rgb, other[:1]), expected)
    with pytest.raises(ValueError, match="there are 2 references for 1 images; give one"):
        image_metrics.histogram_intersection(rgb[:1], other)


# --- All ---------------------------------------------------------------------------------------

MEASURES = [image_metrics.ssim, image_metrics.ciede2000, image_metrics.histogram_intersection]


@pytest.mark.parametrize("measured", MEASURES)
def test_result_does_not_depend_on_chunks(pair, measured, monkeypatch):
    whole = measured(*pair)
    for tile, piece in ((7, 100), (1, 1), (13, 2 * 23 * 31)):
        monkeypatch.setattr(image_metrics, "SSIM_TILE", tile)
        monkeypatch.setattr(image_metrics, "CHUNK_PIXELS", piece)
        torch.testing.assert_close(measured(*pair), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("measured", [image_metrics.psnr, *MEASURES])
def test_batch_equals_single_images(pair, measured, small_parts):
    one_by_one = [measured(a[None], b[None]) for a, b in zip(*pair, strict=True)]
    torch.testing.assert_close(measured(*pair), torch.cat(one_by_one), atol=1e-6, rtol=0)


@pytest.mark.parametrize("measured", MEASURES)
def test_layout_and_precision_do_not_matter(pair, measured, small_parts):
    value = measured(*pair)
    as_read = (image.movedim(1, -1).contiguous().movedim(-1, 1) for image in pair)
    torch.testing.assert_close(measured(*as_read), value, atol=1e-6, rtol=0)
    as_double = (image.double() for image in pair)
    torch.testing.assert_close(measured(*as_double), value, atol=1e-4, rtol=0)
    halves = [image.half() for image in pair]
    expected = measured(*(image.float() for image in halves))
    torch.testing.assert_close(measured(*halves), expected, atol=1e-6, rtol=0)


def test_ssim_window_is_the_published_one():
    assert len(image_metrics.SSIM_WINDOW) == 11
    assert sum(image_metrics.SSIM_WINDOW) == pytest.approx(1)
    assert image_metrics.SSIM_WINDOW[5] / image_metrics.SSIM_WINDOW[2] == pytest.approx(
        math.exp(2)
    )  # 3 px = 2 sigma


# --- Patches -----------------------------------------------------------------------------------

# patch, PEV and B-PSNR of `noisy`: by numpy and scipy in float64, the metrics of the program with
# which the specification of the point-hint network was written (its "pev" and "bpsnr")
PATCHES = [
    (8, 148.86419488088217, 19.626974009953805),
    (16, 144.79491971371715, 19.40392784917688),
    (32, 201.61110742788202, 18.464631179161284),
]


@pytest.fixture(scope="module")
def noisy():
    """Return a 70x50 image and a copy with noise that grows from left to right; float64."""
    rng = np.random.default_rng(7)
    rgb = rng.random((50, 70, 3))
    other = rgb + rng.normal(0, 0.1, (50, 70, 3)) * np.linspace(0, 2, 70)[:, None]
    both = (torch.from_numpy(image).movedim(-1, 0)[None] for image in (rgb, other.clip(0, 1)))
    return tuple(both)


@pytest.mark.parametrize(("patch", "variance", "psnr"), PATCHES)
def test_patch_metrics_of_a_seeded_image(noisy, patch, variance, psnr):
    for both in (noisy, noisy[::-1], [image.float() for image in noisy]):
        result = (
            image_metrics.patch_error_variance(*both, patch),
            image_metrics.boundary_psnr(*both, patch),
        )
        assert [x.shape for x in result] == [(1,), (1,)]
        assert result[0].item() == pytest.approx(variance, rel=1e-4)
        assert result[1].item() == pytest.approx(psnr, abs=1e-4)


def test_default_patch_size(noisy):
    for measured in (image_metrics.patch_error_variance, image_metrics.boundary_psnr):
        assert torch.equal(measured(*noisy), measured(*noisy, 16))


@pytest.mark.parametrize("size", [(23, 31), (16, 33), (48, 40), (17, 1)])
@pytest.mark.parametrize("patch", [4, 8, 16])
def test_patch_metrics_are_their_definitions(size, patch):
    """A pixel is at a boundary if a neighbor is in another patch."""
    both = [random(2, 3, *size, seed=seed).double() for seed in (0, 1)]
    error = ((both[0] - both[1]) ** 2).mean(1).numpy()
    variance, psnr = (
        image_metrics.patch_error_variance(*both, patch),
        image_metrics.boundary_psnr(*both, patch),
    )
    for i, image_error in enumerate(error):
        roots = [
            math.sqrt(255**2 * image_error[y : y + patch, x : x + patch].mean())
            for y in range(0, size[0] - patch + 1, patch)
            for x in range(0, size[1] - patch + 1, patch)
        ]
        want = np.var(roots, ddof=1) if len(roots) > 1 else 0
        assert variance[i].item() == pytest.approx(want, abs=1e-9)
        border = [
            image_error[y, x]
            for y in range(size[0])
            for x in range(size[1])
            if any(
                0 <= v < size[0] and 0 <= u < size[1] and (v // patch, u // patch) != (
                    y // patch, x // patch)
                for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            )
        ]  # fmt: skip
        assert psnr[i].item() == pytest.approx(-10 * math.log10(np.mean(border)), abs=1e-9)


def test_patch_metrics_of_known_images():
    gray = flat(0.5, 0.5, 0.5, size=(32, 48))
    assert image_metrics.patch_error_variance(gray, gray).item() == 0
    assert image_metrics.boundary_psnr(gray, gray).item() == pytest.approx(50)
    # Wrong by 10 levels everywhere: as large as it may be, yet nowhere worse than elsewhere
    shifted = gray + 10 / 255
    assert image_metrics.patch_error_variance(gray, shifted).item() == pytest.approx(0, abs=1e-6)
    assert image_metrics.boundary_psnr(gray, shifted).item() == pytest.approx(28.13, abs=0.01)
    # One patch of six wrong by 60 levels, all the others right: 600, not the 60^4 / 6 of squares
    spot = gray.clone()
    spot[:, :, 16:, 16:32] += 60 / 255
    assert image_metrics.patch_error_variance(spot, gray).item() == pytest.approx(600, rel=1e-4)
    # Inside a patch: no border sees it
    inside = gray.clone()
    inside[:, :, 18:30, 18:30] = 1
    assert image_metrics.boundary_psnr(inside, gray).item() == pytest.approx(50)


@pytest.mark.parametrize("size", [(8, 8), (15, 40), (40, 15), (16, 31), (1, 1)])
def test_fewer_than_two_patches_have_no_variance(size):
    both = random(2, 3, *size), random(2, 3, *size, seed=1)
    assert image_metrics.patch_error_variance(*both).tolist() == [0, 0]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (16, 3)])
def test_images_without_a_boundary_are_rejected(size):
    sentence = rf"the images have {size[1]}x{size[0]} pixels and no patch boundary; one side"
    with pytest.raises(ValueError, match=sentence):
        image_metrics.boundary_psnr(random(1, 3, *size), random(1, 3, *size))
    both = random(1, 3, 1, 17), random(1, 3, 1, 17, seed=1)
    last = (both[0] - both[1])[..., 15:].square().mean()
    assert image_metrics.boundary_psnr(*both).item() == pytest.approx(
        -10 * math.log10(last), abs=1e-4
    )


@pytest.mark.parametrize(
    "measured", [image_metrics.patch_error_variance, image_metrics.boundary_psnr]
)
def test_patch_metrics_of_batches_and_other_shapes(pair, measured):
    one_by_one = [measured(a[None], b[None], 8) for a, b in zip(*pair, strict=True)]
    torch.testing.assert_close(measured(*pair, 8), torch.cat(one_by_one), atol=1e-4, rtol=0)
    with pytest.raises(
        ValueError, match=r"\(1, 3, 20, 20\) and \(1, 3, 20, 21\); they must be equal"
    ):
        measured(random(1, 3, 20, 20), random(1, 3, 20, 21))


# --- All of them -------------------------------------------------------------------------------


def test_scores_of_a_batch():
    rgb, true = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    result = image_metrics.score_batch(rgb, true)
    assert list(result) == ["psnr", "ssim", "ciede2000", "colorfulness"]
    assert all(values.shape == (2,) for values in result.values())
    assert list(image_metrics.score_batch(rgb)) == ["colorfulness"]
    histogram = image_metrics.ab_histogram(true)
    assert image_metrics.score_batch(true, true, histogram)["his"].tolist() == pytest.approx([1, 1])
    assert {"pev16", "bpsnr32"} <= set(image_metrics.score_batch(rgb, true, patch_sizes=(16, 32)))


def test_absolute_colorfulness_drops_the_signs():
    """Half red, half green: opposite colors are equal without signs."""
    rgb = torch.zeros(1, 3, 4, 4)
    rgb[:, 0, :2], rgb[:, 1, 2:] = 1, 1
    # R - G is 255 and -255, (R + G) / 2 - B is 127.5
    signed = 255 + 0.3 * 127.5
    absolute = 0.3 * (255**2 + 127.5**2) ** 0.5
    assert image_metrics.colorfulness(rgb).item() == pytest.approx(signed, rel=1e-5)
    assert image_metrics.absolute_colorfulness(rgb).item() == pytest.approx(absolute, rel=1e-5)
