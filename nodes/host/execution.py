"""What a running node asks of the host: device and memory, interrupt, progress, masks.

Attributes of the host are looked up late, because it swaps some of them while it starts and newer
ones may be missing.
"""

from collections.abc import Callable

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline.device_manager import Placement

# ---- device and memory ----


def device() -> torch.device:
    """Where the host computes."""
    return mm.get_torch_device()


def best_dtype() -> str:
    """bfloat16 where the device is made for it, else float32; float16 overflows in DDColor."""
    return "bfloat16" if device().type != "cpu" and mm.should_use_bf16(device()) else "float32"


class HostPlacement(Placement):
    """A network under the host's memory management, which loads and unloads it."""

    def __init__(self, network: nn.Module, device: torch.device | str):
        # Looked up late: the host replaces CoreModelPatcher while it starts.
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.device = torch.device(device)
        self.patcher = patcher(
            network, load_device=self.device, offload_device=mm.unet_offload_device()
        )

    def acquire(self, memory_required: int) -> nn.Module:
        """The network, on `self.device`, with room for `memory_required` bytes of activations."""
        # Without force_full_load the host may leave part of a plain module on the CPU.
        mm.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)
        network = self.patcher.model
        if any(p.device.type != self.device.type for p in network.parameters()):
            network.to(self.device)  # --novram loads nothing, even then
        return network

    def images_at_once(self, memory_per_image: int) -> int:
        """How many images to run in one forward pass: what fits in half of a GPU's free memory."""
        if self.device.type == "cpu":
            return 1  # one image already uses every core
        return max(
            1, min(16, int(mm.get_free_memory(self.device) // 2 // max(memory_per_image, 1)))
        )

    def check_interrupt(self) -> None:
        """Raise the host's interrupt where the user has pressed stop."""
        check_interrupt()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when `error` says that memory ran out."""
        return is_out_of_memory(error)

    def release(self) -> None:
        """Give cached memory back before a retry."""
        mm.soft_empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True when `error` says that memory ran out."""
    if hasattr(mm, "is_oom") and mm.is_oom(error):
        return True
    if mm.OOM_EXCEPTION is not Exception and isinstance(error, mm.OOM_EXCEPTION):
        return True
    return Placement.is_out_of_memory(None, error)  # the CPU's own ways to say it


# ---- pictures, masks, progress ----


def delivered(image: Tensor) -> Tensor:
    """A finished IMAGE as the host wants it: its device, its dtype (float32 on older hosts)."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return image.to(mm.intermediate_device(), dtype).contiguous()


def mask_for(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """A MASK at the size of `image` (B, H, W, C), or None where there is none.

    A loader without alpha sends zeros (64 x 64, whatever the image), so all zeros mean "no mask".
    """
    if mask is None or not mask.any():
        return None
    mask = mask.float()[None] if mask.ndim == 2 else mask.float()
    if mask.ndim != 3:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected (B, H, W).")
    if mask.shape[1:] != image.shape[1:3]:
        size = tuple(image.shape[1:3])
        mask = F.interpolate(mask[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
    return mask


def check_interrupt() -> None:
    """Raise the host's interrupt where the user has pressed stop."""
    mm.throw_exception_if_processing_interrupted()


def progress(total: int) -> Callable[..., None]:
    """A progress bar on the running node: call it with what is done, and of how much if it grew."""
    bar = comfy.utils.ProgressBar(total)
    return lambda done, total=total: bar.update_absolute(done, total)
