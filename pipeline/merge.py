"""Lightness of one picture, chroma of another: any generator's colour on a full-size photo."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..ops import color
from ..ops.resize import Geometry, shrink
from ..ops.tensors import as_batch, as_masks, part_of, repaired
from .postprocess import Finish, apply_finish

# Generators round sides to multiples of 8 to 64; more than this is another crop.
ASPECT_TOLERANCE = 0.05
CHROMA_PIXELS = 2**22  # of the colour picture; beyond it only memory grows, chroma is that smooth


@torch.inference_mode()
def merge_chroma(
    luminance: Tensor,
    colored: Tensor,
    *,
    mask: Tensor | None = None,
    controls: Finish | None = None,
    device: torch.device | str = "cpu",
    before_each: Callable[[], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The photo `luminance` with the chroma of `colored`, brought to full size along its edges.

    Args:
        luminance: (B, H, W, C) sRGB in 0..1, C of 1, 3 or 4 (alpha is kept); its L is kept.
        colored: (B or 1, h, w, C) sRGB in 0..1: the same picture in colour, any size.
        mask: (B or 1, H, W) in 0..1; 1 = take the new colour, 0 = leave the photo as it is.
        controls: see `Finish`.
        device: where to compute.
        before_each: called before each picture; may raise to stop.
        progress: called after each picture with the number done.
    Returns:
        (B, H, W, 3 or 4) of the dtype and device of `luminance`.
    Raises:
        ValueError: batches or aspect ratios that do not fit each other.
    """
    photo, _ = as_batch(luminance)
    source, _ = as_batch(colored)
    masks = None if mask is None else as_masks(mask, photo)
    _check_pair(photo, source)
    out = torch.empty(
        *photo.shape[:3], max(3, photo.shape[3]), dtype=photo.dtype, device=photo.device
    )
    for i in range(len(photo)):
        if before_each:
            before_each()
        one = slice(i, i + 1)
        rgb = repaired(photo[one].movedim(-1, 1), "luminance")
        if out.shape[-1] == 4:
            out[one, ..., 3] = rgb[:, 3]
        ab = _working_chroma(source[one] if len(source) > 1 else source, photo.shape[1:3], device)
        # The photo's own L guides: a generator's is toned differently (on 24 photos, gamma 1.5, x3:
        # chroma off by 2.42 against 2.50 with the other picture's L and 2.78 bilinear, 2026-11).
        L = color.lightness(_scaled(rgb, tuple(ab.shape[2:]), device))
        target = out[one, ..., :3].movedim(-1, 1)
        apply_finish(_three(rgb), ab, L, controls or Finish(), target, part_of(masks, one))
        if progress:
            progress(i + 1)
    return out


def _check_pair(photo: Tensor, source: Tensor) -> None:
    if len(source) not in (1, len(photo)):
        raise ValueError(
            f"color has {len(source)} images but luminance has {len(photo)}; "
            "give one color image, or one per luminance image."
        )
    (H, W), (h, w) = photo.shape[1:3], source.shape[1:3]
    # Half a pixel each way is rounding, however small the picture.
    slack = ASPECT_TOLERANCE + 0.5 / min(h, w) + 0.5 / min(H, W)
    if abs(math.log((w / h) / (W / H))) > slack:
        raise ValueError(
            f"color is {w}x{h} and luminance is {W}x{H}: their aspect ratios differ "
            f"({w / h:.3f} and {W / H:.3f}), so they do not show the same picture. "
            "Crop one of them to the other's part, or generate at the photo's aspect ratio."
        )


def _working_chroma(
    source: Tensor, photo_size: tuple[int, int], device: torch.device | str
) -> Tensor:
    """(1, h, w, C) -> ab (1, 2, h', w') on `device`, no larger than the photo or CHROMA_PIXELS."""
    h, w = source.shape[1:3]
    scale = min(1, photo_size[0] / h, photo_size[1] / w, math.sqrt(CHROMA_PIXELS / (h * w)))
    size = max(1, round(h * scale)), max(1, round(w * scale))
    rgb = repaired(source.movedim(-1, 1), "color")
    return color.rgb_to_lab(_scaled(rgb, size, device))[:, 1:]


def _scaled(rgb: Tensor, size: tuple[int, int], device: torch.device | str) -> Tensor:
    """(1, C, H, W) -> (1, 3, *size) float32 on `device`, antialiased."""
    fit = Geometry(*rgb.shape[2:], *size, *size)
    return shrink(_three(rgb), fit, device).clamp(0, 1)


def _three(rgb: Tensor) -> Tensor:
    return rgb.expand(-1, 3, -1, -1) if rgb.shape[1] == 1 else rgb[:, :3]
