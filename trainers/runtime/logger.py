"""What a run tells while it trains: lines of JSON, TensorBoard curves, a bar."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...media.atomic import write_whole
from ...model_defs.checkpoint import read_info
from ..data.batches import Batch
from ..data.color_filter import passed_over
from .state import STATE, Begun, before_of, keeping

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
FIRST = 10  # steps after which a run tells whether it is well


class Report:
    """Means of a run's terms, as lines of JSON and TensorBoard curves; and how long it has trained.

    Nothing waits for the GPU between two reports: terms stay where they are computed.

    Args:
        accelerator: whose processes the means are taken over.
        out: folder of the run: `log.jsonl`, `tensorboard/`.
        steps: at which the run ends.
        begun: where it goes on.
    """

    def __init__(self, accelerator: "Accelerator", out: Path, steps: int, begun: Begun):
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self.accelerator, self.seconds = accelerator, begun.seconds
        self.out, self.file, self.curves, self.bar = out, out / "log.jsonl", None, None
        self._start_over()
        if accelerator.is_main_process:
            _forget_after(self.file, begun.step)
            self.curves = SummaryWriter(out / "tensorboard", purge_step=begun.step + 1)
            self.bar = tqdm(total=steps, initial=begun.step, unit="step", disable=None)
            self.redirect = logging_redirect_tqdm()

    def __enter__(self) -> "Report":
        if self.bar is not None:
            self.redirect.__enter__()
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if self.bar is not None:
            self.redirect.__exit__(kind, *error)
            self.bar.close()
            self.curves.close()
            if passed_over():
                log.info("%d photos could not be used", passed_over())
            if kind is None:
                before_of(self.out).unlink(missing_ok=True)

    def _start_over(self) -> None:
        self.photos: list[tuple[int, list[str]]] = []
        self.rows: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.terms: list[str] = []
        self.began, self.waited = time.monotonic(), 0.0

    def next(self, source: Iterator[Batch]) -> Batch:
        """The next batch of `source`; how long it is waited for is told."""
        began = time.monotonic()
        batch = next(source)
        self.waited += time.monotonic() - began
        return batch

    def add(self, step: int, terms: Mapping[str, Tensor], names: list[str]) -> None:
        """The terms of one part of the batch of `step`, each of one number; its photos' names."""
        self.terms = list(terms)
        self.rows.append(torch.stack([term.detach().float() for term in terms.values()]))
        self.photos.append((step, names))

    def advance(self, norm: Tensor) -> None:
        """A step is done, with a gradient of this norm."""
        self.norms.append(norm.detach())
        if self.bar is not None:
            self.bar.update()

    def write(self, step: int, rate: float) -> None:
        """A line about the steps since the last one, `step` being the number done.

        Raises:
            SystemExit: a loss was no number, in any process.
        """
        rows = torch.stack(self.rows)
        rows = self.accelerator.reduce(rows, "mean").cpu()
        self._refuse_infinite(rows)
        if self.accelerator.is_main_process:
            before_of(self.out).unlink(missing_ok=True)
        now = time.monotonic()
        elapsed, waited = now - self.began, self.waited
        self.seconds += elapsed
        photos = len(rows) * len(self.photos[0][1]) * self.accelerator.num_processes
        line = {
            name: round(v, 4) for name, v in zip(self.terms, rows.mean(0).tolist(), strict=True)
        }
        line |= {
            "gradient": _mean_of_finite(torch.stack(self.norms)),
            "step": step,
            "rate": float(f"{rate:.4g}"),
            "seconds": round(elapsed, 1),
            "photos_per_second": round(photos / elapsed, 1),
            "waiting": round(waited / elapsed, 3),
            "peak_mib": peak_mib(self.accelerator.device),
        }
        self._start_over()
        self.tell(line)

    def after_saving(self) -> None:
        """Saving counts as time of the run, not for its pace."""
        self.began, before = time.monotonic(), self.began
        self.seconds += self.began - before

    def tell(self, line: Mapping[str, float]) -> None:
        """Write a line, and its numbers as points of curves, at its `step`."""
        if self.curves is None:
            return
        log.info("%s", json.dumps(line))
        with keeping(self.file, line["step"]), self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self.curves.add_scalar(name, value, line["step"])
        self.curves.flush()

    def _refuse_infinite(self, rows: Tensor) -> None:
        bad = (~rows.isfinite()).any(1).nonzero()
        if not len(bad):
            return
        from accelerate.utils import broadcast_object_list, gather_object

        if self.accelerator.is_main_process and (before := before_of(self.out)).exists():
            os.replace(before, self.out / STATE)
        (saved,) = broadcast_object_list([read_info(self.out / STATE).get("step", 0)])
        first = int(bad[0])
        step, names = self.photos[first]
        values = zip(self.terms, rows[first].tolist(), strict=True)
        kept = f"The state of step {saved} is kept." if saved else "Nothing has been saved yet."
        told = ", ".join(f"{name} {value:.4g}" for name, value in values)
        raise SystemExit(
            f"step {step + 1}: a loss is not a number ({told}) "
            f"on the photos {', '.join(gather_object(names))}. {kept} Start again with the same "
            "--out and a smaller --learning-rate, --clip 1, or --dtype float32."
        )


def _mean_of_finite(norms: Tensor) -> float:
    """In float16 some steps overflow, and are left out of the training."""
    finite = norms[norms.isfinite()]
    return round(finite.mean().item(), 4) if len(finite) else 0.0


def _forget_after(file: Path, step: int) -> None:
    """Drop lines about steps that a resumed run does again."""
    if file.exists():
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line]
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            write_whole(file, "".join(line + "\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # cut off when the run was killed


def peak_mib(device: torch.device) -> int:
    """Most memory that the run has taken so far: of the GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
