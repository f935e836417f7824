"""Sizes and switches of the exemplar network."""

from collections.abc import Mapping
from dataclasses import dataclass

from . import gp_kernel

LEVELS = (3, 4, 5)  # that attend to references: from block 3 on (section 4.1)
SPANS = {3: 56, 4: 28, 5: 14}  # cells of a line at the training size, 224
ATTENTION = ("axial", "standard")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that changes a tensor's shape or what is computed; JSON-serialisable."""

    backbone: str = "vgg19"
    """vgg19 (paper), or convnext: a small one of our own, which looks at L alone."""
    backbone_last: int = 35
    """Index of the deepest VGG-19 layer: 35 = relu5_4 (program), 33 = relu5_3 (paper)."""
    vgg_input: str = "raw"
    """raw: Lab in -1..1 straight into VGG (program); imagenet: RGB with ImageNet mean and std."""
    depths: tuple[int, int, int] = (2, 2, 6)
    """ConvNeXt blocks at levels 3, 4, 5."""
    dims: tuple[int, int, int] = (40, 80, 160)
    """ConvNeXt channels at levels 3, 4, 5."""
    stem: int = 24
    """Channels at level 2 of the small backbone."""
    reference_color: bool = False
    """The reference's Lab, pooled, joins its features: for a backbone that looks at L alone."""
    width: int = 256
    """h: channels of projections, modules and decoder."""
    heads: int = 8
    """Attention heads; h/2 channels of queries and keys, h of values are split among them."""
    head_width: int = 64
    """e: channels of a prediction head."""
    attention: tuple[str, str, str] = ("axial", "axial", "axial")
    """axial or standard at levels 3, 4, 5."""
    second_kv: str = "reference"
    """Keys and values of the second axis: reference (paper), or fused: what the first axis gave."""
    positions: bool = True
    """Learned relative positions in axial attention, eq. 2."""
    scale: float = 1.0
    """Factor on the logits of axial attention; 1 in eq. 1 and 2."""
    span: int = 0
    """m: an axial cell sees the reference up to m - 1 cells away; 0 = the whole line (paper)."""
    stack: int = 2
    """How often each module is applied (section 4.3)."""
    share: bool = True
    """All applications of a module have the same weights."""
    full_res_head: bool = True
    """Predict at full size; False = the finest prediction has half the picture's sides."""
    confidence: tuple[float, ...] = (-6.0, -0.02, 1.0, 1.0, -0.03, -0.03, 3.0, 3.0)
    """Weights of `match_confidence.confidence`: of a constant and of the seven clues."""
    kernel: gp_kernel.Config | None = None
    """Says how alike places are, for a guess of the colour from the reference's; None: no guess."""
    told: int = 256
    """Cells of each reference that the guess is made of."""
    compat: str = "paper"
    """paper, or xcnet: height axis first, no ReLU after batch norm, second axis reads the reference
    before its batch norm, as the published program does."""

    def __post_init__(self) -> None:
        if isinstance(self.kernel, Mapping):
            object.__setattr__(self, "kernel", gp_kernel.Config(**self.kernel))
        for name in ("depths", "dims", "attention", "confidence"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (
            ("backbone", ("vgg19", "convnext")),
            ("backbone_last", (33, 35)),
            ("vgg_input", ("raw", "imagenet")),
            ("second_kv", ("reference", "fused")),
            ("compat", ("paper", "xcnet")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"exemplar: {name} is {getattr(self, name)!r}; expected one of "
                    f"{', '.join(map(str, known))}."
                )
        if len(self.attention) != len(LEVELS) or not set(self.attention) <= set(ATTENTION):
            raise ValueError(
                f"exemplar: attention is {self.attention}; expected {len(LEVELS)} of "
                f"{', '.join(ATTENTION)}."
            )
        if self.heads < 1 or self.width < 1 or self.width % (2 * self.heads):
            raise ValueError(
                f"exemplar: width is {self.width}; expected a multiple of {2 * self.heads}, twice "
                "the heads."
            )
        if self.backbone == "convnext" and self.full_res_head:
            raise ValueError("exemplar: the small backbone has no full-size map; no full_res_head.")
        if self.kernel and self.full_res_head:
            raise ValueError("exemplar: a guess has half the picture's sides; no full_res_head.")

    @property
    def finest(self) -> int:
        """Level of the finest prediction."""
        return 1 if self.full_res_head else 2
