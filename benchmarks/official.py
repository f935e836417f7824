"""The official programs, imported from checkouts that environment variables name.

    DDCOLOR_PATH=... python benchmarks/speed.py    # uses this module, which is not a script

    DDCOLOR_PATH      checkout of piddnad/DDColor (its pipeline needs opencv)
    COLORFORMER_PATH  checkout of jixiaozhong/ColorFormer (needs torchvision and timm)
    XCNET_PATH        checkout of bbc/xcnet (torchvision, or a stand-in for its VGG-19)
    KNOWN_NODE_PATH   checkout of kijai/ComfyUI-DDColor (needs opencv)

These programs are not part of this project, and nothing is downloaded. Their networks get random
weights, which our networks load as if they were published checkpoints.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn


def checkout_path(variable: str) -> Path | None:
    """Return the checkout that an environment variable names; None if it is not set."""
    path = os.environ.get(variable)
    return Path(path) if path else None


@contextlib.contextmanager
def imported_from(*folders: Path) -> Iterator[None]:
    """Search imports here first; afterwards forget the modules, since two programs share a name."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("basicsr", "ddcolor", "models", "known_node"):
                del sys.modules[name]


def bare_package(name: str, folder: Path) -> ModuleType:
    """Register a package without running its __init__, which would need compilers."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    return module


def randomize(network: nn.Module) -> nn.Module:
    """Fill in place with weights that keep the scale of activations; equal at every call."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and parameter.is_floating_point() and "embed" not in name:
            std = parameter[0].numel() ** -0.5
            parameter.data.normal_(std=std, generator=generator)
        elif name.endswith("gamma"):
            parameter.data.fill_(0.3)
    _update_spectral_norm(network)
    return network.eval()


def _update_spectral_norm(network: nn.Module) -> None:
    """Set the largest singular vectors of spectrally normalized weights, as training would."""
    state = network.state_dict()
    for key, weight in state.items():
        if key.endswith("weight_orig"):
            base = key.removesuffix("weight_orig")
            matrix, u = weight.flatten(1), state[base + "weight_u"]
            for _ in range(5):
                v = nn.functional.normalize(matrix.T @ u, dim=0)
                u = nn.functional.normalize(matrix @ v, dim=0)
            state[base + "weight_u"].copy_(u)
            state[base + "weight_v"].copy_(v)


def ddcolor(size: str, side: int) -> nn.Module | None:
    """Return DDColor, `tiny` or `large`, for squares of `side`; None without a checkout."""
    checkout = checkout_path("DDCOLOR_PATH")
    if checkout is None:
        return None
    with imported_from(checkout):
        register_basicsr(checkout)
        network = importlib.import_module("ddcolor.model").DDColor(**_ddcolor_options(size, side))
    return randomize(network)


def _ddcolor_options(size: str, side: int) -> dict[str, Any]:
    """Return the options of its script."""
    return {
        "encoder_name": {"tiny": "convnext-t", "large": "convnext-l"}[size],
        "decoder_name": "MultiScaleColorDecoder",
        "input_size": [side, side],
        "num_output_channels": 2,
        "last_norm": "Spectral",
        "do_normalize": False,
        "num_queries": 100,
        "num_scales": 3,
        "dec_layers": 9,
    }


def colorformer(side: int) -> nn.Module | None:
    """Return ColorFormer for squares of `side`; None without a checkout."""
    checkout = checkout_path("COLORFORMER_PATH")
    if checkout is None:
        return None
    generator = np.random.default_rng(0)
    with imported_from(checkout), tempfile.TemporaryDirectory() as folder:
        register_basicsr(checkout)
        install_stand_ins()
        colors, keys = Path(folder, "color.npy"), Path(folder, "semantic.npy")
        np.save(colors, generator.integers(-60, 60, (4, 512, 2)).astype(np.float64))
        np.save(keys, generator.standard_normal((512, 64)).astype(np.float32))
        module = importlib.import_module("basicsr.archs.colorformer_arch")
        # Its constructor requires a file of encoder weights.
        start = Path(folder, "start.pth")
        torch.save({}, start)
        network = module.ColorFormer(
            "GLHTransformer",
            pretrained_path=str(start),
            input_size=[side, side],
            num_output_channels=2,
            last_norm="Spectral",
            do_normalize=False,
            color_centers_path=str(colors),
            semantic_centers_path=str(keys),
        )
    return randomize(network)


def register_basicsr(checkout: Path) -> None:
    """Register basicsr without its parts for training, data and compiled extensions."""
    root = checkout / "basicsr"
    bare_package("basicsr", root)
    bare_package("basicsr.archs", root / "archs")
    bare_package("basicsr.utils", root / "utils")


def install_stand_ins() -> None:
    """Replace the imported parts of torchvision and timm if these cannot be imported.

    These parts are VGG-19 without weights and three layer helpers, none of which affects the time.
    """
    try:
        importlib.import_module("timm.models.layers")
        importlib.import_module("torchvision.models")
        return
    except (ImportError, RuntimeError):
        for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
    layers, channels = [], 3
    for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0):
        layers += (
            [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
            if width
            else [nn.MaxPool2d(2)]
        )
        channels = width or channels
    vgg19 = nn.Module()
    vgg19.features = nn.Sequential(*layers)
    contents = {
        "torchvision": {},
        "torchvision.models": {"vgg19": lambda **_: vgg19},
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {
            "DropPath": lambda *_: nn.Identity(),
            "to_2tuple": lambda x: (x, x),
            "trunc_normal_": nn.init.trunc_normal_,
        },
    }
    for name, content in contents.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])


def xcnet(name: str) -> nn.Module | None:
    """Return XCNet, `xcnet` or `xcnet_no_pos`; None without a checkout."""
    checkout = checkout_path("XCNET_PATH")
    if checkout is None:
        return None
    with imported_from(checkout / "src"):
        install_stand_ins()
        network = getattr(importlib.import_module("models.xcnet"), name)()
    return randomize(network)


def ours(network: nn.Module, container: str = "params") -> nn.Module:
    """Return our network with the weights of an official one, loaded as a published checkpoint."""
    from comfyui_colorist.model_defs import registry

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save({container: network.state_dict()}, path)
        loaded = registry.load(path)[0]
        # The file is about to be deleted, so copy the tensors that are mapped from it.
        loaded.load_state_dict({key: x.clone() for key, x in loaded.state_dict().items()})
    return loaded.requires_grad_(False)
