"""Moments and the distance of sets against their definitions."""

import math

import pytest
import torch
from comfyui_colorist.metrics import fid


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def moments(vectors, *parts):
    found = fid.Moments(vectors.shape[1])
    for part in vectors.split(list(parts) or len(vectors)):
        found.add(part)
    return found


def test_moments_are_those_of_all_vectors_at_once():
    vectors = 1e4 + random(50, 7).double()  # an offset at which sums of squares lose digits
    for parts in ((), (1, 30, 19), [1] * 50):
        found = moments(vectors, *parts)
        assert found.count == 50
        torch.testing.assert_close(found.mean, vectors.mean(0), atol=1e-10, rtol=0)
        torch.testing.assert_close(found.covariance(), torch.cov(vectors.T), atol=1e-10, rtol=0)


def test_frechet_distance_of_known_sets():
    """Sets whose covariances are diagonal: |m1 - m2|^2 + sum (s1 - s2)^2."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double() * math.sqrt(3 / 4)
    one = moments(corners * torch.tensor([2.0, 5.0]))
    other = moments(corners * torch.tensor([3.0, 1.0]) + torch.tensor([0.5, -2.0]))
    expected = 0.5**2 + 2**2 + (2 - 3) ** 2 + (5 - 1) ** 2
    assert fid.frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert fid.frechet_distance(other, one) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_few_vectors():
    """Fewer than they have dimensions: half of the eigenvalues are noise, and none may be seen."""
    vectors = random(20, 40).double()
    assert fid.frechet_distance(moments(vectors), moments(vectors)) < 1e-9
    other = random(25, 40, seed=1).double()
    # Tr (C1 C2)^(1/2) is the sum of the singular values of the centred vectors' products
    products = (vectors - vectors.mean(0)) @ (other - other.mean(0)).T / math.sqrt(19 * 24)
    expected = (vectors.mean(0) - other.mean(0)).square().sum() + vectors.var(0).sum()
    expected += other.var(0).sum() - 2 * torch.linalg.svdvals(products).sum()
    found = fid.frechet_distance(moments(vectors), moments(other))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_a_root_is_of_the_vectors_so_far():
    found, all_vectors = moments(random(9, 3)), random(20, 3, seed=1)
    found.root()
    found.add(all_vectors)
    torch.testing.assert_close(found.root() @ found.root(), found.covariance())


def test_one_vector_has_no_covariance():
    with pytest.raises(ValueError, match="at least two vectors; there are 1"):
        fid.frechet_distance(moments(random(1, 3)), moments(random(5, 3)))
