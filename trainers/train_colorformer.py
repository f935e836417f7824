"""Train ColorFormer on your own photos.

    # The paper's settings, on one GPU; ImageNet weights for its encoder and its perceptual loss
    python trainers/train_colorformer.py --photos photos/ --backbone swin_tiny --vgg vgg16_bn \\
        --out runs/mine
    # With the paper's memory, built with the encoder that the training starts from
    python trainers/build_color_memory.py --model colorformer --backbone swin_tiny --fresh \\
        --photos photos/ --out memory.safetensors
    python trainers/train_colorformer.py --photos photos/ --backbone swin_tiny --vgg vgg16_bn \\
        --memory memory.safetensors --out runs/mine
    # The same recipe on a card of 8 GB; on four GPUs; on shards of a web server
    python trainers/train_colorformer.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_colorformer.py --photos photos/ \\
        --out runs/mine
    python trainers/train_colorformer.py --photos 'https://host/photos-{000..099}.tar' \\
        --out runs/mine
    # Published or own weights, your photos
    colorist train colorformer --preset finetune --weights net_g_200000.pth --photos photos/ \\
        --out tuned
    # The bundled network: a memory of its ImageNet encoder, the decoder with both as they are, then
    # everything. --backbone also accepts a trained ddcolor-nano, for its encoder
    python trainers/build_color_memory.py --model colorformer-nano --backbone efficientnet_lite1 \\
        --fresh --entries 256 --photos shard-*.tar --out runs/memory.safetensors
    python trainers/train_colorformer.py --preset nano --backbone efficientnet_lite1 \\
        --memory runs/memory.safetensors --photos shard-*.tar --out runs/first
    python trainers/train_colorformer.py --preset nano-last --photos shard-*.tar \\
        --weights runs/first/weights.safetensors --out runs/nano

Started again with the same --out a run goes on where it stopped, bit for bit on a CPU. Result:
OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows photos that
are not trained on, OUT/tensorboard and OUT/log.jsonl the losses, OUT/state.safetensors holds what
a resume needs. Ctrl-C saves and stops.

Objective (Ji et al. 2022, eq. 11): 0.1 content + 5 perceptual + 1 adversarial. The adversarial term
is the published program's, a binary cross-entropy, where eq. 10 has an L1 distance. The perceptual
loss needs VGG-16-BN weights (--vgg FILE or vgg16_bn); without them it is off, as the log says.
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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import image as image_metrics
from ..model_defs import colorformer, registry
from ..model_defs.spec import Entries, Spec
from ..ops import color
from ..pipeline import loader
from ..pipeline.color_memory import memory
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

log = logging.getLogger("train_colorformer")


@dataclass
class Config(settings.Settings):
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    out: Path = Path("runs/colorformer")
    """Folder of the run."""
    architecture: str = "colorformer"
    """Preset of the network: colorformer, colorformer-nano."""
    backbone: str | None = None
    """ImageNet weights for the encoder, as in the paper (section 3.4): a file, or the name of a
    Swin-T (swin_tiny) or an EfficientNet-Lite (efficientnet_lite1), as the architecture has it."""
    memory: Path | None = None
    """Color memory (build_color_memory.py --fresh; section 3.4); without it, and without one in
    `weights`, the memory is random numbers, which the paper finds nearly as good (table 2)."""
    freeze_encoder: bool = False
    """Freeze all stages of the encoder, so that the memory's keys stay features of this encoder."""
    frozen_stages: int = 0
    """Stages of the encoder, from the input on, that keep their weights; with all of them frozen
    (7 of an EfficientNet-Lite, 4 of a GLH-Transformer) only the decoder is trained."""
    encoder_rate: float = 1.0
    """Factor on the learning rate of the encoder."""
    damage: float = 0.0
    """Part of the photos whose gray input is damaged as old prints and scans are: grain, blur,
    scratches, faded tones, borders, ... (trainers/data/damage.py); the colors of the photo stay."""
    recolor: float = 0.0
    """Part of the batches in which memory and photos are recoloured alike: the network then learns
    to take its colours from the memory, so that another one changes them. 0 in the paper."""
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
    steps: int = 200_000
    batch: int = 16
    """Photos in a step, over all processes."""
    crop: tuple[int, ...] = (256,)
    """Side of the training square in pixels; several sides are taken in turn, smallest first."""
    smallest: float = 1.0
    """Smallest crop, as part of the photo's shorter side; 1 = the whole side (the paper resizes
    whole photos)."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    """0 makes AdamW the paper's Adam."""
    schedule: str = "halving"
    """halving: at 80k, 120k and 160k steps (paper); cosine: down to zero at `steps`."""
    warmup: int = 0
    """Steps of linear rise, cosine only."""
    pixel: float = 0.1
    """Weight of the content loss (eq. 8)."""
    huber: float = 0.0
    """Error in ab units below which the content loss is quadratic; 0 = L1 throughout (paper)."""
    psnr: float = 0.0
    """Weight of -PSNR / 10 of the result, in RGB."""
    perceptual: float = 5.0
    """Weight of the perceptual loss (eq. 9)."""
    adversarial: float = 1.0
    """Weight of the adversarial loss (eq. 10)."""
    colorfulness: float = 0.0
    """Weight of the colorfulness loss of DDColor (eq. 8 there)."""
    feature: float = 0.0
    """Weight of the feature loss: distance of the maps that an unchanged ImageNet encoder
    (`feature_network`) makes of the result and of the photo."""
    feature_network: str | None = None
    """EfficientNet-Lite of the feature loss: file, or a name such as efficientnet_lite1."""
    discriminator_width: int = 64
    """Channels of its first block; the published program's."""
    spectral_norm: bool = True
    """Of the decoder's convolutions, as the published program."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.check_choice(self.weights, self.architecture, colorformer.PRESETS)
        if self.weights and self.backbone:
            raise ValueError("weights and backbone both name a start for the encoder; give one.")
        settings.check_feature(self.feature, self.feature_network)
        if self.schedule not in ("halving", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected halving or cosine.")

    @property
    def sees_rgb(self) -> bool:
        """True if a loss needs the gradient of the result in RGB."""
        perceptual = self.perceptual if self.vgg else 0
        return any((self.psnr, perceptual, self.adversarial, self.colorfulness, self.feature))


_NANO = {
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
    # The bundled network, in two runs on a CPU. First the decoder, on an encoder that knows things
    # from ImageNet (--backbone) and its memory (--memory).
    "nano": _NANO
    | {
        "architecture": "colorformer-nano",
        "resolution": 192,
        "freeze_encoder": True,
        "steps": 6_000,
        "crop": (128,),
        "learning_rate": 1e-3,
        "warmup": 100,
    },
    # Then the encoder too, on larger squares; its stages up to 1/8 would double the time. It moves
    # little, so that keys which the stored projection makes of its features still mean to the
    # decoder what the memory's keys do.
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
    """Train until `config.steps`, saving on the way.

    Raises:
        SystemExit: a loss is no number, a full disk; the message says what is kept.
        ValueError, OSError: photos, weights or a memory that cannot be used.
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
    stages = len(network.encoder.stages) if config.freeze_encoder else config.frozen_stages
    optimization.freeze(network.encoder, stages)
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
        Training(distributed.share_statistics(network, accelerator)),
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

    def look(step: int) -> None:
        colored = sample_grid.automatic(loader.wrap(average.network, spec))
        sample_grid.show(held_out, colored, report, config.out, step)

    def save(step: int, places: dict) -> None:
        checkpoints.refuse_infinite_weights(state, step)
        if accelerator.is_main_process:
            some = photos_from(size=lambda _: config.side(step - 1))
            ema.calibrate(average.network, some, inputs.gray_seen(device))
            look(step)
            training = provenance.provenance(config, photos, step, report.seconds)
            facts = {key: getattr(spec, key) for key in ("resolution", "fade", "gain")}
            checkpoints.write_weights(config, average.network, colorformer.NAME, training, facts)
        state.save(step, report.seconds, places)
        report.after_saving()

    with (
        logger.Report(accelerator, config.out, config.steps, begun) as report,
        session.Stop(accelerator, config.report_every) as stop,
    ):
        if config.weights and not begun.step and accelerator.is_main_process:
            look(0)
        for step in range(begun.step, config.steps):
            batch = report.next(source)
            rate = config.learning_rate * rate_factor(config, step)
            for group in (*optimizer.param_groups, *judge_optimizer.param_groups):
                group["lr"] = rate * group.get("factor", 1.0)
            random = optimization.generator(config.seed, step)
            recoloring = (
                draw_recoloring(network.memory, random)
                if torch.rand((), generator=random) < config.recolor
                else None
            )
            for part in batch.parts(config.accumulate):
                with accelerator.accumulate(model, judge):
                    # Forward: colour of the grey picture, joined with the true L
                    true_rgb = inputs.unit(part.pictures[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    if teacher is not None:
                        with accelerator.autocast():
                            true_ab = session.distilled(true_ab, L, teacher, config.teacher_share)
                    ab, true_ab = model(inputs.gray_input(part, device), true_ab, recoloring)
                    with torch.set_grad_enabled(config.sees_rgb):
                        rgb = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                    if recoloring is not None or teacher is not None:
                        true_rgb = color.lab_to_rgb(torch.cat([L, true_ab], dim=1)).clamp(0, 1)

                    # Discriminator first, on the detached picture
                    terms = {}
                    if config.adversarial:
                        terms["discriminator"] = losses.adversarial_loss(
                            judge(rgb.detach()), False
                        ) + losses.adversarial_loss(judge(true_rgb), True)
                        accelerator.backward(terms["discriminator"])
                        judge_optimizer.step()
                        judge_optimizer.zero_grad()

                    # Generator, eq. 11
                    terms["pixel"] = losses.pixel_loss(ab, true_ab, config.huber)
                    if config.psnr:
                        terms["psnr"] = losses.psnr_loss(rgb, true_rgb)
                    if perceptual is not None:
                        with accelerator.autocast():
                            terms["perceptual"] = perceptual(rgb, true_rgb)
                    if feature is not None:
                        with accelerator.autocast():
                            terms["feature"] = feature(rgb, true_rgb)
                    if config.colorfulness:
                        terms["colorfulness"] = losses.colorfulness_loss(rgb)
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


def build(config: Config) -> tuple[colorformer.ColorFormer, Spec]:
    """A new network, or the one in `config.weights`; its memory, spectral norm where asked for."""
    if config.weights:
        network, spec = settings.start(config, colorformer.NAME)
    else:
        network = registry.build(colorformer.NAME, colorformer.PRESETS[config.architecture])
        spec = colorformer.spec(network.config)
        nn.init.normal_(network.memory.keys)
        nn.init.normal_(network.memory.values, std=30)  # about as wide as the colours of photos
        if config.backbone:
            path = pretrained_files.find(config.backbone, offline=config.offline)
            kind = pretrained.COLORFORMER[network.config.encoder]
            log.info("encoder: %s", pretrained.take(network.encoder, path, kind))
        else:
            log.info("encoder: random start values (ImageNet's: --backbone NAME or FILE)")
    if config.memory:
        take_memory(network, memory.load(config.memory))
    if config.spectral_norm:
        optimization.normalise(network.spectral_convolutions(), config.weights)
    asked = {
        "resolution": config.resolution or spec.resolution,
        "fade": spec.fade if config.fade is None else config.fade,
        "gain": spec.gain if config.gain is None else config.gain,
    }
    return network, replace(spec, **asked)


def take_memory(network: colorformer.ColorFormer, new: memory.ColorMemory) -> None:
    """Put a color memory into `network`, whose number of entries follows it.

    Raises:
        ValueError: keys of another width, another number of groups, another encoder's keys.
    """
    sizes = colorformer.spec(network.config).memory
    memory.refuse_unless_fits(new, sizes, memory.fingerprint(network.encoder), "the network")
    network.config = replace(network.config, entries=len(new.keys))
    network.memory.keys, network.memory.values = new.keys, new.values
    if network.config.projection and new.projection:
        network.memory.components, network.memory.offset = new.projection


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return optimization.halving(step, (80_000, 120_000, 160_000))


# --- Recolouring -----------------------------------------------------------------------------


class Recoloring(NamedTuple):
    """One random change of all colours, for the photos of a batch and the memory alike."""

    kept: Tensor
    """(m',): numbers of the entries that stay."""
    change: Tensor
    """(2, 2): a turn in hue, times a stretch in chroma."""
    shifts: Tensor
    """(n, m', 2): what each colour is shifted by, in ab units."""
    direction: Tensor
    """(k, 2): entries are also shifted by their keys times this, alike for like keys."""


def draw_recoloring(module: colorformer.ColorMemoryModule, random: torch.Generator) -> Recoloring:
    """A recolouring for this memory, on its device."""
    normal = partial(torch.randn, generator=random)
    groups, entries, _ = module.values.shape
    width = module.keys.shape[1]
    least = max(1, entries // 8)
    count = int(torch.randint(least, entries + 1, (), generator=random))
    kept = torch.randperm(entries, generator=random)[:count]
    turn, stretch = 0.5 * normal(()), 0.6 + 0.8 * torch.rand((), generator=random)
    cos, sin = stretch * turn.cos(), stretch * turn.sin()
    drawn = Recoloring(
        kept,
        change=torch.stack([cos, -sin, sin, cos]).view(2, 2),
        shifts=8 * normal(2) + 5 * normal(groups, count, 2),
        direction=12 * normal(width, 2) / width**0.5,
    )
    return Recoloring(*(tensor.to(module.values.device) for tensor in drawn))


@torch.no_grad()
def recolored(
    ab: Tensor,
    encoded: colorformer.Encoded,
    module: colorformer.ColorMemoryModule,
    recoloring: Recoloring,
) -> tuple[Tensor, Entries]:
    """Recolour photos (B, 2, H, W) and memory alike; what the network has to answer, and to what.

    Some entries are left out. All colours are turned in hue and stretched in chroma by the same
    map, and each entry is shifted by a colour of its own, alike for like keys. Where the photos
    attend to an entry, they are shifted with it: ab' = M ab + W sum_l lambda_l delta_l, with W and
    lambda of eq. 4 and 5.
    """
    kept, change, shifts, direction = recoloring
    keys, values = module.keys[kept], module.values[:, kept]
    shift = keys / keys.std().clamp_min(1e-6) @ direction + shifts
    fused = torch.einsum("Bn,nmc->Bmc", encoded.weights.float(), shift)
    features = encoded.features.float().permute(0, 2, 3, 1)
    moved = module.attend(features, fused, keys).movedim(-1, 1)
    moved = F.interpolate(moved, size=ab.shape[2:], mode="bilinear")
    return torch.einsum("dc,bchw->bdhw", change, ab) + moved, Entries(
        keys, values @ change.T + shift
    )


class Training(nn.Module):
    """What a step computes with the network, as one forward pass."""

    def __init__(self, network: colorformer.ColorFormer):
        super().__init__()
        self.network = network

    def forward(
        self, gray_rgb: Tensor, true_ab: Tensor, recoloring: Recoloring | None
    ) -> tuple[Tensor, Tensor]:
        """Return predicted ab and the ab that it should be.

        Args:
            gray_rgb: input of the network, (B, 3, H, W) in 0..1.
            true_ab: ab of the photos, (B, 2, H, W).
            recoloring: change of photos and memory, if any.
        """
        encoded, entries = self.network.encode(gray_rgb), None
        if recoloring is not None:
            with torch.autocast(gray_rgb.device.type, enabled=False):  # the truth is float32
                true_ab, entries = recolored(true_ab, encoded, self.network.memory, recoloring)
        return self.network.decode(encoded, entries), true_ab


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
