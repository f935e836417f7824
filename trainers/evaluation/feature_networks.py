"""ImageNet networks that measure: VGG for the perceptual loss, Inception v3 for FID, classifiers.

Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556 (VGG); Szegedy et al., CVPR 2016, arXiv:1512.00567
(Inception v3); Heusel et al., NeurIPS 2017, arXiv:1706.08500 (FID). The weights stay with the user,
see `pretrained_files.find`; the names of torchvision and timm are both understood, and widths are
read from the file. Pictures are (B, 3, H, W) sRGB in 0..1. Parameters are float32 and have no
gradient, and the networks stay in eval mode whatever `.train()` says.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model_defs import checkpoint
from ...model_defs.checkpoint import CheckpointError
from ...model_defs.layers import rename

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGGS = ("vgg16_bn", "vgg16", "vgg19_bn", "vgg19")
FID_CLASSES = 1008  # of the Inception that FID is defined with


class Frozen(nn.Module):
    """A network that is looked through, never trained.

    Attributes:
        name: what it is, for logs and tables.
    """

    name = ""

    def train(self, mode: bool = True) -> "Frozen":
        """Stays in eval mode: the statistics of its batch norms are ImageNet's."""
        return super().train(False)


def read(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """Which network a file holds, and its tensors under torchvision's names.

    Returns:
        vgg16, vgg16_bn, vgg19, vgg19_bn, inception_v3 or inception_fid; name -> tensor.
    Raises:
        CheckpointError: none of them.
    """
    state, _ = checkpoint.read(path)
    name = Path(path).name
    if "Mixed_7c.branch_pool.conv.weight" in state:
        if "fc.weight" not in state:
            raise CheckpointError(
                f"{name}: an Inception v3 without its last layer (fc), by which FID's weights are "
                "told from others. Give the whole file."
            )
        fid = len(state["fc.weight"]) == FID_CLASSES
        return "inception_fid" if fid else "inception_v3", state
    blocks = _VGG_BLOCKS.get(len(_convolutions(state)))
    if blocks is None:
        raise CheckpointError(
            f"{name}: neither VGG-16, VGG-19 nor Inception v3 ({len(state)} tensors, first: "
            f"'{next(iter(state))}')."
        )
    norm = "_bn" if "features.1.running_mean" in state else ""
    state = {rename(key, _VGG_TIMM): tensor for key, tensor in state.items()}
    for key in ("classifier.0.weight", "classifier.3.weight"):
        if key in state:
            state[key] = state[key].flatten(1)  # timm keeps them as convolutions
    return f"vgg{sum(blocks) + 3}{norm}", state


def _load(make: type[Frozen], kind: str, state: Mapping[str, Tensor], path: str | Path) -> Frozen:
    """Build a network of the sizes of `state` and load it strictly, in float32."""
    name = Path(path).name
    try:
        with torch.device("meta"):
            network = make(kind, state)
    except KeyError as error:
        raise CheckpointError(
            f"{name}: {kind} without the tensor {error}; expected the whole network."
        ) from error
    wanted = network.state_dict()
    # Files from before 2018 do not count batches, and nobody here does.
    counts = {key: torch.tensor(0) for key in wanted if key.endswith("num_batches_tracked")}
    floats = {k: t.float() if t.is_floating_point() else t for k, t in state.items()}
    checkpoint.load_strict(network, counts | floats, name)
    return network.requires_grad_(False).eval()


def _imagenet(network: nn.Module) -> None:
    """Give a network ImageNet's mean and std; not on the meta device, as they come from no file."""
    for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
        network.register_buffer(name, values, persistent=False)


def resize_and_crop(rgb: Tensor, side: int, crop: int) -> Tensor:
    """The usual view of a classifier: shorter side scaled to `side`, middle `crop` x `crop`."""
    height, width = rgb.shape[2:]
    short = min(height, width)
    size = side * height // short, side * width // short
    rgb = F.interpolate(rgb.float(), size=size, mode="bilinear", antialias=True)
    top, left = (round((n - crop) / 2) for n in size)
    return rgb[..., top : top + crop, left : left + crop]


# --- VGG -------------------------------------------------------------------------------------

_VGG_BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}  # convolutions: in all -> in each block
_VGG_TIMM = [
    (r"^pre_logits\.fc1\.", "classifier.0."),
    (r"^pre_logits\.fc2\.", "classifier.3."),
    (r"^head\.fc\.", "classifier.6."),
]


