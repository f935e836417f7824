"""Colour by reference."""

import torch
from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.by_reference import THRESHOLD, ExemplarColorizer
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .host import io, make
from .load import Automatic, Exemplar


class ColorizeByReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristExemplar",
            display_name="Colorize by Reference",
            category="Colorist/guided",
            description="Colours black-and-white photos as one or several colour references are "
            "coloured, and tells where the references leave it unsure. Keeps size, lightness and "
            "every detail of the photo.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "color transfer",
                "colour transfer",
                "exemplar",
                "xcnet",
                *search_terms.FILM,
            ],
            inputs=[
                controls.image(
                    "image",
                    "One photo, or the frames of a shot. The network sees its lightness alone.",
                ),
                controls.image(
                    "reference",
                    "The picture whose colours to take, or a batch of them: all serve all photos, "
                    "and each place takes its colour from where it finds its like. Any size. "
                    "Transparent parts of an RGBA picture give no colour.",
                ),
                Exemplar.Input(
                    "exemplar",
                    display_name="exemplar colorizer",
                    tooltip="From Load Exemplar Colorizer.",
                ),
                controls.image(
                    "reference_2", "Another reference, of any size; joins the first.", optional=True
                ),
                controls.image("reference_3", "One more reference, of any size.", optional=True),
                io.Mask.Input(
                    "ignore",
                    display_name="ignore in reference",
                    optional=True,
                    tooltip="Where the first reference is not to be looked at: 1 (painted) = "
                    "ignore. Connect the mask of Load Image: transparent or painted parts of the "
                    "reference then give no colour. One mask for all pictures of reference or one "
                    "each, any size. An empty mask ignores nothing.",
                ),
                Automatic.Input(
                    "colorizer",
                    display_name="fallback colorizer",
                    optional=True,
                    tooltip="From Load Automatic Colorizer or Apply Color Memory: takes over, "
                    "smoothly, where the references tell little.",
                ),
                controls.slider(
                    "threshold",
                    default=THRESHOLD,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How soon the fallback colorizer takes over: 0 = never, "
                    "1 = everywhere; at 0.5 both count equally where confidence is 0.5. Without a "
                    "fallback it does nothing.",
                ),
                controls.mask(),
                controls.resolution(advanced=True),
                *controls.finishing(),
                make(
                    io.Combo.Input,
                    "finish",
                    display_name="finish",
                    options=["exact", "published"],
                    default="exact",
                    advanced=True,
                    tooltip="exact: keeps aspect ratio and lightness. published: the picture of "
                    "XCNet's notebook (a square from the middle of photo and reference, of the "
                    "network's size: 224x224 for XCNet), for comparison. All controls but "
                    "resolution are then ignored; a mask, a fallback and transparent or ignored "
                    "parts are refused.",
                ),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The coloured photos."),
                io.Mask.Output(
                    "confidence",
                    display_name="confidence",
                    tooltip="How surely the references tell the colour of each place: 1 = surely. "
                    "Where it is low look twice, or give another reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        reference: Tensor,
        exemplar: ExemplarColorizer,
        threshold: float = THRESHOLD,
        resolution: int = 0,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        keep_color: float = 0.0,
        upsample: str = METHODS[0],
        finish: str = "exact",
        reference_2: Tensor | None = None,
        reference_3: Tensor | None = None,
        ignore: Tensor | None = None,
        colorizer: Colorizer | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if finish not in ("exact", "published"):
            raise ValueError(f"finish is '{finish}'; expected exact or published.")
        exact = Finish(
            strength=strength,
            saturation=saturation,
            chroma_ceiling=chroma_ceiling,
            keep_color=keep_color,
            upsample=upsample,
        )
        more = [picture for picture in (reference_2, reference_3) if picture is not None]
        colored, confidence = exemplar.colorize_with_confidence(
            image,
            reference=[without(reference, ignore), *more],
            fallback=colorizer,
            threshold=threshold,
            mask=host.mask_for(image, mask),
            resolution=resolution or None,
            finish=exact if finish == "exact" else "published",
            progress=host.progress(len(image)),
        )
        return io.NodeOutput(host.delivered(colored), host.delivered(confidence))


def without(reference: Tensor, ignore: Tensor | None) -> Tensor:
    """References (N, H, W, C) with what the mask (N or 1, h, w) ignores made transparent.

    Raises:
        ValueError: as many masks as neither 1 nor N.
    """
    ignore = host.mask_for(reference, ignore)
    if ignore is None or reference.shape[-1] == 1:  # a grey one is refused later, as such
        return reference
    if len(ignore) not in (1, len(reference)):
        raise ValueError(
            f"'ignore in reference' has {len(ignore)} masks for {len(reference)} references; "
            "give one, or one each."
        )
    alpha = 1 - ignore.to(reference)[..., None].clamp(0, 1)
    alpha = alpha.expand(len(reference), -1, -1, -1)
    if reference.shape[-1] == 4:
        alpha = alpha * reference[..., 3:]
    return torch.cat([reference[..., :3], alpha], dim=-1)
