"""Learned Gaussian-process kernel of the color prior in guided networks.

Deep kernel learning (Wilson, Hu, Salakhutdinov, Xing, AISTATS 2016, arXiv:1511.02222): a network
embeds each cell of an image so that cells with similar embeddings have similar colors. Kriging
(`ops.gaussian_process`) then interpolates the colors of hints or reference cells. Embeddings depend
on lightness alone, so one pass serves any set of hints.

Structure: backbone -> decoder back up to cells of 2x2 pixels -> one head with the embeddings, the
expected color without hints, and two variances. An ImageNet-pretrained EfficientNet-Lite as the
backbone knows which cells belong to the same thing.
"""

from dataclasses import dataclass
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import color, gaussian_process
from ..ops.gaussian_process import Field
from . import efficientnet_lite
from .efficientnet_lite import EfficientNetLite
from .layers import LayerNorm2d, SmallBackbone
from .validation import Choice, Depth, Range, Width, validate_fields

MEAN_SCALE = 20.0  # Lab units of a predicted mean of 1; about the spread of chroma in photos
MAX_LOG_FACTOR = 3.0  # bound on the predicted logarithms of scale and noise
MIN_NOISE = 1e-3
# Distance over which a correction loses its weight, as a fraction of the image diagonal. Users
# correct the worst colors, which say less about their surroundings than the random locations seen
# in training (docs/development/training-log.md).
CORRECTION_REACH = 0.5
# Scalars are stored as log(value) / 10: they have further to go than filters, and learn that much
# faster at the same learning rate.
LOG_RATE = 10.0
LITE_TAPS = (0, *efficientnet_lite.TAPS)  # also the first stage, at 1/2


@dataclass(frozen=True, kw_only=True)
class Config:
    """All values that change a tensor's shape or the result; JSON-serializable."""

    backbone: Annotated[str, Choice(("convnext", "efficientnet-lite"))] = "convnext"
    """convnext (small, with a convolutional stem) or efficientnet-lite."""
    stem: Width = 24
    """Channels of convnext at 1/2."""
    dims: tuple[Width, ...] = (40, 80, 160)
    """Channels of each stage: convnext at 1/4, 1/8, 1/16; seven stages of efficientnet-lite."""
    depths: tuple[Depth, ...] = (2, 2, 2)
    """Blocks of each stage."""
    width: Width = 64
    """Decoder channels down to 1/4; half of them at 1/2."""
    kernel_count: Annotated[int, Range(1, 64)] = 3
    """K: number of exponential kernels in the sum."""
    embedding_width: Annotated[int, Range(1, 1024)] = 8
    """Learned coordinates per kernel, in addition to y, x and L."""
    use_x: bool = True
    """Include x in the coordinates; False if cells of different images are compared, where only
    the height y carries information."""

    def __post_init__(self) -> None:
        validate_fields(self, "kernel")
        stages = 3 if self.backbone == "convnext" else len(efficientnet_lite.STRIDES)
        if not len(self.dims) == len(self.depths) == stages:
            raise ValueError(
                f"kernel: dims and depths have {len(self.dims)} and {len(self.depths)} values; the "
                f"backbone {self.backbone} has {stages} stages."
            )


LITE = Config(
    backbone="efficientnet-lite",
    dims=efficientnet_lite.VARIANTS["lite1"].dims,
    depths=efficientnet_lite.VARIANTS["lite1"].depths,
)
"""The bundled models' kernel."""


def _to_parameter(value: Tensor) -> nn.Parameter:
    """Inverse of `_from_parameter`."""
    return nn.Parameter(value.log() / LOG_RATE)


def _from_parameter(parameter: Tensor) -> Tensor:
    return (LOG_RATE * parameter.float()).exp()


def _mix(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(channels, out, 3, padding=1),
    )


def build_backbone(config: Config) -> SmallBackbone | EfficientNetLite:
    """Build the backbone that `config` describes."""
    if config.backbone == "convnext":
        return SmallBackbone(config.stem, config.dims, config.depths)
    return EfficientNetLite(config.depths, config.dims, taps=LITE_TAPS)


