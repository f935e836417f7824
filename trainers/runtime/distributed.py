"""Devices, precision and processes of a training run, on top of Accelerate."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

NetworkT = TypeVar("NetworkT", bound=nn.Module)
REQUIRED_PACKAGES = ("accelerate", "tensorboard", "tqdm", "webdataset")


def create_accelerator(config: Settings) -> "Accelerator":
    """Set up device, precision, accumulation and processes, and seed torch.

    Raises:
        ValueError: a required package is missing, the device or dtype is not available, processes
            do not find each other, or the batch cannot be divided evenly.
    """
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"training needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no CUDA GPU. Leave out --device.")
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    from accelerate import Accelerator, DistributedDataParallelKwargs

    precision = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[_resolve_dtype(config)]
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=config.device == "cpu" or (world_size > 1 and not torch.accelerator.is_available()),
        # Buffers agree without it: batch norm is synchronized, spectral norm is deterministic.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.num_processes != world_size:
        raise ValueError(
            f"a launcher started {world_size} processes, but they do not find each other. On CPUs "
            "start them with torchrun."
        )
    parts = accelerator.num_processes * config.accumulate
    if config.batch % parts:
        raise ValueError(
            f"a batch of {config.batch} photos cannot be divided evenly by "
            f"{accelerator.num_processes} processes in {config.accumulate} parts."
        )
    torch.manual_seed(config.seed)
    return accelerator


def _resolve_dtype(config: Settings) -> str:
    on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if config.dtype == "float16" and on_cpu:
        raise ValueError("dtype is float16, but training on a CPU supports float32 and bfloat16.")
    if config.dtype != "auto":
        return config.dtype
    if config.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float16"


@contextmanager
def quiet_processes(accelerator: "Accelerator") -> Generator[None, None, None]:
    """Silence the log of all processes but the main one, and harmless warnings of torch."""
    disabled_level = logging.root.manager.disable
    with warnings.catch_warnings():
        # 1x1 convolutions in channels_last: the strides differ, the memory layout does not.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Deprecated in new versions of torch, and old ones lack the replacement.
        warnings.filterwarnings("ignore", ".*broadcast_buffers")
        if not accelerator.is_main_process:
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled_level)


# --- Batch norm over several processes ---------------------------------------------------------


class AllReduceSum(torch.autograd.Function):
    """Sum over all processes. Its gradient is summed as well."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:  # pyrefly: ignore[bad-override] - torch: *args
        x = x.clone()
        distributed.all_reduce(x)
        return x

    @staticmethod
    # torch declares *grad_outputs.
    def backward(_: Any, gradient: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class AllReduceBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, so that they match one process.

    `torch.nn.SyncBatchNorm` does the same but refuses to run on a CPU, where the tests compare
    several processes with one.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        count = input.numel() // input.shape[1] * distributed.get_world_size()
        wide = input.float()
        mean = AllReduceSum.apply(wide.sum((0, 2, 3))) / count
        centered = wide - mean.view(1, -1, 1, 1)
        variance = AllReduceSum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = cast(float, self.momentum)
            cast(Tensor, self.num_batches_tracked).add_(1)
            cast(Tensor, self.running_mean).lerp_(mean, momentum)
            cast(Tensor, self.running_var).lerp_(variance * count / (count - 1), momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)


def convert_sync_batchnorm(network: NetworkT, accelerator: "Accelerator") -> NetworkT:
    """Synchronize the batch norms of a network in place if there are several processes."""
    if accelerator.num_processes > 1:
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = AllReduceBatchNorm2d  # keeps parameters, buffers and their names
    return network
