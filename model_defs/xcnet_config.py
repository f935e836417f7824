"""Configuration of the exemplar network."""

from dataclasses import dataclass
from typing import Annotated

from . import gp_kernel
from .validation import Choice, Depth, Heads, Range, Width, validate_fields

LEVELS = (3, 4, 5)  # levels that attend to references: from block 3 on (section 4.1)
CONFIDENCE_WEIGHTS = 8  # constant, then seven cues
SPANS = {3: 56, 4: 28, 5: 14}  # cells per line at the training size of 224 pixels
ATTENTION = ("axial", "standard")
Weight = Annotated[float, Range(-1e4, 1e4)]
Attention = Annotated[str, Choice(ATTENTION)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All values that change a tensor's shape or the result; JSON-serializable."""

    backbone: Annotated[str, Choice(("vgg19", "convnext"))] = "vgg19"
    """vgg19 (paper), or convnext: our small backbone, which reads L only."""
    backbone_last: Annotated[int, Choice((33, 35))] = 35
    """Index of the deepest VGG-19 layer: 35 = relu5_4 (program), 33 = relu5_3 (paper)."""
    vgg_input: Annotated[str, Choice(("raw", "imagenet"))] = "raw"
    """raw: Lab in -1..1 straight into VGG (program); imagenet: RGB with ImageNet mean and std."""
    depths: tuple[Depth, Depth, Depth] = (2, 2, 6)
    """ConvNeXt blocks at levels 3, 4, 5."""
    dims: tuple[Width, Width, Width] = (40, 80, 160)
    """ConvNeXt channels at levels 3, 4, 5."""
    stem: Width = 24
    """Channels at level 2 of the small backbone."""
    reference_color: bool = False
    """Concatenate the reference's pooled Lab to its features; for backbones that read L only."""
    width: Width = 256
    """h: channels of projections, attention modules and decoder."""
    heads: Heads = 8
    """Attention heads; they share h/2 channels of queries and keys, and h of values."""
    head_width: Width = 64
    """e: channels of a prediction head."""
    attention: tuple[Attention, Attention, Attention] = ("axial", "axial", "axial")
    """axial or standard at levels 3, 4, 5."""
    second_kv: Annotated[str, Choice(("reference", "fused"))] = "reference"
    """Keys and values of the second axis: reference (paper), or fused: output of the first axis."""
    positions: bool = True
    """Learned relative positions in axial attention, eq. 2."""
    scale: Annotated[float, Range(0, 100)] = 1.0
    """Factor on the logits of axial attention; 1 in eq. 1 and 2."""
    span: Annotated[int, Range(0, 4096)] = 0
    """m: axial attention reaches up to m - 1 cells away; 0 = the whole line (paper)."""
    stack: Annotated[int, Range(1, 16)] = 2
    """Applications of each attention module (section 4.3)."""
    share: bool = True
    """Share the weights of all applications of a module."""
    full_res_head: bool = True
    """Predict at full size; False = the finest prediction has half the height and width."""
    confidence: tuple[Weight, ...] = (
        -6.0,
        -0.02,
        1.0,
        1.0,
        -0.03,
        -0.03,
        3.0,
        3.0,
    )
    """Weights of `match_confidence.confidence`: constant, then the seven cues."""
    kernel: gp_kernel.Config | None = None
    """Kernel of the color prior that is interpolated from reference cells; None = no prior."""
    cells_per_reference: Annotated[int, Range(1, 4096)] = 256
    """Randomly chosen cells of each reference that the color prior is computed from."""
    compat: Annotated[str, Choice(("paper", "xcnet"))] = "paper"
    """paper, or xcnet as the published program: height axis first, no ReLU after batch norm, and
    the second axis reads the reference before its batch norm."""

    def __post_init__(self) -> None:
        validate_fields(self, "exemplar")
        if len(self.confidence) != CONFIDENCE_WEIGHTS:
            raise ValueError(
                f"exemplar: confidence has {len(self.confidence)} values; expected "
                f"{CONFIDENCE_WEIGHTS}."
            )
        if self.width % (2 * self.heads):
            raise ValueError(
                f"exemplar: width is {self.width}; expected a multiple of {2 * self.heads}, twice "
                "the heads."
            )
        if self.backbone == "convnext" and self.full_res_head:
            raise ValueError(
                "exemplar: the small backbone has no full-size map; set full_res_head to False."
            )
        if self.kernel and self.full_res_head:
            raise ValueError(
                "exemplar: the color prior has half the image's height and width; set "
                "full_res_head to False."
            )

    @property
    def finest(self) -> int:
        """Level of the finest prediction."""
        return 1 if self.full_res_head else 2
