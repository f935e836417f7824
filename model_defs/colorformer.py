"""ColorFormer: image colorization with a hybrid-attention encoder and a color memory.

Ji, Jiang, Luo, Tao, Chu, Xie, Wang, Tai: "ColorFormer: Image Colorization via Color Memory assisted
Hybrid-attention Transformer", ECCV 2022. Published weights: jixiaozhong/ColorFormer.

The file follows figures 2 to 4: encoder -> memory decoder, with the Color Memory between its third
and last stage. The encoder is the paper's GLH-Transformer, or EfficientNet-Lite for speed on a CPU.
Comments mark the published program's deviations from the paper. Encoder tokens are (B, H, W, C),
decoder maps (B, C, H, W); `T` tokens per window, `m` memory entries, `k` width of a key, `n` groups
of colors.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from . import efficientnet_lite
from .colorformer_official import ColorFormerRenderer
from .efficientnet_lite import EfficientNetLite
from .layers import (
    STRIP_ELEMENTS,
    UP_BLOCK_NAMES,
    Linear,
    UpBlock,
    box_blur,
    convert_spectral_norm,
    rename_key,
    row_strips,
    up_block_bytes,
)
from .spec import AB_SCALE, MemoryEntries, MemorySizes, Spec
from .validation import Choice, Depth, Heads, Range, Side, Width, validate_fields
from .winograd_conv import Conv3x3, packed_bytes

NAME = "colorformer"
TABLE_SIZE = 256  # rows of an embedding table: a or b as integers -128 ... 127


@dataclass(frozen=True, kw_only=True)
class Config:
    """All values that change a tensor's shape; JSON-serializable."""

    encoder: Annotated[str, Choice(("glh", "efficientnet-lite"))] = "glh"
    """glh (the paper's) or efficientnet-lite."""
    depths: tuple[Depth, ...] = (2, 2, 6, 2)
    """Blocks of each encoder stage: four stages of glh, alternating GL-MSA and SW-MSA; seven of
    efficientnet-lite."""
    dims: tuple[Width, ...] = ()
    """efficientnet-lite: channels of each stage."""
    embed_dim: Width = 96
    """glh: channels at 1/4; doubled at 1/8, 1/16, 1/32."""
    heads: tuple[Heads, Heads, Heads, Heads] = (3, 6, 12, 24)
    """glh: attention heads in each stage."""
    window: Side = 7
    """glh: side of an attention window in tokens."""
    pooled: tuple[Side, Side, Side, Side] = (8, 4, 2, 1)
    """glh: side of the pooled map for global keys and values in each stage."""
    decoder_dims: tuple[Width, Width, Width] = (512, 512, 256)
    """Decoder channels at 1/16, 1/8, 1/4."""
    entries: Annotated[int, Range(1, 2**20)] = 512
    """m: entries of the memory."""
    key_width: Width = 64
    """k: width of a semantic key."""
    groups: Annotated[int, Range(1, 64)] = 4
    """n: colors per entry."""
    query_width: Width = 512
    """d1: width of projected queries and keys."""
    color_width: Width = 256
    """d2: width of an embedded color."""
    color_table: Annotated[int, Range(0, 2**14)] = 256
    """Width of the program's embedding tables of a and b; 0 = linear map, as in the paper."""
    projection: bool = False
    """Store the map from encoder features to keys, so that new memories can share it."""
    refine_width: Width = 256
    """Channels at full resolution, before the image is concatenated."""

    def __post_init__(self) -> None:
        validate_fields(self, NAME)
        stages = ENCODERS[self.encoder].stages
        if (len(self.depths), len(self.dims)) != stages:
            raise ValueError(
                f"colorformer: depths has {len(self.depths)} and dims {len(self.dims)} values; "
                f"the encoder {self.encoder} needs {stages[0]} and {stages[1]}."
            )
        if self.encoder == "glh":
            for channels, heads in zip(self.tap_dims, self.heads, strict=True):
                if channels % heads:
                    raise ValueError(
                        f"colorformer: {heads} heads do not divide the channels {self.tap_dims}."
                    )

    @property
    def tap_dims(self) -> tuple[int, ...]:
        """Encoder channels at 1/4, 1/8, 1/16, 1/32."""
        if self.encoder == "glh":
            return tuple(self.embed_dim * 2**i for i in range(4))
        return tuple(self.dims[stage] for stage in efficientnet_lite.TAPS)


