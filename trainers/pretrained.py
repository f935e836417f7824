"""Backbone starts: ImageNet weights of others put into our encoders before training.

DDColor's encoder is a ConvNeXt (Liu et al., CVPR 2022, arXiv:2201.03545) or an EfficientNet-Lite
(Tan, Le, ICML 2019, arXiv:1905.11946), ColorFormer's an EfficientNet-Lite or a Swin-T
(Liu et al., ICCV 2021, arXiv:2103.14030) whose every other block also looks at the pooled map, the
exemplar network's backbone VGG-19. Each naming, the authors', timm's, torchvision's, is a table.
The weights stay with the user, see `pretrained_files.find`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, nn

from ..model_defs import checkpoint, registry
from ..model_defs.checkpoint import CheckpointError
from ..model_defs.efficientnet_lite import VARIANTS, EfficientNetLite
from ..model_defs.layers import SmallBackbone, rename
from ..model_store import resolve

Kind = Literal["convnext", "efficientnet-lite", "swin", "vgg19"]


class Naming(NamedTuple):
    """How somebody calls the tensors of a backbone."""

    whose: str
    telltale: str
    """A name that only this naming has."""
    table: list[tuple[str, str]]
    """Their name -> ours; first match wins."""
    dropped: tuple[str, ...] = ()
    """Beginnings of names that our encoder has no place for: the classifier, mostly."""


_DERIVED = (".relative_position_index", ".attn_mask")  # the same numbers in every file of a size
_ENCODER = ("encoder.arch.", "encoder.", "backbone.")  # where whole networks keep theirs


def _renamed(path: str | Path, namings: list[Naming], what: str) -> dict[str, Tensor]:
    """The tensors of a file under our names, without what we have no place for.

    Raises:
        CheckpointError: none of the namings.
    """
    state, _ = checkpoint.read(path)
    count, first = len(state), next(iter(state))
    for prefix in _ENCODER:
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
            break
    naming = next((naming for naming in namings if naming.telltale in state), None)
    if naming is None:
        raise CheckpointError(
            f"{Path(path).name}: no {what} under a known naming ({count} tensors, first: "
            f"'{first}'). Known: {', '.join(naming.whose for naming in namings)}."
        )
    return {
        rename(key, naming.table): tensor
        for key, tensor in state.items()
        if not key.startswith(naming.dropped) and not key.endswith(_DERIVED)
    }


# --- ConvNeXt --------------------------------------------------------------------------------

_CONVNEXT = [
    Naming("our own", "stages.0.0.expand.weight", []),
    Naming(
        "the authors'",  # published DDColor files, too, once `encoder.arch.` is off
        "stages.0.0.dwconv.weight",
        [
            (r"^downsample_layers\.", "downsample."),
            (r"^stages\.(\d)\.(\d+)\.dwconv\.", r"stages.\1.\2.depthwise."),
            (r"^stages\.(\d)\.(\d+)\.pwconv1\.", r"stages.\1.\2.expand."),
            (r"^stages\.(\d)\.(\d+)\.pwconv2\.", r"stages.\1.\2.project."),
            (r"^norm(\d)\.", r"norms.\1."),
        ],
        ("norm.", "head.", "head_cls."),
    ),
    Naming(
        "timm's",
        "stages.0.blocks.0.conv_dw.weight",
        [
            (r"^stem\.", "downsample.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample.\1."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", r"stages.\1.\2.depthwise."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.\2.expand."),
            (r"^stages\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.\2.project."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        ],
        ("norm_pre.", "head."),
    ),
    Naming(
        "torchvision's",
        "features.1.0.block.0.weight",
        [
            *((rf"^features\.{2 * i}\.", f"downsample.{i}.") for i in range(4)),
            *(
                (rf"^features\.{2 * i + 1}\.(\d+)\.{theirs}", rf"stages.{i}.\1.{ours}")
                for i in range(4)
                for theirs, ours in (
                    (r"block\.0\.", "depthwise."),
                    (r"block\.2\.", "norm."),
                    (r"block\.3\.", "expand."),
                    (r"block\.5\.", "project."),
                    ("layer_scale", "gamma"),
                )
            ),
        ],
        ("classifier.",),
    ),
]


def convnext(path: str | Path) -> dict[str, Tensor]:
    """ImageNet weights of a ConvNeXt under the names of `ddcolor.ConvNeXt`.

    Its norms behind each stage are not among them: a ConvNeXt has only one, behind the pooling.
    """
    return _renamed(path, _CONVNEXT, "ConvNeXt")


# --- EfficientNet-Lite -----------------------------------------------------------------------

_LITE = [
    Naming("our own", "stem.weight", []),
    Naming(
        "the PyTorch port's",  # blocks are counted through
        "_blocks.0._depthwise_conv.weight",
        [
            (r"^_conv_stem\.", "stem."),
            (r"^_bn0\.", "stem_norm."),
            (r"^_blocks\.0\._bn1\.", "blocks.0.depthwise_norm."),
            (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand."),
            (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand_norm."),
            (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise."),
            (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise_norm."),
            (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project."),
            (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project_norm."),
        ],
        ("_conv_head.", "_bn1.", "_fc."),
    ),
    Naming(
        "timm's",
        "blocks.0.0.conv_dw.weight",
        [
            (r"^conv_stem\.", "stem."),
            (r"^bn1\.", "stem_norm."),
            (r"^blocks\.0\.(\d+)\.conv_pw\.", r"stages.0.\1.project."),
            (r"^blocks\.0\.(\d+)\.bn1\.", r"stages.0.\1.depthwise_norm."),
            (r"^blocks\.0\.(\d+)\.bn2\.", r"stages.0.\1.project_norm."),
            (r"^blocks\.(\d)\.(\d+)\.conv_pw\.", r"stages.\1.\2.expand."),
            (r"^blocks\.(\d)\.(\d+)\.bn1\.", r"stages.\1.\2.expand_norm."),
            (r"^blocks\.(\d)\.(\d+)\.conv_dw\.", r"stages.\1.\2.depthwise."),
            (r"^blocks\.(\d)\.(\d+)\.bn2\.", r"stages.\1.\2.depthwise_norm."),
            (r"^blocks\.(\d)\.(\d+)\.conv_pwl\.", r"stages.\1.\2.project."),
            (r"^blocks\.(\d)\.(\d+)\.bn3\.", r"stages.\1.\2.project_norm."),
        ],
        ("conv_head.", "bn2.", "classifier."),
    ),
]
_LITE_EPSILON = 1e-3  # of its batch norms


def efficientnet_lite(path: str | Path) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite under the names of `EfficientNetLite`.

    Batch norm is folded into the convolution before it.

    Raises:
        CheckpointError: another network, or a norm of which a tensor is missing.
    """
    state = _blocks_by_stage(_renamed(path, _LITE, "EfficientNet-Lite"))
    folded = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        norm = f"{layer}_norm."
        if layer.endswith("_norm"):
            continue
        if kind != "weight" or not any(name.startswith(norm) for name in state):
            folded[key] = tensor
            continue
        try:
            scale = state[norm + "weight"] / (state[norm + "running_var"] + _LITE_EPSILON).sqrt()
            folded[layer + ".bias"] = state[norm + "bias"] - state[norm + "running_mean"] * scale
        except KeyError as error:
            raise CheckpointError(
                f"{Path(path).name}: the batch norm behind {layer} has no {error}; the file is cut "
                "short or damaged. Get it again."
            ) from error
        folded[key] = tensor * scale.view(-1, 1, 1, 1)
    return folded


