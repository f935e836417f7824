"""3x3 convolutions on a CPU: plain, and with Winograd's algorithm (`winograd_conv`).

    python benchmarks/convolution.py

Winograd's algorithm needs a quarter of the multiplications. Channels and sizes are those of the
published networks. Times are the minimum of interleaved runs, in milliseconds. Difference is the
root mean square of the difference relative to the standard deviation of the result. Filters are
packed once per size. `chosen` is the method that `Conv3x3` selects.
"""

import os

import bench

SIZES = (  # channels before and after, height, width
    *((259, 259, 256, 256), (512, 256, 224, 224), (256, 256, 224, 224), (256, 64, 224, 224)),
    *((256, 256, 112, 112), (352, 256, 128, 128), (352, 256, 64, 64), (704, 512, 64, 64)),
    *((704, 512, 32, 32), (896, 512, 32, 32), (512, 512, 56, 56), (512, 512, 28, 28)),
    *((256, 256, 56, 56), (128, 128, 112, 112), (64, 64, 224, 224)),
)


def main() -> None:
    """Print a row for each size."""
    parser = bench.argument_parser(__doc__, json_report=False)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import torch
    import torch.nn.functional as F
    from comfyui_colorist.model_defs import winograd_conv

    bench.print_table(
        ["channels", "size", "plain", "Winograd", "ratio", "difference", "packing", "chosen"]
    )
    with torch.inference_mode():
        for before, after, height, width in SIZES:
            x = torch.randn(1, before, height, width)
            x = x.contiguous(memory_format=torch.channels_last)
            conv = winograd_conv.Conv3x3(before, after)
            filters = []
            packing = bench.seconds_of(
                lambda conv=conv, filters=filters, size=(height, width): filters.append(
                    winograd_conv.pack_filters(conv.weight, winograd_conv.strip_tiles(*size))
                )
            )

            def plain(x=x, conv=conv) -> torch.Tensor:
                return F.conv2d(x, conv.weight, conv.bias, padding=1)

            def winograd(x=x, conv=conv, filters=filters) -> torch.Tensor:
                return winograd_conv.convolve([x], filters[0], conv.out_channels, conv.bias)

            seconds = bench.interleaved_seconds(
                {"plain": plain, "winograd": winograd}, options.repeats
            )
            least = {name: min(values) for name, values in seconds.items()}
            expected = plain()
            difference = (expected - winograd()).square().mean().sqrt() / expected.std()
            bench.print_row(
                [
                    *(f"{before} -> {after}", f"{width}x{height}"),
                    *(f"{1e3 * least['plain']:.1f}", f"{1e3 * least['winograd']:.1f}"),
                    f"{least['plain'] / least['winograd']:.2f}",
                    *(f"{difference.item():.0e}", f"{1e3 * packing:.0f}"),
                    "Winograd" if winograd_conv.use_winograd(conv, x) else "plain",
                ]
            )


if __name__ == "__main__":
    main()
