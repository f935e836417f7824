"""Train the exemplar colorizer on your own photos.

    # The paper's settings: pairs first, then the network on frozen ImageNet features of yours
    python trainers/build_reference_pairs.py --photos photos/ --out pairs.json
    python trainers/train_exemplar.py --photos photos/ --pairs pairs.json \\
        --vgg19 vgg19.pth --out runs/mine
    # The small network in the box: its backbone starts from the encoder of a small DDColor
    python trainers/train_exemplar.py --preset nano --photos shard-*.tar --pairs pairs.json \\
        --encoder ddcolor-nano --out runs/first
    python trainers/train_exemplar.py --preset nano-last --photos shard-*.tar --pairs pairs.json \\
        --start runs/first/weights.safetensors --out runs/nano
    # Published or own weights, your photos
    python trainers/train_exemplar.py --preset finetune --start exemplar-nano --photos photos/ \\
        --pairs pairs.json --out runs/tuned

Started again with the same --out a run goes on where it stopped. Result: OUT/weights.safetensors,
which every loader of this package opens; OUT/state.safetensors holds what a resume needs;
OUT/log.jsonl a line per report.

Objective (Gorriz Blanch et al. 2021, eq. 4), summed over the scales: 100 smooth-L1 + 2 histogram
+ 50 total variation + 1 adversarial (LS-GAN, a discriminator for each scale).
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_defs import checkpoint, exemplar, registry
from ..pipeline import color, models
from . import common, losses
from .data import SHARES, Photos, check_shares, load_pairs, pair_batches, recolor_alike

log = logging.getLogger("train_exemplar")
RIGHT = 6.0, 0.35  # a colour counts as right when its error is below 6 ab units + 0.35 true chroma


@dataclass
class Config:
    """Settings of one run; the defaults are the paper's (sections 3.3, 4.1)."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards."""
    out: Path = Path("runs/exemplar")
    """Folder of the run."""
    architecture: str = "exemplar-vgg19"
    """Preset of the network: exemplar-vgg19, exemplar-nano."""
    attention: tuple[str, ...] = ()
    """axial or standard at 1/4, 1/8, 1/16; () = as the preset."""
    second_kv: str = ""
    """reference or fused, of axial attention; "" = as the preset."""
    start: Path | None = None
    """Weights to start from: file, boxed or installed name; its sizes win over `architecture`."""
    vgg19: Path | None = None
    """ImageNet weights of VGG-19 for the backbone (torchvision's names)."""
    encoder: Path | None = None
    """DDColor network whose encoder the small backbone starts from: file, boxed, installed name."""
    freeze_backbone: bool = True
    """Keep the backbone as it is."""
    pairs: Path | None = None
    """Table of retrieved references (build_reference_pairs.py)."""
    shares: tuple[float, ...] = tuple(SHARES.values())
    """How often a reference is the best retrieved, one of five, any other photo, another view."""
    recolor: float = 0.0
    """Part of the pairs in which both photos are recoloured alike: the colours then are in the
    reference and nowhere else. 0 in the paper."""
    resolution: int = 224
    """Working resolution that the result asks for when it colours photos."""
    licence: str = ""
    """Licence of the result, kept in its metadata."""
    index: Path | None = None
    """CSV with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    steps: int = 844_000
    """30 epochs of 225,000 pairs."""
    batch: int = 8
    crop: tuple[int, ...] = (224,)
    """Side of the training square in pixels; several sides are taken in turn, smallest first."""
    crop_until: tuple[int, ...] = ()
    """Step at which each side but the last gives way to the next; not looked at with one side."""
    smallest: float = 1.0
    """Smallest crop, as part of the photo's shorter side."""
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    schedule: str = "constant"
    """constant (paper), or cosine: down to zero at `steps`."""
    warmup: int = 0
    """Steps of linear rise, cosine only."""
    pixel: float = 100.0
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic; 0 = smooth-L1 of values in -1..1,
    which is half the squared error throughout (paper)."""
    histogram: float = 2.0
    variation: float = 50.0
    adversarial: float = 1.0
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
        check_shares(self.shares, self.pairs is not None)
        if not self.start and self.architecture not in exemplar.PRESETS:
            raise ValueError(
                f"architecture is '{self.architecture}'; expected one of "
                f"{', '.join(exemplar.PRESETS)}, or weights to start from (--start FILE)."
            )
        if self.adversarial and min(self.crop) < 64:
            raise ValueError(
                f"crop is {self.crop}; the discriminators need 64 pixels or more. Take larger "
                "crops, or --adversarial 0."
            )
        begun = [self.vgg19, self.encoder, self.attention, self.second_kv]
        if self.start and any(begun):
            raise ValueError(
                "start names weights, which vgg19, encoder, attention and second_kv would change; "
                "give the one or the others."
            )
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected constant or cosine.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is '{self.dtype}'; expected float32 or bfloat16.")


_NANO = {
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
PRESETS = {
    "paper": {},
    "finetune": {
        "architecture": "",  # that of --start
        "steps": 20_000,
        "learning_rate": 2e-5,
        "schedule": "cosine",
        "warmup": 500,
    },
    # The network in the box, in two runs: two CPU cores, photos of 160 pixels. Other views of one
    # photo teach to find, retrieved photos what to do where nothing is to be found.
    "nano": _NANO
    | {
        "architecture": "exemplar-nano",
        "steps": 9_000,
        "crop": (64, 96),
        "crop_until": (4_500,),
        "learning_rate": 1e-3,
        "warmup": 300,
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
    """Train until `config.steps`, saving on the way."""
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    config.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(config.photos, config.index, config.skip_licences)
    pairs = load_pairs(config.pairs, photos) if config.pairs else None
    network = build(config).to(device, memory_format=torch.channels_last).train()
    network.backbone.requires_grad_(not config.freeze_backbone)
    scales = len(network.heads)
    discriminators = discriminators_for(config, network.config.finest).to(device)
    average = common.Average(network, config.average)

    networks = {"network": network, "average": average.network, "discriminators": discriminators}
    optimizers = {
        "network": torch.optim.AdamW(
            common.parameter_groups(network, config.weight_decay), lr=config.learning_rate
        )
    }
    if config.adversarial:
        optimizers["discriminators"] = torch.optim.Adam(
            discriminators.parameters(), lr=config.learning_rate
        )
    state_file, step, seconds = config.out / "state.safetensors", 0, 0.0
    if state_file.exists():
        info = common.load_state(state_file, networks, optimizers)
        step, seconds = info["step"], info["seconds"]
        log.info("resumed %s at step %d", config.out, step)
    log.info("%d photos, %.2f M parameters, %s", len(photos), common.count(network) / 1e6, device)

    def pairs_from(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return pair_batches(
            photos,
            size=lambda at: common.crop_at(config.crop, config.crop_until, at),
            batch=config.batch,
            seed=config.seed,
            pairs=pairs,
            shares=config.shares,
            smallest=config.smallest,
            start=start,
        )

    def save() -> None:
        info = {"config": common.jsonable(asdict(config)), "step": step, "seconds": report.seconds}
        common.calibrate(average.network, pairs_from(step), partial(seen, device=device))
        fit_confidence(average.network, pairs_from(step), device)
        training = {"photos": len(photos), "steps": step, "seconds": round(report.seconds)}
        common.export(
            config.out / "weights.safetensors",
            average.network,
            {
                "architecture": exemplar.NAME,
                "config": asdict(average.network.config),
                "training": training | {"config": common.jsonable(asdict(config))},
                "licence": config.licence,
                "spec": {"resolution": config.resolution},
            },
        )
        common.save_state(state_file, networks, optimizers, info)

    source = pairs_from(step)
    report = common.Report(config.out / "log.jsonl", log, seconds)
    for pair in source:
        if step >= config.steps:
            break
        factor = rate_factor(config, step)
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor

        # Forward: the target's L and the reference, in -1..1
        target, reference = (lab_norm(rgb.to(device)) for rgb in pair)
        L, true_ab, reference_ab = target[:, :1], target[:, 1:], reference[:, 1:]
        if config.recolor:
            true_ab, reference_ab = recolor_alike(
                exemplar.AB * true_ab, exemplar.AB * reference_ab, which=config.recolor
            )
            true_ab, reference_ab = true_ab / exemplar.AB, reference_ab / exemplar.AB
        reference = torch.cat([reference[:, :1], reference_ab], dim=1)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            made = [ab.float() for ab in network(L.expand(-1, 3, -1, -1), reference)]
        skipped = round(math.log2(L.shape[-1] / made[0].shape[-1]))  # 1 without a full-size head
        true = losses.pyramid(torch.cat([L, true_ab], dim=1), skipped + scales)[skipped:]
        wanted = losses.pyramid(reference_ab, skipped + scales)[skipped:]

        # Discriminators first, on the detached predictions
        terms = {}
        if config.adversarial:
            real_and_made = [
                (judge(lab), judge(torch.cat([lab[:, :1], ab.detach()], dim=1)))
                for judge, lab, ab in zip(discriminators, true, made, strict=True)
            ]
            terms["discriminators"] = 0.5 * sum(
                losses.least_squares_loss(real, True) + losses.least_squares_loss(fake, False)
                for real, fake in real_and_made
            )
            optimizers["discriminators"].zero_grad()
            terms["discriminators"].backward()
            optimizers["discriminators"].step()

        # Generator, eq. 4
        terms["pixel"] = sum(
            losses.pixel_loss(exemplar.AB * ab, exemplar.AB * lab[:, 1:], config.huber)
            if config.huber
            else losses.smooth_l1_lab(ab, lab[:, 1:])
            for ab, lab in zip(made, true, strict=True)
        )
        if config.histogram:
            terms["histogram"] = sum(map(losses.histogram_loss, made, wanted))
        if config.variation:
            terms["variation"] = sum(map(losses.total_variation, made))
        if config.adversarial:
            discriminators.requires_grad_(False)
            terms["adversarial"] = sum(
                losses.least_squares_loss(judge(torch.cat([lab[:, :1], ab], dim=1)), True)
                for judge, lab, ab in zip(discriminators, true, made, strict=True)
            )
            discriminators.requires_grad_(True)
        loss = sum(
            getattr(config, name) * term for name, term in terms.items() if name != "discriminators"
        )
        common.refuse_infinite(loss, step, state_file)
        optimizers["network"].zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip or math.inf)
        optimizers["network"].step()
        average.update(network, step)
        step += 1

        terms |= {"gradient": norm, "chroma": exemplar.AB * made[0].detach().norm(dim=1).mean()}
        report.add(terms)
        if step % config.report_every == 0:
            report.write(step, config.learning_rate * factor)
        if step % config.save_every == 0 or step == config.steps:
            save()
    source.close()


def seen(pair: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """What the network takes of photos: the target's L three times, the reference."""
    target, reference = (lab_norm(rgb.to(device)) for rgb in pair)
    return target[:, :1].expand(-1, 3, -1, -1), reference