def open_lite(path: str | Path) -> EfficientNetLite:
    """An EfficientNet-Lite of the sizes in `path`, without its classifier.

    Raises:
        CheckpointError: another network, or one of unknown sizes.
    """
    state = efficientnet_lite(path)
    sizes = _sizes(state)
    known = {name: v for name, v in VARIANTS.items() if sizes == tuple(map(list, v))}
    if not known:
        raise CheckpointError(
            f"{Path(path).name}: an EfficientNet-Lite of {_told(sizes)}; expected one of "
            f"{', '.join(VARIANTS)}."
        )
    encoder = EfficientNetLite(*next(iter(known.values())))
    checkpoint.load_strict(encoder, state, Path(path).name)
    return encoder


def _blocks_by_stage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """blocks.N -> stages.STAGE.BLOCK: a stage begins where the width of blocks changes."""
    widths = {
        int(key.split(".")[1]): len(tensor)
        for key, tensor in state.items()
        if re.match(r"blocks\.\d+\.project\.weight$", key)
    }
    place, stage, block, before = {}, -1, 0, None
    for number in sorted(widths):
        if widths[number] != before:
            stage, block, before = stage + 1, 0, widths[number]
        place[str(number)] = f"stages.{stage}.{block}."
        block += 1
    renamed = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        renamed[place[number] + name if first == "blocks" and number in place else key] = tensor
    return renamed


