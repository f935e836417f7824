"""Automatic colorization."""

from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.postprocess import FINISHES, Finish, finish_choice
from . import controls, host, search_terms
from .host import build_supported, io


class Colorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristColorize",
            display_name="Colorize",
            category="Colorist/automatic",
            description="Colorizes black-and-white photos. Size, lightness and detail of the photo "
            "stay the same; only color is added.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "automatic",
                *search_terms.VIDEO,
            ],
            inputs=[
                controls.image("image", "One photo or a batch. The model uses only its lightness."),
                controls.colorizer(),
                controls.mask(),
                controls.resolution(),
                *controls.finish_inputs(),
                controls.finish(
                    "exact: keeps aspect ratio and lightness. published: the result of the model's "
                    "official script (squashed to a square, blocky color), for comparison; for "
                    "ColorFormer it has the working size of the model (256x256), not the size of "
                    "the photo. All controls except resolution are ignored, and a mask is rejected."
                ),
                controls.fade(),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The colorized photos.")
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
        finish: str = FINISHES[0],
        fade: float = 0.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
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
            finish=finish_choice(finish, exact),
            progress=host.progress(len(image)),
        )
        return io.NodeOutput(host.to_host_image(colored))
