"""The engine room of a training run: devices and processes, reports, checkpoints, stopping.

Devices, precision, accumulation and several processes are Accelerate's; curves are TensorBoard's.
What is here is called by the trainers and calls none of them.
"""

import importlib.util
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed, nn

from ..model_defs import checkpoint
from ..pipeline.files import write_whole
from . import losses, weights
from .common import Settings, jsonable
from .data import Batch
from .streams import Place

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
STATE = "state.safetensors"
NEEDED = ("accelerate", "tensorboard", "tqdm", "webdataset")


def accelerator(config: Settings) -> "Accelerator":
    """Device, precision, accumulation, and the other processes of this run, if a launcher made any.

    Raises:
        ValueError: a library that training needs is missing, or a batch cannot be shared evenly.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"training needs {', '.join(missing)}: pip install 'comfyui-colorist[train]'."
        )
    from accelerate import Accelerator, DistributedDataParallelKwargs

    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[_dtype(config)]
    made = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=config.device == "cpu",
        # Batch norm is shared (below), and spectral norm does the same everywhere.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    parts = made.num_processes * config.accumulate
    if config.batch % parts:
        raise ValueError(
            f"a batch of {config.batch} photos cannot be divided evenly by {made.num_processes} "
            f"processes in {config.accumulate} parts."
        )
    # Of 1x1 convolutions in channels_last, whose strides are the same numbers in another order.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", ".*broadcast_buffers")  # its new name is not in older torch
    if not made.is_main_process:
        logging.disable(logging.WARNING)  # once is enough
    torch.manual_seed(config.seed)
    return made


def _dtype(config: Settings) -> str:
    if config.dtype != "auto":
        return config.dtype
    if config.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    known = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if known else "float16"


# --- Several processes -----------------------------------------------------------------------


class Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is summed as well."""

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes: several compute what one would.

    As `torch.nn.SyncBatchNorm`, which refuses to run on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        wide = x.float()
        mean = Sum.apply(wide.sum((0, 2, 3))) / count
        centered = wide - mean.view(1, -1, 1, 1)
        variance = Sum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)


