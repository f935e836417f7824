"""The only file that knows ComfyUI: its folders, device and memory, progress, interrupt, masks.

Works on hosts from v0.3.64 on. Attributes of the host are looked up late, because it swaps some of
them while it starts and newer ones may be missing.
"""

import inspect
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from comfy_api.v0_0_2 import ComfyExtension, io
from torch import Tensor, nn

from ..media import image_io
from ..model_defs.checkpoint import SUFFIXES
from ..model_store import catalog, download, resolve
from ..model_store import paths as model_paths
from ..pipeline.device_manager import Placement
from ..pipeline.references import index as reference_index

__all__ = ["ComfyExtension", "io"]  # for the node files, which import nothing of the host

FOLDER = "colorization"  # key in folder_paths, folder below models/
MEMORY_SUFFIX = ".safetensors"
PICTURES = "colorist"  # folder of pictures for our own widgets, below the host's temp folder
INPUT_LEVELS = 4  # of folders below the host's input folder that are looked at,
INPUT_FOLDERS = 1000  # and how many: a combo is made of them at every look
NEWER = {"advanced", "search_aliases"}  # keywords that came after v0.3.64
Made = TypeVar("Made")


def make(cls: Callable[..., Made], *args: object, **options: object) -> Made:
    """`cls(*args, **options)` without the NEWER options this host's version does not know."""
    known = inspect.signature(cls).parameters
    return cls(*args, **{k: v for k, v in options.items() if k in known or k not in NEWER})


@io.comfytype(io_type="STRING")
class DrawnString:
    """A STRING whose widget our own JavaScript draws; nodes and programs give it as any other.

    `io.String` of v0.3.64 cannot say so.
    """

    Type = str

    class Input(io.WidgetInput):
        def __init__(self, id: str, widget: str, *, display_name: str, tooltip: str, default: str):
            super().__init__(
                id,
                display_name=display_name,
                tooltip=tooltip,
                default=default,
                extra_dict={"widgetType": widget},
            )


# ---- model folder ----


def register_folder() -> None:
    """Make models/colorization known to the host, beside folders of extra_model_paths.yaml."""
    _, suffixes = folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set()))
    if isinstance(suffixes, set):  # empty after extra_model_paths.yaml, which means "every file"
        suffixes |= set(SUFFIXES)
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def network_names(role: str) -> list[str]:
    """Names for a combo: boxed networks of a role first, then the files of the model folder.

    Files that are known to be of another role are left out. At the end, marked as such, published
    ones that are not there but can be downloaded.
    """
    boxed, found = model_paths.boxed(), _files()
    names = [name for name in found if name not in boxed]
    ahead = [] if download.switched_off() else catalog.PUBLISHED.values()
    return [
        *(name for name, path in boxed.items() if resolve.of_role(path, role)),
        *(name for name in names if (path := _path(name)) and resolve.of_role(path, role)),
        *(
            catalog.marked(known)
            for known in ahead
            if known.fetchable and known.role == role and not catalog.at_hand(known, found)
        ),
    ]


def network_path(name: str) -> Path:
    """The file behind a name of `network_names`, of any role; nothing is downloaded.

    Names are untrusted: nothing else is ever opened. That of a published checkpoint also finds it
    with another ending or in a folder, and with the mark of the list after it has come.

    Raises:
        ValueError: a name that is not in the list, or of a published file that is not there.
    """
    boxed, found = model_paths.boxed(), _files()
    if name in boxed:
        return boxed[name]
    if name not in found and (published := catalog.find(name)):
        name = catalog.at_hand(published, found)
        if name is None:
            raise ValueError(f"{published.file} is not in models/{FOLDER}.")
    if name in found:
        return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    known = [*boxed, *(other for other in found if other not in boxed)]
    raise ValueError(
        f"model '{name}' is not in the list ({', '.join(known) or 'which is empty'}). "
        f"Put checkpoints ({', '.join(SUFFIXES)}) into models/{FOLDER}, press R, and choose again."
    )


def network_file(name: str) -> Path:
    """As `network_path`; a published file that is not there is downloaded, shown on the node.

    Raises:
        ValueError: a name that is not in the list; a file that cannot be downloaded.
    """
    if published := _ahead(name):
        bar = progress(published.bytes)
        return download.fetch(published, _own_folder(), progress=bar, check=check_interrupt)
    return network_path(name)


