"""Train the exemplar colorizer on your own photos.

    # The paper's settings, on one GPU: pairs first, then the network on VGG-19's features
    python trainers/build_reference_pairs.py --photos photos/ --out pairs.json
    python trainers/train_exemplar.py --photos photos/ --pairs pairs.json --backbone vgg19 \\
        --out runs/mine
    # The same recipe on a card of 8 GB; on four GPUs; on shards of a web server, where references
    # are other views of the photos
    python trainers/train_exemplar.py --preset 8gb --photos photos/ --pairs pairs.json \\
        --backbone vgg19 --out runs/mine
    accelerate launch --num_processes 4 trainers/train_exemplar.py --photos photos/ \\
        --pairs pairs.json --backbone vgg19 --out runs/mine
    python trainers/train_exemplar.py --photos 'https://host/photos-{000..099}.tar' \\
        --shares 0 0 0 1 --backbone vgg19 --out runs/mine
    # Published or own weights, your photos
    colorist train exemplar --preset finetune --weights exemplar-nano --photos photos/ \\
        --pairs pairs.json --out tuned
    # The network in the box: kernel and backbone start from the point-hint network's kernel
    python trainers/train_exemplar.py --preset nano --photos shard-*.tar --pairs pairs.json \\
        --encoder pointhint-nano --kernel pointhint-nano --out runs/first
    python trainers/train_exemplar.py --preset nano-last --photos shard-*.tar --pairs pairs.json \\
        --weights runs/first/weights.safetensors --out runs/nano

Started again with the same --out a run goes on where it stopped, bit for bit on a CPU. Result:
OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows photos that
are not trained on, OUT/tensorboard and OUT/log.jsonl the losses, OUT/state.safetensors holds what
a resume needs. Ctrl-C saves and stops.

Objective (Gorriz Blanch et al. 2021, eq. 4), summed over the scales: 100 smooth-L1 + 2 histogram
+ 50 total variation + 1 adversarial (LS-GAN, a discriminator for each scale).
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import itertools
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..model_defs import registry, xcnet
from ..model_defs.spec import Spec
from ..ops import color
from ..pipeline import loader
from ..pipeline.by_reference import ExemplarColorizer
from . import losses, pretrained, pretrained_files
from .data import inputs
from .data.batches import Batch
from .data.photos import Photos, hold_out, open_photos
from .data.reference_pairs import (
    SHARES,
    check_shares,
    load_pairs,
    pair_batches,
    recolor_alike,
    views,
)
from .data.shards import is_stream
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

log = logging.getLogger("train_exemplar")
RIGHT = 6.0, 0.35  # a colour counts as right when its error is below 6 ab units + 0.35 true chroma


@dataclass
class Config(settings.Settings):
    """Settings of one run; the defaults are the paper's (sections 3.3, 4.1)."""

    out: Path = Path("runs/exemplar")
    """Folder of the run."""
    architecture: str = "exemplar-vgg19"
    """Preset of the network: exemplar-vgg19, exemplar-nano."""
    attention: tuple[str, ...] = ()
    """axial or standard at 1/4, 1/8, 1/16; () = as the preset."""
    second_kv: str = ""
    """reference or fused, of axial attention; "" = as the preset."""
    backbone: str | None = None
    """ImageNet weights of VGG-19 for the backbone (section 3.1): file, or vgg19."""
    encoder: str | None = None
    """Network that the small backbone starts from: one with a kernel, such as pointhint-nano, or a
    DDColor with a ConvNeXt; file, bundled or installed name."""
    kernel: str | None = None
    """Network whose kernel, which says how alike places are, this one gets for its guess: file,
    boxed or installed name, such as pointhint-nano."""
    freeze_backbone: bool = True
    """Keep the backbone as it is (section 3.1: a pre-trained one; the program freezes it)."""
    pairs: Path | None = None
    """Table of retrieved references (build_reference_pairs.py)."""
    shares: tuple[float, ...] = tuple(SHARES.values())
    """How often a reference is the best retrieved, one of five, any other photo, another view
    (section 4.1)."""
    recolor: float = 0.0
    """Part of the pairs in which both photos are recoloured alike: the colours then are in the
    reference and nowhere else. 0 in the paper."""
    steps: int = 844_000
    """30 epochs of 225,000 pairs (section 4.1)."""
    batch: int = 8
    """Pairs in a step, over all processes (section 4.1: 4 to 12)."""
    crop: tuple[int, ...] = (224,)
    """Side of the training square in pixels (section 4.1, where photos are squashed to it); several
    sides are taken in turn, smallest first."""
    smallest: float = 1.0
    """Smallest crop, as part of the photo's shorter side; 1 = the whole side."""
    learning_rate: float = 1e-5
    """Of network and discriminators (section 4.1)."""
    weight_decay: float = 0.0
    schedule: str = "constant"
    """constant (section 4.1), or cosine: down to zero at `steps`."""
    warmup: int = 0
    """Steps of linear rise, cosine only."""
    pixel: float = 100.0
    """Weight of the pixel loss (eq. 4, section 4.1; so are the next three)."""
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic; 0 = smooth-L1 of values in -1..1,
    which is half the squared error throughout (section 3.3)."""
    histogram: float = 2.0
    """Of the histogram loss, eq. 3."""
    variation: float = 50.0
    """Of the total variation."""
    adversarial: float = 1.0
    """Of the LS-GAN term."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.check_choice(self.weights, self.architecture, xcnet.PRESETS)
        streamed = self.stream or any(map(is_stream, self.photos))
        if streamed and self.pairs:
            raise ValueError(
                "pairs is a table of other photos as references, which a stream cannot find. Give "
                "local photos, or no --pairs but --shares 0 0 0 1 (other views of the same photo)."
            )
        check_shares(self.shares, self.pairs is not None, streamed)
        if self.adversarial and min(self.crop) < 64:
            raise ValueError(
                f"crop is {self.crop}; the discriminators need 64 pixels or more. Take larger "
                "crops, or --adversarial 0."
            )
        if self.weights and any([self.backbone, self.encoder, self.attention, self.second_kv]):
            raise ValueError(
                "weights names a start, which backbone, encoder, attention and second_kv would "
                "change; give the one or the others."
            )
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule is '{self.schedule}'; expected constant or cosine.")


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
    # The paper's recipe on a small card. The batch stays whole, as batch norm wants it, which takes
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
    # The network in the box, in two runs: two CPU cores, photos of 160 pixels. Other views of one
    # photo teach to find, retrieved photos what to do where nothing is to be found.
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
    """Train until `config.steps`, saving on the way.

    Raises:
        SystemExit: a loss is no number, a full disk; the message says what is kept.
        ValueError, OSError: photos, pairs or weights that cannot be used.
    """
    accelerator = distributed.accelerator(config)
    device = accelerator.device
    photos, held_out = hold_out(
        open_photos(config.photos, config.index, config.skip_licences, config.stream),
        config.held_out,
        config.seed,
        config.watch,
    )
    retrieved = load_pairs(config.pairs, photos) if config.pairs else None
    shown = references_shown(config, held_out, photos)
    with accelerator.local_main_process_first():  # which downloads what is missing
        network, spec = build(config)
        network.to(device, memory_format=torch.channels_last).train()
    network.backbone.requires_grad_(not config.freeze_backbone)
    average = ema.Average(network, config.average)
    scales = len(network.heads)
    discriminators = Discriminators(config.crop, network.config.finest).to(device)

    optimizer = torch.optim.AdamW(  # Adam (section 4.1) where no weight decays
        optimization.parameter_groups(network, config.weight_decay), lr=config.learning_rate
    )
    judge_optimizer = torch.optim.Adam(discriminators.parameters(), lr=config.learning_rate)
    networks = {"network": network, "average": average.network}
    optimizers = {"network": optimizer}
    if config.adversarial:
        networks |= {"discriminators": discriminators}
        optimizers |= {"discriminators": judge_optimizer}
    state = checkpoints.State(accelerator, config, networks, optimizers)
    begun = state.load()
    session.introduce(accelerator, photos, network)

    model, judge, optimizer, judge_optimizer = accelerator.prepare(
        distributed.share_statistics(network, accelerator),
        distributed.share_statistics(discriminators, accelerator),
        optimizer,
        judge_optimizer,
    )
    pairs_from = partial(
        pair_batches,
        photos,
        batch=config.batch,
        seed=config.seed,
        pairs=retrieved,
        shares=config.shares,
        smallest=config.smallest,
        threads=config.threads,
    )
    source = pairs_from(
        size=config.side,
        start=begun.step,
        places=begun.places,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        parts=config.accumulate,
    )

    def look(step: int) -> None:
        colored = by_reference(loader.wrap(average.network, spec), shown)
        sample_grid.show(held_out, colored, report, config.out, step)

    def save(step: int, places: dict) -> None:
        checkpoints.refuse_infinite_weights(state, step)
        if accelerator.is_main_process:
            some = partial(pairs_from, size=lambda _: config.side(step - 1))
            ema.calibrate(average.network, some(), partial(seen, device=device))
            fit_confidence(average.network, some(), device)
            look(step)
            training = provenance.provenance(config, photos, step, report.seconds)
            facts = {"resolution": spec.resolution}
            checkpoints.write_weights(config, average.network, xcnet.NAME, training, facts)
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
                group["lr"] = rate
            for part in batch.parts(config.accumulate):
                with accelerator.accumulate(model, judge):
                    # Forward: the target's L and the reference, in -1..1
                    target, reference = (
                        lab_norm(inputs.unit(rgb, device)) for rgb in part.pictures
                    )
                    if config.recolor:
                        target, reference = recolored(config, target, reference, step, part.rows)
                    L, reference_ab = target[:, :1], reference[:, 1:]
                    made = model(L.expand(-1, 3, -1, -1), reference)
                    skipped = round(math.log2(L.shape[-1] / made[0].shape[-1]))  # 1: no full size
                    true = losses.pyramid(target, skipped + scales)[skipped:]
                    wanted = losses.pyramid(reference_ab, skipped + scales)[skipped:]

                    # Discriminators first, on the detached predictions
                    terms = {}
                    if config.adversarial:
                        fake = joined(true, [ab.detach() for ab in made])
                        terms["discriminators"] = 0.5 * (
                            judged(judge(true), True) + judged(judge(fake), False)
                        )
                        accelerator.backward(terms["discriminators"])
                        judge_optimizer.step()
                        judge_optimizer.zero_grad()

                    # Generator, eq. 4
                    terms["pixel"] = sum(
                        losses.pixel_loss(xcnet.AB * ab, xcnet.AB * lab[:, 1:], config.huber)
                        if config.huber
                        else losses.smooth_l1_lab(ab, lab[:, 1:])
                        for ab, lab in zip(made, true, strict=True)
                    )
                    if config.histogram:
                        terms["histogram"] = sum(map(losses.histogram_loss, made, wanted))
                    if config.variation:
                        terms["variation"] = sum(map(losses.total_variation, made))
                    if config.adversarial:
                        with session.frozen(discriminators):
                            terms["adversarial"] = judged(discriminators(joined(true, made)), True)
                    loss = sum(
                        getattr(config, name) * term
                        for name, term in terms.items()
                        if name != "discriminators"
                    )
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(
                            model.parameters(), config.clip or math.inf
                        )
                    optimizer.step()
                    optimizer.zero_grad()
                terms["chroma"] = xcnet.AB * made[0].detach().norm(dim=1).mean()
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


