"""DDColor: image colorization with a pixel decoder and a query-based color decoder.

Kang, Yang, Ouyang, Ren, Li, Xie: "DDColor: Towards Photo-Realistic Image Colorization via Dual
Decoders", ICCV 2023, arXiv:2212.11613. Published weights: piddnad/DDColor (Apache-2.0).

The file follows figure 2: encoder -> pixel decoder -> color decoder -> fusion. The encoder is the
paper's ConvNeXt, or EfficientNet-Lite for speed on a CPU. Comments mark the published program's
deviations from the paper. Tensors are (B, C, H, W); `Q` color queries, `D` width of an embedding,
`N` tokens of a feature map.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx

from . import efficientnet_lite
from .ddcolor_official import DDColorRenderer
from .efficientnet_lite import EfficientNetLite
from .layers import (
    STRIP_ELEMENTS,
    UP_BLOCK_NAMES,
    ConvNeXtBlock,
    LayerNorm2d,
    Linear,
    UpBlock,
    attend,
    box_blur,
    convert_spectral_norm,
    initialize_layer_scale,
    linear,
    rename_key,
    row_strips,
    trains_on_cpu,
    up_block_bytes,
)
from .spec import Spec
from .validation import Choice, Depth, Width, validate_fields

NAME = "ddcolor"
LEVELS = 3  # feature scales the color decoder reads in turn: 1/16, 1/8, 1/4 (section 3.2.2)
HEAD_WIDTH = 32  # channels of one attention head in every published preset


@dataclass(frozen=True, kw_only=True)
class Config:
    """All values that change a tensor's shape; JSON-serializable."""

    encoder: Annotated[str, Choice(("convnext", "efficientnet-lite"))] = "convnext"
    """convnext (the paper's) or efficientnet-lite."""
    depths: tuple[Depth, ...]
    """Blocks of each encoder stage: four stages of ConvNeXt, seven of EfficientNet-Lite."""
    dims: tuple[Width, ...]
    """Channels of each encoder stage."""
    decoder_dims: tuple[Width, Width, Width] = (512, 512, 256)
    """Pixel decoder channels at 1/16, 1/8, 1/4."""
    width: Width = 256
    """D: channels of color queries and image embedding."""
    ffn_width: Width = 2048
    """Hidden channels of the color decoder's MLPs."""
    blocks: Depth = 9
    """Color decoder blocks; 3 M in the paper."""
    queries: Width = 100
    """Q: color queries; K in the paper."""

    def __post_init__(self) -> None:
        validate_fields(self, NAME)
        stages = len(self.depths), len(self.dims)
        if set(stages) != {ENCODERS[self.encoder].stages}:
            raise ValueError(
                f"ddcolor: depths and dims have {stages[0]} and {stages[1]} values; the encoder "
                f"{self.encoder} has {ENCODERS[self.encoder].stages} stages."
            )
        if self.width % HEAD_WIDTH:
            raise ValueError(
                f"ddcolor: width is {self.width}; expected a multiple of {HEAD_WIDTH}."
            )

    @property
    def tap_dims(self) -> tuple[int, ...]:
        """Encoder channels at 1/4, 1/8, 1/16, 1/32."""
        return tuple(self.dims[stage] for stage in ENCODERS[self.encoder].taps)


class EncoderKind(NamedTuple):
    """Facts about an encoder, apart from its layers."""

    stages: int
    """Number of stages."""
    taps: tuple[int, ...]
    """Indices of the stages whose maps the decoders read: at 1/4, 1/8, 1/16, 1/32."""
    mean: tuple[float, float, float]
    """Mean of RGB in 0..1 for normalizing the input."""
    std: tuple[float, float, float]
    """Standard deviation of RGB in 0..1."""


