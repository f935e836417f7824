"""Exemplar colorization with axial attention: a grey target takes its colours from references.

Gorriz Blanch, Khalifeh, Smeaton, O'Connor, Mrak: "Attention-based Stylisation for Exemplar Image
Colourisation", MMSP 2021, arXiv:2105.01705. Published program and weights: bbc/xcnet ("XCNet").

The file follows figure 1: backbone -> projections -> attention modules -> pyramid decoder -> heads.
What the published program does otherwise than the paper is `Config.compat`. Maps are (B, C, H, W);
level l = 1 ... 5 has 1/2^(l-1) of the picture's sides; `G` groups of references: one for each
target, or 1 for all; `N` references of a group; `S` cells of all of them that are attended to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import gaussian_process
from ..ops.color import lab_to_rgb
from . import gp_kernel, match_confidence
from .gp_kernel import DeepKernel
from .layers import ConvNeXtBlock, SmallBackbone
from .spec import Spec
from .winograd_conv import Conv3x3, packed_bytes
from .xcnet_attention import AttentionModule, AxialAttention, Keys, Reference, StandardAttention
from .xcnet_config import LEVELS, Config
from .xcnet_convert import config_from, convert, detect  # noqa: F401 - the registry's

NAME = "exemplar"
AB = 110.0  # Lab units of a prediction of 1
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


PRESETS = {
    "exemplar-vgg19": Config(),
    "exemplar-nano": Config(
        backbone="convnext",
        depths=(2, 2, 2),
        reference_color=True,
        width=64,
        heads=4,
        head_width=32,
        kernel=gp_kernel.Config(sideways=False),
        # Of the ways that were measured the best and the fastest (docs/training-log.md).
        second_kv="fused",
        full_res_head=False,
    ),
}


def spec(config: Config) -> Spec:
    """What the pipeline must know to run this network."""
    # Fitted to what a float32 forward pass on a CPU takes more at 512 than at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 1200 bytes a pixel, the paper's 6230. Most of it is the
    # decoder's finest stage.
    wide, deep = config.width, 512
    packed = sum(packed_bytes(before, wide) for before in (wide, 2 * wide)) * (6 - config.finest)
    if config.backbone == "vgg19":
        packed += (
            8 * packed_bytes(deep, deep) + packed_bytes(256, deep) + 3 * packed_bytes(256, 256)
        )
    return Spec(
        architecture=NAME,
        role="exemplar",
        model_input="Lab",
        multiple=16,
        resolution=224,
        activation_bytes_per_pixel=24 * config.width,
        activation_bytes=2**24 + packed,
        attention_bytes=0.4 * config.heads,
        published_picture="middle",
        aligned=config.backbone == "vgg19" and "axial" in config.attention,
    )


# --- Backbone (section 3.1): taps F^1 ... F^5 and F^B --------------------------------------------

_VGG19 = [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4]  # 0: max pooling
VGG_TAPS = {1: 1, 2: 6, 3: 11, 4: 20, 5: 29}  # level -> index of relu{l}_1 in torchvision's list


class VGG19(nn.Module):
    """Picture (B, 3, H, W) -> first activation of each block; names and indices are torchvision's.

    The paper freezes ImageNet weights, which stay with the user; the trainer freezes them.
    """

    widths = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512, "B": 512}

    def __init__(self, config: Config):
        super().__init__()
        layers, before = [], 3
        for width in _VGG19:
            if not width:
                layers.append(nn.MaxPool2d(2))
                continue
            # In place: of a convolution's output, which is no tap.
            layers += [Conv3x3(before, width), nn.ReLU(inplace=True)]
            before = width
        self.features = nn.Sequential(*layers[: config.backbone_last + 1])

    def forward(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Target: F^1 ... F^5 and F^B."""
        return self._taps(picture, self.features)

    def reference(self, picture: Tensor) -> dict[int | str, Tensor]:
        """Reference: F^1 ... F^5; what lies behind them is not computed."""
        return self._taps(picture, self.features[: VGG_TAPS[5] + 1])

    def _taps(self, x: Tensor, features: nn.Sequential) -> dict[int | str, Tensor]:
        taps, levels = {}, {index: level for level, index in VGG_TAPS.items()}
        for index, layer in enumerate(features):
            x = layer(x)
            if index in levels:
                taps[levels[index]] = x
        return taps | {"B": x}


