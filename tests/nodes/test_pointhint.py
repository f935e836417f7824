"""Load Point-Hint Colorizer and Colorize by Point Hints."""

import gc
import json
from types import SimpleNamespace

import comfyui_colorist as colorist
import pytest
import torch
from comfyui_colorist.ops import color
from PIL import Image

L_TOLERANCE = 0.02  # of 100, float32
RED = {"x": 0.25, "y": 0.5, "color": "#c03030", "size": 4}
BLUE = {"x": 0.75, "y": 0.5, "color": "#3050c0", "size": 4}


def written(*points):
    return json.dumps({"version": 1, "points": points})


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


def ab(image):
    return color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())[:, 1:]


@pytest.fixture(autouse=True)
def own_canvas(canvas):
    """Each test has its own sessions and temp folder."""


@pytest.fixture
def network(pointhint):
    return pointhint.device_manager.patcher.model


@pytest.fixture
def node(host):
    """The node as the host runs it: a class that knows its id."""
    hidden = SimpleNamespace(unique_id="7")
    return type("Running", (host.nodes.ColorizeByPointHints,), {"hidden": hidden})


@pytest.fixture
def run(node, pointhint):
    """Colorize by Point Hints at 64 pixels: its NodeOutput."""

    def execute(image, **options):
        return node.execute(image, pointhint, **{"resolution": 64, **options})

    return execute


def told(output):
    [message] = output.ui["colorist_hints"]
    return message


def shown(temp, picture):
    assert picture["type"] == "temp"
    with Image.open(temp / picture["subfolder"] / picture["filename"]) as image:
        return image.convert("RGB")


# ---- the picture ----


def test_points_colour_the_place_where_they_lie(run, grey):
    image = grey(1, 48, 64)
    colored, _, _ = run(image, hints=written(RED, BLUE)).args
    assert colored.shape == image.shape and colored.dtype == torch.float32
    assert (lightness(colored) - lightness(image)).abs().max() < L_TOLERANCE
    swapped = {**RED, "color": BLUE["color"]}, {**BLUE, "color": RED["color"]}
    warmer = (ab(colored) - ab(run(image, hints=written(*swapped)).args[0])).sum(dim=1)[0]
    assert warmer[22:26, 14:18].mean() - warmer[22:26, 46:50].mean() > 15


@pytest.mark.parametrize("hints", ["", "  ", written()])
def test_no_points_are_legal(run, grey, hints):
    colored, overlay, points = run(grey(1), hints=hints).args
    assert colored.isfinite().all()
    assert points == '{"version":1,"points":[]}'
    assert (overlay - overlay.mean(-1, keepdim=True)).abs().max() < 1e-6


def test_hints_serve_all_images(run, grey):
    image = grey(3, 48, 64)
    together = run(image, hints=written(RED))
    for i in range(3):
        alone = run(image[i : i + 1], hints=written(RED))
        torch.testing.assert_close(together.args[0][i], alone.args[0][0], atol=2e-3, rtol=0)
    assert together.args[1].shape == (3, 48, 64, 3)


def test_the_hints_follow_what_moves(run, grey):
    wide = torch.nn.functional.interpolate(grey(1, 24, 40).movedim(-1, 1), scale_factor=2.0)
    wide = wide.movedim(1, -1)
    video = torch.cat([wide[:, :, 4 * t : 4 * t + 64] for t in range(3)])  # to the left by 4
    _, overlay, points = run(video, hints=written(RED), follow=True).args
    discs = (overlay - overlay.mean(-1, keepdim=True)).abs().sum(-1) > 0.1
    middles = [disc.nonzero()[:, 1].float().mean() for disc in discs]
    assert middles[0] - middles[2] == pytest.approx(8, abs=1.5)
    assert points == run(video[:1], hints=written(RED)).args[2]
    apart = run(video[2:], hints=written(RED)).args[0]
    assert not torch.allclose(apart, run(video, hints=written(RED), follow=True).args[0][2:])


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_of_the_photo(run, grey, channels):
    image = grey(1, 40, 56, channels)
    if channels == 4:
        image[..., 3] = torch.linspace(0, 1, 56)
    colored, overlay, _ = run(image, hints=written(RED)).args
    assert colored.shape == (1, 40, 56, max(3, channels))
    assert overlay.shape == (1, 40, 56, 3)
    if channels == 4:
        assert torch.equal(colored[..., 3], image[..., 3])


