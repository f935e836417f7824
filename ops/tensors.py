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
MAX_VALUES = {"uint8": 255, "uint16": 65535}
"""Integer dtypes of images, with their white."""
CLAMPED_VALUES = (-0.5, 2.0)
"""Resampling and restoration overshoot 0..1 by less than this."""
MAX_OUTLIERS = 0.01
"""Share of values beyond `CLAMPED_VALUES` from which an image has another scale."""


def as_batch(rgb: ImageT, name: str = "image") -> tuple[Tensor, Callable[[Tensor], ImageT]]:
    """Return the input as a (B, H, W, C) tensor and a function that restores its original form.

    Args:
        rgb: (B, H, W, C), (H, W, C) or a gray (H, W), tensor or array, C of 1, 3 or 4.
        name: name of the input in error messages.
    Raises:
        ValueError: the input has another type, dtype or shape.
    """
    image = _as_float_tensor(rgb, name)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim not in (3, 4) or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"the {name} has shape {tuple(image.shape)}; "
            "expected (B, H, W, C), (H, W, C) or (H, W) with C of 1, 3 or 4."
        )
    single = image.ndim == 3

    def restore(out: Tensor) -> ImageT:
        out = out[0] if single else out
        return cast(ImageT, out.numpy() if isinstance(rgb, np.ndarray) else out)

    return (image[None] if single else image), restore


def _as_float_tensor(rgb: object, name: str) -> Tensor:
    """Return a tensor or array of floats as a tensor; ValueError for anything else."""
    if type(rgb) in (list, tuple):
        raise ValueError(
            f"the {name} is a {type(rgb).__name__}; pass one image after another, or stack images "
            "of the same size into (B, H, W, C)."
        )
    if not isinstance(rgb, Tensor | np.ndarray):
        raise ValueError(
            f"the {name} is of type {type(rgb).__name__}; expected a tensor or an array. A Pillow "
            'image becomes one by np.asarray(image.convert("RGB"), np.float32) / 255.'
        )
    is_float = rgb.dtype.is_floating_point if isinstance(rgb, Tensor) else rgb.dtype.kind == "f"
    if not is_float:
        largest = MAX_VALUES.get(str(rgb.dtype).removeprefix("torch."))
        advice = f" (divide by {largest})" if largest else ""
        raise ValueError(
            f"the {name} has dtype {rgb.dtype}; expected float values in 0..1{advice}."
        )
    if isinstance(rgb, Tensor):
        return rgb
    if rgb.dtype.itemsize > 8:
        raise ValueError(f"the {name} has dtype {rgb.dtype}; expected at most float64.")
    return torch.from_numpy(np.ascontiguousarray(rgb, rgb.dtype.newbyteorder("=")))


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
    """Return an image with values in 0..1.

    Valid input is returned as it is. Overshoot is clamped and NaN becomes black, with a warning.

    Raises:
        ValueError: so many values are far outside 0..1 that the image must have another scale,
            such as 0..255 or -1..1.
    """
    low, high = rgb.aminmax()
    if low >= 0 and high <= 1:  # False for NaN too
        return rgb
    outliers = (rgb < CLAMPED_VALUES[0]) | (rgb > CLAMPED_VALUES[1])
    outliers &= rgb.isfinite()
    if outliers.sum() > MAX_OUTLIERS * rgb.numel():
        finite = rgb[rgb.isfinite()]
        raise ValueError(
            f"{name}: the image has values from {finite.min():g} to {finite.max():g}; expected "
            "0..1. Divide 0..255 by 255, turn -1..1 into (x + 1) / 2, or tone-map HDR first."
        )
    log.warning(
        "%s: the image contains NaN or values outside 0..1 (%g to %g); they were clamped.",
        *(name, low, high),
    )
    return rgb.nan_to_num(0).clamp(0, 1)
