"""The routes of the canvas, as the page and as strangers call them."""

import asyncio
import base64
import json
import runpy
import sys
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("aiohttp")

PREVIEW, SUGGEST = "/colorist/hints/preview", "/colorist/hints/suggest"
NEXT, AREA = "/colorist/hints/next", "/colorist/hints/area"
SHAPES = json.dumps(
    {
        "version": 2,
        "points": [{"x": 0.2, "y": 0.2, "color": "red", "reach": 0.1}],
        "strokes": [{"points": [[0.1, 0.9], [0.4, 0.9]], "color": "sienna"}],
        "regions": [{"points": [[0.6, 0], [1, 0], [1, 1]], "color": "blue"}],
    }
)
STANDIN = Path(__file__).resolve().parents[2] / "host" / "standin.py"
RED = {"x": 0.25, "y": 0.5, "color": "#c03030", "size": 4}


def written(*points):
    return json.dumps({"version": 1, "points": points})


@pytest.fixture
def server(monkeypatch):
    """A host's server."""
    module = runpy.run_path(str(STANDIN))["server"]()
    monkeypatch.setitem(sys.modules, "server", module)
    return module.PromptServer.instance


@pytest.fixture
def served(host, server):
    """`served(talk)` runs talk(client) against the routes that the pack has registered."""
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    host.nodes.extension()

    def run(talk):
        async def session():
            app = web.Application(client_max_size=2**30)
            app.add_routes(server.routes)
            async with TestClient(TestServer(app)) as client:
                return await talk(client)

        return asyncio.run(session())

    return run


@pytest.fixture
def photo(grey):
    return grey(1, 48, 64)


@pytest.fixture
def session(host, canvas, pointhint, photo):
    """A session of node 12, as a run leaves it."""
    finish = host.nodes.pointhint.Finish()
    options = {"base": None, "mask": None, "resolution": 64, "finish": finish}
    return canvas.open_session("12", pointhint, photo, **options)


@pytest.fixture
def body(session):
    """A good request."""

    def make(**changes):
        given = {"node": "12", "session": session.token, "number": 7, "hints": written(RED)}
        return {key: value for key, value in (given | changes).items() if value is not None}

    return make


@pytest.fixture
def post(served):
    """One request: status, headers, body."""

    def send(path, body, **options):
        async def talk(client):
            given = {"json": body} if not isinstance(body, bytes) else {"data": body}
            async with client.post(path, **given, **options) as answer:
                return answer.status, answer.headers, await answer.read()

        return served(talk)

    return send


def reason(data):
    told = json.loads(data)
    assert list(told) == ["error"]
    assert "Traceback" not in told["error"] and "/secret" not in told["error"]
    return told["error"]


