"""Export a network as ONNX for any batch and image size, and check the file with onnxruntime."""

import io
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..model_defs import pointhint
from ..model_defs.spec import Spec
from .onnx_tracing import Traceable, predict_ab

T = TypeVar("T")
TOLERANCE = 0.01  # Lab units between onnxruntime and PyTorch; float32 differs by about 0.0003
MAX_FILE_BYTES = 2**31 - 2**20  # limit of an ONNX file, less a reserve for the graph
OPSETS = range(17, 21)
DTYPES = ("float32", "float16")

# Batch, height and width in tiles of `spec.multiple`. The checked sizes differ from the traced one.
CHECKED_SIZES = ((1, 1, 1), (1, 8, 8), (2, 3, 7), (3, 9, 4))
TRACED_SIZE = (2, 5, 6)

INPUTS = {  # Spec.model_input -> name of the input -> description in the metadata
    "gray_rgb": {
        "gray_rgb": "(batch, 3, height, width) in 0..1: lightness L of the photo as neutral sRGB"
    },
    "Lab": {
        "target": "(batch, 3, height, width): L / 50 - 1 of the photo, three times",
        "reference": "(batch, 3, reference_height, reference_width): L / 50 - 1, a / 110, b / 110",
        "guess": "(batch, 3, height / 2, width / 2), for networks with a prior: a / 110, b / 110 "
        "of a first guess; similarity to the most similar reference position, 0 to 1",
    },
    "L_hints": {
        "L_hints": "(batch, 4, height, width): L / 50 - 1; a / 110 and b / 110 at hints, elsewhere "
        "0, or a first guess if spec.prior is true; 1 at hints, else 0"
    },
}
OUTPUT = "(batch, 2, height, width) in Lab units; half of both sides for some exemplar networks"


def to_onnx(
    network: nn.Module, spec: Spec, info: Mapping[str, Any], *, opset: int = 18, half: bool = False
) -> bytes:
    """Return a network as an ONNX file with embedded weights, for any batch, height and width.

    Args:
        network: float32, eval mode, on the CPU; it is not changed.
        spec: its spec.
        info: written as JSON into the metadata under `colorist`, with spec, inputs and output.
        opset: version of the ONNX operators.
        half: store float16 weights, which onnxruntime widens when it loads the file.
    Raises:
        ValueError: the network has no graph for all sizes, exceeds the limit of ONNX files, or a
            package is missing.
    """
    _check_packages()
    _check_clustering(network)
    inputs = random_inputs(network, spec, *TRACED_SIZE)
    names = list(INPUTS[spec.model_input])[: len(inputs)]
    axes = {
        name: {0: "batch", 2: f"{prefix}height", 3: f"{prefix}width"}
        for name, prefix in zip(names, ("", "reference_", "guess_"), strict=False)
    }
    axes["ab"] = {0: "batch", 2: "ab_height", 3: "ab_width"}
    size = sum(p.numel() for p in network.state_dict().values()) * (2 if half else 4)
    if size > MAX_FILE_BYTES:
        raise ValueError(
            f"{spec.architecture}: the weights have {size / 1e9:.1f} GB, but an ONNX file holds at "
            "most 2 GB." + ("" if half else " Use --dtype float16.")
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns about each comparison of sizes; `check` runs other sizes instead. It also
        # announces its replacement by torch.export, which takes two minutes instead of ten seconds
        # and freezes the sizes of windows (torch 2.13).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Traceable(network),
            tuple(inputs),
            cast(Any, file),  # the annotation lacks file objects
            dynamo=False,
            opset_version=opset,
            input_names=names,
            output_names=["ab"],
            dynamic_axes=axes,
        )
    facts = {key: getattr(spec, key) for key in ("role", "resolution", "multiple", "prior")}
    descriptions = {name: INPUTS[spec.model_input][name] for name in names}
    metadata = {"spec": facts, "inputs": descriptions, "outputs": {"ab": OUTPUT}}
    return _add_metadata(file.getvalue(), {**info, **metadata}, half)


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ONNX export needs the package {error.name}: pip install comfyui-colorist[export]"
        ) from error


