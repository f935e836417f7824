"""Colour by reference: references in, as pictures or read beforehand; the shared finish behind."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import color, resize
from ..ops.tensors import as_batch, repaired
from . import reference_postprocess as published_script
from .automatic import Colorizer
from .postprocess import Finish

Pictures = Tensor | np.ndarray
THRESHOLD = 0.5  # about which confidence a fallback takes over from the references
SOFTNESS = 0.4  # of the step between them, in units of confidence
KEPT = 4  # working sizes of targets for which evidence is kept


class References:
    """Pictures whose colours a target takes; each is read once, for all targets of one size.

    Made by `ExemplarColorizer.read`.

    Attributes:
        pictures: (N, 3 or 4, H, W) float sRGB in 0..1 each; alpha is trust.
    """

    def __init__(self, pictures: list[Tensor]):
        self.pictures = pictures
        self.evidence: OrderedDict[tuple, object] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self.pictures))


class ExemplarColorizer(Colorizer):
    """A network that takes its colours from references; see `Colorizer` for the rest."""

    def read(self, reference: Pictures | Sequence[Pictures] | References) -> References:
        """Check references once, to colour many pictures with them.

        Args:
            reference: (N, H, W, C) or (H, W, C) float sRGB in 0..1, C = 3 or 4; or a list of such,
                of any sizes. Alpha is trust: what is transparent gives no colour.
        Raises:
            ValueError: no reference, or one of another shape or dtype.
        """
        if isinstance(reference, References):
            return reference
        several = isinstance(reference, list | tuple)
        given = list(reference) if several else [reference]
        if not given:
            raise ValueError("there is no reference; give at least one colour picture.")
        pictures = []
        for one in given:
            picture, _ = as_batch(one, "reference")
            if picture.shape[-1] == 1:
                raise ValueError(
                    f"the reference has shape {tuple(picture.shape)}: one channel, which is grey; "
                    "expected a colour picture with 3 or 4 channels."
                )
            pictures.append(repaired(picture.movedim(-1, 1), self.name))
        return References(pictures)

    @torch.inference_mode()
    def colorize(
        self,
        rgb: Pictures,
        *,
        reference: Pictures | Sequence[Pictures] | References,
        fallback: Colorizer | None = None,
        threshold: float = THRESHOLD,
        mask: Pictures | None = None,
        resolution: int | None = None,
        finish: Finish | Literal["published"] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pictures:
        """Colour pictures as the references are coloured. See `Colorizer.colorize`.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; only its lightness is looked at.
            reference: see `read`; all of them serve all pictures, their evidence joined by
                attention.
            fallback: an automatic colorizer that takes over where the references tell little.
            threshold: how soon the fallback takes over: 0 = never, 1 = everywhere; at 0.5 both
                count equally where confidence is 0.5.
            mask, resolution, finish, progress: as for `Colorizer.colorize`.
        Returns:
            as `Colorizer.colorize`.
        Raises:
            ValueError: as `read` and `Colorizer.colorize`; a fallback that is no automatic one.
        """
        return self.colorize_with_confidence(
            rgb,
            reference=reference,
            fallback=fallback,
            threshold=threshold,
            mask=mask,
            resolution=resolution,
            finish=finish,
            progress=progress,
        )[0]

    @torch.inference_mode()
    def colorize_with_confidence(
        self,
        rgb: Pictures,
        *,
        reference: Pictures | Sequence[Pictures] | References,
        fallback: Colorizer | None = None,
        threshold: float = THRESHOLD,
        mask: Pictures | None = None,
        resolution: int | None = None,
        finish: Finish | Literal["published"] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[Pictures, Pictures]:
        """As `colorize`, and how surely the references tell the colour of each place.

        Returns:
            the pictures; confidence (B, H, W) or (H, W) in 0..1, float32, of the result's size.
        """
        if fallback is not None and fallback.spec.role != "automatic":
            raise ValueError(
                f"fallback is {fallback.name}, a network of the role '{fallback.spec.role}'; "
                "expected an automatic one (such as ddcolor-nano)."
            )
        if fallback is not None and finish == "published":
            raise ValueError(
                "finish is 'published', the official script's picture; it takes no fallback."
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; expected 0 to 1.")
        picture, restore = as_batch(rgb)
        references, published = self.read(reference), finish == "published"
        if published and any(_transparent(picture) for picture in references.pictures):
            raise ValueError(
                "finish is 'published', the official script's picture; it takes no reference with "
                "transparent parts."
            )
        side = resolution or self.spec.resolution
        size = (side, side) if published else tuple(picture.shape[1:3])
        confidence = torch.empty(len(picture), *size, device=picture.device)

        def predict(
            rgb: Tensor, L: Tensor, shape: resize.Geometry, part: slice
        ) -> Iterator[Tensor]:
            ab, sure = self._answer(L, shape, references, published)
            if fallback is not None:
                own = F.interpolate(fallback.chroma(rgb), size=ab.shape[2:], mode="bilinear")
                ab = torch.lerp(own.to(ab.device), ab, weight_of(sure, threshold))
            confidence[part] = F.interpolate(sure, size=size, mode="bilinear")[:, 0]
            yield ab

        options = {"references": len(references)}
        out = self._paint(picture, mask, resolution, finish, progress, predict, **options)
        return restore(out[:, 0]), restore(confidence[..., None])[..., 0]

    def _answer(
        self, L: Tensor, shape: resize.Geometry, references: References, published: bool
    ) -> tuple[Tensor, Tensor]:
        """Chroma (b, 2, h, w) and confidence (b, 1, h, w) of working images L (b, 1, h, w)."""
        memory = self.memory_required(shape, len(L), len(references))
        network = self.placement.acquire(memory)
        evidence = self._evidence(network, shape, references, published)
        target = resize.pad(L, shape) / 50 - 1
        ab, sure, _ = network.answer(target.expand(-1, 3, -1, -1).to(self.dtype), evidence)
        size = (shape.padded_height, shape.padded_width)
        ab, sure = (
            resize.unpad(F.interpolate(x.float(), size=size, mode="bilinear"), shape)
            for x in (self._numbers(ab), sure)
        )
        return ab, sure

    def _evidence(
        self,
        network: torch.nn.Module,
        shape: resize.Geometry,
        references: References,
        published: bool,
    ) -> object:
        """What the network has to know of the references for targets of this working size."""
        size = (shape.padded_height, shape.padded_width)
        key = (self, *size, published)
        if key in references.evidence:
            references.evidence.move_to_end(key)
            return references.evidence[key]
        pictures, trusts = [], []
        for picture in references.pictures:
            for one in picture.split(1):
                lab, trust = self._working(one, shape, published)
                pictures.append(lab)
                trusts.append(trust)
        references.evidence[key] = network.read(pictures, size, trusts)
        while len(references.evidence) > KEPT:
            references.evidence.popitem(last=False)
        return references.evidence[key]

    def _working(
        self, picture: Tensor, shape: resize.Geometry, published: bool
    ) -> tuple[Tensor, Tensor | None]:
        """A reference (1, 3 or 4, H, W) as the network takes it, and its trust (1, 1, h, w).

        Nothing is padded: it is stretched by a few pixels to the network's multiple instead.
        """
        device = self.placement.device
        if published:
            rgb, trust = self._published(picture[:, :3], shape), None
        else:
            fitted = self._reference_shape(*picture.shape[2:], shape)
            trust = None
            if _transparent(picture):
                # Colours of transparent pixels are nobody's: they must not bleed into others.
                rgb, alpha = picture.split([3, 1], dim=1)
                trust = resize.shrink(alpha, fitted, device)
                rgb = resize.shrink(rgb * alpha, fitted, device)
                rgb = torch.where(trust > 1e-3, rgb / trust.clamp_min(1e-3), 0.5).clamp(0, 1)
                trust = trust.to(self.dtype)
            else:
                rgb = resize.shrink(picture[:, :3], fitted, device)
        lab = published_script.xcnet_lab(rgb) if published else color.rgb_to_lab(rgb)
        lab = torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / 110], dim=1)
        return lab.to(self.dtype), trust

    def _reference_shape(self, height: int, width: int, shape: resize.Geometry) -> resize.Geometry:
        """Where a reference of height x width is worked on, for targets of `shape`."""
        if self.spec.aligned:
            h, w = shape.padded_height, shape.padded_width
        else:
            area = round((shape.scaled_height * shape.scaled_width) ** 0.5)
            multiple = self.spec.multiple
            own = resize.fit(height, width, max(area, multiple), multiple)
            h, w = (
                max(multiple, multiple * round(n / multiple))
                for n in (own.scaled_height, own.scaled_width)
            )
        return resize.Geometry(height, width, h, w, h, w)


def _transparent(picture: Tensor) -> bool:
    """Whether a reference (1, C, H, W) has parts that count less than others."""
    return picture.shape[1] == 4 and bool(picture[:, 3].min() < 1)


def weight_of(confidence: Tensor, threshold: float) -> Tensor:
    """How much the references count against a fallback: a smooth step of width SOFTNESS.

    Threshold 0 puts it below, 1 above all confidence; 0.5 about 0.5.
    """
    x = ((confidence - threshold * (1 + SOFTNESS)) / SOFTNESS + 1).clamp(0, 1)
    return x * x * (3 - 2 * x)