@torch.no_grad()
def fit_confidence(
    network: exemplar.Exemplar,
    source: Iterator[tuple[Tensor, Tensor]],
    device: torch.device,
    batches: int = 24,
) -> None:
    """Fit the weights of `surety.confidence` by logistic regression, in place.

    The photos are those of the training, in their own colours. What counts as right is RIGHT.

    Args:
        source: generator of pairs; closed in the end.
        batches: how many pairs of it to look at, in batches.
    """
    clues, right = [], []
    with contextlib.closing(source):
        for pair in itertools.islice(source, batches):
            target, reference = seen(pair, device)
            evidence = network.read([reference], target.shape[2:])
            ab, sure, facts = network.answer(target, evidence)
            true = exemplar.AB * lab_norm(pair[0].to(device))[:, 1:]
            error = (F.interpolate(ab, size=true.shape[2:], mode="bilinear") - true).norm(dim=1)
            allowed = RIGHT[0] + RIGHT[1] * true.norm(dim=1)
            excess = F.adaptive_avg_pool2d((error - allowed)[:, None], sure.shape[2:])
            clues.append(facts.movedim(1, -1).flatten(0, -2).double().cpu())
            right.append((excess < 0).double().flatten().cpu())
    x, y = torch.cat(clues), torch.cat(right)
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    x = torch.cat([torch.ones(len(x), 1).double(), (x - mean) / deviation], dim=1)
    w = torch.zeros(x.shape[1]).double()
    for _ in range(20):  # Newton's method, with a little ridge
        p = (x @ w).sigmoid()
        curvature = (x * (p * (1 - p))[:, None]).mT @ x / len(x) + 1e-4 * torch.eye(len(w)).double()
        w = w + torch.linalg.solve(curvature, x.mT @ (y - p) / len(x) - 1e-4 * w)
    slopes = w[1:] / deviation
    weights = [float(w[0] - (slopes * mean).sum()), *slopes.tolist()]
    network.config = replace(network.config, confidence=tuple(round(v, 5) for v in weights))