def _check_clustering(network: nn.Module) -> None:
    """Raise ValueError for point-hint networks whose graph depends on the image size."""
    cluster = getattr(network.config, "cluster", "brightness")
    if cluster != "brightness":
        raise ValueError(
            f"{pointhint.NAME}: clustering by {cluster} has a number of levels that depends on the "
            "image size, which ONNX cannot express. Only networks that cluster by brightness can "
            "be exported."
        )


def _add_metadata(data: bytes, info: Mapping[str, Any], half: bool) -> bytes:
    """Return an exported file with metadata and, if `half`, float16 weights."""
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
            # Weights are rounded already; other constants of the graph may need float32.
            if values.dtype != np.float32 or not np.array_equal(short, values):
                continue
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(short, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=1))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return model.SerializeToString()


def random_inputs(
    network: nn.Module, spec: Spec, batch: int, rows: int, columns: int
) -> list[Tensor]:
    """Return seeded noise as inputs of `rows` x `columns` tiles of `spec.multiple` pixels.

    Values are multiples of 1/128, so that means of patches, by which point-hint networks sort, are
    exact in any order of summation. The reference has another size than the target.
    """
    generator = torch.Generator().manual_seed(rows * 100 + columns)

    def noise(channels: int, rows: int, columns: int) -> Tensor:
        shape = batch, channels, rows * spec.multiple, columns * spec.multiple
        return torch.randint(-128, 129, shape, generator=generator) / 128

    L = noise(1, rows, columns)
    if spec.model_input == "Lab":
        inputs = [L.repeat(1, 3, 1, 1), noise(3, columns + 1, rows)]
        if network.blend:
            inputs.append(noise(3, rows, columns)[..., ::2, ::2])
        return inputs
    if spec.model_input == "L_hints":
        hints = (noise(1, rows, columns) > 0.9).float()
        return [torch.cat([L, noise(2, rows, columns) * hints, hints], dim=1)]
    return [((L + 1) / 2).repeat(1, 3, 1, 1)]


def check(data: bytes, network: nn.Module, spec: Spec) -> list[str]:
    """Compare onnxruntime with PyTorch; return a table of sizes, errors and relative times.

    Raises:
        ValueError: the file fails at a size, or differs by more than TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    lines = ["batch  height x width  largest error in Lab units  onnxruntime / PyTorch time"]
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ValueError(
            f"{spec.architecture}: onnxruntime rejects the file ({_first_line(error)}); no file "
            "was written."
        ) from error
    for batch, rows, columns in CHECKED_SIZES:
        inputs = random_inputs(network, spec, batch, rows, columns)
        size = f"{rows * spec.multiple} x {columns * spec.multiple}"
        names = [node.name for node in session.get_inputs()]
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        with torch.no_grad():
            expected, torch_seconds = _timed(lambda inputs=inputs: predict_ab(network, inputs))
        try:
            output, seconds = _timed(lambda feed=feed: session.run(["ab"], feed)[0])
        except Exception as error:
            raise ValueError(
                f"{spec.architecture}: the file fails at batch {batch}, {size} pixels "
                f"({_first_line(error)}); no file was written."
            ) from error
        ab = torch.as_tensor(output)
        error = (ab - expected).abs().max().item() if ab.shape == expected.shape else math.inf
        if not error <= TOLERANCE:
            raise ValueError(
                f"{spec.architecture}: the file differs from the network by {error:.3g} Lab units "
                f"at batch {batch}, {size} pixels; the limit is {TOLERANCE}. No file was written."
            )
        lines.append(f"{batch:5}  {size:>14}  {error:26.6f}  {seconds / torch_seconds:26.2f}")
    return lines


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    """Return the result and the seconds of a second run; the first one warms up."""
    run()
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(".")
