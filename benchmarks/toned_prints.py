"""Which photos training passes over as colourless, and which toned prints it catches.

    python benchmarks/toned_prints.py --photos shard-*.tar eval-dev/ --count 2000

Toned prints are made of the photos: their grey in one of four tones (warm and cool, strong and
weak), as JPEG of quality 80 with halved chroma.
"""

import argparse
import io
import json
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
from large_photo import ROOT, commit
from PIL import Image

TONES = {  # name -> gamma and gain of red, green, blue
    "sepia": ((0.9, 1.0, 1.15), (1.0, 0.9, 0.7)),
    "warm": ((0.95, 1.0, 1.08), (1.0, 0.95, 0.82)),
    "weak": ((0.98, 1.0, 1.02), (1.0, 0.97, 0.93)),
    "blue": ((1.1, 1.0, 0.9), (0.8, 0.92, 1.0)),
}


def toned(image: Image.Image, tone: str) -> Image.Image:
    """A photo as a toned print."""
    gamma, gain = TONES[tone]
    grey = np.asarray(image.convert("L"))[..., None] / 255
    buffer = io.BytesIO()
    pixels = (255 * np.array(gain) * grey ** np.array(gamma)).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    from comfyui_colorist.trainers.data import color_filter
    from comfyui_colorist.trainers.data import photos as data_photos

    photos = data_photos.Photos(options.photos)
    some = range(0, len(photos), max(1, len(photos) // options.count))
    found = {name: Counter() for name in ("photos", *TONES)}
    for index in some:
        image = photos[index]
        for name, tally in found.items():
            shown = image if name == "photos" else toned(image, name)
            tally[color_filter.colourless(shown) or "taken"] += 1
    print(f"{len(some)} photos\n\n| | taken | grey | toned |\n| --- | --- | --- | --- |")
    shares = {}
    for name, tally in found.items():
        grey = sum(n for why, n in tally.items() if "no colours" in why)
        parts = tally["taken"], grey, len(some) - tally["taken"] - grey
        shares[name] = [100 * part / len(some) for part in parts]
        print(f"| {name} | " + " | ".join(f"{share:.2f} %" for share in shares[name]) + " |")
    if options.json:
        facts = {"commit": commit(), "photos": len(some), "percent": shares}
        options.json.write_text(json.dumps(facts, indent=1))
