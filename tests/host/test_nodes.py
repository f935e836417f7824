"""tests/nodes with the modules of a real host, in the Python of the host."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
env = SimpleNamespace(**runpy.run_path(str(HERE / "environment.py")))
TIMEOUT = 1200  # seconds
# Appended to sys.path, so that no module of the host is shadowed.
RUN = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main())"

pytestmark = pytest.mark.skipif(
    bool(env.missing_reason(env.HOST_REQUIREMENTS)),
    reason=env.missing_reason(env.HOST_REQUIREMENTS),
)


@pytest.fixture
def tools(tmp_path):
    """A folder with pytest for the Python of the host, whose packages stay unchanged."""
    completed = subprocess.run([env.PYTHON, "-c", "import pytest"], capture_output=True)
    if completed.returncode:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            env.PYTHON,
            "install",
            "--quiet",
        ]
        command += ["--disable-pip-version-check", "--target", tmp_path / "tools", "pytest>=8"]
        completed = subprocess.run(command, capture_output=True, text=True)
        if completed.returncode:
            pytest.skip(
                "the host's Python has no pytest, and installing it failed: "
                f"{completed.stderr[-300:]}"
            )
    return tmp_path / "tools"


def test_nodes(tools, tmp_path, report_lines):
    process_env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process_env |= {
        "COMFYUI_PATH": env.CHECKOUT,
        "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"),
    }
    command = [env.PYTHON, "-c", RUN, tools, "-q", "-p", "no:cacheprovider", "tests/nodes"]
    completed = subprocess.run(
        command, cwd=ROOT, env=process_env, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert not completed.returncode, completed.stdout[-6000:] + completed.stderr[-2000:]
    summary = re.findall(r"\d+ passed.*", completed.stdout)[-1].strip("= ")
    report_lines.append(f"tests/nodes on the host's modules: {summary}")
