"""A first guess of the colour between hints: kriging on place and lightness, or on learned things.

Kriging, or Gaussian-process regression, is the best linear guess for values that are the more alike
the nearer they are. Near can mean in (y, x, L): a hint then speaks for what lies close to it and is
as light as it is (`Kernel`). Or in coordinates that a network gives each place of a picture, so
that a hint speaks for what belongs to the same thing (`model_defs.gp_kernel`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 2  # the guess is on a grid of cells, and hints lie on it: what networks are trained on
AT_ONCE = 2**22  # distances that are held at once


class Field(NamedTuple):
    """How alike the colours of a picture's n cells are, row by row; n = h w. Covariance:

    k(p, q) = spread(p) spread(q) (shared + sum_k amplitude_k exp(-|x_k(p) - x_k(q)|)) near(p, q)
    near(p, q) = exp(-|place(p) - place(q)|)

    Pairs of numbers are of colours, and of corrections of colours that are known by other means.
    """

    coordinates: Tensor
    """x: (K, B, n, D)."""
    amplitude: Tensor
    """(2, K) variance of what differs from cell to cell in space k."""
    shared: Tensor
    """(2,) variance of what all cells share."""
    noise: Tensor
    """(B, n) variance of what a hint there has for itself."""
    spread: Tensor
    """(B, n) by how much more than others colours differ there."""
    mean: Tensor
    """(B, n, 2) colours in Lab units before any hint."""
    place: Tensor | None
    """(B, n, 2) y and x in units of how far a hint reaches; None = everywhere."""
    nearby: Tensor | None
    """The same for corrections."""

    def to(self, device: torch.device | str) -> "Field":
        """The same on another device."""
        return Field(*(None if part is None else part.to(device) for part in self))

    def some(self, pictures: list[int]) -> "Field":
        """Of some of the pictures."""
        return self._of_cells(lambda part: part[pictures])

    def cells(self, rows: Tensor) -> "Field":
        """Of some cells: rows (B, N), their numbers."""
        one = torch.arange(len(rows), device=rows.device)[:, None]
        return self._of_cells(lambda part: part[one, rows])

    def split(self, size: int) -> Iterator["Field"]:
        """Of `size` cells after the other."""
        for start in range(0, self.spread.shape[1], size):
            yield self._of_cells(lambda part, start=start: part[:, start : start + size])

    def corrections(self) -> "Field":
        """For corrections of colours that are known by other means."""
        return self._replace(
            amplitude=self.amplitude.flip(0),
            shared=self.shared.flip(0),
            mean=torch.zeros_like(self.mean),
            place=self.nearby,
            nearby=self.place,
        )

    def _of_cells(self, change: Callable[[Tensor], Tensor]) -> "Field":
        """With all that is (B, n, ...) changed."""
        x, amplitude, shared, *rest = self
        coordinates = torch.stack([change(space) for space in x])
        rest = (None if part is None else change(part) for part in rest)
        return Field(coordinates, amplitude, shared, *rest)


@dataclass(frozen=True)
class Kernel:
    """Covariance exp(-d) + `mean`; d the distance in (y / reach, x / reach, L / light)."""

    reach: float
    """Distance over which likeness falls by e, as part of the picture's diagonal."""
    light: float
    """The same in units of L."""
    mean: float
    """Variance of what all places share: the mean, unknown but about zero."""
    noise: float
    """Variance of what each hint has for itself."""

    def field(self, L: Tensor) -> Field:
        """Of pictures with lightness L (B, 1, H, W) in 0..100."""
        light = lightness(L)
        one = torch.ones_like(light[..., 0])
        place = places(*L.shape[2:], L.device) / self.reach
        return Field(
            torch.cat([place.expand(len(L), -1, -1), light / self.light], dim=-1)[None],
            amplitude=one.new_ones(2, 1),
            shared=one.new_full((2,), self.mean),
            noise=self.noise * one,
            spread=one,
            mean=torch.zeros_like(light).expand(-1, -1, 2),
            place=None,
            nearby=None,
        )


