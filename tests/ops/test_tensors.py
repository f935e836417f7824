"""Image inputs: accepted forms, refusals, and values outside 0..1."""

import re

import numpy as np
import pytest
import torch
from comfyui_colorist.ops.tensors import as_batch, sanitize
from PIL import Image

GRAY = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (GRAY, (1, 4, 5, 1)),
        (GRAY[..., None], (1, 4, 5, 1)),
        (GRAY.astype(">f4"), (1, 4, 5, 1)),
        (GRAY.astype(">f8")[::-1, ::2], (1, 4, 3, 1)),
        (GRAY.astype(np.float16), (1, 4, 5, 1)),
        (np.stack([GRAY] * 3, axis=-1), (1, 4, 5, 3)),
        (torch.from_numpy(GRAY), (1, 4, 5, 1)),
        (torch.zeros(2, 4, 5, 4, dtype=torch.bfloat16), (2, 4, 5, 4)),
        (torch.zeros(4, 5, 3, dtype=torch.float16), (1, 4, 5, 3)),
    ],
)
def test_accepted_forms(image, shape):
    batch, restore = as_batch(image)
    assert tuple(batch.shape) == shape
    values = image.astype(np.float64) if isinstance(image, np.ndarray) else image.double().numpy()
    assert np.array_equal(batch.double().numpy().reshape(values.shape), values)
    restored = restore(torch.zeros(len(batch), 4, 5, 3))
    assert isinstance(restored, type(image))
    assert restored.ndim == (4 if len(batch) > 1 else 3)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 5, 3), np.uint8), "dtype uint8; expected float values in 0..1 (divide by 25"),
        (np.zeros((4, 5), np.uint16), "dtype uint16; expected float values in 0..1 (divide by 655"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), "dtype torch.uint8; expected float values in 0."),
        (np.zeros((4, 5, 3), bool), "dtype bool; expected float values in 0..1."),
        (np.zeros((4, 5, 3), complex), "dtype complex128; expected float values in 0..1."),
        (np.zeros((4, 5, 3), object), "dtype object; expected float values in 0..1."),
        (np.zeros((4, 5, 3), np.longdouble), "dtype float128; expected at most float64."),
        (np.zeros((4, 5, 2), np.float32), "shape (4, 5, 2); expected (B, H, W, C), (H, W, C) or"),
        (np.zeros((3, 4, 5), np.float32), "shape (3, 4, 5); expected (B, H, W, C), (H, W, C) or"),
        (np.zeros(3, np.float32), "shape (3,); expected (B, H, W, C), (H, W, C) or (H, W) with"),
        (np.zeros((0, 5), np.float32), "shape (0, 5, 1); expected"),
        (Image.new("RGB", (5, 4)), "of type Image; expected a tensor or an array. A Pillow image"),
        ([GRAY, GRAY], "a list; pass one image after another, or stack images of the same size"),
        (None, "of type NoneType; expected a tensor or an array."),
    ],
)
def test_refused_forms(image, sentence):
    if isinstance(image, np.ndarray) and image.dtype == np.longdouble and image.itemsize == 8:
        pytest.skip("long double is float64 here")
    with (
        pytest.raises(ValueError, match=re.escape(f"the image is {sentence}"))
        if (sentence.startswith(("of", "a ")))
        else pytest.raises(ValueError, match=re.escape(f"the image has {sentence}"))
    ):
        as_batch(image)


def test_valid_values_are_returned_as_they_are():
    image = torch.rand(1, 4, 5, 3)
    assert sanitize(image, "model") is image


def test_overshoot_is_clamped(caplog):
    image = torch.rand(1, 40, 50, 3) * 1.5 - 0.2
    image[0, 0, 0] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    image[0, 1, 1] = 60.0  # a highlight
    clean = sanitize(image, "model")
    assert clean.min() == 0 and clean.max() == 1
    assert clean[0, 0, 0].tolist() == [0, 1, 0]
    assert "model: the image contains NaN or values outside 0..1" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (0, 65000), (0, 30)])
def test_other_scales_are_refused(low, high, dtype):
    """They would become a white, or half black, image."""
    image = (torch.linspace(0, 1, 4 * 5 * 3).view(1, 4, 5, 3) * (high - low) + low).to(dtype)
    image[0, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match=f"model: the image has values from {low} to .*; expected"):
        sanitize(image, "model")
