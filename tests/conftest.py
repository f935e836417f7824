"""Make the checkout importable as `comfyui_colorist`, and provide miniature networks."""

import dataclasses
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give each test the same random numbers, alone or among others."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """Root folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the full golden outputs, next to the checkout; skips without it."""
    folder = ROOT.parent / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("needs the full golden outputs in ../shared/reference")
    return folder


@pytest.fixture(scope="session")
def mini_config():
    """Config of a DDColor with a few thousand parameters, which runs in milliseconds."""
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
    """Miniature DDColor with seeded weights, in eval mode."""
    import torch
    from comfyui_colorist.model_defs import ddcolor, registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("ddcolor", mini_config)
        ddcolor.initialize(network)
        torch.nn.init.normal_(network.fusion.conv.weight, std=3)  # visible colors
    return network.eval()


@pytest.fixture(scope="session")
def mini_file(mini_network, tmp_path_factory) -> Path:
    """Checkpoint file of the miniature DDColor."""
    from comfyui_colorist.model_defs import checkpoint

    path = tmp_path_factory.mktemp("models") / "mini.safetensors"
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(mini_network.config)}
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    return path


@pytest.fixture(scope="session")
def mini(mini_file):
    """Colorizer of the miniature DDColor."""
    import comfyui_colorist

    return comfyui_colorist.load(mini_file, device="cpu")


@pytest.fixture(scope="session")
def mini_colorformer_config():
    """Config of a ColorFormer with 16 memory entries and a stored projection."""
    from comfyui_colorist.model_defs import colorformer

    return colorformer.Config(
        embed_dim=8,
        depths=(2, 2, 2, 2),
        heads=(1, 2, 4, 8),
        window=4,
        decoder_dims=(16, 16, 8),
        entries=16,
        key_width=8,
        query_width=16,
        color_width=8,
        color_table=0,
        projection=True,
        refine_width=8,
    )


@pytest.fixture(scope="session")
def mini_colorformer_network(mini_colorformer_config):
    """Miniature ColorFormer with seeded weights, selective attention and visible colors."""
    return _mini_colorformer(mini_colorformer_config)


def _mini_colorformer(config):
    import torch
    from comfyui_colorist.model_defs import registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("colorformer", config)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif not name.endswith("weight"):  # keep the gains of norms
                torch.nn.init.normal_(parameter, std=0.1)
        memory = network.memory
        memory.keys.normal_()
        memory.values.normal_(std=30)
        memory.components.normal_(std=memory.components.shape[1] ** -0.5)
        memory.offset.normal_(std=0.1)
        torch.nn.init.normal_(memory.out.weight, std=2)
        torch.nn.init.normal_(network.out.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="session")
def mini_colorformer_file(mini_colorformer_network, tmp_path_factory) -> Path:
    """Checkpoint file of the miniature ColorFormer."""
    path = tmp_path_factory.mktemp("models") / "mini-colorformer.safetensors"
    return _write_colorformer(mini_colorformer_network, path)


def _write_colorformer(network, path: Path) -> Path:
    from comfyui_colorist.model_defs import checkpoint

    info = {"architecture": "colorformer", "config": dataclasses.asdict(network.config)}
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    return path


@pytest.fixture(scope="session")
def mini_lite_colorformer_config(mini_colorformer_config):
    """Config of a miniature ColorFormer with an EfficientNet-Lite encoder."""
    return dataclasses.replace(
        mini_colorformer_config,
        encoder="efficientnet-lite",
        depths=(1,) * 7,
        dims=(4, 6, 8, 8, 12, 12, 24),
    )


@pytest.fixture(scope="session")
def mini_lite_colorformer_network(mini_lite_colorformer_config):
    """Miniature ColorFormer on EfficientNet-Lite with seeded weights."""
    return _mini_colorformer(mini_lite_colorformer_config)


@pytest.fixture(scope="session")
def mini_lite_colorformer_file(mini_lite_colorformer_network, tmp_path_factory) -> Path:
    """Checkpoint file of the miniature ColorFormer on EfficientNet-Lite."""
    path = tmp_path_factory.mktemp("models") / "mini-lite-colorformer.safetensors"
    return _write_colorformer(mini_lite_colorformer_network, path)


@pytest.fixture(scope="session")
def mini_colorformer(mini_colorformer_file):
    """Colorizer of the miniature ColorFormer."""
    import comfyui_colorist

    return comfyui_colorist.load(mini_colorformer_file, device="cpu")


@pytest.fixture(scope="session")
def mini_exemplar_config():
    """Config of an exemplar network with axial attention at three small levels, and a kernel."""
    from comfyui_colorist.model_defs import gp_kernel, xcnet

    kernel = gp_kernel.Config(
        stem=4,
        dims=(8, 8, 16),
        depths=(1, 1, 1),
        width=8,
        kernel_count=2,
        embedding_width=3,
        use_x=False,
    )

    return xcnet.Config(
        backbone="convnext",
        depths=(1, 1, 1),
        dims=(8, 8, 16),
        stem=8,
        reference_color=True,
        width=16,
        heads=2,
        head_width=8,
        second_kv="fused",
        full_res_head=False,
        kernel=kernel,
        cells_per_reference=32,
    )


@pytest.fixture(scope="session")
def mini_exemplar_network(mini_exemplar_config):
    """Miniature exemplar network with seeded weights, selective attention and visible colors."""
    import torch
    from comfyui_colorist.model_defs import registry, xcnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("exemplar", mini_exemplar_config)
        xcnet.initialize(network)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                gain = {"attention": 2, "heads": 0.4}.get(name.split(".")[0], 1)
                torch.nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
    return network.eval()


@pytest.fixture(scope="session")
def mini_exemplar_file(mini_exemplar_network, tmp_path_factory) -> Path:
    """Checkpoint file of the miniature exemplar network."""
    from comfyui_colorist.model_defs import checkpoint

    path = tmp_path_factory.mktemp("models") / "mini-exemplar.safetensors"
    config = dataclasses.asdict(mini_exemplar_network.config)
    info = {"architecture": "exemplar", "config": config}
    path.write_bytes(checkpoint.to_bytes(mini_exemplar_network.state_dict(), info))
    return path


@pytest.fixture(scope="session")
def mini_exemplar(mini_exemplar_file):
    """Colorizer of the miniature exemplar network."""
    import comfyui_colorist

    return comfyui_colorist.load(mini_exemplar_file, device="cpu")


@pytest.fixture(scope="session")
def mini_pointhint_config():
    """Config of a point-hint network with narrow blocks and the usual residual width."""
    from comfyui_colorist.model_defs import gp_kernel, pointhint

    kernel = gp_kernel.Config(
        stem=4, dims=(8, 8, 16), depths=(1, 1, 1), width=8, kernel_count=2, embedding_width=3
    )
    return pointhint.Config(
        inner=(4, 4, 4, 4), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), kernel=kernel
    )


@pytest.fixture(scope="session")
def mini_pointhint_network(mini_pointhint_config):
    """Miniature point-hint network with seeded weights and small residuals."""
    import torch
    from comfyui_colorist.model_defs import registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("pointhint", mini_pointhint_config)
        for name, parameter in network.named_parameters():
            if name.startswith("stages") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)
    return network.eval()


@pytest.fixture(scope="session")
def mini_pointhint_file(mini_pointhint_network, tmp_path_factory) -> Path:
    """Checkpoint file of the miniature point-hint network, which uses a color prior."""
    from comfyui_colorist.model_defs import checkpoint

    path = tmp_path_factory.mktemp("models") / "mini-pointhint.safetensors"
    config = dataclasses.asdict(mini_pointhint_network.config)
    info = {"architecture": "pointhint", "config": config, "spec": {"prior": True}}
    path.write_bytes(checkpoint.to_bytes(mini_pointhint_network.state_dict(), info))
    return path


@pytest.fixture(scope="session")
def mini_pointhint(mini_pointhint_file):
    """Colorizer of the miniature point-hint network."""
    import comfyui_colorist

    return comfyui_colorist.load(mini_pointhint_file, device="cpu")
