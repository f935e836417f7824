r"""Train DDColor on your own photos.

    # The paper's settings, on one GPU; ImageNet weights for its encoder and its perceptual loss
    python trainers/train_ddcolor.py --photos photos/ --backbone convnext_large --vgg vgg16_bn \
        --out runs/mine
    # The same recipe on a GPU with 8 GB; on four GPUs; on shards of a web server
    python trainers/train_ddcolor.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_ddcolor.py --photos photos/ --out runs/mine
    python trainers/train_ddcolor.py --photos 'https://host/photos-{000..099}.tar' --out runs/mine
    # Fine-tune a published or your own model
    colorist train ddcolor --preset finetune --weights ddcolor_tiny.pth --photos photos/ --out tuned
    # The bundled model, on a CPU
    python trainers/train_ddcolor.py --preset nano --photos shard-*.tar \
        --backbone efficientnet_lite1 --dtype bfloat16 --out runs/decoders
    python trainers/train_ddcolor.py --preset nano-stages --photos shard-*.tar --dtype bfloat16 \
        --weights runs/decoders/weights.safetensors --out runs/stages
    python trainers/train_ddcolor.py --preset nano-last --photos shard-*.tar --dtype bfloat16 \
        --weights runs/stages/weights.safetensors --out runs/nano

A run started again with the same --out resumes where it stopped, bit for bit on a CPU. The result
is OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows held-out
photos, OUT/tensorboard and OUT/log.jsonl the losses; OUT/state.safetensors is needed to resume.
Ctrl-C saves and stops.

Objective (Kang et al. 2023, eq. 9): 0.1 pixel + 5 perceptual + 1 adversarial + 0.5 colorfulness.
The perceptual loss needs VGG-16-BN weights (--vgg FILE or vgg16_bn) and is off without them.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..metrics import image as image_metrics
from ..model_defs import ddcolor
from ..model_defs.spec import Spec
from ..ops import color
from . import losses, pretrained, pretrained_files
from .data import batches, inputs
from .runtime import distributed, ema, networks, optimization, sample_grid
from .runtime.command_line import run_script
from .runtime.session import TrainingSession
from .runtime.settings import AutomaticSettings, validate_architecture

log = logging.getLogger("train_ddcolor")


@dataclass
class Config(AutomaticSettings):
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    out: Path = Path("runs/ddcolor")
    architecture: str = "ddcolor-large"
    """Preset of the network: ddcolor-large, ddcolor-tiny, ddcolor-nano."""
    backbone: str | None = None
    """ImageNet weights for the encoder: a file, or the name of a network of the encoder's type: a
    ConvNeXt (convnext_large, convnext_tiny) or an EfficientNet-Lite (efficientnet_lite1)."""
    frozen_stages: int = 0
    """Number of encoder stages to freeze, counted from the input. Freezing all (7 of an
    EfficientNet-Lite, 4 of a ConvNeXt) trains the decoders alone."""
    start_share: float = 0.0
    """Blend the result with the weights it started from (--weights); 0.5 = half of each. This helps
    when fine-tuning on few photos."""
    steps: int = 400_000
    batch: int = 16
    weight_decay: float = 0.01
    schedule: str = "halving"
    """Learning rate: halving = halved at step 80,000 and every 40,000 steps (paper); cosine = falls
    to zero at --steps."""
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic; 0 = L1 loss (paper)."""
    colorfulness: float = 0.5
    """Weight of the colorfulness loss (eq. 8)."""
    color_enhance: float = 1.2
    """Factor on the saturation of real photos in the adversarial and perceptual losses (color
    augmentation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_architecture(self.weights, self.architecture, ddcolor.PRESETS)
        if self.start_share and not self.weights:
            raise ValueError(
                f"start_share is {self.start_share}, but the model to start from is missing; "
                "name it with --weights, or leave out --start-share."
            )


_NANO: dict[str, Any] = {
    "resolution": 256,
    "smallest": 0.6,
    "damage": 0.3,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "huber": 20.0,
    "adversarial": 0.0,
    "spectral_norm": False,
    "clip": 1.0,
    "held_out": 100,
    "threads": 1,
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
    # Fine-tunes the bundled model on a CPU in minutes; a discriminator would double the time.
    "laptop": {
        "architecture": "",
        "steps": 400,
        "batch": 8,
        "crop": (128,),
        "smallest": 0.6,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup": 30,
        "huber": 20.0,
        "adversarial": 0.0,
        "colorfulness": 0.1,
        "spectral_norm": False,
        "report_every": 50,
        "save_every": 100,
    },
    # The bundled model, in three runs on a CPU, on photos of 160 to 192 pixels. First the decoders,
    # on a frozen ImageNet encoder (--backbone efficientnet_lite1), whose forward pass takes a fifth
    # of the step.
    "nano": _NANO
    | {
        "architecture": "ddcolor-nano",
        "frozen_stages": 7,
        "colorfulness": 0.0,
        "steps": 4_000,
        "batch": 16,
        "crop": (128,),
        "learning_rate": 1e-3,
        "warmup": 100,
    },
    # Then also the encoder stages at 1/16 and 1/32, for the scores themselves: PSNR, and
    # colorfulness, which decides how vivid uncertain colors are.
    "nano-stages": _NANO
    | {
        "architecture": "",
        "resolution": 320,
        "fade": 3.0,
        "gain": 0.9,
        "frozen_stages": 3,
        "encoder_rate": 0.25,
        "start_share": 0.5,
        "damage": 0.35,
        "smallest": 0.5,
        "weight_decay": 0.1,
        "pixel": 0.03,
        "psnr": 1.0,
        "colorfulness": 0.4,
        "steps": 2_400,
        "batch": 16,
        "crop": (128, 160),
        "crop_until": (1_900,),
        "learning_rate": 4e-4,
        "warmup": 50,
    },
    # Then all stages, on larger crops. The bundled model was trained without this run.
    "nano-last": _NANO
    | {
        "architecture": "",
        "encoder_rate": 0.1,
        "pixel": 0.03,
        "psnr": 1.0,
        "colorfulness": 0.4,
        "steps": 2_000,
        "batch": 32,
        "crop": (160, 192),
        "crop_until": (1_200,),
        "learning_rate": 3e-4,
        "warmup": 50,
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
        with accelerator.local_main_process_first():  # the first process downloads missing files
            network, spec = build(config)
            networks.to_channels_last(network, device).train()
            perceptual_loss = networks.load_perceptual_loss(config, device)
            feature_loss = networks.load_feature_loss(config, device)
            teacher = networks.load_teacher(config, device)
        optimization.freeze_stages(network.encoder, config.frozen_stages)
        start = {}
        if config.start_share:
            start = {name: p.detach().clone() for name, p in network.named_parameters()}
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
            distributed.convert_sync_batchnorm(network, accelerator),
            discriminator,
            optimizer,
            discriminator_optimizer,
        )

        crop = partial(batches.RandomCrop, min_scale=config.smallest, damage=config.damage)
        if session.starts_from_weights:
            session.log_samples(sample_grid.automatic_samples(session.average.module, spec))
        for step, batch in session.steps(session.load_batches(crop(config.side))):
            session.set_learning_rate(config.learning_rate * rate_factor(config, step))
            for part in batch.split(config.accumulate):
                with accelerator.accumulate(model, prepared_discriminator):
                    # Forward: colors of the gray image, joined with the true L
                    true_rgb = inputs.to_float(part.images[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    if teacher is not None:
                        with accelerator.autocast():
                            true_ab = networks.distill(true_ab, L, teacher, config.teacher_share)
                        true_rgb = color.lab_to_rgb(torch.cat([L, true_ab], dim=1)).clamp(0, 1)
                    ab = model(inputs.gray_input(part, device))
                    with torch.set_grad_enabled(config.needs_rgb_gradient):
                        rgb = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                    real_rgb = losses.enhance_color(true_rgb, config.color_enhance)

                    # Discriminator first, on the detached result
                    terms = {}
                    if config.adversarial:
                        terms["discriminator"] = losses.adversarial_loss(
                            prepared_discriminator(rgb.detach()), False
                        ) + losses.adversarial_loss(prepared_discriminator(real_rgb), True)
                        accelerator.backward(terms["discriminator"])
                        discriminator_optimizer.step()
                        discriminator_optimizer.zero_grad()

                    # Generator, eq. 9
                    terms["pixel"] = losses.pixel_loss(ab, true_ab, config.huber)
                    loss = config.pixel * terms["pixel"]
                    if config.psnr:
                        terms["psnr"] = losses.psnr_loss(rgb, true_rgb)
                        loss = loss + config.psnr * terms["psnr"]
                    terms["colorfulness"] = losses.colorfulness_loss(rgb)
                    loss = loss + config.colorfulness * terms["colorfulness"]
                    if perceptual_loss is not None:
                        with accelerator.autocast():
                            terms["perceptual"] = perceptual_loss(rgb, real_rgb)
                        loss = loss + config.perceptual * terms["perceptual"]
                    if feature_loss is not None:
                        with accelerator.autocast():
                            terms["feature"] = feature_loss(rgb, true_rgb)
                        loss = loss + config.feature * terms["feature"]
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
                    if config.start_share:
                        result = ema.interpolate_weights(result, start, config.start_share)
                    ema.update_bn_statistics(
                        result,
                        session.load_first_batches(crop(config.fixed_side(step))),
                        lambda batch: (inputs.gray_input(batch, device),),
                    )
                    session.log_samples(sample_grid.automatic_samples(result, spec))
                    session.write_weights(
                        result,
                        ddcolor.NAME,
                        {"resolution": spec.resolution, "fade": spec.fade, "gain": spec.gain},
                    )
                session.save()


def build(config: Config) -> tuple[ddcolor.DDColor, Spec]:
    """Return a new network or the one in `config.weights`, with spectral norm if asked for."""
    if config.weights:
        network, spec = networks.load_initial(
            config.weights, ddcolor.NAME, ddcolor.DDColor, offline=config.offline
        )
    else:
        network = ddcolor.DDColor(ddcolor.PRESETS[config.architecture])
        spec = ddcolor.spec(network.config)
        ddcolor.initialize(network)
        if config.backbone:
            path = pretrained_files.locate(config.backbone, offline=config.offline)
            summary = pretrained.load_backbone(network.encoder, path, network.config.encoder)
            log.info("encoder: %s", summary)
        else:
            log.info("encoder: random weights (for ImageNet weights: --backbone NAME or FILE)")
    if config.spectral_norm:
        optimization.apply_spectral_norm(network.spectral_convolutions(), config.weights)
    return network, replace(
        spec,
        resolution=config.resolution or spec.resolution,
        fade=spec.fade if config.fade is None else config.fade,
        gain=spec.gain if config.gain is None else config.gain,
    )


def rate_factor(config: Config, step: int) -> float:
    """Return the learning rate at `step` as a fraction of the initial one."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return optimization.halving(step, (80_000, *range(120_000, config.steps + 1, 40_000)))


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
