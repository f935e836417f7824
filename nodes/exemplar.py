"""Colorization by reference images."""

import torch
from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.by_reference import DEFAULT_THRESHOLD, ExemplarColorizer
from ..pipeline.postprocess import FINISHES, Finish, finish_choice
from . import controls, host, search_terms
from .host import build_supported, io
from .load import Automatic, Exemplar


class ColorizeByReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristExemplar",
            display_name="Colorize by Reference",
            category="Colorist/guided",
            description="Colorizes black-and-white photos with the colors of one or several "
            "reference images, and shows where the references give no reliable color. Size, "
            "lightness and detail of the photo stay the same.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "color transfer",
                "colour transfer",
                "exemplar",
                "xcnet",
                *search_terms.VIDEO,
            ],
            inputs=[
                controls.image(
                    "image",
                    "One photo, or the frames of a shot. The model uses only its lightness.",
                ),
                controls.image(
                    "reference",
                    "Reference image, or a batch of them, at any size. All references serve all "
                    "photos, and each area takes its color from the most similar area of any "
                    "reference. Transparent parts of RGBA images are ignored.",
                ),
                Exemplar.Input(
                    "exemplar",
                    display_name="exemplar colorizer",
                    tooltip="From Load Exemplar Colorizer.",
                ),
                controls.image(
                    "reference_2", "Second reference image, at any size.", optional=True
                ),
                controls.image("reference_3", "Third reference image, at any size.", optional=True),
                io.Mask.Input(
                    "ignore",
                    display_name="ignore in reference",
                    optional=True,
                    tooltip="Parts of the first reference to ignore: 1 (painted) = ignore. Connect "
                    "the mask output of Load Image to ignore its transparent or painted parts. One "
                    "mask for all images of reference or one per image, at any size. An empty mask "
                    "ignores nothing.",
                ),
                Automatic.Input(
                    "colorizer",
                    display_name="fallback colorizer",
                    optional=True,
                    tooltip="From Load Automatic Colorizer or Apply Color Memory. Takes over "
                    "gradually where the references give no reliable color.",
                ),
                controls.slider(
                    "threshold",
                    "How early the fallback colorizer takes over: 0 = never, 1 = everywhere; at "
                    "0.5 both have equal weight where confidence is 0.5. No effect without a "
                    "fallback colorizer.",
                    default=DEFAULT_THRESHOLD,
                ),
                controls.mask(),
                controls.resolution(advanced=True),
                *controls.finish_inputs(),
                controls.finish(
                    "exact: keeps aspect ratio and lightness. published: the result of XCNet's "
                    "notebook (a center square of photo and reference at the working size of the "
                    "model, 224x224 for XCNet), for comparison. All controls except resolution are "
                    "ignored; a mask, a fallback colorizer and transparent or ignored parts are "
                    "rejected."
                ),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The colorized photos."),
                io.Mask.Output(
                    "confidence",
                    display_name="confidence",
                    tooltip="How reliable the color from the references is: 1 = fully. Check areas "
                    "of low confidence, or add another reference.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        reference: Tensor,
        exemplar: ExemplarColorizer,
        threshold: float = DEFAULT_THRESHOLD,
        resolution: int = 0,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        keep_color: float = 0.0,
        upsample: str = METHODS[0],
        finish: str = FINISHES[0],
        reference_2: Tensor | None = None,
        reference_3: Tensor | None = None,
        ignore: Tensor | None = None,
        colorizer: Colorizer | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        exact = Finish(
            strength=strength,
            saturation=saturation,
            chroma_ceiling=chroma_ceiling,
            keep_color=keep_color,
            upsample=upsample,
        )
        others = [other for other in (reference_2, reference_3) if other is not None]
        colored, confidence = exemplar.colorize_with_confidence(
            image,
            reference=[apply_ignore_mask(reference, ignore), *others],
            fallback=colorizer,
            threshold=threshold,
            mask=host.mask_for(image, mask),
            resolution=resolution or None,
            finish=finish_choice(finish, exact),
            progress=host.progress(len(image)),
        )
        return io.NodeOutput(host.to_host_image(colored), host.to_host_image(confidence))


def apply_ignore_mask(reference: Tensor, ignore: Tensor | None) -> Tensor:
    """Make the ignored parts of references (N, H, W, C) transparent.

    Args:
        ignore: (N or 1, h, w), 1 = ignore.

    Raises:
        ValueError: The number of masks is neither 1 nor N.
    """
    ignore = host.mask_for(reference, ignore)
    if ignore is None or reference.shape[-1] == 1:  # the colorizer rejects gray references
        return reference
    if len(ignore) not in (1, len(reference)):
        raise ValueError(
            f"'ignore in reference' has {len(ignore)} masks for {len(reference)} reference images; "
            "connect one mask, or one per image."
        )
    alpha = 1 - ignore.to(reference)[..., None].clamp(0, 1)
    alpha = alpha.expand(len(reference), -1, -1, -1)
    if reference.shape[-1] == 4:
        alpha = alpha * reference[..., 3:]
    return torch.cat([reference[..., :3], alpha], dim=-1)
