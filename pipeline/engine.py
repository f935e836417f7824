"""The one door: load a checkpoint, colour pictures.

Nodes, command line and trainers come through here.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model_defs import registry
from ..model_defs.spec import Spec
from . import color, geometry, models
from .batch import as_batch, as_masks, part_of, repaired
from .finish import Finish, apply_finish
from .placement import Placement

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Colorizer:
    """A network with all that is needed to run it: the object that travels on a wire.

    Attributes:
        spec: facts about the network.
        info: the checkpoint's own metadata: config, training, licence ({} for published files).
        name: what to call it in messages.
        dtype: of the weights and activations; colour is always computed in float32.
        placement: device and memory.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        name: str,
        info: dict,
        dtype: torch.dtype,
        placement: Placement,
    ):
        self.spec, self.name, self.info = spec, name, info
        self.dtype, self.placement = dtype, placement

    def memory_required(self, shape: geometry.Geometry, images: int = 1) -> int:
        """Bytes of activations for one forward pass over `images` working images."""
        per_pixel = self.spec.activation_bytes_per_pixel * torch.finfo(self.dtype).bits // 32
        return images * shape.working_pixels * per_pixel

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
            colour channels (C = 3).
        Raises:
            ValueError: shape, dtype, resolution or combination that cannot be used.
            MemoryError: one picture alone does not fit.
        """
        picture, restore = as_batch(rgb)
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
        fit = geometry.square if published else geometry.fit
        shape = fit(*picture.shape[1:3], resolution, self.spec.multiple)
        channels = max(3, picture.shape[3])
        out = torch.empty(*picture.shape[:3], channels, dtype=picture.dtype, device=picture.device)
        done, count = 0, self.placement.images_at_once(self.memory_required(shape))
        while done < len(picture):
            self.placement.check_interrupt()
            part = slice(done, done + count)
            fits = True
            try:
                some_masks = part_of(masks, part)
                self._chunk(picture[part], out[part], some_masks, shape, controls, published)
            except Exception as error:
                if not self.placement.is_out_of_memory(error):
                    raise
                fits = False
            if not fits:  # out here `error` is gone, and with it the tensors its traceback held
                count = self._fewer(min(count, len(picture) - done), shape)
                continue
            done = min(done + count, len(picture))
            if progress:
                progress(done)
        return restore(out)

    def _fewer(self, count: int, shape: geometry.Geometry) -> int:
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
            "choose bfloat16, or free memory."
        )

    def _chunk(
        self,
        picture: Tensor,
        out: Tensor,
        mask: Tensor | None,
        shape: geometry.Geometry,
        controls: Finish,
        published: bool,
    ) -> None:
        """Colour (b, H, W, C) into `out` (b, H, W, 3 or 4)."""
        rgb = repaired(picture.movedim(-1, 1), self.name)
        if rgb.shape[1] == 1:
            rgb = rgb.expand(-1, 3, -1, -1)
        if out.shape[-1] == 4:
            out[..., 3] = rgb[:, 3]
        rgb, target = rgb[:, :3], out[..., :3].movedim(-1, 1)
        device = self.placement.device
        if published:
            size = (shape.scaled_height, shape.scaled_width)
            small = F.interpolate(rgb.float(), size=size, mode="bilinear").to(device)
        else:
            small = geometry.shrink(rgb, shape, device)
        L = color.lightness(small)
        ab = geometry.unpad(self.predict(geometry.pad(L, shape), shape), shape)
        if published:
            target.copy_(_published(rgb.to(device, torch.float32), ab))
        else:
            apply_finish(rgb, ab, L, controls, target, mask)

    def predict(self, L: Tensor, shape: geometry.Geometry) -> Tensor:
        """Run the network: L (b, 1, h, w) in 0..100, padded -> ab (b, 2, h, w) float32."""
        network = self.placement.acquire(self.memory_required(shape, len(L)))
        model_input = color.gray_rgb(L) if self.spec.model_input == "gray_rgb" else L
        return network(model_input.to(self.dtype)).float()


def _published(rgb: Tensor, ab: Tensor) -> Tensor:
    ab = F.interpolate(ab, size=rgb.shape[2:], mode="nearest")
    return color.lab_to_rgb(torch.cat([color.lightness(rgb), ab], dim=1)).clamp(0, 1)


def load(
    source: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: str | torch.dtype = "float32",
    placement: type[Placement] = Placement,
) -> Colorizer:
    """Open a checkpoint file, a boxed network or a file of the models folder, ready to colour.

    Args:
        source: path, or a name that `colorist models list` shows.
        device: None = CUDA where there is one, else CPU.
        dtype: float32, bfloat16 or float16, of weights and activations.
        placement: what keeps the network on the device; a host brings its own.
    Raises:
        CheckpointError: the file is not a checkpoint that can be used.
        ValueError: unknown dtype.
    """
    weights_dtype = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if weights_dtype not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
    path = models.locate(source)
    network, spec, info = registry.load(path)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = network.to(weights_dtype)
    return Colorizer(
        spec,
        name=path.name,
        info=info,
        dtype=weights_dtype,
        placement=placement(network, device),
    )


def load_model(source: str | Path) -> nn.Module:
    """The bare network: float32, eval, on the CPU; its forward is in the architecture's module."""
    return registry.load(models.locate(source))[0]
