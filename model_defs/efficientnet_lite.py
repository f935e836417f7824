"""EfficientNet-Lite: the small ImageNet encoder of the bundled networks.

Tan, Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
arXiv:1905.11946, table 1, in the Lite variants of 2020: no squeeze-and-excitation, ReLU6 in place
of swish, and stem, first and last stage of the same size in every variant.

Batch norm is folded into the convolutions: fine-tuning on small batches keeps its statistics fixed
anyway, and inference saves two passes over every map. `trainers.pretrained` folds ImageNet
checkpoints when it reads them.
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
TAPS = (1, 2, 4, 6)  # stages after which the map is at 1/4, 1/8, 1/16, 1/32 and widest
MEAN, STD = 127 / 255, 128 / 255  # of the input, in 0..1, for every channel


class Variant(NamedTuple):
    """Sizes of the seven stages."""

    depths: tuple[int, ...]
    """Blocks."""
    dims: tuple[int, ...]
    """Channels."""


VARIANTS = {
    "lite0": Variant((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite1": Variant((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": Variant((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: at stride 2 more zeros to the right and below.

    Even sizes only, as those of every map here.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(before, after, kernel, stride, padding, groups=groups)
        self.surplus = kernel - stride if stride > 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        if self.surplus:
            first = self.surplus // 2
            x = F.pad(x, (first, self.surplus - first) * 2)
        if self.groups > 1 and x.dtype == torch.bfloat16 and trains_on_cpu(x):
            # The gradient of a depthwise convolution takes three times as long in bfloat16
            # (2026-11-30, torch 2.13): float32 in between saves a third of the encoder's time.
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(torch.bfloat16)
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand 1x1 -> depthwise -> project 1x1 (linear), with a shortcut where shapes agree.

    Sandler et al. 2018, section 3.3.
    """

    def __init__(self, before: int, after: int, *, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * before
        self.expand = nn.Conv2d(before, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, after, 1)
        self.shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """(B, 3, H, W), normalised by MEAN and STD -> four feature maps at 1/4, 1/8, 1/16, 1/32.

    Args:
        depths: blocks of each of the seven stages.
        dims: channels of each stage.
    """

    def __init__(self, depths: tuple[int, ...], dims: tuple[int, ...]):
        super().__init__()
        self.stem = SameConv2d(3, STEM, 3, stride=2)
        stages, before = [], STEM
        for depth, dim, kernel, stride, expansion in zip(
            depths, dims, KERNELS, STRIDES, EXPANSION, strict=True
        ):
            blocks = []
            for i in range(depth):
                blocks.append(
                    InvertedResidual(
                        before,
                        dim,
                        kernel=kernel,
                        stride=stride if i == 0 else 1,
                        expansion=expansion,
                    )
                )
                before = dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(x), inplace=True)
        taps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in TAPS:
                taps.append(x)
        return taps
