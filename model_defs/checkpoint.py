"""Read a checkpoint safely, bring it to canonical keys, load it strictly.

Only this file knows containers (`params`, `state_dict`, ...) and wrapper prefixes (`module.`).
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CONTAINERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
DAMAGED = (  # what torch.load is known to raise on bytes that are no checkpoint
    *(RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError),
    *(TypeError, SafetensorError),
)
PREFIXES = ("module.", "_orig_mod.")


class CheckpointError(ValueError):
    """A file is no checkpoint we can use; the message says what was found and what to do."""


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read tensors and metadata of a checkpoint file.

    Safetensors are memory-mapped; `.pth`, `.pt` and `.bin` are unpickled with `weights_only=True`,
    which builds tensors and plain containers and runs no code.

    Returns:
        canonical key -> tensor, and the `colorist` JSON of our own files ({} in all others).
    Raises:
        CheckpointError: missing, empty, truncated, foreign or unsafe file.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; expected a checkpoint ({', '.join(SUFFIXES)}).")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path.name}: the file is empty (0 bytes); download it again.")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path.name}: this is a web page, not a checkpoint; the download saved an HTML page. "
            "Download the file itself."
        )
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return canonical(_read_pickle(path), path.name), {}


def read_info(path: str | Path) -> dict:
    """The `colorist` JSON of one of our files, without its tensors; {} for everything else."""
    try:
        with safe_open(path, framework="pt") as file:
            info = json.loads((file.metadata() or {}).get("colorist", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError):
        return {}
    return info if isinstance(info, dict) else {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        info = json.loads(metadata.get("colorist", "{}"))
        if not isinstance(info, dict):
            raise CheckpointError(f"{path.name}: its metadata is no JSON object; export it again.")
        return canonical(state, path.name), info
    except (SafetensorError, json.JSONDecodeError, RecursionError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: damaged or truncated safetensors file ({error}); "
            "download or export it again."
        ) from error


def _read_pickle(path: Path) -> Mapping:
    try:
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        reason = next(
            (line for line in str(error).splitlines() if "nsupported" in line or "GLOBAL" in line),
            "",
        )
        raise CheckpointError(
            f"{path.name}: refused, because it holds more than tensors and would run code "
            f"when opened, or is damaged{f' ({reason.strip()})' if reason else ''}. "
            "Use a file with plain weights, best .safetensors."
        ) from error
    except DAMAGED as error:
        raise CheckpointError(
            f"{path.name}: damaged, truncated or no checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no details'}); download it again."
        ) from error


def canonical(state: object, name: str) -> dict[str, Tensor]:
    """Unwrap a container and strip wrapper prefixes; returns a new dict of tensors."""
    for container in CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(container), Mapping):
            state = state[container]
            break
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{name}: holds no weights ({type(state).__name__}); expected names with tensors."
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


def load_strict(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Assign `state` to `network` (which may be on the meta device); every name and shape must fit.

    Raises:
        CheckpointError: lists missing, unexpected and misshapen tensors by name.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems = [
        f"{len(found)} tensors {what}: {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"
        for found, what in (
            (missing, "missing"),
            (unexpected, "not known"),
            (shapes, "differ in shape"),
        )
        if found
    ]
    if problems:
        raise CheckpointError(f"{name}: {'; '.join(problems)}.")
    network.load_state_dict(dict(state), assign=True)


def to_bytes(state: Mapping[str, Tensor], info: Mapping) -> bytes:
    """Our file format: safetensors whose metadata holds `info` as JSON under `colorist`."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    return to_safetensors(
        tensors, metadata={"format": "pt", "colorist": json.dumps(info, sort_keys=True)}
    )
