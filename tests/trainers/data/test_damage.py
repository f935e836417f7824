"""Simulated damage: shape and range, untouched colors, repeatability."""

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.trainers.data import batches, damage
from comfyui_colorist.trainers.data import photos as data_photos


@pytest.fixture(scope="module")
def rgb():
    """A photo with a gradient, an edge and texture, (72, 96, 3) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:72, :96]
    photo = np.stack([2 * x, 3 * y, 255 - 2 * x], axis=-1).astype(np.float64)
    photo[:, 48:] *= 0.5
    return (photo + rng.normal(0, 4, photo.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", list(damage.DAMAGES))
def test_each_kind_keeps_shape_and_range_and_changes_something(rgb, name):
    gray = (rgb @ np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)
    for seed in range(8):
        before = gray.copy()
        result = damage.DAMAGES[name](gray, np.random.default_rng(seed))
        assert result.shape == gray.shape and result.dtype == np.float32
        assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
        assert np.array_equal(gray, before), "the input is unchanged"
        assert np.abs(result - gray).max() > 1e-3


def test_film_response_is_a_mean_of_the_channels():
    for seed in range(20):
        weights = damage.film_response(np.random.default_rng(seed))
        assert weights.sum() == pytest.approx(1, abs=1e-5) and weights.min() > 0


def test_all_together_is_repeatable_and_keeps_the_colors(rgb):
    seen = set()
    for seed in range(60):
        target, gray = damage.damage(rgb, np.random.default_rng(seed))
        again = damage.damage(rgb, np.random.default_rng(seed))
        assert np.array_equal(target, again[0]) and np.array_equal(gray, again[1])
        assert gray.shape == rgb.shape[:2] and gray.dtype == target.dtype == np.uint8
        changed = (target != rgb).any(axis=-1)
        ranges = target.max(axis=-1).astype(int) - target.min(axis=-1)
        assert not ranges[changed].any(), "pixels outside the photo form a neutral border"
        seen.add(bool(changed.any()))
    assert seen == {True, False}


def test_border_is_neutral_and_leaves_most_of_the_photo(rgb):
    for seed in range(40):
        framed = damage.add_border(rgb, np.random.default_rng(seed))
        outside = (framed != rgb).any(axis=-1)
        assert outside.mean() < 0.45
        assert framed[outside].size == 0 or np.ptp(framed[outside], axis=-1).max() == 0


def test_batches_hold_gray_versions_beside_the_photos(photos):
    """Undamaged photos keep their lightness, and the share of damaged ones is the given one."""
    opened = data_photos.Photos([photos])

    def first_images(probability):
        crop = batches.RandomCrop(lambda _: 32, damage=probability)
        return next(batches.load_batches(opened, crop, batch=4, seed=3)).images

    (plain,) = first_images(0.0)
    rgb, gray = first_images(1e-9)
    assert torch.equal(rgb, plain) and gray.shape == (4, 1, 32, 32)
    L = color.lightness(rgb.float() / 255)
    gray_L = color.lightness(gray.expand(-1, 3, -1, -1).float() / 255)
    assert (L - gray_L).abs().max() < 0.5
    damaged = first_images(1.0)[1]
    assert (damaged != gray).flatten(1).any(1).sum() >= 3
