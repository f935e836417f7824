"""Colour a real photo with the weights in the box and write the picture before and after.

    python docs/demo.py before_after.png        (`make demo` prepares the environment and runs it)

The photo comes with scikit-learn (flower.jpg by vultilion, CC BY 2.0); only its gray version
reaches the network.
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
    """Write black-and-white and coloured side by side."""
    from sklearn.datasets import load_sample_image

    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).float() / 255
    gray = color.gray_rgb(color.lightness(photo.movedim(-1, 0))).movedim(0, -1)
    engine = colorist.load("ddcolor-nano")
    began = time.monotonic()
    colored = engine.colorize(gray)
    seconds = time.monotonic() - began
    pair = torch.cat([gray, torch.ones(len(gray), 8, 3), colored], dim=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pair * 255).round().byte().numpy()).save(out)
    print(
        f"{photo.shape[1]}x{photo.shape[0]} pixels coloured in {seconds:.1f} s "
        f"on {engine.placement.device}: {out}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "before_after.png"))
