"""Replacements of network methods whose traced graph is valid for all image sizes.

The networks process the last windows of a map separately, skip empty parts and use sizes as Python
numbers, which a trace would freeze. Each function here replaces one method and returns the same
result, up to rounding, by operations that do not depend on the size. Sizes are positive and divided
rounding down, as in ONNX.
"""

import copy
import math
import types
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_defs import colorformer, pointhint, xcnet, xcnet_attention


class Traceable(nn.Module):
    """A copy of a network with the methods of TRACEABLE_METHODS; its forward is `predict_ab`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            if type(module) in TRACEABLE_METHODS:
                name, method = TRACEABLE_METHODS[type(module)]
                if not hasattr(module, name):
                    raise AttributeError(f"{type(module).__name__} has no method {name}.")
                setattr(module, name, types.MethodType(method, module))

    def forward(self, *inputs: Tensor) -> Tensor:
        return predict_ab(self.network, inputs)


def predict_ab(network: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return the output of the ONNX file: ab in Lab units, the finest of an exemplar network.

    Args:
        network: the network.
        inputs: its inputs; for exemplar networks target, reference and possibly the prior.
    """
    names = ("prior",) if len(inputs) == 3 else ()
    output = network(*inputs[:2], **dict(zip(names, inputs[2:], strict=True)))
    return output if isinstance(output, Tensor) else xcnet.AB_SCALE * output[0]


# --- Windows -----------------------------------------------------------------------------------


def _window_count(length: int, side: int) -> int:
    """Return the number of windows of `side` that cover `length`."""
    return (length + side - 1) // side


def _split_windows(x: Tensor, side: int, heads: int, shift: Sequence[int] = (0, 0)) -> list[Tensor]:
    """Pad, roll back by `shift` and split (B, H, W, 3 C) into q, k, v (B, i, j, heads, T, d)."""
    batch, height, width, _ = x.shape
    rows, columns = _window_count(height, side), _window_count(width, side)
    x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    x = _roll_back(_roll_back(x, shift[0], 1), shift[1], 2)
    x = x.reshape(batch, rows, side, columns, side, -1).transpose(2, 3)
    x = x.reshape(batch, rows, columns, side * side, 3, heads, x.shape[-1] // (3 * heads))
    return [part.transpose(3, 4) for part in x.unbind(4)]


def _merge_windows(
    x: Tensor, side: int, size: Sequence[int], shift: Sequence[int] = (0, 0)
) -> Tensor:
    """Undo `_split_windows`: (B, i, j, heads, T, d) -> (B, H, W, C); `size` is (B, H, W)."""
    batch, height, width = size
    rows, columns = _window_count(height, side), _window_count(width, side)
    channels = x.shape[3] * x.shape[5]
    x = x.transpose(3, 4).reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
    x = x.reshape(batch, rows * side, columns * side, channels)
    x = _roll_back(_roll_back(x, rows * side - shift[0], 1), columns * side - shift[1], 2)
    return x[:, :height, :width]


def _roll_back(x: Tensor, shift: int, dim: int) -> Tensor:
    """Return roll(-shift) for 0 <= shift <= length."""
    if isinstance(shift, int) and shift == 0:
        return x
    length = x.shape[dim]
    index = torch.arange(length, device=x.device) + shift
    return x.index_select(dim, torch.where(index >= length, index - length, index))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d) + bias) V."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v


def _different_kinds(y: Tensor, x: Tensor) -> Tensor:
    """Return a mask (i, j, 1, T, T) of token pairs of different kinds.

    Args:
        y, x: kinds of rows (i, side) and columns (j, side).
    """
    kind = (3 * y[:, None, :, None] + x[None, :, None, :]).flatten(2)
    return (kind[..., :, None] != kind[..., None, :])[:, :, None]


# --- ColorFormer -------------------------------------------------------------------------------


