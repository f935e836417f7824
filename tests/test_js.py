"""Tests of the front end that run in plain Node."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MIN_NODE = 18  # has the test runner
FILES = sorted((Path(__file__).parent / "js").rglob("*.test.mjs"))


@pytest.fixture(scope="session")
def node() -> str:
    """Path of Node; skips if it is missing or too old."""
    program = shutil.which("node")
    if program:
        run = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
        version = re.match(r"v(\d+)", run.stdout)
        if version and int(version[1]) >= MIN_NODE:
            return program
    pytest.skip(f"needs node {MIN_NODE} or newer on PATH")


def test_there_are_files():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.split(".")[0])
def test_js(node, file):
    ran = subprocess.run([node, "--test", file], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
