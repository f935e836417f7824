"""Find the truth and the reference that belong to each result, for `colorist measure`.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..console.errors import UsageError
from .jobs import Job, find_images


@dataclass
class MeasureEntry:
    """One result with its ground truth and its reference."""

    name: str
    """Name in the table."""
    result: Path | None = None
    """None for a truth without result."""
    truth: Path | None = None
    reference: Path | None = None
    scores: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def record(self) -> dict[str, str | float | None]:
        """Return the entry in the JSON report."""
        paths = {"result": self.result, "truth": self.truth, "reference": self.reference}
        record: dict[str, str | float | None] = {}
        for name, path in paths.items():
            record[name] = str(path) if path else None
        return {**record, **self.scores, "error": self.error}


class PairedFiles:
    """TRUTH or REF: one image that belongs to all results, or a folder with one for each."""

    def __init__(self, path: Path, arguments: list[Path]) -> None:
        """List the images.

        Args:
            path: image or folder.
            arguments: all paths of the command; those inside `path` are not part of it.
        Raises:
            UsageError: the path does not exist, or the folder has no images.
        """
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or folder.")
        self.path, self.is_single = path, not os.path.isdir(path)
        jobs = [] if self.is_single else list_images(path, arguments)
        self.errors = [job.error for job in jobs if job.error]
        self.names = [job.source.relative_to(path) for job in jobs if not job.error]
        self._by_stem: dict[str, list[Path]] = {}
        for name in self.names:
            self._by_stem.setdefault(name.stem, []).append(name)
        if not self.is_single and not self.names:
            raise UsageError(self.errors[0] if jobs else f"{path}: no images outside of IN.")

    def find(self, name: Path) -> Path:
        """Return the image that belongs to a result.

        It has the same path in the folder; or else the same stem, in the same subfolder or,
        failing that, anywhere.

        Args:
            name: path of the result in its folder.
        Raises:
            ValueError: none belongs to it, or more than one. The message does not name the result.
        """
        if self.is_single:
            return self.path
        same_stem = self._by_stem.get(name.stem, [])
        if name in same_stem:
            return self.path / name
        matches = [match for match in same_stem if match.parent == name.parent] or same_stem
        if not matches:
            raise ValueError(f"no image of this name in {self.path}.")
        if len(matches) > 1:
            names = ", ".join(match.as_posix() for match in matches)
            raise ValueError(f"{len(matches)} images of this name in {self.path}: {names}.")
        return self.path / matches[0]


def pair_images(result: Path, truth: Path | None, reference: Path | None) -> list[MeasureEntry]:
    """Return an entry for each result, and one with an error for each truth without result.

    Raises:
        UsageError: a path does not exist or has no images.
    """
    arguments = [path for path in (result, truth, reference) if path]
    truths = PairedFiles(truth, arguments) if truth else None
    references = PairedFiles(reference, arguments) if reference else None
    entries: list[MeasureEntry] = []
    for job in list_images(result, arguments):
        is_inside = job.source != result
        name = job.source.relative_to(result) if is_inside else Path(job.source.name)
        entry = MeasureEntry(name.as_posix(), job.source, error=job.error)
        if not entry.error:
            try:
                entry.truth = truths.find(name) if truths else None
                entry.reference = references.find(name) if references else None
            except ValueError as error:
                entry.error = f"{entry.name}: {error}"
        entries.append(entry)
    for files in filter(None, (truths, references)):
        entries += [MeasureEntry("", error=error) for error in files.errors]
    if truths and os.path.isdir(result):
        used = {entry.truth for entry in entries}
        for name in truths.names:
            if (path := truths.path / name) not in used:
                error = f"{path}: no result of this name in {result}."
                entries.append(MeasureEntry(name.as_posix(), truth=path, error=error))
    if not entries:
        raise UsageError(f"{result}: no images outside of TRUTH and REF.")
    return entries


def list_images(path: Path, arguments: list[Path]) -> list[Job]:
    """Return an image, or those in and below a folder, except below `arguments` inside it."""
    root = Path(os.path.realpath(path))
    real = [Path(os.path.realpath(argument)) for argument in arguments]
    excluded = [folder for folder in real if root in folder.parents]
    return [
        job
        for job in find_images(path)
        if not any(
            Path(os.path.realpath(job.source.parent)).is_relative_to(folder) for folder in excluded
        )
    ]
