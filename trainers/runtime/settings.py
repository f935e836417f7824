"""What every trainer needs and none should have to read: settings, and how they are given."""

import argparse
import ast
import dataclasses
import inspect
import itertools
import logging
import math
import textwrap
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...model_defs import registry
from ...model_defs.spec import Spec
from ...model_store import resolve

LIMITS = {  # setting -> least and most
    **dict.fromkeys(
        ("steps", "batch", "accumulate", "threads", "report_every", "save_every"), (1, math.inf)
    ),
    **dict.fromkeys(("held_out", "seed", "warmup", "resolution"), (0, math.inf)),
    **dict.fromkeys(("learning_rate", "weight_decay", "clip", "huber"), (0.0, math.inf)),
    **dict.fromkeys(("pixel", "perceptual", "adversarial", "colorfulness"), (0.0, math.inf)),
    **dict.fromkeys(("histogram", "variation", "color_enhance"), (0.0, math.inf)),
    **dict.fromkeys(("average", "recolor", "damage", "start_share", "teacher_share"), (0.0, 1.0)),
    **dict.fromkeys(("feature", "psnr", "encoder_rate"), (0.0, math.inf)),
    "frozen_stages": (0, math.inf),
    "smallest": (0.05, 1.0),
    "fade": (0.0, 50.0),
    "gain": (0.0, 4.0),
    "discriminator_width": (1, math.inf),
}
DTYPES = ("auto", "float32", "bfloat16", "float16")


# --- Settings --------------------------------------------------------------------------------


@dataclass
class Settings:
    """What all trainers can be told beside the recipe of each, which its Config adds."""

    photos: tuple[str, ...] = ()
    """Folders and .tar shards; URLs and pipe:COMMAND of shards are streamed, {000..099} is many."""
    stream: bool = False
    """Read local shards from front to back, too, as slow disks and networks like it."""
    index: tuple[Path, ...] = ()
    """CSV files with `key` and `licence_kind` of the photos."""
    skip_licences: tuple[str, ...] = ()
    """Licence kinds to leave out."""
    held_out: int = 24
    """Photos that are not trained on but shown and scored at each save; at most a tenth."""
    watch: tuple[str, ...] = ()
    """Folders or .tar files of photos to show and score instead; for streams the only way."""
    weights: str | None = None
    """Weights to start from: file, boxed or installed name; its sizes win over `architecture`."""
    resolution: int = 0
    """Working resolution that the result asks for when it colours photos; 0 = as `weights`, or as
    the architecture has it."""
    offline: bool = False
    """Download nothing."""
    licence: str = ""
    """Licence of the result, kept in its metadata."""
    accumulate: int = 1
    """Parts in which each process computes its share of a batch: less memory, the same batch. Batch
    norm then knows one part at a time, and a discriminator takes its step before the last part."""
    crop_until: tuple[int, ...] = ()
    """Step at which each side of `crop` but the last gives way to the next."""
    average: float = 0.999
    """Decay of the weight average that is saved."""
    clip: float = 0.0
    """Largest gradient norm; 0 = no limit."""
    seed: int = 0
    """Of start values, order, crops, and all that is drawn."""
    device: str = "auto"
    """auto = what the launcher or the machine offers; cuda; cpu."""
    dtype: str = "float32"
    """Of the forward pass: float32; bfloat16; float16; auto = bfloat16 on a GPU that knows it,
    float16 on others, float32 without."""
    threads: int = 2
    """That read photos, in each process."""
    report_every: int = 100
    """Steps between two lines of the log."""
    save_every: int = 1000
    """Steps between two saves."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name, least)
            if value is not None and not least <= value <= most:
                end = f"to {most}" if math.isfinite(most) else "or more"
                raise ValueError(f"{name} is {value}; expected {least} {end}.")
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, into which a batch of {self.batch} photos "
                "cannot be divided evenly."
            )
        check_crops(self.crop, self.crop_until)
        for name, known in (("dtype", DTYPES), ("device", ("auto", "cuda", "cpu"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}'; expected one of {', '.join(known)}."
                )

    def side(self, step: int) -> int:
        """Side of the training square at `step`."""
        return crop_at(self.crop, self.crop_until, step)


def check_choice(given: str | None, architecture: str, presets: Mapping[str, object]) -> None:
    """Raise ValueError unless there are weights to start from, or a known preset of a network."""
    if given or architecture in presets:
        return
    if not architecture:
        raise ValueError(
            "this preset trains a network further: name one with --weights, such as "
            f"{list(presets)[-1]}."
        )
    raise ValueError(
        f"architecture is '{architecture}'; expected one of {', '.join(presets)}, or weights "
        "to start from (--weights FILE)."
    )


def check_feature(weight: float, network: str | None) -> None:
    """Raise ValueError for a feature loss without a network."""
    if weight and not network:
        raise ValueError(
            f"feature is {weight}, but no network is named whose maps it compares: "
            "--feature-network efficientnet_lite1, or the file of an EfficientNet-Lite."
        )


def start(settings: Settings, architecture: str) -> tuple[nn.Module, Spec]:
    """The network that `settings.weights` names, and what its file says about it.

    Raises:
        CheckpointError: no such file or network.
        ValueError: one of another architecture.
    """
    network, spec, _ = registry.load(resolve.locate(settings.weights, offline=settings.offline))
    if spec.architecture != architecture:
        raise ValueError(
            f"weights is {settings.weights}, a {spec.architecture} network; expected one of the "
            f"architecture {architecture}."
        )
    return network, spec


def parse(
    config_type: type,
    presets: Mapping[str, dict],
    argv: list[str] | None = None,
    doc: str | None = None,
    prog: str | None = None,
):
    """Build command-line flags from the fields of a dataclass and return an instance.

    Later wins: defaults, `--preset NAME`, `--config FILE.toml`, flags. Unknown names are errors.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--preset NAME] [--config FILE] [--SETTING VALUE ...]",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if presets:
        parser.add_argument("--preset", choices=list(presets), help="named set of values")
    parser.add_argument("--config", type=Path, help="TOML file with values")
    hints = typing.get_type_hints(config_type)
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    texts = field_texts(config_type)
    for name, field in fields.items():
        default = "" if field.default in (None, "", ()) else f" [{_shown(field.default)}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            **_flag(hints[name]),
            default=argparse.SUPPRESS,
            help=(texts.get(name, "") + default).replace("%", "%%"),
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
            f"{file}: unknown settings {', '.join(unknown)}; known: {', '.join(sorted(fields))}"
        )
    try:
        return config_type(**{name: _coerce(v, hints[name]) for name, v in values.items()})
    except (TypeError, ValueError) as error:
        parser.error(str(error))


