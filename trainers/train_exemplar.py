r"""Train the exemplar colorizer on your own photos.

    # The paper's settings, on one GPU: pairs first, then the network on VGG-19's features
    python trainers/build_reference_pairs.py --photos photos/ --out pairs.json
    python trainers/train_exemplar.py --photos photos/ --pairs pairs.json --backbone vgg19 \
        --out runs/mine
    # The same recipe on a GPU with 8 GB; on four GPUs; on shards of a web server, where references
    # are other views of the photos themselves
    python trainers/train_exemplar.py --preset 8gb --photos photos/ --pairs pairs.json \
        --backbone vgg19 --out runs/mine
    accelerate launch --num_processes 4 trainers/train_exemplar.py --photos photos/ \
        --pairs pairs.json --backbone vgg19 --out runs/mine
    python trainers/train_exemplar.py --photos 'https://host/photos-{000..099}.tar' \
        --shares 0 0 0 1 --backbone vgg19 --out runs/mine
    # Fine-tune a published or your own model
    colorist train exemplar --preset finetune --weights exemplar-nano --photos photos/ \
        --pairs pairs.json --out tuned
    # The bundled model: kernel and backbone start from the kernel of the point-hint model
    python trainers/train_exemplar.py --preset nano --photos shard-*.tar --pairs pairs.json \
        --encoder pointhint-nano --kernel pointhint-nano --out runs/first
    python trainers/train_exemplar.py --preset nano-last --photos shard-*.tar --pairs pairs.json \
        --weights runs/first/weights.safetensors --out runs/nano

A run started again with the same --out resumes where it stopped, bit for bit on a CPU. The result
is OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows held-out
photos, OUT/tensorboard and OUT/log.jsonl the losses; OUT/state.safetensors is needed to resume.
Ctrl-C saves and stops.

Objective (Gorriz Blanch et al. 2021, eq. 4), summed over the scales: 100 smooth-L1 + 2 histogram
+ 50 total variation + 1 adversarial (LS-GAN, one discriminator per scale).
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import itertools
import logging
import math
import operator
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..model_defs import xcnet
from ..model_defs.layers import SmallBackbone
from ..model_defs.spec import Spec
from ..ops import color
from ..pipeline import loader
from ..pipeline.by_reference import ExemplarColorizer
from . import losses, pretrained, pretrained_files
from .data import inputs
from .data.batches import Batch
from .data.photos import Photos
from .data.reference_pairs import (
    SHARES,
    ReferencePair,
    load_pairs,
    recolor_pairs,
    two_views,
    validate_shares,
)
from .data.shards import Shards, is_stream
from .runtime import distributed, ema, networks, optimization, sample_grid
from .runtime.command_line import run_script
from .runtime.session import TrainingSession
from .runtime.settings import Settings, require_choice, validate_architecture

log = logging.getLogger("train_exemplar")
# A color counts as correct if its error is below 6 ab units + 0.35 of the true chroma.
MAX_ERROR, MAX_RELATIVE_ERROR = 6.0, 0.35


@dataclass
class Config(Settings):
    """Settings of one run; the defaults are the paper's (sections 3.3, 4.1)."""

    out: Path = Path("runs/exemplar")
    architecture: str = "exemplar-vgg19"
    """Preset of the network: exemplar-vgg19, exemplar-nano."""
    attention: tuple[str, ...] = ()
    """Attention at 1/4, 1/8 and 1/16 of the image size: axial or standard, three times. Default: as
    in the preset."""
    second_kv: str = ""
    """Keys and values of the second axis of axial attention: reference or fused. Default: as in the
    preset."""
    backbone: str | None = None
    """ImageNet weights of VGG-19 for the backbone (section 3.1): a file, or vgg19."""
    encoder: str | None = None
    """Model to initialize the small backbone from: one with a kernel, such as pointhint-nano, or a
    DDColor with a ConvNeXt encoder. A file, or the name of a bundled or installed model."""
    kernel: str | None = None
    """Model to copy the kernel from, which interpolates colors between matched cells, such as
    pointhint-nano. A file, or the name of a bundled or installed model."""
    freeze_backbone: bool = True
    """Do not train the backbone, as in the official program."""
    pairs: Path | None = None
    """Table of retrieved references, built by build_reference_pairs.py."""
    shares: tuple[float, ...] = tuple(SHARES.values())
    """Probabilities of the kinds of reference: the best retrieved photo, one of the best five, any
    other photo, another view of the target (section 4.1)."""
    recolor: float = 0.0
    """Fraction of pairs in which both photos are recolored alike, so that colors can only be found
    in the reference; 0 in the paper."""
    steps: int = 844_000
    """Number of training steps; the default is 30 epochs of 225,000 pairs (section 4.1)."""
    batch: int = 8
    """Pairs per step, over all processes (section 4.1: 4 to 12)."""
    crop: tuple[int, ...] = (224,)
    learning_rate: float = 1e-5
    """Highest learning rate of network and discriminators (section 4.1)."""
    schedule: str = "constant"
    """Learning rate: constant (section 4.1), or cosine = falls to zero at --steps."""
    warmup: int = 0
    """Number of steps in which the learning rate rises linearly; for the cosine schedule."""
    pixel: float = 100.0
    """Weight of the pixel loss (eq. 4)."""
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic; 0 = smooth L1 of values in -1..1,
    which is quadratic throughout (section 3.3)."""
    histogram: float = 2.0
    """Weight of the histogram loss (eq. 3)."""
    variation: float = 50.0
    """Weight of the total variation loss."""
    adversarial: float = 1.0
    """Weight of the adversarial loss; 0 trains without discriminators."""

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_architecture(self.weights, self.architecture, xcnet.PRESETS)
        streamed = self.stream or any(map(is_stream, self.photos))
        if streamed and self.pairs:
            raise ValueError(
                "pairs is a table of other photos as references, but a stream cannot load them. "
                "Use local photos, or replace --pairs by --shares 0 0 0 1 (other views of the same "
                "photo)."
            )
        validate_shares(self.shares, self.pairs is not None, streamed)
        if self.adversarial and min(self.crop) < 64:
            raise ValueError(
                f"crop is {self.crop}; the discriminators need 64 pixels or more. Use larger "
                "crops, or --adversarial 0."
            )
        if self.weights and any([self.backbone, self.encoder, self.attention, self.second_kv]):
            raise ValueError(
                "weights names a model to start from, but backbone, encoder, attention and "
                "second_kv define a new one; give the one or the others."
            )
        require_choice("schedule", self.schedule, ("constant", "cosine"))


_NANO: dict[str, Any] = {
    "resolution": 256,
    "freeze_backbone": False,
    "shares": (0.25, 0.15, 0.1, 0.5),
    "recolor": 0.5,
    "batch": 16,
    "smallest": 0.6,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "pixel": 1.0,
    "huber": 20.0,
    "histogram": 0.0,
    "variation": 0.0,
    "adversarial": 0.0,
    "clip": 1.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The paper's recipe on a small GPU. Batch norm needs the whole batch at once, which takes
    # 7.6 GiB in float32 (on a CPU, benchmarks/training.py memory), hence half precision.
    "8gb": {"dtype": "auto"},
    "finetune": {
        "architecture": "",  # that of --weights
        "steps": 20_000,
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup": 500,
        "dtype": "auto",
    },
    # The bundled model, in two runs on two CPU cores, on photos of 160 pixels. Other views of the
    # same photo teach matching, retrieved photos what to do without a match.
    "nano": _NANO
    | {
        "architecture": "exemplar-nano",
        "steps": 4_000,
        "crop": (64, 96),
        "crop_until": (2_000,),
        "learning_rate": 1e-3,
        "warmup": 200,
    },
    "nano-last": _NANO
    | {
        "architecture": "",
        "steps": 1_700,
        "crop": (128,),
        "learning_rate": 3e-4,
        "warmup": 50,
    },
}


def main(config: Config) -> None:
    """Train until `config.steps`, with saves on the way.

    Raises:
        SystemExit: a loss is not finite, or the disk is full; the message says what is kept.
        ValueError, OSError: photos, pairs or weights cannot be used.
    """
    with TrainingSession(config) as session:
        accelerator, device, photos = session.accelerator, session.device, session.photos
        retrieved = None
        if config.pairs and isinstance(photos, Photos):
            retrieved = load_pairs(config.pairs, photos)
        references = sample_references(config, session.held_out, photos)
        with accelerator.local_main_process_first():  # the first process downloads missing files
            network, spec = build(config)
            networks.to_channels_last(network, device).train()
        network.backbone.requires_grad_(not config.freeze_backbone)
        scales = len(network.heads)
        discriminators = Discriminators(config.crop, network.config.finest).to(device)
        optimizer = torch.optim.AdamW(  # Adam (section 4.1) without weight decay
            optimization.parameter_groups(network, config.weight_decay), lr=config.learning_rate
        )
        discriminator_optimizer = torch.optim.Adam(
            discriminators.parameters(), lr=config.learning_rate
        )
        if config.adversarial:
            session.resume(
                {"network": network, "discriminators": discriminators},
                {"network": optimizer, "discriminators": discriminator_optimizer},
            )
        else:
            session.resume({"network": network}, {"network": optimizer})
        model, prepared_discriminators, optimizer, discriminator_optimizer = accelerator.prepare(
            distributed.convert_sync_batchnorm(network, accelerator),
            distributed.convert_sync_batchnorm(discriminators, accelerator),
            optimizer,
            discriminator_optimizer,
        )

        average = cast(xcnet.XCNet, session.average.module)
        pair = partial(
            ReferencePair,
            photos,
            pairs=retrieved,
            shares=config.shares,
            min_scale=config.smallest,
        )
        if session.starts_from_weights:
            session.log_samples(exemplar_samples(average, spec, references))
        for step, batch in session.steps(session.load_batches(pair(config.side))):
            session.set_learning_rate(config.learning_rate * rate_factor(config, step))
            for part in batch.split(config.accumulate):
                with accelerator.accumulate(model, prepared_discriminators):
                    # Forward: L of the target and the reference, in -1..1
                    target, reference = (
                        normalize_lab(inputs.to_float(rgb, device)) for rgb in part.images
                    )
                    if config.recolor:
                        target, reference = recolor(
                            config, target, reference, step, cast(range, part.rows)
                        )
                    L, reference_ab = target[:, :1], reference[:, 1:]
                    predictions = model(L.expand(-1, 3, -1, -1), reference)
                    # Some networks have no full-size prediction: skip the first level then.
                    skipped = round(math.log2(L.shape[-1] / predictions[0].shape[-1]))
                    true = losses.pyramid(target, skipped + scales)[skipped:]
                    reference_scales = losses.pyramid(reference_ab, skipped + scales)[skipped:]

                    # Discriminators first, on the detached predictions
                    terms = {}
                    if config.adversarial:
                        fake = with_true_lightness(true, [ab.detach() for ab in predictions])
                        terms["discriminators"] = 0.5 * (
                            adversarial_loss(prepared_discriminators(true), True)
                            + adversarial_loss(prepared_discriminators(fake), False)
                        )
                        accelerator.backward(terms["discriminators"])
                        discriminator_optimizer.step()
                        discriminator_optimizer.zero_grad()

                    # Generator, eq. 4
                    terms["pixel"] = pixel_loss(predictions, true, config.huber)
                    loss = config.pixel * terms["pixel"]
                    if config.histogram:
                        terms["histogram"] = add_up(
                            map(losses.histogram_loss, predictions, reference_scales)
                        )
                        loss = loss + config.histogram * terms["histogram"]
                    if config.variation:
                        terms["variation"] = add_up(map(losses.total_variation, predictions))
                        loss = loss + config.variation * terms["variation"]
                    if config.adversarial:
                        with optimization.frozen(discriminators):
                            terms["adversarial"] = adversarial_loss(
                                discriminators(with_true_lightness(true, predictions)), True
                            )
                        loss = loss + config.adversarial * terms["adversarial"]
                    accelerator.backward(loss)
                    session.clip_gradients(model)
                    optimizer.step()
                    optimizer.zero_grad()
                terms["chroma"] = xcnet.AB_SCALE * predictions[0].detach().norm(dim=1).mean()
                session.add_losses(terms, part)
            session.finish_step()

            if session.save_due:
                if accelerator.is_main_process:
                    transform = pair(config.fixed_side(step))
                    ema.update_bn_statistics(
                        average,
                        session.load_first_batches(transform),
                        partial(network_inputs, device=device),
                    )
                    fit_confidence(average, session.load_first_batches(transform), device)
                    session.log_samples(exemplar_samples(average, spec, references))
                    session.write_weights(average, xcnet.NAME, {"resolution": spec.resolution})
                session.save()


# --- Losses over scales ----------------------------------------------------------------------


class Discriminators(nn.Module):
    """One PatchGAN per scale: Lab (B, 3, h, w) in -1..1, finest first -> logits of patches.

    Args:
        crop: sides of the training crops; the smallest limits the number of layers.
        finest: level of the finest prediction.
    """

    def __init__(self, crop: Sequence[int], finest: int):
        super().__init__()
        sides = [min(crop) // 2 ** (level - 1) for level in range(finest, 5)]
        self.scales = nn.ModuleList(
            losses.LeastSquaresPatchGAN(next((n for n in (3, 2, 1) if 3 * 2**n <= side), 1))
            for side in sides
        )

    def forward(self, lab_scales: list[Tensor]) -> list[Tensor]:
        return [
            discriminator(lab) for discriminator, lab in zip(self.scales, lab_scales, strict=True)
        ]


def add_up(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of the loss over all scales."""
    return reduce(operator.add, terms)