def pixels(data):
    with Image.open(BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.array(image)


# ---- answers ----


def test_preview_equals_the_result_of_the_run(host, post, body, pointhint, photo):
    status, headers, data = post(PREVIEW, body())
    assert status == 200
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Colorist-Number"] == "7"
    assert headers["Cache-Control"] == "no-store"
    colored = host.nodes.ColorizeByPointHints.execute(
        photo, pointhint, hints=written(RED), resolution=64
    ).args[0]
    assert np.array_equal(pixels(data), (colored[0] * 255).byte().numpy())


def test_controls_of_the_page_count(post, body, session, photo):
    plain, gray = (
        pixels(post(PREVIEW, body(controls=controls))[2])
        for controls in (None, {"strength": 0, "upsample": "edge"})
    )
    assert np.array_equal(gray, (photo[0] * 255).byte().numpy())
    assert not np.array_equal(plain, gray)
    assert session.finish.strength == 1  # only for this preview


def test_suggestions_are_of_the_place_and_computed_once(
    post, body, mini_colorformer, monkeypatch, canvas
):
    monkeypatch.setattr(canvas, "load_colorizer", lambda *_, **__: mini_colorformer)
    calls, guesses = [], canvas.suggestions.predict_candidates
    monkeypatch.setattr(
        canvas.suggestions, "predict_candidates", lambda *given: calls.append(1) or guesses(*given)
    )
    result = []
    for x, y in ((0.1, 0.1), (0.9, 0.9), (1, 1)):
        asked = body(x=x, y=y, number=None, hints=None)
        status, _, data = post(SUGGEST, asked)
        assert status == 200
        result.append(json.loads(data)["colors"])
    assert len(calls) == 1
    for colors in result:
        assert 1 <= len(colors) <= 8
        assert all(len(code) == 7 and code[0] == "#" for code in colors)
    assert result[0] != result[1]


def test_suggestions_without_a_color_memory_come_from_the_bundled_network(
    host, canvas, pointhint, photo, colorizer, mini_colorformer, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        canvas, "load_colorizer", lambda *args: asked.append(args) or mini_colorformer
    )
    options = {"mask": None, "resolution": 64, "finish": host.nodes.pointhint.Finish()}
    for base in (None, colorizer):
        canvas.open_session("1", pointhint, photo, base=base, **options).suggest(0.5, 0.5)
    assert asked == [("colorformer-nano", "auto", "automatic")] * 2
    canvas.open_session("1", pointhint, photo, base=mini_colorformer, **options).suggest(0.5, 0.5)
    assert len(asked) == 2


def test_the_bundled_network_can_suggest(session):
    assert session.suggest(0.5, 0.5)


@pytest.fixture
def next_point(post, body, mini_colorformer, monkeypatch, canvas):
    """Ask for the next point, with the colors of a miniature network."""
    monkeypatch.setattr(canvas, "load_colorizer", lambda *_, **__: mini_colorformer)

    def ask(*points, **more):
        status, headers, data = post(NEXT, body(number=None, hints=written(*points)) | more)
        assert status == 200 and headers["Cache-Control"] == "no-store"
        return json.loads(data)

    return ask


def test_the_next_point_lies_where_the_doubt_is(next_point, pointhint, session):
    first = next_point()
    assert sorted(first) == ["colors", "doubt", "remaining", "x", "y"]
    assert first["remaining"] == pytest.approx(1)
    assert 1 <= len(first["colors"]) <= 8
    assert len(set(first["colors"])) == len(first["colors"])
    [hint] = pointhint.suggest_points(session.ready()[1], 1).hints
    assert (first["x"], first["y"], first["colors"][0]) == (hint.x, hint.y, hint.color)

    kind, _, data = first["doubt"].partition(",")
    assert kind == "data:image/png;base64"
    assert (
        pixels(base64.b64decode(data)).shape == session.ready()[1].uncertainty.doubt_map([]).shape
    )

    second = next_point({"x": first["x"], "y": first["y"], "color": first["colors"][0]})
    assert second["remaining"] < 1
    assert (second["x"], second["y"]) != (first["x"], first["y"])


def test_a_skipped_point_is_not_suggested_again_and_tells_nothing(next_point):
    first = next_point()
    second = next_point(skipped=[[first["x"], first["y"]]])
    assert (second["x"], second["y"]) != (first["x"], first["y"])
    assert second["remaining"] == pytest.approx(1)
    assert second["doubt"] == first["doubt"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"hints": [RED]}, "hints must be a string"),
        ({"hints": "{"}, "the hints are not JSON"),
        ({"hints": written(*[RED] * 1000)}, "there are already 1000 hints"),
        ({"skipped": {"x": 1}}, "skipped must be a list of at most 1000 points"),
        ({"skipped": [[0, 0]] * 1001}, "skipped must be a list of at most 1000 points"),
        ({"skipped": [[0.5]]}, "each point of skipped must be a list [x, y]"),
        ({"skipped": [[0.5, 2]]}, "y of skipped must be a number from 0 to 1"),
        ({"skipped": [["0.5", 0]]}, "x of skipped must be a number from 0 to 1"),
        ({"count": 3}, "missing or unknown keys: count"),
    ],
)
def test_wrong_requests_for_the_next_point(post, body, changes, told):
    status, _, data = post(NEXT, body(number=None) | changes)
    assert status == 400
    assert told in reason(data)


# ---- refusals ----


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"number": "7"}, "number must be an integer"),
        ({"number": True}, "number must be an integer"),
        ({"number": -1}, "number must be an integer"),
        ({"number": 7.5}, "number must be an integer"),
        ({"number": None}, "missing or unknown keys: number"),
        ({"more": 1}, "missing or unknown keys: more"),
        ({"node": 12}, "node must be a string"),
        ({"node": "1" * 1000}, "node must be a string of at most"),
        ({"session": "abc"}, "session is not a session token"),
        ({"session": ["a"]}, "session is not a session token"),
        ({"hints": [RED]}, "hints must be a string"),
        ({"hints": "{"}, "the hints are not JSON"),
        ({"hints": written({**RED, "x": 2})}, "point 1: x is 2"),
        ({"hints": written(*[RED] * 1001)}, "there are 1001 hints; at most 1000"),
        ({"controls": []}, "controls must be a JSON object"),
        ({"controls": {"strength": "1"}}, "strength has the wrong type"),
        ({"controls": {"strength": True}}, "strength must be a number"),
        ({"controls": {"strength": float("nan")}}, "strength must be a number"),
        ({"controls": {"strength": 2}}, "strength is 2; expected 0 to 1"),
        ({"controls": {"upsample": "magic"}}, "upsample is 'magic'"),
        ({"controls": {"finish": "published"}}, "'finish' is not a control"),
    ],
)
def test_wrong_requests(post, body, changes, told):
    status, _, data = post(
        PREVIEW, body() | changes if None not in changes.values() else body(**changes)
    )
    assert status == 400
    assert told in reason(data)