# --- Pyramid decoder and heads -------------------------------------------------------------------


class DecoderStage(nn.Module):
    """O^l from O^(l+1), the fused features of level l+1 and the projected target of level l."""

    def __init__(self, width: int):
        super().__init__()
        self.mix = Conv3x3(width, width)
        self.refine = Conv3x3(2 * width, width)

    def forward(self, x: Tensor, fused: Tensor | None, skip: Tensor) -> Tensor:
        x = self.mix(x if fused is None else x + fused).relu_()
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        down, right = (s - n for s, n in zip(skip.shape[2:], x.shape[2:], strict=True))
        x = F.pad(x, (0, right, 0, down)) if down or right else x  # odd sizes: as the program
        return self.refine(skip, x).relu_()


class Head(nn.Sequential):
    """Features -> ab in -1..1."""

    def __init__(self, width: int, hidden: int):
        super().__init__(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(hidden, 2, 1),
            nn.Tanh(),
        )


class Blend(nn.Module):
    """A guess and the network's own colour -> g guess + (1 - g) own, g for each place."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(width + 5, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
        )

    def forward(self, x: Tensor, own: Tensor, guess: Tensor) -> Tensor:
        """Features (B, h, H, W), ab (B, 2, H, W) in -1..1, guess (B, 3, H, W) -> ab in -1..1."""
        g = torch.sigmoid(self.weigh(torch.cat([x, own, guess.to(x.dtype)], dim=1)))
        return torch.lerp(own, guess[:, :2].to(x.dtype), g)


# --- The whole -----------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """All that targets of one size need of the references."""

    keys: dict[int, list[list[Keys]]]
    """Level -> what each of its modules attends to."""
    likes: dict[int, match_confidence.Likes]
    """Level -> where to look for what is most like the target."""
    known: gaussian_process.Known | None
    """What the guess is made of."""


class Answer(NamedTuple):
    """What a target gets from its references."""

    ab: Tensor
    """Finest prediction in Lab units: (B, 2, H, W), or half of both sides."""
    confidence: Tensor
    """(B, 1, H/4, W/4) in 0..1: how surely the references tell the colour of a place."""
    clues: Tensor
    """(B, 7, H/4, W/4): what confidence is made of, see `match_confidence.clues`."""


class Exemplar(nn.Module):
    """Target (B, 3, H, W) and reference (B, 3, H', W') -> predictions of ab in -1..1, finest first.

    The target's channels are L / 50 - 1, three times; the reference's L / 50 - 1, a / 110, b / 110.
    H and W are at least 16.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width = config.width
        if config.backbone == "vgg19":
            self.backbone = VGG19(config)
        else:
            self.backbone = SmallBackbone(config.stem, config.dims, config.depths)
        widths, color = self.backbone.widths, 3 * config.reference_color
        self.project_target = nn.ModuleDict(
            {
                str(level): nn.Conv2d(widths[level], width, 1)
                for level in (*range(config.finest, 6), "B")
            }
        )
        self.project_reference = nn.ModuleDict(
            {str(level): nn.Conv2d(widths[level] + color, width, 1) for level in LEVELS}
        )
        self.attention = nn.ModuleDict(
            {
                str(level): nn.ModuleList(
                    AttentionModule(config, level)
                    for _ in range(1 if config.share else config.stack)
                )
                for level in LEVELS
            }
        )
        levels = range(config.finest, 5)
        self.decoder = nn.ModuleDict({str(level): DecoderStage(width) for level in levels})
        self.heads = nn.ModuleDict({str(level): Head(width, config.head_width) for level in levels})
        self.kernel, self.blend = None, None
        if config.kernel:
            self.kernel, self.blend = DeepKernel(config.kernel), Blend(width, config.head_width)

    def forward(
        self,
        target: Tensor,
        reference: Tensor,
        trust: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> list[Tensor]:
        """Predictions at all scales, finest first, each target with a reference of its own.

        Args:
            target: (B, 3, H, W) in -1..1; only its first channel, L, differs between targets.
            reference: (B, 3, H', W') in -1..1.
            trust: (B, 1, H', W') in 0..1, how far the reference's colours count.
            guess: as `guess` makes it, for networks that take one; None = it is made here.
        """
        trusts = None if trust is None else [trust]
        told = guess is None
        evidence = self.read([reference], target.shape[2:], trusts, traced=False, told=told)
        if self.kernel and told:
            guess = self.guess(target, evidence.known)
        outputs, _, _ = self._decode(target, evidence)
        finest, *others = (self.heads[level](x) for level, x in reversed(outputs.items()))
        if self.blend:
            finest = self.blend(outputs[str(self.config.finest)], finest, guess)
        return [finest, *others]

    def guess(self, target: Tensor, known: gaussian_process.Known) -> Tensor:
        """What the references' colours make of targets by likeness alone, see `gp_kernel`.

        Args:
            target: (B, 3, H, W) as for `forward`.
            known: of B or 1 groups of references.
        Returns:
            (B, 3, H/2, W/2): ab in -1..1; how like the target's place the most like one is, 0..1.
        """
        ab, alike = gaussian_process.tell(self.kernel(50 * (target[:, :1].float() + 1)), known)
        guess = torch.cat([ab / AB, alike[..., None]], dim=-1).clamp(-1, 1)
        return guess.mT.unflatten(2, tuple(-(-n // 2) for n in target.shape[2:]))

    def read(
        self,
        references: Sequence[Tensor],
        size: Sequence[int],
        trusts: Sequence[Tensor | None] | None = None,
        *,
        traced: bool = True,
        told: bool = True,
    ) -> Evidence:
        """All that targets of `size` (H, W) need of the references; once for a whole film.

        Args:
            references: N tensors (G, 3, H', W') in -1..1, of any sizes; their evidence is joined.
            size: of the targets.
            trusts: N tensors (G, 1, H', W') in 0..1, or None where all counts.
            traced: whether confidence will be asked for. Trust is traced in any case.
            told: whether a guess will be, of networks that make one.
        Raises:
            ValueError: no reference, or one of a shape that cannot be.
        """
        if not references:
            raise ValueError("exemplar: no reference; give at least one.")
        _refuse(size)
        traced = traced or any(trust is not None for trust in trusts or ())
        known: dict[int, list[Reference]] = {level: [] for level in LEVELS}
        seen = []
        for reference, trust in zip(references, trusts or [None] * len(references), strict=True):
            if reference.ndim != 4 or reference.shape[1] != 3:
                raise ValueError(
                    f"exemplar: a reference has shape {tuple(reference.shape)}; expected "
                    "(G, 3, H, W) Lab in -1..1."
                )
            _refuse(reference.shape[2:])
            if reference.shape[0] != references[0].shape[0]:
                raise ValueError(
                    f"exemplar: references come in groups of {len(references[0])} and "
                    f"{len(reference)}; expected as many in each."
                )
            if trust is not None:
                reference = torch.cat([reference[:, :1], reference[:, 1:] * trust], dim=1)
            seen.append((reference, trust, self.backbone.reference(self._seen(reference))))
        for reference, trust, taps in seen:
            for level in LEVELS:
                tap, grid = taps[level], taps[level].shape[2:]
                traces = reference.new_empty(reference.shape[0], 0, *grid)
                if traced:
                    traces = match_confidence.traces(AB * reference[:, 1:], trust, grid)
                if self.config.reference_color:
                    tap = torch.cat([tap, self._pooled(reference, grid)], dim=1)
                features = self.project_reference[str(level)](tap).relu_()
                at = None if trust is None else F.adaptive_avg_pool2d(trust, grid)
                known[level].append(Reference(features, at, traces))
        keys = {
            level: [
                module.keys(known[level], tuple(n // 2 ** (level - 1) for n in size))
                for module in self.attention[str(level)]
            ]
            for level in LEVELS
        }
        likes = (
            match_confidence.likes([(AB * r[:, 1:], *rest) for r, *rest in seen]) if traced else {}
        )
        known = self._known([s[:2] for s in seen]) if self.kernel and told else None
        return Evidence(keys, likes, known)

    def _known(self, seen: Sequence[tuple[Tensor, Tensor | None]]) -> gaussian_process.Known:
        """Some cells of each reference, and what they say."""
        fields, colors, trusts = [], [], []
        for reference, trust in seen:
            field = self.kernel(50 * (reference[:, :1].float() + 1))
            if trust is None:
                trust = torch.ones_like(reference[:, :1])
            color, trust = (
                F.avg_pool2d(x.float(), 2, ceil_mode=True).flatten(2).mT
                for x in (AB * reference[:, 1:], trust)
            )
            count = color.shape[1]
            order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
            some = order[: self.config.told].to(color.device)
            fields.append(field.cells(some.expand(len(color), -1)))
            colors.append(color[:, some])
            trusts.append(trust[:, some, 0])
        trust = torch.cat(trusts, dim=1)
        cells, color = gaussian_process.joined(fields), torch.cat(colors, dim=1)
        color = color / trust[..., None].clamp_min(
            match_confidence.FAINT
        )  # which it was multiplied by
        cells = cells._replace(noise=cells.noise / trust.clamp_min(match_confidence.FAINT))
        return gaussian_process.learn(cells, color, trust > match_confidence.FAINT)

    def answer(self, target: Tensor, evidence: Evidence) -> Answer:
        """The finest prediction alone, and how surely the references tell it.

        Args:
            target: (B, 3, H, W) as for `forward`.
            evidence: of G = B or 1 groups, which `read` gave for this size.
        """
        outputs, traces, taps = self._decode(target, evidence)
        finest = str(self.config.finest)
        ab = self.heads[finest](outputs[finest])
        if self.blend:
            ab = self.blend(outputs[finest], ab, self.guess(target, evidence.known))
        ab = AB * ab
        trust, clues = match_confidence.clues(ab, traces, taps, evidence.likes)
        return Answer(ab, match_confidence.confidence(trust, clues, self.config.confidence), clues)

    def _decode(
        self, target: Tensor, evidence: Evidence
    ) -> tuple[dict[str, Tensor], dict[int, Tensor], dict[int | str, Tensor]]:
        """Decoder maps O^4 ..., traces of the attention, and the target's taps; all by level."""
        if target.ndim != 4 or target.shape[1] != 3:
            raise ValueError(
                f"exemplar: the target has shape {tuple(target.shape)}; expected (B, 3, H, W)."
            )
        _refuse(target.shape[2:])
        taps = self.backbone(self._seen(target, gray=True))
        projected = {
            level: project(taps["B" if level == "B" else int(level)]).relu_()
            for level, project in self.project_target.items()
        }
        fused, traces = {}, {}
        for level in LEVELS:
            x, modules = projected[str(level)], self.attention[str(level)]
            for i in range(self.config.stack):
                at = min(i, len(modules) - 1)
                x, traces[level] = modules[at](x, evidence.keys[level][at])
            fused[level] = x
        x, outputs = projected["B"], {}
        for level in range(4, self.config.finest - 1, -1):
            x = self.decoder[str(level)](x, fused.get(level + 1), projected[str(level)])
            outputs[str(level)] = x
        return outputs, traces, taps

    def _pooled(self, reference: Tensor, grid: Sequence[int]) -> Tensor:
        """A reference's Lab on the grid of a tap."""
        return F.adaptive_avg_pool2d(reference, grid)

    def _seen(self, picture: Tensor, *, gray: bool = False) -> Tensor:
        """A picture as the backbone takes it."""
        if self.config.backbone != "vgg19" or self.config.vgg_input == "raw":
            return picture.contiguous(memory_format=torch.channels_last)
        ab = torch.zeros_like(picture[:, 1:]) if gray else AB * picture[:, 1:]
        rgb = lab_to_rgb(torch.cat([50 * (picture[:, :1] + 1), ab], dim=1)).clamp(0, 1)
        mean, std = (picture.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def _refuse(size: Sequence[int]) -> None:
    if min(size) < 16:
        raise ValueError(f"exemplar: a picture is {size[1]}x{size[0]}; expected 16 or more.")


def initialise(network: Exemplar) -> None:
    """Start values for training from nothing, in place.

    Queries, keys and values of axial attention N(0, 1/sqrt(C)), as in Axial-DeepLab: with the
    program's larger ones the softmax is saturated from the start. Layer scales of the small
    backbone 1: few steps are too few for them to grow.
    """
    for module in network.modules():
        if isinstance(module, AxialAttention | StandardAttention):
            nn.init.normal_(module.project_in.weight, std=network.config.width**-0.5)
            nn.init.zeros_(module.project_in.bias)
        elif isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.gamma)
