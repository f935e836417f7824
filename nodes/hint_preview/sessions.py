"""Sessions of the point-hint canvas: prepared photos for previews and color suggestions.

Each run of Colorize by Point Hints leaves a session behind, which `routes` uses between runs. This
module never checks the host's interrupt outside a run: that would consume an interrupt meant for a
workflow.
"""

import contextlib
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Generator, Sequence
from io import BytesIO
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor

from ...ops.tensors import sanitize
from ...pipeline.automatic import Colorizer
from ...pipeline.by_hints import PointHintColorizer, PreparedImage, to_preview
from ...pipeline.hints import suggestions
from ...pipeline.hints.schema import AnyHint, Hint, Position
from ...pipeline.postprocess import Finish
from .. import host
from ..load import load_colorizer

MAX_READY_SESSIONS = 4  # photos held ready in memory; others are prepared again on request
MAX_SESSIONS = 64
SUGGESTION_MODEL = "colorformer-nano"  # suggests colors unless the base has a color memory
# Held while a run of the node or a preview computes; a run waits for the preview in progress.
# Other nodes do not use it: a preview checks for running workflows before it starts, but may
# overlap with a workflow that starts later.
COMPUTE_LOCK = threading.Lock()
INTERRUPT_POLL_S = 0.2  # how often a waiting run checks for the user's interrupt

_sessions: OrderedDict[str, "Session"] = OrderedDict()  # by token, most recently used last
_sessions_lock = threading.Lock()  # runs and requests come from different threads


class ResultMessage(TypedDict):
    """The message to the canvas after a run. Files are references to the host's temp folder."""

    session: str
    width: int
    height: int
    resolution: int
    photo: host.FileReference
    result: host.FileReference
    reference: host.FileReference | None


class NextPoint(NamedTuple):
    """The point to color next."""

    x: float
    y: float
    colors: list[str]
    """Likely colors as #rrggbb, first the one that the result has there now."""
    remaining: float
    """Share of the doubt without hints that the existing hints leave."""
    doubt: bytes
    """Gray PNG, 8 bits: white where the colors are most uncertain with the existing hints."""


class Session:
    """One photo of one node, ready for previews or able to be prepared again.

    The source objects belong to the host, which keeps them as long as the result of the node; the
    session holds weak references.

    Attributes:
        token: Unguessable name of the session.
        node: The host's id of the node.
        resolution: Square root of the working image's area.
        finish: Postprocessing options of the last run.
        size: Width and height of the photo.
    """

    def __init__(
        self,
        node: str,
        colorizer: PointHintColorizer,
        image: Tensor,
        base: Colorizer | None,
        mask: Tensor | None,
        region: Tensor | None,
        region_color: str,
        resolution: int,
    ):
        self.token = secrets.token_hex(16)
        self.node, self.resolution, self.finish = node, resolution, Finish()
        self.size, self.region_color = (image.shape[2], image.shape[1]), region_color
        self._sources: list[weakref.ref[Any] | None] = [
            None if source is None else weakref.ref(source)
            for source in (colorizer, image, base, mask, region)
        ]
        self._ready: tuple[PointHintColorizer, PreparedImage] | None = None
        self._candidates: Tensor | None = None
        self._photo_file: host.FileReference | None = None

    def _live_sources(
        self,
    ) -> tuple[
        PointHintColorizer | None, Tensor | None, Colorizer | None, Tensor | None, Tensor | None
    ]:
        colorizer, image, base, mask, region = (
            None if ref is None else ref() for ref in self._sources
        )
        return colorizer, image, base, mask, region

    def matches(self, *sources: PointHintColorizer | Tensor | Colorizer | None) -> bool:
        """Return True if the session was made from these very objects."""
        pairs = zip(self._sources, sources, strict=True)
        return all(
            (ref is None) == (source is None) and (ref is None or ref() is source)
            for ref, source in pairs
        )

    def is_valid(self) -> bool:
        """Return True if the session is ready, or all its sources still exist."""
        return self._ready is not None or all(
            ref is None or ref() is not None for ref in self._sources
        )

    def ready(self) -> tuple[PointHintColorizer, PreparedImage]:
        """Return the colorizer and the prepared photo, preparing it if `release` has freed it.

        Raises:
            ValueError: The sources no longer exist.
        """
        if self._ready is None:
            colorizer, image, base, mask, region = self._live_sources()
            if colorizer is None or image is None:
                raise ValueError("the photo is no longer available; run the workflow once.")
            masks = host.mask_for(image, mask)
            prepared = colorizer.prepare(
                image[:1],
                base=base,
                mask=masks if masks is None else masks[:1],
                regions=[
                    (masks[:1], code)
                    for masks, code in regions_for(image, region, self.region_color)
                ],
                resolution=self.resolution,
            )
            self._ready = colorizer, prepared
        return self._ready

    def release(self) -> None:
        """Free the memory of the session; `ready` prepares it again."""
        self._ready = self._candidates = None

    def photo_file(self) -> host.FileReference:
        """Return the photo as a temp file for the browser; written on the first call."""
        if self._photo_file is None:
            self._photo_file = host.save_temp_png(encode_png(self.ready()[1].rgb))
        return self._photo_file

    def preview(self, hints: Sequence[AnyHint], finish: Finish) -> bytes:
        """Return the colorized photo as PNG."""
        colorizer, prepared = self.ready()
        return encode_png(colorizer.preview(prepared, hints, finish))

    def suggest(self, x: float, y: float) -> list[str]:
        """Return likely colors (#rrggbb) at x, y in 0..1; the first call runs a model."""
        prepared, candidates = self.ready()[1], self._candidates
        if candidates is None:
            model = self._live_sources()[2]
            if model is None or not model.spec.memory:
                model = cast(Colorizer, load_colorizer(SUGGESTION_MODEL, "auto", "automatic"))
            candidates = self._candidates = suggestions.predict_candidates(prepared.rgb, model)
        maps = [candidates] if prepared.base_ab is None else [prepared.base_ab, candidates]
        return suggestions.suggest_colors(prepared.rgb, maps, x, y)

    def next_point(self, hints: Sequence[AnyHint], skipped: Sequence[Position]) -> NextPoint:
        """Return the point whose color would tell most beside hints; see `suggest` for its colors.

        Args:
            skipped: points that are not to be suggested again.
        """
        colorizer, prepared = self.ready()
        suggested = colorizer.suggest_points(prepared, 1, hints, skipped)
        [point] = suggested.suggested
        others = [code for code in self.suggest(point.x, point.y) if code != point.color]
        return NextPoint(
            point.x,
            point.y,
            [point.color, *others][: suggestions.MAX_COLORS],
            suggested.remaining[0],
            encode_png(suggested.doubt),
        )

    def area_of_effect(self, point: Hint, others: Sequence[AnyHint]) -> bytes:
        """Return where a point acts beside other hints, as a gray PNG: white = fully."""
        return encode_png(self.ready()[1].area_of_effect(point, others))


