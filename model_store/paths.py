"""Folders of checkpoints: the box and the models folder."""

import os
import sys
from pathlib import Path

MEMORIES = "memories"  # sub-folder of color memories, which are no networks
TRAINING = "training"  # of networks that judge and start others in training
NO_COLORIZERS = MEMORIES, TRAINING
BOX = Path(__file__).resolve().parents[1] / "weights"


def data_folder() -> Path:
    """Our folder in the platform's user data folder."""
    home = Path.home()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    return data / "comfyui-colorist"


def models_folder() -> Path:
    """$COLORIST_MODELS, else models/colorization under the platform's user data folder."""
    if chosen := os.environ.get("COLORIST_MODELS"):
        return Path(chosen)
    return data_folder() / "models" / "colorization"


def boxed() -> dict[str, Path]:
    """Name -> file of the networks that come with the package."""
    return {path.stem: path for path in sorted(BOX.glob("*.safetensors"))}
