"""Write a network for use elsewhere: as our safetensors in another precision, or as ONNX.

    python trainers/export.py --model ddcolor_modelscope.pth --dtype float16 --out small.safetensors
    python trainers/export.py --model ddcolor-nano --out ddcolor.onnx
    # The same, installed
    colorist train export --model ddcolor-nano --out ddcolor.onnx
    colorist models convert ddcolor-nano -o ddcolor.onnx

An ONNX file takes any batch, height and width (multiples of what its metadata says). Before it is
written, onnxruntime runs it beside PyTorch at sizes it was not traced at; it is refused if the two
differ. Inputs, outputs and an example: docs/export.md.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import copy
import hashlib
import io
import json
import math
import os
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..console import checks, errors, output
from ..media.atomic import write_whole
from ..model_defs import checkpoint, colorformer, pointhint, registry, xcnet, xcnet_attention
from ..model_defs.spec import Spec
from ..model_store import resolve
from ..pipeline import loader
from .runtime import settings

PRESETS: dict[str, dict] = {}
TOLERANCE = 0.01  # Lab units that onnxruntime and PyTorch may differ by; float32 gives about 0.0003
PROTOBUF = 2**31 - 2**20  # bytes that one ONNX file can hold, less some for the graph
ONNX_DTYPES = ("float32", "float16")

# Batch, height and width in tiles of `spec.multiple`: what is run to check a file. None is what was
# traced.
CHECKED = ((1, 1, 1), (1, 8, 8), (2, 3, 7), (3, 9, 4))
TRACED = (2, 5, 6)

INPUTS = {  # Spec.model_input -> name -> what it is
    "gray_rgb": {
        "gray_rgb": "(batch, 3, height, width) in 0..1: lightness L of the photo as neutral sRGB"
    },
    "Lab": {
        "target": "(batch, 3, height, width): L / 50 - 1 of the photo, three times",
        "reference": "(batch, 3, reference_height, reference_width): L / 50 - 1, a / 110, b / 110",
        "guess": "(batch, 3, height / 2, width / 2), of networks that take one: a / 110, b / 110 "
        "of a first guess; how like the place the reference's most like one is, 0 to 1",
    },
    "L_hints": {
        "L_hints": "(batch, 4, height, width): L / 50 - 1; a / 110 and b / 110 at hints, elsewhere "
        "0, or a guess where spec.prior is true; 1 at hints, else 0"
    },
}
OUTPUT = "(batch, 2, height, width) in Lab units; some exemplar networks give half of both sides"


@dataclass
class Config:
    """Settings of one export."""

    model: str = "ddcolor-nano"
    """File, boxed or installed network."""
    out: Path = Path("model.onnx")
    """File that ends in .safetensors or .onnx."""
    dtype: str = "float32"
    """float32, bfloat16 or float16, of the weights. An ONNX file computes in float32 in any case
    and takes no bfloat16."""
    opset: int = 18
    """Of ONNX; 17 to 20."""
    overwrite: bool = False
    """Replace `out` if it is there."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".safetensors", ".onnx"):
            raise ValueError(f"{self.out}: the name must end in .safetensors or .onnx.")
        known = ONNX_DTYPES if self.out.suffix == ".onnx" else loader.DTYPES
        if self.dtype not in known:
            raise ValueError(
                f"dtype is {self.dtype!r}; expected one of {', '.join(known)} "
                f"for {self.out.suffix}."
            )
        if not 17 <= self.opset <= 20:
            raise ValueError(f"opset is {self.opset}; expected 17 to 20.")


