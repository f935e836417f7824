"""`colorist memory`: build, import, export and show color memories.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from ...console.checks import check_output_file, check_writable, file_id
from ...console.errors import ExitCode, UsageError, as_usage_errors
from ...console.output import configure_logging, log_stderr, print_result, skipped_summary
from ..jobs import find_images
from ..options import DEFAULT_COLORFORMER, add_model_options, load_engine

SUFFIX = ".safetensors"
COLORS_FILE, SEMANTICS_FILE = "color_embed.npy", "semantic_embed.npy"  # of the official program


def add_memory(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `colorist memory`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="build a color memory from color photos"))
    _add_import(
        commands.add_parser("import", help="convert the .npy files of the official program")
    )
    _add_export(commands.add_parser("export", help=f"write {COLORS_FILE} and {SEMANTICS_FILE}"))
    _add_show(commands.add_parser("show", help="describe a color memory"))


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Build a color memory for a ColorFormer model from color photos, without training: what "
        "they show, and the colors it has in them. Gray and unreadable photos are left out."
    )
    add = parser.add_argument
    add("photos", nargs="+", type=Path, metavar="IN", help="color photo, or folder of photos")
    _add_out(parser)
    add(
        "--entries",
        type=int,
        default=512,
        metavar="N",
        help="largest number of entries (default: %(default)s)",
    )
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    add_model_options(parser, DEFAULT_COLORFORMER)
    parser.set_defaults(run=_run_build)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("colors", type=Path, metavar="COLORS.npy")
    parser.add_argument("semantics", type=Path, metavar="SEMANTICS.npy")
    parser.add_argument("--model", required=True, help="model that the files were made with")
    _add_out(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    parser.set_defaults(run=_run_import)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("memory", type=Path, metavar="NAME", help="file, or name of a saved one")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(run=_run_export)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("memory", type=Path, metavar="NAME", help="file, or name of a saved one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run_show)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"name that ends in {SUFFIX}",
    )


def _run_build(arguments: argparse.Namespace) -> ExitCode:
    from ...console.progress import Progress
    from ...pipeline.color_memory import builder, memory

    configure_logging()
    _check_out(arguments.out, arguments.overwrite)
    if not 0 <= arguments.seed <= builder.MAX_SEED:
        raise UsageError(f"--seed is {arguments.seed}; expected 0 to {builder.MAX_SEED}.")
    jobs = [job for path in arguments.photos for job in find_images(path)]
    errors = [job.error for job in jobs if job.error]
    for error in errors:
        log_stderr(f"failed: {error}")
    photos = _unique_files(job.source for job in jobs if not job.error)
    if not photos:
        raise UsageError("no photos to build a color memory from; name color photos or folders.")
    with as_usage_errors():
        engine = load_engine(arguments, arguments.model, "automatic")
        builder.check_build(engine, photos, arguments.entries, seed=arguments.seed)
    check_writable(arguments.out.parent)
    started = time.monotonic()
    with Progress("photos", " photos") as bar:
        built = builder.build_memory(
            engine, photos, entries=arguments.entries, seed=arguments.seed, progress=bar.report
        )
    memory.save_memory(built, arguments.out)
    seconds = round(time.monotonic() - started, 1)
    failed = len(errors) + built.provenance["unreadable"]
    if arguments.json:
        record = {"output": str(arguments.out), "failed": failed, "seconds": seconds}
        print(json.dumps({**record, "provenance": built.provenance}, indent=1))
    log_stderr(f"{arguments.out}: {built.describe()}, {seconds:.1f} s")
    if line := skipped_summary(built.provenance["grey"], failed):
        log_stderr(line)
    return ExitCode.FAILED if failed else ExitCode.OK


def _unique_files(paths: Iterable[Path]) -> list[Path]:
    """Return each file once, even if it has several names. Missing files are kept."""
    unique: dict[object, Path] = {}
    for path in paths:
        unique.setdefault(file_id(path) if os.path.exists(path) else path, path)
    return list(unique.values())


def _run_import(arguments: argparse.Namespace) -> ExitCode:
    from ...model_defs import registry
    from ...model_defs.protocols import MemoryNetwork
    from ...model_store import resolve
    from ...pipeline.color_memory import memory

    _check_out(arguments.out, arguments.overwrite)
    with as_usage_errors():
        source = resolve.model_path(arguments.model)
        network, spec, _ = registry.load(source)
        memory.require_memory(spec.memory, source.name)
        encoder = memory.identify_encoder(cast(MemoryNetwork, network).encoder)
        imported = memory.import_npy(
            arguments.colors, arguments.semantics, encoder=encoder, network=source.name
        )
        memory.check_memory_fits(imported, spec.memory, encoder, source.name)
    memory.save_memory(imported, arguments.out)
    log_stderr(f"{arguments.out}: {imported.describe()}")
    return ExitCode.OK


def _run_export(arguments: argparse.Namespace) -> ExitCode:
    from ...model_store import resolve
    from ...pipeline.color_memory import memory

    out = arguments.out
    paths = [out / name for name in (COLORS_FILE, SEMANTICS_FILE)]
    for path in paths:
        check_output_file(path, arguments.overwrite)
    check_writable(out)
    with as_usage_errors():
        exported = memory.load_memory(resolve.memory_path(arguments.memory))
    memory.export_npy(exported, *paths)
    log_stderr(f"{paths[0]}, {paths[1]}")
    return ExitCode.OK


def _run_show(arguments: argparse.Namespace) -> ExitCode:
    from ...model_store import resolve
    from ...pipeline.color_memory import memory

    with as_usage_errors():
        path = resolve.memory_path(arguments.memory)
        shown = memory.load_memory(path)
    if arguments.json:
        groups, entries, _ = shown.values.shape
        record = {
            "file": str(path),
            "entries": entries,
            "groups": groups,
            "key_width": shown.keys.shape[1],
            "encoder": shown.encoder,
            "provenance": shown.provenance,
        }
        print(json.dumps(record, indent=1))
        return ExitCode.OK
    print_result(shown.describe())
    for name, value in {"encoder": shown.encoder, **shown.provenance}.items():
        print_result(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return ExitCode.OK


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix != SUFFIX:
        raise UsageError(f"-o {out}: the name must end in {SUFFIX}.")
    check_output_file(out, overwrite)
