"""Quality metrics for batches of sRGB images in 0..1.

`ssim`, `ciede2000` and `histogram_intersection` process a few pixels at a time, in memory that does
not grow with the image, and return float64.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..ops import color

PSNR_FLOOR = 1e-5  # lowest mean squared error: PSNR is at most 50 dB, as in the literature on hints

# Wang et al. 2004, section III.C: an 11x11 Gaussian window, and constants for values in 0..1
SSIM_RADIUS, SSIM_SIGMA = 5, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SSIM_TILE = 256  # side of the tiles that SSIM processes; fits in a CPU cache

HISTOGRAM_BINS = 21  # along a and along b
AB_SCALE = 110.0  # Lab units of a or b that correspond to 1 in `ab_norm`

# Pixels processed at a time where their position does not matter. Twice as many make histograms
# three times slower (0.2 -> 0.7 s per megapixel on one core).
CHUNK_PIXELS = 2**15


def _gaussian_window() -> list[float]:
    weights = [
        math.exp(-(x**2) / (2 * SSIM_SIGMA**2)) for x in range(-SSIM_RADIUS, SSIM_RADIUS + 1)
    ]
    return [weight / sum(weights) for weight in weights]


SSIM_WINDOW = _gaussian_window()


def psnr(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (B, 3, H, W): (B,) in dB, at most 50."""
    _require_same_shape(rgb, true_rgb)
    return -10 * torch.log10(((rgb - true_rgb) ** 2).flatten(1).mean(1).clamp_min(PSNR_FLOOR))


def colorfulness(rgb: Tensor) -> Tensor:
    """Return the colorfulness of each image (B, 3, H, W): (B,) (Hasler and Suesstrunk 2003).

    sigma + 0.3 mu of the distribution of (R - G, (R + G) / 2 - B) with values in 0..255; about 0
    for gray images, 45 for everyday photos.
    """
    return _colorfulness(*_opponent_colors(rgb))


def absolute_colorfulness(rgb: Tensor) -> Tensor:
    """Return the colorfulness of each image as the programs of DDColor and ColorFormer compute it.

    Like `colorfulness`, but of |R - G| and |(R + G) / 2 - B|: the signs are dropped first, so that
    opposite colors count as equal. The CF and delta-CF of their tables are of this form. It is
    about a tenth lower.

    Args:
        rgb: (B, 3, H, W) in 0..1.
    Returns:
        (B,).
    """
    rg, yb = _opponent_colors(rgb)
    return _colorfulness(rg.abs(), yb.abs())


