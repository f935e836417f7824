"""What two architectures share: blocks, the decoder stage, how published files keep weights."""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .winograd_conv import Conv3x3, packed_bytes

# --- Linear layers ----------------------------------------------------------------------------

LARGE = 2**22  # multiply-adds from which a convolution is worth its call
STRIP = 2**22  # elements of the widest map of one strip: a processor's cache holds them


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; on a CPU in float32 as a convolution of 1x1.

    The same sums: torch gives convolutions to oneDNN and products to MKL, which on AMD's processors
    takes twice the time (docs/performance.md).
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not torch.backends.mkldnn.is_available()
        or x.numel() * len(weight) < LARGE
    ):
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, N, 1), channels_last
    rows = F.conv2d(rows, weight[..., None, None], bias)
    return rows.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def trains_on_cpu(x: Tensor) -> bool:
    """Return True if operations on `x` may be differentiated, on a CPU."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.jit.is_tracing()


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of (B, heads, N, d).

    In training on a CPU always in float32: the gradient takes four times as long in bfloat16
    (2026-11-30, torch 2.13, ddcolor-nano).
    """
    if query.dtype == torch.bfloat16 and trains_on_cpu(query):
        with torch.autocast("cpu", enabled=False):
            query, key, value = query.float(), key.float(), value.float()
            return F.scaled_dot_product_attention(query, key, value).to(torch.bfloat16)
    return F.scaled_dot_product_attention(query, key, value)


# --- ConvNeXt (Liu et al. 2022, section 3): DDColor's encoder, the small backbone ----------------


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W); a view, not a copy, in channels_last memory."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def strips(rows: int, row: int) -> list[tuple[int, int]]:
    """Ranges (top, bottom) of the rows of a map, of about STRIP elements each.

    One range where gradients are wanted: they would keep all of it anyway.
    """
    many = rows if torch.is_grad_enabled() or torch.jit.is_tracing() else max(1, STRIP // row)
    return [(top, min(top + many, rows)) for top in range(0, rows, many)]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 -> LayerNorm -> MLP of factor 4 -> layer scale, around a shortcut."""

    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = Linear(dim, 4 * dim)
        self.project = Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(F.gelu(self.expand(y)))
        return torch.addcmul(x.permute(0, 2, 3, 1), self.gamma, y).permute(0, 3, 1, 2)


# --- Backbone of the small exemplar network and of the deep kernel --------------------------------


class SmallBackbone(nn.Module):
    """L in -1..1 -> F^2 by two convolutions, F^3 ... F^5 by ConvNeXt stages; F^B is F^5.

    F^l has 1/2^(l-1) of the picture's sides. The features of a photo and of its grey version are
    the same, so that like is matched with like.

    Args:
        stem: channels of F^2.
        dims, depths: channels and blocks of F^3, F^4, F^5.
    """

    def __init__(self, stem: int, dims: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.widths = {2: stem, **dict(zip(range(3, 6), dims, strict=True)), "B": dims[-1]}
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, padding=1),
            nn.ReLU(),
        )
        downsample = [nn.Sequential(nn.Conv2d(1, dims[0], 4, stride=4), LayerNorm2d(dims[0]))]
        for before, after in zip(dims, dims[1:], strict=False):
            step = LayerNorm2d(before), nn.Conv2d(before, after, 2, stride=2)
            downsample.append(nn.Sequential(*step))
        self.downsample = nn.ModuleList(downsample)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm2d(dim) for dim in dims)

    def forward(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Target: F^2 ... F^5 and F^B."""
        return {2: self.stem(picture[:, :1]), **self.reference(picture)}

    def reference(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Reference: F^3 ... F^5."""
        x, taps = picture[:, :1], {}
        parts = zip(range(3, 6), self.downsample, self.stages, self.norms, strict=True)
        for level, downsample, stage, norm in parts:
            x = stage(downsample(x))
            taps[level] = norm(x)
        return taps | {"B": taps[5]}


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
        self.mix = Conv3x3(out + skip, out, bias=False)
        self.mix_norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = blur(F.pixel_shuffle(self.up_norm(self.up(x)).relu_(), 2))
        # The paper's ReLU follows their joining; what is shuffled up has gone through one.
        return self.mix_norm(self.mix(up, self.skip_norm(skip).relu_()).relu_())


def up_block_bytes(dims: Sequence[int], decoder_dims: Sequence[int]) -> int:
    """Bytes of the packed filters of the three stages."""
    return sum(
        packed_bytes(skip + out, out) for skip, out in zip(dims[-2::-1], decoder_dims, strict=True)
    )


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
