r"""Train the point-hint colorizer on your own photos.

    # The paper's settings, on one GPU
    python trainers/train_pointhint.py --photos photos/ --out runs/mine
    # The same recipe on a GPU with 8 GB; on four GPUs; on shards of a web server
    python trainers/train_pointhint.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_pointhint.py --photos photos/ --out runs/mine
    python trainers/train_pointhint.py --photos 'https://host/photos-{000..099}.tar' --out runs/mine
    # Fine-tune a model
    colorist train pointhint --preset finetune --weights pointhint-nano --photos photos/ --out tuned
    # The bundled model: two CPU cores, photos of 160 pixels
    python trainers/train_pointhint.py --preset nano-kernel --photos shard-*.tar --out runs/kernel
    python trainers/train_pointhint.py --preset nano --photos shard-*.tar \
        --weights runs/kernel/weights.safetensors --out runs/first
    python trainers/train_pointhint.py --preset nano-last --photos shard-*.tar \
        --weights runs/first/weights.safetensors --out runs/nano

A run started again with the same --out resumes where it stopped, bit for bit on a CPU. The result
is OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows held-out
photos, each colored from ten random hint points, OUT/tensorboard and OUT/log.jsonl the loss;
OUT/state.safetensors is needed to resume. Ctrl-C saves and stops.

Objective (Li et al., section 3.5, eq. 13): Huber loss of ab in Lab units; L is copied from the
input. Hints are random cells of 2 x 2 pixels in the mean color of the photo there. The kernel of
nano networks, which interpolates colors between hints (the prior), is trained with the same loss.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import image as image_metrics
from ..model_defs import pointhint
from ..model_defs.spec import Spec
from ..ops import color, gaussian_process
from ..ops.gaussian_process import CELL
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import (
    PointHintColorizer,
    encode_hints,
    interpolate_prior,
    network_input,
    predict_base_ab,
)
from ..pipeline.hints.rasterize import draw_hints
from . import losses, pretrained
from .data import batches, inputs
from .evaluation.samples import random_hints
from .runtime import networks, optimization, sample_grid
from .runtime.command_line import run_script
from .runtime.session import TrainingSession
from .runtime.settings import Settings, require_choice, validate_architecture

SCORED_COUNTS = 1, 10, 50  # random hints per held-out photo that scores are computed with
SAMPLE_COUNT = 10  # hints in the sample sheet, as in the paper's comparison (section 4.3)
PARTS = "all", "kernel", "network"


@dataclass
class Config(Settings):
    """Settings of one run; the defaults are the paper's (sections 3.5 and 4.3).

    Where the paper is silent, they are those of its nearest relative, iColoriT (Yun et al. 2023).
    """

    out: Path = Path("runs/pointhint")
    architecture: str = "pointhint-s"
    """Preset of the network: pointhint-s, pointhint-t, pointhint-nano."""
    prior: bool = False
    """Fill the area between hints with colors interpolated by kriging instead of zeros (paper).
    Only such a model can correct the colors of an automatic one."""
    base: str | None = None
    """Automatic model that provides the colors to correct for some of the photos: a file, or the
    name of a bundled or installed model. Needs --prior."""
    base_share: float = 0.25
    """Fraction of each batch that uses --base."""
    part: str = "all"
    """Part of the network to train: all, kernel (the learned interpolation between hints), or
    network (everything else)."""
    kernel: str | None = None
    """Model to copy the kernel from: a file, or the name of a bundled or installed model."""
    encoder: str | None = None
    """Model to initialize the kernel's backbone from: one whose encoder or kernel has such a
    backbone, such as ddcolor-nano. A file, or the name of a bundled or installed model. Ignored
    with --weights."""
    frozen_stages: int = 0
    """Number of stages of the kernel's backbone to freeze, counted from the input; 7 are all of an
    EfficientNet-Lite."""
    hints: tuple[int, ...] = (1, 64)
    """Smallest and largest number of hints per photo; the logarithm of the number is uniformly
    distributed. The paper (section 4.3) mostly uses 10."""
    without: float = 0.1
    """Fraction of photos without hints."""
    steps: int = 500_000
    """Number of training steps; the default is 100 epochs of ImageNet, as in iColoriT."""
    batch: int = 256
    """Photos per step, over all processes; 8 GPUs with 32 each in iColoriT."""
    crop: tuple[int, ...] = (224,)
    smallest: float = 0.3
    """Smallest crop, as a fraction of the shorter side of the photo; the default is about the 8
    percent of the area that are usual for ImageNet."""
    learning_rate: float = 5e-4
    """Highest learning rate (section 4.3), for a batch of 256."""
    last_rate: float = 0.02
    """Learning rate at the end of the cosine schedule, as a fraction of the highest; the default
    gives 1e-5, as in iColoriT."""
    warmup: int = 15_000
    """Number of steps in which the learning rate rises linearly, before it falls as half a cosine;
    the default is 3 epochs of ImageNet, as in iColoriT."""
    weight_decay: float = 0.05
    huber: float = 1.0
    """delta of the Huber loss (eq. 13) in ab units: smaller errors count quadratically. The loss is
    divided by it."""
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_architecture(self.weights, self.architecture, pointhint.PRESETS)
        cells = (min(self.crop) // CELL) ** 2
        if len(self.hints) != 2 or not 1 <= self.hints[0] <= self.hints[1] <= cells:
            raise ValueError(
                f"hints is {self.hints}; expected the smallest and the largest number, each from 1 "
                f"to {cells}."
            )
        require_choice("part", self.part, PARTS)


_NANO: dict[str, Any] = {
    "prior": True,
    "base": "ddcolor-nano",
    "huber": 10.0,
    "last_rate": 0.0,
    "dtype": "bfloat16",
}
_NANO_NETWORK = _NANO | {"architecture": "", "part": "network"}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The paper's recipe on a small GPU: 32 photos at a time take 6.2 GiB even in float32 (on a CPU,
    # benchmarks/training.py memory). Without batch norm, parts do not change the result.
    "8gb": {"accumulate": 8, "dtype": "auto"},
    "finetune": {
        "architecture": "",  # that of --weights
        "prior": True,
        "base": "ddcolor-nano",
        "steps": 20_000,
        "batch": 16,
        "learning_rate": 1e-4,
        "last_rate": 0.0,
        "warmup": 500,
        "dtype": "auto",
    },
    # The bundled model, in three runs: the kernel; then the network on its prior, on many small
    # crops first. Small crops get fewer hints, so that hints are as dense as in real use.
    "nano-kernel": _NANO
    | {
        "architecture": "pointhint-nano",
        "part": "kernel",
        "encoder": "ddcolor-nano",
        "frozen_stages": 7,
        "base_share": 0.15,
        "hints": (1, 48),
        "without": 0.05,
        "steps": 5_200,
        "batch": 16,
        "crop": (128, 192),
        "crop_until": (4_400,),
        "smallest": 0.7,
        "learning_rate": 1e-3,
        "warmup": 100,
    },
    "nano": _NANO_NETWORK
    | {
        "base_share": 0.15,
        "hints": (1, 20),
        "steps": 7_000,
        "batch": 16,
        "crop": (96,),
        "smallest": 0.6,
        "learning_rate": 7e-4,
        "warmup": 200,
    },
    "nano-last": _NANO_NETWORK
    | {
        "base_share": 0.25,
        "hints": (3, 64),
        "without": 0.05,
        "steps": 5_200,
        "batch": 8,
        "crop": (160, 224),
        "crop_until": (2_700,),
        "smallest": 0.7,
        "learning_rate": 6e-4,
        "warmup": 100,
    },
}


def main(config: Config) -> None:
    """Train until `config.steps`, with saves on the way.

    Raises:
        SystemExit: a loss is not finite, or the disk is full; the message says what is kept.
        ValueError, OSError: photos or weights cannot be used.
    """
    with TrainingSession(config) as session:
        accelerator, device = session.accelerator, session.device
        network, spec = build(config)
        network.to(device).train()
        hint_model = HintModel(network, config.part, prior=config.prior)
        if network.kernel:
            optimization.freeze_stages(network.kernel.backbone, config.frozen_stages)
        base = load_base(config, device)
        optimizer = torch.optim.AdamW(
            optimization.parameter_groups(network, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        session.resume({"network": network}, {"network": optimizer})
        model, optimizer = accelerator.prepare(hint_model, optimizer)

        average = cast(pointhint.PointHint, session.average.module)
        crop = batches.RandomCrop(config.side, config.smallest)
        if session.starts_from_weights:
            log_samples(session, average, spec)
        for step, batch in session.steps(session.load_batches(crop)):
            session.set_learning_rate(config.learning_rate * rate_factor(config, step))
            cells, valid = draw_hint_cells(config, step)
            for part in batch.split(config.accumulate):
                with accelerator.accumulate(model):
                    # L of the photo, its colors at hints, and the base's colors of some photos
                    true_rgb = inputs.to_float(part.images[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    rows = list(part.rows)
                    hints = hints_from_cells(true_ab, cells[rows], valid[rows])
                    uses_base = rows_with_base(config, step, rows) if base else [False] * len(rows)
                    prior_ab, ab = model(L, hints, base_colors(L, base, uses_base), uses_base)

                    # Eq. 13, for the network and for the kernel if it is trained
                    loss = losses.pixel_loss(ab, true_ab, config.huber)
                    if prior_ab.requires_grad and prior_ab is not ab:
                        loss = loss + losses.pixel_loss(prior_ab, true_ab, config.huber)
                    accelerator.backward(loss)
                    session.clip_gradients(model)
                    optimizer.step()
                    optimizer.zero_grad()
                with torch.no_grad():
                    error, prior_error = ((x - true_ab).square().mean() for x in (ab, prior_ab))
                session.add_losses({"loss": loss, "error": error, "guess": prior_error}, part)
            session.finish_step()

            if session.save_due:
                if accelerator.is_main_process:
                    log_samples(session, average, spec)
                    session.write_weights(
                        average,
                        pointhint.NAME,
                        {"resolution": spec.resolution, "prior": config.prior},
                    )
                session.save()


def build(config: Config) -> tuple[pointhint.PointHint, Spec]:
    """Return the network to start from, or a new one that returns its input colors unchanged.

    Raises:
        ValueError: `weights` is not a point-hint model, or was trained with another input.
    """
    if config.weights:
        network, spec = networks.load_initial(
            config.weights, pointhint.NAME, pointhint.PointHint, offline=config.offline
        )
    else:
        preset = pointhint.PRESETS[config.architecture]
        network = pointhint.PointHint(preset if config.prior else replace(preset, kernel=None))
        pointhint.initialize(network)
        if config.encoder and network.kernel:
            backbone = network.kernel.backbone
            pretrained.transfer_encoder(backbone, config.encoder, offline=config.offline)
        spec = replace(pointhint.spec(network.config), prior=config.prior)
    if config.kernel:
        network = pretrained.transplant_kernel(
            network, config.kernel, use_x=True, offline=config.offline
        )
    if spec.prior != config.prior:
        trained, flag = ("with", "--prior") if spec.prior else ("without", "--no-prior")
        raise ValueError(
            f"weights is {config.weights}, which was trained {trained} interpolated colors between "
            f"hints; give {flag}, or other weights."
        )
    return network, replace(spec, resolution=config.resolution or spec.resolution)


def load_base(config: Config, device: torch.device) -> Colorizer | None:
    """Load the automatic model whose colors are corrected, if one is asked for.

    Raises:
        ValueError: `base` has another role.
    """
    if not config.base or not config.prior:
        return None
    base = loader.load(config.base, device=device)
    if not isinstance(base, Colorizer):
        raise ValueError(
            f"base is {config.base}, a model with the role '{base.spec.role}'; expected one that "
            "colors without hints or references, such as ddcolor-nano."
        )
    return base


def rate_factor(config: Config, step: int) -> float:
    """Return the learning rate at `step` as a fraction of the highest."""
    factor = optimization.cosine(step, config.steps, config.warmup)
    if step < config.warmup:
        return factor
    return config.last_rate + (1 - config.last_rate) * factor


# --- Random hints --------------------------------------------------------------------------------


def draw_hint_cells(config: Config, step: int) -> tuple[Tensor, Tensor]:
    """Draw the grid cells of the hints of a whole batch, without repetition (section 4.3).

    Several processes draw the same cells as one.

    Returns:
        cells (B, N) in row order, N being the largest number of hints; valid (B, N), False for
        surplus cells.
    """
    random = optimization.step_generator(config.seed, step)
    low, high = config.hints
    count = low * ((high + 1) / low) ** torch.rand(config.batch, generator=random)
    has_hints = torch.rand(config.batch, generator=random) >= config.without
    count = count.long().clamp(low, high) * has_hints
    cells = (config.side(step) // CELL) ** 2
    drawn = torch.rand(config.batch, cells, generator=random).topk(high).indices
    return drawn, torch.arange(high) < count[:, None]


class HintBatch(NamedTuple):
    """Rasterized hints of a batch, as `pipeline.by_hints.interpolate_prior` accepts them."""

    ab: Tensor
    """(B, 2, S, S) colors of the hints in Lab units, 0 elsewhere."""
    mask: Tensor
    """(B, 1, S, S) 1 at hints."""
    centers: Tensor
    """(B, N, 2) y and x in pixels."""
    values: Tensor
    """(B, N, 2) colors of the hints."""
    valid: Tensor
    """(B, N) False where an image has fewer than N hints."""

    def select(self, indices: list[int]) -> "HintBatch":
        """Return the hints of the images at `indices`."""
        return HintBatch(*(tensor[indices] for tensor in self))


def hints_from_cells(true_ab: Tensor, cells: Tensor, valid: Tensor) -> HintBatch:
    """Return hints in the mean true color of each cell.

    Args:
        true_ab: (B, 2, S, S) in Lab units.
        cells, valid: (B, N), see `draw_hint_cells`.
    """
    cells, valid = cells.to(true_ab.device), valid.to(true_ab.device)
    means = F.avg_pool2d(true_ab, CELL)
    side = means.shape[-1]
    centers = torch.stack([cells // side, cells % side], dim=-1) * CELL + CELL / 2
    values = means.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).movedim(1, -1)
    mask = torch.zeros_like(means[:, 0]).flatten(1)
    mask = mask.scatter(1, cells, valid.float()).view(-1, 1, side, side)
    ab, mask = (
        x.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3) for x in (means * mask, mask)
    )
    return HintBatch(ab, mask, centers, values, valid)


# --- Colors between hints ------------------------------------------------------------------------


def rows_with_base(config: Config, step: int, rows: Iterable[int]) -> list[bool]:
    """Return which rows of the batch use the base's colors: `base_share` of them, evenly spread.

    Each process and part thus has its share. The rows rotate from step to step, since a row of a
    streamed batch comes from the same shards at every step.
    """
    count = math.ceil(config.base_share * config.batch)
    rotated = ((row + step) % config.batch for row in rows)
    return [(row + 1) * count // config.batch > row * count // config.batch for row in rotated]


@torch.no_grad()
def base_colors(L: Tensor, base: Colorizer | None, uses_base: list[bool]) -> Tensor:
    """Return the base's colors (B, 2, S, S) of the images that use them, zeros for the others.

    Args:
        L: (B, 1, S, S) in 0..100.
        base: automatic colorizer; None if no image uses it.
        uses_base: for each image, True if it uses the base's colors.
    """
    ab = torch.zeros_like(L).repeat(1, 2, 1, 1)
    if base is not None and any(uses_base):
        ab[uses_base] = predict_base_ab(base, color.gray_rgb(L[uses_base]), L[uses_base])
    return ab


def compute_prior(
    L: Tensor,
    hints: HintBatch,
    base_ab: Tensor,
    uses_base: list[bool],
    field: gaussian_process.Field | None = None,
) -> Tensor:
    """Return the colors between hints as the pipeline computes them: (B, 2, S, S) in Lab units.

    Args:
        L: (B, 1, S, S) in 0..100.
        hints: hints of the images.
        base_ab, uses_base: the base's colors, and which images use them.
        field: predicted covariance, see `interpolate_prior`.
    """
    ab = torch.empty_like(hints.ab)
    for with_base in (False, True):
        indices = [i for i, uses in enumerate(uses_base) if uses == with_base]
        if indices:
            ab[indices] = interpolate_prior(
                L[indices],
                *hints.select(indices),
                base_ab[indices] if with_base else None,
                field and field.select_images(indices),
            )
    return ab


class HintModel(nn.Module):
    """Interpolation between hints, then the network: everything that is trained.

    Args:
        network: network with or without a kernel.
        part: part to train, see `Config`; the rest is frozen.
        prior: interpolate between hints; otherwise the area between them is zero.
    Raises:
        ValueError: a part is named, but the network has no kernel.
    """

    def __init__(self, network: pointhint.PointHint, part: str, *, prior: bool):
        super().__init__()
        self.network, self.part, self.prior = network, part, prior
        if part != "all":
            if network.kernel is None:
                raise ValueError(f"part is '{part}', but this network has no kernel.")
            network.requires_grad_(part == "network")
            network.kernel.requires_grad_(part == "kernel")

    def forward(
        self, L: Tensor, hints: HintBatch, base_ab: Tensor, uses_base: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Return prior and result, each (B, 2, S, S) in Lab units.

        They are the same tensor if only the kernel is trained.
        """
        ab = hints.ab
        if self.prior:
            kernel = self.network.kernel
            field = None if kernel is None else kernel(L)
            ab = compute_prior(L, hints, base_ab, uses_base, field)
        if self.part == "kernel":
            return ab, ab
        return ab, self.network(network_input(L, ab, hints.mask))