class Discriminators(nn.Module):
    """Lab at all scales, finest first, each (B, 3, h, w) in -1..1 -> logits of patches of each.

    A PatchGAN for each scale, from the level `finest` on. Crops of `crop` decide how many layers it
    can have.
    """

    def __init__(self, crop: Sequence[int], finest: int):
        super().__init__()
        sides = [min(crop) // 2 ** (level - 1) for level in range(finest, 5)]
        self.scales = nn.ModuleList(
            losses.LeastSquaresPatchGAN(next((n for n in (3, 2, 1) if 3 * 2**n <= side), 1))
            for side in sides
        )

    def forward(self, pictures: list[Tensor]) -> list[Tensor]:
        return [judge(lab) for judge, lab in zip(self.scales, pictures, strict=True)]


def judged(logits: list[Tensor], real: bool) -> Tensor:
    """LS-GAN loss, summed over the scales."""
    return sum(losses.least_squares_loss(scale, real) for scale in logits)


def joined(true: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """Predictions ab with the L of the true Lab, at each scale."""
    return [torch.cat([lab[:, :1], ab], dim=1) for lab, ab in zip(true, made, strict=True)]


def recolored(
    config: Config, target: Tensor, reference: Tensor, step: int, rows: range
) -> tuple[Tensor, Tensor]:
    """Some pairs (B, 3, H, W) in -1..1 recoloured alike, as they would be in the whole batch."""
    ab = recolor_alike(
        xcnet.AB * target[:, 1:],
        xcnet.AB * reference[:, 1:],
        optimization.generator(config.seed, step),
        config.recolor,
        rows,
        config.batch,
    )
    target, reference = (
        torch.cat([lab[:, :1], new / xcnet.AB], dim=1)
        for lab, new in zip((target, reference), ab, strict=True)
    )
    return target, reference


def seen(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the network takes of photos: the target's L three times, the reference."""
    target, reference = (lab_norm(inputs.unit(rgb, device)) for rgb in batch.pictures)
    return target[:, :1].expand(-1, 3, -1, -1), reference


def references_shown(config: Config, held_out: Photos, photos: Photos) -> list[Tensor]:
    """A reference (1, 3, H, W) in 0..1 for each of the pictures that the samples show.

    The best retrieved one among the photos that are trained on, else another view of the picture.
    """
    retrieved: Sequence[Sequence[int]] = [()] * len(held_out)
    if config.pairs:
        retrieved = load_pairs(config.pairs, photos, held_out)
    references = []
    for index, others in enumerate(retrieved):
        for picture in sample_grid.pictures(held_out.part([index])):  # none of a grey one
            best = next(sample_grid.pictures(photos.part(others)), None) if others else None
            references.append(another_view(picture, index) if best is None else best)
    return references


def another_view(picture: Tensor, seed: int) -> Tensor:
    """Another view of a picture (1, 3, H, W) in 0..1, as in training; a square."""
    pixels = (255 * picture[0].movedim(0, -1)).round().byte().numpy()
    rng = np.random.default_rng(seed)
    _, view = views(Image.fromarray(pixels), sample_grid.SIDE, rng)
    return view[None].float() / 255


def by_reference(colorizer: ExemplarColorizer, references: Sequence[Tensor]) -> sample_grid.Color:
    """What the samples show; `references` belong to their pictures."""

    def colored(true: Tensor, number: int) -> dict[str, Tensor]:
        gray, reference = color.gray_rgb(color.lightness(true)), references[number]
        made = colorizer.colorize(gray.movedim(1, -1), reference=reference.movedim(1, -1))
        row = {"grey": gray, "reference": reference, sample_grid.RESULT: made.movedim(-1, 1)}
        return row | {sample_grid.PHOTO: true}

    return colored


@torch.no_grad()
def fit_confidence(
    network: xcnet.Exemplar,
    source: Iterator[Batch],
    device: torch.device,
    batches: int = 24,
) -> None:
    """Fit the weights of `match_confidence.confidence` by logistic regression, in place.

    The photos are those of the training, in their own colours. What counts as right is RIGHT.

    Args:
        source: generator of pairs; closed in the end.
        batches: how many pairs of it to look at, in batches.
    """
    clues, right = [], []
    with closing(source):
        for batch in itertools.islice(source, batches):
            target, reference = seen(batch, device)
            evidence = network.read([reference], target.shape[2:])
            ab, sure, facts = network.answer(target, evidence)
            true = xcnet.AB * lab_norm(inputs.unit(batch.pictures[0], device))[:, 1:]
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
    fitted = [float(w[0] - (slopes * mean).sum()), *slopes.tolist()]
    network.config = replace(network.config, confidence=tuple(round(v, 5) for v in fitted))


def lab_norm(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in 0..1 -> L / 50 - 1, a / 110, b / 110."""
    lab = color.rgb_to_lab(rgb)
    return torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / xcnet.AB], dim=1)


def build(config: Config) -> tuple[xcnet.Exemplar, Spec]:
    """A new network, or the one that `config.weights` names; its backbone as the settings say."""
    if config.weights:
        network, spec = settings.start(config, xcnet.NAME)
        if config.kernel:
            network = pretrained.with_kernel(
                network, config.kernel, sideways=False, offline=config.offline
            )
        return network, replace(spec, resolution=config.resolution or spec.resolution)
    changes = {"attention": config.attention, "second_kv": config.second_kv}
    known = asdict(xcnet.PRESETS[config.architecture]) | {k: v for k, v in changes.items() if v}
    network = registry.build(xcnet.NAME, xcnet.Config(**known))
    xcnet.initialise(network)
    if config.backbone and network.config.backbone != "vgg19":
        raise ValueError(
            f"backbone is {config.backbone}, weights of VGG-19; {config.architecture} has a small "
            "backbone, which can start from that of another network (--encoder pointhint-nano)."
        )
    if config.backbone:
        path = pretrained_files.find(config.backbone, offline=config.offline)
        log.info("backbone: %s", pretrained.take(network.backbone, path, "vgg19"))
    elif config.freeze_backbone:
        raise ValueError(
            "the backbone is frozen but has only start values: give ImageNet weights of VGG-19 "
            "(--backbone vgg19, or FILE), weights to start from (--weights FILE), or "
            "--no-freeze-backbone."
        )
    elif config.encoder:
        pretrained.take_encoder(network.backbone, config.encoder, offline=config.offline)
    else:
        log.info("backbone: random start values (others: --backbone, --encoder, --weights)")
    if config.kernel:
        network = pretrained.with_kernel(
            network, config.kernel, sideways=False, offline=config.offline
        )
    spec = xcnet.spec(network.config)
    return network, replace(spec, resolution=config.resolution or spec.resolution)


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the first."""
    if config.schedule == "cosine":
        return optimization.cosine(step, config.steps, config.warmup)
    return 1.0


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
