"""What every trainer needs and none should have to read: flags, schedule, average, checkpoints."""

import argparse
import contextlib
import copy
import dataclasses
import itertools
import json
import logging
import math
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import update_bn

from ..model_defs import checkpoint
from ..pipeline import color
from ..pipeline.files import write_whole


def parse(
    config_type: type,
    presets: Mapping[str, dict],
    argv: list[str] | None = None,
    doc: str | None = None,
    prog: str | None = None,
):
    """Build command-line flags from the fields of a dataclass and return an instance.

    Later wins: defaults, `--preset NAME`, `--config FILE.toml`, flags. Unknown names are errors.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(presets), help="named set of values")
    parser.add_argument("--config", type=Path, help="TOML file with values")
    hints = typing.get_type_hints(config_type)
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    for name in fields:
        parser.add_argument(
            f"--{name.replace('_', '-')}", **_flag(hints[name]), default=argparse.SUPPRESS
        )
    flags = vars(parser.parse_args(argv))
    preset, file = flags.pop("preset"), flags.pop("config")
    values = dict(presets[preset]) if preset else {}
    if file:
        values |= _read_toml(file)
    values |= flags
    unknown = sorted(set(values) - set(fields))
    if unknown:
        parser.error(
            f"{file}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(fields))}"
        )
    try:
        return config_type(**{name: _coerce(v, hints[name]) for name, v in values.items()})
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def _flag(kind: object) -> dict:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"nargs": "+", "type": typing.get_args(kind)[0]}
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    return {"type": options[0] if options else kind}


def _coerce(value: object, kind: object) -> object:
    """Lists (flags, TOML) become tuples, strings (TOML) become paths, where the field says so."""
    if typing.get_origin(kind) is tuple:
        return tuple(_coerce(v, typing.get_args(kind)[0]) for v in value)
    return Path(value) if Path in (kind, *typing.get_args(kind)) and value else value


def _read_toml(path: Path) -> dict:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))


def halving(step: int, milestones: tuple[int, ...]) -> float:
    """Learning-rate factor 0.5 ^ (milestones passed)."""
    return 0.5 ** sum(step >= milestone for milestone in milestones)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Linear rise over `warmup` steps, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class Average:
    """Exponential moving average of a network's parameters; buffers are copied, see `calibrate`."""

    def __init__(self, network: nn.Module, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow `network`; early steps average over fewer, so that start values fade at once."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


class Report:
    """Means of a run's terms, written as a line of JSON now and then; and how long it has trained.

    Args:
        file: where the lines go, appended.
        log: tells them, too.
        seconds: that the run took before it was resumed.
    """

    def __init__(self, file: Path, log: logging.Logger, seconds: float):
        self.file, self.log, self.seconds = file, log, seconds
        self.sums: dict[str, float] = {}
        self.count, self.began = 0, time.monotonic()

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """The terms of one step, each of one number."""
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term.item()
        self.count += 1

    def write(self, step: int, rate: float) -> None:
        """A line about the steps since the last one."""
        now = time.monotonic()
        elapsed, self.began = now - self.began, now
        self.seconds += elapsed
        line = {name: round(value / self.count, 4) for name, value in self.sums.items()}
        line |= {"step": step, "rate": rate, "seconds": round(elapsed, 1)}
        self.log.info("%s", json.dumps(line))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.sums, self.count = {}, 0


def refuse_infinite(loss: Tensor, step: int, state_file: Path) -> None:
    """SystemExit where the loss is no number: nothing is saved over the last good state."""
    if not math.isfinite(loss.item()):
        raise SystemExit(
            f"step {step}: the loss is {loss.item()}; the last good state is kept in {state_file}."
        )


def check_crops(crop: tuple[int, ...], crop_until: tuple[int, ...]) -> None:
    """Raise ValueError unless sides are multiples of 32 and steps rise, one fewer than sides."""
    if any(side % 32 or side < 32 for side in crop):
        raise ValueError(f"crop is {crop}; each side must be a multiple of 32.")
    ends = list(crop_until)
    if len(crop) > 1 and (len(ends) != len(crop) - 1 or sorted(ends) != ends):
        raise ValueError(
            f"crop has {len(crop)} sides and crop_until {len(crop_until)} steps; "
            "expected one rising step fewer than sides."
        )


def crop_at(crop: tuple[int, ...], crop_until: tuple[int, ...], step: int) -> int:
    """Side of the training square at `step`."""
    return crop[min(sum(step >= until for until in crop_until), len(crop) - 1)]


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices and filters; none on norms, biases (tables, too) and vectors."""
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p.ndim > 1 and not name.endswith("bias") for name, p in trained]
    matrices = [p for (_, p), yes in zip(trained, decayed, strict=True) if yes]
    vectors = [p for (_, p), yes in zip(trained, decayed, strict=True) if not yes]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def jsonable(values: dict) -> dict:
    """Paths by their last name: provenance must not carry a machine's folders."""

    def plain(value: object) -> object:
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return value.name if isinstance(value, Path) else value

    return {key: plain(value) for key, value in values.items()}


def calibrate(
    network: nn.Module,
    source: Iterator,
    seen: Callable[..., tuple[Tensor, ...]],
    batches: int = 16,
) -> None:
    """Batch-norm statistics for averaged weights: those of the network in training do not fit them.

    Args:
        source: generator of what `data` makes; closed in the end.
        seen: one of these -> the network's inputs.
        batches: how many to look at.
    """

    class Reader(nn.Module):
        """Takes several inputs as one, which is how `update_bn` hands them on."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: dict[int, Tensor]) -> None:
            self.network(*inputs.values())

    with contextlib.closing(source):
        some = itertools.islice(source, batches)
        reader = Reader().train(network.training)
        update_bn((dict(enumerate(seen(x))) for x in some), reader)


def gray_seen(device: torch.device) -> Callable[[Tensor], tuple[Tensor]]:
    """Photos (B, 3, H, W) in 0..1 -> what automatic colorizers see of them."""
    return lambda rgb: (color.gray_rgb(color.lightness(rgb.to(device))).contiguous(),)


# --- Result ----------------------------------------------------------------------------------


def export(path: Path, network: nn.Module, info: Mapping) -> None:
    """Write a network as one of our files: fp16, spectral norm folded; `info` is its metadata."""
    state = {}
    for key, tensor in folded(network).items():
        state[key] = tensor.half() if tensor.is_floating_point() else tensor
    info = {**info, "training": {**info["training"], "torch": torch.__version__}}
    write_whole(path, checkpoint.to_bytes(state, info))


def folded(network: nn.Module) -> dict[str, torch.Tensor]:
    """State dict in which parametrized weights appear as plain weights."""
    state = {key: t for key, t in network.state_dict().items() if ".parametrizations." not in key}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            state[f"{name}.weight"] = module.weight
    return state


# --- Training state: one safetensors file, replaced whole ------------------------------------


def save_state(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    info: Mapping,
) -> None:
    """Write networks, optimizers and `info` (JSON: config, step, metrics) to one file."""
    tensors: dict[str, Tensor] = {}
    groups = {}
    for name, network in networks.items():
        tensors |= {f"{name}/{key}": tensor for key, tensor in network.state_dict().items()}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, entry in state["state"].items():
            tensors |= {
                f"optimizer.{name}/{index}/{key}": torch.as_tensor(value)
                for key, value in entry.items()
            }
    tensors["random/torch"] = torch.get_rng_state()
    write_whole(path, checkpoint.to_bytes(tensors, {**info, "param_groups": groups}))


def load_state(
    path: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict:
    """Restore what `save_state` wrote; returns its `info`.

    Raises:
        ValueError: the file belongs to a run with other networks.
    """
    with safe_open(path, framework="pt") as file:
        info = json.loads(file.metadata()["colorist"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    try:
        for name, network in networks.items():
            prefix = f"{name}/"
            network.load_state_dict(
                {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
            )
        for name, optimizer in optimizers.items():
            state: dict[int, dict] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimizer.{name}/"):
                    _, index, entry = key.split("/")
                    state.setdefault(int(index), {})[entry] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": info["param_groups"][name]})
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: belongs to a run with another network or another discriminator "
            f"({str(error).splitlines()[0]}). Give the same settings, or another --out."
        ) from error
    torch.set_rng_state(tensors["random/torch"])
    return info
