"""Validate image inputs and convert them to a batch of tensors."""

import logging
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

Image = Tensor | np.ndarray
"""Image or batch of images as users pass it: float sRGB in 0..1, channels last."""
ImageT = TypeVar("ImageT", bound=Image)


def as_batch(rgb: ImageT, name: str = "image") -> tuple[Tensor, Callable[[Tensor], ImageT]]:
    """Return the input as a (B, H, W, C) tensor and a function that restores its original form.

    Args:
        rgb: (B, H, W, C) or (H, W, C), tensor or array, C of 1, 3 or 4.
        name: name of the input in error messages.
    Raises:
        ValueError: the input has another type, dtype or shape.
    """
    if not isinstance(rgb, Tensor | np.ndarray):
        raise ValueError(f"the {name} is a {type(rgb).__name__}; expected a tensor or an array.")
    image = torch.from_numpy(np.ascontiguousarray(rgb)) if isinstance(rgb, np.ndarray) else rgb
    if not image.is_floating_point():
        raise ValueError(
            f"the {name} has dtype {image.dtype}; expected float values in 0..1 (divide by 255)."
        )
    if image.ndim not in (3, 4) or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"the {name} has shape {tuple(image.shape)}; "
            "expected (B, H, W, C) or (H, W, C) with C of 1, 3 or 4."
        )
    single = image.ndim == 3

    def restore(out: Tensor) -> ImageT:
        out = out[0] if single else out
        return cast(ImageT, out.numpy() if isinstance(rgb, np.ndarray) else out)

    return (image[None] if single else image), restore


def as_masks(mask: Image, image: Tensor) -> Tensor:
    """Return the mask as (B or 1, H, W) float32 for an image (B, H, W, C).

    Raises:
        ValueError: the mask has another shape.
    """
    mask = torch.as_tensor(mask, dtype=torch.float32)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[1:] != image.shape[1:3] or len(mask) not in (1, len(image)):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)}; expected ({len(image)} or 1, "
            f"{image.shape[1]}, {image.shape[2]}) for this image."
        )
    return mask


def slice_masks(masks: Tensor | None, part: slice) -> Tensor | None:
    """Return the masks of a part of the batch; a single mask applies to all images."""
    return masks if masks is None or len(masks) == 1 else masks[part]


def sanitize(rgb: Tensor, name: str) -> Tensor:
    """Clamp values to 0..1 and turn NaN into black, with a warning; return valid input as it is."""
    low, high = rgb.aminmax()
    if low >= 0 and high <= 1:  # False for NaN too
        return rgb
    log.warning(
        "%s: the image contains NaN or values outside 0..1 (%g to %g); they were clamped.",
        *(name, low, high),
    )
    return rgb.nan_to_num(0).clamp(0, 1)
