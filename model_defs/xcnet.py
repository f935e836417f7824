"""Exemplar colorization with axial attention: references give their colors to a gray target.

Gorriz Blanch, Khalifeh, Smeaton, O'Connor, Mrak: "Attention-based Stylisation for Exemplar Image
Colourisation", MMSP 2021, arXiv:2105.01705. Published program and weights: bbc/xcnet ("XCNet").

The file follows figure 1: backbone -> projections -> attention modules -> pyramid decoder -> heads.
`Config.compat` selects the published program's deviations from the paper. Maps are (B, C, H, W);
level l = 1 ... 5 has 1/2^(l-1) of the image's height and width; `G` groups of references: one per
target, or one for all; `N` references in a group; `S` cells of all references of a group.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import gaussian_process
from ..ops.color import lab_to_rgb
from . import gp_kernel, match_confidence
from .gp_kernel import DeepKernel
from .layers import SmallBackbone, Taps, initialize_layer_scale
from .match_confidence import MIN_TRUST, MatchCandidates, average_pool
from .protocols import ReferencePrediction
from .spec import AB_SCALE, Spec
from .winograd_conv import Conv3x3, packed_bytes
from .xcnet_attention import (
    AttentionModule,
    AxialAttention,
    KeysValues,
    Reference,
    StandardAttention,
)
from .xcnet_config import LEVELS, Config
from .xcnet_convert import config_from, convert, detect  # noqa: F401 - for the registry
from .xcnet_official import XCNetRenderer

NAME = "exemplar"
MIN_SIZE = 16  # pixels; smaller images have no cell at level 5
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
        kernel=gp_kernel.Config(use_x=False),
        # The best and fastest of the variants measured (docs/development/training-log.md).
        second_kv="fused",
        full_res_head=False,
    ),
}


def spec(config: Config) -> Spec:
    """Return the facts that the pipeline needs about a network of this configuration."""
    # Fitted to the difference in memory of a float32 forward pass on a CPU at 512 and at 256 pixels
    # (benchmarks/cost.py), rounded up: nano 1200 bytes per pixel, the paper's 6230. Most of it is
    # the decoder's finest stage.
    width, vgg = config.width, 512
    packed = sum(packed_bytes(channels, width) for channels in (width, 2 * width))
    packed *= 6 - config.finest
    if config.backbone == "vgg19":
        packed += 8 * packed_bytes(vgg, vgg) + packed_bytes(256, vgg) + 3 * packed_bytes(256, 256)
    return Spec(
        architecture=NAME,
        role="exemplar",
        model_input="Lab",
        multiple=16,
        resolution=224,
        activation_bytes_per_pixel=24 * config.width,
        fixed_activation_bytes=2**24 + packed,
        attention_bytes=0.4 * config.heads,
        official=XCNetRenderer(),
        aligned=config.backbone == "vgg19" and "axial" in config.attention,
    )


# --- Backbone (section 3.1): taps F^1 ... F^5 and F^B --------------------------------------------

VGG19_CHANNELS = [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4]  # 0: pooling
VGG19_TAPS = {1: 1, 2: 6, 3: 11, 4: 20, 5: 29}  # level -> index of relu{l}_1 in torchvision's list


class VGG19(nn.Module):
    """Image (B, 3, H, W) -> first activation of each block; names and indices are torchvision's.

    The paper freezes ImageNet weights; the trainer loads and freezes them.
    """

    widths: dict[int | str, int] = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512, "B": 512}

    def __init__(self, config: Config):
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for channels in VGG19_CHANNELS:
            if not channels:
                layers.append(nn.MaxPool2d(2))
                continue
            # In place is safe: no tap reads the output of a convolution.
            layers += [Conv3x3(in_channels, channels), nn.ReLU(inplace=True)]
            in_channels = channels
        self.features = nn.Sequential(*layers[: config.backbone_last + 1])

    def forward(self, image: Tensor) -> Taps:
        """Return F^1 ... F^5 and F^B of a target."""
        return self._taps(image, len(self.features))

    def forward_reference(self, image: Tensor) -> Taps:
        """Return F^1 ... F^5 of a reference; deeper layers are skipped."""
        return self._taps(image, VGG19_TAPS[5] + 1)

    def _taps(self, x: Tensor, layers: int) -> Taps:
        taps: Taps = {}
        levels = {index: level for level, index in VGG19_TAPS.items()}
        for index, layer in zip(range(layers), self.features, strict=False):
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
        x = F.pad(x, (0, right, 0, down)) if down or right else x  # odd sizes, as the program
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
    """Blend the color prior into the prediction: g prior + (1 - g) prediction, g per location."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(width + 5, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
        )

    def forward(self, x: Tensor, ab: Tensor, prior: Tensor) -> Tensor:
        """Features (B, h, H, W), ab (B, 2, H, W) in -1..1, prior (B, 3, H, W) -> ab in -1..1."""
        g = torch.sigmoid(self.weigh(torch.cat([x, ab, prior.to(x.dtype)], dim=1)))
        return torch.lerp(ab, prior[:, :2].to(x.dtype), g)


