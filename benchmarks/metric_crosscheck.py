"""Scores of `colorist evaluate` beside those of other programs on the same images.

    pip install scikit-image torchmetrics pytorch-fid
    python benchmarks/metric_crosscheck.py --photos DIR
    python benchmarks/metric_crosscheck.py --photos DIR --inception pt_inception-2015-12-05.pth

Photos are squashed to 256x256 and colorized. The table shows the largest difference between our
score and that of the other program over all images. Without the weights of FID's Inception both
programs get the same random weights: features and distances can still be compared, although the
distances mean nothing. Colorfulness is compared with the formula of Hasler and Suesstrunk 2003
(section 7) in float64.
"""

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench
import comfyui_colorist as colorist
import numpy as np
import torch
from comfyui_colorist.metrics import fid
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color
from comfyui_colorist.trainers.evaluation.feature_networks import load_inception
from PIL import Image
from torch import Tensor

SIDE = 256
PROGRAMS = "scikit-image", "torchmetrics", "pytorch-fid", "torch", "scipy"


class Comparison:
    """Pairs of our score and another program's, by name of score and program."""

    def __init__(self) -> None:
        self.pairs: dict[str, list[tuple[float, float]]] = {}

    def add(self, name: str, ours: Any, theirs: Any) -> None:
        """Add a pair of numbers, arrays or tensors with one value."""
        self.pairs.setdefault(name, []).append((float(ours), float(theirs)))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return name -> smallest and largest of our scores, and the largest difference."""
        table = {}
        for name, pairs in self.pairs.items():
            ours, theirs = np.array(pairs).T
            values = [round(float(x), 4) for x in (ours.min(), ours.max())]
            table[name] = {"ours": values, "difference": float(np.abs(ours - theirs).max())}
        return table


def main() -> None:
    """Print the table."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="ddcolor-nano")
    parser.add_argument("--inception", type=Path, help="weights of FID's Inception")
    parser.add_argument("--limit", type=int, default=40)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    colorizer = colorist.load(options.model, device="cpu")
    truths, results = [], []
    for path in bench.list_photos(options.photos, options.limit):
        truth = np.array(bench.resize_square(Image.open(path), SIDE))
        gray = color.gray_rgb(color.lightness(to_batch(truth)))
        rgb = colorizer.colorize(gray.movedim(1, -1))[0]
        truths.append(truth)
        results.append((rgb * 255).round().byte().numpy())

    comparison = Comparison()
    for truth, result in zip(truths, results, strict=True):
        compare_image_metrics(comparison, result, truth)
    with tempfile.TemporaryDirectory() as folder:
        compare_fid(comparison, truths, results, options.inception, Path(folder))
    compare_random_distances(comparison)

    table = comparison.summary()
    versions = {name: version(name) for name in PROGRAMS}
    weights = options.inception.name if options.inception else "random"
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"{len(truths)} images of {options.model}; Inception weights: {weights}\n")
    bench.print_table(["score, program", "ours", "largest difference"])
    for name, row in table.items():
        low, high = row["ours"]
        values = "" if name.startswith("Inception") else f"{low:g}" + f" to {high:g}" * (low < high)
        bench.print_row([name, values, f"{row['difference']:.1e}"])
    facts = {"versions": versions, "inception": weights, "commit": bench.commit()}
    facts |= {"photos": len(truths), "model": options.model, "scores": table}
    bench.write_json(options.json, facts)


def to_batch(rgb: np.ndarray) -> Tensor:
    """Convert (H, W, 3) uint8 to (1, 3, H, W) in 0..1."""
    return torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 255


# --- Image metrics -----------------------------------------------------------------------------


def compare_image_metrics(comparison: Comparison, result: np.ndarray, truth: np.ndarray) -> None:
    """Compare PSNR, SSIM, CIEDE2000 and colorfulness of one image (H, W, 3) uint8."""
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as torch_ssim

    add = comparison.add
    ours = {
        name: value.item()
        for name, value in image_metrics.score_batch(to_batch(result), to_batch(truth)).items()
    }
    tensors = to_batch(result).double(), to_batch(truth).double()
    images = result / 255, truth / 255
    add("PSNR, scikit-image", ours["psnr"], peak_signal_noise_ratio(*images, data_range=1))
    add("PSNR, torchmetrics", ours["psnr"], torch_psnr(*tensors, data_range=1.0))
    ssim = structural_similarity(
        *images,
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    add("SSIM, scikit-image", ours["ssim"], ssim)
    ssim, ssim_map = torch_ssim(*tensors, data_range=1.0, return_full_image=True)
    add("SSIM, torchmetrics, which includes the reflected border", ours["ssim"], ssim)
    inner = ssim_map[..., 5:-5, 5:-5].mean()
    add("SSIM, torchmetrics, without the border of 5", ours["ssim"], inner)
    difference = deltaE_ciede2000(rgb2lab(images[1]), rgb2lab(images[0])).mean()
    add("CIEDE2000, scikit-image", ours["ciede2000"], difference)
    labs = [color.rgb_to_lab(x)[0] for x in tensors]
    difference = deltaE_ciede2000(*(lab.movedim(0, -1).numpy() for lab in labs)).mean()
    own_difference = image_metrics.delta_e(*labs).mean()
    add("CIEDE2000 of our Lab, scikit-image", own_difference, difference)
    add("colorfulness, formula", ours["colorfulness"], published_colorfulness(result))


def published_colorfulness(rgb: np.ndarray) -> float:
    """Return the colorfulness of (H, W, 3) uint8 by the published formula."""
    red, green, blue = rgb.astype(np.float64).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    deviation = np.sqrt(rg.std() ** 2 + yb.std() ** 2)
    return float(deviation + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2))


