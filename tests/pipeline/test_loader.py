"""Load checkpoints as colorizers: by path and by name, in every dtype and role."""

import comfyui_colorist as colorist
import pytest
import torch
from comfyui_colorist.pipeline import loader


def photo(channels=3):
    return torch.rand(1, 50, 70, channels, generator=torch.Generator().manual_seed(0))


def test_load_by_path_and_name(mini_file, monkeypatch):
    monkeypatch.setenv("COLORIST_MODELS", str(mini_file.parent))
    assert colorist.load(mini_file.name).name == mini_file.name
    assert colorist.load_model(mini_file).training is False
    with pytest.raises(
        colorist.CheckpointError, match="no model of that name. Installed: .*mini.safetensors"
    ):
        colorist.load("no-such-model")
    with pytest.raises(ValueError, match="dtype is 'int8'; expected one of float32"):
        colorist.load(mini_file, dtype="int8")


def test_bfloat16_stays_close(mini_file):
    rgb = photo()
    want = colorist.load(mini_file, device="cpu").colorize(rgb, resolution=64)
    out = colorist.load(mini_file, device="cpu", dtype="bfloat16").colorize(rgb, resolution=64)
    assert (out - want).abs().mean() < 0.02


def test_a_bundled_model_colors():
    engine = colorist.load("ddcolor-nano", device="cpu")
    assert engine.info["training"]["photos"] > 0
    out = engine.colorize(photo(channels=1))
    assert out.shape == (1, 50, 70, 3)


def test_each_role_has_its_colorizer(mini, mini_exemplar, mini_pointhint):
    for engine in (mini, mini_exemplar, mini_pointhint):
        assert type(engine) is loader.COLORIZER_BY_ROLE[engine.spec.role]


def test_wrap_keeps_the_network_and_its_device(mini, mini_network):
    engine = loader.wrap(mini_network, mini.spec)
    assert engine.device_manager.acquire(0) is mini_network
    want = mini.colorize(photo(), resolution=64)
    assert torch.equal(engine.colorize(photo(), resolution=64), want)
