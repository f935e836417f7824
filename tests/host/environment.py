"""Settings of the host tests from the environment, and names of their files."""

import os
import shutil
import sys

CHECKOUT = os.environ.get("COMFYUI_PATH")
PYTHON = os.environ.get("COMFYUI_PYTHON") or sys.executable
NODE = shutil.which("node")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HOST_REQUIREMENTS = {"COMFYUI_PATH (a folder of ComfyUI)": CHECKOUT}
BROWSER_REQUIREMENTS = HOST_REQUIREMENTS | {
    "PLAYWRIGHT_NODE_MODULES (a node_modules with playwright-core)": os.environ.get(
        "PLAYWRIGHT_NODE_MODULES"
    ),
    "node": NODE,
    "Chromium (on PATH or as CHROMIUM)": CHROMIUM,
}
RENDERERS = ("classic", "nodes2")
PHOTO, COLORED = "example.png", "color.png"  # of the workflow tests
VIDEOS = ("film.mp4", "shot.mp4")
SIZE = (192, 128)


def missing_reason(requirements: dict[str, str | None]) -> str:
    """Return the reason to skip tests with these requirements; "" if all are met."""
    missing = [name for name, value in requirements.items() if not value]
    return f"needs {', '.join(missing)}" if missing else ""