def pixel_loss(predictions: list[Tensor], true: list[Tensor], huber: float) -> Tensor:
    """Return the pixel loss of ab in -1..1 against Lab in -1..1, summed over the scales."""
    return add_up(
        losses.pixel_loss(xcnet.AB_SCALE * ab, xcnet.AB_SCALE * lab[:, 1:], huber)
        if huber
        else losses.smooth_l1_lab(ab, lab[:, 1:])
        for ab, lab in zip(predictions, true, strict=True)
    )


def adversarial_loss(logits: list[Tensor], real: bool) -> Tensor:
    """Return the LS-GAN loss, summed over the scales."""
    return add_up(losses.least_squares_loss(scale, real) for scale in logits)


def with_true_lightness(true: list[Tensor], predictions: list[Tensor]) -> list[Tensor]:
    """Return predicted ab joined with the L of the true Lab, at each scale."""
    return [torch.cat([lab[:, :1], ab], dim=1) for lab, ab in zip(true, predictions, strict=True)]


# --- Inputs ----------------------------------------------------------------------------------


def normalize_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB (B, 3, H, W) in 0..1 to L / 50 - 1, a / 110, b / 110."""
    lab = color.rgb_to_lab(rgb)
    return torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / xcnet.AB_SCALE], dim=1)


def network_inputs(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the network's inputs: L of the targets three times, and the references."""
    target, reference = (normalize_lab(inputs.to_float(rgb, device)) for rgb in batch.images)
    return target[:, :1].expand(-1, 3, -1, -1), reference