# --- Swin, GLH-Transformer -------------------------------------------------------------------

_BLOCK = r"^layers\.(\d)\.blocks\.(\d+)\."
_SWIN_BLOCKS = [
    (r"^patch_embed\.proj\.", "patches."),
    (r"^patch_embed\.norm\.", "patch_norm."),
    (rf"{_BLOCK}attn\.relative_position_bias_table$", r"stages.\1.\2.attention.position_bias"),
    (rf"{_BLOCK}attn\.qkv\.", r"stages.\1.\2.attention.qkv."),
    (rf"{_BLOCK}attn\.proj\.", r"stages.\1.\2.attention.project."),
    (rf"{_BLOCK}attn\.norm\.", r"stages.\1.\2.attention.global_norm."),
    (rf"{_BLOCK}attn\.kv\.", r"stages.\1.\2.attention.global_kv."),
    (rf"{_BLOCK}mlp\.fc1\.", r"stages.\1.\2.mlp.0."),
    (rf"{_BLOCK}mlp\.fc2\.", r"stages.\1.\2.mlp.2."),
    (rf"{_BLOCK}norm", r"stages.\1.\2.norm"),
]
_MERGING_LAST = (r"^layers\.(\d)\.downsample\.", r"merging.\1.")  # at the end of a stage
_MERGING_FIRST = [  # timm since 0.9: at the beginning of the next
    (rf"^layers\.{i + 1}\.downsample\.", f"merging.{i}.") for i in range(3)
]
_LAST_NORM = (r"^norm\.", "norms.3.")  # Swin has the same one there, before its pooling

_SWIN = [
    Naming("our own", "stages.0.0.attention.qkv.weight", []),
    Naming(
        "the GLH classifier's",  # published ColorFormer files, too, once `encoder.arch.` is off
        "layers.0.blocks.0.attn.kv.weight",
        [*_SWIN_BLOCKS, _MERGING_LAST, (r"^norm(\d)\.", r"norms.\1.")],
        ("norm.", "head.", "norm_cls.", "head_cls."),
    ),
    Naming(
        "the authors'",
        "layers.0.downsample.reduction.weight",
        [*_SWIN_BLOCKS, _MERGING_LAST, _LAST_NORM],
        ("head.",),
    ),
    Naming(
        "timm's",
        "layers.1.downsample.reduction.weight",
        [*_SWIN_BLOCKS, *_MERGING_FIRST, _LAST_NORM],
        ("head.",),
    ),
    Naming(
        "torchvision's",
        "features.1.0.attn.qkv.weight",
        [
            (r"^features\.0\.0\.", "patches."),
            (r"^features\.0\.2\.", "patch_norm."),
            *((rf"^features\.{2 * i + 2}\.", f"merging.{i}.") for i in range(3)),
            *(
                (rf"^features\.{2 * i + 1}\.(\d+)\.{theirs}", rf"stages.{i}.\1.{ours}")
                for i in range(4)
                for theirs, ours in (
                    (r"attn\.relative_position_bias_table$", "attention.position_bias"),
                    (r"attn\.qkv\.", "attention.qkv."),
                    (r"attn\.proj\.", "attention.project."),
                    (r"mlp\.0\.", "mlp.0."),
                    (r"mlp\.3\.", "mlp.2."),
                    ("norm", "norm"),
                )
            ),
            _LAST_NORM,
        ],
        ("head.",),
    ),
]


