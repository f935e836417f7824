"""Command line of the scripts in trainers/: flags, presets and TOML files for a dataclass.

Not tyro or jsonargparse: tyro rejects abbreviated flags and needs a valid instance as the default,
which --preset and --config only provide afterwards; jsonargparse expects lists as `--crop [64,96]`.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import logging
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...console.errors import ExitCode, run_command
from ...console.output import ArgumentParser, SafeFormatter

ConfigT = TypeVar("ConfigT")
Presets = Mapping[str, Mapping[str, object]]


def run_script(
    main: Callable[[ConfigT], object],
    config_type: type[ConfigT],
    presets: Presets,
    doc: str | None,
    argv: list[str] | None = None,
    prog: str | None = None,
) -> ExitCode:
    """Run a script with a command line and return its exit code.

    Args:
        main: function of the script; its result is ignored.
        config_type: dataclass of its settings.
        presets: named sets of values.
        doc: text of --help above the flags.
        argv: arguments; default: those of the process.
        prog: name of the command in messages.
    """

    def command() -> ExitCode:
        main(parse(config_type, presets, argv, doc, prog))
        return ExitCode.OK

    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return run_command(command, prog.split()[0] if prog else "")


def parse(
    config_type: type[ConfigT],
    presets: Presets,
    argv: list[str] | None = None,
    doc: str | None = None,
    prog: str | None = None,
) -> ConfigT:
    """Return an instance of a dataclass from command-line flags named after its fields.

    In rising precedence: defaults, `--preset NAME`, `--config FILE.toml`, flags. Errors end the
    process with a usage message.
    """
    parser = ArgumentParser(
        prog=prog,
        usage="%(prog)s [--preset NAME] [--config FILE] [--SETTING VALUE ...]",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if presets:
        parser.add_argument("--preset", choices=list(presets), help="named set of values")
    parser.add_argument("--config", type=Path, help="TOML file with values")
    types = typing.get_type_hints(config_type)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, config_type))}
    docs = field_docs(config_type)
    for name, field in fields.items():
        default = "" if field.default in (None, "", ()) else f" [{_format(field.default)}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            **_flag_options(types[name]),
            default=argparse.SUPPRESS,
            help=(docs.get(name, "") + default).replace("%", "%%"),
        )
    flags = vars(parser.parse_args(argv))
    preset, file = flags.pop("preset", None), flags.pop("config")
    values = dict(presets[preset]) if preset else {}
    if file:
        values |= _read_toml(file)
    values |= flags
    unknown = sorted(set(values) - set(fields))
    if unknown:
        parser.error(
            f"{file}: unknown settings {', '.join(unknown)}; expected {', '.join(sorted(fields))}."
        )
    try:
        return config_type(**{name: _coerce(v, types[name]) for name, v in values.items()})
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def field_docs(config_type: type) -> dict[str, str]:
    """Return field of a dataclass -> its attribute docstring. A subclass overrides its bases."""
    docs = {}
    for base in reversed(config_type.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        if not isinstance(definition, ast.ClassDef):
            continue
        for statement, following in itertools.pairwise(definition.body):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    docs[name] = " ".join(text.split())
    return docs


def _format(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _flag_options(kind: Any) -> dict[str, Any]:
    """Return arguments of `add_argument` for a field of the type `kind`."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"nargs": "+", "type": typing.get_args(kind)[0]}
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    return {"type": options[0] if options else kind}


def _coerce(value: Any, kind: Any) -> object:
    """Turn lists of flags and TOML into tuples, and strings of TOML into paths, as `kind` asks."""
    if typing.get_origin(kind) is tuple:
        values = [value] if isinstance(value, str) else value
        return tuple(_coerce(v, typing.get_args(kind)[0]) for v in values)
    return Path(value) if Path in (kind, *typing.get_args(kind)) and value else value


def _read_toml(path: Path) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))
