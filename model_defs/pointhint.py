"""Point-hint colorization by dual local self-attention: a gray image and a few colored points.

Li, Bao, Qiang: "Interactive image colorization method via dual local self-attention". Neither
program nor weights are published.

The file follows figures 3 and 5: patches -> four stages of WSA, SWSA, FWSA and MLP with lossless
merging -> local stabilizing layer -> DUpsampling. Tokens are (B, h, w, C); `N` = h w tokens, `M`
side of a window, `T` tokens per window, `W` feature windows in a batch.

The paper is ambiguous or contradicts itself in four points:

- Merging keeps all channels: 48, 192, 768, 3072. Blocks of these widths with Swin's depths would
  have 535 M parameters and take 38 GMAC, against 3.47 in Table 1. So only the token stream is that
  wide; blocks are `Config.inner` wide and few. The stabilizing convolution is narrow for the same
  reason.
- Patch embedding and merging only move values, and DUpsampling moves them back. Every layer that
  adds to the stream is initialized to zero: a new network returns the hints at full resolution.
- Equations 11 and 12, with the darkest and the brightest token of a group as its centers, sort a
  group by brightness at every level, which amounts to one sort over all levels.
- With three channels, a gray hint (ab = 0) looks like a missing hint. A fourth channel marks
  hints.

Nano networks read an interpolated color prior between hints instead of the paper's zeros. The
pipeline computes it with `PointHint.kernel`, which depends on lightness alone, outside `forward`.

Hints enter at the first layer, so every set of hints needs a full pass. Position encodings and
feature windows do not depend on hints, but take only 1 (pointhint-s) to 6 (nano) percent of a pass;
they are recomputed, once per stage.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import gp_kernel
from .gp_kernel import DeepKernel
from .layers import Linear, initialize_layer_scale
from .spec import AB_SCALE, Spec
from .validation import Choice, Heads, Range, Side, Width, validate_fields

NAME = "pointhint"
PATCH = 4  # P_1: side of a token in pixels in the first stage
LAST_PATCH = 32  # P_4: side of a token in pixels in the last stage
Blocks = Annotated[int, Range(0, 64)]
CLUSTERS = ("brightness", "brightness_texture", "cosine")
RESOLUTION = 224  # side of the paper's images in pixels


@dataclass(frozen=True, kw_only=True)
class Config:
    """All values that change a tensor's shape or the result; JSON-serializable."""

    inner: tuple[Width, Width, Width, Width]
    """Width of the blocks of each stage; taken literally, the paper says 48, 192, 768, 3072."""
    depths: tuple[Blocks, Blocks, Blocks, Blocks]
    """Blocks in each stage."""
    heads: tuple[Heads, Heads, Heads, Heads]
    """Attention heads in each stage."""
    window: Side = 7
    """M: side of a window in tokens; feature windows have about M^2 tokens."""
    mlp_ratio: Annotated[int, Range(1, 64)] = 4
    """r: hidden width of an MLP, relative to the block width."""
    stabilizer: Annotated[str, Choice(("conv", "none", "linear", "attention"))] = "conv"
    """Local stabilizing layer: conv; or none, linear, attention (the paper's Models 1, 2, 3)."""
    merge: Annotated[str, Choice(("keep", "reduce"))] = "keep"
    """keep: all channels; reduce: 4C to 2C as in Swin, with learned DUpsampling (Model 4)."""
    cluster: Annotated[str, Choice(CLUSTERS)] = "brightness"
    """Similarity of tokens in FWSA: brightness; cosine of patches (Model 5); or
    brightness_texture: mean and deviation of lightness, for comparison."""
    hint_mask: bool = True
    """Read the hint mask; False is the paper's input."""
    kernel: gp_kernel.Config | None = None
    """Kernel of the color prior; None = the prior uses position and lightness alone."""

    def __post_init__(self) -> None:
        validate_fields(self, NAME)
        for width, heads in zip(self.inner, self.heads, strict=True):
            if width % heads:
                raise ValueError(
                    f"pointhint: {heads} heads do not divide the inner widths {self.inner}."
                )

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each stage: 3 P^2 with "keep"; doubled by each merge with "reduce"."""
        return tuple(3 * PATCH**2 * (4 if self.merge == "keep" else 2) ** i for i in range(4))


PRESETS = {
    "pointhint-s": Config(inner=(48, 96, 192, 384), depths=(1, 1, 3, 1), heads=(3, 6, 12, 24)),
    "pointhint-t": Config(inner=(32, 64, 96, 128), depths=(1, 1, 1, 1), heads=(2, 4, 6, 8)),
    "pointhint-nano": Config(
        inner=(16, 24, 32, 32),
        depths=(1, 1, 1, 1),
        heads=(1, 2, 2, 2),
        kernel=gp_kernel.LITE,
    ),
}


def spec(config: Config) -> Spec:
    """Return the facts that the pipeline needs about a network of this configuration."""
    # Fitted to the peak of one float32 forward pass on a CPU, 448 to 896 pixels, rounded up
    # (benchmarks/cost.py): nano 185 bytes per pixel, t 198, s 297, most of it in the first stage.
    # A kernel of width 64, which runs before the network, takes 330 in its decoder at 1/2.
    per_pixel = 176 + config.mlp_ratio * config.inner[0]
    if config.kernel:
        per_pixel = max(per_pixel, round(5.5 * config.kernel.width))
    return Spec(
        architecture=NAME,
        role="pointhint",
        model_input="L_hints",
        multiple=LAST_PATCH,
        resolution=RESOLUTION,
        activation_bytes_per_pixel=per_pixel,
    )


# --- Shared by all blocks of a stage: position encoding and feature windows ----------------------


def _sine_position(
    height: int, width: int, channels: int, side: int, device: torch.device
) -> Tensor:
    """Compute E_pos (h, w, C): sine and cosine of y in the first half of the channels, then of x.

    As in ViT, positions are 0, 1, 2, ... on a grid of side x side. Grids of other sizes are scaled
    to the same range, because positions outside the training range act as noise: without scaling, a
    network trained at 96 pixels had an SSIM of .938 at 96 and .928 at 224 (2026-11).
    """
    frequency = 10000 ** -(torch.arange(channels // 4, device=device) / (channels // 4))
    step = side / (height * width) ** 0.5

    def axis(length: int) -> Tensor:
        position = (torch.arange(length, device=device) + 0.5) * step - 0.5
        angle = position[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    y, x = axis(height)[:, None], axis(width)[None]
    return torch.cat([y.expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1)


class FeatureWindows(NamedTuple):
    """Assignment of a batch's tokens to feature windows of T slots; tokens count through the batch.

    A token occupies exactly one slot; surplus slots repeat a token and are masked.
    """

    token: Tensor
    """(W, T): token in each slot, 0 ... B N - 1."""
    slot: Tensor
    """(B N): slot of each token, 0 ... W T - 1; the inverse of `token`."""
    valid: Tensor | None
    """(W, 1, 1, T): False for surplus slots; None without such slots."""


def _partition(count: int, parts: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a list of `count` entries into `parts` whose lengths differ by at most 1.

    Returns:
        entry (parts, T) in each slot, where the last slot of a part may be surplus;
        valid (parts, T), False for surplus slots;
        slot (count,) of each entry.
    """
    slots = -(-count // parts)
    start = torch.arange(parts + 1, device=device) * count // parts
    entry = start[:-1, None] + torch.arange(slots, device=device)
    rank = torch.arange(count, device=device)
    part = ((rank + 1) * parts - 1) // count
    slot = part * slots + rank - start[part]
    return entry.clamp(max=count - 1), entry < start[1:, None], slot


def feature_windows(lightness: Tensor, patch: int, size: int, cluster: str) -> FeatureWindows:
    """Group tokens with similar patches into windows of about `size` tokens (section 3.4).

    Args:
        lightness: (B, 1, H, W) float32, in which nearly all tokens differ; H and W are multiples of
            `patch`. The sort is stable: equal tokens keep raster order.
        patch: P, side of a token in pixels.
        size: tokens per window.
        cluster: see `Config`.
    """
    patches = rearrange(lightness, "B 1 (h y) (w x) -> B (h w) (y x)", y=patch, x=patch)
    batch, count = patches.shape[:2]
    levels = max(0, round(math.log2(count / size)))
    if cluster == "brightness":
        parts = max(1, round(count / size))
        order = patches.mean(-1).argsort(dim=1, stable=True)
    elif cluster == "brightness_texture":
        parts, texture = 2**levels, 2 * patches.std(-1, correction=0)
        features = torch.stack([patches.mean(-1), texture], dim=-1)
        order = _bisect_recursively(features, levels, _widest_feature)
    else:
        parts = 2**levels
        features = F.normalize((patches + 1) / 2, dim=-1)
        order = _bisect_recursively(features, levels, _cosine_ratio)
    entry, valid, slot = _partition(count, parts, lightness.device)
    image = torch.arange(batch, device=lightness.device)[:, None]
    token = (order + image * count)[:, entry].flatten(0, 1)
    slot = torch.empty_like(order).scatter_(1, order, slot + image * entry.numel()).flatten()
    if count % parts == 0:
        return FeatureWindows(token, slot, None)
    return FeatureWindows(token, slot, valid.repeat(batch, 1)[:, None, None])


def _bisect_recursively(
    features: Tensor, levels: int, score: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Cluster (B, N, D) by balanced binary splits.

    At each level every group is sorted by its `score` and cut in the middle.

    Args:
        features: of the tokens.
        levels: number of splits.
        score: maps groups (B, parts, T, D) and their valid slots (parts, T) to (B, parts, T).
    Returns:
        order (B, N) in which clusters are contiguous.
    """
    batch, count = features.shape[:2]
    image = torch.arange(batch, device=features.device)[:, None, None]
    order = torch.arange(count, device=features.device).expand(batch, -1)
    for level in range(levels):
        entry, valid, slot = _partition(count, 2**level, features.device)
        members = order[:, entry]
        scores = score(features[image, members], valid).masked_fill(~valid, math.inf)
        order = members.gather(2, scores.argsort(dim=2, stable=True)).flatten(1)[:, slot]
    return order


def _widest_feature(x: Tensor, valid: Tensor) -> Tensor:
    """Return each group's feature of largest range: (B, parts, T, D) -> (B, parts, T)."""
    surplus = ~valid[..., None]
    value_range = x.masked_fill(surplus, -math.inf).amax(2) - x.masked_fill(surplus, math.inf).amin(
        2
    )
    widest = value_range.argmax(-1)[..., None, None].expand(-1, -1, x.shape[2], -1)
    return x.gather(3, widest)[..., 0]


def _cosine_ratio(x: Tensor, valid: Tensor) -> Tensor:
    """Eq. 11 with the cosine as s, for unit vectors: (B, parts, T, D) -> (B, parts, T).

    Centers start as the means of a group's halves and are refined twice by soft assignment, as in
    BOAT (Yu et al. 2022). The ratio is inverted, because a cosine grows with similarity.
    """
    first_half = torch.arange(x.shape[2], device=x.device) < valid.sum(1, keepdim=True) // 2
    share = torch.stack([first_half, ~first_half & valid], dim=1).to(x.dtype)  # (parts, 2, T)
    for _ in range(2):
        share = (F.normalize(share @ x, dim=-1) @ x.mT).softmax(2) * valid[:, None]
    first, second = (F.normalize(share @ x, dim=-1) @ x.mT).unbind(2)
    return second / first.clamp_min(1e-6)


# --- Dual local self-attention (section 3.3, figure 5) --------------------------------------------


class Attention(nn.Module):
    """Projections of multi-head attention, eq. 10; the last is initialized to zero."""

    def __init__(self, channels: int, inner: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * inner)
        self.project = _zero_init(Linear(inner, channels))


def _zero_init(layer: Linear) -> Linear:
    """Zero a layer, so that it adds nothing to the stream before training."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class WindowAttention(Attention):
    """WSA, and SWSA with a shift: softmax(Q K^T / sqrt(d) + B) V in windows of M x M tokens.

    The map is padded to whole windows and rolled by the shift, so only its last windows hold
    padding or tokens of opposite edges; only these are masked. An axis that fits into one window is
    not shifted.
    """

    def __init__(self, channels: int, inner: int, heads: int, side: int, *, shift: int = 0):
        super().__init__(channels, inner, heads)
        self.side, self.shift = side, shift
        self.position_bias = nn.Parameter(torch.empty((2 * side - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        shift = [self.shift if length > self.side else 0 for length in (height, width)]
        qkv = F.pad(self.qkv(x), (0, 0, 0, -width % self.side, 0, -height % self.side))
        q, k, v = rearrange(
            qkv.roll([-n for n in shift], dims=(1, 2)),
            "B (i y) (j x) (three heads d) -> three B i j heads (y x) d",
            three=3,
            heads=self.heads,
            y=self.side,
            x=self.side,
        )
        bias = self.bias()
        rows, columns = (
            _mask_bands(length, self.side, axis_shift, x.device)
            for length, axis_shift in zip((height, width), shift, strict=True)
        )

        def attend(i: slice, j: slice, region: Tensor) -> Tensor:
            """Attend in windows (i, j) among tokens of the same region."""
            masked = bias.masked_fill(region.flatten()[:, None] != region.flatten(), -math.inf)
            windows = (t[:, i, j].flatten(0, 2) for t in (q, k, v))
            attended = F.scaled_dot_product_attention(*windows, attn_mask=masked.to(q.dtype)[None])
            return attended.unflatten(0, q[:, i, j].shape[:3])

        attended = torch.cat(
            [
                torch.cat([attend(i, j, 3 * y[:, None] + x) for j, x in columns], dim=2)
                for i, y in rows
            ],
            dim=1,
        )
        attended = rearrange(
            attended, "B i j heads (y x) d -> B (i y) (j x) (heads d)", y=self.side, x=self.side
        )
        return self.project(attended.roll(shift, dims=(1, 2))[:, :height, :width])

    def bias(self) -> Tensor:
        """Return B (heads, T, T): bias on the logit of query t and key s of a window."""
        index = torch.arange(self.side**2, device=self.position_bias.device)
        y, x = index // self.side, index % self.side
        row, column = (v[:, None] - v + self.side - 1 for v in (y, x))
        return self.position_bias[row * (2 * self.side - 1) + column].permute(2, 0, 1)


def _mask_bands(
    length: int, side: int, shift: int, device: torch.device
) -> list[tuple[slice, Tensor]]:
    """Group the windows along one axis by mask: the inner ones together, then each of the last.

    Returns:
        windows, and the region of each of their `side` lines: 0 inner, 1 wrapped around, 2 padding.
    """
    count = -(-length // side)
    index = torch.arange(count * side, device=device).unflatten(0, (count, side))
    region = torch.where(index >= count * side - shift, 1, 2 * (index >= length - shift))
    inner = (length - shift) // side
    bands = [(slice(i, i + 1), region[i]) for i in range(inner, count)]
    return [(slice(0, inner), region[0]), *bands] if inner else bands


class FeatureWindowAttention(Attention):
    """FWSA: softmax(Q K^T / sqrt(d)) V among similar tokens, wherever they are."""

    def forward(self, x: Tensor, windows: FeatureWindows) -> Tensor:
        q, k, v = rearrange(
            self.qkv(x).flatten(0, 2)[windows.token],
            "W T (three heads d) -> three W heads T d",
            three=3,
            heads=self.heads,
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=windows.valid)
        attended = rearrange(attended, "W heads T d -> (W T) (heads d)")[windows.slot]
        return self.project(attended).view(x.shape)


class Block(nn.Module):
    """Dual local self-attention, eq. 6 to 9."""

    def __init__(self, config: Config, stage: int):
        super().__init__()
        channels, inner = config.channels[stage], config.inner[stage]
        sizes = channels, inner, config.heads[stage]
        self.norm1, self.window = nn.LayerNorm(channels), WindowAttention(*sizes, config.window)
        self.norm2 = nn.LayerNorm(channels)
        self.shifted = WindowAttention(*sizes, config.window, shift=config.window // 2)
        self.norm3, self.feature = nn.LayerNorm(channels), FeatureWindowAttention(*sizes)
        self.norm4 = nn.LayerNorm(channels)
        hidden = config.mlp_ratio * inner
        self.mlp = nn.Sequential(
            Linear(channels, hidden), nn.GELU(), _zero_init(Linear(hidden, channels))
        )

    def forward(self, z: Tensor, position: Tensor, windows: FeatureWindows) -> Tensor:
        z = z + self.window(self.norm1(z) + position)
        z = z + self.shifted(self.norm2(z) + position)
        z = z + self.feature(self.norm3(z) + position, windows)
        return z + self.mlp(self.norm4(z))


class Stage(nn.Module):
    """Blocks on one grid: (B, h, w, C) -> (B, h, w, C)."""

    def __init__(self, config: Config, stage: int):
        super().__init__()
        self.patch, self.cluster = PATCH * 2**stage, config.cluster
        self.window_tokens = config.window**2
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))

    def forward(self, z: Tensor, lightness: Tensor) -> Tensor:
        """Apply the blocks; `lightness` (B, 1, H, W) of the image decides which are similar."""
        side = RESOLUTION // self.patch
        _, height, width, channels = z.shape
        position = _sine_position(height, width, channels, side, z.device).to(z.dtype)
        windows = feature_windows(lightness, self.patch, self.window_tokens, self.cluster)
        for block in self.blocks:
            z = block(z, position, windows)
        return z


# --- Local stabilizing layer and DUpsampling (section 3.1) ----------------------------------------


class Stabilizer(nn.Module):
    """3x3 convolution between linear layers that narrow to `inner` channels and widen again.

    `linear` omits the convolution and its activations: a linear layer of rank `inner`.
    """

    def __init__(self, channels: int, inner: int, *, linear: bool):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.narrow = Linear(channels, inner)
        self.conv: nn.Conv2d | None = None
        if not linear:
            self.conv = nn.Conv2d(inner, inner, 3, padding=1, padding_mode="replicate")
        self.widen = _zero_init(Linear(inner, channels))

    def forward(self, z: Tensor) -> Tensor:
        x = self.narrow(self.norm(z))
        if self.conv is not None:
            x = F.gelu(self.conv(F.gelu(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return z + self.widen(x)


class AttentionStabilizer(nn.Module):
    """Window attention as stabilizing layer: the paper's Model 3."""

    def __init__(self, channels: int, inner: int, heads: int, side: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, inner, heads, side)

    def forward(self, z: Tensor) -> Tensor:
        side = RESOLUTION // LAST_PATCH
        _, height, width, channels = z.shape
        position = _sine_position(height, width, channels, side, z.device).to(z.dtype)
        return z + self.attention(self.norm(z) + position)


def _build_stabilizer(config: Config) -> nn.Module:
    channels, inner = config.channels[-1], config.inner[-1]
    if config.stabilizer == "none":
        return nn.Identity()
    if config.stabilizer == "attention":
        return AttentionStabilizer(channels, inner, config.heads[-1], config.window)
    return Stabilizer(channels, inner, linear=config.stabilizer == "linear")


def _merge(z: Tensor) -> Tensor:
    """Concatenate 2x2 tokens: (B, h, w, C) -> (B, h/2, w/2, 4C)."""
    return rearrange(z, "B (h y) (w x) C -> B h w (y x C)", y=2, x=2)


def _dupsample(z: Tensor) -> Tensor:
    """Undo three merges and the patch embedding: (B, h, w, 3 32^2) -> (B, 3, 32 h, 32 w).

    A single rearrangement takes ten times as long for 448 pixels and more (2026-11-21).
    """
    for _ in range(3):
        z = rearrange(z, "B h w (y x C) -> B (h y) (w x) C", y=2, x=2)
    return rearrange(z, "B h w (y x c) -> B c (h y) (w x)", y=PATCH, x=PATCH)


# --- The network (figure 3) ----------------------------------------------------------------------


class PointHint(nn.Module):
    """Lightness and hints (B, 4, H, W) of any size -> ab (B, 2, H, W) in Lab units.

    Input channels: L / 50 - 1; a / 110 and b / 110 at hints, elsewhere 0 or the color prior, as in
    training (`Spec.prior`); 1 at hints, 0 elsewhere. The input is float32 for networks of any
    precision, because feature windows are computed from its L.

    Attributes:
        kernel: kernel of the color prior, used by the pipeline; None without one.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.kernel = DeepKernel(config.kernel) if config.kernel else None
        self.input_channels = 4 if config.hint_mask else 3
        self.embed = Linear(self.input_channels * PATCH**2, config.channels[0])
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(4))
        self.stabilizer = _build_stabilizer(config)
        if config.merge == "keep":
            self.merging = nn.ModuleList(nn.Identity() for _ in range(3))
            self.upsample = nn.Identity()
        else:
            self.merging = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(4 * c), Linear(4 * c, 2 * c, bias=False))
                for c in config.channels[:-1]
            )
            self.upsample = _zero_init(Linear(config.channels[-1], 3 * LAST_PATCH**2))
        copy = torch.eye(3, self.input_channels)  # L, a, b of each pixel; the mask is ignored
        with torch.no_grad():
            self.embed.weight.copy_(torch.block_diag(*[copy] * PATCH**2))
            self.embed.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 4 or not x.shape[2] or not x.shape[3]:
            raise ValueError(
                f"pointhint: input has shape {tuple(x.shape)}; expected (B, 4, H, W): L / 50 - 1, "
                "a / 110 and b / 110 of the hints, hint mask."
            )
        height, width = x.shape[2:]
        padding = (0, -width % LAST_PATCH, 0, -height % LAST_PATCH)
        lightness = F.pad(x[:, :1].float(), padding, mode="replicate")
        hints = F.pad(x[:, 1 : self.input_channels], padding)
        z = torch.cat([lightness, hints], dim=1).to(self.embed.weight.dtype)
        z = rearrange(z, "B c (h y) (w x) -> B h w (y x c)", y=PATCH, x=PATCH)
        z = self.embed(z).to(z.dtype)  # the stream stays float32 under autocast
        for i, stage in enumerate(self.stages):
            if i:
                z = self.merging[i - 1](_merge(z))
            z = stage(z, lightness)
        lab = _dupsample(self.upsample(self.stabilizer(z)))
        ab = AB_SCALE * lab[:, 1:, :height, :width]
        return ab if self.training else ab.clamp(-128, 128)


def initialize(network: PointHint) -> None:
    """Set initial weights for training from scratch, in place: layer scales of the kernel."""
    initialize_layer_scale(network)
