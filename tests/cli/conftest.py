"""Models and color memories for tests of the command line."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))


@pytest.fixture(scope="module")
def model(mini_file) -> list[str]:
    return ["--model", str(mini_file), "--resolution", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def colorformer(mini_colorformer_file) -> list[str]:
    return ["--model", str(mini_colorformer_file), "--device", "cpu"]


@pytest.fixture(scope="module")
def memory(tmp_path_factory, colorformer) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    out = folder / "m.safetensors"
    assert (
        helpers.run("memory", "build", helpers.color_photos(folder / "in"), "-o", out, *colorformer)
        == 0
    )
    return out
