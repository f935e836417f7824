"""What the canvas of Colorize by Point Hints works with between two runs: previews and colours.

A run leaves a Session behind, and `routes` asks it. Nothing here looks for the host's interrupt,
which would take it from the workflow that it was meant for.
"""

import contextlib
import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from io import BytesIO

import torch
from torch import Tensor

from ...ops.tensors import repaired
from ...pipeline.automatic import Colorizer
from ...pipeline.by_hints import PointHintColorizer, Prepared, shown
from ...pipeline.hints import suggestions
from ...pipeline.hints.schema import Hint
from ...pipeline.postprocess import Finish
from .. import host
from ..load import load

KEPT = 4  # photos that are ready for previews; others are made ready again when they are asked for
KNOWN = 64  # sessions that are known at all
VARIED = "colorformer-nano"  # suggests colours where no network with a color memory is connected
# Held while a run of the node or a preview computes; a run waits for the preview that it meets.
# Other nodes do not know of it: a preview looks whether a workflow runs right before it asks the
# host for the network, and computes beside a workflow that begins after that.
COMPUTING = threading.Lock()
WAIT = 0.2  # seconds between two looks for the user's stop while a run waits

_sessions: OrderedDict[str, "Session"] = OrderedDict()  # by token, the last used last
_lock = threading.Lock()  # of it: runs and requests come from different threads


class Session:
    """One photo of one node, ready for previews or able to be made so.

    What it was made of belongs to the host, which keeps it as long as the node's result is kept.

    Attributes:
        token: names it, and cannot be guessed.
        node: the host's id of the node.
        resolution: square root of the working image's area.
        finish: the controls of the last run.
        size: width and height of the photo.
    """

    def __init__(
        self,
        node: str,
        engine: PointHintColorizer,
        image: Tensor,
        base: Colorizer | None,
        mask: Tensor | None,
        resolution: int,
    ):
        self.token = secrets.token_hex(16)
        self.node, self.resolution, self.finish = node, resolution, Finish()
        self.size = image.shape[2], image.shape[1]
        things = engine, image, base, mask
        self._made_of = [None if thing is None else weakref.ref(thing) for thing in things]
        self._ready: tuple[PointHintColorizer, Prepared] | None = None
        self._guesses: Tensor | None = None
        self._picture: dict[str, str] | None = None

    def _things(self) -> list[object | None]:
        return [None if made is None else made() for made in self._made_of]

    def is_made_of(self, *things: object | None) -> bool:
        """Whether it was made of these very objects."""
        pairs = zip(self._made_of, things, strict=True)
        return all((m is None) == (t is None) and (m is None or m() is t) for m, t in pairs)

    def is_alive(self) -> bool:
        """Whether it is ready, or what it was made of is still there."""
        made = zip(self._made_of, self._things(), strict=True)
        return self._ready is not None or all(
            ref is None or thing is not None for ref, thing in made
        )

    def ready(self) -> tuple[PointHintColorizer, Prepared]:
        """The network and the photo. Made again where `rest` has let them go."""
        if self._ready is None:
            engine, image, base, mask = self._things()
            if engine is None or image is None:
                raise ValueError("the photo is no longer at hand; run the workflow once.")
            masks = host.mask_for(image, mask)
            prepared = engine.prepare(
                image[:1],
                base=base,
                mask=masks if masks is None else masks[:1],
                resolution=self.resolution,
            )
            self._ready = engine, prepared
        return self._ready

    def rest(self) -> None:
        """Let go of what takes memory."""
        self._ready = self._guesses = None

    def picture(self) -> dict[str, str]:
        """Where the browser finds the photo; written once."""
        if self._picture is None:
            self._picture = host.picture_for_browser(png(self.ready()[1].rgb))
        return self._picture

    def preview(self, hints: Sequence[Hint], finish: Finish) -> bytes:
        """The coloured picture as PNG."""
        engine, prepared = self.ready()
        return png(engine.preview(prepared, hints, finish))

    def suggest(self, x: float, y: float) -> list[str]:
        """Likely colours (#rrggbb) of a place; slow for the first time, then at once."""
        prepared, guesses = self.ready()[1], self._guesses
        if guesses is None:
            base = self._things()[2]
            varied = base if base is not None and base.spec.memory else None
            varied = varied or load(VARIED, "auto", role="automatic")
            guesses = self._guesses = suggestions.guesses(prepared.rgb, varied)
        maps = [guesses] if prepared.base is None else [prepared.base, guesses]
        return suggestions.colors(prepared.rgb, maps, x, y)


# ---- sessions ----


def open_session(
    node: str,
    engine: PointHintColorizer,
    image: Tensor,
    *,
    base: Colorizer | None,
    mask: Tensor | None,
    resolution: int | None,
    finish: Finish,
) -> Session:
    """The session of a node for the first image of a batch, ready.

    It is the one the node has already where nothing but hints and controls changed.

    Args:
        mask: as the host gave it.
        resolution: None = the network's own.
    """
    things = (engine, image, base, mask)
    side = resolution or engine.spec.resolution
    with _lock:
        known = [s for s in _sessions.values() if (s.node, s.resolution) == (node, side)]
        session = next((s for s in known if s.is_made_of(*things)), None)
    session = session or Session(node, *things, side)
    session.ready()
    session.finish = finish
    _use(session)
    return session


def find(token: str, node: str) -> Session | None:
    """The session of that name, where it is this node's and can be used."""
    with _lock:
        session = _sessions.get(token)
    if session is None or session.node != node or not session.is_alive():
        return None
    _use(session)
    return session


def _use(session: Session) -> None:
    """Put a session last; those used before it rest, the very first are forgotten."""
    with _lock:
        _sessions[session.token] = session
        _sessions.move_to_end(session.token)
        while len(_sessions) > KNOWN:
            _sessions.popitem(last=False)
        for old in list(_sessions.values())[:-KEPT]:
            old.rest()


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Hold COMPUTING for a run, which the user can stop while it waits."""
    while not COMPUTING.acquire(timeout=WAIT):
        host.check_interrupt()
    try:
        yield
    finally:
        COMPUTING.release()


# ---- pictures ----


def message(session: Session, colored: Tensor, reference: Tensor | None) -> dict:
    """What the page is told after a run.

    Args:
        colored, reference: batches (B, H, W, C); their first pictures are shown.
    """
    width, height = session.size
    return {
        "session": session.token,
        "width": width,
        "height": height,
        "resolution": session.resolution,
        "picture": session.picture(),
        "result": _shown(colored),
        "reference": None if reference is None else _shown(reference),
    }


def _shown(batch: Tensor) -> dict[str, str]:
    """Where the browser finds the first picture of (B, H, W, C)."""
    return host.picture_for_browser(png(_small(batch)))


def _small(batch: Tensor) -> Tensor:
    """The first picture of (B, H, W, C), no larger than a preview: (h, w, 3) on the CPU."""
    rgb = repaired(batch[:1, ..., :3].movedim(-1, 1).float(), "canvas").expand(-1, 3, -1, -1)
    return shown(rgb)[0].movedim(0, -1)


def png(rgb: Tensor) -> bytes:
    """(h, w, 3) in 0..1 -> a PNG file. Fast rather than small.

    Levels are cut off, as in the host's own pictures, so that a preview is what a run will save.
    """
    from PIL import Image

    levels = (rgb * 255).to(torch.uint8).contiguous().numpy()
    buffer = BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