def swin(path: str | Path) -> dict[str, Tensor]:
    """ImageNet weights of Swin or GLH-Transformer under the names of `colorformer.GLHTransformer`.

    Swin knows no pooled tokens: their keys and values start from the k and v rows of its qkv, so
    that a global token is read as a local one is. Their norm, and the norms behind the first three
    stages, are not among the weights.
    """
    state = _renamed(path, _SWIN, "Swin")
    if any(".global_kv." in key for key in state):
        return state
    for key, tensor in list(state.items()):
        block = re.match(r"stages\.\d+\.(\d+)\.attention\.qkv\.", key)
        if block and int(block[1]) % 2 == 0:  # the others shift their windows and pool nothing
            third = len(tensor) // 3
            state[key.replace(".qkv.", ".global_kv.")] = tensor[third:].clone()
    return state


# --- VGG-19 ----------------------------------------------------------------------------------

_VGG19 = [
    Naming(
        "torchvision's",  # and timm's, and ours
        "features.34.weight",
        [],
        ("classifier.", "pre_logits.", "head."),
    )
]


def vgg19(path: str | Path) -> dict[str, Tensor]:
    """ImageNet weights of VGG-19 under the names of `xcnet.VGG19`."""
    state = _renamed(path, _VGG19, "VGG-19")
    if any(key.endswith("running_mean") for key in state):
        raise CheckpointError(
            f"{Path(path).name}: this VGG has batch norm; expected plain VGG-19, as the paper."
        )
    return state


# --- Into an encoder -------------------------------------------------------------------------

_READERS = {
    "convnext": convnext,
    "efficientnet-lite": efficientnet_lite,
    "swin": swin,
    "vgg19": vgg19,
}
# colorformer.Config.encoder -> kind
COLORFORMER: dict[str, Kind] = {"glh": "swin", "efficientnet-lite": "efficientnet-lite"}
_NEW = {  # what the files cannot have, and the encoder starts as it is built
    "convnext": r"norms\.",
    "efficientnet-lite": r"$.",
    "swin": r"norms\.[012]\.|.*\.global_norm\.",
    "vgg19": r"$.",
}


def take(encoder: nn.Module, path: str | Path, kind: Kind) -> str:
    """Put ImageNet weights into an encoder, in place.

    Args:
        encoder: `ddcolor.ConvNeXt`, `EfficientNetLite`, `colorformer.GLHTransformer` or
            `xcnet.VGG19`.
        path: weights, see `pretrained_files.find`.
        kind: convnext, efficientnet-lite, swin or vgg19.
    Returns:
        One sentence for the log: what was taken, and what keeps its start values.
    Raises:
        CheckpointError: another network, or one of other sizes.
    """
    if kind not in _READERS:
        raise ValueError(f"kind is '{kind}'; expected one of {', '.join(_READERS)}.")
    name, start, given = Path(path).name, encoder.state_dict(), _READERS[kind](path)
    if kind == "vgg19":  # the backbone may end before the file does
        given = {key: tensor for key, tensor in given.items() if key in start}
    if (have := _sizes(given)) != (want := _sizes(start)):
        raise CheckpointError(
            f"{name}: a {kind} of {_told(have)}; this encoder has {_told(want)}. Give weights of "
            "the encoder's own size."
        )
    kept = [key for key in start if key not in given and re.match(_NEW[kind], key)]
    state = {key: start[key] for key in kept}
    for key, tensor in given.items():
        if key in start and _plain(tensor) == _plain(start[key]):
            tensor = tensor.reshape(start[key].shape).to(start[key])
        state[key] = tensor
    checkpoint.load_strict(encoder, state, name)
    groups = sorted({re.sub(r"^stages\.\d+\.\d+\.", "", key.rpartition(".")[0]) for key in kept})
    also = ""
    if kind == "swin" and any(key.endswith("global_norm.weight") for key in kept):
        also = "; keys and values of the pooled tokens start as those of Swin's own"
    rest = f"; start values kept: {', '.join(groups)}" if groups else ""
    return f"{name}: {len(given)} tensors taken{also}{rest}."


