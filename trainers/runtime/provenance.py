"""Provenance in the metadata of a trained model."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...media.atomic import write_atomic
from ...model_defs import checkpoint
from ...model_store import resolve
from .. import pretrained_files
from ..data.photos import Photos
from ..data.shards import Shards
from .optimization import folded_state_dict
from .settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def training_provenance(
    config: Settings, photos: Photos | Shards, steps: int, seconds: float
) -> dict[str, Any]:
    """Return the origin of a result: photos, settings, pretrained networks and earlier runs."""
    origin: dict[str, Any] = photos.counts() | {
        "steps": steps,
        "seconds": round(seconds),
        "config": portable_settings(config),
    }
    if isinstance(photos, Photos):
        origin["photo_list_sha256"] = photos.digest()
    if backbone := getattr(config, "backbone", None):
        path = pretrained_files.locate(backbone, offline=config.offline)
        origin["backbone"] = {"file": path.name, "sha256": pretrained_files.file_digest(path)}
    if teacher := getattr(config, "teacher", None):
        path = resolve.model_path(teacher, offline=config.offline)
        origin["teacher"] = {"file": path.name, "sha256": pretrained_files.file_digest(path)}
    if config.weights:
        path = resolve.model_path(config.weights, offline=config.offline)
        before = checkpoint.read_info(path).get("training")
        if isinstance(before, dict):
            origin["before"] = [*before.pop("before", []), before]
    return origin


def portable_settings(config: "DataclassInstance") -> dict[str, Any]:
    """Return settings as JSON values, with paths reduced to their last component.

    Metadata must not contain folders of a machine, nor secrets in URLs and commands.
    """

    def strip(value: Any) -> object:
        if isinstance(value, (tuple, list)):
            return [strip(v) for v in value]
        if not isinstance(value, str | Path):
            return value
        if str(value).startswith("pipe:"):
            return "pipe:"
        return re.split(r"[/\\]", str(value).split("?")[0].rstrip("/\\"))[-1]

    # The license is prose and may contain a slash.
    values = dataclasses.asdict(config)
    return {key: v if key == "licence" else strip(v) for key, v in values.items()}


def write_weights(path: Path, network: nn.Module, info: Mapping[str, Any]) -> None:
    """Write a network as a model file: float16 where it fits, spectral norm folded.

    Args:
        path: file to write.
        network: the network.
        info: metadata, with provenance as "training".
    Raises:
        OSError: the file cannot be written.
    """
    state = {}
    for key, tensor in folded_state_dict(network).items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        state[key] = half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor
    info = {**info, "training": {**info["training"], "torch": torch.__version__}}
    write_atomic(path, checkpoint.to_bytes(state, info))
