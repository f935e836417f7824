"""Load a checkpoint as a colorizer; nodes, command line and trainers all use these functions."""

from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from ..model_defs import registry
from ..model_defs.protocols import MemoryNetwork
from ..model_defs.registry import NetworkInfo
from ..model_defs.spec import Spec
from ..model_store import resolve
from .automatic import Colorizer
from .by_hints import PointHintColorizer
from .by_reference import ExemplarColorizer
from .color_memory.memory import identify_encoder
from .device_manager import DeviceManager

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AnyColorizer = Colorizer | ExemplarColorizer | PointHintColorizer
T = TypeVar("T", Colorizer, ExemplarColorizer, PointHintColorizer)
COLORIZER_BY_ROLE: dict[str, type[AnyColorizer]] = {
    "automatic": Colorizer,
    "exemplar": ExemplarColorizer,
    "pointhint": PointHintColorizer,
}


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: str | torch.dtype = "float32",
    device_manager: type[DeviceManager] = DeviceManager,
) -> AnyColorizer:
    """Load a checkpoint file, a bundled model or a file of the models folder, ready to color.

    Args:
        source: path, or a name that `colorist models list` shows.
        device: None = CUDA if available, else CPU.
        dtype: float32, bfloat16 or float16, for weights and activations.
        device_manager: class that keeps the network on the device; a host provides its own.
    Returns:
        the colorizer of the network's role.
    Raises:
        CheckpointError: the file is not a usable checkpoint.
        ValueError: unknown dtype.
    """
    weights_dtype = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if weights_dtype is None or weights_dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    path = resolve.model_path(source)
    network, spec, info = registry.load(path)
    encoder_id = _encoder_id(network, spec)  # before rounding to `dtype`
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network.to(weights_dtype)
    return COLORIZER_BY_ROLE[spec.role](
        spec,
        name=path.name,
        info=info,
        dtype=weights_dtype,
        device_manager=device_manager(network, device),
        encoder_id=encoder_id,
    )


def wrap(network: nn.Module, spec: Spec) -> AnyColorizer:
    """Return a colorizer for a float32 network on its current device, such as one in training."""
    device = next(network.parameters()).device  # "cpu:0" instead of "cpu" would copy the network
    return COLORIZER_BY_ROLE[spec.role](
        spec,
        name=spec.architecture,
        info=NetworkInfo(),
        dtype=torch.float32,
        device_manager=DeviceManager(network, device),
        encoder_id=_encoder_id(network, spec),
    )


def require_role(colorizer: AnyColorizer, kind: type[T]) -> T:
    """Return `colorizer` if it is of the class `kind`; ValueError with both roles otherwise."""
    if not isinstance(colorizer, kind):
        roles = [role for role, cls in COLORIZER_BY_ROLE.items() if cls is kind]
        raise ValueError(
            f"{colorizer.name} is a network of the role '{colorizer.spec.role}'; expected one of "
            f"the role '{', '.join(roles)}'."
        )
    return colorizer


def load_model(source: str | Path) -> nn.Module:
    """Return the bare network: float32, eval mode, on the CPU.

    The docstring of its architecture's module describes its forward method.
    """
    return registry.load(resolve.model_path(source))[0]


def _encoder_id(network: nn.Module, spec: Spec) -> str:
    return identify_encoder(cast(MemoryNetwork, network).encoder) if spec.memory else ""
