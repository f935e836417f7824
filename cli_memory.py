"""`colorist memory`: build a color memory of photos, exchange it with the published files, show it.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path

from .cli_colorize import pictures_in
from .cli_common import (
    DEFAULT_COLORFORMER,
    DONE,
    FAILED,
    FAILURES,
    Refusal,
    add_network,
    device_of,
    refuse_unwritable,
    say,
    sentence,
)

SUFFIX = ".safetensors"
COLORS, SEMANTICS = "color_embed.npy", "semantic_embed.npy"  # as the published program names them
EVERY = 2.0  # seconds between two lines of progress


def add_commands(commands: argparse._SubParsersAction) -> None:
    """The commands behind `colorist memory`."""
    parser = commands.add_parser("build", help="build a memory of colour photos")
    parser.description = (
        "Build a color memory of colour photos for a ColorFormer network, without training: what "
        "they show and which colours it has there. Grey and unreadable photos are left out."
    )
    add = parser.add_argument
    add("photos", nargs="+", type=Path, metavar="IN", help="colour photo, or folder of them")
    _add_out(parser)
    add("--entries", type=int, default=512, metavar="N", help="at most (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the clustering (default: 0)")
    add_network(parser, DEFAULT_COLORFORMER)
    parser.set_defaults(run=_build)

    parser = commands.add_parser("import", help="make a memory of the published pair of .npy files")
    parser.add_argument("colors", type=Path, metavar="COLORS.npy")
    parser.add_argument("semantics", type=Path, metavar="SEMANTICS.npy")
    parser.add_argument("--model", required=True, help="the network they were made with")
    _add_out(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.set_defaults(run=_import)

    parser = commands.add_parser("export", help=f"write {COLORS} and {SEMANTICS}")
    parser.add_argument("memory", type=Path, metavar="FILE")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=_export)

    parser = commands.add_parser("show", help="tell what a memory file holds")
    parser.add_argument("memory", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_show)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help=f"name that ends in {SUFFIX}"
    )


def _build(arguments: argparse.Namespace) -> int:
    from .pipeline import engine, memory, memory_builder

    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    _refuse_out(arguments.out, arguments.overwrite)
    found = [job for given in arguments.photos for job in pictures_in(given, Path())]
    failed = [job for job in found if job.error]
    for job in failed:
        say(f"failed: {job.error}")
    photos = list(dict.fromkeys(job.source for job in found if not job.error))
    if not photos:
        raise Refusal("no photos to build a color memory of.")
    try:
        colorizer = engine.load(arguments.model, device=device_of(arguments), dtype=arguments.dtype)
        memory_builder.refuse(colorizer, photos, arguments.entries)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(arguments.out.parent)
    began = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= EVERY or done == total:
            said = now
            say(f"[{done}/{total}] {done / max(now - began, 1e-3):.1f} photos/s")

    try:
        built = memory_builder.build(
            colorizer, photos, entries=arguments.entries, seed=arguments.seed, progress=progress
        )
        memory.save(built, arguments.out)
    except FAILURES as error:
        say(f"colorist: error: {sentence(error)}")
        return FAILED
    seconds = round(time.monotonic() - began, 1)
    missing = len(failed) + built.provenance["unreadable"]
    if arguments.json:
        record = {"output": str(arguments.out), "failed": missing, "seconds": seconds}
        print(json.dumps(record | {"provenance": built.provenance}, indent=1))
    left_out = {"grey": built.provenance["grey"], "unreadable": missing}
    counts = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    say(f"{arguments.out}: {built.describe()}, {seconds:.1f} s")
    if counts:
        say(f"left out: {counts}.")
    return FAILED if missing else DONE


def _import(arguments: argparse.Namespace) -> int:
    from .model_defs import registry
    from .pipeline import memory, models

    _refuse_out(arguments.out, arguments.overwrite)
    try:
        source = models.locate(arguments.model)
        network, spec, _ = registry.load(source)
        encoder = memory.fingerprint(network.encoder)
        found = memory.import_npy(
            arguments.colors, arguments.semantics, encoder=encoder, network=source.name
        )
        memory.refuse_unless_fits(found, spec.memory, encoder, source.name)
        memory.save(found, arguments.out)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    say(f"{arguments.out}: {found.describe()}")
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    from .pipeline import memory

    paths = [arguments.out / name for name in (COLORS, SEMANTICS)]
    for path in paths:
        if os.path.exists(path) and not arguments.overwrite:
            raise Refusal(f"{path} is there already; choose another folder, or --overwrite.")
    try:
        memory.export_npy(memory.load(arguments.memory), *paths)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    say(f"{paths[0]}, {paths[1]}")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from .pipeline import memory

    try:
        found = memory.load(arguments.memory)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    if arguments.json:
        groups, entries, _ = found.values.shape
        record = {"file": str(arguments.memory), "entries": entries, "groups": groups}
        record |= {"key_width": found.keys.shape[1], "encoder": found.encoder}
        print(json.dumps(record | {"provenance": found.provenance}, indent=1))
        return DONE
    print(found.describe())
    for name, value in {"encoder": found.encoder, **found.provenance}.items():
        print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return DONE


def _refuse_out(out: Path, overwrite: bool) -> None:
    if out.suffix != SUFFIX:
        raise Refusal(f"-o {out}: the name must end in {SUFFIX}.")
    if os.path.exists(out) and not overwrite:
        raise Refusal(f"{out} is there already; give another name, or --overwrite.")
