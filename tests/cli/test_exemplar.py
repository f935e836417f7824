"""`colorist exemplar`, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
from comfyui_colorist import cli
from comfyui_colorist.media import image_io
from comfyui_colorist.pipeline.references import search
from PIL import Image


@pytest.fixture(scope="module")
def model(mini_exemplar_file) -> list[str]:
    return ["--model", str(mini_exemplar_file), "--resolution", "64", "--device", "cpu"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLORIST_CACHE", str(tmp_path / "cache"))


def picture(path: Path, seed: int = 0, channels: int = 1, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4, 4) if channels == 1 else (4, 4, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def pixels(path: Path) -> np.ndarray:
    return image_io.read_image(path).pixels


def test_colors_come_from_the_reference(tmp_path, model, capsys):
    photo = picture(tmp_path / "a.png")
    for name, seed in (("one", 1), ("two", 2)):
        reference = picture(tmp_path / f"{name}.png", seed, 3)
        assert run("exemplar", photo, "--reference", reference, "-o", tmp_path / name, *model) == 0
    first, second = (pixels(tmp_path / name / "a.png") for name in ("one", "two"))
    assert first.shape == (48, 64, 3)
    assert np.abs(first - second).max() > 0.02
    assert capsys.readouterr().err.endswith("1 written.\n")


def test_several_references_and_confidence(tmp_path, model):
    photo = picture(tmp_path / "a.png")
    inputs = [picture(tmp_path / f"{i}.png", i, 3, (40 + 10 * i, 50)) for i in (1, 2)]
    out = tmp_path / "out"
    command = ["exemplar", photo, "--reference", *inputs, "-o", out, "--confidence", "--json"]
    assert run(*command, *model) == 0
    confidence = pixels(out / "a-confidence.png")
    assert confidence.shape[:2] == (48, 64)
    assert run("exemplar", photo, "--reference", inputs[0], "-o", tmp_path / "alone", *model) == 0
    assert np.abs(pixels(out / "a.png") - pixels(tmp_path / "alone" / "a.png")).max() > 0.004


def test_confidence_is_an_output(tmp_path, model, capsys):
    """Nothing is replaced by it unasked, and what is missing of it is made up for."""
    inputs = [picture(tmp_path / "in" / name, i) for i, name in enumerate(("a.png", "b.png"))]
    reference = picture(tmp_path / "r.png", 1, 3)
    base = ["exemplar", *inputs, "--reference", reference, "-o", tmp_path / "out", *model]
    assert run(*base) == 0
    colored = (tmp_path / "out" / "a.png").read_bytes()
    assert run(*base, "--confidence", "--json") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a-confidence.png", "a.png", "b-confidence.png", "b.png"]
    assert (tmp_path / "out" / "a.png").read_bytes() == colored
    record = json.loads(capsys.readouterr().out)["files"][0]
    assert [Path(path).name for path in record["outputs"]] == ["a.png", "a-confidence.png"]
    assert run(*base, "--confidence") == 0
    assert capsys.readouterr().err.endswith("2 skipped.\n")


def test_confidence_name_conflicts(tmp_path, model, capsys):
    inputs = [picture(tmp_path / "in" / name) for name in ("a.png", "a-confidence.png")]
    reference = picture(tmp_path / "r.png", 1, 3)
    options = ["--reference", reference, "--confidence", "--overwrite", *model]
    assert run("exemplar", *inputs, "-o", tmp_path / "out", *options) == 0
    assert "a.png -> a.png.png" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a-confidence-confidence.png",
        "a-confidence.png",
        "a.png-confidence.png",
        "a.png.png",
    ]
    before = inputs[1].read_bytes()
    assert run("exemplar", inputs[1], inputs[0], "-o", tmp_path / "in" / "sub", *options) == 0
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b-confidence.png").symlink_to(inputs[1])
    other = picture(tmp_path / "b.png")
    more = ["exemplar", other, inputs[1], "-o", tmp_path / "sub", *options]
    assert run(*more) == 2
    assert "originals are never overwritten" in capsys.readouterr().err
    assert inputs[1].read_bytes() == before


def test_fallback(tmp_path, model, mini_file):
    photo, reference = picture(tmp_path / "a.png"), picture(tmp_path / "r.png", 1, 3)
    base = ["exemplar", photo, "--reference", reference, "--fallback", mini_file, *model]
    for threshold in (0, 1):
        out = tmp_path / str(threshold)
        assert run(*base, "--threshold", threshold, "-o", out) == 0
    assert run("exemplar", photo, "--reference", reference, "-o", tmp_path / "none", *model) == 0
    low, high, none = (pixels(tmp_path / name / "a.png") for name in ("0", "1", "none"))
    assert np.abs(low - none).mean() < np.abs(high - none).mean()


def test_best_reference_of_a_folder(tmp_path, model, monkeypatch, capsys):
    photos = [picture(tmp_path / "in" / f"{i}.png", i) for i in (1, 2)]
    for i in (1, 2, 3):
        picture(tmp_path / "album" / f"r{i}.png", i, 3)
    wanted = {1: 2, 2: 0}  # picture -> place in the folder

    def find(target, gallery, colorizer, *, count, index, progress=None):
        assert count == 1 and index is not None
        same = next(i for i in (1, 2) if np.array_equal(target, pixels(photos[i - 1])))
        return search.Ranking(matches=[search.Match(wanted[same], 0.1)])

    monkeypatch.setattr(search, "find_references", find)
    reference = ["--reference", tmp_path / "album"]
    assert run("exemplar", tmp_path / "in", *reference, "-o", tmp_path / "out", *model) == 0
    assert "  reference: r3.png\n" in capsys.readouterr().err
    direct = ["--reference", tmp_path / "album" / "r3.png", "-o", tmp_path / "direct"]
    assert run("exemplar", photos[0], *direct, *model) == 0
    assert np.array_equal(pixels(tmp_path / "out" / "1.png"), pixels(tmp_path / "direct" / "1.png"))


def test_bad_image_does_not_stop_the_rest(tmp_path, model, capsys):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    reference = picture(tmp_path / "r.png", 1, 3)
    command = ["exemplar", tmp_path / "in", "--reference", reference, "-o", tmp_path / "out"]
    assert run(*command, "--json", *model) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["written"], record["failed"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threshold", "0.3"], "name one with --fallback"),
        (["--best", "0"], "--best is 0"),
        (["--finish", "published", "--fallback", "ddcolor-nano"], "leave out --fallback"),
        (["--finish", "published", "--strength", "0.5"], "leave out --strength"),
        (["--fallback", "SELF"], "expected one with the role 'automatic'"),
    ],
)
def test_usage_errors(tmp_path, model, options, told, capsys):
    photo, reference = picture(tmp_path / "a.png"), picture(tmp_path / "r.png", 1, 3)
    options = [model[1] if option == "SELF" else option for option in options]
    out = tmp_path / "out"
    assert run("exemplar", photo, "--reference", reference, "-o", out, *options, *model) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_invalid_references(tmp_path, model, capsys):
    photo, out = picture(tmp_path / "a.png"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for reference, told in (
        (tmp_path / "none.png", "none.png"),
        (tmp_path / "empty", "no images in this folder"),
        (picture(tmp_path / "grey.png"), "is gray; expected a color image"),
    ):
        assert run("exemplar", photo, "--reference", reference, "-o", out, *model) == 2
        assert told in capsys.readouterr().err


def test_models_of_another_role(tmp_path, model, mini_file, capsys):
    photo, reference = picture(tmp_path / "a.png"), picture(tmp_path / "r.png", 1, 3)
    command = ["exemplar", photo, "--reference", reference, "-o", tmp_path / "out"]
    assert run(*command, "--model", mini_file) == 2
    assert "colorist colorize" in capsys.readouterr().err
    assert run("colorize", photo, "-o", tmp_path / "out", *model) == 2
    assert "colorist exemplar" in capsys.readouterr().err