def main(config: Config) -> None:
    """Write `config.out`, whole or not at all; what was checked goes to stderr.

    Raises:
        Refusal: `config.out` is there already or is the input.
        ValueError: no such network, weights that do not fit the dtype, a graph that does not do
            what the network does, a missing package.
        OSError: the file cannot be written.
    """
    out = config.out
    checks.refuse_existing(out, config.overwrite)
    checks.refuse_unwritable(out.parent)
    source = resolve.locate(config.model)
    if os.path.exists(out) and checks.identity(out) == checks.identity(source):
        raise errors.Refusal(
            f"{out} is the input; originals are never overwritten. Change its name."
        )
    network, spec, info = registry.load(source)
    state = rounded(network, config.dtype, source.name)
    # What is known of an older file of ours goes on; where a foreign one came from is noted.
    origin = {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    own = {"architecture": spec.architecture, "config": asdict(network.config)}
    info = {"origin": origin, **info, **own}
    if out.suffix == ".onnx":
        network.load_state_dict(state)  # as float32 what the file's weights will be
        data = to_onnx(network, spec, info, opset=config.opset, half=config.dtype == "float16")
        for line in check(data, network, spec):
            output.say(line)
    else:
        data = checkpoint.to_bytes(state, info)
    write_whole(out, data)
    output.say(f"{out}: {spec.architecture}, {config.dtype}, {len(data) / 1e6:.1f} MB")


def rounded(network: nn.Module, dtype: str, name: str) -> dict[str, Tensor]:
    """State dict whose floating-point tensors have `dtype`.

    Raises:
        ValueError: a weight of `name`, the file, is too large for it.
    """
    state = {}
    for key, tensor in network.state_dict().items():
        state[key] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if not torch.equal(state[key].isfinite(), tensor.isfinite()):
            raise ValueError(f"{name}: {key} does not fit into {dtype}; use bfloat16.")
    return state


# --- ONNX ------------------------------------------------------------------------------------


def to_onnx(
    network: nn.Module, spec: Spec, info: dict, *, opset: int = 18, half: bool = False
) -> bytes:
    """A network as an ONNX file with weights inside, for any batch, height and width.

    Args:
        network: float32, eval mode, on the CPU; it is not changed.
        spec: of it.
        info: goes into the metadata under `colorist`, as JSON, with spec, inputs and output.
        half: keep the weights as float16, which onnxruntime widens when it loads the file.
    Raises:
        ValueError: a network whose graph depends on the size; larger than ONNX allows; a missing
            package.
    """
    _refuse_missing()
    _refuse_static(network)
    given = pictures(network, spec, *TRACED)
    names = list(INPUTS[spec.model_input])[: len(given)]
    axes = {
        name: {0: "batch", 2: f"{prefix}height", 3: f"{prefix}width"}
        for name, prefix in zip(names, ("", "reference_", "guess_"), strict=False)
    }
    axes["ab"] = {0: "batch", 2: "ab_height", 3: "ab_width"}
    size = sum(p.numel() for p in network.state_dict().values()) * (2 if half else 4)
    if size > PROTOBUF:
        raise ValueError(
            f"{spec.architecture}: {size / 1e9:.1f} GB of weights, and an ONNX file holds 2 GB."
            + ("" if half else " Use float16.")
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of each comparison of sizes: `check` runs other sizes. It also says that
        # the exporter by torch.export replaces it; that one takes two minutes where this takes ten
        # seconds, and settles sizes of windows for good (torch 2.13).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Traceable(network),
            tuple(given),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=names,
            output_names=["ab"],
            dynamic_axes=axes,
        )
    facts = {key: getattr(spec, key) for key in ("role", "resolution", "multiple", "prior")}
    inputs = {name: INPUTS[spec.model_input][name] for name in names}
    described = {"spec": facts, "inputs": inputs, "outputs": {"ab": OUTPUT}}
    return _finished(file.getvalue(), {**info, **described}, half)


def _refuse_missing() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ONNX needs the package {error.name}: pip install comfyui-colorist[export]"
        ) from error


def _refuse_static(network: nn.Module) -> None:
    """ValueError for what has no graph that serves all sizes."""
    cluster = getattr(network.config, "cluster", "brightness")
    if cluster != "brightness":
        raise ValueError(
            f"{pointhint.NAME}: clustering by {cluster} has a number of levels that depends on the "
            "picture's size, which ONNX cannot say; only networks that cluster by brightness can "
            "be written as ONNX."
        )


