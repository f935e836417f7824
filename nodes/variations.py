"""Several results for one photo."""

from torch import Tensor

from ..pipeline.automatic import Colorizer
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .host import build_supported, io


class Variations(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristVariations",
            display_name="Colorize Variations",
            category="Colorist/automatic",
            description="Colorizes each photo several times with different colors, so that you can "
            "choose. Needs a ColorFormer model.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "gallery",
                "diverse",
                "random colors",
                "colorformer",
            ],
            inputs=[
                controls.image("image", "One photo or a batch. The model uses only its lightness."),
                controls.colorizer(
                    "A ColorFormer model from Load Automatic Colorizer or Apply Color Memory. "
                    "Other models have only one result and are rejected."
                ),
                controls.mask(),
                io.Int.Input(
                    "count",
                    display_name="count",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Number of results per photo. The model has several groups of colors "
                    "(usually 4), and each result favors the next group: results beyond the number "
                    "of groups are more alike.",
                ),
                io.Int.Input(
                    "seed",
                    display_name="seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Selects the results. The same seed gives the same results.",
                ),
                controls.slider(
                    "spread",
                    "How different the results are: 0 = the normal prediction, all alike; 1 = "
                    "only one group of colors each.",
                    default=0.5,
                ),
                controls.resolution(advanced=True),
                controls.strength(advanced=True),
                controls.saturation(advanced=True),
                controls.chroma_ceiling(),
                controls.fade(),
            ],
            outputs=[
                io.Image.Output(
                    "variations",
                    display_name="images",
                    tooltip="All results of the first photo, then all of the second, and so on.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        colorizer: Colorizer,
        count: int = 4,
        seed: int = 0,
        spread: float = 0.5,
        resolution: int = 0,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        fade: float = 0.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        colored = colorizer.vary(
            image,
            count=count,
            seed=seed,
            spread=spread,
            mask=host.mask_for(image, mask),
            resolution=resolution or None,
            finish=Finish(
                strength=strength, saturation=saturation, chroma_ceiling=chroma_ceiling, fade=fade
            ),
            progress=host.progress(len(image) * count),
        )
        return io.NodeOutput(host.to_host_image(colored))
