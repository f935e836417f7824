"""`colorist models`: list, download, verify and convert models.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ...console.errors import EXPECTED_ERRORS, ExitCode, UsageError, as_usage_errors, format_error
from ...console.output import log_stderr, print_result
from ..options import DTYPES

if TYPE_CHECKING:
    from ...model_store.catalog import Published

ALL = "all"


class VerifyRecord(TypedDict):
    """One file in the JSON report of `models verify`."""

    name: str
    file: str
    sha256: str | None
    published: str | None
    found: str | None
    error: str | None


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `colorist models`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="list bundled, installed and published models")
    listed.add_argument("--json", action="store_true", help="print JSON")
    listed.set_defaults(run=_run_list)

    fetch = commands.add_parser("fetch", help="download published models")
    fetch.description = (
        "Download published models into the models folder and verify their SHA-256. The same "
        "command resumes an interrupted download. Prints the paths of the files."
    )
    fetch.add_argument(
        "names", nargs="+", metavar="NAME", help=f"name from `models list`, or {ALL}"
    )
    fetch.set_defaults(run=_run_fetch)

    verify = commands.add_parser(
        "verify", help="check that models load, and that published files are unchanged"
    )
    verify.add_argument(
        "names", nargs="*", metavar="NAME", help="name from `models list` (default: all installed)"
    )
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=_run_verify)

    convert = commands.add_parser("convert", help="convert a checkpoint to safetensors or ONNX")
    convert.add_argument("input", metavar="IN", help="model name or checkpoint file")
    convert.add_argument(
        "-o", "--out", type=Path, required=True, help="file that ends in .safetensors or .onnx"
    )
    convert.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="default: %(default)s (exact)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    convert.set_defaults(run=_run_convert)


# --- list --------------------------------------------------------------------------------------


def _run_list(arguments: argparse.Namespace) -> ExitCode:
    from ...model_store import catalog, paths, resolve

    bundled, installed = paths.bundled_models(), resolve.installed_models()
    models, problems = [], []
    for name, path in installed.items():
        try:
            models.append(_describe(name, path, bundled=name in bundled))
        except EXPECTED_ERRORS as error:
            problems.append(format_error(error, name))
    published = [
        {
            "name": model.name,
            "file": model.file,
            "what": model.description,
            "role": model.role,
            "licence": model.license,
            "bytes": model.size or None,
            "sha256": model.sha256 or None,
            "url": model.url() or None,
            "get": model.source,
            "at_hand": catalog.find_installed(model, installed),
        }
        for model in catalog.PUBLISHED.values()
    ]
    folder = paths.models_folder()
    if arguments.json:
        record = {"models": models, "published": published, "folder": str(folder)}
        print(json.dumps(record, indent=1))
        _log_problems(problems)
        return ExitCode.OK
    for model in models:
        location = "bundled" if model["boxed"] else "models folder"
        print_result(_row(model["name"], model["bytes"], location, model["licence"]))
    for model in published:
        if not model["at_hand"]:
            location = "to download" if model["url"] else "manual"
            print_result(_row(model["name"], model["bytes"], location, model["licence"]))
    _log_problems(problems)
    log_stderr(f"models folder: {folder}")
    log_stderr("to download: colorist models fetch NAME; manual: the same command says where.")
    return ExitCode.OK


def _describe(name: str, path: Path, *, bundled: bool) -> dict[str, str | int | bool]:
    """Return the record of an installed model.

    Raises:
        CheckpointError, OSError: the file cannot be used.
    """
    from ...model_defs import registry

    return {
        "name": name,
        "file": str(path),
        "bytes": path.stat().st_size,
        "boxed": bundled,
        "licence": _license(path, registry.describe(path).get("licence", "")),
    }


def _log_problems(problems: list[str]) -> None:
    for problem in problems:
        log_stderr(f"unusable: {problem}")


def _row(name: str, size: int | None, location: str, license_name: str) -> str:
    megabytes = f"{size / 1e6:8.1f} MB" if size else " " * 11
    return f"{name:40} {megabytes}  {location:13}  {license_name}".rstrip()


def _license(path: Path, stated: str) -> str:
    """Return the license stated in a file, or by its publisher; empty if neither is known."""
    from ...model_store import catalog

    model = catalog.find_published(path.name)
    return stated or (model.license if model else "")


# --- fetch -------------------------------------------------------------------------------------


def _run_fetch(arguments: argparse.Namespace) -> ExitCode:
    failed = 0
    for model in dict.fromkeys(_published(arguments.names)):
        try:
            print_result(str(_fetch(model)))
        except EXPECTED_ERRORS as error:
            failed += 1
            log_stderr(f"failed: {format_error(error)}")
    return ExitCode.FAILED if failed else ExitCode.OK


def _published(names: list[str]) -> "list[Published]":
    """Return the published models of these names; `all` stands for those that can be downloaded."""
    from ...model_store import catalog

    models = []
    for name in names:
        if name == ALL:
            models += [model for model in catalog.PUBLISHED.values() if model.downloadable]
        elif model := catalog.find_published(name):
            models.append(model)
        else:
            known = ", ".join(catalog.PUBLISHED)
            raise UsageError(f"{name} is not a published model. Published: {known}; or {ALL}.")
    return models


def _fetch(model: "Published") -> Path:
    """Return the file of a published model; download it if it is not installed."""
    from ...model_store import catalog, download, paths, resolve

    installed = resolve.installed_models()
    if name := catalog.find_installed(model, installed):
        log_stderr(f"{model.name} is already installed.")
        return installed[name]
    log_stderr(f"{model.name}: {model.description}; license: {model.license}")
    return download.fetch(model, paths.models_folder())


# --- verify ------------------------------------------------------------------------------------


def _run_verify(arguments: argparse.Namespace) -> ExitCode:
    records = []
    for name, path in _files_to_verify(arguments.names).items():
        record = _verify(name, path)
        records.append(record)
        if not arguments.json:
            print_result(f"{name:40} {record['found'] or 'failed: ' + str(record['error'])}")
    failed = sum(bool(record["error"]) for record in records)
    if arguments.json:
        print(json.dumps({"files": records, "failed": failed}, indent=1))
    log_stderr(f"{len(records) - failed} good, {failed} not.")
    return ExitCode.FAILED if failed else ExitCode.OK


def _files_to_verify(names: list[str]) -> dict[str, Path]:
    """Return name -> file of the given models, or of all installed ones.

    Raises:
        UsageError: a model is not installed.
    """
    from ...model_store import catalog, resolve

    library = resolve.model_library()
    if not names:
        return dict(library.files)
    files = {}
    for name in names:
        path = library.find(name)
        if path is None:
            installed = ", ".join(library.files)
            raise UsageError(f"{name} is not installed. Installed: {installed}.")
        model = None if name in library.files else catalog.find_published(name)
        files[(model and catalog.find_installed(model, library.files)) or name] = path
    return files


def _verify(name: str, path: Path) -> VerifyRecord:
    """Load a file strictly; if it is a published one, compare its SHA-256."""
    from ...model_defs import checkpoint, registry
    from ...model_store import catalog, download

    record: VerifyRecord = {
        "name": name,
        "file": str(path),
        "sha256": None,
        "published": None,
        "found": None,
        "error": None,
    }
    try:
        if not checkpoint.read_info(path):  # not one of our own
            record["sha256"] = digest = download.sha256(path)
            model, expected = catalog.find_by_sha256(digest), catalog.find_published(path.name)
            may_be_changed = model is not expected
            if expected and expected.sha256 and path.name == expected.file and may_be_changed:
                raise ValueError(
                    f"{path.name}: its SHA-256 is {digest}, but the published one is "
                    f"{expected.sha256}; delete it and run: colorist models fetch {expected.name}"
                )
            record["published"] = model.name if model else None
        _, spec, _ = registry.load(path)
    except EXPECTED_ERRORS as error:
        record["error"] = format_error(error)
        return record
    origin = ""
    if record["sha256"]:
        origin = ", as published" if record["published"] else ", its SHA-256 is not in the catalog"
    record["found"] = f"good: {spec.architecture}, {spec.role}{origin}"
    return record


# --- convert -----------------------------------------------------------------------------------


def _run_convert(arguments: argparse.Namespace) -> ExitCode:
    from ...trainers import export

    with as_usage_errors():
        config = export.Config(
            model=arguments.input,
            out=arguments.out,
            dtype=arguments.dtype,
            overwrite=arguments.overwrite,
        )
    export.main(config)
    return ExitCode.OK
