"""Merge the lightness of one image with the chroma of another, such as any generator's output."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..ops import color
from ..ops.resize import Geometry, downscale
from ..ops.tensors import as_batch, as_masks, sanitize, slice_masks
from .postprocess import Finish, apply_finish

# Generators round sides to multiples of 8 to 64; a larger difference means another crop.
ASPECT_TOLERANCE = 0.05
# Working size limit of the color image: chroma is smooth, so more pixels only need more memory.
MAX_CHROMA_PIXELS = 2**22


@torch.inference_mode()
def merge_chroma(
    luminance: Tensor,
    colored: Tensor,
    *,
    mask: Tensor | None = None,
    controls: Finish | None = None,
    device: torch.device | str = "cpu",
    check_interrupt: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Color the photo `luminance` with the chroma of `colored`, upsampled along the photo's edges.

    Args:
        luminance: (B, H, W, C) sRGB in 0..1, C of 1, 3 or 4 (alpha is kept); its lightness is kept.
        colored: (B or 1, h, w, C) sRGB in 0..1: the same image in color, of any size.
        mask: (B or 1, H, W) in 0..1; 1 = use the new color, 0 = leave the photo as it is.
        controls: see `Finish`.
        device: where to compute.
        check_interrupt: called before each image; may raise to stop.
        progress: called after each image with the number of finished images.
    Returns:
        (B, H, W, 3 or 4) of the dtype and device of `luminance`.
    Raises:
        ValueError: batch sizes or aspect ratios do not match.
    """
    photos, _ = as_batch(luminance)
    sources, _ = as_batch(colored)
    masks = None if mask is None else as_masks(mask, photos)
    _check_pair(photos, sources)
    count, height, width, channels = photos.shape
    out = photos.new_empty(count, height, width, max(3, channels))
    for i in range(count):
        if check_interrupt:
            check_interrupt()
        item = slice(i, i + 1)
        rgb = sanitize(photos[item].movedim(-1, 1), "luminance")
        if out.shape[-1] == 4:
            out[item, ..., 3] = rgb[:, 3]
        source = sources[item] if len(sources) > 1 else sources
        ab = _working_chroma(source, (height, width), device)
        # The photo's own L guides the upsampling because a generator changes tones (24 photos,
        # gamma 1.5, x3: chroma error 2.42; with the generator's L 2.50, bilinear 2.78; 2026-11).
        L = color.lightness(_scale(rgb, (ab.shape[2], ab.shape[3]), device))
        result = out[item, ..., :3].movedim(-1, 1)
        mask_item = slice_masks(masks, item)
        apply_finish(_to_rgb(rgb), ab, L, controls or Finish(), result, mask_item)
        if progress:
            progress(i + 1)
    return out


def _check_pair(photos: Tensor, sources: Tensor) -> None:
    """Raise ValueError if batch sizes or aspect ratios do not match."""
    if len(sources) not in (1, len(photos)):
        raise ValueError(
            f"color has {len(sources)} images but luminance has {len(photos)}; "
            "give one color image, or one per luminance image."
        )
    (H, W), (h, w) = photos.shape[1:3], sources.shape[1:3]
    # Half a pixel on each side is rounding, which matters for small images.
    tolerance = ASPECT_TOLERANCE + 0.5 / min(h, w) + 0.5 / min(H, W)
    if abs(math.log((w / h) / (W / H))) > tolerance:
        raise ValueError(
            f"color is {w}x{h} and luminance is {W}x{H}: their aspect ratios differ "
            f"({w / h:.3f} and {W / H:.3f}), so they do not show the same image. "
            "Crop one of them to match the other, or generate at the photo's aspect ratio."
        )


def _working_chroma(
    source: Tensor, photo_size: tuple[int, int], device: torch.device | str
) -> Tensor:
    """Return ab (1, 2, h', w') of (1, h, w, C) on `device`.

    It is not larger than the photo or MAX_CHROMA_PIXELS.
    """
    h, w = source.shape[1:3]
    scale = min(1, photo_size[0] / h, photo_size[1] / w, math.sqrt(MAX_CHROMA_PIXELS / (h * w)))
    size = max(1, round(h * scale)), max(1, round(w * scale))
    rgb = sanitize(source.movedim(-1, 1), "color")
    return color.rgb_to_lab(_scale(rgb, size, device))[:, 1:]


def _scale(rgb: Tensor, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """Scale (1, C, H, W) with antialiasing to (1, 3, *size) float32 on `device`."""
    geometry = Geometry(rgb.shape[2], rgb.shape[3], *size, *size)
    return downscale(_to_rgb(rgb), geometry, device).clamp(0, 1)


def _to_rgb(image: Tensor) -> Tensor:
    """Return three channels: gray repeated, alpha dropped."""
    return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image[:, :3]
