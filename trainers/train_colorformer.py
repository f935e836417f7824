r"""Train ColorFormer on your own photos.

    # The paper's settings, on one GPU; ImageNet weights for its encoder and its perceptual loss
    python trainers/train_colorformer.py --photos photos/ --backbone swin_tiny --vgg vgg16_bn \
        --out runs/mine
    # With the paper's memory, built with the encoder that the training starts from
    python trainers/build_color_memory.py --model colorformer --backbone swin_tiny --fresh \
        --photos photos/ --out memory.safetensors
    python trainers/train_colorformer.py --photos photos/ --backbone swin_tiny --vgg vgg16_bn \
        --memory memory.safetensors --out runs/mine
    # The same recipe on a GPU with 8 GB; on four GPUs; on shards of a web server
    python trainers/train_colorformer.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_colorformer.py --photos photos/ \
        --out runs/mine
    python trainers/train_colorformer.py --photos 'https://host/photos-{000..099}.tar' \
        --out runs/mine
    # Fine-tune a published or your own model
    colorist train colorformer --preset finetune --weights net_g_200000.pth --photos photos/ \
        --out tuned
    # The bundled model: a memory of its ImageNet encoder, then the decoder with both frozen, then
    # everything. --backbone also accepts a trained ddcolor-nano, for its encoder
    python trainers/build_color_memory.py --model colorformer-nano --backbone efficientnet_lite1 \
        --fresh --entries 256 --photos shard-*.tar --out runs/memory.safetensors
    python trainers/train_colorformer.py --preset nano --backbone efficientnet_lite1 \
        --memory runs/memory.safetensors --photos shard-*.tar --out runs/first
    python trainers/train_colorformer.py --preset nano-last --photos shard-*.tar \
        --weights runs/first/weights.safetensors --out runs/nano

A run started again with the same --out resumes where it stopped, bit for bit on a CPU. The result
is OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows held-out
photos, OUT/tensorboard and OUT/log.jsonl the losses; OUT/state.safetensors is needed to resume.
Ctrl-C saves and stops.

Objective (Ji et al. 2022, eq. 11): 0.1 content + 5 perceptual + 1 adversarial. The adversarial term
is a binary cross-entropy, as in the official program; eq. 10 has an L1 distance. The perceptual
loss needs VGG-16-BN weights (--vgg FILE or vgg16_bn) and is off without them.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import image as image_metrics
from ..model_defs import colorformer
from ..model_defs.spec import MemoryEntries, Spec
from ..ops import color
from ..pipeline.color_memory import memory
from . import losses, pretrained, pretrained_files
from .data import batches, inputs
from .runtime import distributed, ema, networks, optimization, sample_grid
from .runtime.command_line import run_script
from .runtime.session import TrainingSession
from .runtime.settings import AutomaticSettings, validate_architecture

log = logging.getLogger("train_colorformer")


@dataclass
class Config(AutomaticSettings):
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    out: Path = Path("runs/colorformer")
    architecture: str = "colorformer"
    """Preset of the network: colorformer, colorformer-nano."""
    backbone: str | None = None
    """ImageNet weights for the encoder: a file, or the name of a network of the encoder's type: a
    Swin-T (swin_tiny) or an EfficientNet-Lite (efficientnet_lite1)."""
    memory: Path | None = None
    """Color memory, built by build_color_memory.py --fresh with the same encoder. Default: that of
    --weights, else random numbers (nearly as good according to the paper, table 2)."""
    freeze_encoder: bool = False
    """Freeze all stages of the encoder, so that the color memory keeps matching it."""
    frozen_stages: int = 0
    """Number of encoder stages to freeze, counted from the input. Freezing all (7 of an
    EfficientNet-Lite, 4 of a GLH-Transformer) trains the decoder alone."""
    recolor: float = 0.0
    """Fraction of batches in which color memory and photos are recolored alike. The network then
    learns to take its colors from the memory, so that another memory changes them."""
    steps: int = 200_000
    batch: int = 16
    schedule: str = "halving"
    """Learning rate: halving = halved at steps 80,000, 120,000 and 160,000 (paper); cosine = falls
    to zero at --steps."""
    pixel: float = 0.1
    """Weight of the content loss (eq. 8)."""
    huber: float = 0.0
    """Error in ab units below which the content loss is quadratic; 0 = L1 loss (paper)."""
    perceptual: float = 5.0
    """Weight of the perceptual loss (eq. 9); needs --vgg."""
    adversarial: float = 1.0
    """Weight of the adversarial loss (eq. 10); 0 trains without a discriminator."""
    colorfulness: float = 0.0
    """Weight of the colorfulness loss of the DDColor paper (eq. 8 there)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_architecture(self.weights, self.architecture, colorformer.PRESETS)