def network_problem(name: str, role: str) -> str:
    """Why no network can be had by this name, or ""; nothing is opened or downloaded."""
    if published := _ahead(name):
        if published.role != role:
            return (
                f"{published.file} is a network of the role '{published.role}'; this node opens "
                f"'{role}' networks. Choose another."
            )
        return download.why_not(published, _own_folder())
    try:
        network_path(name)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _ahead(name: str) -> catalog.Published | None:
    """The published checkpoint of a name, where it is not in a model folder yet."""
    found, published = _files(), catalog.find(name)
    there = name in found or name in model_paths.boxed()
    return None if there or not published or catalog.at_hand(published, found) else published


def _own_folder() -> Path:
    """Where files are written that the host did not have."""
    return Path(folder_paths.models_dir, FOLDER)


def _path(name: str) -> Path | None:
    """The file, or None: a link that leads nowhere is listed, too."""
    found = folder_paths.get_full_path(FOLDER, name)
    return Path(found) if found else None


def _files() -> list[str]:
    return [
        name
        for name in folder_paths.get_filename_list(FOLDER)
        if Path(name).suffix.lower() in SUFFIXES
        and Path(name).parts[0] not in model_paths.NO_COLORIZERS
    ]


# ---- color memories ----


def memory_names() -> list[str]:
    """Names for a combo: the files in `memories` of every model folder."""
    memories = Path(model_paths.MEMORIES)
    paths = [Path(name) for name in folder_paths.get_filename_list(FOLDER)]
    return [
        path.relative_to(memories).as_posix()
        for path in paths
        if memories in path.parents and path.suffix.lower() == MEMORY_SUFFIX and _path(str(path))
    ]


def memory_path(name: str) -> Path:
    """The file behind a name of `memory_names`; nothing else is ever opened.

    Raises:
        ValueError: a name that is not in the list.
    """
    if name in memory_names():
        return Path(folder_paths.get_full_path_or_raise(FOLDER, f"{model_paths.MEMORIES}/{name}"))
    raise ValueError(
        f"memory '{name}' is not in the list ({', '.join(memory_names()) or 'which is empty'}). "
        f"Save one with Save Color Memory, or put a file ({MEMORY_SUFFIX}) into "
        f"models/{FOLDER}/{model_paths.MEMORIES}; press R, and choose again."
    )


def memory_file(file: str) -> Path | None:
    """The file that Load Color Memory would open by this plain file name, or None."""
    places = (
        Path(folder, model_paths.MEMORIES, file) for folder in folder_paths.get_folder_paths(FOLDER)
    )
    return next((place for place in places if place.exists()), None)


def new_memory_file(file: str) -> Path:
    """Where a new memory of this plain file name is written: models/colorization/memories."""
    folder = _own_folder() / model_paths.MEMORIES
    folder.mkdir(parents=True, exist_ok=True)
    return folder / file


# ---- photos in the input folder ----


def input_folders() -> list[str]:
    """Names for a combo: folders below the host's input folder that hold photos, or whose do."""
    return _names(_input_photos())


def input_photos(name: str) -> list[Path]:
    """The photos in a folder of `input_folders` and in those below it.

    Names are untrusted: no other folder is ever read.

    Raises:
        ValueError: a name that is not in the list.
    """
    found = _input_photos()
    if name not in _names(found):
        raise ValueError(
            f"folder '{name}' is not in the list "
            f"({', '.join(_names(found)) or 'which is empty'}). Put a folder of photos into "
            f"{folder_paths.get_input_directory()}, press R, and choose again."
        )
    chosen = Path(name)
    return [
        photo
        for folder, photos in sorted(found.items())
        if chosen in (folder, *folder.parents)
        for photo in photos
    ]


def input_place(name: str) -> Path:
    """Where a folder of `input_folders` lies; for its name alone, as nothing is checked."""
    return Path(folder_paths.get_input_directory(), name)


def cache_folder() -> Path:
    """$COLORIST_CACHE, else in the host's user folder, which outlives it as its temp does not."""
    user = getattr(folder_paths, "get_user_directory", None)
    if user is None or os.environ.get("COLORIST_CACHE"):
        return reference_index.cache_folder()
    return Path(user(), "__colorist", "cache")


def _names(found: Iterable[Path]) -> list[str]:
    both = {place for folder in found for place in (folder, *folder.parents)}
    return sorted(place.as_posix() for place in both if place.name)


