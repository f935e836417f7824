"""Exemplar colorization with axial attention: a grey target takes its colours from references.

Gorriz Blanch, Khalifeh, Smeaton, O'Connor, Mrak: "Attention-based Stylisation for Exemplar Image
Colourisation", MMSP 2021, arXiv:2105.01705. Published program and weights: bbc/xcnet ("XCNet").

The file follows figure 1: backbone -> projections -> attention modules -> pyramid decoder -> heads.
What the published program does otherwise than the paper is `Config.compat`. Maps are (B, C, H, W);
level l = 1 ... 5 has 1/2^(l-1) of the picture's sides; `G` groups of references: one for each
target, or 1 for all; `N` references of a group; `S` cells of all of them that are attended to.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..ops import gaussian_process
from ..ops.color import lab_to_rgb
from . import deep_kernel, surety
from .deep_kernel import DeepKernel
from .layers import ConvNeXtBlock, Linear, SmallBackbone, linear, rename
from .spec import Spec
from .winograd import Conv3x3, packed_bytes

NAME = "exemplar"
AB = 110.0  # Lab units of a prediction of 1
LEVELS = (3, 4, 5)  # that attend to references: from block 3 on (section 4.1)
SPANS = {3: 56, 4: 28, 5: 14}  # cells of a line at the training size, 224
ATTENTION = ("axial", "standard")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape or what is computed; JSON-serialisable."""

    backbone: str = "vgg19"
    """vgg19 (paper), or convnext: a small one of our own, which looks at L alone."""
    backbone_last: int = 35
    """Index of the deepest VGG-19 layer: 35 = relu5_4 (program), 33 = relu5_3 (paper)."""
    vgg_input: str = "raw"
    """raw: Lab in -1..1 straight into VGG (program); imagenet: RGB with ImageNet mean and std."""
    depths: tuple[int, int, int] = (2, 2, 6)
    """ConvNeXt blocks at levels 3, 4, 5."""
    dims: tuple[int, int, int] = (40, 80, 160)
    """ConvNeXt channels at levels 3, 4, 5."""
    stem: int = 24
    """Channels at level 2 of the small backbone."""
    reference_color: bool = False
    """The reference's Lab, pooled, joins its features: for a backbone that looks at L alone."""
    width: int = 256
    """h: channels of projections, modules and decoder."""
    heads: int = 8
    """Attention heads; h/2 channels of queries and keys, h of values are split among them."""
    head_width: int = 64
    """e: channels of a prediction head."""
    attention: tuple[str, str, str] = ("axial", "axial", "axial")
    """axial or standard at levels 3, 4, 5."""
    second_kv: str = "reference"
    """Keys and values of the second axis: reference (paper), or fused: what the first axis gave."""
    positions: bool = True
    """Learned relative positions in axial attention, eq. 2."""
    scale: float = 1.0
    """Factor on the logits of axial attention; 1 in eq. 1 and 2."""
    span: int = 0
    """m: an axial cell sees the reference up to m - 1 cells away; 0 = the whole line (paper)."""
    stack: int = 2
    """How often each module is applied (section 4.3)."""
    share: bool = True
    """All applications of a module have the same weights."""
    full_res_head: bool = True
    """Predict at full size; False = the finest prediction has half the picture's sides."""
    confidence: tuple[float, ...] = (-6.0, -0.02, 1.0, 1.0, -0.03, -0.03, 3.0, 3.0)
    """Weights of `surety.confidence`: of a constant and of the seven clues."""
    kernel: deep_kernel.Config | None = None
    """Says how alike places are, for a guess of the colour from the reference's; None: no guess."""
    told: int = 256
    """Cells of each reference that the guess is made of."""
    compat: str = "paper"
    """paper, or xcnet: height axis first, no ReLU after batch norm, second axis reads the reference
    before its batch norm, as the published program does."""

    def __post_init__(self) -> None:
        if isinstance(self.kernel, Mapping):
            object.__setattr__(self, "kernel", deep_kernel.Config(**self.kernel))
        for name in ("depths", "dims", "attention", "confidence"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (
            ("backbone", ("vgg19", "convnext")),
            ("backbone_last", (33, 35)),
            ("vgg_input", ("raw", "imagenet")),
            ("second_kv", ("reference", "fused")),
            ("compat", ("paper", "xcnet")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"exemplar: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(map(str, known))}."
                )
        if len(self.attention) != len(LEVELS) or not set(self.attention) <= set(ATTENTION):
            raise ValueError(
                f"exemplar: attention is {self.attention}; expected {len(LEVELS)} of "
                f"{', '.join(ATTENTION)}."
            )
        if self.heads < 1 or self.width < 1 or self.width % (2 * self.heads):
            raise ValueError(
                f"exemplar: width is {self.width}; expected a multiple of {2 * self.heads}, twice "
                "the heads."
            )
        if self.backbone == "convnext" and self.full_res_head:
            raise ValueError("exemplar: the small backbone has no full-size map; no full_res_head.")
        if self.kernel and self.full_res_head:
            raise ValueError("exemplar: a guess has half the picture's sides; no full_res_head.")

    @property
    def finest(self) -> int:
        """Level of the finest prediction."""
        return 1 if self.full_res_head else 2


PRESETS = {
    "exemplar-vgg19": Config(),
    "exemplar-nano": Config(
        backbone="convnext",
        depths=(2, 2, 2),
        reference_color=True,
        width=64,
        heads=4,
        head_width=32,
        kernel=deep_kernel.Config(sideways=False),
        # Of the ways that were measured the best and the fastest (docs/training-log.md).
        second_kv="fused",
        full_res_head=False,
    ),
}


def spec(config: Config) -> Spec:
    """What the pipeline must know to run this network."""
    # Fitted to what a float32 forward pass on a CPU takes more at 512 than at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 1200 bytes a pixel, the paper's 6230. Most of it is the
    # decoder's finest stage.
    wide, deep = config.width, 512
    packed = sum(packed_bytes(before, wide) for before in (wide, 2 * wide)) * (6 - config.finest)
    if config.backbone == "vgg19":
        packed += (
            8 * packed_bytes(deep, deep) + packed_bytes(256, deep) + 3 * packed_bytes(256, 256)
        )
    return Spec(
        architecture=NAME,
        role="exemplar",
        model_input="Lab",
        multiple=16,
        resolution=224,
        activation_bytes_per_pixel=24 * config.width,
        activation_bytes=2**24 + packed,
        attention_bytes=0.4 * config.heads,
        published_picture="middle",
        aligned=config.backbone == "vgg19" and "axial" in config.attention,
    )


# --- Backbone (section 3.1): taps F^1 ... F^5 and F^B --------------------------------------------

_VGG19 = [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4]  # 0: max pooling
VGG_TAPS = {1: 1, 2: 6, 3: 11, 4: 20, 5: 29}  # level -> index of relu{l}_1 in torchvision's list


class VGG19(nn.Module):
    """Picture (B, 3, H, W) -> first activation of each block; names and indices are torchvision's.

    The paper freezes ImageNet weights, which stay with the user; the trainer freezes them.
    """

    widths = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512, "B": 512}

    def __init__(self, config: Config):
        super().__init__()
        layers, before = [], 3
        for width in _VGG19:
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            # In place: of a convolution's output, which is no tap.
            layers += [Conv3x3(before, width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers[: config.backbone_last + 1])

    def forward(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Target: F^1 ... F^5 and F^B."""
        return self._taps(picture, self.features)

    def reference(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Reference: F^1 ... F^5; what lies behind them is not computed."""
        return self._taps(picture, self.features[: VGG_TAPS[5] + 1])

    def _taps(self, x: Tensor, features: nn.Sequential) -> dict[int | str, Tensor]:
        taps, levels = {}, {index: level for level, index in VGG_TAPS.items()}
        for index, layer in enumerate(features):
            x = layer(x)
            if index in levels:
                taps[levels[index]] = x
        return taps | {"B": x}


# --- Attention modules (section 3.2, figure 2) ---------------------------------------------------


class Reference(NamedTuple):
    """One reference at one level, before it is cut into keys and values."""

    features: Tensor
    """Projected: (G, h, H, W)."""
    trust: Tensor | None
    """(G, 1, H, W) in 0..1; None = 1 everywhere."""
    traces: Tensor
    """(G, X, H, W), see `surety.traces`; X = 0 where confidence is not asked for."""


class Keys(NamedTuple):
    """What a module attends to: cells S of lines (axial) or of whole maps (one line, standard)."""

    k: Tensor
    """(G, lines, heads, S, d_k)."""
    v: Tensor
    """(G, lines, heads, S, d_v)."""
    bias: Tensor | None
    """Added to the logits: log trust, and k_j . r^k; (G, lines, heads or 1, cells or 1, S)."""
    traces: Tensor
    """(G, lines, S, X)."""
    doubted: bool
    """Some cells are not to be trusted; the first trace then is trust."""


def _cells(x: Tensor, axis: str) -> Tensor:
    """(G, C, H, W) -> (G, lines, cells, C) along the axis: w, h, or both as one line."""
    if axis == "wh":
        return rearrange(x, "G C H W -> G 1 (H W) C")
    return rearrange(x, "G C H W -> G H W C" if axis == "w" else "G C H W -> G W H C")


def _maps(x: Tensor, axis: str, size: tuple[int, int]) -> Tensor:
    """The inverse of `_cells`."""
    if axis == "wh":
        return rearrange(x, "G 1 (H W) C -> G C H W", H=size[0])
    return rearrange(x, "G H W C -> G C H W" if axis == "w" else "G W H C -> G C H W")


def _log_trust(trust: Tensor) -> Tensor:
    """Added to logits, it multiplies attention weights by trust: (G, lines, 1, 1, S)."""
    return trust[..., 0].clamp_min(surety.FAINT).log()[:, :, None, None]


class AxialAttention(nn.Module):
    """Multi-head attention along one axis; all lines of the other axis are independent. Eq. 2:

    o_i = sum_j softmax_j(q_i . k_j + q_i . r^q[j-i] + k_j . r^k[j-i]) (v_j + r^v[j-i])

    q has d_k = h / 2n channels a head as in Axial-DeepLab, v has d_v = h / n. The tables r are
    shared by the heads. k in the third term is the reference's.
    """

    def __init__(self, config: Config, span: int, axis: str):
        super().__init__()
        width, self.heads, self.axis = config.width, config.heads, axis
        self.scale, self.reach, self.half = config.scale, config.span, width // 2
        self.project_in = Linear(width, 2 * width)  # q, k, v
        self.project_out = Linear(width, width)
        if config.positions:
            d_k, d_v = width // (2 * config.heads), width // config.heads
            self.relative = nn.Parameter(torch.randn(2 * span - 1, 2 * d_k + d_v) * d_v**-0.5)
        else:
            self.relative = None

    def keys(self, references: Sequence[Reference]) -> Keys:
        """Keys and values of all references, line after line: they do not depend on the target."""
        weight, bias = self.project_in.weight[self.half :], self.project_in.bias[self.half :]
        cells = torch.cat([_cells(r.features, self.axis) for r in references], dim=2)
        length, count = cells.shape[2] // len(references), len(references)
        k, v = linear(cells, weight, bias).split([self.half, 2 * self.half], dim=-1)
        k, v = self._by_head(k), self._by_head(v)
        added = None
        if self.relative is not None:  # k_j . r^k[j-i]
            _, r_k, _ = self._tables(length, k.dtype)
            each = k.unflatten(3, (count, length))
            added = torch.einsum("GLhnjd,ijd->GLhinj", each, r_k).flatten(4)
        if self.reach:
            place = torch.arange(length, device=k.device)
            far = (place[:, None] - place).abs() >= self.reach
            beyond = torch.zeros(far.shape, dtype=k.dtype, device=k.device)
            beyond = beyond.masked_fill(far, -math.inf).repeat(1, count)
            added = beyond if added is None else added + beyond
        added = None if added is None else added * self.scale
        doubted = any(r.trust is not None for r in references)
        if doubted:
            trust = [_cells(_trust(r), self.axis) for r in references]
            known = _log_trust(torch.cat(trust, dim=2)).to(k.dtype)
            added = known if added is None else added + known
        traces = torch.cat([_cells(r.traces, self.axis) for r in references], dim=2)
        return Keys(k, v, added, traces, doubted)

    def forward(self, query: Tensor, keys: Keys) -> tuple[Tensor, Tensor]:
        """Queries (B, h, H, W) of the target -> what is found (B, h, H, W), its traces."""
        size = tuple(query.shape[2:])
        weight, bias = self.project_in.weight[: self.half], self.project_in.bias[: self.half]
        q = self._by_head(linear(_cells(query, self.axis), weight, bias)) * self.scale
        length = q.shape[3]
        logits = q @ keys.k.transpose(-2, -1)
        if self.relative is not None:
            r_q, _, r_v = self._tables(length, q.dtype)
            count = keys.k.shape[3] // length
            near = torch.einsum("BLhid,ijd->BLhij", q, r_q)
            logits += near.repeat(1, 1, 1, 1, count) if count > 1 else near
        if keys.bias is not None:
            logits += keys.bias
        weights = logits.softmax(-1)
        found = weights @ keys.v
        if self.relative is not None:
            each = weights.unflatten(4, (count, length)).sum(4) if count > 1 else weights
            found += torch.einsum("BLhij,ijd->BLhid", each, r_v)
        found = self.project_out(rearrange(found, "B L h i d -> B L i (h d)"))
        traces = keys.traces.to(weights.dtype)
        traces = (weights.mean(2) if traces.shape[-1] else weights[:, :, 0]) @ traces
        return _maps(found, self.axis, size), _maps(traces, self.axis, size)

    def _by_head(self, x: Tensor) -> Tensor:
        return rearrange(x, "G L s (h d) -> G L h s d", h=self.heads)

    def _tables(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """r^q, r^k, r^v for lines of `length`: (i, j, d), entry j - i of each table."""
        table = self.relative
        if not self.reach and length == 1:
            table = table[len(table) // 2][None]
        elif not self.reach and len(table) != 2 * length - 1:  # trained for another length
            table = F.interpolate(
                table.T[None], size=2 * length - 1, mode="linear", align_corners=True
            )[0].T
        place = torch.arange(length, device=table.device)
        most = len(table) // 2
        table = table.to(dtype)[(place - place[:, None]).clamp(-most, most) + most]
        d_k = table.shape[-1] // 4
        return table.split([d_k, d_k, 2 * d_k], dim=-1)


class StandardAttention(nn.Module):
    """Eq. 1 over whole maps: softmax(q k^T / sqrt(d)) v through SDPA; sizes may differ."""

    axis = "wh"

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.width = config.heads, config.width
        self.project_in = Linear(config.width, 3 * config.width)  # q, k, v
        self.project_out = Linear(config.width, config.width)

    def keys(self, references: Sequence[Reference]) -> Keys:
        """Keys and values of all cells of all references."""
        cells = torch.cat([_cells(r.features, "wh") for r in references], dim=2)
        weight, bias = self.project_in.weight[self.width :], self.project_in.bias[self.width :]
        kv = linear(cells, weight, bias)
        k, v = (rearrange(x, "G L s (h d) -> G L h s d", h=self.heads) for x in kv.chunk(2, -1))
        added = None
        doubted = any(r.trust is not None for r in references)
        if doubted:
            trust = [_cells(_trust(r), "wh") for r in references]
            added = _log_trust(torch.cat(trust, dim=2)).to(k.dtype)
        traces = torch.cat([_cells(r.traces, "wh") for r in references], dim=2)
        return Keys(k, v, added, traces, doubted)

    def forward(self, query: Tensor, keys: Keys) -> tuple[Tensor, Tensor]:
        """Queries (B, h, H, W) of the target -> what is found (B, h, H, W), its traces."""
        size, batch = tuple(query.shape[2:]), query.shape[0]
        weight, bias = self.project_in.weight[: self.width], self.project_in.bias[: self.width]
        q = linear(_cells(query, "wh"), weight, bias)
        q = rearrange(q, "B 1 s (h d) -> B h s d", h=self.heads)
        # The traces ride along as further channels of the values; fused kernels want equal widths,
        # multiples of 8.
        d, carried = q.shape[-1], keys.traces.shape[-1]
        traces = keys.traces.to(q.dtype)[:, :, None].expand(-1, -1, self.heads, -1, -1)
        k, v = keys.k[:, 0], torch.cat([keys.v, traces], dim=-1)[:, 0]
        wide = d if not carried else math.ceil((d + carried) / 8) * 8
        q, k, v = (F.pad(x, (0, wide - x.shape[-1])) for x in (q, k, v))
        k, v = (x.expand(batch, -1, -1, -1) for x in (k, v))
        known = keys.bias
        if known is not None:
            known = known[:, 0].expand(batch, -1, q.shape[2], -1)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=known, scale=d**-0.5)
        traces = found[..., d : d + carried].mean(1)[:, None]
        found = self.project_out(rearrange(found[..., :d], "B h s d -> B 1 s (h d)"))
        return _maps(found, "wh", size), _maps(traces, "wh", size)


def _trust(reference: Reference) -> Tensor:
    """Trust as a map, also where it is 1 everywhere."""
    if reference.trust is None:
        return torch.ones_like(reference.features[:, :1])
    return reference.trust


def _at(reference: Reference, size: tuple[int, int]) -> Reference:
    """A reference on a target's grid: rows and columns of both have to correspond."""
    if tuple(reference.features.shape[2:]) == size:
        return reference
    features, trust, traces = reference
    # Traces that are not asked for have no channels, which `interpolate` refuses.
    traces = (
        surety.resized(traces, size)
        if traces.shape[1]
        else traces.new_empty(traces.shape[0], 0, *size)
    )
    return Reference(
        surety.resized(features, size),
        None if trust is None else surety.resized(trust, size),
        traces,
    )


class AttentionModule(nn.Module):
    """Figure 2: batch norm and ReLU of both sources, attention, sum with the target, ReLU."""

    def __init__(self, config: Config, level: int):
        super().__init__()
        self.kind = config.attention[LEVELS.index(level)]
        self.fused = config.second_kv == "fused"
        self.program = config.compat == "xcnet"
        self.target_norm = nn.BatchNorm2d(config.width)
        self.reference_norm = nn.BatchNorm2d(config.width)
        if self.kind == "axial":
            first, second = ("h", "w") if self.program else ("w", "h")
            self.first = AxialAttention(config, config.span or SPANS[level], first)
            self.second = AxialAttention(config, config.span or SPANS[level], second)
        else:
            self.first = StandardAttention(config)

    def keys(self, references: Sequence[Reference], size: tuple[int, int]) -> list[Keys]:
        """What the module attends to in each of its layers, for targets of `size` at this level."""
        if self.kind == "axial":
            references = [_at(r, size) for r in references]
        normal = [
            r._replace(features=self._active(self.reference_norm, r.features)) for r in references
        ]
        keys = [self.first.keys(normal)]
        if self.kind == "axial" and not self.fused:
            keys.append(self.second.keys(references if self.program else normal))
        return keys

    def forward(self, target: Tensor, keys: list[Keys]) -> tuple[Tensor, Tensor]:
        """Target features (B, h, H, W) -> fused features, and traces of where they are from."""
        x, traces = self.first(self._active(self.target_norm, target), keys[0])
        if self.kind == "axial":
            if self.fused:
                trust = traces[:, :1] if keys[0].doubted else None  # of what the first axis found
                keys = [*keys, self.second.keys([Reference(x, trust, traces)])]
            x, traces = self.second(x, keys[1])
        return F.relu(x + target), traces

    def _active(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return norm(x) if self.program else F.relu(norm(x))


# --- Pyramid decoder and heads -------------------------------------------------------------------


class DecoderStage(nn.Module):
    """O^l from O^(l+1), the fused features of level l+1 and the projected target of level l."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = Conv3x3(width, width)
        self.refine = Conv3x3(2 * width, width)

    def forward(self, x: Tensor, fused: Tensor | None, skip: Tensor) -> Tensor:
        x = self.mix(x if fused is None else x + fused).relu_()
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        down, right = (s - n for s, n in zip(skip.shape[2:], x.shape[2:], strict=True))
        x = F.pad(x, (0, right, 0, down)) if down or right else x  # odd sizes: as the program
        return self.refine(skip, x).relu_()


class Head(nn.Sequential):
    """Features -> ab in -1..1."""

    def __init__(self, width: int, hidden: int):
        super().__init__(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(hidden, 2, 1),
            nn.Tanh(),
        )


class Blend(nn.Module):
    """A guess and the network's own colour -> g guess + (1 - g) own, g for each place."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(width + 5, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
        )

    def forward(self, x: Tensor, own: Tensor, guess: Tensor) -> Tensor:
        """Features (B, h, H, W), ab (B, 2, H, W) in -1..1, guess (B, 3, H, W) -> ab in -1..1."""
        g = torch.sigmoid(self.weigh(torch.cat([x, own, guess.to(x.dtype)], dim=1)))
        return torch.lerp(own, guess[:, :2].to(x.dtype), g)


# --- The whole -----------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """All that targets of one size need of the references."""

    keys: dict[int, list[list[Keys]]]
    """Level -> what each of its modules attends to."""
    likes: dict[int, surety.Likes]
    """Level -> where to look for what is most like the target."""
    known: gaussian_process.Known | None
    """What the guess is made of."""


class Answer(NamedTuple):
    """What a target gets from its references."""

    ab: Tensor
    """Finest prediction in Lab units: (B, 2, H, W), or half of both sides."""
    confidence: Tensor
    """(B, 1, H/4, W/4) in 0..1: how surely the references tell the colour of a place."""
    clues: Tensor
    """(B, 7, H/4, W/4): what confidence is made of, see `surety.clues`."""


class Exemplar(nn.Module):
    """Target (B, 3, H, W) and reference (B, 3, H', W') -> predictions of ab in -1..1, finest first.

    The target's channels are L / 50 - 1, three times; the reference's L / 50 - 1, a / 110, b / 110.
    H and W are at least 16.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width = config.width
        if config.backbone == "vgg19":
            self.backbone = VGG19(config)
        else:
            self.backbone = SmallBackbone(config.stem, config.dims, config.depths)
        widths, color = self.backbone.widths, 3 * config.reference_color
        self.project_target = nn.ModuleDict(
            {
                str(level): nn.Conv2d(widths[level], width, 1)
                for level in (*range(config.finest, 6), "B")
            }
        )
        self.project_reference = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level] + color, width, 1) for level in LEVELS}
        )
        self.attention = nn.ModuleDict(
            {
                str(level): nn.ModuleList(
                    AttentionModule(config, level)
                    for _ in range(1 if config.share else config.stack)
                )
                for level in LEVELS
            }
        )
        levels = range(config.finest, 5)
        self.decoder = nn.ModuleDict({str(level): DecoderStage(width) for level in levels})
        self.heads = nn.ModuleDict({str(level): Head(width, config.head_width) for level in levels})
        self.kernel, self.blend = None, None
        if config.kernel:
            self.kernel, self.blend = DeepKernel(config.kernel), Blend(width, config.head_width)

    def forward(
        self,
        target: Tensor,
        reference: Tensor,
        trust: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> list[Tensor]:
        """Predictions at all scales, finest first, each target with a reference of its own.

        Args:
            target: (B, 3, H, W) in -1..1; only its first channel, L, differs between targets.
            reference: (B, 3, H', W') in -1..1.
            trust: (B, 1, H', W') in 0..1, how far the reference's colours count.
            guess: as `guess` makes it, for networks that take one; None = it is made here.
        """
        trusts = None if trust is None else [trust]
        told = guess is None
        evidence = self.read([reference], target.shape[2:], trusts, traced=False, told=told)
        if self.kernel and told:
            guess = self.guess(target, evidence.known)
        outputs, _, _ = self._decode(target, evidence)
        finest, *others = (self.heads[level](x) for level, x in reversed(outputs.items()))
        if self.blend:
            finest = self.blend(outputs[str(self.config.finest)], finest, guess)
        return [finest, *others]

    def guess(self, target: Tensor, known: gaussian_process.Known) -> Tensor:
        """What the references' colours make of targets by likeness alone, see `deep_kernel`.

        Args:
            target: (B, 3, H, W) as for `forward`.
            known: of B or 1 groups of references.
        Returns:
            (B, 3, H/2, W/2): ab in -1..1; how like the target's place the most like one is, 0..1.
        """
        ab, alike = gaussian_process.tell(self.kernel(50 * (target[:, :1].float() + 1)), known)
        guess = torch.cat([ab / AB, alike[..., None]], dim=-1).clamp(-1, 1)
        return guess.mT.unflatten(2, tuple(-(-n // 2) for n in target.shape[2:]))

    def read(
        self,
        references: Sequence[Tensor],
        size: Sequence[int],
        trusts: Sequence[Tensor | None] | None = None,
        *,
        traced: bool = True,
        told: bool = True,
    ) -> Evidence:
        """All that targets of `size` (H, W) need of the references; once for a whole film.

        Args:
            references: N tensors (G, 3, H', W') in -1..1, of any sizes; their evidence is joined.
            size: of the targets.
            trusts: N tensors (G, 1, H', W') in 0..1, or None where all counts.
            traced: whether confidence will be asked for. Trust is traced in any case.
            told: whether a guess will be, of networks that make one.
        Raises:
            ValueError: no reference, or one of a shape that cannot be.
        """
        if not references:
            raise ValueError("exemplar: no reference; give at least one.")
        _refuse(size)
        traced = traced or any(trust is not None for trust in trusts or ())
        known: dict[int, list[Reference]] = {level: [] for level in LEVELS}
        seen = []
        for reference, trust in zip(references, trusts or [None] * len(references), strict=True):
            if reference.ndim != 4 or reference.shape[1] != 3:
                raise ValueError(
                    f"exemplar: a reference has shape {tuple(reference.shape)}; expected "
                    "(G, 3, H, W) Lab in -1..1."
                )
            _refuse(reference.shape[2:])
            if reference.shape[0] != references[0].shape[0]:
                raise ValueError(
                    f"exemplar: references come in groups of {len(references[0])} and "
                    f"{len(reference)}; expected as many in each."
                )
            if trust is not None:
                reference = torch.cat([reference[:, :1], reference[:, 1:] * trust], dim=1)
            seen.append((reference, trust, self.backbone.reference(self._seen(reference))))
        for reference, trust, taps in seen:
            for level in LEVELS:
                tap, grid = taps[level], taps[level].shape[2:]
                traces = reference.new_empty(reference.shape[0], 0, *grid)
                if traced:
                    traces = surety.traces(AB * reference[:, 1:], trust, grid)
                if self.config.reference_color:
                    tap = torch.cat([tap, self._pooled(reference, grid)], dim=1)
                features = self.project_reference[str(level)](tap).relu_()
                at = None if trust is None else F.adaptive_avg_pool2d(trust, grid)
                known[level].append(Reference(features, at, traces))
        keys = {
            level: [
                module.keys(known[level], tuple(n // 2 ** (level - 1) for n in size))
                for module in self.attention[str(level)]
            ]
            for level in LEVELS
        }
        likes = surety.likes([(AB * r[:, 1:], *rest) for r, *rest in seen]) if traced else {}
        known = self._known([s[:2] for s in seen]) if self.kernel and told else None
        return Evidence(keys, likes, known)

    def _known(self, seen: Sequence[tuple[Tensor, Tensor | None]]) -> gaussian_process.Known:
        """Some cells of each reference, and what they say."""
        fields, colors, trusts = [], [], []
        for reference, trust in seen:
            field = self.kernel(50 * (reference[:, :1].float() + 1))
            if trust is None:
                trust = torch.ones_like(reference[:, :1])
            color, trust = (
                F.avg_pool2d(x.float(), 2, ceil_mode=True).flatten(2).mT
                for x in (AB * reference[:, 1:], trust)
            )
            count = color.shape[1]
            order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
            some = order[: self.config.told].to(color.device)
            fields.append(field.cells(some.expand(len(color), -1)))
            colors.append(color[:, some])
            trusts.append(trust[:, some, 0])
        trust = torch.cat(trusts, dim=1)
        cells, color = gaussian_process.joined(fields), torch.cat(colors, dim=1)
        color = color / trust[..., None].clamp_min(surety.FAINT)  # which it was multiplied by
        cells = cells._replace(noise=cells.noise / trust.clamp_min(surety.FAINT))
        return gaussian_process.learn(cells, color, trust > surety.FAINT)

    def answer(self, target: Tensor, evidence: Evidence) -> Answer:
        """The finest prediction alone, and how surely the references tell it.

        Args:
            target: (B, 3, H, W) as for `forward`.
            evidence: of G = B or 1 groups, which `read` gave for this size.
        """
        outputs, traces, taps = self._decode(target, evidence)
        finest = str(self.config.finest)
        ab = self.heads[finest](outputs[finest])
        if self.blend:
            ab = self.blend(outputs[finest], ab, self.guess(target, evidence.known))
        ab = AB * ab
        trust, clues = surety.clues(ab, traces, taps, evidence.likes)
        return Answer(ab, surety.confidence(trust, clues, self.config.confidence), clues)

    def _decode(
        self, target: Tensor, evidence: Evidence
    ) -> tuple[dict[str, Tensor], dict[int, Tensor], dict[int | str, Tensor]]:
        """Decoder maps O^4 ..., traces of the attention, and the target's taps; all by level."""
        if target.ndim != 4 or target.shape[1] != 3:
            raise ValueError(
                f"exemplar: the target has shape {tuple(target.shape)}; expected (B, 3, H, W)."
            )
        _refuse(target.shape[2:])
        taps = self.backbone(self._seen(target, gray=True))
        projected = {
            level: project(taps["B" if level == "B" else int(level)]).relu_()
            for level, project in self.project_target.items()
        }
        fused, traces = {}, {}
        for level in LEVELS:
            x, modules = projected[str(level)], self.attention[str(level)]
            for i in range(self.config.stack):
                at = min(i, len(modules) - 1)
                x, traces[level] = modules[at](x, evidence.keys[level][at])
            fused[level] = x
        x, outputs = projected["B"], {}
        for level in range(4, self.config.finest - 1, -1):
            x = self.decoder[str(level)](x, fused.get(level + 1), projected[str(level)])
            outputs[str(level)] = x
        return outputs, traces, taps

    def _pooled(self, reference: Tensor, grid: Sequence[int]) -> Tensor:
        """A reference's Lab on the grid of a tap."""
        return F.adaptive_avg_pool2d(reference, grid)

    def _seen(self, picture: Tensor, *, gray: bool = False) -> Tensor:
        """A picture as the backbone takes it."""
        if self.config.backbone != "vgg19" or self.config.vgg_input == "raw":
            return picture.contiguous(memory_format=torch.channels_last)
        ab = torch.zeros_like(picture[:, 1:]) if gray else AB * picture[:, 1:]
        rgb = lab_to_rgb(torch.cat([50 * (picture[:, :1] + 1), ab], dim=1)).clamp(0, 1)
        mean, std = (picture.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def _refuse(size: Sequence[int]) -> None:
    if min(size) < 16:
        raise ValueError(f"exemplar: a picture is {size[1]}x{size[0]}; expected 16 or more.")


def initialise(network: Exemplar) -> None:
    """Start values for training from nothing, in place.

    Queries, keys and values of axial attention N(0, 1/sqrt(C)), as in Axial-DeepLab: with the
    program's larger ones the softmax is saturated from the start. Layer scales of the small
    backbone 1: few steps are too few for them to grow.
    """
    for module in network.modules():
        if isinstance(module, AxialAttention | StandardAttention):
            nn.init.normal_(module.project_in.weight, std=network.config.width**-0.5)
            nn.init.zeros_(module.project_in.bias)
        elif isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.gamma)


# --- Published checkpoints -----------------------------------------------------------------------

_RENAME = [  # published name -> ours; first match wins
    (r"^features\.to_relu_\d_\d\.(\d+)\.", r"backbone.features.\1."),
    (r"^proj6\.proj_tgt\.", "project_target.B."),
    (r"^proj(\d)\.proj_tgt\.", r"project_target.\1."),
    (r"^proj(\d)\.proj_ref\.", r"project_reference.\1."),
    (r"^att(\d)\.module\.[01]\.bn_tgt\.", r"attention.\1.0.target_norm."),
    (r"^att(\d)\.module\.[01]\.bn_ref\.", r"attention.\1.0.reference_norm."),
    (r"^att(\d)\.module\.[01]\.rows\.in_proj_", r"attention.\1.0.first.project_in."),
    (r"^att(\d)\.module\.[01]\.cols\.in_proj_", r"attention.\1.0.second.project_in."),
    (r"^att(\d)\.module\.[01]\.rows\.out_proj\.", r"attention.\1.0.first.project_out."),
    (r"^att(\d)\.module\.[01]\.cols\.out_proj\.", r"attention.\1.0.second.project_out."),
    (r"^att(\d)\.module\.[01]\.rows\.", r"attention.\1.0.first."),
    (r"^att(\d)\.module\.[01]\.cols\.", r"attention.\1.0.second."),
    (r"^dec(\d)\.conv1\.", r"decoder.\1.mix."),
    (r"^dec(\d)\.conv2\.", r"decoder.\1.refine."),
    (r"^head(\d)\.conv1\.", r"heads.\1.0."),
    (r"^head(\d)\.conv2\.", r"heads.\1.2."),
]
DROPPED = {  # published name -> why it is not needed
    ".flatten_index": "the same whole numbers for every line of this length",
}


_ATT3 = ("att3.module.1.", "att3.module.0.")  # one module under two names; files may keep but one


def detect(keys: set[str]) -> bool:
    """True for the key names of a published XCNet checkpoint."""
    return "head1.conv2.bias" in keys and any(
        f"{module}rows.in_proj_weight" in keys for module in _ATT3
    )


def config_from(state: Mapping[str, Tensor]) -> Config:
    """Read every size from a published checkpoint's shapes.

    Without positions the number of heads cannot be seen; it is 8.
    """
    width = state["proj1.proj_tgt.weight"].shape[0]
    relative = next((t for k, t in state.items() if k.endswith(".rows.relative")), None)
    heads = 8 if relative is None else 2 * width // relative.shape[0]
    return Config(
        width=width,
        heads=heads,
        head_width=state["head1.conv1.weight"].shape[0],
        positions=relative is not None,
        # The program divides by the root of the values' width, and with positions not at all.
        scale=1.0 if relative is not None else (width / heads) ** -0.5,
        compat="xcnet",
    )


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> ours, in a new dict; `state` has canonical keys."""
    converted = {}
    for key, tensor in state.items():
        # The program loads .module.0. first and .module.1. over it.
        twin = key.replace(".module.0.", ".module.1.")
        if key.endswith(tuple(DROPPED)) or (twin != key and twin in state):
            continue
        name = rename(key, _RENAME)
        if name.endswith(".relative"):
            # The program counts query minus key for q and v, key minus query for k: ours is that.
            d = tensor.shape[0] // 4
            q, k, v = tensor.split([d, d, 2 * d])
            tensor = torch.cat([q.flip(1), k, v.flip(1)]).T.contiguous()
        converted[name] = tensor
    return converted
