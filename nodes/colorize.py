"""Automatic colouring."""

from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .host import io, make


class Colorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristColorize",
            display_name="Colorize",
            category="Colorist/automatic",
            description="Colours black-and-white photos. Keeps size, lightness and every detail of "
            "the photo: only colour is added.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "automatic",
                *search_terms.FILM,
            ],
            inputs=[
                controls.image(
                    "image", "One photo or a batch. The network sees its lightness alone."
                ),
                controls.colorizer(),
                controls.mask(),
                controls.resolution(),
                *controls.finishing(),
                make(
                    io.Combo.Input,
                    "finish",
                    display_name="finish",
                    options=["exact", "published"],
                    default="exact",
                    advanced=True,
                    tooltip="exact: keeps aspect ratio and lightness. published: the picture the "
                    "network's official script makes (squashed to a square, colour in blocks), for "
                    "comparison; ColorFormer's has the network's working size (256x256), not the "
                    "photo's. All controls but resolution are then ignored, a mask is refused.",
                ),
                controls.fade(),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The coloured photos.")
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        colorizer: Colorizer,
        resolution: int = 0,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        keep_color: float = 0.0,
        upsample: str = METHODS[0],
        finish: str = "exact",
        fade: float = 0.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if finish not in ("exact", "published"):
            raise ValueError(f"finish is '{finish}'; expected exact or published.")
        exact = Finish(
            strength=strength,
            saturation=saturation,
            chroma_ceiling=chroma_ceiling,
            fade=fade,
            keep_color=keep_color,
            upsample=upsample,
        )
        colored = colorizer.colorize(
            image,
            mask=host.mask_for(image, mask),
            resolution=resolution or None,
            finish=exact if finish == "exact" else "published",
            progress=host.progress(len(image)),
        )
        return io.NodeOutput(host.delivered(colored))
