"""Find where a photo's colors are uncertain, and the points whose colors would tell most.

The variance of a Gaussian process depends on where hints lie, not on their colors. So it is known
before any color is, for the kernel of a point-hint network and for kriging alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import gaussian_process
from ...ops.gaussian_process import CELL, Field
from .rasterize import hint_windows, rasterize
from .schema import AnyHint, Position, unlimited

MAX_GRID_CELLS = 784  # 28 x 28: four times as many give 0.03 dB and take sixteen times as long


class PointChoice(NamedTuple):
    """Points chosen one after the other."""

    positions: list[Position]
    """The most useful point first."""
    remaining: list[float]
    """Shares of the total variance without hints that are left: now, then after each point."""


class Uncertainty:
    """Covariance of the colors of one photo before any hint.

    A grid of at most MAX_GRID_CELLS cells stands for the photo; its cells are the candidates.
    Create it once per photo: a choice then takes milliseconds.

    Args:
        field: Gaussian process of the photo's cells.
        size: height and width of the working image.
        weights: (n,) importance of each cell, such as a mask; None = all equal.
    """

    def __init__(self, field: Field, size: tuple[int, int], weights: Tensor | None = None) -> None:
        self.size = size
        self._field = field
        self._rows, self._columns = (-(-side // CELL) for side in size)
        step = 1
        while -(-self._rows // step) * -(-self._columns // step) > MAX_GRID_CELLS:
            step += 1
        rows, columns = (
            torch.arange(min(step // 2, (count - 1) // 2), count, step)
            for count in (self._rows, self._columns)
        )
        self._cells = (rows[:, None] * self._columns + columns).flatten()
        self._grid = field.gather(self._cells[None])
        self._prior = gaussian_process.covariance(self._grid, self._grid)[0]
        self._weights = torch.ones(len(self._cells))
        if weights is not None and weights[self._cells].any():
            self._weights = weights[self._cells]

    def choose_points(
        self, hints: Sequence[AnyHint], count: int, skipped: Sequence[Position] = ()
    ) -> PointChoice:
        """Choose the points that lower the total variance most, greedily (A-optimal design).

        Args:
            hints: points, strokes and regions whose colors are known.
            count: number of points to choose; there are fewer if the grid has fewer cells.
            skipped: points that were suggested before; neither they nor points that would tell the
                same are chosen, though their colors remain unknown.
        """
        known, weights = self._cells_of(unlimited(hints)), self._weights
        covariance = self._posterior_covariance(known)
        if len(unlimited(hints)) < len(hints):  # inside their reach, less is left to learn
            left = self._variance(self._grid, hints, self._cells)
            weights = weights * left / covariance.diagonal().clamp_min(1e-12)
        prior_total = self._total(self._prior, self._weights)
        remaining = [self._total(covariance, weights) / prior_total]
        available = self._weights > 0
        if skipped:
            passed_over = self._cells_at(skipped)
            available[torch.isin(self._cells, passed_over)] = False
            design = self._posterior_covariance(torch.cat([known, passed_over]))
        else:
            design = covariance
        chosen: list[int] = []
        for _ in range(min(count, int(available.sum()))):
            gain = weights @ design.square() / (design.diagonal() + self._grid.noise[0])
            index = int(gain.masked_fill(~available, -1).argmax())
            available[index] = False
            chosen.append(index)
            design = self._condition(design, index)
            covariance = self._condition(covariance, index) if skipped else design
            remaining.append(self._total(covariance, weights) / prior_total)
        positions = [self._position(int(self._cells[index])) for index in chosen]
        return PointChoice(positions, remaining)

    def doubt_map(self, hints: Sequence[AnyHint]) -> Tensor:
        """Return the doubt about the color of each cell, given hints.

        Returns:
            (h, w) in 0..1: standard deviation, relative to the highest without hints.
        """
        variance = self._variance(self._field, hints, slice(None))
        highest = gaussian_process.prior_variance(self._field).max()
        return (variance / highest).sqrt().unflatten(0, (self._rows, self._columns))

    def area_of_effect(self, hint: AnyHint, others: Sequence[AnyHint]) -> Tensor:
        """Return how strongly a hint acts on each cell beside other hints.

        Returns:
            (h, w) in 0..1: share of a change of the hint's color that kriging passes on.
        """
        hints = [*others, hint]
        raster = rasterize(hints, *self.size)
        field = self._field._replace(mean=torch.zeros_like(self._field.mean))
        indices = gaussian_process.cell_indices(raster.centers, *self.size)
        change = (raster.owners == len(others)).float()[None, :, None].expand(-1, -1, 2)
        windows = None
        if len(unlimited(hints)) < len(hints):
            windows = hint_windows(hints, *self.size).flatten(0, 1)[:, raster.owners]
        valid = torch.ones(1, len(indices), dtype=torch.bool)
        effect = gaussian_process.krige_cells(field, indices[None], change, valid, windows)
        return effect[0, :, 0].clamp(0, 1).unflatten(0, (self._rows, self._columns))

    def _variance(self, field: Field, hints: Sequence[AnyHint], cells: Tensor | slice) -> Tensor:
        """Return the variance of `cells`, whose field is `field`, given hints: (n,)."""
        known = self._field.gather(self._cells_of(unlimited(hints))[None])
        variance = gaussian_process.posterior_variance(field, known)[0]
        limited = [hint for hint in hints if hint.reach is not None]
        if not limited:
            return variance
        known = self._field.gather(self._cells_of(hints)[None])
        reached = gaussian_process.posterior_variance(field, known)[0]
        coverage = hint_windows(limited, *self.size).amax(-1).flatten()[cells]
        return variance.lerp(reached, coverage)

    def _posterior_covariance(self, known_cells: Tensor) -> Tensor:
        """Return the covariance of the grid's cells given the colors of some cells."""
        if not len(known_cells):
            return self._prior
        known = self._field.gather(known_cells[None])
        cross = gaussian_process.covariance(known, self._grid)[0]
        system = gaussian_process.covariance(known, known)[0] + known.noise[0].diag()
        return self._prior - cross.mT @ torch.linalg.solve(system, cross)

    def _condition(self, covariance: Tensor, index: int) -> Tensor:
        """Return the covariance after a hint in a cell of the grid."""
        column = covariance[:, index]
        variance = column[index] + self._grid.noise[0, index]
        return torch.addr(covariance, column, column / variance, alpha=-1)

    def _total(self, covariance: Tensor, weights: Tensor) -> float:
        return float(weights @ covariance.diagonal().clamp_min(0))

    def _cells_of(self, hints: Sequence[AnyHint]) -> Tensor:
        """Return the indices of the cells that stand for hints."""
        return gaussian_process.cell_indices(rasterize(hints, *self.size).centers, *self.size)

    def _cells_at(self, positions: Sequence[Position]) -> Tensor:
        """Return the indices of the cells that contain points."""
        height, width = self.size
        indices = [
            min(int(y * height / CELL), self._rows - 1) * self._columns
            + min(int(x * width / CELL), self._columns - 1)
            for x, y in positions
        ]
        return torch.tensor(indices, dtype=torch.long)

    def _position(self, cell: int) -> Position:
        """Return the center of a cell."""
        row, column = divmod(cell, self._columns)
        height, width = self.size
        x, y = ((index + 0.5) * CELL for index in (column, row))
        return min(x / width, 1.0), min(y / height, 1.0)


def resize_doubt(doubt: Tensor, height: int, width: int) -> Tensor:
    """Scale a doubt map (h, w) to the size of the photo: (height, width)."""
    scaled = F.interpolate(doubt[None, None], (height, width), mode="bilinear")
    return scaled[0, 0].clamp(0, 1)
