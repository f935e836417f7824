"""The point-hint canvas in a real browser on a real host: canvas.mjs, once for each renderer."""

import json
import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "canvas.mjs"
TIMEOUT = 900  # seconds for all checks in one renderer
given = SimpleNamespace(**runpy.run_path(str(HERE / "given.py")))
MISSING = given.lacking(given.BROWSER)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def _checks() -> list[str]:
    """Names of the checks; a placeholder where they cannot be run."""
    if MISSING:
        return ["canvas"]
    listed = subprocess.run(
        [given.NODE, SCRIPT, "--list"], capture_output=True, text=True, check=True, timeout=60
    )
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def outcomes(host, found, shots):
    """Runs all checks in a renderer when the first of them is asked for."""
    done = {}

    def run(renderer: str) -> tuple[dict[str, dict], str]:
        if renderer not in done:
            command = [
                given.NODE,
                SCRIPT,
                "--url",
                host.url,
                "--renderer",
                renderer,
                "--shots",
                shots,
            ]
            environment = os.environ | {"CHROMIUM": given.CHROMIUM}
            ran = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=TIMEOUT
            )
            lines = [json.loads(line) for line in ran.stdout.splitlines()]
            rest = f"{ran.stderr[-2000:]}\npictures of the page: {shots}"
            done[renderer] = {line.get("check", "skip"): line for line in lines}, rest
            if "skip" in done[renderer][0]:
                found.append(f"canvas, renderer {renderer}: {lines[0]['skip']}")
            else:
                passed = sum(line["ok"] for line in lines)
                found.append(f"canvas, renderer {renderer}: {passed} of {len(lines)} checks")
        return done[renderer]

    return run


@pytest.mark.parametrize("check", _checks())
@pytest.mark.parametrize("renderer", given.RENDERERS)
def test_canvas(outcomes, renderer, check):
    lines, rest = outcomes(renderer)
    if "skip" in lines:
        pytest.skip(lines["skip"]["skip"])
    assert check in lines, f"{check}: not reached\n{rest}"
    assert lines[check]["ok"], f"{check}: {lines[check]['error']}\n{rest}"
