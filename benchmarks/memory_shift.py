"""How far a color memory built from one kind of photos moves the colours of all results.

    python benchmarks/memory_shift.py --first flowers/ --second forests/ --photos test/ \\
        --sheet shift.jpg --json shift.json

Two memories are built, one from each folder, and the test photos are coloured with the network's
own memory and with both. Moved is how far the mean ab of the results goes from the second to the
first memory, along the way from the mean ab of the second folder to that of the first, as a share
of that way: 0 = the memory changes nothing, 1 = the results follow the folders entirely.
"""

import argparse
import json
import platform
import runpy
from pathlib import Path

from large_photo import ROOT, commit


def main() -> None:
    """Print the table, write sheet and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=Path, required=True, help="folder of photos")
    parser.add_argument("--second", type=Path, required=True, help="folder of photos")
    parser.add_argument("--photos", type=Path, required=True, help="folder of test photos")
    parser.add_argument("--model", default="colorformer-nano")
    parser.add_argument("--entries", type=int, default=256)
    parser.add_argument("--limit", type=int, default=100, help="test photos to use")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import comfyui_colorist as colorist
    import torch
    from comfyui_colorist.ops import color
    from comfyui_colorist.pipeline.color_memory import builder as memory_builder
    from comfyui_colorist.trainers.data.photos import Photos
    from comfyui_colorist.trainers.evaluation.contact_sheet import contact_sheet, save
    from comfyui_colorist.trainers.evaluation.tasks import as_tensor

    engine = colorist.load(options.model)
    engines = {"its own": engine}
    means = {}
    for folder in (options.first, options.second):
        photos = Photos([folder])
        tensors = [as_tensor(photo)[0].movedim(0, -1) for photo in photos]
        memory = memory_builder.build(engine, tensors, entries=options.entries)
        engines[folder.name] = engine.with_memory(memory)
        means[folder.name] = torch.stack([mean_ab(color, p.movedim(-1, 0)[None]) for p in tensors])
        print(f"{folder.name}: {memory.describe()}")
    photos = Photos([options.photos])
    rows, results = [], {name: [] for name in engines}
    count = min(options.limit, len(photos))
    for i in range(count):
        gray = color.gray_rgb(color.lightness(as_tensor(photos[i])))
        colored = {
            name: engine.colorize(gray.movedim(1, -1)).movedim(-1, 1)
            for name, engine in engines.items()
        }
        for name, picture in colored.items():
            results[name].append(mean_ab(color, picture))
        if i % max(1, count // 12) == 0:
            rows.append([gray, *colored.values()])
    own, first, second = (torch.stack(found).mean(0) for found in results.values())
    first_set, second_set = (found.mean(0) for found in means.values())
    way = first_set - second_set
    moved = ((first - second) @ way / (way @ way)).item()
    table = {
        f"photos of {options.first.name}": first_set,
        f"photos of {options.second.name}": second_set,
        "results, its own memory": own,
        f"results, memory of {options.first.name}": first,
        f"results, memory of {options.second.name}": second,
    }
    print("\n| | mean a | mean b |\n| --- | --- | --- |")
    for name, (a, b) in table.items():
        print(f"| {name} | {a:.2f} | {b:.2f} |")
    print(f"\nmoved: {moved:.2f} ({count} photos)")
    if options.sheet:
        save(contact_sheet(rows, ["grey", *engines]), options.sheet)
    if options.json:
        facts = {name: [round(v, 3) for v in ab.tolist()] for name, ab in table.items()}
        facts |= {"moved": round(moved, 3), "photos": count, "model": options.model}
        facts |= {"torch": torch.__version__, "machine": platform.machine(), "commit": commit()}
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def mean_ab(color, rgb):
    """Mean a and b of one picture (1, 3, H, W)."""
    return color.rgb_to_lab(rgb)[0, 1:].flatten(1).mean(1)


if __name__ == "__main__":
    main()
