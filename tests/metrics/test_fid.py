"""Moments and Frechet distance agree with their definitions."""

import math

import pytest
import torch
from comfyui_colorist.metrics import fid


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def moments(vectors, *parts):
    result = fid.FeatureStatistics(vectors.shape[1])
    for part in vectors.split(list(parts) or len(vectors)):
        result.add(part)
    return result


def test_moments_do_not_depend_on_batches():
    vectors = 1e4 + random(50, 7).double()  # an offset at which sums of squares lose digits
    for parts in ((), (1, 30, 19), [1] * 50):
        result = moments(vectors, *parts)
        assert result.count == 50
        torch.testing.assert_close(result.mean, vectors.mean(0), atol=1e-10, rtol=0)
        torch.testing.assert_close(result.covariance(), torch.cov(vectors.T), atol=1e-10, rtol=0)


def test_frechet_distance_of_known_sets():
    """Sets with diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double() * math.sqrt(3 / 4)
    first = moments(corners * torch.tensor([2.0, 5.0]))
    second = moments(corners * torch.tensor([3.0, 1.0]) + torch.tensor([0.5, -2.0]))
    expected = 0.5**2 + 2**2 + (2 - 3) ** 2 + (5 - 1) ** 2
    assert fid.frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert fid.frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_few_vectors():
    """With fewer vectors than dimensions, eigenvalues that are rounding noise have no effect."""
    vectors = random(20, 40).double()
    assert fid.frechet_distance(moments(vectors), moments(vectors)) < 1e-9
    second = random(25, 40, seed=1).double()
    # Tr (C1 C2)^(1/2) is the sum of the singular values of the centerd vectors' products
    products = (vectors - vectors.mean(0)) @ (second - second.mean(0)).T / math.sqrt(19 * 24)
    expected = (vectors.mean(0) - second.mean(0)).square().sum() + vectors.var(0).sum()
    expected += second.var(0).sum() - 2 * torch.linalg.svdvals(products).sum()
    result = fid.frechet_distance(moments(vectors), moments(second))
    assert result == pytest.approx(expected.item(), rel=1e-9)


def test_root_is_updated_with_new_vectors():
    result, all_vectors = moments(random(9, 3)), random(20, 3, seed=1)
    result.root()
    result.add(all_vectors)
    torch.testing.assert_close(result.root() @ result.root(), result.covariance())


def test_one_vector_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 vectors; there are 1"):
        fid.frechet_distance(moments(random(1, 3)), moments(random(5, 3)))
