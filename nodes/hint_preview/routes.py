"""HTTP routes of the point-hint canvas on the host's server.

    POST /colorist/hints/preview  node, session, number, hints (, controls) -> preview as PNG
    POST /colorist/hints/suggest  node, session, x, y -> {"colors": ["#8a5a3c", ...]}
    POST /colorist/hints/next     node, session, hints (, skipped) -> {"x": 0.4, "y": 0.2, "colors":
                                  ["#8a5a3c", ...], "remaining": 0.35, "doubt": "data:image/png..."}
    POST /colorist/hints/area     node, session, x, y, hints (, reach) -> {"area":
                                  "data:image/png..."}

`hints` are the JSON of any version, as a string.
`next` returns the point whose color would tell most beside the hints, its likely colors, the share
of the initial doubt that the hints leave, and a small gray image of the doubt: white = unsure.
`skipped` is a list of [x, y]: earlier answers that are not wanted again.

`area` shows where a point at x, y would act beside the hints, as a small gray image: white = fully.
For the area of an existing point, leave it out of `hints`. `reach` is that of the JSON.

Only pages of the host itself may call them. Errors return a status and {"error": sentence}:
400 invalid request, 403 cross-site request, 404 unknown session, 409 a workflow is running or
queued, 413 request too large, 500 computation failed. 204 means that a newer preview request of the
session is already waiting.

One request is computed at a time, on a worker thread, so that the server stays responsive.
"""

import asyncio
import base64
import dataclasses
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiohttp import web

from ...pipeline.hints.schema import MAX_POINTS, AnyHint, Hint, Position, parse_hints
from ...pipeline.postprocess import Finish
from .. import host
from . import sessions

log = logging.getLogger(__name__)
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.Response]]
Body = dict[str, Any]

PREVIEW, SUGGEST = "/colorist/hints/preview", "/colorist/hints/suggest"
NEXT, AREA = "/colorist/hints/next", "/colorist/hints/area"
MAX_BODY_BYTES = 512 * 1024  # 1000 points need 100 KB, the 10,000 vertices of shapes 250 KB
MAX_NODE_ID_LENGTH = 256
SESSION_TOKEN = re.compile("[0-9a-f]{32}")
NO_STORE = {"Cache-Control": "no-store"}


class RequestError(Exception):
    """A request that is answered with an error status and a reason."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def register(table: web.RouteTableDef) -> None:
    """Add the routes to the route table of the host's server."""
    if any(getattr(route, "path", None) == PREVIEW for route in table):
        # Registering a path twice would keep the host's server from starting.
        log.warning("%s is already registered: is this pack installed twice?", PREVIEW)
        return
    api = HintPreviewApi()
    table.post(PREVIEW)(_errors_as_json(api.preview))
    table.post(SUGGEST)(_errors_as_json(api.suggest))
    table.post(NEXT)(_errors_as_json(api.next))
    table.post(AREA)(_errors_as_json(api.area))


