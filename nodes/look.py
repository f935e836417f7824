"""Color grading that keeps lightness."""

import logging

from torch import Tensor

from ..pipeline import looks
from . import controls, host
from .host import build_supported, io

log = logging.getLogger(__name__)
TONES = ("shadows", "midtones", "highlights")
LAB_UNITS = 0.2  # a or b per step of a slider from -100 to 100


class ColorLook(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristLook",
            display_name="Color Look",
            category="Colorist/finishing",
            description="Gives color photos a look, such as vivid, hand-tinted or slide, and "
            "balances their color. Only color changes; lightness and detail stay.",
            search_aliases=[
                *("color grading", "colour grading", "color balance", "temperature", "tint"),
                *("technicolor", "kodachrome", "autochrome", "vintage", "film look"),
            ],
            inputs=[
                controls.image("image", "One color photo or a batch."),
                look(),
                controls.strength(
                    "0 leaves the image unchanged; 1 applies the look fully.", advanced=True
                ),
                balance("temperature", "Warmer (yellow) above 0, cooler (blue) below."),
                balance("tint", "More magenta above 0, more green below."),
                *(
                    balance(f"{tone}_{name}", f"{text} in the {tone} alone.", advanced=True)
                    for tone in TONES
                    for name, text in (
                        ("temperature", "Warmer or cooler"),
                        ("tint", "More magenta or more green"),
                    )
                ),
                controls.mask("Where the look applies: 1 (painted) = apply, 0 = leave unchanged."),
            ],
            outputs=[
                io.Image.Output("graded", display_name="image", tooltip="The photos in this look.")
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        look: str = looks.DEFAULT,
        strength: float = 1.0,
        temperature: float = 0.0,
        tint: float = 0.0,
        shadows_temperature: float = 0.0,
        shadows_tint: float = 0.0,
        midtones_temperature: float = 0.0,
        midtones_tint: float = 0.0,
        highlights_temperature: float = 0.0,
        highlights_tint: float = 0.0,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        tones = (
            (shadows_tint, shadows_temperature),
            (midtones_tint, midtones_temperature),
            (highlights_tint, highlights_temperature),
        )
        offsets = [[LAB_UNITS * (tint + a), LAB_UNITS * (temperature + b)] for a, b in tones]
        graded = looks.apply_look(
            image,
            find_look(look).with_tint(offsets),
            strength=strength,
            mask=host.mask_for(image, mask),
            device=host.device(),
            check_interrupt=host.check_interrupt,
        )
        return io.NodeOutput(host.to_host_image(graded))


def look() -> io.Combo.Input:
    """Return the combo of looks; `looks.json` in the models folder adds to them."""
    return build_supported(
        io.Combo.Input,
        "look",
        display_name="look",
        options=look_names(),
        default=looks.DEFAULT,
        tooltip="Color grading. natural leaves the colors as they are. A file looks.json in "
        "models/colorization adds looks of your own; press R after a change.",
    )


def look_names() -> list[str]:
    """Return the names of all looks; those of an unusable file are left out with a warning."""
    try:
        return list(looks.available_looks(host.models_folder()))
    except ValueError as error:
        log.warning("%s", error)
        return list(looks.bundled_looks())


def find_look(name: str) -> looks.Look:
    """Return a look of the combo.

    Raises:
        ValueError: Unknown name, or the user's file cannot be used.
    """
    return looks.find_look(name, host.models_folder())


def looks_key() -> str:
    """Return a string that changes with the user's file."""
    try:
        status = (host.models_folder() / looks.FILE).stat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns}:{status.st_size}"


def balance(name: str, tooltip: str, *, advanced: bool = False) -> io.Float.Input:
    """Return a slider from -100 to 100."""
    return build_supported(
        io.Float.Input,
        name,
        display_name=name.replace("_", " "),
        display_mode=io.NumberDisplay.slider,
        default=0.0,
        min=-100.0,
        max=100.0,
        step=1.0,
        advanced=advanced,
        tooltip=tooltip,
    )
