"""The only package that knows ComfyUI: its folders, device and memory, progress, interrupt, masks.

Works on hosts from v0.3.64 on. Attributes of the host are looked up late, because it swaps some of
them while it starts and newer ones may be missing.
"""

from comfy_api.v0_0_2 import ComfyExtension, io

from .browser import busy, node_id, picture_for_browser, routes
from .compat import DrawnString, make
from .execution import (
    HostPlacement,
    best_dtype,
    check_interrupt,
    delivered,
    device,
    is_out_of_memory,
    mask_for,
    progress,
)
from .folders import cache_folder, input_folders, input_photos, input_place
from .models import (
    MEMORY_SUFFIX,
    memory_file,
    memory_names,
    memory_path,
    network_file,
    network_names,
    network_path,
    network_problem,
    new_memory_file,
    register_folder,
)

__all__ = [  # for the node files, which import nothing of the host
    "MEMORY_SUFFIX",
    "ComfyExtension",
    "DrawnString",
    "HostPlacement",
    "best_dtype",
    "busy",
    "cache_folder",
    "check_interrupt",
    "delivered",
    "device",
    "input_folders",
    "input_photos",
    "input_place",
    "io",
    "is_out_of_memory",
    "make",
    "mask_for",
    "memory_file",
    "memory_names",
    "memory_path",
    "network_file",
    "network_names",
    "network_path",
    "network_problem",
    "new_memory_file",
    "node_id",
    "picture_for_browser",
    "progress",
    "register_folder",
    "routes",
]
