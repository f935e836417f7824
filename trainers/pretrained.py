"""Initialize our encoders from pretrained networks: ImageNet weights, or our other models.

DDColor's encoder is a ConvNeXt (Liu et al., CVPR 2022, arXiv:2201.03545) or an EfficientNet-Lite
(Tan, Le, ICML 2019, arXiv:1905.11946), ColorFormer's an EfficientNet-Lite or a Swin-T (Liu et al.,
ICCV 2021, arXiv:2103.14030) whose even blocks also attend to a pooled map, and the exemplar
network's backbone is VGG-19. ImageNet files name their tensors as the authors, timm or torchvision
do; each format has one table of these names. Files stay with the user, see
`pretrained_files.locate`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from ..model_defs import checkpoint, gp_kernel, registry
from ..model_defs.checkpoint import CheckpointError
from ..model_defs.ddcolor import ConvNeXt, DDColor
from ..model_defs.efficientnet_lite import VARIANTS, EfficientNetLite
from ..model_defs.layers import SmallBackbone, rename_key
from ..model_defs.pointhint import PointHint
from ..model_defs.xcnet import XCNet
from ..model_store import resolve

Renames = list[tuple[str, str]]
"""(pattern of their name, our name); the first match at the beginning of a key wins."""
BackboneKind = Literal["convnext", "efficientnet-lite", "swin", "vgg19"]


class KeyMapping(NamedTuple):
    """Tensor names of one source and their counterparts in our encoder."""

    source: str
    """Whose names they are, for error messages."""
    signature_key: str
    """A name that only this source has."""
    renames: Renames
    dropped: tuple[str, ...] = ()
    """Prefixes of tensors that our encoder lacks: mostly the classifier."""


# Buffers that are derived from the sizes.
DERIVED_SUFFIXES = (".relative_position_index", ".attn_mask")
# Prefixes of the encoder in files of whole colorizers.
ENCODER_PREFIXES = ("encoder.arch.", "encoder.", "backbone.")


def _layer_renames(block: str, our_block: str, layers: Mapping[str, str]) -> Renames:
    """Return renames of the layers of a block.

    Args:
        block: pattern of their name of a block, up to and including the last dot.
        our_block: our name of it, with references to groups of the pattern.
        layers: our layer -> theirs.
    """
    return [
        (rf"^{block}{re.escape(theirs)}\b", our_block + ours) for ours, theirs in layers.items()
    ]


def _column(table: Mapping[str, Sequence[str]], number: int) -> dict[str, str]:
    """Return our name -> the name in one column of a table, without empty entries."""
    return {ours: names[number] for ours, names in table.items() if names[number]}


# --- ConvNeXt --------------------------------------------------------------------------------

_CONVNEXT_LAYERS = {  # ours: the authors', timm's, torchvision's
    "depthwise": ("dwconv", "conv_dw", "block.0"),
    "norm": ("norm", "norm", "block.2"),
    "expand": ("pwconv1", "mlp.fc1", "block.3"),
    "project": ("pwconv2", "mlp.fc2", "block.5"),
    "gamma": ("gamma", "gamma", "layer_scale"),
}
_CONVNEXT = [
    KeyMapping("our own", "stages.0.0.expand.weight", []),
    KeyMapping(
        "the authors'",  # as well as official DDColor files, without `encoder.arch.`
        "stages.0.0.dwconv.weight",
        [
            (r"^downsample_layers\.", "downsample."),
            *_layer_renames(
                r"stages\.(\d)\.(\d+)\.", r"stages.\1.\2.", _column(_CONVNEXT_LAYERS, 0)
            ),
            (r"^norm(\d)\.", r"norms.\1."),
        ],
        ("norm.", "head.", "head_cls."),
    ),
    KeyMapping(
        "timm's",
        "stages.0.blocks.0.conv_dw.weight",
        [
            (r"^stem\.", "downsample.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample.\1."),
            *_layer_renames(
                r"stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2.", _column(_CONVNEXT_LAYERS, 1)
            ),
        ],
        ("norm_pre.", "head."),
    ),
    KeyMapping(
        "torchvision's",
        "features.1.0.block.0.weight",
        [
            *((rf"^features\.{2 * i}\.", f"downsample.{i}.") for i in range(4)),
            *(
                rename
                for i in range(4)
                for rename in _layer_renames(
                    rf"features\.{2 * i + 1}\.(\d+)\.",
                    rf"stages.{i}.\1.",
                    _column(_CONVNEXT_LAYERS, 2),
                )
            ),
        ],
        ("classifier.",),
    ),
]


def read_convnext(path: str | Path) -> dict[str, Tensor]:
    """Read ImageNet weights of a ConvNeXt under the names of `ddcolor.ConvNeXt`.

    The norms after each stage are missing: a ConvNeXt classifier has a single one, after pooling.
    """
    return _read_renamed(path, _CONVNEXT, "ConvNeXt")


# --- EfficientNet-Lite -----------------------------------------------------------------------

_LITE_STEM = {  # ours: the PyTorch port's, timm's
    "stem": ("_conv_stem", "conv_stem"),
    "stem_norm": ("_bn0", "bn1"),
}
_LITE_LAYERS = {  # ours: the PyTorch port's, timm's
    "expand": ("_expand_conv", "conv_pw"),
    "expand_norm": ("_bn0", "bn1"),
    "depthwise": ("_depthwise_conv", "conv_dw"),
    "depthwise_norm": ("_bn1", "bn2"),
    "project": ("_project_conv", "conv_pwl"),
    "project_norm": ("_bn2", "bn3"),
}
# timm counts the layers of the first stage, which has no expansion, differently.
_LITE_FIRST_STAGE = {"depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"}
_LITE = [
    KeyMapping("our own", "stem.weight", []),
    KeyMapping(
        "the PyTorch port's",  # blocks are numbered across stages, see `_group_by_stage`
        "_blocks.0._depthwise_conv.weight",
        [
            *_layer_renames("", "", _column(_LITE_STEM, 0)),
            *_layer_renames(r"_blocks\.(\d+)\.", r"blocks.\1.", _column(_LITE_LAYERS, 0)),
        ],
        ("_conv_head.", "_bn1.", "_fc."),
    ),
    KeyMapping(
        "timm's",
        "blocks.0.0.conv_dw.weight",
        [
            *_layer_renames("", "", _column(_LITE_STEM, 1)),
            *_layer_renames(r"blocks\.0\.(\d+)\.", r"stages.0.\1.", _LITE_FIRST_STAGE),
            *_layer_renames(r"blocks\.(\d)\.(\d+)\.", r"stages.\1.\2.", _column(_LITE_LAYERS, 1)),
        ],
        ("conv_head.", "bn2.", "classifier."),
    ),
]
_LITE_EPSILON = 1e-3  # of its batch norms


def read_efficientnet_lite(path: str | Path) -> dict[str, Tensor]:
    """Read ImageNet weights of an EfficientNet-Lite under the names of `EfficientNetLite`.

    Batch norms are folded into the convolutions before them.

    Raises:
        CheckpointError: another network, or a tensor of a norm is missing.
    """
    state = _group_by_stage(_read_renamed(path, _LITE, "EfficientNet-Lite"))
    folded = {}
    for key, tensor in state.items():
        layer, _, parameter = key.rpartition(".")
        norm = f"{layer}_norm."
        if layer.endswith("_norm"):
            continue
        if parameter != "weight" or not any(name.startswith(norm) for name in state):
            folded[key] = tensor
            continue
        try:
            scale = state[norm + "weight"] / (state[norm + "running_var"] + _LITE_EPSILON).sqrt()
            folded[layer + ".bias"] = state[norm + "bias"] - state[norm + "running_mean"] * scale
        except KeyError as error:
            raise CheckpointError(
                f"{Path(path).name}: the batch norm after {layer} has no {error}; the file is "
                "truncated or damaged. Download it again."
            ) from error
        folded[key] = tensor * scale.view(-1, 1, 1, 1)
    return folded


def _group_by_stage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename blocks.N to stages.STAGE.BLOCK: a stage begins where the width of blocks changes."""
    widths = {
        int(key.split(".")[1]): len(tensor)
        for key, tensor in state.items()
        if re.match(r"blocks\.\d+\.project\.weight$", key)
    }
    prefixes, stage, block, previous_width = {}, -1, 0, 0
    for number in sorted(widths):
        if widths[number] != previous_width:
            stage, block, previous_width = stage + 1, 0, widths[number]
        prefixes[str(number)] = f"stages.{stage}.{block}."
        block += 1
    renamed = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if first == "blocks" and number in prefixes:
            key = prefixes[number] + name
        renamed[key] = tensor
    return renamed


