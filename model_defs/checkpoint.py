"""Read checkpoints safely, normalize their tensor names, load them strictly.

Only this module knows containers (`params`, `state_dict`, ...) and wrapper prefixes (`module.`).
"""

import json
import logging
import pickle
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from .pickle_check import PickleError, check_pickle
from .validation import shown

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CONTAINERS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
MAX_HEADER_BYTES = 2**23  # of a safetensors file: names, shapes and metadata
# Tensors may share memory, so that all together are larger than their file, but not by far.
MAX_EXPANSION, EXPANSION_MARGIN = 4, 2**20

Metadata = dict[str, Any]
"""JSON object stored under `colorist` in our files; its keys depend on the kind of file."""


class CheckpointError(ValueError):
    """The file is not a usable checkpoint; the message says what is wrong and what to do."""


def read(path: str | Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read tensors and metadata of a checkpoint file.

    Safetensors are memory-mapped; `.pth`, `.pt` and `.bin` are unpickled with `weights_only=True`,
    which builds tensors and plain containers and runs no code. The size of the file and the sizes
    that it declares are checked first, so that a small file cannot fill the memory.

    Returns:
        tensors by canonical name; the metadata of our own files, {} for all others.
    Raises:
        CheckpointError: the file is missing, empty, truncated, foreign or unsafe.
    """
    path = Path(path)
    if not path.is_file():
        problem = "no such file"
        if path.exists():
            problem = "a folder" if path.is_dir() else "not a regular file"
        raise CheckpointError(f"{path}: {problem}; expected a checkpoint ({', '.join(SUFFIXES)}).")
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
        state, info = _read_safetensors(path)
    else:
        state, info = _read_pickle(path), {}
    tensors = canonical(state, path.name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > MAX_EXPANSION * path.stat().st_size + EXPANSION_MARGIN:
        raise CheckpointError(
            f"{path.name}: its tensors have {total:,} bytes, many times the size of the file; save "
            "them again without shared memory."
        )
    return tensors, info


def read_metadata(path: str | Path) -> Metadata:
    """Read the metadata of one of our files without its tensors; {} for foreign containers.

    Raises:
        CheckpointError: the file is a damaged safetensors file.
        OSError: the file cannot be accessed.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait forever
        return {}
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            return {}
    return _read_safetensors(path, with_tensors=False)[1]


def read_info(path: str | Path) -> Metadata:
    """Read the metadata of one of our files without its tensors; {} for all other files."""
    try:
        return read_metadata(path)
    except (CheckpointError, OSError):
        log.debug("%s: cannot read its metadata", path, exc_info=True)
        return {}


def _read_safetensors(
    path: Path, *, with_tensors: bool = True
) -> tuple[dict[str, Tensor], Metadata]:
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {header_bytes:,} bytes")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_tensors else []
            state = {key: file.get_tensor(key) for key in names}
        return state, _parse_metadata(metadata.get("colorist", "{}"))
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise errors of any kind in the libraries
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path.name}: damaged or truncated safetensors file ({reason}); "
            "download or export it again."
        ) from error


def _parse_metadata(text: str) -> Metadata:
    """Parse a JSON object.

    Raises:
        ValueError: malformed, not an object, NaN, or a number of more than 4,300 digits.
        RecursionError: nested too deeply.
    """

    def reject(constant: str) -> None:
        raise ValueError(f"{constant} in its metadata")

    info = json.loads(text, parse_constant=reject)
    if not isinstance(info, dict):
        raise ValueError("its metadata is not a JSON object")
    return info


def _read_pickle(path: Path) -> object:
    """Unpickle whatever the file holds; `canonical` checks it."""
    try:
        check_pickle(path)
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except PickleError as error:
        raise CheckpointError(
            f"{path.name}: refused, because it holds more than tensors and would run code or fill "
            f"the memory when opened, or is damaged ({error}). Use a file with plain weights, "
            "preferably .safetensors."
        ) from error
    except pickle.UnpicklingError as error:
        reason = next(
            (line for line in str(error).splitlines() if "nsupported" in line or "GLOBAL" in line),
            "",
        )
        raise CheckpointError(
            f"{path.name}: refused, because it holds more than tensors and would run code "
            f"when opened, or is damaged{f' ({reason.strip()})' if reason else ''}. "
            "Use a file with plain weights, preferably .safetensors."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise errors of any kind in the libraries
        raise CheckpointError(
            f"{path.name}: damaged, truncated or not a checkpoint ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no details'}); download it again."
        ) from error


def canonical(state: object, name: str) -> dict[str, Tensor]:
    """Unwrap a container and strip wrapper prefixes; return a new dict of tensors.

    Args:
        state: content of a file.
        name: of the file, for errors.
    Raises:
        CheckpointError: tensors are missing, or their names are not text.
    """
    for container in CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(container), Mapping):
            state = state[container]
            break
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{name}: holds no weights ({type(state).__name__}); expected names with tensors."
        )
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for key in tensors:
        if not isinstance(key, str):
            raise CheckpointError(
                f"{name}: a tensor has the name {shown(key)}, which is not text; expected the "
                "state dict of a network. Save network.state_dict()."
            )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


def load_strict(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Assign `state` to `network`, which may be on the meta device.

    Raises:
        CheckpointError: see `check_strict`.
    """
    check_strict(network, state, name)
    network.load_state_dict(dict(state), assign=True)


def check_strict(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Compare names, shapes and kinds of numbers of `state` with those of `network`.

    Both may be on the meta device, so that a file is compared before anything is allocated.

    Raises:
        CheckpointError: lists missing, unexpected and misshapen tensors.
    """
    expected = network.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state],
        "not known": [key for key in state if key not in expected],
        "differ in shape": [
            f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ],
        "are not of the expected type": [
            f"{key} is {_dtype_name(state[key])}, expected {_dtype_name(tensor)}"
            for key, tensor in expected.items()
            if key in state and state[key].is_floating_point() != tensor.is_floating_point()
        ],
    }
    texts = [
        f"{len(keys)} tensors {problem}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for problem, keys in problems.items()
        if keys
    ]
    if texts:
        raise CheckpointError(f"{name}: {'; '.join(texts)}.")


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def to_bytes(state: Mapping[str, Tensor], info: Mapping[str, Any]) -> bytes:
    """Serialize our file format: safetensors with `info` as JSON under `colorist`."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    return to_safetensors(
        tensors, metadata={"format": "pt", "colorist": json.dumps(info, sort_keys=True)}
    )
