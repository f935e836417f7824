"""Accumulate mean and covariance of vectors in batches."""

import torch
from torch import Tensor


class RunningMoments:
    """Mean and covariance of vectors that arrive in batches, in constant memory.

    Uses the update of Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance",
    eq. 2.1, which avoids small differences of large sums.

    Attributes:
        count: number of vectors.
        mean: (D,) float64 on the CPU.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        """Add vectors (B, D)."""
        vectors = vectors.detach().to("cpu", torch.float64)
        added, previous = len(vectors), self.count
        self.count = previous + added
        batch_mean = vectors.mean(0)
        shift, centered = batch_mean - self.mean, vectors - batch_mean
        self._scatter.addmm_(centered.T, centered)
        self._scatter.addr_(shift, shift, alpha=previous * added / self.count)
        self.mean.add_(shift, alpha=added / self.count)

    def covariance(self, correction: int = 1) -> Tensor:
        """Return the covariance (D, D), normalized by count - correction.

        Raises:
            ValueError: there are too few vectors.
        """
        if self.count <= correction:
            raise ValueError(
                f"a covariance needs at least {correction + 1} vectors; there are {self.count}."
            )
        return self._scatter / (self.count - correction)
