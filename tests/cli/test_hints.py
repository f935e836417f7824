"""`colorist hints`, as a user types it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_colorist import cli
from comfyui_colorist.media import image_io
from comfyui_colorist.ops import color
from PIL import Image

RED = {"x": 0.25, "y": 0.5, "color": "#c03030", "size": 4}
BLUE = {"x": 0.75, "y": 0.5, "color": "#3050c0", "size": 4}


@pytest.fixture(scope="module")
def model(mini_pointhint_file) -> list[str]:
    return ["--model", str(mini_pointhint_file), "--resolution", "64", "--device", "cpu"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(64, 192, (4, 4), np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


def written(*points: dict) -> str:
    return json.dumps({"version": 1, "points": points})


def hints_file(path: Path, *points: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(*points), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def swapped(*points: dict) -> list[dict]:
    """The same places with each other's colours."""
    colors = [point["color"] for point in reversed(points)]
    return [{**point, "color": color} for point, color in zip(points, colors, strict=True)]


def ab(path: Path) -> np.ndarray:
    """(2, H, W)."""
    rgb = torch.from_numpy(image_io.read_image(path).pixels).movedim(-1, 0)[:3]
    return color.rgb_to_lab(rgb)[1:].numpy()


@pytest.mark.parametrize("way", ["text", "file", "stdin", "file with a mark"])
def test_hints_color_their_surroundings(tmp_path, model, way, monkeypatch, capsys):
    photo, hints = picture(tmp_path / "a.png"), written(RED, BLUE)
    if way.startswith("file"):
        file = tmp_path / "points.txt"
        file.write_text(hints, encoding="utf-8-sig" if "mark" in way else "utf-8")
        hints = file
    elif way == "stdin":
        monkeypatch.setattr("sys.stdin", io.StringIO(hints))
        hints = "-"
    assert run("hints", photo, "--hints", hints, "-o", tmp_path / "out", *model) == 0
    assert capsys.readouterr().err.endswith("1 written.\n")
    other = ["--hints", written(*swapped(RED, BLUE)), "-o", tmp_path / "other"]
    assert run("hints", photo, *other, *model) == 0
    warmer = (ab(tmp_path / "out" / "a.png") - ab(tmp_path / "other" / "a.png")).sum(axis=0)
    assert warmer.shape == (48, 64)
    assert warmer[22:26, 14:18].mean() - warmer[22:26, 46:50].mean() > 15


def test_no_hint_points(tmp_path, model):
    photo = picture(tmp_path / "a.png")
    same_bytes = [*model, "--no-provenance"]
    for i, hints in enumerate((written(), "")):
        assert run("hints", photo, "--hints", hints, "-o", tmp_path / f"{i}.png", *same_bytes) == 0
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_folder_of_hints_for_a_folder_tree(tmp_path, model):
    for name in ("a.png", "sub/a.jpg"):
        picture(tmp_path / "in" / name)
    hints_file(tmp_path / "points" / "a.json", {**RED, "x": 0.5})
    hints_file(tmp_path / "points" / "sub" / "a.json", {**BLUE, "x": 0.5})
    command = ["hints", tmp_path / "in", "--hints", tmp_path / "points", "-o", tmp_path / "out"]
    assert run(*command, *model) == 0
    red, blue = ab(tmp_path / "out" / "a.png"), ab(tmp_path / "out" / "sub" / "a.jpg")
    assert red[1, 24, 32] - blue[1, 24, 32] > 15


def test_image_and_output_of_different_names(tmp_path, model):
    photo = picture(tmp_path / "in" / "b.png")
    hints_file(tmp_path / "points" / "b.json", {**RED, "x": 0.5})
    out = tmp_path / "else.tif"
    assert run("hints", photo, "--hints", tmp_path / "points", "-o", out, *model) == 0
    assert run("hints", photo, "--hints", written(), "-o", tmp_path / "none.tif", *model) == 0
    assert (ab(out) - ab(tmp_path / "none.tif"))[0, 24, 32] > 15


