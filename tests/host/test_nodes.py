"""tests/nodes on the modules of a real host, in the host's own Python."""

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
given = SimpleNamespace(**runpy.run_path(str(HERE / "given.py")))
TIMEOUT = 1200  # seconds
# Behind all that the host has, so that nothing of it is replaced.
RUN = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main())"

pytestmark = pytest.mark.skipif(bool(given.lacking(given.HOST)), reason=given.lacking(given.HOST))


@pytest.fixture
def tools(tmp_path):
    """A folder with pytest for the host's Python, into which nothing is installed."""
    asked = subprocess.run([given.PYTHON, "-c", "import pytest"], capture_output=True)
    if asked.returncode:
        command = [sys.executable, "-m", "pip", "--python", given.PYTHON, "install", "--quiet"]
        command += ["--disable-pip-version-check", "--target", tmp_path / "tools", "pytest>=8"]
        came = subprocess.run(command, capture_output=True, text=True)
        if came.returncode:
            pytest.skip(
                f"the host's Python has no pytest, and none can be had: {came.stderr[-300:]}"
            )
    return tmp_path / "tools"


def test_nodes(tools, tmp_path, found):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"COMFYUI_PATH": given.CHECKOUT, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    command = [given.PYTHON, "-c", RUN, tools, "-q", "-p", "no:cacheprovider", "tests/nodes"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert not ran.returncode, ran.stdout[-6000:] + ran.stderr[-2000:]
    summary = re.findall(r"\d+ passed.*", ran.stdout)[-1].strip("= ")
    found.append(f"tests/nodes on the host's modules: {summary}")