def take_encoder(backbone: SmallBackbone, source: str, *, offline: bool = False) -> None:
    """Put stages of a DDColor encoder, or a kernel's backbone, into a small backbone, in place.

    DDColor takes grey RGB with ImageNet's mean and std, the backbone L / 50 - 1. Grey sRGB is about
    L / 100, to a few hundredths, and so the three filters of the first layer become one.

    Args:
        backbone: its last stage may have fewer blocks than the encoder's.
        source: file, boxed or installed name of a DDColor network, or of one with a kernel.
        offline: download nothing.
    Raises:
        ValueError: no such network, or other sizes.
    """
    given, spec, _ = registry.load(resolve.locate(source, offline=offline))
    if getattr(given, "kernel", None):
        checkpoint.load_strict(backbone, given.kernel.backbone.state_dict(), source)
        return
    if spec.architecture == "ddcolor" and given.config.encoder != "convnext":
        raise ValueError(
            f"encoder is {source}, a DDColor with the encoder {given.config.encoder}; expected one "
            "with a ConvNeXt, or a network with a kernel such as pointhint-nano."
        )
    if spec.architecture != "ddcolor":
        raise ValueError(
            f"encoder is {source}, a {spec.architecture} network; expected a DDColor, or one with "
            "a kernel."
        )
    start, last = backbone.state_dict(), len(backbone.stages[-1])
    state = {key: tensor for key, tensor in start.items() if key.startswith("stem.")}
    for key, tensor in given.encoder.state_dict().items():
        part, stage, block, *_ = key.split(".")
        surplus = part == "stages" and stage == "2" and int(block) >= last
        if stage in ("0", "1", "2") and not surplus:
            state[key] = tensor
    first = given.encoder.downsample[0][0]
    mean, std = given.mean.flatten(), given.std.flatten()
    filters = (first.weight * (0.5 / std).view(1, 3, 1, 1)).sum(1, keepdim=True)
    shift = (first.weight.sum(dim=(2, 3)) * ((0.5 - mean) / std)).sum(1)
    state["downsample.0.0.weight"], state["downsample.0.0.bias"] = filters, first.bias + shift
    checkpoint.load_strict(backbone, state, source)


def with_kernel(
    network: nn.Module, source: str, *, sideways: bool, offline: bool = False
) -> nn.Module:
    """A network with the kernel of another in place of its own, or of none.

    Args:
        network: a point-hint or exemplar network; it is not changed.
        source: file, boxed or installed name of a network with a kernel.
        sideways: see `gp_kernel.Config`.
        offline: download nothing.
    Returns:
        a new one; what only networks with a kernel have starts as it is built.
    Raises:
        ValueError: no kernel there.
    """
    donor = getattr(registry.load(resolve.locate(source, offline=offline))[0], "kernel", None)
    if donor is None:
        raise ValueError(
            f"kernel is {source}, a network without one; expected pointhint-nano, say."
        )
    sizes = replace(donor.config, sideways=sideways)
    made = type(network)(replace(network.config, kernel=sizes))
    kept = {k: t for k, t in network.state_dict().items() if not k.startswith("kernel.")}
    taken = {f"kernel.{k}": t for k, t in donor.state_dict().items()}
    made.load_state_dict(made.state_dict() | kept | taken)
    return made


def _sizes(state: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Blocks and channels of each stage; nothing for a VGG."""
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


def _told(sizes: tuple[list[int], list[int]]) -> str:
    blocks, channels = (", ".join(map(str, numbers)) for numbers in sizes)
    return f"{blocks} blocks of {channels} channels"


def _plain(tensor: Tensor) -> list[int]:
    """The shape without axes of length 1, by which layer scales and 1x1 convolutions differ."""
    return [n for n in tensor.shape if n != 1]
