"""What bfloat16 and float16 change in the colours of a network.

    python benchmarks/half_precision.py --photos DIR --models ddcolor-nano exemplar-nano --limit 12

Mean and largest distance in ab from the float32 result, over the first photos of a folder; exemplar
networks take the next photo as reference, and tell how far their confidence moves; point-hint
networks take ten points of the photo's own colours.
"""

import argparse
import importlib
import runpy
from pathlib import Path

import numpy as np
from large_photo import ROOT


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["ddcolor-nano", "exemplar-nano"])
    parser.add_argument("--limit", type=int, default=12)
    options = parser.parse_args()
    package = runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    import torch

    color = importlib.import_module(f"{package}.ops.color")
    files = importlib.import_module(f"{package}.media.image_io")
    load = importlib.import_module(package).load
    paths = sorted(options.photos.glob("*.jpg"))[: options.limit]
    photos = [torch.from_numpy(files.read(path).pixels[..., :3].copy()) for path in paths]

    def hints_of(photo: torch.Tensor) -> list[dict]:
        hints = []
        for x, y in np.random.default_rng(0).random((10, 2)).tolist():
            rgb = photo[int(y * photo.shape[0]), int(x * photo.shape[1])]
            code = "".join(f"{level:02x}" for level in (255 * rgb).round().int().tolist())
            hints.append({"x": x, "y": y, "color": f"#{code}"})
        return hints

    def results(engine: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
        made = []
        for photo, other in zip(photos, [*photos[1:], photos[0]], strict=True):
            sure = torch.zeros(1)
            if engine.spec.role == "exemplar":
                rgb, sure = engine.colorize_with_confidence(photo, reference=other)
            elif engine.spec.role == "pointhint":
                rgb = engine.colorize(photo, hints=hints_of(photo))
            else:
                rgb = engine.colorize(photo)
            made.append((color.rgb_to_lab(rgb.movedim(-1, 0)[None])[:, 1:], sure))
        return made

    print("| network | dtype | mean | largest | confidence |\n| --- | --- | --- | --- | --- |")
    for name in options.models:
        exact = results(load(name, device="cpu"))
        for dtype in ("bfloat16", "float16"):
            pairs = list(zip(exact, results(load(name, device="cpu", dtype=dtype)), strict=True))
            apart = [(one[0] - two[0]).norm(dim=1) for one, two in pairs]
            moved = max((one[1] - two[1]).abs().max().item() for one, two in pairs)
            mean = sum(x.mean().item() for x in apart) / len(apart)
            most = max(x.max().item() for x in apart)
            print(f"| {name} | {dtype} | {mean:.3f} | {most:.2f} | {moved:.3f} |", flush=True)


if __name__ == "__main__":
    main()
