"""`colorist references`, as a user types it."""

import json

import numpy as np
import pytest
from comfyui_colorist import cli
from PIL import Image


def picture(path, seed: int = 0, mode: str = "RGB"):
    """Patches of colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4 + seed % 3, 5, 3), np.uint8)
    Image.fromarray(values).resize((64, 48), Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Four colour photos, a grey and a damaged one."""
    monkeypatch.setenv("COLORIST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "album"
    for i in range(4):
        picture(folder / ("sub" if i == 3 else "") / f"{i}.png", seed=i)
    picture(folder / "grey.png", seed=9, mode="L")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def run(*arguments: object) -> int:
    return cli.main(["references", *map(str, arguments), "--device", "cpu"])


def test_best_first(album, tmp_path, capsys, caplog):
    target = picture(tmp_path / "t.png", seed=3, mode="L")
    assert run(target, album, "--count", 3) == 0
    out, err = capsys.readouterr()
    scores, names = zip(*(line.split(maxsplit=1) for line in out.splitlines()), strict=True)
    assert names[0] == str(album / "sub" / "3.png") and len(set(names)) == 3
    assert [float(score) for score in scores] == sorted(float(score) for score in scores)
    assert " 6/6 [" in err and "left out: 1 gray, 1 unreadable." in err
    assert "skipped: bad.png: not an image." in caplog.text


def test_json_and_the_index(album, tmp_path, capsys):
    target = picture(tmp_path / "t.png", seed=30)

    def shown(*options) -> dict:
        assert run(target, album, "--json", *options) == 0
        return json.loads(capsys.readouterr().out)

    plain = shown("--no-index")
    assert not (tmp_path / "cache").exists()
    first = shown()
    assert first == plain == shown()
    assert len(list((tmp_path / "cache" / "references").iterdir())) == 1
    assert first["target"] == str(target) and first["photos"] == 4
    assert first["grey"] == [str(album / "grey.png")]
    (bad,) = first["unreadable"]
    assert bad["file"] == str(album / "bad.png") and bad["error"].startswith("bad.png: not an im")
    assert len(first["references"]) == 4
    for match in first["references"]:
        assert set(match) == {"file", "score", "similarity"}
        assert match["similarity"] == pytest.approx(1 - match["score"])


def test_the_target_is_not_its_own_reference(album, capsys):
    assert run(album / "0.png", album) == 0
    names = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == 3 and str(album / "0.png") not in names


def test_errors(album, tmp_path, capsys):
    target = picture(tmp_path / "t.png")
    for arguments, code, words in (
        ((tmp_path / "no.png", album), 2, "no.png: no such image"),
        ((target, tmp_path / "no"), 2, "no: no such folder"),
        ((target, album, "--count", 0), 2, "--count is 0; expected at least 1"),
        ((album / "bad.png", album), 1, "bad.png: not an image"),
    ):
        assert run(*arguments) == code
        assert words in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(target, empty) == 1
    assert "no images in this folder" in capsys.readouterr().err
    picture(empty / "grey.png", mode="L")
    assert run(target, empty) == 1
    assert "none of the 1 photos can be a reference: 1 gray" in capsys.readouterr().err
