"""The point-hint canvas in a real browser on a real host: canvas.mjs, once per renderer."""

import json
import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "canvas.mjs"
TIMEOUT = 2400  # seconds for all checks in one renderer
env = SimpleNamespace(**runpy.run_path(str(HERE / "environment.py")))
MISSING = env.missing_reason(env.BROWSER_REQUIREMENTS)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def _checks() -> list[str]:
    """Return the names of the checks; a placeholder if they cannot run."""
    if MISSING:
        return ["canvas"]
    listed = subprocess.run(
        [env.NODE, SCRIPT, "--list"], capture_output=True, text=True, check=True, timeout=60
    )
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def outcomes(host, report_lines, shots):
    """Run all checks of a renderer when the first one is requested."""
    done = {}

    def run(renderer: str) -> tuple[dict[str, dict], str]:
        if renderer not in done:
            command = [
                env.NODE,
                SCRIPT,
                "--url",
                host.url,
                "--renderer",
                renderer,
                "--shots",
                shots,
            ]
            process_env = os.environ | {"CHROMIUM": env.CHROMIUM}
            completed = subprocess.run(
                command, capture_output=True, text=True, env=process_env, timeout=TIMEOUT
            )
            lines = [json.loads(line) for line in completed.stdout.splitlines()]
            rest = f"{completed.stderr[-2000:]}\nscreenshots: {shots}"
            done[renderer] = {line.get("check", "skip"): line for line in lines}, rest
            if "skip" in done[renderer][0]:
                report_lines.append(f"canvas, renderer {renderer}: {lines[0]['skip']}")
            else:
                passed = sum(line["ok"] for line in lines)
                report_lines.append(f"canvas, renderer {renderer}: {passed} of {len(lines)} checks")
        return done[renderer]

    return run


@pytest.mark.parametrize("check", _checks())
@pytest.mark.parametrize("renderer", env.RENDERERS)
def test_canvas(outcomes, renderer, check):
    lines, rest = outcomes(renderer)
    if "skip" in lines:
        pytest.skip(lines["skip"]["skip"])
    assert check in lines, f"{check}: not reached\n{rest}"
    assert lines[check]["ok"], f"{check}: {lines[check]['error']}\n{rest}"