def test_the_overlay_shows_the_points(run, grey):
    _, overlay, _ = run(grey(1, 96, 128), hints=written(RED, BLUE)).args
    a, b = ab(overlay)[0]
    assert a[48, 32] > 10 and b[48, 96] < -10
    assert max(a[5].abs().max(), b[5].abs().max()) < 0.1


def test_the_points_come_out_as_they_went_in(run, grey):
    sparse = {key: RED[key] for key in ("x", "y", "color")}
    points = run(grey(1), hints=written(sparse, BLUE)).args[2]
    assert json.loads(points) == {"version": 1, "points": [{**sparse, "size": 2}, BLUE]}


def test_a_mask_colours_only_inside(run, grey):
    image = grey(1)
    mask = torch.zeros(1, 40, 56)
    mask[:, :, 28:] = 1
    colored = run(image, hints=written(RED, BLUE), mask=mask).args[0]
    assert torch.equal(colored[:, :, :20], image[:, :, :20])
    assert not torch.equal(colored[:, :, 36:], image[:, :, 36:])


def test_a_region_has_one_color(run, grey, canvas, pointhint, monkeypatch):
    image, region = grey(2, 48, 64), torch.zeros(1, 24, 32)
    region[..., 16:] = 1
    options = {"hints": written(RED), "region": region, "region_color": "steelblue"}
    output = run(image, **options)
    colored, overlay, points = output.args
    plain = run(image, hints=written(RED)).args[0]
    assert (colored - plain)[:, :, 40:].abs().mean() > 5 * (colored - plain)[:, :, :24].abs().mean()
    assert points == run(image, hints=written(RED)).args[2]
    assert not torch.equal(overlay, run(image, hints=written(RED)).args[1])
    session = canvas.find_session(told(output)["session"], "7")
    preview = pointhint.preview(session.ready()[1], written(RED), session.finish)
    torch.testing.assert_close(preview, colored[0])
    assert told(run(image, **options | {"region_color": "red"}))["session"] != session.token
    assert torch.equal(run(image, hints=written(RED), region=0 * region).args[0], plain)
    with pytest.raises(ValueError, match="region 1: color is 'reddish'; expected #rrggbb"):
        run(image, **options | {"region_color": "reddish"})


def test_strokes_and_regions_of_version_2(run, grey):
    hints = json.dumps(
        {
            "version": 2,
            "strokes": [{"points": [[0.1, 0.5], [0.4, 0.5]], "color": "red", "reach": 0.2}],
            "regions": [{"points": [[0.6, 0], [1, 0], [1, 1]], "color": "blue"}],
        }
    )
    colored, _, points = run(grey(2, 48, 64), hints=hints, follow=True).args
    assert colored.isfinite().all()
    assert run(grey(2, 48, 64), hints=points).args[2] == points
    assert '"version":2' in points and '"reach":0.2' in points


def test_controls_reach_the_finish(run, grey):
    image = grey(1)
    assert torch.equal(run(image, hints=written(RED), strength=0.0).args[0], image)
    pale = run(image, hints=written(RED), saturation=0.0).args[0]
    assert ab(pale).abs().max() < 0.1


def test_without_points_the_base_stays_as_it_is(host, run, grey, colorizer):
    image = grey(2)
    resolution = colorizer.spec.resolution
    colored = run(image, colorizer=colorizer, resolution=resolution).args[0]
    own = host.nodes.Colorize.execute(image, colorizer).args[0]
    torch.testing.assert_close(colored, own, atol=2e-3, rtol=0)
    corrected = run(image, colorizer=colorizer, resolution=resolution, hints=written(BLUE)).args[0]
    assert (corrected - own).abs().max() > 0.05


def test_the_reference_is_for_the_eyedropper_alone(run, grey, temp):
    picture = torch.rand(2, 30, 20, 4)
    plain, with_it = (
        run(grey(1), hints=written(RED)),
        run(grey(1), hints=written(RED), reference=picture),
    )
    assert torch.equal(plain.args[0], with_it.args[0])
    assert told(plain)["reference"] is None
    assert shown(temp, told(with_it)["reference"]).size == (20, 30)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hints": "red"}, "the hints are not JSON"),
        ({"hints": written({**RED, "x": 2})}, "point 1: x is 2; expected a number from 0 to 1"),
        ({"upsample": "magic"}, "upsample is 'magic'; expected one of"),
        ({"strength": 2.0}, "strength is 2.0; expected 0 to 1"),
        ({"resolution": 8}, "resolution is 8; this network needs at least"),
    ],
)
def test_untrusted_values_are_refused(run, grey, options, message, canvas):
    with pytest.raises(ValueError, match=message):
        run(grey(1), **options)
    assert not canvas.COMPUTE_LOCK.locked()


