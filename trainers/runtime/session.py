"""Around the loop: what is trained on what, feature losses, a stop by the user."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...model_defs import registry
from ...model_store import resolve
from ...ops import color
from .. import losses, pretrained_files
from ..data.photos import Photos
from ..data.shards import Shards
from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator


log = logging.getLogger(__name__)

OFTEN = 10  # steps after which processes ask each other whether to stop: launchers wait 30 s


def introduce(accelerator: "Accelerator", photos: Photos | Shards, network: nn.Module) -> None:
    """A line about what is trained on what."""
    much = ", ".join(f"{count} {what}" for what, count in photos.counted().items())
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    where = f"{accelerator.num_processes} x {accelerator.device}"
    log.info("%s, %.2f M parameters, %s", much, millions, where)


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
    path = pretrained_files.find(config.vgg, offline=config.offline)
    return losses.PerceptualLoss(path).to(device)


def feature_loss(config: Settings, device: torch.device) -> losses.FeatureLoss | None:
    """The feature loss of `config.feature_network`, or None where its weight is 0."""
    if not config.feature:
        return None
    path = pretrained_files.find(config.feature_network, offline=config.offline)
    return losses.FeatureLoss(path).to(device, memory_format=torch.channels_last)


def teacher(config: Settings, device: torch.device) -> nn.Module | None:
    """Return the frozen network of `config.teacher`, on `device`, or None if none is named.

    Raises:
        CheckpointError: no such file or network.
        ValueError: not an automatic network: it needs hints or a reference.
    """
    if not config.teacher:
        return None
    network, spec, _ = registry.load(resolve.locate(config.teacher, offline=config.offline))
    if spec.role != "automatic":
        raise ValueError(
            f"teacher is {config.teacher}, a network for {spec.role}; expected one that colors "
            "without hints or references, such as ddcolor-nano."
        )
    network.requires_grad_(False).eval()
    return network.to(device, memory_format=torch.channels_last)


def distilled(true_ab: Tensor, L: Tensor, teacher: nn.Module | None, share: float) -> Tensor:
    """Return the target colors: `true_ab` blended with the answer of `teacher`.

    The answer of a trained network varies less than the colors of single photos, so a second
    network learns from it in fewer steps (Hinton, Vinyals and Dean 2015).

    Args:
        true_ab: ab of the photos, (B, 2, H, W).
        L: their lightness, (B, 1, H, W) in 0..100.
        teacher: automatic network; None returns `true_ab`.
        share: weight of its answer, 0..1.
    """
    if teacher is None:
        return true_ab
    with torch.no_grad():
        return torch.lerp(true_ab, teacher(color.gray_rgb(L).contiguous()).float(), share)


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