def _finished(data: bytes, info: dict, half: bool) -> bytes:
    """The exporter's file with metadata, and with weights as float16."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(data)
    model.producer_name = "comfyui-colorist"
    helper.set_model_props(model, {"colorist": json.dumps(info, sort_keys=True)})
    if half:
        casts = []
        for weight in model.graph.initializer:
            values = numpy_helper.to_array(weight)
            short = values.astype(np.float16)
            # Constants of the graph that are no weights may need all their digits.
            if values.dtype != np.float32 or not np.array_equal(short, values):
                continue
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(short, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=1))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return model.SerializeToString()


def pictures(network: nn.Module, spec: Spec, batch: int, rows: int, columns: int) -> list[Tensor]:
    """Inputs of a network of `rows` x `columns` tiles of `spec.multiple` pixels; seeded noise.

    Values are multiples of 1/128, so that means of patches are exact whatever sums them: point-hint
    networks sort by them. A reference has another size than its target.
    """
    random = torch.Generator().manual_seed(rows * 100 + columns)

    def noise(channels: int, rows: int, columns: int) -> Tensor:
        shape = batch, channels, rows * spec.multiple, columns * spec.multiple
        return torch.randint(-128, 129, shape, generator=random) / 128

    L = noise(1, rows, columns)
    if spec.model_input == "Lab":
        given = [L.repeat(1, 3, 1, 1), noise(3, columns + 1, rows)]
        guess = [noise(3, rows, columns)[..., ::2, ::2]] if network.blend else []
        return given + guess
    if spec.model_input == "L_hints":
        hints = (noise(1, rows, columns) > 0.9).float()
        return [torch.cat([L, noise(2, rows, columns) * hints, hints], dim=1)]
    return [((L + 1) / 2).repeat(1, 3, 1, 1)]


def answer(network: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """What the file gives: ab in Lab units; of an exemplar network its finest prediction."""
    names = ("guess",) if len(inputs) == 3 else ()  # after a target and its reference
    found = network(*inputs[:2], **dict(zip(names, inputs[2:], strict=True)))
    return found if isinstance(found, Tensor) else xcnet.AB * found[0]


def check(data: bytes, network: nn.Module, spec: Spec) -> list[str]:
    """Run a file in onnxruntime beside PyTorch; a table of size, error and pace.

    Raises:
        ValueError: it fails at a size, or is not within TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    lines = ["batch  height x width  largest error in Lab units  onnxruntime / PyTorch time"]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise ValueError(
            f"{spec.architecture}: onnxruntime refuses the file ({_first_line(error)}); "
            "nothing is written."
        ) from error
    for batch, rows, columns in CHECKED:
        inputs = pictures(network, spec, batch, rows, columns)
        at = f"batch {batch}, {rows * spec.multiple} x {columns * spec.multiple} pixels"
        feed = {
            place.name: x.numpy() for place, x in zip(session.get_inputs(), inputs, strict=True)
        }
        with torch.no_grad():
            expected, slow = _timed(lambda inputs=inputs: answer(network, inputs))
        try:
            (found,), fast = _timed(lambda feed=feed: session.run(["ab"], feed))
        except Exception as error:
            raise ValueError(
                f"{spec.architecture}: the file fails at {at} ({_first_line(error)}); "
                "nothing is written."
            ) from error
        same = found.shape == tuple(expected.shape)
        error = (torch.from_numpy(found) - expected).abs().max().item() if same else math.inf
        if not error <= TOLERANCE:
            raise ValueError(
                f"{spec.architecture}: the file differs from the network by {error:.3g} Lab units "
                f"at {at}; at most {TOLERANCE} is allowed. Nothing is written."
            )
        size = f"{rows * spec.multiple} x {columns * spec.multiple}"
        lines.append(f"{batch:5}  {size:>14}  {error:26.6f}  {fast / slow:26.2f}")
    return lines


def _timed(run: Callable) -> tuple:
    """What a second run gives, and the seconds it takes: the first one prepares."""
    run()
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")


# --- Methods whose graph serves all sizes ------------------------------------------------------
# The networks treat the last windows of a map apart, skip what is empty and know their sizes as
# numbers. Each function here stands for one method and gives its result, up to rounding, by the
# same operations whatever the size. Sizes are positive and only rounded down, as ONNX divides.


def _count(length: int, side: int) -> int:
    """Windows of `side` that cover `length`."""
    return (length + side - 1) // side


def _windows(x: Tensor, side: int, heads: int, shift: Sequence[int] = (0, 0)) -> list[Tensor]:
    """(B, H, W, 3 C), filled up and rolled back by `shift` -> q, k, v (B, i, j, heads, T, d)."""
    batch, height, width, _ = x.shape
    rows, columns = _count(height, side), _count(width, side)
    x = F.pad(x, (0, 0, 0, columns * side - width, 0, rows * side - height))
    x = _rolled(_rolled(x, shift[0], 1), shift[1], 2)
    x = x.reshape(batch, rows, side, columns, side, -1).transpose(2, 3)
    x = x.reshape(batch, rows, columns, side * side, 3, heads, x.shape[-1] // (3 * heads))
    return [part.transpose(3, 4) for part in x.unbind(4)]


def _maps(x: Tensor, side: int, size: Sequence[int], shift: Sequence[int] = (0, 0)) -> Tensor:
    """Undo `_windows`: (B, i, j, heads, T, d) -> (B, H, W, C); `size` is B, H, W."""
    batch, height, width = size
    rows, columns = _count(height, side), _count(width, side)
    channels = x.shape[3] * x.shape[5]
    x = x.transpose(3, 4).reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
    x = x.reshape(batch, rows * side, columns * side, channels)
    x = _rolled(_rolled(x, rows * side - shift[0], 1), columns * side - shift[1], 2)
    return x[:, :height, :width]


def _rolled(x: Tensor, by: int, dim: int) -> Tensor:
    """roll(-by), 0 <= by <= length."""
    if isinstance(by, int) and by == 0:
        return x
    length = x.shape[dim]
    place = torch.arange(length, device=x.device) + by
    return x.index_select(dim, torch.where(place >= length, place - length, place))


def _attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d) + bias) V."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v


