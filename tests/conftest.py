"""Gives the checkout its import name: tests test these files, whatever the folder is called."""

import dataclasses
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """The full golden outputs, beside the checkout on machines that have them."""
    folder = ROOT.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("needs the full golden outputs in ../shared/reference")
    return folder


@pytest.fixture(scope="session")
def mini_config():
    """A DDColor of a few thousand parameters: the real code in milliseconds."""
    from comfyui_colorist.model_defs import ddcolor

    return ddcolor.Config(
        depths=(1, 1, 2, 1),
        dims=(8, 8, 16, 16),
        decoder_dims=(16, 16, 8),
        width=32,
        ffn_width=32,
        blocks=3,
        queries=4,
    )


@pytest.fixture(scope="session")
def mini_network(mini_config):
    """Seeded weights, eval mode."""
    import torch
    from comfyui_colorist.model_defs import ddcolor, registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("ddcolor", mini_config)
        ddcolor.initialise(network)
        torch.nn.init.normal_(network.fusion.conv.weight, std=3)  # colours that can be seen
    return network.eval()


@pytest.fixture(scope="session")
def mini_file(mini_network, tmp_path_factory) -> Path:
    """The miniature as one of our checkpoint files."""
    from comfyui_colorist.model_defs import checkpoint

    path = tmp_path_factory.mktemp("models") / "mini.safetensors"
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(mini_network.config)}
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    return path


@pytest.fixture(scope="session")
def mini(mini_file):
    """The miniature, ready to colour."""
    import comfyui_colorist

    return comfyui_colorist.load(mini_file, device="cpu")
