r"""Find the five best references for each photo among the others, for exemplar training.

    # A folder, or shards with an index of licenses
    python trainers/build_reference_pairs.py --photos photos/ --out pairs.json
    python trainers/build_reference_pairs.py --photos shard-*.tar --index index.csv \
        --skip-licences unstated --out pairs.json
    # Use the table
    python trainers/train_exemplar.py --photos photos/ --pairs pairs.json --out runs/exemplar

This is the recommendation of the XCNet paper, section 4.1, with all photos as one class. 10,000
photos of 160 pixels need three to six minutes on one CPU core, and 22 kB of memory each.
`pairs.json` holds

    {"version": 1, "encoder": ..., "keys": [stem of each photo], "top": [[indices of keys], ...],
     "skipped": {"grey": [keys], "unreadable": [keys]}}

with the best references first. Gray photos serve as targets only; unreadable photos are left out.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..console import checks, output
from ..console.progress import Progress
from ..media.atomic import write_atomic
from ..pipeline import loader
from ..pipeline.references import descriptors, search
from .data.photos import PhotoInputs, Photos
from .runtime.command_line import run_script

PRESETS: dict[str, dict[str, Any]] = {}


@dataclass
class Config:
    """Settings of a table of pairs."""

    photos: tuple[str, ...] = ()
    """Folders and .tar shards of color photos."""
    out: Path = Path("pairs.json")
    """File to write, ending in .json."""
    index: tuple[Path, ...] = ()
    """CSV files with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Values of `licence_kind` to leave out."""
    limit: int = 0
    """Number of photos to use; 0 = all."""
    encoder: str = descriptors.ENCODER
    """Model whose encoder describes the photos: file, bundled or installed model."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """PyTorch device."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.out.suffix != ".json":
            raise ValueError(f"out is {self.out}; the name must end in .json.")


def main(config: Config) -> dict[str, Any]:
    """Build the table, write it to `config.out` and return it.

    Raises:
        UsageError: `config.out` exists or cannot be written.
        ValueError, OSError, MemoryError: see `search.rank_gallery`.
    """
    checks.check_output_file(config.out, config.overwrite)
    checks.check_writable(config.out.parent, "--out")
    photos = Photos(config.photos, config.index, config.skip_licences)
    inputs = PhotoInputs(photos, config.limit)
    colorizer = loader.load(config.encoder, device=config.device)
    start = time.monotonic()
    with Progress("photos", " photos") as bar:
        pairs = search.rank_gallery(inputs, colorizer, progress=bar.report)
    keys = photos.keys[: len(inputs)]
    table = {
        "version": 1,
        "encoder": descriptors.encoder_name(colorizer),
        "keys": keys,
        "top": [[index for index in row if index >= 0] for row in pairs.top.tolist()],
        "skipped": {
            "grey": [keys[index] for index in pairs.gray],
            "unreadable": [keys[index] for index in pairs.unreadable],
        },
    }
    write_atomic(config.out, json.dumps(table).encode())
    print(f"{config.out}: {len(keys)} photos, {time.monotonic() - start:.1f} s")
    if line := output.skipped_summary(len(pairs.gray), len(pairs.unreadable)):
        print(line)
    return table


if __name__ == "__main__":
    sys.exit(run_script(main, Config, PRESETS, __doc__))
