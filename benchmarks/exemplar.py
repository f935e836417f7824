"""Exemplar networks beside the official program, in one run; and what a cached reference saves.

    XCNET_PATH=checkout-of-bbc/xcnet python benchmarks/exemplar.py --repeats 7 --json exemplar.json

Without XCNET_PATH only ours are timed. Weights are random and shared: the official program's state
is loaded into our network through the published-checkpoint path, and the largest difference of the
results is told. Programs take turns; GFLOP count two for each multiply-add, of one pair.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from large_photo import ROOT, commit


def has_torchvision() -> bool:
    """Whether it, or what stands in for it, can be imported."""
    if "torchvision" in sys.modules:
        return True
    return importlib.util.find_spec("torchvision") is not None


def official(name: str) -> "object | None":
    """The official program's network with random weights, or None without XCNET_PATH."""
    checkout = os.environ.get("XCNET_PATH")
    if not checkout:
        return None
    import torch
    from torch import nn

    if not has_torchvision():  # it takes VGG-19 from there, weights and all
        layers, before = [], 3
        for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0):
            layers += (
                [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(True)]
                if width
                else [nn.MaxPool2d(2)]
            )
            before = width or before
        vgg19 = nn.Module()
        vgg19.features = nn.Sequential(*layers)
        stand_in = ModuleType("torchvision.models")
        stand_in.vgg19 = lambda **_: vgg19
        sys.modules["torchvision"] = ModuleType("torchvision")
        sys.modules["torchvision.models"] = stand_in
    sys.path.insert(0, str(Path(checkout) / "src"))
    network = getattr(importlib.import_module("models.xcnet"), name)().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return network


def timed(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work, in turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def gflop(work: Callable[[], object]) -> float:
    """Of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return round(counter.get_total_flops() / 1e9, 1)


def main() -> None:
    """Print a table of programs and one of frames."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frames", type=int, default=8, help="of a shot with one reference")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch

    registry = importlib.import_module(f"{package}.model_defs.registry")
    exemplar = importlib.import_module(f"{package}.model_defs.exemplar")
    generator = torch.Generator().manual_seed(1)
    L = 2 * torch.rand(1, 1, 224, 224, generator=generator) - 1
    target = L.expand(-1, 3, -1, -1).contiguous()
    reference = 2 * torch.rand(1, 3, 224, 224, generator=generator) - 1
    results: dict[str, dict] = {}
    facts = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    facts |= {"machine": platform.machine(), "commit": commit()}

    print("| network | program | parameters, M | GFLOP | seconds (min-max) | ratio | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ("xcnet", "xcnet_no_pos", "exemplar-vgg19", "exemplar-nano"):
        theirs = official(name) if name.startswith("xcnet") else None
        if theirs is not None:
            with tempfile.TemporaryDirectory() as folder:
                torch.save({"model_state_dict": theirs.state_dict()}, Path(folder, "weights.pth"))
                ours = registry.load(Path(folder, "weights.pth"))[0]
                ours.load_state_dict({k: v.clone() for k, v in ours.state_dict().items()})
        elif name.startswith("xcnet"):
            continue
        else:
            ours = registry.build("exemplar", exemplar.PRESETS[name]).eval()
        programs = {"official": theirs, "ours": ours}
        programs = {who: net.requires_grad_(False) for who, net in programs.items() if net}

        def pair(who: str, programs: dict = programs) -> Callable[[], object]:
            if who == "official":
                return lambda: programs[who](target, reference)[0]
            net = programs[who]
            return lambda: net.answer(target, net.read([reference], target.shape[2:])).ab / 110

        works = {who: pair(who) for who in programs}
        flops = {who: gflop(work) for who, work in works.items()}  # inference mode confuses it
        with torch.inference_mode():
            seconds = timed(works, options.repeats)
            made = [work() for work in works.values()]
        middle = {who: statistics.median(values) for who, values in seconds.items()}
        for who, values in seconds.items():
            row = {
                "parameters": sum(
                    {p.data_ptr(): p.numel() for p in programs[who].parameters()}.values()
                ),
                "gflop": flops[who],
                "seconds": round(middle[who], 3),
                "spread": [round(min(values), 3), round(max(values), 3)],
            }
            if len(made) > 1 and who == "ours":
                row["ratio"] = round(middle["official"] / middle["ours"], 2)
                row["difference"] = float((made[0] - made[1]).abs().max())
            results[f"{name}, {who}"] = row
            low, high = row["spread"]
            told = f"{row['ratio']} | {row['difference']:.0e}" if "ratio" in row else "- | -"
            print(
                f"| {name} | {who} | {row['parameters'] / 1e6:.2f} | {row['gflop']} | "
                f"{row['seconds']} ({low}-{high}) | {told} |",
                flush=True,
            )

    print(f"\n{options.frames} frames of 960x540, one reference; seconds a frame\n")
    print("| network | read once | read for each frame |\n| --- | --- | --- |")
    colorist = importlib.import_module(package)
    for name in ("exemplar-nano", "exemplar-vgg19"):
        with tempfile.TemporaryDirectory() as folder:
            source = name
            if name != "exemplar-nano":
                checkpoint = importlib.import_module(f"{package}.model_defs.checkpoint")
                source = Path(folder, "weights.safetensors")
                network = registry.build("exemplar", exemplar.PRESETS[name])
                info = {"architecture": "exemplar", "config": {}}
                source.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
            engine = colorist.load(source, device="cpu")
            frames = torch.rand(options.frames, 540, 960, 1, generator=generator)
            still = torch.rand(540, 960, 3, generator=generator)
            color = partial(engine.colorize, reference=still)
            works = {
                "once": partial(color, frames),
                "each": lambda color=color, frames=frames: [color(frame) for frame in frames],
            }
            seconds = timed(works, max(1, options.repeats // 3))
        middle = {who: statistics.median(v) / options.frames for who, v in seconds.items()}
        results[f"{name}, frames"] = {who: round(value, 3) for who, value in middle.items()}
        print(f"| {name} | {middle['once']:.3f} | {middle['each']:.3f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"results": results, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
