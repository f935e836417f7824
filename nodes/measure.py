"""Quality metrics of colorized images and video."""

import json
from typing import cast

from torch import Tensor

from ..metrics import image as image_metrics
from ..metrics.flicker import FlickerMeter
from . import controls, host
from .host import build_supported, io

REPORT_FORMATS = {  # score -> label, digits, unit
    "psnr": ("PSNR", 2, " dB"),
    "ssim": ("SSIM", 4, ""),
    "ciede2000": ("CIEDE2000", 2, ""),
    "colorfulness": ("colorfulness", 1, ""),
    "true_colorfulness": ("colorfulness of ground truth", 1, ""),
    "delta_colorfulness": ("difference in colorfulness", 1, ""),
    "his": ("HIS", 3, ""),
    "flicker": ("flicker", 2, ""),
    "still_deviation": ("color deviation in static areas", 2, ""),
}


class MeasureColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristMeasure",
            display_name="Measure Color",
            category="Colorist/measure",
            description="Measures how colorful images are, how close they are to their true "
            "colors, and how much a video flickers.",
            search_aliases=[
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
                controls.image("image", "The colorized images, or the frames of a video."),
                controls.image(
                    "truth",
                    "Ground truth: the same images in their true colors, at the same size. One for "
                    "all images, or one per image. Adds PSNR, SSIM, CIEDE2000 and the difference "
                    "in colorfulness.",
                    optional=True,
                ),
                controls.image(
                    "reference",
                    "The reference image whose colors were wanted, at any size. Adds HIS, the "
                    "similarity of the color histograms (1 = identical). HIS is meaningful only "
                    "beside SSIM, so truth is required.",
                    optional=True,
                ),
                io.Boolean.Input(
                    "film",
                    display_name="video",
                    default=False,
                    tooltip="The images are the frames of a video, in order. Adds flicker, the "
                    "mean change of color along the motion from frame to frame.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report", display_name="report", tooltip="Mean of each metric, one per line."
                ),
                io.String.Output(
                    "json",
                    display_name="JSON",
                    tooltip="All metrics in full precision, also for each image.",
                ),
                *(
                    io.Float.Output(name, display_name=label, tooltip=tooltip)
                    for name, label, tooltip in (
                        (
                            "colorfulness",
                            "colorfulness",
                            "0 is gray; everyday photos have about 45. Mean of all images.",
                        ),
                        (
                            "psnr",
                            "PSNR",
                            "Similarity to the ground truth in dB: higher is closer. Mean of all "
                            "images; 0 without truth.",
                        ),
                        (
                            "ssim",
                            "SSIM",
                            "Structural similarity to the ground truth: 1 = identical. Mean of all "
                            "images; 0 without truth.",
                        ),
                        (
                            "ciede2000",
                            "CIEDE2000",
                            "Color difference from the ground truth: lower is closer, about 1 is "
                            "just noticeable. Mean of all images; 0 without truth.",
                        ),
                        (
                            "flicker",
                            "flicker",
                            "Change of color along the motion from frame to frame: below 1 is "
                            "hardly visible. Mean of all frames; 0 if video is off.",
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
                "reference is connected, but truth is not. Wrong colors in the right amounts have "
                "a high HIS, so it is meaningful only beside SSIM; connect truth as well."
            )
        if truth is not None and len(truth) not in (1, len(image)):
            raise ValueError(
                f"truth has {len(truth)} images, but image has {len(image)}; connect one for all, "
                "or one per image."
            )
        histogram = None
        if reference is not None:
            histogram = image_metrics.ab_histogram(_planar_rgb(reference)).mean(0)[None]
        flicker = FlickerMeter(host.device()) if film else None
        progress, image_scores = host.progress(len(image)), []
        for i, frame in enumerate(image.split(1)):
            host.check_interrupt()
            true_frame = None if truth is None else truth[min(i, len(truth) - 1)][None]
            image_scores.append(_scores(frame, true_frame, histogram))
            if flicker:
                flicker.push(frame)
            progress(i + 1)
        mean = {
            name: sum(scores[name] for scores in image_scores) / len(image_scores)
            for name in image_scores[0]
        }
        video_scores = cast(dict[str, float], flicker.scores()) if flicker else {}
        report = json.dumps(
            {"mean": mean, **({"film": video_scores} if film else {}), "pictures": image_scores}
        )
        numbers = [mean.get(name, 0.0) for name in ("colorfulness", "psnr", "ssim", "ciede2000")]
        return io.NodeOutput(
            _report_text(mean | video_scores), report, *numbers, video_scores.get("flicker", 0.0)
        )


def _scores(image: Tensor, true_image: Tensor | None, histogram: Tensor | None) -> dict[str, float]:
    """Return the metrics of one image (1, H, W, C).

    Args:
        histogram: The wanted ab histogram.
    """
    rgb, true_rgb = _planar_rgb(image), None if true_image is None else _planar_rgb(true_image)
    if true_rgb is not None and rgb.shape != true_rgb.shape:
        (h, w), (true_h, true_w) = rgb.shape[2:], true_rgb.shape[2:]
        raise ValueError(
            f"image is {w}x{h}, but truth is {true_w}x{true_h}; scale one of them to the size of "
            "the other."
        )
    return image_metrics.score_image(rgb, true_rgb, histogram)


def _report_text(scores: dict[str, float]) -> str:
    """Return one line per metric that has a label."""
    lines = []
    for name, value in scores.items():
        if name in REPORT_FORMATS:
            label, digits, unit = REPORT_FORMATS[name]
            lines.append(f"{label}: {value:.{digits}f}{unit}")
    return "\n".join(lines)


def _planar_rgb(image: Tensor) -> Tensor:
    """Convert (B, H, W, C) to (B, 3, H, W) float32 without alpha."""
    return image[..., :3].movedim(-1, 1).float().expand(-1, 3, -1, -1)
