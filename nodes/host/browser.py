"""Pictures for the page, and the host's server."""

import secrets
import sys
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

PICTURES = "colorist"  # folder of pictures for our own widgets, below the host's temp folder


def node_id(cls: type[io.ComfyNode]) -> str:
    """The id of the running node, where its schema asks for `io.Hidden.unique_id`."""
    return str(getattr(cls.hidden, "unique_id", None) or "")


def picture_for_browser(png: bytes) -> dict[str, str]:
    """Keep a PNG in the host's temp folder: what its /view asks for. The host empties it."""
    name = f"{secrets.token_hex(8)}.png"  # a new one each time: browsers keep what they have seen
    folder = Path(folder_paths.get_temp_directory(), PICTURES)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png)
    return {"filename": name, "subfolder": PICTURES, "type": "temp"}


def _server() -> object | None:
    """The host's running server; None where there is none, as in tests."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def routes() -> object | None:
    """The route table of the host's server (aiohttp's), or None."""
    return getattr(_server(), "routes", None)


def busy() -> bool:
    """Whether a workflow runs or waits to run."""
    queue = getattr(_server(), "prompt_queue", None)
    return queue is not None and queue.get_tasks_remaining() > 0
