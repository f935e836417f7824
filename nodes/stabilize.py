"""Stable color over the frames of a video."""

import torch
from torch import Tensor

from ..pipeline.video.stabilizer import Stabilizer, StabilizerOptions, StabilizerState
from . import controls, host, search_terms
from .host import build_supported, io

FilmState = io.Custom("FILM_STATE")


class StabilizeChroma(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristStabilize",
            display_name="Stabilize Chroma",
            category="Colorist/finishing",
            description="Removes color flicker from a colorized video: color is carried along the "
            "motion and averaged over time. Only color changes. It starts over after a scene cut "
            "and where something new appears.",
            search_aliases=[
                *search_terms.VIDEO,
                "deflicker",
                "flicker",
                "temporal consistency",
            ],
            inputs=[
                controls.image("image", "The frames of a colorized video, in order."),
                FilmState.Input(
                    "state",
                    display_name="state",
                    optional=True,
                    tooltip="From the Stabilize Chroma node of the previous part, when a video is "
                    "processed in parts: the color continues from there.",
                ),
                controls.strength("0 leaves the video unchanged; 1 stabilizes the color fully."),
                build_supported(
                    io.Int.Input,
                    "frames",
                    display_name="frames before",
                    default=12,
                    min=1,
                    max=240,
                    tooltip="Number of previous frames that influence the color of a frame. More "
                    "is steadier, but reacts later to changes of light.",
                ),
                build_supported(
                    io.Int.Input,
                    "ahead",
                    display_name="frames after",
                    default=8,
                    min=0,
                    max=64,
                    tooltip="Number of following frames that influence the color of a frame. With "
                    "0 the result does not depend on how the video is split into parts.",
                ),
                build_supported(
                    io.Int.Input,
                    "resolution",
                    display_name="motion resolution",
                    default=256,
                    min=16,
                    max=1024,
                    step=16,
                    advanced=True,
                    tooltip="Resolution of motion estimation: the side of a square with the same "
                    "area. Higher: small moving objects are told apart, but it takes more time.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "steadied", display_name="image", tooltip="The frames with stable color."
                ),
                FilmState.Output(
                    "state_after",
                    display_name="state",
                    tooltip="Connect to Stabilize Chroma for the next part of the same video.",
                ),
                io.String.Output(
                    "cuts",
                    display_name="cuts",
                    tooltip="Numbers of the frames that start a shot, separated by commas, "
                    "counted from 0 at the start of the video.",
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
        state: StabilizerState | None = None,
    ) -> io.NodeOutput:
        stabilizer = Stabilizer(
            StabilizerOptions(
                strength=strength,
                frames_before=frames,
                frames_after=ahead,
                resolution=resolution,
            ),
            device=host.device(),
            state=state,
            check_interrupt=host.check_interrupt,
        )
        progress, stable_frames = host.progress(len(image)), []
        for number, frame in enumerate(image.split(1), 1):
            stable_frames.append(stabilizer.push(frame))
            progress(number)
        stable = torch.cat([*stable_frames, *stabilizer.finish()])
        cuts = ", ".join(map(str, stabilizer.cuts))
        return io.NodeOutput(host.to_host_image(stable), stabilizer.state, cuts)
