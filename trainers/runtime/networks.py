"""Trained networks of a run: its start, its teacher, and those that losses compare with."""

import logging
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...model_defs import registry
from ...model_defs.spec import Spec
from ...model_store import resolve
from ...ops import color
from .. import losses, pretrained_files
from .settings import AutomaticSettings

log = logging.getLogger(__name__)
NetworkT = TypeVar("NetworkT", bound=nn.Module)


def load_initial(
    weights: str, architecture: str, network_type: type[NetworkT], *, offline: bool
) -> tuple[NetworkT, Spec]:
    """Load the model that training starts from, and its spec.

    Args:
        weights: file, or name of a bundled or installed model.
        architecture: name of the expected architecture.
        network_type: class of its network.
        offline: download nothing.
    Raises:
        CheckpointError: the model does not exist.
        ValueError: the model has another architecture.
    """
    network, spec, _ = registry.load(resolve.model_path(weights, offline=offline))
    if not isinstance(network, network_type):
        raise ValueError(
            f"weights is {weights}, a {spec.architecture} network; expected one of the "
            f"architecture {architecture}."
        )
    return network, spec


def to_channels_last(network: NetworkT, device: torch.device) -> NetworkT:
    """Move a network to a device and its filters to the memory format that convolutions prefer."""
    # The annotations of torch lack `memory_format`.
    return network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]


def load_perceptual_loss(
    config: AutomaticSettings, device: torch.device
) -> losses.PerceptualLoss | None:
    """Return the perceptual loss, or None if its weight is 0 or VGG-16 is missing."""
    if not config.perceptual:
        return None
    if not config.vgg:
        log.info("perceptual loss is off: it needs ImageNet weights, --vgg vgg16_bn or --vgg FILE")
        return None
    path = pretrained_files.locate(config.vgg, offline=config.offline)
    return losses.PerceptualLoss(path).to(device)


def load_feature_loss(config: AutomaticSettings, device: torch.device) -> losses.FeatureLoss | None:
    """Return the feature loss, or None if its weight is 0."""
    if not config.feature or not config.feature_network:
        return None
    path = pretrained_files.locate(config.feature_network, offline=config.offline)
    return to_channels_last(losses.FeatureLoss(path), device)


def load_teacher(config: AutomaticSettings, device: torch.device) -> nn.Module | None:
    """Return a frozen automatic network for distillation, or None without `config.teacher`.

    Raises:
        CheckpointError: the model does not exist.
        ValueError: the model needs hints or a reference.
    """
    if not config.teacher:
        return None
    path = resolve.model_path(config.teacher, offline=config.offline)
    network, spec, _ = registry.load(path)
    if spec.role != "automatic":
        raise ValueError(
            f"teacher is {config.teacher}, a network for {spec.role}; expected one that colors "
            "without hints or references, such as ddcolor-nano."
        )
    return to_channels_last(network.requires_grad_(False).eval(), device)


def distill(true_ab: Tensor, L: Tensor, teacher: nn.Module, share: float) -> Tensor:
    """Return target colors: those of the photos, blended with the teacher's.

    The answers of a trained network vary less than the colors of single photos, so a second network
    learns from them in fewer steps (Hinton, Vinyals and Dean 2015).

    Args:
        true_ab: ab of the photos, (B, 2, H, W).
        L: their lightness, (B, 1, H, W) in 0..100.
        teacher: automatic network.
        share: weight of its answer, 0..1.
    """
    with torch.no_grad():
        return torch.lerp(true_ab, teacher(color.gray_rgb(L).contiguous()).float(), share)
