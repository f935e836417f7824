"""A network that is ready to run: facts, device and memory needs."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ..model_defs.registry import NetworkInfo
from ..model_defs.spec import Spec
from ..ops.resize import Geometry
from .device_manager import DeviceManager

MAX_AB = 1e6  # in Lab units; sRGB ends at 108, and untrained networks reach thousands


@dataclass(eq=False, repr=False)
class LoadedNetwork:
    """Network with its facts and its device; the part that all colorizers share."""

    spec: Spec
    """Facts about the network."""
    _: KW_ONLY
    name: str
    """Name for messages."""
    info: NetworkInfo
    """Metadata of the checkpoint: config, training, license. Empty for official files."""
    dtype: torch.dtype
    """Dtype of weights and activations. Color is always computed in float32."""
    device_manager: DeviceManager
    """Device and memory."""
    encoder_id: str = ""
    """Identifies the encoder of a network with a color memory."""

    def memory_required(self, geometry: Geometry, images: int = 1, references: int = 0) -> int:
        """Return the activation memory in bytes of one forward pass over `images` images."""
        side = max(geometry.padded_height, geometry.padded_width)
        per_pixel = self.spec.activation_bytes_per_pixel
        per_pixel += self.spec.attention_bytes * side * references
        scale = torch.finfo(self.dtype).bits / 32
        activations = images * geometry.working_pixels * per_pixel
        return round((activations + self.spec.fixed_activation_bytes) * scale)

    def require_finite(self, ab: Tensor) -> Tensor:
        """Return `ab` as float32; ValueError if it contains values that are not colors.

        NaN and infinity would become black pixels, and so would finite values whose squares are
        too large for float32.
        """
        if not len(ab) or (largest := ab.float().abs().max()) <= MAX_AB:  # False for NaN
            return ab.float()
        advice = "choose float32 or bfloat16"
        if self.dtype != torch.float16:
            advice = "its weights or its color memory are damaged"
        dtype = str(self.dtype).removeprefix("torch.")
        raise ValueError(
            f"{self.name}: the network predicts colors that are "
            f"{f'as large as {largest:g}' if largest.isfinite() else 'NaN or infinite'} in "
            f"{dtype}; {advice}."
        )
