"""Training state: the file that a run resumes from."""

import json
import logging
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...media.atomic import remove_abandoned_parts, write_atomic
from ...model_defs import checkpoint, registry
from ..data.shards import StreamPosition
from .provenance import portable_settings
from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
STATE_FILE, NEW_STATE_FILE = "state.safetensors", "state-new.safetensors"
PREVIOUS_STATE_FILE = "state-before.safetensors"


class ResumePoint(NamedTuple):
    """Point from which a run continues; the defaults are those of a new run."""

    step: int = 0
    """Number of steps done."""
    seconds: float = 0.0
    """Training time so far."""
    stream_positions: Mapping[str, StreamPosition] = {}
    """See `batches.Batch.stream_positions`."""


class StateInfo(TypedDict):
    """Metadata of a training state. Version 1.0.0 writes the same keys."""

    config: dict[str, Any]
    step: int
    seconds: float
    places: dict[str, StreamPosition]
    param_groups: dict[str, list[dict[str, Any]]]
    scaler: dict[str, Any]


@dataclass
class TrainingState:
    """Everything a run needs to resume bit for bit, in one file: `OUT/state.safetensors`.

    It holds networks, their average, optimizers, random states, the scale of float16 losses,
    positions in streams, and settings. Each save replaces it atomically; the previous state is kept
    until the losses after the save are known to be finite.
    """

    accelerator: "Accelerator"
    config: Settings
    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @property
    def file(self) -> Path:
        """Path of the state."""
        return self.config.out / STATE_FILE

    def load(self) -> ResumePoint:
        """Restore the last save, if any.

        Raises:
            ValueError: the file is damaged, or belongs to a run with other networks.
        """
        if self.accelerator.is_main_process:
            self._clean_up()
        self.accelerator.wait_for_everyone()
        if not self.file.exists():
            return ResumePoint()
        tensors, info = self._read()
        self._log_changed_settings(info["config"])
        for name, network in self.networks.items():
            prefix = f"{name}/"
            weights = {k[len(prefix) :]: t for k, t in tensors.items() if k.startswith(prefix)}
            self._restore(network.load_state_dict, registry.current_tensor_names(weights))
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimizer.{name}/"):
                    _, index, entry = key.split("/")
                    state.setdefault(int(index), {})[entry] = tensor
            groups = info["param_groups"].get(name)
            self._restore(optimizer.load_state_dict, {"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random/torch"])
        if "random/cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.accelerator.device)
        if self.accelerator.scaler is not None and info["scaler"]:
            self.accelerator.scaler.load_state_dict(info["scaler"])
        log.info("resuming after step %d of %s", info["step"], self.file)
        if info["step"] >= self.config.steps:
            log.info(
                "all steps are done; to train as many again, give --steps %d", 2 * self.config.steps
            )
        positions = {name: _as_position(position) for name, position in info["places"].items()}
        return ResumePoint(info["step"], info["seconds"], positions)

    def _clean_up(self) -> None:
        """Create OUT, and finish or undo what a killed run has left there."""
        out = self.config.out
        out.mkdir(parents=True, exist_ok=True)
        remove_abandoned_parts(out)
        (out / NEW_STATE_FILE).unlink(missing_ok=True)
        if not self.file.exists() and (previous := previous_path(out)).exists():
            os.replace(previous, self.file)  # killed between the two renames of a save

    def _read(self) -> tuple[dict[str, Tensor], StateInfo]:
        try:
            with safe_open(self.file, framework="pt") as file:
                info = json.loads(file.metadata()["colorist"])
                return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{self.file}: not a training state ({error}). Give another --out, or remove the "
                "file."
            ) from error

    def _restore(self, load: Callable[[dict[str, Any]], object], state: dict[str, Any]) -> None:
        try:
            load(state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.file}: belongs to a run with another network or another discriminator "
                f"({str(error).splitlines()[0]}). Give the same settings, or another --out."
            ) from error

    def _log_changed_settings(self, before: Mapping[str, object]) -> None:
        for name, value in json.loads(json.dumps(portable_settings(self.config))).items():
            if name in before and before[name] != value and name not in ("steps", "out"):
                log.warning("%s was %s and is now %s", name, before[name], value)

    def save(
        self, step: int, seconds: float, stream_positions: Mapping[str, StreamPosition]
    ) -> None:
        """Replace the file by the current state. All processes must call this.

        Args:
            step: number of steps done.
            seconds: training time so far.
            stream_positions: those of this process.
        Raises:
            SystemExit: the file cannot be written; the previous one is kept.
        """
        from accelerate.utils import gather_object

        gathered = gather_object([dict(stream_positions)])
        positions = {key: position for part in gathered for key, position in part.items()}
        if self.accelerator.is_main_process:
            with disk_full_as_exit(self.file, step):
                self._write(step, seconds, positions)
        self.accelerator.wait_for_everyone()

    def _write(self, step: int, seconds: float, positions: dict[str, StreamPosition]) -> None:
        tensors: dict[str, Tensor] = {}
        groups = {}
        for name, network in self.networks.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in network.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            groups[name] = state["param_groups"]
            for index, entry in state["state"].items():
                tensors |= {
                    f"optimizer.{name}/{index}/{key}": torch.as_tensor(value)
                    for key, value in entry.items()
                }
        tensors["random/torch"] = torch.get_rng_state()
        if self.accelerator.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        scaler = self.accelerator.scaler
        info: StateInfo = {
            "config": portable_settings(self.config),
            "step": step,
            "seconds": seconds,
            "places": positions,
            "param_groups": groups,
            "scaler": scaler.state_dict() if scaler else {},
        }
        new = self.file.with_name(NEW_STATE_FILE)
        write_atomic(new, checkpoint.to_bytes(tensors, info))
        if self.file.exists():
            os.replace(self.file, previous_path(self.config.out))
        os.replace(new, self.file)

    def require_finite_weights(self, step: int) -> None:
        """Raise SystemExit if a weight is not finite, so that it does not replace a good state."""
        bad = [
            f"{network}: {name}"
            for network, module in self.networks.items()
            for name, p in module.named_parameters()
            if not p.isfinite().all()
        ]
        if bad:
            kept = f"{self.file} is kept. " if self.file.exists() else ""
            raise SystemExit(
                f"step {step}: weights are no longer finite (the first is {bad[0]}), and are not "
                f"saved. {kept}Start again with the same --out and a smaller --learning-rate, "
                "--clip 1, or --dtype float32."
            )


def _as_position(numbers: tuple[int, int, int]) -> StreamPosition:
    """Turn a list of JSON back into a tuple."""
    pass_number, shard, photo = numbers
    return pass_number, shard, photo


def previous_path(out: Path) -> Path:
    """Return the path of the state before the last one, see `TrainingState`."""
    return out / PREVIOUS_STATE_FILE


@contextmanager
def disk_full_as_exit(file: Path, step: int) -> Generator[None, None, None]:
    """Turn an OSError while `file` is written into a message that says what is kept.

    Raises:
        SystemExit: for any OSError, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        kept = "Its previous content is still there. " if file.exists() else ""
        raise SystemExit(
            f"step {step}: {file} cannot be written ({error.strerror or error}). {kept}"
            "Make room, and start again with the same --out."
        ) from error
