"""Attention modules of the exemplar network: arXiv:2105.01705, section 3.2, figure 2.

Shapes are those of `xcnet`. Attention also averages the color moments of the references
(`match_confidence.color_moments`), from which the confidence is computed.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layers import Linear, linear
from .match_confidence import MIN_TRUST, resize_bilinear
from .xcnet_config import LEVELS, SPANS, Config


class Reference(NamedTuple):
    """One reference at one level, before projection to keys and values."""

    features: Tensor
    """(G, h, H, W) projected features."""
    trust: Tensor | None
    """(G, 1, H, W) in 0..1; None = 1 everywhere."""
    moments: Tensor
    """(G, X, H, W) color moments; X = 0 if confidence is not needed."""


class KeysValues(NamedTuple):
    """Keys and values of all references, for one attention layer.

    Cells S are those of a line in axial attention, or of whole maps (one line) in standard
    attention.
    """

    k: Tensor
    """(G, lines, heads, S, d_k)."""
    v: Tensor
    """(G, lines, heads, S, d_v)."""
    bias: Tensor | None
    """Added to the logits: log trust, and k_j . r^k; (G, lines, heads or 1, cells or 1, S)."""
    moments: Tensor
    """(G, lines, S, X)."""
    has_trust: bool
    """True if some cells have a trust below 1; the first moment then is trust."""


def _to_cells(x: Tensor, axis: str) -> Tensor:
    """(G, C, H, W) -> (G, lines, cells, C) along the axis: w, h, or both as one line."""
    if axis == "wh":
        return rearrange(x, "G C H W -> G 1 (H W) C")
    return rearrange(x, "G C H W -> G H W C" if axis == "w" else "G C H W -> G W H C")


def _to_map(x: Tensor, axis: str, size: Sequence[int]) -> Tensor:
    """Inverse of `_to_cells`."""
    if axis == "wh":
        return rearrange(x, "G 1 (H W) C -> G C H W", H=size[0])
    return rearrange(x, "G H W C -> G C H W" if axis == "w" else "G W H C -> G C H W")


def _trust_bias(references: Sequence[Reference], axis: str, dtype: torch.dtype) -> Tensor | None:
    """Return log trust (G, lines, 1, 1, S), or None if every reference has full trust.

    Added to the logits, it multiplies the attention weights by trust.
    """
    if all(r.trust is None for r in references):
        return None
    trusts = [
        _to_cells(torch.ones_like(r.features[:, :1]) if r.trust is None else r.trust, axis)
        for r in references
    ]
    trust = torch.cat(trusts, dim=2)[..., 0]
    return trust.clamp_min(MIN_TRUST).log()[:, :, None, None].to(dtype)


class AxialAttention(nn.Module):
    """Multi-head attention along one axis, eq. 2; lines of the other axis are independent.

    Each query attends to one line of the references:

    o_i = sum_j softmax_j(q_i . k_j + q_i . r^q[j-i] + k_j . r^k[j-i]) (v_j + r^v[j-i])

    Per head, q has d_k = h / 2n channels, as in Axial-DeepLab, and v has d_v = h / n. The heads
    share the tables r. k in the third term belongs to the reference.

    Args:
        config: of the network.
        table_span: cells of a line that the tables of relative positions are made for.
        axis: w or h.
    """

    def __init__(self, config: Config, table_span: int, axis: str):
        super().__init__()
        width, self.heads, self.axis = config.width, config.heads, axis
        self.scale, self.local_span, self.half_width = config.scale, config.span, width // 2
        self.project_in = Linear(width, 2 * width)  # q, k, v
        self.project_out = Linear(width, width)
        self.relative: nn.Parameter | None = None
        if config.positions:
            d_k, d_v = width // (2 * config.heads), width // config.heads
            self.relative = nn.Parameter(torch.randn(2 * table_span - 1, 2 * d_k + d_v) * d_v**-0.5)

    def keys_values(self, references: Sequence[Reference]) -> KeysValues:
        """Project all references, concatenated along each line; independent of the target."""
        weight = self.project_in.weight[self.half_width :]
        bias = self.project_in.bias[self.half_width :]
        cells = torch.cat([_to_cells(r.features, self.axis) for r in references], dim=2)
        length, count = cells.shape[2] // len(references), len(references)
        k, v = linear(cells, weight, bias).split([self.half_width, 2 * self.half_width], dim=-1)
        k, v = self._split_heads(k), self._split_heads(v)
        logit_bias = None
        if self.relative is not None:  # k_j . r^k[j-i]
            _, r_k, _ = self.position_tables(length, k.dtype)
            k_by_reference = k.unflatten(3, (count, length))
            logit_bias = torch.einsum("GLhnjd,ijd->GLhinj", k_by_reference, r_k).flatten(4)
        if self.local_span:
            index = torch.arange(length, device=k.device)
            outside = (index[:, None] - index).abs() >= self.local_span
            mask = torch.zeros(outside.shape, dtype=k.dtype, device=k.device)
            mask = mask.masked_fill(outside, -math.inf).repeat(1, count)
            logit_bias = mask if logit_bias is None else logit_bias + mask
        logit_bias = None if logit_bias is None else logit_bias * self.scale
        trust_bias = _trust_bias(references, self.axis, k.dtype)
        if trust_bias is not None:
            logit_bias = trust_bias if logit_bias is None else logit_bias + trust_bias
        moments = torch.cat([_to_cells(r.moments, self.axis) for r in references], dim=2)
        return KeysValues(k, v, logit_bias, moments, trust_bias is not None)

    def forward(self, query: Tensor, keys_values: KeysValues) -> tuple[Tensor, Tensor]:
        """Attend from target features (B, h, H, W).

        Returns:
            attended features (B, h, H, W); attended moments (B, X, H, W).
        """
        size = query.shape[2:]
        weight = self.project_in.weight[: self.half_width]
        bias = self.project_in.bias[: self.half_width]
        q = self._split_heads(linear(_to_cells(query, self.axis), weight, bias)) * self.scale
        length = q.shape[3]
        count = keys_values.k.shape[3] // length
        logits = q @ keys_values.k.transpose(-2, -1)
        tables = None
        if self.relative is not None:
            tables = self.position_tables(length, q.dtype)
            position_logits = torch.einsum("BLhid,ijd->BLhij", q, tables[0])
            logits += position_logits.repeat(1, 1, 1, 1, count) if count > 1 else position_logits
        if keys_values.bias is not None:
            logits += keys_values.bias
        weights = logits.softmax(-1)
        attended = weights @ keys_values.v
        if tables is not None:
            by_position = weights
            if count > 1:
                by_position = weights.unflatten(4, (count, length)).sum(4)
            attended += torch.einsum("BLhij,ijd->BLhid", by_position, tables[2])
        attended = self.project_out(rearrange(attended, "B L h i d -> B L i (h d)"))
        moments = keys_values.moments.to(weights.dtype)
        # Without moments the product has no channels, and the mean over heads is not needed.
        moments = (weights.mean(2) if moments.shape[-1] else weights[:, :, 0]) @ moments
        return _to_map(attended, self.axis, size), _to_map(moments, self.axis, size)

    def _split_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "G L s (h d) -> G L h s d", h=self.heads)

    def position_tables(self, length: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return r^q, r^k, r^v for lines of `length`: each (i, j, d), entry j - i of the table."""
        table = self.relative
        if table is None:
            raise ValueError("exemplar: this attention has no relative positions.")
        if not self.local_span and length == 1:
            table = table[len(table) // 2][None]
        elif not self.local_span and len(table) != 2 * length - 1:  # trained for another length
            table = F.interpolate(
                table.T[None], size=2 * length - 1, mode="linear", align_corners=True
            )[0].T
        index = torch.arange(length, device=table.device)
        limit = len(table) // 2
        table = table.to(dtype)[(index - index[:, None]).clamp(-limit, limit) + limit]
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

    def keys_values(self, references: Sequence[Reference]) -> KeysValues:
        """Project all cells of all references."""
        cells = torch.cat([_to_cells(r.features, self.axis) for r in references], dim=2)
        weight, bias = self.project_in.weight[self.width :], self.project_in.bias[self.width :]
        kv = linear(cells, weight, bias)
        k, v = (rearrange(x, "G L s (h d) -> G L h s d", h=self.heads) for x in kv.chunk(2, -1))
        trust_bias = _trust_bias(references, self.axis, k.dtype)
        moments = torch.cat([_to_cells(r.moments, self.axis) for r in references], dim=2)
        return KeysValues(k, v, trust_bias, moments, trust_bias is not None)

    def forward(self, query: Tensor, keys_values: KeysValues) -> tuple[Tensor, Tensor]:
        """Attend from target features (B, h, H, W).

        Returns:
            attended features (B, h, H, W); attended moments (B, X, H, W).
        """
        size, batch = query.shape[2:], query.shape[0]
        weight, bias = self.project_in.weight[: self.width], self.project_in.bias[: self.width]
        q = linear(_to_cells(query, self.axis), weight, bias)
        q = rearrange(q, "B 1 s (h d) -> B h s d", h=self.heads)
        # The moments are further channels of the values. Fused kernels need q, k and v of one
        # width, a multiple of 8.
        d, extra = q.shape[-1], keys_values.moments.shape[-1]
        moments = keys_values.moments.to(q.dtype)[:, :, None].expand(-1, -1, self.heads, -1, -1)
        k, v = keys_values.k[:, 0], torch.cat([keys_values.v, moments], dim=-1)[:, 0]
        padded = d if not extra else math.ceil((d + extra) / 8) * 8
        q, k, v = (F.pad(x, (0, padded - x.shape[-1])) for x in (q, k, v))
        k, v = (x.expand(batch, -1, -1, -1) for x in (k, v))
        mask = keys_values.bias
        if mask is not None:
            mask = mask[:, 0].expand(batch, -1, q.shape[2], -1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=d**-0.5)
        moments = attended[..., d : d + extra].mean(1)[:, None]
        attended = self.project_out(rearrange(attended[..., :d], "B h s d -> B 1 s (h d)"))
        return _to_map(attended, self.axis, size), _to_map(moments, self.axis, size)


def _resize_reference(reference: Reference, size: Sequence[int]) -> Reference:
    """Resize a reference to the target's grid: axial attention needs equal rows and columns."""
    features, trust, moments = reference
    if tuple(features.shape[2:]) == tuple(size):
        return reference
    return Reference(
        resize_bilinear(features, size),
        None if trust is None else resize_bilinear(trust, size),
        # `interpolate` refuses maps without channels.
        resize_bilinear(moments, size)
        if moments.shape[1]
        else moments.new_empty(moments.shape[0], 0, *size),
    )


class AttentionModule(nn.Module):
    """Figure 2: batch norm and ReLU of both sources, attention, sum with the target, ReLU."""

    def __init__(self, config: Config, level: int):
        super().__init__()
        self.kind = config.attention[LEVELS.index(level)]
        self.fused = config.second_kv == "fused"
        self.xcnet_compat = config.compat == "xcnet"
        self.target_norm = nn.BatchNorm2d(config.width)
        self.reference_norm = nn.BatchNorm2d(config.width)
        self.first: AxialAttention | StandardAttention
        if self.kind == "axial":
            first, second = ("h", "w") if self.xcnet_compat else ("w", "h")
            self.first = AxialAttention(config, config.span or SPANS[level], first)
            self.second = AxialAttention(config, config.span or SPANS[level], second)
        else:
            self.first = StandardAttention(config)

    def keys_values(self, references: Sequence[Reference], size: Sequence[int]) -> list[KeysValues]:
        """Encode references for each attention layer, for targets of `size` at this level."""
        if self.kind == "axial":
            references = [_resize_reference(r, size) for r in references]
        normalized = [
            r._replace(features=self._normalize(self.reference_norm, r.features))
            for r in references
        ]
        layers = [self.first.keys_values(normalized)]
        if self.kind == "axial" and not self.fused:
            source = references if self.xcnet_compat else normalized
            layers.append(self.second.keys_values(source))
        return layers

    def forward(self, target: Tensor, keys_values: list[KeysValues]) -> tuple[Tensor, Tensor]:
        """Fuse target features (B, h, H, W) with the references.

        Returns:
            fused features (B, h, H, W); attended moments (B, X, H, W).
        """
        x, moments = self.first(self._normalize(self.target_norm, target), keys_values[0])
        if self.kind == "axial":
            if self.fused:
                trust = moments[:, :1] if keys_values[0].has_trust else None
                attended = Reference(x, trust, moments)
                keys_values = [*keys_values, self.second.keys_values([attended])]
            x, moments = self.second(x, keys_values[1])
        return F.relu(x + target), moments

    def _normalize(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return norm(x) if self.xcnet_compat else F.relu(norm(x))