def share_statistics(network: nn.Module, accelerator: "Accelerator") -> nn.Module:
    """Turn all batch norms of a network into shared ones, in place, where there are processes."""
    if accelerator.num_processes > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SharedBatchNorm  # same parameters, same buffers
    return network


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """What is computed meanwhile leaves no gradient in `network`."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)


def perceptual(config: Settings, device: torch.device) -> losses.PerceptualLoss | None:
    """The perceptual loss of `config.vgg`; None, and a line in the log, where there is none."""
    if not config.perceptual:
        return None
    if not config.vgg:
        log.info("perceptual loss: off (ImageNet's VGG-16 switches it on: --vgg vgg16_bn, or FILE)")
        return None
    path = weights.find(config.vgg, offline=config.offline)
    return losses.PerceptualLoss(path).to(device)


# --- Report ----------------------------------------------------------------------------------


class Report:
    """Means of a run's terms, as lines of JSON and TensorBoard curves; and how long it has trained.

    Nothing waits for the GPU between two reports: terms stay where they are computed.

    Args:
        accelerator: whose processes the means are taken over.
        out: folder of the run: `log.jsonl`, `tensorboard/`.
        steps: at which the run ends.
        begun: where it goes on.
    """

    def __init__(self, accelerator: "Accelerator", out: Path, steps: int, begun: "Begun"):
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self.accelerator, self.begun = accelerator, begun
        self.saved, self.saved_before, self.seconds = begun.step, begun.step, begun.seconds
        self.out, self.file, self.curves, self.bar = out, out / "log.jsonl", None, None
        self._start_over()
        if accelerator.is_main_process:
            _forget_after(self.file, begun.step)
            self.curves = SummaryWriter(out / "tensorboard", purge_step=begun.step + 1)
            self.bar = tqdm(total=steps, initial=begun.step, unit="step", disable=None)
            self.redirect = logging_redirect_tqdm()

    def __enter__(self) -> "Report":
        if self.bar is not None:
            self.redirect.__enter__()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if self.bar is not None:
            self.redirect.__exit__(kind, *error)
            self.bar.close()
            self.curves.close()
            if kind is None:
                _before(self.out).unlink(missing_ok=True)

    def _start_over(self) -> None:
        self.photos: list[tuple[int, list[str]]] = []
        self.rows: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.terms: list[str] = []
        self.began, self.waited = time.monotonic(), 0.0

    def next(self, source: Iterator[Batch]) -> Batch:
        """The next batch of `source`; how long it is waited for is told."""
        began = time.monotonic()
        batch = next(source)
        self.waited += time.monotonic() - began
        return batch

    def add(self, step: int, terms: Mapping[str, Tensor], names: list[str]) -> None:
        """The terms of one part of the batch of `step`, each of one number; its photos' names."""
        self.terms = list(terms)
        self.rows.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.photos.append((step, names))

    def advance(self, norm: Tensor) -> None:
        """A step is done, with a gradient of this norm."""
        self.norms.append(norm.detach())
        if self.bar is not None:
            self.bar.update()

    def write(self, step: int, rate: float) -> None:
        """A line about the steps since the last one, `step` being the number done.

        Raises:
            SystemExit: a loss was no number, in any process.
        """
        rows = torch.stack(self.rows)
        rows = self.accelerator.reduce(rows, "mean").cpu()
        self._refuse_infinite(rows)
        if self.accelerator.is_main_process:
            _before(self.out).unlink(missing_ok=True)
        now = time.monotonic()
        elapsed, waited = now - self.began, self.waited
        self.seconds += elapsed
        photos = len(rows) * len(self.photos[0][1]) * self.accelerator.num_processes
        line = {
            name: round(v, 4) for name, v in zip(self.terms, rows.mean(0).tolist(), strict=True)
        }
        line |= {
            "gradient": round(torch.stack(self.norms).mean().item(), 4),
            "step": step,
            "rate": rate,
            "seconds": round(elapsed, 1),
            "photos_per_second": round(photos / elapsed, 1),
            "waiting": round(waited / elapsed, 3),
            "peak_mib": peak_mib(self.accelerator.device),
        }
        self._start_over()
        self.tell(line)

    def after_saving(self, step: int) -> None:
        """What was done at `step` is safe; the time it took is no training."""
        self.saved, self.saved_before = step, self.saved
        self.began, before = time.monotonic(), self.began
        self.seconds += self.began - before

    def tell(self, line: Mapping[str, float]) -> None:
        """Write a line, and its numbers as points of curves, at its `step`."""
        if self.curves is None:
            return
        log.info("%s", json.dumps(line))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self.curves.add_scalar(name, value, line["step"])
        self.curves.flush()

    def _refuse_infinite(self, rows: Tensor) -> None:
        bad = (~rows.isfinite()).any(1).nonzero()
        if not len(bad):
            return
        from accelerate.utils import gather_object

        if self.accelerator.is_main_process and (before := _before(self.out)).exists():
            os.replace(before, self.out / STATE)
            self.saved = self.saved_before
        first = int(bad[0])
        step, names = self.photos[first]
        values = zip(self.terms, rows[first].tolist(), strict=True)
        told = ", ".join(f"{name} {value:.4g}" for name, value in values)
        raise SystemExit(
            f"step {step + 1}: a loss is not a number ({told}) "
            f"on the photos {', '.join(gather_object(names))}. Nothing has been saved since step "
            f"{self.saved}, whose state is kept. Start again with the same --out and a smaller "
            "--learning-rate, --clip 1, or --dtype float32."
        )


