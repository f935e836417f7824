"""The nodes. `NODES` is the one table; ids never change once released."""

from . import host
from .colorize import Colorize
from .exemplar import ColorizeByReference
from .load import LoadAutomatic, LoadExemplar
from .memory import ApplyMemory, BuildMemory, LoadMemory, SaveMemory
from .merge import MergeChroma
from .references import FindReference
from .variations import Variations

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
    MergeChroma,
]


class Colorist(host.ComfyExtension):
    async def get_node_list(self) -> list[type[host.io.ComfyNode]]:
        return list(NODES)


def extension() -> Colorist:
    """What the host's entry point returns; makes the model folder known first."""
    host.register_folder()
    return Colorist()
