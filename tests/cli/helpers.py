"""Helpers for tests that run the command line in this process."""

from pathlib import Path

import numpy as np
from comfyui_colorist import cli
from comfyui_colorist.media import image_io
from PIL import Image


def make_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)
    Image.fromarray(gray).resize(size).save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def is_colorized(path: Path) -> bool:
    pixels = image_io.read_image(path).pixels
    return pixels.shape[2] >= 3 and np.ptp(pixels[..., :3], axis=2).max() > 0.02


def color_photos(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8))
        small.resize((60, 40), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return folder
