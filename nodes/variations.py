"""Several results to choose from."""

from torch import Tensor

from ..pipeline.automatic import Colorizer
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .host import io


class Variations(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.make(
            io.Schema,
            node_id="ColoristVariations",
            display_name="Colorize Variations",
            category="Colorist/automatic",
            description="Colours each photo several times, each time differently, so that you can "
            "choose. For ColorFormer networks.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "gallery",
                "diverse",
                "random colors",
                "colorformer",
            ],
            inputs=[
                controls.image(
                    "image", "One photo or a batch. The network sees its lightness alone."
                ),
                controls.colorizer(
                    "From Load Automatic Colorizer or Apply Color Memory: a ColorFormer network. "
                    "Others have but one result and are refused."
                ),
                controls.mask(),
                io.Int.Input(
                    "count",
                    display_name="count",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="How many results for each photo. The network has groups of colours "
                    "(most have 4), and each leads in turn: more results than groups are nearer "
                    "to each other.",
                ),
                io.Int.Input(
                    "seed",
                    display_name="seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Which results. The same seed gives the same ones.",
                ),
                controls.slider(
                    "spread",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far apart the results are: 0 = as predicted, all alike; "
                    "1 = one group of colours only.",
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
                    tooltip="All results of the first photo, then all of the second, ...",
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
        return io.NodeOutput(host.delivered(colored))
