"""Schemas that work on different versions of the host."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from comfy_api.v0_0_2 import io

OPTIONAL_KEYWORDS = {"advanced", "search_aliases"}  # added to the host after v0.3.64
T = TypeVar("T")


def build_supported(cls: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call `cls` without the OPTIONAL_KEYWORDS that this version of the host lacks."""
    parameters = inspect.signature(cls).parameters
    return cls(
        *args,
        **{
            name: value
            for name, value in options.items()
            if name in parameters or name not in OPTIONAL_KEYWORDS
        },
    )


@io.comfytype(io_type="STRING")
class CustomWidgetString:
    """A STRING input with a widget of our own; `io.String` of v0.3.64 has no such option."""

    Type = str

    class Input(io.WidgetInput):
        def __init__(self, id: str, widget: str, *, display_name: str, tooltip: str, default: str):
            super().__init__(
                id,
                display_name=display_name,
                tooltip=tooltip,
                default=default,
                extra_dict={"widgetType": widget},
            )
