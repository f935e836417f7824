"""Bookkeeping of a training run around a loop that the trainer owns."""

import dataclasses
import logging
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..data import batches
from ..data.batches import Batch, Transform
from ..data.photos import hold_out, open_photos
from . import distributed, provenance, sample_grid
from .ema import WeightAverage
from .graceful_stop import GracefulStop
from .logger import FIRST_REPORT, TrainingLogger
from .settings import Settings
from .state import ResumePoint, TrainingState, disk_full_as_exit

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


class TrainingSession:
    """Context of one run: processes, photos, weight average, resume, log, samples and saves.

    The trainer calls the session, never the reverse:

        with TrainingSession(config) as session:
            ...  # build the network and its optimizer
            session.resume({"network": network}, {"network": optimizer})
            model, optimizer = session.accelerator.prepare(network, optimizer)
            for step, batch in session.steps(session.load_batches(transform)):
                session.set_learning_rate(rate)
                for part in batch.split(config.accumulate):
                    with session.accelerator.accumulate(model):
                        ...  # forward, losses, backward
                        session.clip_gradients(model)
                        optimizer.step()
                        optimizer.zero_grad()
                    session.add_losses({"pixel": loss}, part)
                session.finish_step()
                if session.save_due:
                    if session.accelerator.is_main_process:
                        ...  # samples
                        session.write_weights(session.average.module, "ddcolor", {})
                    session.save()

    Attributes:
        accelerator: device, precision and processes.
        device: device of this process.
        photos: photos to train on.
        held_out: photos for samples and scores.
        average: moving average of the network, from `resume` on.
        logger: log of the run, from `resume` on.
        done: number of steps done, from `resume` on.
        save_due: True after `finish_step` if the trainer must save now.
    Raises:
        ValueError, OSError: the settings do not fit this machine, or photos cannot be read.
    """

    average: WeightAverage
    logger: TrainingLogger

    def __init__(self, config: Settings):
        self.config = config
        self.accelerator: Accelerator = distributed.create_accelerator(config)
        self.device: torch.device = self.accelerator.device
        self.photos, self.held_out = hold_out(
            open_photos(config.photos, config.index, config.skip_licences, config.stream),
            config.held_out,
            config.seed,
            config.watch,
        )
        self.done, self.save_due = 0, False
        self._contexts = ExitStack()
        self._resume_point = ResumePoint()
        self._rate, self._gradient_norm = 0.0, torch.zeros(())
        self._stopping = False

    def __enter__(self) -> "TrainingSession":
        self._contexts.enter_context(distributed.quiet_processes(self.accelerator))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._contexts.__exit__(kind, error, traceback)

    def resume(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        """Restore the last save of the run, if any; start the log and the handling of signals.

        Call it before `accelerator.prepare`. The names are those in the training state.

        Args:
            networks: "network", whose weights are averaged, and others such as a discriminator.
            optimizers: optimizers of the networks.
        Raises:
            ValueError: the save is damaged, or belongs to a run with other networks.
        """
        config, accelerator = self.config, self.accelerator
        self._network = networks["network"]
        self._optimizers = list(optimizers.values())
        self.average = WeightAverage(self._network, config.average)
        saved = {**networks, "average": self.average.module}
        self._state = TrainingState(accelerator, config, saved, optimizers)
        self._resume_point = resume = self._state.load()
        self.done = resume.step
        self.average.start_after(resume.step)
        self._log_summary()
        skipped = self.photos.skipped
        self.logger = self._contexts.enter_context(
            TrainingLogger(accelerator, config.out, config.steps, resume, skipped)
        )
        self._stop = self._contexts.enter_context(GracefulStop(accelerator, config.report_every))

    def _log_summary(self) -> None:
        photos = ", ".join(f"{count} {unit}" for unit, count in self.photos.counts().items())
        millions = sum(p.numel() for p in self._network.parameters()) / 1e6
        processes = f"{self.accelerator.num_processes} x {self.device}"
        log.info("%s, %.2f M parameters, %s", photos, millions, processes)

    @property
    def starts_from_weights(self) -> bool:
        """True in the main process of a new run that starts from a trained model.

        Samples of step 0 then show what the model could do before.
        """
        return bool(self.config.weights) and not self.done and self.accelerator.is_main_process

    # --- Data --------------------------------------------------------------------------------

    def load_batches(self, transform: Transform) -> Generator[Batch, None, None]:
        """Return the training batches of this process, from the step at which the run resumes."""
        config, resume = self.config, self._resume_point
        return batches.load_batches(
            self.photos,
            transform,
            batch=config.batch,
            seed=config.seed,
            start=resume.step,
            stream_positions=dict(resume.stream_positions),
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            parts=config.accumulate,
            threads=config.threads,
        )

    def load_first_batches(self, transform: Transform) -> Generator[Batch, None, None]:
        """Return whole training batches from the first on, to calibrate a result with."""
        config = self.config
        return batches.load_batches(
            self.photos, transform, batch=config.batch, seed=config.seed, threads=config.threads
        )

    # --- Loop --------------------------------------------------------------------------------

    def steps(self, source: Generator[Batch, None, None]) -> Iterator[tuple[int, Batch]]:
        """Yield step and batch until `config.steps` are done or a stop is requested.

        Args:
            source: result of `load_batches`; it is closed with the session.
        """
        self._contexts.callback(source.close)
        self.logger.start_timer()
        for step in range(self.done, self.config.steps):
            batch = self.logger.next_batch(source)
            self._stream_positions = batch.stream_positions
            yield step, batch
            if self._stopping:
                return

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all parameter groups, times the factor of each."""
        self._rate = rate
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)

    def clip_gradients(self, model: nn.Module) -> None:
        """Limit the gradient norm of a step to `config.clip`, after its last part."""
        if self.accelerator.sync_gradients:
            limit = self.config.clip or math.inf
            norm = self.accelerator.clip_grad_norm_(model.parameters(), limit)
            self._gradient_norm = cast(Tensor, norm)

    def add_losses(self, losses: Mapping[str, Tensor], part: Batch) -> None:
        """Record the losses, each a scalar, of one part of a batch for the log."""
        self.logger.add_losses(self.done, losses, part.names)

    def finish_step(self) -> None:
        """Update the weight average and the log, and decide whether to save or to stop.

        Raises:
            SystemExit: a loss or, before a save, a weight is not finite.
        """
        self.average.update_parameters(self._network)
        self.logger.step(self._gradient_norm)
        self.done = done = self.done + 1
        config = self.config
        self._stopping = self._stop.requested(done)
        self.save_due = self._stopping or done % config.save_every == 0 or done == config.steps
        if self.save_due or done % config.report_every == 0 or done == FIRST_REPORT:
            self.logger.report(done, self._rate)
        if self.save_due:
            self._state.require_finite_weights(done)

    # --- Results -----------------------------------------------------------------------------

    def log_samples(self, colorize: sample_grid.ColorizeSample) -> None:
        """Log scores and a contact sheet of the held-out photos. For the main process."""
        sample_grid.log_samples(self.held_out, colorize, self.logger, self.done)

    def write_weights(
        self, network: nn.Module, architecture: str, spec_fields: Mapping[str, object]
    ) -> None:
        """Write the result, OUT/weights.safetensors. For the main process.

        Args:
            network: network with a `config`.
            architecture: its name in the registry.
            spec_fields: fields of its `Spec` that may differ from those of the architecture.
        Raises:
            SystemExit: the file cannot be written; the previous one is kept.
        """
        config, done = self.config, self.done
        info: dict[str, Any] = {
            "architecture": architecture,
            "config": dataclasses.asdict(cast(Any, network.config)),
            "training": provenance.training_provenance(
                config, self.photos, done, self.logger.seconds
            ),
            "licence": config.licence,
            "spec": spec_fields,
        }
        path = config.out / "weights.safetensors"
        with disk_full_as_exit(path, done):
            provenance.write_weights(path, network, info)
        log.info("%s: saved after step %d", path, done)

    def save(self) -> None:
        """Save the training state. All processes must call this, after the result is written.

        Raises:
            SystemExit: the file cannot be written; the previous one is kept.
        """
        self._state.save(self.done, self.logger.seconds, self._stream_positions)
        self.logger.skip_save_time()
