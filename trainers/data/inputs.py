"""What a network sees of a batch of photos."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import color
from .batches import Batch


def gray_seen(device: torch.device) -> Callable[[Batch], tuple[Tensor]]:
    """Photos -> what automatic colorizers see of them: grey RGB (B, 3, H, W) in 0..1."""

    def seen(batch: Batch) -> tuple[Tensor]:
        return (gray_input(batch, device),)

    return seen


def gray_input(batch: Batch, device: torch.device) -> Tensor:
    """What an automatic colorizer sees of a batch: grey RGB (B, 3, H, W) in 0..1, maybe damaged."""
    if len(batch.pictures) > 1:
        return unit(batch.pictures[1], device).expand(-1, 3, -1, -1).contiguous()
    return color.gray_rgb(color.lightness(unit(batch.pictures[0], device))).contiguous()


def unit(pictures: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float32 in 0..1, on the device."""
    return pictures.to(device, non_blocking=True).float() / 255
