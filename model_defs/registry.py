"""The one table of architectures, and the one way from a file to a network."""

import dataclasses
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from . import checkpoint
from .checkpoint import CheckpointError
from .spec import Spec

# architecture -> (module, class of its network). The module holds Config, PRESETS, spec(),
# detect() and, where it may be true, config_from(), convert(); it is imported when one of its files
# is opened.
ARCHITECTURES = {
    "ddcolor": (".ddcolor", "DDColor"),
    "colorformer": (".colorformer", "ColorFormer"),
    "exemplar": (".xcnet", "Exemplar"),
    "pointhint": (".pointhint", "PointHint"),
}


def module_of(architecture: str) -> ModuleType:
    """Import the module of an architecture; CheckpointError names the known ones."""
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture '{architecture}'. Known: {', '.join(ARCHITECTURES)}."
        )
    return import_module(ARCHITECTURES[architecture][0], __package__)


def presets() -> dict[str, str]:
    """Preset name -> architecture."""
    return {preset: name for name in ARCHITECTURES for preset in module_of(name).PRESETS}


def build(architecture: str, config: object, *, device: str = "cpu") -> nn.Module:
    """A network of `architecture` with start values; device "meta" allocates nothing."""
    with torch.device(device):
        return getattr(module_of(architecture), ARCHITECTURES[architecture][1])(config)


def load(path: str | Path) -> tuple[nn.Module, Spec, dict]:
    """Recognise a checkpoint by its keys and shapes, build its network, load it strictly.

    Returns:
        the network (float32, eval, CPU), its spec, the file's own info ({} for published files).
    Raises:
        CheckpointError: see `checkpoint.read`, `checkpoint.load_strict`; or no known architecture.
    """
    state, info = checkpoint.read(path)
    name = Path(path).name
    if info:
        network, spec = _own(str(info.get("architecture")), info, name)
    else:
        architecture = _detect(state, name)
        module = module_of(architecture)
        try:
            config, state = module.config_from(state), module.convert(state)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{name}: looks like {architecture}, but {error} is missing or odd."
            ) from error
        network, spec = build(architecture, config, device="meta"), module.spec(config)
    checkpoint.load_strict(network, {key: _float32(tensor) for key, tensor in state.items()}, name)
    return network.eval(), spec, info


@lru_cache(maxsize=256)
def role_of(path: str, written: int) -> str | None:
    """The role of a network in one of our files, from its metadata; None where it does not say.

    Args:
        path: of the file.
        written: when (st_mtime_ns): a file that is replaced is looked at again.
    """
    del written
    try:
        info = checkpoint.read_info(path)
        module = module_of(str(info.get("architecture")))
        spec = module.spec(module.Config(**info["config"]))
        return dataclasses.replace(spec, **info.get("spec", {})).role
    except Exception:  # any file may lie in the folder, and listing it must never fail
        return None


def _own(architecture: str, info: dict, name: str) -> tuple[nn.Module, Spec]:
    """Network on the meta device and spec, as the metadata of one of our files says."""
    if info.get("kind"):
        raise CheckpointError(f"{name}: a {info['kind']}, not a network; load it as one.")
    module = module_of(architecture)
    try:
        config = module.Config(**info["config"])
        spec = dataclasses.replace(module.spec(config), **info.get("spec", {}))
        return build(architecture, config, device="meta"), spec
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{name}: the config in its metadata does not fit this version ({error})."
        ) from error


def _detect(state: dict[str, Tensor], name: str) -> str:
    found = [a for a in ARCHITECTURES if module_of(a).detect(set(state))]
    if len(found) != 1:
        what = (
            f"fits several architectures ({', '.join(found)})"
            if found
            else "not a known colorization checkpoint"
        )
        first = next(iter(state))
        raise CheckpointError(
            f"{name}: {what} ({len(state)} tensors, first: '{first}'). "
            f"Known: {', '.join(ARCHITECTURES)}."
        )
    return found[0]


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
