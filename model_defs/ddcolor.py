"""DDColor: image colorization with a pixel decoder and a query-based color decoder.

Kang, Yang, Ouyang, Ren, Li, Xie: "DDColor: Towards Photo-Realistic Image Colorization via Dual
Decoders", ICCV 2023, arXiv:2212.11613. Published weights: piddnad/DDColor (Apache-2.0).

The file follows figure 2: encoder -> pixel decoder -> color decoder -> fusion. The encoder is the
paper's ConvNeXt or, for a network that is light on a CPU, EfficientNet-Lite. What the published
program adds to the paper is named where it stands. Tensors are (B, C, H, W); `Q` color queries, `D`
width of an embedding, `N` tokens of one feature map.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import efficientnet_lite
from .efficientnet_lite import EfficientNetLite
from .layers import (
    STRIP,
    UP_BLOCK_NAMES,
    ConvNeXtBlock,
    LayerNorm2d,
    Linear,
    UpBlock,
    attend,
    blur,
    linear,
    plain_weights,
    rename,
    strips,
    trains_on_cpu,
    up_block_bytes,
)
from .spec import Spec

NAME = "ddcolor"
LEVELS = 3  # feature scales the color decoder reads in turn: 1/16, 1/8, 1/4 (section 3.2.2)
HEAD_WIDTH = 32  # channels of one attention head in every published preset


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape; JSON-serialisable."""

    encoder: str = "convnext"
    """Kind of encoder: convnext or efficientnet-lite."""
    depths: tuple[int, ...]
    """Blocks of each encoder stage: four stages of ConvNeXt, seven of EfficientNet-Lite."""
    dims: tuple[int, ...]
    """Channels of each encoder stage."""
    decoder_dims: tuple[int, int, int] = (512, 512, 256)
    """Pixel decoder channels at 1/16, 1/8, 1/4."""
    width: int = 256
    """D: channels of color queries and image embedding."""
    ffn_width: int = 2048
    """Hidden channels of the color decoder's MLPs."""
    blocks: int = 9
    """Color decoder blocks; 3 M in the paper."""
    queries: int = 100
    """Q: color queries; K in the paper."""

    def __post_init__(self) -> None:
        for name in ("depths", "dims", "decoder_dims"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        if self.encoder not in ENCODERS:
            raise ValueError(
                f"ddcolor: encoder is '{self.encoder}'; expected one of {', '.join(ENCODERS)}."
            )
        stages = len(self.depths), len(self.dims)
        if set(stages) != {ENCODERS[self.encoder].stages}:
            raise ValueError(
                f"ddcolor: depths and dims name {stages[0]} and {stages[1]} stages; the encoder "
                f"{self.encoder} has {ENCODERS[self.encoder].stages}."
            )
        if self.width % HEAD_WIDTH:
            raise ValueError(
                f"ddcolor: width is {self.width}; it must be a multiple of {HEAD_WIDTH}."
            )

    @property
    def tap_dims(self) -> tuple[int, ...]:
        """Encoder channels at 1/4, 1/8, 1/16, 1/32."""
        return tuple(self.dims[stage] for stage in ENCODERS[self.encoder].taps)


class EncoderKind(NamedTuple):
    """What differs between the encoders beside their layers."""

    stages: int
    """Number of stages."""
    taps: tuple[int, ...]
    """Stages whose maps the decoders read: at 1/4, 1/8, 1/16, 1/32."""
    mean: tuple[float, float, float]
    """Mean of RGB in 0..1 that the input is normalised by."""
    std: tuple[float, float, float]
    """Standard deviation likewise."""


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
    """What the pipeline must know to run this network."""
    # Fitted to what a float32 forward pass on a CPU takes more at 512 than at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 272 bytes a pixel, tiny 893, large 1103.
    per_pixel = 4 * config.width + 2 * config.tap_dims[0]
    return Spec(
        architecture=NAME,
        role="automatic",
        model_input="gray_rgb",
        multiple=32,
        resolution=512,
        activation_bytes_per_pixel=per_pixel,
        activation_bytes=4 * STRIP + up_block_bytes(config.tap_dims, config.decoder_dims),
    )


# --- Encoder ---------------------------------------------------------------------------------


class ConvNeXt(nn.Module):
    """(B, 3, H, W) -> four normalised feature maps at 1/4, 1/8, 1/16, 1/32.

    Liu et al. 2022, section 3.
    """

    def __init__(self, config: Config):
        super().__init__()
        dims = config.dims
        downsample = [nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0]))]
        for before, after in zip(dims, dims[1:], strict=False):
            downsample.append(
                nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, after, 2, stride=2))
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
            taps.append(norm(x))  # the next stage continues from the map before this norm
        return taps


