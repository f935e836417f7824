"""Inputs that several nodes share."""

from ..ops.chroma_upsampling import METHODS
from .host import io, make
from .load import Automatic


def slider(name: str, **options: object) -> io.Float.Input:
    """A float input shown as a slider; keywords as for `io.Float.Input`."""
    return make(
        io.Float.Input,
        name,
        display_name=name.replace("_", " "),
        display_mode=io.NumberDisplay.slider,
        **options,
    )


def image(name: str, tooltip: str, *, optional: bool = False) -> io.Image.Input:
    return io.Image.Input(
        name, display_name=name.replace("_", " "), tooltip=tooltip, optional=optional
    )


def colorizer(
    tooltip: str = "From Load Automatic Colorizer or Apply Color Memory.",
) -> Automatic.Input:
    return Automatic.Input("colorizer", display_name="colorizer", tooltip=tooltip)


def mask() -> io.Mask.Input:
    return io.Mask.Input(
        "mask",
        display_name="mask",
        optional=True,
        tooltip="Where to colour: 1 (painted) = colour here, 0 = leave as it is. One mask for all "
        "images or one each, any size. An empty mask means everywhere.",
    )


def resolution(*, advanced: bool = False) -> io.Int.Input:
    return make(
        io.Int.Input,
        "resolution",
        display_name="resolution",
        default=0,
        min=0,
        max=2048,
        step=32,
        advanced=advanced,
        tooltip="How large the network sees the photo, as the side of a square of the same area. "
        "0 = what the network was trained for. Lower: calmer, more even colour; higher: more small "
        "objects get their own colour, more memory. The result always has the photo's size.",
    )


def strength(
    tooltip: str = "0 leaves the photo as it is, 1 gives the full new colour.",
    *,
    advanced: bool = False,
) -> io.Float.Input:
    return slider(
        "strength",
        advanced=advanced,
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=tooltip,
    )


def saturation(*, advanced: bool = False) -> io.Float.Input:
    return slider(
        "saturation",
        advanced=advanced,
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.05,
        tooltip="Factor on the new colour: below 1 paler, above 1 richer.",
    )


def chroma_ceiling() -> io.Float.Input:
    return slider(
        "chroma_ceiling",
        default=0.0,
        min=0.0,
        max=200.0,
        step=1.0,
        advanced=True,
        tooltip="Tames colours that are too loud: no colour gets more vivid than this "
        "(skin is about 25, a red car 80). 0 = no ceiling.",
    )


def fade() -> io.Float.Input:
    return slider(
        "fade",
        default=0.0,
        min=0.0,
        max=50.0,
        step=1.0,
        advanced=True,
        tooltip="Where the network is unsure its colour is weak: such colour fades to neutral, "
        "strong colour stays. The number is the vividness of which half is left, counted as in "
        "chroma ceiling (5 is a faint tint, skin is about 25). 0 = off.",
    )


def keep_color() -> io.Float.Input:
    return slider(
        "keep_color",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
        tooltip="1 keeps colour that is already in the image (a stamp, a hand-tinted "
        "face) and colours only what is grey. Leave 0 for toned or yellowed photos.",
    )


def upsample() -> io.Combo.Input:
    return make(
        io.Combo.Input,
        "upsample",
        display_name="chroma upsampling",
        options=list(METHODS),
        default=METHODS[0],
        advanced=True,
        tooltip="How colour is brought from the network's size to the photo's. edge: along the "
        "photo's own edges, the best. bilinear and nearest are for comparison.",
    )


def finishing() -> list[io.Float.Input | io.Combo.Input]:
    """What becomes of a predicted colour: the fields of `Finish`, in their order."""
    return [strength(), saturation(), chroma_ceiling(), keep_color(), upsample()]
