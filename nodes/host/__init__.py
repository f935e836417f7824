"""The only package that knows ComfyUI: folders, device, memory, progress, interrupts and masks.

Supports hosts from v0.3.64. Attributes of the host are looked up when needed, because it replaces
some of them during startup and newer ones may be missing.
"""

from comfy_api.v0_0_2 import ComfyExtension, io

from .browser import FileReference, node_id, queue_is_busy, routes, save_temp_png
from .compat import CustomWidgetString, build_supported
from .execution import (
    HostDeviceManager,
    best_dtype,
    check_interrupt,
    device,
    is_out_of_memory,
    mask_for,
    progress,
    to_host_image,
)
from .folders import cache_folder, input_folder_path, input_folders, input_photos
from .models import (
    memory_file,
    memory_names,
    memory_path,
    models_folder,
    network_file,
    network_names,
    network_path,
    network_problem,
    new_memory_file,
    register_folder,
)

__all__ = [
    "ComfyExtension",
    "CustomWidgetString",
    "FileReference",
    "HostDeviceManager",
    "best_dtype",
    "build_supported",
    "cache_folder",
    "check_interrupt",
    "device",
    "input_folder_path",
    "input_folders",
    "input_photos",
    "io",
    "is_out_of_memory",
    "mask_for",
    "memory_file",
    "memory_names",
    "memory_path",
    "models_folder",
    "network_file",
    "network_names",
    "network_path",
    "network_problem",
    "new_memory_file",
    "node_id",
    "progress",
    "queue_is_busy",
    "register_folder",
    "routes",
    "save_temp_png",
    "to_host_image",
]