def lab_norm(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1 -> L / 50 - 1, a / 110, b / 110."""
    lab = color.rgb_to_lab(rgb)
    return torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / exemplar.AB], dim=1)


def build(config: Config) -> exemplar.Exemplar:
    """A new network, or the one that `config.start` names; its backbone as the settings say."""
    if config.start:
        network, spec, _ = registry.load(models.locate(config.start))
        if spec.architecture != exemplar.NAME:
            raise ValueError(
                f"start is {config.start}, a {spec.architecture} network; expected one of the "
                f"architecture {exemplar.NAME}."
            )
        return network
    changes = {"attention": config.attention, "second_kv": config.second_kv}
    known = asdict(exemplar.PRESETS[config.architecture]) | {k: v for k, v in changes.items() if v}
    network = registry.build(exemplar.NAME, exemplar.Config(**known))
    exemplar.initialise(network)
    if config.vgg19:
        take_vgg19(network, config.vgg19)
    elif config.freeze_backbone:
        raise ValueError(
            "the backbone is frozen but has only start values: give ImageNet weights "
            "(--vgg19 FILE), weights to start from (--start FILE), or --no-freeze-backbone."
        )
    if config.encoder:
        take_encoder(network, config.encoder)
    return network


def take_vgg19(network: exemplar.Exemplar, path: Path) -> None:
    """Put ImageNet weights with torchvision's names into the backbone.

    Raises:
        CheckpointError: no VGG-19.
    """
    state, _ = checkpoint.read(path)
    wanted = network.backbone.state_dict()
    checkpoint.load_strict(
        network.backbone, {k: v.float() for k, v in state.items() if k in wanted}, path.name
    )


def take_encoder(network: exemplar.Exemplar, source: Path) -> None:
    """Put stages of a DDColor encoder into the small backbone.

    DDColor takes grey RGB with ImageNet's mean and std, the backbone L / 50 - 1. Grey sRGB is about
    L / 100, to a few hundredths, and so the three filters of the first layer become one.

    Raises:
        ValueError: no DDColor network, or other sizes.
    """
    given, spec, _ = registry.load(models.locate(source))
    if spec.architecture != "ddcolor":
        raise ValueError(f"encoder is {source}, a {spec.architecture} network; expected a DDColor.")
    state = {
        key: tensor
        for key, tensor in given.encoder.state_dict().items()
        if key.split(".")[1] in ("0", "1", "2")
    }
    first = given.encoder.downsample[0][0]
    mean, std = given.mean.flatten(), given.std.flatten()
    filters = (first.weight * (0.5 / std).view(1, 3, 1, 1)).sum(1, keepdim=True)
    shift = (first.weight.sum(dim=(2, 3)) * ((0.5 - mean) / std)).sum(1)
    state["downsample.0.0.weight"], state["downsample.0.0.bias"] = filters, first.bias + shift
    stem = {k: v for k, v in network.backbone.state_dict().items() if k.startswith("stem.")}
    checkpoint.load_strict(network.backbone, state | stem, str(source))


def discriminators_for(config: Config, finest: int) -> nn.ModuleList:
    """A PatchGAN for each scale, from the level `finest` on; none without an adversarial term."""
    if not config.adversarial:
        return nn.ModuleList()
    sides = [min(config.crop) // 2 ** (level - 1) for level in range(finest, 5)]
    return nn.ModuleList(
        losses.LeastSquaresPatchGAN(next((n for n in (3, 2, 1) if 3 * 2**n <= side), 1))
        for side in sides
    )


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return common.cosine(step, config.steps, config.warmup)
    return 1.0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(common.parse(Config, PRESETS, doc=__doc__))
