r"""Speed and memory of all models side by side with the official programs, in one run.

    DDCOLOR_PATH=... COLORFORMER_PATH=... XCNET_PATH=... KNOWN_NODE_PATH=... \
        python benchmarks/speed.py --json speed.json
    python benchmarks/speed.py --only networks --repeats 9

Checkouts that are not named are skipped, see `official`. Compared programs have the same random
weights and run in turns; times are medians after a warm-up, with minimum and maximum. The lower
bound of a network is the time of its operations at the rate of a large convolution, or of reading
its weights at the rate of a copy; both rates are measured here. Peak memory and first images are
measured in separate processes. `colorist` sets THP_MEM_ALLOC_ENABLE=1 (huge pages for large tensors
on Linux), so all programs run with it here; --pages 0 turns it off.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import bench

if TYPE_CHECKING:
    import numpy as np
    import torch

PHOTO_SIZE = (2828, 4242)  # 12 megapixels
Work = Callable[[], object]
Results = dict[str, Any]
Part = Callable[[argparse.Namespace, Results], None]


def format_seconds(seconds: list[float]) -> str:
    """Return "median (minimum-maximum)"."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


def summarize(seconds: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum for JSON."""
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "largest": max(seconds),
        "repeats": len(seconds),
    }


def time_work(work: Work, repeats: int) -> list[float]:
    """Return the seconds of each repeat after a warm-up."""
    return bench.interleaved_seconds({"work": work}, repeats)["work"]


# --- Networks ---------------------------------------------------------------------------------


def measure_rates() -> dict[str, float]:
    """Return GFLOP/s of a large convolution and of a matrix product, and GB/s of a copy."""
    import torch
    import torch.nn.functional as F

    x = torch.randn(1, 256, 128, 128).contiguous(memory_format=torch.channels_last)
    weight, a, b = torch.randn(256, 256, 3, 3), torch.randn(4096, 1024), torch.randn(1024, 1024)
    source = torch.randn(2**24)
    target = torch.empty_like(source)
    works = {
        "convolution": lambda: F.conv2d(x, weight, padding=1),
        "product": lambda: a @ b,
        "copy": lambda: target.copy_(source),
    }
    amounts = {
        "convolution": 2 * 9 * 256 * 256 * 128**2,
        "product": 2 * 4096 * 1024 * 1024,
        "copy": 8 * 2**24,
    }
    seconds = bench.interleaved_seconds(works, 7)
    return {name: amounts[name] / min(values) / 1e9 for name, values in seconds.items()}


def networks(options: argparse.Namespace, results: Results) -> None:
    """Time one forward pass of each network and, if available, of the official one."""
    import comfyui_colorist as colorist
    import official
    import torch
    from comfyui_colorist.model_store import paths
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    rates = measure_rates()
    results["rates"] = rates
    print(
        f"rate: {rates['convolution']:.0f} GFLOP/s convolution, {rates['product']:.0f} product, "
        f"{rates['copy']:.0f} GB/s copy\n"
    )
    bench.print_table(
        ["network", "official, s", "ours, s", "ratio", "difference", "GFLOP", "lower bound, s"]
    )
    generator = torch.Generator().manual_seed(1)

    def random_gray(side: int, channels: int = 3) -> torch.Tensor:
        gray = torch.rand(1, 1, side, side, generator=generator)
        return gray.expand(-1, channels, -1, -1).contiguous()

    def compare(name: str, theirs: Work | None, ours: Work, network: torch.nn.Module) -> None:
        with torch.inference_mode():
            works = {"official": theirs, "ours": ours} if theirs else {"ours": ours}
            seconds = bench.interleaved_seconds(works, options.repeats)
            difference = (theirs() - ours()).abs().max().item() if theirs else None
        # Plain convolutions are counted, because the counter does not support inference mode.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            ours()
        gflop = counter.get_total_flops() / 1e9
        weights = sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9
        bound = max(gflop / rates["convolution"], weights / rates["copy"])
        row = {program: summarize(values) for program, values in seconds.items()}
        results[name] = {**row, "gflop": gflop, "floor": bound, "difference": difference}
        official_cell = ratio_cell = difference_cell = "-"
        if theirs:
            ratio = row["official"]["seconds"] / row["ours"]["seconds"]
            results[name]["ratio"] = ratio
            official_cell, ratio_cell = format_seconds(seconds["official"]), f"**{ratio:.2f}**"
            difference_cell = f"{difference:.0e}"
        ours_cell = format_seconds(seconds["ours"])
        bench.print_row(
            [name, official_cell, ours_cell, ratio_cell, difference_cell]
            + [f"{gflop:.1f}", f"{bound:.3f}"]
        )

    for size in ("tiny", "large"):
        theirs = official.ddcolor(size, 512)
        if theirs is not None:
            ours, x = official.ours(theirs), random_gray(512)
            compare(f"DDColor {size}, 512", lambda: theirs(x), lambda: ours(x), ours)  # noqa: B023
    theirs = official.colorformer(256)
    if theirs is not None:
        ours, x = official.ours(theirs), random_gray(256)
        compare("ColorFormer, 256", lambda: theirs(x), lambda: ours(x), ours)
    for name in ("xcnet", "xcnet_no_pos"):
        theirs = official.xcnet(name)
        if theirs is not None:
            ours = official.ours(theirs, "model_state_dict")
            x, reference = 2 * random_gray(224) - 1, 2 * torch.rand(1, 3, 224, 224) - 1

            def predict(ours=ours, x=x, reference=reference) -> torch.Tensor:
                encoded = ours.encode_references([reference], x.shape[2:])
                return ours.predict(x, encoded).ab / 110

            compare(f"{name}, 224", lambda: theirs(x, reference)[0], predict, ours)  # noqa: B023
    for name in sorted(paths.bundled_models()):
        network = colorist.load_model(name).requires_grad_(False)
        role = colorist.load(name, device="cpu").spec.role
        side = {"exemplar": 224, "pointhint": 224}.get(role, 512 if "ddcolor" in name else 256)
        x = random_gray(side, 4 if role == "pointhint" else 3)

        def forward(network=network, x=x, role=role) -> torch.Tensor:
            if role == "exemplar":
                return network.predict(x, network.encode_references([x], x.shape[2:])).ab
            return network(x)

        compare(f"{name}, {side}", None, forward, network)


# --- From photo to photo ------------------------------------------------------------------------


def load_known_node(checkpoint: Path) -> "Callable[[torch.Tensor], torch.Tensor] | None":
    """Return the known ComfyUI node, IMAGE to IMAGE at 512; None without its checkout or cv2."""
    import official
    import torch

    checkout = official.checkout_path("KNOWN_NODE_PATH")
    if checkout is None:
        return None
    management = ModuleType("comfy.model_management")
    management.get_torch_device = lambda: torch.device("cpu")
    host, hub = ModuleType("comfy"), ModuleType("huggingface_hub")
    host.model_management, hub.snapshot_download = management, None
    sys.modules |= {"comfy": host, "comfy.model_management": management, "huggingface_hub": hub}
    official.install_stand_ins()
    official.bare_package("known_node", checkout)
    try:
        node = importlib.import_module("known_node.nodes").DDColor_Colorize()
    except ImportError as error:
        print(f"known node skipped: {error}")
        return None
    sys.modules["known_node.nodes"].script_directory = str(checkpoint.parents[1])
    return lambda image: node.process(image, 512, checkpoint.name)[0]


def load_official_pipeline(checkpoint: Path) -> "Callable[[np.ndarray], np.ndarray] | None":
    """Return the official script, 8-bit photo to 8-bit photo; None without checkout or cv2."""
    import official

    checkout = official.checkout_path("DDCOLOR_PATH")
    if checkout is None:
        return None
    with official.imported_from(checkout):
        official.register_basicsr(checkout)
        try:
            program = importlib.import_module("ddcolor.pipeline")
        except ImportError as error:
            print(f"official pipeline skipped: {error}")
            return None
        network = importlib.import_module("ddcolor.model").DDColor
    size = "large" if checkpoint.stat().st_size > 5e8 else "tiny"
    model = program.build_ddcolor_model(
        network, model_path=str(checkpoint), input_size=512, model_size=size
    )
    return program.ColorizationPipeline(model, input_size=512).process


def pipelines(options: argparse.Namespace, results: Results) -> None:
    """Time a 12-megapixel photo through our pipeline, the official script and the known node."""
    import comfyui_colorist as colorist
    import official
    import torch

    if official.checkout_path("DDCOLOR_PATH") is None:
        print("skipped: set DDCOLOR_PATH to compare with the official program")
        return
    photo = bench.gray_image(*PHOTO_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(Path(folder), "tiny")
        colorizer = colorist.load(checkpoint, device="cpu")
        network, small = colorizer.device_manager.acquire(0), torch.rand(1, 3, 512, 512)
        works: dict[str, Work] = {
            "bare forward, 512": lambda: network(small),
            "ours": lambda: colorizer.colorize(photo[None]),
        }
        if script := load_official_pipeline(checkpoint):
            levels = (255 * photo).round().to(torch.uint8).numpy()
            works["official script"] = lambda: script(levels)
        if node := load_known_node(checkpoint):
            works["known node"] = lambda: node(photo[None])
        with torch.inference_mode():
            seconds = bench.interleaved_seconds(works, options.repeats)
    print()
    bench.print_table(["12 megapixels, DDColor tiny at 512", "seconds", "ours is faster by"])
    ours = statistics.median(seconds["ours"])
    for name, values in seconds.items():
        results[f"path, {name}"] = summarize(values)
        ratio = statistics.median(values) / ours
        bench.print_row([name, format_seconds(values), f"{ratio:.2f}"])


def save_checkpoint(folder: Path, size: str) -> Path:
    """Save the official network with random weights in its published form."""
    import official
    import torch

    folder = folder / "checkpoints"  # expected by the known node
    folder.mkdir(exist_ok=True)
    file = folder / {"tiny": "ddcolor_paper_tiny.pth", "large": "ddcolor_modelscope.pth"}[size]
    torch.save({"params": official.ddcolor(size, 512).state_dict()}, file)
    return file


# --- From checkpoint to first image -------------------------------------------------------------


def first_image(options: argparse.Namespace, results: Results) -> None:
    """Measure seconds and peak memory from a checkpoint to the first image, in new processes."""
    import official

    if official.checkout_path("DDCOLOR_PATH") is None:
        print("skipped: set DDCOLOR_PATH to compare with the official program")
        return
    print()
    bench.print_table(
        ["checkpoint to first image", "official, s", "ours, s", "ratio", "official, MiB", "ours"]
    )
    with tempfile.TemporaryDirectory() as folder:
        for size, shape in (("tiny", PHOTO_SIZE), ("large", PHOTO_SIZE), ("tiny", (768, 1024))):
            checkpoint = save_checkpoint(Path(folder), size)
            runs: dict[str, list[dict[str, float]]] = {"official": [], "ours": []}
            for _ in range(max(3, options.repeats // 3)):
                for program, measured in runs.items():
                    arguments = ["--one", program, checkpoint, *shape]
                    measured.append(bench.run_in_process(__file__, arguments))
            name = f"{size}, {shape[0] * shape[1] / 1e6:.1f} MP"
            seconds, peaks = (
                {program: statistics.median(r[key] for r in runs[program]) for program in runs}
                for key in ("seconds", "peak_mib")
            )
            results[f"first, {name}"] = {"seconds": seconds, "peak_mib": peaks}
            bench.print_row(
                [
                    *(name, f"{seconds['official']:.2f}", f"{seconds['ours']:.2f}"),
                    f"**{seconds['ours'] / seconds['official']:.0%}**",
                    f"{peaks['official']:.0f}",
                    f"{peaks['ours']:.0f} (**{peaks['ours'] / peaks['official']:.0%}**)",
                ]
            )


def measure_first_image(
    program: str, checkpoint: Path, height: int, width: int
) -> dict[str, float]:
    """Measure the first image of one program in this process, imports beside torch included."""
    import torch

    levels = (255 * bench.gray_image(height, width)).round().to(torch.uint8).numpy()
    before = bench.resident_bytes()
    start = time.perf_counter()
    if program == "official":
        load_official_pipeline(checkpoint)(levels)
    else:
        import comfyui_colorist as colorist

        colorizer = colorist.load(checkpoint, device="cpu")
        rgb = torch.from_numpy(levels).float().div_(255)
        with torch.inference_mode():
            colorizer.colorize(rgb).mul_(255).round_().to(torch.uint8)
    return {
        "seconds": time.perf_counter() - start,
        "peak_mib": (bench.peak_bytes() - before) / 2**20,
    }


# --- Parts of the pipeline ------------------------------------------------------------------------


def upsampling(options: argparse.Namespace, results: Results) -> None:
    """Time chroma upsampling from a working image of 512 to the size of a photo."""
    import torch
    from comfyui_colorist.ops import chroma_upsampling

    print()
    bench.print_table(["chroma upsampling, one photo", "12 MP, s", "48 MP, s"])
    for method in chroma_upsampling.METHODS:
        cells = []
        for height, width in (PHOTO_SIZE, (2 * PHOTO_SIZE[0], 2 * PHOTO_SIZE[1])):
            ab, L, full_L = (
                torch.rand(1, channels, *size) * 50
                for channels, size in ((2, (418, 627)), (1, (418, 627)), (1, (height, width)))
            )

            def upsample(ab=ab, L=L, full_L=full_L, method=method) -> None:
                upsampler = chroma_upsampling.Upsampler(ab, L, full_L.shape[2:], method)
                for top in range(0, full_L.shape[2], 256):
                    bottom = min(top + 256, full_L.shape[2])
                    upsampler.rows(top, bottom, full_L[:, :, top:bottom])

            with torch.inference_mode():
                seconds = time_work(upsample, max(3, options.repeats // 3))
            results[f"upsampling, {method}, {height * width / 1e6:.0f} MP"] = summarize(seconds)
            cells.append(format_seconds(seconds))
        bench.print_row([method, *cells])


def color_memory(options: argparse.Namespace, results: Results) -> None:
    """Time building a color memory of synthetic images with the bundled ColorFormer."""
    import comfyui_colorist as colorist
    import torch
    from comfyui_colorist.pipeline.color_memory import builder

    colorizer = colorist.load("colorformer-nano", device="cpu")
    generator = torch.Generator().manual_seed(0)
    photos = [
        bench.gray_image(256, 256) * torch.rand(3, generator=generator)
        for _ in range(options.photos)
    ]
    try:
        seconds = time_work(lambda: builder.build_memory(colorizer, photos, entries=64), 1)
    except RuntimeError as error:
        print(f"color memory skipped: {error}")
        return
    per_photo = 1000 * statistics.median(seconds) / len(photos)
    results["memory builder"] = summarize(seconds) | {"photos": len(photos)}
    print(f"\ncolor memory: {per_photo:.1f} ms per photo ({len(photos)} of 256x256, 64 entries)")


def growth(options: argparse.Namespace, results: Results) -> None:
    """Time photos of growing size and batches of growing length."""
    import comfyui_colorist as colorist
    import torch

    colorizer = colorist.load("ddcolor-nano", device="cpu")
    print()
    bench.print_table(["ddcolor-nano", "seconds", "beside the network, per megapixel"])
    with torch.inference_mode():
        smallest = None
        for megapixels in (1, 3, 12, 48):
            scale = (megapixels / 12) ** 0.5
            photo = bench.gray_image(round(PHOTO_SIZE[0] * scale), round(PHOTO_SIZE[1] * scale))
            seconds = time_work(lambda photo=photo: colorizer.colorize(photo), 3)
            median = statistics.median(seconds)
            smallest = median if smallest is None else smallest
            results[f"growth, {megapixels} MP"] = summarize(seconds)
            extra = "" if megapixels == 1 else f"{(median - smallest) / (megapixels - 1):.3f}"
            bench.print_row([f"{megapixels} megapixels", format_seconds(seconds), extra])
        frame = bench.gray_image(540, 960)[None]
        for count in (1, 4, 16):
            frames = frame.expand(count, -1, -1, -1).contiguous()
            seconds = time_work(lambda frames=frames: colorizer.colorize(frames), 3)
            results[f"growth, {count} frames"] = summarize(seconds)
            per_frame = f"{statistics.median(seconds) / count:.3f} per frame"
            bench.print_row([f"{count} frames of 960x540", format_seconds(seconds), per_frame])


def reference(options: argparse.Namespace, results: Results) -> None:
    """Time frames with one reference, encoded once by `colorize`, and once per frame."""
    import comfyui_colorist as colorist
    import torch

    colorizer = colorist.load("exemplar-nano", device="cpu")
    frames = bench.gray_image(540, 960)[None].repeat(8, 1, 1, 1)
    image = torch.rand(540, 960, 3)
    works: dict[str, Work] = {
        "once": lambda: colorizer.colorize(frames, reference=image),
        "for each frame": lambda: [colorizer.colorize(f, reference=image) for f in frames],
    }
    print()
    bench.print_table(["exemplar-nano, a frame of 960x540, one reference", "seconds"])
    with torch.inference_mode():
        for name, seconds in bench.interleaved_seconds(works, 3).items():
            per_frame = [s / len(frames) for s in seconds]
            results[f"reference read {name}"] = summarize(per_frame)
            bench.print_row([f"encoded {name}", format_seconds(per_frame)])


PARTS: dict[str, Part] = {  # values of --only
    "networks": networks,
    "path": pipelines,
    "first": first_image,
    "upsampling": upsampling,
    "memory": color_memory,
    "growth": growth,
    "reference": reference,
}


def main() -> None:
    """Print the tables."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--photos", type=int, default=64, help="photos of the color memory")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pages", choices=("0", "1"), default="1", help="THP_MEM_ALLOC_ENABLE")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        program, checkpoint, height, width = options.one
        result = measure_first_image(program, Path(checkpoint), int(height), int(width))
        print(json.dumps(result))
        return
    os.environ["THP_MEM_ALLOC_ENABLE"] = options.pages
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    results: Results = {
        "commit": bench.commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "pages": options.pages,
    }
    print(", ".join(f"{name} {value}" for name, value in results.items()), "\n")
    for name in options.only:
        PARTS[name](options, results)
    bench.write_json(options.json, results)


def processor() -> str:
    """Return the name of the processor, as far as the system reports it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
