"""`colorist measure`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_colorist import cli
from comfyui_colorist.cli.commands import measure
from comfyui_colorist.media import image_data, image_io
from comfyui_colorist.metrics import image as image_metrics
from PIL import Image

SCORES = ("psnr", "ssim", "ciede2000", "colorfulness", "true_colorfulness", "delta_colorfulness")
FILM = ("flicker", "still_deviation")  # see test_video.py


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    """Four by four patches of colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 4), np.uint8)
    image = Image.fromarray(values[..., :3]).resize(size).convert(mode)
    image.save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main(["measure", *map(str, arguments)])


def shown(capsys, *arguments: object, code: int = 0) -> dict:
    """What --json prints."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(image_io.read_image(path).pixels[..., :3]).movedim(-1, 0)[None]


# --- Numbers -----------------------------------------------------------------------------------


def test_single_image_and_truth(tmp_path, capsys):
    result, truth = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", seed=1)
    found = shown(capsys, result, truth)
    assert (found["measured"], found["failed"]) == (1, 0)
    (entry,) = found["files"]
    assert (entry["result"], entry["truth"]) == (str(result), str(truth))
    assert entry["reference"] is None and entry["error"] is None and "his" not in entry
    rgb, true_rgb = pixels(result), pixels(truth)
    for name in ("psnr", "ssim", "ciede2000"):
        assert entry[name] == pytest.approx(getattr(image_metrics, name)(rgb, true_rgb).item())
    values = [image_metrics.colorfulness(image).item() for image in (rgb, true_rgb)]
    assert [entry["colorfulness"], entry["true_colorfulness"]] == pytest.approx(values)
    assert entry["delta_colorfulness"] == pytest.approx(abs(values[0] - values[1]))
    assert found["mean"] == {name: entry[name] for name in SCORES}


def test_truth_as_result(tmp_path, capsys):
    path = picture(tmp_path / "a.png")
    assert run(path, path, "--reference", path) == 0
    out, err = capsys.readouterr()
    heading, row = out.splitlines()
    assert " ".join(heading.split()) == "PSNR dB SSIM HIS CIEDE2000 colorfulness delta-CF"
    name, *cells = row.split()
    assert name == "a.png"
    colorfulness = image_metrics.colorfulness(pixels(path)).item()
    assert cells == ["50.00", "1.0000", "1.000", "0.00", f"{colorfulness:.1f}", "0.0"]
    assert len(heading) == len(row)
    assert err.endswith("1 measured.\n")


def test_colorfulness_without_truth(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    grey = picture(tmp_path / "in" / "b.png", mode="L")  # one channel in the file
    found = shown(capsys, tmp_path / "in")
    assert [list(entry) for entry in found["files"]] == [
        ["result", "truth", "reference", "colorfulness", "error"]
    ] * 2
    colorful, colorless = (entry["colorfulness"] for entry in found["files"])
    assert colorful > 20 and colorless < 0.01
    assert found["mean"]["colorfulness"] == pytest.approx((colorful + colorless) / 2)
    assert run(grey) == 0
    assert capsys.readouterr().out.split() == ["colorfulness", "b.png", "0.0"]


def test_gray_alpha_and_bit_depth(tmp_path, capsys):
    truth = picture(tmp_path / "a.png")
    values = image_io.read_image(truth).pixels
    alpha = np.concatenate([values, np.full_like(values[..., :1], 0.5)], axis=2)
    image_io.write_image(tmp_path / "deep.png", alpha, image_data.ImageMetadata(bit_depth=16))
    (entry,) = shown(capsys, tmp_path / "deep.png", truth)["files"]
    assert (entry["psnr"], entry["ssim"]) == (pytest.approx(50), pytest.approx(1, abs=1e-6))
    (entry,) = shown(capsys, picture(tmp_path / "grey.png", mode="L"), truth)["files"]
    assert entry["colorfulness"] < 0.01
    assert entry["delta_colorfulness"] == pytest.approx(entry["true_colorfulness"], abs=0.01)


# --- HIS goes with SSIM ------------------------------------------------------------------------


def test_his_is_shown_with_ssim_and_a_note(tmp_path, capsys):
    result, truth = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", seed=1)
    reference = picture(tmp_path / "c.png", seed=2, size=(17, 50))
    (entry,) = shown(capsys, result, truth, "--reference", reference)["files"]
    expected = image_metrics.histogram_intersection(pixels(result), pixels(reference)).item()
    assert entry["his"] == pytest.approx(expected)
    assert 0 < entry["his"] < 0.99 and entry["ssim"] < 0.99
    assert entry["reference"] == str(reference)
    assert run(result, truth, "--reference", reference) == 0
    out, err = capsys.readouterr()
    assert " SSIM HIS " in " ".join(out.splitlines()[0].split())
    assert "read HIS together with SSIM" in err
    assert run(result, truth) == 0
    out, err = capsys.readouterr()
    assert "HIS" not in out + err


def test_his_needs_truth(tmp_path, capsys):
    result = picture(tmp_path / "a.png")
    assert run(result, "--reference", result) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "--reference adds HIS, which is only meaningful together with SSIM" in err


# --- Folders -----------------------------------------------------------------------------------


def partners(found: dict, key: str = "truth") -> dict[str, str | None]:
    """Name of the result -> name of its partner."""
    return {
        Path(entry["result"]).name: entry[key] and Path(entry[key]).name
        for entry in found["files"]
        if entry["result"]
    }


def test_folders_are_matched_by_path_then_stem(tmp_path, capsys):
    results, truths = tmp_path / "results", tmp_path / "truths"
    for name in ("a.png", "sub/a.png", "sub/b.png", "sub/deep/c.png", "d.v2.png"):
        picture(results / name)
    for name in ("a.png", "sub/a.bmp", "other/b.bmp", "sub/deep/c.png", "other/c.png", "d.v2.bmp"):
        picture(truths / name)
    found = shown(capsys, results, truths, code=1)
    matched = {entry["result"]: entry["truth"] for entry in found["files"]}
    expected = {
        "a.png": "a.png",
        "d.v2.png": "d.v2.bmp",
        "sub/a.png": "sub/a.bmp",  # the one beside it, not that of the same name
        "sub/b.png": "other/b.bmp",  # the only one
        "sub/deep/c.png": "sub/deep/c.png",
    }
    assert {str(results / a): str(truths / b) for a, b in expected.items()} == {
        result: truth for result, truth in matched.items() if result
    }
    (left,) = [entry for entry in found["files"] if not entry["result"]]
    assert left["truth"] == str(truths / "other" / "c.png")
    assert f"other/c.png: no result of this name in {results}." in left["error"]
    (truths / "other" / "c.png").unlink()
    assert shown(capsys, results, truths)["failed"] == 0


def test_mean_comes_last(tmp_path, capsys):
    for index in range(3):
        picture(tmp_path / "results" / f"{index}.png", seed=index)
        picture(tmp_path / "truths" / f"{index}.png", seed=index + 1)
    found = shown(capsys, tmp_path / "results", tmp_path / "truths")
    for name in SCORES:
        values = [entry[name] for entry in found["files"]]
        assert found["mean"][name] == pytest.approx(sum(values) / 3)
    assert run(tmp_path / "results", tmp_path / "truths") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PSNR", "0.png", "1.png", "2.png", "mean"]
    assert lines[-1].split()[1] == f"{found['mean']['psnr']:.2f}"
    assert len({len(line) for line in lines}) == 1


def test_unpaired_files_are_reported(tmp_path, capsys):
    results, truths = tmp_path / "results", tmp_path / "truths"
    for name in ("a.png", "b.png", "c.png"):
        picture(results / name)
    for name in ("a.png", "x/c.png", "y/c.png"):
        picture(truths / name)
    assert run(results, truths) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["PSNR", "a.png"]
    assert f"failed: b.png: no image of this name in {truths}.\n" in err
    assert f"c.png: 2 images of this name in {truths}: x/c.png, y/c.png.\n" in err
    assert "1 measured, 4 failed." in err


def test_one_truth_for_all_results(tmp_path, capsys):
    """As of variations."""
    truth = picture(tmp_path / "photo.png")
    for index in range(2):
        picture(tmp_path / "results" / f"photo-{index}.png", seed=index)
    found = shown(capsys, tmp_path / "results", truth)
    assert partners(found) == {"photo-0.png": "photo.png", "photo-1.png": "photo.png"}
    assert found["files"][0]["ssim"] == 1 > found["files"][1]["ssim"]


def test_one_result_in_a_folder_of_truths(tmp_path, capsys):
    for name in ("a.bmp", "b.bmp"):
        picture(tmp_path / "truths" / name)
    found = shown(capsys, picture(tmp_path / "b.png"), tmp_path / "truths")
    assert partners(found) == {"b.png": "b.bmp"}


def test_references_one_each_or_one_for_all(tmp_path, capsys):
    results, truths, references = (tmp_path / name for name in ("results", "truths", "references"))
    for index in range(2):
        picture(results / f"{index}.png", seed=index)
        picture(truths / f"{index}.png", seed=index)
        picture(references / f"{index}.jpg", seed=index)
    picture(references / "unused.png")
    found = shown(capsys, results, truths, "--reference", references)
    assert partners(found, "reference") == {"0.png": "0.jpg", "1.png": "1.jpg"}
    assert found["mean"]["his"] > 0.8
    found = shown(capsys, results, truths, "--reference", references / "0.jpg")
    assert found["files"][0]["his"] > 0.8 > 0.6 > found["files"][1]["his"]
    (references / "1.jpg").unlink()
    found = shown(capsys, results, truths, "--reference", references, code=1)
    assert (found["measured"], found["failed"]) == (1, 1)
    assert found["files"][1]["error"] == f"1.png: no image of this name in {references}."


def test_nested_folders(tmp_path, capsys):
    """As `colorist colorize album -o album/coloured` leaves them."""
    album = tmp_path / "album"
    coloured = album / "coloured"
    for name in ("a.png", "sub/b.png"):
        picture(album / name)
        picture(coloured / name, seed=1)
    assert shown(capsys, coloured, album)["measured"] == 2
    assert shown(capsys, album, coloured)["measured"] == 2
    assert shown(capsys, album, album)["mean"]["ssim"] == 1


# --- Bad files, bad wishes ---------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(tmp_path, capsys):
    results, truths = tmp_path / "results", tmp_path / "truths"
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        picture(results / name)
        picture(truths / name)
    (results / "a.png").write_text("hello")
    (truths / "b.png").write_text("hello")
    picture(results / "c.png", size=(41, 30))
    picture(results / "d.png", size=(40, 10)), picture(truths / "d.png", size=(40, 10))
    found = shown(capsys, results, truths, code=1)
    assert (found["measured"], found["failed"]) == (1, 4)
    a, b, c, d, e = found["files"]
    assert a["error"].startswith("a.png: not an image.")
    assert b["error"].startswith("b.png: not an image.")
    assert c["error"] == (
        "c.png: 41x30 pixels, but its truth c.png has 40x30; the sizes must agree."
    )
    assert d["error"] == "d.png: the images have 40x10 pixels; SSIM needs at least 11x11."
    assert e["error"] is None
    assert found["mean"]["ssim"] == e["ssim"] == 1
    assert not set(SCORES) & set(a)
    assert run(results, truths) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2  # of one picture there is no mean
    assert "[1/5] failed: a.png: not an image." in err
    assert err.endswith("1 measured, 4 failed.\n")


def test_nothing_measured(tmp_path, capsys):
    truth = picture(tmp_path / "a.png")
    found = shown(capsys, tmp_path / "missing.png", truth, code=1)
    assert found["files"][0]["error"].startswith("missing.png: no such file;")
    assert (found["mean"], found["measured"]) == ({}, 0)
    assert run(tmp_path / "missing.png", truth) == 1
    assert capsys.readouterr().out == ""
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 1
    assert "empty: no images in this folder" in capsys.readouterr().err


def test_invalid_truths_and_references(tmp_path, capsys):
    path, empty = picture(tmp_path / "in" / "a.png"), tmp_path / "empty"
    empty.mkdir()
    for arguments, reported in (
        ([path, tmp_path / "no"], "no: no such file or folder."),
        ([path, path, "--reference", tmp_path / "no"], "no: no such file or folder."),
        ([path, empty], "empty: no images in this folder"),
        ([path.parent, tmp_path], f"{tmp_path}: no images outside of IN."),  # all are RESULT's
    ):
        assert run(*arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert reported in err


def test_ambiguous_names(tmp_path):
    with pytest.raises(SystemExit) as left:
        run(picture(tmp_path / "a.png"), tmp_path / "b.png", tmp_path / "c.png")
    assert left.value.code == 2


def test_interrupted(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(image_metrics, "colorfulness", stop)
    assert run(picture(tmp_path / "a.png")) == 130
    assert capsys.readouterr().err == "stopped.\n"


# --- As a program ------------------------------------------------------------------------------


def test_columns_are_all_scores():
    assert set(measure.COLUMNS) == {*SCORES, "his", *FILM} - {"true_colorfulness"}
    order = list(measure.COLUMNS)
    assert abs(order.index("his") - order.index("ssim")) == 1


def test_undecodable_names_are_escaped(tmp_path, capsys):
    """Latin-1, as Python reads it from the disk."""
    name = "caf\udce9.png"
    try:
        picture(tmp_path / "in" / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    assert run(tmp_path / "in") == 0
    assert "caf\\udce9.png" in capsys.readouterr().out


def test_help_imports_only_the_standard_library(root):
    standalone = str(root / "trainers" / "_standalone.py")
    script = (
        f"import runpy, sys; runpy.run_path({standalone!r})['package']();"
        "from comfyui_colorist.cli.commands import measure;"
        "print([name for name in ('torch', 'numpy', 'PIL', 'av') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
