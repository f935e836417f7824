"""Training photos, and a clean Accelerate state for each test."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Photos of sky over grass: blue where bright, green where dark."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = np.zeros((48, 64, 3))
        horizon = int(rng.integers(15, 33))
        pixels[:horizon], pixels[horizon:] = (110, 170, 250), (50, 110, 30)
        noisy = (pixels + rng.normal(0, 6, (48, 64, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.png")
    return folder


@pytest.fixture(autouse=True)
def reset_accelerate():
    """Reset Accelerate, which keeps device and precision for the life of the process."""
    yield
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
