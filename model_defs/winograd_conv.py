"""3x3 convolutions with a quarter of the multiplications: F(4x4, 3x3) for float32 on a CPU.

Lavin, Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308,
equations 9 to 12, in both directions one after the other: Y = A^T [(G g G^T) * (B^T d B)] A. The
products of transformed pictures and filters are 36 products of matrices, which oneDNN does as
convolutions of 1x1. Sums are those of the plain convolution, rounded otherwise: about 4e-6 of the
result's size (root mean square) where the plain one has 1e-6.

What costs is moving data, so strips of rows small enough for a processor's cache go through all
steps, and filters are transformed and packed once.
"""

import platform
import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 4  # rows and columns of a result's tile; SIX of the picture belong to it
SIX = TILE + 2
TILES = 512  # of a strip, about: rows of the matrices
BLOCK = 16  # channels are filled up to multiples of it, with zeros: odd numbers cost twice the time
# Measured (benchmarks/convolution.py): smaller maps and fewer channels are as fast or faster plain.
LEAST_CHANNELS = 256
LEAST_PIXELS = 28**2

# G of the paper: filters (3) -> products (6). B^T is in `_split`, A^T in `_join`.
FILTERS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# module -> (its weight, in which state, filters)
_packed: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` of 3x3 with padding 1; large ones without gradients go the short way."""

    def __init__(self, before: int, after: int, *, bias: bool = True):
        super().__init__(before, after, 3, padding=1, bias=bias)

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, C, H, W), or several whose channels stand one after another -> (B, K, H, W)."""
        if not pays(self, maps[0]):
            return super().forward(maps[0] if len(maps) == 1 else torch.cat(maps, dim=1))
        filters = _filters(self, strip(*maps[0].shape[2:]))
        return convolve(maps, filters, self.out_channels, self.bias)


def pays(module: nn.Conv2d, x: Tensor) -> bool:
    """Whether the short way may be gone and is worth it for maps of the kind of `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype == module.weight.dtype == torch.float32
        and x.shape[2] * x.shape[3] >= LEAST_PIXELS
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and "weight" in module._parameters  # otherwise it is computed anew at each call
        and possible()
    )


