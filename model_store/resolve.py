"""Names of models and color memories resolved to files: the only place where that is decided.

A `Library` holds the files that can be opened by name. This module provides those of the command
line and the Python API; the nodes and the trainers pass their own folders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..model_defs import registry
from ..model_defs.checkpoint import SUFFIXES, CheckpointError
from . import catalog, download
from .paths import MEMORIES_FOLDER, RESERVED_FOLDERS, bundled_models, models_folder

MEMORY_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Library:
    """Files of one kind that can be opened by name."""

    kind: str
    """Noun for error messages, such as "model"."""
    files: Mapping[str, Path]
    """Name in lists -> file."""
    folder: Path
    """Where downloads go."""
    advice: str
    """Last sentence of the message about an unknown name: how to add a file."""
    suffixes: tuple[str, ...] = ()
    """Suffixes that a name may omit."""
    paths_allowed: bool = True
    """Accept paths of other files. False for untrusted names, such as those of a workflow."""
    has_catalog: bool = True
    """Recognize published checkpoints under all their names, and download them on demand."""

    def find(self, name: str | Path) -> Path | None:
        """Return the installed file that `name` refers to, or None. Downloads nothing."""
        if self.paths_allowed and Path(name).is_file():
            return Path(name)
        for candidate in (str(name), *(f"{name}{suffix}" for suffix in self.suffixes)):
            if candidate in self.files:
                return self.files[candidate]
        model = catalog.find_published(str(name)) if self.has_catalog else None
        if model and (installed := catalog.find_installed(model, self.files)):
            return self.files[installed]
        return None

    def find_missing(self, name: str | Path) -> catalog.Published | None:
        """Return the published checkpoint that `name` refers to if it is not installed."""
        if not self.has_catalog or self.find(name):
            return None
        return catalog.find_published(str(name))

    def resolve(
        self,
        name: str | Path,
        *,
        offline: bool = False,
        progress: download.Progress | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Path:
        """Return the file that `name` refers to; download a published one that is not installed.

        Args:
            name: path, or name of an installed or published file.
            offline: download nothing.
            progress, check: see `download.fetch`.
        Raises:
            CheckpointError: the name is not known; the message lists those that are.
            DownloadError: the file cannot be downloaded; the message says where to get it.
        """
        if not str(name).strip():
            raise CheckpointError(f"the name of the {self.kind} is empty. {self.advice}")
        if path := self.find(name):
            return path
        if model := self.find_missing(name):
            return download.fetch(
                model, self.folder, offline=offline, progress=progress, check=check
            )
        if self.paths_allowed and Path(name).exists():
            return Path(name)  # a folder or a pipe, which the reader rejects by name
        raise CheckpointError(self.unknown(name))

    def unknown(self, name: str | Path) -> str:
        """Return the message for a name that cannot be resolved."""
        names = ", ".join(self.files)
        if not self.paths_allowed:
            return f"{self.kind} '{name}' is not in the list ({names or 'empty'}). {self.advice}"
        return (
            f"{name}: no such file, and no {self.kind} of that name. "
            f"Installed: {names or 'none'}. {self.advice}"
        )


def installed_models() -> dict[str, Path]:
    """Return name -> file of all bundled models and those in the models folder."""
    models, folder = bundled_models(), models_folder()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        reserved = name.parts[0] in RESERVED_FOLDERS
        if path.suffix.lower() in SUFFIXES and path.is_file() and not reserved:
            models.setdefault(name.as_posix(), path)
    return models


def model_library() -> Library:
    """Return the models of the command line and the Python API."""
    folder = models_folder()
    published = ", ".join(catalog.PUBLISHED)
    return Library(
        kind="model",
        files=installed_models(),
        folder=folder,
        advice=f"Put checkpoints into {folder}. Published: {published}.",
    )


def memory_library() -> Library:
    """Return the color memories of the command line."""
    folder = models_folder() / MEMORIES_FOLDER
    paths = sorted(folder.rglob(f"*{MEMORY_SUFFIX}"))
    return Library(
        kind="color memory",
        files={path.relative_to(folder).as_posix(): path for path in paths},
        folder=folder,
        advice=f"Saved color memories are in {folder}.",
        suffixes=(MEMORY_SUFFIX,),
        has_catalog=False,
    )


def model_path(name: str | Path, *, offline: bool = False) -> Path:
    """Resolve a path or model name; see `Library.resolve`. Shows downloads on stderr."""
    if Path(name).is_file():  # without a walk through the models folder
        return Path(name)
    return model_library().resolve(name, offline=offline)


def memory_path(name: str | Path) -> Path:
    """Resolve a path or the name of a saved color memory; see `Library.resolve`."""
    return memory_library().resolve(name)


def may_have_role(path: Path, role: str) -> bool:
    """Return True if a file may hold a network of this role.

    Files of this package state their role, published ones are recognized by name. The role of other
    files is not known before they are loaded.
    """
    try:
        stated = registry.role_of(path)
    except OSError:
        return False
    if stated is None and (model := catalog.find_published(path.name)):
        stated = model.role
    return stated in (role, None)
