"""Atomic writes, and what killed runs leave behind."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from comfyui_colorist.media import atomic
from comfyui_colorist.media.atomic import (
    check_work_folder,
    make_work_folder,
    remove_abandoned_parts,
    write_atomic,
    write_atomic_together,
)
from comfyui_colorist.media.image_io import write_image


def test_write_whole_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch, error):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(type(error)):
        write_image(path, np.zeros((4, 4, 3), np.float32))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"old")
    sync, synced = os.fsync, []

    def fail_at_the_second(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(atomic.os, "fsync", fail_at_the_second)
        write_atomic_together({first: b"new", second: b"new"})
    assert caught.value.filename == str(second)
    assert [path.name for path in tmp_path.iterdir()] == ["first"] and first.read_bytes() == b"old"
    write_atomic_together({first: b"new", second: b"2"})
    assert (first.read_bytes(), second.read_bytes()) == (b"new", b"2")
    assert part_names(tmp_path) == []


def test_errors_name_the_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "file" / "x.png", b"x")
    assert caught.value.filename == str(tmp_path / "file" / "x.png")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "x.png", b"x")
    assert caught.value.filename == str(tmp_path / "x.png")


def part_names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".colorist-"))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped with signals")
def test_parts_of_living_processes_stay(tmp_path, root):
    """A process that stops in the middle of a write, and is then killed."""
    script = f"""
import os, runpy, sys
from pathlib import Path
runpy.run_path({str(root / "trainers" / "_standalone.py")!r})["package"]()
from comfyui_colorist.media import atomic
def stop(_):
    print("writing", flush=True)
    sys.stdin.read()
atomic.os.fsync = stop
atomic.write_atomic(Path(sys.argv[1]) / "x", b"half")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "writing\n"
    names = part_names(tmp_path)
    remove_abandoned_parts(tmp_path)
    assert part_names(tmp_path) == names
    assert len(names) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write_atomic(tmp_path / "y", b"new")  # the first write into this folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y"]


def test_only_our_own_files_are_removed(tmp_path):
    other, folder = tmp_path / "other", tmp_path / "out"
    other.write_bytes(b"precious")
    folder.mkdir()
    stays = {
        ".colorist-01.part": lambda path: path.symlink_to(other),
        ".colorist-02.part": lambda path: path.mkdir(),
        ".colorist-x.mkv.parts": lambda path: path.mkdir(),
        "model.part": lambda path: path.write_bytes(b"a download"),
    }
    if hasattr(os, "mkfifo"):
        stays[".colorist-03.part"] = os.mkfifo
    for name, create in stays.items():
        create(folder / name)
    (folder / ".colorist-04.part").write_bytes(b"abandoned")
    remove_abandoned_parts(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(stays)
    assert other.read_bytes() == b"precious"
    remove_abandoned_parts(tmp_path / "missing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root can chown")
def test_files_of_other_users_stay(tmp_path):
    (tmp_path / ".colorist-01.part").write_bytes(b"theirs")
    os.chown(tmp_path / ".colorist-01.part", 12345, -1)
    remove_abandoned_parts(tmp_path)
    assert part_names(tmp_path) == [".colorist-01.part"]
    (tmp_path / "work").mkdir()
    os.chown(tmp_path / "work", 12345, -1)
    with pytest.raises(PermissionError, match="work: the work folder of another user; remove it"):
        make_work_folder(tmp_path / "work")


@pytest.mark.parametrize("check", [check_work_folder, make_work_folder])
def test_work_folders_are_never_links(tmp_path, check):
    other, work = tmp_path / "other", tmp_path / "work"
    other.mkdir()
    (other / "x").write_bytes(b"precious")
    for target in (other, tmp_path / "missing"):
        work.symlink_to(target)
        with pytest.raises(FileExistsError, match="work: a link or file in place of our work"):
            check(work)
        work.unlink()
    work.mkdir()
    (work / "link").symlink_to(other / "x")
    (work / "own").write_bytes(b"")
    check(work)
    assert [path.name for path in work.iterdir()] == ["own"]
    assert (other / "x").read_bytes() == b"precious"
