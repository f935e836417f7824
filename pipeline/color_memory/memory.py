"""Color memories: semantic keys with groups of colors, separate from the network that uses them.

ColorFormer, sections 3.3 and 3.4. `builder` builds them; a `Colorizer` uses them.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from ...media.atomic import write_atomic, write_atomic_together
from ...model_defs import checkpoint
from ...model_defs.checkpoint import CheckpointError
from ...model_defs.spec import MemoryEntries, MemorySizes
from ...model_defs.validation import shown

KIND = "color memory"  # in the metadata of memory files, where networks have their architecture
VERSION = 1
MAX_AB = 128.0  # exceeds every sRGB color
MAX_KEY = 1e4  # keys are multiplied by weights, and float16 ends at 65504
MAX_RESULTS = 64  # of one call that samples fusion weights


class Provenance(TypedDict, total=False):
    """Origin of a color memory (JSON in its file)."""

    network: str
    """Name of the network whose encoder computed the keys."""
    photos: int
    """Number of photos used."""
    grey: int
    """Number of photos skipped because they are gray."""
    unreadable: int
    """Number of photos skipped because they cannot be read."""
    skipped: list[str]
    """Names of the first unreadable photos."""
    patches: int
    entries: int
    entries_asked: int
    seed: int
    side: int
    """Photos were scaled to about side x side pixels."""
    projection: str
    """How the projection from features to keys was obtained."""
    explained_variance: float
    """Fraction of the variance that the projection explains."""
    imported: list[str]
    """Names of the official files that were imported."""


class Projection(NamedTuple):
    """Linear map from encoder features to keys: features @ components^T + offset."""

    components: Tensor
    """(k, c)."""
    offset: Tensor
    """(k,)."""

    def __call__(self, features: Tensor) -> Tensor:
        """Project features (..., c) to keys (..., k)."""
        return features @ self.components.mT + self.offset


@dataclass(frozen=True, eq=False, kw_only=True)
class ColorMemory:
    """Color memory as it travels on a COLOR_MEMORY wire and is stored in a file.

    Raises:
        ValueError: the shapes do not match, or values are infinite or out of range.
    """

    keys: Tensor
    """S: (m, k) float32."""
    values: Tensor
    """C_1 ... C_n: (n, m, 2) float32, ab in Lab units; an entry's colors are ordered by hue."""
    encoder: str
    """Identifier of the encoder that computed the keys, see `identify_encoder`."""
    projection: Projection | None = None
    """Projection from features to keys; None if it was not kept."""
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        keys, values = self.keys.shape, self.values.shape
        if len(keys) != 2 or len(values) != 3 or values[1:] != (keys[0], 2) or 0 in keys + values:
            raise ValueError(
                f"the color memory has keys {tuple(keys)} and values {tuple(values)}; expected "
                "keys (m, k) and values (n, m, 2)."
            )
        if not (self.keys.isfinite().all() and self.values.isfinite().all()):
            raise ValueError("the color memory contains NaN or infinite values; build it again.")
        largest_key, largest_ab = (float(x.abs().max()) for x in (self.keys, self.values))
        if largest_ab > MAX_AB:
            is_unsigned = self.values.min() >= 0 and largest_ab <= 255
            raise ValueError(
                f"the color memory has ab values up to {largest_ab:g}; expected -128 to 128"
                + (" (they look like the 0 to 255 encoding: subtract 128)." if is_unsigned else ".")
            )
        if largest_key > MAX_KEY:
            raise ValueError(
                f"the color memory has keys up to {largest_key:g}, which no network can use; "
                f"expected at most {MAX_KEY:g}. Build it again."
            )
        if self.projection and not all(part.isfinite().all() for part in self.projection):
            raise ValueError("the color memory's projection contains NaN or infinite values.")
        if self.projection and [len(part) for part in self.projection] != [keys[1]] * 2:
            raise ValueError(
                f"the color memory has keys of width {keys[1]}, but its projection makes keys of "
                f"width {len(self.projection.components)}; build it again."
            )

    def entries(self, device: torch.device) -> MemoryEntries:
        """Return keys and values on `device`, as a network reads them."""
        return MemoryEntries(self.keys.to(device), self.values.to(device))

    def describe(self) -> str:
        """Return a one-line description for users."""
        groups, entries, _ = self.values.shape
        photos = f", {self.provenance['photos']} photos" if "photos" in self.provenance else ""
        return f"{entries} entries of {groups} colors, keys of width {self.keys.shape[1]}{photos}"


