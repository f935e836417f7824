"""Network inputs from a training batch."""

import torch
from torch import Tensor

from ...ops import color
from .batches import Batch


def gray_input(batch: Batch, device: torch.device) -> Tensor:
    """Return the input of an automatic colorizer: gray RGB (B, 3, H, W) in 0..1.

    It is damaged where the batch holds damaged gray versions.
    """
    if len(batch.images) > 1:
        return to_float(batch.images[1], device).expand(-1, 3, -1, -1).contiguous()
    return color.gray_rgb(color.lightness(to_float(batch.images[0], device))).contiguous()


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """Move uint8 images to the device as float32 in 0..1."""
    return images.to(device, non_blocking=True).float() / 255
