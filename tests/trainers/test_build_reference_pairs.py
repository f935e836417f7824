"""The table of retrieved references for exemplar training."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from comfyui_colorist.pipeline.references import descriptors, search
from comfyui_colorist.trainers import build_reference_pairs
from comfyui_colorist.trainers.data.photos import PhotoInputs, Photos
from comfyui_colorist.trainers.data.reference_pairs import load_pairs
from comfyui_colorist.trainers.runtime import command_line
from PIL import Image


def script(arguments):
    """Run the script and return its exit code."""
    return command_line.run_script(
        build_reference_pairs.main,
        build_reference_pairs.Config,
        build_reference_pairs.PRESETS,
        None,
        arguments,
    )


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Eight photos of colored patches, then a gray and a damaged one."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    for i in range(8):
        values = rng.integers(0, 256, (4 + i % 3, 5, 3), np.uint8)
        Image.fromarray(values).resize((64, 48)).save(folder / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (48, 64), np.uint8)).save(folder / "8.png")
    (folder / "9.png").write_bytes(b"not an image")
    return folder


def settings(out, *photos, **changes):
    return build_reference_pairs.Config(
        **({"photos": photos, "out": out, "device": "cpu"} | changes)
    )


def test_the_table(tmp_path, album, mini, mini_file, capsys):
    out = tmp_path / "new" / "pairs.json"
    table = build_reference_pairs.main(settings(out, album, encoder=str(mini_file)))
    assert json.loads(out.read_text()) == table
    assert table["version"] == 1
    assert table["encoder"] == descriptors.encoder_name(mini)
    assert table["keys"] == [str(i) for i in range(10)]
    assert table["skipped"] == {"grey": ["8"], "unreadable": ["9"]}
    assert [len(row) for row in table["top"]] == [5] * 9 + [0]
    for i, row in enumerate(table["top"]):
        assert i not in row and not {8, 9} & set(row) and len(set(row)) == len(row)
    expected = search.rank_gallery(PhotoInputs(Photos([album])), mini).top
    assert [row + [-1] * (5 - len(row)) for row in table["top"]] == expected.tolist()
    printed = capsys.readouterr()
    assert "10/10" in printed.err and "10 photos, " in printed.out
    assert "left out: 1 gray, 1 unreadable.\n" in printed.out


def test_the_trainer_reads_it(tmp_path, album, mini_file):
    out = tmp_path / "pairs.json"
    table = build_reference_pairs.main(settings(out, album, encoder=str(mini_file)))
    assert load_pairs(out, Photos([album])) == table["top"]


def test_licences_and_limit(tmp_path, album, mini_file):
    index = tmp_path / "index.csv"
    with index.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "licence_kind"])
        rows.writerows([["0", "open"], ["1", "unstated"], ["2", "open"]])
    changes = {"index": (index,), "skip_licences": ("unstated",), "limit": 6}
    config = settings(tmp_path / "p.json", album, encoder=str(mini_file), **changes)
    assert build_reference_pairs.main(config)["keys"] == ["0", "2", "3", "4", "5", "6"]


def test_invalid_settings_are_rejected(tmp_path, album):
    with pytest.raises(ValueError, match="name at least one folder"):
        build_reference_pairs.Config()
    with pytest.raises(ValueError, match="must end in .json"):
        settings(tmp_path / "pairs.txt", album)
    (tmp_path / "pairs.json").write_text("mine")
    arguments = ["--photos", str(album), "--out", str(tmp_path / "pairs.json"), "--device", "cpu"]
    assert script(arguments) == 2
    assert (tmp_path / "pairs.json").read_text() == "mine"


def test_run_by_path(root, tmp_path, album):
    command = [sys.executable, str(root / "trainers" / "build_reference_pairs.py")]
    command += ["--photos", str(album), "--out", str(tmp_path / "pairs.json"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "pairs.json").read_text())["top"]) == 10
