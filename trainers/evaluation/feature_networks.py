"""ImageNet networks for losses and scores: VGG, Inception v3 and classifiers.

Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556 (VGG); Szegedy et al., CVPR 2016, arXiv:1512.00567
(Inception v3); Heusel et al., NeurIPS 2017, arXiv:1706.08500 (FID). `pretrained_files` locates the
weights. Both torchvision's and timm's tensor names are supported, and widths are read from the
file. Images are (B, 3, H, W) sRGB in 0..1. Parameters are float32 without gradients, and the
networks stay in eval mode.

torchvision.models would replace the layers below, but it is not a dependency: its wheels on the
package index are built for CUDA and do not import beside a CPU build of torch
("operator torchvision::nms does not exist", torchvision 0.28.0 with torch 2.13.0+cpu).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model_defs import checkpoint
from ...model_defs.checkpoint import CheckpointError
from ...model_defs.layers import rename_key

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGGS = ("vgg16_bn", "vgg16", "vgg19_bn", "vgg19")
FID_CLASSES = 1008  # of the Inception weights that define FID
NetworkT = TypeVar("NetworkT", bound="FrozenNetwork")


class FrozenNetwork(nn.Module):
    """A network that is never trained.

    Subclasses are built from the kind of network (see `read_weights`) and the tensors to load,
    whose shapes give the widths.

    Args:
        name: name in logs and tables.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def train(self, mode: bool = True) -> "FrozenNetwork":
        """Stay in eval mode: the batch-norm statistics are ImageNet's."""
        return super().train(False)


class ImageNetNormalization(nn.Module):
    """Subtract ImageNet's mean and divide by its standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            # On the CPU even while networks are built on the meta device: no file provides them.
            buffer = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, rgb: Tensor) -> Tensor:
        return (rgb - self.mean) / self.std


def read_weights(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """Identify the network in a file and return its tensors under torchvision's names.

    Returns:
        vgg16, vgg16_bn, vgg19, vgg19_bn, inception_v3 or inception_fid; name -> tensor.
    Raises:
        CheckpointError: the file holds another network.
    """
    state, _ = checkpoint.read(path)
    name = Path(path).name
    if "Mixed_7c.branch_pool.conv.weight" in state:
        if "fc.weight" not in state:
            raise CheckpointError(
                f"{name}: an Inception v3 without its last layer (fc), which distinguishes FID's "
                "weights from others. Give the complete file."
            )
        fid = len(state["fc.weight"]) == FID_CLASSES
        return "inception_fid" if fid else "inception_v3", state
    blocks = _VGG_BLOCKS.get(len(_convolutions(state)))
    if blocks is None:
        raise CheckpointError(
            f"{name}: not a VGG-16, VGG-19 or Inception v3 ({len(state)} tensors, first: "
            f"'{next(iter(state))}')."
        )
    norm = "_bn" if "features.1.running_mean" in state else ""
    state = {rename_key(key, _VGG_TIMM): tensor for key, tensor in state.items()}
    for key in ("classifier.0.weight", "classifier.3.weight"):
        if key in state:
            state[key] = state[key].flatten(1)  # timm stores them as convolutions
    return f"vgg{sum(blocks) + 3}{norm}", state


def _load(
    build: Callable[[str, Mapping[str, Tensor]], NetworkT],
    kind: str,
    state: Mapping[str, Tensor],
    path: str | Path,
) -> NetworkT:
    """Build a network with the widths of `state` and load it strictly, in float32."""
    name = Path(path).name
    try:
        with torch.device("meta"):
            network = build(kind, state)
    except KeyError as error:
        raise CheckpointError(
            f"{name}: the {kind} lacks the tensor {error}; give the complete file."
        ) from error
    keys = network.state_dict()
    # Files from before 2018 lack these counters, which eval mode does not use.
    counts = {key: torch.tensor(0) for key in keys if key.endswith("num_batches_tracked")}
    floats = {k: t.float() if t.is_floating_point() else t for k, t in state.items()}
    checkpoint.load_strict(network, counts | floats, name)
    return network.requires_grad_(False).eval()


def resize_and_crop(rgb: Tensor, side: int, crop: int) -> Tensor:
    """Return the standard classifier input: shorter side resized to `side`, center crop."""
    height, width = rgb.shape[2:]
    short = min(height, width)
    size = side * height // short, side * width // short
    rgb = F.interpolate(rgb.float(), size=size, mode="bilinear", antialias=True)
    top, left = (round((n - crop) / 2) for n in size)
    return rgb[..., top : top + crop, left : left + crop]


# --- VGG -------------------------------------------------------------------------------------

_VGG_BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}  # convolutions -> those of each block
_VGG_TIMM = [
    (r"^pre_logits\.fc1\.", "classifier.0."),
    (r"^pre_logits\.fc2\.", "classifier.3."),
    (r"^head\.fc\.", "classifier.6."),
]


def _convolutions(state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the weights of VGG's convolutions in order, none for other networks."""
    weights = {
        int(key.split(".")[1]): tensor
        for key, tensor in state.items()
        if key.startswith("features.") and key.count(".") == 2 and tensor.ndim == 4
    }
    return [weights[index] for index in sorted(weights)]


