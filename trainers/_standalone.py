"""Give this checkout its import name when a script is run by path, so relative imports work."""

import importlib.util
import sys
from pathlib import Path

PACKAGE, ROOT = "comfyui_colorist", Path(__file__).resolve().parents[1]


def package(sub: str = "") -> str:
    """Import this checkout as PACKAGE if it is not imported yet; return the name of `sub` in it."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{ROOT} is not a checkout of {PACKAGE}")
        sys.modules[PACKAGE] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return f"{PACKAGE}.{sub}" if sub else PACKAGE