def test_wrong_hints_are_refused_before_the_run(node):
    for good in (written(), written(RED), "", None):  # None: by a link
        assert node.validate_inputs(hints=good) is True
    assert node.validate_inputs() is True
    assert node.validate_inputs(hints=written(RED, {"x": 1})).startswith("point 2: ")
    assert "version 3" in node.validate_inputs(hints='{"version": 3, "points": []}')
    assert "not JSON" in node.validate_inputs(hints="{")


def test_interrupt_stops_between_images(host, run, grey, network, monkeypatch, canvas):
    runs, forward = [], network.forward

    def stop_during_second(x):
        runs.append(1)
        if len(runs) == 2:
            host.mm.interrupt_current_processing(True)
        return forward(x)

    monkeypatch.setattr(network, "forward", stop_during_second)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            run(grey(5), hints=written(RED))
    finally:
        host.mm.interrupt_current_processing(False)
    assert len(runs) == 2
    assert not canvas.COMPUTE_LOCK.locked()


def test_fp16_intermediates(host, run, grey, monkeypatch):
    monkeypatch.setattr(host.mm, "intermediate_dtype", lambda: torch.float16, raising=False)
    colored, overlay, _ = run(grey(2).half(), hints=written(RED)).args
    assert colored.dtype == overlay.dtype == torch.float16


# ---- the widget ----


def test_schema_names_the_widget_that_draws_the_hints(host, folder):
    schema = host.nodes.ColorizeByPointHints.GET_SCHEMA()
    [put] = [put for put in schema.inputs if put.id == "hints"]
    assert put.extra_dict == {"widgetType": "COLORIST_HINTS"}
    assert put.io_type == "STRING" if hasattr(put, "io_type") else put.get_io_type() == "STRING"
    assert schema.is_output_node
    if host.real:
        kind, options = host.nodes.ColorizeByPointHints.INPUT_TYPES()["required"]["hints"]
        assert kind == "STRING"
        assert options["widgetType"] == "COLORIST_HINTS"
        assert json.loads(options["default"]) == {"version": 1, "points": []}


# ---- what the page is told ----


def test_page_receives_session_and_images(run, grey, temp, canvas):
    image = grey(2, 48, 64)
    output = run(image, hints=written(RED))
    message = told(output)
    assert set(message) == {
        "session",
        "width",
        "height",
        "resolution",
        "photo",
        "result",
        "reference",
    }
    assert (message["width"], message["height"], message["resolution"]) == (64, 48, 64)
    assert canvas.find_session(message["session"], "7") is not None
    for name, batch in (("photo", image), ("result", output.args[0])):
        levels = torch.frombuffer(
            bytearray(shown(temp, message[name]).tobytes()), dtype=torch.uint8
        )
        assert torch.equal(levels.view(48, 64, 3), (batch[0] * 255).byte())
    assert json.dumps(output.ui)


def test_resolution_0_is_reported_as_that_of_the_network(run, grey, pointhint):
    assert told(run(grey(1), resolution=0))["resolution"] == pointhint.spec.resolution


def test_large_photos_are_shown_small(run, grey, temp):
    message = told(run(grey(1, 700, 1400), reference=torch.rand(1, 1000, 500, 3)))
    assert (message["width"], message["height"]) == (1400, 700)
    sizes = [shown(temp, message[name]).size for name in ("photo", "result", "reference")]
    assert sizes == [(724, 362), (724, 362), (362, 724)]


# ---- sessions ----


def test_a_session_outlives_new_hints_and_controls(run, grey, canvas):
    image = grey(1)
    first = told(run(image, hints=written(RED)))
    again = told(run(image, hints=written(BLUE), strength=0.5))
    assert again["session"] == first["session"]
    assert again["photo"] == first["photo"] and again["result"] != first["result"]
    assert canvas.find_session(first["session"], "7").finish.strength == 0.5


