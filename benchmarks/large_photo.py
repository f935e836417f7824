"""Time and peak memory of colorizing one large photo from array to array.

    python benchmarks/large_photo.py --model ddcolor-nano --megapixels 24 --json large.json

Each size runs in its own process. Memory is the peak resident set minus the memory before the call
(interpreter, torch, weights and the photo itself). The result image is included.
"""

import argparse
import json
import platform
from typing import Any

import bench


def measure(model: str, megapixels: float, resolution: int | None, repeats: int) -> dict[str, Any]:
    """Colorize a synthetic photo with an aspect ratio of 3:2; seconds are the median."""
    import comfyui_colorist as colorist
    import torch

    colorizer = colorist.load(model)
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    photo = bench.gray_image(height, round(height * 1.5))
    colorizer.colorize(photo[:64, :64], resolution=resolution)
    before = bench.resident_bytes()
    seconds = [
        bench.seconds_of(lambda: colorizer.colorize(photo, resolution=resolution))
        for _ in range(repeats)
    ]
    return {
        "megapixels": megapixels,
        "size": f"{photo.shape[1]}x{photo.shape[0]}",
        "seconds": round(sorted(seconds)[len(seconds) // 2], 2),
        "spread": [round(min(seconds), 2), round(max(seconds), 2)],
        "extra_mib": round((bench.peak_bytes() - before) / 2**20),
        "result_mib": round(photo.numel() * 4 / 2**20),
        "device": str(colorizer.device_manager.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": bench.commit(),
    }


def main() -> None:
    """Print a row for each size."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--model", default="ddcolor-nano")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 6, 12, 24])
    parser.add_argument("--resolution", type=int, help="default: the network's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        result = measure(options.model, options.megapixels[0], options.resolution, options.repeats)
        print(json.dumps(result))
        return
    results = []
    bench.print_table(["megapixels", "seconds (min-max)", "memory beside photo and result, MiB"])
    for size in options.megapixels:
        arguments = ["--one", "--model", options.model, "--megapixels", size]
        arguments += ["--repeats", options.repeats]
        arguments += ["--resolution", options.resolution] if options.resolution else []
        result = bench.run_in_process(__file__, arguments)
        results.append(result)
        low, high = result["spread"]
        memory = result["extra_mib"] - result["result_mib"]
        bench.print_row([f"{size:g}", f"{result['seconds']} ({low}-{high})", memory])
    bench.write_json(options.json, results)


if __name__ == "__main__":
    main()
