"""Learning rates, parameter groups, frozen weights, spectral norm and random numbers of a step."""

import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

# --- Learning rates --------------------------------------------------------------------------


def halving(step: int, milestones: Iterable[int]) -> float:
    """Return the learning-rate factor 0.5 ^ (number of milestones reached)."""
    return 0.5 ** sum(step >= milestone for milestone in milestones)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Return the learning-rate factor: linear over `warmup` steps, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


# --- Parameters ------------------------------------------------------------------------------


def parameter_groups(
    network: nn.Module, weight_decay: float, encoder_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups with weight decay on matrices and filters alone.

    Norms, biases (position tables included) and other vectors do not decay. Each group holds its
    factor on the learning rate as "factor".

    Args:
        network: network in training.
        weight_decay: of matrices and filters.
        encoder_rate: factor on the learning rate of `network.encoder`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith("bias")
            scaled = encoder_rate != 1 and name.startswith("encoder.")
            groups.setdefault((scaled, not decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if exempt else weight_decay,
            "factor": encoder_rate if scaled else 1.0,
        }
        for (scaled, exempt), parameters in sorted(groups.items())
    ]


# Part of an encoder -> stage of its first item.
_FIRST_STAGE = {"stages": 0, "downsample": 0, "norms": 0, "merging": 1}


def count_stages(encoder: nn.Module) -> int:
    """Return the number of stages of an encoder."""
    return len(list(encoder.get_submodule("stages").children()))


def freeze_stages(encoder: nn.Module, count: int) -> None:
    """Freeze the first `count` stages of an encoder and everything before them, in place.

    Raises:
        ValueError: the encoder has fewer stages.
    """
    stages = count_stages(encoder)
    if count > stages:
        raise ValueError(f"frozen_stages is {count}; this encoder has {stages} stages.")
    for name, parameter in encoder.named_parameters():
        part, number, *_ = name.split(".")
        stage = _FIRST_STAGE[part] + int(number) if part in _FIRST_STAGE else 0
        if stage < count:
            parameter.requires_grad_(False)


@contextmanager
def frozen(network: nn.Module) -> Generator[None, None, None]:
    """Compute without gradients for the parameters of `network`."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


# --- Spectral norm ---------------------------------------------------------------------------


def apply_spectral_norm(convolutions: Iterable[nn.Conv2d], weights: str | None) -> None:
    """Apply spectral norm (Miyato et al. 2018) in place.

    Args:
        convolutions: layers of a new network, or of one that was trained with spectral norm.
        weights: model that training starts from, if any.
    Raises:
        ValueError: the model was trained without spectral norm and would be rescaled.
    """
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2).item()
        if weights and not 0.8 < norm < 1.25:
            raise ValueError(
                f"weights is {weights}, which was trained without spectral norm: it would divide "
                f"a filter bank by {norm:.2g}. Give --no-spectral-norm, or other weights."
            )
        spectral_norm(convolution)


def folded_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """Return a state dict in which parametrized weights appear as plain weights."""
    state = {key: t for key, t in network.state_dict().items() if ".parametrizations." not in key}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            state[f"{name}.weight"] = module.weight
    return state


# --- Random numbers --------------------------------------------------------------------------


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of one step, equal in all processes and after a resume."""
    # Consecutive seeds are mixed, since torch's generator on the CPU uses only 32 bits of them.
    mixed = np.random.SeedSequence([seed, step]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
