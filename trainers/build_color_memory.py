"""Build the color memory of a ColorFormer from your own photos: section 3.4, Algorithm 1.

    # For a trained network: in the space of its own keys
    python trainers/build_color_memory.py --model colorformer-nano --photos photos/ \\
        --out mine.safetensors
    # For a network that is to be trained with it: a new space, by PCA
    python trainers/build_color_memory.py --model colorformer-nano --backbone efficientnet_lite1 \\
        --fresh --entries 256 --photos shard-*.tar --out runs/memory.safetensors
    # The first, installed
    colorist memory build photos/ -o mine.safetensors --model colorformer-nano

The paper takes 10,000 photos, 512 entries.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..console import checks, output
from ..media.image_data import PictureError
from ..model_defs import colorformer, registry
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from ..pipeline.color_memory import builder as memory_builder
from ..pipeline.color_memory import memory
from . import pretrained, pretrained_files
from .data.photos import Photos
from .runtime import settings

PRESETS: dict[str, dict] = {}


@dataclass
class Config:
    """Settings of one memory."""

    photos: tuple[str, ...] = ()
    """Folders and .tar shards of colour photos."""
    out: Path = Path("memory.safetensors")
    model: str = "colorformer-nano"
    """File, boxed or installed network whose encoder looks at the photos; with `backbone` a preset
    of ColorFormer."""
    backbone: str | None = None
    """ImageNet weights for the encoder of a network that is to be trained, as for
    train_colorformer.py."""
    entries: int = memory_builder.ENTRIES
    seed: int = 0
    side: int = 0
    """Photos are scaled to about side x side pixels; 0 = the network's working size."""
    fresh: bool = False
    """A new space of keys by PCA, for a network that is to be trained with this memory."""
    index: tuple[Path, ...] = ()
    """CSV files with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    limit: int = 0
    """Use only the first photos; 0 = all."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: str = "float32"
    """float32, bfloat16 or float16, of the network."""
    offline: bool = False
    """Download nothing."""
    overwrite: bool = False
    """Replace `out` if it is there."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"out is {self.out}; the name must end in .safetensors.")
        if self.backbone and self.dtype != "float32":
            raise ValueError(f"dtype is {self.dtype}; with --backbone expected float32.")
        if not 0 <= self.seed < memory_builder.SEEDS:
            raise ValueError(f"seed is {self.seed}; expected 0 to {memory_builder.SEEDS - 1}.")


class Pictures(Sequence[Path | Tensor]):
    """Photos as the builder takes them: files by their path, members of shards as pixels."""

    def __init__(self, photos: Photos, limit: int = 0):
        self.photos = photos
        self.count = min(limit or len(photos), len(photos))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Path | Tensor:
        if not 0 <= index < self.count:
            raise IndexError(index)
        path, offset, size = self.photos.entries[index]
        if size < 0:
            return path
        try:
            pixels = np.array(self.photos[index])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise PictureError(f"{path.name} at byte {offset}: damaged ({error}).") from error
        return torch.from_numpy(pixels).float() / 255


def main(config: Config) -> memory.ColorMemory:
    """Build a memory, write it to `config.out` and return it; the pace is printed.

    Raises:
        Refusal: a file cannot be written to `config.out`, or is there already.
        ValueError, OSError, RuntimeError, MemoryError: see `builder.build`.
    """
    checks.refuse_existing(config.out, config.overwrite)
    checks.refuse_unwritable(config.out.parent)
    pictures = Pictures(Photos(config.photos, config.index, config.skip_licences), config.limit)
    colorizer = (
        untrained(config)
        if config.backbone
        else loader.load(config.model, device=config.device, dtype=config.dtype)
    )
    side = config.side or None
    memory_builder.refuse(colorizer, pictures, config.entries, side, config.seed, config.fresh)
    began = time.monotonic()
    built = memory_builder.build(
        colorizer,
        pictures,
        entries=config.entries,
        seed=config.seed,
        side=side,
        fresh=config.fresh,
        progress=output.pace(partial(print, flush=True), every=10),
    )
    memory.save(built, config.out)
    seconds = time.monotonic() - began
    print(f"{config.out}: {built.describe()}, {seconds:.1f} s")
    if line := output.left_out(built.provenance["grey"], built.provenance["unreadable"]):
        print(line)
    return built


def untrained(config: Config) -> Colorizer:
    """Return a new network with the encoder `config.backbone`, ready to build a memory with.

    Raises:
        ValueError: no preset of ColorFormer.
    """
    if config.model not in colorformer.PRESETS:
        raise ValueError(
            f"model is {config.model}; with --backbone expected a preset of ColorFormer: "
            f"{', '.join(colorformer.PRESETS)}."
        )
    network = registry.build(colorformer.NAME, colorformer.PRESETS[config.model])
    path = pretrained_files.find(config.backbone, offline=config.offline)
    pretrained.take(network.encoder, path, pretrained.COLORFORMER[network.config.encoder])
    network.eval().to(config.device)
    colorizer = loader.wrap(network, colorformer.spec(network.config))
    colorizer.name = f"{config.model} on {path.name}"
    return colorizer


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
