"""How good a coloured picture is: numbers over batches of sRGB pictures in 0..1.

`ssim`, `ciede2000` and `his` look at a few pixels at a time, in memory that does not grow with the
picture, and answer in float64.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..ops import color

# Mean squared error below which PSNR stops at 50 dB, as in the point-hint literature.
PSNR_FLOOR = 1e-5

# Wang et al. 2004, section III.C: an 11x11 Gaussian window, and constants for values in 0..1.
RADIUS, SIGMA = 5, 1.5

STEADY_MEAN, STEADY_VARIANCE = 0.01**2, 0.03**2  # C1, C2 there; C is chroma here

WINDOW = [math.exp(-(x**2) / (2 * SIGMA**2)) for x in range(-RADIUS, RADIUS + 1)]

WINDOW = [weight / sum(WINDOW) for weight in WINDOW]

TILE = 256  # side of what SSIM computes at once: fits into a processor's cache

BINS = 21  # along a and along b

AB_SCALE = 110.0  # Lab units of a and b that are 1 in `ab_norm`

# Pixels handled at once where their places do not matter; twice as many make histograms three times
# slower (0.2 -> 0.7 s a megapixel on one core).
PIECE = 2**15


def psnr(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture: two (B, 3, H, W) -> (B,) in dB, at most 50."""
    _refuse_unless_alike(rgb, true_rgb)
    return -10 * torch.log10(((rgb - true_rgb) ** 2).flatten(1).mean(1).clamp_min(PSNR_FLOOR))


def colorfulness(rgb: Tensor) -> Tensor:
    """Hasler and Suesstrunk 2003 of each picture: (B, 3, H, W) -> (B,), on their 0..255 scale.

    sigma + 0.3 mu of the cloud (R - G, (R + G) / 2 - B); about 0 for grey, 45 for everyday photos.
    """
    red, green, blue = (255 * rgb).unbind(1)
    rg, yb = (red - green).flatten(1), ((red + green) / 2 - blue).flatten(1)
    spread = torch.sqrt(rg.var(1, correction=0) + yb.var(1, correction=0) + 1e-8)
    return spread + 0.3 * torch.sqrt(rg.mean(1) ** 2 + yb.mean(1) ** 2 + 1e-8)


# --- Patches: seams and spots of networks that work on patches ----------------------------------


def patch_error_variance(rgb: Tensor, true_rgb: Tensor, patch: int = 16) -> Tensor:
    """PEV of each picture: two (B, 3, H, W) -> (B,), on the scale of 0..255, squared.

    The unbiased variance, over patches, of the root of a patch's mean squared error. The papers
    write "variance of the MSE", but their values are those of the root. Rows and columns that fill
    no patch are left out; 0 where there are fewer than two patches.
    """
    _refuse_unless_alike(rgb, true_rgb)
    height, width = (n // patch * patch for n in rgb.shape[2:])
    error = ((_double(rgb) - _double(true_rgb)) * 255).square().mean(1)[:, :height, :width]
    root = error.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).mean((2, 4)).sqrt().flatten(1)
    return root.var(1) if root.shape[1] > 1 else root.new_zeros(len(root))


def boundary_psnr(rgb: Tensor, true_rgb: Tensor, patch: int = 16) -> Tensor:
    """B-PSNR of each picture: PSNR of the two rows or columns about each border of patches.

    Args:
        rgb, true_rgb: (B, 3, H, W), one side at least longer than `patch`.
    Returns:
        (B,) in dB, at most 50.
    """
    _refuse_unless_alike(rgb, true_rgb)
    near = []
    for length in rgb.shape[2:]:
        place = torch.arange(length, device=rgb.device)
        before = (place % patch == patch - 1) & (place < length - 1)
        near.append(before | (place % patch == 0) & (place > 0))
    border = near[0][:, None] | near[1]
    if not border.any():
        height, width = rgb.shape[2:]
        raise ValueError(f"the pictures have {width}x{height} pixels, no border of {patch}.")
    error = (_double(rgb) - _double(true_rgb)).square().mean(1)[:, border].mean(1)
    return -10 * torch.log10(error.clamp_min(PSNR_FLOOR))


