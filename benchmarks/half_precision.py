"""Effect of bfloat16 and float16 on the colors of a network.

    python benchmarks/half_precision.py --photos DIR --models ddcolor-nano exemplar-nano --limit 12

Reports the mean and largest distance in ab from the float32 result over the first photos of a
folder. Exemplar networks use the next photo as reference and report the largest change of their
confidence. Point-hint networks get ten hint points in the colors of the photo.
"""

from pathlib import Path
from typing import Any

import bench


def main() -> None:
    """Print a row for each network and dtype."""
    parser = bench.argument_parser(__doc__, json_report=False)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["ddcolor-nano", "exemplar-nano"])
    parser.add_argument("--limit", type=int, default=12)
    options = parser.parse_args()
    import comfyui_colorist as colorist
    import numpy as np
    import torch
    from comfyui_colorist.media import image_io
    from comfyui_colorist.ops import color
    from torch import Tensor

    paths = bench.list_photos(options.photos, options.limit)
    photos = [torch.from_numpy(image_io.read_image(p).pixels[..., :3].copy()) for p in paths]

    def hints_of(photo: Tensor) -> list[dict[str, Any]]:
        hints = []
        for x, y in np.random.default_rng(0).random((10, 2)).tolist():
            rgb = photo[int(y * photo.shape[0]), int(x * photo.shape[1])]
            code = "".join(f"{level:02x}" for level in (255 * rgb).round().int().tolist())
            hints.append({"x": x, "y": y, "color": f"#{code}"})
        return hints

    def results(model: str, dtype: str) -> list[tuple[Tensor, Tensor]]:
        """Return ab and confidence of each photo."""
        colorizer = colorist.load(model, device="cpu", dtype=dtype)
        results = []
        for photo, next_photo in zip(photos, [*photos[1:], photos[0]], strict=True):
            confidence = torch.zeros(1)
            if colorizer.spec.role == "exemplar":
                rgb, confidence = colorizer.colorize_with_confidence(photo, reference=next_photo)
            elif colorizer.spec.role == "pointhint":
                rgb = colorizer.colorize(photo, hints=hints_of(photo))
            else:
                rgb = colorizer.colorize(photo)
            results.append((color.rgb_to_lab(rgb.movedim(-1, 0)[None])[:, 1:], confidence))
        return results

    bench.print_table(["network", "dtype", "mean", "largest", "confidence"])
    for model in options.models:
        exact = results(model, "float32")
        for dtype in ("bfloat16", "float16"):
            pairs = list(zip(exact, results(model, dtype), strict=True))
            distances = [(ab - half_ab).norm(dim=1) for (ab, _), (half_ab, _) in pairs]
            changes = [(sure - half_sure).abs().max().item() for (_, sure), (_, half_sure) in pairs]
            mean = sum(x.mean().item() for x in distances) / len(distances)
            largest = max(x.max().item() for x in distances)
            bench.print_row([model, dtype, f"{mean:.3f}", f"{largest:.2f}", f"{max(changes):.3f}"])


if __name__ == "__main__":
    main()