_NANO: dict[str, Any] = {
    "batch": 16,
    "smallest": 0.6,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "huber": 20.0,
    "adversarial": 0.0,
    "spectral_norm": False,
    "clip": 1.0,
    "damage": 0.3,
    "recolor": 0.5,
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The paper's recipe on a small GPU: the batch in parts, half precision.
    "8gb": {"accumulate": 8, "dtype": "auto"},
    "finetune": {
        "architecture": "",  # that of --weights
        "steps": 20_000,
        "learning_rate": 2e-5,
        "batch": 4,
        "schedule": "cosine",
        "warmup": 500,
        "dtype": "auto",
        "spectral_norm": False,  # models trained with spectral norm keep their scale without it
    },
    # The bundled model, on a CPU: the decoder, on the frozen encoder of ddcolor-nano (--backbone)
    # and the color memory built with it (--memory), with ddcolor-nano as the teacher.
    "nano": _NANO
    | {
        "architecture": "colorformer-nano",
        "resolution": 192,
        "freeze_encoder": True,
        "teacher": "ddcolor-nano",
        "pixel": 0.03,
        "psnr": 1.0,
        "colorfulness": 0.05,
        "recolor": 0.6,
        "steps": 4_600,
        "crop": (96, 128),
        "crop_until": (4_400,),
        "learning_rate": 1e-3,
        "warmup": 100,
    },
    # Then the encoder, too, on larger crops; its stages up to 1/8 would double the time. The low
    # encoder rate keeps its features close to those that the keys of the memory were made from.
    "nano-last": _NANO
    | {
        "architecture": "",  # that of --weights
        "resolution": 256,
        "frozen_stages": 3,
        "encoder_rate": 0.05,
        "steps": 3_000,
        "crop": (160, 192),
        "crop_until": (2_000,),
        "learning_rate": 3e-4,
        "warmup": 100,
    },
}