def test_another_photo_is_another_session(run, grey, colorizer):
    image, mask = grey(1), torch.ones(1, 40, 56)
    options = [
        {},
        {"mask": mask},
        {"mask": mask.clone()},
        {"colorizer": colorizer},
        {"resolution": 96},
    ]
    tokens = [told(run(image, **option))["session"] for option in options]
    tokens.append(told(run(image.clone()))["session"])
    assert len(set(tokens)) == len(tokens)
    assert told(run(image))["session"] == tokens[0]


def test_a_session_is_its_nodes_own(run, grey, canvas):
    token = told(run(grey(1)))["session"]
    assert canvas.find_session(token, "8") is None
    assert canvas.find_session("0" * 32, "7") is None


def test_few_photos_are_ready_and_others_are_made_ready_again(run, grey, canvas, pointhint):
    """The host would not run a node again whose inputs are the same."""
    images = [grey(1) for _ in range(canvas.MAX_READY_SESSIONS + 1)]
    tokens = [told(run(image))["session"] for image in images]
    sessions = [canvas._sessions[token] for token in tokens]
    assert [session._ready is not None for session in sessions] == [False] + [
        True
    ] * canvas.MAX_READY_SESSIONS
    want = run(images[0], hints=written(RED)).args[0][0]
    canvas._sessions[tokens[0]].release()
    session = canvas.find_session(tokens[0], "7")
    rgb = pointhint.preview(session.ready()[1], written(RED), session.finish)
    torch.testing.assert_close(rgb, want)


def test_session_without_its_photo_is_unknown(run, grey, canvas):
    token = told(run(grey(1)))["session"]
    assert canvas.find_session(token, "7")  # ready, whatever the host has let go
    canvas._sessions[token].release()
    gc.collect()
    assert canvas.find_session(token, "7") is None


def test_what_was_taken_off_and_let_go_is_not_taken_for_nothing(run, grey, mini_file):
    """Mask and base on, then off: the first session had others."""
    image, tokens = grey(1), []
    for mask, base in (
        (None, None),
        (torch.ones(1, 40, 56), None),
        (None, colorist.load(mini_file)),
    ):
        tokens.append(told(run(image, mask=mask, colorizer=base))["session"])
        del mask, base
    gc.collect()
    assert told(run(image))["session"] == tokens[0]
    assert len(set(tokens)) == 3


def test_sessions_are_bounded(run, grey, canvas, monkeypatch):
    monkeypatch.setattr(canvas, "MAX_SESSIONS", 3)
    tokens = [told(run(grey(1)))["session"] for _ in range(5)]
    assert list(canvas._sessions) == tokens[-3:]


def test_a_base_colours_a_photo_once(run, grey, colorizer, monkeypatch):
    calls, chroma = [], colorizer.chroma
    monkeypatch.setattr(
        colorizer, "chroma", lambda rgb, *rest: calls.append(len(rgb)) or chroma(rgb)
    )
    image = grey(1)
    run(image, colorizer=colorizer, hints=written(RED))
    assert calls == [1]
    run(image, colorizer=colorizer, hints=written(BLUE))
    assert calls == [1]


def test_what_the_canvas_lacks_costs_no_run(run, grey, canvas, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    want = run(grey(1), hints=written(RED)).args[0]
    monkeypatch.setattr(canvas.host, "save_temp_png", full)
    output = run(grey(1), hints=written(RED))
    assert output.ui is None and torch.equal(output.args[0], want)
    assert "temp folder" in caplog.text


def test_a_run_can_be_stopped_while_it_waits_for_a_preview(host, run, grey, canvas):
    host.mm.interrupt_current_processing(True)
    try:
        with canvas.COMPUTE_LOCK, pytest.raises(host.mm.InterruptProcessingException):
            run(grey(1))
    finally:
        host.mm.interrupt_current_processing(False)
    assert not canvas.COMPUTE_LOCK.locked()


def test_a_session_does_not_keep_the_frames(run, grey, canvas):
    frames = grey(4)
    session = canvas.find_session(told(run(frames))["session"], "7")
    storage = session.ready()[1].rgb.untyped_storage()
    assert storage.nbytes() < frames.untyped_storage().nbytes()


def test_a_preview_is_what_the_run_gives(run, grey, pointhint, canvas):
    image = grey(1, 48, 64)
    output = run(image, hints=written(RED), saturation=1.5)
    session = canvas.find_session(told(output)["session"], "7")
    rgb = pointhint.preview(session.ready()[1], written(RED), session.finish)
    torch.testing.assert_close(rgb, output.args[0][0])
