"""Looks: color grading that changes chroma only, so that lightness and detail stay.

A look is a small table, see `Look`. `looks.json` beside this module holds the bundled ones; files
of the same form add others.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model_store import paths
from ..ops import color, resize
from ..ops.tensors import Image, ImageT, as_batch, as_masks, sanitize

FILE = "looks.json"
"""Name of the user's file in the models folder."""
BUNDLED = Path(__file__).with_name(FILE)
DEFAULT = "natural"
VIBRANCE_CHROMA = 20.0  # C* at which vibrance has lost half of its effect
MAX_TINT = 60.0
MAX_FILE_BYTES = 2**20
Tones = tuple[float, float, float]
"""Values for shadows (L = 0), midtones (L = 50) and highlights (L = 100), linear in between."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """Parameters, in the order in which they are applied to a and b of Lab."""

    matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    """Linear map of (a, b): turns hues and brings them together or apart; -4 to 4."""
    vibrance: float = 0.0
    """Gain of weak colors: 0.5 makes the weakest half as strong again; -1 to 2."""
    saturation: Tones = (1.0, 1.0, 1.0)
    """Factor on chroma for each tone, 0 to 4."""
    ceiling: float = 0.0
    """Soft limit for the chroma C*, 0 to 200; 0 = no limit."""
    tint: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] = ((0.0, 0.0),) * 3
    """(a, b) added in each tone, also to gray; -60 to 60."""
    description: str = ""

    def __post_init__(self) -> None:
        _check(self.matrix, "matrix", (2, 2), -4, 4)
        _check(self.vibrance, "vibrance", (), -1, 2)
        _check(self.saturation, "saturation", (3,), 0, 4)
        _check(self.ceiling, "ceiling", (), 0, 200)
        _check(self.tint, "tint", (3, 2), -MAX_TINT, MAX_TINT)

    def with_tint(self, tint: Sequence[Sequence[float]]) -> "Look":
        """Return a look with (a, b) added to the tint of shadows, midtones and highlights."""
        total = torch.tensor(self.tint) + torch.tensor(tint)
        return replace(self, tint=_to_tuple(total.clamp(-MAX_TINT, MAX_TINT).tolist()))

    def apply(self, ab: Tensor, L: Tensor) -> Tensor:
        """Return ab (B, 2, h, w) in this look; L is (B, 1, h, w) in 0..100."""
        if self == Look(description=self.description):
            return ab
        ab = torch.einsum("ij, bjhw -> bihw", torch.tensor(self.matrix).to(ab), ab)
        if self.vibrance:
            weak = VIBRANCE_CHROMA / (VIBRANCE_CHROMA + color.chroma(ab))
            ab = ab * (1 + self.vibrance * weak)
        ab = ab * _by_tone(torch.tensor(self.saturation).to(ab)[:, None], L)
        if self.ceiling:
            ab = limit_chroma(ab, self.ceiling)
        return ab + _by_tone(torch.tensor(self.tint).to(ab), L)


def limit_chroma(ab: Tensor, ceiling: float) -> Tensor:
    """Limit the chroma C* of ab (B, 2, h, w) softly; hue stays."""
    c = color.chroma(ab)
    return ab * (ceiling * torch.tanh(c / ceiling) / c.clamp_min(1e-6))


def _by_tone(values: Tensor, L: Tensor) -> Tensor:
    """Interpolate values (3, C) of shadows, midtones and highlights at L: (B, C, h, w)."""
    tone = (L / 50).clamp(0, 2)
    low, middle, high = values[:, None, :, None, None]
    return torch.where(tone < 1, torch.lerp(low, middle, tone), torch.lerp(middle, high, tone - 1))


def _check(value: Any, name: str, shape: tuple[int, ...], low: float, high: float) -> None:
    """Raise ValueError unless `value` holds numbers of this range in this shape."""
    try:
        tensor = torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tensor = torch.empty(0)
    if tensor.shape != shape or not ((tensor >= low) & (tensor <= high)).all():
        size = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise ValueError(f"{name} is {value}; expected {size} from {low} to {high}.")


def read_looks(path: Path) -> dict[str, Look]:
    """Read the looks of a JSON file: name -> values that differ from those of `natural`.

    Raises:
        ValueError: the file cannot be read, or a look has unknown or wrong values.
    """
    known = {field.name for field in fields(Look)}
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("the file is larger than 1 MiB")
        tables = json.loads(path.read_text("utf-8"))
        if not isinstance(tables, dict):
            raise ValueError("expected an object: name of the look -> its values")
        return {name: _parse(name, table, known) for name, table in tables.items()}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: these looks cannot be read ({error}).") from error


def _parse(name: str, table: Any, known: set[str]) -> Look:
    if not isinstance(table, Mapping) or not set(table) <= known:
        raise ValueError(f"look '{name}': expected an object with {', '.join(sorted(known))}")
    try:
        return Look(**{key: _to_tuple(value) for key, value in table.items()})
    except ValueError as error:
        raise ValueError(f"look '{name}': {error}") from error


def _to_tuple(value: Any) -> Any:
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


@cache
def bundled_looks() -> dict[str, Look]:
    """Return the bundled looks by name, `natural` first."""
    return read_looks(BUNDLED)


def available_looks(folder: Path | None = None) -> dict[str, Look]:
    """Return the bundled looks and those that the user added, by name.

    Args:
        folder: models folder whose `looks.json` adds to the bundled looks, or replaces those of the
            same name; None = `paths.models_folder()`.

    Raises:
        ValueError: the file cannot be used.
    """
    path = (folder or paths.models_folder()) / FILE
    return bundled_looks() | (read_looks(path) if path.is_file() else {})


def find_look(name: str, folder: Path | None = None) -> Look:
    """Return a look of `available_looks` by its name.

    Raises:
        ValueError: unknown name, or unusable file of the user.
    """
    if name in bundled_looks() and folder is None:
        return bundled_looks()[name]
    looks = available_looks(folder)
    if name not in looks:
        raise ValueError(f"look is '{name}'; expected one of {', '.join(looks)}.")
    return looks[name]


@torch.inference_mode()
def apply_look(
    rgb: ImageT,
    look: Look,
    *,
    strength: float = 1.0,
    mask: Image | None = None,
    device: torch.device | str = "cpu",
    check_interrupt: Callable[[], None] = lambda: None,
) -> ImageT:
    """Give colored photos a look. Their lightness is kept.

    Args:
        rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; C = 1 (gray), 3 or 4 (alpha kept).
        look: see `Look`.
        strength: 0 leaves the photo as it is, 1 applies the look fully.
        mask: (B or 1, H, W) or (H, W) in 0..1; 1 = apply the look.
        device: where to compute.
        check_interrupt: called before each photo; may raise to stop.

    Returns:
        the same type (tensor or array), dtype, device and shape as `rgb`; gray input gains color
        channels.
    """
    images, restore = as_batch(rgb)
    masks = None if mask is None else as_masks(mask, images)
    count, height, width, channels = images.shape
    out = images.new_empty(count, height, width, max(3, channels))
    out[..., 3:] = images[..., 3:]
    for index in range(count):
        check_interrupt()
        photo = sanitize(images[index : index + 1].movedim(-1, 1), "image")
        photo = photo[:, :3].expand(-1, 3, -1, -1)
        for top, bottom in resize.row_ranges(height, width, 1):
            strip = photo[:, :, top:bottom].to(device, torch.float32)
            lab = color.rgb_to_lab(strip)
            L, ab = lab.split([1, 2], dim=1)
            weight = torch.full_like(L, strength)
            if masks is not None:
                row = masks[index % len(masks), top:bottom]
                weight = weight * row.to(device, torch.float32).clamp(0, 1)
            graded = color.to_gamut(torch.cat([L, torch.lerp(ab, look.apply(ab, L), weight)], 1))
            result = torch.where(weight > 0, graded, strip)
            out[index, top:bottom, :, :3] = result[0].movedim(0, -1).to(out)
    return restore(out)
