"""Automatic colorization: photos in, colored photos out."""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..model_defs.protocols import AutomaticNetwork, MemoryNetwork
from ..model_defs.spec import MemoryEntries
from ..ops import color, resize
from ..ops.resize import Geometry
from ..ops.tensors import Image, ImageT, as_batch
from .color_memory.memory import ColorMemory, check_memory_fits, sample_fusion_weights
from .colorize import PhotoBatch, colorize_images
from .loaded_network import LoadedNetwork
from .postprocess import Finish, FinishOption, select_renderer, suppress_low_chroma


@dataclass(eq=False, repr=False)
class Colorizer(LoadedNetwork):
    """Automatic network that is ready to color photos; travels on COLORIZER wires."""

    memory: ColorMemory | None = field(default=None, init=False)
    """Color memory used instead of the network's own."""

    def with_memory(self, memory: ColorMemory | None) -> "Colorizer":
        """Return a colorizer that shares the network but uses `memory`; None = the network's own.

        Raises:
            ValueError: the network has no color memory, or `memory` does not fit it.
        """
        if memory is not None:
            check_memory_fits(memory, self.spec.memory, self.encoder_id, self.name)
        changed = copy(self)
        changed.memory = memory
        return changed

    @torch.inference_mode()
    def colorize(
        self,
        rgb: ImageT,
        *,
        mask: Image | None = None,
        resolution: int | None = None,
        finish: FinishOption = None,
        progress: Callable[[int], None] | None = None,
    ) -> ImageT:
        """Color photos. The network sees only their lightness, and their lightness is kept.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; C = 1 (gray), 3 or 4 (alpha kept).
            mask: (B or 1, H, W) or (H, W) in 0..1; 1 = color here, 0 = leave as it is.
            resolution: square root of the working image's area; None = the network's default.
            finish: controls, or "published" to reproduce the image of the network's official
                program for comparison.
            progress: called after each batch with the number of finished images.
        Returns:
            the same type (tensor or array), dtype, device and shape as `rgb`; gray input gains
            color channels (C = 3). With finish "published" the official program determines the
            size; where it differs from the photo's, alpha is dropped.
        Raises:
            ValueError: unusable shape, dtype, resolution or combination; or the network predicts
                NaN, which happens if float16 is too small for its activations.
            MemoryError: a single image does not fit.
        """
        images, restore = as_batch(rgb)
        out = colorize_images(
            self,
            images,
            lambda batch: [self.predict_ab(batch.working.L, batch.geometry)],
            renderer=select_renderer(finish, self.spec),
            mask=mask,
            resolution=resolution,
            progress=progress,
        )
        return restore(out[:, 0])

    @torch.inference_mode()
    def vary(
        self,
        rgb: ImageT,
        *,
        count: int = 4,
        seed: int = 0,
        spread: float = 0.5,
        mask: Image | None = None,
        resolution: int | None = None,
        finish: Finish | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> ImageT:
        """Color each photo several times with sampled fusion weights (ColorFormer supplement, 4).

        Photos are encoded once. Result i leans towards one color group of the memory, each group in
        turn in a random order; see `memory.sample_fusion_weights`.

        Args:
            rgb: see `colorize`.
            count: results per photo.
            seed: 0 or more; equal seeds give equal results, whatever the batch.
            spread: 0 = all results as the network predicts; 1 = each result from one group only.
            mask, resolution, finish: see `colorize`.
            progress: called after each result of a batch with the number of finished results, of
                B * count.
        Returns:
            (B * count, H, W, C): all results of the first photo, then of the second, ...; of the
            type, dtype and device of `rgb`.
        Raises:
            ValueError: the network has no color memory; count, seed or spread are out of range; see
                also `colorize`.
            MemoryError: the results do not fit; see also `colorize`.
        """
        if self.spec.memory is None:
            raise ValueError(
                f"{self.name} ({self.spec.architecture}) has no color memory and therefore only "
                "one result; choose a network with a color memory (such as colorformer-nano)."
            )
        targets = sample_fusion_weights(self.spec.memory.groups, count, seed, spread)

        def predict_ab(batch: PhotoBatch) -> Iterator[Tensor]:
            return self.predict_variations(batch.working.L, batch.geometry, targets, spread)

        images, _ = as_batch(rgb)
        out = colorize_images(
            self,
            images,
            predict_ab,
            renderer=select_renderer(finish, self.spec),
            mask=mask,
            resolution=resolution,
            progress=progress,
            results=count,
        ).flatten(0, 1)
        return cast(ImageT, out.numpy() if isinstance(rgb, np.ndarray) else out)

    def chroma(self, rgb: Tensor, resolution: int | None = None) -> Tensor:
        """Predict the chroma of photos at the network's own working size.

        Args:
            rgb: (b, 3, H, W) sRGB in 0..1.
            resolution: None = the network's default.
        Returns:
            (b, 2, h, w) in Lab units.
        """
        resolution = resolution or self.spec.resolution
        height, width = rgb.shape[2:]
        geometry = resize.working_geometry(height, width, resolution, self.spec.multiple)
        working_rgb = resize.downscale(rgb, geometry, self.device_manager.device)
        return self.predict_ab(color.lightness(working_rgb), geometry)

    def predict_ab(self, L: Tensor, geometry: Geometry) -> Tensor:
        """Run the network on working images.

        Args:
            L: (b, 1, h, w) lightness in 0..100, before padding.
            geometry: of the working images.
        Returns:
            (b, 2, h, w) float32 in Lab units.
        Raises:
            ValueError: the network predicts NaN or infinite values.
        """
        network, model_input = self._prepare_network(L, geometry)
        if self.spec.memory is None:
            ab = cast(AutomaticNetwork, network)(model_input)
        else:
            ab = cast(MemoryNetwork, network)(model_input, self._memory_entries(L.device))
        return self._decode_output(ab, geometry)

    def predict_variations(
        self, L: Tensor, geometry: Geometry, targets: Tensor, spread: float
    ) -> Iterator[Tensor]:
        """Encode working images once and yield one prediction per row of fusion weights.

        Args:
            L, geometry: see `predict_ab`.
            targets: (N, groups) fusion weights; each row sums to 1.
            spread: 0 = the predicted weights, 1 = `targets`.
        """
        network, model_input = self._prepare_network(L, geometry)
        network = cast(MemoryNetwork, network)
        memory = self._memory_entries(L.device)
        encoded = network.encode(model_input)
        for target in targets.to(encoded.weights):
            weights = encoded.weights.lerp(target, spread)
            yield self._decode_output(network.decode(encoded, memory, weights), geometry)

    def _prepare_network(self, L: Tensor, geometry: Geometry) -> tuple[nn.Module, Tensor]:
        """Return the network on its device, with room for `L`, and its padded input."""
        network = self.device_manager.acquire(self.memory_required(geometry, len(L)))
        padded = resize.pad(L, geometry)
        model_input = color.gray_rgb(padded) if self.spec.model_input == "gray_rgb" else padded
        return network, model_input.to(self.dtype)

    def _memory_entries(self, device: torch.device) -> MemoryEntries | None:
        return None if self.memory is None else self.memory.entries(device)

    def _decode_output(self, ab: Tensor, geometry: Geometry) -> Tensor:
        """Apply the network's own fade and gain, and remove the padding."""
        ab = self.spec.gain * suppress_low_chroma(ab.float(), self.spec.fade)
        return resize.unpad(self.require_finite(ab), geometry)
