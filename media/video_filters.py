"""FFmpeg filters on decoded frames: the fields of interlaced video."""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from .errors import VideoError
from .video_info import FieldOrder

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

DEINTERLACERS = ("bwdif", "yadif")
"""Filters that deinterlace, the best first."""
TIME_BASE = Fraction(1, 1000)  # of filter graphs; the times of their frames are not used


def field_order(frame: "VideoFrame") -> FieldOrder | None:
    """Return the field order of a frame; None if it is not interlaced."""
    if not frame.interlaced_frame:
        return None
    # PyAV does not show the field order.
    graph = _graph(frame, "select", "eq(interlace_type,TOPFIRST)")
    graph.push(frame)
    return "tff" if _pull(graph) else "bff"


def deinterlaced(
    frames: "Iterable[tuple[VideoFrame, int]]", name: str
) -> "Iterator[tuple[VideoFrame, int]]":
    """Turn both fields of each frame into one full frame.

    Args:
        frames: decoded frames and their times.
        name: name of the video, for errors.

    Raises:
        VideoError: this PyAV has no deinterlacer.
    """
    from av.filter import filters_available

    method = next((name for name in DEINTERLACERS if name in filters_available), None)
    if method is None:
        raise VideoError(f"{name}: this PyAV cannot deinterlace; install PyAV from PyPI.")
    graph: Graph | None = None
    times: deque[int] = deque()
    for frame, time in frames:
        graph = graph or _graph(frame, method, "mode=send_frame:deint=all")
        frame.pts, frame.time_base = len(times), TIME_BASE
        graph.push(frame)
        times.append(time)
        while result := _pull(graph):
            yield result, times.popleft()
    if graph:
        graph.push(None)
        while times and (result := _pull(graph)):
            yield result, times.popleft()


class FieldMarker:
    """Marks frames as interlaced, for an encoder."""

    def __init__(self, order: FieldOrder) -> None:
        self._order = order
        self._filter: Graph | None = None

    def mark(self, frame: "VideoFrame") -> "VideoFrame":
        """Return the frame with its field order."""
        self._filter = self._filter or _graph(frame, "setfield", self._order)
        pts, time_base = frame.pts, frame.time_base
        self._filter.push(frame)
        marked = cast("VideoFrame", self._filter.pull())
        marked.pts, marked.time_base = pts, time_base
        return marked


def _graph(frame: "VideoFrame", name: str, options: str) -> "Graph":
    """Return a graph of one filter, for frames like this one."""
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=TIME_BASE
    )
    middle, sink = graph.add(name, options), graph.add("buffersink")
    source.link_to(middle)
    middle.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: "Graph") -> "VideoFrame | None":
    import av

    try:
        return cast("VideoFrame", graph.pull())
    except (av.BlockingIOError, av.EOFError):
        return None
