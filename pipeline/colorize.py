"""Colorize a batch of photos: the three steps that all colorizers share."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from ..model_defs.rendering import Renderer, WorkingImage
from ..ops.resize import Geometry
from ..ops.tensors import Image, as_masks, sanitize, slice_masks
from .batching import run_in_batches
from .loaded_network import LoadedNetwork


class PhotoBatch(NamedTuple):
    """Some photos of a call, as a network's prediction step receives them."""

    indices: slice
    """Positions of the photos in the whole input."""
    rgb: Tensor
    """(b, 3, H, W) sRGB in 0..1 at full size, where the caller has them."""
    working: WorkingImage
    """The photos at working size, before padding."""
    geometry: Geometry


PredictAb = Callable[[PhotoBatch], Iterable[Tensor]]
"""Predict one or more results per photo: each ab (b, 2, h, w) float32 in Lab units."""


def colorize_images(
    network: LoadedNetwork,
    images: Tensor,
    predict_ab: PredictAb,
    *,
    renderer: Renderer,
    mask: Image | None = None,
    resolution: int | None = None,
    progress: Callable[[int], None] | None = None,
    results: int = 1,
    references: int = 0,
) -> Tensor:
    """Color photos in batches: preprocess, predict ab, render.

    Args:
        network: runs in `predict_ab`; determines batch size and messages.
        images: (B, H, W, C) float sRGB in 0..1, C of 1, 3 or 4.
        predict_ab: yields `results` predictions per batch.
        renderer: preprocesses photos and renders results.
        mask: (B or 1, H, W) or (H, W) in 0..1, 1 = color here.
        resolution: square root of the working image's area; None = the network's default.
        progress: called with the number of finished results, of B * results.
        results: number of results per photo, N.
        references: number of reference images that the network attends to.
    Returns:
        (B, N, H', W', C') of the renderer's output shape.
    Raises:
        ValueError: unusable mask or resolution, or the network predicts NaN.
        MemoryError: the results or a single photo do not fit.
    """
    masks = None if mask is None else as_masks(mask, images)
    if masks is not None and not renderer.adjustable:
        raise ValueError(
            "finish is 'published', which reproduces the official program's image; it supports no "
            "mask."
        )
    height, width, channels = images.shape[1:]
    spec, device_manager = network.spec, network.device_manager
    geometry = renderer.geometry(height, width, resolution or spec.resolution, spec.multiple)
    shape = renderer.output_shape(height, width, max(3, channels), geometry)
    out = _allocate_results(network, images, results, shape)

    def colorize_batch(batch: slice) -> None:
        rgb = sanitize(images[batch], network.name).movedim(-1, 1)
        if out.shape[-1] == 4:
            out[batch, ..., 3] = rgb[:, None, 3]
        rgb = rgb.expand(-1, 3, -1, -1) if channels == 1 else rgb[:, :3]
        working = renderer.preprocess(rgb, geometry, device_manager.device)
        predictions = predict_ab(PhotoBatch(batch, rgb, working, geometry))
        for i, ab in enumerate(predictions):
            result = out[batch, i, ..., :3].movedim(-1, 1)
            renderer.render(rgb, working, ab, result, slice_masks(masks, batch))
            if progress:
                progress(batch.start * results + len(rgb) * (i + 1))
            if i + 1 < results:
                device_manager.check_interrupt()

    memory_per_image = network.memory_required(geometry, references=references)
    run_in_batches(
        colorize_batch,
        len(images),
        batch_size=device_manager.max_batch_size(memory_per_image),
        device_manager=device_manager,
        name=network.name,
        single_item_error=(
            f"out of memory on one image of {width}x{height} "
            f"(working size {geometry.padded_width}x{geometry.padded_height}). Lower the "
            "resolution, choose bfloat16, "
            f"{'give fewer references, ' if references > 1 else ''}or free memory."
        ),
    )
    return out


def _allocate_results(
    network: LoadedNetwork, images: Tensor, results: int, shape: tuple[int, int, int]
) -> Tensor:
    """Allocate (B, N, *shape) for all results; MemoryError with advice if they do not fit."""
    try:
        return images.new_empty(len(images), results, *shape)
    except Exception as error:
        if not network.device_manager.is_out_of_memory(error):
            raise
    count = len(images) * results
    raise MemoryError(
        f"{network.name}: no memory for {count} results of {shape[1]}x{shape[0]} "
        f"({count * math.prod(shape) * images.itemsize / 1e9:.1f} GB). Ask for fewer results or "
        "smaller images at once."
    )
