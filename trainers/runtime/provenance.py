"""What a result's file says about where it is from."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...media.atomic import write_whole
from ...model_defs import checkpoint
from ...model_store import resolve
from .. import pretrained_files
from ..data.photos import Photos
from ..data.shards import Shards
from .optimization import folded
from .settings import Settings


def provenance(settings: Settings, photos: Photos | Shards, steps: int, seconds: float) -> dict:
    """Origin of a result, for its metadata: photos, settings, encoder, and the runs before it."""
    origin = photos.counted() | {
        "steps": steps,
        "seconds": round(seconds),
        "config": jsonable(settings),
    }
    if isinstance(photos, Photos):
        origin["photo_list_sha256"] = photos.digest()
    if backbone := getattr(settings, "backbone", None):
        path = pretrained_files.find(backbone, offline=settings.offline)
        origin["backbone"] = {"file": path.name, "sha256": pretrained_files.fingerprint(path)}
    if teacher := getattr(settings, "teacher", None):
        path = resolve.locate(teacher, offline=settings.offline)
        origin["teacher"] = {"file": path.name, "sha256": pretrained_files.fingerprint(path)}
    if settings.weights:
        path = resolve.locate(settings.weights, offline=settings.offline)
        before = checkpoint.read_info(path).get("training")
        if isinstance(before, dict):
            origin["before"] = [*before.pop("before", []), before]
    return origin


def jsonable(settings: Settings) -> dict:
    """Paths by their last name: provenance must not carry a machine's folders."""

    def plain(value: object) -> object:
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        if not isinstance(value, str | Path):
            return value
        if str(value).startswith("pipe:"):
            return "pipe:"  # commands hold keys and names of machines; so does what follows a "?"
        return re.split(r"[/\\]", str(value).split("?")[0].rstrip("/\\"))[-1]

    # The licence is prose, and may well hold a slash.
    values = dataclasses.asdict(settings)
    return {key: v if key == "licence" else plain(v) for key, v in values.items()}


def write_weights(path: Path, network: nn.Module, info: Mapping) -> None:
    """Write a network as one of our files: fp16 where it fits, spectral norm folded.

    Args:
        info: its metadata.
    """
    state = {}
    for key, tensor in folded(network).items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        state[key] = half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor
    info = {**info, "training": {**info["training"], "torch": torch.__version__}}
    write_whole(path, checkpoint.to_bytes(state, info))
