"""Training losses, each one function or module with its equation."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..model_defs import checkpoint
from ..pipeline.measure import colorfulness

# --- Colour ----------------------------------------------------------------------------------


def pixel_loss(ab: Tensor, true_ab: Tensor, beta: float = 0.0) -> Tensor:
    """L1 distance of two (B, 2, H, W) in Lab units (DDColor, section 3.4; both have the same L).

    With `beta` > 0 errors below it count quadratically (Huber): the answer to an uncertain colour
    then is nearer to its mean than to its median, which for most things is grey.
    """
    return F.smooth_l1_loss(ab, true_ab, beta=beta)


def colorfulness_loss(rgb: Tensor) -> Tensor:
    """1 - [sigma_rgyb + 0.3 mu_rgyb] / 100 (DDColor, eq. 8)."""
    return (1 - colorfulness(rgb) / 100).mean()


def enhance_color(rgb: Tensor, factor: float) -> Tensor:
    """Blend (B, 3, H, W) away from its own grey by `factor` and clamp.

    The colour augmentation of real pictures.
    """
    gray = (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (gray + factor * (rgb - gray)).clamp(0, 1)


# --- Adversarial -----------------------------------------------------------------------------


class PatchDiscriminator(nn.Module):
    """RGB (B, 3, H, W) in 0..1 -> logits of patches (Isola et al. 2017), spectrally normalised.

    Stride-2 4x4 convolutions of width, 2, 4, 8 x width with 3x3 ones between, self-attention in
    the first block, as the published colorizers train with.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i in range(4):
            after = width * 2**i
            layers += [_conv(before, after, 4, 2), nn.LeakyReLU(0.2, inplace=True)]
            if i == 0:
                layers.append(SelfAttention(after))
            layers += [_conv(after, after, 3, 1), nn.LeakyReLU(0.2, inplace=True)]
            before = after
        self.layers = nn.Sequential(*layers, _conv(before, 1, 4, 1))

    def forward(self, rgb: Tensor) -> Tensor:
        return self.layers(rgb * 2 - 1)


def _conv(before: int, after: int, kernel: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, kernel, stride, padding=1))


class SelfAttention(nn.Module):
    """Attention over positions (Zhang et al. 2019), with at most 32 x 32 keys.

    Its learned weight starts at zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, narrow, 1), nn.Conv2d(channels, narrow, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        keys = F.adaptive_avg_pool2d(x, [min(n, 32) for n in x.shape[2:]])
        q, k, v = (
            f(t).flatten(2).transpose(1, 2)
            for f, t in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.weight * attended


def adversarial_loss(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy against "all real" or "all made"."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


# --- Perceptual ------------------------------------------------------------------------------

_VGG16_BN = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]


class PerceptualLoss(nn.Module):
    """L1 distance of VGG-16 (batch norm) maps conv1_1 ... conv5_1, weighted 1/16, 1/8, 1/4, 1/2, 1.

    Args:
        weights: a VGG-16-BN checkpoint with the usual `features.N.` names (ImageNet). It stays with
            the user.
    """

    def __init__(self, weights: Path):
        super().__init__()
        layers, before, self.taps = [], 3, {}
        for i, width in enumerate(_VGG16_BN):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            if i == 0 or _VGG16_BN[i - 1] == "M":
                self.taps[len(layers)] = 2.0 ** (len(self.taps) - 4)
            layers += [
                nn.Conv2d(before, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        state, _ = checkpoint.read(weights)
        self.load_features(
            {key: value for key, value in state.items() if key.startswith("features.")}, weights
        )
        self.features = self.features[: max(self.taps) + 1].requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def load_features(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Strict load of the convolutional part."""
        checkpoint.load_strict(nn.ModuleDict({"features": self.features}), state, Path(path).name)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """The network stays in eval mode: its batch-norm statistics are ImageNet's."""
        return super().train(False)

    def forward(self, rgb: Tensor, true_rgb: Tensor) -> Tensor:
        x, y = ((picture - self.mean) / self.std for picture in (rgb, true_rgb))
        loss = rgb.new_zeros(())
        for i, layer in enumerate(self.features):
            x = layer(x)
            with torch.no_grad():
                y = layer(y)
            if i in self.taps:
                loss = loss + self.taps[i] * F.l1_loss(x, y)
        return loss
