"""3x3 convolutions with a quarter of the multiplications: F(4x4, 3x3) in float32 on a CPU.

Lavin, Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308,
equations 9 to 12, applied to rows and then to columns: Y = A^T [(G g G^T) * (B^T d B)] A. The
products of transformed images and filters are 36 matrix products, which oneDNN computes as 1x1
convolutions. The sums are those of the plain convolution with other rounding: an error of about
4e-6 of the result (root mean square), against 1e-6 for the plain one.

Memory traffic dominates the time. Strips of rows that fit into a processor's cache therefore pass
through all steps at once, and filters are transformed and packed once.
"""

import platform
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

OUTPUT_TILE = 4  # rows and columns of an output tile
INPUT_TILE = OUTPUT_TILE + 2  # rows and columns of the input that an output tile depends on
TILES_PER_STRIP = 512  # approximate rows of the matrices
CHANNEL_MULTIPLE = 16  # channels are zero-padded to multiples; odd counts take twice the time
# Measured (benchmarks/convolution.py): below these sizes the plain convolution is as fast.
MIN_CHANNELS = 256
MIN_PIXELS = 28**2

# G of the paper: filter taps (3) -> products (6). B^T is in `_transform_input`, A^T in
# `_transform_output`.
FILTER_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)

Filters = list[list[Tensor]]
"""6x6 packed 1x1 filters in oneDNN's layout."""


class PackedFilters:
    """Cache of one convolution's packed filters.

    The convolution owns it: filters are freed with the module, replaced when the weight or the tile
    layout changes, and dropped by `clear`. A lock lets several threads run one network. Copies and
    pickles of the module start with an empty cache.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weight: weakref.ref[Tensor] | None = None
        self._state: tuple[int, int, tuple[int, int]] | None = None
        self._filters: Filters | None = None

    def get(self, weight: Tensor, tiles: tuple[int, int]) -> Filters:
        """Return the filters of `weight` (K, C, 3, 3), packed for strips of `tiles`."""
        version = 0 if weight.is_inference() else weight._version  # counts in-place changes
        state = weight.data_ptr(), version, tiles
        with self._lock:
            # A new weight can have the address of a freed one, so the object is compared as well.
            same = self._weight is not None and self._weight() is weight
            if self._filters is None or not same or self._state != state:
                self._filters = pack_filters(weight, tiles)
                self._weight, self._state = weakref.ref(weight), state
            return self._filters

    def clear(self) -> None:
        """Free the filters."""
        with self._lock:
            self._weight = self._state = self._filters = None

    @property
    def empty(self) -> bool:
        """True if nothing is cached."""
        return self._filters is None

    def __reduce__(self) -> tuple[type["PackedFilters"], tuple[()]]:
        return PackedFilters, ()


class Conv3x3(nn.Conv2d):
    """3x3 convolution with padding 1; large ones without gradients use the Winograd algorithm."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.packed_filters = PackedFilters()

    # One map or several, where torch declares one.
    def forward(self, *maps: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        """Convolve (B, C, H, W), or several maps concatenated along C: (B, K, H, W)."""
        if not use_winograd(self, maps[0]):
            return super().forward(maps[0] if len(maps) == 1 else torch.cat(maps, dim=1))
        filters = self.packed_filters.get(self.weight, strip_tiles(*maps[0].shape[2:]))
        return convolve(maps, filters, self.out_channels, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Self":
        """Move or convert the module; free the filters if it can no longer use them."""
        super()._apply(fn, recurse)
        weight = self._parameters.get("weight")
        if weight is None or weight.device.type != "cpu" or weight.dtype != torch.float32:
            self.packed_filters.clear()
        return self


def use_winograd(module: nn.Conv2d, x: Tensor) -> bool:
    """Return True if the Winograd path is supported and faster for this input."""
    return (
        x.device.type == "cpu"
        and x.dtype == module.weight.dtype == torch.float32
        and x.shape[2] * x.shape[3] >= MIN_PIXELS
        and min(module.in_channels, module.out_channels) >= MIN_CHANNELS
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and "weight" in module._parameters  # a parametrized weight is recomputed at each call
        and is_supported()
    )


def is_supported() -> bool:
    """Return True if this torch build can multiply by packed filters."""
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.aten, "mkldnn_reorder_conv2d_weight")
    )


