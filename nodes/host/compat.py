"""Schemas on hosts of different versions."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from comfy_api.v0_0_2 import io

NEWER = {"advanced", "search_aliases"}  # keywords that came after v0.3.64
Made = TypeVar("Made")


def make(cls: Callable[..., Made], *args: object, **options: object) -> Made:
    """`cls(*args, **options)` without the NEWER options this host's version does not know."""
    known = inspect.signature(cls).parameters
    return cls(*args, **{k: v for k, v in options.items() if k in known or k not in NEWER})


@io.comfytype(io_type="STRING")
class DrawnString:
    """A STRING whose widget our own JavaScript draws; nodes and programs give it as any other.

    `io.String` of v0.3.64 cannot say so.
    """

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
