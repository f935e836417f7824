"""One node from a photo to its colored copy: model, look and comparison inside."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..pipeline import looks
from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import to_preview
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .hint_preview.sessions import encode_png
from .host import build_supported, io
from .load import cache_key, load_colorizer
from .look import find_look, look, looks_key


class ColorizePhoto(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristPhoto",
            display_name="Colorize Photo",
            category="Colorist/automatic",
            description="Colorizes black-and-white photos: the node to begin with. Connect Load "
            "Image, run, and drag the slider to compare. Size, lightness and detail of the photo "
            "stay the same; only color is added.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                *search_terms.FIRST,
            ],
            is_output_node=True,
            inputs=[
                controls.image("image", "One photo or a batch. The model uses only its lightness."),
                build_supported(
                    io.Combo.Input,
                    "model",
                    display_name="model",
                    options=host.network_names("automatic"),
                    tooltip="The first model is bundled and needs no download. Models marked "
                    "(download ...) are downloaded when the workflow runs; other checkpoints go "
                    "into models/colorization.",
                ),
                look(),
                controls.saturation(),
                controls.strength(advanced=True),
                controls.mask(),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The colorized photos."),
                io.Image.Output(
                    "comparison",
                    display_name="side by side",
                    tooltip="Photo and result side by side, for sharing.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = "", look: str = "") -> str:
        return f"{cache_key(model, host.network_path)} {looks_key()}"

    @classmethod
    def validate_inputs(cls, model: Any = None) -> bool | str:
        """Replace the host's membership check, which would reject labels of earlier lists."""
        return model is None or host.network_problem(str(model), "automatic") or True

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: str,
        look: str = looks.DEFAULT,
        saturation: float = 1.0,
        strength: float = 1.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        finish = Finish(strength=strength, saturation=saturation, look=find_look(look))
        host.network_file(model)  # downloads a published model
        colorizer = _load(model, cache_key(model, host.network_path))
        colored = colorizer.colorize(
            image,
            mask=host.mask_for(image, mask),
            finish=finish,
            progress=host.progress(len(image)),
        )
        before = image.expand(-1, -1, -1, colored.shape[-1]) if image.shape[-1] == 1 else image
        comparison = torch.cat([before.to(colored), colored], dim=2)
        return io.NodeOutput(
            host.to_host_image(colored),
            host.to_host_image(comparison),
            ui={"colorist_comparison": [_save_preview(image), _save_preview(colored)]},
        )


@lru_cache(maxsize=1)
def _load(model: str, key: str) -> Colorizer:
    """Return the model, which stays loaded while it is used again; `key` changes with its file."""
    colorizer = load_colorizer(model, "auto", "automatic")
    assert isinstance(colorizer, Colorizer)  # see its role
    return colorizer


def _save_preview(batch: Tensor) -> host.FileReference:
    """Save the first image at preview size for the node."""
    rgb = batch[:1].movedim(-1, 1)[:, :3].expand(-1, 3, -1, -1)
    return host.save_temp_png(encode_png(to_preview(rgb)[0].movedim(0, -1)))
