"""Train the point-hint colorizer on your own photos.

    # The paper's settings, on one GPU
    python trainers/train_pointhint.py --photos photos/ --out runs/mine
    # The same recipe on a card of 8 GB; on four GPUs; on shards of a web server
    python trainers/train_pointhint.py --preset 8gb --photos photos/ --out runs/mine
    accelerate launch --num_processes 4 trainers/train_pointhint.py --photos photos/ --out runs/mine
    python trainers/train_pointhint.py --photos 'https://host/photos-{000..099}.tar' --out runs/mine
    # Own weights, your photos
    colorist train pointhint --preset finetune --weights pointhint-nano --photos photos/ --out tuned
    # The network in the box: two CPU cores, photos of 160 pixels
    python trainers/train_pointhint.py --preset nano-kernel --photos shard-*.tar --out runs/kernel
    python trainers/train_pointhint.py --preset nano --photos shard-*.tar \\
        --weights runs/kernel/weights.safetensors --out runs/first
    python trainers/train_pointhint.py --preset nano-last --photos shard-*.tar \\
        --weights runs/first/weights.safetensors --out runs/nano

Started again with the same --out a run goes on where it stopped, bit for bit on a CPU. Result:
OUT/weights.safetensors, which every loader of this package opens. OUT/samples shows photos that
are not trained on, coloured by ten random points each, OUT/tensorboard and OUT/log.jsonl the loss,
OUT/state.safetensors holds what a resume needs. Ctrl-C saves and stops.

Objective (Li et al., section 3.5, eq. 13): Huber loss of ab in Lab units; L is copied and costs
nothing. Hints are cells of 2 x 2 pixels at random places, in the mean colour of the photo there.
The kernel of nano networks, which makes the guess between hints, has the same objective of its own.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics import image as image_metrics
from ..model_defs import pointhint, registry
from ..model_defs.spec import Spec
from ..ops import color, gaussian_process
from ..ops.gaussian_process import CELL
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import base_chroma, fill, network_input, spread
from ..pipeline.hints import rasterize
from . import losses, pretrained
from .data import batches, inputs
from .data.photos import Photos, hold_out, open_photos
from .evaluation import tasks
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

log = logging.getLogger("train_pointhint")
SCORED = 1, 10, 50  # random hints with which photos that are not trained on are coloured
SHOWN = 10  # as many as the paper compares with (section 4.3)
PARTS = "all", "kernel", "network"


@dataclass
class Config(settings.Settings):
    """Settings of one run; the defaults are the paper's (sections 3.5 and 4.3), or where it is
    silent those of its nearest sibling, iColoriT (Yun et al. 2023), and say so."""

    out: Path = Path("runs/pointhint")
    """Folder of the run."""
    architecture: str = "pointhint-s"
    """Preset of the network: pointhint-s, pointhint-t, pointhint-nano."""
    prior: bool = False
    """Give the network a guess between hints, by kriging, in place of the paper's zeros. Only such
    a network can correct the colours of an automatic one."""
    base: str | None = None
    """Automatic network whose colours are the guess for some photos: file, boxed or installed. Not
    looked at without `prior`."""
    base_share: float = 0.25
    """Part of each batch that gets it."""
    part: str = "all"
    """all; of networks whose guess is learned, too: its kernel alone, or the network alone."""
    kernel: str | None = None
    """Network whose kernel this one gets: file, boxed or installed name."""
    encoder: str | None = None
    """Network that the kernel's backbone starts from: one with a kernel, such as pointhint-nano, or
    a DDColor with a ConvNeXt; file, bundled or installed name. Ignored with `weights`."""
    hints: tuple[int, ...] = (1, 64)
    """Fewest and most hints of a photo; numbers between are drawn so that few and many are learned
    alike (their logarithm is uniform). The paper (section 4.3): usually 10, also more and fewer."""
    without: float = 0.1
    """Part of the photos that get no hint."""
    steps: int = 500_000
    """100 epochs of ImageNet, as iColoriT; the paper names none."""
    batch: int = 256
    """Photos in a step, over all processes. 8 GPUs of 32, as iColoriT."""
    crop: tuple[int, ...] = (224,)
    """Side of the training square in pixels (section 4.3); several sides are taken in turn,
    smallest first."""
    smallest: float = 0.3
    """Smallest crop, as part of the photo's shorter side: about the 8 percent of the area that are
    usual on ImageNet."""
    learning_rate: float = 5e-4
    """Of AdamW, at its highest (section 4.3); for a batch of 256."""
    last_rate: float = 0.02
    """Part of it at which the cosine (section 4.3) ends: 1e-5, as iColoriT."""
    warmup: int = 15_000
    """Steps of linear rise: 3 epochs of ImageNet, as iColoriT. Then half a cosine until `steps`."""
    weight_decay: float = 0.05
    """None on norms, biases and tables of position bias. As iColoriT, like AdamW's betas."""
    huber: float = 1.0
    """delta of eq. 13 in Lab units: errors below it count by their square. The loss is divided by
    it, which changes nothing at the paper's 1."""
    clip: float = 1.0
    """Largest gradient norm; 0 = no limit. Neither paper has one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.check_choice(self.weights, self.architecture, pointhint.PRESETS)
        cells = (min(self.crop) // CELL) ** 2
        if len(self.hints) != 2 or not 1 <= self.hints[0] <= self.hints[1] <= cells:
            raise ValueError(
                f"hints is {self.hints}; expected the fewest and the most, 1 to {cells} of them."
            )
        if self.part not in PARTS:
            raise ValueError(f"part is '{self.part}'; expected {', '.join(PARTS)}.")
        for name in ("without", "base_share", "last_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1.")


_NANO = {
    "prior": True,
    "base": "ddcolor-nano",
    "huber": 10.0,
    "last_rate": 0.0,
    "dtype": "bfloat16",
}
_LATER = _NANO | {"architecture": "", "part": "network"}
PRESETS = {
    "paper": {},
    # The paper's recipe in the memory of a small card: 32 photos at a time take 6.2 GiB even in
    # float32 (on a CPU, benchmarks/training.py memory). Parts change nothing: no batch norm.
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
    # The network in the box, in three runs: how alike places are; then the network with that guess
    # before it, on many small pictures first. As many hints on a small picture as on a large one
    # would be denser than they are in use.
    "nano-kernel": _NANO
    | {
        "architecture": "pointhint-nano",
        "part": "kernel",
        "encoder": "pointhint-nano",
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
    "nano": _LATER
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
    "nano-last": _LATER
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
    network, spec = build(config)
    network.to(device).train()
    painter = Painter(network, config.part, prior=config.prior)
    base = load_base(config, device)
    average = ema.Average(network, config.average)

    optimizer = torch.optim.AdamW(
        optimization.parameter_groups(network, config.weight_decay),
        lr=config.learning_rate,
        betas=(0.9, 0.95),
    )
    networks = {"network": network, "average": average.network}
    state = checkpoints.State(accelerator, config, networks, {"network": optimizer})
    begun = state.load()
    session.introduce(accelerator, photos, network)

    model, optimizer = accelerator.prepare(painter, optimizer)
    source = batches.batches(
        photos,
        size=config.side,
        batch=config.batch,
        seed=config.seed,
        smallest=config.smallest,
        threads=config.threads,
        start=begun.step,
        places=begun.places,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        parts=config.accumulate,
    )

    def look(step: int) -> None:
        show(held_out, average.network, spec, report, config.out, step)

    def save(step: int, places: dict) -> None:
        checkpoints.refuse_infinite_weights(state, step)
        if accelerator.is_main_process:
            look(step)
            training = provenance.provenance(config, photos, step, report.seconds)
            facts = {"resolution": spec.resolution, "prior": config.prior}
            checkpoints.write_weights(config, average.network, pointhint.NAME, training, facts)
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
            for group in optimizer.param_groups:
                group["lr"] = rate
            cells, valid = draw_places(config, step)
            for part in batch.parts(config.accumulate):
                with accelerator.accumulate(model):
                    # The photo's L, its colour at hints, and a guess of the rest
                    true_rgb = inputs.unit(part.pictures[0], device)
                    L, true_ab = color.rgb_to_lab(true_rgb).split([1, 2], dim=1)
                    rows = list(part.rows)
                    drawn = hints_at(true_ab, cells[rows], valid[rows])
                    given = with_base(config, step, rows) if base else [False] * len(rows)
                    guessed, made = model(L, drawn, base_colors(L, base, given), given)

                    # Eq. 13, of what is trained
                    loss = losses.pixel_loss(made, true_ab, config.huber)
                    if guessed.requires_grad and guessed is not made:
                        loss = loss + losses.pixel_loss(guessed, true_ab, config.huber)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(
                            model.parameters(), config.clip or math.inf
                        )
                    optimizer.step()
                    optimizer.zero_grad()
                with torch.no_grad():
                    error, before = ((x - true_ab).square().mean() for x in (made, guessed))
                report.add(step, {"loss": loss, "error": error, "guess": before}, part.names)
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


def build(config: Config) -> tuple[pointhint.PointHint, Spec]:
    """The network: from weights to start from, or new, when it gives back what it is given.

    Raises:
        ValueError: `weights` is no point-hint network, or one with another input.
    """
    if config.weights:
        network, spec = settings.start(config, pointhint.NAME)
    else:
        known = pointhint.PRESETS[config.architecture]
        network = registry.build(
            pointhint.NAME, known if config.prior else replace(known, kernel=None)
        )
        pointhint.initialise(network)
        if config.encoder and network.kernel:
            pretrained.take_encoder(network.kernel.backbone, config.encoder, offline=config.offline)
        spec = replace(pointhint.spec(network.config), prior=config.prior)
    if config.kernel:
        network = pretrained.with_kernel(
            network, config.kernel, sideways=True, offline=config.offline
        )
    if spec.prior != config.prior:
        was, ask = ("with", "--prior") if spec.prior else ("without", "--no-prior")
        raise ValueError(
            f"weights is {config.weights}, which was trained {was} a guess between hints; give "
            f"{ask}, or other weights."
        )
    return network, replace(spec, resolution=config.resolution or spec.resolution)


def load_base(config: Config, device: torch.device) -> Colorizer | None:
    """The automatic network whose colours are a guess, if one is asked for.

    Raises:
        ValueError: `base` is of another role.
    """
    if not config.base or not config.prior:
        return None
    base = loader.load(config.base, device=device)
    if base.spec.role != "automatic":
        raise ValueError(
            f"base is {config.base}, of the role '{base.spec.role}'; expected a "
            "network that colours by itself (such as ddcolor-nano)."
        )
    return base


def rate_factor(config: Config, step: int) -> float:
    """Learning rate at `step`, as part of the highest."""
    factor = optimization.cosine(step, config.steps, config.warmup)
    if step < config.warmup:
        return factor
    return config.last_rate + (1 - config.last_rate) * factor


# --- Hints and the guess between them ------------------------------------------------------------


def draw_places(config: Config, step: int) -> tuple[Tensor, Tensor]:
    """Where a batch gets hints: cells of a grid at random, each at most once (section 4.3).

    Drawn for the whole batch, so that several processes together draw what one alone would.

    Returns:
        cells (B, N) counted along rows, N the most hints; valid (B, N), False at surplus ones.
    """
    random = optimization.generator(config.seed, step)
    least, most = config.hints
    count = least * ((most + 1) / least) ** torch.rand(config.batch, generator=random)
    given = torch.rand(config.batch, generator=random) >= config.without
    count = count.long().clamp(least, most) * given
    cells = (config.side(step) // CELL) ** 2
    chosen = torch.rand(config.batch, cells, generator=random).topk(most).indices
    return chosen, torch.arange(most) < count[:, None]


class Drawn(NamedTuple):
    """Hints of photos, as `pipeline.by_hints.fill` takes them."""

    ab: Tensor
    """(B, 2, S, S) their colours in Lab units, 0 elsewhere."""
    mask: Tensor
    """(B, 1, S, S) 1 at hints."""
    centres: Tensor
    """(B, N, 2) y and x in pixels."""
    values: Tensor
    """(B, N, 2) their colours."""
    valid: Tensor
    """(B, N) False where a photo has fewer than N."""

    def part(self, some: list[int]) -> "Drawn":
        """The hints of some of the photos."""
        return Drawn(*(tensor[some] for tensor in self))


def hints_at(true_ab: Tensor, cells: Tensor, valid: Tensor) -> Drawn:
    """Hints of true colour: the mean of each cell.

    Args:
        true_ab: (B, 2, S, S) in Lab units.
        cells, valid: (B, N) as `draw_places` gives them.
    """
    cells, valid = cells.to(true_ab.device), valid.to(true_ab.device)
    means = F.avg_pool2d(true_ab, CELL)
    side = means.shape[-1]
    centres = torch.stack([cells // side, cells % side], dim=-1) * CELL + CELL / 2
    values = means.flatten(2).gather(2, cells[:, None].expand(-1, 2, -1)).movedim(1, -1)
    mask = torch.zeros_like(means[:, 0]).flatten(1)
    mask = mask.scatter(1, cells, valid.float()).view(-1, 1, side, side)
    ab, mask = (
        x.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3) for x in (means * mask, mask)
    )
    return Drawn(ab, mask, centres, values, valid)


def with_base(config: Config, step: int, rows: Iterable[int]) -> list[bool]:
    """Which rows of the batch get the base's colours: `base_share` of them, evenly spread.

    Each process and part thus has its share. Other rows from step to step: of streams, a row's
    photos come of the same shards at every step.
    """
    given = math.ceil(config.base_share * config.batch)
    turned = ((row + step) % config.batch for row in rows)
    return [(row + 1) * given // config.batch > row * given // config.batch for row in turned]


@torch.no_grad()
def base_colors(L: Tensor, base: Colorizer | None, given: list[bool]) -> Tensor:
    """(B, 2, S, S): the base's colours of the photos that get them, zeros of the others.

    Args:
        L: (B, 1, S, S) in 0..100.
        given: for each photo, whether it gets them.
    """
    ab = torch.zeros_like(L).repeat(1, 2, 1, 1)
    if any(given):
        ab[given] = base_chroma(base, color.gray_rgb(L[given]), L[given])
    return ab


def guess(
    L: Tensor,
    drawn: Drawn,
    known: Tensor,
    given: list[bool],
    field: gaussian_process.Field | None = None,
) -> Tensor:
    """The guess between hints, as the pipeline makes it: (B, 2, S, S) in Lab units.

    Args:
        L: (B, 1, S, S) in 0..100.
        drawn: hints of these photos.
        known, given: the base's colours, and which photos get them.
        field: how alike places are, where that is learned.
    """
    ab = torch.empty_like(drawn.ab)
    for wanted in (False, True):
        some = [i for i, yes in enumerate(given) if yes == wanted]
        if some:
            base, like = known[some] if wanted else None, field and field.some(some)
            ab[some] = fill(L[some], *drawn.part(some), base, like)[0]
    return ab


class Painter(nn.Module):
    """The guess between hints and the network behind it: what is trained.

    Args:
        part: what of it is, see `Config`; the rest is frozen.
        prior: whether there is a guess; otherwise zeros stand between hints.
    """

    def __init__(self, network: pointhint.PointHint, part: str, *, prior: bool):
        super().__init__()
        self.network, self.part, self.prior = network, part, prior
        if part != "all":
            if network.kernel is None:
                raise ValueError(f"part is '{part}', and the guess of this network is not learned.")
            network.requires_grad_(part == "network")
            network.kernel.requires_grad_(part == "kernel")

    def forward(
        self, L: Tensor, drawn: Drawn, known: Tensor, given: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """The guess and the answer, (B, 2, S, S) in Lab units; one where only the kernel learns."""
        ab = drawn.ab
        if self.prior:
            field = self.network.kernel and self.network.kernel(L)
            ab = guess(L, drawn, known, given, field)
        if self.part == "kernel":
            return ab, ab
        return ab, self.network(network_input(L, ab, drawn.mask))


# --- Samples -------------------------------------------------------------------------------------


def show(
    photos: Photos,
    network: pointhint.PointHint,
    spec: Spec,
    report: logger.Report,
    out: Path,
    step: int,
) -> None:
    """Colour photos that are not trained on by random hints: scores, and a sheet of pictures.

    From left to right: hints, the guess (if the network gets one), the result, the photo.
    """
    colorizer = loader.wrap(network, spec)
    psnr: dict[int, list[Tensor]] = {count: [] for count in SCORED}

    def colored(true: Tensor, number: int) -> dict[str, Tensor]:
        L = color.lightness(true)
        gray = color.gray_rgb(L)
        for count in SCORED:
            hints = tasks.random_hints(true[0], count, str(number), seed=0)
            made = colorizer.colorize(gray.movedim(1, -1), hints=hints).movedim(-1, 1)
            psnr[count].append(image_metrics.psnr(made, true))
            if count == SHOWN:
                overlay = rasterize.overlay(gray.movedim(1, -1), hints).movedim(-1, 1)
                row = {f"{SHOWN} hints": overlay}
                if spec.prior:
                    field = network.kernel and network.kernel(L)
                    ab, _ = spread(L, hints, None, prior=True, field=field)
                    row["guess"] = color.lab_to_rgb(torch.cat([L, ab], dim=1)).clamp(0, 1)
                row |= {sample_grid.RESULT: made, sample_grid.PHOTO: true}
        return row

    sample_grid.show(photos, colored, report, out, step)
    if psnr[SHOWN]:
        scores = {f"held_out_psnr_{n}": torch.cat(v).mean().item() for n, v in psnr.items()}
        report.tell({name: round(score, 3) for name, score in scores.items()} | {"step": step})


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