# --- Samples -------------------------------------------------------------------------------------


def log_samples(session: TrainingSession, network: pointhint.PointHint, spec: Spec) -> None:
    """Color the held-out photos from random hints; log scores and a contact sheet.

    Its columns are hints, prior (if the network gets one), result, photo.
    """
    colorizer = loader.require_role(loader.wrap(network, spec), PointHintColorizer)
    psnr: dict[int, list[Tensor]] = {count: [] for count in SCORED_COUNTS}

    def colorize(true: Tensor, index: int) -> dict[str, Tensor]:
        L = color.lightness(true)
        gray = color.gray_rgb(L)
        row = {}
        for count in SCORED_COUNTS:
            hints = random_hints(true[0], count, str(index), seed=0)
            result = colorizer.colorize(gray.movedim(1, -1), hints=hints).movedim(-1, 1)
            psnr[count].append(image_metrics.psnr(result, true))
            if count == SAMPLE_COUNT:
                overlay = draw_hints(gray.movedim(1, -1), hints).movedim(-1, 1)
                row = {f"{SAMPLE_COUNT} hints": overlay}
                if spec.prior:
                    field = None if network.kernel is None else network.kernel(L)
                    ab, _ = encode_hints(L, hints, None, prior=True, field=field)
                    row["prior"] = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                row |= {sample_grid.RESULT: result, sample_grid.PHOTO: true}
        return row

    session.log_samples(colorize)
    if psnr[SAMPLE_COUNT]:
        scores = {f"held_out_psnr_{n}": torch.cat(v).mean().item() for n, v in psnr.items()}
        line = {name: round(score, 3) for name, score in scores.items()}
        session.logger.log(line | {"step": session.done})


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
