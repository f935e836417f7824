"""`colorist memory`: build a color memory of photos, exchange it with the published files, show it.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ...console.checks import identity, refuse_existing, refuse_unwritable
from ...console.errors import DONE, FAILED, FAILURES, Refusal, sentence
from ...console.output import left_out, pace, say, show
from ..jobs import pictures_in
from ..options import DEFAULT_COLORFORMER, add_network, device_of, locate_memory

SUFFIX = ".safetensors"
COLORS, SEMANTICS = "color_embed.npy", "semantic_embed.npy"  # as the published program names them


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
    parser.add_argument("memory", type=Path, metavar="NAME", help="file, or name of a saved one")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=_export)

    parser = commands.add_parser("show", help="tell what a memory file holds")
    parser.add_argument("memory", type=Path, metavar="NAME", help="file, or name of a saved one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_show)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help=f"name that ends in {SUFFIX}"
    )


def _build(arguments: argparse.Namespace) -> int:
    from ...pipeline import loader
    from ...pipeline.color_memory import builder as memory_builder
    from ...pipeline.color_memory import memory

    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    _refuse_out(arguments.out, arguments.overwrite)
    if not 0 <= arguments.seed < memory_builder.SEEDS:
        last = memory_builder.SEEDS - 1
        raise Refusal(f"--seed is {arguments.seed}; expected 0 to {last}.")
    found = [job for given in arguments.photos for job in pictures_in(given)]
    failed = [job for job in found if job.error]
    for job in failed:
        say(f"failed: {job.error}")
    photos = _once(job.source for job in found if not job.error)
    if not photos:
        raise Refusal("no photos to build a color memory of.")
    try:
        colorizer = loader.load(arguments.model, device=device_of(arguments), dtype=arguments.dtype)
        memory_builder.refuse(colorizer, photos, arguments.entries, seed=arguments.seed)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    refuse_unwritable(arguments.out.parent)
    began = time.monotonic()
    try:
        built = memory_builder.build(
            colorizer, photos, entries=arguments.entries, seed=arguments.seed, progress=pace(say)
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
    say(f"{arguments.out}: {built.describe()}, {seconds:.1f} s")
    if line := left_out(built.provenance["grey"], missing):
        say(line)
    return FAILED if missing else DONE


def _once(photos: Iterable[Path]) -> list[Path]:
    """Each file once, whatever it is called; names of no file stay, to be told of."""
    found: dict[object, Path] = {}
    for path in photos:
        found.setdefault(identity(path) if os.path.exists(path) else path, path)
    return list(found.values())


def _import(arguments: argparse.Namespace) -> int:
    from ...model_defs import registry
    from ...model_store import resolve
    from ...pipeline.color_memory import memory

    _refuse_out(arguments.out, arguments.overwrite)
    try:
        source = resolve.locate(arguments.model)
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
    from ...pipeline.color_memory import memory

    out = arguments.out
    paths = [out / name for name in (COLORS, SEMANTICS)]
    for path in paths:
        refuse_existing(path, arguments.overwrite)
    refuse_unwritable(out)
    try:
        found = memory.load(locate_memory(arguments.memory))
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".colorist-", dir=out) as folder:
            written = [Path(folder) / path.name for path in paths]
            memory.export_npy(found, *written)
            for new, path in zip(written, paths, strict=True):  # both are whole: now they appear
                os.replace(new, path)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    say(f"{paths[0]}, {paths[1]}")
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from ...pipeline.color_memory import memory

    path = locate_memory(arguments.memory)
    try:
        found = memory.load(path)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    if arguments.json:
        groups, entries, _ = found.values.shape
        record = {"file": str(path), "entries": entries, "groups": groups}
        record |= {"key_width": found.keys.shape[1], "encoder": found.encoder}
        print(json.dumps(record | {"provenance": found.provenance}, indent=1))
        return DONE
    show(found.describe())
    for name, value in {"encoder": found.encoder, **found.provenance}.items():
        show(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return DONE


def _refuse_out(out: Path, overwrite: bool) -> None:
    if out.suffix != SUFFIX:
        raise Refusal(f"-o {out}: the name must end in {SUFFIX}.")
    refuse_existing(out, overwrite)
