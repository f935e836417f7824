"""How good a coloured picture is: numbers over batches of sRGB pictures in 0..1."""

import torch
from torch import Tensor

# Mean squared error below which PSNR stops at 50 dB, as in the point-hint literature.
PSNR_FLOOR = 1e-5


def psnr(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture: two (B, 3, H, W) -> (B,) in dB, at most 50."""
    if rgb.shape != true_rgb.shape:
        raise ValueError(
            f"the pictures have shapes {tuple(rgb.shape)} and {tuple(true_rgb.shape)}; "
            "they must agree."
        )
    return -10 * torch.log10(((rgb - true_rgb) ** 2).flatten(1).mean(1).clamp_min(PSNR_FLOOR))


def colorfulness(rgb: Tensor) -> Tensor:
    """Hasler and Suesstrunk 2003 of each picture: (B, 3, H, W) -> (B,), on their 0..255 scale.

    sigma + 0.3 mu of the cloud (R - G, (R + G) / 2 - B); about 0 for grey, 45 for everyday photos.
    """
    red, green, blue = (255 * rgb).unbind(1)
    rg, yb = (red - green).flatten(1), ((red + green) / 2 - blue).flatten(1)
    spread = torch.sqrt(rg.var(1, correction=0) + yb.var(1, correction=0) + 1e-8)
    return spread + 0.3 * torch.sqrt(rg.mean(1) ** 2 + yb.mean(1) ** 2 + 1e-8)
