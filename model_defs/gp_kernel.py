"""How alike the colours of two places are, told from lightness: the kernel of guided networks.

Deep kernel learning (Wilson, Hu, Salakhutdinov, Xing, AISTATS 2016, arXiv:1511.02222): a network
gives each place coordinates, and places that are near in these have like colours. Kriging
(`ops.gaussian_process`) then spreads the colours of hints over what belongs together, exactly as
far as they tell something. The coordinates do not depend on the hints: one pass serves all of them.

The file in order: small backbone -> decoder back up to cells of 2x2 pixels -> one head, whose
channels are coordinates, the colour to be expected without hints, and two variances.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import gaussian_process
from ..ops.gaussian_process import Field
from .layers import SmallBackbone

MULTIPLE = 16  # deepest cells of the backbone
AB = 20.0  # Lab units of a mean of 1: about the spread of chroma in photos
RANGE = 3.0  # largest logarithm of spread and noise against what is usual
LEAST_NOISE = 1e-3
# Part of the diagonal that corrections reach. People correct what is most wrong, which says less
# of its surroundings than the random places of the training do (docs/training-log.md).
REACH = 0.5
FASTER = 10.0  # single numbers are learned so much faster than filters: they have further to go


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape; JSON-serialisable."""

    stem: int = 24
    """Channels at 1/2."""
    dims: tuple[int, int, int] = (40, 80, 160)
    """ConvNeXt channels at 1/4, 1/8, 1/16."""
    depths: tuple[int, int, int] = (2, 2, 2)
    """ConvNeXt blocks there."""
    width: int = 64
    """Channels of the decoder down to 1/4; half of them at 1/2."""
    spaces: int = 3
    """K: sums of that many kernels."""
    learned: int = 8
    """Learned coordinates of each space, beside y, x and L."""
    sideways: bool = True
    """Whether x is one: it says nothing where the cells are those of another picture."""

    def __post_init__(self) -> None:
        for name in ("dims", "depths"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))


def _logarithm(value: Tensor) -> nn.Parameter:
    """What `_number` makes the value of."""
    return nn.Parameter(value.log() / FASTER)


def _number(logarithm: Tensor) -> Tensor:
    return (FASTER * logarithm.float()).exp()


def _mix(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(channels, out, 3, padding=1),
    )


class DeepKernel(nn.Module):
    """Lightness (B, 1, H, W) in 0..100 -> `Field` of its cells."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width, half, (low, middle, high) = config.width, config.width // 2, config.dims
        self.backbone = SmallBackbone(config.stem, config.dims, config.depths)
        self.skips = nn.ModuleList(
            nn.Conv2d(before, after, 1)
            for before, after in ((high, width), (middle, width), (low, width), (config.stem, half))
        )
        self.mixes = nn.ModuleList([_mix(width, width), _mix(width, half), _mix(half, half)])
        # Coordinates of all spaces; mean a and b; logarithms of spread and noise
        self.head = nn.Conv2d(half, config.spaces * config.learned + 4, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        # The first space starts as the classical kernel (`gaussian_process.COLORS`), the others are
        # small: a new network is about as good as kriging on place and lightness. Corrections reach
        # less far, so theirs starts in the last.
        classical, spaces = gaussian_process.COLORS, torch.arange(config.spaces)
        first, last = spaces == 0, spaces == config.spaces - 1
        both = torch.stack([torch.where(first, 1.0, 0.1), torch.where(last, 1.0, 0.1)])
        self.amplitude = _logarithm(both.flatten())
        self.shared = _logarithm(torch.tensor([classical.mean, 0.01]))
        self.place = _logarithm(torch.linspace(1, 3, config.spaces) / classical.reach)
        self.light = _logarithm(torch.linspace(1, 0.5, config.spaces) / classical.light)
        self.noise = _logarithm(torch.tensor(classical.noise))

    def forward(self, L: Tensor) -> Field:
        """The picture may have any size; its rim is repeated up to whole cells of the backbone."""
        if L.ndim != 4 or L.shape[1] != 1:
            raise ValueError(f"deep kernel: L has shape {tuple(L.shape)}; expected (B, 1, H, W).")
        height, width = L.shape[2:]
        rim = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        x = F.pad(L.float() / 50 - 1, rim, mode="replicate").to(self.head.weight.dtype)
        taps = self.backbone(x.contiguous(memory_format=torch.channels_last))
        x = self.skips[0](taps[5])
        for level, skip, mix in zip((4, 3, 2), self.skips[1:], self.mixes, strict=True):
            tap = taps[level]
            x = F.gelu(skip(tap) + F.interpolate(x, size=tap.shape[2:], mode="bilinear"))
            x = mix(x) if level == 3 else x + mix(x)
        found = self.head(x).float()[:, :, : -(-height // 2), : -(-width // 2)].flatten(2).mT

        # From here in float32: sums of many small differences
        spaces, learned = self.config.spaces, self.config.learned
        coordinates, mean, spread, noise = found.split([spaces * learned, 2, 1, 1], dim=-1)
        places = gaussian_process.places(height, width, L.device).expand(len(L), -1, -1)
        place = places if self.config.sideways else places[..., :1]
        light = gaussian_process.lightness(L)
        known = [
            torch.cat([far * place, dark * light], dim=-1)
            for far, dark in zip(_number(self.place), _number(self.light), strict=True)
        ]
        own = coordinates.split(learned, dim=-1)
        return Field(
            torch.stack([torch.cat(both, dim=-1) for both in zip(own, known, strict=True)]),
            amplitude=_number(self.amplitude).view(2, spaces),
            shared=_number(self.shared),
            noise=LEAST_NOISE + _number(self.noise) * noise[..., 0].clamp(-RANGE, RANGE).exp(),
            spread=spread[..., 0].clamp(-RANGE, RANGE).exp(),
            mean=AB * mean,
            place=None,
            nearby=places / REACH if self.config.sideways else None,
        )
