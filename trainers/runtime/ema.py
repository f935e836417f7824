"""Average of the weights over training, and batch-norm statistics for it."""

import copy
import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, update_bn

from ..data.batches import Batch


class WeightAverage(AveragedModel):
    """Exponential moving average of a network's parameters, with a warm-up of the decay.

    Early steps use a smaller decay, so that initial weights fade quickly. Buffers are copied, see
    `update_bn_statistics`. Attribute `module` is the averaged network.

    Args:
        network: network in training.
        decay: highest decay.
    """

    def __init__(self, network: nn.Module, decay: float):
        super().__init__(network, multi_avg_fn=self._blend)
        self.decay = decay
        self.module.eval().requires_grad_(False)
        self.start_after(0)

    def start_after(self, step: int) -> None:
        """Continue an average of `step` steps."""
        # One more than the steps: at 0, AveragedModel would copy the network instead of blending.
        self.n_averaged.fill_(step + 1)

    @torch.no_grad()
    def _blend(self, averaged: PARAM_LIST, current: PARAM_LIST, _: Tensor | int) -> None:
        count = int(self.n_averaged)  # on the CPU; the argument would wait for the GPU
        decay = min(self.decay, count / (9 + count))
        torch._foreach_lerp_(averaged, current, 1 - decay)


@torch.no_grad()
def interpolate_weights(
    network: nn.Module, start: Mapping[str, Tensor], start_share: float
) -> nn.Module:
    """Return a copy with parameters (1 - start_share) * network + start_share * start.

    Weight-space ensembles (Wortsman et al. 2022, eq. 1). Update batch-norm statistics afterwards.
    """
    result = copy.deepcopy(network)
    for name, parameter in result.named_parameters():
        parameter.lerp_(start[name].to(parameter), start_share)
    return result


class _UnpackInputs(nn.Module):
    """Passes a tuple on as separate inputs: `update_bn` calls a network with one argument."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: tuple[Tensor, ...]) -> None:
        self.network(*inputs)


def update_bn_statistics(
    network: nn.Module,
    source: Generator[Batch, None, None],
    to_inputs: Callable[[Batch], tuple[Tensor, ...]],
    batches: int = 16,
) -> None:
    """Recompute batch-norm statistics in place, as averaged weights need their own.

    Args:
        network: averaged network.
        source: generator of batches; it is closed.
        to_inputs: returns the inputs of the network for a batch.
        batches: number of batches to use.
    """
    with closing(source):
        # `update_bn` takes the first item of a list as the argument.
        inputs = ([to_inputs(batch)] for batch in itertools.islice(source, batches))
        update_bn(inputs, _UnpackInputs(network).train(network.training))
