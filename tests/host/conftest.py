"""One running host for all host tests, and a summary at the end of the run."""

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
env = SimpleNamespace(**runpy.run_path(str(HERE / "environment.py")))
REPORT_LINES = pytest.StashKey[list[str]]()

DARK, LIGHT = (96, 96, 96), (176, 176, 176)
HALVES = {  # images of the canvas tests: left and right half
    "photo.png": (DARK, LIGHT),
    "other.png": (LIGHT, DARK),
    "reference.png": ((200, 100, 50), (50, 100, 200)),
}
FRAMES = 6


@dataclass(frozen=True)
class Host:
    """A running host with this checkout as its only pack."""

    url: str
    base: Path
    """Base directory with the folders input, output, models, ..."""
    cache: Path
    """Folder of compiled Python files."""


@pytest.fixture(scope="session")
def report_lines(request) -> list[str]:
    """Lines of the summary."""
    return request.config.stash.setdefault(REPORT_LINES, [])


@pytest.fixture(scope="session")
def shots(report_lines) -> Path:
    """A folder for screenshots, kept after the run."""
    folder = Path(tempfile.mkdtemp(prefix="colorist-shots-"))
    report_lines.append(f"screenshots: {folder}")
    return folder


@pytest.fixture(scope="session")
def serve() -> dict:
    """The names defined by serve.py."""
    return runpy.run_path(str(HERE / "serve.py"))


@pytest.fixture(scope="session")
def client(host):
    return runpy.run_path(str(HERE / "client.py"))["Client"](host.url)


@pytest.fixture(scope="session")
def host(serve, report_lines, mini_file, mini_pointhint_file, tmp_path_factory) -> Iterator[Host]:
    """The host, with miniature models and images; reports its start time.

    It is started three times with the pack and twice without, alternating. The first start compiles
    Python and does not count; of the others, the faster one does.
    """
    if reason := env.missing_reason(env.HOST_REQUIREMENTS):
        pytest.skip(reason)
    cache = tmp_path_factory.mktemp("pycache")
    with ExitStack() as stack:
        bare = stack.enter_context(serve["folders"]())
        base = stack.enter_context(serve["folders"]((mini_file, mini_pointhint_file)))
        (base / "custom_nodes" / serve["NAME"]).symlink_to(serve["ROOT"], target_is_directory=True)
        _draw(base / "input")
        start_seconds = []
        for base_folder in (base, bare, base, bare):
            with serve["running"](env.CHECKOUT, env.PYTHON, base_folder, cache) as (
                _,
                seconds,
            ):
                start_seconds.append(seconds)
        last = serve["running"](env.CHECKOUT, env.PYTHON, base, cache)
        url, seconds = stack.enter_context(last)
        report_lines.append(_versions())
        report_lines.append(
            f"start: {min(start_seconds[1], start_seconds[3]):.1f} s without the pack, "
            f"{min(start_seconds[2], seconds):.1f} s with it; import time by the host: "
            f"{_import_seconds(base / serve['LOG'])} s"
        )
        yield Host(url, base, cache)


def pytest_terminal_summary(terminalreporter, config) -> None:
    if lines := config.stash.get(REPORT_LINES, []):
        terminalreporter.section("the host")
        for line in lines:
            terminalreporter.write_line(line)


def _versions() -> str:
    code = (
        "import sys, importlib.metadata as m;"
        "print('Python', sys.version.split()[0], *(f'{n} {m.version(n)}' for n in "
        "('torch', 'numpy', 'comfyui-frontend-package')), sep=', ')"
    )
    completed = subprocess.run([env.PYTHON, "-c", code], capture_output=True, text=True, check=True)
    project = (Path(env.CHECKOUT) / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)
    versions = completed.stdout.strip().replace("n, ", "n ", 1)
    return f"ComfyUI {version[1] if version else '?'}, {versions}"


def _import_seconds(log: Path) -> str:
    """Return the import time in seconds from the host's log."""
    times = re.search(r"([\d.]+) seconds: \S*custom_nodes", log.read_text(errors="replace"))
    return times[1] if times else "?"


def _draw(folder: Path) -> None:
    """Create the images and videos for workflows and canvas."""
    from sklearn.datasets import load_sample_image

    for name, halves in HALVES.items():
        pixels = np.repeat(np.array([halves], np.uint8), 160, axis=1).repeat(240, axis=0)
        Image.fromarray(pixels).save(folder / name)
    photo = Image.fromarray(load_sample_image("china.jpg")).resize(env.SIZE)
    photo.save(folder / env.COLORED)
    photo.convert("L").convert("RGB").save(folder / env.PHOTO)
    for name in env.VIDEOS:
        _write_video(folder / name, photo.convert("L").convert("RGB"))


def _write_video(path: Path, photo: Image.Image) -> None:
    """Write a video of the photo moving by two pixels per frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = *env.SIZE, "yuv420p"
        for t in range(FRAMES):
            shifted = np.roll(np.asarray(photo), 2 * t, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())
