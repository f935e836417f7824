"""Time of each stage of a live hint preview, from hints to PNG, without host and browser.

    python benchmarks/hint_preview.py --photo photo.jpg --model pointhint-nano --base ddcolor-nano

These stages run for each move of a hint point on the canvas of Colorize by Point Hints;
hint_latency.mjs measures the transfer to the browser as well. Milliseconds, median of the repeats.
"""

import io
import statistics
import time
from pathlib import Path

import bench

STAGES = ["prior", "network", "finish", "PNG", "total"]
WARM_UP = 2  # runs that are not counted


def main() -> None:
    """Print a row for each number of hints."""
    parser = bench.argument_parser(__doc__, json_report=False)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--model", default="pointhint-nano")
    parser.add_argument("--base", help="automatic model whose colors are corrected")
    parser.add_argument("--hints", type=int, nargs="+", default=[1, 10, 100, 500])
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    import comfyui_colorist as colorist
    import numpy as np
    import torch
    from comfyui_colorist.media import image_io
    from comfyui_colorist.pipeline import by_hints, postprocess
    from comfyui_colorist.pipeline.hints.schema import Hint
    from PIL import Image

    colorizer = colorist.load(options.model)
    base = colorist.load(options.base) if options.base else None
    start = time.perf_counter()
    prepared = colorizer.prepare(
        torch.from_numpy(image_io.read_image(options.photo).pixels), base=base
    )
    preparation = time.perf_counter() - start
    height, width = prepared.rgb.shape[:2]
    print(
        f"preview {width}x{height}, network {prepared.L.shape[3]}x{prepared.L.shape[2]}, "
        f"{torch.get_num_threads()} threads; prepared once in {1000 * preparation:.0f} ms\n"
    )
    bench.print_table(["hints", *STAGES])
    rng = np.random.default_rng(0)
    rgb = prepared.rgb.movedim(-1, 0)[None]
    finish = postprocess.Finish()
    for count in options.hints:
        points = [Hint(*rng.random(2).tolist(), "#a05030") for _ in range(count)]
        rows = []
        for _ in range(options.repeats + WARM_UP):
            times = [time.perf_counter()]
            with torch.inference_mode():
                channels = by_hints.encode_hints(
                    prepared.L,
                    points,
                    prepared.base_ab,
                    prior=colorizer.spec.prior,
                    field=prepared.field,
                )
                times.append(time.perf_counter())
                network = colorizer.device_manager.acquire(0)
                ab = network(by_hints.network_input(prepared.L, *channels)).float()
                times.append(time.perf_counter())
                out = torch.empty_like(rgb)
                postprocess.apply_finish(rgb, ab, prepared.L, finish, out, prepared.mask)
                times.append(time.perf_counter())
            levels = (out[0].movedim(0, -1) * 255).round().byte().numpy()
            Image.fromarray(levels).save(io.BytesIO(), "PNG", compress_level=1)
            times.append(time.perf_counter())
            rows.append([*np.diff(times), times[-1] - times[0]])
        medians = [statistics.median(column) for column in zip(*rows[WARM_UP:], strict=True)]
        bench.print_row([count, *(f"{1000 * seconds:.0f}" for seconds in medians)])


if __name__ == "__main__":
    main()