# --- Structure ---------------------------------------------------------------------------------


def ssim(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Structural similarity of each picture: two (B, 3, H, W) -> (B,) float64, 1 = the same.

    Wang et al. 2004, eq. 13, with weighted population variances; the mean over R, G and B and over
    all places where the 11x11 window lies inside the picture.

    Raises:
        ValueError: different shapes, or pictures smaller than the window. A smaller window would
            give another number under the same name.
    """
    _refuse_unless_alike(rgb, true_rgb)
    height, width = rgb.shape[2:]
    side = 2 * RADIUS + 1
    if min(height, width) < side:
        raise ValueError(
            f"the pictures have {width}x{height} pixels; SSIM needs at least {side}x{side}."
        )
    return torch.stack([_ssim(*pair) for pair in zip(rgb, true_rgb, strict=True)])


def _ssim(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Two (3, H, W) -> (), tile by tile."""
    rows, columns = (size - 2 * RADIUS for size in rgb.shape[1:])
    total, reach = 0.0, TILE + 2 * RADIUS
    for top in range(0, rows, TILE):
        for left in range(0, columns, TILE):
            tile = (slice(None), slice(top, top + reach), slice(left, left + reach))
            total = total + _similarities(_double(rgb[tile]), _double(true_rgb[tile])).sum()
    return total / (3 * rows * columns)


def _similarities(x: Tensor, y: Tensor) -> Tensor:
    """Wang et al. 2004, eq. 13 at each place of the window: two (3, h, w) -> (3, h - 10, w - 10).

    float64, because variances are differences of means of squares.
    """
    mean_x, mean_y, squares, product = _window_mean(torch.stack([x, y, x * x + y * y, x * y]))
    of_means, means_squared = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = product - of_means, squares - means_squared
    likeness = (2 * of_means + STEADY_MEAN) * (2 * covariance + STEADY_VARIANCE)
    return likeness / ((means_squared + STEADY_MEAN) * (variances + STEADY_VARIANCE))


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian mean (..., h, w) -> (..., h - 10, w - 10), first along columns, then along rows."""
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * RADIUS
        mean = WINDOW[0] * x.narrow(dim, 0, size)
        for shift, weight in enumerate(WINDOW[1:], 1):
            mean.add_(x.narrow(dim, shift, size), alpha=weight)
        x = mean
    return x


# --- Colour difference -------------------------------------------------------------------------


def ciede2000(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Mean CIEDE2000 colour difference of each picture: two (B, 3, H, W) -> (B,) float64, 0 = none.

    About 1 is just noticeable between two large patches side by side; black and white differ by
    100.

    Raises:
        ValueError: different shapes.
    """
    _refuse_unless_alike(rgb, true_rgb)
    total = 0.0
    for piece, true_piece in zip(_pieces(rgb), _pieces(true_rgb), strict=True):
        difference = delta_e(color.rgb_to_lab(piece), color.rgb_to_lab(true_piece))
        total = total + _double(difference).sum((1, 2))
    return total / rgb[0, 0].numel()


def delta_e(lab: Tensor, other_lab: Tensor) -> Tensor:
    """CIEDE2000 of each pixel: two (..., 3, H, W) Lab -> (..., H, W), with kL = kC = kH = 1.

    Numbers in brackets are the equations of Sharma, Wu and Dalal 2005, "The CIEDE2000
    color-difference formula: implementation notes, supplementary test data, and mathematical
    observations". Not meant for training: equal colours have no gradient.
    """
    (L1, a1, b1), (L2, a2, b2) = lab.unbind(-3), other_lab.unbind(-3)
    stretch = 1.5 - 0.5 * _chroma_weight((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # 1 + G
    a1, a2 = stretch * a1, stretch * a2  # (5)
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)  # (6)
    h1, h2 = (torch.atan2(b, a) % math.tau for a, b in ((a1, b1), (a2, b2)))  # (7)
    has_hue = C1 * C2 > 0

    turn = h2 - h1
    far = turn.abs() > math.pi  # the shorter way leads through hue 0
    turn = torch.where(far, turn - math.tau * turn.sign(), turn) * has_hue  # (10)
    dL, dC = L2 - L1, C2 - C1  # (8), (9)
    dH = 2 * torch.sqrt(C1 * C2) * torch.sin(turn / 2)  # (11)

    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, h1 + h2  # (12), (13)
    middle = torch.where(far, (h / 2 + math.pi) % math.tau, h / 2)
    h = torch.where(has_hue, middle, h)  # (14)
    T = (  # (15)
        1
        - 0.17 * torch.cos(h - math.radians(30))
        + 0.24 * torch.cos(2 * h)
        + 0.32 * torch.cos(3 * h + math.radians(6))
        - 0.20 * torch.cos(4 * h - math.radians(63))
    )
    blue = torch.exp(-(((torch.rad2deg(h) - 275) / 25) ** 2))
    rotation = -torch.sin(math.radians(60) * blue) * 2 * _chroma_weight(C)  # (16), (17), (21)
    from_middle = (L - 50) ** 2
    dL = dL / (1 + 0.015 * from_middle / torch.sqrt(20 + from_middle))  # (18)
    dC = dC / (1 + 0.045 * C)  # (19)
    dH = dH / (1 + 0.015 * C * T)  # (20)
    return torch.sqrt((dL**2 + dC**2 + dH**2 + rotation * dC * dH).clamp_min(0))  # (22)


def _chroma_weight(C: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7)), of (4) and (17)."""
    return torch.sqrt(C**7 / (C**7 + 25.0**7))


# --- Colours a picture has ---------------------------------------------------------------------


def soft_histogram(ab_norm: Tensor) -> Tensor:
    """How often which colour occurs: (B, 2, ...) a and b divided by 110 -> (B, 441), of sum 1.

    The grid has 21x21 colours, from -1 to 1 in steps of d = 0.1, those of a outermost. A pixel
    counts for the (up to) four around it, for each the more the nearer it is:
    H[i, j] = 1 / (N d^2) sum_p max(0, d - |a_p - z_i|) max(0, d - |b_p - z_j|), as in the
    histogram loss of exemplar colorization with axial attention. What lies outside -1..1 is taken
    to its edge.

    Always computed in float32, or float64 where that is given, whatever autocast says; the gradient
    is finite everywhere. Takes some 500 bytes a pixel: for whole photos there is `ab_histogram`.
    """
    if ab_norm.ndim < 3 or ab_norm.shape[1] != 2 or not ab_norm.numel():
        raise ValueError(f"ab_norm has shape {tuple(ab_norm.shape)}; expected (B, 2, ...).")
    with torch.autocast(ab_norm.device.type, enabled=False):
        values = _at_least_float32(ab_norm).flatten(2).clamp(-1, 1)
        colors = torch.linspace(-1, 1, BINS, dtype=values.dtype, device=values.device)
        distance = (values[:, :, None] - colors[:, None]).abs()  # (B, 2, 21, N)
        a, b = (1 - distance * ((BINS - 1) / 2)).clamp_min(0).unbind(1)
        return torch.bmm(a, b.mT).flatten(1) / values.shape[2]


def ab_histogram(rgb: Tensor) -> Tensor:
    """`soft_histogram` of pictures of any size: (B, 3, H, W) -> (B, 441) float64."""
    total = 0.0
    for piece in _pieces(rgb):
        ab_norm = color.rgb_to_lab(piece)[:, 1:] / AB_SCALE
        total = total + _double(soft_histogram(ab_norm)) * piece.shape[2]
    return total / rgb[0, 0].numel()


def intersection(histogram: Tensor, other: Tensor) -> Tensor:
    """What two histograms share: (B, 441) and (B or 1, 441), each of sum 1 -> (B,) in 0..1."""
    return torch.minimum(histogram, other).sum(1)


def his(rgb: Tensor, reference_rgb: Tensor) -> Tensor:
    """Histogram intersection similarity: has a picture the colours of its reference?

    It does not see where they are: a global transfer of colours reaches high values with a picture
    that is wrong everywhere. Always tell `ssim` to the truth with it.

    Args:
        rgb: (B, 3, H, W).
        reference_rgb: (B or 1, 3, H', W'), of any size.
    Returns:
        (B,) float64 in 0..1; 1 = the same colours, equally often.
    Raises:
        ValueError: another number of references.
    """
    count = len(reference_rgb)
    if count not in (1, len(rgb)):
        raise ValueError(
            f"reference has {count} images but the picture has {len(rgb)}; "
            "give one reference or one per image."
        )
    return intersection(ab_histogram(rgb), ab_histogram(reference_rgb))


# --- All of them -------------------------------------------------------------------------------


def scores(
    rgb: Tensor,
    true_rgb: Tensor | None = None,
    wanted: Tensor | None = None,
    patches: Sequence[int] = (),
) -> dict[str, Tensor]:
    """How good coloured pictures are, each alone: name of the score -> (B,).

    Args:
        rgb: (B, 3, H, W) in 0..1.
        true_rgb: the same in true colour; None = colourfulness alone.
        wanted: (B or 1, 441) histograms of the references' colours, for HIS.
        patches: sides for PEV and B-PSNR.
    Raises:
        ValueError: different shapes; pictures too small for SSIM.
    """
    found = (
        {}
        if true_rgb is None
        else {
            "psnr": psnr(rgb, true_rgb),
            "ssim": ssim(rgb, true_rgb),
            "ciede2000": ciede2000(rgb, true_rgb),
        }
    )
    found["colorfulness"] = colorfulness(rgb)
    if wanted is not None:
        found["his"] = intersection(ab_histogram(rgb), wanted)
    for side in patches:
        found[f"pev{side}"] = patch_error_variance(rgb, true_rgb, side)
        found[f"bpsnr{side}"] = boundary_psnr(rgb, true_rgb, side)
    return found


def of_picture(
    rgb: Tensor, true_rgb: Tensor | None = None, wanted: Tensor | None = None
) -> dict[str, float]:
    """`scores` of one picture (1, 3, H, W); with its truth that one's colourfulness, too, and the
    difference."""
    found = {name: value.item() for name, value in scores(rgb, true_rgb, wanted).items()}
    if true_rgb is None:
        return found
    true = colorfulness(true_rgb).item()
    off = abs(found["colorfulness"] - true)
    return found | {"true_colorfulness": true, "delta_colorfulness": off}


# --- Shared ------------------------------------------------------------------------------------


def _refuse_unless_alike(rgb: Tensor, true_rgb: Tensor) -> None:
    if rgb.shape != true_rgb.shape:
        raise ValueError(
            f"the pictures have shapes {tuple(rgb.shape)} and {tuple(true_rgb.shape)}; "
            "they must agree."
        )


def _pieces(rgb: Tensor) -> Iterator[Tensor]:
    """(B, 3, n, 1) of the pixels of (B, 3, H, W), together all of them; at least float32."""
    pixels = rgb.flatten(2).unsqueeze(3)  # a view of what comes from a file
    for piece in pixels.split(max(1, PIECE // len(rgb)), dim=2):
        yield _at_least_float32(piece)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _double(x: Tensor) -> Tensor:
    """float64; from Apple's GPU, which has none, on the CPU."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)
