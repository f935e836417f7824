"""The scores of `colorist evaluate` beside other programs' on the same pictures.

    pip install scikit-image torchmetrics pytorch-fid
    python benchmarks/metric_crosscheck.py --photos DIR
    python benchmarks/metric_crosscheck.py --photos DIR --inception pt_inception-2015-12-05.pth

Photos are squashed to 256x256 and coloured by a network; what is told is the largest difference
between ours and the other program's score of any of these pictures. Without the weights of FID's
Inception both programs get the same random ones: the same features and the same distance show as
well, though the distance means nothing. Colourfulness is compared with the formula as Hasler and
Suesstrunk 2003 print it (section 7), in float64.
"""

import argparse
import importlib
import json
import runpy
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from large_photo import ROOT, commit
from PIL import Image

SIDE = 256
PROGRAMS = "scikit-image", "torchmetrics", "pytorch-fid", "torch", "scipy"


def published_colorfulness(rgb: np.ndarray) -> float:
    """(H, W, 3) uint8."""
    red, green, blue = rgb.astype(np.float64).transpose(2, 0, 1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = np.sqrt(rg.std() ** 2 + yb.std() ** 2)
    return float(spread + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2))


def exact_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of two sets (N, D) of few vectors, with no root of a singular matrix.

    Tr (C1 C2)^(1/2) is the sum of the singular values of X1 X2^T, the centred vectors' products.
    """
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (one, other)]
    shared = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    spread = sum((x**2).sum() for x in centred)
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + spread - 2 * shared)


def their_inception(weights: Path | None, folder: Path) -> tuple:
    """pytorch-fid's Inception, and a file of its weights: the given ones, or random ones."""
    import torch
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
            if parameter.ndim > 1:  # keeps the size of what passes through ReLU
                std = (2 / parameter[0].numel()) ** 0.5
                parameter.data.normal_(std=std, generator=generator)
        weights = folder / "random.pth"
        torch.save(network.state_dict(), weights)
    state = torch.load(weights, weights_only=True)
    inception.load_state_dict_from_url = lambda *_, **__: state  # or it would be downloaded
    return inception.InceptionV3().eval(), weights


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="ddcolor-nano")
    parser.add_argument("--inception", type=Path, help="weights of FID's Inception")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch
    from pytorch_fid.fid_score import calculate_frechet_distance
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio as torch_psnr,
    )
    from torchmetrics.functional.image import (
        structural_similarity_index_measure as torch_ssim,
    )
    from torchmetrics.image.fid import _compute_fid

    color, fid, image_metrics = (
        importlib.import_module(f"{package}.{name}")
        for name in ("ops.color", "metrics.fid", "metrics.image")
    )
    score = image_metrics.scores
    networks = importlib.import_module(f"{package}.trainers.evaluation.feature_networks")
    engine = importlib.import_module(package).load(options.model, device="cpu")
    torch.set_grad_enabled(False)

    trues, mades = [], []
    for path in sorted(options.photos.glob("*.jpg"))[: options.limit]:
        photo = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        true = np.array(photo)
        gray = color.gray_rgb(color.lightness(torch.from_numpy(true).movedim(-1, 0)[None] / 255))
        made = engine.colorize(gray.movedim(1, -1))[0]
        trues.append(true)
        mades.append((made * 255).round().byte().numpy())
    found: dict[str, list[tuple[float, float]]] = {}

    def add(what: str, ours: object, theirs: object) -> None:
        found.setdefault(what, []).append((float(ours), float(theirs)))

    def batch(rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 255

    for true, made in zip(trues, mades, strict=True):
        ours = {k: v.item() for k, v in score(batch(made), batch(true)).items()}
        both = batch(made).double(), batch(true).double()
        images = made / 255, true / 255
        add("PSNR, scikit-image", ours["psnr"], peak_signal_noise_ratio(*images, data_range=1))
        add("PSNR, torchmetrics", ours["psnr"], torch_psnr(*both, data_range=1.0))
        theirs = structural_similarity(
            *images,
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        add("SSIM, scikit-image", ours["ssim"], theirs)
        theirs, places = torch_ssim(*both, data_range=1.0, return_full_image=True)
        add("SSIM, torchmetrics, which counts the mirrored rim", ours["ssim"], theirs)
        add("SSIM, torchmetrics, less the rim of 5", ours["ssim"], places[..., 5:-5, 5:-5].mean())
        theirs = deltaE_ciede2000(rgb2lab(images[1]), rgb2lab(images[0])).mean()
        add("CIEDE2000, scikit-image", ours["ciede2000"], theirs)
        labs = [color.rgb_to_lab(x)[0] for x in both]
        theirs = deltaE_ciede2000(*(lab.movedim(0, -1).numpy() for lab in labs)).mean()
        add("CIEDE2000 of our Lab, scikit-image", image_metrics.delta_e(*labs).mean(), theirs)
        add("colourfulness, formula", ours["colorfulness"], published_colorfulness(made))

    with tempfile.TemporaryDirectory() as folder:
        them, weights = their_inception(options.inception, Path(folder))
        us = networks.inception(weights)
        sets = []
        for pictures in (trues, mades):
            batches = torch.cat([batch(x) for x in pictures]).split(8)
            theirs = torch.cat([them(x)[0][:, :, 0, 0] for x in batches]).double()
            ours = torch.cat([us(x) for x in batches]).double()
            add("Inception features, pytorch-fid", (ours - theirs).abs().max() + 1, 1)
            moments = fid.Moments(theirs.shape[1])
            for part in ours.float().split(8):
                moments.add(part)
            sets.append((moments, theirs))
    few = [(theirs.mean(0).numpy(), np.cov(theirs.numpy().T)) for _, theirs in sets]
    distance = fid.frechet_distance(*(moments for moments, _ in sets))
    add("FID, pytorch-fid", distance, calculate_frechet_distance(*few[0], *few[1]))
    add(
        "FID, by singular values of centred features",
        distance,
        exact_distance(*(theirs.numpy() for _, theirs in sets)),
    )
    tensors = [(torch.from_numpy(m), torch.from_numpy(c)) for m, c in few]
    add("FID, torchmetrics", distance, _compute_fid(*tensors[0], *tensors[1]))
    rng = np.random.default_rng(0)
    many = [rng.normal(size=(5000, 256)) @ rng.normal(size=(256, 256)) / 16 for _ in range(2)]
    moments = [fid.Moments(256) for _ in many]
    for one, rows in zip(moments, many, strict=True):
        one.add(torch.from_numpy(rows))
    distance = fid.frechet_distance(*moments)
    stats = [x for rows in many for x in (rows.mean(0), np.cov(rows.T))]
    what = "Frechet distance of 5000 random vectors"
    add(f"{what}, pytorch-fid", distance, calculate_frechet_distance(*stats))
    add(f"{what}, torchmetrics", distance, _compute_fid(*map(torch.from_numpy, stats)))

    table = {}
    for what, pairs in found.items():
        ours, theirs = np.array(pairs).T
        values = [round(float(x), 4) for x in (ours.min(), ours.max())]
        table[what] = {"ours": values, "difference": float(np.abs(ours - theirs).max())}
    versions = {name: version(name) for name in PROGRAMS}
    weights = options.inception.name if options.inception else "random"
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"{len(trues)} pictures of {options.model}; Inception's weights: {weights}\n")
    print("| score, program | ours | largest difference |\n| --- | --- | --- |")
    for what, row in table.items():
        low, high = row["ours"]
        values = "" if what.startswith("Inception") else f"{low:g}" + f" to {high:g}" * (low < high)
        print(f"| {what} | {values} | {row['difference']:.1e} |")
    if options.json:
        facts = {"versions": versions, "inception": weights, "commit": commit()}
        facts |= {"photos": len(trues), "model": options.model, "scores": table}
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