ENCODERS = {
    "convnext": EncoderKind(4, (0, 1, 2, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet-lite": EncoderKind(
        7, efficientnet_lite.TAPS, (efficientnet_lite.MEAN,) * 3, (efficientnet_lite.STD,) * 3
    ),
}


PRESETS = {
    "ddcolor-large": Config(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
    "ddcolor-tiny": Config(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
    "ddcolor-nano": Config(
        encoder="efficientnet-lite",
        depths=efficientnet_lite.VARIANTS["lite1"].depths,
        dims=efficientnet_lite.VARIANTS["lite1"].dims,
        decoder_dims=(256, 128, 64),
        width=64,
        ffn_width=256,
        blocks=6,
        queries=64,
    ),
}


def spec(config: Config) -> Spec:
    """Return the facts that the pipeline needs about a network of this configuration."""
    # Fitted to the difference in memory of a float32 forward pass on a CPU at 512 and at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 272 bytes per pixel, tiny 893, large 1103.
    per_pixel = 4 * config.width + 2 * config.tap_dims[0]
    return Spec(
        architecture=NAME,
        role="automatic",
        model_input="gray_rgb",
        multiple=32,
        resolution=512,
        activation_bytes_per_pixel=per_pixel,
        fixed_activation_bytes=4 * STRIP_ELEMENTS
        + up_block_bytes(config.tap_dims, config.decoder_dims),
        official=DDColorRenderer(),
    )


# --- Encoder ---------------------------------------------------------------------------------


class ConvNeXt(nn.Module):
    """(B, 3, H, W) -> four normalized feature maps at 1/4, 1/8, 1/16, 1/32.

    Liu et al. 2022, section 3.
    """

    def __init__(self, config: Config):
        super().__init__()
        dims = config.dims
        downsample = [nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0]))]
        for in_channels, out_channels in zip(dims, dims[1:], strict=False):
            downsample.append(
                nn.Sequential(
                    LayerNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 2, stride=2)
                )
            )
        self.downsample = nn.ModuleList(downsample)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim) for _ in range(depth)))
            for depth, dim in zip(config.depths, dims, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm2d(dim) for dim in dims)

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for downsample, stage, norm in zip(self.downsample, self.stages, self.norms, strict=True):
            x = stage(downsample(x))
            taps.append(norm(x))  # the next stage reads the map without norm
        return taps


def build_encoder(config: Config) -> ConvNeXt | EfficientNetLite:
    """Build the encoder that `config` describes."""
    if config.encoder == "convnext":
        return ConvNeXt(config)
    return EfficientNetLite(config.depths, config.dims)


# --- Pixel decoder (section 3.2.1) -----------------------------------------------------------


class PixelDecoder(nn.Module):
    """Encoder maps -> features at 1/16, 1/8, 1/4.

    The paper's E_i is blur(pixel_shuffle(relu(embedding(features)), 4)); `Fusion` computes it.
    """

    def __init__(self, config: Config):
        super().__init__()
        d4, d8, d16, d32 = config.tap_dims
        out16, out8, out4 = config.decoder_dims
        self.blocks = nn.ModuleList(
            [UpBlock(d32, d16, out16), UpBlock(out16, d8, out8), UpBlock(out8, d4, out4)]
        )
        self.embedding = nn.Conv2d(out4, 16 * config.width, 1)  # channels ordered (sub-pixel, D)

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        x, features = taps[3], []
        for block, skip in zip(self.blocks, (taps[2], taps[1], taps[0]), strict=True):
            x = block(x, skip)
            features.append(x)
        return features


# --- Color decoder (section 3.2.2) -----------------------------------------------------------