def possible() -> bool:
    """Whether this torch can multiply by packed filters."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.aten, "mkldnn_reorder_conv2d_weight")
    )


def _filters(module: nn.Conv2d, tiles: tuple[int, int]) -> list[list[Tensor]]:
    """Packed filters of a module for one size, kept as long as the module and its weights live."""
    weight = module.weight
    version = 0 if weight.is_inference() else weight._version  # counts changes in place
    state = weight.data_ptr(), version, tiles
    of, packed_in, filters = _packed.get(module, (lambda: None, None, None))
    if of() is not weight or packed_in != state:  # another may come to lie at the same address
        filters = pack(weight, tiles)
        _packed[module] = weakref.ref(weight), state, filters
    return filters


def strip(height: int, width: int) -> tuple[int, int]:
    """Tiles down and across of the strips, about equal, in which a picture is worked on."""
    down, across = -(-height // TILE), -(-width // TILE)
    return -(-down // -(-down * across // TILES)), across


def pack(weight: Tensor, tiles: tuple[int, int]) -> list[list[Tensor]]:
    """(K, C, 3, 3) float32 -> 6x6 filters of 1x1, as oneDNN wants them.

    Args:
        weight: any number of channels.
        tiles: of `strip`. Packed for other ones, they may take ten times as long.
    """
    both = torch.kron(*[torch.tensor(FILTERS, dtype=torch.float64)] * 2).to(weight.dtype)
    weight = F.pad(weight.flatten(2), (0, 0, 0, -weight.shape[1] % BLOCK))
    weight = F.pad(weight, (0, 0, 0, 0, 0, -weight.shape[0] % BLOCK))
    many = (both @ weight.flatten(0, 1).T).unflatten(1, weight.shape[:2])[..., None, None]
    size = [1, many.shape[2], *tiles]
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    packed = [reorder(one.to_mkldnn(), [0, 0], [1, 1], [1, 1], 1, size) for one in many]
    return [packed[i : i + SIX] for i in range(0, SIX * SIX, SIX)]


def packed_bytes(before: int, after: int) -> int:
    """What the packed filters of a convolution take: four times its weights, or nothing."""
    return 4 * SIX**2 * before * after if min(before, after) >= LEAST_CHANNELS else 0


def convolve(
    maps: Sequence[Tensor],
    filters: list[list[Tensor]],
    channels: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolution of 3x3 with zeros around: (B, C, H, W) -> (B, K, H, W) in channels_last memory.

    Args:
        maps: one or more (B, C_i, H, W) float32, best in channels_last memory; C is their sum.
        filters: of `pack`.
        channels: K.
        bias: (K,).
    """
    x, before = maps[0], sum(part.shape[1] for part in maps)
    batch, _, height, width = x.shape
    wide, after = before + -before % BLOCK, channels + -channels % BLOCK
    count, across = strip(height, width)
    y = x.new_empty(batch, height, width, channels)
    if bias is not None:
        bias = F.pad(bias, (0, after - channels))
    # Rows of a strip, one more above and below, zeros around; then what is made of them.
    rows = x.new_zeros(TILE * count + 2, TILE * across + 2, wide)
    split = x.new_empty(8, count, TILE * across + 2, wide)
    split_both = x.new_empty(8, count, across, wide)
    joined = x.new_empty(SIX, count, TILE * across, after)
    scratch = x.new_empty(4, count, TILE * across, after)
    scratch_both = x.new_empty(4, count, across, after)
    pictures = zip(*(part.permute(0, 2, 3, 1) for part in maps), strict=True)
    for picture, result in zip(pictures, y, strict=True):
        for top in range(0, height, TILE * count):
            bottom = min(top + TILE * count, height)
            first, last = max(top - 1, 0), min(bottom + 1, height)
            rows[: first - top + 1].zero_()
            rows[last - top + 1 :].zero_()
            inside = rows[first - top + 1 : last - top + 1, 1 : width + 1, :before]
            for place, part in zip(
                inside.split([p.shape[2] for p in picture], 2), picture, strict=True
            ):
                place.copy_(part[first:last])
            _split(_lines(rows, 0), split)
            for i, line in enumerate(split[:SIX]):
                _split(_lines(line, 1), split_both)
                # The second of six counts in all results alike: so does a bias given to it.
                products = [
                    _multiplied(split_both[j], filters[i][j], bias if i == j == 1 else None)
                    for j in range(SIX)
                ]
                _join(products, joined[i].unflatten(1, (across, TILE)).unbind(2), scratch_both)
            if bottom - top == TILE * count and width == TILE * across:
                lines = result[top:bottom].unflatten(0, (count, TILE)).unbind(1)
                _join(joined[..., :channels], lines, scratch[..., :channels])
            else:
                whole = x.new_empty(count, TILE, TILE * across, after)
                _join(joined, whole.unbind(1), scratch)
                result[top:bottom] = whole.flatten(0, 1)[: bottom - top, :width, :channels]
    return y.permute(0, 3, 1, 2)


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(n, m, C) by a packed filter (K, C, 1, 1) -> (n, m, K)."""
    x, one = x.permute(2, 0, 1)[None], [1, 1]
    multiply = torch.ops.mkldnn._convolution_pointwise
    return multiply(x, weight, bias, [0, 0], one, one, 1, "none", [], "")[0].permute(1, 2, 0)


def _lines(x: Tensor, dim: int) -> list[Tensor]:
    """The six lines of all tiles along `dim`: every fourth one, from 0, ... 5 on."""
    last = x.shape[dim] - SIX
    every = (slice(None),) * dim
    return [x[(*every, slice(i, last + i + 1, TILE))] for i in range(SIX)]


def _split(d: Sequence[Tensor], out: Tensor) -> None:
    """B^T d: six lines -> the first six of `out`; its last two are scratch."""
    d0, d1, d2, d3, d4, d5 = d
    t, s = out[6:]
    torch.sub(d4, d2, alpha=4, out=t)
    torch.sub(d3, d1, alpha=4, out=s)
    torch.add(t, s, out=out[1])
    torch.sub(t, s, out=out[2])
    torch.sub(d4, d2, out=t)
    torch.sub(d3, d1, out=s)
    torch.add(t, s, alpha=2, out=out[3])
    torch.sub(t, s, alpha=2, out=out[4])
    torch.sub(d0, d2, out=out[0])
    torch.add(t, out[0], alpha=4, out=out[0])
    torch.sub(d5, d3, out=out[5])
    out[5].sub_(s, alpha=4)


def _join(m: Sequence[Tensor], out: Sequence[Tensor], scratch: Tensor) -> None:
    """A^T m: six products -> the four lines of `out`."""
    m0, m1, m2, m3, m4, m5 = m
    s, d, p, q = scratch
    torch.add(m1, m2, out=s)
    torch.sub(m1, m2, out=d)
    torch.add(m3, m4, out=p)
    torch.sub(m3, m4, out=q)
    torch.add(s, p, out=out[0])
    out[0].add_(m0)
    torch.add(d, q, alpha=2, out=out[1])
    torch.add(s, p, alpha=4, out=out[2])
    torch.add(d, q, alpha=8, out=out[3])
    out[3].add_(m5)
