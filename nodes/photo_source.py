"""Photos from a folder of the host's input folder, or from a connected batch."""

import hashlib
from pathlib import Path

from torch import Tensor

from . import host
from .host import build_supported, io

CONNECTED_IMAGES = "(images)"  # choice of the folder input: use the connected batch


def folder_input(batch: str) -> io.Combo.Input:
    """Return the input that chooses a folder.

    Args:
        batch: Name of the input for connected images.
    """
    return build_supported(
        io.Combo.Input,
        "folder",
        display_name="folder",
        options=[
            CONNECTED_IMAGES,
            *(name for name in host.input_folders() if name != CONNECTED_IMAGES),
        ],
        default=CONNECTED_IMAGES,
        tooltip=f"(images): use the images connected to {batch}. Or a folder of color photos in "
        "ComfyUI's input folder, including its subfolders; connected images are then ignored. "
        "Press R after adding a folder.",
    )


def load_source(folder: str, batch: Tensor | None, name: str) -> list[Path] | list[Tensor]:
    """Return the photos of a folder, or the images (H, W, C) of the connected batch.

    Args:
        name: Name of the batch input, for the error message.

    Raises:
        ValueError: The folder is not in the list, or no batch is connected.
    """
    if folder != CONNECTED_IMAGES:
        return host.input_photos(folder)
    if batch is None:
        raise ValueError(
            f"no photos: connect {name}, or choose a folder (put one into ComfyUI's input folder "
            "and press R)."
        )
    return list(batch)


def folder_cache_key(folder: str) -> str:
    """Return a string that changes with the photos of a folder; "" for the connected batch."""
    if folder == CONNECTED_IMAGES:
        return ""
    try:
        photos = [(str(photo), photo.stat()) for photo in host.input_photos(folder)]
    except (ValueError, OSError):
        return f"{folder}: missing"  # execute reports the reason
    listing = "\n".join(f"{name}:{status.st_mtime_ns}:{status.st_size}" for name, status in photos)
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