def recolor(
    config: Config, target: Tensor, reference: Tensor, step: int, rows: range
) -> tuple[Tensor, Tensor]:
    """Recolor some pairs (B, 3, H, W) in -1..1 alike.

    Args:
        config: settings.
        target, reference: the pairs.
        step: step of the batch.
        rows: rows of the pairs in the whole batch, which random numbers are drawn for.
    """
    ab = recolor_pairs(
        xcnet.AB_SCALE * target[:, 1:],
        xcnet.AB_SCALE * reference[:, 1:],
        optimization.step_generator(config.seed, step),
        config.recolor,
        rows,
        config.batch,
    )
    target, reference = (
        torch.cat([lab[:, :1], new / xcnet.AB_SCALE], dim=1)
        for lab, new in zip((target, reference), ab, strict=True)
    )
    return target, reference


# --- Samples ---------------------------------------------------------------------------------


def sample_references(config: Config, held_out: Photos, photos: Photos | Shards) -> list[Tensor]:
    """Return a reference (1, 3, H, W) in 0..1 for each sample image.

    It is the best retrieved photo among the training photos, else another view of the image.
    """
    retrieved: Sequence[Sequence[int]] = [()] * len(held_out)
    if config.pairs and isinstance(photos, Photos):
        retrieved = load_pairs(config.pairs, photos, held_out)
    references = []
    for index, candidates in enumerate(retrieved):
        for image in sample_grid.sample_images(held_out.subset([index])):  # none if unusable
            best = None
            if candidates and isinstance(photos, Photos):
                best = next(sample_grid.sample_images(photos.subset(candidates)), None)
            references.append(another_view(image, index) if best is None else best)
    return references


