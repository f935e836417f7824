"""What a run keeps: its state, to go on from, and its result; each replaced whole."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...media.atomic import write_whole
from ...model_defs import checkpoint
from ..data.shards import Place
from . import provenance
from .settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)
STATE, NEW = "state.safetensors", "state-new.safetensors"


class Begun(NamedTuple):
    """Where a run goes on."""

    step: int = 0
    seconds: float = 0.0
    """That it has taken."""
    places: Mapping[str, Place] = {}
    """See `batches.Batch.places`."""


@dataclass
class State:
    """All that a run needs to go on, in one file that is replaced whole: `OUT/state.safetensors`.

    The one before is kept until the losses after it have been looked at.

    Networks, their average, optimizers, how far streams have been read, random states, the scale of
    float16 losses, settings.
    """

    accelerator: "Accelerator"
    config: Settings
    networks: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.config.out / STATE

    def load(self) -> Begun:
        """Restore what `save` wrote, if it did.

        Raises:
            ValueError: the file belongs to a run with other networks, or is none of ours.
        """
        if self.accelerator.is_main_process:
            self.config.out.mkdir(parents=True, exist_ok=True)
            for half in self.config.out.glob(".colorist-*.part"):  # of a run that was killed
                half.unlink()
            self.file.with_name(NEW).unlink(missing_ok=True)
            if not self.file.exists() and (before := before_of(self.config.out)).exists():
                os.replace(before, self.file)  # killed between two renamings
        self.accelerator.wait_for_everyone()
        if not self.file.exists():
            return Begun()
        tensors, info = self._read()
        self._tell_changes(info["config"])
        for name, network in self.networks.items():
            prefix = f"{name}/"
            self._take(
                network.load_state_dict,
                {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)},
            )
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict] = {}
            for key, tensor in tensors.items():
                if key.startswith(f"optimizer.{name}/"):
                    _, index, entry = key.split("/")
                    state.setdefault(int(index), {})[entry] = tensor
            groups = info["param_groups"].get(name)
            self._take(optimizer.load_state_dict, {"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random/torch"])
        if "random/cuda" in tensors and self.accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.accelerator.device)
        if self.accelerator.scaler is not None and info["scaler"]:
            self.accelerator.scaler.load_state_dict(info["scaler"])
        log.info("goes on after step %d of %s", info["step"], self.file)
        if info["step"] >= self.config.steps:
            log.info("that is all of them; --steps %d would add as many", 2 * self.config.steps)
        places = {name: tuple(place) for name, place in info["places"].items()}
        return Begun(info["step"], info["seconds"], places)

    def _read(self) -> tuple[dict[str, Tensor], dict]:
        try:
            with safe_open(self.file, framework="pt") as file:
                info = json.loads(file.metadata()["colorist"])
                return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"{self.file}: no state of a run ({error}). Give another --out, or remove it."
            ) from error

    def _take(self, load: Callable[[dict], object], state: dict) -> None:
        try:
            load(state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self.file}: belongs to a run with another network or another discriminator "
                f"({str(error).splitlines()[0]}). Give the same settings, or another --out."
            ) from error

    def _tell_changes(self, was: Mapping[str, object]) -> None:
        for name, value in json.loads(json.dumps(provenance.jsonable(self.config))).items():
            if name in was and was[name] != value and name not in ("steps", "out"):
                log.warning("%s was %s and is now %s", name, was[name], value)

    def save(self, step: int, seconds: float, places: Mapping[str, Place]) -> None:
        """Write all of it; every process has to come here.

        Raises:
            SystemExit: it cannot be written; the file before it is still there.
        """
        from accelerate.utils import gather_object

        places = {k: place for some in gather_object([dict(places)]) for k, place in some.items()}
        if self.accelerator.is_main_process:
            info = {"config": provenance.jsonable(self.config), "step": step, "seconds": seconds}
            with keeping(self.file, step):
                self._write(info | {"places": places})
        self.accelerator.wait_for_everyone()

    def _write(self, info: dict) -> None:
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
        info |= {"param_groups": groups, "scaler": scaler.state_dict() if scaler else {}}
        new = self.file.with_name(NEW)
        write_whole(new, checkpoint.to_bytes(tensors, info))
        if self.file.exists():
            os.replace(self.file, before_of(self.config.out))
        os.replace(new, self.file)


def before_of(out: Path) -> Path:
    """The state before the last one, kept until the losses after that have been looked at."""
    return out / "state-before.safetensors"


@contextmanager
def keeping(file: Path, step: int) -> Iterator[None]:
    """Turn what goes wrong in writing `file` into a sentence about what is kept.

    Raises:
        SystemExit: for OSError, a full disk among them.
    """
    try:
        yield
    except OSError as error:
        raise SystemExit(
            f"step {step}: {file} cannot be written ({error.strerror or error}). "
            f"{'What was in it before is still there. ' if file.exists() else ''}"
            "Make room, and start again with the same --out."
        ) from error


def write_weights(
    config: Settings, network: nn.Module, architecture: str, training: Mapping, facts: Mapping
) -> None:
    """Write OUT/weights.safetensors, the result.

    Args:
        training: what it came of, see `provenance.provenance`.
        facts: what it says about its `Spec`.
    Raises:
        SystemExit: it cannot be written; the file before it is still there.
    """
    info = {
        "architecture": architecture,
        "config": asdict(network.config),
        "training": training,
        "licence": config.licence,
        "spec": facts,
    }
    path = config.out / "weights.safetensors"
    with keeping(path, training["steps"]):
        provenance.write_weights(path, network, info)
    log.info("%s: after step %d", path, training["steps"])


def refuse_infinite_weights(state: State, step: int) -> None:
    """SystemExit where a weight is no number: it must not replace the last good state."""
    bad = [
        f"{network}: {name}"
        for network, module in state.networks.items()
        for name, p in module.named_parameters()
        if not p.isfinite().all()
    ]
    if bad:
        raise SystemExit(
            f"step {step}: the weights are no longer numbers ({bad[0]} first), and are not saved. "
            f"{f'{state.file} is kept. ' if state.file.exists() else ''}Start again with the same "
            "--out and a smaller --learning-rate, --clip 1, or --dtype float32."
        )
