"""The release archive in an empty custom_nodes folder of a real host."""

import runpy
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
env = SimpleNamespace(**runpy.run_path(str(HERE / "environment.py")))
_workflows = runpy.run_path(str(HERE / "test_workflows.py"))
Client = runpy.run_path(str(HERE / "client.py"))["Client"]
OTHER = "other.name_2"  # the folder name is arbitrary
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(
    not (MAKE and (ROOT / ".git").exists()), reason="needs make and a git checkout"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([MAKE, "archive", f"DIST={folder}"], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.zip"))


def test_contents_of_the_archive(archive):
    with zipfile.ZipFile(archive) as packed:
        names = {name.removeprefix("comfyui-colorist/") for name in packed.namelist()}
        tops = {name.split("/")[0] for name in names}
    assert {"__init__.py", "pyproject.toml", "install.py", "nodes", "weights", "web"} <= tops
    assert not tops & {"tests", "benchmarks", "assets", "Makefile"}
    assert not [top for top in tops if top.startswith(".")]
    assert archive.stat().st_size < 35e6


def test_a_host_runs_the_archive(host, client, serve, archive, report_lines):
    with serve["folders"]() as base:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(base / "custom_nodes")
            files = len(packed.namelist())
        [unpacked] = (base / "custom_nodes").iterdir()
        unpacked.rename(base / "custom_nodes" / OTHER)
        shutil.copy(host.base / "input" / env.PHOTO, base / "input")
        start = serve["running"](env.CHECKOUT, env.PYTHON, base, host.cache)
        with start as (url, _):
            other = Client(url)
            nodes = other.get("object_info")
            ours = {name for name in nodes if name.startswith("Colorist")}
            checked = {name for name in client.get("object_info") if name.startswith("Colorist")}
            assert ours == checked
            assert {nodes[name]["python_module"] for name in ours} == {f"custom_nodes.{OTHER}"}
            scripts = [path for path in other.get("extensions") if quote(OTHER) in path]
            pages = [f"extensions/{quote(OTHER)}/docs/{name}.md" for name in ours]
            assert scripts and {other.status(path.lstrip("/")) for path in scripts + pages} == {200}
            templates = other.get("workflow_templates")[OTHER]
            assert "first-photo" in templates
            workflow = _workflows["read"](ROOT / "example_workflows" / "first-photo.json")
            outcome = other.run(_workflows["prepare_prompt"](workflow, nodes))
            assert not outcome.error
            [image] = outcome.outputs["4"]["images"]
            _workflows["_is_colored"](base / "output" / image["subfolder"] / image["filename"])
    megabytes = archive.stat().st_size / 1e6
    report_lines.append(
        f'archive: {megabytes:.1f} MB, {files} files; runs as custom_nodes/"{OTHER}", '
        f"{len(ours)} nodes"
    )
