"""The tests of the front end's pure parts, which run in plain Node."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

OLDEST = 18  # its test runner
FILES = sorted((Path(__file__).parent / "js").rglob("*.test.mjs"))


@pytest.fixture(scope="session")
def node() -> str:
    """Node, where it is new enough."""
    program = shutil.which("node")
    if program:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
        found = re.match(r"v(\d+)", asked.stdout)
        if found and int(found[1]) >= OLDEST:
            return program
    pytest.skip(f"needs node {OLDEST} or newer on PATH")


def test_there_are_files():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.split(".")[0])
def test_js(node, file):
    ran = subprocess.run([node, "--test", file], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
