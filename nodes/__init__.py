"""The nodes. `NODES` is the one table; ids never change once released."""

import logging

from . import host
from .colorize import Colorize
from .exemplar import ColorizeByReference
from .load import LoadAutomatic, LoadExemplar, LoadPointHint
from .measure import MeasureColor
from .memory import ApplyMemory, BuildMemory, LoadMemory, SaveMemory
from .merge import MergeChroma
from .pointhint import ColorizeByPointHints
from .references import FindReference
from .stabilize import StabilizeChroma
from .variations import Variations

log = logging.getLogger(__name__)

NODES = [
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
    MergeChroma,
    StabilizeChroma,
    MeasureColor,
]


class Colorist(host.ComfyExtension):
    async def get_node_list(self) -> list[type[host.io.ComfyNode]]:
        return list(NODES)


def extension() -> Colorist:
    """What the host's entry point returns; makes model folder and routes known first."""
    host.register_folder()
    try:
        if (table := host.routes()) is not None:
            # Needs aiohttp, which is there where the host has a server.
            from .hint_preview import routes

            routes.register(table)
    except Exception:  # all nodes would be lost
        log.exception("the canvas of Colorize by Point Hints works without previews.")
    return Colorist()