def _errors_as_json(handler: Handler) -> Handler:
    """Wrap a handler so that each RequestError becomes a JSON response."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except RequestError as error:
            return web.json_response({"error": str(error)}, status=error.status, headers=NO_STORE)

    return handle


@dataclasses.dataclass
class PendingPreviews:
    """Preview requests of one session that are waiting or running."""

    count: int = 0
    newest: int = -1


class HintPreviewApi:
    """The request handlers and their queue."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="colorist-canvas")
        self._turn = asyncio.Lock()
        self._pending: dict[str, PendingPreviews] = defaultdict(PendingPreviews)  # by session

    async def preview(self, request: web.Request) -> web.Response:
        """Return a preview with the given hints, unless a newer request of the session waits."""
        body = await _read_body(request, required={"number", "hints"}, optional={"controls"})
        number = body["number"]
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**53:
            raise RequestError(400, "number must be an integer of at least 0.")
        session = _requested_session(body)
        points = _requested_hints(body)
        try:
            finish = _merge_controls(session.finish, body.get("controls", {}))
        except ValueError as error:
            raise RequestError(400, str(error)) from error
        pending = self._pending[session.token]
        pending.count, pending.newest = pending.count + 1, max(pending.newest, number)
        png = None
        try:
            async with self._turn:
                if number == pending.newest:
                    png = await self._compute(session, lambda: session.preview(points, finish))
        finally:
            pending.count -= 1
            if not pending.count:  # a reloaded page may start with lower numbers
                self._pending.pop(session.token, None)
        headers = {**NO_STORE, "X-Colorist-Number": str(number)}
        if png is None:
            return web.Response(status=204, headers=headers)
        return web.Response(body=png, content_type="image/png", headers=headers)

    async def suggest(self, request: web.Request) -> web.Response:
        """Return likely colors at a position of the photo."""
        body = await _read_body(request, required={"x", "y"}, optional=set())
        x, y = (_require_number(name, body[name], 0, 1) for name in ("x", "y"))
        session = _requested_session(body)
        async with self._turn:
            colors = await self._compute(session, lambda: session.suggest(x, y))
        return web.json_response({"colors": colors}, headers=NO_STORE)

    async def next(self, request: web.Request) -> web.Response:
        """Return the point to color next, and the doubt that is left."""
        body = await _read_body(request, required={"hints"}, optional={"skipped"})
        points = _requested_hints(body)
        if sum(isinstance(point, Hint) for point in points) == MAX_POINTS:
            raise RequestError(400, f"there are already {MAX_POINTS} hints, which is the maximum.")
        skipped = _requested_positions(body.get("skipped", []))
        session = _requested_session(body)
        async with self._turn:
            point = await self._compute(session, lambda: session.next_point(points, skipped))
        reply = {**point._asdict(), "doubt": _data_url(point.doubt)}
        return web.json_response(reply, headers=NO_STORE)

    async def area(self, request: web.Request) -> web.Response:
        """Return where a point would act."""
        body = await _read_body(request, required={"x", "y", "hints"}, optional={"reach"})
        x, y = (_require_number(name, body[name], 0, 1) for name in ("x", "y"))
        hints = _requested_hints(body)
        try:
            point = Hint(x, y, "gray", reach=body.get("reach"))
        except ValueError as error:
            raise RequestError(400, f"{error}.") from error
        session = _requested_session(body)
        async with self._turn:
            png = await self._compute(session, lambda: session.area_of_effect(point, hints))
        return web.json_response({"area": _data_url(png)}, headers=NO_STORE)

    async def _compute(self, session: sessions.Session, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, _run_exclusive, session, work)


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _run_exclusive(session: sessions.Session, work: Callable[[], T]) -> T:
    """Call `work` on the worker thread while no workflow runs.

    A workflow that starts meanwhile waits only if it reaches our node; other nodes run in parallel.
    If that makes `work` fail, the reported reason is the workflow.
    """
    if host.queue_is_busy() or not sessions.COMPUTE_LOCK.acquire(blocking=False):
        raise RequestError(409, "a workflow is running; previews resume when it has finished.")
    try:
        return work()
    except Exception as error:
        if host.queue_is_busy():
            raise RequestError(
                409, "a workflow has started; previews resume when it has finished."
            ) from error
        if host.is_out_of_memory(error):
            reason = "out of memory; lower the resolution, or free memory."
        elif isinstance(error, ValueError):
            reason = str(error)
        else:
            log.exception("A request of the point-hint canvas failed.")
            reason = f"computation failed ({type(error).__name__}); see ComfyUI's log for details."
        raise RequestError(500, reason) from error
    finally:
        sessions.COMPUTE_LOCK.release()


# ---- request parsing ----


