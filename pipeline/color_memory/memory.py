"""Color memories: semantic keys with groups of colours, apart from the network that asks them.

ColorFormer, section 3.3 and 3.4. `builder` makes them; a Colorizer uses them.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...media.atomic import write_whole
from ...model_defs import checkpoint
from ...model_defs.checkpoint import CheckpointError
from ...model_defs.spec import Entries, MemorySizes

KIND = "color memory"  # in the metadata of our files, where a network has its architecture
VERSION = 1
LARGEST_AB = 128.0  # no sRGB colour has more
LARGEST_KEY = 1e4  # keys are multiplied with weights; float16 ends at 65504


class Projection(NamedTuple):
    """The map from encoder features to keys: features @ components^T + offset."""

    components: Tensor
    """(k, c)."""
    offset: Tensor
    """(k,)."""

    def __call__(self, features: Tensor) -> Tensor:
        """Features (..., c) -> keys (..., k)."""
        return features @ self.components.mT + self.offset


@dataclass(frozen=True, eq=False, kw_only=True)
class ColorMemory:
    """What travels on a COLOR_MEMORY wire and lies in a memory file."""

    keys: Tensor
    """S: (m, k) float32."""
    values: Tensor
    """C_1 ... C_n: (n, m, 2) float32, ab in Lab units; in one entry ordered counter-clockwise."""
    encoder: str
    """Fingerprint of the encoder whose features the keys are made of."""
    projection: Projection | None = None
    """How the keys were made of features; None for memories whose projection was not kept."""
    provenance: dict = field(default_factory=dict)
    """Where it comes from: network, photos, patches, seed, ... (JSON)."""

    def __post_init__(self) -> None:
        keys, values = self.keys.shape, self.values.shape
        if len(keys) != 2 or len(values) != 3 or values[1:] != (keys[0], 2) or 0 in keys + values:
            raise ValueError(
                f"the color memory has keys {tuple(keys)} and values {tuple(values)}; expected "
                "keys (m, k) and values (n, m, 2)."
            )
        if not (self.keys.isfinite().all() and self.values.isfinite().all()):
            raise ValueError("the color memory holds NaN or infinite numbers; build it again.")
        largest_key, largest_ab = (float(x.abs().max()) for x in (self.keys, self.values))
        if largest_ab > LARGEST_AB:
            coded = self.values.min() >= 0 and largest_ab <= 255
            raise ValueError(
                f"the color memory has ab values up to {largest_ab:g}; expected -128 to 128"
                + (" (they look like the 0 to 255 coding: subtract 128)." if coded else ".")
            )
        if largest_key > LARGEST_KEY:
            raise ValueError(
                f"the color memory has keys up to {largest_key:g}, which no network can use; "
                f"expected at most {LARGEST_KEY:g}. Build it again."
            )
        if self.projection and [len(part) for part in self.projection] != [keys[1]] * 2:
            raise ValueError(
                f"the color memory has keys of width {keys[1]}, but its projection makes keys of "
                f"width {len(self.projection.components)}; build it again."
            )

    def entries(self, device: torch.device) -> Entries:
        """Keys and values for a network on `device`."""
        return Entries(self.keys.to(device), self.values.to(device))

    def describe(self) -> str:
        """One line for a person."""
        groups, entries, _ = self.values.shape
        made = f", {self.provenance['photos']} photos" if "photos" in self.provenance else ""
        return f"{entries} entries of {groups} colours, keys of width {self.keys.shape[1]}{made}"


def fingerprint(encoder: nn.Module) -> str:
    """Names an encoder by its vectors (biases and norms), which any training changes.

    Rounded to float16 first, so that a float32 file and its float16 copy have the same name.
    """
    digest = hashlib.sha256()
    for tensor in encoder.parameters():  # in their order; our names for them may change
        if tensor.ndim == 1:
            digest.update(tensor.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_unless_fits(
    memory: ColorMemory, sizes: MemorySizes | None, encoder: str, name: str
) -> None:
    """Raise ValueError with the reason when `memory` cannot serve the network called `name`."""
    if sizes is None:
        raise ValueError(
            f"{name} has no color memory; choose a network with a color memory (such as "
            "colorformer-nano)."
        )
    groups, _, _ = memory.values.shape
    width = memory.keys.shape[1]
    if (width, groups) != (sizes.key_width, sizes.groups):
        raise ValueError(
            f"the color memory has keys of width {width} and {groups} groups; {name} needs width "
            f"{sizes.key_width} and {sizes.groups} groups. Build a memory with {name}."
        )
    if memory.encoder != encoder:
        built = memory.provenance.get("network", "another network")
        raise ValueError(
            f"the color memory was built with the encoder of {built} ({memory.encoder}); {name} "
            f"has another one ({encoder}), to which its keys mean nothing. Build a memory with "
            f"{name}."
        )


def sample_fusion_weights(groups: int, count: int, seed: int, spread: float) -> Tensor:
    """Fusion weights to lean towards: (count, groups), each row sums to 1 (supplement, section 4).

    Row i is softmax(g / (1 - spread)) of Gumbel noise g whose largest value belongs to group i of a
    random order, so that each group leads equally often; at spread 1 it is that group alone. What a
    network uses is lambda + spread (row - lambda).
    """
    if not 1 <= count <= 64:
        raise ValueError(f"count is {count}; expected 1 to 64 results.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    if not 0 <= spread <= 1:
        raise ValueError(f"spread is {spread}; expected 0 (as predicted) to 1 (one group only).")
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        if i % groups == 0:
            order = random.permutation(groups)
        noise = np.sort(random.gumbel(size=groups))[::-1]
        row = np.empty(groups)
        row[np.roll(order, -i)] = noise  # the largest to the leading group
        if spread == 1:
            weights = (row == row.max()).astype(float)
        else:
            weights = np.exp((row - row.max()) / (1 - spread))
        rows.append(weights / weights.sum())
    return torch.from_numpy(np.stack(rows)).float()


# --- Files -------------------------------------------------------------------------------------


def save(memory: ColorMemory, path: str | Path) -> None:
    """Write a memory as safetensors, whole or not at all."""
    state = {"keys": memory.keys, "values": memory.values}
    if memory.projection:
        state |= {"components": memory.projection.components, "offset": memory.projection.offset}
    info = {
        "kind": KIND,
        "version": VERSION,
        "encoder": memory.encoder,
        "provenance": memory.provenance,
    }
    write_whole(Path(path), checkpoint.to_bytes(state, info))


def load(path: str | Path) -> ColorMemory:
    """Read a memory file.

    Raises:
        CheckpointError: not a memory file of ours, damaged, or of a newer version.
    """
    name = Path(path).name
    state, info = checkpoint.read(path)
    if info.get("kind") != KIND:
        raise CheckpointError(
            f"{name}: holds no color memory. Build one (colorist memory build), or import the "
            "published .npy pair (colorist memory import)."
        )
    if info.get("version") != VERSION:
        raise CheckpointError(
            f"{name}: a color memory of version {info.get('version')}; this program reads version "
            f"{VERSION}. Update it, or build the memory again."
        )
    try:
        projection = None
        if "components" in state:
            projection = Projection(state["components"].float(), state["offset"].float())
        return ColorMemory(
            keys=state["keys"].float(),
            values=state["values"].float(),
            encoder=str(info["encoder"]),
            projection=projection,
            provenance=dict(info.get("provenance", {})),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{name}: no usable color memory ({error}).") from error


def import_npy(
    colors: str | Path, semantics: str | Path, *, encoder: str, network: str
) -> ColorMemory:
    """The published pair of files as a memory for the network with fingerprint `encoder`.

    Args:
        colors: color_embed_*.npy, (n, m, 2), ab in Lab units.
        semantics: semantic_embed_*.npy, (m, k).
        network: its name, for provenance.
    Raises:
        CheckpointError: a file that is no plain array of that shape.
    """
    values, keys = _array(colors, 3), _array(semantics, 2)
    provenance = {"network": network, "imported": [Path(colors).name, Path(semantics).name]}
    try:
        return ColorMemory(keys=keys, values=values, encoder=encoder, provenance=provenance)
    except ValueError as error:
        raise CheckpointError(f"{Path(colors).name}, {Path(semantics).name}: {error}") from error


def export_npy(memory: ColorMemory, colors: str | Path, semantics: str | Path) -> None:
    """Write the published pair: ab as whole numbers in float64, keys in float32."""
    for path, array in (
        (colors, memory.values.double().round().numpy()),
        (semantics, memory.keys.numpy()),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_whole(Path(path), buffer.getvalue())


def _array(path: str | Path, dimensions: int) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{Path(path).name}: no .npy file of numbers ({error}).") from error
    if (
        not isinstance(array, np.ndarray)
        or array.ndim != dimensions
        or array.dtype.kind not in "fiu"
    ):
        raise CheckpointError(
            f"{Path(path).name}: expected an array of numbers with {dimensions} dimensions."
        )
    return torch.from_numpy(array.astype(np.float32))
