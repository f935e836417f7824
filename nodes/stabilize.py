"""Steady colour over the frames of a film."""

import torch
from torch import Tensor

from ..pipeline.video.stabilizer import Controls, Stabilizer, State
from . import controls, host, search_terms
from .host import io, make

FilmState = io.Custom("FILM_STATE")


class StabilizeChroma(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristStabilize",
            display_name="Stabilize Chroma",
            category="Colorist/finishing",
            description="Takes the flicker out of a coloured film: colour is carried along what "
            "moves and averaged. Only colour changes; a cut, or something new, begins anew.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.FILM,
                "deflicker",
                "flicker",
                "temporal consistency",
            ],
            inputs=[
                controls.image("image", "The frames of a coloured film, in order."),
                FilmState.Input(
                    "state",
                    display_name="state",
                    optional=True,
                    tooltip="From the Stabilize Chroma of the part before, where a film is worked "
                    "on in parts: its colour then goes on in this one.",
                ),
                controls.strength("0 leaves the film as it is, 1 gives the fully steadied colour."),
                make(
                    io.Int.Input,
                    "frames",
                    display_name="frames before",
                    default=12,
                    min=1,
                    max=240,
                    tooltip="How many frames before have a say in the colour of a frame. More is "
                    "steadier, but follows changes of light later.",
                ),
                make(
                    io.Int.Input,
                    "ahead",
                    display_name="frames after",
                    default=8,
                    min=0,
                    max=64,
                    tooltip="How many frames after have a say, too. 0 = none: then it makes no "
                    "difference at all in how many parts a film is worked on.",
                ),
                make(
                    io.Int.Input,
                    "resolution",
                    display_name="motion resolution",
                    default=256,
                    min=16,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="How large motion is looked at, as the side of a square of the same "
                    "area. Higher: small things that move are told apart, more time.",
                ),
            ],
            outputs=[
                io.Image.Output("steadied", display_name="image", tooltip="The frames, steadied."),
                FilmState.Output(
                    "state_after",
                    display_name="state",
                    tooltip="For the Stabilize Chroma of the next part of the same film.",
                ),
                io.String.Output(
                    "cuts",
                    display_name="cuts",
                    tooltip="The frames that begin a shot, counted from 0 at the beginning of the "
                    "film, with commas between them.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        strength: float = 1.0,
        frames: int = 12,
        ahead: int = 8,
        resolution: int = 256,
        state: State | None = None,
    ) -> io.NodeOutput:
        stabilizer = Stabilizer(
            Controls(strength=strength, frames=frames, ahead=ahead, resolution=resolution),
            device=host.device(),
            state=state,
            before_each=host.check_interrupt,
        )
        progress, done = host.progress(len(image)), []
        for number, frame in enumerate(image.split(1), 1):
            done.append(stabilizer.push(frame))
            progress(number)
        steadied = torch.cat([*done, *stabilizer.finish()])
        cuts = ", ".join(map(str, stabilizer.cuts))
        return io.NodeOutput(host.delivered(steadied), stabilizer.state, cuts)
