"""The engine room of a training run: devices, precision, processes, and how it is stopped.

Devices, precision, accumulation and several processes are Accelerate's. What is here is called by
the trainers and calls none of them; so are `reports` and `checkpoints`.
"""

import importlib.util
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from . import data, losses, weights
from .common import Settings
from .streams import Shards

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
OFTEN = 10  # steps after which processes ask each other whether to stop: launchers wait 30 s
NEEDED = ("accelerate", "tensorboard", "tqdm", "webdataset")


def accelerator(config: Settings) -> "Accelerator":
    """Device, precision, accumulation, and the other processes of this run, if a launcher made any.

    Raises:
        ValueError: a library that training needs is missing, or a batch cannot be shared evenly.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"training needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, and torch finds no GPU here; leave out --device.")
    wanted = int(os.environ.get("WORLD_SIZE", 1))
    from accelerate import Accelerator, DistributedDataParallelKwargs

    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[_dtype(config)]
    made = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=config.device == "cpu" or (wanted > 1 and not torch.accelerator.is_available()),
        # Batch norm is shared (below), and spectral norm does the same everywhere.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if made.num_processes != wanted:
        raise ValueError(
            f"a launcher started {wanted} processes, which do not find each other. On CPUs start "
            "them with torchrun."
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
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if config.dtype == "float16" and on_cpu:
        raise ValueError("dtype is float16, which is for GPUs; on a CPU: float32 or bfloat16.")
    if config.dtype != "auto":
        return config.dtype
    if config.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    known = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if known else "float16"


def introduce(accelerator: "Accelerator", photos: data.Photos | Shards, network: nn.Module) -> None:
    """A line about what is trained on what."""
    much = ", ".join(f"{count} {what}" for what, count in photos.counted().items())
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    where = f"{accelerator.num_processes} x {accelerator.device}"
    log.info("%s, %.2f M parameters, %s", much, millions, where)


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


def feature_loss(config: Settings, device: torch.device) -> losses.FeatureLoss | None:
    """The feature loss of `config.feature_network`, or None where its weight is 0."""
    if not config.feature:
        return None
    path = weights.find(config.feature_network, offline=config.offline)
    return losses.FeatureLoss(path).to(device, memory_format=torch.channels_last)


# --- The end ---------------------------------------------------------------------------------


@dataclass
class Stop:
    """Ctrl-C and SIGTERM end a run after the step in progress, which is saved; again: at once."""

    accelerator: "Accelerator"
    every: int
    """Several processes ask each other after so many steps."""
    asked: bool = False
    since: float = 0.0
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
        if self.asked and time.monotonic() - self.since > 2:  # not the same one, sent twice
            raise KeyboardInterrupt
        self.asked, self.since = True, time.monotonic()
        log.warning("%s: saves and stops", signal.Signals(number).name)

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; the same answer in all processes."""
        if self.accelerator.num_processes == 1:
            return self.asked
        if step % min(self.every, OFTEN):
            return False
        asked = torch.tensor(float(self.asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked) > 0)
