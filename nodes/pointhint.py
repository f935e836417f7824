"""Colorization by hint points that the user places on the photo."""

import logging

import torch
from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import PointHintColorizer
from ..pipeline.hints.rasterize import draw_hints
from ..pipeline.hints.schema import AnyHint, MaskRegion, dump_hints, parse_hints
from ..pipeline.hints.tracking import HintTracker
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .hint_preview import sessions
from .host import build_supported, io
from .load import Automatic, PointHint

log = logging.getLogger(__name__)
NO_HINTS = '{"version": 1, "points": []}'
REGION_COLOR = "#8a5a3c"
WIDGET_TYPE = "COLORIST_HINTS"  # registered by web/js/point_hints/index.js


class ColorizeByPointHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristPointHints",
            display_name="Colorize by Point Hints",
            category="Colorist/guided",
            description="Colorizes black-and-white photos from a few colored hint points that you "
            "place on the photo in the node, or corrects the colors of an automatic model with "
            "them. Size, lightness and detail of the photo stay the same.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "color points",
                "colour points",
                "interactive",
                "scribble",
                "user guided",
                "hand tint",
                *search_terms.VIDEO,
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                controls.image(
                    "image",
                    "One photo, or the frames of a shot: the hint points apply to all of them. The "
                    "canvas shows the first. The model uses only the lightness.",
                ),
                PointHint.Input(
                    "pointhint",
                    display_name="point-hint colorizer",
                    tooltip="From Load Point-Hint Colorizer.",
                ),
                Automatic.Input(
                    "colorizer",
                    display_name="base colorizer",
                    optional=True,
                    tooltip="From Load Automatic Colorizer or Apply Color Memory. Colorizes the "
                    "photo first; the hint points then correct it. Without hint points the result "
                    "has its colors.",
                ),
                controls.image(
                    "reference",
                    "A color image for the eyedropper of the canvas. It does not affect the "
                    "result.",
                    optional=True,
                ),
                controls.mask(),
                build_supported(
                    io.Mask.Input,
                    "region",
                    display_name="region",
                    optional=True,
                    tooltip="An area that has one color (region color), such as a mask from a "
                    "segmentation node. Hint points lie on top. One mask for all images or one per "
                    "image, at any size. An empty mask means no region.",
                ),
                controls.resolution(advanced=True),
                *controls.finish_inputs(),
                build_supported(
                    io.Boolean.Input,
                    "follow",
                    display_name="follow motion",
                    default=False,
                    advanced=True,
                    tooltip="The images are the frames of a video, in order. The hint points "
                    "belong to the first frame and move with what they mark, until it disappears "
                    "or the scene changes.",
                ),
                host.CustomWidgetString.Input(
                    "hints",
                    WIDGET_TYPE,
                    display_name="hints",
                    default=NO_HINTS,
                    tooltip="The hint points as JSON, written by the canvas: x and y in 0..1 from "
                    "the top left of the photo; color as #rrggbb, whose lightness is ignored; size "
                    "in pixels of the working image. Empty text = no hint points.",
                ),
                # Last: saved workflows name the values of widgets by their order
                build_supported(
                    io.String.Input,
                    "region_color",
                    display_name="region color",
                    default=REGION_COLOR,
                    advanced=True,
                    optional=True,
                    tooltip="The color of the region: #rrggbb, #rgb or a name such as sienna. Its "
                    "lightness is ignored.",
                ),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The colorized photos."),
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="The photos in gray, with the hint points drawn on them.",
                ),
                io.String.Output(
                    "points",
                    display_name="hints",
                    tooltip="The hint points as JSON, to reuse elsewhere.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, hints: str | None = None) -> bool | str:
        """Reject malformed hints before the run; None stands for a connected input."""
        try:
            parse_hints(hints or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        image: Tensor,
        pointhint: PointHintColorizer,
        resolution: int = 0,
        strength: float = 1.0,
        saturation: float = 1.0,
        chroma_ceiling: float = 0.0,
        keep_color: float = 0.0,
        upsample: str = METHODS[0],
        follow: bool = False,
        hints: str = NO_HINTS,
        colorizer: Colorizer | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
        region: Tensor | None = None,
        region_color: str = REGION_COLOR,
    ) -> io.NodeOutput:
        points = parse_hints(hints)
        finish = Finish(
            strength=strength,
            saturation=saturation,
            chroma_ceiling=chroma_ceiling,
            keep_color=keep_color,
            upsample=upsample,
        )
        regions = sessions.regions_for(image, region, region_color)
        points_by_frame = track_points(image, points) if follow else None
        with sessions.exclusive_compute():
            session = open_session(
                host.node_id(cls),
                image,
                pointhint,
                colorizer,
                mask,
                region,
                region_color,
                resolution or None,
                finish,
            )
            colored = pointhint.colorize(
                image,
                hints=points,
                hints_per_image=points_by_frame,
                regions=regions,
                base=colorizer,
                prepared=None if session is None else session.ready()[1],
                mask=host.mask_for(image, mask),
                resolution=resolution or None,
                finish=finish,
                progress=host.progress(len(image)),
            )
        frames = zip(image.split(1), points_by_frame or [points] * len(image), strict=True)
        overlay = torch.cat(
            [
                draw_hints(frame, [*regions_of_frame(regions, i), *visible])
                for i, (frame, visible) in enumerate(frames)
            ]
        )
        return io.NodeOutput(
            host.to_host_image(colored),
            host.to_host_image(overlay),
            dump_hints(points),
            ui=None if session is None else ui_message(session, colored, reference),
        )


def regions_of_frame(regions: list[tuple[Tensor, str]], number: int) -> list[AnyHint]:
    """Return the regions of one image of the batch."""
    return [MaskRegion(masks[number % len(masks)], color) for masks, color in regions]


def track_points(image: Tensor, points: list[AnyHint]) -> list[list[AnyHint]]:
    """Return the hint points of each frame of (B, H, W, C)."""
    tracker, points_by_frame = HintTracker(points, host.device()), []
    for frame in image[..., :3].split(1):
        host.check_interrupt()
        points_by_frame.append(tracker.track(frame.movedim(-1, 1).expand(-1, 3, -1, -1)))
    return points_by_frame


def open_session(
    node_id: str,
    image: Tensor,
    pointhint: PointHintColorizer,
    colorizer: Colorizer | None,
    mask: Tensor | None,
    region: Tensor | None,
    region_color: str,
    resolution: int | None,
    finish: Finish,
) -> sessions.Session | None:
    """Open the preview session; return None on failure, so that the run continues without previews.

    Raises:
        ValueError: The inputs are invalid; the run would fail in the same way.
    """
    try:
        return sessions.open_session(
            node_id,
            pointhint,
            image,
            base=colorizer,
            mask=mask,
            region=region,
            region_color=region_color,
            resolution=resolution,
            finish=finish,
        )
    except ValueError:
        raise
    except Exception:
        log.exception("The canvas has no previews of this photo.")
        return None


def ui_message(
    session: sessions.Session, colored: Tensor, reference: Tensor | None
) -> dict[str, list[sessions.ResultMessage]] | None:
    """Return the message for the canvas; None if its images cannot be written."""
    try:
        return {"colorist_hints": [sessions.result_message(session, colored, reference)]}
    except OSError:
        log.exception("The canvas cannot show the result. Is the temp folder full?")
        return None
