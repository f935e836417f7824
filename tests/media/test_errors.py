"""Messages of decoding libraries beside ours."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))

SCRIPT = """
import sys
from comfyui_colorist.media.errors import ImageError, silence_libraries
from comfyui_colorist.media.image_io import read_image
if sys.argv[2] == "silent":
    silence_libraries()
try:
    read_image(sys.argv[1])
except ImageError as error:
    print(error)
"""


def run(path, mode: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SCRIPT, str(path), mode]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="libtiff is hidden in Pillow's module")
def test_libraries_are_silent(tmp_path):
    page = helpers.gray_page(np.zeros((4, 4), int), _259=5) | {"strips": [b"not LZW"]}
    helpers.write_tiff(tmp_path / "x.tif", page)
    assert run(tmp_path / "x.tif", "loud").stderr  # else nothing is tested here
    ran = run(tmp_path / "x.tif", "silent")
    assert ran.stderr == ""
    assert ran.stdout.startswith("x.tif: damaged or cut short")
