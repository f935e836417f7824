"""Kill commands at any moment: no half-written output, and the next run completes the rest.

The short run kills two commands once; `pytest -m slow` of this file kills each 30 times.
"""

import os
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from comfyui_colorist.media import image_io
from comfyui_colorist.ops import color
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed with signals")
ROOT = Path(__file__).resolve().parents[2]
helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))
synthetic_video = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "synthetic_video.py")))
VIDEOS = {".mkv", ".mp4"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, mini_file, mini_colorformer_file, mini_pointhint_file, memory):
    """Input files of all commands, by name."""
    folder = tmp_path_factory.mktemp("inputs")
    for index in range(12):
        helpers.make_image(folder / "images" / f"{index:02}.png", index, (200, 150))
    helpers.color_photos(folder / "photos", 12)
    hints = folder / "hints.json"
    hints.write_text('{"version": 1, "points": [{"x": 0.4, "y": 0.2, "color": "#8a5a3c"}]}')
    pan = synthetic_video.pan(0, 60, size=(72, 96)).movedim(-1, 1)
    levels = (255 * color.gray_rgb(color.lightness(pan))).round().byte().movedim(1, -1).numpy()
    (folder / "frames").mkdir()
    for number, level in enumerate(levels[:20]):
        Image.fromarray(level).save(folder / "frames" / f"{number:03}.png")
    with av.open(str(folder / "video.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv444p"
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(level, "rgb24")))
        container.mux(stream.encode())
    return SimpleNamespace(
        folder=folder,
        images=folder / "images",
        photos=folder / "photos",
        hints=hints,
        frames=folder / "frames",
        video=folder / "video.mkv",
        memory=memory,
        automatic=["--model", str(mini_file), "--resolution", "64", "--device", "cpu"],
        colorformer=["--model", str(mini_colorformer_file), "--device", "cpu"],
        pointhint=["--model", str(mini_pointhint_file), "--device", "cpu"],
    )


COMMANDS: dict[str, Callable[[SimpleNamespace, Path], list[object]]] = {
    "images": lambda x, out: ["colorize", x.images, "-o", out, *x.automatic],
    "video": lambda x, out: [
        *("colorize", x.video, "-o", out / "v.mkv", "--codec", "ffv1", *x.automatic)
    ],
    "stabilized frames": lambda x, out: [
        *("colorize", x.frames, "-o", out / "v.mkv", "--codec", "ffv1", "--stabilize"),
        *x.automatic,  # x264 gives other bytes in one of three runs, even with one thread
    ],
    "hints": lambda x, out: ["hints", x.images, "--hints", x.hints, "-o", out, *x.pointhint],
    "exemplar": lambda x, out: [
        *("exemplar", x.images, "--reference", x.photos / "0.png", "-o", out),
        *("--device", "cpu", "--resolution", "64"),
    ],
    "variations": lambda x, out: ["variations", x.images, "-o", out, *x.colorformer],
    "memory build": lambda x, out: [
        *("memory", "build", x.photos, "-o", out / "m.safetensors", *x.colorformer)
    ],
    "memory export": lambda x, out: ["memory", "export", x.memory, "-o", out],
    "models convert": lambda x, out: [
        *("models", "convert", x.automatic[1], "-o", out / "m.safetensors")
    ],
    "references": lambda x, out: [
        *("references", x.images / "00.png", x.photos, "--device", "cpu")
    ],
}
SHORT = ("images", "video")
RUNS = [pytest.param(name, 1, id=f"{name}-short") for name in SHORT]
RUNS += [pytest.param(name, 30, id=f"{name}-long", marks=pytest.mark.slow) for name in COMMANDS]


def start(arguments: list[object], out: Path) -> subprocess.Popen[bytes]:
    program = f"""
import runpy, sys
runpy.run_path({str(ROOT / "trainers" / "_standalone.py")!r})["package"]()
from comfyui_colorist import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLORIST_CACHE": str(out / "cache")},
    )


def finish(arguments: list[object], out: Path) -> None:
    process = start(arguments, out)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def contents(folder: Path) -> dict[str, object]:
    """Return what each visible file holds: pixels, frames, tensors, else bytes."""
    return {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted(folder.rglob("[!.]*"))
        if path.is_file() and not any(part[0] == "." for part in path.relative_to(folder).parts)
    }


def content(path: Path) -> bytes:
    if path.suffix in VIDEOS:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames).tobytes()
    if path.suffix == ".png":
        return image_io.read_image(path).pixels.tobytes()
    if path.suffix == ".safetensors":  # its metadata has the date
        tensors = load_file(path)
        return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    return path.read_bytes()


@pytest.mark.parametrize(("name", "kills"), RUNS)
def test_killed_command_leaves_nothing_half_done(tmp_path, inputs, name, kills):
    whole, out, command = tmp_path / "whole", tmp_path / "out", COMMANDS[name]
    whole.mkdir()
    began = time.perf_counter()
    finish(command(inputs, whole), whole)
    seconds = time.perf_counter() - began
    expected, moments = contents(whole), random.Random(0)
    assert expected
    for number in range(kills):
        out.mkdir(exist_ok=True)
        process = start(command(inputs, out), out)
        time.sleep(moments.uniform(0.3, 1) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path, value in contents(out).items():
            assert value == expected[path], f"{path} is half-written after kill {number + 1}"
        if number % 3 == 2 or number == kills - 1:
            if contents(out) != expected:  # some commands refuse to replace a finished output
                finish(command(inputs, out), out)
            assert contents(out) == expected
            assert helpers.list_files(out) == helpers.list_files(whole)
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
