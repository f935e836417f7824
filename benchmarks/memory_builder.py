"""Time and peak memory of building a color memory, against the number of photos.

    python benchmarks/memory_builder.py --model colorformer-nano --photos shard-*.tar --json m.json

Each number of photos runs in a process of its own; its peak resident set counts interpreter, torch
and weights, too. Seconds are extrapolated to 10,000 photos, the paper's number, along the line
through the two largest runs. CPU seconds, which other programs disturb less, stand beside.
"""

import argparse
import json
import os
import platform
import runpy
import subprocess
import sys
import time
from pathlib import Path

from large_photo import ROOT, commit, peak_bytes

PAPER = 10_000  # photos, section 3.4


def measure(options: argparse.Namespace, count: int) -> dict:
    """Build one memory of the first `count` photos."""
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import comfyui_colorist as colorist
    import sklearn
    import torch
    from comfyui_colorist.pipeline.color_memory import builder as memory_builder
    from comfyui_colorist.trainers.build_color_memory import Pictures
    from comfyui_colorist.trainers.data.photos import Photos

    pictures = Pictures(Photos(options.photos), count)
    colorizer = colorist.load(options.model, device=options.device, dtype=options.dtype)
    began, cpu = time.perf_counter(), time.process_time()
    read = [began]
    memory = memory_builder.build(
        colorizer,
        pictures,
        entries=options.entries,
        fresh=options.fresh,
        progress=lambda done, total: read.append(time.perf_counter()),
    )
    seconds = time.perf_counter() - began
    return {
        "photos": memory.provenance["photos"],
        "patches": memory.provenance["patches"],
        "entries": memory.provenance["entries"],
        "projection": memory.provenance["projection"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "clustering_seconds": round(seconds - (read[-1] - began), 1),
        "photos_per_second": round(memory.provenance["photos"] / seconds, 2),
        "peak_mib": round(peak_bytes() / 2**20),
        "model": options.model,
        "device": device_name(colorizer.placement.device),
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "commit": commit(),
    }


def device_name(device) -> str:
    """cpu, or what the GPU is called."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def extrapolated(results: list[dict], what: str, photos: int) -> int:
    """`what` (seconds) for `photos`, along the line through the two largest runs."""
    first, last = results[-2:]
    slope = (last[what] - first[what]) / max(1, last["photos"] - first["photos"])
    return round(last[what] + slope * (photos - last["photos"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="colorformer-nano")
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders, .tar files")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--entries", type=int, default=512)
    parser.add_argument("--fresh", action="store_true", help="with a projection by PCA")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, options.one)))
        return
    results = []
    print(
        "| photos | seconds | CPU s | of these clustering | photos per second | peak memory, MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for count in sorted(options.counts):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(count)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append(json.loads(run.stdout.splitlines()[-1]))
        r = results[-1]
        print(
            f"| {r['photos']} | {r['seconds']} | {r['cpu_seconds']} | {r['clustering_seconds']} | "
            f"{r['photos_per_second']} | {r['peak_mib']} |",
            flush=True,
        )
    found = {"runs": results}
    if len(results) > 1:
        for what in ("seconds", "cpu_seconds"):
            found[f"{what}_for_10000"] = extrapolated(results, what, PAPER)
        print(
            f"\n{PAPER} photos, extrapolated: {found['seconds_for_10000']} s, "
            f"{found['cpu_seconds_for_10000']} s of CPU time"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
