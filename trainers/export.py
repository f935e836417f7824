"""Write a network for use elsewhere: as safetensors in another precision, or as ONNX.

    python trainers/export.py --model ddcolor_modelscope.pth --dtype float16 --out small.safetensors
    python trainers/export.py --model ddcolor-nano --out ddcolor.onnx
    # The same, when installed
    colorist train export --model ddcolor-nano --out ddcolor.onnx
    colorist models convert ddcolor-nano -o ddcolor.onnx

An ONNX file accepts any batch, height and width (multiples of the value in its metadata). Before it
is written, onnxruntime runs it beside PyTorch at sizes other than the traced one, and the export
fails if the results differ. docs/export.md describes inputs and outputs and gives an example.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import hashlib
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..console import checks, errors, output
from ..media.atomic import write_atomic
from ..model_defs import checkpoint, registry
from ..model_store import resolve
from ..pipeline import loader
from . import onnx_export
from .runtime.command_line import run_script

PRESETS: dict[str, dict[str, Any]] = {}


@dataclass
class Config:
    """Settings of an export."""

    model: str = "ddcolor-nano"
    """Model file, or a bundled or installed model."""
    out: Path = Path("model.onnx")
    """File to write, ending in .safetensors or .onnx."""
    dtype: str = "float32"
    """Data type of the weights: float32, bfloat16 or float16. ONNX files compute in float32 in any
    case and do not support bfloat16."""
    opset: int = 18
    """ONNX opset, 17 to 20."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        if self.out.suffix not in (".safetensors", ".onnx"):
            raise ValueError(f"{self.out}: the name must end in .safetensors or .onnx.")
        dtypes = onnx_export.DTYPES if self.out.suffix == ".onnx" else tuple(loader.DTYPES)
        if self.dtype not in dtypes:
            raise ValueError(
                f"dtype is {self.dtype!r}; expected one of {', '.join(dtypes)} for "
                f"{self.out.suffix}."
            )
        if self.opset not in onnx_export.OPSETS:
            raise ValueError(f"opset is {self.opset}; expected 17 to 20.")


def main(config: Config) -> None:
    """Write `config.out` atomically; the results of the check go to stderr.

    Raises:
        UsageError: `config.out` exists or is the input; the model cannot be loaded, or its weights
            are outside the range of the dtype.
        ValueError: the results of the graph differ from the network's, or a package is missing.
        OSError: the file cannot be written.
    """
    out = config.out
    checks.check_output_file(out, config.overwrite)
    checks.check_writable(out.parent, "--out")
    with errors.as_usage_errors():
        source = resolve.model_path(config.model)
        network, spec, info = registry.load(source)
        state = convert_dtype(network, config.dtype, source.name)
    if os.path.exists(out) and checks.file_id(out) == checks.file_id(source):
        raise errors.UsageError(
            f"{out} is the input; originals are never overwritten. Choose another name."
        )
    # Metadata of our files is kept, including the origin of a converted checkpoint.
    origin = {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    own = {"architecture": spec.architecture, "config": asdict(cast(Any, network.config))}
    info = {"origin": origin, **info, **own}
    if out.suffix == ".onnx":
        network.load_state_dict(state)  # weights rounded as in the file, in float32
        data = onnx_export.to_onnx(
            network, spec, info, opset=config.opset, half=config.dtype == "float16"
        )
        for line in onnx_export.check(data, network, spec):
            output.log_stderr(line)
    else:
        data = checkpoint.to_bytes(state, info)
    write_atomic(out, data)
    output.log_stderr(f"{out}: {spec.architecture}, {config.dtype}, {len(data) / 1e6:.1f} MB")


def convert_dtype(network: nn.Module, dtype: str, name: str) -> dict[str, Tensor]:
    """Return the state dict with floating-point tensors in another dtype.

    Args:
        network: the network.
        dtype: float32, bfloat16 or float16.
        name: name of its file, for messages.
    Raises:
        ValueError: a weight is outside the range of the dtype.
    """
    state = {}
    for key, tensor in network.state_dict().items():
        state[key] = tensor.to(loader.DTYPES[dtype]) if tensor.is_floating_point() else tensor
        if not torch.equal(state[key].isfinite(), tensor.isfinite()):
            raise ValueError(f"{name}: {key} does not fit into {dtype}; use bfloat16.")
    return state


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
