"""Folders of model files: bundled with the package, and installed by the user."""

import os
import sys
from pathlib import Path

BUNDLED_DIR = Path(__file__).resolve().parents[1] / "weights"
BEST_MODEL = "ddcolor-nano"
"""The bundled automatic model with the best colors."""
MEMORIES_FOLDER = "memories"
"""Subfolder of the models folder for color memories."""
TRAINING_FOLDER = "training"
"""Subfolder of the models folder for networks that training and evaluation need."""
RESERVED_FOLDERS = MEMORIES_FOLDER, TRAINING_FOLDER
"""Subfolders whose files are not colorization models."""


def data_folder() -> Path:
    """Return the folder of this package in the user data folder of the platform."""
    home = Path.home()
    if sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        parent = home / "Library" / "Application Support"
    else:
        parent = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    return parent / "comfyui-colorist"


def models_folder() -> Path:
    """Return $COLORIST_MODELS, or models/colorization in the user data folder."""
    if folder := os.environ.get("COLORIST_MODELS"):
        return Path(folder)
    return data_folder() / "models" / "colorization"


def bundled_models() -> dict[str, Path]:
    """Return name -> file of the models that come with the package, the best automatic one first.

    Combos of nodes start with the first.
    """
    files = BUNDLED_DIR.glob("*.safetensors")
    return {p.stem: p for p in sorted(files, key=lambda p: (p.stem != BEST_MODEL, p.stem))}