def _apart(y: Tensor, x: Tensor) -> Tensor:
    """Kinds (rows, side) and (columns, side) -> (i, j, 1, T, T): tokens of different kinds."""
    kind = (3 * y[:, None, :, None] + x[None, :, None, :]).flatten(2)
    return (kind[..., :, None] != kind[..., None, :])[:, :, None]


def _pooling(length: int, cells: int, like: Tensor) -> Tensor:
    """(cells, length): the mean that adaptive pooling takes, as a matrix."""
    place, cell = (torch.arange(n, device=like.device) for n in (length, cells))
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((place >= start[:, None]) & (place < end[:, None])).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def _global_local(self: colorformer.GlobalLocalAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    rows, columns = (_count(n, side) for n in size[1:])
    x = F.pad(x, (0, 0, 0, columns * side - size[2], 0, rows * side - size[1]))
    q, k, v = _windows(self.qkv(x), side, self.heads)
    down, across = (_pooling(n * side, self.pooled, x) for n in (rows, columns))
    pooled = down @ x.permute(0, 3, 1, 2) @ across.transpose(0, 1)
    kv = self.global_kv(self.global_norm(pooled.flatten(2).transpose(1, 2)))
    kv = kv.unflatten(2, (2, self.heads, x.shape[-1] // self.heads))[:, None, None]
    global_k, global_v = (t.transpose(3, 4) for t in kv.unbind(4))
    q = q * q.shape[-1] ** -0.5
    near = q @ k.transpose(-2, -1) + self.bias()
    weights = torch.cat([near, q @ global_k.transpose(-2, -1)], dim=-1).softmax(-1)
    near, far = weights.split([side**2, self.pooled**2], dim=-1)
    return self.project(_maps(near @ v + far @ global_v, side, size))


def _shifted_window(self: colorformer.ShiftedWindowAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    rows, columns = (_count(n, side) for n in size[1:])
    # Zeros join before the projection, which gives them its bias.
    x = F.pad(x, (0, 0, 0, columns * side - size[2], 0, rows * side - size[1]))
    shift = [side // 2] * 2
    q, k, v = _windows(self.qkv(x), side, self.heads, shift)

    def late(count: int) -> Tensor:
        place = torch.arange(count * side, device=x.device)
        return (place >= count * side - side // 2).long().reshape(count, side)

    bias = self.bias() - 100.0 * _apart(late(rows), late(columns))
    return self.project(_maps(_attended(q, k, v, bias), side, size, shift))


def _hint_window(self: pointhint.WindowAttention, x: Tensor) -> Tensor:
    size, side = x.shape[:3], self.side
    # An axis that fits into one window is not shifted: the last factor is 0 there, else 1.
    shift = [self.shift and self.shift * (1 - 1 // (1 + (n - 1) // side)) for n in size[1:]]
    q, k, v = _windows(self.qkv(x), side, self.heads, shift)

    def kinds(length: int, by: int) -> Tensor:
        full = _count(length, side) * side
        place = torch.arange(full, device=x.device)
        round_the_rim, empty = (place >= full - by).long(), (place >= length - by).long()
        return (2 * empty - round_the_rim * empty).reshape(_count(length, side), side)

    apart = _apart(*(kinds(n, by) for n, by in zip(size[1:], shift, strict=True)))
    bias = torch.where(apart, -math.inf, self.bias())
    return self.project(_maps(_attended(q, k, v, bias), side, size, shift))


def _feature_window(
    self: pointhint.FeatureWindowAttention, x: Tensor, groups: pointhint.Groups
) -> Tensor:
    batch, height, width, _ = x.shape
    windows, tokens = groups.take.shape
    qkv = self.qkv(x).flatten(0, 2)[groups.take.flatten()]
    inner = self.project.in_features
    qkv = qkv.reshape(windows, tokens, 3, self.heads, inner // self.heads)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    found = _attended(q, k, v, groups.full)
    found = found.transpose(1, 2).reshape(windows * tokens, inner)[groups.back]
    return self.project(found).reshape(batch, height, width, self.project.out_features)


def _hint_stage(self: pointhint.Stage, z: Tensor, lightness: Tensor) -> Tensor:
    batch, height, width, channels = z.shape
    position = _hint_position(height, width, channels, pointhint.RESOLUTION // self.patch, z)
    groups = _feature_groups(lightness, self.patch, height, width, self.size)
    for block in self.blocks:
        z = block(z, position, groups)
    return z


def _hint_position(height: int, width: int, channels: int, side: int, like: Tensor) -> Tensor:
    """`pointhint._sine_position` for sizes of a trace."""
    steps = torch.arange(channels // 4, device=like.device) / (channels // 4)
    area = torch.full((), height * width, dtype=torch.float32, device=like.device)

    def axis(length: int) -> Tensor:
        place = (torch.arange(length, device=like.device) + 0.5) * (side / area.sqrt()) - 0.5
        angle = place[:, None] * 10000**-steps
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    y, x = axis(height)[:, None], axis(width)[None]
    return torch.cat([y.expand(-1, width, -1), x.expand(height, -1, -1)], dim=-1)


def _feature_groups(
    lightness: Tensor, patch: int, height: int, width: int, size: int
) -> pointhint.Groups:
    """`pointhint.feature_windows` by brightness; `full` is what is added to the logits."""
    batch, count = lightness.shape[0], height * width
    patches = lightness.reshape(batch, height, patch, width, patch).transpose(2, 3)
    patches = patches.reshape(batch, count, patch * patch)
    # round(count / size), half to even, and at least 1
    twice = 2 * count + size
    parts = twice // (2 * size)
    parts = parts - 1 // (1 + twice % (2 * size)) * (parts % 2)
    parts = parts + 1 // (1 + parts)
    order = patches.mean(-1).argsort(dim=1)  # equal ones by place: ONNX's TopK sorts so
    most = (count + parts - 1) // parts
    start = torch.arange(parts + 1, device=lightness.device) * count // parts
    index = start[:-1, None] + torch.arange(most, device=lightness.device)
    rank = torch.arange(count, device=lightness.device)
    part = ((rank + 1) * parts - 1) // count
    place = part * most + rank - start[part]
    one = torch.arange(batch, device=lightness.device)[:, None]
    inside = index.clamp(max=count - 1).flatten()
    take = (order + one * count)[:, inside].reshape(batch * parts, most)
    back = torch.empty_like(order).scatter(1, order, place + one * (parts * most)).flatten()
    surplus = torch.where(index < start[1:, None], 0.0, -math.inf)
    return pointhint.Groups(take, back, surplus.repeat(batch, 1)[:, None, None])


def _tables(
    self: xcnet_attention.AxialAttention, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    table, most = self.relative, len(self.relative) // 2
    place = torch.arange(length, device=table.device)
    away = place - place[:, None]
    if self.reach:
        table = table.to(dtype)[away.clamp(-most, most) + most]
    else:  # stretched linearly about its middle, to 2 length - 1 entries
        longest = torch.full((), length - 1, dtype=torch.float32, device=table.device)
        ends = torch.arange(2 * length - 1, device=table.device) - (length - 1)
        at = most + ends * (most / longest.clamp_min(1))
        low = at.floor().clamp(0, 2 * most).long()
        high, share = (low + 1).clamp(max=2 * most), (at - low)[:, None]
        table = (table[low] * (1 - share) + table[high] * share).to(dtype)[away + length - 1]
    d_k = table.shape[-1] // 4
    return table.split([d_k, d_k, 2 * d_k], dim=-1)


def _pooled(self: xcnet.Exemplar, reference: Tensor, grid: Sequence[int]) -> Tensor:
    batch, channels, height, width = reference.shape
    rows, columns = grid
    cells = reference.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return cells.mean(dim=(3, 5))


TRACEABLE = {  # class -> its method -> what stands for it
    colorformer.GlobalLocalAttention: ("forward", _global_local),
    colorformer.ShiftedWindowAttention: ("forward", _shifted_window),
    xcnet_attention.AxialAttention: ("_tables", _tables),
    xcnet.Exemplar: ("_pooled", _pooled),
    pointhint.WindowAttention: ("forward", _hint_window),
    pointhint.FeatureWindowAttention: ("forward", _feature_window),
    pointhint.Stage: ("forward", _hint_stage),
}


class Traceable(nn.Module):
    """A copy of a network whose methods are those of TRACEABLE; its forward is `answer`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            if type(module) in TRACEABLE:
                name, method = TRACEABLE[type(module)]
                setattr(module, name, types.MethodType(method, module))

    def forward(self, *inputs: Tensor) -> Tensor:
        return answer(self.network, inputs)


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
