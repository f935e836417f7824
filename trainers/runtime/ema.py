"""Averaged weights, and batch-norm statistics for them."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..data.batches import Batch


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


@torch.no_grad()
def mixed(network: nn.Module, start: Mapping[str, Tensor], share: float) -> nn.Module:
    """Return a copy whose parameters are `share` parts of `start` and the rest of `network`.

    Weight-space ensembles (Wortsman et al. 2022, eq. 1). Calibrate batch norms afterwards.
    """
    result = copy.deepcopy(network)
    for name, parameter in result.named_parameters():
        parameter.lerp_(start[name].to(parameter), share)
    return result


def calibrate(
    network: nn.Module,
    source: Iterator[Batch],
    seen: Callable[[Batch], tuple[Tensor, ...]],
    batches: int = 16,
) -> None:
    """Batch-norm statistics for averaged weights: those of the network in training do not fit them.

    Args:
        source: generator of batches; closed in the end.
        seen: a batch -> the network's inputs.
        batches: how many to look at.
    """

    class Reader(nn.Module):
        """Takes several inputs as one, which is how `update_bn` hands them on."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: dict[int, Tensor]) -> None:
            self.network(*inputs.values())

    with closing(source):
        some = itertools.islice(source, batches)
        reader = Reader().train(network.training)
        update_bn((dict(enumerate(seen(x))) for x in some), reader)
