"""Colour by points that the user places on the photo."""

import logging

import torch
from torch import Tensor

from ..ops.chroma_upsampling import METHODS
from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import PointHintColorizer
from ..pipeline.hints import rasterize
from ..pipeline.hints import schema as hint_schema
from ..pipeline.hints.tracking import Follower
from ..pipeline.postprocess import Finish
from . import controls, host, search_terms
from .hint_preview import sessions
from .host import io, make
from .load import Automatic, PointHint

log = logging.getLogger(__name__)
NONE = '{"version": 1, "points": []}'
WIDGET = "COLORIST_HINTS"  # as web/js/point_hints/index.js calls it


class ColorizeByPointHints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristPointHints",
            display_name="Colorize by Point Hints",
            category="Colorist/guided",
            description="Colours black-and-white photos from a few coloured points that you place "
            "on the picture in the node, or corrects an automatic network's colours by them. Keeps "
            "size, lightness and every detail of the photo.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "color points",
                "colour points",
                "interactive",
                "scribble",
                "user guided",
                "hand tint",
                *search_terms.FILM,
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                controls.image(
                    "image",
                    "One photo, or the frames of a shot: the points serve all. The canvas shows "
                    "the first. The network sees its lightness alone.",
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
                    tooltip="From Load Automatic Colorizer or Apply Color Memory: colours the "
                    "photo first, and the points correct it. Without points the result has its "
                    "colours.",
                ),
                controls.image(
                    "reference",
                    "A colour picture to pick colours from with the canvas's eyedropper. The "
                    "result does not depend on it.",
                    optional=True,
                ),
                controls.mask(),
                controls.resolution(advanced=True),
                *controls.finishing(),
                make(
                    io.Boolean.Input,
                    "follow",
                    display_name="follow motion",
                    default=False,
                    advanced=True,
                    tooltip="The images are the frames of a film, in order: the points are those "
                    "of the first frame and go with what they lie on, until that is out of sight "
                    "or there is a cut.",
                ),
                host.DrawnString.Input(
                    "hints",
                    WIDGET,
                    display_name="hints",
                    default=NONE,
                    tooltip="The points as JSON; the canvas writes it. x and y in 0..1 of the "
                    "photo from its top left, color as #rrggbb, of which lightness is left aside, "
                    "size in pixels of the picture the network sees. Nothing = no points.",
                ),
            ],
            outputs=[
                io.Image.Output("colored", display_name="image", tooltip="The coloured photos."),
                io.Image.Output(
                    "overlay",
                    display_name="overlay",
                    tooltip="The photos in grey with the points on them.",
                ),
                io.String.Output(
                    "points",
                    display_name="hints",
                    tooltip="The points as JSON, to use again.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, hints: str | None = None) -> bool | str:
        """What is wrong with hints that are no link's (those are None here)."""
        try:
            hint_schema.read(hints or "")
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
        hints: str = NONE,
        colorizer: Colorizer | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        points = hint_schema.read(hints)
        finish = Finish(
            strength=strength,
            saturation=saturation,
            chroma_ceiling=chroma_ceiling,
            keep_color=keep_color,
            upsample=upsample,
        )
        resolution = resolution or None
        each = cls._followed(image, points) if follow else None
        with sessions.computing():
            session = cls._session(image, pointhint, colorizer, mask, resolution, finish)
            colored = pointhint.colorize(
                image,
                hints=points,
                each=each,
                base=colorizer,
                prepared=session and session.ready()[1],
                mask=host.mask_for(image, mask),
                resolution=resolution,
                finish=finish,
                progress=host.progress(len(image)),
            )
        drawn = zip(image.split(1), each or [points] * len(image), strict=True)
        overlay = torch.cat([rasterize.overlay(one, own) for one, own in drawn])
        return io.NodeOutput(
            host.delivered(colored),
            host.delivered(overlay),
            hint_schema.write(points),
            ui=session and cls._message(session, colored, reference),
        )

    @classmethod
    def _followed(cls, image: Tensor, points: list[hint_schema.Hint]) -> list:
        """The points of each frame."""
        follower, found = Follower(points, host.device()), []
        for frame in image[..., :3].split(1):
            host.check_interrupt()
            found.append(follower.next(frame.movedim(-1, 1).expand(-1, 3, -1, -1)))
        return found

    @classmethod
    def _session(
        cls,
        image: Tensor,
        pointhint: PointHintColorizer,
        colorizer: Colorizer | None,
        mask: Tensor | None,
        resolution: int | None,
        finish: Finish,
    ) -> sessions.Session | None:
        """What previews need; None where it cannot be had: the run goes on without."""
        try:
            return sessions.open_session(
                host.node_id(cls),
                pointhint,
                image,
                base=colorizer,
                mask=mask,
                resolution=resolution,
                finish=finish,
            )
        except ValueError:
            raise  # the run would say the same
        except Exception:
            log.exception("the canvas has no previews of this photo.")
            return None

    @classmethod
    def _message(
        cls, session: sessions.Session, colored: Tensor, reference: Tensor | None
    ) -> dict | None:
        """What the page is told; None where the pictures for it cannot be written."""
        try:
            return {"colorist_hints": [sessions.message(session, colored, reference)]}
        except OSError:
            log.exception("the canvas cannot show the result: is the temp folder full?")
            return None
