"""Training losses, each a function or module with its equation."""

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

# --- Color -----------------------------------------------------------------------------------


def pixel_loss(ab: Tensor, true_ab: Tensor, beta: float = 0.0) -> Tensor:
    """Return the L1 distance of ab (B, 2, H, W) in Lab units (DDColor, section 3.4).

    Args:
        ab: prediction.
        true_ab: target; both have the same L.
        beta: errors below it count quadratically (Huber loss). The best answer for an uncertain
            color is then closer to the mean than to the median, which is mostly gray.
    """
    return F.smooth_l1_loss(ab, true_ab, beta=beta)


def psnr_loss(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Return the mean over images (B, 3, H, W) in 0..1 of -PSNR / 10 = log10(MSE).

    The logarithm makes relative errors count: neutral photos teach the network to stay neutral as
    strongly as vivid ones teach color.
    """
    mse = (rgb - true_rgb).square().mean(dim=(1, 2, 3))
    return torch.log10(mse + 1e-4).mean()


def colorfulness_loss(rgb: Tensor) -> Tensor:
    """Return 1 - [sigma_rgyb + 0.3 mu_rgyb] / 100 (DDColor, eq. 8)."""
    return (1 - colorfulness(rgb) / 100).mean()


def enhance_color(rgb: Tensor, factor: float) -> Tensor:
    """Scale the difference of (B, 3, H, W) from its gray version and clamp to 0..1.

    This is the color augmentation of real images in DDColor's official program.
    """
    gray = (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (gray + factor * (rgb - gray)).clamp(0, 1)


# --- Adversarial -----------------------------------------------------------------------------


class PatchDiscriminator(nn.Module):
    """RGB (B, 3, H, W) in 0..1 -> logits of patches (Isola et al. 2017), with spectral norm.

    As in the official programs: stride-2 4x4 convolutions of 1, 2, 4, 8 x width, each followed by a
    3x3 convolution, with self-attention in the first block.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for i in range(4):
            out_channels = width * 2**i
            layers += [_conv(in_channels, out_channels, 4, 2), nn.LeakyReLU(0.2, inplace=True)]
            if i == 0:
                layers.append(SelfAttention(out_channels))
            layers += [_conv(out_channels, out_channels, 3, 1), nn.LeakyReLU(0.2, inplace=True)]
            in_channels = out_channels
        self.layers = nn.Sequential(*layers, _conv(in_channels, 1, 4, 1))

    def forward(self, rgb: Tensor) -> Tensor:
        return self.layers(rgb * 2 - 1)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(in_channels, out_channels, kernel, stride, padding=1))


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
        keys = F.adaptive_avg_pool2d(x, (min(x.shape[2], 32), min(x.shape[3], 32)))
        q, k, v = (
            f(t).flatten(2).transpose(1, 2)
            for f, t in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.weight * attended


def adversarial_loss(logits: Tensor, real: bool) -> Tensor:
    """Return the binary cross-entropy of logits against "all real" or "all generated"."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


# --- Perceptual ------------------------------------------------------------------------------


class PerceptualLoss(nn.Module):
    """L1 distance of VGG-16 features conv1_1 ... conv5_1, weighted 1/16, 1/8, 1/4, 1/2, 1.

    Args:
        weights: ImageNet checkpoint of VGG-16 with batch norm, as in the official programs, or of
            plain VGG-16, as in the papers.
    """

    def __init__(self, weights: str | Path):
        super().__init__()
        self.vgg = feature_networks.load_vgg_features(weights, kinds=("vgg16_bn", "vgg16"))
        self.weights = [2.0 ** (i - 4) for i in range(len(self.vgg.taps))]
        if self.vgg.name == "vgg16":
            log.info(
                "perceptual loss: %s is VGG-16 without batch norm; the official programs use "
                "VGG-16-BN",
                Path(weights).name,
            )

    def forward(self, rgb: Tensor, true_rgb: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in 0..1; the true ones get no gradient."""
        with torch.no_grad():
            true = self.vgg(true_rgb)
        loss = rgb.new_zeros(())
        for weight, x, y in zip(self.weights, self.vgg(rgb), true, strict=True):
            loss = loss + weight * F.l1_loss(x, y)
        return loss


class FeatureLoss(nn.Module):
    """Distance of two images in the features of an ImageNet encoder, which sees color.

    LPIPS (Zhang et al. 2018, eq. 1) without learned weights: features are normalized to unit length
    over channels; squared distances are averaged over positions and summed over the four levels.

    Args:
        weights: ImageNet checkpoint of an EfficientNet-Lite.
    """

    def __init__(self, weights: str | Path):
        super().__init__()
        self.encoder = pretrained.load_efficientnet_lite(weights).eval().requires_grad_(False)

    def forward(self, rgb: Tensor, true_rgb: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in 0..1; the true ones get no gradient."""
        with torch.no_grad():
            true = self._features(true_rgb)
        loss = rgb.new_zeros(())
        for x, y in zip(self._features(rgb), true, strict=True):
            loss = loss + (x - y).square().sum(1).mean()
        return loss

    def _features(self, rgb: Tensor) -> list[Tensor]:
        levels = self.encoder((rgb - efficientnet_lite.MEAN) / efficientnet_lite.STD)
        return [F.normalize(level.float(), dim=1, eps=1e-3) for level in levels]


# --- Exemplar (XCNet paper, section 3.3) -----------------------------------------------------
# Normalized Lab throughout: L / 50 - 1 and ab / 110, each in -1..1. Each loss is that of one scale;
# eq. 4 weights and sums them.


def pyramid(lab_norm: Tensor, levels: int) -> list[Tensor]:
    """Return (B, C, H, W) average-pooled to (B, C, H / 2^i, W / 2^i), i = 0 ... levels - 1."""
    scales = [lab_norm]
    while len(scales) < levels:
        scales.append(F.avg_pool2d(scales[-1], 2))
    return scales


def smooth_l1_lab(ab_norm: Tensor, true_ab_norm: Tensor) -> Tensor:
    """Return the smooth L1 loss (beta 1) of (B, 2, H, W), averaged over L, a, b (eq. 4).

    L is copied from the target and its error is zero, hence 2/3 of the mean over ab.
    """
    return F.smooth_l1_loss(ab_norm, true_ab_norm) * (2 / 3)


def histogram_loss(ab_norm: Tensor, reference_ab_norm: Tensor) -> Tensor:
    """Return the symmetric chi-square distance of color histograms (eq. 3, Q = 441).

    The two (B, 2, H, W) may differ in size, since each histogram sums to 1. At least float32.
    """
    result, reference = soft_histogram(ab_norm), soft_histogram(reference_ab_norm)
    return (2 * (result - reference).square() / (result + reference + 1e-5)).sum(1).mean()


def total_variation(ab_norm: Tensor) -> Tensor:
    """Return 2 [sum(D_y^2) / (3 (H - 1) W) + sum(D_x^2) / (3 H (W - 1))] / B of (B, 2, H, W).

    This is the squared form; the 3 counts the constant L as a channel (section 3.3, "total
    variance").
    """
    B, _, H, W = ab_norm.shape
    vertical = ab_norm.diff(dim=2).square().sum() / (3 * (H - 1) * W)
    horizontal = ab_norm.diff(dim=3).square().sum() / (3 * H * (W - 1))
    return 2 * (vertical + horizontal) / B


class LeastSquaresPatchGAN(nn.Module):
    """Lab (B, 3, H, W) in -1..1 -> logits (B, 1, h, w) of patches: the discriminator of one scale.

    The 70x70 PatchGAN of Isola et al. 2017: 4x4 convolutions, `layers` of them with stride 2.

    Args:
        layers: 3 sees patches of 70 pixels and needs 24 pixels a side; 2: 34 and 12; 1: 16 and 6.
        width: channels of the first convolution.
    """

    def __init__(self, layers: int = 3, width: int = 64):
        super().__init__()
        self.min_side = 3 * 2**layers
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        in_channels = width
        for i in range(1, layers + 1):
            out_channels = width * 2**i
            blocks += [
                nn.Conv2d(in_channels, out_channels, 4, 2 if i < layers else 1, 1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            in_channels = out_channels
        self.layers = nn.Sequential(*blocks, nn.Conv2d(in_channels, 1, 4, 1, 1))

    def forward(self, lab_norm: Tensor) -> Tensor:
        if min(lab_norm.shape[2:]) < self.min_side:
            raise ValueError(
                f"the image is {lab_norm.shape[3]} x {lab_norm.shape[2]}; this discriminator "
                f"needs {self.min_side} pixels a side. Give it fewer layers."
            )
        return self.layers(lab_norm)


def least_squares_loss(logits: Tensor, real: bool) -> Tensor:
    """Return the LS-GAN loss: mean (D - 1)^2 for "all real", mean D^2 for "all generated".

    L_D = (least_squares_loss(D(fake), False) + least_squares_loss(D(true), True)) / 2 and
    L_G = least_squares_loss(D(fake), True).
    """
    return (logits - float(real)).square().mean()
