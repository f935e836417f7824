"""Colorize a photo with a bundled model, and write it before and after side by side.

    python docs/demo.py before_after.png        (`make demo` prepares the environment and runs it)

The photo is part of scikit-learn (flower.jpg by vultilion, CC BY 2.0); the network sees only its
gray version.
"""

import runpy
import sys
import time
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()

import comfyui_colorist as colorist
from comfyui_colorist.ops import color


def main(out: Path) -> None:
    """Write the gray and the colorized photo side by side."""
    from sklearn.datasets import load_sample_image

    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).float() / 255
    gray = color.gray_rgb(color.lightness(photo.movedim(-1, 0))).movedim(0, -1)
    engine = colorist.load("ddcolor-nano")
    started = time.monotonic()
    colored = engine.colorize(gray)
    seconds = time.monotonic() - started
    pair = torch.cat([gray, torch.ones(len(gray), 8, 3), colored], dim=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pair * 255).round().byte().numpy()).save(out)
    print(
        f"{photo.shape[1]}x{photo.shape[0]} pixels colorized in {seconds:.1f} s "
        f"on {engine.device_manager.device}: {out}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "before_after.png"))
