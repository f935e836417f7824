"""Inputs that several nodes share."""

from collections.abc import Sequence

from ..ops.chroma_upsampling import METHODS
from ..pipeline.postprocess import FINISHES
from .host import build_supported, io
from .load import Automatic


def slider(
    name: str,
    tooltip: str,
    *,
    default: float,
    max: float = 1.0,
    step: float = 0.05,
    advanced: bool = False,
) -> io.Float.Input:
    """Return a float input from 0 to `max`, shown as a slider."""
    return build_supported(
        io.Float.Input,
        name,
        display_name=name.replace("_", " "),
        display_mode=io.NumberDisplay.slider,
        default=default,
        min=0.0,
        max=max,
        step=step,
        advanced=advanced,
        tooltip=tooltip,
    )


def image(name: str, tooltip: str, *, optional: bool = False) -> io.Image.Input:
    return io.Image.Input(
        name, display_name=name.replace("_", " "), tooltip=tooltip, optional=optional
    )


def colorizer(
    tooltip: str = "From Load Automatic Colorizer or Apply Color Memory.",
) -> Automatic.Input:
    return Automatic.Input("colorizer", display_name="colorizer", tooltip=tooltip)


def mask(
    meaning: str = "Where to add color: 1 (painted) = colorize, 0 = leave unchanged.",
) -> io.Mask.Input:
    return io.Mask.Input(
        "mask",
        display_name="mask",
        optional=True,
        tooltip=f"{meaning} One mask for all images or one per image, at any size. An empty mask "
        "means the whole image.",
    )


def resolution(*, advanced: bool = False) -> io.Int.Input:
    return build_supported(
        io.Int.Input,
        "resolution",
        display_name="resolution",
        default=0,
        min=0,
        max=2048,
        step=32,
        advanced=advanced,
        tooltip="Working resolution of the model: the side of a square with the same area. 0 = the "
        "resolution it was trained for. Lower: calmer, more even color. Higher: more small "
        "objects get a color of their own, and more memory is used. The result always has the size "
        "of the input.",
    )


def strength(
    tooltip: str = "0 leaves the image unchanged; 1 applies the new color fully.",
    *,
    advanced: bool = False,
) -> io.Float.Input:
    return slider("strength", tooltip, default=1.0, advanced=advanced)


def saturation(*, advanced: bool = False) -> io.Float.Input:
    return slider(
        "saturation",
        "Multiplies the new color: below 1 is paler, above 1 is richer.",
        default=1.0,
        max=4.0,
        advanced=advanced,
    )


def chroma_ceiling() -> io.Float.Input:
    return slider(
        "chroma_ceiling",
        "Limits colors that are too vivid: no color exceeds this chroma (skin is about 25, a red "
        "car 80). 0 = no limit.",
        default=0.0,
        max=200.0,
        step=1.0,
        advanced=True,
    )


def fade() -> io.Float.Input:
    return slider(
        "fade",
        "Fades weak color to neutral and keeps strong color: where the model is unsure, its color "
        "is weak. The value is the chroma that is halved, on the scale of chroma ceiling (5 is a "
        "faint tint, skin is about 25). 0 = off.",
        default=0.0,
        max=50.0,
        step=1.0,
        advanced=True,
    )


def keep_color() -> io.Float.Input:
    return slider(
        "keep_color",
        "1 keeps color that is already in the image (a stamp, a hand-tinted face) and colorizes "
        "only the gray parts. Leave 0 for toned or yellowed photos.",
        default=0.0,
        advanced=True,
    )


def upsample() -> io.Combo.Input:
    return _choice(
        "upsample",
        "chroma upsampling",
        METHODS,
        "How color is scaled from the working resolution to full size. edge: follows the edges of "
        "the photo; best quality. bilinear and nearest are for comparison.",
    )


def finish(tooltip: str) -> io.Combo.Input:
    return _choice("finish", "finish", FINISHES, tooltip)


def _choice(name: str, display_name: str, options: Sequence[str], tooltip: str) -> io.Combo.Input:
    """Return an advanced combo; the first option is the default."""
    return build_supported(
        io.Combo.Input,
        name,
        display_name=display_name,
        options=list(options),
        default=options[0],
        advanced=True,
        tooltip=tooltip,
    )


def finish_inputs() -> list[io.Float.Input | io.Combo.Input]:
    """Return the inputs for the fields of `Finish`, in their order."""
    return [strength(), saturation(), chroma_ceiling(), keep_color(), upsample()]
