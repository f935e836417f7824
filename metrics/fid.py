"""Distance between two sets of feature vectors, as used by FID."""

import torch
from torch import Tensor

from ..ops.moments import RunningMoments


class FeatureStatistics(RunningMoments):
    """Moments of feature vectors with a cached square root of their covariance."""

    def __init__(self, width: int):
        super().__init__(width)
        self._root: Tensor | None = None

    def add(self, vectors: Tensor) -> None:
        """Add vectors (B, D)."""
        super().add(vectors)
        self._root = None

    def root(self) -> Tensor:
        """Return the symmetric square root (D, D) of the covariance, computed once."""
        if self._root is None:
            values, directions = torch.linalg.eigh(self.covariance())
            self._root = (directions * _zero_rounding_noise(values).sqrt()) @ directions.T
        return self._root


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Return the Frechet distance of two normal distributions; with Inception features, the FID.

    |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, eq. 6). C1 C2 has the
    eigenvalues of the symmetric matrix C1^(1/2) C2 C1^(1/2), so no root of an asymmetric matrix is
    needed. To compare one set with many, pass it first: its root is cached.

    Raises:
        ValueError: one of the sets has fewer than two vectors.
    """
    root, covariance = first.root(), second.covariance()
    shared = _zero_rounding_noise(torch.linalg.eigvalsh(root @ covariance @ root)).sqrt().sum()
    traces = first.covariance().trace() + covariance.trace()
    distance = (first.mean - second.mean).square().sum() + (traces - 2 * shared)
    return distance.clamp_min(0).item()


def _zero_rounding_noise(eigenvalues: Tensor) -> Tensor:
    """Set eigenvalues of a covariance to 0 where rounding alone can explain them."""
    floor = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
    return torch.where(eigenvalues > floor, eigenvalues, 0.0)
