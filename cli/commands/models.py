"""`colorist models`: which networks there are; fetch, check and convert their files.

As in `cli`, only the standard library is imported at the top.
"""

import argparse
import json
from pathlib import Path

from ...console.errors import DONE, FAILED, FAILURES, Refusal, sentence
from ...console.output import say, show
from ..options import DTYPES

ALL = "all"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """The commands behind `colorist models`."""
    parser = commands.add_parser(
        "list", help="networks in the box, in the models folder, and published ones to fetch"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_list)

    parser = commands.add_parser("fetch", help="download published networks")
    parser.description = (
        "Download published networks into the models folder, checked by SHA-256. Stopped, the same "
        "command goes on where it was. Prints the files."
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help=f"as `models list` shows it, or {ALL}"
    )
    parser.set_defaults(run=_fetch)

    parser = commands.add_parser(
        "verify", help="check that networks load, and that published files are as published"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="as `models list` shows it (default: all at hand)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_verify)

    parser = commands.add_parser(
        "convert", help="write any readable checkpoint as our safetensors, or as ONNX"
    )
    parser.add_argument("input", metavar="IN", help="name or checkpoint file")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="file that ends in .safetensors or .onnx"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="default: %(default)s (exact)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    parser.set_defaults(run=_convert)


def _list(arguments: argparse.Namespace) -> int:
    from ...model_defs import checkpoint
    from ...model_store import catalog, resolve
    from ...model_store import paths as model_paths

    boxed, found = model_paths.boxed(), resolve.available()
    at_hand = [
        {
            "name": name,
            "file": str(path),
            "bytes": path.stat().st_size,
            "boxed": name in boxed,
            "licence": _licence(path, checkpoint.read_info(path)),
        }
        for name, path in found.items()
    ]
    published = [
        {
            "name": known.name,
            "file": known.file,
            "what": known.what,
            "role": known.role,
            "licence": known.licence,
            "bytes": known.bytes or None,
            "sha256": known.sha256 or None,
            "url": known.url() or None,
            "get": known.get,
            "at_hand": catalog.at_hand(known, found),
        }
        for known in catalog.PUBLISHED.values()
    ]
    folder = model_paths.models_folder()
    if arguments.json:
        record = {"models": at_hand, "published": published, "folder": str(folder)}
        print(json.dumps(record, indent=1))
        return DONE
    for model in at_hand:
        place = "in the box" if model["boxed"] else "models folder"
        _row(model["name"], model["bytes"], place, model["licence"])
    for model in published:
        if not model["at_hand"]:
            place = "to fetch" if model["url"] else "by hand"
            _row(model["name"], model["bytes"], place, model["licence"])
    say(f"models folder: {folder}")
    say("to fetch: colorist models fetch NAME; by hand: the same tells where to get it.")
    return DONE


def _row(name: str, size: int | None, place: str, licence: str) -> None:
    megabytes = f"{size / 1e6:8.1f} MB" if size else " " * 11
    show(f"{name:40} {megabytes}  {place:13}  {licence}".rstrip())


def _licence(path: Path, info: dict) -> str:
    """As the file says, or as its publisher does; "" where neither is known."""
    from ...model_store import catalog

    known = catalog.find(path.name)
    return str(info.get("licence") or (known.licence if known else ""))


def _fetch(arguments: argparse.Namespace) -> int:
    from ...model_store import catalog, download, resolve
    from ...model_store import paths as model_paths

    wanted = []
    for name in arguments.names:
        if name == ALL:
            wanted += [known for known in catalog.PUBLISHED.values() if known.fetchable]
        elif known := catalog.find(name):
            wanted.append(known)
        else:
            names = ", ".join(catalog.PUBLISHED)
            raise Refusal(f"{name}: not known as published. Known: {names}; or {ALL}.")
    failed = 0
    for known in dict.fromkeys(wanted):
        found = resolve.available()
        try:
            if name := catalog.at_hand(known, found):
                say(f"{known.name} is at hand.")
                path = found[name]
            else:
                say(f"{known.name}: {known.what}; licence: {known.licence}")
                path = download.fetch(
                    known, model_paths.models_folder(), progress=download.on_stderr(known.file)
                )
        except FAILURES as error:
            failed += 1
            say(f"failed: {sentence(error)}")
        else:
            show(str(path))
    return FAILED if failed else DONE


def _verify(arguments: argparse.Namespace) -> int:
    from ...model_store import catalog, resolve

    found = resolve.available()
    paths = found
    if arguments.names:
        paths = {}
        for name in arguments.names:
            known = catalog.find(name)
            there = name if name in found else known and catalog.at_hand(known, found)
            path = found.get(there) if there else Path(name)
            if not path.is_file():
                raise Refusal(f"{name} is not at hand. At hand: {', '.join(found)}.")
            paths[there or name] = path
    records = []
    for name, path in paths.items():
        record = {"name": name, "file": str(path), **_checked(path)}
        records.append(record)
        if not arguments.json:
            show(f"{name:40} {record['found'] or 'failed: ' + record['error']}")
    failed = sum(bool(record["error"]) for record in records)
    if arguments.json:
        print(json.dumps({"files": records, "failed": failed}, indent=1))
    say(f"{len(records) - failed} good, {failed} not.")
    return FAILED if failed else DONE


def _checked(path: Path) -> dict[str, str | None]:
    """What a file is, whether it loads strictly and, where it is published, is as published."""
    from ...model_defs import checkpoint, registry
    from ...model_store import catalog, download

    record = dict.fromkeys(("sha256", "published", "found", "error"))
    try:
        if not checkpoint.read_info(path):  # not one of our own
            record["sha256"] = download.sha256(path)
            known = catalog.published_as(record["sha256"])
            expected = catalog.find(path.name)
            fetched = expected and expected.sha256 and path.name == expected.file
            if fetched and known is not expected:
                raise ValueError(
                    f"{path.name}: SHA-256 is {record['sha256']}, published is {expected.sha256}; "
                    f"delete it and run: colorist models fetch {expected.name}"
                )
            record["published"] = known.name if known else None
        _, spec, _ = registry.load(path)
    except FAILURES as error:
        record["error"] = sentence(error)
    else:
        says = {True: "as published", False: "no SHA-256 of it is known"}
        hashed = f", {says[bool(record['published'])]}" if record["sha256"] else ""
        record["found"] = f"good: {spec.architecture}, {spec.role}{hashed}"
    return record


def _convert(arguments: argparse.Namespace) -> int:
    from ...trainers import export

    try:
        config = export.Config(
            model=arguments.input,
            out=arguments.out,
            dtype=arguments.dtype,
            overwrite=arguments.overwrite,
        )
        export.main(config)
    except FAILURES as error:
        raise Refusal(sentence(error)) from error
    return DONE
