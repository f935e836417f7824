"""ColorFormer: image colorization with a hybrid-attention encoder and a color memory.

Ji, Jiang, Luo, Tao, Chu, Xie, Wang, Tai: "ColorFormer: Image Colorization via Color Memory assisted
Hybrid-attention Transformer", ECCV 2022. Published weights: jixiaozhong/ColorFormer.

The file follows figures 2 to 4: encoder -> memory decoder, in which the Color Memory stands between
third and last stage. The encoder is the paper's GLH-Transformer or, for a network that is light on
a CPU, EfficientNet-Lite; table 2 compares encoders under one memory likewise. What the published
program adds to the paper is named where it stands. Encoder tokens are (B, H, W, C), decoder maps
(B, C, H, W); `T` tokens of a window, `m` memory entries, `k` width of a key, `n` groups of colours.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from . import efficientnet_lite
from .efficientnet_lite import EfficientNetLite
from .layers import (
    STRIP,
    UP_BLOCK_NAMES,
    Linear,
    UpBlock,
    blur,
    plain_weights,
    rename,
    strips,
    up_block_bytes,
)
from .spec import Entries, MemorySizes, Spec
from .winograd_conv import Conv3x3, packed_bytes

NAME = "colorformer"
TABLE = 256  # whole numbers that a looked-up a or b can have: -128 ... 127


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape; JSON-serialisable."""

    encoder: str = "glh"
    """Kind of encoder: glh (the paper's) or efficientnet-lite."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each encoder stage: four stages of glh, GL-MSA and SW-MSA in turn; seven of
    efficientnet-lite."""
    dims: tuple[int, ...] = ()
    """efficientnet-lite: channels of each stage."""
    embed_dim: int = 96
    """glh: channels at 1/4; doubled at 1/8, 1/16, 1/32."""
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """glh: attention heads in each stage."""
    window: int = 7
    """glh: side of a window in tokens."""
    pooled: tuple[int, int, int, int] = (8, 4, 2, 1)
    """glh: side of the pooled map that gives the global keys and values in each stage."""
    decoder_dims: tuple[int, int, int] = (512, 512, 256)
    """Decoder channels at 1/16, 1/8, 1/4."""
    entries: int = 512
    """m: entries of the memory."""
    key_width: int = 64
    """k: width of a semantic key."""
    groups: int = 4
    """n: colours of one entry."""
    query_width: int = 512
    """d1: width in which queries meet keys."""
    color_width: int = 256
    """d2: width of an embedded colour."""
    color_table: int = 256
    """Width of the tables in which the program looks up a and b; 0 = linear map, as the paper."""
    projection: bool = False
    """The file keeps the map from encoder features to keys, so that new memories can share it."""
    refine_width: int = 256
    """Channels at full resolution, before the picture joins them."""

    def __post_init__(self) -> None:
        for name in ("depths", "dims", "heads", "pooled", "decoder_dims"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if self.encoder not in ENCODERS:
            raise ValueError(
                f"colorformer: encoder is '{self.encoder}'; expected one of {', '.join(ENCODERS)}."
            )
        stages = ENCODERS[self.encoder].stages
        if (len(self.depths), len(self.dims)) != stages:
            raise ValueError(
                f"colorformer: depths has {len(self.depths)} and dims {len(self.dims)} numbers; "
                f"the encoder {self.encoder} needs {stages[0]} and {stages[1]}."
            )
        odd = [h for d, h in zip(self.tap_dims, self.heads, strict=True) if d % h]
        if self.encoder == "glh" and odd:
            raise ValueError(
                f"colorformer: {odd[0]} heads do not divide the channels {self.tap_dims}."
            )

    @property
    def tap_dims(self) -> tuple[int, ...]:
        """Encoder channels at 1/4, 1/8, 1/16, 1/32."""
        if self.encoder == "glh":
            return tuple(self.embed_dim * 2**i for i in range(4))
        return tuple(self.dims[stage] for stage in efficientnet_lite.TAPS)


class EncoderKind(NamedTuple):
    """Facts about an encoder beside its layers."""

    stages: tuple[int, int]
    """Length of `Config.depths` and `Config.dims`."""
    mean: tuple[float, float, float]
    """Mean of RGB in 0..1 that the input is normalised by."""
    std: tuple[float, float, float]
    """Standard deviation likewise."""


ENCODERS = {
    "glh": EncoderKind((4, 0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet-lite": EncoderKind(
        (7, 7), (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.STD,) * 3
    ),
}


PRESETS = {
    "colorformer": Config(),
    "colorformer-nano": Config(
        encoder="efficientnet-lite",
        depths=efficientnet_lite.VARIANTS["lite1"].depths,
        dims=efficientnet_lite.VARIANTS["lite1"].dims,
        decoder_dims=(256, 128, 80),
        entries=256,
        query_width=64,
        color_width=64,
        color_table=0,
        projection=True,
        refine_width=24,
    ),
}


def spec(config: Config) -> Spec:
    """What the pipeline must know to run this network."""
    # Fitted to what a float32 forward pass on a CPU takes more at 512 than at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 610 to 810 bytes a pixel, the published one 910.
    per_pixel = 16 * config.embed_dim if config.encoder == "glh" else 32 * config.tap_dims[0]
    wide = config.refine_width + 3
    packed = up_block_bytes(config.tap_dims, config.decoder_dims) + 2 * packed_bytes(wide, wide)
    return Spec(
        architecture=NAME,
        role="automatic",
        model_input="gray_rgb",
        multiple=32,
        resolution=256,
        activation_bytes_per_pixel=per_pixel,
        activation_bytes=4 * STRIP + packed,
        published_picture="working",
        memory=MemorySizes(key_width=config.key_width, groups=config.groups),
    )


# --- Encoder (section 3.2) -------------------------------------------------------------------


def _to_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B, rows, columns, T, C) of windows."""
    return rearrange(x, "B (i y) (j x) C -> B i j (y x) C", y=side, x=side)


def _from_windows(x: Tensor, side: int) -> Tensor:
    """The inverse of `_to_windows`."""
    return rearrange(x, "B i j (y x) C -> B (i y) (j x) C", y=side)


def _pad_to_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) with zeros to the right and below, up to multiples of `side`."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))


class WindowAttention(nn.Module):
    """Attention inside windows of T = side x side tokens, with a bias for relative positions."""

    def __init__(self, dim: int, heads: int, side: int):
        super().__init__()
        self.side, self.heads = side, heads
        self.qkv = Linear(dim, 3 * dim)
        self.project = Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))

    def bias(self) -> Tensor:
        """(heads, T, T): what is added to the logits of query t and key s of one window."""
        y, x = _places(self.side, self.position_bias.device)
        row, column = (v[:, None] - v[None] + self.side - 1 for v in (y, x))
        return self.position_bias[row * (2 * self.side - 1) + column].permute(2, 0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(L, heads, T, d) and keys (L, heads, S, d) of L windows -> (L, T, C)."""
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        return rearrange(x, "L heads T d -> L T (heads d)")


def _places(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """y and x of the T tokens of a window."""
    place = torch.arange(side * side, device=device)
    return place // side, place % side


class GlobalLocalAttention(WindowAttention):
    """GL-MSA, eq. 1 and 2: each window also sees the whole map, pooled to n x n tokens.

    The relative bias belongs to local keys. The program normalises the pooled tokens and projects
    them by weights of their own.
    """

    def __init__(self, dim: int, heads: int, side: int, pooled: int):
        super().__init__(dim, heads, side)
        self.pooled = pooled
        self.global_norm = nn.LayerNorm(dim)
        self.global_kv = Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = _pad_to_windows(x, self.side)
        rows, columns = x.shape[1] // self.side, x.shape[2] // self.side
        q, k, v = rearrange(
            _to_windows(self.qkv(x), self.side),
            "B i j T (three heads d) -> three (B i j) heads T d",
            three=3,
            heads=self.heads,
        )
        pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.pooled).flatten(2).mT
        global_k, global_v = repeat(
            self.global_kv(self.global_norm(pooled)),
            "B N (two heads d) -> two (B i j) heads N d",
            two=2,
            heads=self.heads,
            i=rows,
            j=columns,
        )
        bias = F.pad(self.bias(), (0, self.pooled**2))
        x = self.attend(q, torch.cat([k, global_k], 2), torch.cat([v, global_v], 2), bias)
        x = x.unflatten(0, (-1, rows, columns))
        return self.project(_from_windows(x, self.side)[:, :height, :width])


class ShiftedWindowAttention(WindowAttention):
    """SW-MSA (Liu et al. 2021): windows shifted by half a side, so that neighbours meet.

    The map is rolled, so the last row and the last column of windows hold parts that are no
    neighbours. Only these windows get a mask, and there are but three different ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        shift = self.side // 2
        x = _pad_to_windows(x, self.side).roll((-shift, -shift), dims=(1, 2))
        windows = _to_windows(self.qkv(x), self.side)
        q, k, v = rearrange(
            windows,
            "B i j T (three heads d) -> three B i j heads T d",
            three=3,
            heads=self.heads,
        )
        bias = self.bias()
        late_y, late_x = (place >= self.side - shift for place in _places(self.side, x.device))
        across_y, across_x = (v[:, None] != v[None] for v in (late_y, late_x))
        inner, last = slice(0, -1), slice(-1, None)
        out = x.new_empty(windows.shape[:-1] + (windows.shape[-1] // 3,), dtype=q.dtype)
        for i, j, apart in (
            (inner, inner, None),
            (inner, last, across_x),
            (last, inner, across_y),
            (last, last, across_x | across_y),
        ):
            part = q[:, i, j].shape[:3]
            if not part.numel():
                continue
            masked = bias if apart is None else bias - 100.0 * apart  # as the program: not infinity
            some = self.attend(*(t[:, i, j].flatten(0, 2) for t in (q, k, v)), masked)
            out[:, i, j] = some.unflatten(0, part)
        x = _from_windows(out, self.side).roll((shift, shift), dims=(1, 2))
        return self.project(x[:, :height, :width])


class GLHBlock(nn.Module):
    """Half of a GLH-Transformer block, eq. 3: attention and MLP, each around a shortcut."""

    def __init__(self, attention: WindowAttention, dim: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """2x2 neighbours concatenated, normalised, reduced: (B, H, W, C) -> (B, H/2, W/2, 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "B (h dy) (w dx) C -> B h w (dx dy C)", dy=2, dx=2)
        return self.reduction(self.norm(x))


class GLHTransformer(nn.Module):
    """Picture (B, 3, H, W) -> four normalised maps (B, C, h, w) at 1/4 ... 1/32."""

    def __init__(self, config: Config):
        super().__init__()
        self.patches = nn.Conv2d(3, config.embed_dim, 4, stride=4)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        self.stages, self.merging, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for dim, depth, heads, pooled in zip(
            config.tap_dims, config.depths, config.heads, config.pooled, strict=True
        ):
            blocks = []
            for i in range(depth):
                attention = (
                    ShiftedWindowAttention(dim, heads, config.window)
                    if i % 2
                    else GlobalLocalAttention(dim, heads, config.window, pooled)
                )
                blocks.append(GLHBlock(attention, dim))
            self.stages.append(nn.Sequential(*blocks))
            self.norms.append(nn.LayerNorm(dim))
        self.merging.extend(PatchMerging(dim) for dim in config.tap_dims[:-1])

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = self.patch_norm(self.patches(picture).permute(0, 2, 3, 1))
        taps = []
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if i:
                x = self.merging[i - 1](x)
            x = stage(x)
            taps.append(norm(x).permute(0, 3, 1, 2))  # the next stage starts before this norm
        return taps


class LiteEncoder(EfficientNetLite):
    """EfficientNet-Lite whose map at 1/32 is normalised over channels.

    Memory keys are made of that map, and its length differs much from place to place and from one
    training to another. The norm has no parameters: nothing but the encoder's own weights decides
    what a key means. The other maps meet a batch norm in the decoder.
    """

    def __init__(self, depths: tuple[int, ...], dims: tuple[int, ...]):
        super().__init__(depths, dims)
        self.norm = nn.LayerNorm(dims[-1], elementwise_affine=False)

    def forward(self, picture: Tensor) -> list[Tensor]:
        *taps, last = super().forward(picture)
        return [*taps, self.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]


def build_encoder(config: Config) -> nn.Module:
    """Encoder of the kind and sizes in `config`: picture (B, 3, H, W) -> maps at 1/4 ... 1/32."""
    if config.encoder == "glh":
        return GLHTransformer(config)
    return LiteEncoder(config.depths, config.dims)


# --- Memory decoder (section 3.3) ------------------------------------------------------------


class ColorMemoryModule(nn.Module):
    """The CM module, figure 4: features ask the keys, colours answer.

    The program looks a and b up in a table each, by whole numbers; the paper maps (a, b) linearly.
    """

    def __init__(self, config: Config):
        super().__init__()
        channels, colors = config.decoder_dims[2], config.color_width
        joined = channels + colors
        self.register_buffer("keys", torch.zeros(config.entries, config.key_width))
        self.register_buffer("values", torch.zeros(config.groups, config.entries, 2))
        if config.projection:  # keys = features @ components^T + offset
            features = config.tap_dims[-1]
            self.register_buffer("components", torch.zeros(config.key_width, features))
            self.register_buffer("offset", torch.zeros(config.key_width))
        self.query_norm = nn.LayerNorm(channels)
        self.project_query = Linear(channels, config.query_width)
        self.project_key = Linear(config.key_width, config.query_width)
        self.tables = nn.ModuleList(
            nn.Embedding(TABLE, config.color_table) for _ in "ab" if config.color_table
        )
        color_input = 2 * config.color_table or 2
        self.project_color = nn.ModuleList(
            Linear(color_input, colors) for _ in range(config.groups)
        )
        self.joined_norm = nn.LayerNorm(joined)
        self.mlp = nn.Sequential(Linear(joined, joined), nn.GELU(), Linear(joined, joined))
        self.out_norm = nn.LayerNorm(joined)
        self.out = Linear(joined, channels)

    def forward(self, x: Tensor, weights: Tensor, memory: Entries | None = None) -> Tensor:
        """Eq. 4 to 7: features F (B, h, w, c) and fusion weights lambda (B, n) -> (B, h, w, c)."""
        colors = self.embed_colors(self.values if memory is None else self.known(memory.values))
        colors = torch.einsum("Bn,nmd->Bmd", weights.to(colors.dtype), colors)  # eq. 4
        attended = self.attend(x, colors, None if memory is None else memory.keys)
        joined = self.joined_norm(torch.cat([x, attended], dim=-1))
        return self.out(self.out_norm(joined + self.mlp(joined)))  # eq. 7

    def attend(self, x: Tensor, values: Tensor, keys: Tensor | None = None) -> Tensor:
        """Eq. 5 and 6: W = softmax(F S^T), without 1/sqrt(d); W C for `values` (B, m, d)."""
        queries = self.project_query(self.query_norm(x)).flatten(1, 2)
        keys = self.project_key((self.keys if keys is None else keys).to(x.dtype))
        keys = keys.expand(x.shape[0], -1, -1)
        attended = F.scaled_dot_product_attention(
            queries[:, None], keys[:, None], values[:, None].to(queries.dtype), scale=1.0
        )
        return attended[:, 0].unflatten(1, x.shape[1:3])

    def known(self, values: Tensor) -> Tensor:
        """Colours (n, m, 2) of another memory as this network can read them.

        Rows of a table that stand for no number of its own memory were never trained and hold what
        they started with, so each a and b gives way to the nearest that it knows.
        """
        if not self.tables:
            return values
        known = []
        for own, axis in zip(self.values.unbind(-1), values.unbind(-1), strict=True):
            numbers = own.float().round().unique()
            middles = (numbers[1:] + numbers[:-1]) / 2
            known.append(numbers[torch.bucketize(axis.float().contiguous(), middles)])
        return torch.stack(known, dim=-1)

    def embed_colors(self, values: Tensor) -> Tensor:
        """Embedded colours C^_1 ... C^_n: ab (n, m, 2) -> (n, m, d2)."""
        if self.tables:
            number = (values.float().round() + TABLE // 2).clamp(0, TABLE - 1).long()
            tables = zip(self.tables, number.unbind(-1), strict=True)
            values = torch.cat([table(axis) for table, axis in tables], dim=-1)
        else:
            values = values / 110
        weight = self.project_color[0].weight
        return torch.stack(
            [
                project(group.to(weight.dtype))
                for project, group in zip(self.project_color, values, strict=True)
            ]
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; ReLU after both, before the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu_()).relu_() + x


class Encoded(NamedTuple):
    """All of a picture that does not depend on memory and fusion weights."""

    picture: Tensor
    """(B, 3, H, W), normalised."""
    features: Tensor
    """F: (B, c, H/4, W/4)."""
    weights: Tensor
    """lambda: (B, n), sums to 1."""


class ColorFormer(nn.Module):
    """Grey RGB (B, 3, H, W) in 0..1, H and W multiples of 32 -> ab (B, 2, H, W) in Lab units."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        kind = ENCODERS[config.encoder]
        self.register_buffer("mean", torch.tensor(kind.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(kind.std).view(1, 3, 1, 1))
        self.encoder = build_encoder(config)
        d4, d8, d16, d32 = config.tap_dims
        self.fusion_norm = nn.LayerNorm(d32)
        self.fusion = Linear(d32, config.groups)
        out16, out8, out4 = config.decoder_dims
        self.blocks = nn.ModuleList(
            [UpBlock(d32, d16, out16), UpBlock(out16, d8, out8), UpBlock(out8, d4, out4)]
        )
        self.memory = ColorMemoryModule(config)
        self.last = nn.Conv2d(out4, 16 * config.refine_width, 1)
        self.refine = ResidualBlock(config.refine_width + 3)
        self.out = nn.Conv2d(config.refine_width + 3, 2, 3, padding=1)

    def forward(
        self, gray_rgb: Tensor, memory: Entries | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Colour with the network's own memory and lambda, or with those given.

        Args:
            gray_rgb: (B, 3, H, W) in 0..1.
            memory: used instead of the memory in the weights.
            weights: fusion weights (B, n) that sum to 1, used instead of the encoder's.
        """
        return self.decode(self.encode(gray_rgb), memory, weights)

    def encode(self, gray_rgb: Tensor) -> Encoded:
        """Encoder, its fusion weights, and the first three stages of the decoder."""
        picture = self.normalised(gray_rgb)
        taps = self.encoder(picture)
        tokens = self.fusion_norm(taps[3].permute(0, 2, 3, 1))
        weights = self.fusion(tokens.mean(dim=(1, 2))).softmax(-1)
        x = taps[3]
        for block, skip in zip(self.blocks, (taps[2], taps[1], taps[0]), strict=True):
            x = block(x, skip)
        return Encoded(picture, x, weights)

    def decode(
        self, encoded: Encoded, memory: Entries | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Color Memory, last stage, residual block: ab (B, 2, H, W)."""
        picture, x, own_weights = encoded
        weights = own_weights if weights is None else weights
        x = self.memory(x.permute(0, 2, 3, 1), weights, memory).permute(0, 3, 1, 2)
        height, parts = x.shape[2], []
        ranges = strips(height, 16 * x.shape[0] * x.shape[3] * self.refine.conv1.in_channels)
        if len(ranges) == 1:
            return self._refined(x, picture)
        for top, bottom in ranges:
            # What lies above a pixel reaches it from 4 rows away (blur and three convolutions),
            # what lies below from 3: one row of x more on either side makes strips exact.
            first, last = max(top - 1, 0), min(bottom + 1, height)
            part = self._refined(x[:, :, first:last], picture[:, :, 4 * first : 4 * last])
            parts.append(part[:, :, 4 * (top - first) : 4 * (bottom - first)])
        return torch.cat(parts, dim=2)

    def _refined(self, x: Tensor, picture: Tensor) -> Tensor:
        """Last stage and residual block of some rows: (B, c, h, w) -> ab (B, 2, 4h, 4w)."""
        x = blur(F.pixel_shuffle(self.last(x).relu_(), 4))
        return self.out(self.refine(torch.cat([x, picture.to(x.dtype)], dim=1)))

    def semantics(self, gray_rgb: Tensor) -> Tensor:
        """What Algorithm 1 clusters: the encoder's last map, (B, H/32, W/32, c)."""
        return self.encoder(self.normalised(gray_rgb))[3].permute(0, 2, 3, 1)

    def normalised(self, gray_rgb: Tensor) -> Tensor:
        """The picture as the encoder takes it. Raises ValueError on a shape that cannot be."""
        shape = gray_rgb.shape
        if len(shape) != 4 or shape[1] != 3 or any(side % 32 or not side for side in shape[2:]):
            raise ValueError(
                f"colorformer: input has shape {tuple(shape)}; expected (B, 3, H, W) grey RGB "
                "with H and W multiples of 32."
            )
        picture = (gray_rgb - self.mean) / self.std
        return picture.contiguous(memory_format=torch.channels_last)

    def spectral_convolutions(self) -> Iterator[nn.Conv2d]:
        """Convolutions that the published training normalises spectrally (Miyato et al. 2018)."""
        for block in self.blocks:
            yield from (block.up, block.mix)
        yield from (self.last, self.refine.conv1, self.refine.conv2, self.out)


# --- Published checkpoints -------------------------------------------------------------------

_BLOCK = r"^encoder\.arch\.layers\.(\d)\.blocks\.(\d+)\."
_CM = r"^seg_decoder\.layers\.3\."
_RENAME = [  # published name -> ours; first match wins
    (r"^encoder\.arch\.patch_embed\.proj\.", "encoder.patches."),
    (r"^encoder\.arch\.patch_embed\.norm\.", "encoder.patch_norm."),
    (
        rf"{_BLOCK}attn\.relative_position_bias_table$",
        r"encoder.stages.\1.\2.attention.position_bias",
    ),
    (rf"{_BLOCK}attn\.qkv\.", r"encoder.stages.\1.\2.attention.qkv."),
    (rf"{_BLOCK}attn\.proj\.", r"encoder.stages.\1.\2.attention.project."),
    (rf"{_BLOCK}attn\.norm\.", r"encoder.stages.\1.\2.attention.global_norm."),
    (rf"{_BLOCK}attn\.kv\.", r"encoder.stages.\1.\2.attention.global_kv."),
    (rf"{_BLOCK}mlp\.fc1\.", r"encoder.stages.\1.\2.mlp.0."),
    (rf"{_BLOCK}mlp\.fc2\.", r"encoder.stages.\1.\2.mlp.2."),
    (rf"{_BLOCK}norm", r"encoder.stages.\1.\2.norm"),
    (r"^encoder\.arch\.layers\.(\d)\.downsample\.", r"encoder.merging.\1."),
    (r"^encoder\.arch\.norm(\d)\.", r"encoder.norms.\1."),
    (r"^encoder\.arch\.norm_cls\.", "fusion_norm."),
    (r"^encoder\.arch\.head_cls\.", "fusion."),
    *(
        (rf"^seg_decoder\.layers\.([012])\.{re.escape(theirs)}", rf"blocks.\1.{ours}")
        for theirs, ours in UP_BLOCK_NAMES
    ),
    (rf"{_CM}semantic_centers$", "memory.keys"),
    (rf"{_CM}a_embed\.", "memory.tables.0."),
    (rf"{_CM}b_embed\.", "memory.tables.1."),
    *((rf"{_CM}color_embed{i + 1}\.", f"memory.project_color.{i}.") for i in range(16)),
    (rf"{_CM}semantic_embed\.", "memory.project_key."),
    (rf"{_CM}proj_q\.", "memory.project_query."),
    (rf"{_CM}norm1\.", "memory.query_norm."),
    (rf"{_CM}norm2\.", "memory.joined_norm."),
    (rf"{_CM}norm3\.", "memory.out_norm."),
    (rf"{_CM}mlp\.fc1\.", "memory.mlp.0."),
    (rf"{_CM}mlp\.fc2\.", "memory.mlp.2."),
    (rf"{_CM}last_conv\.", "memory.out."),
    (r"^seg_decoder\.last_shuf\.conv\.0\.", "last."),
    (r"^refine_net\.0\.layer\.0\.0\.", "refine.conv1."),
    (r"^refine_net\.0\.layer\.1\.0\.", "refine.conv2."),
    (r"^refine_net\.1\.0\.", "out."),
]
_CENTER = "seg_decoder.layers.3.color_center"
DROPPED = {  # published name -> why it is not needed
    ".relative_position_index": "the same numbers for every window of this side",
}


def detect(keys: set[str]) -> bool:
    """True for the key names of a published ColorFormer checkpoint."""
    return {"seg_decoder.layers.3.semantic_centers", "refine_net.1.0.bias"} <= keys


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from a published checkpoint's shapes.

    The pooled sides 8, 4, 2, 1 cannot be seen.
    """
    memory, encoder = "seg_decoder.layers.3.", "encoder.arch."
    tables = [
        state[f"{encoder}layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(4)
    ]
    stages = [
        {key.split(".")[5] for key in state if key.startswith(f"{encoder}layers.{i}.blocks.")}
        for i in range(4)
    ]
    entries, key_width = state[f"{memory}semantic_centers"].shape
    return Config(
        embed_dim=state[f"{encoder}patch_embed.proj.weight"].shape[0],
        depths=tuple(len(stage) for stage in stages),
        heads=tuple(table.shape[1] for table in tables),
        window=(round(tables[0].shape[0] ** 0.5) + 1) // 2,
        decoder_dims=tuple(
            state[f"seg_decoder.layers.{i}.conv.2.weight"].shape[0] for i in range(3)
        ),
        entries=entries,
        key_width=key_width,
        groups=sum(key.startswith(_CENTER) for key in state),
        query_width=state[f"{memory}proj_q.weight"].shape[0],
        color_width=state[f"{memory}color_embed1.weight"].shape[0],
        color_table=state[f"{memory}a_embed.weight"].shape[1],
        refine_width=state["seg_decoder.last_shuf.conv.0.bias"].shape[0] // 16,
    )


def convert(state: Mapping[str, Tensor], *, fold: bool = True) -> dict[str, Tensor]:
    """Published names -> ours, in a new dict.

    Args:
        state: canonical keys (no container, no `module.` prefix).
        fold: see `layers.plain_weights`; False is for training on.
    """
    converted = {}
    for key, tensor in plain_weights(state, fold=fold).items():
        if key.endswith(tuple(DROPPED)) or key.startswith(_CENTER):
            continue
        name = rename(key, _RENAME)
        # The memory's last layer is stored as a 1x1 convolution.
        converted[name] = tensor.flatten(1) if name == "memory.out.weight" else tensor
    groups = sorted(
        (key for key in state if key.startswith(_CENTER)), key=lambda k: int(k[len(_CENTER) :])
    )
    # Whole numbers 0 ... 255 in the file.
    converted["memory.values"] = torch.stack([state[key] for key in groups]).float() - TABLE // 2
    return converted
