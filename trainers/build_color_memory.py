r"""Build the color memory of a ColorFormer from your photos (paper, section 3.4, Algorithm 1).

    # For a trained network: keys in its own feature space
    python trainers/build_color_memory.py --model colorformer-nano --photos photos/ \
        --out mine.safetensors
    # For a network to be trained with the memory: keys in a new space, by PCA
    python trainers/build_color_memory.py --model colorformer-nano --backbone efficientnet_lite1 \
        --fresh --entries 256 --photos shard-*.tar --out runs/memory.safetensors
    # The first command, when installed
    colorist memory build photos/ -o mine.safetensors --model colorformer-nano

The paper uses 10,000 photos and 512 entries.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..console import checks, output
from ..console.progress import Progress
from ..model_defs import colorformer, registry
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from ..pipeline.color_memory import builder, memory
from . import pretrained, pretrained_files
from .data.photos import PhotoInputs, Photos
from .runtime.command_line import run_script

PRESETS: dict[str, dict[str, Any]] = {}


@dataclass
class Config:
    """Settings of a color memory."""

    photos: tuple[str, ...] = ()
    """Folders and .tar shards of color photos."""
    out: Path = Path("memory.safetensors")
    """File to write, ending in .safetensors."""
    model: str = "colorformer-nano"
    """Model whose encoder describes the photos: file, bundled or installed model; with `backbone` a
    preset of ColorFormer."""
    backbone: str | None = None
    """ImageNet weights for the encoder of a network to be trained, as in train_colorformer.py."""
    entries: int = builder.DEFAULT_ENTRIES
    """Number of entries."""
    seed: int = 0
    """Random seed of sampling and clustering."""
    side: int = 0
    """Resize photos to about side x side pixels; 0 = the working size of the network."""
    fresh: bool = False
    """Build keys in a new space, by PCA, for a network to be trained with this memory."""
    index: tuple[Path, ...] = ()
    """CSV files with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Values of `licence_kind` to leave out."""
    limit: int = 0
    """Number of photos to use; 0 = all."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """PyTorch device."""
    dtype: str = "float32"
    """Data type of the network: float32, bfloat16 or float16."""
    offline: bool = False
    """Do not download anything."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.out.suffix != ".safetensors":
            raise ValueError(f"out is {self.out}; the name must end in .safetensors.")
        if self.backbone and self.dtype != "float32":
            raise ValueError(f"dtype is {self.dtype}; --backbone requires float32.")
        if not 0 <= self.seed <= builder.MAX_SEED:
            raise ValueError(f"seed is {self.seed}; expected 0 to {builder.MAX_SEED}.")


def main(config: Config) -> memory.ColorMemory:
    """Build a memory, write it to `config.out` and return it.

    Raises:
        UsageError: `config.out` exists or cannot be written.
        ValueError, OSError, RuntimeError, MemoryError: see `builder.build_memory`.
    """
    checks.check_output_file(config.out, config.overwrite)
    checks.check_writable(config.out.parent, "--out")
    photos = PhotoInputs(Photos(config.photos, config.index, config.skip_licences), config.limit)
    colorizer = (
        untrained_colorizer(config, config.backbone)
        if config.backbone
        else loader.load(config.model, device=config.device, dtype=config.dtype)
    )
    side = config.side or None
    builder.check_build(colorizer, photos, config.entries, side, config.seed, config.fresh)
    start = time.monotonic()
    with Progress("photos", " photos") as bar:
        built = builder.build_memory(
            colorizer,
            photos,
            entries=config.entries,
            seed=config.seed,
            side=side,
            fresh=config.fresh,
            progress=bar.report,
        )
    memory.save_memory(built, config.out)
    seconds = time.monotonic() - start
    print(f"{config.out}: {built.describe()}, {seconds:.1f} s")
    if line := output.skipped_summary(built.provenance["grey"], built.provenance["unreadable"]):
        print(line)
    return built


def untrained_colorizer(config: Config, backbone: str) -> Colorizer:
    """Return a new network with the encoder `backbone`, for building a memory.

    Raises:
        ValueError: `config.model` is not a preset of ColorFormer.
    """
    if config.model not in colorformer.PRESETS:
        raise ValueError(
            f"model is {config.model}; with --backbone expected a preset of ColorFormer: "
            f"{', '.join(colorformer.PRESETS)}."
        )
    preset = colorformer.PRESETS[config.model]
    network = cast(colorformer.ColorFormer, registry.build(colorformer.NAME, preset))
    path = pretrained_files.locate(backbone, offline=config.offline)
    kind = pretrained.COLORFORMER_BACKBONES[preset.encoder]
    pretrained.load_backbone(network.encoder, path, kind)
    network.eval().to(config.device)
    spec = colorformer.spec(preset)
    colorizer = loader.require_role(loader.wrap(network, spec), Colorizer)
    colorizer.name = f"{config.model} on {path.name}"
    return colorizer


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
