"""The engine room of a training run: devices, precision, processes.

Devices, precision, accumulation and several processes are Accelerate's. What is here is called by
the trainers and calls none of them; so are `logger` and `state`.
"""

import importlib.util
import logging
import os
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator


log = logging.getLogger(__name__)
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