@pytest.mark.parametrize("x", [-0.1, 1.1, "0.5", None, True, float("nan"), 10**400])
def test_wrong_places(post, body, x):
    given = body(number=None, hints=None, y=0.5) | {"x": x}
    status, _, data = post(SUGGEST, given)
    assert status == 400
    assert "x" in reason(data)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b"9" * 10_000]
)
def test_bodies_other_than_json_objects(post, data, session):
    status, _, told = post(PREVIEW, data, headers={"Content-Type": "application/json"})
    assert status == 400
    assert "JSON" in reason(told)


def test_another_content_type_is_refused(post, body):
    """A form of another site can send text/plain without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        data = json.dumps(body()).encode()
        status, _, told = post(PREVIEW, data, headers={"Content-Type": kind})
        assert status == 400
        assert "application/json" in reason(told)


@pytest.mark.parametrize("declared", [True, False])
def test_large_requests_are_not_read_to_the_end(served, body, declared, monkeypatch):
    """With a length, or in chunks without one."""
    sent = []

    async def endless():
        for _ in range(4000):
            sent.append(1)
            yield b" " * 2**14

    async def talk(client):
        data = b" " * 2**20 if declared else endless()
        headers = {"Content-Type": "application/json"}
        async with client.post(PREVIEW, data=data, headers=headers) as answer:
            return answer.status, await answer.read()

    status, data = served(talk)
    assert status == 413
    assert "512 KiB" in reason(data)
    assert len(sent) < 2000


def test_most_points_fit(post, body):
    point = {"x": 0.12345678901234567, "y": 0.98765432109876543, "color": "#123456", "size": 12.5}
    assert post(PREVIEW, body(hints=written(*[point] * 1000)))[0] == 200


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://OWN"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://OWN", "Sec-Fetch-Site": "cross-site"}, 403),
        # Behind a proxy Host is another name; the browser knows better.
        ({"Origin": "https://my.example", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_only_our_own_page_is_answered(served, body, headers, status):
    async def talk(client):
        own = f"{client.host}:{client.port}"
        given = {key: value.replace("OWN", own) for key, value in headers.items()}
        async with client.post(PREVIEW, json=body(), headers=given) as answer:
            return answer.status, await answer.read()

    got, data = served(talk)
    assert got == status
    if status == 403:
        assert "own page" in reason(data)


def test_unknown_sessions(post, body, session):
    suggest = {"node": "12", "session": "0" * 32, "x": 0.5, "y": 0.5}
    for path, given in (
        (PREVIEW, body(session="0" * 32)),
        (PREVIEW, body(node="13")),
        (SUGGEST, suggest),
    ):
        status, _, data = post(path, given)
        assert status == 404
        assert "run the workflow once" in reason(data)


def test_nothing_is_computed_while_a_workflow_runs(post, body, pointhint, server, monkeypatch):
    monkeypatch.setattr(pointhint, "preview", lambda *_: pytest.fail("computed"))
    server.prompt_queue.running = 1
    for path, given in (
        (PREVIEW, body()),
        (SUGGEST, body(number=None, hints=None, x=0.5, y=0.5)),
        (NEXT, body(number=None)),
    ):
        status, _, data = post(path, given)
        assert status == 409
        assert "a workflow is running" in reason(data)


def test_a_run_of_the_node_itself_is_not_waited_for(post, body, canvas):
    with canvas.COMPUTE_LOCK:
        assert post(PREVIEW, body())[0] == 409
    assert post(PREVIEW, body())[0] == 200


def test_a_workflow_that_begins_meanwhile(post, body, pointhint, server, monkeypatch, canvas):
    """It may take the network away; then that is what the page is told."""

    def taken_away(*_):
        server.prompt_queue.running = 1
        raise RuntimeError("Expected all tensors to be on the same device, /secret/path")

    monkeypatch.setattr(pointhint, "preview", taken_away)
    status, _, data = post(PREVIEW, body())
    assert status == 409
    assert "a workflow has started" in reason(data)
    assert not canvas.COMPUTE_LOCK.locked()


@pytest.mark.parametrize(
    "error, told",
    [
        (RuntimeError("broken in /secret/path"), "computation failed (RuntimeError)"),
        (torch.OutOfMemoryError("CUDA out of memory at /secret"), "out of memory; lower"),
        (MemoryError(), "out of memory; lower"),
        (ValueError("mini: the network gives colours that are NaN"), "colours that are NaN"),
    ],
)
def test_failures_are_reported_in_a_sentence(
    post, body, pointhint, monkeypatch, canvas, error, told
):
    def fail(*_):
        raise error

    monkeypatch.setattr(pointhint, "preview", fail)
    status, _, data = post(PREVIEW, body())
    assert status == 500
    assert told in reason(data)
    assert not canvas.COMPUTE_LOCK.locked()


def test_the_users_interrupt_is_left_for_the_workflow(
    host, post, body, mini_colorformer, canvas, monkeypatch
):
    """It may be asked for just when a preview begins."""
    monkeypatch.setattr(canvas, "load_colorizer", lambda *_, **__: mini_colorformer)
    host.mm.interrupt_current_processing(True)
    try:
        assert post(PREVIEW, body())[0] == 200
        assert post(SUGGEST, body(number=None, hints=None, x=0.5, y=0.5))[0] == 200
        with pytest.raises(host.mm.InterruptProcessingException):
            host.mm.throw_exception_if_processing_interrupted()
    finally:
        host.mm.interrupt_current_processing(False)


# ---- one at a time, the newest first ----


@pytest.fixture
def slow(session, pointhint, monkeypatch):
    """Previews that last until `slow.go` is set, and are noted."""

    class Slow:
        go, begun = threading.Event(), threading.Event()
        now, most, seen = 0, 0, []

    preview = pointhint.preview

    def wait(prepared, hints, finish):
        Slow.now += 1
        Slow.most = max(Slow.most, Slow.now)
        Slow.seen.append(len(hints))
        Slow.begun.set()
        assert Slow.go.wait(20)
        Slow.now -= 1
        return preview(prepared, hints, finish)

    monkeypatch.setattr(pointhint, "preview", wait)
    return Slow


async def until(event):
    for _ in range(2000):
        if event.is_set():
            return
        await asyncio.sleep(0.01)
    pytest.fail("nothing began")


def test_what_a_newer_request_has_replaced_is_not_computed(served, body, slow):
    """Of four requests the first is in work and the last waits; those between are dropped."""

    async def talk(client):
        def send(number):
            given = body(number=number, hints=written(*[RED] * number))
            return asyncio.ensure_future(client.post(PREVIEW, json=given))

        first = send(1)
        await until(slow.begun)
        others = [send(number) for number in (2, 4, 3)]
        async with client.get("/") as answer:  # the server goes on
            assert answer.status == 404
        await asyncio.sleep(0.3)
        slow.go.set()
        answers = await asyncio.gather(first, *others)
        return [(a.status, a.headers["X-Colorist-Number"], len(await a.read())) for a in answers]

    answers = served(talk)
    assert [status for status, _, _ in answers] == [200, 204, 200, 204]
    assert [number for _, number, _ in answers] == ["1", "2", "4", "3"]
    assert slow.seen == [1, 4]
    assert slow.most == 1
    assert answers[1][2] == 0


def test_reloaded_page_counts_from_the_beginning(post, body):
    assert [post(PREVIEW, body(number=number))[0] for number in (100, 1, 2)] == [200, 200, 200]


def test_nodes_do_not_drop_each_others_requests(host, served, body, canvas, pointhint, grey, slow):
    options = {"base": None, "mask": None, "resolution": 64}
    finish = host.nodes.pointhint.Finish()
    other = canvas.open_session("13", pointhint, grey(1), finish=finish, **options)

    async def talk(client):
        given = [body(number=9), body(number=2, node="13", session=other.token)]
        sent = [asyncio.ensure_future(client.post(PREVIEW, json=item)) for item in given]
        await until(slow.begun)
        await asyncio.sleep(0.2)
        slow.go.set()
        return [answer.status for answer in await asyncio.gather(*sent)]

    assert served(talk) == [200, 200]
    assert slow.most == 1


# ---- registration ----


def test_the_pack_loads_without_a_server(host, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    assert host.bridge.routes() is None
    assert not host.bridge.queue_is_busy()
    host.nodes.extension()


def test_routes_are_registered_once(host, server, caplog):
    """A second one of the same address would stop the host's server."""
    host.nodes.extension()
    assert sorted(route.path for route in server.routes) == [AREA, NEXT, PREVIEW, SUGGEST]
    host.nodes.extension()
    assert len(server.routes) == 4
    assert "installed twice" in caplog.text


def test_what_goes_wrong_in_registration_costs_no_nodes(host, server, monkeypatch, caplog):
    monkeypatch.setattr(server, "routes", object())
    extension = host.nodes.extension()
    assert asyncio.run(extension.get_node_list()) == host.nodes.NODES
    assert "works without previews" in caplog.text