def strip_tiles(height: int, width: int) -> tuple[int, int]:
    """Return the tiles down and across of the strips of an image; strips are about equal."""
    down, across = -(-height // OUTPUT_TILE), -(-width // OUTPUT_TILE)
    return -(-down // -(-down * across // TILES_PER_STRIP)), across


def pack_filters(weight: Tensor, tiles: tuple[int, int]) -> Filters:
    """Transform and pack (K, C, 3, 3) float32 filters.

    Args:
        weight: filters with any number of channels.
        tiles: result of `strip_tiles`. With filters packed for another layout, convolutions may
            take ten times as long.
    """
    transform = torch.tensor(FILTER_TRANSFORM, dtype=torch.float64)
    transform_2d = torch.kron(transform, transform).to(weight.dtype)
    weight = F.pad(weight.flatten(2), (0, 0, 0, -weight.shape[1] % CHANNEL_MULTIPLE))
    weight = F.pad(weight, (0, 0, 0, 0, 0, -weight.shape[0] % CHANNEL_MULTIPLE))
    products = transform_2d @ weight.flatten(0, 1).T
    products = products.unflatten(1, weight.shape[:2])[..., None, None]
    input_size = [1, products.shape[2], *tiles]
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    packed = [reorder(w.to_mkldnn(), [0, 0], [1, 1], [1, 1], 1, input_size) for w in products]
    return [packed[i : i + INPUT_TILE] for i in range(0, INPUT_TILE**2, INPUT_TILE)]


def packed_bytes(in_channels: int, out_channels: int) -> int:
    """Return the bytes of a convolution's packed filters: 4 times its weights, or 0 if unused."""
    if min(in_channels, out_channels) < MIN_CHANNELS:
        return 0
    return 4 * INPUT_TILE**2 * in_channels * out_channels


def convolve(
    maps: Sequence[Tensor],
    filters: Filters,
    channels: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve with 3x3 filters and zero padding.

    Args:
        maps: one or more (B, C_i, H, W) float32, preferably channels_last; C is their sum.
        filters: result of `pack_filters`.
        channels: K.
        bias: (K,).
    Returns:
        (B, K, H, W) in channels_last memory.
    """
    x, in_channels = maps[0], sum(part.shape[1] for part in maps)
    batch, _, height, width = x.shape
    padded_in = in_channels + -in_channels % CHANNEL_MULTIPLE
    padded_out = channels + -channels % CHANNEL_MULTIPLE
    count, across = strip_tiles(height, width)
    y = x.new_empty(batch, height, width, channels)
    if bias is not None:
        bias = F.pad(bias, (0, padded_out - channels))
    # Buffers that every strip reuses. `rows` has one more row above and below, and zeros around.
    rows = x.new_zeros(OUTPUT_TILE * count + 2, OUTPUT_TILE * across + 2, padded_in)
    split_rows = x.new_empty(8, count, OUTPUT_TILE * across + 2, padded_in)
    split_both = x.new_empty(8, count, across, padded_in)
    joined = x.new_empty(INPUT_TILE, count, OUTPUT_TILE * across, padded_out)
    scratch_rows = x.new_empty(4, count, OUTPUT_TILE * across, padded_out)
    scratch_columns = x.new_empty(4, count, across, padded_out)
    images = zip(*(part.permute(0, 2, 3, 1) for part in maps), strict=True)
    for image, result in zip(images, y, strict=True):
        for top in range(0, height, OUTPUT_TILE * count):
            bottom = min(top + OUTPUT_TILE * count, height)
            first, last = max(top - 1, 0), min(bottom + 1, height)
            rows[: first - top + 1].zero_()
            rows[last - top + 1 :].zero_()
            inside = rows[first - top + 1 : last - top + 1, 1 : width + 1, :in_channels]
            for target, part in zip(
                inside.split([p.shape[2] for p in image], 2), image, strict=True
            ):
                target.copy_(part[first:last])
            _transform_input(_tile_lines(rows, 0), split_rows)
            for i, line in enumerate(split_rows[:INPUT_TILE]):
                _transform_input(_tile_lines(line, 1), split_both)
                # The second product has weight 1 in every output, so it can carry the bias.
                products = [
                    _multiply(split_both[j], filters[i][j], bias if i == j == 1 else None)
                    for j in range(INPUT_TILE)
                ]
                columns = joined[i].unflatten(1, (across, OUTPUT_TILE)).unbind(2)
                _transform_output(products, columns, scratch_columns)
            if bottom - top == OUTPUT_TILE * count and width == OUTPUT_TILE * across:
                lines = result[top:bottom].unflatten(0, (count, OUTPUT_TILE)).unbind(1)
                _transform_output(joined[..., :channels], lines, scratch_rows[..., :channels])
            else:
                whole = x.new_empty(count, OUTPUT_TILE, OUTPUT_TILE * across, padded_out)
                _transform_output(joined, whole.unbind(1), scratch_rows)
                result[top:bottom] = whole.flatten(0, 1)[: bottom - top, :width, :channels]
    return y.permute(0, 3, 1, 2)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply (n, m, C) by a packed filter (K, C, 1, 1): (n, m, K)."""
    x, ones = x.permute(2, 0, 1)[None], [1, 1]
    multiply = torch.ops.mkldnn._convolution_pointwise
    return multiply(x, weight, bias, [0, 0], ones, ones, 1, "none", [], "")[0].permute(1, 2, 0)


def _tile_lines(x: Tensor, dim: int) -> list[Tensor]:
    """Return line i = 0 ... 5 of all tiles along `dim`: every fourth line, starting at i."""
    last = x.shape[dim] - INPUT_TILE
    leading = (slice(None),) * dim
    return [x[(*leading, slice(i, last + i + 1, OUTPUT_TILE))] for i in range(INPUT_TILE)]


def _transform_input(d: Sequence[Tensor], out: Tensor) -> None:
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


def _transform_output(m: Sequence[Tensor] | Tensor, out: Sequence[Tensor], scratch: Tensor) -> None:
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