def script(
    main: Callable,
    config_type: type,
    presets: Mapping[str, dict],
    doc: str | None,
    argv: list[str] | None = None,
    prog: str | None = None,
) -> int:
    """Run one of the scripts here with a command line; returns its exit code."""
    from ...console import errors, output

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        main(parse(config_type, presets, argv, doc, prog))
    except (errors.Refusal, *errors.FAILURES) as error:
        who = f"{prog.split()[0]}: " if prog else ""
        output.say(f"{who}error: {errors.sentence(error)}")
        return errors.FAILED
    except KeyboardInterrupt:
        output.say("stopped.")
        return errors.STOPPED
    return errors.DONE


def field_texts(config_type: type) -> dict[str, str]:
    """Field of a dataclass -> what is written below it."""
    texts = {}
    for one in reversed(config_type.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body
        for field, below in itertools.pairwise(body):
            match field, below:
                case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[field.target.id] = " ".join(text.split())
    return texts


def _shown(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _flag(kind: object) -> dict:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is tuple:
        return {"nargs": "+", "type": typing.get_args(kind)[0]}
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    return {"type": options[0] if options else kind}


def _coerce(value: object, kind: object) -> object:
    """Lists (flags, TOML) become tuples, strings (TOML) become paths, where the field says so."""
    if typing.get_origin(kind) is tuple:
        value = [value] if isinstance(value, str) else value
        return tuple(_coerce(v, typing.get_args(kind)[0]) for v in value)
    return Path(value) if Path in (kind, *typing.get_args(kind)) and value else value


def _read_toml(path: Path) -> dict:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))


def check_crops(crop: tuple[int, ...], crop_until: tuple[int, ...]) -> None:
    """Raise ValueError unless sides are multiples of 32 and steps rise, one fewer than sides."""
    if any(side % 32 or side < 32 for side in crop):
        raise ValueError(f"crop is {crop}; each side must be a multiple of 32.")
    ends = list(crop_until)
    if len(crop) > 1 and (len(ends) != len(crop) - 1 or sorted(ends) != ends):
        raise ValueError(
            f"crop has {len(crop)} sides and crop_until {len(crop_until)} steps; "
            "expected one rising step fewer than sides."
        )


def crop_at(crop: tuple[int, ...], crop_until: tuple[int, ...], step: int) -> int:
    """Side of the training square at `step`."""
    return crop[min(sum(step >= until for until in crop_until), len(crop) - 1)]
