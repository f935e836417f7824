"""Suggest Hint Points: the points whose colors would tell a point-hint model most."""

import torch
from torch import Tensor

from ..pipeline.automatic import Colorizer
from ..pipeline.by_hints import PointHintColorizer
from ..pipeline.hints.schema import dump_hints, parse_hints
from ..pipeline.hints.uncertainty import resize_doubt
from . import controls, host
from .hint_preview import sessions
from .host import build_supported, io
from .load import Automatic, PointHint


class SuggestHintPoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristSuggestHints",
            display_name="Suggest Hint Points",
            category="Colorist/guided",
            description="Chooses the points of a black-and-white photo whose colors would help "
            "Colorize by Point Hints most, with likely colors to correct, and shows where the "
            "model is unsure. Connect the hints to Colorize by Point Hints, or copy them into it.",
            search_aliases=[
                "color points",
                "colour points",
                "next point",
                "uncertainty",
                "confidence",
                "active learning",
            ],
            inputs=[
                controls.image(
                    "image",
                    "One photo, or the frames of a shot: the points are chosen on the first. The "
                    "model uses only the lightness.",
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
                    tooltip="From Load Automatic Colorizer or Apply Color Memory. The points get "
                    "its colors. Connect the same one to Colorize by Point Hints.",
                ),
                io.Int.Input(
                    "count",
                    display_name="count",
                    default=10,
                    min=1,
                    max=100,
                    tooltip="Number of points to suggest, in addition to the existing ones.",
                ),
                io.String.Input(
                    "hints",
                    display_name="hints",
                    default="",
                    tooltip="Existing hint points as JSON, which are kept: the new points lie "
                    "where these say least. Empty text = no hint points.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "points",
                    display_name="hints",
                    tooltip="The existing and the suggested hint points as JSON, the most useful "
                    "suggestion first.",
                ),
                io.Mask.Output(
                    "doubt",
                    display_name="doubt",
                    tooltip="Where the model is unsure with the existing hint points: 1 = most, 0 "
                    "= certain. One mask per image.",
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
        count: int = 10,
        hints: str = "",
        colorizer: Colorizer | None = None,
    ) -> io.NodeOutput:
        points = parse_hints(hints)
        progress = host.progress(len(image))
        with sessions.exclusive_compute():
            prepared = pointhint.prepare(image[:1], base=colorizer)
            suggested = pointhint.suggest_points(prepared, count, points)
            maps = [suggested.doubt]
            for number, frame in enumerate(image.split(1)[1:], 1):
                progress(number)
                host.check_interrupt()
                prepared = pointhint.prepare(frame, base=colorizer)
                maps.append(prepared.uncertainty.doubt_map(points))
        progress(len(image))
        height, width = image.shape[1:3]
        doubt = torch.stack([resize_doubt(cells, height, width) for cells in maps])
        return io.NodeOutput(dump_hints(suggested.hints), host.to_host_image(doubt))
