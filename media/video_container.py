"""Video files opened with PyAV: local files only, and never a cover image as the video."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import VideoError, video_errors

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream


class DecoderActivity:
    """Shows a watching thread whether a call into a decoder is running, and for how long."""

    def __init__(self) -> None:
        self.calls = 0
        """Number of calls, the running one included."""
        self.is_running = False

    def __enter__(self) -> None:
        self.calls += 1
        self.is_running = True

    def __exit__(self, *_: object) -> None:
        self.is_running = False


decoder_activity = DecoderActivity()
"""Calls of this process into decoders, which could hang on a damaged file."""


def open_input(path: Path) -> "InputContainer":
    """Open a local file for reading.

    A colon in the name does not select a protocol, and a playlist cannot open a connection.
    """
    import av

    options = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", "r", options=options, **_undecodable_metadata())


def open_output(
    path: Path, container_format: str, options: dict[str, str] | None = None
) -> "OutputContainer":
    """Open a local file for writing."""
    import av

    return av.open(
        f"file:{path}", "w", format=container_format, options=options, **_undecodable_metadata()
    )


def is_cover(stream: "Stream") -> bool:
    """Return True for a cover image, which containers store as a video stream."""
    from av.stream import Disposition

    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


@contextmanager
def open_video(
    path: Path,
) -> "Generator[tuple[InputContainer, VideoStream], None, None]":
    """Open a video's container and its first video stream that is not a cover image.

    Raises:
        VideoError: not a video, damaged, or without a video stream.
    """
    if not os.path.isfile(path):
        reason = "not an ordinary file" if os.path.exists(path) else "no such file"
        raise VideoError(f"{path.name}: {reason}; expected a video or a folder of images.")
    if not os.path.getsize(path):
        raise VideoError(f"{path.name}: the file is empty (0 bytes); get it again.")
    with video_errors(path.name), decoder_activity:
        container = open_input(path)
    with container:
        streams = [stream for stream in container.streams.video if not is_cover(stream)]
        if not streams:
            types = ", ".join(stream.type for stream in container.streams) or "nothing"
            types = types.replace("video", "cover")
            raise VideoError(f"{path.name}: a file without video (it holds {types}).")
        if streams[0].codec_context is None:
            raise VideoError(
                f"{path.name}: damaged, or in a format that this PyAV cannot decode; "
                "get it again, or convert it to H.264."
            )
        yield container, streams[0]


def _undecodable_metadata() -> dict[str, Any]:
    """Return the option that keeps metadata in other encodings than UTF-8 as it is."""
    import av

    always = int(av.__version__.split(".")[0]) >= 19
    return {} if always else {"metadata_errors": "surrogateescape"}