def test_images_without_hints_fail(tmp_path, model, capsys):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "in" / name)
    hints_file(tmp_path / "points" / "a.json", RED)
    hints_file(tmp_path / "points" / "c.json", RED, {"x": 0.5})
    command = ["hints", tmp_path / "in", "--hints", tmp_path / "points", "-o", tmp_path / "out"]
    assert run(*command, "--json", *model) == 1
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert (record["written"], record["failed"]) == (1, 2)
    errors = {Path(job["input"]).name: job["error"] for job in record["files"]}
    assert errors["a.png"] is None
    assert "b.png: it has no hints; expected " in errors["b.png"]
    assert "c.json: point 2: y is missing, color is missing" in errors["c.png"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_overlay(tmp_path, model, capsys):
    photo = picture(tmp_path / "a.png", size=(128, 96))
    base = ["hints", photo, "--hints", written(RED), "-o", tmp_path / "out", *model]
    assert run(*base) == 0
    colored = (tmp_path / "out" / "a.png").read_bytes()
    assert run(*base, "--overlay", "--json") == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == colored
    record = json.loads(capsys.readouterr().out)["files"][0]
    assert [Path(path).name for path in record["outputs"]] == ["a.png", "a-hints.png"]
    a, b = ab(tmp_path / "out" / "a-hints.png")
    assert a[48, 32] > 10
    assert max(np.abs(a[:, 64:]).max(), np.abs(b[:, 64:]).max()) < 0.5


def test_finish_options_and_base(tmp_path, model, mini_file):
    photo = picture(tmp_path / "a.png")
    base = ["hints", photo, "--hints", written(), *model, "--base", mini_file]
    assert run(*base, "-o", tmp_path / "based.png") == 0
    own = ["--model", mini_file, "--resolution", 64, "--device", "cpu"]
    assert run("colorize", photo, "-o", tmp_path / "own.png", *own) == 0
    assert run(*base, "-o", tmp_path / "grey.png", "--saturation", 0) == 0
    based, grey = ab(tmp_path / "based.png"), ab(tmp_path / "grey.png")
    assert np.abs(based).mean() > 1
    assert np.abs(grey).max() < 0.5


@pytest.mark.parametrize(
    ("hints", "told"),
    [
        ("none.json", "no such file or folder, and not JSON"),
        ('{"version": 3, "points": []}', "version 3"),
        ("{", "the hints are not JSON"),
        ('[{"x": 0.5, "y": 0.5, "color": "#ffffff"}]', "expected an object with version"),
        (written(RED, {**RED, "color": "reddish"}), "point 2: color is 'reddish'"),
    ],
)
def test_wrong_hints(tmp_path, model, hints, told, capsys):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    assert run("hints", photo, "--hints", hints, "-o", out, *model) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_wrong_hint_file_is_named(tmp_path, model, capsys):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    for data in (b"\xff\xfe\x00", b"{"):
        (tmp_path / "points.json").write_bytes(data)
        assert run("hints", photo, "--hints", tmp_path / "points.json", "-o", out, *model) == 2
        assert "points.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--base", "SELF"], "expected one with the role 'automatic'"),
        (["--strength", "2"], "strength is 2.0; expected 0 to 1"),
        (["--resolution", "8"], "resolution is 8; this network needs at least"),
    ],
)
def test_usage_errors(tmp_path, model, options, told, capsys):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    options = [model[1] if option == "SELF" else option for option in options]
    command = ["hints", photo, "--hints", written(RED), "-o", out, *model, *options]
    assert run(*command) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_base_for_a_model_without_prior(tmp_path, mini_pointhint_network, mini_file, capsys):
    import dataclasses

    from comfyui_colorist.model_defs import checkpoint

    config = dataclasses.asdict(mini_pointhint_network.config)
    info = {"architecture": "pointhint", "config": config}
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(checkpoint.to_bytes(mini_pointhint_network.state_dict(), info))
    command = ["hints", picture(tmp_path / "a.png"), "--hints", "", "-o", tmp_path / "out"]
    assert run(*command, "--model", plain, "--base", mini_file, "--device", "cpu") == 2
    assert "leave out the base" in capsys.readouterr().err


def test_models_of_another_role(tmp_path, model, mini_file, capsys):
    photo = picture(tmp_path / "a.png")
    command = ["hints", photo, "--hints", written(RED), "-o", tmp_path / "out"]
    assert run(*command, "--model", mini_file) == 2
    assert "Use colorist colorize for this model" in capsys.readouterr().err
    assert run("colorize", photo, "-o", tmp_path / "out", *model) == 2
    assert "Use colorist hints for this model" in capsys.readouterr().err


# ---- --suggest ----


