"""Colorization by point hints, with or without the colors of an automatic network as a base."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model_defs.protocols import HintNetwork
from ..model_defs.spec import AB_SCALE
from ..ops import color, gaussian_process, resize
from ..ops.chroma_upsampling import Upsampler
from ..ops.resize import Geometry
from ..ops.tensors import Image, ImageT, as_batch, as_masks, sanitize
from .automatic import Colorizer
from .colorize import PhotoBatch, colorize_images
from .hints.rasterize import hint_windows, rasterize
from .hints.schema import (
    MAX_POINTS,
    AnyHint,
    Hint,
    HintInput,
    MaskRegion,
    Position,
    check_counts,
    parse_hints,
    unlimited,
)
from .hints.suggestions import suggest_colors
from .hints.uncertainty import Uncertainty
from .loaded_network import LoadedNetwork
from .postprocess import Finish, apply_finish, select_renderer

PREVIEW_SIDE = 512  # square root of the area of the largest preview
RegionInput = tuple[Image, str] | tuple[Image, str, float]
"""Mask and color of a region, and its reach; see `hints.schema.MaskRegion`."""


@dataclass(frozen=True)
class PreparedImage:
    """Everything about a photo that does not depend on hints.

    Created by `PointHintColorizer.prepare`. All tensors are on the CPU.
    """

    rgb: Tensor
    """(h, w, 3) float sRGB in 0..1: a copy of the photo, reduced to preview size."""
    size: tuple[int, int]
    """Width and height of the photo."""
    L: Tensor
    """(1, 1, h, w) lightness of the working image."""
    base_ab: Tensor | None
    """(1, 2, h, w) chroma that the hints correct."""
    field: gaussian_process.Field | None
    """Covariance that the network's kernel predicts for the photo."""
    mask: Tensor | None
    """(1, h, w) where to color, at preview size."""
    regions: list[MaskRegion]
    """Regions with a mask, which count as hints."""

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """Covariance of the colors, or of corrections of the base; computed on first use."""
        field = self.field
        if field is None:
            has_base = self.base_ab is not None
            kernels = gaussian_process.COLOR_KERNEL, gaussian_process.CORRECTION_KERNEL
            field = kernels[has_base].field(self.L)
        elif self.base_ab is not None:
            field = field.corrections()
        height, width = self.L.shape[2:]
        weights = None
        if self.mask is not None:
            cells = -(-height // gaussian_process.CELL), -(-width // gaussian_process.CELL)
            weights = F.adaptive_avg_pool2d(self.mask, cells).flatten()
        return Uncertainty(field, (height, width), weights)

    def area_of_effect(self, hint: AnyHint, others: Sequence[AnyHint] = ()) -> Tensor:
        """Return how strongly a hint acts on each cell; see `Uncertainty.area_of_effect`.

        The network refines this first guess.

        Args:
            hint: point, stroke or region, existing or not; its color does not matter.
            others: the other hints.
        """
        return self.uncertainty.area_of_effect(hint, [*self.regions, *others])


@dataclass(frozen=True)
class SuggestedPoints:
    """Hint points whose colors would tell a network most about a photo."""

    hints: list[AnyHint]
    """The existing hints, then the suggested ones with likely colors, the most useful first."""
    doubt: Tensor
    """(h, w) in 0..1: where the colors are uncertain with the existing hints."""
    remaining: list[float]
    """Shares of the doubt without hints that are left: with the existing hints, then with each
    suggested one."""

    @property
    def suggested(self) -> list[Hint]:
        """The suggested hints alone."""
        return cast("list[Hint]", self.hints[len(self.hints) - len(self.remaining) + 1 :])


@dataclass(eq=False, repr=False)
class PointHintColorizer(LoadedNetwork):
    """Network that propagates the colors of points; travels on POINT_HINT_COLORIZER wires."""

    @torch.inference_mode()
    def colorize(
        self,
        rgb: ImageT,
        *,
        hints: HintInput = None,
        hints_per_image: Sequence[HintInput] | None = None,
        regions: Sequence[RegionInput] = (),
        base: Colorizer | None = None,
        prepared: PreparedImage | None = None,
        mask: Image | None = None,
        resolution: int | None = None,
        finish: Finish | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> ImageT:
        """Color photos according to point hints. See `Colorizer.colorize`.

        Args:
            rgb: (B, H, W, C) or (H, W, C) float sRGB in 0..1; the network sees only its lightness.
            hints: hints for all photos, see `schema.parse_hints`. Without any, the network chooses
                the colors.
            hints_per_image: replaces `hints`: the hints of each photo, such as those of
                `tracking.HintTracker`.
            regions: (mask, color) or (mask, color, reach): areas that have one color. A mask is
                (B or 1, H, W) or (H, W), inside from 0.5 on. Hints lie on top.
            base: automatic colorizer whose colors the hints correct. Without hints the result has
                the base's colors at this network's working size.
            prepared: result of `prepare` for the first photo with the same base and resolution,
                so that the base does not run again.
            mask, resolution, finish, progress: see `Colorizer.colorize`.
        Returns:
            as `Colorizer.colorize`.
        Raises:
            ValueError: see `schema.parse_hints` and `Colorizer.colorize`; the base is not an
                automatic network or not supported by this one; hints for another number of photos.
        """
        self._check_base(base)
        images, restore = as_batch(rgb)
        if hints_per_image is None:
            image_hints = [parse_hints(hints)]
        else:
            image_hints = [parse_hints(each) for each in hints_per_image]
            if len(image_hints) != len(images):
                raise ValueError(
                    f"there are hints for {len(image_hints)} images, but {len(images)} images."
                )
        image_hints = _with_regions(image_hints, regions, images)

        def predict_ab(batch: PhotoBatch) -> Iterator[Tensor]:
            L = batch.working.L
            reusable = prepared if batch.indices.start == 0 else None
            base_ab = None
            if base is not None:
                base_ab = _predict_base_batch(base, batch.rgb, L, reusable)
            field = reusable.field if reusable and len(L) == 1 else None
            if len(image_hints) == 1:
                yield self.predict_ab(L, image_hints[0], base_ab, field)
                return
            bases = [None] * len(L) if base_ab is None else base_ab.split(1)
            rows = zip(L.split(1), image_hints[batch.indices], bases, strict=True)
            yield torch.cat([self.predict_ab(*row, field) for row in rows])

        out = colorize_images(
            self,
            images,
            predict_ab,
            renderer=select_renderer(finish, self.spec),
            mask=mask,
            resolution=resolution,
            progress=progress,
        )
        return restore(out[:, 0])

    @torch.inference_mode()
    def prepare(
        self,
        rgb: Image,
        *,
        base: Colorizer | None = None,
        mask: Image | None = None,
        regions: Sequence[RegionInput] = (),
        resolution: int | None = None,
    ) -> PreparedImage:
        """Compute everything that previews of one photo share.

        Args:
            rgb: (H, W, C) or (1, H, W, C).
            base, mask, regions, resolution: see `colorize`.
        """
        self._check_base(base)
        images, _ = as_batch(rgb)
        if len(images) != 1:
            raise ValueError(f"a preview needs a single image; {len(images)} were given.")
        masks = None if mask is None else as_masks(mask, images)
        [image_regions] = _with_regions([[]], regions, images)
        photo = sanitize(images.movedim(-1, 1), self.name)[:, :3].expand(-1, 3, -1, -1)
        height, width = photo.shape[2:]
        resolution = resolution or self.spec.resolution
        geometry = resize.working_geometry(height, width, resolution, self.spec.multiple)
        L = color.lightness(resize.downscale(photo, geometry, self.device_manager.device))
        kernel = self._acquire(L).kernel
        field = kernel(L).to("cpu") if kernel else None
        return PreparedImage(
            rgb=to_preview(photo)[0].movedim(0, -1).contiguous(),
            size=(width, height),
            L=L.cpu(),
            base_ab=None if base is None else predict_base_ab(base, photo, L).cpu(),
            field=field,
            mask=None if masks is None else to_preview(masks[:1, None])[:, 0],
            regions=[
                replace(region, mask=region.mask.to("cpu", copy=True))
                for region in cast("list[MaskRegion]", image_regions)
            ],
        )

    @torch.inference_mode()
    def preview(
        self, prepared: PreparedImage, hints: HintInput, finish: Finish | None = None
    ) -> Tensor:
        """Color a prepared photo at preview size.

        The chroma of the working image equals that of `colorize` exactly. So does the image if the
        photo is not larger than a preview.

        Returns:
            (h, w, 3) float32 on the CPU, of the size of `prepared.rgb`.
        """
        ab = self._predict_prepared(prepared, parse_hints(hints))
        L = prepared.L.to(ab.device)
        rgb = prepared.rgb.movedim(-1, 0)[None]
        out = torch.empty_like(rgb)
        apply_finish(rgb, ab, L, finish or Finish(), out, prepared.mask)
        return out[0].movedim(0, -1)

    @torch.inference_mode()
    def suggest_points(
        self,
        prepared: PreparedImage,
        count: int,
        hints: HintInput = None,
        skipped: Sequence[Position] = (),
    ) -> SuggestedPoints:
        """Choose the points of a prepared photo whose colors would tell most.

        Only the kernel of the network decides; a network without one uses that of kriging.

        Args:
            prepared: photo, with the base whose colors the hints correct.
            count: number of points to suggest; a tiny photo may have fewer.
            hints: existing hints.
            skipped: x and y of points that are not to be suggested again.
        Returns:
            points with the colors that the result has there now, and the doubt in cells of 2x2
            pixels of the working image.
        Raises:
            ValueError: invalid hints, or a count below 1 or above the number of hints allowed.
        """
        existing = parse_hints(hints)
        free = MAX_POINTS - sum(isinstance(hint, Hint) for hint in existing)
        if not 1 <= count <= free:
            raise ValueError(
                f"the number of points to suggest is {count}; expected 1 to {free}, as an image "
                f"has at most {MAX_POINTS} hints."
            )
        all_hints = [*prepared.regions, *existing]
        uncertainty = prepared.uncertainty
        chosen = uncertainty.choose_points(all_hints, count, skipped)
        ab = self._predict_prepared(prepared, existing).cpu()
        suggested = [
            Hint(x, y, suggest_colors(prepared.rgb, [ab], x, y)[0]) for x, y in chosen.positions
        ]
        doubt = uncertainty.doubt_map(all_hints)
        return SuggestedPoints([*existing, *suggested], doubt, chosen.remaining)

    def _predict_prepared(self, prepared: PreparedImage, hints: Sequence[AnyHint]) -> Tensor:
        """Run the network on a prepared photo: (1, 2, h, w) in Lab units."""
        L = prepared.L.to(self.device_manager.device)
        base_ab = None if prepared.base_ab is None else prepared.base_ab.to(L.device)
        return self.predict_ab(L, [*prepared.regions, *hints], base_ab, prepared.field)

    def predict_ab(
        self,
        L: Tensor,
        hints: Sequence[AnyHint],
        base_ab: Tensor | None,
        field: gaussian_process.Field | None = None,
    ) -> Tensor:
        """Run the network on working images that share their hints.

        With hints that have a reach, it runs twice: outside all reaches, the result is exactly that
        without these hints.

        Args:
            L: (b, 1, h, w) lightness in 0..100.
            hints: user hints.
            base_ab: (b, 2, h, w) chroma that the hints correct.
            field: covariance of these images; None = the network's kernel predicts it.
        Returns:
            (b, 2, h, w) float32 in Lab units.
        """
        if base_ab is not None and not hints:
            return base_ab
        network = self._acquire(L)
        if field is not None:
            field = field.to(L.device)
        elif network.kernel:
            field = network.kernel(L)
        ab, mask = encode_hints(L, hints, base_ab, prior=self.spec.prior, field=field)
        ab = self.require_finite(network(network_input(L, ab, mask)))
        limited = [hint for hint in hints if hint.reach is not None]
        if not limited:
            return ab
        outside = self.predict_ab(L, unlimited(hints), base_ab, field)
        return torch.lerp(outside, ab, _coverage(limited, L))

    def _check_base(self, base: Colorizer | None) -> None:
        """Raise ValueError unless hints of this network can correct the colors of `base`."""
        if base is None:
            return
        if base.spec.role != "automatic":
            raise ValueError(
                f"base is {base.name}, a network of the role '{base.spec.role}'; expected an "
                "automatic one (such as ddcolor-nano)."
            )
        if not self.spec.prior:
            raise ValueError(
                f"{self.name} was trained on hints alone and cannot correct the colors of a base; "
                "leave out the base, or choose another network (such as pointhint-nano)."
            )

    def _acquire(self, L: Tensor) -> HintNetwork:
        """Return the network on its device, with room for working images L (b, 1, h, w)."""
        h, w = L.shape[2:]
        # The network pads its input itself.
        padded_h, padded_w = (
            -(-side // self.spec.multiple) * self.spec.multiple for side in (h, w)
        )
        geometry = Geometry(h, w, h, w, padded_h, padded_w)
        network = self.device_manager.acquire(self.memory_required(geometry, len(L)))
        return cast(HintNetwork, network)


def predict_base_ab(base: Colorizer, rgb: Tensor, L: Tensor) -> Tensor:
    """Predict the base's chroma of photos and upsample it to another working size.

    Args:
        base: automatic colorizer; works at its own resolution.
        rgb: (b, 3, H, W) photos.
        L: (b, 1, h, w) lightness of their working images.
    Returns:
        (b, 2, h, w) in Lab units, upsampled along the edges of L.
    """
    ab = base.chroma(rgb).to(L.device)
    height, width = L.shape[2:]
    base_L = F.interpolate(L, size=ab.shape[2:], mode="bilinear", antialias=True)
    return Upsampler(ab, base_L, (height, width)).rows(0, height, L)


def _predict_base_batch(
    base: Colorizer, rgb: Tensor, L: Tensor, prepared: PreparedImage | None
) -> Tensor:
    """Predict the base's chroma of a batch, reusing that of its prepared first photo."""
    if prepared is None or prepared.base_ab is None:
        return predict_base_ab(base, rgb, L)
    first = prepared.base_ab.to(L.device)
    if len(rgb) == 1:
        return first
    return torch.cat([first, predict_base_ab(base, rgb[1:], L[1:])])


def _with_regions(
    hints: list[list[AnyHint]], regions: Sequence[RegionInput], images: Tensor
) -> list[list[AnyHint]]:
    """Put regions below the hints of each image, or of all.

    Args:
        hints: one list for all images (B, H, W, C), or one for each.
    Returns:
        the same; one list for each image if their masks differ.
    Raises:
        ValueError: an empty or wrong mask, color or reach; too many regions.
    """
    if not regions:
        return hints
    layers: list[list[MaskRegion]] = []
    for number, (mask, color_code, *reach) in enumerate(regions, 1):
        try:
            masks = as_masks(mask, images)
            layers.append([MaskRegion(each, color_code, *reach) for each in masks])
        except ValueError as error:
            raise ValueError(f"region {number}: {str(error).rstrip('.')}.") from error
        if not (masks > 0).any():
            raise ValueError(f"region {number}: the mask is empty; paint the area to color.")
    count = max(len(hints), *map(len, layers))
    out = [
        [*(layer[i % len(layer)] for layer in layers), *hints[i % len(hints)]] for i in range(count)
    ]
    check_counts(out[0])
    return out


def _coverage(hints: Sequence[AnyHint], L: Tensor) -> Tensor:
    """Return how far the reaches of hints cover the pixels of L (b, 1, h, w): (1, 1, h, w)."""
    h, w = L.shape[2:]
    cells = hint_windows(hints, h, w).amax(-1)[None, None]
    coverage = F.interpolate(cells, scale_factor=gaussian_process.CELL, mode="bilinear")
    return coverage[..., :h, :w].to(L.device)


def to_preview(image: Tensor) -> Tensor:
    """Return a float32 copy of (B, C, H, W) on the CPU, reduced to preview size if larger."""
    height, width = image.shape[2:]
    if height * width <= PREVIEW_SIDE**2:
        return image.to("cpu", torch.float32, copy=True)
    geometry = resize.working_geometry(height, width, PREVIEW_SIDE, 1)
    return resize.downscale(image, geometry, "cpu").clamp(0, 1)


def encode_hints(
    L: Tensor,
    hints: Sequence[AnyHint],
    base_ab: Tensor | None,
    *,
    prior: bool,
    field: gaussian_process.Field | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the hint channels of the network's input.

    Args:
        L: (b, 1, h, w) lightness of the working images.
        hints: hints that all images share.
        base_ab: (b, 2, h, w) chroma that the hints correct.
        prior: fill the area between hints with `interpolate_prior` instead of zeros.
        field: see `interpolate_prior`.
    Returns:
        ab (b, 2, h, w) in Lab units; mask (b, 1, h, w), see `RasterizedHints`.
    """
    batch, _, h, w = L.shape
    ab, painted, mask, centers, values, owners = (x.to(L.device) for x in rasterize(hints, h, w))
    ab, painted, mask = (x.expand(batch, -1, -1, -1) for x in (ab, painted, mask))
    if not prior:
        return ab * mask, mask
    windows = None
    if any(hint.reach is not None for hint in hints):
        windows = hint_windows(hints, h, w).flatten(0, 1).to(L.device)[:, owners]
    ab = interpolate_prior(
        L,
        ab,
        painted,
        centers.expand(batch, -1, -1),
        values.expand(batch, -1, -1),
        torch.ones(batch, len(centers), dtype=torch.bool, device=L.device),
        base_ab,
        field,
        windows,
    )
    return ab, mask


def interpolate_prior(
    L: Tensor,
    ab: Tensor,
    mask: Tensor,
    centers: Tensor,
    values: Tensor,
    valid: Tensor,
    base_ab: Tensor | None,
    field: gaussian_process.Field | None = None,
    windows: Tensor | None = None,
) -> Tensor:
    """Fill the area between hints by kriging their colors, or their corrections of a base.

    Args:
        L: (b, 1, h, w) in 0..100.
        ab, mask: (b, 2, h, w), (b, 1, h, w) rasterized hints, and where they are painted.
        centers, values, valid: (b, N, 2), (b, N, 2), (b, N) of the same hints, see
            `gaussian_process.krige`.
        base_ab: (b, 2, h, w) or None.
        field: predicted covariance; None = fixed kernels over position and lightness.
        windows: (n, N) how far each hint acts on each cell, see `gaussian_process.krige_cells`.
    Returns:
        (b, 2, h, w): `ab` where mask is 1, elsewhere the prior in -AB_SCALE..AB_SCALE.
    """
    if base_ab is None:
        kernel = gaussian_process.COLOR_KERNEL if field is None else field
        prior = gaussian_process.krige(L, centers, values, valid, kernel, windows)
    elif not values.shape[1]:
        prior = base_ab
    else:
        h, w = L.shape[2:]
        row, column = centers.long().unbind(-1)
        indices = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)
        base_values = base_ab.flatten(2).gather(2, indices[:, None].expand(-1, 2, -1))
        corrections = values - base_values.movedim(1, -1)
        kernel = gaussian_process.CORRECTION_KERNEL if field is None else field.corrections()
        prior = base_ab + gaussian_process.krige(L, centers, corrections, valid, kernel, windows)
    return torch.where(mask > 0, ab, prior.clamp(-AB_SCALE, AB_SCALE))


def network_input(L: Tensor, ab: Tensor, mask: Tensor) -> Tensor:
    """Return the input of a point-hint network (b, 4, h, w): L / 50 - 1, ab / AB_SCALE, mask."""
    return torch.cat([L / 50 - 1, ab / AB_SCALE, mask], dim=1)
