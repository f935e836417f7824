"""Every example workflow, run by a real host; and its front end, in both renderers."""

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_colorist.model_store import catalog
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
given = SimpleNamespace(**runpy.run_path(str(HERE / "given.py")))
prompt_of = runpy.run_path(str(HERE / "client.py"))["prompt_of"]
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
NEWER = {"ImageCompare": "ComfyUI 0.9"}  # nodes of the host that an example may need
SHOWN = ("SaveImage", "SaveVideo", "PreviewImage", "PreviewAny", "ImageCompare")
VIEWS = ("preview", "compare_view")
PUBLISHED = catalog.PUBLISHED["ddcolor_modelscope"]


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def nodes(client) -> dict:
    return client.get("object_info")


@pytest.fixture(scope="module")
def ran(found) -> dict[str, int]:
    """How many nodes of ours each workflow ran."""
    done = {}
    yield done
    if done:
        found.append(f"{len(done)} of {len(FILES)} example workflows run: {', '.join(done)}")


@pytest.fixture
def published(host, mini_file):
    """A miniature in the place of the published network, which nobody downloads for a test."""
    place = host.base / "models" / "colorization" / f"{PUBLISHED.name}.safetensors"
    shutil.copy(mini_file, place)
    yield
    place.unlink()


def prepared(workflow: dict, nodes: dict) -> dict[str, dict]:
    """Its prompt, with a picture in colour where one is meant."""
    prompt = prompt_of(workflow, nodes)
    for node in workflow["nodes"]:
        title = node.get("title", "").lower()
        if node["type"] == "LoadImage" and ("colour" in title or "generator" in title):
            prompt[str(node["id"])]["inputs"]["image"] = given.COLORED
    return prompt


def reason_not_to(workflow: dict, nodes: dict) -> str:
    """Why this host cannot run it, or ""."""
    lacking = {node["type"] for node in workflow["nodes"]} & (NEWER.keys() - nodes.keys())
    if lacking:
        return ", ".join(f"{name} came with {NEWER[name]}" for name in sorted(lacking))
    if any(node["type"] == "ColoristBuildMemory" for node in workflow["nodes"]):
        tried = subprocess.run([given.PYTHON, "-c", "import sklearn"], capture_output=True)
        return "scikit-learn is not in the host's Python" if tried.returncode else ""
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_run(host, client, nodes, ran, published, file):
    workflow = read(file)
    if reason := reason_not_to(workflow, nodes):
        pytest.skip(reason)
    prompt = prepared(workflow, nodes)
    outcome = client.run(prompt)
    assert not outcome.error
    for key, node in prompt.items():
        if node["class_type"] in SHOWN:
            assert outcome.outputs[key], f"{node['class_type']} {key} gave nothing"
        if node["class_type"] == "SaveImage":
            for image in outcome.outputs[key]["images"]:
                _is_colored(host.base / "output" / image["subfolder"] / image["filename"])
    ran[file.stem] = len(prompt)


def _is_colored(path: Path) -> None:
    photo = Image.open(path).convert("RGB")
    assert photo.size == given.SIZE
    pixels = np.asarray(photo).astype(int)
    assert (pixels.max(-1) - pixels.min(-1)).mean() > 3


def test_a_missing_published_network_is_told_with_its_address(client, nodes):
    """The host of the tests may not download."""
    workflow = read(ROOT / "example_workflows" / "published-model.json")
    outcome = client.run(prepared(workflow, nodes))
    assert PUBLISHED.url(catalog.HUB) in outcome.error
    assert "colorization" in outcome.error and "HF_HUB_OFFLINE" in outcome.error


# --- The front end -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(host, found, shots):
    """What the front end made of the workflows, in a renderer."""
    done = {}

    def run(renderer: str) -> dict[str, dict]:
        if renderer not in done:
            command = [given.NODE, HERE / "workflows.mjs", "--url", host.url]
            command += ["--renderer", renderer, "--shots", shots, *FILES]
            environment = os.environ | {"CHROMIUM": given.CHROMIUM}
            came = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=600
            )
            assert not came.returncode, came.stderr[-2000:]
            lines = [json.loads(line) for line in came.stdout.splitlines()]
            done[renderer] = {line.get("file", "skip"): line for line in lines}
            if "skip" not in done[renderer]:
                found.append(f"{len(lines)} workflows opened, renderer {renderer}")
        return done[renderer]

    return run


@pytest.mark.skipif(bool(given.lacking(given.BROWSER)), reason=given.lacking(given.BROWSER))
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("renderer", given.RENDERERS)
def test_front_end(nodes, opened, renderer, file):
    """It opens without complaint, and its prompt is the one that the other tests queue."""
    lines = opened(renderer)
    if "skip" in lines:
        pytest.skip(lines["skip"]["skip"])
    line, workflow = lines[file.name], read(file)
    assert line["unknown"] == sorted(
        {node["type"] for node in workflow["nodes"]} & (NEWER.keys() - nodes.keys())
    )
    assert not line["noise"]
    if not line["unknown"]:
        assert _plain(line["prompt"]) == _plain(prompt_of(workflow, nodes))
    models = [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]
    assert all(model["name"] in line["missing"] for model in models)
    assert bool(line["downloads"] or line["refused"]) == bool(models)


def _plain(prompt: dict) -> dict:
    """Without widgets that only the front end reads."""
    return {
        key: {
            "class_type": node["class_type"],
            "inputs": {k: v for k, v in node["inputs"].items() if k not in VIEWS},
        }
        for key, node in prompt.items()
    }
