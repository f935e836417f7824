"""Learning rates, spectral norm, groups of parameters, random numbers of a step."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm


def halving(step: int, milestones: tuple[int, ...]) -> float:
    """Learning-rate factor 0.5 ^ (milestones passed)."""
    return 0.5 ** sum(step >= milestone for milestone in milestones)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Linear rise over `warmup` steps, then half a cosine down to zero at `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def normalise(convolutions: Iterator[nn.Conv2d], given: str | None) -> None:
    """Spectral norm (Miyato et al. 2018) in place, of a new network or of one that had it.

    Args:
        given: the weights to start from, if any.
    Raises:
        ValueError: weights that were trained without, which it would rescale.
    """
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2).item()
        if given and not 0.8 < norm < 1.25:
            raise ValueError(
                f"weights is {given}, which was trained without spectral norm: it would divide a "
                f"filter bank by {norm:.2g}. Give --no-spectral-norm, or other weights."
            )
        spectral_norm(convolution)


def parameter_groups(
    network: nn.Module, weight_decay: float, encoder_rate: float = 1.0
) -> list[dict]:
    """Weight decay on matrices and filters; none on norms, biases (tables, too) and vectors.

    Args:
        encoder_rate: factor on the learning rate of `network.encoder`, kept as `factor` of a group.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith("bias")
            slower = encoder_rate != 1 and name.startswith("encoder.")
            groups.setdefault((slower, not decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if plain else weight_decay,
            "factor": encoder_rate if slower else 1.0,
        }
        for (slower, plain), parameters in sorted(groups.items())
    ]


_FIRST_STAGE = {"stages": 0, "downsample": 0, "norms": 0, "merging": 1}  # where numbers count from


def freeze(encoder: nn.Module, stages: int) -> None:
    """Keep the weights of everything up to and with the first `stages` stages, in place.

    Raises:
        ValueError: more than the encoder has.
    """
    if stages > len(encoder.stages):
        raise ValueError(
            f"frozen_stages is {stages}; this encoder has {len(encoder.stages)} stages."
        )
    for name, parameter in encoder.named_parameters():
        part, number, *_ = name.split(".")
        stage = _FIRST_STAGE[part] + int(number) if part in _FIRST_STAGE else 0
        if stage < stages:
            parameter.requires_grad_(False)


def generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, the same in all processes and in a resumed run."""
    # torch's generator on the CPU looks at 32 bits of its seed.
    mixed = np.random.SeedSequence([seed, step]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


def folded(network: nn.Module) -> dict[str, torch.Tensor]:
    """State dict in which parametrized weights appear as plain weights."""
    state = {key: t for key, t in network.state_dict().items() if ".parametrizations." not in key}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            state[f"{name}.weight"] = module.weight
    return state
