"""Nodes that load a model: one for each role."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ..model_defs.spec import Role, Spec
from ..pipeline import loader
from ..pipeline.loader import AnyColorizer
from . import host
from .host import build_supported, io

DTYPES = {"auto": "", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # label -> dtype
LOADER_BY_ROLE: dict[Role, str] = {  # display names
    "automatic": "Load Automatic Colorizer",
    "exemplar": "Load Exemplar Colorizer",
    "pointhint": "Load Point-Hint Colorizer",
}
Automatic = io.Custom("COLORIZER")
Exemplar = io.Custom("EXEMPLAR_COLORIZER")
PointHint = io.Custom("POINT_HINT_COLORIZER")


class _LoadColorizer(io.ComfyNode):
    """Base of the loaders. A subclass sets its role and defines its schema."""

    role: ClassVar[Role]

    @classmethod
    def _schema(
        cls,
        node_id: str,
        description: str,
        aliases: list[str],
        output: Automatic.Output | Exemplar.Output | PointHint.Output,
    ) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id=node_id,
            display_name=LOADER_BY_ROLE[cls.role],
            category="Colorist/loaders",
            description=description,
            search_aliases=aliases,
            inputs=[
                build_supported(
                    io.Combo.Input,
                    "model",
                    display_name="model",
                    options=host.network_names(cls.role),
                    tooltip="A bundled model, or a checkpoint (.safetensors, .pth, .pt, .bin) in "
                    "models/colorization. Press R after adding a file. Models marked "
                    "(download ...) are downloaded there when the workflow runs.",
                ),
                build_supported(
                    io.Combo.Input,
                    "dtype",
                    display_name="precision",
                    options=list(DTYPES),
                    default="auto",
                    advanced=True,
                    tooltip="auto: bf16 on a GPU that supports it, otherwise fp32. fp32 is exact "
                    "and slowest; bf16 needs half the memory. fp16 overflows in some models and "
                    "then gives gray or spotted images.",
                ),
            ],
            outputs=[output],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str = "", dtype: str = "auto") -> str:
        return cache_key(model, host.network_path)

    @classmethod
    def validate_inputs(cls, model: Any = None) -> bool | str:
        """Replace the host's membership check, which would reject labels of earlier lists.

        Args:
            model: Any JSON value; None for a connected input.

        Returns:
            True, also for None; otherwise an error message.
        """
        return model is None or host.network_problem(str(model), cls.role) or True

    @classmethod
    def execute(cls, model: str, dtype: str = "auto") -> io.NodeOutput:
        return io.NodeOutput(load_colorizer(model, dtype, cls.role))


class LoadAutomatic(_LoadColorizer):
    role = "automatic"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "ColoristLoadAutomatic",
            "Loads a model that colorizes photos automatically, for the Colorize node. Bundled "
            "models need no download; put other checkpoints into models/colorization.",
            ["colorformer", "checkpoint", "download", "published model"],
            Automatic.Output(
                "colorizer",
                display_name="colorizer",
                tooltip="Connect to Colorize, Colorize by Reference (fallback colorizer) or "
                "Colorize by Point Hints (base colorizer). ColorFormer models also work with "
                "Colorize Variations, Build Color Memory and Apply Color Memory.",
            ),
        )


class LoadExemplar(_LoadColorizer):
    role = "exemplar"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "ColoristLoadExemplar",
            "Loads a model that colorizes photos with the colors of a reference image (exemplar), "
            "for the Colorize by Reference node. The bundled model needs no download; put other "
            "checkpoints into models/colorization.",
            ["reference", "xcnet", "checkpoint"],
            Exemplar.Output(
                "exemplar",
                display_name="exemplar colorizer",
                tooltip="Connect to Colorize by Reference.",
            ),
        )


class LoadPointHint(_LoadColorizer):
    role = "pointhint"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls._schema(
            "ColoristLoadPointHint",
            "Loads a model that spreads the colors of the hint points you place, for the Colorize "
            "by Point Hints node. The bundled model needs no download; put other checkpoints into "
            "models/colorization.",
            ["hints", "interactive", "checkpoint"],
            PointHint.Output(
                "pointhint",
                display_name="point-hint colorizer",
                tooltip="Connect to Colorize by Point Hints.",
            ),
        )


def load_colorizer(name: str, dtype: str, role: Role) -> AnyColorizer:
    """Load the model called `name` in the combo; download it first if it is not installed.

    Raises:
        ValueError: The name or precision is unknown, the file is not a checkpoint, or the model
            has another role.
    """
    if dtype not in DTYPES:
        raise ValueError(f"precision is '{dtype}'; expected one of {', '.join(DTYPES)}.")
    colorizer = loader.load(
        host.network_file(name),
        device=host.device(),
        dtype=DTYPES[dtype] or host.best_dtype(),
        device_manager=host.HostDeviceManager,
    )
    check_role(name, colorizer.spec, role)
    return colorizer


def check_role(name: str, spec: Spec, role: Role) -> None:
    """Raise ValueError if the model does not have the role of this loader."""
    if spec.role != role:
        raise ValueError(
            f"{name} is a model with the role '{spec.role}' ({spec.architecture}); this node loads "
            f"'{role}' models. Load it with {LOADER_BY_ROLE[spec.role]}, or choose another model."
        )


def cache_key(name: str, find_path: Callable[[str], Path]) -> str:
    """Return a string that changes with the file, so that the host runs the loader again."""
    try:
        path = find_path(name)
        status = path.stat()
    except (ValueError, OSError):
        return f"{name}: missing"  # execute reports the reason
    return f"{path}:{status.st_mtime_ns}:{status.st_size}"
