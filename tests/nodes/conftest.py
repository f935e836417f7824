"""The host for node tests: the stand-in, or the real one where COMFYUI_PATH is set."""

import importlib
import os
import runpy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def host():
    """The pack's node modules and the host modules they run on."""
    checkout = os.environ.get("COMFYUI_PATH")
    file = "real.py" if checkout else "standin.py"
    install = runpy.run_path(str(ROOT / "tests" / "host" / file))["install"]
    install(checkout) if checkout else install()
    torch.set_num_threads(1)  # miniature networks: more threads only wait for each other
    part = importlib.import_module
    return SimpleNamespace(
        nodes=part("comfyui_colorist.nodes"),
        bridge=part("comfyui_colorist.nodes.host"),
        io=part("comfy_api.v0_0_2").io,
        mm=part("comfy.model_management"),
        folder_paths=part("folder_paths"),
        real=bool(checkout),
    )


@pytest.fixture
def folder(host, tmp_path, monkeypatch):
    """An empty models/colorization of its own, registered."""
    place = tmp_path / "models" / "colorization"
    place.mkdir(parents=True)
    monkeypatch.setattr(host.folder_paths, "models_dir", str(place.parent))
    table = {
        k: v for k, v in host.folder_paths.folder_names_and_paths.items() if k != "colorization"
    }
    monkeypatch.setattr(host.folder_paths, "folder_names_and_paths", table)
    if host.real:
        host.folder_paths.filename_list_cache.pop("colorization", None)
    host.bridge.register_folder()
    return place


@pytest.fixture(scope="session")
def network_bytes(mini_network):
    """Makes the miniature as a checkpoint; keywords are added to its metadata."""
    checkpoint = importlib.import_module("comfyui_colorist.model_defs.checkpoint")
    known = {"architecture": "ddcolor", "config": asdict(mini_network.config)}
    return lambda **info: checkpoint.to_bytes(mini_network.state_dict(), known | info)


@pytest.fixture
def colorizer(host, folder, network_bytes):
    (folder / "mini.safetensors").write_bytes(network_bytes())
    return host.nodes.LoadAutomatic.execute("mini.safetensors", "auto").args[0]


@pytest.fixture
def colorize(host, colorizer):
    """Colorize.execute with the miniature network, working at 64 pixels."""

    def run(image, **options):
        options = {"resolution": 64, **options}
        return host.nodes.Colorize.execute(image, colorizer, **options).args[0]

    return run


@pytest.fixture
def grey():
    """Grey pictures (B, H, W, 3) from a seed."""

    def make(batch: int = 1, height: int = 40, width: int = 56, channels: int = 3):
        generator = torch.Generator().manual_seed(batch * 1000 + height)
        gray = torch.rand(batch, height, width, 1, generator=generator) * 0.5 + 0.25
        return gray.expand(-1, -1, -1, channels).contiguous()

    return make


@pytest.fixture
def temp(host, tmp_path):
    """A temp folder of the host, of its own."""
    before = host.folder_paths.get_temp_directory()
    host.folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path / "temp"
    host.folder_paths.set_temp_directory(before)


@pytest.fixture
def canvas(host, temp):
    """The module, without sessions of other tests."""
    module = host.nodes.hint_preview.sessions
    module._sessions.clear()
    return module


@pytest.fixture
def pointhint(host, folder, mini_pointhint_file):
    (folder / "mini-pointhint.safetensors").write_bytes(mini_pointhint_file.read_bytes())
    return host.nodes.LoadPointHint.execute("mini-pointhint.safetensors", "auto").args[0]
