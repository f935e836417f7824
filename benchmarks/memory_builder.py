"""Time and peak memory of building a color memory, by number of photos.

    python benchmarks/memory_builder.py --model colorformer-nano --photos shard-*.tar --json m.json

Each number of photos runs in its own process, whose peak resident set includes interpreter, torch
and weights. Seconds are extrapolated to the paper's 10,000 photos along the line through the two
largest runs. CPU seconds are listed, too, because other programs disturb them less.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import bench

PAPER_PHOTOS = 10_000  # section 3.4


def measure(options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Build a memory from the first `count` photos."""
    import comfyui_colorist as colorist
    import sklearn
    import torch
    from comfyui_colorist.pipeline.color_memory import builder
    from comfyui_colorist.trainers.data.photos import PhotoInputs, Photos

    photos = PhotoInputs(Photos(options.photos), count)
    colorizer = colorist.load(options.model, device=options.device, dtype=options.dtype)
    start, cpu_start = time.perf_counter(), time.process_time()
    progress_times = [start]
    memory = builder.build_memory(
        colorizer,
        photos,
        entries=options.entries,
        fresh=options.fresh,
        progress=lambda done, total: progress_times.append(time.perf_counter()),
    )
    seconds = time.perf_counter() - start
    return {
        "photos": memory.provenance["photos"],
        "patches": memory.provenance["patches"],
        "entries": memory.provenance["entries"],
        "projection": memory.provenance["projection"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "clustering_seconds": round(seconds - (progress_times[-1] - start), 1),
        "photos_per_second": round(memory.provenance["photos"] / seconds, 2),
        "peak_mib": round(bench.peak_bytes() / 2**20),
        "model": options.model,
        "device": device_name(colorizer.device_manager.device),
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "commit": bench.commit(),
    }


def device_name(device: "torch.device") -> str:  # noqa: F821 - imported late
    """Return the name of the GPU, or cpu."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def extrapolate(results: list[dict[str, Any]], key: str, photos: int) -> int:
    """Extrapolate seconds to `photos` along the line through the two largest runs."""
    first, last = results[-2:]
    slope = (last[key] - first[key]) / max(1, last["photos"] - first["photos"])
    return round(last[key] + slope * (photos - last["photos"]))


def main() -> None:
    """Print a row for each number of photos."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--model", default="colorformer-nano")
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, .tar files")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--entries", type=int, default=512)
    parser.add_argument("--fresh", action="store_true", help="build a new projection by PCA")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, options.one)))
        return
    results = []
    bench.print_table(
        [
            *("photos", "seconds", "CPU s", "clustering s", "photos per second"),
            "peak memory, MiB",
        ]
    )
    keys = ["photos", "seconds", "cpu_seconds", "clustering_seconds", "photos_per_second"]
    keys.append("peak_mib")
    for count in sorted(options.counts):
        results.append(bench.run_in_process(__file__, [*sys.argv[1:], "--one", count]))
        bench.print_row([results[-1][key] for key in keys])
    report: dict[str, Any] = {"runs": results}
    if len(results) > 1:
        for key in ("seconds", "cpu_seconds"):
            report[f"{key}_for_10000"] = extrapolate(results, key, PAPER_PHOTOS)
        print(
            f"\n{PAPER_PHOTOS} photos, extrapolated: {report['seconds_for_10000']} s, "
            f"{report['cpu_seconds_for_10000']} s of CPU time"
        )
    bench.write_json(options.json, report)


if __name__ == "__main__":
    main()
