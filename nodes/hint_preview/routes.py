"""The way from the canvas in the browser to its session: two POST routes of the host's server.

    /colorist/hints/preview  node, session, number, hints (, controls) -> a PNG of the colours
    /colorist/hints/suggest  node, session, x, y -> {"colors": ["#8a5a3c", ...]}

Only the host's own page is answered. What gets no answer gets a status and {"error": sentence}:
400 the request is wrong, 403 another site's page, 404 no such session, 409 a workflow runs or
waits, 413 too large, 500 it could not be computed. 204: a newer preview is waiting already.

One thing is computed at a time, on a thread of its own, so that the server goes on.
"""

import asyncio
import dataclasses
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

from ...pipeline.hints import schema as hint_schema
from ...pipeline.postprocess import Finish
from .. import host
from . import sessions

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")

PREVIEW, SUGGEST = "/colorist/hints/preview", "/colorist/hints/suggest"
LARGEST = 256 * 1024  # bytes of a request; 1000 points need 100 KB
LONGEST = 256  # characters of a node's id
TOKEN = re.compile("[0-9a-f]{32}")
NO_STORE = {"Cache-Control": "no-store"}


class Refused(Exception):
    """A request that gets no answer, but a status and a reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def register(table: web.RouteTableDef) -> None:
    """Add the routes to the table of the host's server."""
    if any(getattr(route, "path", None) == PREVIEW for route in table):
        # A second route of one address would stop the host's server.
        log.warning("%s is there already: is this pack installed twice?", PREVIEW)
        return
    answers = Answers()
    table.post(PREVIEW)(_told(answers.preview))
    table.post(SUGGEST)(_told(answers.suggest))


def _told(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler, with refusals and failures told as JSON."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except Refused as refused:
            status, reason = refused.status, str(refused)
        return web.json_response({"error": reason}, status=status, headers=NO_STORE)

    return handle


@dataclasses.dataclass
class Line:
    """The previews of one session that wait for their turn, or have it."""

    waiting: int = 0
    newest: int = -1


class Answers:
    """The two handlers, and the line in which requests wait."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="colorist-canvas")
        self._turn = asyncio.Lock()
        self._lines: dict[str, Line] = defaultdict(Line)  # by session

    async def preview(self, request: web.Request) -> web.Response:
        """A preview of the given hints, unless a newer one of the session is in line."""
        body = await _body(request, {"number", "hints"}, {"controls"})
        number = body["number"]
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**53:
            raise Refused(400, "number is no whole number of 0 or more.")
        if not isinstance(body["hints"], str):
            raise Refused(400, "hints are no text; expected their JSON as a string.")
        session = _session(body)
        try:
            points = hint_schema.read(body["hints"])
            finish = _finish(session.finish, body.get("controls", {}))
        except ValueError as error:
            raise Refused(400, str(error)) from error
        line = self._lines[session.token]
        line.waiting, line.newest = line.waiting + 1, max(line.newest, number)
        png = None
        try:
            async with self._turn:
                if number == line.newest:
                    png = await self._compute(session, lambda: session.preview(points, finish))
        finally:
            line.waiting -= 1
            if not line.waiting:  # a page that is loaded anew counts from the beginning
                self._lines.pop(session.token, None)
        headers = {**NO_STORE, "X-Colorist-Number": str(number)}
        if png is None:
            return web.Response(status=204, headers=headers)
        return web.Response(body=png, content_type="image/png", headers=headers)

    async def suggest(self, request: web.Request) -> web.Response:
        """Likely colours of a place of the photo."""
        body = await _body(request, {"x", "y"}, set())
        x, y = (_number(name, body[name], 0, 1) for name in ("x", "y"))
        session = _session(body)
        async with self._turn:
            colors = await self._compute(session, lambda: session.suggest(x, y))
        return web.json_response({"colors": colors}, headers=NO_STORE)

    async def _compute(self, session: sessions.Session, work: Callable[[], Answered]) -> Answered:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, _alone, session, work)


def _alone(session: sessions.Session, work: Callable[[], Answered]) -> Answered:
    """`work`, on the worker's thread, where no workflow runs.

    A workflow may begin right after. Where it comes to our node it waits for the end of this, and
    elsewhere runs beside it; if that makes this fail, the workflow is the reason given.
    """
    if host.busy() or not sessions.COMPUTING.acquire(blocking=False):
        raise Refused(409, "a workflow is running; previews go on when it has ended.")
    try:
        return work()
    except Exception as error:
        if host.busy():
            raise Refused(409, "a workflow has begun; previews go on when it has ended.") from error
        if host.is_out_of_memory(error):
            reason = "out of memory; lower the resolution, or free memory."
        elif isinstance(error, ValueError):
            reason = str(error)
        else:
            log.exception("a request of the canvas failed.")
            reason = f"it could not be computed ({type(error).__name__}); ComfyUI's log says more."
        raise Refused(500, reason) from error
    finally:
        sessions.COMPUTING.release()


# ---- what is asked ----


async def _body(request: web.Request, wanted: set[str], optional: set[str]) -> dict:
    """The JSON of a request of our own page, with the keys that were asked for."""
    _refuse_strangers(request)
    if request.content_type != "application/json":  # others may be sent by any site, unasked
        raise Refused(400, "the request is no application/json.")
    data = bytearray()
    if (request.content_length or 0) <= LARGEST:
        async for part in request.content.iter_chunked(2**14):
            data += part
            if len(data) > LARGEST:
                break
    if len(data) > LARGEST or (request.content_length or 0) > LARGEST:
        raise Refused(413, f"the request is larger than {LARGEST // 1024} KiB.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is no JSON.") from error
    if not isinstance(body, dict):
        raise Refused(400, "the request is no JSON object.")
    wanted = wanted | {"node", "session"}
    wrong = sorted(wanted - set(body)) + sorted(set(body) - wanted - optional)
    if wrong:
        raise Refused(400, f"missing or unknown in the request: {', '.join(wrong)[:200]}.")
    return body


def _refuse_strangers(request: web.Request) -> None:
    """Refused where another site's page asks. What sends no such headers is no browser.

    A browser's own word, Sec-Fetch-Site, counts before Origin: behind some proxies Host is not what
    the browser asked for.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or origin.lower().partition("://")[2] == request.host.lower()
    if not ours:
        raise Refused(403, "only ComfyUI's own page may ask.")


def _session(body: dict) -> sessions.Session:
    """The session that a request names."""
    node, token = body["node"], body["session"]
    if not isinstance(node, str) or len(node) > LONGEST:
        raise Refused(400, f"node is no text of at most {LONGEST} characters.")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise Refused(400, "session is no name of a session.")
    session = sessions.find(token, node)
    if session is None:
        raise Refused(404, "this preview is no longer at hand; run the workflow once.")
    return session


def _finish(finish: Finish, controls: object) -> Finish:
    """The last run's controls with those that the page shows now."""
    if not isinstance(controls, dict):
        raise ValueError("controls are no JSON object.")
    known = {field.name: getattr(finish, field.name) for field in dataclasses.fields(Finish)}
    for name, value in controls.items():
        if name not in known:
            raise ValueError(f"'{name[:40]}' is no control; there are {', '.join(known)}.")
        if isinstance(known[name], str) != isinstance(value, str):
            raise ValueError(f"{name} is of the wrong type.")
        if not isinstance(value, str):
            _number(name, value)
    return dataclasses.replace(finish, **controls)


def _number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """`value`, if it is a number within bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise Refused(400, f"{name} is no number{f', {low} to {high}' if low > -math.inf else ''}.")
    return value