def main(config: Config) -> None:
    """Train until `config.steps`, with saves on the way.

    Raises:
        SystemExit: a loss is not finite, or the disk is full; the message says what is kept.
        ValueError, OSError: photos, weights or a color memory cannot be used.
    """
    with TrainingSession(config) as session:
        accelerator, device = session.accelerator, session.device
        with accelerator.local_main_process_first():  # the first process downloads missing files
            network, spec = build(config)
            networks.to_channels_last(network, device).train()
            perceptual_loss = networks.load_perceptual_loss(config, device)
            feature_loss = networks.load_feature_loss(config, device)
            teacher = networks.load_teacher(config, device)
        frozen_stages = config.frozen_stages
        if config.freeze_encoder:
            frozen_stages = optimization.count_stages(network.encoder)
        optimization.freeze_stages(network.encoder, frozen_stages)
        discriminator = losses.PatchDiscriminator(config.discriminator_width).to(device)
        optimizer = torch.optim.AdamW(
            optimization.parameter_groups(network, config.weight_decay, config.encoder_rate),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
        )
        discriminator_optimizer = torch.optim.Adam(
            discriminator.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
        )
        if config.adversarial:
            session.resume(
                {"network": network, "discriminator": discriminator},
                {"network": optimizer, "discriminator": discriminator_optimizer},
            )
        else:
            session.resume({"network": network}, {"network": optimizer})
        model, prepared_discriminator, optimizer, discriminator_optimizer = accelerator.prepare(
            RecoloringModel(distributed.convert_sync_batchnorm(network, accelerator)),
            discriminator,
            optimizer,
            discriminator_optimizer,
        )

        crop = partial(batches.RandomCrop, min_scale=config.smallest, damage=config.damage)
        if session.starts_from_weights:
            session.log_samples(sample_grid.automatic_samples(session.average.module, spec))
        for step, batch in session.steps(session.load_batches(crop(config.side))):
            session.set_learning_rate(config.learning_rate * rate_factor(config, step))
            random = optimization.step_generator(config.seed, step)
            recoloring = (
                draw_recoloring(network.memory, random)
                if torch.rand((), generator=random) < config.recolor
                else None
            )
            for part in batch.split(config.accumulate):
                with accelerator.accumulate(model, prepared_discriminator):
                    # Forward: colors of the gray image, joined with the true L
                    true_rgb = inputs.to_float(part.images[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    if teacher is not None:
                        with accelerator.autocast():
                            true_ab = networks.distill(true_ab, L, teacher, config.teacher_share)
                    ab, true_ab = model(inputs.gray_input(part, device), true_ab, recoloring)
                    with torch.set_grad_enabled(config.needs_rgb_gradient):
                        rgb = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                    if recoloring is not None or teacher is not None:
                        true_rgb = color.lab_to_rgb(torch.cat([L, true_ab], dim=1)).clamp(0, 1)

                    # Discriminator first, on the detached result
                    terms = {}
                    if config.adversarial:
                        terms["discriminator"] = losses.adversarial_loss(
                            prepared_discriminator(rgb.detach()), False
                        ) + losses.adversarial_loss(prepared_discriminator(true_rgb), True)
                        accelerator.backward(terms["discriminator"])
                        discriminator_optimizer.step()
                        discriminator_optimizer.zero_grad()

                    # Generator, eq. 11
                    terms["pixel"] = losses.pixel_loss(ab, true_ab, config.huber)
                    loss = config.pixel * terms["pixel"]
                    if config.psnr:
                        terms["psnr"] = losses.psnr_loss(rgb, true_rgb)
                        loss = loss + config.psnr * terms["psnr"]
                    if perceptual_loss is not None:
                        with accelerator.autocast():
                            terms["perceptual"] = perceptual_loss(rgb, true_rgb)
                        loss = loss + config.perceptual * terms["perceptual"]
                    if feature_loss is not None:
                        with accelerator.autocast():
                            terms["feature"] = feature_loss(rgb, true_rgb)
                        loss = loss + config.feature * terms["feature"]
                    if config.colorfulness:
                        terms["colorfulness"] = losses.colorfulness_loss(rgb)
                        loss = loss + config.colorfulness * terms["colorfulness"]
                    if config.adversarial:
                        with optimization.frozen(discriminator):
                            terms["adversarial"] = losses.adversarial_loss(discriminator(rgb), True)
                        loss = loss + config.adversarial * terms["adversarial"]
                    accelerator.backward(loss)
                    session.clip_gradients(model)
                    optimizer.step()
                    optimizer.zero_grad()
                terms["made_colorfulness"] = image_metrics.colorfulness(rgb.detach()).mean()
                session.add_losses(terms, part)
            session.finish_step()

            if session.save_due:
                if accelerator.is_main_process:
                    result = session.average.module
                    ema.update_bn_statistics(
                        result,
                        session.load_first_batches(crop(config.fixed_side(step))),
                        lambda batch: (inputs.gray_input(batch, device),),
                    )
                    session.log_samples(sample_grid.automatic_samples(result, spec))
                    session.write_weights(
                        result,
                        colorformer.NAME,
                        {"resolution": spec.resolution, "fade": spec.fade, "gain": spec.gain},
                    )
                session.save()


def build(config: Config) -> tuple[colorformer.ColorFormer, Spec]:
    """Return a new network or the one in `config.weights`, with memory and spectral norm."""
    if config.weights:
        network, spec = networks.load_initial(
            config.weights, colorformer.NAME, colorformer.ColorFormer, offline=config.offline
        )
    else:
        network = colorformer.ColorFormer(colorformer.PRESETS[config.architecture])
        spec = colorformer.spec(network.config)
        nn.init.normal_(network.memory.keys)
        nn.init.normal_(network.memory.values, std=30)  # about the spread of ab in photos
        if config.backbone:
            path = pretrained_files.locate(config.backbone, offline=config.offline)
            kind = pretrained.COLORFORMER_BACKBONES[network.config.encoder]
            log.info("encoder: %s", pretrained.load_backbone(network.encoder, path, kind))
        else:
            log.info("encoder: random weights (for ImageNet weights: --backbone NAME or FILE)")
    if config.memory:
        replace_memory(network, memory.load_memory(config.memory))
    if config.spectral_norm:
        optimization.apply_spectral_norm(network.spectral_convolutions(), config.weights)
    return network, replace(
        spec,
        resolution=config.resolution or spec.resolution,
        fade=spec.fade if config.fade is None else config.fade,
        gain=spec.gain if config.gain is None else config.gain,
    )


def replace_memory(network: colorformer.ColorFormer, new: memory.ColorMemory) -> None:
    """Replace the color memory of `network`, and its number of entries, in place.

    Raises:
        ValueError: the memory has another key width or number of groups, or was built with another
            encoder.
    """
    sizes = colorformer.spec(network.config).memory
    memory.check_memory_fits(new, sizes, memory.identify_encoder(network.encoder), "the network")
    network.config = replace(network.config, entries=len(new.keys))
    network.memory.keys, network.memory.values = new.keys, new.values
    if network.config.projection and new.projection:
        network.memory.components, network.memory.offset = new.projection


def rate_factor(config: Config, step: int) -> float:
    """Return the learning rate at `step` as a fraction of the initial one."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return optimization.halving(step, (80_000, 120_000, 160_000))


# --- Recoloring ------------------------------------------------------------------------------


class Recoloring(NamedTuple):
    """One random change of all colors, for the photos of a batch and the memory alike."""

    kept: Tensor
    """(m',): indices of the memory entries that are kept."""
    matrix: Tensor
    """M: (2, 2), rotation of the hue times stretch of the chroma."""
    shifts: Tensor
    """(n, m', 2): random shift of each color, in ab units."""
    key_shift: Tensor
    """(k, 2): map from an entry's key to a further shift, similar for similar keys."""


def draw_recoloring(module: colorformer.ColorMemoryModule, random: torch.Generator) -> Recoloring:
    """Return a random recoloring for this memory, on its device."""
    normal = partial(torch.randn, generator=random)
    groups, entries, _ = module.values.shape
    width = module.keys.shape[1]
    count = int(torch.randint(max(1, entries // 8), entries + 1, (), generator=random))
    kept = torch.randperm(entries, generator=random)[:count]
    angle, stretch = 0.5 * normal(()), 0.6 + 0.8 * torch.rand((), generator=random)
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    recoloring = Recoloring(
        kept,
        matrix=torch.stack([cos, -sin, sin, cos]).view(2, 2),
        shifts=8 * normal(2) + 5 * normal(groups, count, 2),
        key_shift=12 * normal(width, 2) / width**0.5,
    )
    return Recoloring(*(tensor.to(module.values.device) for tensor in recoloring))


@torch.no_grad()
def recolor(
    ab: Tensor,
    encoded: colorformer.EncodedImage,
    module: colorformer.ColorMemoryModule,
    recoloring: Recoloring,
) -> tuple[Tensor, MemoryEntries]:
    """Recolor photos and memory alike; return the target ab and the memory entries to attend to.

    Some entries are dropped. The colors of photos and memory are mapped by the same matrix M, and
    each entry l is shifted by its own delta_l. Photos are shifted as they attend to the entries:
    ab' = M ab + W sum_l lambda_l delta_l, with W and lambda of eq. 4 and 5.

    Args:
        ab: photos, (B, 2, H, W).
        encoded: the photos as the network encodes them.
        module: color memory.
        recoloring: the change.
    """
    kept, matrix, shifts, key_shift = recoloring
    keys, values = module.keys[kept], module.values[:, kept]
    shift = keys / keys.std().clamp_min(1e-6) @ key_shift + shifts
    fused = torch.einsum("Bn,nmc->Bmc", encoded.weights.float(), shift)
    features = encoded.features.float().permute(0, 2, 3, 1)
    attended = module.attend(features, fused, keys).movedim(-1, 1)
    attended = F.interpolate(attended, size=ab.shape[2:], mode="bilinear")
    target = torch.einsum("dc,bchw->bdhw", matrix, ab) + attended
    return target, MemoryEntries(keys, values @ matrix.T + shift)


class RecoloringModel(nn.Module):
    """Network with optional recoloring, in one forward pass as several processes require."""

    def __init__(self, network: colorformer.ColorFormer):
        super().__init__()
        self.network = network

    def forward(
        self, gray_rgb: Tensor, true_ab: Tensor, recoloring: Recoloring | None
    ) -> tuple[Tensor, Tensor]:
        """Return predicted ab and target ab.

        Args:
            gray_rgb: input of the network, (B, 3, H, W) in 0..1.
            true_ab: ab of the photos, (B, 2, H, W).
            recoloring: change of photos and memory, if any.
        """
        encoded, entries = self.network.encode(gray_rgb), None
        if recoloring is not None:
            with torch.autocast(gray_rgb.device.type, enabled=False):  # targets stay float32
                true_ab, entries = recolor(true_ab, encoded, self.network.memory, recoloring)
        return self.network.decode(encoded, entries), true_ab


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