async def _read_body(request: web.Request, *, required: set[str], optional: set[str]) -> Body:
    """Return the JSON object of a same-site request after checking size and keys."""
    _reject_cross_site(request)
    if request.content_type != "application/json":  # other types can be sent cross-site
        raise RequestError(400, "the content type must be application/json.")
    data = bytearray()
    if (request.content_length or 0) <= MAX_BODY_BYTES:
        async for part in request.content.iter_chunked(2**14):
            data += part
            if len(data) > MAX_BODY_BYTES:
                break
    if len(data) > MAX_BODY_BYTES or (request.content_length or 0) > MAX_BODY_BYTES:
        raise RequestError(413, f"the request is larger than {MAX_BODY_BYTES // 1024} KiB.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the request is not valid JSON.") from error
    if not isinstance(body, dict):
        raise RequestError(400, "the request must be a JSON object.")
    required = required | {"node", "session"}
    wrong = sorted(required - set(body)) + sorted(set(body) - required - optional)
    if wrong:
        raise RequestError(400, f"missing or unknown keys: {', '.join(wrong)[:200]}.")
    return body


def _reject_cross_site(request: web.Request) -> None:
    """Raise RequestError if a page of another site sent the request.

    Requests without these headers do not come from a browser. Sec-Fetch-Site takes precedence over
    Origin: behind some proxies, Host is not the name that the browser used.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        same_site = site in ("same-origin", "none")
    else:
        same_site = origin is None or origin.lower().partition("://")[2] == request.host.lower()
    if not same_site:
        raise RequestError(403, "only ComfyUI's own page may send requests.")


def _requested_session(body: Body) -> sessions.Session:
    """Return the session that the request names."""
    node, token = body["node"], body["session"]
    if not isinstance(node, str) or len(node) > MAX_NODE_ID_LENGTH:
        raise RequestError(
            400, f"node must be a string of at most {MAX_NODE_ID_LENGTH} characters."
        )
    if not isinstance(token, str) or not SESSION_TOKEN.fullmatch(token):
        raise RequestError(400, "session is not a session token.")
    session = sessions.find_session(token, node)
    if session is None:
        raise RequestError(404, "this preview is no longer available; run the workflow once.")
    return session


def _requested_hints(body: Body) -> list[AnyHint]:
    """Return the hints of the request."""
    if not isinstance(body["hints"], str):
        raise RequestError(400, "hints must be a string of JSON.")
    try:
        return parse_hints(body["hints"])
    except ValueError as error:
        raise RequestError(400, str(error)) from error


def _requested_positions(value: object) -> list[Position]:
    """Return the points of a list of [x, y]."""
    if not isinstance(value, list) or len(value) > MAX_POINTS:
        raise RequestError(400, f"skipped must be a list of at most {MAX_POINTS} points [x, y].")
    positions: list[Position] = []
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise RequestError(400, "each point of skipped must be a list [x, y].")
        x, y = (
            _require_number(f"{name} of skipped", value, 0, 1)
            for name, value in zip("xy", point, strict=True)
        )
        positions.append((x, y))
    return positions


def _merge_controls(finish: Finish, controls: object) -> Finish:
    """Return the options of the last run with those currently set on the page.

    Raises:
        ValueError: An option is unknown, of the wrong type or out of range.
    """
    if not isinstance(controls, dict):
        raise ValueError("controls must be a JSON object.")
    current = {field.name: getattr(finish, field.name) for field in dataclasses.fields(Finish)}
    for name, value in controls.items():
        if name not in current:
            raise ValueError(
                f"'{name[:40]}' is not a control; expected one of {', '.join(current)}."
            )
        if isinstance(current[name], str) != isinstance(value, str):
            raise ValueError(f"{name} has the wrong type.")
        if not isinstance(value, str):
            _require_number(name, value)
    return dataclasses.replace(finish, **controls)


def _require_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf
) -> float:
    """Return `value` if it is a number within the bounds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    bounds = f" from {low} to {high}" if low > -math.inf else ""
    raise RequestError(400, f"{name} must be a number{bounds}.")