def _convolutions(state: Mapping[str, Tensor]) -> list[Tensor]:
    """Weights of VGG's convolutions in order; none if it is no VGG."""
    found = {
        int(key.split(".")[1]): tensor
        for key, tensor in state.items()
        if key.startswith("features.") and key.count(".") == 2 and tensor.ndim == 4
    }
    return [found[index] for index in sorted(found)]


def _vgg_layers(state: Mapping[str, Tensor]) -> tuple[list[nn.Module], list[int]]:
    """Layers with torchvision's indices, and the indices of conv1_1 ... conv5_1."""
    widths = [len(weight) for weight in _convolutions(state)]
    norm = "features.1.running_mean" in state
    layers, taps, before = [], [], 3
    for count in _VGG_BLOCKS[len(widths)]:
        taps.append(len(layers))
        for i in range(count):
            width = widths.pop(0)
            layers.append(nn.Conv2d(before, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] * norm
            layers.append(nn.ReLU(inplace=norm or i > 0))  # not in place of a tap
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers, taps


class VGGMaps(Frozen):
    """RGB -> the maps conv1_1 ... conv5_1, before batch norm and ReLU: (B, C, H / 2^i, W / 2^i)."""

    def __init__(self, name: str, state: Mapping[str, Tensor]):
        super().__init__()
        self.name = name
        layers, self.taps = _vgg_layers(state)
        self.features = nn.Sequential(*layers)
        _imagenet(self)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        x, maps = (rgb - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


class VGGClassifier(Frozen):
    """RGB of any size -> logits (B, classes), seen as usual: 256, middle 224."""

    def __init__(self, name: str, state: Mapping[str, Tensor]):
        super().__init__()
        self.name = name
        self.features = nn.Sequential(*_vgg_layers(state)[0])
        (out0, in0), (out3, in3), (out6, in6) = (
            state[f"classifier.{i}.weight"].shape for i in (0, 3, 6)
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(in0, out0), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(in3, out3), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(in6, out6),
        )
        _imagenet(self)

    def forward(self, rgb: Tensor) -> Tensor:
        x = (resize_and_crop(rgb, 256, 224) - self.mean) / self.std
        return self.classifier(self.features(x).flatten(1))


# --- Inception v3 ----------------------------------------------------------------------------

# Branches of each block: convolutions and 3x3 pools by name, one after the other; a tuple among
# them is a fork. "half": of stride 2; "valid": without padding, as those of stride 2 are, too.
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
_BLOCKS = {
    **{f"Mixed_{name}": _A for name in ("5b", "5c", "5d")},
    "Mixed_6a": _B,
    **{f"Mixed_{name}": _C for name in ("6b", "6c", "6d", "6e")},
    "Mixed_7a": _D,
    **{f"Mixed_{name}": _E for name in ("7b", "7c")},
}


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU; sizes as those of a weight (out, in, height, width)."""

    def __init__(self, shape: Sequence[int], how: str):
        super().__init__()
        outer, inner, *kernel = shape
        padding = [0, 0] if how else [n // 2 for n in kernel]
        stride = 2 if how == "half" else 1
        self.conv = nn.Conv2d(inner, outer, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outer, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    """Branches side by side, their maps joined; sizes as in `state`, under `prefix`."""

    def __init__(
        self, branches: Sequence[Sequence], state: Mapping[str, Tensor], prefix: str, *, fid: bool
    ):
        super().__init__()
        self.branches, self.fid = branches, fid
        for step in (step for branch in branches for fork in branch for step in _forked(fork)):
            name, how = _parsed(step)
            if name not in ("mean", "max"):
                self.add_module(name, ConvNorm(state[f"{prefix}{name}.conv.weight"].shape, how))

    def forward(self, x: Tensor) -> Tensor:
        return _join([self._run(x, branch) for branch in self.branches])

    def _run(self, x: Tensor, branch: Sequence) -> Tensor:
        for fork in branch:
            x = _join([self._step(x, *_parsed(step)) for step in _forked(fork)])
        return x

    def _step(self, x: Tensor, name: str, how: str) -> Tensor:
        if name == "max":
            return F.max_pool2d(x, 3, 2) if how else F.max_pool2d(x, 3, 1, padding=1)
        if name == "mean":  # TensorFlow's, which FID's Inception has, is over what lies inside
            return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=not self.fid)
        return self.get_submodule(name)(x)


def _parsed(step: str) -> tuple[str, str]:
    """Name and manner ("half", "valid" or "") of a step."""
    name, _, how = step.partition(" ")
    return name, how


def _forked(fork: str | tuple[str, ...]) -> tuple[str, ...]:
    return fork if isinstance(fork, tuple) else (fork,)


def _join(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


class Inception(Frozen):
    """RGB of any size -> the mean of the last map, (B, 2048), as pytorch-fid takes it."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        super().__init__()
        fid = kind == "inception_fid"
        self.name = kind if fid else f"{kind} (ImageNet)"
        blocks = {"stem": (_STEM,), **_BLOCKS}
        if fid:  # a maximum in the last block, and only here
            blocks["Mixed_7c"] = (*_E[:-1], ("max", "branch_pool"))
        self.blocks = nn.ModuleDict()
        for name, branches in blocks.items():
            self.blocks[name] = InceptionBlock(branches, state, f"blocks.{name}.", fid=fid)

    def features(self, picture: Tensor) -> Tensor:
        """(B, 3, h, w) in -1..1 -> (B, 2048)."""
        for block in self.blocks.values():
            picture = block(picture)
        return F.adaptive_avg_pool2d(picture, 1).flatten(1)

    def forward(self, rgb: Tensor) -> Tensor:
        # To 299 without antialiasing: FID's numbers are compared, so its way of scaling is fixed.
        rgb = F.interpolate(rgb.float(), size=(299, 299), mode="bilinear", align_corners=False)
        return self.features(2 * rgb - 1)


class InceptionClassifier(Inception):
    """RGB of any size -> logits (B, classes), seen as usual: 342, middle 299."""

    def __init__(self, kind: str, state: Mapping[str, Tensor]):
        super().__init__(kind, state)
        classes, width = state["fc.weight"].shape
        self.fc = nn.Linear(width, classes)

    def forward(self, rgb: Tensor) -> Tensor:
        return self.fc(self.features(2 * resize_and_crop(rgb, 342, 299) - 1))


def _inception_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under our names, without the auxiliary classifier, which is for training alone."""
    groups = ("Conv2d_", "blocks.stem.Conv2d_"), ("Mixed_", "blocks.Mixed_"), ("fc.", "fc.")
    return {
        ours + key.removeprefix(theirs): tensor
        for theirs, ours in groups
        for key, tensor in state.items()
        if key.startswith(theirs)
    }


# --- By the file -----------------------------------------------------------------------------


def vgg(path: str | Path, kinds: Collection[str] = VGGS) -> VGGMaps:
    """The convolutional part of a VGG, as far as conv5_1.

    Args:
        path: weights; a classifier in the file is left aside.
        kinds: those that will do.
    Raises:
        CheckpointError: another network.
    """
    kind, state = read(path)
    if kind not in kinds:
        raise CheckpointError(
            f"{Path(path).name}: this is {kind}; expected ImageNet weights of {' or '.join(kinds)}."
        )
    state = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    network = _load(VGGMaps, kind, state, path)
    network.features = network.features[: network.taps[-1] + 1]  # the rest makes no map
    return network


def inception(path: str | Path) -> Inception:
    """The features of FID; `name` says whether these are the weights that FID is defined with.

    With those of ImageNet (`name` is "inception_v3 (ImageNet)") distances mean something among
    themselves only.

    Raises:
        CheckpointError: another network.
    """
    kind, state = read(path)
    if not kind.startswith("inception"):
        raise CheckpointError(f"{Path(path).name}: this is {kind}; expected an Inception v3.")
    state = {k: t for k, t in _inception_state(state).items() if not k.startswith("fc.")}
    return _load(Inception, kind, state, path)


def classifier(path: str | Path) -> VGGClassifier | InceptionClassifier:
    """An ImageNet classifier, VGG or Inception v3: RGB of any size -> logits (B, classes).

    Raises:
        CheckpointError: another network, or one without its last layers.
    """
    kind, state = read(path)
    if kind == "inception_fid":
        raise CheckpointError(
            f"{Path(path).name}: this is FID's Inception, whose {FID_CLASSES} classes are not "
            "ImageNet's; expected an ImageNet classifier."
        )
    if kind == "inception_v3":
        return _load(InceptionClassifier, kind, _inception_state(state), path)
    return _load(VGGClassifier, kind, state, path)