class EncoderKind(NamedTuple):
    """Facts about an encoder, apart from its layers."""

    stages: tuple[int, int]
    """Lengths of `Config.depths` and `Config.dims`."""
    mean: tuple[float, float, float]
    """Mean of RGB in 0..1 for normalizing the input."""
    std: tuple[float, float, float]
    """Standard deviation of RGB in 0..1."""


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
    """Return the facts that the pipeline needs about a network of this configuration."""
    # Fitted to the difference in memory of a float32 forward pass on a CPU at 512 and at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 610 to 810 bytes per pixel, the published network 910.
    per_pixel = 16 * config.embed_dim if config.encoder == "glh" else 32 * config.tap_dims[0]
    refine = config.refine_width + 3
    packed = up_block_bytes(config.tap_dims, config.decoder_dims)
    packed += 2 * packed_bytes(refine, refine)
    return Spec(
        architecture=NAME,
        role="automatic",
        model_input="gray_rgb",
        multiple=32,
        resolution=256,
        activation_bytes_per_pixel=per_pixel,
        fixed_activation_bytes=4 * STRIP_ELEMENTS + packed,
        official=ColorFormerRenderer(),
        memory=MemorySizes(key_width=config.key_width, groups=config.groups),
    )


# --- Encoder (section 3.2) -------------------------------------------------------------------


def _to_windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B, rows, columns, T, C), row by row of windows."""
    return rearrange(x, "B (i y) (j x) C -> B i j (y x) C", y=side, x=side)


def _from_windows(x: Tensor, side: int) -> Tensor:
    """Inverse of `_to_windows`."""
    return rearrange(x, "B i j (y x) C -> B (i y) (j x) C", y=side)


def _pad_to_windows(x: Tensor, side: int) -> Tensor:
    """Zero-pad (B, H, W, C) on the right and bottom to multiples of `side`."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))


