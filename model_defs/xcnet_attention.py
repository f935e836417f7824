"""Attention modules of the exemplar network: arXiv:2105.01705, section 3.2, figure 2.

Shapes are those of `xcnet`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import match_confidence
from .layers import Linear, linear
from .xcnet_config import LEVELS, SPANS, Config


class Reference(NamedTuple):
    """One reference at one level, before it is cut into keys and values."""

    features: Tensor
    """Projected: (G, h, H, W)."""
    trust: Tensor | None
    """(G, 1, H, W) in 0..1; None = 1 everywhere."""
    traces: Tensor
    """(G, X, H, W), see `match_confidence.traces`; X = 0 where confidence is not asked for."""


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
    return trust[..., 0].clamp_min(match_confidence.FAINT).log()[:, :, None, None]


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
        match_confidence.resized(traces, size)
        if traces.shape[1]
        else traces.new_empty(traces.shape[0], 0, *size)
    )
    return Reference(
        match_confidence.resized(features, size),
        None if trust is None else match_confidence.resized(trust, size),
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
