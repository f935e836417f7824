"""The official programs, from checkouts that environment variables name, as they are.

    DDCOLOR_PATH      checkout of piddnad/DDColor (needs opencv for its pipeline)
    COLORFORMER_PATH  checkout of jixiaozhong/ColorFormer (needs torchvision and timm)
    XCNET_PATH        checkout of bbc/xcnet (torchvision, or a stand-in for its VGG-19)
    KNOWN_NODE_PATH   checkout of kijai/ComfyUI-DDColor (needs opencv)

Nothing of them is part of this project, and nothing is downloaded: their networks get random
weights, which ours then load as if they were published checkpoints.
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

import numpy as np
import torch
from torch import nn


def path_of(variable: str) -> Path | None:
    """The checkout that an environment variable names; None where it is not set."""
    named = os.environ.get(variable)
    return Path(named) if named else None


@contextlib.contextmanager
def imported_from(*folders: Path) -> Iterator[None]:
    """Imports look here first, and what they brought is forgotten: two programs share a name."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("basicsr", "ddcolor", "models", "known_node"):
                del sys.modules[name]


def package(name: str, folder: Path) -> ModuleType:
    """A package of which nothing is run but what is asked for: its own __init__ wants compilers."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    return module


def randomised(network: nn.Module) -> nn.Module:
    """Weights that keep the signal alive; the same at every call. In place."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and parameter.is_floating_point() and "embed" not in name:
            std = parameter[0].numel() ** -0.5
            parameter.data.normal_(std=std, generator=generator)
        elif name.endswith("gamma"):
            parameter.data.fill_(0.3)
    _settle_spectral(network)
    return network.eval()


def _settle_spectral(network: nn.Module) -> None:
    """Largest singular vectors of spectrally normalised weights: what training would have found."""
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
    """DDColor, `tiny` or `large`, for squares of `side`; None without a checkout."""
    checkout = path_of("DDCOLOR_PATH")
    if checkout is None:
        return None
    with imported_from(checkout):
        framework(checkout)
        network = importlib.import_module("ddcolor.model").DDColor(**_ddcolor_options(size, side))
    return randomised(network)


def _ddcolor_options(size: str, side: int) -> dict:
    """As its script sets them."""
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
    """ColorFormer for squares of `side`; None without a checkout."""
    checkout = path_of("COLORFORMER_PATH")
    if checkout is None:
        return None
    generator = np.random.default_rng(0)
    with imported_from(checkout), tempfile.TemporaryDirectory() as folder:
        framework(checkout)
        stand_ins()
        colors, keys = Path(folder, "color.npy"), Path(folder, "semantic.npy")
        np.save(colors, generator.integers(-60, 60, (4, 512, 2)).astype(np.float64))
        np.save(keys, generator.standard_normal((512, 64)).astype(np.float32))
        module = importlib.import_module("basicsr.archs.colorformer_arch")
        # Its constructor wants a file of start values for the encoder.
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
    return randomised(network)


def framework(checkout: Path) -> None:
    """Its framework without the parts that train, read data or are compiled."""
    root = checkout / "basicsr"
    package("basicsr", root)
    package("basicsr.archs", root / "archs")
    package("basicsr.utils", root / "utils")


def stand_ins() -> None:
    """In the place of what the programs take from torchvision and timm, if these do not import.

    VGG-19 without its weights, three helpers of layers: nothing that takes time.
    """
    try:
        importlib.import_module("timm.models.layers")
        importlib.import_module("torchvision.models")
        return
    except (ImportError, RuntimeError):
        for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "timm")]:
            del sys.modules[name]
    layers, before = [], 3
    for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0):
        layers += (
            [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(True)] if width else [nn.MaxPool2d(2)]
        )
        before = width or before
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
    """XCNet, `xcnet` or `xcnet_no_pos`; None without a checkout."""
    checkout = path_of("XCNET_PATH")
    if checkout is None:
        return None
    with imported_from(checkout / "src"):
        stand_ins()
        network = getattr(importlib.import_module("models.xcnet"), name)()
    return randomised(network)


def ours(network: nn.Module, container: str = "params") -> nn.Module:
    """Our network with the official one's weights, through the published-checkpoint path."""
    registry = importlib.import_module("comfyui_colorist.model_defs.registry")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save({container: network.state_dict()}, path)
        made = registry.load(path)[0]
        made.load_state_dict({key: value.clone() for key, value in made.state_dict().items()})
    return made.requires_grad_(False)