# --- The network ---------------------------------------------------------------------------------


class EncodedReferences(NamedTuple):
    """References of one group, encoded for targets of one size."""

    keys_values: dict[int, list[list[KeysValues]]]
    """Level -> attention module -> attention layer."""
    candidates: dict[int, MatchCandidates]
    """Level -> cells that target cells are matched with; empty without confidence."""
    posterior: gaussian_process.Posterior | None
    """Gaussian process conditioned on reference cells; None without a color prior."""


class XCNet(nn.Module):
    """Target (B, 3, H, W) and reference (B, 3, H', W') -> predictions of ab in -1..1, finest first.

    The target's channels are L / 50 - 1, three times; the reference's L / 50 - 1, a / 110, b / 110.
    H and W are at least 16.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width = config.width
        self.backbone: VGG19 | SmallBackbone
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
        self.kernel: DeepKernel | None = None
        self.blend: Blend | None = None
        if config.kernel:
            self.kernel, self.blend = DeepKernel(config.kernel), Blend(width, config.head_width)

    def forward(
        self,
        target: Tensor,
        reference: Tensor,
        trust: Tensor | None = None,
        prior: Tensor | None = None,
    ) -> list[Tensor]:
        """Predict ab at all scales, finest first; one reference per target.

        Args:
            target: (B, 3, H, W) in -1..1; only the first channel, L, varies between targets.
            reference: (B, 3, H', W') in -1..1.
            trust: (B, 1, H', W') in 0..1, the weight of the reference's colors.
            prior: result of `predict_prior`; None = computed here if the network has a kernel.
        """
        references = self.encode_references(
            [reference],
            target.shape[2:],
            None if trust is None else [trust],
            with_confidence=False,
            with_prior=prior is None,
        )
        if prior is None and references.posterior is not None:
            prior = self.predict_prior(target, references.posterior)
        outputs, _, _ = self._decode(target, references)
        finest, *others = (self.heads[level](x) for level, x in reversed(outputs.items()))
        if self.blend is not None and prior is not None:
            finest = self.blend(outputs[str(self.config.finest)], finest, prior)
        return [finest, *others]

    def predict_prior(self, target: Tensor, posterior: gaussian_process.Posterior) -> Tensor:
        """Interpolate the colors of reference cells by similarity alone, see `gp_kernel`.

        Args:
            target: (B, 3, H, W) as for `forward`.
            posterior: of B groups of references, or of one group.
        Returns:
            (B, 3, H/2, W/2): ab in -1..1; highest correlation with a reference cell, 0..1.
        """
        ab, correlation = gaussian_process.predict(self._field(target), posterior)
        prior = torch.cat([ab / AB_SCALE, correlation[..., None]], dim=-1).clamp(-1, 1)
        return prior.mT.unflatten(2, tuple(-(-n // 2) for n in target.shape[2:]))

    def encode_references(
        self,
        references: Sequence[Tensor],
        size: Sequence[int],
        trusts: Sequence[Tensor | None] | None = None,
        *,
        with_confidence: bool = True,
        with_prior: bool = True,
    ) -> EncodedReferences:
        """Encode references once for all targets of one size, such as the frames of a video.

        Args:
            references: N tensors (G, 3, H', W') in -1..1, of any sizes; they are used together.
            size: (H, W) of the targets.
            trusts: N tensors (G, 1, H', W') in 0..1, or None for full trust.
            with_confidence: the result is used for `predict`, which needs a confidence.
            with_prior: compute the posterior of networks with a kernel.
        Raises:
            ValueError: references are missing, or a reference or size is invalid.
        """
        trusts = trusts or [None] * len(references)
        self._check_references(references, size)
        with_moments = with_confidence or any(trust is not None for trust in trusts)
        levels: dict[int, list[Reference]] = {level: [] for level in LEVELS}
        weighted: list[tuple[Tensor, Tensor | None, Taps]] = []
        for reference, trust in zip(references, trusts, strict=True):
            if trust is not None:
                reference = torch.cat([reference[:, :1], reference[:, 1:] * trust], dim=1)
            taps = self.backbone.forward_reference(self._backbone_input(reference))
            weighted.append((reference, trust, taps))
            for level in LEVELS:
                levels[level].append(
                    self._project_reference(reference, trust, taps[level], level, with_moments)
                )
        keys_values = {
            level: [
                module.keys_values(levels[level], tuple(n // 2 ** (level - 1) for n in size))
                for module in self._attention_modules(level)
            ]
            for level in LEVELS
        }
        candidates: dict[int, MatchCandidates] = {}
        if with_moments:
            candidates = match_confidence.match_candidates(
                [(AB_SCALE * reference[:, 1:], trust, taps) for reference, trust, taps in weighted]
            )
        posterior = None
        if self.kernel is not None and with_prior:
            posterior = self._fit_prior([(reference, trust) for reference, trust, _ in weighted])
        return EncodedReferences(keys_values, candidates, posterior)

    def _attention_modules(self, level: int) -> Sequence[AttentionModule]:
        return cast(Sequence[AttentionModule], self.attention[str(level)])

    def _check_references(self, references: Sequence[Tensor], size: Sequence[int]) -> None:
        if not references:
            raise ValueError("exemplar: no reference; give at least one.")
        _check_size(size)
        for reference in references:
            if reference.ndim != 4 or reference.shape[1] != 3:
                raise ValueError(
                    f"exemplar: a reference has shape {tuple(reference.shape)}; expected "
                    "(G, 3, H, W) Lab in -1..1."
                )
            _check_size(reference.shape[2:])
            if len(reference) != len(references[0]):
                raise ValueError(
                    f"exemplar: references come in groups of {len(references[0])} and "
                    f"{len(reference)}; expected groups of one size."
                )

    def _project_reference(
        self,
        reference: Tensor,
        trust: Tensor | None,
        tap: Tensor,
        level: int,
        with_moments: bool,
    ) -> Reference:
        """Project a reference, whose ab is multiplied by trust, at one level."""
        grid = tap.shape[2:]
        if with_moments:
            moments = match_confidence.color_moments(AB_SCALE * reference[:, 1:], trust, grid)
        else:
            moments = reference.new_empty(reference.shape[0], 0, *grid)
        if self.config.reference_color:
            tap = torch.cat([tap, self.pool_lab(reference, grid)], dim=1)
        features = self.project_reference[str(level)](tap).relu_()
        pooled_trust = None if trust is None else average_pool(trust, grid)
        return Reference(features, pooled_trust, moments)

    def _fit_prior(
        self, references: Sequence[tuple[Tensor, Tensor | None]]
    ) -> gaussian_process.Posterior:
        """Condition the Gaussian process on random cells of references.

        Args:
            references: Lab with ab multiplied by trust, and trust.
        """
        fields, colors, trusts = [], [], []
        for reference, trust in references:
            field = self._field(reference)
            if trust is None:
                trust = torch.ones_like(reference[:, :1])
            ab, trust = (
                F.avg_pool2d(x.float(), 2, ceil_mode=True).flatten(2).mT
                for x in (AB_SCALE * reference[:, 1:], trust)
            )
            count = ab.shape[1]
            order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
            cells = order[: self.config.cells_per_reference].to(ab.device)
            fields.append(field.gather(cells.expand(len(ab), -1)))
            colors.append(ab[:, cells])
            trusts.append(trust[:, cells, 0])
        trust, ab = torch.cat(trusts, dim=1), torch.cat(colors, dim=1)
        weight = trust.clamp_min(MIN_TRUST)
        cells = gaussian_process.concat_fields(fields)
        cells = cells._replace(noise=cells.noise / weight)
        return gaussian_process.fit(cells, ab / weight[..., None], trust > MIN_TRUST)

    def _field(self, lab: Tensor) -> gaussian_process.Field:
        """Apply the kernel to the L of (B, 3, H, W) in -1..1."""
        if self.kernel is None:
            raise ValueError("exemplar: this network has no kernel, so it has no color prior.")
        return self.kernel(50 * (lab[:, :1].float() + 1))

    def predict(self, target: Tensor, references: EncodedReferences) -> ReferencePrediction:
        """Predict at the finest scale, with the confidence.

        Args:
            target: (B, 3, H, W) as for `forward`.
            references: of G = B groups or one group, from `encode_references` for this size.
        """
        outputs, moments, taps = self._decode(target, references)
        finest = str(self.config.finest)
        ab = self.heads[finest](outputs[finest])
        if self.blend is not None and references.posterior is not None:
            ab = self.blend(outputs[finest], ab, self.predict_prior(target, references.posterior))
        ab = AB_SCALE * ab
        trust, cues = match_confidence.confidence_cues(ab, moments, taps, references.candidates)
        confidence = match_confidence.confidence(trust, cues, self.config.confidence)
        return ReferencePrediction(ab, confidence, cues)

    def _decode(
        self, target: Tensor, references: EncodedReferences
    ) -> tuple[dict[str, Tensor], dict[int, Tensor], Taps]:
        """Return decoder maps O^4 ..., attended moments, and the target's taps; all by level."""
        if target.ndim != 4 or target.shape[1] != 3:
            raise ValueError(
                f"exemplar: the target has shape {tuple(target.shape)}; expected (B, 3, H, W)."
            )
        _check_size(target.shape[2:])
        taps = self.backbone(self._backbone_input(target, gray=True))
        projected = {
            level: project(taps["B" if level == "B" else int(level)]).relu_()
            for level, project in self.project_target.items()
        }
        fused, moments = {}, {}
        for level in LEVELS:
            x, modules = projected[str(level)], self._attention_modules(level)
            for i in range(self.config.stack):
                index = min(i, len(modules) - 1)
                x, moments[level] = modules[index](x, references.keys_values[level][index])
            fused[level] = x
        x, outputs = projected["B"], {}
        for level in range(4, self.config.finest - 1, -1):
            x = self.decoder[str(level)](x, fused.get(level + 1), projected[str(level)])
            outputs[str(level)] = x
        return outputs, moments, taps

    def pool_lab(self, reference: Tensor, grid: Sequence[int]) -> Tensor:
        """Average a reference's Lab over the cells of `grid`; the ONNX export replaces this."""
        return average_pool(reference, grid)

    def _backbone_input(self, lab: Tensor, *, gray: bool = False) -> Tensor:
        """Convert Lab in -1..1 to the input of the backbone; `gray` ignores ab."""
        if self.config.backbone != "vgg19" or self.config.vgg_input == "raw":
            return lab.contiguous(memory_format=torch.channels_last)
        ab = torch.zeros_like(lab[:, 1:]) if gray else AB_SCALE * lab[:, 1:]
        rgb = lab_to_rgb(torch.cat([50 * (lab[:, :1] + 1), ab], dim=1)).clamp(0, 1)
        mean, std = (lab.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def _check_size(size: Sequence[int]) -> None:
    if min(size) < MIN_SIZE:
        raise ValueError(
            f"exemplar: an image is {size[1]}x{size[0]} pixels; expected at least "
            f"{MIN_SIZE}x{MIN_SIZE}."
        )


def initialize(network: XCNet) -> None:
    """Set initial weights for training from scratch, in place.

    Queries, keys and values are drawn from N(0, 1/sqrt(C)), as in Axial-DeepLab: the program's
    larger values saturate the softmax from the start.
    """
    initialize_layer_scale(network)
    for module in network.modules():
        if isinstance(module, AxialAttention | StandardAttention):
            nn.init.normal_(module.project_in.weight, std=network.config.width**-0.5)
            nn.init.zeros_(module.project_in.bias)
