"""3x3 convolutions on a CPU: plain, and with a quarter of the multiplications (`winograd_conv`).

    python benchmarks/convolution.py

Channels and sizes are those of the published networks; times are the least of ten, in turns, in
milliseconds. Distance is the root mean square of the difference, as a part of the result's
deviation; packing happens once for a size. `way` is what `Conv3x3` chooses.
"""

import argparse
import os
import runpy
import time

from large_photo import ROOT

SIZES = (  # channels before and after, height, width
    *((259, 259, 256, 256), (512, 256, 224, 224), (256, 256, 224, 224), (256, 64, 224, 224)),
    *((256, 256, 112, 112), (352, 256, 128, 128), (352, 256, 64, 64), (704, 512, 64, 64)),
    *((704, 512, 32, 32), (896, 512, 32, 32), (512, 512, 56, 56), (512, 512, 28, 28)),
    *((256, 256, 56, 56), (128, 128, 112, 112), (64, 64, 224, 224)),
)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch
    import torch.nn.functional as F
    from comfyui_colorist.model_defs import winograd_conv

    print("| channels | size | plain | packed | ratio | distance | packing | way |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with torch.inference_mode():
        for before, after, height, width in SIZES:
            x = torch.randn(1, before, height, width)
            x = x.contiguous(memory_format=torch.channels_last)
            conv = winograd_conv.Conv3x3(before, after)
            began = time.perf_counter()
            filters = winograd_conv.pack(conv.weight, winograd_conv.strip(height, width))
            packing = time.perf_counter() - began
            works = {
                "plain": lambda x=x, c=conv: F.conv2d(x, c.weight, c.bias, padding=1),
                "packed": lambda x=x, c=conv, f=filters: winograd_conv.convolve(
                    [x], f, c.out_channels, c.bias
                ),
            }
            seconds = dict.fromkeys(works, 1e9)
            for _ in range(options.repeats + 1):
                for name, work in works.items():
                    began = time.perf_counter()
                    work()
                    seconds[name] = min(seconds[name], time.perf_counter() - began)
            plain, packed = (work() for work in works.values())
            distance = ((plain - packed).square().mean().sqrt() / plain.std()).item()
            print(
                f"| {before} -> {after} | {width}x{height} | {1e3 * seconds['plain']:.1f} | "
                f"{1e3 * seconds['packed']:.1f} | {seconds['plain'] / seconds['packed']:.2f} | "
                f"{distance:.0e} | {1e3 * packing:.0f} | "
                f"{'packed' if winograd_conv.pays(conv, x) else 'plain'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
