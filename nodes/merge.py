"""Color of one image on the lightness of another."""

from torch import Tensor

from ..pipeline.merge import merge_chroma
from ..pipeline.postprocess import Finish
from . import controls, host
from .host import build_supported, io


class MergeChroma(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristMergeChroma",
            display_name="Merge Chroma",
            category="Colorist/finishing",
            description="Combines the color of one image with the lightness of another. The small "
            "color image of any image generator then colors your full-size photo, along the edges "
            "of the photo.",
            search_aliases=[
                "transfer color",
                "transfer colour",
                "luminance",
                "lightness",
                "lab merge",
                "detail restore",
            ],
            inputs=[
                controls.image(
                    "luminance", "The full-size photo, or a batch. Its lightness does not change."
                ),
                controls.image(
                    "color",
                    "The same image in color, at any size, from an image generator or editor. One "
                    "for all photos, or one per photo.",
                ),
                controls.mask(),
                controls.strength(),
                controls.saturation(),
                controls.chroma_ceiling(),
            ],
            outputs=[
                io.Image.Output("merged", display_name="image", tooltip="The colorized photos.")
            ],
        )

    @classmethod
    def execute(
        cls,
        luminance: Tensor,
        color: Tensor,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        merged = merge_chroma(
            luminance,
            color,
            mask=host.mask_for(luminance, mask),
            controls=Finish(
                strength=strength, saturation=saturation, chroma_ceiling=chroma_ceiling
            ),
            device=host.device(),
            check_interrupt=host.check_interrupt,
            progress=host.progress(len(luminance)),
        )
        return io.NodeOutput(host.to_host_image(merged))
