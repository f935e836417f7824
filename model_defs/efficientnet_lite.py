"""EfficientNet-Lite: the small ImageNet encoder of the bundled models.

Tan, Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv:1905.11946, table 1, in the Lite variants of 2020: no squeeze-and-excitation, ReLU6 in place
of swish, and stem, first and last stage of the same size in every variant.

Batch norm is folded into the convolutions: fine-tuning on small batches keeps its statistics fixed
anyway, and inference saves two passes over every map. `trainers.pretrained` folds it when it reads
ImageNet checkpoints.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import trains_on_cpu

STEM = 32  # channels of the first convolution, at 1/2
STRIDES = (1, 2, 2, 2, 1, 2, 1)
KERNELS = (3, 3, 5, 3, 5, 5, 3)
EXPANSION = (1, 6, 6, 6, 6, 6, 6)
TAPS = (1, 2, 4, 6)  # last stages at 1/4, 1/8, 1/16, 1/32
MEAN, STD = 127 / 255, 128 / 255  # of every input channel, in 0..1


class Variant(NamedTuple):
    """Sizes of the seven stages."""

    depths: tuple[int, ...]
    """Blocks per stage."""
    dims: tuple[int, ...]
    """Channels per stage."""


VARIANTS = {
    "lite0": Variant((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite1": Variant((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": Variant((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: at stride 2 more zeros on the right and bottom.

    For even sizes, which all maps of this encoder have.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
    ):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups)
        self.asymmetric_padding = kernel - stride if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.asymmetric_padding:
            first = self.asymmetric_padding // 2
            x = F.pad(x, (first, self.asymmetric_padding - first) * 2)
        if self.groups > 1 and x.dtype == torch.bfloat16 and trains_on_cpu(x):
            # The gradient of a depthwise convolution takes three times as long in bfloat16; float32
            # for this layer saves a third of the encoder's time (2026-11-30, torch 2.13).
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(torch.bfloat16)
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand 1x1 -> depthwise -> project 1x1 (linear), with a shortcut if shapes agree.

    Sandler et al. 2018, section 3.3.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expansion: int
    ):
        super().__init__()
        hidden = expansion * in_channels
        self.expand = nn.Conv2d(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, out_channels, 1)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """(B, 3, H, W), normalized by MEAN and STD -> feature maps at 1/4, 1/8, 1/16, 1/32.

    Args:
        depths: blocks of each of the seven stages.
        dims: channels of each of the seven stages.
        taps: stages whose maps are returned.
    """

    def __init__(
        self, depths: tuple[int, ...], dims: tuple[int, ...], taps: tuple[int, ...] = TAPS
    ):
        super().__init__()
        self.taps = taps
        self.stem = SameConv2d(3, STEM, 3, stride=2)
        stages, in_channels = [], STEM
        for depth, dim, kernel, stride, expansion in zip(
            depths, dims, KERNELS, STRIDES, EXPANSION, strict=True
        ):
            blocks = []
            for i in range(depth):
                blocks.append(
                    InvertedResidual(
                        in_channels,
                        dim,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                    )
                )
                in_channels = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(x), inplace=True)
        taps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.taps:
                taps.append(x)
        return taps
