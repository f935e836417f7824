"""Colour by point hints: hints and, if wanted, a first colour in; the shared finish behind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import color, gaussian_process, resize
from ..ops.chroma_upsampling import Upsampler
from ..ops.tensors import as_batch, as_masks, repaired
from .automatic import Colorizer
from .hints import rasterize
from .hints import schema as hint_schema
from .hints.schema import Hint
from .postprocess import Finish, apply_finish

Pictures = Tensor | np.ndarray
Hints = str | Mapping | Sequence[Hint | Mapping]
AB = 110.0  # Lab units of an a or b of 1 in the network's input
PREVIEW = 512  # square root of the area of the largest preview


@dataclass(frozen=True)
class Prepared:
    """One photo with all that does not depend on hints. Made by `PointHintColorizer.prepare`."""

    rgb: Tensor
    """(h, w, 3) float sRGB in 0..1 on the CPU: the photo, no larger than a preview; a copy."""
    size: tuple[int, int]
    """Width and height of the photo."""
    L: Tensor
    """(1, 1, h, w) lightness of the working image, on the CPU."""
    base: Tensor | None
    """(1, 2, h, w) chroma that the hints correct, on the CPU."""
    field: gaussian_process.Field | None
    """How alike its places are, by the network; on the CPU."""
    mask: Tensor | None
    """(1, h, w) where to colour, of the preview's size."""


