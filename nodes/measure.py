"""Numbers that tell how good coloured pictures are."""

import json

from torch import Tensor

from ..metrics import image as image_metrics
from ..metrics.flicker import Flicker
from . import controls, host, search_terms
from .host import io, make

SHOWN = {  # score -> what it is called, digits, unit
    "psnr": ("PSNR", 2, " dB"),
    "ssim": ("SSIM", 4, ""),
    "ciede2000": ("CIEDE2000", 2, ""),
    "colorfulness": ("colourfulness", 1, ""),
    "true_colorfulness": ("colourfulness of the truth", 1, ""),
    "delta_colorfulness": ("difference in colourfulness", 1, ""),
    "his": ("HIS", 3, ""),
    "flicker": ("flicker", 2, ""),
    "still_deviation": ("deviation of still places", 2, ""),
}


class MeasureColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristMeasure",
            display_name="Measure Color",
            category="Colorist/measure",
            description="Tells in numbers how colourful photos are, how near to their true "
            "colours, and how much a film flickers.",
            search_aliases=[
                *search_terms.COLORING,
                "psnr",
                "ssim",
                "ciede2000",
                "colorfulness",
                "colourfulness",
                "delta e",
                "flicker",
                "compare",
                "metrics",
            ],
            inputs=[
                controls.image("image", "The coloured photos, or the frames of a film."),
                controls.image(
                    "truth",
                    "The same photos in their true colours, same size: one for all, or one each. "
                    "Adds PSNR, SSIM, CIEDE2000 and the difference in colourfulness.",
                    optional=True,
                ),
                controls.image(
                    "reference",
                    "The reference whose colours were asked for, any size: adds HIS, how alike "
                    "the amounts of each colour are (1 = the same). Read it with SSIM, so truth "
                    "is needed, too.",
                    optional=True,
                ),
                io.Boolean.Input(
                    "film",
                    display_name="film",
                    default=False,
                    tooltip="The images are the frames of a film, in order: adds flicker, the "
                    "mean change of colour along motion from frame to frame.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report", display_name="report", tooltip="All numbers, a line each: means."
                ),
                io.String.Output(
                    "json",
                    display_name="JSON",
                    tooltip="The same with all digits, and for each image.",
                ),
                *(
                    io.Float.Output(name, display_name=shown, tooltip=tooltip)
                    for name, shown, tooltip in (
                        (
                            "colorfulness",
                            "colourfulness",
                            "0 is grey, everyday photos have about 45. Mean of all images.",
                        ),
                        (
                            "psnr",
                            "PSNR",
                            "Nearness to the truth in dB: higher is nearer. Mean of all images; "
                            "0 without truth.",
                        ),
                        (
                            "ssim",
                            "SSIM",
                            "Likeness to the truth: 1 = the same. Mean of all images; 0 without "
                            "truth.",
                        ),
                        (
                            "ciede2000",
                            "CIEDE2000",
                            "Difference of colour from the truth: lower is nearer, about 1 is just "
                            "noticeable. Mean of all images; 0 without truth.",
                        ),
                        (
                            "flicker",
                            "flicker",
                            "Change of colour along motion from frame to frame: below 1 is hardly "
                            "seen. Mean of all frames; 0 unless film.",
                        ),
                    )
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        film: bool = False,
        truth: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> io.NodeOutput:
        if reference is not None and truth is None:
            raise ValueError(
                "a reference is connected, but no truth: wrong colours in the right amounts have a "
                "high HIS, so it only means something beside SSIM. Connect truth as well."
            )
        if truth is not None and len(truth) not in (1, len(image)):
            raise ValueError(
                f"truth has {len(truth)} pictures for {len(image)} images; give one, or one each."
            )
        progress, pictures = host.progress(len(image)), []
        wanted = (
            None if reference is None else image_metrics.ab_histogram(_rgb(reference)).mean(0)[None]
        )
        flicker = Flicker(host.device()) if film else None
        for i, picture in enumerate(image.split(1)):
            host.check_interrupt()
            true = None if truth is None else truth[min(i, len(truth) - 1)][None]
            pictures.append(_scores(picture, true, wanted))
            if flicker:
                flicker.push(picture)
            progress(i + 1)
        mean = {key: sum(own[key] for own in pictures) / len(pictures) for key in pictures[0]}
        steady = flicker.scores() if flicker else {}
        lines = [
            f"{SHOWN[key][0]}: {value:.{SHOWN[key][1]}f}{SHOWN[key][2]}"
            for key, value in (mean | steady).items()
            if key in SHOWN
        ]
        told = json.dumps(
            {"mean": mean, **({"film": steady} if film else {}), "pictures": pictures}
        )
        numbers = [mean.get(key, 0.0) for key in ("colorfulness", "psnr", "ssim", "ciede2000")]
        return io.NodeOutput("\n".join(lines), told, *numbers, steady.get("flicker", 0.0))


def _scores(picture: Tensor, true: Tensor | None, wanted: Tensor | None) -> dict[str, float]:
    rgb, true_rgb = _rgb(picture), None if true is None else _rgb(true)
    if true_rgb is not None and rgb.shape != true_rgb.shape:
        (h, w), (true_h, true_w) = rgb.shape[2:], true_rgb.shape[2:]
        raise ValueError(
            f"the image is {w}x{h}, but its truth {true_w}x{true_h}; scale one of them."
        )
    return image_metrics.of_picture(rgb, true_rgb, wanted)


def _rgb(image: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, 3, H, W) float32 without transparency."""
    return image[..., :3].movedim(-1, 1).float().expand(-1, 3, -1, -1)