def _pooling_matrix(length: int, cells: int, like: Tensor) -> Tensor:
    """Return adaptive average pooling as a matrix (cells, length)."""
    index, cell = (torch.arange(n, device=like.device) for n in (length, cells))
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((index >= start[:, None]) & (index < end[:, None])).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _global_local_attention(self: colorformer.GlobalLocalAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    rows, columns = (_window_count(n, side) for n in size[1:])
    x = F.pad(x, (0, 0, 0, columns * side - size[2], 0, rows * side - size[1]))
    q, k, v = _split_windows(self.qkv(x), side, self.heads)
    down, across = (_pooling_matrix(n * side, self.pooled, x) for n in (rows, columns))
    pooled = down @ x.permute(0, 3, 1, 2) @ across.transpose(0, 1)
    kv = self.global_kv(self.global_norm(pooled.flatten(2).transpose(1, 2)))
    kv = kv.unflatten(2, (2, self.heads, x.shape[-1] // self.heads))[:, None, None]
    global_k, global_v = (t.transpose(3, 4) for t in kv.unbind(4))
    q = q * q.shape[-1] ** -0.5
    local_logits = q @ k.transpose(-2, -1) + self.bias()
    weights = torch.cat([local_logits, q @ global_k.transpose(-2, -1)], dim=-1).softmax(-1)
    local, distant = weights.split([side**2, self.pooled**2], dim=-1)
    return self.project(_merge_windows(local @ v + distant @ global_v, side, size))


def _shifted_window_attention(self: colorformer.ShiftedWindowAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    rows, columns = (_window_count(n, side) for n in size[1:])
    # Padded before the projection, so that padding gets its bias.
    x = F.pad(x, (0, 0, 0, columns * side - size[2], 0, rows * side - size[1]))
    shift = [side // 2] * 2
    q, k, v = _split_windows(self.qkv(x), side, self.heads, shift)

    def wrapped(count: int) -> Tensor:
        index = torch.arange(count * side, device=x.device)
        return (index >= count * side - side // 2).long().reshape(count, side)

    bias = self.bias() - 100.0 * _different_kinds(wrapped(rows), wrapped(columns))
    return self.project(_merge_windows(_attend(q, k, v, bias), side, size, shift))


# --- Point hints -------------------------------------------------------------------------------


def _hint_window_attention(self: pointhint.WindowAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    # An axis that fits into one window is not shifted: the last factor is then 0, else 1.
    shift = [self.shift and self.shift * (1 - 1 // (1 + (n - 1) // side)) for n in size[1:]]
    q, k, v = _split_windows(self.qkv(x), side, self.heads, shift)

    def kinds(length: int, offset: int) -> Tensor:
        padded = _window_count(length, side) * side
        index = torch.arange(padded, device=x.device)
        wrapped, empty = (index >= padded - offset).long(), (index >= length - offset).long()
        return (2 * empty - wrapped * empty).reshape(_window_count(length, side), side)

    masked = _different_kinds(*(kinds(n, by) for n, by in zip(size[1:], shift, strict=True)))
    bias = torch.where(masked, -math.inf, self.bias())
    return self.project(_merge_windows(_attend(q, k, v, bias), side, size, shift))


def _feature_window_attention(
    self: pointhint.FeatureWindowAttention, x: Tensor, windows: pointhint.FeatureWindows
) -> Tensor:
    if windows.valid is None:
        raise ValueError("pointhint: a traced network needs the windows of `_feature_windows`.")
    batch, height, width, _ = x.shape
    count, slots = windows.token.shape
    qkv = self.qkv(x).flatten(0, 2)[windows.token.flatten()]
    inner = self.project.in_features
    qkv = qkv.reshape(count, slots, 3, self.heads, inner // self.heads)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    attended = _attend(q, k, v, windows.valid)
    attended = attended.transpose(1, 2).reshape(count * slots, inner)[windows.slot]
    return self.project(attended).reshape(batch, height, width, self.project.out_features)


def _hint_stage(self: pointhint.Stage, z: Tensor, lightness: Tensor) -> Tensor:
    _, height, width, channels = z.shape
    position = _sine_position(height, width, channels, pointhint.RESOLUTION // self.patch, z)
    windows = _feature_windows(lightness, self.patch, height, width, self.window_tokens)
    for block in self.blocks:
        z = block(z, position, windows)
    return z


def _sine_position(height: int, width: int, channels: int, side: int, like: Tensor) -> Tensor:
    """Return the position encoding of the network for traced sizes."""
    exponents = torch.arange(channels // 4, device=like.device) / (channels // 4)
    area = torch.full((), height * width, dtype=torch.float32, device=like.device)

    def axis(length: int) -> Tensor:
        index = torch.arange(length, device=like.device)
        angle = ((index + 0.5) * (side / area.sqrt()) - 0.5)[:, None] * 10000**-exponents
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    y, x = axis(height)[:, None], axis(width)[None]
    return torch.cat([y.expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1)


def _feature_windows(
    lightness: Tensor, patch: int, height: int, width: int, size: int
) -> pointhint.FeatureWindows:
    """Return feature windows by brightness; `valid` is a summand of the logits here."""
    batch, count = lightness.shape[0], height * width
    patches = lightness.reshape(batch, height, patch, width, patch).transpose(2, 3)
    patches = patches.reshape(batch, count, patch * patch)
    # parts = round(count / size), half to even, and at least 1
    twice = 2 * count + size
    parts = twice // (2 * size)
    parts = parts - 1 // (1 + twice % (2 * size)) * (parts % 2)
    parts = parts + 1 // (1 + parts)
    order = patches.mean(-1).argsort(dim=1)  # ties by position, as in ONNX's TopK
    longest = (count + parts - 1) // parts
    start = torch.arange(parts + 1, device=lightness.device) * count // parts
    index = start[:-1, None] + torch.arange(longest, device=lightness.device)
    rank = torch.arange(count, device=lightness.device)
    part = ((rank + 1) * parts - 1) // count
    own_slot = part * longest + rank - start[part]
    image = torch.arange(batch, device=lightness.device)[:, None]
    inside = index.clamp(max=count - 1).flatten()
    token = (order + image * count)[:, inside].reshape(batch * parts, longest)
    slot = torch.empty_like(order).scatter(1, order, own_slot + image * (parts * longest)).flatten()
    surplus = torch.where(index < start[1:, None], 0.0, -math.inf)
    return pointhint.FeatureWindows(token, slot, surplus.repeat(batch, 1)[:, None, None])


# --- Exemplar ----------------------------------------------------------------------------------


def _position_tables(
    self: xcnet_attention.AxialAttention, length: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    table = self.relative
    if table is None:
        raise ValueError("exemplar: this attention has no relative positions.")
    limit = len(table) // 2
    index = torch.arange(length, device=table.device)
    offset = index - index[:, None]
    if self.local_span:
        tables = table.to(dtype)[offset.clamp(-limit, limit) + limit]
    else:  # linearly interpolated about the middle, to 2 length - 1 entries
        longest = torch.full((), length - 1, dtype=torch.float32, device=table.device)
        ends = torch.arange(2 * length - 1, device=table.device) - (length - 1)
        position = limit + ends * (limit / longest.clamp_min(1))
        low = position.floor().clamp(0, 2 * limit).long()
        high, weight = (low + 1).clamp(max=2 * limit), (position - low)[:, None]
        table = table[low] * (1 - weight) + table[high] * weight
        tables = table.to(dtype)[offset + length - 1]
    d_k = tables.shape[-1] // 4
    return tables.split([d_k, d_k, 2 * d_k], dim=-1)


def _pool_lab(self: xcnet.XCNet, reference: Tensor, grid: Sequence[int]) -> Tensor:
    batch, channels, height, width = reference.shape
    rows, columns = grid
    cells = reference.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return cells.mean(dim=(3, 5))


TRACEABLE_METHODS: dict[type[nn.Module], tuple[str, Callable[..., Tensor | tuple[Tensor, ...]]]] = {
    # class -> name of the method, its replacement
    colorformer.GlobalLocalAttention: ("forward", _global_local_attention),
    colorformer.ShiftedWindowAttention: ("forward", _shifted_window_attention),
    xcnet_attention.AxialAttention: ("position_tables", _position_tables),
    xcnet.XCNet: ("pool_lab", _pool_lab),
    pointhint.WindowAttention: ("forward", _hint_window_attention),
    pointhint.FeatureWindowAttention: ("forward", _feature_window_attention),
    pointhint.Stage: ("forward", _hint_stage),
}
