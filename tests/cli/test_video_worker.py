"""Many videos: a decoder that crashes or hangs loses one of them, and Ctrl-C loses none."""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from comfyui_colorist.cli.commands import colorize
from comfyui_colorist.cli.video_worker import VideoWorker, WorkerError
from comfyui_colorist.console.errors import UsageError
from comfyui_colorist.media import video_reader

MEDIA = Path(__file__).parents[1] / "media" / "video_helpers.py"
make_video = SimpleNamespace(**runpy.run_path(str(MEDIA))).make_video
run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py")))).run

CODE = '''
import os, signal, time
from comfyui_colorist.cli.commands.colorize import _load_backends
from comfyui_colorist.console.errors import UsageError
from comfyui_colorist.media.video_container import decoder_activity

def load():
    return colorize

def refuse():
    raise UsageError("--model x: no such model.")

def end():
    os._exit(3)

def colorize(source, target):
    if source.name == "crash.mkv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if source.name == "large.mkv":
        os.kill(os.getpid(), signal.SIGKILL)
    if source.name == "hang.mkv":
        with decoder_activity:
            time.sleep(60)
    if source.name == "bad.mkv":
        raise ValueError("bad.mkv: not a video, or damaged.")
    if source.name == "long.mkv":
        try:
            target.write_text("started")
            time.sleep(60)
        except KeyboardInterrupt:
            target.write_text("cleaned up")
            raise
    target.write_text(str(os.getpid()))

def crashing_backends(arguments, jobs):
    """Frame colorizers of `colorist colorize` that crash natively on a bright frame."""
    backends = _load_backends(arguments, jobs)

    def video(settings):
        colorizer = backends.video(settings)
        colorize = colorizer.colorize

        def crash_or_colorize(frames):
            if frames.mean() > 0.9:
                os.kill(os.getpid(), signal.SIGSEGV)
            return colorize(frames)

        colorizer.colorize = crash_or_colorize
        return colorizer

    return backends._replace(video=video)
'''


@pytest.fixture
def backend(tmp_path, monkeypatch) -> ModuleType:
    """A module that processes started here can import."""
    (tmp_path / "crashing_backend.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import crashing_backend

    yield crashing_backend
    del sys.modules["crashing_backend"]


def test_one_process_until_it_crashes(tmp_path, backend):
    with VideoWorker(backend.load) as worker:

        def process_of(name: str) -> str:
            worker.colorize(Path(name), tmp_path / "out")
            return (tmp_path / "out").read_text()

        first = process_of("a.mkv")
        assert process_of("b.mkv") == first != str(os.getpid())
        with pytest.raises(WorkerError, match=r"^bad.mkv: not a video, or damaged\.$"):
            process_of("bad.mkv")
        assert process_of("c.mkv") == first
        message = r"^crash.mkv: the decoder crashed on this file \(SIGSEGV\); convert it with"
        with pytest.raises(WorkerError, match=message):
            process_of("crash.mkv")
        second = process_of("d.mkv")
        assert second != first
        with pytest.raises(WorkerError, match="^large.mkv: ended by the system .* memory ran out;"):
            process_of("large.mkv")
        assert process_of("e.mkv") not in (first, second)


def test_a_decoder_that_hangs(tmp_path, backend):
    with VideoWorker(backend.load, hang_seconds=2) as worker:
        with pytest.raises(WorkerError, match="^hang.mkv: the decoder hangs on this file;"):
            worker.colorize(Path("hang.mkv"), tmp_path / "out")
        worker.colorize(Path("a.mkv"), tmp_path / "out")


def test_a_process_that_does_not_start(backend):
    with pytest.raises(UsageError, match="--model x: no such model."):
        VideoWorker(backend.refuse).start()
    with pytest.raises(UsageError, match=r"the process for videos ended .* \(exit code 3\);"):
        VideoWorker(backend.end).start()


def test_stopping_lets_the_process_clean_up(tmp_path, backend):
    out = tmp_path / "out"

    def interrupt():
        while not out.exists() or not out.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), VideoWorker(backend.load) as worker:
        worker.start()
        thread.start()
        worker.colorize(Path("long.mkv"), out)
    thread.join()
    signal.signal(signal.SIGINT, previous)
    assert out.read_text() == "cleaned up"


def test_a_crash_does_not_stop_the_rest(tmp_path, backend, mini_file, monkeypatch, capsys):
    films = tmp_path / "films"
    films.mkdir()
    make_video(films / "a.mkv", frames=2)
    make_video(films / "b.mkv", frames=2, values=(235, 128, 128))
    make_video(films / "c.mkv", frames=2)
    monkeypatch.setattr(colorize, "_load_backends", backend.crashing_backends)
    command = ["colorize", films, "-o", tmp_path / "out", "--model", mini_file, "--device", "cpu"]
    assert run(*command, "--json") == 1
    printed = capsys.readouterr()
    assert "[2/3] failed: b.mkv: the decoder crashed on this file (SIGSEGV)" in printed.err
    assert printed.err.endswith("2 written, 1 failed.\n")
    report = json.loads(printed.out)
    assert [file["status"] for file in report["files"]] == ["written", "failed", "written"]
    assert len(list(video_reader.read_frames(tmp_path / "out" / "c.mkv"))) == 2


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a group of processes")
def test_ctrl_c_ends_both_processes(tmp_path, mini_file):
    for name in ("a.mkv", "b.mkv"):
        make_video(tmp_path / name, frames=200)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "comfyui_colorist", "colorize", tmp_path / "a.mkv"]
        + [tmp_path / "b.mkv", "-o", out, "--model", mini_file, "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    work = out / ".colorist-a.mkv.parts"
    while not (work / "unfinished.mkv").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped; finished outputs are complete" in errors
    assert not work.exists()  # the process for videos has cleaned up: nothing was finished
