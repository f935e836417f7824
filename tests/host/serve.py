"""A real ComfyUI checkout with this pack alone, served on the CPU on a port of its own.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/serve.py [MODEL.safetensors ...]

prints its address and serves until it is stopped. COMFYUI_PYTHON: an interpreter that has the
host's requirements, by default the running one.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "comfyui-colorist"  # of the pack's folder
READY = 300  # seconds a host may take to start
LOG = "host.log"  # in the base folder: what the host says
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
# Of this machine alone: a proxy of the environment must not be asked.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextlib.contextmanager
def served(checkout: str, python: str, models: Iterable = ()) -> Iterator[tuple[str, Path]]:
    """Start the host with this checkout as its pack; gives its address and its base folder.

    Args:
        checkout: folder of ComfyUI.
        python: an interpreter that has its requirements.
        models: checkpoints to copy into its models/colorization.
    """
    with folders(models) as base:
        (base / "custom_nodes" / NAME).symlink_to(ROOT, target_is_directory=True)
        with running(checkout, python, base) as (url, _):
            yield url, base


@contextlib.contextmanager
def folders(models: Iterable = ()) -> Iterator[Path]:
    """A base folder for a host, without any pack; removed in the end."""
    with tempfile.TemporaryDirectory(prefix="colorist-host-") as name:
        base = Path(name)
        for folder in FOLDERS:
            (base / folder).mkdir()
        (base / "models" / "colorization").mkdir()
        for model in models:
            shutil.copy(model, base / "models" / "colorization")
        yield base


@contextlib.contextmanager
def running(
    checkout: str, python: str, base: Path, cache: Path | None = None
) -> Iterator[tuple[str, float]]:
    """Start the host on a base folder, and stop it in the end.

    Gives its address and the seconds until it answered. Compiled Python goes to `cache`, by default
    into the base folder: the host's own folder is left as it is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", f"sqlite:///{base / 'user' / 'host.db'}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPYCACHEPREFIX": str(cache or base / "pycache"), "HF_HUB_OFFLINE": "1"}
    log, began = base / LOG, time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        packs = any((base / "custom_nodes").iterdir())
        _wait(url, process, log, expected="ColoristPointHints" if packs else "LoadImage")
        yield url, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path, expected: str) -> None:
    """Until the host answers and has a node; RuntimeError with its last words if it does not."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < READY:
        time.sleep(0.1)
        with contextlib.suppress(OSError), _open(f"{url}/object_info", timeout=60) as answer:
            if expected in json.load(answer):
                return
            break
    raise RuntimeError(f"the host did not start with {expected}:\n{log.read_text()[-3000:]}")


def main() -> None:
    """Serve until Ctrl+C or an end of the process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    checkout = os.environ.get("COMFYUI_PATH")
    if not checkout:
        sys.exit("set COMFYUI_PATH to a folder of ComfyUI")
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    with (
        contextlib.suppress(KeyboardInterrupt),
        served(checkout, python, sys.argv[1:]) as (url, base),
    ):
        sys.stdout.write(f"{url}  (its folders are in {base})\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
