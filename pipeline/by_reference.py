"""Colorization by reference images."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model_defs.protocols import ReferenceNetwork
from ..model_defs.rendering import Renderer
from ..model_defs.spec import AB_SCALE
from ..ops import resize
from ..ops.resize import Geometry
from ..ops.tensors import Image, ImageT, as_batch, sanitize
from .automatic import Colorizer
from .colorize import PhotoBatch, colorize_images
from .loaded_network import LoadedNetwork
from .postprocess import FinishOption, select_renderer

DEFAULT_THRESHOLD = 0.5
BLEND_WIDTH = 0.4  # confidence range over which the fallback is blended in
MAX_CACHED_SIZES = 4  # working sizes for which encoded references are kept
MIN_TRUST = 1e-3  # below this alpha the color of a reference pixel is undefined


class ReferenceSet:
    """Validated reference images; created by `ExemplarColorizer.prepare_references`.

    Attributes:
        images: each (N, 3 or 4, H, W) float sRGB in 0..1; alpha is trust.
    """

    def __init__(self, images: list[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        """Return the number of reference images."""
        return sum(map(len, self.images))


CacheKey = tuple[type[Renderer], int, int]
"""Renderer that preprocesses the references; height and width of the targets."""
ReferenceInput = Image | Sequence[Image] | ReferenceSet


class EncodedReferenceCache:
    """References that a network has encoded, for a few working sizes each; safe to share.

    Entries live on the network's device. They are freed with their `ReferenceSet`, with the
    colorizer that owns the cache, or by `clear`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encoded: WeakKeyDictionary[ReferenceSet, OrderedDict[CacheKey, Any]] = (
            WeakKeyDictionary()
        )

    def get(self, references: ReferenceSet, key: CacheKey, encode: Callable[[], Any]) -> Any:
        """Return the entry for `references` and `key`; create it with `encode` if missing."""
        with self._lock:
            entries = self._encoded.setdefault(references, OrderedDict())
            if key not in entries:
                entries[key] = encode()
            entries.move_to_end(key)
            while len(entries) > MAX_CACHED_SIZES:
                entries.popitem(last=False)
            return entries[key]

    def clear(self) -> None:
        """Free all entries."""
        with self._lock:
            self._encoded.clear()


