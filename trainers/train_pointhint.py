"""Train the point-hint colorizer on your own photos.

    # The paper's settings
    python trainers/train_pointhint.py --photos photos/ --out runs/mine
    # The small network in the box: two CPU cores, photos of 160 pixels
    python trainers/train_pointhint.py --preset nano --photos shard-*.tar --out runs/first
    python trainers/train_pointhint.py --preset nano-last --photos shard-*.tar \\
        --start runs/first/weights.safetensors --out runs/nano
    # Own weights, your photos
    python trainers/train_pointhint.py --preset finetune --start pointhint-nano \\
        --photos photos/ --out runs/tuned

Started again with the same --out a run goes on where it stopped. Result: OUT/weights.safetensors,
which every loader of this package opens; OUT/state.safetensors holds what a resume needs;
OUT/log.jsonl a line per report.

Objective (Li et al., section 3.5, eq. 13): Huber loss of ab in Lab units; L is copied and costs
nothing. Hints are cells of 2 x 2 pixels at random places, in the mean colour of the photo there.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_defs import pointhint, registry
from ..pipeline import color, engine, models
from ..pipeline.hints import CELL
from ..pipeline.pointhint import base_chroma, fill, network_input
from . import common
from .data import Photos, batches

log = logging.getLogger("train_pointhint")
GREY = 5.0  # Lab units: a photo whose a and b together span less is not looked at


@dataclass
class Config:
    """Settings of one run; the defaults are the paper's (sections 3.5, 4.3), or what siblings of it
    do where it is silent."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards."""
    out: Path = Path("runs/pointhint")
    """Folder of the run."""
    architecture: str = "pointhint-s"
    """Preset of the network: pointhint-s, pointhint-t, pointhint-nano."""
    start: Path | None = None
    """Weights to start from: file, boxed or installed name; its sizes win over `architecture`."""
    prior: bool = False
    """Give the network a guess between hints, by kriging, in place of the paper's zeros. Only such
    a network can correct the colours of an automatic one."""
    base: Path | None = None
    """Automatic network whose colours are the guess for some photos: file, boxed or installed. Not
    looked at without `prior`."""
    base_share: float = 0.25
    """Part of each batch that gets it."""
    hints: tuple[int, ...] = (1, 64)
    """Fewest and most hints of a photo; numbers between are drawn so that few and many are learned
    alike (their logarithm is uniform). The paper: usually 10."""
    without: float = 0.1
    """Part of the photos that get no hint."""
    resolution: int = 224
    """Working resolution that the result asks for when it colours photos."""
    licence: str = ""
    """Licence of the result, kept in its metadata."""
    index: Path | None = None
    """CSV with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    steps: int = 500_000
    """100 epochs of ImageNet."""
    batch: int = 256
    crop: tuple[int, ...] = (224,)
    """Side of the training square in pixels; several sides are taken in turn, smallest first."""
    crop_until: tuple[int, ...] = ()
    """Step at which each side but the last gives way to the next; not looked at with one side."""
    smallest: float = 0.3
    """Smallest crop, as part of the photo's shorter side."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    """None on norms, biases and tables of position bias."""
    warmup: int = 15_000
    """Steps of linear rise, then half a cosine down to zero at `steps`."""
    huber: float = 1.0
    """delta of eq. 13 in Lab units: errors below it count by their square."""
    average: float = 0.999
    """Decay of the weight average that is saved."""
    clip: float = 1.0
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
        if not self.start and self.architecture not in pointhint.PRESETS:
            raise ValueError(
                f"architecture is '{self.architecture}'; expected one of "
                f"{', '.join(pointhint.PRESETS)}, or weights to start from (--start FILE)."
            )
        cells = (min(self.crop) // CELL) ** 2
        if len(self.hints) != 2 or not 1 <= self.hints[0] <= self.hints[1] <= cells:
            raise ValueError(
                f"hints is {self.hints}; expected the fewest and the most, 1 to {cells} of them."
            )
        for name in ("without", "base_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is '{self.dtype}'; expected float32 or bfloat16.")


_NANO = {
    "prior": True,
    "base": Path("ddcolor-nano"),
    "huber": 10.0,
    "dtype": "bfloat16",
}
PRESETS = {
    "paper": {},
    "finetune": {
        "architecture": "",  # that of --start
        "prior": True,
        "base": Path("ddcolor-nano"),
        "steps": 20_000,
        "batch": 16,
        "learning_rate": 1e-4,
        "warmup": 500,
    },
    # The network in the box, in two runs: many small pictures first. As many hints on a small
    # picture as on a large one would be denser than they are in use.
    "nano": _NANO
    | {
        "architecture": "pointhint-nano",
        "base_share": 0.15,
        "hints": (1, 20),
        "steps": 7_000,
        "batch": 16,
        "crop": (96,),
        "smallest": 0.6,
        "learning_rate": 7e-4,
        "warmup": 200,
    },
    "nano-last": _NANO
    | {
        "architecture": "",
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
    """Train until `config.steps`, saving on the way."""
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    config.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(config.photos, config.index, config.skip_licences)
    network = build(config).to(device).train()
    base = engine.load(config.base, device=device) if config.base and config.prior else None
    if base is not None and base.spec.role != "automatic":
        raise ValueError(
            f"base is {config.base}, of the role '{base.spec.role}'; expected a "
            "network that colours by itself (such as ddcolor-nano)."
        )
    average = common.Average(network, config.average)

    networks = {"network": network, "average": average.network}
    groups = common.parameter_groups(network, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
    state_file, step, seconds = config.out / "state.safetensors", 0, 0.0
    if state_file.exists():
        info = common.load_state(state_file, networks, {"network": optimizer})
        step, seconds = info["step"], info["seconds"]
        log.info("resumed %s at step %d", config.out, step)
    log.info("%d photos, %.2f M parameters, %s", len(photos), common.count(network) / 1e6, device)

    def save() -> None:
        info = {"config": common.jsonable(asdict(config)), "step": step, "seconds": report.seconds}
        training = {"photos": len(photos), "steps": step, "seconds": round(report.seconds)}
        common.export(
            config.out / "weights.safetensors",
            average.network,
            {
                "architecture": pointhint.NAME,
                "config": asdict(average.network.config),
                "training": training | {"config": common.jsonable(asdict(config))},
                "licence": config.licence,
                "spec": {"resolution": config.resolution, "prior": config.prior},
            },
        )
        common.save_state(state_file, networks, {"network": optimizer}, info)

    source = batches(
        photos,
        size=lambda at: common.crop_at(config.crop, config.crop_until, at),
        batch=config.batch,
        seed=config.seed,
        smallest=config.smallest,
        start=step,
    )
    report = common.Report(config.out / "log.jsonl", log, seconds)
    for rgb in source:
        if step >= config.steps:
            break
        rate = config.learning_rate * common.cosine(step, config.steps, config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate

        # The photo's L, its colour at hints, and a guess of the rest
        L, true_ab = color.rgb_to_lab(rgb.to(device)).split([1, 2], dim=1)
        drawn = draw_hints(true_ab, config.hints, config.without)
        ab, mask = drawn.ab, drawn.mask
        if config.prior:
            given = math.ceil(config.base_share * len(L)) if base else 0
            some, others = slice(given), slice(given, None)
            ab = torch.cat(
                [guess(L[some], drawn.part(some), base), guess(L[others], drawn.part(others))]
            )

        # Loss, eq. 13, on photos that have colour
        with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            made = network(network_input(L, ab, mask)).float()
        colored = (true_ab.amax((2, 3)) - true_ab.amin((2, 3))).sum(1) >= GREY
        error = F.huber_loss(made, true_ab, reduction="none", delta=config.huber) / config.huber
        loss = (error.mean((1, 2, 3)) * colored).sum() / colored.sum().clamp_min(1)
        common.refuse_infinite(loss, step, state_file)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip or math.inf)
        optimizer.step()
        average.update(network, step)
        step += 1

        with torch.no_grad():
            squares = [(x - true_ab).square().mean() for x in (made, ab)]
        report.add({"loss": loss, "gradient": norm, "error": squares[0], "guess": squares[1]})
        if step % config.report_every == 0:
            report.write(step, rate)
        if step % config.save_every == 0 or step == config.steps:
            save()
    source.close()


def build(config: Config) -> pointhint.PointHint:
    """The network: from weights to start from, or new, when it gives back what it is given.

    Raises:
        ValueError: `start` is no point-hint network, or one with another input.
    """
    if not config.start:
        return registry.build(pointhint.NAME, pointhint.PRESETS[config.architecture])
    network, spec, _ = registry.load(models.locate(config.start))
    if spec.architecture != pointhint.NAME:
        raise ValueError(
            f"start is {config.start}, a {spec.architecture} network; expected a point-hint one."
        )
    if spec.prior != config.prior:
        was, ask = ("with", "--prior") if spec.prior else ("without", "--no-prior")
        raise ValueError(
            f"start is {config.start}, which was trained {was} a guess between hints; give {ask}, "
            "or other weights."
        )
    return network


class Drawn(NamedTuple):
    """Hints of a batch, as `pipeline.pointhint.fill` takes them."""

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

    def part(self, some: slice) -> "Drawn":
        """The hints of some photos of the batch."""
        return Drawn(*(tensor[some] for tensor in self))


def draw_hints(true_ab: Tensor, number: tuple[int, ...], without: float) -> Drawn:
    """Random hints of true colour: cells of a grid, each at most once (section 4.3).

    Args:
        true_ab: (B, 2, S, S) in Lab units.
        number: fewest and most; the logarithm of how many is uniform.
        without: probability of none.
    """
    B, _, S, _ = true_ab.shape
    least, most = number
    means = F.avg_pool2d(true_ab, CELL)
    count = least * ((most + 1) / least) ** torch.rand(B)
    count = count.long().clamp(least, most) * (torch.rand(B) >= without)
    chosen = torch.rand(B, means[0, 0].numel()).topk(most).indices.to(true_ab.device)
    valid = (torch.arange(most) < count[:, None]).to(true_ab.device)
    side = means.shape[-1]
    centres = torch.stack([chosen // side, chosen % side], dim=-1) * CELL + CELL / 2
    values = means.flatten(2).gather(2, chosen[:, None].expand(-1, 2, -1)).movedim(1, -1)
    mask = torch.zeros(B, means[0, 0].numel(), device=true_ab.device)
    mask = mask.scatter(1, chosen, valid.float()).view(B, 1, side, side)
    ab, mask = (
        x.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3) for x in (means * mask, mask)
    )
    return Drawn(ab, mask, centres, values, valid)


@torch.no_grad()
def guess(L: Tensor, drawn: Drawn, base: engine.Colorizer | None = None) -> Tensor:
    """The guess between hints, as the pipeline makes it: (B, 2, S, S) in Lab units."""
    if not len(L):
        return drawn.ab
    chroma = None if base is None else base_chroma(base, color.gray_rgb(L), L)
    return fill(L, *drawn, chroma)[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(common.parse(Config, PRESETS, doc=__doc__))
