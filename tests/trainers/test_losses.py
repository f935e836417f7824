"""Each loss against its definition."""

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.model_defs.efficientnet_lite import VARIANTS, EfficientNetLite
from comfyui_colorist.trainers import losses


@pytest.fixture
def rgb():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_psnr_loss_is_a_tenth_of_the_psnr(rgb):
    other = (rgb + 0.1 * rgb.flip(2)).clamp(0, 1)
    expected = image_metrics.psnr(other, rgb).mean() / -10
    assert losses.psnr_loss(other, rgb).item() == pytest.approx(expected.item(), abs=0.02)
    assert losses.psnr_loss(rgb, rgb).item() == pytest.approx(-4)  # 40 dB count as equal


def test_feature_loss_sees_color(rgb, tmp_path):
    encoder = EfficientNetLite(*VARIANTS["lite0"])
    torch.save(encoder.state_dict(), tmp_path / "lite0.pth")
    loss = losses.FeatureLoss(tmp_path / "lite0.pth")
    result = rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1).clone().requires_grad_()
    assert loss(rgb, rgb).item() == 0
    value = loss(result, rgb)
    value.backward()
    assert value.item() > 0 and result.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_colorfulness_of_known_images(rgb):
    assert image_metrics.colorfulness(rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1)).max() < 0.01
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    # R - G = 255, (R + G) / 2 - B = 127.5, no spread: 0.3 hypot
    assert image_metrics.colorfulness(red).item() == pytest.approx(0.3 * 285.1, abs=0.1)


def test_colorfulness_loss_is_equation_8(rgb):
    expected = 1 - image_metrics.colorfulness(rgb) / 100
    assert losses.colorfulness_loss(rgb).item() == pytest.approx(expected.mean().item())


def test_colorfulness_has_a_gradient_at_grey():
    gray = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    losses.colorfulness_loss(gray).backward()
    assert gray.grad.isfinite().all()


def test_psnr(rgb):
    assert image_metrics.psnr(rgb, rgb).tolist() == [50.0, 50.0]
    assert image_metrics.psnr(rgb.clamp(0, 0.9), rgb.clamp(0, 0.9) + 0.1)[
        0
    ].item() == pytest.approx(20, abs=1e-3)
    with pytest.raises(ValueError, match="they must be equal"):
        image_metrics.psnr(rgb, rgb[..., :5])


def test_enhance_color(rgb):
    more = losses.enhance_color(rgb, 1.2)
    assert image_metrics.colorfulness(more).mean() > image_metrics.colorfulness(rgb).mean()
    torch.testing.assert_close(losses.enhance_color(rgb, 1.0), rgb)


def test_discriminator_learns_to_tell(rgb):
    torch.manual_seed(0)
    discriminator = losses.PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    gray = rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1)

    def loss():
        result, real = discriminator(gray), discriminator(rgb)
        return losses.adversarial_loss(result, False) + losses.adversarial_loss(real, True)

    before = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.7 * before


def vgg16(norm: bool) -> torch.nn.Sequential:
    """Return torchvision's `features` of VGG-16 with few channels, nothing in place."""
    torch.manual_seed(0)
    layers, before = [], 3
    for width, count in ((2, 2), (3, 2), (4, 3), (5, 3), (6, 3)):
        for _ in range(count):
            layers.append(torch.nn.Conv2d(before, width, 3, padding=1))
            layers += [torch.nn.BatchNorm2d(width)] if norm else []
            layers.append(torch.nn.ReLU())
            before = width
        layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize("norm", [True, False])
def test_perceptual_loss_with_user_weights(norm, rgb, tmp_path, caplog):
    """Sum of w_l |conv_l_1(made) - conv_l_1(true)|, w = 1/16 ... 1, before batch norm and ReLU."""
    caplog.set_level("INFO")
    network = vgg16(norm)
    state = {f"features.{key}": t for key, t in network.state_dict().items()}
    state["classifier.0.weight"] = torch.rand(2, 2)
    torch.save(state, tmp_path / "given.pth")
    perceptual = losses.PerceptualLoss(tmp_path / "given.pth").train()
    assert ("without batch norm" in caplog.text) == (not norm)
    assert perceptual(rgb, rgb).item() == 0

    result = rgb.flip(0).requires_grad_()
    loss = perceptual(result, rgb)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x, y = (
        (p - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for p in (result, rgb)
    )
    expected, weight, first = 0, 1 / 16, True
    for layer in network:
        x, y = layer(x), layer(y)
        if first:
            expected, weight = expected + weight * (x - y).abs().mean(), 2 * weight
        first = isinstance(layer, torch.nn.MaxPool2d)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, result)[0]
    loss.backward()
    torch.testing.assert_close(result.grad, wanted, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in perceptual.parameters())


# --- Exemplar --------------------------------------------------------------------------------


@pytest.fixture
def ab_norm():
    ab = torch.randn(3, 2, 12, 20, generator=torch.Generator().manual_seed(0))
    return (0.4 * ab).clamp(-1, 1)