def another_view(image: Tensor, seed: int) -> Tensor:
    """Return another view of an image (1, 3, H, W) in 0..1, as in training: a square."""
    pixels = (255 * image[0].movedim(0, -1)).round().byte().numpy()
    rng = np.random.default_rng(seed)
    _, view = two_views(Image.fromarray(pixels), sample_grid.SIDE, rng)
    return view[None].float() / 255


def exemplar_samples(
    network: xcnet.XCNet, spec: Spec, references: Sequence[Tensor]
) -> sample_grid.ColorizeSample:
    """Return the samples of an exemplar network: gray, reference, result, photo.

    Args:
        network: the network.
        spec: its spec.
        references: one for each sample image.
    """
    colorizer = loader.require_role(loader.wrap(network, spec), ExemplarColorizer)

    def colorize(true: Tensor, index: int) -> dict[str, Tensor]:
        gray, reference = color.gray_rgb(color.lightness(true)), references[index]
        result = colorizer.colorize(gray.movedim(1, -1), reference=reference.movedim(1, -1))
        return {
            sample_grid.GRAY: gray,
            "reference": reference,
            sample_grid.RESULT: result.movedim(-1, 1),
            sample_grid.PHOTO: true,
        }

    return colorize


# --- Confidence ------------------------------------------------------------------------------


