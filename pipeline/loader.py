"""The one door: load a checkpoint. Nodes, command line and trainers come through here."""

from pathlib import Path

import torch
from torch import nn

from ..model_defs import registry
from ..model_defs.spec import Spec
from ..model_store import resolve
from .automatic import Colorizer
from .by_hints import PointHintColorizer
from .by_reference import ExemplarColorizer
from .color_memory.memory import fingerprint
from .device_manager import Placement

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Role -> its class; others are Colorizers.
KINDS = {"exemplar": ExemplarColorizer, "pointhint": PointHintColorizer}


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: str | torch.dtype = "float32",
    placement: type[Placement] = Placement,
) -> Colorizer:
    """Open a checkpoint file, a boxed network or a file of the models folder, ready to colour.

    Args:
        source: path, or a name that `colorist models list` shows.
        device: None = CUDA where there is one, else CPU.
        dtype: float32, bfloat16 or float16, of weights and activations.
        placement: what keeps the network on the device; a host brings its own.
    Raises:
        CheckpointError: the file is not a checkpoint that can be used.
        ValueError: unknown dtype.
    """
    weights_dtype = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if weights_dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    path = resolve.locate(source)
    network, spec, info = registry.load(path)
    encoder = fingerprint(network.encoder) if spec.memory else ""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network.to(weights_dtype)
    return KINDS.get(spec.role, Colorizer)(
        spec,
        name=path.name,
        info=info,
        dtype=weights_dtype,
        placement=placement(network, device),
        encoder=encoder,
    )


def wrap(network: nn.Module, spec: Spec) -> Colorizer:
    """A float32 network that is on its device already, such as one in training, ready to colour."""
    return KINDS.get(spec.role, Colorizer)(
        spec,
        name=spec.architecture,
        info={},
        dtype=torch.float32,
        placement=Placement(network, next(network.parameters()).device),  # cpu:0 would copy it
        encoder=fingerprint(network.encoder) if spec.memory else "",
    )


def load_model(source: str | Path) -> nn.Module:
    """The bare network: float32, eval, on the CPU; its forward is in the architecture's module."""
    return registry.load(resolve.locate(source))[0]
