"""Train DDColor on your own photos.

    # The paper's settings, on one GPU; ImageNet weights for its encoder and its perceptual loss
    python trainers/train_ddcolor.py --photos photos/ --backbone convnext_large --vgg vgg16_bn \\
        --out runs/mine
    # The same recipe on a card of 8 GB; on four GPUs; on shards of a web server
    python trainers/train_ddcolor.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_ddcolor.py --photos photos/ --out runs/mine
    python trainers/train_ddcolor.py --photos 'https://host/photos-{000..099}.tar' --out runs/mine
    # Published or own weights, your photos
    colorist train ddcolor --preset finetune --weights ddcolor_tiny.pth --photos photos/ --out tuned
    # The bundled network, on a CPU
    python trainers/train_ddcolor.py --preset nano --photos shard-*.tar \\
        --backbone efficientnet_lite1 --dtype bfloat16 --out runs/decoders
    python trainers/train_ddcolor.py --preset nano-stages --photos shard-*.tar --dtype bfloat16 \\
        --weights runs/decoders/weights.safetensors --out runs/stages
    python trainers/train_ddcolor.py --preset nano-last --photos shard-*.tar --dtype bfloat16 \\
        --weights runs/stages/weights.safetensors --out runs/nano

Started again with the same --out a run goes on where it stopped, bit for bit on a CPU. Result:
OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows photos that
are not trained on, OUT/tensorboard and OUT/log.jsonl the losses, OUT/state.safetensors holds what
a resume needs. Ctrl-C saves and stops.

Objective (Kang et al. 2023, eq. 9): 0.1 pixel + 5 perceptual + 1 adversarial + 0.5 colourfulness.
The perceptual loss needs VGG-16-BN weights (--vgg FILE or vgg16_bn); without them it is off, as the
log says.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..metrics import image as image_metrics
from ..model_defs import ddcolor, registry
from ..model_defs.spec import Spec
from ..ops import color
from ..pipeline import loader
from . import losses, pretrained, pretrained_files
from .data import batches, inputs
from .data.photos import hold_out, open_photos
from .runtime import (
    distributed,
    ema,
    logger,
    optimization,
    provenance,
    sample_grid,
    session,
    settings,
)
from .runtime import state as checkpoints

log = logging.getLogger("train_ddcolor")


@dataclass
class Config(settings.Settings):
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    out: Path = Path("runs/ddcolor")
    """Folder of the run."""
    architecture: str = "ddcolor-large"
    """Preset of the network: ddcolor-large, ddcolor-tiny, ddcolor-nano."""
    backbone: str | None = None
    """ImageNet weights for the encoder, as in the paper: a file, or the name of a ConvNeXt
    (convnext_large) or an EfficientNet-Lite (efficientnet_lite1), as the architecture has it."""
    frozen_stages: int = 0
    """Stages of the encoder, from the input on, that keep their weights; with all of them frozen
    (7 of an EfficientNet-Lite, 4 of a ConvNeXt) only the decoders are trained."""
    encoder_rate: float = 1.0
    """Factor on the learning rate of the encoder."""
    start_share: float = 0.0
    """Share of the weights that training started from (`weights`) in the result: half of each is
    better on other photos than a network fine-tuned on few."""
    damage: float = 0.0
    """Part of the photos whose gray input is damaged as old prints and scans are: grain, blur,
    scratches, faded tones, borders, ... (trainers/data/damage.py); the colors of the photo stay."""
    teacher: str | None = None
    """Trained automatic network whose answers are part of the target colors (distillation): a
    file, or a bundled or installed name."""
    teacher_share: float = 0.5
    """Weight of the answers of `teacher` in the target colors; 0 = the photos alone."""
    vgg: str | None = None
    """ImageNet weights of VGG-16 for the perceptual loss: file, or vgg16_bn."""
    fade: float | None = None
    """C* of which half is left when the result colours photos: weaker colour goes to neutral. Not
    part of the training; None = as `weights`, or 0 = all is left."""
    gain: float | None = None
    """Factor on the colour then; None = as `weights`, or 1."""
    steps: int = 400_000
    batch: int = 16
    """Photos in a step, over all processes."""
    crop: tuple[int, ...] = (256,)
    """Side of the training square in pixels; several sides are taken in turn, smallest first."""
    smallest: float = 1.0
    """Smallest crop, as part of the photo's shorter side; 1 = the whole side."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    schedule: str = "halving"
    """halving: at 80k and every 40k steps (paper); cosine: down to zero at `steps`."""
    warmup: int = 0
    """Steps of linear rise, cosine only."""
    pixel: float = 0.1
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic; 0 = L1 throughout (paper)."""
    psnr: float = 0.0
    """Weight of -PSNR / 10 of the result, in RGB."""
    perceptual: float = 5.0
    adversarial: float = 1.0
    colorfulness: float = 0.5
    feature: float = 0.0
    """Weight of the feature loss: distance of the maps that an unchanged ImageNet encoder
    (`feature_network`) makes of the result and of the photo."""
    feature_network: str | None = None
    """EfficientNet-Lite of the feature loss: file, or a name such as efficientnet_lite1."""
    color_enhance: float = 1.2
    """Blends real pictures away from grey by this factor, for adversarial and perceptual terms
    (colour augmentation)."""
    discriminator_width: int = 64
    spectral_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.check_choice(self.weights, self.architecture, ddcolor.PRESETS)
        if self.weights and self.backbone:
            raise ValueError("weights and backbone both name a start for the encoder; give one.")
        if self.start_share and not self.weights:
            raise ValueError(
                f"start_share is {self.start_share}, but there is no network to start from; name "
                "one with --weights, or leave out --start-share."
            )
        settings.check_feature(self.feature, self.feature_network)
        if self.schedule not in ("halving", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected halving or cosine.")

    @property
    def sees_rgb(self) -> bool:
        """True if a loss needs the gradient of the result in RGB."""
        perceptual = self.perceptual if self.vgg else 0
        return any((self.psnr, perceptual, self.adversarial, self.colorfulness, self.feature))


_NANO = {
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
PRESETS = {
    "paper": {},
    # The paper's recipe in the memory of a small card: a batch in parts, half precision.
    "8gb": {"accumulate": 8, "dtype": "auto"},
    "finetune": {
        "architecture": "",  # that of --weights
        "steps": 20_000,
        "learning_rate": 2e-5,
        "batch": 4,
        "schedule": "cosine",
        "warmup": 500,
        "dtype": "auto",
        "spectral_norm": False,  # of weights that were trained with it nothing changes
    },
    # The network in the box further, on a CPU, in minutes; a discriminator takes half the time.
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
    # The bundled network, on a CPU; photos of 160 to 192 pixels. First the decoders,
    # on an encoder that knows things from ImageNet (--backbone efficientnet_lite1): its maps cost
    # a fifth of the step.
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
    # Then the encoder's stages at 1/16 and 1/32 as well, for the score itself: PSNR, and
    # colorfulness, which decides how vivid the result is where the photo does not say.
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
    # Then all of it, on larger squares. The network that is bundled now has not gone through it.
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
    """Train until `config.steps`, saving on the way.

    Raises:
        SystemExit: a loss is no number, a full disk; the message says what is kept.
        ValueError, OSError: photos or weights that cannot be used.
    """
    accelerator = distributed.accelerator(config)
    device = accelerator.device
    photos, held_out = hold_out(
        open_photos(config.photos, config.index, config.skip_licences, config.stream),
        config.held_out,
        config.seed,
        config.watch,
    )
    with accelerator.local_main_process_first():  # which downloads what is missing
        network, spec = build(config)
        network.to(device, memory_format=torch.channels_last).train()
        perceptual = session.perceptual(config, device)
        feature = session.feature_loss(config, device)
        teacher = session.teacher(config, device)
    optimization.freeze(network.encoder, config.frozen_stages)
    start = {}
    if config.start_share:
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
    average = ema.Average(network, config.average)
    discriminator = losses.PatchDiscriminator(config.discriminator_width).to(device)

    optimizer = torch.optim.AdamW(
        optimization.parameter_groups(network, config.weight_decay, config.encoder_rate),
        lr=config.learning_rate,
        betas=(0.9, 0.99),
    )
    judge_optimizer = torch.optim.Adam(
        discriminator.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
    )
    networks = {"network": network, "average": average.network}
    optimizers = {"network": optimizer}
    if config.adversarial:
        networks |= {"discriminator": discriminator}
        optimizers |= {"discriminator": judge_optimizer}
    state = checkpoints.State(accelerator, config, networks, optimizers)
    begun = state.load()
    session.introduce(accelerator, photos, network)

    model, judge, optimizer, judge_optimizer = accelerator.prepare(
        distributed.share_statistics(network, accelerator),
        discriminator,
        optimizer,
        judge_optimizer,
    )
    photos_from = partial(
        batches.batches,
        photos,
        batch=config.batch,
        seed=config.seed,
        smallest=config.smallest,
        damaged=config.damage,
        threads=config.threads,
    )
    source = photos_from(
        size=config.side,
        start=begun.step,
        places=begun.places,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        parts=config.accumulate,
    )

    def look(step: int, result: nn.Module) -> None:
        colored = sample_grid.automatic(loader.wrap(result, spec))
        sample_grid.show(held_out, colored, report, config.out, step)

    def save(step: int, places: dict) -> None:
        checkpoints.refuse_infinite_weights(state, step)
        if accelerator.is_main_process:
            result = average.network
            if config.start_share:
                result = ema.mixed(result, start, config.start_share)
            some = photos_from(size=lambda _: config.side(step - 1))
            ema.calibrate(result, some, inputs.gray_seen(device))
            look(step, result)
            training = provenance.provenance(config, photos, step, report.seconds)
            facts = {key: getattr(spec, key) for key in ("resolution", "fade", "gain")}
            checkpoints.write_weights(config, result, ddcolor.NAME, training, facts)
        state.save(step, report.seconds, places)
        report.after_saving()

    with (
        logger.Report(accelerator, config.out, config.steps, begun) as report,
        session.Stop(accelerator, config.report_every) as stop,
    ):
        if config.weights and not begun.step and accelerator.is_main_process:
            look(0, average.network)
        for step in range(begun.step, config.steps):
            batch = report.next(source)
            rate = config.learning_rate * rate_factor(config, step)
            for group in (*optimizer.param_groups, *judge_optimizer.param_groups):
                group["lr"] = rate * group.get("factor", 1.0)
            for part in batch.parts(config.accumulate):
                with accelerator.accumulate(model, judge):
                    # Forward: colour of the grey picture, joined with the true L
                    true_rgb = inputs.unit(part.pictures[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    if teacher is not None:
                        with accelerator.autocast():
                            true_ab = session.distilled(true_ab, L, teacher, config.teacher_share)
                        true_rgb = color.lab_to_rgb(torch.cat([L, true_ab], dim=1)).clamp(0, 1)
                    ab = model(inputs.gray_input(part, device))
                    with torch.set_grad_enabled(config.sees_rgb):
                        rgb = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                    real_rgb = losses.enhance_color(true_rgb, config.color_enhance)

                    # Discriminator first, on the detached picture
                    terms = {}
                    if config.adversarial:
                        terms["discriminator"] = losses.adversarial_loss(
                            judge(rgb.detach()), False
                        ) + losses.adversarial_loss(judge(real_rgb), True)
                        accelerator.backward(terms["discriminator"])
                        judge_optimizer.step()
                        judge_optimizer.zero_grad()

                    # Generator, eq. 9
                    terms["pixel"] = losses.pixel_loss(ab, true_ab, config.huber)
                    if config.psnr:
                        terms["psnr"] = losses.psnr_loss(rgb, true_rgb)
                    terms["colorfulness"] = losses.colorfulness_loss(rgb)
                    if perceptual is not None:
                        with accelerator.autocast():
                            terms["perceptual"] = perceptual(rgb, real_rgb)
                    if feature is not None:
                        with accelerator.autocast():
                            terms["feature"] = feature(rgb, true_rgb)
                    if config.adversarial:
                        with session.frozen(discriminator):
                            terms["adversarial"] = losses.adversarial_loss(discriminator(rgb), True)
                    loss = sum(
                        getattr(config, name) * term
                        for name, term in terms.items()
                        if name != "discriminator"
                    )
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(
                            model.parameters(), config.clip or math.inf
                        )
                    optimizer.step()
                    optimizer.zero_grad()
                terms["made_colorfulness"] = image_metrics.colorfulness(rgb.detach()).mean()
                report.add(step, terms, part.names)
            average.update(network, step)
            report.advance(norm)

            done, stopping = step + 1, stop.at(step + 1)
            saving = stopping or done % config.save_every == 0 or done == config.steps
            if saving or done % config.report_every == 0 or done == logger.FIRST:
                report.write(done, rate)
            if saving:
                save(done, batch.places)
            if stopping:
                break
    source.close()


def build(config: Config) -> tuple[ddcolor.DDColor, Spec]:
    """A new network, or the one in `config.weights`, with spectral norm where asked for."""
    if config.weights:
        network, spec = settings.start(config, ddcolor.NAME)
    else:
        network = registry.build(ddcolor.NAME, ddcolor.PRESETS[config.architecture])
        spec = ddcolor.spec(network.config)
        ddcolor.initialise(network)
        if config.backbone:
            path = pretrained_files.find(config.backbone, offline=config.offline)
            log.info("encoder: %s", pretrained.take(network.encoder, path, network.config.encoder))
        else:
            log.info("encoder: random start values (ImageNet's: --backbone NAME or FILE)")
    if config.spectral_norm:
        optimization.normalise(network.spectral_convolutions(), config.weights)
    asked = {
        "resolution": config.resolution or spec.resolution,
        "fade": spec.fade if config.fade is None else config.fade,
        "gain": spec.gain if config.gain is None else config.gain,
    }
    return network, replace(spec, **asked)


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return optimization.halving(step, (80_000, *range(120_000, config.steps + 1, 40_000)))


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
