"""How far two sets of pictures are apart: the distance behind FID."""

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of vectors that come in batches, in memory that does not grow with them.

    Attributes:
        count: vectors so far.
        mean: (D,) float64 on the CPU.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)
        self._root: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Count (B, D) in: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
        variance", eq. 2.1, which forms no small difference of large sums."""
        vectors = vectors.detach().to("cpu", torch.float64)
        many, before = len(vectors), self.count
        self.count, self._root = before + many, None
        mean = vectors.mean(0)
        shift, around = mean - self.mean, vectors - mean
        self._scatter.addmm_(around.T, around)
        self._scatter.addr_(shift, shift, alpha=before * many / self.count)
        self.mean.add_(shift, alpha=many / self.count)

    def covariance(self) -> Tensor:
        """(D, D), unbiased.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two vectors; there are {self.count}.")
        return self._scatter / (self.count - 1)

    def root(self) -> Tensor:
        """Symmetric square root of the covariance, (D, D); computed once."""
        if self._root is None:
            values, directions = torch.linalg.eigh(self.covariance())
            self._root = (directions * _without_noise(values).sqrt()) @ directions.T
        return self._root


def frechet_distance(one: Moments, other: Moments) -> float:
    """Between the normal distributions of two sets of vectors: the FID, if those are Inception's.

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, eq. 6). The eigenvalues of
    C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2), so no root of an unsymmetric matrix is
    needed. Where one set is compared with many it should be the first: its root is kept.

    Raises:
        ValueError: fewer than two vectors in one of the sets.
    """
    root, covariance = one.root(), other.covariance()
    shared = _without_noise(torch.linalg.eigvalsh(root @ covariance @ root)).sqrt().sum()
    spread = one.covariance().trace() + covariance.trace() - 2 * shared
    return ((one.mean - other.mean).square().sum() + spread).clamp_min(0).item()


def _without_noise(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a covariance; 0 for what rounding alone can make, as with few vectors."""
    floor = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
    return torch.where(eigenvalues > floor, eigenvalues, 0.0)