class WindowAttention(nn.Module):
    """Attention within windows of T = side x side tokens, with a relative position bias."""

    def __init__(self, dim: int, heads: int, side: int):
        super().__init__()
        self.side, self.heads = side, heads
        self.qkv = Linear(dim, 3 * dim)
        self.project = Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))

    def bias(self) -> Tensor:
        """Return the bias (heads, T, T) on the logit of query t and key s of a window."""
        y, x = _window_coordinates(self.side, self.position_bias.device)
        row, column = (v[:, None] - v[None] + self.side - 1 for v in (y, x))
        return self.position_bias[row * (2 * self.side - 1) + column].permute(2, 0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attend in L windows: queries (L, heads, T, d), keys (L, heads, S, d) -> (L, T, C)."""
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        return rearrange(x, "L heads T d -> L T (heads d)")


def _window_coordinates(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return y and x of the T tokens of a window."""
    index = torch.arange(side * side, device=device)
    return index // side, index % side


class GlobalLocalAttention(WindowAttention):
    """GL-MSA, eq. 1 and 2: each window also attends to the whole map, pooled to n x n tokens.

    Only local keys have a relative bias. The program normalizes the pooled tokens and projects them
    with separate weights.
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
    """SW-MSA (Liu et al. 2021): windows shifted by half a side connect neighboring windows.

    Rolling the map joins opposite edges in the last row and the last column of windows. Only these
    windows need a mask, and there are three different masks.
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
        coordinates = _window_coordinates(self.side, x.device)
        wrapped_y, wrapped_x = (index >= self.side - shift for index in coordinates)
        across_y, across_x = (v[:, None] != v[None] for v in (wrapped_y, wrapped_x))
        inner, last = slice(0, -1), slice(-1, None)
        out = x.new_empty(windows.shape[:-1] + (windows.shape[-1] // 3,), dtype=q.dtype)
        for i, j, masked in (
            (inner, inner, None),
            (inner, last, across_x),
            (last, inner, across_y),
            (last, last, across_x | across_y),
        ):
            shape = q[:, i, j].shape[:3]
            if not shape.numel():
                continue
            # The program subtracts 100 instead of infinity.
            masked_bias = bias if masked is None else bias - 100.0 * masked
            part_q, part_k, part_v = (t[:, i, j].flatten(0, 2) for t in (q, k, v))
            attended = self.attend(part_q, part_k, part_v, masked_bias)
            out[:, i, j] = attended.unflatten(0, shape)
        x = _from_windows(out, self.side).roll((shift, shift), dims=(1, 2))
        return self.project(x[:, :height, :width])


class GLHBlock(nn.Module):
    """Half of a GLH-Transformer block, eq. 3: attention and MLP, each with a shortcut."""

    def __init__(self, attention: WindowAttention, dim: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Concatenate 2x2 tokens, normalize, reduce: (B, H, W, C) -> (B, H/2, W/2, 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = rearrange(x, "B (h dy) (w dx) C -> B h w (dx dy C)", dy=2, dx=2)
        return self.reduction(self.norm(x))


class GLHTransformer(nn.Module):
    """Image (B, 3, H, W) -> four normalized maps (B, C, h, w) at 1/4 ... 1/32."""

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

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_norm(self.patches(image).permute(0, 2, 3, 1))
        taps = []
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            if i:
                x = self.merging[i - 1](x)
            x = stage(x)
            taps.append(norm(x).permute(0, 3, 1, 2))  # the next stage reads the map without norm
        return taps


class LiteEncoder(EfficientNetLite):
    """EfficientNet-Lite whose map at 1/32 is normalized over channels.

    Memory keys are computed from that map, whose magnitude varies much between locations and
    between trainings. The norm has no parameters, so that keys depend on the encoder's weights
    alone. The other maps pass a batch norm in the decoder.
    """

    def __init__(self, depths: tuple[int, ...], dims: tuple[int, ...]):
        super().__init__(depths, dims)
        self.norm = nn.LayerNorm(dims[-1], elementwise_affine=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        *taps, last = super().forward(image)
        return [*taps, self.norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]


def build_encoder(config: Config) -> GLHTransformer | LiteEncoder:
    """Build the encoder: image (B, 3, H, W) -> maps at 1/4 ... 1/32."""
    if config.encoder == "glh":
        return GLHTransformer(config)
    return LiteEncoder(config.depths, config.dims)


# --- Memory decoder (section 3.3) ------------------------------------------------------------


class ColorMemoryModule(nn.Module):
    """The CM module, figure 4: features attend to semantic keys; the values are colors.

    The program embeds a and b with one table each, indexed by the rounded value; the paper maps
    (a, b) linearly.
    """

    keys: Tensor
    """S: (m, k)."""
    values: Tensor
    """C_1 ... C_n: (n, m, 2), ab in Lab units."""
    components: Tensor
    """(k, c) map from encoder features to keys, with `Config.projection` only."""
    offset: Tensor
    """(k,), with `Config.projection` only."""

    def __init__(self, config: Config):
        super().__init__()
        channels, colors = config.decoder_dims[2], config.color_width
        width = channels + colors
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
            nn.Embedding(TABLE_SIZE, config.color_table) for _ in "ab" if config.color_table
        )
        color_input = 2 * config.color_table or 2
        self.project_color = nn.ModuleList(
            Linear(color_input, colors) for _ in range(config.groups)
        )
        self.joined_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(Linear(width, width), nn.GELU(), Linear(width, width))
        self.out_norm = nn.LayerNorm(width)
        self.out = Linear(width, channels)

    def forward(self, x: Tensor, weights: Tensor, memory: MemoryEntries | None = None) -> Tensor:
        """Eq. 4 to 7: features F (B, h, w, c) and fusion weights lambda (B, n) -> (B, h, w, c)."""
        values = self.values if memory is None else self.nearest_trained_values(memory.values)
        colors = self.embed_colors(values)
        colors = torch.einsum("Bn,nmd->Bmd", weights.to(colors.dtype), colors)  # eq. 4
        attended = self.attend(x, colors, None if memory is None else memory.keys)
        x = self.joined_norm(torch.cat([x, attended], dim=-1))
        return self.out(self.out_norm(x + self.mlp(x)))  # eq. 7

    def attend(self, x: Tensor, values: Tensor, keys: Tensor | None = None) -> Tensor:
        """Eq. 5 and 6: W = softmax(F S^T), without 1/sqrt(d); W C for `values` (B, m, d)."""
        queries = self.project_query(self.query_norm(x)).flatten(1, 2)
        semantics = (self.keys if keys is None else keys).to(x.dtype)
        projected = self.project_key(semantics).expand(x.shape[0], -1, -1)
        attended = F.scaled_dot_product_attention(
            queries[:, None], projected[:, None], values[:, None].to(queries.dtype), scale=1.0
        )
        return attended[:, 0].unflatten(1, x.shape[1:3])

    def nearest_trained_values(self, values: Tensor) -> Tensor:
        """Round ab (n, m, 2) of another memory to values that the tables were trained on.

        Rows of a table that no value of the network's own memory refers to keep their initial
        weights, so each a and b is replaced by the nearest value of that memory. Without tables,
        values are returned unchanged.
        """
        if not self.tables:
            return values
        rounded = []
        for trained, axis in zip(self.values.unbind(-1), values.unbind(-1), strict=True):
            levels = trained.float().round().unique()
            boundaries = (levels[1:] + levels[:-1]) / 2
            rounded.append(levels[torch.bucketize(axis.float().contiguous(), boundaries)])
        return torch.stack(rounded, dim=-1)

    def embed_colors(self, values: Tensor) -> Tensor:
        """Embed colors, C^_1 ... C^_n: ab (n, m, 2) -> (n, m, d2)."""
        if self.tables:
            index = (values.float().round() + TABLE_SIZE // 2).clamp(0, TABLE_SIZE - 1).long()
            tables = zip(self.tables, index.unbind(-1), strict=True)
            values = torch.cat([table(axis) for table, axis in tables], dim=-1)
        else:
            values = values / AB_SCALE
        dtype = self.project_key.weight.dtype
        return torch.stack(
            [
                project(group.to(dtype))
                for project, group in zip(self.project_color, values, strict=True)
            ]
        )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ReLU after both, before the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv3x3(channels, channels)
        self.conv2 = Conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu_()).relu_() + x


class EncodedImage(NamedTuple):
    """Image after the part of the network that does not depend on memory and fusion weights."""

    image: Tensor
    """(B, 3, H, W), normalized."""
    features: Tensor
    """F: (B, c, H/4, W/4)."""
    weights: Tensor
    """lambda: (B, n), sums to 1."""


class ColorFormer(nn.Module):
    """Gray RGB (B, 3, H, W) in 0..1, H and W multiples of 32 -> ab (B, 2, H, W) in Lab units."""

    mean: Tensor
    std: Tensor

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
        self, gray_rgb: Tensor, memory: MemoryEntries | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Predict ab.

        Args:
            gray_rgb: (B, 3, H, W) in 0..1.
            memory: replaces the memory stored in the network.
            weights: fusion weights (B, n) that sum to 1; replace the encoder's.
        """
        return self.decode(self.encode(gray_rgb), memory, weights)

    def encode(self, gray_rgb: Tensor) -> EncodedImage:
        """Run the encoder, its fusion weights, and the first three stages of the decoder."""
        image = self.normalize(gray_rgb)
        taps = self.encoder(image)
        tokens = self.fusion_norm(taps[3].permute(0, 2, 3, 1))
        weights = self.fusion(tokens.mean(dim=(1, 2))).softmax(-1)
        x = taps[3]
        for block, skip in zip(self.blocks, (taps[2], taps[1], taps[0]), strict=True):
            x = block(x, skip)
        return EncodedImage(image, x, weights)

    def decode(
        self,
        encoded: EncodedImage,
        memory: MemoryEntries | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Apply the Color Memory, the last stage and the residual block: ab (B, 2, H, W)."""
        image, x, predicted_weights = encoded
        weights = predicted_weights if weights is None else weights
        x = self.memory(x.permute(0, 2, 3, 1), weights, memory).permute(0, 3, 1, 2)
        height = x.shape[2]
        ranges = row_strips(height, 16 * x.shape[0] * x.shape[3] * self.refine.conv1.in_channels)
        if len(ranges) == 1:
            return self._refine(x, image)
        strips = []
        for top, bottom in ranges:
            # A pixel depends on 4 rows above (blur and three convolutions) and 3 rows below it, so
            # one more row of x on either side makes the strips exact.
            first, last = max(top - 1, 0), min(bottom + 1, height)
            strip = self._refine(x[:, :, first:last], image[:, :, 4 * first : 4 * last])
            strips.append(strip[:, :, 4 * (top - first) : 4 * (bottom - first)])
        return torch.cat(strips, dim=2)

    def _refine(self, x: Tensor, image: Tensor) -> Tensor:
        """Apply the last stage and the residual block: (B, c, h, w) -> ab (B, 2, 4h, 4w)."""
        x = box_blur(F.pixel_shuffle(self.last(x).relu_(), 4))
        return self.out(self.refine(torch.cat([x, image.to(x.dtype)], dim=1)))

    def semantics(self, gray_rgb: Tensor) -> Tensor:
        """Return the encoder's last map, which Algorithm 1 clusters: (B, H/32, W/32, c)."""
        return self.encoder(self.normalize(gray_rgb))[3].permute(0, 2, 3, 1)

    def normalize(self, gray_rgb: Tensor) -> Tensor:
        """Normalize the input for the encoder.

        Raises:
            ValueError: the shape is not (B, 3, H, W) with multiples of 32.
        """
        shape = gray_rgb.shape
        if len(shape) != 4 or shape[1] != 3 or any(side % 32 or not side for side in shape[2:]):
            raise ValueError(
                f"colorformer: input has shape {tuple(shape)}; expected (B, 3, H, W) gray RGB "
                "with H and W multiples of 32."
            )
        image = (gray_rgb - self.mean) / self.std
        return image.contiguous(memory_format=torch.channels_last)

    def spectral_convolutions(self) -> Iterator[nn.Conv2d]:
        """Yield the convolutions that are trained with spectral norm (Miyato et al. 2018)."""
        for block in cast(Iterable[UpBlock], self.blocks):
            yield from (block.up, block.mix)
        yield from (self.last, self.refine.conv1, self.refine.conv2, self.out)


# --- Published checkpoints -------------------------------------------------------------------

_BLOCK = r"^encoder\.arch\.layers\.(\d)\.blocks\.(\d+)\."
_CM = r"^seg_decoder\.layers\.3\."
PUBLISHED_NAMES = [  # (pattern of the published name, our name); the first match wins
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
DROPPED = {  # suffix of a published name -> reason
    ".relative_position_index": "the same integers for every window of this side",
}


def detect(keys: set[str]) -> bool:
    """Return True for the tensor names of a published ColorFormer checkpoint."""
    return {"seg_decoder.layers.3.semantic_centers", "refine_net.1.0.bias"} <= keys


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from the shapes of a published checkpoint.

    No shape depends on the pooled sides; they are 8, 4, 2, 1.
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
        heads=cast(tuple[int, int, int, int], tuple(table.shape[1] for table in tables)),
        window=(round(tables[0].shape[0] ** 0.5) + 1) // 2,
        decoder_dims=cast(
            tuple[int, int, int],
            tuple(state[f"seg_decoder.layers.{i}.conv.2.weight"].shape[0] for i in range(3)),
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
    """Return a new dict with published names replaced by ours.

    Args:
        state: canonical keys (no container, no `module.` prefix).
        fold: see `layers.convert_spectral_norm`; False for further training.
    """
    converted = {}
    for key, tensor in convert_spectral_norm(state, fold=fold).items():
        if key.endswith(tuple(DROPPED)) or key.startswith(_CENTER):
            continue
        name = rename_key(key, PUBLISHED_NAMES)
        # The file stores the memory's last layer as a 1x1 convolution.
        converted[name] = tensor.flatten(1) if name == "memory.out.weight" else tensor
    groups = sorted(
        (key for key in state if key.startswith(_CENTER)), key=lambda k: int(k[len(_CENTER) :])
    )
    # The file stores integers 0 ... 255.
    converted["memory.values"] = (
        torch.stack([state[key] for key in groups]).float() - TABLE_SIZE // 2
    )
    return converted
