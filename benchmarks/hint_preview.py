"""Where the time of a live preview goes, from hints to a PNG, without host and browser.

    python benchmarks/hint_preview.py --photo photo.jpg --model pointhint-nano --base ddcolor-nano

What the canvas of Colorize by Point Hints asks for while a point moves; the rest of its time is the
way to the browser and back, see hint_latency.mjs. Milliseconds, median of the repeats.
"""

import argparse
import importlib
import io
import runpy
import statistics
import time
from pathlib import Path

import numpy as np
from large_photo import ROOT
from PIL import Image

STEPS = ["guess", "network", "finish", "PNG", "together"]


def main() -> None:
    """Print a line for each number of hints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--model", default="pointhint-nano")
    parser.add_argument("--base", help="automatic network whose colours are corrected")
    parser.add_argument("--hints", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch

    by_hints, hint_schema, image_io, postprocess = (
        importlib.import_module(f"{package}.{name}")
        for name in (
            "pipeline.by_hints",
            "pipeline.hints.schema",
            "media.image_io",
            "pipeline.postprocess",
        )
    )
    load = importlib.import_module(package).load
    engine, base = load(options.model), load(options.base) if options.base else None
    began = time.perf_counter()
    ready = engine.prepare(torch.from_numpy(image_io.read(options.photo).pixels), base=base)
    once = time.perf_counter() - began
    height, width = ready.rgb.shape[:2]
    print(
        f"preview {width}x{height}, network {ready.L.shape[3]}x{ready.L.shape[2]}, "
        f"{torch.get_num_threads()} threads; prepared once in {1000 * once:.0f} ms\n"
    )
    print(f"| hints | {' | '.join(STEPS)} |\n| --- |{' --- |' * len(STEPS)}")
    rng = np.random.default_rng(0)
    shown = ready.rgb.movedim(-1, 0)[None]
    for count in options.hints:
        points = [hint_schema.Hint(*rng.random(2).tolist(), "#a05030") for _ in range(count)]
        rows = []
        for _ in range(options.repeats + 2):
            ends = [time.perf_counter()]
            with torch.inference_mode():
                known = by_hints.spread(
                    ready.L, points, ready.base, prior=engine.spec.prior, field=ready.field
                )
                ends.append(time.perf_counter())
                ab = engine.placement.acquire(0)(by_hints.network_input(ready.L, *known)).float()
                ends.append(time.perf_counter())
                out = torch.empty_like(shown)
                postprocess.apply_finish(shown, ab, ready.L, postprocess.Finish(), out, ready.mask)
                ends.append(time.perf_counter())
            levels = (out[0].movedim(0, -1) * 255).round().byte().numpy()
            Image.fromarray(levels).save(io.BytesIO(), "PNG", compress_level=1)
            ends.append(time.perf_counter())
            rows.append([*np.diff(ends), ends[-1] - ends[0]])
        medians = (1000 * statistics.median(column) for column in zip(*rows[2:], strict=True))
        print(f"| {count} | {' | '.join(f'{m:.0f}' for m in medians)} |", flush=True)


if __name__ == "__main__":
    main()
