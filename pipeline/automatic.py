"""A network with all that is needed to run it: pictures in, coloured pictures out."""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..model_defs.spec import Spec
from ..ops import color, resize
from ..ops.tensors import as_batch, as_masks, part_of, repaired
from . import reference_postprocess as published_script
from .color_memory.memory import ColorMemory, refuse_unless_fits, sample_fusion_weights
from .device_manager import Placement
from .postprocess import Finish, apply_finish, faded

log = logging.getLogger(__name__)
# Full-size sRGB (b, 3, H, W), lightness of its working image (b, 1, h, w), geometry, which pictures
# of the batch these are -> one or more maps of chroma (b, 2, h, w).
Predict = Callable[[Tensor, Tensor, resize.Geometry, slice], Iterator[Tensor]]


class Colorizer:
    """A network with all that is needed to run it: the object that travels on a wire.

    Attributes:
        spec: facts about the network.
        info: the checkpoint's own metadata: config, training, licence ({} for published files).
        name: what to call it in messages.
        dtype: of the weights and activations; colour is always computed in float32.
        placement: device and memory.
        encoder: fingerprint of the encoder, where the network works with a color memory.
        memory: a color memory used instead of the network's own, or None.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        name: str,
        info: dict,
        dtype: torch.dtype,
        placement: Placement,
        encoder: str = "",
    ):
        self.spec, self.name, self.info = spec, name, info
        self.dtype, self.placement = dtype, placement
        self.encoder = encoder
        self.memory: ColorMemory | None = None

    def with_memory(self, memory: ColorMemory | None) -> "Colorizer":
        """The same network with another color memory; None = its own.

        Raises:
            ValueError: the network has no color memory, or this one does not fit it.
        """
        if memory is not None:
            refuse_unless_fits(memory, self.spec.memory, self.encoder, self.name)
        changed = copy.copy(self)
        changed.memory = memory
        return changed

    def memory_required(self, shape: resize.Geometry, images: int = 1, references: int = 0) -> int:
        """Bytes of activations for one forward pass over `images` working images."""
        side = max(shape.padded_height, shape.padded_width)
        per_pixel = self.spec.activation_bytes_per_pixel
        per_pixel += self.spec.attention_bytes * side * references
        size = torch.finfo(self.dtype).bits / 32
        return round(
            (images * shape.working_pixels * per_pixel + self.spec.activation_bytes) * size
        )

    @torch.inference_mode()
    def colorize(
        self,
        rgb: Tensor | np.ndarray,
        *,
        mask: Tensor | np.ndarray | None = None,
        resolution: int | None = None,
        finish: Finish | Literal["published"] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor | np.ndarray:
        """Colour pictures. Only their lightness is looked at, and it is kept.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; C = 1 (grey), 3 or 4 (alpha kept).
            mask: (B or 1, H, W) or (H, W) in 0..1; 1 = colour here, 0 = leave as it is.
            resolution: square root of the working image's area; None = the network's own.
            finish: controls, or "published" for the official script's picture (squashed to a
                square, nearest-neighbour chroma, channels clipped), for comparison.
            progress: called after each chunk with the number of pictures done.
        Returns:
            the same kind (tensor or array), dtype, device and shape as `rgb`; grey input gains
            colour channels (C = 3). With finish "published", where the official script's picture
            has the network's working size (`spec.published_picture`), that size and C = 3: alpha
            is not kept.
        Raises:
            ValueError: shape, dtype, resolution or combination that cannot be used; colours that
                are no numbers, as a network makes where float16 is too small for it.
            MemoryError: one picture alone does not fit.
        """
        picture, restore = as_batch(rgb)
        out = self._paint(picture, mask, resolution, finish, progress, self._automatic(None))
        return restore(out[:, 0])

    @torch.inference_mode()
    def vary(
        self,
        rgb: Tensor | np.ndarray,
        *,
        count: int = 4,
        seed: int = 0,
        spread: float = 0.5,
        mask: Tensor | np.ndarray | None = None,
        resolution: int | None = None,
        finish: Finish | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor | np.ndarray:
        """Several results of each picture: fusion weights sampled (ColorFormer supplement, 4).

        The picture is encoded once. Result i leans towards one group of the memory's colours, each
        group in turn in an order drawn from the seed; see `memory.sample_fusion_weights`.

        Args:
            rgb: as for `colorize`.
            count: results for each picture.
            seed: 0 or more; the same seed gives the same results, whatever the batch.
            spread: 0 = all as the network predicts; 1 = each result from one group only.
            mask, resolution, finish: as for `colorize`.
            progress: called after each result of a chunk with the number of results done, of
                B count.
        Returns:
            (B count, H, W, C): all results of the first picture, then of the second, ...; of the
            same kind, dtype and device as `rgb`.
        Raises:
            ValueError: the network has no color memory; count, seed or spread out of range; and
                as `colorize`.
            MemoryError: the results do not fit; and as `colorize`.
        """
        if self.spec.memory is None:
            raise ValueError(
                f"{self.name} ({self.spec.architecture}) has no color memory and so but one "
                "result; choose a network with a color memory (such as colorformer-nano)."
            )
        targets = sample_fusion_weights(self.spec.memory.groups, count, seed, spread)
        picture, _ = as_batch(rgb)
        predict = self._automatic((targets, spread))
        out = self._paint(picture, mask, resolution, finish, progress, predict, count)
        out = out.flatten(0, 1)
        return out.numpy() if isinstance(rgb, np.ndarray) else out

    def _paint(
        self,
        picture: Tensor,
        mask: Tensor | np.ndarray | None,
        resolution: int | None,
        finish: Finish | Literal["published"] | None,
        progress: Callable[[int], None] | None,
        predict: Predict,
        results: int = 1,
        references: int = 0,
    ) -> Tensor:
        """(B, H, W, C) -> (B, N, H, W, C): each of the maps that `predict` gives, finished."""
        masks = None if mask is None else as_masks(mask, picture)
        resolution = resolution or self.spec.resolution
        published = finish == "published"
        if isinstance(finish, str) and not published:
            raise ValueError(f"finish is '{finish}'; expected a Finish, or 'published'.")
        if published and masks is not None:
            raise ValueError(
                "finish is 'published', the official script's picture; it takes no mask."
            )
        controls = Finish() if published or finish is None else finish
        fit = resize.square if published else resize.fit
        shape = fit(*picture.shape[1:3], resolution, self.spec.multiple)
        size, channels = tuple(picture.shape[1:3]), max(3, picture.shape[3])
        if published and self.spec.published_picture != "photo":
            size, channels = (shape.scaled_height, shape.scaled_width), 3
        out = self._room(picture, results, size, channels)
        each = self.memory_required(shape, references=references)
        done, count = 0, self.placement.images_at_once(each)
        while done < len(picture):
            self.placement.check_interrupt()
            part = slice(done, done + count)
            many = len(picture[part])
            fits = True
            try:
                some_masks = part_of(masks, part)
                some = picture[part], out[part], some_masks
                chroma = partial(predict, part=part)
                for i in self._chunk(*some, shape, controls, published, chroma):
                    if progress:
                        progress(done * results + many * (i + 1))
                    if i + 1 < results:
                        self.placement.check_interrupt()
            except Exception as error:
                if not self.placement.is_out_of_memory(error):
                    raise
                fits = False
            if not fits:  # out here `error` is gone, and with it the tensors its traceback held
                count = self._fewer(many, shape, references)
                continue
            done += many
        return out

    def _room(self, picture: Tensor, results: int, size: tuple[int, int], channels: int) -> Tensor:
        """Memory for all results, (B, N, H, W, C)."""
        try:
            return picture.new_empty(len(picture), results, *size, channels)
        except Exception as error:
            if not self.placement.is_out_of_memory(error):
                raise
        count = len(picture) * results
        raise MemoryError(
            f"{self.name}: no memory for {count} results of {size[1]}x{size[0]} "
            f"({count * math.prod(size) * channels * picture.itemsize / 1e9:.1f} GB). Ask for "
            "fewer results or smaller pictures at once."
        )

    def _fewer(self, count: int, shape: resize.Geometry, references: int) -> int:
        self.placement.release()
        if count > 1:
            fewer = count // 2
            log.warning(
                "%s: out of memory with %d pictures at once; trying %d.", self.name, count, fewer
            )
            return fewer
        raise MemoryError(
            f"{self.name}: out of memory on one picture of {shape.width}x{shape.height} "
            f"(working size {shape.padded_width}x{shape.padded_height}). Lower the resolution, "
            f"choose bfloat16, {'give fewer references, ' if references > 1 else ''}or free memory."
        )

    def _chunk(
        self,
        picture: Tensor,
        out: Tensor,
        mask: Tensor | None,
        shape: resize.Geometry,
        controls: Finish,
        published: bool,
        chroma: Callable[[Tensor, Tensor, resize.Geometry], Iterator[Tensor]],
    ) -> Iterator[int]:
        """Colour (b, H, W, C) into `out` (b, N, H, W, 3 or 4); yields each i of N once done."""
        rgb = repaired(picture, self.name).movedim(-1, 1)
        if rgb.shape[1] == 1:
            rgb = rgb.expand(-1, 3, -1, -1)
        if out.shape[-1] == 4:
            out[..., 3] = rgb[:, None, 3]
        rgb = rgb[:, :3]
        device = self.placement.device
        small = self._published(rgb, shape) if published else resize.shrink(rgb, shape, device)
        L = color.lightness(small)
        for i, ab in enumerate(chroma(rgb, L, shape)):
            target = out[:, i, ..., :3].movedim(-1, 1)
            if published:
                if self.spec.published_picture == "middle":
                    target.copy_(published_script.join_xcnet(small, ab))
                else:
                    same = out.shape[2:4] == small.shape[2:]
                    whole = small if same else rgb.to(device, torch.float32)
                    target.copy_(published_script.join(whole, ab))
            else:
                apply_finish(rgb, ab, L, controls, target, mask)
            yield i

    def _published(self, rgb: Tensor, shape: resize.Geometry) -> Tensor:
        """(b, 3, H, W) -> the working picture that the network's official script makes of it."""
        size = (shape.scaled_height, shape.scaled_width)
        rgb, kind = rgb.to(self.placement.device, torch.float32), self.spec.published_picture
        if kind == "working":
            return published_script.resize_bytes(rgb, size)
        if kind == "middle":
            return published_script.middle(rgb, size[0])
        return F.interpolate(rgb, size=size, mode="bilinear")

    def _automatic(self, fusion: tuple[Tensor, float] | None) -> Predict:
        """What predicts chroma from lightness alone; one map for each row of sampled weights."""

        def predict(
            rgb: Tensor, L: Tensor, shape: resize.Geometry, part: slice
        ) -> Iterator[Tensor]:
            for ab in self.predict(resize.pad(L, shape), shape, fusion):
                yield resize.unpad(ab, shape)

        return predict

    def chroma(self, rgb: Tensor, resolution: int | None = None) -> Tensor:
        """Chroma of (b, 3, H, W) at the network's own working size: (b, 2, h, w) in Lab units."""
        resolution = resolution or self.spec.resolution
        shape = resize.fit(*rgb.shape[2:], resolution, self.spec.multiple)
        L = color.lightness(resize.shrink(rgb, shape, self.placement.device))
        return resize.unpad(next(self.predict(resize.pad(L, shape), shape)), shape)

    def predict(
        self,
        L: Tensor,
        shape: resize.Geometry,
        fusion: tuple[Tensor, float] | None = None,
    ) -> Iterator[Tensor]:
        """Run the network: L (b, 1, h, w) in 0..100, padded -> ab (b, 2, h, w) float32.

        One map, or one for each row of sampled fusion weights.

        Raises:
            ValueError: the network answers with NaN or infinite numbers.
        """
        network = self.placement.acquire(self.memory_required(shape, len(L)))
        model_input = color.gray_rgb(L) if self.spec.model_input == "gray_rgb" else L
        model_input = model_input.to(self.dtype)
        if self.spec.memory is None:
            yield self._read(network(model_input))
            return
        memory = self.memory and self.memory.entries(L.device)
        if fusion is None:
            yield self._read(network(model_input, memory))
            return
        targets, spread = fusion
        encoded = network.encode(model_input)
        for target in targets.to(encoded.weights):
            weights = encoded.weights.lerp(target, spread)
            yield self._read(network.decode(encoded, memory, weights))

    def _read(self, ab: Tensor) -> Tensor:
        """A network's answer as its spec says it is to be read."""
        return self.spec.gain * faded(self._numbers(ab), self.spec.fade)

    def _numbers(self, ab: Tensor) -> Tensor:
        """`ab` as float32. Raises ValueError where it holds NaN or infinite numbers."""
        if ab.isfinite().all():
            return ab.float()
        advice = "choose float32 or bfloat16"
        if self.dtype != torch.float16:
            advice = "its weights or its color memory are damaged"
        dtype = str(self.dtype).removeprefix("torch.")
        raise ValueError(
            f"{self.name}: the network gives colours that are NaN or infinite in {dtype}; {advice}."
        )
