"""What one forward pass of each network costs: parameters, arithmetic, time, memory.

    python benchmarks/cost.py --sizes 256 512 --json cost.json
    python benchmarks/cost.py --presets pointhint-s pointhint-t pointhint-nano --sizes 224

Weights are random: nothing is downloaded. GFLOP count two for each multiply-add (MAC), those of
attention too. Memory is the peak resident set of a forward pass in a process of its own, in bytes
for each pixel of the input; `spec` is what the network's spec promises to the host. Networks with a
kernel: the kernel once, the network once; kriging is not in it.
"""

import argparse
import importlib
import json
import platform
import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

from large_photo import ROOT, commit, peak_bytes, resident_bytes

# Of its Table 1, whose "GFLOPs", 3.47 and 1.01, are multiply-adds; seconds are for one picture of
# ctest10k on its authors' machine.
PAPER = {
    "pointhint-s": "6.94 GFLOP, 0.187 s at 224x224",
    "pointhint-t": "2.02 GFLOP, 0.089 s at 224x224",
}


def measure(preset: str, side: int, repeats: int) -> dict:
    """Run `preset` on a random grey picture of side x side pixels; a reference is as large."""
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    registry = importlib.import_module(f"{package}.model_defs.registry")
    architecture = registry.presets()[preset]
    module = registry.module_of(architecture)
    config = module.PRESETS[preset]
    network = registry.build(architecture, config).eval().requires_grad_(False)
    role = module.spec(config).role
    channels = 4 if role == "pointhint" else 3
    picture, seconds = torch.rand(1, 1, side, side).expand(-1, channels, -1, -1).contiguous(), []

    def run(side: int = side) -> None:
        some = picture[..., :side, :side]
        if role == "exemplar":
            network.answer(some, network.read([some], some.shape[2:]))
        else:
            if role == "pointhint" and network.kernel:  # once for a photo, whatever its hints
                network.kernel(50 * some[:, :1] + 50)
            network(some)

    with torch.inference_mode():
        run(64)
        before = resident_bytes()
        run()
        peak = peak_bytes()
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    # The counter sees into plain attention alone, and inference mode would confuse it.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return {
        "preset": preset,
        "side": side,
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop": round(counter.get_total_flops() / 1e9, 2),
        "seconds": round(statistics.median(seconds), 3),
        "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        "bytes_per_pixel": round((peak - before) / side**2),
        "spec_bytes_per_pixel": round(
            module.spec(config).activation_bytes_per_pixel
            + module.spec(config).activation_bytes / side**2
        ),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": commit(),
    }


def main() -> None:
    """Print a table of all presets and sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [
        "ddcolor-nano",
        "ddcolor-tiny",
        "ddcolor-large",
        "colorformer-nano",
        "colorformer",
    ]
    everything += ["exemplar-nano", "exemplar-vgg19"]
    everything += ["pointhint-nano", "pointhint-t", "pointhint-s"]
    parser.add_argument("--presets", nargs="+", default=everything)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.presets[0], options.sizes[0], options.repeats)))
        return
    results = []
    print(
        "| network | pixels | parameters, M | GFLOP | seconds (min-max) | bytes a pixel | spec | "
        "its paper |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for preset in options.presets:
        for side in options.sizes:
            flags = ["--presets", preset, "--sizes", str(side), "--repeats", str(options.repeats)]
            command = [sys.executable, __file__, "--one", *flags]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            r = json.loads(run.stdout)
            results.append(r)
            low, high = r["spread"]
            print(
                f"| {preset} | {side}x{side} | {r['parameters'] / 1e6:.2f} | {r['gflop']:.2f} | "
                f"{r['seconds']} ({low}-{high}) | {r['bytes_per_pixel']} | "
                f"{r['spec_bytes_per_pixel']} | {PAPER.get(preset, '')} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
