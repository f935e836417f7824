"""The host's server and its temporary files for the browser."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import folder_paths
from comfy_api.v0_0_2 import io

if TYPE_CHECKING:
    from aiohttp.web import RouteTableDef

TEMP_SUBFOLDER = "colorist"


class FileReference(TypedDict):
    """Query of the host's /view route for a file."""

    filename: str
    subfolder: str
    type: str


def node_id(cls: type[io.ComfyNode]) -> str:
    """Return the id of the running node if its schema requests `io.Hidden.unique_id`."""
    return str(getattr(cls.hidden, "unique_id", None) or "")


def save_temp_png(png: bytes) -> FileReference:
    """Save a PNG in the host's temp folder, which the host empties."""
    name = f"{secrets.token_hex(8)}.png"  # new each time: browsers cache by name
    folder = Path(folder_paths.get_temp_directory(), TEMP_SUBFOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png)
    return {"filename": name, "subfolder": TEMP_SUBFOLDER, "type": "temp"}


def _server() -> object | None:
    """Return the host's running server; None without a host, as in tests."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def routes() -> "RouteTableDef | None":
    """Return the route table of the host's server, if it runs."""
    return getattr(_server(), "routes", None)


def queue_is_busy() -> bool:
    """Return True if a workflow is running or queued."""
    queue = getattr(_server(), "prompt_queue", None)
    return queue is not None and queue.get_tasks_remaining() > 0
