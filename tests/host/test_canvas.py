"""The point-hint canvas in a real browser on a real host: canvas.mjs, once for each renderer."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
SCRIPT = HERE / "canvas.mjs"
RENDERERS = ("classic", "nodes2")
TIMEOUT = 900  # seconds for all checks in one renderer
NODE = shutil.which("node")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NEEDED = {
    "COMFYUI_PATH (a folder of ComfyUI)": os.environ.get("COMFYUI_PATH"),
    "PLAYWRIGHT_NODE_MODULES (a node_modules with playwright-core)": os.environ.get(
        "PLAYWRIGHT_NODE_MODULES"
    ),
    "node": NODE,
    "Chromium (on PATH or as CHROMIUM)": CHROMIUM,
}
MISSING = [name for name, found in NEEDED.items() if not found]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")

DARK, LIGHT = (96, 96, 96), (176, 176, 176)
PICTURES = {  # left and right half
    "photo.png": (DARK, LIGHT),
    "other.png": (LIGHT, DARK),
    "reference.png": ((200, 100, 50), (50, 100, 200)),
}


def _checks() -> list[str]:
    """Names of the checks; a placeholder where they cannot be run."""
    if MISSING:
        return ["canvas"]
    listed = subprocess.run(
        [NODE, SCRIPT, "--list"], capture_output=True, text=True, check=True, timeout=60
    )
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def host(mini_pointhint_file, mini_file):
    """Address of a served host that has the miniature networks and the pictures."""
    served = runpy.run_path(str(HERE / "serve.py"))["served"]
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    models = (mini_pointhint_file, mini_file)
    with served(os.environ["COMFYUI_PATH"], python, models) as (url, base):
        for name, halves in PICTURES.items():
            pixels = np.repeat(np.array([halves], np.uint8), 160, axis=1).repeat(240, axis=0)
            Image.fromarray(pixels).save(base / "input" / name)
        yield url


@pytest.fixture(scope="module")
def outcomes(host, tmp_path_factory):
    """Runs all checks in a renderer when the first of them is asked for."""
    done = {}

    def run(renderer: str) -> tuple[dict[str, dict], str]:
        if renderer not in done:
            shots = tmp_path_factory.mktemp(renderer)
            command = [NODE, SCRIPT, "--url", host, "--renderer", renderer, "--shots", shots]
            environment = os.environ | {"CHROMIUM": CHROMIUM}
            ran = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=TIMEOUT
            )
            lines = [json.loads(line) for line in ran.stdout.splitlines()]
            rest = f"{ran.stderr[-2000:]}\npictures of the page: {shots}"
            done[renderer] = {line.get("check", "skip"): line for line in lines}, rest
        return done[renderer]

    return run


@pytest.mark.parametrize("check", _checks())
@pytest.mark.parametrize("renderer", RENDERERS)
def test_canvas(outcomes, renderer, check):
    lines, rest = outcomes(renderer)
    if "skip" in lines:
        pytest.skip(lines["skip"]["skip"])
    assert check in lines, f"{check}: not reached\n{rest}"
    assert lines[check]["ok"], f"{check}: {lines[check]['error']}\n{rest}"
