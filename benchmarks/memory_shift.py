r"""Effect of a color memory built from one kind of photos on the colors of all results.

    python benchmarks/memory_shift.py --first flowers/ --second forests/ --photos test/ \
        --sheet shift.jpg --json shift.json

Builds one memory from each of two folders and colorizes the test photos with the network's own
memory and with both. The shift is the difference of the mean ab of the results with the first and
the second memory, projected on the difference of the mean ab of the two folders, as a fraction of
it: 0 = the memory has no effect, 1 = the results follow the folders entirely.
"""

import platform
from pathlib import Path

import bench


def main() -> None:
    """Print the table; write the contact sheet and JSON."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--first", type=Path, required=True, help="folder of photos")
    parser.add_argument("--second", type=Path, required=True, help="folder of photos")
    parser.add_argument("--photos", type=Path, required=True, help="folder of test photos")
    parser.add_argument("--model", default="colorformer-nano")
    parser.add_argument("--entries", type=int, default=256)
    parser.add_argument("--limit", type=int, default=100, help="number of test photos")
    parser.add_argument("--sheet", type=Path, help="contact sheet of some test photos")
    options = parser.parse_args()
    import comfyui_colorist as colorist
    import torch
    from comfyui_colorist.ops import color
    from comfyui_colorist.pipeline.color_memory import builder
    from comfyui_colorist.trainers.data.photos import Photos
    from comfyui_colorist.trainers.evaluation.contact_sheet import contact_sheet, save_sheet
    from torch import Tensor

    def mean_ab(rgb: Tensor) -> Tensor:
        """Return mean a and b of an image (1, 3, H, W)."""
        return color.rgb_to_lab(rgb)[0, 1:].flatten(1).mean(1)

    colorizer = colorist.load(options.model)
    colorizers = {"own": colorizer}
    folder_means = []
    for folder in (options.first, options.second):
        images = [bench.to_batch(photo) for photo in Photos([folder])]
        memory = builder.build_memory(
            colorizer, [rgb[0].movedim(0, -1) for rgb in images], entries=options.entries
        )
        colorizers[folder.name] = colorizer.with_memory(memory)
        folder_means.append(torch.stack([mean_ab(rgb) for rgb in images]).mean(0))
        print(f"{folder.name}: {memory.describe()}")
    photos = Photos([options.photos])
    rows: list[list[Tensor]] = []
    means: dict[str, list[Tensor]] = {name: [] for name in colorizers}
    count = min(options.limit, len(photos))
    for i in range(count):
        gray = color.gray_rgb(color.lightness(bench.to_batch(photos[i])))
        results = {
            name: colorizer.colorize(gray.movedim(1, -1)).movedim(-1, 1)
            for name, colorizer in colorizers.items()
        }
        for name, rgb in results.items():
            means[name].append(mean_ab(rgb))
        if i % max(1, count // 12) == 0:
            rows.append([gray, *results.values()])
    own, first, second = (torch.stack(values).mean(0) for values in means.values())
    difference = folder_means[0] - folder_means[1]
    shift = ((first - second) @ difference / (difference @ difference)).item()
    table = {
        f"photos of {options.first.name}": folder_means[0],
        f"photos of {options.second.name}": folder_means[1],
        "results, own memory": own,
        f"results, memory of {options.first.name}": first,
        f"results, memory of {options.second.name}": second,
    }
    print()
    bench.print_table(
        ["", "mean a", "mean b"],
        [[name, f"{a:.2f}", f"{b:.2f}"] for name, (a, b) in table.items()],
    )
    print(f"\nshift: {shift:.2f} ({count} photos)")
    if options.sheet:
        save_sheet(contact_sheet(rows, ["gray", *colorizers]), options.sheet)
    facts = {name: [round(v, 3) for v in ab.tolist()] for name, ab in table.items()}
    facts |= {"moved": round(shift, 3), "photos": count, "model": options.model}
    facts |= {"torch": torch.__version__, "machine": platform.machine(), "commit": bench.commit()}
    bench.write_json(options.json, facts)


if __name__ == "__main__":
    main()
