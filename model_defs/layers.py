"""What two architectures share: the decoder stage, and how published files keep their weights."""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# --- Decoder stage of DDColor (section 3.2.1) and ColorFormer (section 3.3) ---------------------


def blur(x: Tensor) -> Tensor:
    """2x2 mean with the upper and left neighbours: takes the checkerboard out of a shuffle."""
    return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


class UpBlock(nn.Module):
    """One stage of the pixel decoder: shuffle up by 2, join the encoder's map, mix."""

    def __init__(self, below: int, skip: int, out: int):
        super().__init__()
        self.up = nn.Conv2d(below, 4 * out, 1, bias=False)
        self.up_norm = nn.BatchNorm2d(4 * out)
        self.skip_norm = nn.BatchNorm2d(skip)
        self.mix = nn.Conv2d(out + skip, out, 3, padding=1, bias=False)
        self.mix_norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = blur(F.pixel_shuffle(F.relu(self.up_norm(self.up(x))), 2))
        joined = F.relu(torch.cat([up, self.skip_norm(skip)], dim=1))
        return self.mix_norm(F.relu(self.mix(joined)))


# Published name -> ours, for stages that the published programs call `decoder.layers.N`.
UP_BLOCK_NAMES = [
    ("shuf.conv.0.", "up."),
    ("shuf.conv.1.", "up_norm."),
    ("bn.", "skip_norm."),
    ("conv.0.", "mix."),
    ("conv.2.", "mix_norm."),
]


# --- Published state dicts ---------------------------------------------------------------------


def plain_weights(state: Mapping[str, Tensor], *, fold: bool) -> dict[str, Tensor]:
    """Spectrally normalised weights of a published file in a form of today's torch, in a new dict.

    Args:
        state: names with `weight_orig`, `weight_u`, `weight_v` beside ordinary ones.
        fold: True divides each such weight by its largest singular value u^T W v, which is what
            the published network does at every forward pass; False keeps weight, u and v apart
            under the names that they get from `torch.nn.utils.parametrizations.spectral_norm`, to
            go on training.
    """
    plain = {}
    for key, tensor in state.items():
        if not key.endswith(("weight_orig", "weight_u", "weight_v")):
            plain[key] = tensor
            continue
        if not key.endswith("weight_orig"):
            continue
        base = key.removesuffix("weight_orig")
        u, v = state[base + "weight_u"], state[base + "weight_v"]
        if fold:
            plain[base + "weight"] = tensor / torch.dot(u, tensor.flatten(1) @ v)
        else:
            name = base + "parametrizations.weight."
            plain |= {name + "original": tensor, name + "0._u": u, name + "0._v": v}
    return plain


def rename(key: str, table: Sequence[tuple[str, str]]) -> str:
    """`key` by the first (pattern, replacement) of `table` that matches its beginning.

    Unknown names stay as they are, so that the strict load names them.
    """
    for pattern, replacement in table:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key
