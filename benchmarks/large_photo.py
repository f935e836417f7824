"""Time and peak memory of one large photo from array to array.

    python benchmarks/large_photo.py --model ddcolor-nano --megapixels 24 --json large.json

Each size runs in a process of its own. Memory is the peak resident set less what the process held
before the call (interpreter, torch, weights, the photo itself); the result picture is counted.
"""

import argparse
import json
import platform
import resource
import runpy
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measure(model: str, megapixels: float, resolution: int | None, repeats: int) -> dict:
    """Colour a synthetic photo of 3:2 format; seconds are the median of `repeats` calls."""
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import comfyui_colorist as colorist
    import torch

    engine = colorist.load(model)
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    rows = torch.linspace(0, 1, height)[:, None, None]
    columns = torch.linspace(0, 20, round(height * 1.5))[None, :, None].sin()
    photo = (0.5 + 0.3 * rows * columns).expand(-1, -1, 3).contiguous()
    engine.colorize(photo[:64, :64], resolution=resolution)
    before, seconds = resident_bytes(), []
    for _ in range(repeats):
        began = time.perf_counter()
        engine.colorize(photo, resolution=resolution)
        seconds.append(time.perf_counter() - began)
    return {
        "megapixels": megapixels,
        "size": f"{photo.shape[1]}x{photo.shape[0]}",
        "seconds": round(sorted(seconds)[len(seconds) // 2], 2),
        "spread": [round(min(seconds), 2), round(max(seconds), 2)],
        "extra_mib": round((peak_bytes() - before) / 2**20),
        "result_mib": round(photo.numel() * 4 / 2**20),
        "device": str(engine.placement.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": commit(),
    }


def commit() -> str:
    """Short hash of the checkout, "" outside of one."""
    run = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return run.stdout.strip()


def peak_bytes() -> int:
    """Peak resident set of this process; where it can be had, without that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(s for s in status.read_text().splitlines() if s.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident set of this process now; its peak where the system has no /proc."""
    statm = Path("/proc/self/statm")
    return (
        int(statm.read_text().split()[1]) * resource.getpagesize()
        if statm.exists()
        else peak_bytes()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ddcolor-nano")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 6, 12, 24])
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        result = measure(options.model, options.megapixels[0], options.resolution, options.repeats)
        print(json.dumps(result))
        return
    results = []
    print("| megapixels | seconds (min-max) | memory beside photo and result, MiB |")
    print("| --- | --- | --- |")
    for size in options.megapixels:
        command = [
            sys.executable,
            __file__,
            "--one",
            "--model",
            options.model,
            "--megapixels",
            str(size),
        ]
        command += ["--repeats", str(options.repeats)]
        command += ["--resolution", str(options.resolution)] if options.resolution else []
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(run.stdout))
        r = results[-1]
        low, high = r["spread"]
        print(f"| {size:g} | {r['seconds']} ({low}-{high}) | {r['extra_mib'] - r['result_mib']} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