def _vgg_layers(state: Mapping[str, Tensor]) -> tuple[list[nn.Module], list[int]]:
    """Return layers with torchvision's indices, and the indices of conv1_1 ... conv5_1."""
    widths = [len(weight) for weight in _convolutions(state)]
    norm = "features.1.running_mean" in state
    layers: list[nn.Module] = []
    taps, channels = [], 3
    for count in _VGG_BLOCKS[len(widths)]:
        taps.append(len(layers))
        for i in range(count):
            width = widths.pop(0)
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] * norm
            layers.append(nn.ReLU(inplace=norm or i > 0))  # the maps at taps stay intact
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers, taps


class VGGFeatures(FrozenNetwork):
    """RGB -> the maps conv1_1 ... conv5_1, before batch norm and ReLU: (B, C, H / 2^i, W / 2^i)."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        super().__init__(kind)
        layers, self.taps = _vgg_layers(state)
        self.features = nn.Sequential(*layers)
        self.normalize = ImageNetNormalization()

    def forward(self, rgb: Tensor) -> list[Tensor]:
        x, maps = self.normalize(rgb), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


class VGGClassifier(FrozenNetwork):
    """RGB of any size -> logits (B, classes), resized to 256 and cropped to 224."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        super().__init__(kind)
        self.features = nn.Sequential(*_vgg_layers(state)[0])
        (out0, in0), (out3, in3), (out6, in6) = (
            state[f"classifier.{i}.weight"].shape for i in (0, 3, 6)
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(in0, out0), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(in3, out3), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(in6, out6),
        )
        self.normalize = ImageNetNormalization()

    def forward(self, rgb: Tensor) -> Tensor:
        x = self.normalize(resize_and_crop(rgb, 256, 224))
        return self.classifier(self.features(x).flatten(1))


# --- Inception v3 ----------------------------------------------------------------------------

# A block is a tuple of branches, and a branch a sequence of steps: convolutions by name, and 3x3
# pools "mean" and "max". A tuple among the steps is a fork. "half" means stride 2 without padding,
# "valid" stride 1 without padding.
Step = str | tuple[str, ...]
Branches = Sequence[Sequence[Step]]
_A = (
    ("branch1x1",),
    ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    ("mean", "branch_pool"),
)
_B = (
    ("branch3x3 half",),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3 half"),
    ("max half",),
)
_C = (
    ("branch1x1",),
    ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
    ("mean", "branch_pool"),
)
_D = (
    ("branch3x3_1", "branch3x3_2 half"),
    ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4 half"),
    ("max half",),
)
_E = (
    ("branch1x1",),
    ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    ("mean", "branch_pool"),
)
_STEM = (
    *("Conv2d_1a_3x3 half", "Conv2d_2a_3x3 valid", "Conv2d_2b_3x3", "max half"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3 valid", "max half"),
)
_BLOCKS: dict[str, Branches] = {
    **{f"Mixed_{name}": _A for name in ("5b", "5c", "5d")},
    "Mixed_6a": _B,
    **{f"Mixed_{name}": _C for name in ("6b", "6c", "6d", "6e")},
    "Mixed_7a": _D,
    **{f"Mixed_{name}": _E for name in ("7b", "7c")},
}


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU.

    Args:
        shape: of the weight (out, in, height, width).
        mode: "half", "valid" or "".
    """

    def __init__(self, shape: Sequence[int], mode: str):
        super().__init__()
        out_channels, in_channels, height, width = shape
        padding = (0, 0) if mode else (height // 2, width // 2)
        stride = 2 if mode == "half" else 1
        self.conv = nn.Conv2d(
            in_channels, out_channels, (height, width), stride, padding, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Parallel branches whose maps are concatenated.

    Args:
        branches: the steps of each branch.
        state: tensors whose shapes give the widths.
        prefix: of the block's tensors in `state`.
        fid: whether average pools leave out the padding, as in TensorFlow and FID's Inception.
    """

    def __init__(self, branches: Branches, state: Mapping[str, Tensor], prefix: str, *, fid: bool):
        super().__init__()
        self.branches, self.fid = branches, fid
        for step in (step for branch in branches for fork in branch for step in _as_tuple(fork)):
            name, mode = _parse_step(step)
            if name not in ("mean", "max"):
                self.add_module(name, ConvNorm(state[f"{prefix}{name}.conv.weight"].shape, mode))

    def forward(self, x: Tensor) -> Tensor:
        return _concatenate([self._run(x, branch) for branch in self.branches])

    def _run(self, x: Tensor, branch: Sequence[Step]) -> Tensor:
        for fork in branch:
            x = _concatenate([self._step(x, *_parse_step(step)) for step in _as_tuple(fork)])
        return x

    def _step(self, x: Tensor, name: str, mode: str) -> Tensor:
        if name == "max":
            return F.max_pool2d(x, 3, 2) if mode else F.max_pool2d(x, 3, 1, padding=1)
        if name == "mean":
            return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=not self.fid)
        return self.get_submodule(name)(x)


