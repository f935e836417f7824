"""Rates of color photos and toned prints that the training data filter rejects.

    python benchmarks/toned_prints.py --photos shard-*.tar eval-dev/ --count 2000

Toned prints are simulated: the gray version of a photo in one of four tones (warm and cool, strong
and weak), saved as JPEG of quality 80 with subsampled chroma.
"""

import io
from collections import Counter

import bench
import numpy as np
from comfyui_colorist.trainers.data.color_filter import no_color_reason
from comfyui_colorist.trainers.data.photos import Photos
from PIL import Image

TONES = {  # name -> gamma and gain of red, green, blue
    "sepia": ((0.9, 1.0, 1.15), (1.0, 0.9, 0.7)),
    "warm": ((0.95, 1.0, 1.08), (1.0, 0.95, 0.82)),
    "weak": ((0.98, 1.0, 1.02), (1.0, 0.97, 0.93)),
    "blue": ((1.1, 1.0, 0.9), (0.8, 0.92, 1.0)),
}


def tone_print(image: Image.Image, tone: str) -> Image.Image:
    """Return a photo as a toned print."""
    gamma, gain = TONES[tone]
    gray = np.asarray(image.convert("L"))[..., None] / 255
    buffer = io.BytesIO()
    pixels = (255 * np.array(gain) * gray ** np.array(gamma)).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return Image.open(buffer).convert("RGB")


def main() -> None:
    """Print the percentages of accepted, gray and toned images."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    photos = Photos(options.photos)
    indices = range(0, len(photos), max(1, len(photos) // options.count))
    reasons: dict[str, Counter[str]] = {name: Counter() for name in ("photos", *TONES)}
    for index in indices:
        image = photos[index]
        for name, counts in reasons.items():
            variant = image if name == "photos" else tone_print(image, name)
            counts[no_color_reason(variant)] += 1
    print(f"{len(indices)} photos\n")
    bench.print_table(["", "accepted", "gray", "toned"])
    percentages = {}
    for name, counts in reasons.items():
        gray = sum(n for reason, n in counts.items() if "no colors" in reason)
        parts = counts[""], gray, len(indices) - counts[""] - gray
        percentages[name] = [100 * part / len(indices) for part in parts]
        bench.print_row([name, *(f"{value:.2f} %" for value in percentages[name])])
    facts = {"commit": bench.commit(), "photos": len(indices), "percent": percentages}
    bench.write_json(options.json, facts)


if __name__ == "__main__":
    main()