class PointHintColorizer(Colorizer):
    """A network that spreads the colours of points; see `Colorizer` for the rest."""

    @torch.inference_mode()
    def colorize(
        self,
        rgb: Pictures,
        *,
        hints: Hints = "",
        each: Sequence[Hints] | None = None,
        base: Colorizer | None = None,
        prepared: Prepared | None = None,
        mask: Pictures | None = None,
        resolution: int | None = None,
        finish: Finish | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pictures:
        """Colour pictures as points of them are to be coloured. See `Colorizer.colorize`.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; only its lightness is looked at.
            hints: as `schema.read` takes them: their JSON, or a list of points. They serve all
                pictures. None at all is allowed: the network then colours as it thinks best.
            each: in place of `hints` those of each picture, such as `tracking.Follower` gives.
            base: an automatic colorizer whose colours the hints correct. Without hints the result
                has its colours, as they are at this network's working size.
            prepared: what `prepare` made of the first picture with the same base and resolution;
                the base's colours are then taken from it.
            mask, resolution, finish, progress: as for `Colorizer.colorize`.
        Returns:
            as `Colorizer.colorize`.
        Raises:
            ValueError: as `schema.read` and `Colorizer.colorize`; a base that is no automatic one,
                or that this network was not trained with; a finish that is no `Finish`; hints for
                another number of pictures.
        """
        self._check(base, finish)
        picture, restore = as_batch(rgb)
        points = [hint_schema.read(own) for own in ([hints] if each is None else each)]
        if each is not None and len(points) != len(picture):
            raise ValueError(
                f"there are hints for {len(points)} pictures, but {len(picture)} pictures."
            )

        def predict(
            rgb: Tensor, L: Tensor, shape: resize.Geometry, part: slice
        ) -> Iterator[Tensor]:
            known = None
            first = prepared is not None and part.start == 0
            if base is not None:
                maps = [prepared.base.to(L.device)] if first else []
                if len(rgb) > len(maps):
                    maps.append(base_chroma(base, rgb[len(maps) :], L[len(maps) :]))
                known = torch.cat(maps)
            field = prepared.field if first and len(L) == 1 else None
            if each is None:
                yield self._answer(L, known, points[0], field)
                return
            yield torch.cat(
                [
                    self._answer(one, None if known is None else known[i : i + 1], own, field)
                    for i, (one, own) in enumerate(zip(L.split(1), points[part], strict=True))
                ]
            )

        out = self._paint(picture, mask, resolution, finish, progress, predict)
        return restore(out[:, 0])

    @torch.inference_mode()
    def prepare(
        self,
        rgb: Pictures,
        *,
        base: Colorizer | None = None,
        mask: Pictures | None = None,
        resolution: int | None = None,
    ) -> Prepared:
        """Do once what previews of one photo share.

        Args:
            rgb: (H, W, C) or (1, H, W, C); base, mask, resolution: as for `colorize`.
        """
        self._check(base, None)
        picture, _ = as_batch(rgb)
        if len(picture) != 1:
            raise ValueError(f"a preview is of one picture; {len(picture)} were given.")
        masks = None if mask is None else as_masks(mask, picture)
        whole = repaired(picture.movedim(-1, 1), self.name)[:, :3].expand(-1, 3, -1, -1)
        height, width = whole.shape[2:]
        shape = resize.fit(height, width, resolution or self.spec.resolution, self.spec.multiple)
        L = color.lightness(resize.shrink(whole, shape, self.placement.device))
        if masks is not None:
            masks = shown(masks[:1, None])[:, 0]
        kernel = self._ready(L).kernel
        field = kernel and kernel(L)
        return Prepared(
            rgb=shown(whole)[0].movedim(0, -1).contiguous(),
            size=(width, height),
            L=L.cpu(),
            base=base and base_chroma(base, whole, L).cpu(),
            field=field and field.to("cpu"),
            mask=masks,
        )

    @torch.inference_mode()
    def preview(self, prepared: Prepared, hints: Hints, finish: Finish | None = None) -> Tensor:
        """(h, w, 3) on the CPU: what `colorize` gives, at the size of `prepared.rgb`.

        The chroma of the working image is the same, number for number; so is the picture where the
        photo is no larger than a preview.
        """
        self._check(None, finish)
        device, base = self.placement.device, prepared.base
        L = prepared.L.to(device)
        base = None if base is None else base.to(device)
        ab = self._answer(L, base, hint_schema.read(hints), prepared.field)
        rgb = prepared.rgb.movedim(-1, 0)[None]
        out = torch.empty_like(rgb)
        apply_finish(rgb, ab, L, finish or Finish(), out, prepared.mask)
        return out[0].movedim(0, -1)

    def _check(self, base: Colorizer | None, finish: object) -> None:
        if finish is not None and not isinstance(finish, Finish):
            raise ValueError(
                f"finish is {finish!r}; expected a Finish: nobody has published a program of "
                "point-hint networks, so there is no picture of it to compare with."
            )
        if base is None:
            return
        if base.spec.role != "automatic":
            raise ValueError(
                f"base is {base.name}, a network of the role '{base.spec.role}'; expected an "
                "automatic one (such as ddcolor-nano)."
            )
        if not self.spec.prior:
            raise ValueError(
                f"{self.name} was trained on hints alone and cannot correct the colours of a base; "
                "leave the base out, or choose another network (such as pointhint-nano)."
            )

    def _answer(
        self,
        L: Tensor,
        base: Tensor | None,
        points: Sequence[Hint],
        field: gaussian_process.Field | None,
    ) -> Tensor:
        """Chroma (b, 2, h, w) of working images L (b, 1, h, w), whose field may be known."""
        if base is not None and not points:
            return base
        network = self._ready(L)
        field = field.to(L.device) if field else network.kernel and network.kernel(L)
        x = network_input(L, *spread(L, points, base, prior=self.spec.prior, field=field))
        return self._numbers(network(x))

    def _ready(self, L: Tensor) -> nn.Module:
        """The network, with room for L."""
        h, w = L.shape[2:]
        padded = (-(-n // self.spec.multiple) * self.spec.multiple for n in (h, w))
        shape = resize.Geometry(h, w, h, w, *padded)  # the network pads by itself
        return self.placement.acquire(self.memory_required(shape, len(L)))


def base_chroma(base: Colorizer, rgb: Tensor, L: Tensor) -> Tensor:
    """The base's chroma of (b, 3, H, W) at the size of L (b, 1, h, w), along its edges."""
    ab = base.chroma(rgb).to(L.device)
    own = F.interpolate(L, size=ab.shape[2:], mode="bilinear", antialias=True)
    return Upsampler(ab, own, L.shape[2:]).rows(0, L.shape[2], L)


def shown(image: Tensor) -> Tensor:
    """(B, C, H, W) -> a copy, float32 on the CPU, no larger than a preview; 0..1 stays 0..1."""
    height, width = image.shape[2:]
    if height * width <= PREVIEW**2:
        return image.to("cpu", torch.float32, copy=True)
    return resize.shrink(image, resize.fit(height, width, PREVIEW, 1), "cpu").clamp(0, 1)


def spread(
    L: Tensor,
    points: Sequence[Hint],
    base: Tensor | None,
    *,
    prior: bool,
    field: gaussian_process.Field | None = None,
) -> tuple[Tensor, Tensor]:
    """What is known of the chroma of L (b, 1, h, w), and where it was said; see `fill`.

    Returns:
        ab (b, 2, h, w) in Lab units: at hints their colours; elsewhere 0, or with `prior` a guess,
        `gaussian_process`; mask (b, 1, h, w), 1 at hints.
    """
    batch, _, h, w = L.shape
    ab, mask = (x.to(L.device).expand(batch, -1, -1, -1) for x in rasterize.raster(points, h, w))
    if not prior:
        return ab, mask
    points = rasterize.on_top(points, h, w)
    places = torch.from_numpy(rasterize.cells(points, h, w)).to(L.device, torch.float32)
    centres = (places[:, :2] + places[:, 2:]) / 2
    values = torch.tensor([hint.ab for hint in points], device=L.device).view(-1, 2)
    return fill(
        L,
        ab,
        mask,
        centres.expand(batch, -1, -1),
        values.expand(batch, -1, -1),
        torch.ones(batch, len(points), dtype=torch.bool, device=L.device),
        base,
        field,
    )


def fill(
    L: Tensor,
    ab: Tensor,
    mask: Tensor,
    centres: Tensor,
    values: Tensor,
    valid: Tensor,
    base: Tensor | None,
    field: gaussian_process.Field | None = None,
) -> tuple[Tensor, Tensor]:
    """The guess between hints: their colours kriged, or a base with the kriged corrections of it.

    Args:
        L: (b, 1, h, w) in 0..100.
        ab, mask: (b, 2, h, w), (b, 1, h, w) as `rasterize.raster` gives them.
        centres, values, valid: (b, N, 2), (b, N, 2), (b, N) of the same hints, see
            `gaussian_process.krige`.
        base: (b, 2, h, w) or None.
        field: how alike places are; None = by place and lightness.
    Returns:
        ab filled where mask is 0, in the range that a network's input has; mask.
    """
    if base is None:
        guess = gaussian_process.krige(
            L, centres, values, valid, gaussian_process.COLORS if field is None else field
        )
    else:
        guess = base
        if values.shape[1]:
            h, w = L.shape[2:]
            at = centres.long()
            row = at[..., 0].clamp(0, h - 1) * w + at[..., 1].clamp(0, w - 1)
            own = base.flatten(2).gather(2, row[:, None].expand(-1, 2, -1)).movedim(1, -1)
            kernel = gaussian_process.CORRECTIONS if field is None else field.corrections()
            guess = base + gaussian_process.krige(L, centres, values - own, valid, kernel)
    return torch.where(mask > 0, ab, guess.clamp(-AB, AB)), mask


def network_input(L: Tensor, ab: Tensor, mask: Tensor) -> Tensor:
    """(b, 4, h, w) as the networks take it: L / 50 - 1, ab / 110, mask; float32."""
    return torch.cat([L / 50 - 1, ab / AB, mask], dim=1)
