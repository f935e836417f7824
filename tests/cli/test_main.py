"""The command line as a whole: usage errors, help, version, trainers, interruption."""

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_colorist.cli import options as cli_options
from comfyui_colorist.media import image_io

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))
make_image = helpers.make_image
run = helpers.run


@pytest.mark.parametrize(
    "arguments", [[], ["paint"], ["colorize", "a.png"], ["models"], ["memory"]]
)
def test_usage_errors_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert "usage: colorist" in capsys.readouterr().err


def test_unknown_options(capsys):
    with pytest.raises(SystemExit) as left:
        run("models", "list", "--fast")
    assert left.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_version(capsys):
    import comfyui_colorist

    with pytest.raises(SystemExit) as left:
        run("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"colorist {comfyui_colorist.__version__}\n"


def test_help_is_instant(root):
    heavy = "from comfyui_colorist.cli import parser; parser.create_parser(); "
    heavy += "print(sorted({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    arguments = [sys.executable, "-c", code(root, heavy)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def code(root: Path, then: str) -> str:
    script = str(root / "trainers" / "_standalone.py")
    start = f"import runpy, sys; runpy.run_path({script!r})['package']()"
    return f"{start}; from comfyui_colorist import cli; {then}"


def command(root: Path, *arguments: object) -> list[str]:
    """A real process; `python -m` would need an installed package."""
    return [sys.executable, "-c", code(root, "sys.exit(cli.main())"), *map(str, arguments)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent there")
def test_interrupted_process(tmp_path, root, model):
    for index in range(200):
        make_image(tmp_path / "in" / f"{index}.png", index, (300, 300))
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(root, "colorize", tmp_path / "in", "-o", out, *model),
        stderr=subprocess.PIPE,
        text=True,
        # A shell ignores SIGINT in commands that it starts in the background; so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
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
        image_io.read_image(path)


@pytest.mark.parametrize("module", ["console.errors", "cli.parser", "cli.commands.train"])
def test_interruption_during_imports(root, module):
    """Ctrl-C in the first milliseconds, before a command runs."""
    stop = f"""
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "comfyui_colorist.{module}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
"""
    arguments = [sys.executable, "-c", stop + code(root, "sys.exit(cli.main())"), "models", "list"]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "stopped.\n")


def test_default_models_are_bundled():
    from comfyui_colorist.model_store import paths

    assert {cli_options.DEFAULT_MODEL, cli_options.DEFAULT_COLORFORMER} <= set(
        paths.bundled_models()
    )


def test_train_passes_its_settings(monkeypatch, capsys):
    from comfyui_colorist.trainers import train_ddcolor

    seen = []
    monkeypatch.setattr(train_ddcolor, "main", seen.append)
    assert run("train", "ddcolor", "--photos", "a", "b", "--steps", 7) == 0
    assert seen[0].photos == ("a", "b")
    assert seen[0].steps == 7
    with pytest.raises(SystemExit) as left:
        run("train", "ddcolor", "--help")
    assert left.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out


def test_evaluate_passes_its_settings(monkeypatch, capsys):
    from comfyui_colorist.trainers import evaluate

    seen = []
    monkeypatch.setattr(evaluate, "main", seen.append)
    assert run("evaluate", "--photos", "a", "--model", "m.pth") == 0
    assert (seen[0].photos, seen[0].model) == ((Path("a"),), ("m.pth",))
    with pytest.raises(SystemExit) as left:
        run("evaluate", "--help")
    assert left.value.code == 0
    assert "usage: colorist evaluate" in capsys.readouterr().out


def test_train_reports_missing_photos(tmp_path, capsys):
    assert run("train", "ddcolor", "--photos", tmp_path / "no", "--out", tmp_path / "run") == 1
    assert "colorist: error: " in capsys.readouterr().err