def _input_photos() -> dict[Path, list[Path]]:
    """Folder, relative to the host's input folder -> the photos in it. Links are followed once."""
    root = Path(folder_paths.get_input_directory())
    found, seen, ahead = {}, set(), deque([Path()])
    while ahead and len(seen) < INPUT_FOLDERS:
        folder = ahead.popleft()
        place = os.path.realpath(root / folder)
        if place in seen:
            continue  # a link that leads back
        seen.add(place)
        try:
            with os.scandir(place) as inside:
                entries = [entry for entry in inside if not entry.name.startswith(".")]
            below = sorted(entry.name for entry in entries if entry.is_dir())
            photos = sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(image_io.SUFFIXES) and entry.is_file()
            )
        except OSError:
            continue  # not ours to read
        if photos:
            found[folder] = [root / folder / name for name in photos]
        if len(folder.parts) < INPUT_LEVELS:
            ahead.extend(folder / name for name in below)
    return found


# ---- device and memory ----


def device() -> torch.device:
    """Where the host computes."""
    return mm.get_torch_device()


def best_dtype() -> str:
    """bfloat16 where the device is made for it, else float32; float16 overflows in DDColor."""
    return "bfloat16" if device().type != "cpu" and mm.should_use_bf16(device()) else "float32"


class HostPlacement(Placement):
    """A network under the host's memory management, which loads and unloads it."""

    def __init__(self, network: nn.Module, device: torch.device | str):
        # Looked up late: the host replaces CoreModelPatcher while it starts.
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.device = torch.device(device)
        self.patcher = patcher(
            network, load_device=self.device, offload_device=mm.unet_offload_device()
        )

    def acquire(self, memory_required: int) -> nn.Module:
        """The network, on `self.device`, with room for `memory_required` bytes of activations."""
        # Without force_full_load the host may leave part of a plain module on the CPU.
        mm.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)
        network = self.patcher.model
        if any(p.device.type != self.device.type for p in network.parameters()):
            network.to(self.device)  # --novram loads nothing, even then
        return network

    def images_at_once(self, memory_per_image: int) -> int:
        """How many images to run in one forward pass: what fits in half of a GPU's free memory."""
        if self.device.type == "cpu":
            return 1  # one image already uses every core
        return max(
            1, min(16, int(mm.get_free_memory(self.device) // 2 // max(memory_per_image, 1)))
        )

    def check_interrupt(self) -> None:
        """Raise the host's interrupt where the user has pressed stop."""
        check_interrupt()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """True when `error` says that memory ran out."""
        return is_out_of_memory(error)

    def release(self) -> None:
        """Give cached memory back before a retry."""
        mm.soft_empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """True when `error` says that memory ran out."""
    if hasattr(mm, "is_oom") and mm.is_oom(error):
        return True
    if mm.OOM_EXCEPTION is not Exception and isinstance(error, mm.OOM_EXCEPTION):
        return True
    return Placement.is_out_of_memory(None, error)  # the CPU's own ways to say it


# ---- pictures, masks, progress ----


def delivered(image: Tensor) -> Tensor:
    """A finished IMAGE as the host wants it: its device, its dtype (float32 on older hosts)."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return image.to(mm.intermediate_device(), dtype).contiguous()


def mask_for(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """A MASK at the size of `image` (B, H, W, C), or None where there is none.

    A loader without alpha sends zeros (64 x 64, whatever the image), so all zeros mean "no mask".
    """
    if mask is None or not mask.any():
        return None
    mask = mask.float()[None] if mask.ndim == 2 else mask.float()
    if mask.ndim != 3:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected (B, H, W).")
    if mask.shape[1:] != image.shape[1:3]:
        size = tuple(image.shape[1:3])
        mask = F.interpolate(mask[:, None], size=size, mode="bilinear", antialias=True)[:, 0]
    return mask


def check_interrupt() -> None:
    """Raise the host's interrupt where the user has pressed stop."""
    mm.throw_exception_if_processing_interrupted()


def progress(total: int) -> Callable[..., None]:
    """A progress bar on the running node: call it with what is done, and of how much if it grew."""
    bar = comfy.utils.ProgressBar(total)
    return lambda done, total=total: bar.update_absolute(done, total)


# ---- the browser ----


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
