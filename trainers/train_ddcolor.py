"""Train DDColor on your own photos.

    # The paper's settings
    python trainers/train_ddcolor.py --photos photos/ --out runs/mine
    # The network in the box
    python trainers/train_ddcolor.py --preset nano --photos shard-*.tar --out runs/nano
    # The same, installed
    colorist train ddcolor --preset nano --photos shard-*.tar --out runs/nano
    # From published weights
    colorist train ddcolor --preset finetune --start ddcolor_tiny.pth --photos photos/ --out tuned

Started again with the same --out a run goes on where it stopped. Result: OUT/weights.safetensors,
which every loader of this package opens; OUT/state.safetensors holds what a resume needs;
OUT/log.jsonl a line per report.

Objective (Kang et al. 2023, eq. 9): 0.1 pixel + 5 perceptual + 1 adversarial + 0.5 colourfulness.
The perceptual loss needs VGG-16-BN weights (--vgg FILE); without them it is off, as the log says.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ..model_defs import ddcolor, registry
from ..pipeline import color, measure
from . import common, losses
from .data import Photos, batches

log = logging.getLogger("train_ddcolor")


@dataclass
class Config:
    """Settings of one run; the defaults are the paper's (section 4.1)."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards."""
    out: Path = Path("runs/ddcolor")
    """Folder of the run."""
    architecture: str = "ddcolor-large"
    """Preset of the network: ddcolor-large, ddcolor-tiny, ddcolor-nano."""
    start: Path | None = None
    """Weights to start from: ours or published; its sizes win over `architecture`."""
    vgg: Path | None = None
    """VGG-16-BN weights for the perceptual loss."""
    resolution: int = 512
    """Working resolution that the result asks for when it colours photos."""
    licence: str = ""
    """Licence of the result, kept in its metadata."""
    index: Path | None = None
    """CSV with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    steps: int = 400_000
    batch: int = 16
    crop: tuple[int, ...] = (256,)
    """Side of the training square in pixels; several sides are taken in turn, smallest first."""
    crop_until: tuple[int, ...] = ()
    """Step at which each side but the last gives way to the next; not looked at with one side."""
    smallest: float = 1.0
    """Smallest crop, as part of the photo's shorter side.

    1 = the whole side (the paper resizes whole photos).
    """
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
    """Blends real pictures away from grey by this factor, for adversarial and perceptual terms."""
    discriminator_width: int = 64
    spectral_norm: bool = True
    average: float = 0.999
    """Decay of the weight average that is saved."""
    clip: float = 0.0
    """Largest gradient norm; 0 = no limit."""
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: str = "float32"
    """float32, or bfloat16 for the network's forward pass."""
    report_every: int = 100
    save_every: int = 1000

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        common.check_crops(self.crop, self.crop_until)
        if not self.start and self.architecture not in ddcolor.PRESETS:
            raise ValueError(
                f"architecture is '{self.architecture}'; expected one of "
                f"{', '.join(ddcolor.PRESETS)}, or weights to start from (--start FILE)."
            )
        if self.schedule not in ("halving", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected halving or cosine.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is '{self.dtype}'; expected float32 or bfloat16.")


PRESETS = {
    "paper": {},
    "finetune": {
        "architecture": "",  # that of --start
        "steps": 20_000,
        "learning_rate": 2e-5,
        "batch": 4,
        "schedule": "cosine",
        "warmup": 500,
    },
    # The network in the box: two CPU cores, photos of 160 pixels. Small squares first, where a step
    # costs a quarter and what is sky or grass can be seen as well. No discriminator: it would cost
    # half the steps.
    "nano": {
        "architecture": "ddcolor-nano",
        "resolution": 128,
        "steps": 7_100,
        "batch": 32,
        "crop": (64, 96, 128),
        "crop_until": (6_000, 6_900),
        "smallest": 0.6,
        "learning_rate": 1.5e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup": 500,
        "huber": 20.0,
        "adversarial": 0.0,
        "colorfulness": 0.0,
        "spectral_norm": False,
        "clip": 1.0,
    },
}


def main(config: Config) -> None:
    """Train until `config.steps`, saving on the way."""
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    config.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(config.photos, config.index, config.skip_licences)
    network, architecture = build(config)
    network.to(device, memory_format=torch.channels_last).train()
    discriminator = (
        losses.PatchDiscriminator(config.discriminator_width).to(device)
        if config.adversarial
        else None
    )
    perceptual = (
        losses.PerceptualLoss(config.vgg).to(device) if config.vgg and config.perceptual else None
    )
    if perceptual is None:
        log.info("perceptual loss: off (give VGG-16-BN weights with --vgg to switch it on)")
    average = common.Average(network, config.average)

    networks = {"network": network, "average": average.network}
    optimizers = {
        "network": torch.optim.AdamW(
            common.parameter_groups(network, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
        )
    }
    if discriminator is not None:
        networks["discriminator"] = discriminator
        optimizers["discriminator"] = torch.optim.Adam(
            discriminator.parameters(), lr=config.learning_rate, betas=(0.9, 0.99)
        )
    state_file, step, seconds = config.out / "state.safetensors", 0, 0.0
    if state_file.exists():
        info = common.load_state(state_file, networks, optimizers)
        step, seconds = info["step"], info["seconds"]
        log.info("resumed %s at step %d", config.out, step)
    log.info("%d photos, %.2f M parameters, %s", len(photos), common.count(network) / 1e6, device)

    def photos_from(start: int) -> Iterator[torch.Tensor]:
        return batches(
            photos,
            size=lambda at: common.crop_at(config.crop, config.crop_until, at),
            batch=config.batch,
            seed=config.seed,
            smallest=config.smallest,
            start=start,
        )

    def save() -> None:
        info = {"config": common.jsonable(asdict(config)), "step": step, "seconds": report.seconds}
        common.calibrate(average.network, photos_from(step), common.gray_seen(device))
        training = {"photos": len(photos), "steps": step, "seconds": round(report.seconds)}
        common.export(
            config.out / "weights.safetensors",
            average.network,
            {
                "architecture": ddcolor.NAME,
                "config": asdict(architecture),
                "training": training | {"config": common.jsonable(asdict(config))},
                "licence": config.licence,
                "spec": {"resolution": config.resolution},
            },
        )
        common.save_state(state_file, networks, optimizers, info)

    source = photos_from(step)
    report = common.Report(config.out / "log.jsonl", log, seconds)
    for true_rgb in source:
        if step >= config.steps:
            break
        factor = rate_factor(config, step)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor

        # Forward: colour of the grey picture, joined with the true L
        true_rgb = true_rgb.to(device)
        true_lab = color.rgb_to_lab(true_rgb)
        L, true_ab = true_lab[:, :1], true_lab[:, 1:]
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            ab = network(color.gray_rgb(L).contiguous())
        ab = ab.float()
        rgb = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
        real_rgb = losses.enhance_color(true_rgb, config.color_enhance)

        # Discriminator first, on the detached picture
        terms = {}
        if discriminator is not None:
            made, real = discriminator(rgb.detach()), discriminator(real_rgb)
            terms["discriminator"] = losses.adversarial_loss(made, False) + losses.adversarial_loss(
                real, True
            )
            optimizers["discriminator"].zero_grad()
            terms["discriminator"].backward()
            optimizers["discriminator"].step()

        # Generator, eq. 9
        terms["pixel"] = losses.pixel_loss(ab, true_ab, config.huber)
        terms["colorfulness"] = losses.colorfulness_loss(rgb)
        if perceptual is not None:
            terms["perceptual"] = perceptual(rgb, real_rgb)
        if discriminator is not None:
            discriminator.requires_grad_(False)
            terms["adversarial"] = losses.adversarial_loss(discriminator(rgb), True)
            discriminator.requires_grad_(True)
        loss = sum(
            getattr(config, name) * term for name, term in terms.items() if name != "discriminator"
        )
        common.refuse_infinite(loss, step, state_file)
        optimizers["network"].zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip or math.inf)
        optimizers["network"].step()
        average.update(network, step)
        step += 1

        terms |= {"gradient": norm, "made_colorfulness": measure.colorfulness(rgb.detach()).mean()}
        report.add(terms)
        if step % config.report_every == 0:
            report.write(step, config.learning_rate * factor)
        if step % config.save_every == 0 or step == config.steps:
            save()
    source.close()


def build(config: Config) -> tuple[ddcolor.DDColor, ddcolor.Config]:
    """A new network, or the one in `config.start`, with spectral norm where asked for."""
    if config.start:
        network, spec, _ = registry.load(config.start)
        if spec.architecture != ddcolor.NAME:
            raise ValueError(
                f"start is {config.start}, a {spec.architecture} network; expected one of the "
                f"architecture {ddcolor.NAME}."
            )
    else:
        network = registry.build(ddcolor.NAME, ddcolor.PRESETS[config.architecture])
        ddcolor.initialise(network)
    if config.spectral_norm:
        for convolution in network.spectral_convolutions():
            spectral_norm(convolution)
    return network, network.config


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return common.cosine(step, config.steps, config.warmup)
    return common.halving(step, (80_000, *range(120_000, config.steps + 1, 40_000)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(common.parse(Config, PRESETS, doc=__doc__))