def build_encoder(config: Config) -> nn.Module:
    """Encoder of the kind and sizes in `config`."""
    if config.encoder == "convnext":
        return ConvNeXt(config)
    return EfficientNetLite(config.depths, config.dims)


# --- Pixel decoder (section 3.2.1) -----------------------------------------------------------


class PixelDecoder(nn.Module):
    """Encoder maps -> features at 1/16, 1/8, 1/4.

    The paper's E_i is blur(pixel_shuffle(relu(embedding(features)), 4)), which `Fusion` makes.
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
    """(1, N, D) sine position of a feature map as in DETR.

    First y, then x, sine and cosine interleaved.
    """
    half = dim // 2
    frequency = 10000 ** (2 * (torch.arange(half, device=device) // 2) / half)

    def axis(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (place / (length + 1e-6) * 2 * math.pi)[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    y = axis(height)[:, None].expand(height, width, half)
    x = axis(width)[None].expand(height, width, half)
    return torch.cat([y, x], dim=-1).reshape(1, height * width, dim).to(dtype)


class Attention(nn.Module):
    """Multi-head attention with one packed projection: softmax(Q K^T / sqrt(d)) V through SDPA."""

    def __init__(self, dim: int):
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (B, Q, D), key and value (B, N, D) -> (B, Q, D)."""
        weights = zip(self.project_in.weight.chunk(3), self.project_in.bias.chunk(3), strict=True)
        q, k, v = (
            linear(x, *weight).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight in zip((query, key, value), weights, strict=True)
        )
        return self.project_out(attend(q, k, v).transpose(1, 2).flatten(2))


class ColorDecoderBlock(nn.Module):
    """Cross-attention, self-attention, MLP, eq. 1 to 4.

    Normalised after each sum, as the program does.
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

    The paper starts the queries at zero; the program learns a start value and, beside it, a
    position added to queries (and self-attention keys) in every block.
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
            position = _sine_position(*x.shape[2:], tokens.shape[-1], tokens.device, tokens.dtype)
            keys.append(tokens + position)
        z = self.query_start.expand(features[0].shape[0], -1, -1)
        for i, block in enumerate(self.blocks):
            z = block(z, self.query_position, keys[i % LEVELS], values[i % LEVELS])
        return self.color_embedding(self.norm(z))


# --- Fusion (section 3.3) and the whole ------------------------------------------------------


class Fusion(nn.Module):
    """F = E_c . E_i, ab = Conv(F), eq. 6 and 7; the program appends the normalised picture to F.

    Both steps are linear, so Conv is applied to E_c first: (2, Q) x (Q, D), and the Q full-size
    query maps are never made. Shuffle and blur act on each channel alone, so they come after the
    dot product, on two channels instead of D; and E_i is made strip by strip, as it is used. At
    512x512 that is 13 GFLOP and 370 MB less, with equal numbers. The sums are float32 in any
    precision: they are the largest numbers of the network, and ab is read off them.
    """

    def __init__(self, queries: int):
        super().__init__()
        self.conv = nn.Conv2d(queries + 3, 2, 1)

    def forward(
        self, color: Tensor, features: Tensor, embedding: nn.Conv2d, picture: Tensor
    ) -> Tensor:
        batch, _, height, width = features.shape
        queries, dim = color.shape[1:]
        weight, bias = self.conv.weight.float(), self.conv.bias.float()
        mix = (weight[:, :queries, 0, 0] @ color.float()).transpose(1, 2)  # (B, D, 2)
        if trains_on_cpu(features):
            rows = features.permute(0, 2, 3, 1).flatten(1, 2)
            parts = [QueryProducts.apply(rows, embedding.weight[..., 0, 0], embedding.bias, mix)]
        else:
            parts = [
                self._products(features[:, :, top:bottom], embedding, mix)
                for top, bottom in strips(height, batch * width * 16 * dim)
            ]
        sub_pixels = torch.cat(parts, dim=1).view(batch, height, width, 16, 2)
        sub_pixels = sub_pixels.permute(0, 4, 3, 1, 2)
        ab = blur(F.pixel_shuffle(sub_pixels.reshape(batch, 32, height, width), 4))
        return ab + F.conv2d(picture.float(), weight[:, queries:], bias)

    @staticmethod
    def _products(features: Tensor, embedding: nn.Conv2d, mix: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 16 h w, 2)."""
        image = embedding(features).relu_()
        # A view in channels_last memory: (B, h w 16, D) @ (B, D, 2)
        return image.permute(0, 2, 3, 1).reshape(image.shape[0], -1, mix.shape[1]).float() @ mix