@torch.no_grad()
def fit_confidence(
    network: xcnet.XCNet,
    source: Generator[Batch, None, None],
    device: torch.device,
    batches: int = 24,
) -> None:
    """Fit the weights of `match_confidence.confidence` by logistic regression, in place.

    The fitted probability is that of a correct color, see MAX_ERROR, on training pairs in their
    own colors.

    Args:
        network: its `config.confidence` is replaced.
        source: batches of pairs; it is closed.
        device: device of the network.
        batches: number of batches to use.
    """
    cues, correct = [], []
    with closing(source):
        for batch in itertools.islice(source, batches):
            target, reference = network_inputs(batch, device)
            encoded = network.encode_references([reference], target.shape[2:])
            ab, confidence, batch_cues = network.predict(target, encoded)
            true = normalize_lab(inputs.to_float(batch.images[0], device))[:, 1:] * xcnet.AB_SCALE
            error = (F.interpolate(ab, size=true.shape[2:], mode="bilinear") - true).norm(dim=1)
            allowed = MAX_ERROR + MAX_RELATIVE_ERROR * true.norm(dim=1)
            height, width = confidence.shape[2:]
            excess = F.adaptive_avg_pool2d((error - allowed)[:, None], (height, width))
            cues.append(batch_cues.movedim(1, -1).flatten(0, -2).double().cpu())
            correct.append((excess < 0).double().flatten().cpu())
    weights = fit_logistic_regression(torch.cat(cues), torch.cat(correct))
    network.config = replace(
        network.config, confidence=tuple(round(weight, 5) for weight in weights)
    )


