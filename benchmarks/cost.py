"""Cost of one forward pass of each network: parameters, operations, time and memory.

    python benchmarks/cost.py --sizes 256 512 --json cost.json
    python benchmarks/cost.py --presets pointhint-s pointhint-t pointhint-nano --sizes 224

Weights are random, so nothing is downloaded. GFLOP counts two operations for each multiply-add
(MAC), including those of attention. Memory is the peak resident set of a forward pass in its own
process, in bytes per input pixel; `spec` is the value that the network's spec reports to the host.
For networks with a kernel, the kernel runs once and the network once, without kriging.
"""

import argparse
import json
import platform
import statistics
from typing import Any

import bench

# Table 1 of the paper lists 3.47 and 1.01 "GFLOPs", which are multiply-adds; seconds are for one
# image of ctest10k on the authors' machine.
PAPER = {
    "pointhint-s": "6.94 GFLOP, 0.187 s at 224x224",
    "pointhint-t": "2.02 GFLOP, 0.089 s at 224x224",
}
PRESETS = (
    *("ddcolor-nano", "ddcolor-tiny", "ddcolor-large", "colorformer-nano", "colorformer"),
    *("exemplar-nano", "exemplar-vgg19", "pointhint-nano", "pointhint-t", "pointhint-s"),
)


def measure(preset: str, side: int, repeats: int) -> dict[str, Any]:
    """Run a preset on a random gray image of side x side pixels; references have the same size."""
    import torch
    from comfyui_colorist.model_defs import registry
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    architecture = registry.presets()[preset]
    module = registry.module_of(architecture)
    config = module.PRESETS[preset]
    network = registry.build(architecture, config).eval().requires_grad_(False)
    spec = module.spec(config)
    channels = 4 if spec.role == "pointhint" else 3
    image = torch.rand(1, 1, side, side).expand(-1, channels, -1, -1).contiguous()

    def run(side: int = side) -> None:
        x = image[..., :side, :side]
        if spec.role == "exemplar":
            network.predict(x, network.encode_references([x], x.shape[2:]))
            return
        if spec.role == "pointhint" and network.kernel:  # once per photo, whatever its hints
            network.kernel(50 * x[:, :1] + 50)
        network(x)

    with torch.inference_mode():
        run(64)
        before = bench.resident_bytes()
        run()
        peak = bench.peak_bytes()
        seconds = [bench.seconds_of(run) for _ in range(repeats)]
    # The counter supports plain attention only, and no inference mode.
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
            spec.activation_bytes_per_pixel + spec.fixed_activation_bytes / side**2
        ),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": bench.commit(),
    }


def main() -> None:
    """Print a row for each preset and size."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.presets[0], options.sizes[0], options.repeats)))
        return
    results = []
    bench.print_table(
        [
            *("network", "pixels", "parameters, M", "GFLOP", "seconds (min-max)"),
            *("bytes per pixel", "spec", "paper"),
        ]
    )
    for preset in options.presets:
        for side in options.sizes:
            arguments = ["--one", "--presets", preset, "--sizes", side]
            result = bench.run_in_process(__file__, [*arguments, "--repeats", options.repeats])
            results.append(result)
            low, high = result["spread"]
            bench.print_row(
                [
                    *(preset, f"{side}x{side}", f"{result['parameters'] / 1e6:.2f}"),
                    *(f"{result['gflop']:.2f}", f"{result['seconds']} ({low}-{high})"),
                    *(result["bytes_per_pixel"], result["spec_bytes_per_pixel"]),
                    PAPER.get(preset, ""),
                ]
            )
    bench.write_json(options.json, results)


if __name__ == "__main__":
    main()
