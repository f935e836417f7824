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
    # The network in the box
    python trainers/train_ddcolor.py --preset nano --photos shard-*.tar --out runs/first
    python trainers/train_ddcolor.py --preset nano-last --photos shard-*.tar \\
        --weights runs/first/weights.safetensors --out runs/nano

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

from ..model_defs import ddcolor, registry
from ..model_defs.spec import Spec
from ..pipeline import color, engine, measure
from . import checkpoints, common, data, losses, reports, run, samples, starts, weights

log = logging.getLogger("train_ddcolor")


@dataclass
class Config(common.Settings):
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    out: Path = Path("runs/ddcolor")
    """Folder of the run."""
    architecture: str = "ddcolor-large"
    """Preset of the network: ddcolor-large, ddcolor-tiny, ddcolor-nano."""
    backbone: str | None = None
    """ImageNet weights of a ConvNeXt for the encoder, as in the paper: file, or convnext_large."""
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
    perceptual: float = 5.0
    adversarial: float = 1.0
    colorfulness: float = 0.5
    color_enhance: float = 1.2
    """Blends real pictures away from grey by this factor, for adversarial and perceptual terms
    (colour augmentation)."""
    discriminator_width: int = 64
    spectral_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        common.check_choice(self.weights, self.architecture, ddcolor.PRESETS)
        if self.weights and self.backbone:
            raise ValueError("weights and backbone both name a start for the encoder; give one.")
        if self.schedule not in ("halving", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected halving or cosine.")


_NANO = {
    "batch": 32,
    "smallest": 0.6,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "huber": 20.0,
    "adversarial": 0.0,
    "colorfulness": 0.0,
    "spectral_norm": False,
    "clip": 1.0,
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
    # The network in the box, in two runs: two CPU cores, photos of 160 pixels. Small squares first,
    # where a step costs a quarter and what is sky or grass can be seen as well. No discriminator:
    # it would cost half the steps.
    "nano": _NANO
    | {
        "architecture": "ddcolor-nano",
        "resolution": 128,
        "steps": 7_100,
        "crop": (64, 96, 128),
        "crop_until": (6_000, 6_900),
        "learning_rate": 1.5e-3,
        "warmup": 500,
    },
    "nano-last": _NANO
    | {
        "architecture": "",
        "resolution": 192,
        "fade": 3.0,
        "gain": 1.2,
        "steps": 8_800,
        "crop": (96, 128, 160),
        "crop_until": (7_000, 8_500),
        "learning_rate": 1.2e-3,
        "warmup": 300,
    },
}


def main(config: Config) -> None:
    """Train until `config.steps`, saving on the way.

    Raises:
        SystemExit: a loss is no number, a full disk; the message says what is kept.
        ValueError, OSError: photos or weights that cannot be used.
    """
    accelerator = run.accelerator(config)
    device = accelerator.device
    photos, held_out = data.hold_out(
        data.open_photos(config.photos, config.index, config.skip_licences, config.stream),
        config.held_out,
        config.seed,
        config.watch,
    )
    with accelerator.local_main_process_first():  # which downloads what is missing
        network, spec = build(config)
        network.to(device, memory_format=torch.channels_last).train()
        perceptual = run.perceptual(config, device)
    average = common.Average(network, config.average)
    discriminator = losses.PatchDiscriminator(config.discriminator_width).to(device)

    optimizer = torch.optim.AdamW(
        common.parameter_groups(network, config.weight_decay),
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
    run.introduce(accelerator, photos, network)

    model, judge, optimizer, judge_optimizer = accelerator.prepare(
        run.share_statistics(network, accelerator), discriminator, optimizer, judge_optimizer
    )
    photos_from = partial(
        data.batches,
        photos,
        batch=config.batch,
        seed=config.seed,
        smallest=config.smallest,
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
        colored = samples.automatic(engine.wrap(average.network, spec))
        samples.show(held_out, colored, report, config.out, step)

    def save(step: int, places: dict) -> None:
        checkpoints.refuse_infinite_weights(state, step)
        if accelerator.is_main_process:
            some = photos_from(size=lambda _: config.side(step - 1))
            common.calibrate(average.network, some, common.gray_seen(device))
            look(step)
            training = common.provenance(config, photos, step, report.seconds)
            facts = {key: getattr(spec, key) for key in ("resolution", "fade", "gain")}
            checkpoints.write_weights(config, average.network, ddcolor.NAME, training, facts)
        state.save(step, report.seconds, places)
        report.after_saving()

    with (
        reports.Report(accelerator, config.out, config.steps, begun) as report,
        run.Stop(accelerator, config.report_every) as stop,
    ):
        if config.weights and not begun.step and accelerator.is_main_process:
            look(0)
        for step in range(begun.step, config.steps):
            batch = report.next(source)
            rate = config.learning_rate * rate_factor(config, step)
            for group in (*optimizer.param_groups, *judge_optimizer.param_groups):
                group["lr"] = rate
            for part in batch.parts(config.accumulate):
                with accelerator.accumulate(model, judge):
                    # Forward: colour of the grey picture, joined with the true L
                    true_rgb = common.unit(part.pictures[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    ab = model(color.gray_rgb(L).contiguous())
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
                    terms["colorfulness"] = losses.colorfulness_loss(rgb)
                    if perceptual is not None:
                        with accelerator.autocast():
                            terms["perceptual"] = perceptual(rgb, real_rgb)
                    if config.adversarial:
                        with run.frozen(discriminator):
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
                terms["made_colorfulness"] = measure.colorfulness(rgb.detach()).mean()
                report.add(step, terms, part.names)
            average.update(network, step)
            report.advance(norm)

            done, stopping = step + 1, stop.at(step + 1)
            saving = stopping or done % config.save_every == 0 or done == config.steps
            if saving or done % config.report_every == 0 or done == reports.FIRST:
                report.write(done, rate)
            if saving:
                save(done, batch.places)
            if stopping:
                break
    source.close()


def build(config: Config) -> tuple[ddcolor.DDColor, Spec]:
    """A new network, or the one in `config.weights`, with spectral norm where asked for."""
    if config.weights:
        network, spec = common.start(config, ddcolor.NAME)
    else:
        network = registry.build(ddcolor.NAME, ddcolor.PRESETS[config.architecture])
        spec = ddcolor.spec(network.config)
        ddcolor.initialise(network)
        if config.backbone:
            path = weights.find(config.backbone, offline=config.offline)
            log.info("encoder: %s", starts.take(network.encoder, path, "convnext"))
        else:
            log.info("encoder: random start values (ImageNet's: --backbone convnext_large)")
    if config.spectral_norm:
        common.normalise(network.spectral_convolutions(), config.weights)
    asked = {
        "resolution": config.resolution or spec.resolution,
        "fade": spec.fade if config.fade is None else config.fade,
        "gain": spec.gain if config.gain is None else config.gain,
    }
    return network, replace(spec, **asked)


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return common.cosine(step, config.steps, config.warmup)
    return common.halving(step, (80_000, *range(120_000, config.steps + 1, 40_000)))


if __name__ == "__main__":
    sys.exit(common.script(main, Config, PRESETS, __doc__))
