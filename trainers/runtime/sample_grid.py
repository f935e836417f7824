"""What a run looks like on photos that it does not train on: a sheet of pictures, and scores."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...metrics import image as image_metrics
from ...ops import color
from ...pipeline.automatic import Colorizer
from ..data.batches import usable
from ..data.photos import Photos
from ..evaluation.contact_sheet import contact_sheet, save
from .logger import Report
from .state import keeping

SIDE = 256  # shorter side of the pictures
SHOWN = 8

# A photo (1, 3, H, W) in 0..1, its number among the pictures -> what there is to see, by name, from
# left to right; RESULT and PHOTO among it.
Color = Callable[[Tensor, int], dict[str, Tensor]]
RESULT, PHOTO = "result", "photo"


def pictures(photos: Photos) -> Iterator[Tensor]:
    """Photos (1, 3, H, W) in 0..1 whose shorter side is SIDE, without those that are grey."""
    for index in range(len(photos)):
        image = usable(photos, index, SIDE)
        if image is not None:
            scale = SIDE / min(image.size)
            size = [max(1, round(scale * length)) for length in image.size]
            pixels = np.array(image.resize(size, Image.Resampling.BICUBIC))
            yield torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


def automatic(colorizer: Colorizer) -> Color:
    """Of networks that need nothing but the grey photo."""

    def colored(true: Tensor, _: int) -> dict[str, Tensor]:
        gray = color.gray_rgb(color.lightness(true))
        made = colorizer.colorize(gray.movedim(1, -1)).movedim(-1, 1)
        return {"grey": gray, RESULT: made, PHOTO: true}

    return colored


def show(photos: Photos, colored: Color, report: Report, out: Path, step: int) -> None:
    """Colour the photos: scores into the report, the first into `OUT/samples/STEP.jpg`.

    Raises:
        SystemExit: the network's colours are no numbers, or a full disk.
    """
    psnr, colorfulness, rows = [], [], []
    for number, true in enumerate(pictures(photos)):
        try:
            row = colored(true, number)
        except ValueError as error:
            raise SystemExit(
                f"step {step}: the network colours no more ({error}) It is not saved; the save "
                "before stays. Start again with the same --out and a smaller --learning-rate, or "
                "--clip 1."
            ) from error
        psnr.append(image_metrics.psnr(row[RESULT], true).item())
        colorfulness.append(image_metrics.colorfulness(row[RESULT]).item())
        if len(rows) < SHOWN:
            rows.append(row)
    if not rows:
        return
    captions = [
        [f"{score:.1f} dB" if name == RESULT else "" for name in row]
        for row, score in zip(rows, psnr, strict=False)
    ]
    names = list(rows[0])
    sheet = contact_sheet([list(row.values()) for row in rows], names, captions, cell=SIDE)
    scores = {"held_out_psnr": psnr, "held_out_colorfulness": colorfulness}
    means = {name: round(sum(values) / len(values), 3) for name, values in scores.items()}
    report.tell(means | {"step": step})
    report.curves.add_image("held out", np.asarray(sheet), step, dataformats="HWC")
    file = out / "samples" / f"{step:07d}.jpg"
    with keeping(file, step):
        save(sheet, file)
