"""Nodes that open a checkpoint."""

from collections.abc import Callable
from pathlib import Path

from ..model_defs.spec import Spec
from ..pipeline import loader
from ..pipeline.automatic import Colorizer
from . import host, search_terms
from .host import io, make

# As shown -> as meant.
DTYPES = {"auto": "", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
LOADERS = {  # of the roles
    "automatic": "Load Automatic Colorizer",
    "exemplar": "Load Exemplar Colorizer",
    "pointhint": "Load Point-Hint Colorizer",
}
Automatic = io.Custom("COLORIZER")
Exemplar = io.Custom("EXEMPLAR_COLORIZER")
PointHint = io.Custom("POINT_HINT_COLORIZER")


class LoadAutomatic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristLoadAutomatic",
            display_name="Load Automatic Colorizer",
            category="Colorist/loaders",
            description="Opens a network that colours photos by itself, for the Colorize node. "
            "Networks in the box need no download; others go into models/colorization.",
            search_aliases=[
                *search_terms.COLORING,
                *search_terms.RESTORING,
                "ddcolor",
                "colorformer",
                "checkpoint",
                "download",
            ],
            inputs=_choices("automatic"),
            outputs=[
                Automatic.Output(
                    "colorizer",
                    display_name="colorizer",
                    tooltip="Connect to Colorize, Colorize by Reference (fallback colorizer) or "
                    "Colorize by Point Hints (base colorizer). A ColorFormer network: to Colorize "
                    "Variations, Build Color Memory and Apply Color Memory, too.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = "", dtype: str = "auto") -> str:
        return fingerprint(model, host.network_path)

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return validate(model, role="automatic")

    @classmethod
    def execute(cls, model: str, dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load(model, dtype, role="automatic"))


class LoadExemplar(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristLoadExemplar",
            display_name="Load Exemplar Colorizer",
            category="Colorist/loaders",
            description="Opens a network that colours photos as a reference (exemplar) is "
            "coloured, for the Colorize by Reference node. The network in the box needs no "
            "download; others go into models/colorization.",
            search_aliases=[*search_terms.COLORING, "reference", "xcnet", "checkpoint"],
            inputs=_choices("exemplar"),
            outputs=[
                Exemplar.Output(
                    "exemplar",
                    display_name="exemplar colorizer",
                    tooltip="Connect to Colorize by Reference.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = "", dtype: str = "auto") -> str:
        return fingerprint(model, host.network_path)

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return validate(model, role="exemplar")

    @classmethod
    def execute(cls, model: str, dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load(model, dtype, role="exemplar"))


class LoadPointHint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristLoadPointHint",
            display_name="Load Point-Hint Colorizer",
            category="Colorist/loaders",
            description="Opens a network that spreads the colours of points you place, for the "
            "Colorize by Point Hints node. The network in the box needs no download; others go "
            "into models/colorization.",
            search_aliases=[*search_terms.COLORING, "hints", "interactive", "checkpoint"],
            inputs=_choices("pointhint"),
            outputs=[
                PointHint.Output(
                    "pointhint",
                    display_name="point-hint colorizer",
                    tooltip="Connect to Colorize by Point Hints.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = "", dtype: str = "auto") -> str:
        return fingerprint(model, host.network_path)

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return validate(model, role="pointhint")

    @classmethod
    def execute(cls, model: str, dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load(model, dtype, role="pointhint"))


def _choices(role: str) -> list[io.Combo.Input]:
    """Which network of a role, and its precision."""
    return [
        make(
            io.Combo.Input,
            "model",
            display_name="model",
            options=host.network_names(role),
            tooltip="A network in the box, or a checkpoint (.safetensors, .pth, .pt, .bin) "
            "in models/colorization. Press R after adding a file. Those marked (download ...) are "
            "fetched there when the workflow runs.",
        ),
        make(
            io.Combo.Input,
            "dtype",
            display_name="precision",
            options=list(DTYPES),
            default="auto",
            advanced=True,
            tooltip="auto: bf16 on a GPU made for it, else fp32. fp32 is exact and slowest, bf16 "
            "needs half the memory. fp16 overflows in some networks and then gives grey or "
            "spotted pictures.",
        ),
    ]


def validate(name: str | None, role: str) -> bool | str:
    """Instead of the host's look into the list: names may have lost or got the list's mark.

    Returns:
        True, also for None, which stands for a connection; or what is wrong.
    """
    return name is None or host.network_problem(str(name), role) or True


def load(name: str, dtype: str, role: str) -> Colorizer:
    """Open the network called `name` in the combo; a published one is downloaded if need be.

    Raises:
        ValueError: an unknown name or precision; a file that is no checkpoint, or of another role.
    """
    if dtype not in DTYPES:
        raise ValueError(f"precision is '{dtype}'; expected one of {', '.join(DTYPES)}.")
    colorizer = loader.load(
        host.network_file(name),
        device=host.device(),
        dtype=DTYPES[dtype] or host.best_dtype(),
        placement=host.HostPlacement,
    )
    check_role(name, colorizer.spec, role)
    return colorizer


def check_role(name: str, spec: Spec, role: str) -> None:
    """Raise ValueError when a network is not for this wire."""
    if spec.role != role:
        raise ValueError(
            f"{name} is a network of the role '{spec.role}' ({spec.architecture}); "
            f"this node opens '{role}' networks. "
            f"Open it with {LOADERS.get(spec.role, 'another node')}, or choose another."
        )


def fingerprint(name: str, find: Callable[[str], Path]) -> str:
    """Changes when the file that `find` finds does, so that the host runs the loader again."""
    try:
        path = find(name)
        facts = path.stat()
    except (ValueError, OSError):
        return f"{name}: missing"  # execute says why
    return f"{path}:{facts.st_mtime_ns}:{facts.st_size}"