def load_efficientnet_lite(path: str | Path) -> EfficientNetLite:
    """Build an EfficientNet-Lite of the size in `path`, without its classifier.

    Raises:
        CheckpointError: another network, or one of unknown size.
    """
    state = read_efficientnet_lite(path)
    sizes = _stage_sizes(state)
    for variant in VARIANTS.values():
        if sizes == (list(variant.depths), list(variant.dims)):
            encoder = EfficientNetLite(*variant)
            checkpoint.load_strict(encoder, state, Path(path).name)
            return encoder
    raise CheckpointError(
        f"{Path(path).name}: an EfficientNet-Lite of {_describe(sizes)}; expected one of "
        f"{', '.join(VARIANTS)}."
    )


# --- Swin, GLH-Transformer -------------------------------------------------------------------

_SWIN_STEM = {  # ours: the authors' and timm's, torchvision's
    "patches": ("patch_embed.proj", "features.0.0"),
    "patch_norm": ("patch_embed.norm", "features.0.2"),
    "norms.3": ("norm", "norm"),  # the final norm; Swin has it before its pooling
}
_SWIN_LAYERS = {  # ours: the authors' and timm's, torchvision's
    "attention.position_bias": ("attn.relative_position_bias_table",) * 2,
    "attention.qkv": ("attn.qkv", "attn.qkv"),
    "attention.project": ("attn.proj", "attn.proj"),
    "attention.global_norm": ("attn.norm", ""),  # of the GLH-Transformer alone
    "attention.global_kv": ("attn.kv", ""),
    "mlp.0": ("mlp.fc1", "mlp.0"),
    "mlp.2": ("mlp.fc2", "mlp.3"),
    "norm1": ("norm1", "norm1"),
    "norm2": ("norm2", "norm2"),
}
_SWIN_AUTHORS = [
    *_layer_renames("", "", _column(_SWIN_STEM, 0)),
    *_layer_renames(r"layers\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2.", _column(_SWIN_LAYERS, 0)),
]
_MERGING_LAST = (r"^layers\.(\d)\.downsample\.", r"merging.\1.")  # at the end of a stage
_MERGING_FIRST = [  # timm since 0.9: at the beginning of the next stage
    (rf"^layers\.{i + 1}\.downsample\.", f"merging.{i}.") for i in range(3)
]
_SWIN = [
    KeyMapping("our own", "stages.0.0.attention.qkv.weight", []),
    KeyMapping(
        "the GLH classifier's",  # as well as official ColorFormer files, without `encoder.arch.`
        "layers.0.blocks.0.attn.kv.weight",
        [*_SWIN_AUTHORS, _MERGING_LAST, (r"^norm(\d)\.", r"norms.\1.")],
        ("norm.", "head.", "norm_cls.", "head_cls."),
    ),
    KeyMapping(
        "the authors'",
        "layers.0.downsample.reduction.weight",
        [*_SWIN_AUTHORS, _MERGING_LAST],
        ("head.",),
    ),
    KeyMapping(
        "timm's",
        "layers.1.downsample.reduction.weight",
        [*_SWIN_AUTHORS, *_MERGING_FIRST],
        ("head.",),
    ),
    KeyMapping(
        "torchvision's",
        "features.1.0.attn.qkv.weight",
        [
            *_layer_renames("", "", _column(_SWIN_STEM, 1)),
            *((rf"^features\.{2 * i + 2}\.", f"merging.{i}.") for i in range(3)),
            *(
                rename
                for i in range(4)
                for rename in _layer_renames(
                    rf"features\.{2 * i + 1}\.(\d+)\.", rf"stages.{i}.\1.", _column(_SWIN_LAYERS, 1)
                )
            ),
        ],
        ("head.",),
    ),
]


