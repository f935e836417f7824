"""Every example workflow on a real host, and in its front end in both renderers."""

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
env = SimpleNamespace(**runpy.run_path(str(HERE / "environment.py")))
prompt_of = runpy.run_path(str(HERE / "client.py"))["prompt_of"]
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
NEWER_HOST_NODES = {"ImageCompare": "ComfyUI 0.9"}  # missing in older hosts
OUTPUT_NODES = ("SaveImage", "SaveVideo", "PreviewImage", "PreviewAny", "ImageCompare")
FRONT_END_INPUTS = ("preview", "compare_view")
PUBLISHED = catalog.PUBLISHED["ddcolor_modelscope"]


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def nodes(client) -> dict:
    return client.get("object_info")


@pytest.fixture(scope="module")
def ran(report_lines) -> dict[str, int]:
    """Number of nodes that each workflow ran."""
    done = {}
    yield done
    if done:
        report_lines.append(f"{len(done)} of {len(FILES)} example workflows run: {', '.join(done)}")


@pytest.fixture
def published(host, mini_file):
    """A miniature in place of the published model, which tests do not download."""
    path = host.base / "models" / "colorization" / f"{PUBLISHED.name}.safetensors"
    shutil.copy(mini_file, path)
    yield
    path.unlink()


def prepare_prompt(workflow: dict, nodes: dict) -> dict[str, dict]:
    """Return the prompt of a workflow, with a color image where one is expected."""
    prompt = prompt_of(workflow, nodes)
    for node in workflow["nodes"]:
        title = node.get("title", "").lower()
        if node["type"] == "LoadImage" and ("color" in title or "generator" in title):
            prompt[str(node["id"])]["inputs"]["image"] = env.COLORED
    return prompt


def skip_reason(workflow: dict, nodes: dict) -> str:
    """Return why this host cannot run the workflow, or ""."""
    missing = {node["type"] for node in workflow["nodes"]} & (
        NEWER_HOST_NODES.keys() - nodes.keys()
    )
    if missing:
        return ", ".join(
            f"{name} was added in {NEWER_HOST_NODES[name]}" for name in sorted(missing)
        )
    if any(node["type"] == "ColoristBuildMemory" for node in workflow["nodes"]):
        completed = subprocess.run([env.PYTHON, "-c", "import sklearn"], capture_output=True)
        return "scikit-learn is not in the host's Python" if completed.returncode else ""
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_run(host, client, nodes, ran, published, file):
    workflow = read(file)
    if reason := skip_reason(workflow, nodes):
        pytest.skip(reason)
    prompt = prepare_prompt(workflow, nodes)
    outcome = client.run(prompt)
    assert not outcome.error
    for key, node in prompt.items():
        if node["class_type"] in OUTPUT_NODES:
            assert outcome.outputs[key], f"{node['class_type']} {key} gave nothing"
        if node["class_type"] == "SaveImage":
            for image in outcome.outputs[key]["images"]:
                _is_colored(host.base / "output" / image["subfolder"] / image["filename"])
    ran[file.stem] = len(prompt)


def _is_colored(path: Path) -> None:
    photo = Image.open(path).convert("RGB")
    assert photo.size == env.SIZE
    pixels = np.asarray(photo).astype(int)
    assert (pixels.max(-1) - pixels.min(-1)).mean() > 3


def test_a_missing_published_model_is_reported_with_its_address(client, nodes):
    """The test host must not download."""
    workflow = read(ROOT / "example_workflows" / "published-model.json")
    outcome = client.run(prepare_prompt(workflow, nodes))
    assert PUBLISHED.url(catalog.HUB) in outcome.error
    assert "colorization" in outcome.error and "HF_HUB_OFFLINE" in outcome.error


# --- The front end -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(host, report_lines, shots):
    """Return the results of the front end for all workflows in a renderer."""
    done = {}

    def run(renderer: str) -> dict[str, dict]:
        if renderer not in done:
            command = [env.NODE, HERE / "workflows.mjs", "--url", host.url]
            command += ["--renderer", renderer, "--shots", shots, *FILES]
            process_env = os.environ | {"CHROMIUM": env.CHROMIUM}
            completed = subprocess.run(
                command, capture_output=True, text=True, env=process_env, timeout=600
            )
            assert not completed.returncode, completed.stderr[-2000:]
            lines = [json.loads(line) for line in completed.stdout.splitlines()]
            done[renderer] = {line.get("file", "skip"): line for line in lines}
            if "skip" not in done[renderer]:
                report_lines.append(f"{len(lines)} workflows opened, renderer {renderer}")
        return done[renderer]

    return run


@pytest.mark.skipif(
    bool(env.missing_reason(env.BROWSER_REQUIREMENTS)),
    reason=env.missing_reason(env.BROWSER_REQUIREMENTS),
)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("renderer", env.RENDERERS)
def test_front_end(nodes, opened, renderer, file):
    """It opens without errors, and its prompt equals the one that the other tests queue."""
    lines = opened(renderer)
    if "skip" in lines:
        pytest.skip(lines["skip"]["skip"])
    line, workflow = lines[file.name], read(file)
    assert line["unknown"] == sorted(
        {node["type"] for node in workflow["nodes"]} & (NEWER_HOST_NODES.keys() - nodes.keys())
    )
    assert not line["noise"]
    if not line["unknown"]:
        assert _plain(line["prompt"]) == _plain(prompt_of(workflow, nodes))
    models = [model for node in workflow["nodes"] for model in node["properties"].get("models", [])]
    assert all(model["name"] in line["missing"] for model in models)
    assert bool(line["downloads"] or line["refused"]) == bool(models)


def _plain(prompt: dict) -> dict:
    """Remove inputs that only the front end reads."""
    return {
        key: {
            "class_type": node["class_type"],
            "inputs": {k: v for k, v in node["inputs"].items() if k not in FRONT_END_INPUTS},
        }
        for key, node in prompt.items()
    }
