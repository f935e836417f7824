"""Give this checkout its import name when a script is run by path: relative imports then work."""

import importlib.util
import sys
from pathlib import Path

PACKAGE, ROOT = "comfyui_colorist", Path(__file__).resolve().parents[1]


def package(sub: str = "") -> str:
    """Import this checkout as PACKAGE unless it is; return the dotted name of its sub-package."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules[PACKAGE] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return f"{PACKAGE}.{sub}" if sub else PACKAGE
