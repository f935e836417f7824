"""Where checkpoints are: a path, the box, the models folder."""

from pathlib import Path

from ..model_defs import registry
from ..model_defs.checkpoint import SUFFIXES, CheckpointError
from . import catalog, download
from .paths import NO_COLORIZERS, boxed, models_folder


def of_role(path: Path, role: str) -> bool:
    """Whether a file may hold a network of this role: our own files tell, published ones by name.

    Of others it is not known without a load.
    """
    try:
        found = registry.role_of(str(path), path.stat().st_mtime_ns)
    except OSError:
        return False
    if found is None and (published := catalog.find(path.name)):
        found = published.role
    return found in (role, None)


def available() -> dict[str, Path]:
    """Name -> file of every network at hand: boxed first, then those of the models folder."""
    found, folder = boxed(), models_folder()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if (
            path.suffix.lower() in SUFFIXES
            and path.is_file()
            and name.parts[0] not in NO_COLORIZERS
        ):
            found.setdefault(name.as_posix(), path)
    return found


def locate(source: str | Path, *, offline: bool = False) -> Path:
    """A file's path: `source` if it is a file, else the boxed or installed file of that name.

    A published one that is not at hand is downloaded into the models folder, told of on stderr.

    Args:
        offline: download nothing.
    Raises:
        CheckpointError: nothing of that name; lists what there is.
        DownloadError: a published one that cannot be had; says where to get it.
    """
    if Path(source).is_file():
        return Path(source)
    found = available()
    if str(source) in found:
        return found[str(source)]
    if Path(source).exists():
        return Path(source)  # a folder, which reading refuses by name
    published = catalog.find(str(source))
    if published is None:
        raise CheckpointError(
            f"{source}: no such file, and no model of that name. "
            f"At hand: {', '.join(found) or 'none'}; put checkpoints into {models_folder()}. "
            f"Published: {', '.join(catalog.PUBLISHED)}."
        )
    if name := catalog.at_hand(published, found):
        return found[name]
    return download.fetch(
        published,
        models_folder(),
        offline=offline,
        progress=download.on_stderr(published.file),
    )