def identify_encoder(encoder: nn.Module) -> str:
    """Return an identifier of an encoder: a hash of its vectors (biases, norms).

    Any training changes these vectors. They are rounded to float16 first, so that a float32 file
    and its float16 copy have the same identifier.
    """
    digest = hashlib.sha256()
    for tensor in encoder.parameters():  # in order, without names, so that names may change
        if tensor.ndim == 1:
            digest.update(tensor.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]


def require_memory(sizes: MemorySizes | None, name: str) -> MemorySizes:
    """Return `sizes` of the network called `name`; ValueError if it has no color memory."""
    if sizes is None:
        raise ValueError(
            f"{name} has no color memory; choose a network with a color memory (such as "
            "colorformer-nano)."
        )
    return sizes


def check_memory_fits(
    memory: ColorMemory, sizes: MemorySizes | None, encoder_id: str, name: str
) -> None:
    """Raise ValueError with the reason if the network called `name` cannot use `memory`."""
    sizes = require_memory(sizes, name)
    groups, _, _ = memory.values.shape
    width = memory.keys.shape[1]
    if (width, groups) != (sizes.key_width, sizes.groups):
        raise ValueError(
            f"the color memory has keys of width {width} and {groups} groups; {name} needs width "
            f"{sizes.key_width} and {sizes.groups} groups. Build a memory with {name}."
        )
    if memory.encoder != encoder_id:
        origin = memory.provenance.get("network", "another network")
        raise ValueError(
            f"the color memory was built with the encoder of {origin} ({memory.encoder}), but "
            f"{name} has a different encoder ({encoder_id}) and cannot use its keys. Build a "
            f"memory with {name}."
        )


def sample_fusion_weights(groups: int, count: int, seed: int, spread: float) -> Tensor:
    """Sample target fusion weights: (count, groups), each row sums to 1 (supplement, section 4).

    Row i is softmax(g / (1 - spread)) of Gumbel noise g whose largest value belongs to group i of a
    random order, so that each group leads equally often; at spread 1 it is that group alone. A
    network uses lambda + spread (row - lambda) with its predicted weights lambda.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 1 <= count <= MAX_RESULTS:
        raise ValueError(f"count is {count}; expected 1 to {MAX_RESULTS} results.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread is {spread}; expected 0 (as predicted) to 1 (one group only).")
    random = np.random.default_rng(seed)
    order = np.arange(groups)
    rows = []
    for i in range(count):
        if i % groups == 0:
            order = random.permutation(groups)
        noise = np.sort(random.gumbel(size=groups))[::-1]
        row = np.empty(groups)
        row[np.roll(order, -i)] = noise  # the largest value goes to the leading group
        if spread == 1:
            weights = (row == row.max()).astype(float)
        else:
            weights = np.exp((row - row.max()) / (1 - spread))
        rows.append(weights / weights.sum())
    return torch.from_numpy(np.stack(rows)).float()


# --- Files -------------------------------------------------------------------------------------


def save_memory(memory: ColorMemory, path: str | Path) -> None:
    """Write a memory to a safetensors file, atomically."""
    state = {"keys": memory.keys, "values": memory.values}
    if memory.projection:
        state |= {"components": memory.projection.components, "offset": memory.projection.offset}
    info = {
        "kind": KIND,
        "version": VERSION,
        "encoder": memory.encoder,
        "provenance": memory.provenance,
    }
    write_atomic(Path(path), checkpoint.to_bytes(state, info))


def load_memory(path: str | Path) -> ColorMemory:
    """Read a memory from a file.

    Raises:
        CheckpointError: the file is not a color memory, is damaged, or has a newer version.
    """
    name = Path(path).name
    state, info = checkpoint.read(path)
    if info.get("kind") != KIND:
        raise CheckpointError(
            f"{name}: not a color memory. Build one (colorist memory build), or import the "
            "official .npy files (colorist memory import)."
        )
    if info.get("version") != VERSION:
        raise CheckpointError(
            f"{name}: a color memory of version {info.get('version')}; this program reads version "
            f"{VERSION}. Update it, or build the memory again."
        )
    try:
        _check_tensors(state)
        projection = None
        if "components" in state:
            projection = Projection(state["components"].float(), state["offset"].float())
        return ColorMemory(
            keys=state["keys"].float(),
            values=state["values"].float(),
            encoder=info["encoder"],
            projection=projection,
            provenance=_parse_provenance(info),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{name}: not a usable color memory ({error}). Build it again."
        ) from error


def _check_tensors(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors of a file are numbers of the right dimensions."""
    for key, dimensions in (("keys", 2), ("values", 3), ("components", 2), ("offset", 1)):
        tensor = state.get(key)
        if tensor is not None and (tensor.ndim != dimensions or not tensor.is_floating_point()):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{key} is {tuple(tensor.shape)} of {dtype}; expected {dimensions} dimensions of "
                "floating-point numbers"
            )


