"""The package as a whole: imports, declared metadata, bundled weights."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_colorist.model_defs import checkpoint, xcnet

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "scipy", "PIL", "av", "cv2", "torchvision", "sklearn", "einops")


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_import_pulls_in_nothing_heavy(root):
    standalone = str(root / "trainers" / "_standalone.py")
    script = (
        f"import runpy, sys; runpy.run_path({standalone!r})['package']();"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_packages_are_the_folders_that_hold_code(project, root):
    files = [file for top in root.glob("*/__init__.py") for file in top.parent.rglob("__init__.py")]
    folders = {".".join(file.parent.relative_to(root).parts) for file in files}
    declared = project["tool"]["setuptools"]["packages"]
    assert set(declared) == {"comfyui_colorist"} | {f"comfyui_colorist.{name}" for name in folders}


def test_upper_floors_import_lower_ones(root):
    """Run the contracts of pyproject.toml on this checkout, not on an installed package."""
    pytest.importorskip("importlinter")
    standalone, file = str(root / "trainers" / "_standalone.py"), str(root / "pyproject.toml")
    script = (  # a separate process, because the linter disables loggers
        f"import runpy, sys; runpy.run_path({standalone!r})['package']();"
        "from importlinter.cli import lint_imports;"
        f"sys.exit(lint_imports(config_filename={file!r}, no_cache=True, no_logo=True))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_requirements_are_empty(root):
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("#") for line in lines if line.strip())


def test_install_floors_are_those_of_the_project(project, root):
    needed = runpy.run_path(str(root / "install.py"))["NEEDED"]
    declared = dict(
        re.match(r"([a-z]+)>=([\d.]+)", d).groups() for d in project["project"]["dependencies"]
    )
    assert {name: ".".join(map(str, floor)) for name, floor in needed.items()} == {
        name: ".".join(floor.split(".")[:2]) for name, floor in declared.items()
    }


def test_install_in_a_host_creates_the_model_folder_and_runs_twice(root, tmp_path):
    pack = tmp_path / "custom_nodes" / "any name"
    pack.mkdir(parents=True)
    (tmp_path / "folder_paths.py").touch()
    script = pack / "install.py"
    script.write_bytes((root / "install.py").read_bytes())
    for word in ("created", "found"):
        run = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True
        )
        assert word in run.stdout
    assert (tmp_path / "models" / "colorization").is_dir()


def test_public_names(root):
    import comfyui_colorist

    for name in comfyui_colorist.__all__:
        assert getattr(comfyui_colorist, name)
    with pytest.raises(AttributeError):
        comfyui_colorist.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["ddcolor-nano", "colorformer-nano"])
def test_bundled_automatic_models_work(root, name):
    """Scores are in the metadata, and a plain sky becomes bluer than the meadow below it."""
    import comfyui_colorist
    import torch

    engine = comfyui_colorist.load(name, device="cpu")
    scores = engine.info["training"]["scores"]
    assert scores["psnr"] > 22.5 and scores["colorfulness"] > 20
    assert engine.info["licence"]
    photo = torch.rand(96, 144, 1, generator=torch.Generator().manual_seed(0))
    photo[:48] = 0.75 + 0.02 * photo[:48]
    photo[48:] = 0.2 + 0.3 * photo[48:]
    colored = engine.colorize(photo)
    blue = (colored[..., 2] - colored[..., 0]).flatten(1).mean(1)
    assert blue[:48].mean() > blue[48:].mean()


def test_texts_state_the_working_size_of_the_network(root):
    """Help page, first workflow and training guide state the meaning of resolution 0."""
    from comfyui_colorist.model_defs import checkpoint

    def size(name):
        return checkpoint.read_info(root / "weights" / f"{name}.safetensors")["spec"]["resolution"]

    automatic = size("ddcolor-nano")
    help_page = (root / "web" / "docs" / "ColoristColorize.md").read_text(encoding="utf-8")
    meaning = f"0 is {automatic} for ddcolor-nano, {size('colorformer-nano')} for co"
    assert meaning in " ".join(help_page.split())
    workflow = (root / "example_workflows" / "first-photo.json").read_text(encoding="utf-8")
    assert f"(0 is {automatic} for this model)" in workflow
    guide = (root / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"({automatic} for `ddcolor-nano`)" in guide


def test_the_listed_photos_are_those_that_the_network_was_trained_on(root):
    """Every photo has a licence and a source; the digest of the list is in the metadata."""
    import csv
    import hashlib

    from comfyui_colorist.model_defs import checkpoint

    with (root / "docs" / "photo-sources.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["licence"] and row["source"] for row in rows)
    keys = sorted(row["photo"] for row in rows if row["use"] == "trained")
    digest = hashlib.sha256("".join(f"{key}\n" for key in keys).encode()).hexdigest()
    info = checkpoint.read_info(root / "weights" / "ddcolor-nano.safetensors")
    assert info["training"]["photo_list_sha256"] == digest
    assert info["training"]["photos"] == len(keys)


def test_the_bundled_point_hint_model_works(root):
    """Scores are in the metadata, and colors stop at an edge."""
    import comfyui_colorist
    import torch

    engine = comfyui_colorist.load("pointhint-nano", device="cpu")
    assert engine.spec.prior and engine.info["training"]["scores"]["10 hints"]["psnr"] > 27
    photo = torch.rand(96, 144, 1, generator=torch.Generator().manual_seed(0)) * 0.04 + 0.7
    photo[48:] -= 0.4
    hints = [
        {"x": 0.5, "y": 0.25, "color": "#7090d0"},
        {"x": 0.5, "y": 0.75, "color": "#407030"},
    ]
    colored = engine.colorize(photo, hints=hints)
    blue = (colored[..., 2] - colored[..., 0]).flatten(1).mean(1)
    assert blue[:44].min() > 0.1 and blue[52:].max() < 0.05


@pytest.mark.parametrize(
    "path", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda p: p.stem
)
def test_bundled_weights_state_their_origin(path):
    info = checkpoint.read_info(path)
    assert "research terms" in info["licence"] or "photo-sources.csv" in info["licence"]
    training = info["training"]
    assert training["photos"] > 1000 and training["steps"] > 500 and training["seconds"] > 60
    assert training["scores"] and training["config"]
    assert not re.search(r"[/\\](home|root|Users|work|tmp)[/\\]", json.dumps(info))
    if "confidence" in info["config"]:  # fitted, not the initial values
        assert tuple(info["config"]["confidence"]) != xcnet.Config().confidence


def test_bundled_weights_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "weights").iterdir()) <= 64_000_000