def _forget_after(file: Path, step: int) -> None:
    """Drop lines about steps that a resumed run does again."""
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_whole(file, "".join(line + "\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # cut off when the run was killed


def peak_mib(device: torch.device) -> int:
    """Most memory that the run has taken so far: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


# --- Checkpoints -----------------------------------------------------------------------------


class Begun(NamedTuple):
    """Where a run goes on."""

    step: int = 0
    seconds: float = 0.0
    """That it has taken."""
    places: Mapping[str, Place] = {}
    """See `data.Batch.places`."""


@dataclass
class State:
    """All that a run needs to go on, in one file that is replaced whole: `OUT/state.safetensors`.

    The one before is kept until the losses after it have been looked at.

    Networks, their average, optimizers, how far streams have been read, random states, the scale of
    float16 losses, settings.
    """

    accelerator: "Accelerator"
    config: Settings
    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.config.out / STATE

    def load(self) -> Begun:
        """Restore what `save` wrote, if it did.

        Raises:
            ValueError: the file belongs to a run with other networks, or is none of ours.
        """
        if self.accelerator.is_main_process:
            self.config.out.mkdir(parents=True, exist_ok=True)
            for half in self.config.out.glob(".colorist-*.part"):  # of a run that was killed
                half.unlink()
            if not self.file.exists() and (before := _before(self.config.out)).exists():
                os.replace(before, self.file)  # killed between two renamings
        self.accelerator.wait_for_everyone()
        if not self.file.exists():
            return Begun()
        tensors, info = self._read()
        for name, network in self.networks.items():
            prefix = f"{name}/"
            self._take(
                network.load_state_dict,
                {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)},
            )
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimizer.{name}/"):
                    _, index, entry = key.split("/")
                    state.setdefault(int(index), {})[entry] = tensor
            groups = info["param_groups"].get(name)
            self._take(optimizer.load_state_dict, {"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random/torch"])
        if "random/cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.accelerator.device)
        if self.accelerator.scaler is not None and info["scaler"]:
            self.accelerator.scaler.load_state_dict(info["scaler"])
        self._tell_changes(info["config"])
        log.info("goes on from step %d of %s", info["step"], self.file)
        places = {name: tuple(place) for name, place in info["places"].items()}
        return Begun(info["step"], info["seconds"], places)

    def _read(self) -> tuple[dict[str, Tensor], dict]:
        try:
            with safe_open(self.file, framework="pt") as file:
                info = json.loads(file.metadata()["colorist"])
                return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{self.file}: no state of a run ({error}). Give another --out, or remove it."
            ) from error

    def _take(self, load: Callable[[dict], object], state: dict) -> None:
        try:
            load(state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.file}: belongs to a run with another network or another discriminator "
                f"({str(error).splitlines()[0]}). Give the same settings, or another --out."
            ) from error

    def _tell_changes(self, was: Mapping[str, object]) -> None:
        for name, value in json.loads(json.dumps(jsonable(self.config))).items():
            if name in was and was[name] != value and name not in ("steps", "out"):
                log.warning("%s was %s and is now %s", name, was[name], value)

    def save(self, step: int, seconds: float, places: Mapping[str, Place]) -> None:
        """Write all of it; every process has to come here.

        Raises:
            SystemExit: it cannot be written; the file before it is still there.
        """
        from accelerate.utils import gather_object

        places = {k: place for some in gather_object([dict(places)]) for k, place in some.items()}
        if self.accelerator.is_main_process:
            info = {"config": jsonable(self.config), "step": step, "seconds": seconds}
            with keeping(self.file, step):
                self._write(info | {"places": places})
        self.accelerator.wait_for_everyone()

    def _write(self, info: dict) -> None:
        tensors: dict[str, Tensor] = {}
        groups = {}
        for name, network in self.networks.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in network.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            groups[name] = state["param_groups"]
            for index, entry in state["state"].items():
                tensors |= {
                    f"optimizer.{name}/{index}/{key}": torch.as_tensor(value)
                    for key, value in entry.items()
                }
        tensors["random/torch"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        scaler = self.accelerator.scaler
        info |= {"param_groups": groups, "scaler": scaler.state_dict() if scaler else {}}
        new = self.file.with_name("state-new.safetensors")
        write_whole(new, checkpoint.to_bytes(tensors, info))
        if self.file.exists():
            os.replace(self.file, _before(self.config.out))
        os.replace(new, self.file)


def _before(out: Path) -> Path:
    return out / "state-before.safetensors"


@contextmanager
def keeping(file: Path, step: int) -> Iterator[None]:
    """Turn what goes wrong in writing `file` into a sentence about what is kept.

    Raises:
        SystemExit: for OSError, a full disk among them.
    """
    try:
        yield
    except OSError as error:
        raise SystemExit(
            f"step {step}: {file} cannot be written ({error.strerror or error}). The one saved "
            "before is untouched. Make room, and start again with the same --out."
        ) from error


def refuse_infinite_weights(network: nn.Module, state: State, step: int) -> None:
    """SystemExit where a weight is no number: it must not replace the last good state."""
    bad = [name for name, p in network.named_parameters() if not p.isfinite().all()]
    if bad:
        raise SystemExit(
            f"step {step}: the weights are no longer numbers ({bad[0]} first). Nothing is saved; "
            f"{state.file} holds the last good state. Start again with the same --out and a "
            "smaller --learning-rate, --clip 1, or --dtype float32."
        )


@dataclass
class Stop:
    """Ctrl-C and SIGTERM end a run after the step in progress, which is saved; again: at once."""

    accelerator: "Accelerator"
    every: int
    """Several processes ask each other after so many steps."""
    asked: bool = False
    before: dict = field(default_factory=dict)

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("%s: saves and stops", signal.Signals(number).name)

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer in all processes."""
        if self.accelerator.num_processes == 1:
            return self.asked
        if step % self.every:
            return False
        asked = torch.tensor(float(self.asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked) > 0)