class DeepKernel(nn.Module):
    """Lightness (B, 1, H, W) in 0..100 -> `Field` of its cells."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        if config.backbone == "convnext":
            channels = [config.stem, *config.dims]
            self.norms = nn.ModuleList()
        else:
            channels = [config.dims[stage] for stage in LITE_TAPS]
            self.norms = nn.ModuleList(map(LayerNorm2d, channels))
        # From the coarsest map to that at 1/2, which has half the width
        width, half, coarser = config.width, config.width // 2, len(channels) - 2
        widths = [*[width] * (coarser + 1), half]
        self.skips = nn.ModuleList(
            nn.Conv2d(*sizes, 1) for sizes in zip(reversed(channels), widths, strict=True)
        )
        self.mixes = nn.ModuleList(
            [*(_mix(width, width) for _ in range(coarser - 1)), _mix(width, half), _mix(half, half)]
        )
        # Embeddings of all kernels; mean a and b; logarithms of scale and noise
        self.head = nn.Conv2d(half, config.kernel_count * config.embedding_width + 4, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(cast(Tensor, self.head.bias))
        # The first kernel starts as the classical one and the others are small, so an untrained
        # network is about as good as kriging on position and lightness. Corrections reach less far,
        # so theirs starts in the last kernel.
        classical, index = gaussian_process.COLOR_KERNEL, torch.arange(config.kernel_count)
        first, last = index == 0, index == config.kernel_count - 1
        amplitude = torch.stack([torch.where(first, 1.0, 0.1), torch.where(last, 1.0, 0.1)])
        self.amplitude = _to_parameter(amplitude.flatten())
        self.constant = _to_parameter(torch.tensor([classical.mean_variance, 0.01]))
        self.inverse_spatial_scale = _to_parameter(
            torch.linspace(1, 3, config.kernel_count) / classical.spatial_scale
        )
        self.inverse_lightness_scale = _to_parameter(
            torch.linspace(1, 0.5, config.kernel_count) / classical.lightness_scale
        )
        self.noise = _to_parameter(torch.tensor(classical.noise_variance))

    def forward(self, L: Tensor) -> Field:
        """Describe the cells of images of any size.

        The border is replicated to whole cells of the backbone and cropped again.
        """
        if L.ndim != 4 or L.shape[1] != 1:
            raise ValueError(f"deep kernel: L has shape {tuple(L.shape)}; expected (B, 1, H, W).")
        height, width = L.shape[2:]
        maps = self._feature_maps(L.float())
        x = self.skips[0](maps[-1])
        for tap, skip, mix in zip(maps[-2::-1], self.skips[1:], self.mixes, strict=True):
            x = F.gelu(skip(tap) + F.interpolate(x, size=tap.shape[2:], mode="bilinear"))
            mixed = mix(x)
            x = x + mixed if x.shape == mixed.shape else mixed
        outputs = self.head(x).float()[:, :, : -(-height // 2), : -(-width // 2)].flatten(2).mT

        # Float32 from here: sums of many small differences
        kernels, learned_width = self.config.kernel_count, self.config.embedding_width
        embedding, mean, scale, noise = outputs.split([kernels * learned_width, 2, 1, 1], dim=-1)
        scale, noise = (
            x[..., 0].clamp(-MAX_LOG_FACTOR, MAX_LOG_FACTOR).exp() for x in (scale, noise)
        )
        yx = gaussian_process.cell_coordinates(height, width, L.device).expand(len(L), -1, -1)
        position = yx if self.config.use_x else yx[..., :1]
        lightness = gaussian_process.cell_lightness(L)
        fixed = [
            torch.cat([spatial * position, tonal * lightness], dim=-1)
            for spatial, tonal in zip(
                _from_parameter(self.inverse_spatial_scale),
                _from_parameter(self.inverse_lightness_scale),
                strict=True,
            )
        ]
        learned = embedding.split(learned_width, dim=-1)
        return Field(
            torch.stack([torch.cat(pair, dim=-1) for pair in zip(learned, fixed, strict=True)]),
            amplitude=_from_parameter(self.amplitude).view(2, kernels),
            constant=_from_parameter(self.constant),
            noise=MIN_NOISE + _from_parameter(self.noise) * noise,
            scale=scale,
            mean=MEAN_SCALE * mean,
            position=None,
            correction_position=yx / CORRECTION_REACH if self.config.use_x else None,
        )

    def _feature_maps(self, L: Tensor) -> list[Tensor]:
        """Return the backbone's maps at 1/2, 1/4, ... of L, padded to whole cells of the last."""
        multiple = 2 ** len(self.skips)
        padding = (0, -L.shape[3] % multiple, 0, -L.shape[2] % multiple)
        L, dtype = F.pad(L, padding, mode="replicate"), self.head.weight.dtype
        if isinstance(self.backbone, SmallBackbone):
            x = (L / 50 - 1).to(dtype).contiguous(memory_format=torch.channels_last)
            taps = self.backbone(x)
            return [taps[level] for level in (2, 3, 4, 5)]
        gray = (color.gray_rgb(L) - efficientnet_lite.MEAN) / efficientnet_lite.STD
        x = gray.to(dtype).contiguous(memory_format=torch.channels_last)
        return [norm(tap) for norm, tap in zip(self.norms, self.backbone(x), strict=True)]