def points_in(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["points"]


def test_suggested_points_can_be_corrected_and_used(tmp_path, model, capsys):
    photo, points = picture(tmp_path / "a.png"), tmp_path / "new" / "points.json"
    assert run("hints", photo, "--suggest", 4, "-o", points, "--json", *model) == 0
    shown = capsys.readouterr()
    assert "points.json: 4 points leave " in shown.err
    assert json.loads(shown.out)["files"][0]["outputs"] == [str(points)]
    assert len(points_in(points)) == 4
    assert [path.name for path in points.parent.iterdir()] == ["points.json"]
    assert run("hints", photo, "--hints", points, "-o", tmp_path / "out", *model) == 0


def test_existing_points_are_kept_and_corrected_ones_never_overwritten(tmp_path, model):
    photo, points = picture(tmp_path / "a.png"), tmp_path / "points.json"
    command = ["hints", photo, "--hints", written(RED), "--suggest", 2, "-o", points, *model]
    assert run(*command) == 0
    first, *others = points_in(points)
    assert first == RED and len(others) == 2
    hints_file(points, BLUE)
    assert run(*command) == 0
    assert run(*command, "--overlay") == 0
    assert points_in(points) == [BLUE]
    a, b = ab(tmp_path / "points-hints.png")
    assert b[22:26, 46:50].mean() < -5 and abs(a[22:26, 14:18]).max() < 0.5
    assert run(*command, "--overwrite") == 0
    assert points_in(points) == [first, *others]


def test_suggestions_for_a_folder_are_hints_for_it(tmp_path, model):
    for name in ("a.png", "sub/a.jpg"):
        picture(tmp_path / "in" / name)
    points = tmp_path / "points"
    assert run("hints", tmp_path / "in", "--suggest", 2, "-o", points, *model) == 0
    assert sorted(path.relative_to(points).as_posix() for path in points.rglob("*.json")) == [
        "a.json",
        "sub/a.json",
    ]
    again = ["hints", tmp_path / "in", "--hints", points, *model]
    assert run(*again, "-o", tmp_path / "out") == 0
    assert run(*again, "--suggest", 3, "-o", tmp_path / "more") == 0
    assert points_in(tmp_path / "more" / "a.json")[:2] == points_in(points / "a.json")
    assert len(points_in(tmp_path / "more" / "sub" / "a.json")) == 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-o", "points.json"], "--hints is missing; or let --suggest N choose"),
        (["--suggest", "0", "-o", "points.json"], "--suggest is 0; expected 1 to 1000"),
        (["--suggest", "1001", "-o", "points.json"], "--suggest is 1001; expected 1 to 1000"),
        (["--suggest", "3", "-o", "out.png"], "name a .json file or a folder"),
        (["b.png", "--suggest", "3", "-o", "points.json"], "but there are more; name a folder"),
        (["--suggest", "3", "-o", "points.json", "--strength", "1"], "leave out --strength"),
        (["b.mp4", "--suggest", "3", "-o", "out"], "--suggest is for images"),
    ],
)
def test_wrong_use_of_suggest(tmp_path, model, options, told, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    assert run("hints", "a.png", *options, *model) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_regions(tmp_path, model, capsys):
    photo = picture(tmp_path / "a.png")
    pixels = np.zeros((48, 64), np.uint8)
    pixels[:, 32:] = 255
    Image.fromarray(pixels).save(tmp_path / "right=half.png")
    region = ["--region", f"{tmp_path / 'right=half.png'}=#3050c0"]
    assert run("hints", photo, *region, "--overlay", "-o", tmp_path / "blue", *model) == 0
    region[1] = region[1].replace("#3050c0", "red")
    assert run("hints", photo, *region, "--overlay", "-o", tmp_path / "red", *model) == 0
    difference = ab(tmp_path / "red" / "a.png") - ab(tmp_path / "blue" / "a.png")
    assert difference[1, :, 40:].mean() > 10 > 5 * np.abs(difference[:, :, :28]).mean()
    overlays = [ab(tmp_path / name / "a-hints.png") for name in ("red", "blue")]
    assert np.abs(overlays[0] - overlays[1]).max() > 10
    options = ["--suggest", 2, "-o", tmp_path / "points.json", *region]
    assert run("hints", photo, *options, *model) == 0
    points = json.loads((tmp_path / "points.json").read_text())["points"]
    assert len(points) == 2 and all(point["x"] < 0.5 for point in points)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        ("mask.png", "--region mask.png: expected MASK=COLOR, such as dress.png=#8a5a3c."),
        ("=red", "--region =red: expected MASK=COLOR"),
        ("mask.png=reddish", "--region mask.png=reddish: color is 'reddish'; expected #rrggbb"),
        ("mask.png=red", "mask.png"),
    ],
)
def test_bad_regions(tmp_path, model, region, sentence, capsys):
    photo = picture(tmp_path / "a.png")
    assert run("hints", photo, "--region", region, "-o", tmp_path / "out", *model) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_regions_are_for_images(tmp_path, model, capsys):
    (tmp_path / "a.mp4").touch()
    options = ["--region", "a.png=red", "-o", tmp_path / "out.mp4"]
    assert run("hints", tmp_path / "a.mp4", *options, *model) == 2
    assert "--region is for images, as a mask does not follow motion" in capsys.readouterr().err
