"""What a caller hands in, as one batch of tensors, checked; and back to the caller's kind."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)


def as_batch(
    rgb: Tensor | np.ndarray, what: str = "image"
) -> tuple[Tensor, Callable[[Tensor], Tensor | np.ndarray]]:
    """(B, H, W, C) tensor of the input, and the way back to the input's kind.

    Args:
        rgb: what came in.
        what: to call it in messages.
    Raises:
        ValueError: not float, or not (B, H, W, C) or (H, W, C) with C of 1, 3 or 4.
    """
    if not isinstance(rgb, Tensor | np.ndarray):
        raise ValueError(f"the {what} is a {type(rgb).__name__}; expected a tensor or an array.")
    picture = torch.from_numpy(np.ascontiguousarray(rgb)) if isinstance(rgb, np.ndarray) else rgb
    if not picture.is_floating_point():
        raise ValueError(
            f"the {what} has dtype {picture.dtype}; expected float values in 0..1 (divide by 255)."
        )
    if picture.ndim not in (3, 4) or picture.shape[-1] not in (1, 3, 4) or 0 in picture.shape:
        raise ValueError(
            f"the {what} has shape {tuple(picture.shape)}; "
            "expected (B, H, W, C) or (H, W, C) with C of 1, 3 or 4."
        )
    single = picture.ndim == 3

    def restore(out: Tensor) -> Tensor | np.ndarray:
        out = out[0] if single else out
        return out.numpy() if isinstance(rgb, np.ndarray) else out

    return (picture[None] if single else picture), restore


def as_masks(mask: Tensor | np.ndarray, picture: Tensor) -> Tensor:
    """(B or 1, H, W) float32 for `picture` (B, H, W, C). Raises ValueError on another shape."""
    mask = torch.as_tensor(mask, dtype=torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[1:] != picture.shape[1:3] or len(mask) not in (1, len(picture)):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; expected ({len(picture)} or 1, "
            f"{picture.shape[1]}, {picture.shape[2]}) for this image."
        )
    return mask


def part_of(masks: Tensor | None, part: slice) -> Tensor | None:
    """The masks of some pictures: None stays None, one mask serves all."""
    return masks if masks is None or len(masks) == 1 else masks[part]


def repaired(rgb: Tensor, name: str) -> Tensor:
    """Values outside 0..1 clamped and NaN made black, with a warning; untouched otherwise."""
    low, high = rgb.aminmax()
    if low >= 0 and high <= 1:  # False for NaN too
        return rgb
    log.warning(
        "%s: the image holds NaN or values outside 0..1 (%g to %g); repaired.", name, low, high
    )
    return rgb.nan_to_num(0).clamp(0, 1)
