"""Table of architectures, and the path from a checkpoint file to a network."""

import dataclasses
import logging
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from . import checkpoint
from .checkpoint import CheckpointError
from .protocols import ArchitectureModule, NetworkConfig, PublishedArchitecture
from .spec import Role, Spec
from .validation import check_names, shown

log = logging.getLogger(__name__)

# Architecture -> (module, class of the network). A module is imported when it is first needed; see
# `protocols.ArchitectureModule` for its members.
ARCHITECTURES = {
    "ddcolor": (".ddcolor", "DDColor"),
    "colorformer": (".colorformer", "ColorFormer"),
    "exemplar": (".xcnet", "XCNet"),
    "pointhint": (".pointhint", "PointHint"),
}

# Names in files of version 1.0.0 -> today's names.
CONFIG_ALIASES = {
    "told": "cells_per_reference",
    "spaces": "kernel_count",
    "learned": "embedding_width",
    "sideways": "use_x",
}
TENSOR_ALIASES = {
    "kernel.light": "kernel.inverse_lightness_scale",
    "kernel.place": "kernel.inverse_spatial_scale",
    "kernel.shared": "kernel.constant",
}


SPEC_FIELDS = ("resolution", "fade", "gain", "prior", "aligned")
"""Fields of `Spec` that a file may set; all others follow from architecture and config."""
INFO_TYPES = {
    "architecture": str,
    "config": dict,
    "spec": dict,
    "training": dict,
    "licence": str,
    "origin": dict,
    "kind": str,
}


class NetworkInfo(TypedDict, total=False):
    """Metadata of a network file; empty for official checkpoints."""

    architecture: str
    """Key in `ARCHITECTURES`."""
    config: dict[str, Any]
    """Fields of the architecture's Config."""
    spec: dict[str, Any]
    """Fields of `Spec` that differ from the architecture's defaults."""
    training: dict[str, Any]
    """Provenance: data, steps, settings, scores."""
    licence: str
    origin: dict[str, str]
    """Name and digest of the file that this one was converted from."""
    kind: str
    """Set in files that are not networks, such as color memories."""


def module_of(architecture: str) -> ArchitectureModule:
    """Import the module of an architecture.

    Raises:
        CheckpointError: the name is unknown; lists the known ones.
    """
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {shown(architecture)}. Known: {', '.join(ARCHITECTURES)}."
        )
    module = import_module(ARCHITECTURES[architecture][0], __package__)
    return cast(ArchitectureModule, module)


def presets() -> dict[str, str]:
    """Return preset name -> architecture."""
    return {preset: name for name in ARCHITECTURES for preset in module_of(name).PRESETS}


def build(architecture: str, config: NetworkConfig, *, device: str = "cpu") -> nn.Module:
    """Build a network with initial weights; the device "meta" allocates no memory."""
    network = getattr(module_of(architecture), ARCHITECTURES[architecture][1])
    with torch.device(device):
        return network(config)


def load(path: str | Path) -> tuple[nn.Module, Spec, NetworkInfo]:
    """Identify a checkpoint, build its network and load the weights strictly.

    Our own files name their architecture and config in the metadata; official checkpoints are
    identified by tensor names and shapes.

    Returns:
        the network (float32, eval mode, CPU); its spec; the metadata of the file.
    Raises:
        CheckpointError: see `checkpoint.read` and `checkpoint.load_strict`; or the architecture is
            not known.
    """
    state, metadata = checkpoint.read(path)
    name = Path(path).name
    info = parse_info(metadata, name)
    if info:
        network, spec = _build_from_metadata(info, name)
        state = current_tensor_names(state)
        checkpoint.check_strict(network, state, name)
    else:
        network, spec, state = _build_published(state, name)
    checkpoint.load_strict(network, {key: _to_float32(t) for key, t in state.items()}, name)
    return network.eval(), spec, info


def parse_info(metadata: checkpoint.Metadata, name: str) -> NetworkInfo:
    """Check the types of the metadata of a file; the architecture's Config checks the config.

    Raises:
        CheckpointError: an entry has the wrong type.
    """
    for key, kind in INFO_TYPES.items():
        if key in metadata and not isinstance(metadata[key], kind):
            raise CheckpointError(
                f"{name}: '{key}' in its metadata is {shown(metadata[key])}; expected "
                f"{'text' if kind is str else 'an object'}. Export or download the file again."
            )
    return cast(NetworkInfo, metadata)


def describe(path: Path) -> NetworkInfo:
    """Read the metadata of a file without its tensors, and check the config and spec of a network.

    Returns:
        {} for official checkpoints.
    Raises:
        CheckpointError: the metadata is damaged or does not fit this version.
        OSError: the file cannot be accessed.
    """
    info = parse_info(checkpoint.read_metadata(path), path.name)
    if info and not info.get("kind"):
        _parse_network(info, path.name)
    return info


