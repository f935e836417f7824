"""Device and memory of one network.

This is the standalone version in plain torch. `nodes.host` has a subclass for ComfyUI's memory
management.
"""

import torch
from torch import nn

MAX_BATCH_SIZE = 16


class DeviceManager:
    """Keep one network on one device.

    Attributes:
        device: where the network runs.
    """

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        self._network = network
        self.device = torch.device(device)

    def acquire(self, memory_required: int) -> nn.Module:
        """Return the network, moved to `self.device`.

        Args:
            memory_required: bytes of activations to make room for. Plain torch allocates on
                demand, so only a host's memory management uses this.
        """
        return self._network.to(self.device)

    def max_batch_size(self, memory_per_image: int) -> int:
        """Return the number of images per forward pass that fit half of the GPU's free memory."""
        if self.device.type != "cuda":
            return 1  # on a CPU one image already uses every core, and memory stays low
        free, _ = torch.cuda.mem_get_info(self.device)
        return images_that_fit(free, memory_per_image)

    def check_interrupt(self) -> None:
        """Raise an exception if the user has asked to stop; called between images."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return True if `error` reports exhausted memory."""
        return is_out_of_memory(error)

    def empty_cache(self) -> None:
        """Return cached memory to the device before a retry."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def images_that_fit(free_memory: int, memory_per_image: int) -> int:
    """Return how many images, 1 to MAX_BATCH_SIZE, fit half of `free_memory` bytes."""
    return max(1, min(MAX_BATCH_SIZE, free_memory // 2 // max(memory_per_image, 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if torch or Python reports exhausted memory by `error`."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)
