"""Where a network runs: plain torch here.

`nodes.host` gives the host's own memory management the same shape.
"""

import torch
from torch import nn


class Placement:
    """Keeps one network on one device."""

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu"):
        self._network = network
        self.device = torch.device(device)

    def acquire(self, memory_required: int) -> nn.Module:
        """The network, on `self.device`, with room for `memory_required` bytes of activations."""
        del memory_required  # plain torch allocates as it goes
        return self._network.to(self.device)

    def images_at_once(self, memory_per_image: int) -> int:
        """How many images to run in one forward pass: what fits in half of a GPU's free memory."""
        if self.device.type != "cuda":
            return 1  # on a CPU one image already uses every core, and memory stays low
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(16, int(free // 2 // max(memory_per_image, 1))))

    def check_interrupt(self) -> None:
        """Raise where the user has asked to stop; called between images."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when `error` says that memory ran out."""
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        return "can't allocate memory" in str(error)

    def release(self) -> None:
        """Give cached memory back before a retry."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
