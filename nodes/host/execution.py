"""Services of the host for a running node: device, memory, interrupts, progress, masks.

Attributes of the host are looked up when needed, because it replaces some of them during startup
and newer ones may be missing.
"""

from typing import Protocol

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipeline import device_manager
from ...pipeline.device_manager import DeviceManager


class Progress(Protocol):
    """Report progress; `total` may grow during the run."""

    def __call__(self, done: int, total: int = ...) -> None: ...


# ---- device and memory ----


def device() -> torch.device:
    """Return the device on which the host computes."""
    return mm.get_torch_device()


def best_dtype() -> str:
    """Return bfloat16 if the device supports it well, otherwise float32.

    float16 overflows in DDColor.
    """
    return "bfloat16" if device().type != "cpu" and mm.should_use_bf16(device()) else "float32"


class HostDeviceManager(DeviceManager):
    """A network under the host's memory management, which loads and unloads it."""

    def __init__(self, network: nn.Module, device: torch.device | str):
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.device = torch.device(device)
        self.patcher = patcher(
            network, load_device=self.device, offload_device=mm.unet_offload_device()
        )

    def acquire(self, memory_required: int) -> nn.Module:
        """Return the network on `self.device`, with memory freed for its activations.

        Args:
            memory_required: Bytes of activations.
        """
        # Without force_full_load the host may leave part of a plain module on the CPU.
        mm.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)
        network = self.patcher.model
        if any(p.device.type != self.device.type for p in network.parameters()):
            network.to(self.device)  # --novram loads nothing, even then
        return network

    def max_batch_size(self, memory_per_image: int) -> int:
        """Return the number of images per forward pass that fit half of the GPU's free memory."""
        if self.device.type == "cpu":
            return 1  # one image already uses every core
        return device_manager.images_that_fit(mm.get_free_memory(self.device), memory_per_image)

    def check_interrupt(self) -> None:
        """Raise the host's interrupt if the user has canceled the run."""
        check_interrupt()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return True if `error` reports exhausted memory."""
        return is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Return cached memory to the device before a retry."""
        mm.soft_empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if `error` reports exhausted memory."""
    if hasattr(mm, "is_oom") and mm.is_oom(error):
        return True
    if mm.OOM_EXCEPTION is not Exception and isinstance(error, mm.OOM_EXCEPTION):
        return True
    return device_manager.is_out_of_memory(error)  # the host does not cover the CPU


# ---- images, masks, progress ----


def to_host_image(image: Tensor) -> Tensor:
    """Move an IMAGE or MASK to the host's device and dtype (float32 on older hosts)."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return image.to(mm.intermediate_device(), dtype).contiguous()


def mask_for(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """Resize a MASK to the size of `image` (B, H, W, C); return None for an empty mask.

    Load Image outputs zeros (64 x 64, whatever the image) if the file has no alpha, so a mask of
    zeros means no mask.
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
    """Raise the host's interrupt if the user has canceled the run."""
    mm.throw_exception_if_processing_interrupted()


def progress(total: int) -> Progress:
    """Show a progress bar on the running node and return the function that advances it."""
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, total: int = total) -> None:
        bar.update_absolute(done, total)

    return report