def _parse_step(step: str) -> tuple[str, str]:
    """Return name and mode ("half", "valid" or "") of a step."""
    name, _, mode = step.partition(" ")
    return name, mode


def _as_tuple(fork: Step) -> tuple[str, ...]:
    return fork if isinstance(fork, tuple) else (fork,)


def _concatenate(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Inception(FrozenNetwork):
    """RGB of any size -> the spatial mean of the last map, (B, 2048), as in pytorch-fid."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        fid = kind == "inception_fid"
        super().__init__(kind if fid else f"{kind} (ImageNet)")
        blocks: dict[str, Branches] = {"stem": (_STEM,), **_BLOCKS}
        if fid:  # the last block alone has a max pool in place of the mean
            blocks["Mixed_7c"] = (*_E[:-1], ("max", "branch_pool"))
        self.blocks = nn.ModuleDict()
        for name, branches in blocks.items():
            self.blocks[name] = InceptionBlock(branches, state, f"blocks.{name}.", fid=fid)

    def features(self, rgb_norm: Tensor) -> Tensor:
        """Return the features (B, 2048) of (B, 3, h, w) in -1..1."""
        x = rgb_norm
        for block in self.blocks.values():
            x = block(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, rgb: Tensor) -> Tensor:
        # Without antialiasing, as in pytorch-fid: values of FID must stay comparable.
        rgb = F.interpolate(rgb.float(), size=(299, 299), mode="bilinear", align_corners=False)
        return self.features(2 * rgb - 1)


class InceptionClassifier(Inception):
    """RGB of any size -> logits (B, classes), resized to 342 and cropped to 299."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        super().__init__(kind, state)
        classes, width = state["fc.weight"].shape
        self.fc = nn.Linear(width, classes)

    def forward(self, rgb: Tensor) -> Tensor:
        return self.fc(self.features(2 * resize_and_crop(rgb, 342, 299) - 1))


def _inception_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to the names here and drop the auxiliary classifier used in training alone."""
    prefixes = ("Conv2d_", "blocks.stem.Conv2d_"), ("Mixed_", "blocks.Mixed_"), ("fc.", "fc.")
    return {
        new + key.removeprefix(old): tensor
        for old, new in prefixes
        for key, tensor in state.items()
        if key.startswith(old)
    }


# --- Loading ---------------------------------------------------------------------------------


def load_vgg_features(path: str | Path, kinds: Collection[str] = VGGS) -> VGGFeatures:
    """Load the convolutional part of a VGG up to conv5_1.

    Args:
        path: weights file; a classifier in it is ignored.
        kinds: accepted networks.
    Raises:
        CheckpointError: the file holds another network.
    """
    kind, state = read_weights(path)
    if kind not in kinds:
        raise CheckpointError(
            f"{Path(path).name}: this is {kind}; expected ImageNet weights of {' or '.join(kinds)}."
        )
    state = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    network = _load(VGGFeatures, kind, state, path)
    used_layers = list(network.features)[: network.taps[-1] + 1]
    network.features = nn.Sequential(*used_layers)
    return network


def load_inception(path: str | Path) -> Inception:
    """Load the features of FID.

    `name` is "inception_fid" for the weights that define FID. Distances by ImageNet's weights
    ("inception_v3 (ImageNet)") are comparable among themselves only.

    Raises:
        CheckpointError: the file holds another network.
    """
    kind, state = read_weights(path)
    if not kind.startswith("inception"):
        raise CheckpointError(f"{Path(path).name}: this is {kind}; expected an Inception v3.")
    state = {k: t for k, t in _inception_state(state).items() if not k.startswith("fc.")}
    return _load(Inception, kind, state, path)


def load_classifier(path: str | Path) -> VGGClassifier | InceptionClassifier:
    """Load an ImageNet classifier, VGG or Inception v3: RGB of any size -> logits (B, classes).

    Raises:
        CheckpointError: the file holds another network, or lacks the last layers.
    """
    kind, state = read_weights(path)
    if kind == "inception_fid":
        raise CheckpointError(
            f"{Path(path).name}: this is FID's Inception, whose {FID_CLASSES} classes are not "
            "ImageNet's; expected an ImageNet classifier."
        )
    if kind == "inception_v3":
        return _load(InceptionClassifier, kind, _inception_state(state), path)
    return _load(VGGClassifier, kind, state, path)