def read_swin(path: str | Path) -> dict[str, Tensor]:
    """Read Swin or GLH-Transformer weights under the names of `colorformer.GLHTransformer`.

    Swin has no pooled tokens. Their keys and values start as the k and v rows of its qkv, so that a
    global token is read like a local one. Missing are their norm, and the norms after the first
    three stages.
    """
    state = _read_renamed(path, _SWIN, "Swin")
    if any(".global_kv." in key for key in state):
        return state
    for key, tensor in list(state.items()):
        block = re.match(r"stages\.\d+\.(\d+)\.attention\.qkv\.", key)
        if block and int(block[1]) % 2 == 0:  # odd blocks shift their windows and pool nothing
            third = len(tensor) // 3
            state[key.replace(".qkv.", ".global_kv.")] = tensor[third:].clone()
    return state


# --- VGG-19 ----------------------------------------------------------------------------------

_VGG19 = [
    KeyMapping(
        "torchvision's",  # as well as timm's and ours
        "features.34.weight",
        [],
        ("classifier.", "pre_logits.", "head."),
    )
]


def read_vgg19(path: str | Path) -> dict[str, Tensor]:
    """Read ImageNet weights of VGG-19 under the names of `xcnet.VGG19`."""
    state = _read_renamed(path, _VGG19, "VGG-19")
    if any(key.endswith("running_mean") for key in state):
        raise CheckpointError(
            f"{Path(path).name}: this VGG has batch norm; expected plain VGG-19, as in the paper."
        )
    return state