def places(height: int, width: int, device: torch.device) -> Tensor:
    """(n, 2): y and x of the cells of a picture, as parts of its diagonal."""
    h, w = -(-height // CELL), -(-width // CELL)
    y, x = (torch.arange(n, device=device) * CELL + CELL / 2 for n in (h, w))
    grid = torch.stack([y[:, None].expand(-1, w), x[None].expand(h, -1)], dim=-1)
    return grid.flatten(0, 1) / (height**2 + width**2) ** 0.5


def lightness(L: Tensor) -> Tensor:
    """Lightness (B, 1, H, W) of a picture -> of its cells: (B, n, 1), float32."""
    return F.avg_pool2d(L.float(), CELL, ceil_mode=True).flatten(2).mT


# For colours: constants of the strongest classical method for few random hints.
COLORS = Kernel(reach=1.0, light=50.0, mean=0.3, noise=0.02)
# For corrections of colours that are known by other means: these reach less far.
CORRECTIONS = Kernel(reach=0.3, light=20.0, mean=0.0, noise=0.02)


def krige(
    L: Tensor, centres: Tensor, ab: Tensor, valid: Tensor, kernel: Kernel | Field = COLORS
) -> Tensor:
    """Values between hints: ab(q) = m(q) + k(q, P) (k(P, P) + noise I)^-1 (ab(P) - m(P)).

    Args:
        L: (B, 1, H, W) lightness in 0..100, of the working images.
        centres: (B, N, 2) y and x of the hints' centres, in pixels.
        ab: (B, N, 2) their colours, or corrections of colours, in Lab units.
        valid: (B, N) False where a row holds no hint.
        kernel: its constants; or what a network says of these pictures.
    Returns:
        (B, 2, H, W) in Lab units, smooth within cells; without hints the mean m.
    """
    H, W = L.shape[2:]
    h, w = -(-H // CELL), -(-W // CELL)
    field = kernel.field(L) if isinstance(kernel, Kernel) else kernel
    cell = (centres / CELL).long()
    row = cell[..., 0].clamp(0, h - 1) * w + cell[..., 1].clamp(0, w - 1)
    found, _ = tell(field, learn(field.cells(row), ab, valid))
    found = found.movedim(-1, 1).unflatten(2, (h, w))
    return F.interpolate(found, scale_factor=CELL, mode="bilinear")[:, :, :H, :W]


class Known(NamedTuple):
    """What hints say, of whatever picture; the same for all pictures that are told it."""

    cells: Field
    """Those with hints: (B, N)."""
    weights: Tensor
    """(k(P, P) + noise I)^-1 (ab(P) - m(P)): (B, N, 2)."""


def learn(cells: Field, ab: Tensor, valid: Tensor) -> Known:
    """Solve for the weights of hints.

    Args:
        cells: (B, N) the cells that hints are at.
        ab, valid: (B, N, 2), (B, N) as for `krige`.
    """
    with torch.autocast(ab.device.type, enabled=False):
        there = valid.float()[..., None]
        noise = torch.where(valid, cells.noise, 1.0)
        system = _covariance(cells, cells) * there * there.mT + noise.diag_embed()
        weights = torch.linalg.solve(system, (ab.float() - cells.mean) * there) * there
    return Known(cells, weights)


def joined(fields: Sequence[Field]) -> Field:
    """Cells of several pictures as those of one, which have no place in it."""
    first = fields[0]
    return first._replace(
        coordinates=torch.cat([field.coordinates for field in fields], dim=2),
        noise=torch.cat([field.noise for field in fields], dim=1),
        spread=torch.cat([field.spread for field in fields], dim=1),
        mean=torch.cat([field.mean for field in fields], dim=1),
        place=None,
        nearby=None,
    )


def tell(field: Field, known: Known) -> tuple[Tensor, Tensor]:
    """Values of all cells of pictures, and how alike they are to the cell that is most like them.

    Args:
        known: of as many pictures as the field, or of one for all.
    Returns:
        m(q) + k(q, P) weights: (B, n, 2); largest correlation with one of P: (B, n) in 0..1.
    """
    count = known.weights.shape[1]
    if not count:
        return field.mean, torch.zeros_like(field.spread)
    step = max(1, AT_ONCE // (len(field.mean) * count * len(field.coordinates)))
    told, alike = [], []
    with torch.autocast(field.mean.device.type, enabled=False):
        for some in field.split(step):
            covariance = _covariance(some, known.cells)
            told.append(some.mean + covariance @ known.weights)
            with torch.no_grad():
                alike.append((covariance / known.cells.spread[:, None]).amax(-1) / some.spread)
        most = field.shared[0] + field.amplitude[0].sum()
        return torch.cat(told, dim=1), torch.cat(alike, dim=1) / most.detach()


def _covariance(a: Field, b: Field) -> Tensor:
    """k of cells (B, m) and cells (B, N): (B, m, N)."""
    alike = a.shared[0]
    for x, y, amplitude in zip(a.coordinates, b.coordinates, a.amplitude[0], strict=True):
        d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        alike = alike + amplitude * torch.exp(-d)
    if a.place is not None:
        d = torch.cdist(a.place, b.place, compute_mode="donot_use_mm_for_euclid_dist")
        alike = alike * torch.exp(-d)
    return alike * a.spread[..., None] * b.spread[:, None]