def current_tensor_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with names of older versions replaced by today's."""
    return {TENSOR_ALIASES.get(key, key): tensor for key, tensor in state.items()}


def parse_config(architecture: str, fields: dict[str, Any]) -> NetworkConfig:
    """Build the Config of an architecture from the metadata of a file of any version.

    Raises:
        TypeError, ValueError: a field is unknown, missing, of the wrong type or out of range.
    """
    if not isinstance(fields, dict):
        raise TypeError(f"the config is {shown(fields)}; expected an object")
    config = module_of(architecture).Config
    current = _current_field_names(fields)
    check_names(current, config, f"{architecture} config")
    return config(**current)


def _current_field_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        CONFIG_ALIASES.get(name, name): (
            _current_field_names(value) if isinstance(value, dict) else value
        )
        for name, value in fields.items()
    }


_roles: dict[Path, tuple[int, Role | None]] = {}  # path -> modification time, role


def role_of(path: Path) -> Role | None:
    """Return the role that the metadata of a file names; None if it names none.

    Cached until the file changes.

    Raises:
        OSError: the file cannot be accessed.
    """
    modified = path.stat().st_mtime_ns
    cached = _roles.get(path)
    if cached is None or cached[0] != modified:
        cached = _roles[path] = modified, _read_role(path)
    return cached[1]


def _read_role(path: Path) -> Role | None:
    try:
        info = parse_info(checkpoint.read_metadata(path), path.name)
        return _parse_network(info, path.name)[2].role if "architecture" in info else None
    except Exception:  # any file may be in the folder, and listing it must never fail
        log.debug("%s: cannot read the role from its metadata", path, exc_info=True)
        return None


def _parse_network(info: NetworkInfo, name: str) -> tuple[str, NetworkConfig, Spec]:
    """Return architecture, config and spec from metadata: the only place where they are parsed."""
    if kind := info.get("kind"):
        raise CheckpointError(f"{name}: a {kind[:60]}, not a network; load it as one.")
    architecture = info.get("architecture", "")
    try:
        module = module_of(architecture)
    except CheckpointError as error:
        raise CheckpointError(
            f"{name}: {error} Update ComfyUI-Colorist, or export the file again."
        ) from error
    try:
        config = parse_config(architecture, info["config"])
        spec, changes = module.spec(config), info.get("spec", {})
        for field in changes:
            if field not in SPEC_FIELDS:
                raise ValueError(f"spec has the unknown field {shown(field)}")
        return architecture, config, dataclasses.replace(spec, **changes)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{name}: the config in its metadata does not fit this version ({error}). "
            "Update ComfyUI-Colorist, or export the file again."
        ) from error


def _build_from_metadata(info: NetworkInfo, name: str) -> tuple[nn.Module, Spec]:
    """Build the network on the meta device from the metadata of one of our files."""
    architecture, config, spec = _parse_network(info, name)
    try:
        return build(architecture, config, device="meta"), spec
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{name}: no network can be built from the config in its metadata ({error}). "
            "Export or download the file again."
        ) from error


def _build_published(
    state: dict[str, Tensor], name: str
) -> tuple[nn.Module, Spec, dict[str, Tensor]]:
    """Build the network of an official checkpoint on the meta device, and convert its tensors.

    Names and shapes are converted and compared first, on the meta device.
    """
    architecture, module = _detect(state, name)
    try:
        config = module.config_from(state)
        network = build(architecture, config, device="meta")
        shapes = {key: tensor.to("meta") for key, tensor in state.items()}
        checkpoint.check_strict(network, module.convert(shapes), name)
        return network, module.spec(config), module.convert(state)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{name}: looks like {architecture}, but {reason} is missing or malformed. "
            "Download the file again."
        ) from error


def _detect(state: dict[str, Tensor], name: str) -> tuple[str, PublishedArchitecture]:
    """Find the only architecture whose official checkpoints have these tensor names."""
    keys = set(state)
    matches = [
        (architecture, module)
        for architecture in ARCHITECTURES
        if isinstance(module := module_of(architecture), PublishedArchitecture)
        and module.detect(keys)
    ]
    if len(matches) == 1:
        return matches[0]
    problem = "not a known colorization checkpoint"
    if matches:
        problem = f"fits several architectures ({', '.join(match for match, _ in matches)})"
    raise CheckpointError(
        f"{name}: {problem} ({len(state)} tensors, first: '{next(iter(state))}'). "
        f"Known: {', '.join(ARCHITECTURES)}."
    )


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