class QueryProducts(torch.autograd.Function):
    """relu(features W^T + b) times `mix`, for training on a CPU.

    E_i, the largest map of the network, is made strip by strip, as small as a processor's cache,
    and made again for the gradient instead of being stored: 137 instead of 227 ms for Fusion,
    forward and backward (2026-11-30, ddcolor-nano, 16 squares of 128 pixels, float32, one core).
    """

    ROWS = 256  # of a strip

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, mix: Tensor) -> Tensor:
        """features (B, N, C), weight (16 D, C), bias (16 D), mix (B, D, 2) -> (B, 16 N, 2)."""
        ctx.save_for_backward(features, weight, bias, mix)
        dim = mix.shape[1]
        weight, bias = weight.to(features.dtype).T, bias.to(features.dtype)
        result = mix.new_empty(*features.shape[:2], 16, 2)
        for one, image_mix, place in zip(features, mix, result, strict=True):
            for rows, products in zip(
                one.split(QueryProducts.ROWS), place.split(QueryProducts.ROWS), strict=True
            ):
                image = torch.addmm(bias, rows, weight).relu_()
                torch.mm(image.view(-1, dim).to(mix.dtype), image_mix, out=products.view(-1, 2))
        return result.flatten(1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of all four inputs."""
        features, weight, bias, mix = ctx.saved_tensors
        dim, dtype = mix.shape[1], features.dtype
        low_weight, low_bias, low_mix = weight.to(dtype), bias.to(dtype), mix.to(dtype)
        gradient = gradient.unflatten(1, (-1, 16)).to(dtype)
        of_features, of_mix = torch.empty_like(features), torch.zeros_like(mix)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for i, one in enumerate(features):
            strips_of = (x.split(QueryProducts.ROWS) for x in (one, gradient[i], of_features[i]))
            for rows, products, of_rows in zip(*strips_of, strict=True):
                image = torch.addmm(low_bias, rows, low_weight.T).relu_()
                products = products.reshape(-1, 2)
                of_mix[i] += image.view(-1, dim).T @ products
                of_image = (products @ low_mix[i].T).view_as(image)
                of_image = torch.ops.aten.threshold_backward(of_image, image, 0)
                torch.mm(of_image, low_weight, out=of_rows)
                of_weight += of_image.T @ rows
                of_bias += of_image.sum(0)
        return of_features, of_weight, of_bias, of_mix


class DDColor(nn.Module):
    """Grey RGB (B, 3, H, W) in 0..1, H and W multiples of 32 -> ab (B, 2, H, W) in Lab units."""

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
                f"ddcolor: input has shape {tuple(gray_rgb.shape)}; expected (B, 3, H, W) grey RGB "
                "with H and W multiples of 32."
            )
        picture = ((gray_rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.pixel_decoder(self.encoder(picture))
        color = self.color_decoder(features)
        return self.fusion(color, features[-1], self.pixel_decoder.embedding, picture)

    def spectral_convolutions(self) -> Iterator[nn.Conv2d]:
        """Convolutions that the published training normalises spectrally (Miyato et al. 2018)."""
        for block in self.pixel_decoder.blocks:
            yield from (block.up, block.mix)
        yield from (self.pixel_decoder.embedding, self.fusion.conv)


def initialise(network: DDColor) -> None:
    """Start values for training from nothing: layer scales of 1.

    A shallow encoder needs no near-zero ones.
    """
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.gamma)


# --- Published checkpoints -------------------------------------------------------------------

_RENAME = [  # published name -> ours; first match wins
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
for _theirs, _ours in (("cross", "multihead_attn"), ("self", "self_attn")):
    _prefix = rf"^decoder\.color_decoder\.transformer_{_theirs}_attention_layers\.(\d+)\."
    _block = rf"color_decoder.blocks.\1.{_theirs}_"
    _RENAME += [
        (rf"{_prefix}{_ours}\.in_proj_", rf"{_block}attention.project_in."),
        (rf"{_prefix}{_ours}\.out_proj\.", rf"{_block}attention.project_out."),
        (rf"{_prefix}norm\.", rf"{_block}norm."),
    ]
_FFN = r"^decoder\.color_decoder\.transformer_ffn_layers\.(\d+)\."
_RENAME += [
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
DROPPED = {  # published name -> why it is not needed
    "encoder.arch.norm.": "the classifier's last norm, never used",
    "encoder.arch.head_cls.": "a classifier removed from the published code",
}


def detect(keys: set[str]) -> bool:
    """True for the key names of a published DDColor checkpoint."""
    return {"decoder.color_decoder.query_feat.weight", "refine_net.0.0.bias"} <= keys


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from a published checkpoint's shapes; heads cannot be seen: D / 32 in all."""
    blocks = {key.split(".")[3] for key in state if ".transformer_ffn_layers." in key}
    stages = [
        {key.split(".")[4] for key in state if key.startswith(f"encoder.arch.stages.{i}.")}
        for i in range(4)
    ]
    conv = "decoder.layers.{}.conv.2.weight"
    return Config(
        depths=tuple(len(stage) for stage in stages),
        dims=tuple(state[f"encoder.arch.norm{i}.weight"].shape[0] for i in range(4)),
        decoder_dims=tuple(state[conv.format(i)].shape[0] for i in range(LEVELS)),
        width=state["decoder.color_decoder.query_feat.weight"].shape[1],
        ffn_width=state["decoder.color_decoder.transformer_ffn_layers.0.linear1.weight"].shape[0],
        blocks=len(blocks),
        queries=state["decoder.color_decoder.query_feat.weight"].shape[0],
    )


def convert(state: Mapping[str, Tensor], *, fold: bool = True) -> dict[str, Tensor]:
    """Published names -> ours, in a new dict.

    Args:
        state: canonical keys (no container, no `module.` prefix).
        fold: see `layers.plain_weights`; False is for training on.
    """
    converted = {}
    for key, tensor in plain_weights(state, fold=fold).items():
        if key.startswith(tuple(DROPPED)):
            continue
        name = rename(key, _RENAME)
        # All of it but v, which is as long as the input channels.
        embedding = name.startswith("pixel_decoder.embedding.") and not name.endswith("._v")
        converted[name] = _sub_pixel_first(tensor) if embedding else tensor
    return converted


def _sub_pixel_first(x: Tensor) -> Tensor:
    """Reorder output channels from (D, 16) to (16, D); see `Fusion`."""
    return x.unflatten(0, (-1, 16)).transpose(0, 1).flatten(0, 1)