def _read_renamed(
    path: str | Path, mappings: Sequence[KeyMapping], network: str
) -> dict[str, Tensor]:
    """Read a file and return its tensors under our names, without those that our encoder lacks.

    Raises:
        CheckpointError: the names are unknown.
    """
    state, _ = checkpoint.read(path)
    count, first = len(state), next(iter(state))
    for prefix in ENCODER_PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
            break
    mapping = next((mapping for mapping in mappings if mapping.signature_key in state), None)
    if mapping is None:
        raise CheckpointError(
            f"{Path(path).name}: contains no {network} with known tensor names ({count} tensors, "
            f"first: '{first}'). Known: {', '.join(mapping.source for mapping in mappings)}."
        )
    return {
        rename_key(key, mapping.renames): tensor
        for key, tensor in state.items()
        if not key.startswith(mapping.dropped) and not key.endswith(DERIVED_SUFFIXES)
    }


# --- Into an encoder -------------------------------------------------------------------------


@dataclass(frozen=True)
class BackboneFormat:
    """The rules to read files for one kind of encoder."""

    read: Callable[[str | Path], dict[str, Tensor]]
    """Returns the tensors of a file under our names."""
    missing: str | None = None
    """Pattern of tensors that no file has; they keep their initial values."""
    may_be_longer: bool = False
    """True if files may have more layers than the encoder."""


BACKBONES: dict[BackboneKind, BackboneFormat] = {
    "convnext": BackboneFormat(read_convnext, missing=r"norms\."),
    "efficientnet-lite": BackboneFormat(read_efficientnet_lite),
    "swin": BackboneFormat(read_swin, missing=r"norms\.[012]\.|.*\.global_norm\."),
    "vgg19": BackboneFormat(read_vgg19, may_be_longer=True),
}
# `colorformer.Config.encoder` -> kind
COLORFORMER_BACKBONES: dict[str, BackboneKind] = {
    "glh": "swin",
    "efficientnet-lite": "efficientnet-lite",
}


def load_backbone(encoder: nn.Module, path: str | Path, kind: str) -> str:
    """Load ImageNet weights into an encoder, in place.

    Args:
        encoder: `ddcolor.ConvNeXt`, `EfficientNetLite`, `colorformer.GLHTransformer` or
            `xcnet.VGG19`.
        path: weights, see `pretrained_files.locate`.
        kind: key of BACKBONES.
    Returns:
        a sentence for the log: what was loaded, and what keeps its initial values.
    Raises:
        CheckpointError: the file holds another network, or one of another size.
    """
    if kind not in BACKBONES:
        raise ValueError(f"kind is '{kind}'; expected one of {', '.join(BACKBONES)}.")
    backbone = BACKBONES[kind]
    name, initial, loaded = Path(path).name, encoder.state_dict(), backbone.read(path)
    if backbone.may_be_longer:
        loaded = {key: tensor for key, tensor in loaded.items() if key in initial}
    if (sizes := _stage_sizes(loaded)) != (expected := _stage_sizes(initial)):
        raise CheckpointError(
            f"{name}: a {kind} of {_describe(sizes)}; this encoder has {_describe(expected)}. Give "
            "weights of the same size as the encoder."
        )
    kept = [
        key
        for key in initial
        if key not in loaded and backbone.missing and re.match(backbone.missing, key)
    ]
    state = {key: initial[key] for key in kept}
    for key, tensor in loaded.items():
        if key in initial and _squeezed_shape(tensor) == _squeezed_shape(initial[key]):
            tensor = tensor.reshape(initial[key].shape).to(initial[key])
        state[key] = tensor
    checkpoint.load_strict(encoder, state, name)
    groups = sorted({re.sub(r"^stages\.\d+\.\d+\.", "", key.rpartition(".")[0]) for key in kept})
    copied = ""
    if kind == "swin" and any(key.endswith("global_norm.weight") for key in kept):
        copied = "; keys and values of the pooled tokens are copied from Swin's own"
    rest = f"; initial values kept: {', '.join(groups)}" if groups else ""
    return f"{name}: {len(loaded)} tensors loaded{copied}{rest}."


