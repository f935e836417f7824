"""The command line, as a user types it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comfyui_colorist import cli
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.pipeline import files
from PIL import Image


@pytest.fixture(scope="module")
def model(mini_file) -> list[str]:
    return ["--model", str(mini_file), "--resolution", "64", "--device", "cpu"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)
    Image.fromarray(grey).resize(size).save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def is_coloured(path: Path) -> bool:
    pixels = files.read(path).pixels
    return pixels.shape[2] >= 3 and np.ptp(pixels[..., :3], axis=2).max() > 0.02


# --- What goes where ---------------------------------------------------------------------------


def test_one_picture_to_a_name(tmp_path, model, capsys):
    assert (
        run("colorize", picture(tmp_path / "a.png"), "-o", tmp_path / "new" / "b.jpg", *model) == 0
    )
    assert is_coloured(tmp_path / "new" / "b.jpg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("[1/1] a.png ")
    assert err.endswith("1 written.\n")


def test_a_folder_is_mirrored(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "in" / "coloured"
    for name in ("a.jpg", "b.PNG", "sub/c.tif", "sub/deep/d.webp", "e.gif", "f.bmp"):
        picture(source / name)
    (source / "notes.txt").write_text("not a picture")
    (source / "._a.jpg").write_text("what macOS leaves on foreign disks")
    (source / "g.png").mkdir()
    assert run("colorize", source, "-o", out, *model) == 0
    written = ["a.jpg", "b.PNG", "e.png", "f.bmp", "sub/c.tif", "sub/deep/d.webp"]
    assert tree(out) == written
    assert all(is_coloured(out / name) for name in written)

    # Again: nothing to do, and the results inside IN are not taken for photos
    capsys.readouterr()
    assert run("colorize", source, "-o", out, *model) == 0
    assert tree(out) == written
    assert capsys.readouterr().err == "6 skipped.\n"


def test_finished_outputs_are_kept_unless_overwrite(tmp_path, model):
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    assert run("colorize", source, "-o", out, *model) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert run("colorize", source, "-o", out, *model, "--overwrite") == 0
    assert is_coloured(out / "a.png")
    (out / "a.png").write_bytes(b"")  # of another program's full disk; ours leaves none
    assert run("colorize", source, "-o", out, *model) == 0
    assert is_coloured(out / "a.png")


def test_the_same_file_twice_is_one_job(tmp_path):
    picture(tmp_path / "in" / "a.png")
    jobs = cli.plan([tmp_path / "in", tmp_path / "in" / "a.png"], tmp_path / "out")
    assert [job.target for job in jobs] == [tmp_path / "out" / "a.png"]


def test_sixteen_bits_and_alpha_survive(tmp_path, model):
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, 1)).astype(np.float32) / 65535
    values = np.concatenate([values, values, values, 1 - values], axis=2)
    for name in ("a.png", "b.tif"):
        files.write(tmp_path / name, values, files.Keep(bits=16))
        assert run("colorize", tmp_path / name, "-o", tmp_path / "out", *model) == 0
        result = files.read(tmp_path / "out" / name)
        assert result.keep.bits == 16
        assert np.allclose(result.pixels[..., 3], values[..., 3], atol=1e-6)


def test_controls_reach_the_engine(tmp_path, model):
    source, grey = picture(tmp_path / "a.png"), tmp_path / "grey"
    assert run("colorize", source, "-o", grey, *model, "--strength", 0) == 0
    assert not is_coloured(grey / "a.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    half = tmp_path / "half"
    assert run("colorize", source, "-o", half, *model, "--mask", tmp_path / "mask.png") == 0
    spread = np.ptp(files.read(half / "a.png").pixels, axis=2)
    assert spread[:, :20].max() < 0.01 < spread[:, 20:].max()
    published = tmp_path / "published"
    assert run("colorize", source, "-o", published, *model, "--finish", "published") == 0
    assert is_coloured(published / "a.png")


# --- Bad files, bad wishes ---------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    picture(source / "a.png")
    (source / "b.jpg").write_text("hello")
    picture(source / "c.png")
    missing, empty = tmp_path / "missing.jpg", tmp_path / "empty"
    empty.mkdir()
    assert run("colorize", source, missing, empty, "-o", out, *model, "--json") == 1
    assert tree(out) == ["a.png", "c.png"]
    stdout, stderr = capsys.readouterr()
    assert "[2/5] failed: b.jpg: not a picture." in stderr
    assert "missing.jpg: no such file; expected a picture file." in stderr
    assert "empty: no pictures in this folder (.jpg," in stderr
    assert "2 written, 3 failed." in stderr
    found = json.loads(stdout)
    assert [entry["status"] for entry in found["files"]] == [
        *("written", "failed", "written"),
        *("failed", "failed"),
    ]
    assert (found["written"], found["skipped"], found["failed"]) == (2, 0, 3)
    first, second = found["files"][:2]
    assert first["input"] == str(source / "a.png")
    assert first["output"] == str(out / "a.png")
    assert first["error"] is None
    assert first["seconds"] > 0
    assert second["error"].startswith("b.jpg: not a picture.")


def test_full_disk(tmp_path, model, monkeypatch, capsys):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    assert run("colorize", picture(tmp_path / "a.png"), "-o", tmp_path / "out", *model) == 1
    assert "failed: a.png: No space left on device." in capsys.readouterr().err
    assert tree(tmp_path / "out") == []


def refused(capsys, *arguments: object) -> str:
    """Exit code 2, and one line that says why."""
    assert run("colorize", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_originals_are_never_overwritten(tmp_path, model, capsys):
    path = picture(tmp_path / "a.png")
    before = path.read_bytes()
    for given, out in ((path, path), (path, tmp_path), (tmp_path, tmp_path)):
        message = refused(capsys, given, "-o", out, *model, "--overwrite")
        assert "a.png is an input; originals are never overwritten. Change -o." in message
    (tmp_path / "link.png").symlink_to(path)
    assert "is an input" in refused(
        capsys, path, "-o", tmp_path / "link.png", "--overwrite", *model
    )
    assert path.read_bytes() == before


def test_two_pictures_with_one_output(tmp_path, model, capsys):
    first, second = picture(tmp_path / "a" / "x.jpg"), picture(tmp_path / "b" / "x.jpg")
    message = refused(capsys, first, second, "-o", tmp_path / "out", *model)
    assert f"{first} and {second} would both become" in message
    picture(tmp_path / "a" / "y.gif"), picture(tmp_path / "a" / "y.png")
    assert "would both become" in refused(capsys, tmp_path / "a", "-o", tmp_path / "out", *model)
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be(tmp_path, model, capsys):
    path, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    (tmp_path / "file").write_text("x")
    for arguments, sentence in (
        ([path, other, "-o", tmp_path / "c.png"], "names one picture, but there are more to write"),
        ([tmp_path, "-o", tmp_path / "c.png"], "names one picture, but there are more to write"),
        ([path, "-o", tmp_path / "c.gif"], "pictures are written as .jpg, .jpeg"),
        ([path, "-o", tmp_path / "file"], "file is a file; name a folder, or a picture"),
        ([path, "-o", tmp_path / "file" / "out"], "cannot write into "),
        ([path, "-o", tmp_path / "file" / "c.png"], "cannot write into "),
    ):
        assert sentence in refused(capsys, *arguments, *model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "nonsense"], "nonsense: no such file, and no model of that name. At hand:"),
        (["--device", "toaster"], "--device toaster cannot be used (Expected one of"),
        (["--strength", "2"], "strength is 2.0; expected 0 to 1."),
        (["--upsample", "magic"], "upsample is 'magic'; expected one of"),
        (["--resolution", "0"], "resolution is 0; this network needs at least 32."),
        (["--resolution", "50", "--finish", "published"], "needs a multiple of 32."),
        (["--saturation", "2", "--finish", "published"], "leave out --saturation."),
        (["--mask", "m.png", "--finish", "published"], "leave out --mask."),
        (["--mask", "m.png"], "m.png: no such file; expected a picture file."),
    ],
)
def test_options_that_cannot_be(tmp_path, model, capsys, options, sentence):
    path = picture(tmp_path / "a.png")
    assert sentence in refused(capsys, path, "-o", tmp_path / "out", *model, *options)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_fails_that_picture(tmp_path, model, capsys):
    path, mask = picture(tmp_path / "a.png"), picture(tmp_path / "m.png", size=(9, 9))
    assert run("colorize", path, "-o", tmp_path / "out", *model, "--mask", mask) == 1
    assert "failed: a.png: the mask has shape (1, 9, 9); expected" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["paint"], ["colorize", "a.png"], ["models"]])
def test_usage_errors_leave_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert "usage: colorist" in capsys.readouterr().err


def test_dtypes_are_those_of_the_engine():
    from comfyui_colorist.pipeline import engine, finish

    assert set(cli.DTYPES) == set(engine.DTYPES)
    assert set(cli.CONTROLS) == set(finish.Finish.__dataclass_fields__)


# --- Stopping ----------------------------------------------------------------------------------


def test_interruption_keeps_what_is_done(tmp_path, model, monkeypatch, capsys):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    replace, calls = files.os.replace, []

    def stop_at_the_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", stop_at_the_second)
    out = tmp_path / "out"
    assert run("colorize", tmp_path / "in", "-o", out, *model, "--json") == 130
    assert tree(out) == ["a.png"]
    stdout, stderr = capsys.readouterr()
    assert [entry["status"] for entry in json.loads(stdout)["files"]] == [
        "written",
        *["waiting"] * 2,
    ]
    assert "stopped;" in stderr
    assert run("colorize", tmp_path / "in", "-o", out, *model) == 0
    assert tree(out) == ["a.png", "b.png", "c.png"]


def code(root: Path, then: str) -> str:
    script = str(root / "trainers" / "_standalone.py")
    start = f"import runpy, sys; runpy.run_path({script!r})['package']()"
    return f"{start}; from comfyui_colorist import cli; {then}"


def command(root: Path, *arguments: object) -> list[str]:
    """A real process; `python -m` would need an installed package."""
    return [sys.executable, "-c", code(root, "sys.exit(cli.main())"), *map(str, arguments)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent there")
def test_real_process_and_real_interruption(tmp_path, root, model):
    for index in range(200):
        picture(tmp_path / "in" / f"{index}.png", index, (300, 300))
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(root, "colorize", tmp_path / "in", "-o", out, *model),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    done = list(out.iterdir())
    assert 0 < len(done) < 200
    assert all(path.suffix == ".png" and not path.name.startswith(".") for path in done)
    for path in done:
        files.read(path)


def test_help_is_instant(root):
    heavy = "cli._parser(); print(sorted({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    arguments = [sys.executable, "-c", code(root, heavy)]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_version(capsys):
    import comfyui_colorist

    with pytest.raises(SystemExit) as left:
        run("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"colorist {comfyui_colorist.__version__}\n"


# --- models, train -----------------------------------------------------------------------------


def test_models_list(tmp_path, monkeypatch, mini_file, capsys):
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(mini_file.read_bytes())
    assert run("models", "list") == 0
    assert "mine.safetensors" in capsys.readouterr().out
    assert run("models", "list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(tmp_path)
    assert {
        "name": "mine.safetensors",
        "file": str(tmp_path / "mine.safetensors"),
        "bytes": mini_file.stat().st_size,
        "boxed": False,
    } in found["models"]


@pytest.mark.parametrize("dtype", cli.DTYPES)
def test_models_convert(tmp_path, mini_file, mini_network, dtype):
    import torch

    out = tmp_path / "new" / "x.safetensors"
    assert run("models", "convert", mini_file, "-o", out, "--dtype", dtype) == 0
    state, info = checkpoint.read(out)
    assert info["architecture"] == "ddcolor"
    assert info["origin"]["file"] == mini_file.name
    assert len(info["origin"]["sha256"]) == 64
    network, _, _ = registry.load(out)
    assert network.config == mini_network.config
    for name, tensor in mini_network.state_dict().items():
        if tensor.is_floating_point():
            assert state[name].dtype == getattr(torch, dtype)
            assert torch.equal(state[name], tensor.to(state[name].dtype))


def test_models_convert_of_a_published_form(tmp_path, mini_network):
    """A plain .pth has no metadata; the converted file has, and is recognised by it alone."""
    import torch

    state = checkpoint.to_bytes(mini_network.state_dict(), {})
    (tmp_path / "x.safetensors").write_bytes(state)
    torch.save({"params": mini_network.state_dict()}, tmp_path / "x.pth")
    with pytest.MonkeyPatch.context() as patch:
        loaded = (mini_network, registry.module_of("ddcolor").spec(mini_network.config), {})
        patch.setattr(registry, "load", lambda _: loaded)
        assert run("models", "convert", tmp_path / "x.pth", "-o", tmp_path / "y.safetensors") == 0
    assert registry.load(tmp_path / "y.safetensors")[0].config == mini_network.config


def test_models_convert_refusals(tmp_path, mini_file, mini_network, capsys):
    import torch

    def message(*arguments: object) -> str:
        assert run("models", "convert", *arguments) == 2
        return capsys.readouterr().err

    out = tmp_path / "x.safetensors"
    assert "must end in .safetensors" in message(mini_file, "-o", tmp_path / "x.pth")
    out.write_bytes(b"mine")
    (tmp_path / "cut.safetensors").write_bytes(mini_file.read_bytes()[:500])
    assert "is there already" in message(mini_file, "-o", out)
    assert "is the input" in message(mini_file, "-o", mini_file, "--overwrite")
    assert "damaged" in message(tmp_path / "cut.safetensors", "-o", tmp_path / "y.safetensors")
    state = {name: tensor.clone() for name, tensor in mini_network.state_dict().items()}
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[first].fill_(1e6)
    info = checkpoint.read(mini_file)[1]
    (tmp_path / "big.safetensors").write_bytes(checkpoint.to_bytes(state, info))
    found = message(tmp_path / "big.safetensors", "-o", out, "--overwrite", "--dtype", "float16")
    assert f"{first} does not fit into float16; use bfloat16." in found
    assert out.read_bytes() == b"mine"
    assert torch.isfinite(state[first]).all()


def test_train_hands_its_settings_on(monkeypatch, capsys):
    from comfyui_colorist.trainers import train_ddcolor

    seen = []
    monkeypatch.setattr(train_ddcolor, "main", seen.append)
    assert run("train", "ddcolor", "--photos", "a", "b", "--steps", 7) == 0
    assert list(seen[0].photos) == [Path("a"), Path("b")]
    assert seen[0].steps == 7
    with pytest.raises(SystemExit) as left:
        run("train", "ddcolor", "--help")
    assert left.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out


def test_evaluate_hands_its_settings_on(monkeypatch, capsys):
    from comfyui_colorist.trainers import evaluate

    seen = []
    monkeypatch.setattr(evaluate, "main", seen.append)
    assert run("evaluate", "--photos", "a", "--model", "m.pth") == 0
    assert (seen[0].photos, seen[0].model) == ((Path("a"),), "m.pth")
    with pytest.raises(SystemExit) as left:
        run("evaluate", "--help")
    assert left.value.code == 0
    assert "usage: colorist evaluate" in capsys.readouterr().out


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        run("models", "list", "--fast")
    assert left.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_train_reports_missing_photos(tmp_path, capsys):
    assert run("train", "ddcolor", "--photos", tmp_path / "no", "--out", tmp_path / "run") == 1
    assert "colorist: error: " in capsys.readouterr().err