def _opponent_colors(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return R - G and (R + G) / 2 - B of the pixels, each (B, H W), with values in 0..255."""
    red, green, blue = (255 * rgb).unbind(1)
    return (red - green).flatten(1), ((red + green) / 2 - blue).flatten(1)


def _colorfulness(rg: Tensor, yb: Tensor) -> Tensor:
    spread = torch.sqrt(rg.var(1, correction=0) + yb.var(1, correction=0) + 1e-8)
    return spread + 0.3 * torch.sqrt(rg.mean(1) ** 2 + yb.mean(1) ** 2 + 1e-8)


# --- Seams and spots of networks that work on patches ------------------------------------------


def patch_error_variance(rgb: Tensor, true_rgb: Tensor, patch: int = 16) -> Tensor:
    """Return the PEV of each image (B, 3, H, W): (B,), with values in 0..255.

    The PEV is the unbiased variance, over patches, of the root mean squared error of a patch. The
    papers write "variance of the MSE" but report values of the root. Rows and columns that do not
    fill a patch are ignored. The result is 0 if there are fewer than two patches.
    """
    _require_same_shape(rgb, true_rgb)
    height, width = (n // patch * patch for n in rgb.shape[2:])
    error = ((_to_float64(rgb) - _to_float64(true_rgb)) * 255).square().mean(1)[:, :height, :width]
    root = error.unflatten(1, (-1, patch)).unflatten(3, (-1, patch)).mean((2, 4)).sqrt().flatten(1)
    return root.var(1) if root.shape[1] > 1 else root.new_zeros(len(root))


def boundary_psnr(rgb: Tensor, true_rgb: Tensor, patch: int = 16) -> Tensor:
    """Return the PSNR of the pixels on both sides of the patch boundaries (B-PSNR).

    Args:
        rgb, true_rgb: (B, 3, H, W) with at least one side longer than `patch`.
    Returns:
        (B,) in dB, at most 50.
    Raises:
        ValueError: the shapes differ, or the image has no patch boundary.
    """
    _require_same_shape(rgb, true_rgb)
    at_boundary = []
    for length in rgb.shape[2:]:
        index = torch.arange(length, device=rgb.device)
        before = (index % patch == patch - 1) & (index < length - 1)
        at_boundary.append(before | (index % patch == 0) & (index > 0))
    mask = at_boundary[0][:, None] | at_boundary[1]
    if not mask.any():
        height, width = rgb.shape[2:]
        raise ValueError(
            f"the images have {width}x{height} pixels and no patch boundary; one side must be "
            f"longer than {patch}."
        )
    error = (_to_float64(rgb) - _to_float64(true_rgb)).square().mean(1)[:, mask].mean(1)
    return -10 * torch.log10(error.clamp_min(PSNR_FLOOR))


# --- Structure ---------------------------------------------------------------------------------


def ssim(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Return the structural similarity of each image (B, 3, H, W): (B,) float64, 1 if equal.

    Wang et al. 2004, eq. 13, with weighted population variances; the mean over R, G and B and over
    all positions where the 11x11 window lies inside the image.

    Raises:
        ValueError: the shapes differ, or the images are smaller than the window. A smaller window
            would give incomparable numbers.
    """
    _require_same_shape(rgb, true_rgb)
    height, width = rgb.shape[2:]
    side = len(SSIM_WINDOW)
    if min(height, width) < side:
        raise ValueError(
            f"the images have {width}x{height} pixels; SSIM needs at least {side}x{side}."
        )
    return torch.stack([_ssim(*pair) for pair in zip(rgb, true_rgb, strict=True)])


def _ssim(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Return the SSIM of one image (3, H, W) as a scalar, computed tile by tile."""
    rows, columns = (size - 2 * SSIM_RADIUS for size in rgb.shape[1:])
    total = _to_float64(rgb.new_zeros(()))
    reach = SSIM_TILE + 2 * SSIM_RADIUS
    for top in range(0, rows, SSIM_TILE):
        for left in range(0, columns, SSIM_TILE):
            tile = (slice(None), slice(top, top + reach), slice(left, left + reach))
            total = total + _ssim_map(_to_float64(rgb[tile]), _to_float64(true_rgb[tile])).sum()
    return total / (3 * rows * columns)


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """Return eq. 13 of Wang et al. 2004 at each window position: (3, h, w) -> (3, h - 10, w - 10).

    Needs float64, because variances are differences of means of squares.
    """
    mean_x, mean_y, squares, product = _window_mean(torch.stack([x, y, x * x + y * y, x * y]))
    mean_product, squared_means = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = product - mean_product, squares - squared_means
    similarity = (2 * mean_product + SSIM_C1) * (2 * covariance + SSIM_C2)
    return similarity / ((squared_means + SSIM_C1) * (variances + SSIM_C2))


def _window_mean(x: Tensor) -> Tensor:
    """Return the Gaussian-weighted mean over windows: (..., h, w) -> (..., h - 10, w - 10)."""
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * SSIM_RADIUS
        mean = SSIM_WINDOW[0] * x.narrow(dim, 0, size)
        for shift, weight in enumerate(SSIM_WINDOW[1:], 1):
            mean.add_(x.narrow(dim, shift, size), alpha=weight)
        x = mean
    return x


# --- Color difference --------------------------------------------------------------------------


def ciede2000(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """Return the mean CIEDE2000 color difference of each image (B, 3, H, W): (B,) float64.

    0 for equal images; about 1 is just noticeable between two large patches side by side; black
    and white differ by 100.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_shape(rgb, true_rgb)
    total = _to_float64(rgb.new_zeros(len(rgb)))
    for chunk, true_chunk in zip(_pixel_chunks(rgb), _pixel_chunks(true_rgb), strict=True):
        difference = delta_e(color.rgb_to_lab(chunk), color.rgb_to_lab(true_chunk))
        total = total + _to_float64(difference).sum((1, 2))
    return total / rgb[0, 0].numel()


def delta_e(lab: Tensor, other_lab: Tensor) -> Tensor:
    """Return the CIEDE2000 of each pixel of two Lab images (..., 3, H, W): (..., H, W).

    Numbers in parentheses are the equations of Sharma, Wu and Dalal 2005, "The CIEDE2000
    color-difference formula: implementation notes, supplementary test data, and mathematical
    observations", with kL = kC = kH = 1. Not suitable as a loss: equal colors have no gradient.
    """
    (L1, a1, b1), (L2, a2, b2) = lab.unbind(-3), other_lab.unbind(-3)
    a_scale = 1.5 - 0.5 * _chroma_weight((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # 1 + G
    a1, a2 = a_scale * a1, a_scale * a2  # (5)
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)  # (6)
    h1, h2 = (torch.atan2(b, a) % math.tau for a, b in ((a1, b1), (a2, b2)))  # (7)
    has_hue = C1 * C2 > 0

    dh = h2 - h1
    wraps = dh.abs() > math.pi  # the shorter arc passes through hue 0
    dh = torch.where(wraps, dh - math.tau * dh.sign(), dh) * has_hue  # (10)
    dL, dC = L2 - L1, C2 - C1  # (8), (9)
    dH = 2 * torch.sqrt(C1 * C2) * torch.sin(dh / 2)  # (11)

    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, h1 + h2  # (12), (13)
    mean_hue = torch.where(wraps, (h / 2 + math.pi) % math.tau, h / 2)
    h = torch.where(has_hue, mean_hue, h)  # (14)
    T = (  # (15)
        1
        - 0.17 * torch.cos(h - math.radians(30))
        + 0.24 * torch.cos(2 * h)
        + 0.32 * torch.cos(3 * h + math.radians(6))
        - 0.20 * torch.cos(4 * h - math.radians(63))
    )
    blue = torch.exp(-(((torch.rad2deg(h) - 275) / 25) ** 2))
    rotation = -torch.sin(math.radians(60) * blue) * 2 * _chroma_weight(C)  # (16), (17), (21)
    squared_offset = (L - 50) ** 2
    dL = dL / (1 + 0.015 * squared_offset / torch.sqrt(20 + squared_offset))  # (18)
    dC = dC / (1 + 0.045 * C)  # (19)
    dH = dH / (1 + 0.015 * C * T)  # (20)
    return torch.sqrt((dL**2 + dC**2 + dH**2 + rotation * dC * dH).clamp_min(0))  # (22)


def _chroma_weight(C: Tensor) -> Tensor:
    """Return sqrt(C^7 / (C^7 + 25^7)) of (4) and (17)."""
    return torch.sqrt(C**7 / (C**7 + 25.0**7))


# --- Color histograms --------------------------------------------------------------------------


def soft_histogram(ab_norm: Tensor) -> Tensor:
    """Return the soft 2-D histogram of ab (B, 2, ...) in -1..1: (B, 441), normalized to sum 1.

    The grid has 21x21 colors from -1 to 1 in steps of d = 0.1, with a as the outer axis. A pixel
    counts for the (up to) four colors around it with bilinear weights:
    H[i, j] = 1 / (N d^2) sum_p max(0, d - |a_p - z_i|) max(0, d - |b_p - z_j|), as in the histogram
    loss of exemplar colorization with axial attention. Values outside -1..1 are clamped.

    Computed in float32, or float64 for such input, even under autocast; the gradient is finite
    everywhere. Needs about 500 bytes per pixel: use `ab_histogram` for whole photos.

    Raises:
        ValueError: the input has another shape or is empty.
    """
    if ab_norm.ndim < 3 or ab_norm.shape[1] != 2 or not ab_norm.numel():
        raise ValueError(f"ab_norm has shape {tuple(ab_norm.shape)}; expected (B, 2, ...).")
    with torch.autocast(ab_norm.device.type, enabled=False):
        values = _at_least_float32(ab_norm).flatten(2).clamp(-1, 1)
        bins = torch.linspace(-1, 1, HISTOGRAM_BINS, dtype=values.dtype, device=values.device)
        distance = (values[:, :, None] - bins[:, None]).abs()  # (B, 2, 21, N)
        a, b = (1 - distance * ((HISTOGRAM_BINS - 1) / 2)).clamp_min(0).unbind(1)
        return torch.bmm(a, b.mT).flatten(1) / values.shape[2]


def ab_histogram(rgb: Tensor) -> Tensor:
    """Return the `soft_histogram` of images of any size (B, 3, H, W): (B, 441) float64."""
    total = _to_float64(rgb.new_zeros(len(rgb), HISTOGRAM_BINS**2))
    for chunk in _pixel_chunks(rgb):
        ab_norm = color.rgb_to_lab(chunk)[:, 1:] / AB_SCALE
        total = total + _to_float64(soft_histogram(ab_norm)) * chunk.shape[2]
    return total / rgb[0, 0].numel()


def histogram_overlap(histogram: Tensor, other: Tensor) -> Tensor:
    """Return the intersection (B,) in 0..1 of normalized histograms (B, 441) and (B or 1, 441)."""
    return torch.minimum(histogram, other).sum(1)


def histogram_intersection(rgb: Tensor, reference_rgb: Tensor) -> Tensor:
    """Return the histogram intersection similarity (HIS) of images and their references.

    HIS ignores where colors are: a global color transfer reaches high values with an image that is
    wrong everywhere. Always report it together with `ssim`.

    Args:
        rgb: (B, 3, H, W).
        reference_rgb: (B or 1, 3, H', W').
    Returns:
        (B,) float64 in 0..1; 1 if the distributions of colors are equal.
    Raises:
        ValueError: the number of references is neither 1 nor B.
    """
    count = len(reference_rgb)
    if count not in (1, len(rgb)):
        raise ValueError(
            f"there are {count} references for {len(rgb)} images; give one reference or one per "
            "image."
        )
    return histogram_overlap(ab_histogram(rgb), ab_histogram(reference_rgb))


# --- Combined scores ---------------------------------------------------------------------------


def score_batch(
    rgb: Tensor,
    true_rgb: Tensor | None = None,
    reference_histograms: Tensor | None = None,
    patch_sizes: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Return the scores of each image by name: {name: (B,)}.

    Args:
        rgb: (B, 3, H, W) in 0..1.
        true_rgb: ground truth of the same shape; without it only colorfulness is computed, and HIS
            if `reference_histograms` is given.
        reference_histograms: (B or 1, 441) `ab_histogram` of the references, for HIS.
        patch_sizes: sides of the patches for PEV and B-PSNR, which need `true_rgb`.
    Raises:
        ValueError: the shapes differ, the images are too small for SSIM, or patch sizes are given
            without `true_rgb`.
    """
    if patch_sizes and true_rgb is None:
        raise ValueError("patch metrics need the ground truth; give true_rgb as well.")
    scores: dict[str, Tensor] = {}
    if true_rgb is not None:
        scores["psnr"] = psnr(rgb, true_rgb)
        scores["ssim"] = ssim(rgb, true_rgb)
        scores["ciede2000"] = ciede2000(rgb, true_rgb)
    scores["colorfulness"] = colorfulness(rgb)
    if reference_histograms is not None:
        scores["his"] = histogram_overlap(ab_histogram(rgb), reference_histograms)
    if true_rgb is not None:
        for side in patch_sizes:
            scores[f"pev{side}"] = patch_error_variance(rgb, true_rgb, side)
            scores[f"bpsnr{side}"] = boundary_psnr(rgb, true_rgb, side)
    return scores


def score_image(
    rgb: Tensor, true_rgb: Tensor | None = None, reference_histogram: Tensor | None = None
) -> dict[str, float]:
    """Return the scores of one image (1, 3, H, W).

    With `true_rgb`, adds the colorfulness of the ground truth and the absolute difference.
    """
    tensors = score_batch(rgb, true_rgb, reference_histogram)
    scores = {name: value.item() for name, value in tensors.items()}
    if true_rgb is not None:
        true_colorfulness = colorfulness(true_rgb).item()
        scores["true_colorfulness"] = true_colorfulness
        scores["delta_colorfulness"] = abs(scores["colorfulness"] - true_colorfulness)
    return scores


# --- Helpers -----------------------------------------------------------------------------------


def _require_same_shape(rgb: Tensor, true_rgb: Tensor) -> None:
    if rgb.shape != true_rgb.shape:
        raise ValueError(
            f"the images have shapes {tuple(rgb.shape)} and {tuple(true_rgb.shape)}; "
            "they must be equal."
        )


def _pixel_chunks(rgb: Tensor) -> Iterator[Tensor]:
    """Yield all pixels of (B, 3, H, W) in chunks (B, 3, n, 1), at least float32."""
    pixels = rgb.flatten(2).unsqueeze(3)  # a view, even of channels-last images
    for chunk in pixels.split(max(1, CHUNK_PIXELS // len(rgb)), dim=2):
        yield _at_least_float32(chunk)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _to_float64(x: Tensor) -> Tensor:
    """Convert to float64; on the CPU for tensors on MPS, which does not support it."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)
