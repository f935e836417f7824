"""Training losses, each one function or module with its equation."""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..metrics.image import colorfulness, soft_histogram
from ..model_defs import efficientnet_lite
from . import pretrained
from .evaluation import feature_networks

log = logging.getLogger(__name__)

# --- Colour ----------------------------------------------------------------------------------


def pixel_loss(ab: Tensor, true_ab: Tensor, beta: float = 0.0) -> Tensor:
    """L1 distance of two (B, 2, H, W) in Lab units (DDColor, section 3.4; both have the same L).

    With `beta` > 0 errors below it count quadratically (Huber): the answer to an uncertain colour
    then is nearer to its mean than to its median, which for most things is grey.
    """
    return F.smooth_l1_loss(ab, true_ab, beta=beta)


def psnr_loss(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Mean over pictures of -PSNR / 10 = log10(MSE) over (B, 3, H, W) in 0..1.

    Each picture counts by the factor of its error, not by its size: neutral photos teach to stay
    neutral as much as vivid ones teach color.
    """
    mse = (rgb - true_rgb).square().mean(dim=(1, 2, 3))
    return torch.log10(mse + 1e-4).mean()


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


class PerceptualLoss(nn.Module):
    """L1 distance of VGG-16's maps conv1_1 ... conv5_1, weighted 1/16, 1/8, 1/4, 1/2, 1.

    Args:
        weights: an ImageNet checkpoint of VGG-16 with batch norm, which the published programs
            use, or of plain VGG-16, which the papers name. It stays with the user.
    """

    def __init__(self, weights: str | Path):
        super().__init__()
        self.vgg = feature_networks.vgg(weights, kinds=("vgg16_bn", "vgg16"))
        self.weights = [2.0 ** (i - 4) for i in range(len(self.vgg.taps))]
        if self.vgg.name == "vgg16":
            log.info(
                "perceptual loss: %s is VGG-16 without batch norm; the published programs take "
                "VGG-16-BN",
                Path(weights).name,
            )

    def forward(self, rgb: Tensor, true_rgb: Tensor) -> Tensor:
        """Two (B, 3, H, W) in 0..1; the true one gets no gradient."""
        with torch.no_grad():
            true = self.vgg(true_rgb)
        loss = rgb.new_zeros(())
        for weight, x, y in zip(self.weights, self.vgg(rgb), true, strict=True):
            loss = loss + weight * F.l1_loss(x, y)
        return loss


class FeatureLoss(nn.Module):
    """Distance of two pictures in the maps of an ImageNet encoder, which sees color.

    As LPIPS (Zhang et al. 2018, eq. 1) without learned weights: maps normalised to unit length over
    channels, squared distance, mean over places, sum over the four maps.

    Args:
        weights: an ImageNet checkpoint of EfficientNet-Lite.
    """

    def __init__(self, weights: str | Path):
        super().__init__()
        self.encoder = pretrained.open_lite(weights).eval().requires_grad_(False)

    def forward(self, rgb: Tensor, true_rgb: Tensor) -> Tensor:
        """Two (B, 3, H, W) in 0..1; the true one gets no gradient."""
        with torch.no_grad():
            true = self._maps(true_rgb)
        maps = self._maps(rgb)
        return sum((x - y).square().sum(1).mean() for x, y in zip(maps, true, strict=True))

    def _maps(self, rgb: Tensor) -> list[Tensor]:
        taps = self.encoder((rgb - efficientnet_lite.MEAN) / efficientnet_lite.STD)
        return [F.normalize(tap.float(), dim=1, eps=1e-3) for tap in taps]


# --- Exemplar (XCNet paper, section 3.3) -----------------------------------------------------
# Normalised Lab throughout: L / 50 - 1 and ab / 110, each in -1..1. Each loss is that of one scale;
# eq. 4 weighs and sums them.


def pyramid(lab_norm: Tensor, levels: int) -> list[Tensor]:
    """The truth at each scale: (B, C, H, W) -> (B, C, H / 2^i, W / 2^i), i = 0 ... levels - 1."""
    scales = [lab_norm]
    while len(scales) < levels:
        scales.append(F.avg_pool2d(scales[-1], 2))
    return scales


def smooth_l1_lab(ab_norm: Tensor, true_ab_norm: Tensor) -> Tensor:
    """Smooth L1 (beta 1) of two (B, 2, H, W), as the mean over L, a, b (eq. 4, pixel term).

    L is copied from the target and costs nothing, hence 2/3 of the mean over ab.
    """
    return F.smooth_l1_loss(ab_norm, true_ab_norm) * (2 / 3)


def histogram_loss(ab_norm: Tensor, reference_ab_norm: Tensor) -> Tensor:
    """Symmetric chi-square distance of colour histograms, eq. 3, Q = 441; mean over the batch.

    The two (B, 2, H, W) may differ in size: each histogram sums to 1. float32 at least.
    """
    made, wanted = soft_histogram(ab_norm), soft_histogram(reference_ab_norm)
    return (2 * (made - wanted).square() / (made + wanted + 1e-5)).sum(1).mean()


def total_variation(ab_norm: Tensor) -> Tensor:
    """2 [sum(D_y^2) / (3 (H - 1) W) + sum(D_x^2) / (3 H (W - 1))] / B of (B, 2, H, W).

    The squared form; 3 as the constant L counts as a channel (section 3.3, "total variance").
    """
    B, _, H, W = ab_norm.shape
    down = ab_norm.diff(dim=2).square().sum() / (3 * (H - 1) * W)
    across = ab_norm.diff(dim=3).square().sum() / (3 * H * (W - 1))
    return 2 * (down + across) / B


class LeastSquaresPatchGAN(nn.Module):
    """Lab (B, 3, H, W) in -1..1 -> logits (B, 1, h, w) of patches: the discriminator of one scale.

    The 70x70 PatchGAN of Isola et al. 2017: 4x4 convolutions, `layers` of them of stride 2.

    Args:
        layers: 3 sees patches of 70 pixels and needs maps of 24; 2: 34 and 12; 1: 16 and 6.
        width: channels of the first convolution.
    """

    def __init__(self, layers: int = 3, width: int = 64):
        super().__init__()
        self.smallest = 3 * 2**layers
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        before = width
        for i in range(1, layers + 1):
            after = width * 2**i
            blocks += [
                nn.Conv2d(before, after, 4, 2 if i < layers else 1, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            before = after
        self.layers = nn.Sequential(*blocks, nn.Conv2d(before, 1, 4, 1, 1))

    def forward(self, lab_norm: Tensor) -> Tensor:
        if min(lab_norm.shape[2:]) < self.smallest:
            raise ValueError(
                f"the picture is {lab_norm.shape[3]} x {lab_norm.shape[2]}; this discriminator "
                f"needs {self.smallest} pixels a side. Give it fewer layers."
            )
        return self.layers(lab_norm)


def least_squares_loss(logits: Tensor, real: bool) -> Tensor:
    """LS-GAN: mean (D - 1)^2 for "all real", mean D^2 for "all made".

    L_D = (least_squares_loss(D(made), False) + least_squares_loss(D(real), True)) / 2 and
    L_G = least_squares_loss(D(made), True).
    """
    return (logits - float(real)).square().mean()
