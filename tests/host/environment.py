"""What the environment gives the host tests, and the names of what they make."""

import os
import shutil
import sys

CHECKOUT = os.environ.get("COMFYUI_PATH")
PYTHON = os.environ.get("COMFYUI_PYTHON") or sys.executable
NODE = shutil.which("node")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOST = {"COMFYUI_PATH (a folder of ComfyUI)": CHECKOUT}
BROWSER = HOST | {
    "PLAYWRIGHT_NODE_MODULES (a node_modules with playwright-core)": os.environ.get(
        "PLAYWRIGHT_NODE_MODULES"
    ),
    "node": NODE,
    "Chromium (on PATH or as CHROMIUM)": CHROMIUM,
}
RENDERERS = ("classic", "nodes2")
PHOTO, COLORED = "example.png", "colour.png"  # of the workflow tests
FILMS = ("film.mp4", "shot.mp4")
SIZE = (192, 128)


def lacking(needed: dict[str, str | None]) -> str:
    """What of HOST or BROWSER is not there, as the reason of a skip; "" where all is."""
    missing = [name for name, found in needed.items() if not found]
    return f"needs {', '.join(missing)}" if missing else ""
