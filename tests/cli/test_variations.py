"""`colorist variations`, as a user types it."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from comfyui_colorist.cli import jobs as cli_jobs
from comfyui_colorist.media import image_io

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))
make_image = helpers.make_image
run = helpers.run
list_files = helpers.list_files


def test_variations(tmp_path, memory, colorformer, capsys):
    source, out = make_image(tmp_path / "in" / "a.png"), tmp_path / "out"
    make_image(tmp_path / "in" / "sub" / "b.jpg", 1)
    options = ["-o", out, *colorformer, "--resolution", 64, "--count", 3, "--spread", 1, "--json"]
    options.append("--no-provenance")  # its time differs
    assert run("variations", tmp_path / "in", *options) == 0
    names = [f"a-{i}.png" for i in (1, 2, 3)] + [f"sub/b-{i}.jpg" for i in (1, 2, 3)]
    assert list_files(out) == names
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout)["files"][0]["outputs"] == [str(out / name) for name in names[:3]]
    assert stderr.endswith("2 written.\n")
    results = [image_io.read_image(out / name).pixels for name in names[:3]]
    assert all(np.abs(a - b).max() > 0.02 for a, b in zip(results, results[1:], strict=False))

    # One missing: it alone is written, as it was
    (out / "a-2.png").unlink()
    assert run("variations", tmp_path / "in", *options) == 0
    assert "1 written, 1 skipped." in capsys.readouterr().err
    assert np.array_equal(image_io.read_image(out / "a-2.png").pixels, results[1])

    # Another seed and memory give others, which replace nothing without --overwrite
    (out / "a-2.png").unlink()
    before = [(out / name).read_bytes() for name in ("a-1.png", "a-3.png")]
    others = [*options, "--seed", 9, "--memory", memory]
    assert run("variations", source, *others) == 0
    assert [(out / name).read_bytes() for name in ("a-1.png", "a-3.png")] == before
    other = (out / "a-2.png").read_bytes()
    assert not np.array_equal(image_io.read_image(out / "a-2.png").pixels, results[1])
    assert run("variations", source, *others, "--overwrite") == 0
    assert (out / "a-1.png").read_bytes() != before[0]
    assert (out / "a-2.png").read_bytes() == other


def test_variations_beside_the_original(tmp_path, colorformer, capsys):
    """Outputs may lie beside the original, but must not replace another input."""
    source, small = make_image(tmp_path / "a.png"), [*colorformer, "--resolution", 64, "--count", 2]
    before = source.read_bytes()
    assert run("variations", source, "-o", tmp_path, *small) == 0
    assert list_files(tmp_path) == ["a-1.png", "a-2.png", "a.png"]
    assert source.read_bytes() == before
    result = (tmp_path / "a-1.png").read_bytes()
    capsys.readouterr()
    both = [source, tmp_path / "a-1.png"]
    assert run("variations", *both, "-o", tmp_path, *small, "--overwrite") == 2
    assert "a-1.png is an input; originals are never overwritten" in capsys.readouterr().err
    assert (tmp_path / "a-1.png").read_bytes() == result


def test_invalid_options(tmp_path, model, colorformer, capsys):
    source, out = make_image(tmp_path / "a.png"), tmp_path / "out"

    def message(*arguments: object) -> str:
        assert run("variations", source, *arguments) == 2
        return capsys.readouterr().err

    assert "has no color memory and therefore only one result" in message("-o", out, *model)
    assert "is the name of a single image; name a folder" in message(
        "-o", tmp_path / "b.png", *colorformer
    )
    assert "--count is 0; expected 1 to 64" in message("-o", out, *colorformer, "--count", 0)
    assert "--count is 65; expected 1 to 64" in message("-o", out, *colorformer, "--count", 65)
    assert "--seed is -1; expected 0 or more" in message("-o", out, *colorformer, "--seed", -1)
    assert "spread is 2.0; expected 0" in message("-o", out, *colorformer, "--spread", 2)
    assert not out.exists()


def test_count_is_checked_before_outputs_are_named(tmp_path, monkeypatch, capsys):
    def outputs(*_):
        raise AssertionError("100000000 names")

    monkeypatch.setattr(cli_jobs.Job, "outputs", outputs)
    source = make_image(tmp_path / "a.png")
    assert run("variations", source, "-o", tmp_path / "out", "--count", 100_000_000) == 2
    assert "--count is 100000000; expected 1 to 64 results." in capsys.readouterr().err