def _parse_provenance(info: Mapping[str, Any]) -> Provenance:
    """Check the metadata of a file: an encoder, and facts that are text, numbers or lists."""
    provenance = info.get("provenance", {})
    if not isinstance(info["encoder"], str) or not isinstance(provenance, dict):
        raise ValueError("its metadata has no encoder, or a provenance that is not an object")
    for key, hint in get_type_hints(Provenance).items():
        kind = get_origin(hint) or hint
        allowed = (int, float) if kind is float else kind
        if key in provenance and not isinstance(provenance[key], allowed):
            raise ValueError(f"'{key}' in its metadata is {shown(provenance[key])}")
    return cast(Provenance, provenance)


def import_npy(
    colors: str | Path, semantics: str | Path, *, encoder: str, network: str
) -> ColorMemory:
    """Read the official pair of files as a memory.

    Args:
        colors: color_embed_*.npy, (n, m, 2), ab in Lab units.
        semantics: semantic_embed_*.npy, (m, k).
        encoder: identifier of the network's encoder, see `identify_encoder`.
        network: name of the network, for the provenance.
    Raises:
        CheckpointError: a file is not an array of numbers of that shape.
    """
    values, keys = _load_array(colors, 3), _load_array(semantics, 2)
    provenance = Provenance(network=network, imported=[Path(colors).name, Path(semantics).name])
    try:
        return ColorMemory(keys=keys, values=values, encoder=encoder, provenance=provenance)
    except ValueError as error:
        raise CheckpointError(f"{Path(colors).name}, {Path(semantics).name}: {error}") from error


def export_npy(memory: ColorMemory, colors: str | Path, semantics: str | Path) -> None:
    """Write the official pair of files, or neither: ab as whole float64, keys in float32."""
    contents = {}
    for path, array in (
        (colors, memory.values.double().round().numpy()),
        (semantics, memory.keys.numpy()),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        contents[Path(path)] = buffer.getvalue()
    write_atomic_together(contents)


def _load_array(path: str | Path, dimensions: int) -> Tensor:
    try:
        # Mapped, so that an array that is larger than its file is refused before it is allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        name = Path(path).name
        raise CheckpointError(f"{name}: not a .npy file of numbers ({error}).") from error
    if (
        not isinstance(array, np.ndarray)
        or array.ndim != dimensions
        or array.dtype.kind not in "fiu"
    ):
        raise CheckpointError(
            f"{Path(path).name}: expected an array of numbers with {dimensions} dimensions."
        )
    return torch.from_numpy(array.astype(np.float32))
