"""Measure an automatic colorizer on colour photos: their grey version is coloured and compared.

    python trainers/evaluate.py --photos photos/ --model ddcolor-nano
    python trainers/evaluate.py --photos photos/ --model runs/nano/weights.safetensors --sheet a.jpg
    colorist evaluate --photos photos/ --model ddcolor-nano            # the same, installed

Beside the network stand plain grey and a table "mean ab for each lightness" learned on the first
half of the photos; all are scored on the second half (PSNR and colourfulness, mean over photos).
"""

if not __package__:  # run by path
    import _standalone

    __package__ = _standalone.package("trainers")

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..model_defs import checkpoint
from ..pipeline import color, engine, measure, models
from ..pipeline.files import write_whole
from ..pipeline.finish import Finish
from . import common
from .data import Photos

PRESETS: dict[str, dict] = {}
LEVELS = 101  # one table entry for each whole L


@dataclass
class Config:
    """Settings of one evaluation."""

    photos: tuple[Path, ...] = ()
    """Folders and .tar shards of colour photos."""
    model: str = "ddcolor-nano"
    """File, boxed or installed network."""
    resolution: int = 0
    """Working resolution; 0 = the network's own."""
    saturation: float = 1.0
    limit: int = 0
    """Use only the first photos; 0 = all."""
    stamp: bool = False
    """Write the scores into the metadata of the model file, which must be one of ours."""
    sheet: Path | None = None
    """Write a contact sheet of 20 photos: grey, coloured, true."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")


def main(config: Config) -> dict:
    """Print and return {method: {"psnr": dB, "colorfulness": value}}."""
    colorizer = engine.load(config.model, device=config.device)
    if colorizer.spec.role != "automatic":
        raise ValueError(
            f"model is {config.model}, a network of the role '{colorizer.spec.role}', which needs "
            "more than a grey photo; expected an automatic one. For exemplar networks: "
            "benchmarks/by_reference.py."
        )
    photos = Photos(config.photos)
    count = min(config.limit or len(photos), len(photos))
    half = count // 2
    table = lightness_table(photos[i] for i in range(half))
    controls = Finish(saturation=config.saturation)

    def colored(gray: Tensor) -> Tensor:
        hwc = gray.movedim(1, -1)
        resolution = config.resolution or None
        return colorizer.colorize(hwc, resolution=resolution, finish=controls).movedim(-1, 1)

    scores: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for i in range(half, count):
        true = as_tensor(photos[i])
        gray = color.gray_rgb(color.lightness(true))
        results = {
            "grey": gray,
            "mean ab per lightness": apply_table(gray, table),
            config.model: colored(gray),
            "the photos themselves": true,
        }
        for name, result in results.items():
            score = measure.psnr(result, true).item(), measure.colorfulness(result).item()
            scores.setdefault(name, []).append(score)
        if len(rows) < 20 and (i - half) % max(1, (count - half) // 20) == 0:
            rows.append([gray, results[config.model], true])
    summary = {
        name: {
            "psnr": sum(p for p, _ in values) / len(values),
            "colorfulness": sum(c for _, c in values) / len(values),
        }
        for name, values in scores.items()
    }
    print(f"{count - half} photos\n\n| method | PSNR | colourfulness |\n| --- | --- | --- |")
    for name, score in summary.items():
        print(f"| {name} | {score['psnr']:.2f} | {score['colorfulness']:.1f} |")
    if config.sheet:
        contact_sheet(rows).save(config.sheet)
    if config.stamp:
        stamp(models.locate(config.model), summary[config.model] | {"photos": count - half})
    return summary


def stamp(path: Path, scores: dict[str, float]) -> None:
    """Put `scores` into the metadata of one of our files."""
    state, info = checkpoint.read(path)
    if not info:
        raise ValueError(f"{path.name}: not a file of ours, so it has no metadata for scores.")
    scores = {name: round(value, 2) for name, value in scores.items()}
    info["training"] = info.get("training", {}) | {"scores": scores}
    write_whole(path, checkpoint.to_bytes(state, info))


def as_tensor(photo: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.array(photo)).movedim(-1, 0)[None].float() / 255


def lightness_table(photos: Iterable[Image.Image]) -> Tensor:
    """Mean ab of all pixels of each lightness: (LEVELS, 2).

    What colour knowledge is worth without looking.
    """
    total, number = torch.zeros(LEVELS, 2), torch.zeros(LEVELS)
    for photo in photos:
        L, a, b = color.rgb_to_lab(as_tensor(photo)).flatten(2)[0]
        level = L.round().long().clamp(0, LEVELS - 1)
        total.index_add_(0, level, torch.stack([a, b], dim=1))
        number.index_add_(0, level, torch.ones_like(L))
    return total / number.clamp_min(1)[:, None]


def apply_table(gray: Tensor, table: Tensor) -> Tensor:
    """Colour (1, 3, H, W) by `lightness_table`."""
    L = color.lightness(gray)
    ab = table[L[:, 0].round().long().clamp(0, LEVELS - 1)].movedim(-1, 1)
    return color.to_gamut(torch.cat([L, ab], dim=1))


def contact_sheet(rows: list[list[Tensor]], height: int = 160, columns: int = 4) -> Image.Image:
    """Groups of pictures side by side, `columns` groups in a row."""
    groups = []
    for group in rows:
        images = [
            Image.fromarray((p[0].movedim(0, -1) * 255).round().byte().numpy()) for p in group
        ]
        images = [
            image.resize((round(image.width * height / image.height), height)) for image in images
        ]
        sheet = Image.new("RGB", (sum(i.width + 4 for i in images), height + 6), "white")
        x = 0
        for image in images:
            sheet.paste(image, (x, 0))
            x += image.width + 4
        groups.append(sheet)
    width = max(group.width for group in groups)
    lines = -(-len(groups) // columns)
    whole = Image.new("RGB", (width * min(columns, len(groups)), lines * (height + 6)), "white")
    for i, group in enumerate(groups):
        whole.paste(group, (i % columns * width, i // columns * (height + 6)))
    return whole


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(common.parse(Config, PRESETS, doc=__doc__))
