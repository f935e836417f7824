"""The host's model folders: networks and color memories by the names of combos."""

import os
from pathlib import Path

import folder_paths

from ...model_defs.checkpoint import SUFFIXES
from ...model_store import catalog, download, resolve
from ...model_store import paths as model_paths
from .execution import check_interrupt, progress

FOLDER = "colorization"  # key in folder_paths, folder below models/


# ---- model folder ----


def register_folder() -> None:
    """Register models/colorization with the host, after folders of extra_model_paths.yaml."""
    _, suffixes = folder_paths.folder_names_and_paths.setdefault(FOLDER, ([], set()))
    if isinstance(suffixes, set):  # empty after extra_model_paths.yaml, which means "every file"
        suffixes |= set(SUFFIXES)
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def network_names(role: str) -> list[str]:
    """Return the names for a combo: bundled models of a role, then files of the model folder.

    Files with another role are left out. Published models that can be downloaded come last, labeled
    as such.
    """
    files = _model_library().files
    names = [name for name, path in files.items() if resolve.may_have_role(path, role)]
    published = [] if download.offline_variable() else catalog.PUBLISHED.values()
    labels = [
        catalog.display_label(model)
        for model in published
        if model.downloadable and model.role == role and not catalog.find_installed(model, files)
    ]
    return names + labels


def network_path(name: str) -> Path:
    """Return the file of a name in `network_names`, of any role. Downloads nothing.

    Names are untrusted: only listed files are opened.

    Raises:
        ValueError: the name is not in the list, or the published file is not installed.
    """
    library = _model_library()
    if path := library.find(name):
        return path
    raise ValueError(library.unknown(name))


def network_file(name: str) -> Path:
    """Return the file of a name; download a published one, with a progress bar on the node.

    Raises:
        ValueError: the name is not in the list, or the file cannot be downloaded.
    """
    library = _model_library()
    model = library.find_missing(name)
    bar = progress(model.size) if model else None
    return library.resolve(name, progress=bar, check=check_interrupt)


def network_problem(name: str, role: str) -> str:
    """Return why no model can be loaded by this name, or "". Opens and downloads nothing."""
    library = _model_library()
    model = library.find_missing(name)
    if model is None:
        return "" if library.find(name) else library.unknown(name)
    if model.role != role:
        return (
            f"{model.file} is a model with the role '{model.role}'; this node loads "
            f"'{role}' models. Choose another model."
        )
    return download.unavailable_reason(model, library.folder)


def _model_library() -> resolve.Library:
    """Return the bundled models and those in the model folders of the host."""
    bundled = model_paths.bundled_models()
    installed = {
        name: path
        for name, path in _files().items()
        if path.suffix.lower() in SUFFIXES
        and Path(name).parts[0] not in model_paths.RESERVED_FOLDERS
        and name not in bundled
    }
    return resolve.Library(
        kind="model",
        files=bundled | installed,
        folder=models_folder(),
        advice=f"Put checkpoints ({', '.join(SUFFIXES)}) into models/{FOLDER}, press R, and choose "
        "again.",
        paths_allowed=False,
    )


def models_folder() -> Path:
    """Return the folder for files that the host did not have."""
    return Path(folder_paths.models_dir, FOLDER)


def _files() -> dict[str, Path]:
    """Return name -> file of everything in the model folders; broken links are left out."""
    names = folder_paths.get_filename_list(FOLDER)
    paths = {name: folder_paths.get_full_path(FOLDER, name) for name in names}
    return {name: Path(path) for name, path in paths.items() if path}


# ---- color memories ----


def memory_names() -> list[str]:
    """Return the names for a combo: the files in `memories` of every model folder."""
    return list(_memory_library().files)


def memory_path(name: str) -> Path:
    """Return the file of a name in `memory_names`; only listed files are opened.

    Raises:
        ValueError: the name is not in the list.
    """
    return _memory_library().resolve(name)


def _memory_library() -> resolve.Library:
    """Return the color memories in the model folders of the host."""
    memories = Path(model_paths.MEMORIES_FOLDER)
    return resolve.Library(
        kind="color memory",
        files={
            Path(name).relative_to(memories).as_posix(): path
            for name, path in _files().items()
            if memories in Path(name).parents and path.suffix.lower() == resolve.MEMORY_SUFFIX
        },
        folder=models_folder() / memories,
        advice="Save one with Save Color Memory, or put a file "
        f"({resolve.MEMORY_SUFFIX}) into models/{FOLDER}/{memories}; press R, and choose again.",
        paths_allowed=False,
        has_catalog=False,
    )


def memory_file(file: str) -> Path | None:
    """Return the file that Load Color Memory would open by this file name, or None."""
    paths = (
        Path(folder, model_paths.MEMORIES_FOLDER, file)
        for folder in folder_paths.get_folder_paths(FOLDER)
    )
    return next((path for path in paths if path.exists()), None)


def new_memory_file(file: str) -> Path:
    """Return the path for a new memory in models/colorization/memories; create the folder."""
    folder = models_folder() / model_paths.MEMORIES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / file