# --- FID ---------------------------------------------------------------------------------------


def compare_fid(
    comparison: Comparison,
    truths: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    weights: Path | None,
    folder: Path,
) -> None:
    """Compare Inception's features and FID between photos and results."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torchmetrics.image.fid import _compute_fid

    reference, weights = pytorch_fid_inception(weights, folder)
    own = load_inception(weights)
    statistics, features = [], []
    for images in (truths, results):
        batches = torch.cat([to_batch(image) for image in images]).split(8)
        theirs = torch.cat([reference(x)[0][:, :, 0, 0] for x in batches]).double()
        ours = torch.cat([own(x) for x in batches]).double()
        comparison.add("Inception features, pytorch-fid", (ours - theirs).abs().max() + 1, 1)
        statistics.append(fid.FeatureStatistics(theirs.shape[1]))
        for part in ours.float().split(8):
            statistics[-1].add(part)
        features.append(theirs.numpy())
    moments = [(x.mean(0), np.cov(x.T)) for x in features]
    tensors = [(torch.from_numpy(mean), torch.from_numpy(cov)) for mean, cov in moments]
    distance = fid.frechet_distance(*statistics)
    add = comparison.add
    add("FID, pytorch-fid", distance, calculate_frechet_distance(*moments[0], *moments[1]))
    add("FID, by singular values of centered features", distance, exact_distance(*features))
    add("FID, torchmetrics", distance, _compute_fid(*tensors[0], *tensors[1]))


def compare_random_distances(comparison: Comparison) -> None:
    """Compare the Frechet distance of two sets of random vectors."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torchmetrics.image.fid import _compute_fid

    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(5000, 256)) @ rng.normal(size=(256, 256)) / 16 for _ in range(2)]
    statistics = [fid.FeatureStatistics(256) for _ in sets]
    for statistic, rows in zip(statistics, sets, strict=True):
        statistic.add(torch.from_numpy(rows))
    distance = fid.frechet_distance(*statistics)
    moments = [x for rows in sets for x in (rows.mean(0), np.cov(rows.T))]
    name = "Frechet distance of 5000 random vectors"
    comparison.add(f"{name}, pytorch-fid", distance, calculate_frechet_distance(*moments))
    theirs = _compute_fid(*map(torch.from_numpy, moments))
    comparison.add(f"{name}, torchmetrics", distance, theirs)


def exact_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Frechet distance of two small sets (N, D) without the root of a singular matrix.

    Tr (C1 C2)^(1/2) is the sum of the singular values of X1 X2^T, with centered vectors X.
    """
    centered = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (first, second)]
    shared = np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    variance = sum((x**2).sum() for x in centered)
    return float(((first.mean(0) - second.mean(0)) ** 2).sum() + variance - 2 * shared)


def pytorch_fid_inception(weights: Path | None, folder: Path) -> tuple[torch.nn.Module, Path]:
    """Return pytorch-fid's Inception and a file of its weights; random weights by default."""
    from pytorch_fid import inception

    if weights is None:
        network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        network.Mixed_5b = inception.FIDInceptionA(192, pool_features=32)
        network.Mixed_5c = inception.FIDInceptionA(256, pool_features=64)
        network.Mixed_5d = inception.FIDInceptionA(288, pool_features=64)
        network.Mixed_6b = inception.FIDInceptionC(768, channels_7x7=128)
        network.Mixed_6c = inception.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6d = inception.FIDInceptionC(768, channels_7x7=160)
        network.Mixed_6e = inception.FIDInceptionC(768, channels_7x7=192)
        network.Mixed_7b = inception.FIDInceptionE_1(1280)
        network.Mixed_7c = inception.FIDInceptionE_2(2048)
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            if parameter.ndim > 1:  # keeps the variance of activations after ReLU
                std = (2 / parameter[0].numel()) ** 0.5
                parameter.data.normal_(std=std, generator=generator)
        weights = folder / "random.pth"
        torch.save(network.state_dict(), weights)
    state = torch.load(weights, weights_only=True)
    inception.load_state_dict_from_url = lambda *_, **__: state  # prevents a download
    return inception.InceptionV3().eval(), weights


if __name__ == "__main__":
    main()
