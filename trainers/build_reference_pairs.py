"""Find the five best references of every photo among the others, for training by reference.

    # A folder, or shards with an index of licences
    python trainers/build_reference_pairs.py --photos photos/ --out pairs.json
    python trainers/build_reference_pairs.py --photos shard-*.tar --index index.csv \\
        --skip-licences unstated --out pairs.json
    # Then
    python trainers/train_exemplar.py --photos photos/ --pairs pairs.json --out runs/exemplar

The recommendation of section 4.1, over all photos as one class. 10,000 photos of 160 pixels take
three to six minutes on one CPU core, and 22 kB of memory each. `pairs.json` holds

    {"version": 1, "encoder": ..., "keys": [stem of each photo], "top": [[places in keys], ...],
     "skipped": {"grey": [keys], "unreadable": [keys]}}

with the best reference first. Grey photos are nobody's reference; unreadable ones have none either.
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..console import checks, output
from ..media import atomic
from ..pipeline import loader
from ..pipeline.references import descriptors
from ..pipeline.references import search as reference_search
from .build_color_memory import Pictures
from .data.photos import Photos
from .runtime import settings

PRESETS: dict[str, dict] = {}


@dataclass
class Config:
    """Settings of one table of pairs."""

    photos: tuple[str, ...] = ()
    """Folders and .tar shards of colour photos."""
    out: Path = Path("pairs.json")
    index: tuple[Path, ...] = ()
    """CSV files with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    limit: int = 0
    """Use only the first photos; 0 = all."""
    encoder: str = descriptors.ENCODER
    """File, boxed or installed network whose encoder looks at the photos."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    overwrite: bool = False
    """Replace `out` if it is there."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        if self.out.suffix != ".json":
            raise ValueError(f"out is {self.out}; the name must end in .json.")


def main(config: Config) -> dict:
    """Make the table, write it to `config.out` and return it; the pace is printed.

    Raises:
        Refusal: a file cannot be written to `config.out`, or is there already.
        ValueError, OSError, MemoryError: see `search.rank_all`.
    """
    checks.refuse_existing(config.out, config.overwrite)
    checks.refuse_unwritable(config.out.parent)
    photos = Photos(config.photos, config.index, config.skip_licences)
    pictures = Pictures(photos, config.limit)
    colorizer = loader.load(config.encoder, device=config.device)
    began = time.monotonic()
    tell = output.pace(partial(print, flush=True), every=10)
    pairs = reference_search.rank_all(pictures, colorizer, progress=tell)
    keys = list(photos.keys)[: len(pictures)]
    table = {
        "version": 1,
        "encoder": descriptors.encoder_name(colorizer),
        "keys": keys,
        "top": [[place for place in row if place >= 0] for row in pairs.top.tolist()],
        "skipped": {
            "grey": [keys[place] for place in pairs.grey],
            "unreadable": [keys[place] for place in pairs.unreadable],
        },
    }
    atomic.write_whole(config.out, json.dumps(table).encode())
    print(f"{config.out}: {len(keys)} photos, {time.monotonic() - began:.1f} s")
    if line := output.left_out(len(pairs.grey), len(pairs.unreadable)):
        print(line)
    return table


if __name__ == "__main__":
    sys.exit(settings.script(main, Config, PRESETS, __doc__))
