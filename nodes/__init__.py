"""The ComfyUI nodes. Node ids never change once released."""

import logging

from . import host
from .colorize import Colorize
from .exemplar import ColorizeByReference
from .load import LoadAutomatic, LoadExemplar, LoadPointHint
from .look import ColorLook
from .measure import MeasureColor
from .memory import ApplyMemory, BuildMemory, LoadMemory, SaveMemory
from .merge import MergeChroma
from .photo import ColorizePhoto
from .pointhint import ColorizeByPointHints
from .references import FindReference
from .stabilize import StabilizeChroma
from .suggest_hints import SuggestHintPoints
from .variations import Variations

log = logging.getLogger(__name__)

NODES = [
    ColorizePhoto,
    LoadAutomatic,
    Colorize,
    Variations,
    BuildMemory,
    ApplyMemory,
    SaveMemory,
    LoadMemory,
    LoadExemplar,
    ColorizeByReference,
    FindReference,
    LoadPointHint,
    ColorizeByPointHints,
    SuggestHintPoints,
    MergeChroma,
    ColorLook,
    StabilizeChroma,
    MeasureColor,
]


class Colorist(host.ComfyExtension):
    async def get_node_list(self) -> list[type[host.io.ComfyNode]]:
        return list(NODES)


def extension() -> Colorist:
    """Register the model folder and the routes; return the extension for the host."""
    host.register_folder()
    try:
        if (table := host.routes()) is not None:
            # Needs aiohttp, which is installed wherever the host has a server.
            from .hint_preview import routes

            routes.register(table)
    except Exception:  # an error here would cost all nodes
        log.exception("The canvas of Colorize by Point Hints works without previews.")
    return Colorist()