def _stage_sizes(state: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Return blocks and channels of each stage; two empty lists for a VGG."""
    blocks: dict[str, set[str]] = {}
    channels = {}
    for key, tensor in state.items():
        if key.startswith("stages."):
            _, stage, block, part, *_ = key.split(".")
            blocks.setdefault(stage, set()).add(block)
            if part in ("project", "norm1"):
                channels[stage] = len(tensor)
    stages = sorted(blocks)
    return [len(blocks[stage]) for stage in stages], [channels.get(stage, 0) for stage in stages]


def _describe(sizes: tuple[list[int], list[int]]) -> str:
    blocks, channels = (", ".join(map(str, numbers)) for numbers in sizes)
    return f"{blocks} blocks of {channels} channels"


def _squeezed_shape(tensor: Tensor) -> list[int]:
    """Return the shape without axes of length 1, which 1x1 convolutions and layer scales add."""
    return [n for n in tensor.shape if n != 1]


# --- From our own models ---------------------------------------------------------------------


def transfer_encoder(
    backbone: SmallBackbone | EfficientNetLite, source: str, *, offline: bool = False
) -> None:
    """Copy the encoder of another model into the backbone of a kernel or of an exemplar network.

    Into a small backbone, the encoder of a DDColor is copied as far as it has the stages. It reads
    gray RGB normalized by ImageNet's mean and std, the backbone L / 50 - 1. Gray sRGB is about
    L / 100, within a few hundredths, so the three filters of the first layer are added up.

    Args:
        backbone: changed in place; a small one may have fewer blocks in its last stage.
        source: file, or name of a bundled or installed model.
        offline: download nothing.
    Raises:
        ValueError: the model has no encoder of this type, or one of other sizes.
    """
    donor, spec, _ = registry.load(resolve.model_path(source, offline=offline))
    kernel = _kernel_of(donor)
    encoder = kernel.backbone if kernel else getattr(donor, "encoder", None)
    if isinstance(encoder, type(backbone)):
        checkpoint.load_strict(backbone, encoder.state_dict(), source)
        return
    if isinstance(backbone, EfficientNetLite) or not isinstance(encoder, ConvNeXt):
        needed = (
            "an EfficientNet-Lite, as ddcolor-nano and pointhint-nano have"
            if isinstance(backbone, EfficientNetLite)
            else "the encoder of a DDColor with ConvNeXt, or the small backbone of a kernel"
        )
        raise ValueError(
            f"encoder is {source}, a {spec.architecture} network; this backbone needs {needed}."
        )
    initial, depth = backbone.state_dict(), len(cast(nn.Sequential, backbone.stages[-1]))
    state = {key: tensor for key, tensor in initial.items() if key.startswith("stem.")}
    for key, tensor in encoder.state_dict().items():
        part, stage, block, *_ = key.split(".")
        surplus = part == "stages" and stage == "2" and int(block) >= depth
        if stage in ("0", "1", "2") and not surplus:
            state[key] = tensor
    first = cast(nn.Conv2d, encoder.get_submodule("downsample.0.0"))
    mean, std = cast(DDColor, donor).mean.flatten(), cast(DDColor, donor).std.flatten()
    filters = (first.weight * (0.5 / std).view(1, 3, 1, 1)).sum(1, keepdim=True)
    shift = (first.weight.sum(dim=(2, 3)) * ((0.5 - mean) / std)).sum(1)
    state["downsample.0.0.weight"] = filters
    state["downsample.0.0.bias"] = cast(Tensor, first.bias) + shift
    checkpoint.load_strict(backbone, state, source)


HintedNetworkT = TypeVar("HintedNetworkT", PointHint, XCNet)


def transplant_kernel(
    network: HintedNetworkT, source: str, *, use_x: bool, offline: bool = False
) -> HintedNetworkT:
    """Return a copy of a network with the kernel of another model.

    Args:
        network: point-hint or exemplar network, with or without a kernel; it is not changed.
        source: file, or name of a bundled or installed model with a kernel.
        use_x: see `gp_kernel.Config`.
        offline: download nothing.
    Raises:
        ValueError: the model has no kernel.
    """
    donor = _kernel_of(registry.load(resolve.model_path(source, offline=offline))[0])
    if donor is None:
        raise ValueError(
            f"kernel is {source}, a network without one; expected one such as pointhint-nano."
        )
    sizes = replace(donor.config, use_x=use_x)
    result = type(network)(replace(network.config, kernel=sizes))
    kept = {k: t for k, t in network.state_dict().items() if not k.startswith("kernel.")}
    transplanted = {f"kernel.{k}": t for k, t in donor.state_dict().items()}
    # Layers that only networks with a kernel have keep their initial weights.
    result.load_state_dict(result.state_dict() | kept | transplanted)
    return result


def _kernel_of(network: nn.Module) -> gp_kernel.DeepKernel | None:
    return network.kernel if isinstance(network, PointHint | XCNet) else None
