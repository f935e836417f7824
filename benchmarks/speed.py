"""Speed and memory of all engines, side by side with the official programs, in one run.

    DDCOLOR_PATH=... COLORFORMER_PATH=... XCNET_PATH=... KNOWN_NODE_PATH=... \\
        python benchmarks/speed.py --json speed.json
    python benchmarks/speed.py --only networks --repeats 9

Checkouts that are not named are left out, see `official`. Programs that are compared have the same
random weights and take turns; times are medians after a warm-up, with the least and the largest.
Floors: the network's operations at the rate of a large convolution (`rate`), and the bytes of its
weights at the rate of a copy, both measured here. Peaks and first pictures come from processes of
their own. `colorist` sets THP_MEM_ALLOC_ENABLE=1, large pages for large
tensors on Linux, and so does this for all programs alike; --pages 0 does without.
"""

import argparse
import importlib
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from large_photo import ROOT, commit, peak_bytes, resident_bytes

PARTS = ("networks", "path", "first", "upsampling", "memory", "growth", "reference")
PHOTO = (2828, 4242)  # 12 megapixels
Work = Callable[[], object]


def timed(works: dict[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work, in turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def told(seconds: list[float]) -> str:
    """Median (least-largest)."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


def numbers(seconds: list[float]) -> dict:
    """The same, for JSON."""
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "largest": max(seconds),
        "repeats": len(seconds),
    }


def synthetic(height: int, width: int) -> "torch.Tensor":  # noqa: F821 - torch comes later
    """A grey photo (H, W, 3) in 0..1 with edges and shades."""
    import torch

    rows = torch.linspace(0, 1, height)[:, None, None]
    columns = torch.linspace(0, 20, width)[None, :, None].sin()
    return (0.5 + 0.3 * rows * columns).expand(-1, -1, 3).contiguous()


# --- Networks ---------------------------------------------------------------------------------


def rates() -> dict[str, float]:
    """What this machine does: GFLOP/s of a large convolution and of a product, GB/s of a copy."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(1, 256, 128, 128).contiguous(memory_format=torch.channels_last)
    weight, a, b = torch.randn(256, 256, 3, 3), torch.randn(4096, 1024), torch.randn(1024, 1024)
    large = torch.randn(2**24)
    other = torch.empty_like(large)
    works = {
        "convolution": lambda: F.conv2d(x, weight, padding=1),
        "product": lambda: a @ b,
        "copy": lambda: other.copy_(large),
    }
    amount = {
        "convolution": 2 * 9 * 256 * 256 * 128**2,
        "product": 2 * 4096 * 1024 * 1024,
        "copy": 8 * 2**24,
    }
    return {name: amount[name] / min(s) / 1e9 for name, s in timed(works, 7).items()}


def networks(options: argparse.Namespace, results: dict) -> None:
    """One forward pass of each network, beside the official one where its checkout is named."""
    import official
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    package = importlib.import_module("comfyui_colorist")
    rate = rates()
    results["rates"] = rate
    print(
        f"rate: {rate['convolution']:.0f} GFLOP/s convolution, {rate['product']:.0f} product, "
        f"{rate['copy']:.0f} GB/s copy\n"
    )
    print("| network | official, s | ours, s | ratio | difference | GFLOP | floor, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    generator = torch.Generator().manual_seed(1)

    def picture(side: int, channels: int = 3) -> torch.Tensor:
        gray = torch.rand(1, 1, side, side, generator=generator)
        return gray.expand(-1, channels, -1, -1).contiguous()

    def row(name: str, theirs: Work | None, ours: Work, network: torch.nn.Module) -> None:
        with torch.inference_mode():
            works = {"official": theirs, "ours": ours} if theirs else {"ours": ours}
            seconds = timed(works, options.repeats)
            apart = (theirs() - ours()).abs().max().item() if theirs else None
        # Counted of the plain convolutions: inference mode would confuse the counter.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            ours()
        gflop = counter.get_total_flops() / 1e9
        weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9
        floor = max(gflop / rate["convolution"], weights / rate["copy"])
        found = {who: numbers(s) for who, s in seconds.items()}
        results[name] = {**found, "gflop": gflop, "floor": floor, "difference": apart}
        ratio = "-"
        if theirs:
            times = found["official"]["seconds"] / found["ours"]["seconds"]
            results[name]["ratio"] = times
            ratio = f"**{times:.2f}**"
        first = told(seconds["official"]) if theirs else "-"
        print(
            f"| {name} | {first} | {told(seconds['ours'])} | {ratio} | "
            f"{'-' if apart is None else f'{apart:.0e}'} | {gflop:.1f} | {floor:.3f} |",
            flush=True,
        )

    for size in ("tiny", "large"):
        theirs = official.ddcolor(size, 512)
        if theirs is not None:
            ours, x = official.ours(theirs), picture(512)
            row(f"DDColor {size}, 512", lambda: theirs(x), lambda: ours(x), ours)  # noqa: B023
    theirs = official.colorformer(256)
    if theirs is not None:
        ours, x = official.ours(theirs), picture(256)
        row("ColorFormer, 256", lambda: theirs(x), lambda: ours(x), ours)
    for name in ("xcnet", "xcnet_no_pos"):
        theirs = official.xcnet(name)
        if theirs is not None:
            ours = official.ours(theirs, "model_state_dict")
            x, reference = 2 * picture(224) - 1, 2 * torch.rand(1, 3, 224, 224) - 1

            def pair(ours=ours, x=x, reference=reference) -> torch.Tensor:
                return ours.answer(x, ours.read([reference], x.shape[2:])).ab / 110

            row(f"{name}, 224", lambda: theirs(x, reference)[0], pair, ours)  # noqa: B023
    for name in sorted(importlib.import_module("comfyui_colorist.model_store.paths").boxed()):
        network = package.load_model(name).requires_grad_(False)
        role = package.load(name, device="cpu").spec.role
        side = {"exemplar": 224, "pointhint": 224}.get(role, 512 if "ddcolor" in name else 256)
        x = picture(side, 4 if role == "pointhint" else 3)
        work = {
            "exemplar": lambda: network.answer(x, network.read([x], x.shape[2:])).ab,  # noqa: B023
        }.get(role, lambda: network(x))  # noqa: B023
        row(f"{name}, {side}", None, work, network)


# --- From photo to photo ------------------------------------------------------------------------


def known_node(checkpoint: Path) -> Callable | None:
    """The known ComfyUI node's way from IMAGE to IMAGE at 512; None without its checkout or cv2."""
    import official

    checkout = official.path_of("KNOWN_NODE_PATH")
    if checkout is None:
        return None
    from types import ModuleType

    import torch

    management = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    host, hub = ModuleType("comfy"), ModuleType("huggingface_hub")
    host.model_management, hub.snapshot_download = management, None
    sys.modules |= {"comfy": host, "comfy.model_management": management, "huggingface_hub": hub}
    official.stand_ins()
    official.package("known_node", checkout)
    try:
        node = importlib.import_module("known_node.nodes").DDColor_Colorize()
    except ImportError as error:
        print(f"known node left out: {error}")
        return None
    sys.modules["known_node.nodes"].script_directory = str(checkpoint.parents[1])
    return lambda image: node.process(image, 512, checkpoint.name)[0]


def official_pipeline(checkpoint: Path) -> Callable | None:
    """The official script's way from 8-bit photo to 8-bit photo; None without checkout or cv2."""
    import official

    checkout = official.path_of("DDCOLOR_PATH")
    if checkout is None:
        return None
    with official.imported_from(checkout):
        official.framework(checkout)
        try:
            program = importlib.import_module("ddcolor.pipeline")
        except ImportError as error:
            print(f"official pipeline left out: {error}")
            return None
        network = importlib.import_module("ddcolor.model").DDColor
    size = "large" if checkpoint.stat().st_size > 5e8 else "tiny"
    model = program.build_ddcolor_model(
        network, model_path=str(checkpoint), input_size=512, model_size=size
    )
    return program.ColorizationPipeline(model, input_size=512).process


def path(options: argparse.Namespace, results: dict) -> None:
    """A 12-megapixel photo through the node's pipeline, the official script and the known node."""
    import official
    import torch

    if official.path_of("DDCOLOR_PATH") is None:
        print("without DDCOLOR_PATH: nothing to compare")
        return
    photo = synthetic(*PHOTO)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = saved(Path(folder), "tiny")
        engine = importlib.import_module("comfyui_colorist").load(checkpoint, device="cpu")
        network, small = engine.placement.acquire(0), torch.rand(1, 3, 512, 512)
        works: dict[str, Work] = {
            "bare forward, 512": lambda: network(small),
            "ours": lambda: engine.colorize(photo[None]),
        }
        if script := official_pipeline(checkpoint):
            bytes_ = (255 * photo).round().to(torch.uint8).numpy()
            works["official script"] = lambda: script(bytes_)
        if node := known_node(checkpoint):
            works["known node"] = lambda: node(photo[None])
        with torch.inference_mode():
            seconds = timed(works, options.repeats)
    print("\n| 12 megapixels, DDColor tiny at 512 | seconds | ours is faster by |")
    print("| --- | --- | --- |")
    ours = statistics.median(seconds["ours"])
    for name, taken in seconds.items():
        results[f"path, {name}"] = numbers(taken)
        print(f"| {name} | {told(taken)} | {statistics.median(taken) / ours:.2f} |", flush=True)


def saved(folder: Path, size: str) -> Path:
    """A checkpoint of the official network with random weights, as its authors publish them."""
    import official
    import torch

    folder = folder / "checkpoints"  # where the known node looks
    folder.mkdir(exist_ok=True)
    file = folder / {"tiny": "ddcolor_paper_tiny.pth", "large": "ddcolor_modelscope.pth"}[size]
    torch.save({"params": official.ddcolor(size, 512).state_dict()}, file)
    return file


# --- From checkpoint to first picture, and the peak on the way ------------------------------------


def first(options: argparse.Namespace, results: dict) -> None:
    """Seconds from a checkpoint to the first picture, and the peak, each in fresh processes."""
    import official

    if official.path_of("DDCOLOR_PATH") is None:
        print("without DDCOLOR_PATH: nothing to compare")
        return
    print("\n| checkpoint to first picture | official, s | ours, s | part | official, MiB | ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for size, shape in (("tiny", PHOTO), ("large", PHOTO), ("tiny", (768, 1024))):
            checkpoint = saved(Path(folder), size)
            runs: dict[str, list[dict]] = {"official": [], "ours": []}
            for _ in range(max(3, options.repeats // 3)):
                for who, made in runs.items():
                    given = ["--one", who, str(checkpoint), str(shape[0]), str(shape[1])]
                    command = [sys.executable, __file__, *given]
                    run = subprocess.run(command, capture_output=True, text=True, check=True)
                    made.append(json.loads(run.stdout.splitlines()[-1]))
            name = f"{size}, {shape[0] * shape[1] / 1e6:.1f} MP"
            seconds = {who: statistics.median(r["seconds"] for r in runs[who]) for who in runs}
            peaks = {who: statistics.median(r["peak_mib"] for r in runs[who]) for who in runs}
            results[f"first, {name}"] = {"seconds": seconds, "peak_mib": peaks}
            print(
                f"| {name} | {seconds['official']:.2f} | {seconds['ours']:.2f} | "
                f"**{seconds['ours'] / seconds['official']:.0%}** | {peaks['official']:.0f} | "
                f"{peaks['ours']:.0f} (**{peaks['ours'] / peaks['official']:.0%}**) |",
                flush=True,
            )


def one(who: str, checkpoint: Path, height: int, width: int) -> dict:
    """One program's first picture in this process; what it imports beside torch counts."""
    import torch

    photo = synthetic(height, width)
    given = (255 * photo).round().to(torch.uint8).numpy()
    del photo
    before = resident_bytes()
    began = time.perf_counter()
    if who == "official":
        official_pipeline(checkpoint)(given)
    else:
        package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
        engine = importlib.import_module(package).load(checkpoint, device="cpu")
        rgb = torch.from_numpy(given).float().div_(255)
        with torch.inference_mode():
            engine.colorize(rgb).mul_(255).round_().to(torch.uint8)
    return {
        "seconds": time.perf_counter() - began,
        "peak_mib": (peak_bytes() - before) / 2**20,
    }


# --- The rest -------------------------------------------------------------------------------------


def upsampling(options: argparse.Namespace, results: dict) -> None:
    """Chroma of a working image of 512 to the size of a photo."""
    import torch

    upsample = importlib.import_module("comfyui_colorist.ops.chroma_upsampling")
    print("\n| chroma upsampling, one photo | 12 MP, s | 48 MP, s |\n| --- | --- | --- |")
    for method in upsample.METHODS:
        cells = []
        for height, width in (PHOTO, (2 * PHOTO[0], 2 * PHOTO[1])):
            ab, small, full = (
                torch.rand(1, n, *size) * 50
                for n, size in ((2, (418, 627)), (1, (418, 627)), (1, (height, width)))
            )

            def work(ab=ab, small=small, full=full, method=method) -> None:
                made = upsample.Upsampler(ab, small, full.shape[2:], method)
                for top in range(0, full.shape[2], 256):
                    bottom = min(top + 256, full.shape[2])
                    made.rows(top, bottom, full[:, :, top:bottom])

            with torch.inference_mode():
                seconds = timed({"": work}, max(3, options.repeats // 3))[""]
            results[f"upsampling, {method}, {height * width / 1e6:.0f} MP"] = numbers(seconds)
            cells.append(told(seconds))
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


def memory(options: argparse.Namespace, results: dict) -> None:
    """A color memory of synthetic pictures, by the boxed ColorFormer."""
    import torch

    builder = importlib.import_module("comfyui_colorist.pipeline.color_memory.builder")
    engine = importlib.import_module("comfyui_colorist").load("colorformer-nano", device="cpu")
    generator = torch.Generator().manual_seed(0)
    photos = [
        synthetic(256, 256) * torch.rand(3, generator=generator) for _ in range(options.photos)
    ]
    try:
        seconds = timed({"": lambda: builder.build(engine, photos, entries=64)}, 1)[""]
    except RuntimeError as error:
        print(f"memory builder left out: {error}")
        return
    each = 1000 * statistics.median(seconds) / len(photos)
    results["memory builder"] = numbers(seconds) | {"photos": len(photos)}
    print(f"\nmemory builder: {each:.1f} ms a photo ({len(photos)} of 256x256, 64 entries)")


def growth(options: argparse.Namespace, results: dict) -> None:
    """Seconds a megapixel and seconds a frame, as photos and batches grow."""
    import torch

    engine = importlib.import_module("comfyui_colorist").load("ddcolor-nano", device="cpu")
    print("\n| ddcolor-nano | seconds | of them beside the network, a megapixel |")
    print("| --- | --- | --- |")
    with torch.inference_mode():
        least = None
        for megapixels in (1, 3, 12, 48):
            scale = (megapixels / 12) ** 0.5
            photo = synthetic(round(PHOTO[0] * scale), round(PHOTO[1] * scale))
            seconds = timed({"": lambda: engine.colorize(photo)}, 3)[""]  # noqa: B023
            middle = statistics.median(seconds)
            least = middle if least is None else least
            results[f"growth, {megapixels} MP"] = numbers(seconds)
            more = "" if megapixels == 1 else f"{(middle - least) / (megapixels - 1):.3f}"
            print(f"| {megapixels} megapixels | {told(seconds)} | {more} |", flush=True)
        frames = synthetic(540, 960)[None]
        for count in (1, 4, 16):
            batch = frames.expand(count, -1, -1, -1).contiguous()
            seconds = timed({"": lambda: engine.colorize(batch)}, 3)[""]  # noqa: B023
            results[f"growth, {count} frames"] = numbers(seconds)
            each = statistics.median(seconds) / count
            print(f"| {count} frames of 960x540 | {told(seconds)} | {each:.3f} a frame |")


def reference(options: argparse.Namespace, results: dict) -> None:
    """Frames with one reference: read once for all, as colorize does, and for each."""
    import torch

    engine = importlib.import_module("comfyui_colorist").load("exemplar-nano", device="cpu")
    frames, still = synthetic(540, 960)[None].repeat(8, 1, 1, 1), torch.rand(540, 960, 3)
    works = {
        "once": lambda: engine.colorize(frames, reference=still),
        "for each frame": lambda: [engine.colorize(f, reference=still) for f in frames],
    }
    print("\n| exemplar-nano, a frame of 960x540, one reference | seconds |\n| --- | --- |")
    with torch.inference_mode():
        for name, taken in timed(works, 3).items():
            each = [s / len(frames) for s in taken]
            results[f"reference read {name}"] = numbers(each)
            print(f"| read {name} | {told(each)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photos", type=int, default=64, help="of the color memory")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pages", choices=("0", "1"), default="1", help="THP_MEM_ALLOC_ENABLE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, checkpoint, height, width = options.one
        print(json.dumps(one(who, Path(checkpoint), int(height), int(width))))
        return
    os.environ["THP_MEM_ALLOC_ENABLE"] = options.pages
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict = {
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "pages": options.pages,
    }
    print(", ".join(f"{name} {value}" for name, value in results.items()), "\n")
    for part in options.only:
        globals()[part](options, results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """Its name as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
