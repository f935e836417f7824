"""The host's model folders: networks and color memories by the names of combos."""

import os
from pathlib import Path

import folder_paths

from ...model_defs.checkpoint import SUFFIXES
from ...model_store import catalog, download, resolve
from ...model_store import paths as model_paths
from .execution import check_interrupt, progress

FOLDER = "colorization"  # key in folder_paths, folder below models/
MEMORY_SUFFIX = ".safetensors"


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