def _sine_position(
    height: int, width: int, dim: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Compute sine position encodings (1, N, D) as in DETR.

    The first half of the channels encodes y, the second x; sine and cosine are interleaved.
    """
    half = dim // 2
    frequency = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def axis(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (position / (length + 1e-6) * 2 * math.pi)[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    y = axis(height)[:, None].expand(height, width, half)
    x = axis(width)[None].expand(height, width, half)
    return torch.cat([y, x], dim=-1).reshape(1, height * width, dim).to(dtype)


class Attention(nn.Module):
    """Multi-head attention with one packed input projection: softmax(Q K^T / sqrt(d)) V."""

    def __init__(self, dim: int):
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from query (B, Q, D) to key and value (B, N, D): (B, Q, D)."""
        weights = zip(self.project_in.weight.chunk(3), self.project_in.bias.chunk(3), strict=True)
        q, k, v = (
            linear(x, *weight).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight in zip((query, key, value), weights, strict=True)
        )
        return self.project_out(attend(q, k, v).transpose(1, 2).flatten(2))


class ColorDecoderBlock(nn.Module):
    """Cross-attention, self-attention, MLP, eq. 1 to 4.

    Normalized after each sum, as in the program.
    """

    def __init__(self, dim: int, ffn_width: int):
        super().__init__()
        self.cross_attention, self.cross_norm = Attention(dim), nn.LayerNorm(dim)
        self.self_attention, self.self_norm = Attention(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(Linear(dim, ffn_width), nn.ReLU(), Linear(ffn_width, dim))
        self.mlp_norm = nn.LayerNorm(dim)

    def forward(self, z: Tensor, query_position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        z = self.cross_norm(z + self.cross_attention(z + query_position, key, value))
        q = z + query_position
        z = self.self_norm(z + self.self_attention(q, q, z))
        return self.mlp_norm(z + self.mlp(z))


class ColorDecoder(nn.Module):
    """Three feature maps -> color embeddings E_c (B, Q, D), eq. 5.

    The paper initializes the queries to zero; the program learns initial queries and a position
    that is added to queries (and self-attention keys) in every block.
    """

    def __init__(self, config: Config):
        super().__init__()
        width = config.width
        self.query_start = nn.Parameter(torch.randn(config.queries, width))
        self.query_position = nn.Parameter(torch.randn(config.queries, width))
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, width))
        self.project = nn.ModuleList(nn.Conv2d(dim, width, 1) for dim in config.decoder_dims)
        self.blocks = nn.ModuleList(
            ColorDecoderBlock(width, config.ffn_width) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.color_embedding = nn.Sequential(
            *(
                Linear(width, width),
                nn.ReLU(),
                Linear(width, width),
                nn.ReLU(),
                Linear(width, width),
            )
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        keys, values = [], []
        for level, (project, x) in enumerate(zip(self.project, features, strict=True)):
            tokens = project(x).flatten(2).transpose(1, 2) + self.level_embedding[level]
            values.append(tokens)
            height, width = x.shape[2:]
            position = _sine_position(height, width, tokens.shape[-1], tokens.device, tokens.dtype)
            keys.append(tokens + position)
        z = self.query_start.expand(features[0].shape[0], -1, -1)
        for i, block in enumerate(self.blocks):
            z = block(z, self.query_position, keys[i % LEVELS], values[i % LEVELS])
        return self.color_embedding(self.norm(z))


# --- Fusion (section 3.3) and the network ----------------------------------------------------


class Fusion(nn.Module):
    """F = E_c . E_i, ab = Conv(F), eq. 6 and 7; the program appends the normalized image to F.

    Both steps are linear, so Conv is applied to E_c first, (2, Q) x (Q, D), and the Q full-size
    query maps are never computed. Shuffle and blur act on each channel separately, so they follow
    the dot product, on two channels instead of D. E_i is computed strip by strip. At 512x512 this
    saves 13 GFLOP and 370 MB with identical results. The sums are float32 in any precision: they
    are the network's largest values, and ab depends on them directly.
    """

    def __init__(self, queries: int):
        super().__init__()
        self.conv = nn.Conv2d(queries + 3, 2, 1)

    def forward(
        self, color: Tensor, features: Tensor, embedding: nn.Conv2d, image: Tensor
    ) -> Tensor:
        """Combine E_c (B, Q, D) with features (B, C, H/4, W/4): ab (B, 2, H, W).

        Args:
            color: E_c.
            features: of the pixel decoder.
            embedding: layer that turns features into E_i.
            image: (B, 3, H, W), normalized.
        """
        batch, _, height, width = features.shape
        queries, dim = color.shape[1:]
        weight, bias = self.conv.weight.float(), cast(Tensor, self.conv.bias).float()
        mix = (weight[:, :queries, 0, 0] @ color.float()).transpose(1, 2)  # (B, D, 2)
        if trains_on_cpu(features):
            rows = features.permute(0, 2, 3, 1).flatten(1, 2)
            parts = [QueryProducts.apply(rows, embedding.weight[..., 0, 0], embedding.bias, mix)]
        else:
            parts = [
                self._products(features[:, :, top:bottom], embedding, mix)
                for top, bottom in row_strips(height, batch * width * 16 * dim)
            ]
        sub_pixels = torch.cat(parts, dim=1).view(batch, height, width, 16, 2)
        sub_pixels = sub_pixels.permute(0, 4, 3, 1, 2)
        ab = box_blur(F.pixel_shuffle(sub_pixels.reshape(batch, 32, height, width), 4))
        return ab + F.conv2d(image.float(), weight[:, queries:], bias)

    @staticmethod
    def _products(features: Tensor, embedding: nn.Conv2d, mix: Tensor) -> Tensor:
        """Multiply E_i of a strip of features (B, C, h, w) by `mix` (B, D, 2): (B, 16 h w, 2)."""
        embedded = embedding(features).relu_()
        # A view in channels_last memory: (B, h w 16, D) @ (B, D, 2)
        rows = embedded.permute(0, 2, 3, 1).reshape(
            embedded.shape[0], -1, mix.shape[1]
        )  # traceable
        return rows.float() @ mix


class QueryProducts(torch.autograd.Function):
    """relu(features W^T + b) times `mix`, for training on a CPU.

    E_i, the largest map of the network, is computed in strips that fit into a processor's cache,
    and recomputed for the gradient instead of stored: 137 instead of 227 ms for Fusion, forward and
    backward (2026-11-30, ddcolor-nano, 16 squares of 128 pixels, float32, one core).
    """

    ROWS = 256  # per strip

    @staticmethod
    def forward(  # pyrefly: ignore[bad-override] - torch declares *args
        ctx: FunctionCtx, features: Tensor, weight: Tensor, bias: Tensor, mix: Tensor
    ) -> Tensor:
        """Multiply features (B, N, C) by weight (16 D, C), bias (16 D), mix (B, D, 2).

        Returns:
            (B, 16 N, 2).
        """
        ctx.save_for_backward(features, weight, bias, mix)
        dim = mix.shape[1]
        weight, bias = weight.to(features.dtype).T, bias.to(features.dtype)
        result = mix.new_empty(*features.shape[:2], 16, 2)
        for sample, sample_mix, sample_out in zip(features, mix, result, strict=True):
            for rows, out in zip(
                sample.split(QueryProducts.ROWS), sample_out.split(QueryProducts.ROWS), strict=True
            ):
                embedded = torch.addmm(bias, rows, weight).relu_()
                torch.mm(embedded.view(-1, dim).to(mix.dtype), sample_mix, out=out.view(-1, 2))
        return result.flatten(1, 2)

    @staticmethod
    def backward(  # pyrefly: ignore[bad-override] - torch declares *grad_outputs
        ctx: BackwardCFunction, gradient: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of all four inputs."""
        # torch declares a tuple of one.
        features, weight, bias, mix = cast(tuple[Tensor, Tensor, Tensor, Tensor], ctx.saved_tensors)
        dim, dtype = mix.shape[1], features.dtype
        low_weight, low_bias, low_mix = weight.to(dtype), bias.to(dtype), mix.to(dtype)
        gradient = gradient.unflatten(1, (-1, 16)).to(dtype)
        d_features, d_mix = torch.empty_like(features), torch.zeros_like(mix)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for i, sample in enumerate(features):
            strips = (x.split(QueryProducts.ROWS) for x in (sample, gradient[i], d_features[i]))
            for rows, d_out, d_rows in zip(*strips, strict=True):
                embedded = torch.addmm(low_bias, rows, low_weight.T).relu_()
                d_out = d_out.reshape(-1, 2)
                d_mix[i] += embedded.view(-1, dim).T @ d_out
                d_embedded = (d_out @ low_mix[i].T).view_as(embedded)
                d_embedded = torch.ops.aten.threshold_backward(d_embedded, embedded, 0)
                torch.mm(d_embedded, low_weight, out=d_rows)
                d_weight += d_embedded.T @ rows
                d_bias += d_embedded.sum(0)
        return d_features, d_weight, d_bias, d_mix


class DDColor(nn.Module):
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
        self.pixel_decoder = PixelDecoder(config)
        self.color_decoder = ColorDecoder(config)
        self.fusion = Fusion(config.queries)

    def forward(self, gray_rgb: Tensor) -> Tensor:
        if (
            gray_rgb.ndim != 4
            or gray_rgb.shape[1] != 3
            or any(n % 32 or not n for n in gray_rgb.shape[2:])
        ):
            raise ValueError(
                f"ddcolor: input has shape {tuple(gray_rgb.shape)}; expected (B, 3, H, W) gray RGB "
                "with H and W multiples of 32."
            )
        image = ((gray_rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.pixel_decoder(self.encoder(image))
        color = self.color_decoder(features)
        return self.fusion(color, features[-1], self.pixel_decoder.embedding, image)

    def spectral_convolutions(self) -> Iterator[nn.Conv2d]:
        """Yield the convolutions that are trained with spectral norm (Miyato et al. 2018)."""
        for block in cast(Iterable[UpBlock], self.pixel_decoder.blocks):
            yield from (block.up, block.mix)
        yield from (self.pixel_decoder.embedding, self.fusion.conv)


def initialize(network: DDColor) -> None:
    """Set initial weights for training from scratch, in place: layer scales of 1."""
    initialize_layer_scale(network)


# --- Published checkpoints -------------------------------------------------------------------

PUBLISHED_NAMES = [  # (pattern of the published name, our name); the first match wins
    (r"^encoder\.arch\.downsample_layers\.", "encoder.downsample."),
    (r"^encoder\.arch\.norm(\d)\.", r"encoder.norms.\1."),
    (r"^encoder\.arch\.(stages\.\d+\.\d+)\.dwconv\.", r"encoder.\1.depthwise."),
    (r"^encoder\.arch\.(stages\.\d+\.\d+)\.pwconv1\.", r"encoder.\1.expand."),
    (r"^encoder\.arch\.(stages\.\d+\.\d+)\.pwconv2\.", r"encoder.\1.project."),
    (r"^encoder\.arch\.(stages\.\d+\.\d+)\.(norm\.|gamma)", r"encoder.\1.\2"),
    (r"^decoder\.last_shuf\.conv\.0\.", "pixel_decoder.embedding."),
    (r"^decoder\.color_decoder\.query_feat\.weight$", "color_decoder.query_start"),
    (r"^decoder\.color_decoder\.query_embed\.weight$", "color_decoder.query_position"),
    (r"^decoder\.color_decoder\.level_embed\.weight$", "color_decoder.level_embedding"),
    (r"^decoder\.color_decoder\.input_proj\.", "color_decoder.project."),
    (r"^decoder\.color_decoder\.decoder_norm\.", "color_decoder.norm."),
    (r"^refine_net\.0\.0\.", "fusion.conv."),
    *(
        (rf"^decoder\.layers\.(\d)\.{re.escape(theirs)}", rf"pixel_decoder.blocks.\1.{ours}")
        for theirs, ours in UP_BLOCK_NAMES
    ),
]
for _kind, _module in (("cross", "multihead_attn"), ("self", "self_attn")):
    _prefix = rf"^decoder\.color_decoder\.transformer_{_kind}_attention_layers\.(\d+)\."
    _block = rf"color_decoder.blocks.\1.{_kind}_"
    PUBLISHED_NAMES += [
        (rf"{_prefix}{_module}\.in_proj_", rf"{_block}attention.project_in."),
        (rf"{_prefix}{_module}\.out_proj\.", rf"{_block}attention.project_out."),
        (rf"{_prefix}norm\.", rf"{_block}norm."),
    ]
_FFN = r"^decoder\.color_decoder\.transformer_ffn_layers\.(\d+)\."
PUBLISHED_NAMES += [
    (rf"{_FFN}linear1\.", r"color_decoder.blocks.\1.mlp.0."),
    (rf"{_FFN}linear2\.", r"color_decoder.blocks.\1.mlp.2."),
    (rf"{_FFN}norm\.", r"color_decoder.blocks.\1.mlp_norm."),
    *(
        (
            rf"^decoder\.color_decoder\.color_embed\.layers\.{i}\.",
            rf"color_decoder.color_embedding.{2 * i}.",
        )
        for i in range(3)
    ),
]
DROPPED = {  # prefix of a published name -> reason
    "encoder.arch.norm.": "the classifier's last norm, unused",
    "encoder.arch.head_cls.": "a classifier removed from the published code",
}


def detect(keys: set[str]) -> bool:
    """Return True for the tensor names of a published DDColor checkpoint."""
    return {"decoder.color_decoder.query_feat.weight", "refine_net.0.0.bias"} <= keys


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from the shapes of a published checkpoint.

    No shape depends on the number of heads; all published presets have D / 32.
    """
    blocks = {key.split(".")[3] for key in state if ".transformer_ffn_layers." in key}
    stages = [
        {key.split(".")[4] for key in state if key.startswith(f"encoder.arch.stages.{i}.")}
        for i in range(4)
    ]
    conv = "decoder.layers.{}.conv.2.weight"
    return Config(
        depths=tuple(len(stage) for stage in stages),
        dims=tuple(state[f"encoder.arch.norm{i}.weight"].shape[0] for i in range(4)),
        decoder_dims=cast(
            tuple[int, int, int],
            tuple(state[conv.format(i)].shape[0] for i in range(LEVELS)),
        ),
        width=state["decoder.color_decoder.query_feat.weight"].shape[1],
        ffn_width=state["decoder.color_decoder.transformer_ffn_layers.0.linear1.weight"].shape[0],
        blocks=len(blocks),
        queries=state["decoder.color_decoder.query_feat.weight"].shape[0],
    )


def convert(state: Mapping[str, Tensor], *, fold: bool = True) -> dict[str, Tensor]:
    """Return a new dict with published names replaced by ours.

    Args:
        state: canonical keys (no container, no `module.` prefix).
        fold: see `layers.convert_spectral_norm`; False for further training.
    """
    converted = {}
    for key, tensor in convert_spectral_norm(state, fold=fold).items():
        if key.startswith(tuple(DROPPED)):
            continue
        name = rename_key(key, PUBLISHED_NAMES)
        # Except v, whose length is the number of input channels.
        embedding = name.startswith("pixel_decoder.embedding.") and not name.endswith("._v")
        converted[name] = _sub_pixel_first(tensor) if embedding else tensor
    return converted


def _sub_pixel_first(x: Tensor) -> Tensor:
    """Reorder output channels from (D, 16) to (16, D); see `Fusion`."""
    return x.unflatten(0, (-1, 16)).transpose(0, 1).flatten(0, 1)