def fit_logistic_regression(x: Tensor, y: Tensor) -> list[float]:
    """Return constant and weights such that sigmoid(constant + x @ weights) predicts y.

    Args:
        x: (n, k) float64.
        y: (n,) 0 or 1.
    """
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = torch.cat([torch.ones(len(x), 1).double(), (x - mean) / deviation], dim=1)
    w = torch.zeros(x.shape[1]).double()
    for _ in range(20):  # Newton's method with a small ridge
        p = (x @ w).sigmoid()
        curvature = (x * (p * (1 - p))[:, None]).mT @ x / len(x) + 1e-4 * torch.eye(len(w)).double()
        w = w + torch.linalg.solve(curvature, x.mT @ (y - p) / len(x) - 1e-4 * w)
    slopes = w[1:] / deviation
    return [float(w[0] - (slopes * mean).sum()), *slopes.tolist()]


# --- Network ---------------------------------------------------------------------------------


def build(config: Config) -> tuple[xcnet.XCNet, Spec]:
    """Return a new network or the one in `config.weights`, with the kernel that is asked for."""
    if config.weights:
        network, spec = networks.load_initial(
            config.weights, xcnet.NAME, xcnet.XCNet, offline=config.offline
        )
        network = _with_kernel(network, config)
    else:
        network = _with_kernel(_build_new(config), config)
        spec = xcnet.spec(network.config)
    return network, replace(spec, resolution=config.resolution or spec.resolution)


def _with_kernel(network: xcnet.XCNet, config: Config) -> xcnet.XCNet:
    if not config.kernel:
        return network
    return pretrained.transplant_kernel(network, config.kernel, use_x=False, offline=config.offline)


def _build_new(config: Config) -> xcnet.XCNet:
    preset = xcnet.PRESETS[config.architecture]
    changes: dict[str, Any] = {"attention": config.attention, "second_kv": config.second_kv}
    network = xcnet.XCNet(replace(preset, **{k: v for k, v in changes.items() if v}))
    xcnet.initialize(network)
    if config.backbone and network.config.backbone != "vgg19":
        raise ValueError(
            f"backbone is {config.backbone}, weights of VGG-19; {config.architecture} has a small "
            "backbone. Initialize it from another model instead (--encoder pointhint-nano)."
        )
    if config.backbone:
        path = pretrained_files.locate(config.backbone, offline=config.offline)
        log.info("backbone: %s", pretrained.load_backbone(network.backbone, path, "vgg19"))
    elif config.freeze_backbone:
        raise ValueError(
            "the backbone is frozen but has random weights: give ImageNet weights of VGG-19 "
            "(--backbone vgg19, or FILE), a model to start from (--weights FILE), or "
            "--no-freeze-backbone."
        )
    elif config.encoder:
        if not isinstance(network.backbone, SmallBackbone):
            raise ValueError(
                f"encoder is {config.encoder}, but {config.architecture} has VGG-19 as backbone. "
                "Give ImageNet weights instead (--backbone vgg19, or FILE)."
            )
        pretrained.transfer_encoder(network.backbone, config.encoder, offline=config.offline)
    else:
        log.info("backbone: random weights (for others: --backbone, --encoder, --weights)")
    return network


def rate_factor(config: Config, step: int) -> float:
    """Return the learning rate at `step` as a fraction of the highest."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return 1.0


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