def test_soft_histogram_is_bilinear_binning(ab_norm):
    """Each pixel is shared among its four nearest bins, and Q = 441 (spec: closed form)."""
    expected = torch.zeros(3, 21, 21)
    place = (ab_norm + 1) * 10
    low = place.floor().clamp(0, 19).long()
    part = place - low
    for b in range(3):
        for (i, j), (u, v) in zip(
            low[b].flatten(1).T.tolist(), part[b].flatten(1).T.tolist(), strict=True
        ):
            for di, wi in ((0, 1 - u), (1, u)):
                for dj, wj in ((0, 1 - v), (1, v)):
                    expected[b, i + di, j + dj] += wi * wj / (12 * 20)
    result = image_metrics.soft_histogram(ab_norm)
    assert result.shape == (3, 441)
    torch.testing.assert_close(result, expected.flatten(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.sum(1), torch.ones(3))


def test_soft_histogram_at_the_ends_of_the_range():
    ends = torch.tensor([[-1.0, 1.0], [1.3, -2.0]]).view(2, 2, 1, 1)
    result = image_metrics.soft_histogram(ends)
    assert result.argmax(1).tolist() == [20, 420]  # (a, b) = (-1, 1) and (1, -1), a first
    torch.testing.assert_close(result.amax(1), torch.ones(2))


def test_histogram_loss_is_equation_3(ab_norm):
    other = ab_norm.roll(1, 0)[..., ::2].clone()
    result, wanted = image_metrics.soft_histogram(ab_norm), image_metrics.soft_histogram(other)
    expected = sum(
        2 * (m - w) ** 2 / (m + w + 1e-5)
        for m, w in zip(result.flatten().tolist(), wanted.flatten().tolist(), strict=True)
    )
    assert losses.histogram_loss(ab_norm, other).item() == pytest.approx(expected / 3, rel=1e-4)
    assert losses.histogram_loss(ab_norm, ab_norm).item() == 0


def test_histogram_loss_has_a_gradient_and_stays_float32(ab_norm):
    result = ab_norm.clone().requires_grad_()
    losses.histogram_loss(result, ab_norm.flip(0)).backward()
    assert result.grad.isfinite().all() and result.grad.abs().sum() > 0
    plain = losses.histogram_loss(ab_norm, ab_norm.flip(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.histogram_loss(ab_norm, ab_norm.flip(0))
        assert loss.dtype == torch.float32 and loss == plain
        assert losses.histogram_loss(ab_norm.bfloat16(), ab_norm).dtype == torch.float32


def test_histogram_loss_alone_brings_the_reference_colour():
    """A reference of one colour c: the mode of the result's histogram moves to c in 200 steps."""
    c = torch.tensor([0.3, -0.4]).view(1, 2, 1, 1)
    raw = 0.3 * torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.02)
    mode = image_metrics.soft_histogram(c.expand(1, 2, 4, 4)).argmax()
    assert image_metrics.soft_histogram(raw.tanh()).argmax() != mode
    for _ in range(200):
        optimizer.zero_grad()
        losses.histogram_loss(raw.tanh(), c.expand(1, 2, 16, 16)).backward()
        optimizer.step()
    assert image_metrics.soft_histogram(raw.tanh()).argmax() == mode


def test_smooth_l1_counts_the_copied_lightness(ab_norm):
    L, other = torch.rand(3, 1, 12, 20), 3 * ab_norm.flip(0)
    expected = F.smooth_l1_loss(torch.cat([L, ab_norm], 1), torch.cat([L, other], 1), beta=1.0)
    assert losses.smooth_l1_lab(ab_norm, other).item() == pytest.approx(expected.item(), rel=1e-5)


def test_total_variation_of_a_ramp():
    B, H, W = 2, 5, 7
    a = torch.arange(H).view(1, 1, H, 1).expand(B, 1, H, W) * 0.1
    b = torch.arange(W).view(1, 1, 1, W).expand(B, 1, H, W) * 0.3
    # Mean square of D_y over 3 channels: 0.01 / 3, of D_x: 0.09 / 3; the batch cancels but for 2
    assert losses.total_variation(torch.cat([a, b], 1)).item() == pytest.approx(0.2 / 3, rel=1e-5)
    assert losses.total_variation(torch.full((1, 2, 4, 4), 0.5)).item() == 0


def test_pyramid_is_average_pooling(ab_norm):
    scales = losses.pyramid(ab_norm, 3)
    assert [tuple(s.shape[2:]) for s in scales] == [(12, 20), (6, 10), (3, 5)]
    assert torch.equal(scales[0], ab_norm)
    torch.testing.assert_close(scales[2], F.avg_pool2d(ab_norm, 4))


def test_patch_gan_has_the_published_size():
    network = losses.LeastSquaresPatchGAN()
    assert sum(p.numel() for p in network.parameters()) == 2_765_633
    assert [name for name, _ in network.named_parameters() if name.endswith("bias")] == [
        f"layers.{i}.bias"
        for i in (0, 3, 6, 9, 11)  # first, batch norms, last
    ]


@pytest.mark.parametrize(
    ("layers", "sizes"),
    [(3, {224: 26, 112: 12, 56: 5, 28: 1, 24: 1}), (2, {56: 12, 12: 1}), (1, {8: 2, 6: 1})],
)
def test_patch_gan_map_sizes(layers, sizes):
    network = losses.LeastSquaresPatchGAN(layers, width=4).eval()
    for side, expected in sizes.items():
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 1, expected, expected)
    with pytest.raises(ValueError, match=f"needs {network.min_side} pixels a side"):
        network(torch.zeros(1, 3, 64, network.min_side - 1))


def test_least_squares_loss():
    logits = torch.tensor([0.0, 2.0, 4.0])
    assert losses.least_squares_loss(logits, True).item() == pytest.approx(11 / 3)
    assert losses.least_squares_loss(logits, False).item() == pytest.approx(20 / 3)


def test_discriminator_and_generator_steps_leave_each_other_alone():
    torch.manual_seed(0)
    network = losses.LeastSquaresPatchGAN(width=8)
    lab = torch.rand(2, 3, 32, 32)
    result = lab.flip(2).requires_grad_()
    loss = losses.least_squares_loss(network(result.detach()), False)
    (loss + losses.least_squares_loss(network(lab), True)).backward()
    assert result.grad is None
    assert all(p.grad is not None for p in network.parameters())
    network.zero_grad()
    network.requires_grad_(False)
    losses.least_squares_loss(network(result), True).backward()
    assert result.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())
