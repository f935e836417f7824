"""Results on photos that are not trained on: a contact sheet and scores."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...metrics import image as image_metrics
from ...model_defs.spec import Spec
from ...ops import color
from ...pipeline import loader
from ...pipeline.automatic import Colorizer
from ..data.photos import Photos
from ..evaluation.contact_sheet import contact_sheet, save_sheet
from .logger import TrainingLogger
from .state import disk_full_as_exit

SIDE = 256  # shorter side of the samples in pixels
MAX_ROWS = 8

# Colorizes a sample: photo (1, 3, H, W) in 0..1, its index among the samples -> images of its row
# from left to right, by column. RESULT and PHOTO are among the columns.
ColorizeSample = Callable[[Tensor, int], dict[str, Tensor]]
GRAY, RESULT, PHOTO = "gray", "result", "photo"


def sample_images(photos: Photos) -> Iterator[Tensor]:
    """Yield the usable photos as (1, 3, H, W) in 0..1 with a shorter side of SIDE."""
    for index in range(len(photos)):
        image = photos.load_usable(index, SIDE)
        if image is not None:
            scale = SIDE / min(image.size)
            width, height = (max(1, round(scale * length)) for length in image.size)
            pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
            yield torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


def automatic_samples(network: nn.Module, spec: Spec) -> ColorizeSample:
    """Return the samples of an automatic network: gray, result, photo."""
    colorizer = loader.require_role(loader.wrap(network, spec), Colorizer)

    def colorize(true: Tensor, _: int) -> dict[str, Tensor]:
        gray = color.gray_rgb(color.lightness(true))
        result = colorizer.colorize(gray.movedim(1, -1)).movedim(-1, 1)
        return {GRAY: gray, RESULT: result, PHOTO: true}

    return colorize


def log_samples(
    photos: Photos, colorize: ColorizeSample, logger: TrainingLogger, step: int
) -> None:
    """Log the scores of all photos, and save a sheet of the first: `OUT/samples/STEP.jpg`.

    Raises:
        SystemExit: the network returns colors that are not finite, or the disk is full.
    """
    psnr, colorfulness, rows = [], [], []
    for index, true in enumerate(sample_images(photos)):
        try:
            row = colorize(true, index)
        except ValueError as error:
            raise SystemExit(
                f"step {step}: the network no longer colors photos ({error}) It is not saved; the "
                "previous save is kept. Start again with the same --out and a smaller "
                "--learning-rate, or --clip 1."
            ) from error
        psnr.append(image_metrics.psnr(row[RESULT], true).item())
        colorfulness.append(image_metrics.colorfulness(row[RESULT]).item())
        if len(rows) < MAX_ROWS:
            rows.append(row)
    if not rows or logger.tensorboard is None:
        return
    captions = [
        [f"{score:.1f} dB" if name == RESULT else "" for name in row]
        for row, score in zip(rows, psnr, strict=False)
    ]
    images = [list(row.values()) for row in rows]
    sheet = contact_sheet(images, list(rows[0]), captions, cell=SIDE)
    scores = {"held_out_psnr": psnr, "held_out_colorfulness": colorfulness}
    means = {name: round(sum(values) / len(values), 3) for name, values in scores.items()}
    logger.log(means | {"step": step})
    logger.tensorboard.add_image("held out", np.asarray(sheet), step, dataformats="HWC")
    file = logger.out / "samples" / f"{step:07d}.jpg"
    with disk_full_as_exit(file, step):
        save_sheet(sheet, file)