@dataclass(eq=False, repr=False)
class ExemplarColorizer(LoadedNetwork):
    """Network that takes colors from reference images; travels on EXEMPLAR_COLORIZER wires."""

    reference_cache: EncodedReferenceCache = field(
        default_factory=EncodedReferenceCache, init=False
    )
    """Encoded references; `clear` frees their memory."""

    def prepare_references(self, reference: ReferenceInput) -> ReferenceSet:
        """Validate references once, to color many photos with them.

        Args:
            reference: (N, H, W, C) or (H, W, C) float sRGB in 0..1, C = 3 or 4; or a list of such
                images of any sizes. Alpha is trust: transparent parts provide no color.
        Raises:
            ValueError: no reference, or one of another shape or dtype.
        """
        if isinstance(reference, ReferenceSet):
            return reference
        inputs = list(reference) if isinstance(reference, Sequence) else [reference]
        if not inputs:
            raise ValueError("the list of references is empty; give at least one color image.")
        images = []
        for image in inputs:
            batch, _ = as_batch(image, "reference")
            if batch.shape[-1] == 1:
                raise ValueError(
                    f"the reference has shape {tuple(batch.shape)} and is gray; expected a color "
                    "image with 3 or 4 channels."
                )
            images.append(sanitize(batch.movedim(-1, 1), self.name))
        return ReferenceSet(images)

    def colorize(
        self,
        rgb: ImageT,
        *,
        reference: ReferenceInput,
        fallback: Colorizer | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        mask: Image | None = None,
        resolution: int | None = None,
        finish: FinishOption = None,
        progress: Callable[[int], None] | None = None,
    ) -> ImageT:
        """Color photos with the colors of references. See `Colorizer.colorize`.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; the network sees only its lightness.
            reference: see `prepare_references`. All references serve all photos; attention
                combines them.
            fallback: automatic colorizer that takes over where confidence is low.
            threshold: 0 = never use the fallback, 1 = everywhere; at 0.5 both count equally where
                confidence is 0.5.
            mask, resolution, finish, progress: see `Colorizer.colorize`.
        Returns:
            as `Colorizer.colorize`.
        Raises:
            ValueError: see `prepare_references` and `Colorizer.colorize`; or the fallback is not an
                automatic network.
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
        rgb: ImageT,
        *,
        reference: ReferenceInput,
        fallback: Colorizer | None = None,
        threshold: float = DEFAULT_THRESHOLD,
        mask: Image | None = None,
        resolution: int | None = None,
        finish: FinishOption = None,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[ImageT, ImageT]:
        """Color photos as `colorize` does and return the confidence of the references, too.

        Returns:
            colored images; confidence (B, H, W) or (H, W) in 0..1, float32, of the result's size.
        """
        images, restore = as_batch(rgb)
        references = self.prepare_references(reference)
        renderer = select_renderer(finish, self.spec)
        _check_options(fallback, threshold, references, renderer)
        height, width, channels = images.shape[1:]
        resolution = resolution or self.spec.resolution
        geometry = renderer.geometry(height, width, resolution, self.spec.multiple)
        size = renderer.output_shape(height, width, channels, geometry)[:2]
        confidence = torch.empty(len(images), *size, device=images.device)

        def predict_ab(batch: PhotoBatch) -> Iterator[Tensor]:
            ab, sure = self.predict_ab(batch.working.L, batch.geometry, references, renderer)
            if fallback is not None:
                fallback_ab = F.interpolate(
                    fallback.chroma(batch.rgb), size=ab.shape[2:], mode="bilinear"
                )
                weight = reference_weight(sure, threshold)
                ab = torch.lerp(fallback_ab.to(ab.device), ab, weight)
            confidence[batch.indices] = F.interpolate(sure, size=size, mode="bilinear")[:, 0]
            yield ab

        out = colorize_images(
            self,
            images,
            predict_ab,
            renderer=renderer,
            mask=mask,
            resolution=resolution,
            progress=progress,
            references=len(references),
        )
        confidence_maps = restore(confidence[..., None])[..., 0]
        return restore(out[:, 0]), cast(ImageT, confidence_maps)

    def predict_ab(
        self, L: Tensor, geometry: Geometry, references: ReferenceSet, renderer: Renderer
    ) -> tuple[Tensor, Tensor]:
        """Run the network on working images.

        Args:
            L: (b, 1, h, w) lightness in 0..100, before padding.
            geometry: of the working images.
            references: images to take colors from.
            renderer: preprocesses the references.
        Returns:
            ab (b, 2, h, w) in Lab units; confidence (b, 1, h, w) in 0..1; both float32.
        """
        memory = self.memory_required(geometry, len(L), len(references))
        network = cast(ReferenceNetwork, self.device_manager.acquire(memory))
        encoded = self._encode_references(network, geometry, references, renderer)
        target = resize.pad(L, geometry) / 50 - 1
        prediction = network.predict(target.expand(-1, 3, -1, -1).to(self.dtype), encoded)
        size = (geometry.padded_height, geometry.padded_width)
        ab, confidence = (
            resize.unpad(F.interpolate(x.float(), size=size, mode="bilinear"), geometry)
            for x in (self.require_finite(prediction.ab), prediction.confidence)
        )
        return ab, confidence

    def _encode_references(
        self,
        network: ReferenceNetwork,
        geometry: Geometry,
        references: ReferenceSet,
        renderer: Renderer,
    ) -> Any:
        """Encode references for targets of one working size, or return them from the cache."""
        size = (geometry.padded_height, geometry.padded_width)

        def encode() -> Any:
            images, trusts = [], []
            for batch in references.images:
                for image in batch.split(1):
                    lab, trust = self._preprocess_reference(image, geometry, renderer)
                    images.append(lab)
                    trusts.append(trust)
            return network.encode_references(images, size, trusts)

        return self.reference_cache.get(references, (type(renderer), *size), encode)

    def _preprocess_reference(
        self, image: Tensor, target: Geometry, renderer: Renderer
    ) -> tuple[Tensor, Tensor | None]:
        """Convert a reference (1, 3 or 4, H, W) to the network's input.

        Returns:
            (1, 3, h, w): L / 50 - 1, a / 110, b / 110; trust (1, 1, h, w) in 0..1, or None for an
            opaque reference.
        """
        device, spec = self.device_manager.device, self.spec
        height, width = image.shape[2:]
        geometry = renderer.reference_geometry(
            height, width, target, multiple=spec.multiple, aligned=spec.aligned
        )
        if _is_transparent(image):
            # Colors are premultiplied so that transparent pixels do not bleed into their neighbors.
            rgb, alpha = image.split([3, 1], dim=1)
            trust = resize.downscale(alpha, geometry, device)
            rgb = resize.downscale(rgb * alpha, geometry, device)
            rgb = torch.where(trust > MIN_TRUST, rgb / trust.clamp_min(MIN_TRUST), 0.5).clamp(0, 1)
            trust = trust.to(self.dtype)
        else:
            rgb, trust = renderer.preprocess(image[:, :3], geometry, device).rgb, None
        lab = renderer.rgb_to_lab(rgb)
        lab = torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / AB_SCALE], dim=1)
        return lab.to(self.dtype), trust


def _check_options(
    fallback: Colorizer | None, threshold: float, references: ReferenceSet, renderer: Renderer
) -> None:
    """Raise ValueError for options that are out of range or do not go together."""
    if fallback is not None and fallback.spec.role != "automatic":
        raise ValueError(
            f"fallback is {fallback.name}, a network of the role '{fallback.spec.role}'; expected "
            "an automatic one (such as ddcolor-nano)."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected 0 to 1.")
    if renderer.adjustable:
        return
    official = "finish is 'published', which reproduces the official program's image; it supports"
    if fallback is not None:
        raise ValueError(f"{official} no fallback.")
    if any(_is_transparent(image) for image in references.images):
        raise ValueError(f"{official} no reference with transparent parts.")


def _is_transparent(image: Tensor) -> bool:
    """Return True if an image (N, C, H, W) has alpha below 1 anywhere."""
    return image.shape[1] == 4 and bool(image[:, 3].min() < 1)


def reference_weight(confidence: Tensor, threshold: float) -> Tensor:
    """Return the weight of references against a fallback: a smooth step over BLEND_WIDTH.

    Threshold 0 places the step below and 1 above every confidence; 0.5 centers it on 0.5.
    """
    x = ((confidence - threshold * (1 + BLEND_WIDTH)) / BLEND_WIDTH + 1).clamp(0, 1)
    return x * x * (3 - 2 * x)
