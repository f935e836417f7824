"""Serve a real ComfyUI checkout with this pack alone, on the CPU and a free port.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/serve.py [MODEL.safetensors ...]

prints the address and serves until stopped. COMFYUI_PYTHON is an interpreter with the host's
requirements, by default the running one.
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
NAME = "comfyui-colorist"  # folder of the pack
START_TIMEOUT = 300  # seconds
LOG = "host.log"  # output of the host, in the base folder
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
# Local addresses must not go through a proxy of the environment.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextlib.contextmanager
def served(checkout: str, python: str, models: Iterable = ()) -> Iterator[tuple[str, Path]]:
    """Start the host with this checkout as its pack; yield its address and base folder.

    Args:
        checkout: Folder of ComfyUI.
        python: An interpreter with its requirements.
        models: Checkpoints to copy into its models/colorization.
    """
    with folders(models) as base:
        (base / "custom_nodes" / NAME).symlink_to(ROOT, target_is_directory=True)
        with running(checkout, python, base) as (url, _):
            yield url, base


@contextlib.contextmanager
def folders(models: Iterable = ()) -> Iterator[Path]:
    """Yield a temporary base folder for a host, without any pack."""
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
    """Run the host on a base folder; yield its address and the seconds until it responded.

    Compiled Python goes to `cache`, by default in the base folder, so that the folder of the host
    stays unchanged.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", f"sqlite:///{base / 'user' / 'host.db'}"]
    process_env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process_env |= {"PYTHONPYCACHEPREFIX": str(cache or base / "pycache"), "HF_HUB_OFFLINE": "1"}
    log, started = base / LOG, time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=checkout, env=process_env, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        packs = any((base / "custom_nodes").iterdir())
        _wait(url, process, log, expected="ColoristPointHints" if packs else "LoadImage")
        yield url, time.monotonic() - started
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path, expected: str) -> None:
    """Wait until the host responds and has a node.

    Raises:
        RuntimeError: The host did not start; the message has the end of its log.
    """
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < START_TIMEOUT:
        time.sleep(0.1)
        with contextlib.suppress(OSError), _open(f"{url}/object_info", timeout=60) as answer:
            if expected in json.load(answer):
                return
            break
    raise RuntimeError(f"the host did not start with {expected}:\n{log.read_text()[-3000:]}")


def main() -> None:
    """Serve until Ctrl+C or SIGTERM."""
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
