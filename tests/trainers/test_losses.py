"""Each loss against its definition."""

import pytest
import torch
from comfyui_colorist.pipeline import measure
from comfyui_colorist.trainers import losses


@pytest.fixture
def rgb():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_colorfulness_of_known_pictures(rgb):
    assert measure.colorfulness(rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1)).max() < 0.01
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    # R - G = 255, (R + G) / 2 - B = 127.5, no spread: 0.3 hypot
    assert measure.colorfulness(red).item() == pytest.approx(0.3 * 285.1, abs=0.1)


def test_colorfulness_loss_is_equation_8(rgb):
    expected = 1 - measure.colorfulness(rgb) / 100
    assert losses.colorfulness_loss(rgb).item() == pytest.approx(expected.mean().item())


def test_colorfulness_has_a_gradient_at_grey():
    gray = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    losses.colorfulness_loss(gray).backward()
    assert gray.grad.isfinite().all()


def test_psnr(rgb):
    assert measure.psnr(rgb, rgb).tolist() == [50.0, 50.0]
    assert measure.psnr(rgb.clamp(0, 0.9), rgb.clamp(0, 0.9) + 0.1)[0].item() == pytest.approx(
        20, abs=1e-3
    )
    with pytest.raises(ValueError, match="must agree"):
        measure.psnr(rgb, rgb[..., :5])


def test_enhance_color(rgb):
    more = losses.enhance_color(rgb, 1.2)
    assert measure.colorfulness(more).mean() > measure.colorfulness(rgb).mean()
    torch.testing.assert_close(losses.enhance_color(rgb, 1.0), rgb)


def test_discriminator_learns_to_tell(rgb):
    torch.manual_seed(0)
    discriminator = losses.PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    gray = rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1)

    def loss():
        made, real = discriminator(gray), discriminator(rgb)
        return losses.adversarial_loss(made, False) + losses.adversarial_loss(real, True)

    before = loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.7 * before


def test_perceptual_loss_with_user_weights(rgb, tmp_path):
    """Weights under the usual names load; equal pictures cost nothing; a gradient comes back."""
    torch.manual_seed(0)
    layers, before = [], 3
    for width in losses._VGG16_BN:
        if width == "M":
            layers.append(torch.nn.MaxPool2d(2))
            continue
        layers += [torch.nn.Conv2d(before, width, 3), torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
        before = width
    state = {f"features.{key}": t for key, t in torch.nn.Sequential(*layers).state_dict().items()}
    state["classifier.0.weight"] = torch.rand(2, 2)
    torch.save(state, tmp_path / "vgg16_bn.pth")
    perceptual = losses.PerceptualLoss(tmp_path / "vgg16_bn.pth")
    assert sorted(perceptual.taps.values()) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert perceptual(rgb, rgb).item() == 0
    made = rgb.flip(0).requires_grad_()
    perceptual(made, rgb).backward()
    assert made.grad.abs().sum() > 0
