"""Log of a training run: JSON lines, TensorBoard curves and a progress bar."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...media.atomic import write_atomic
from ...model_defs.checkpoint import read_info
from ..data.batches import Batch
from ..data.color_filter import SkippedPhotos
from .state import STATE_FILE, ResumePoint, disk_full_as_exit, previous_path

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
FIRST_REPORT = 10  # steps; an early line shows whether a run has started well


class TrainingLogger:
    """Mean losses of a run as JSON lines and TensorBoard curves, and its training time.

    Losses stay on the GPU until a report, so that no step waits for it.

    Args:
        accelerator: processes to average over.
        out: output folder, for `log.jsonl` and `tensorboard/`.
        steps: last step of the run.
        resume: point that the run resumes from.
        skipped: photos that could not be used, counted in the log at the end.
    Attributes:
        seconds: training time up to the last report.
        tensorboard: writer of the curves; None in all processes but the main one.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        out: Path,
        steps: int,
        resume: ResumePoint,
        skipped: SkippedPhotos,
    ):
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self.accelerator, self.seconds, self.skipped = accelerator, resume.seconds, skipped
        self.out, self.file = out, out / "log.jsonl"
        self.tensorboard: SummaryWriter | None = None
        self.bar: tqdm[Any] | None = None
        self._redirect = ExitStack()
        self._start_interval()
        if accelerator.is_main_process:
            _truncate_after(self.file, resume.step)
            self.tensorboard = SummaryWriter(out / "tensorboard", purge_step=resume.step + 1)
            self.bar = tqdm(total=steps, initial=resume.step, unit="step", disable=None)

    def __enter__(self) -> "TrainingLogger":
        from tqdm.contrib.logging import logging_redirect_tqdm

        if self.bar is not None:
            self._redirect.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bar is None or self.tensorboard is None:
            return
        self._redirect.close()
        self.bar.close()
        self.tensorboard.close()
        if self.skipped:
            log.info("skipped %d photos that are unreadable or colorless", len(self.skipped))
        if kind is None:
            previous_path(self.out).unlink(missing_ok=True)

    def _start_interval(self) -> None:
        """Forget the losses and times of the last interval between reports."""
        self._photos: list[tuple[int, list[str]]] = []
        self._rows: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._names: list[str] = []
        self._started, self._waited = time.monotonic(), 0.0

    def start_timer(self) -> None:
        """Count the time from now on."""
        self._started = time.monotonic()

    def next_batch(self, source: Iterator[Batch]) -> Batch:
        """Return the next batch of `source`, and count the time spent waiting for it."""
        started = time.monotonic()
        batch = next(source)
        self._waited += time.monotonic() - started
        return batch

    def add_losses(self, step: int, losses: Mapping[str, Tensor], photos: list[str]) -> None:
        """Record the losses of one part of the batch of `step`.

        Args:
            step: number of the step.
            losses: name -> scalar.
            photos: names of the photos, for error messages.
        """
        self._names = list(losses)
        self._rows.append(torch.stack([loss.detach().float() for loss in losses.values()]))
        self._photos.append((step, photos))

    def step(self, gradient_norm: Tensor) -> None:
        """Record the end of a step."""
        self._norms.append(gradient_norm.detach())
        if self.bar is not None:
            self.bar.update()

    def report(self, step: int, rate: float) -> None:
        """Log the mean losses since the last report.

        Args:
            step: number of steps done.
            rate: learning rate.
        Raises:
            SystemExit: a loss is not finite, in any process.
        """
        rows = torch.stack(self._rows)
        rows = self.accelerator.reduce(rows, "mean").cpu()
        self._require_finite(rows)
        if self.accelerator.is_main_process:
            previous_path(self.out).unlink(missing_ok=True)
        elapsed = time.monotonic() - self._started
        self.seconds += elapsed
        photos = len(rows) * len(self._photos[0][1]) * self.accelerator.num_processes
        means = zip(self._names, rows.mean(0).tolist(), strict=True)
        line = {name: round(mean, 4) for name, mean in means} | {
            "gradient": _mean_of_finite(torch.stack(self._norms)),
            "step": step,
            "rate": float(f"{rate:.4g}"),
            "seconds": round(elapsed, 1),
            "photos_per_second": round(photos / elapsed, 1),
            "waiting": round(self._waited / elapsed, 3),
            "peak_mib": peak_memory_mib(self.accelerator.device),
        }
        self._start_interval()
        self.log(line)

    def skip_save_time(self) -> None:
        """Count the time since the last report as training time, but not for the pace."""
        saved = time.monotonic()
        self.seconds += saved - self._started
        self._started = saved

    def log(self, line: Mapping[str, float]) -> None:
        """Append a line to the log, and its numbers to the curves at its "step"."""
        if self.tensorboard is None:
            return
        log.info("%s", json.dumps(line))
        step = int(line["step"])
        with disk_full_as_exit(self.file, step), self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self.tensorboard.add_scalar(name, value, step)
        self.tensorboard.flush()

    def _require_finite(self, rows: Tensor) -> None:
        bad = (~rows.isfinite()).any(1).nonzero()
        if not len(bad):
            return
        from accelerate.utils import broadcast_object_list, gather_object

        previous = previous_path(self.out)
        if self.accelerator.is_main_process and previous.exists():
            os.replace(previous, self.out / STATE_FILE)  # the last save led to this loss
        (saved,) = broadcast_object_list([read_info(self.out / STATE_FILE).get("step", 0)])
        first = int(bad[0])
        step, photos = self._photos[first]
        values = zip(self._names, rows[first].tolist(), strict=True)
        losses = ", ".join(f"{name} {value:.4g}" for name, value in values)
        kept = f"The state of step {saved} is kept." if saved else "Nothing has been saved yet."
        raise SystemExit(
            f"step {step + 1}: a loss is not finite ({losses}) on the photos "
            f"{', '.join(gather_object(photos))}. {kept} Start again with the same --out and a "
            "smaller --learning-rate, --clip 1, or --dtype float32."
        )


def _mean_of_finite(norms: Tensor) -> float:
    """Average the norms of all steps but those that overflowed in float16 and were skipped."""
    finite = norms[norms.isfinite()]
    return round(finite.mean().item(), 4) if len(finite) else 0.0


def _truncate_after(file: Path, step: int) -> None:
    """Drop lines about steps that a resumed run repeats."""
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_atomic(file, "".join(line + "\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # cut off when the run was killed


def peak_memory_mib(device: torch.device) -> int:
    """Return the peak memory of the run so far: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
