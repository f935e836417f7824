"""One running host for all of its tests, and what they found, at the end of the run."""

import re
import runpy
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
given = SimpleNamespace(**runpy.run_path(str(HERE / "given.py")))
FOUND = pytest.StashKey[list[str]]()

DARK, LIGHT = (96, 96, 96), (176, 176, 176)
HALVES = {  # pictures of the canvas tests: left and right half
    "photo.png": (DARK, LIGHT),
    "other.png": (LIGHT, DARK),
    "reference.png": ((200, 100, 50), (50, 100, 200)),
}
FRAMES = 6


@dataclass(frozen=True)
class Host:
    """A host that runs, with this checkout as its only pack."""

    url: str
    base: Path
    """Its folders: input, output, models and the like."""
    cache: Path
    """Python compiled for it."""


@pytest.fixture(scope="session")
def found(request) -> list[str]:
    """Lines for the end of the run."""
    return request.config.stash.setdefault(FOUND, [])


@pytest.fixture(scope="session")
def shots(found) -> Path:
    """A folder for pictures of pages, which stays."""
    folder = Path(tempfile.mkdtemp(prefix="colorist-shots-"))
    found.append(f"pictures of pages: {folder}")
    return folder


@pytest.fixture(scope="session")
def serve() -> dict:
    """What serve.py defines."""
    return runpy.run_path(str(HERE / "serve.py"))


@pytest.fixture(scope="session")
def client(host):
    return runpy.run_path(str(HERE / "client.py"))["Client"](host.url)


@pytest.fixture(scope="session")
def host(serve, found, mini_file, mini_pointhint_file, tmp_path_factory) -> Iterator[Host]:
    """The host, with miniature networks and pictures; tells how long it took to start.

    It is started three times with the pack and twice without, in turn. The first start, which
    compiles, does not count; the faster of the others does.
    """
    if reason := given.lacking(given.HOST):
        pytest.skip(reason)
    cache = tmp_path_factory.mktemp("pycache")
    with ExitStack() as stack:
        bare = stack.enter_context(serve["folders"]())
        base = stack.enter_context(serve["folders"]((mini_file, mini_pointhint_file)))
        (base / "custom_nodes" / serve["NAME"]).symlink_to(serve["ROOT"], target_is_directory=True)
        _draw(base / "input")
        took = []
        for place in (base, bare, base, bare):
            with serve["running"](given.CHECKOUT, given.PYTHON, place, cache) as (_, seconds):
                took.append(seconds)
        last = serve["running"](given.CHECKOUT, given.PYTHON, base, cache)
        url, seconds = stack.enter_context(last)
        found.append(_versions())
        found.append(
            f"start: {min(took[1], took[3]):.1f} s without the pack, {min(took[2], seconds):.1f} s "
            f"with it; the host says of its import: {_import_seconds(base / serve['LOG'])} s"
        )
        yield Host(url, base, cache)


def pytest_terminal_summary(terminalreporter, config) -> None:
    if lines := config.stash.get(FOUND, []):
        terminalreporter.section("the host")
        for line in lines:
            terminalreporter.write_line(line)


def _versions() -> str:
    code = (
        "import sys, importlib.metadata as m;"
        "print('Python', sys.version.split()[0], *(f'{n} {m.version(n)}' for n in "
        "('torch', 'numpy', 'comfyui-frontend-package')), sep=', ')"
    )
    ran = subprocess.run([given.PYTHON, "-c", code], capture_output=True, text=True, check=True)
    project = (Path(given.CHECKOUT) / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    return f"ComfyUI {version[1] if version else '?'}, {ran.stdout.strip().replace('n, ', 'n ', 1)}"


def _import_seconds(log: Path) -> str:
    """As the host says, after "Import times for custom nodes"."""
    times = re.search(r"([\d.]+) seconds: \S*custom_nodes", log.read_text(errors="replace"))
    return times[1] if times else "?"


def _draw(folder: Path) -> None:
    """What the workflows and the canvas open."""
    from sklearn.datasets import load_sample_image

    for name, halves in HALVES.items():
        pixels = np.repeat(np.array([halves], np.uint8), 160, axis=1).repeat(240, axis=0)
        Image.fromarray(pixels).save(folder / name)
    photo = Image.fromarray(load_sample_image("china.jpg")).resize(given.SIZE)
    photo.save(folder / given.COLORED)
    photo.convert("L").convert("RGB").save(folder / given.PHOTO)
    for name in given.FILMS:
        _film(folder / name, photo.convert("L").convert("RGB"))


def _film(path: Path, photo: Image.Image) -> None:
    """The photo, moving by two pixels each frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = *given.SIZE, "yuv420p"
        for t in range(FRAMES):
            shifted = np.roll(np.asarray(photo), 2 * t, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())
