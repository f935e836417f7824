"""Point-hint colorization: a grey picture and a few coloured points, by dual local self-attention.

Li, Bao, Qiang: "Interactive image colorization method via dual local self-attention". No program
and no weights of it are published.

The file follows figures 3 and 5: patches -> four stages of WSA, SWSA, FWSA and MLP, merged without
loss of channels -> local stabilizing layer -> DUpsampling. Tokens are (B, h, w, C); `N` = h w of
them, `M` side of a window, `T` tokens of a window, `W` feature windows of a batch.

What the paper leaves open or contradicts is settled so:
- Merging keeps all channels: 48, 192, 768, 3072. Blocks of these widths in Swin's depths would have
  535 M parameters and take 38 GMAC, not the 3.47 of Table 1. So only the stream of tokens is so
  wide; inside a block it is `Config.inner`, and the depths are small. The stabilizing convolution
  is narrowed for the same reason.
- Cutting into patches and merging only move numbers, and DUpsampling moves them back. Every layer
  that adds to the stream starts as zero: a new network gives back the hints, at full resolution,
  and training adds to them.
- Equations 11 and 12, with the darkest and the brightest token of a group as its centres, order a
  group by brightness at every level: together the levels are one sort.
- With hints as three channels a grey hint, ab = 0, would be no hint. A fourth channel marks them.

Nano networks get a guess of the colour between hints in place of the paper's zeros. What it is made
with, `PointHint.kernel`, reads lightness alone and is used outside of `forward`.

Hints enter with the first layer, so nothing that is learned here can be kept from one set of
hints to the next: each set needs a whole pass. Only position encodings and feature windows do not
depend on them, and these are 1 (pointhint-s) to 6 (nano) percent of a pass: they are made anew in
each, once for all blocks of a stage.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import gp_kernel
from .gp_kernel import DeepKernel
from .layers import ConvNeXtBlock, Linear
from .spec import Spec

NAME = "pointhint"
AB = 110.0  # Lab units of an a or b of 1
PATCH = 4  # P_1: side of a token in pixels in the first stage
LAST_PATCH = 32  # P_4: the same in the last
RESOLUTION = 224  # side of the paper's pictures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape or what is computed; JSON-serialisable."""

    inner: tuple[int, int, int, int]
    """Width inside the blocks of each stage; 48, 192, 768, 3072 would be the paper's word."""
    depths: tuple[int, int, int, int]
    """Blocks in each stage."""
    heads: tuple[int, int, int, int]
    """Attention heads in each stage."""
    window: int = 7
    """M: side of a window in tokens; a feature window has about M^2 tokens."""
    mlp_ratio: int = 4
    """r: hidden width of an MLP by inner width."""
    stabilizer: str = "conv"
    """Local stabilizing layer: conv; none, linear, attention (the paper's Models 1, 2, 3)."""
    merge: str = "keep"
    """keep all channels; reduce 4C to 2C as Swin does, and learn the DUpsampling (Model 4)."""
    cluster: str = "brightness"
    """What makes tokens alike in FWSA: brightness; cosine of their patches (Model 5);
    brightness_texture: mean and deviation of lightness, for comparison."""
    hint_mask: bool = True
    """Read the channel that marks hints; False is the paper's input."""
    kernel: gp_kernel.Config | None = None
    """Says how alike places are, for a guess between hints; None: place and lightness do."""

    def __post_init__(self) -> None:
        if isinstance(self.kernel, Mapping):
            object.__setattr__(self, "kernel", gp_kernel.Config(**self.kernel))
        for name in ("inner", "depths", "heads"):
            value = tuple(int(v) for v in getattr(self, name))
            if len(value) != 4:
                raise ValueError(
                    f"pointhint: {name} is {value}; expected one for each of 4 stages."
                )
            object.__setattr__(self, name, value)
        for name, known in (
            ("stabilizer", ("conv", "none", "linear", "attention")),
            ("merge", ("keep", "reduce")),
            ("cluster", ("brightness", "brightness_texture", "cosine")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"pointhint: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(known)}."
                )
        odd = [h for d, h in zip(self.inner, self.heads, strict=True) if d % h]
        if odd:
            raise ValueError(
                f"pointhint: {odd[0]} heads do not divide the inner widths {self.inner}."
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """C of each stage: 3 P^2, or half of it at each merge."""
        return tuple(3 * PATCH**2 * (4 if self.merge == "keep" else 2) ** i for i in range(4))


PRESETS = {
    "pointhint-s": Config(inner=(48, 96, 192, 384), depths=(1, 1, 3, 1), heads=(3, 6, 12, 24)),
    "pointhint-t": Config(inner=(32, 64, 96, 128), depths=(1, 1, 1, 1), heads=(2, 4, 6, 8)),
    "pointhint-nano": Config(
        inner=(16, 24, 32, 32),
        depths=(1, 1, 1, 1),
        heads=(1, 2, 2, 2),
        kernel=gp_kernel.Config(),
    ),
}


def spec(config: Config) -> Spec:
    """What the pipeline must know to run this network."""
    # Fitted to the peak of one float32 forward pass on a CPU, 448 to 896 pixels, rounded up
    # (benchmarks/cost.py): nano 185 bytes a pixel, t 198, s 297. Most of it is the first stage.
    # A kernel of width 64, which runs before the network, takes 330: its decoder at 1/2.
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


# --- What all blocks of a stage share: position encoding and feature windows --------------------


def _sine_position(
    height: int, width: int, channels: int, side: int, device: torch.device
) -> Tensor:
    """E_pos: (h, w, C), sine and cosine of y in the first half of the channels, of x in the second.

    As in ViT, with places 0, 1, 2, ... on a grid of side x side. Larger and smaller pictures spread
    theirs over as much: places that training never came to would be taken for noise (a network
    trained on 96 pixels without this had an SSIM of .938 there and .928 at 224, 2026-11).
    """
    frequency = 10000 ** -(torch.arange(channels // 4, device=device) / (channels // 4))
    step = side / (height * width) ** 0.5

    def axis(length: int) -> Tensor:
        place = (torch.arange(length, device=device) + 0.5) * step - 0.5
        angle = place[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    y, x = axis(height)[:, None], axis(width)[None]
    return torch.cat([y.expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1)


class Groups(NamedTuple):
    """The feature windows of a batch: which token sits where. Rows count through the batch."""

    take: Tensor
    """(W, T): row of (B N) tokens at each place of each window."""
    back: Tensor
    """(B N): row of (W T) places of each token; the inverse of `take`."""
    full: Tensor | None
    """(W, 1, 1, T): False at a place that is left empty; None where all windows are full."""


def _split(count: int, parts: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a list of `count` into `parts` whose lengths differ by 1 at most.

    Returns:
        index (parts, T) of the list at each place, of which the last of a part may be surplus;
        full (parts, T), False at those; and place (count,) of each entry of the list.
    """
    most = -(-count // parts)
    start = torch.arange(parts + 1, device=device) * count // parts
    index = start[:-1, None] + torch.arange(most, device=device)
    rank = torch.arange(count, device=device)
    part = ((rank + 1) * parts - 1) // count
    return index.clamp(max=count - 1), index < start[1:, None], part * most + rank - start[part]


def feature_windows(lightness: Tensor, patch: int, size: int, cluster: str) -> Groups:
    """Section 3.4: tokens whose patches look alike, in windows of about `size` tokens.

    Args:
        lightness: (B, 1, H, W) in float32, in which nearly all tokens differ; H and W multiples of
            `patch`. The sort is stable: equal tokens stay in raster order.
        patch: P, side of a token in pixels.
        size: tokens of a window.
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
        order = _halved(torch.stack([patches.mean(-1), texture], dim=-1), levels, _along_widest)
    else:
        parts = 2**levels
        order = _halved(F.normalize((patches + 1) / 2, dim=-1), levels, _by_cosine)
    index, full, place = _split(count, parts, lightness.device)
    one = torch.arange(batch, device=lightness.device)[:, None]
    take = (order + one * count)[:, index].flatten(0, 1)
    back = torch.empty_like(order).scatter_(1, order, place + one * index.numel()).flatten()
    if count % parts == 0:
        return Groups(take, back, None)
    return Groups(take, back, full.repeat(batch, 1)[:, None, None])


def _halved(features: Tensor, levels: int, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Balanced binary clustering: (B, N, D) -> order (B, N) in which clusters stand together.

    At each level every group is sorted by its `score` of (B, parts, T, D), and cut in the middle.
    """
    batch, count = features.shape[:2]
    one = torch.arange(batch, device=features.device)[:, None, None]
    order = torch.arange(count, device=features.device).expand(batch, -1)
    for level in range(levels):
        index, full, place = _split(count, 2**level, features.device)
        members = order[:, index]
        scores = score(features[one, members], full).masked_fill(~full, math.inf)
        order = members.gather(2, scores.argsort(dim=2, stable=True)).flatten(1)[:, place]
    return order


def _along_widest(x: Tensor, full: Tensor) -> Tensor:
    """The feature in which a group reaches widest: (B, parts, T, D) -> (B, parts, T)."""
    empty = ~full[..., None]
    reach = x.masked_fill(empty, -math.inf).amax(2) - x.masked_fill(empty, math.inf).amin(2)
    widest = reach.argmax(-1)[..., None, None].expand(-1, -1, x.shape[2], -1)
    return x.gather(3, widest)[..., 0]


def _by_cosine(x: Tensor, full: Tensor) -> Tensor:
    """Eq. 11 with the cosine as s, of unit vectors: (B, parts, T, D) -> (B, parts, T).

    Centres start as means of the halves of a group and are refined twice by soft assignment, as in
    BOAT (Yu et al. 2022). A cosine grows with likeness, so the ratio is upside down.
    """
    early = torch.arange(x.shape[2], device=x.device) < full.sum(1, keepdim=True) // 2
    share = torch.stack([early, ~early & full], dim=1).to(x.dtype)  # (parts, 2, T)
    for _ in range(2):
        share = (F.normalize(share @ x, dim=-1) @ x.mT).softmax(2) * full[:, None]
    first, second = (F.normalize(share @ x, dim=-1) @ x.mT).unbind(2)
    return second / first.clamp_min(1e-6)


# --- Dual local self-attention (section 3.3, figure 5) --------------------------------------------


class Attention(nn.Module):
    """Projections of multi-head attention, eq. 10; the last starts as zero."""

    def __init__(self, channels: int, inner: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * inner)
        self.project = _zero(Linear(inner, channels))


def _zero(layer: Linear) -> Linear:
    """A layer that adds nothing to the stream before it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class WindowAttention(Attention):
    """WSA, and SWSA with a shift: softmax(Q K^T / sqrt(d) + B) V in windows of M x M tokens.

    The map is filled up to whole windows and rolled by the shift, so its last windows hold tokens
    that are no neighbours. Only these get a mask. An axis that fits into one window is not shifted.
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
            _bands(length, self.side, by, x.device)
            for length, by in zip((height, width), shift, strict=True)
        )

        def attend(i: slice, j: slice, kind: Tensor) -> Tensor:
            """Windows (i, j), whose tokens see those of their kind."""
            masked = bias.masked_fill(kind.flatten()[:, None] != kind.flatten(), -math.inf)
            one = (t[:, i, j].flatten(0, 2) for t in (q, k, v))
            found = F.scaled_dot_product_attention(*one, attn_mask=masked.to(q.dtype)[None])
            return found.unflatten(0, q[:, i, j].shape[:3])

        found = torch.cat(
            [
                torch.cat([attend(i, j, 3 * y[:, None] + x) for j, x in columns], dim=2)
                for i, y in rows
            ],
            dim=1,
        )
        found = rearrange(
            found, "B i j heads (y x) d -> B (i y) (j x) (heads d)", y=self.side, x=self.side
        )
        return self.project(found.roll(shift, dims=(1, 2))[:, :height, :width])

    def bias(self) -> Tensor:
        """B: (heads, T, T), what is added to the logit of query t and key s of one window."""
        place = torch.arange(self.side**2, device=self.position_bias.device)
        y, x = place // self.side, place % self.side
        row, column = (v[:, None] - v + self.side - 1 for v in (y, x))
        return self.position_bias[row * (2 * self.side - 1) + column].permute(2, 0, 1)


def _bands(length: int, side: int, shift: int, device: torch.device) -> list[tuple[slice, Tensor]]:
    """Windows along one axis that are alike: the inner ones together, then each of the last.

    Returns:
        windows, and the kind of each of their `side` rows: 0 inner, 1 rolled round, 2 empty.
    """
    count = -(-length // side)
    place = torch.arange(count * side, device=device).unflatten(0, (count, side))
    kind = torch.where(place >= count * side - shift, 1, 2 * (place >= length - shift))
    plain = (length - shift) // side
    bands = [(slice(i, i + 1), kind[i]) for i in range(plain, count)]
    return [(slice(0, plain), kind[0]), *bands] if plain else bands


class FeatureWindowAttention(Attention):
    """FWSA: softmax(Q K^T / sqrt(d)) V among tokens that look alike, wherever they are."""

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        q, k, v = rearrange(
            self.qkv(x).flatten(0, 2)[groups.take],
            "W T (three heads d) -> three W heads T d",
            three=3,
            heads=self.heads,
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=groups.full)
        found = rearrange(found, "W heads T d -> (W T) (heads d)")[groups.back]
        return self.project(found).view(x.shape)


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
            Linear(channels, hidden), nn.GELU(), _zero(Linear(hidden, channels))
        )

    def forward(self, z: Tensor, position: Tensor, groups: Groups) -> Tensor:
        z = z + self.window(self.norm1(z) + position)
        z = z + self.shifted(self.norm2(z) + position)
        z = z + self.feature(self.norm3(z) + position, groups)
        return z + self.mlp(self.norm4(z))


class Stage(nn.Module):
    """Blocks on one grid: (B, h, w, C) -> (B, h, w, C)."""

    def __init__(self, config: Config, stage: int):
        super().__init__()
        self.patch, self.size, self.cluster = PATCH * 2**stage, config.window**2, config.cluster
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))

    def forward(self, z: Tensor, lightness: Tensor) -> Tensor:
        """`lightness` (B, 1, H, W) of the whole picture tells which tokens are alike."""
        side = RESOLUTION // self.patch
        position = _sine_position(*z.shape[1:], side, z.device).to(z.dtype)
        groups = feature_windows(lightness, self.patch, self.size, self.cluster)
        for block in self.blocks:
            z = block(z, position, groups)
        return z


# --- Local stabilizing layer and DUpsampling (section 3.1) ----------------------------------------


class Stabilizer(nn.Module):
    """A convolution with a receptive field of 3, narrowed and widened by 1x1, or what replaces it.

    Without the convolution and its activations, `linear`, it is a linear layer of rank `inner`.
    """

    def __init__(self, channels: int, inner: int, *, linear: bool):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.narrow = Linear(channels, inner)
        self.conv = None
        if not linear:
            self.conv = nn.Conv2d(inner, inner, 3, padding=1, padding_mode="replicate")
        self.widen = _zero(Linear(inner, channels))

    def forward(self, z: Tensor) -> Tensor:
        x = self.narrow(self.norm(z))
        if self.conv is not None:
            x = F.gelu(self.conv(F.gelu(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return z + self.widen(x)


class AttentionStabilizer(nn.Module):
    """The paper's Model 3: window attention as stabilizing layer."""

    def __init__(self, channels: int, inner: int, heads: int, side: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, inner, heads, side)

    def forward(self, z: Tensor) -> Tensor:
        side = RESOLUTION // LAST_PATCH
        position = _sine_position(*z.shape[1:], side, z.device).to(z.dtype)
        return z + self.attention(self.norm(z) + position)


def _stabilizer(config: Config) -> nn.Module:
    channels, inner = config.channels[-1], config.inner[-1]
    if config.stabilizer == "none":
        return nn.Identity()
    if config.stabilizer == "attention":
        return AttentionStabilizer(channels, inner, config.heads[-1], config.window)
    return Stabilizer(channels, inner, linear=config.stabilizer == "linear")


def _merge(z: Tensor) -> Tensor:
    """Four neighbours become one token: (B, h, w, C) -> (B, h/2, w/2, 4C)."""
    return rearrange(z, "B (h y) (w x) C -> B h w (y x C)", y=2, x=2)


def _dupsample(z: Tensor) -> Tensor:
    """Undo three merges and the cut into patches: (B, h, w, 3 32^2) -> (B, 3, 32 h, 32 w).

    Step by step: in one step the same costs ten times as much from 448 pixels on (2026-11-21).
    """
    for _ in range(3):
        z = rearrange(z, "B h w (y x C) -> B (h y) (w x) C", y=2, x=2)
    return rearrange(z, "B h w (y x c) -> B c (h y) (w x)", y=PATCH, x=PATCH)


# --- The whole (figure 3) ------------------------------------------------------------------------


class PointHint(nn.Module):
    """Lightness and hints (B, 4, H, W) of any size -> ab (B, 2, H, W) in Lab units.

    Channels of the input: L / 50 - 1; a / 110 and b / 110 at hints, elsewhere 0 or a guess, as it
    was trained (`Spec.prior`); 1 at hints, 0 elsewhere. Give it in float32 to networks of any
    precision: feature windows come of its L.

    Attributes:
        kernel: None, or what its guess is to be made with: `kernel(L)`.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.kernel = DeepKernel(config.kernel) if config.kernel else None
        self.inputs = 4 if config.hint_mask else 3
        self.embed = Linear(self.inputs * PATCH**2, config.channels[0])
        self.stages = nn.ModuleList(Stage(config, stage) for stage in range(4))
        self.stabilizer = _stabilizer(config)
        if config.merge == "keep":
            self.merging = nn.ModuleList(nn.Identity() for _ in range(3))
            self.upsample = nn.Identity()
        else:
            self.merging = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(4 * c), Linear(4 * c, 2 * c, bias=False))
                for c in config.channels[:-1]
            )
            self.upsample = _zero(Linear(config.channels[-1], 3 * LAST_PATCH**2))
        copy = torch.eye(3, self.inputs)  # L, a, b of each pixel; nothing of the mask
        with torch.no_grad():
            self.embed.weight.copy_(torch.block_diag(*[copy] * PATCH**2))
            self.embed.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 4 or not x.shape[2] or not x.shape[3]:
            raise ValueError(
                f"pointhint: input has shape {tuple(x.shape)}; expected (B, 4, H, W): L / 50 - 1, "
                "a / 110 and b / 110 of the hints, 1 at hints."
            )
        height, width = x.shape[2:]
        rim = (0, -width % LAST_PATCH, 0, -height % LAST_PATCH)
        lightness = F.pad(x[:, :1].float(), rim, mode="replicate")
        hints = F.pad(x[:, 1 : self.inputs], rim)  # the rim has no hints
        z = torch.cat([lightness, hints], dim=1).to(self.embed.weight.dtype)
        z = rearrange(z, "B c (h y) (w x) -> B h w (y x c)", y=PATCH, x=PATCH)
        z = self.embed(z).to(z.dtype)  # under autocast too the stream stays float32
        for i, stage in enumerate(self.stages):
            if i:
                z = self.merging[i - 1](_merge(z))
            z = stage(z, lightness)
        lab = _dupsample(self.upsample(self.stabilizer(z)))
        ab = AB * lab[:, 1:, :height, :width]
        return ab if self.training else ab.clamp(-128, 128)


def initialise(network: PointHint) -> None:
    """Start values for training from nothing, in place: layer scales of the kernel's backbone 1."""
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.gamma)


# --- Published checkpoints -----------------------------------------------------------------------


def detect(keys: set[str]) -> bool:
    """False: nobody has published weights of this network, and our own files say what they are."""
    del keys
    return False
