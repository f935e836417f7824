"""Building blocks that several architectures share, and conversion of published weights."""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .winograd_conv import Conv3x3, packed_bytes

Taps = dict[int | str, Tensor]
"""Feature maps of a backbone: level l = 1 ... 5 at 1/2^(l-1) of the image, "B" the deepest."""

MIN_CONV_MACS = 2**22  # multiply-adds above which a convolution is worth its call overhead
STRIP_ELEMENTS = 2**22  # elements of the widest map of a strip; fits into a processor's cache

# --- Linear layers -------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear`; in float32 on a CPU as a 1x1 convolution.

    Both compute the same sums, but torch sends convolutions to oneDNN and matrix products to MKL,
    which takes twice the time on AMD processors (docs/performance.md).
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not torch.backends.mkldnn.is_available()
        or x.numel() * len(weight) < MIN_CONV_MACS
    ):
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, N, 1), channels_last
    rows = F.conv2d(rows, weight[..., None, None], bias)
    return rows.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` that uses `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def trains_on_cpu(x: Tensor) -> bool:
    """Return True if operations on `x` may be differentiated, on a CPU."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.jit.is_tracing()


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d)) V for (B, heads, N, d).

    Training on a CPU uses float32: the bfloat16 gradient takes four times as long (2026-11-30,
    torch 2.13, ddcolor-nano).
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


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 -> LayerNorm -> MLP of factor 4 -> layer scale, with a shortcut."""

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


def initialize_layer_scale(network: nn.Module) -> None:
    """Set the layer scales of ConvNeXt blocks to 1, in place, for training from scratch.

    The near-zero default suits deep encoders trained for many steps; ours are shallow.
    """
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.gamma)


# --- Backbone of the small exemplar network and of the deep kernel -------------------------------


class SmallBackbone(nn.Module):
    """Lightness in -1..1 -> F^2 by two convolutions, F^3 ... F^5 by ConvNeXt stages; F^B is F^5.

    F^l has 1/2^(l-1) of the image's height and width. Only the first input channel is read, so a
    color image and its gray version have the same features and can be matched.

    Args:
        stem: channels of F^2.
        dims: channels of F^3, F^4, F^5.
        depths: blocks of F^3, F^4, F^5.
    """

    def __init__(self, stem: int, dims: Sequence[int], depths: Sequence[int]):
        super().__init__()
        self.widths: dict[int | str, int] = {
            2: stem,
            **dict(zip(range(3, 6), dims, strict=True)),
            "B": dims[-1],
        }
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(stem, stem, 3, padding=1),
            nn.ReLU(),
        )
        downsample = [nn.Sequential(nn.Conv2d(1, dims[0], 4, stride=4), LayerNorm2d(dims[0]))]
        for in_channels, out_channels in zip(dims, dims[1:], strict=False):
            downsample.append(
                nn.Sequential(
                    LayerNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 2, stride=2)
                )
            )
        self.downsample = nn.ModuleList(downsample)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm2d(dim) for dim in dims)

    def forward(self, image: Tensor) -> Taps:
        """Return F^2 ... F^5 and F^B of a target."""
        return {2: self.stem(image[:, :1]), **self.forward_reference(image)}

    def forward_reference(self, image: Tensor) -> Taps:
        """Return F^3 ... F^5 and F^B of a reference."""
        x, taps = image[:, :1], {}
        stages = zip(range(3, 6), self.downsample, self.stages, self.norms, strict=True)
        for level, downsample, stage, norm in stages:
            x = stage(downsample(x))
            taps[level] = norm(x)
        return taps | {"B": taps[5]}


# --- Decoder stage of DDColor (section 3.2.1) and ColorFormer (section 3.3) ----------------------


def row_strips(rows: int, elements_per_row: int) -> list[tuple[int, int]]:
    """Split the rows of a map into ranges (top, bottom) of about STRIP_ELEMENTS each.

    With gradients or tracing, return a single range: autograd would keep the whole map anyway.
    """
    whole = torch.is_grad_enabled() or torch.jit.is_tracing()
    height = rows if whole else max(1, STRIP_ELEMENTS // elements_per_row)
    return [(top, min(top + height, rows)) for top in range(0, rows, height)]


def box_blur(x: Tensor) -> Tensor:
    """Average each pixel with its upper and left neighbors: removes the shuffle's checkerboard."""
    return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


class UpBlock(nn.Module):
    """One stage of the pixel decoder: upsample by 2 with a pixel shuffle, join the skip, mix."""

    def __init__(self, below: int, skip: int, out: int):
        super().__init__()
        self.up = nn.Conv2d(below, 4 * out, 1, bias=False)
        self.up_norm = nn.BatchNorm2d(4 * out)
        self.skip_norm = nn.BatchNorm2d(skip)
        self.mix = Conv3x3(out + skip, out, bias=False)
        self.mix_norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = box_blur(F.pixel_shuffle(self.up_norm(self.up(x)).relu_(), 2))
        # The paper applies ReLU after the concatenation; `up` has passed one already.
        return self.mix_norm(self.mix(up, self.skip_norm(skip).relu_()).relu_())


def up_block_bytes(dims: Sequence[int], decoder_dims: Sequence[int]) -> int:
    """Return the bytes of packed filters in the three decoder stages.

    Args:
        dims: encoder channels at 1/4, 1/8, 1/16, 1/32.
        decoder_dims: decoder channels at 1/16, 1/8, 1/4.
    """
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


# --- Published state dicts -----------------------------------------------------------------------


def convert_spectral_norm(state: Mapping[str, Tensor], *, fold: bool) -> dict[str, Tensor]:
    """Convert spectrally normalized weights from torch's old format, into a new dict.

    Args:
        state: weights as `weight_orig`, `weight_u`, `weight_v`; other tensors are copied.
        fold: True divides each weight by its largest singular value u^T W v, as the published
            network does in every forward pass. False keeps weight, u and v under the names of
            `torch.nn.utils.parametrizations.spectral_norm`, for further training.
    """
    converted = {}
    for key, tensor in state.items():
        if not key.endswith(("weight_orig", "weight_u", "weight_v")):
            converted[key] = tensor
            continue
        if not key.endswith("weight_orig"):
            continue
        base = key.removesuffix("weight_orig")
        u, v = state[base + "weight_u"], state[base + "weight_v"]
        if fold:
            converted[base + "weight"] = tensor / torch.dot(u, tensor.flatten(1) @ v)
        else:
            name = base + "parametrizations.weight."
            converted |= {name + "original": tensor, name + "0._u": u, name + "0._v": v}
    return converted


def rename_key(key: str, table: Sequence[tuple[str, str]]) -> str:
    """Apply the first (pattern, replacement) of `table` whose pattern matches the key's start.

    Keys without a match are returned unchanged, so that the strict load reports them.
    """
    for pattern, replacement in table:
        if re.match(pattern, key):
            return re.sub(pattern, replacement, key, count=1)
    return key
