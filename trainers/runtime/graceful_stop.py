"""Stop a run on Ctrl-C or SIGTERM after the step in progress."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

# Steps after which several processes ask each other: launchers kill them 30 s after a signal.
SYNC_EVERY = 10


class GracefulStop:
    """Context in which Ctrl-C and SIGTERM request a stop. A second signal interrupts at once.

    Args:
        accelerator: processes that must agree.
        max_interval: largest number of steps between two exchanges of several processes.
    """

    def __init__(self, accelerator: "Accelerator", max_interval: int):
        self.accelerator = accelerator
        self.interval = min(max_interval, SYNC_EVERY)
        self._signaled, self._signaled_at = False, 0.0
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Terminals and launchers may both deliver the same Ctrl-C.
        if self._signaled and time.monotonic() - self._signaled_at > 2:
            raise KeyboardInterrupt
        self._signaled, self._signaled_at = True, time.monotonic()
        log.warning("%s: saving and stopping", signal.Signals(number).name)

    def requested(self, step: int) -> bool:
        """Return True if the run must stop after `step`; the same in all processes."""
        if self.accelerator.num_processes == 1:
            return self._signaled
        if step % self.interval:
            return False
        signaled = torch.tensor(float(self._signaled), device=self.accelerator.device)
        return bool(self.accelerator.reduce(signaled) > 0)