def regions_for(image: Tensor, region: Tensor | None, color: str) -> list[tuple[Tensor, str]]:
    """Return the region of a node as `PointHintColorizer` accepts it; none for an empty mask."""
    masks = host.mask_for(image, region)
    return [] if masks is None else [(masks, color)]


# ---- sessions ----


def open_session(
    node: str,
    colorizer: PointHintColorizer,
    image: Tensor,
    *,
    base: Colorizer | None,
    mask: Tensor | None,
    region: Tensor | None = None,
    region_color: str = "",
    resolution: int | None,
    finish: Finish,
) -> Session:
    """Return a ready session for the first image of a batch.

    The node's existing session is reused if only hints and postprocessing options have changed.

    Args:
        mask, region: As received from the host.
        region_color: Color of the region.
        resolution: None = the default of the model.
    """
    sources = (colorizer, image, base, mask, region)
    side = resolution or colorizer.spec.resolution
    with _sessions_lock:
        key = node, side, region_color
        candidates = [
            s for s in _sessions.values() if (s.node, s.resolution, s.region_color) == key
        ]
        session = next((s for s in candidates if s.matches(*sources)), None)
    session = session or Session(node, *sources, region_color, side)
    session.ready()
    session.finish = finish
    _mark_used(session)
    return session


def find_session(token: str, node: str) -> Session | None:
    """Return the session with this token if it belongs to the node and is valid."""
    with _sessions_lock:
        session = _sessions.get(token)
    if session is None or session.node != node or not session.is_valid():
        return None
    _mark_used(session)
    return session


def _mark_used(session: Session) -> None:
    """Mark as most recently used; release and evict older sessions."""
    with _sessions_lock:
        _sessions[session.token] = session
        _sessions.move_to_end(session.token)
        while len(_sessions) > MAX_SESSIONS:
            _sessions.popitem(last=False)
        for older in list(_sessions.values())[:-MAX_READY_SESSIONS]:
            older.release()


@contextlib.contextmanager
def exclusive_compute() -> Generator[None, None, None]:
    """Hold COMPUTE_LOCK for a run; the user can interrupt the run while it waits."""
    while not COMPUTE_LOCK.acquire(timeout=INTERRUPT_POLL_S):
        host.check_interrupt()
    try:
        yield
    finally:
        COMPUTE_LOCK.release()


# ---- images for the browser ----


def result_message(session: Session, colored: Tensor, reference: Tensor | None) -> ResultMessage:
    """Return the message to the canvas after a run.

    Args:
        colored, reference: Batches (B, H, W, C), of which the canvas shows the first image.
    """
    width, height = session.size
    return {
        "session": session.token,
        "width": width,
        "height": height,
        "resolution": session.resolution,
        "photo": session.photo_file(),
        "result": _save_first(colored),
        "reference": None if reference is None else _save_first(reference),
    }


def _save_first(batch: Tensor) -> host.FileReference:
    """Save the first image of (B, H, W, C) at preview size as a temp file for the browser."""
    rgb = sanitize(batch[:1, ..., :3].movedim(-1, 1).float(), "canvas").expand(-1, 3, -1, -1)
    return host.save_temp_png(encode_png(to_preview(rgb)[0].movedim(0, -1)))


def encode_png(rgb: Tensor) -> bytes:
    """Encode (h, w, 3) or a gray (h, w) in 0..1 as PNG, fast rather than small.

    Levels are truncated, as in the host's own images, so that a preview equals what a run saves.
    """
    from PIL import Image

    levels = (rgb * 255).to(torch.uint8).contiguous().numpy()
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
