"""Build a color memory from color photos: ColorFormer, section 3.4 and supplement, Algorithm 1.

Each patch of 32 x 32 pixels of a working image gives one row: a key (the encoder's features,
projected) and a color (ab of the patch's mean sRGB). `clustering` turns rows into entries.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...media.errors import ImageError
from ...model_defs.protocols import MemoryNetwork
from ...model_defs.spec import MemorySizes
from ...ops import color
from ...ops.resize import MAX_SIDE_RATIO, Geometry, downscale
from ...ops.tensors import sanitize
from ..batching import run_in_batches
from ..loaded_network import LoadedNetwork
from ..photos import Photo, is_gray, read_ahead, read_photo
from . import clustering, projection
from .memory import ColorMemory, Projection, Provenance, require_memory
from .projection import Rows

log = logging.getLogger(__name__)

DEFAULT_ENTRIES = 512  # section 4.1 of the paper
MAX_SEED = 2**32 - 1  # of scikit-learn
MIN_PATCHES_PER_ENTRY = 16  # with fewer, the colors of an entry would be arbitrary
GROUP_SIZE = 8  # images of one shape that are encoded in a row; sets the order of rows
MAX_PENDING = 64  # working images that wait for others of the same shape
MAX_SKIPPED_NAMES = 100  # unreadable photos that are listed in the provenance

Extract = Callable[[MemoryNetwork, Tensor], tuple[Tensor, ...]]
"""Compute maps (B, h, w, ...) from gray RGB (B, 3, H, W), such as `projection.extract_features`."""


def build_memory(
    colorizer: LoadedNetwork,
    photos: Sequence[Photo],
    *,
    entries: int = DEFAULT_ENTRIES,
    seed: int = 0,
    side: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ColorMemory:
    """Cluster the encoder's features of photos and collect the colors of each cluster.

    The keys are in the space of the network's own keys, unless `fresh` is set. The same photos in
    the same order with the same seed give the same memory on the same machine, regardless of the
    available memory.

    Args:
        colorizer: has a network with a color memory.
        photos: files, or (H, W, C) float sRGB in 0..1. Items are requested one at a time, up to
            twice, from several threads; a custom sequence may raise ImageError.
        entries: number of entries m. Reduced, with a warning, to one per 16 patches; empty clusters
            are dropped.
        seed: seed for the choice of photos and rows and for k-means, 0 to 2^32 - 1.
        side: photos are scaled to about side x side pixels, keeping their aspect ratio; None = the
            network's working size (256 in the paper).
        fresh: compute a new projection by PCA, for a network that has not been trained yet.
        progress: called with (done, total) photos after each batch; photos used to fit a projection
            count twice. The last photo counts as done when clustering is finished.
    Returns:
        Keys (m, k) and values (n, m, 2): n colors per entry by ascending hue angle, that is
        counterclockwise in the ab plane. An entry with fewer than n colors repeats them.
    Raises:
        ValueError: no photo has colors, or the settings or the network are unsuitable.
        OSError: the disk has too little free space for the temporary file.
        RuntimeError: scikit-learn is not installed.
        MemoryError: a single photo does not fit.
    """
    side = side or colorizer.spec.resolution
    sizes = check_build(colorizer, photos, entries, side, seed, fresh)
    check_interrupt = colorizer.device_manager.check_interrupt
    encoder = _PhotoEncoder(colorizer, photos, side, progress, total=len(photos))
    key_projection = _prepare_projection(encoder, sizes.key_width, seed, fresh)
    counts = PhotoCounts()
    with tempfile.TemporaryFile() as file:
        spool = clustering.FeatureSpool(file, sizes.key_width, encoder.expected_rows)
        for features, ab in encoder.encode(range(len(photos)), projection.extract_features, counts):
            spool.append(key_projection.projection(features), ab, colorizer.name)
        counts.require_used(len(photos))
        clusters = max(1, min(entries, spool.rows // MIN_PATCHES_PER_ENTRY))
        if clusters < entries:
            log.warning(
                "%d photos have %d patches, enough for %d entries instead of %d.",
                *(counts.used, spool.rows, clusters, entries),
            )
        check_interrupt()
        centers = clustering.fit_centers(spool, clusters, seed)
        check_interrupt()
        keys, row_counts, bins = clustering.assign_and_average(spool, centers, check_interrupt)
    values = clustering.cluster_colors(bins, len(keys), sizes.groups, seed, check_interrupt)
    final_projection = key_projection.projection
    if key_projection.key_variance is not None:
        keys, final_projection = projection.rescale_variance(
            key_projection.key_variance, keys, row_counts, final_projection
        )
    provenance = Provenance(
        network=colorizer.name,
        photos=counts.used,
        grey=counts.gray,
        unreadable=counts.unreadable,
        skipped=counts.skipped_names,
        patches=spool.rows,
        entries=len(keys),
        entries_asked=entries,
        seed=seed,
        side=side,
        projection=key_projection.description,
    )
    if key_projection.explained is not None:
        provenance["explained_variance"] = round(key_projection.explained, 4)
    memory = ColorMemory(
        keys=torch.from_numpy(keys).float(),
        values=torch.from_numpy(values).float(),
        encoder=colorizer.encoder_id,
        projection=final_projection,
        provenance=provenance,
    )
    if progress:
        progress(encoder.total, encoder.total)
    return memory


def check_build(
    colorizer: LoadedNetwork,
    photos: Sequence[Photo],
    entries: int,
    side: int | None = None,
    seed: int = 0,
    fresh: bool = False,
) -> MemorySizes:
    """Check the arguments of `build_memory` before photos are read.

    Returns:
        The sizes of the memory.
    Raises:
        ValueError: the settings or the network are unsuitable.
        RuntimeError: scikit-learn is not installed.
    """
    sizes = require_memory(colorizer.spec.memory, colorizer.name)
    if isinstance(photos, str | Path):
        raise ValueError(f"photos is one path, '{photos}'; expected a list of photo files.")
    if entries < 1:
        raise ValueError(f"entries is {entries}; expected at least 1.")
    if side is not None and side < colorizer.spec.multiple:
        raise ValueError(f"side is {side}; this network needs at least {colorizer.spec.multiple}.")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}; expected 0 to {MAX_SEED}.")
    if not len(photos):
        raise ValueError("no photos to build a color memory from; add color photos.")
    clustering.kmeans_class()
    network = cast(MemoryNetwork, colorizer.device_manager.acquire(0))
    if not fresh and not network.memory.keys.any():
        raise ValueError(
            f"{colorizer.name}: its own color memory is empty and has no key space to build "
            "in; train it first with a memory from trainers/build_color_memory.py --fresh."
        )
    return sizes


# --- Projection (line 9) -------------------------------------------------------------------------


class _KeyProjection(NamedTuple):
    """Projection from features to keys, and how it was obtained."""

    projection: Projection
    description: str
    """For the provenance."""
    explained: float | None = None
    """Fraction of the variance that a fitted projection explains."""
    key_variance: float | None = None
    """Variance that the keys must get, see `projection.fit_ridge`."""


def _prepare_projection(
    encoder: "_PhotoEncoder", width: int, seed: int, fresh: bool
) -> _KeyProjection:
    """Load the network's projection, or fit one to a sample of the photos."""
    network = cast(MemoryNetwork, encoder.colorizer.device_manager.acquire(0))
    stored = None if fresh else projection.load_projection(network)
    if stored is not None:
        return _KeyProjection(stored, "the network's own")
    sample = clustering.sample_indices(len(encoder.photos), projection.MAX_PHOTOS, seed)
    encoder.total += len(sample)
    if fresh:
        batches = encoder.encode_sample(sample, projection.extract_features)
        fitted, explained = projection.fit_pca(batches, width)
        return _KeyProjection(fitted, "PCA of these photos", explained)
    batches = encoder.encode_sample(sample, projection.extract_attended_keys)
    fitted, explained, key_variance = projection.fit_ridge(batches, width)
    return _KeyProjection(fitted, "fitted to the network's attention", explained, key_variance)


# --- Photos to features and colors (lines 2 to 8) ------------------------------------------------


@dataclass
class PhotoCounts:
    """Numbers of used and skipped photos."""

    used: int = 0
    gray: int = 0
    unreadable: int = 0
    skipped_names: list[str] = field(default_factory=list)
    """Names of the first unreadable photos."""

    def require_used(self, photos: int) -> None:
        """Raise ValueError unless at least one of `photos` photos was used."""
        if not self.used:
            raise ValueError(
                f"none of the {photos} photos has colors to learn from: {self.gray} gray, "
                f"{self.unreadable} unreadable. Add color photos (JPEG, PNG, TIFF, WebP)."
            )


def patch_aligned_size(height: int, width: int, side: int, multiple: int) -> tuple[int, int]:
    """Return (h, w) of about side x side pixels in the photo's proportions, in whole patches."""
    scale = min(side / math.sqrt(height * width), MAX_SIDE_RATIO * side / max(height, width))
    h, w = (max(1, round(length * scale / multiple)) * multiple for length in (height, width))
    return h, w


def _working_image(photos: Sequence[Photo], side: int, multiple: int, index: int) -> Tensor | None:
    """Return photo `index` at working size, (3, h, w) float32 on the CPU; None if it is gray."""
    rgb = read_photo(photos, index)
    if rgb.shape[-1] == 1:
        return None
    rgb = sanitize(rgb[..., :3].movedim(-1, 1), f"photo {index + 1}")
    height, width = rgb.shape[2:]
    h, w = patch_aligned_size(height, width, side, multiple)
    image = downscale(rgb, Geometry(height, width, h, w, h, w), "cpu")[0]
    return None if is_gray(image) else image


@dataclass
class _PhotoEncoder:
    """Run the network over photos."""

    colorizer: LoadedNetwork
    photos: Sequence[Photo]
    side: int
    progress: Callable[[int, int], None] | None
    total: int
    """Number of photos to encode, over all passes."""
    done: int = 0

    @property
    def expected_rows(self) -> int:
        """Generous estimate of the number of patches."""
        per_photo = (self.side / self.colorizer.spec.multiple + 0.5) ** 2
        return math.ceil(len(self.photos) * per_photo)

    def encode(
        self,
        indices: Sequence[int] | np.ndarray,
        extract: Extract,
        counts: PhotoCounts,
        quiet: bool = False,
    ) -> Iterator[Rows]:
        """Encode photos batch by batch.

        Args:
            indices: photos to encode, in order.
            extract: computes the features of a batch.
            counts: counts of this pass, which are updated.
            quiet: do not log skipped photos.
        Yields:
            Tensors (rows, ...) float32 on the CPU with one row per patch; the last one is ab
            (rows, 2) in Lab units. The order of rows does not depend on the device.
        """
        encoded = 0

        def encode_batch(batch: slice) -> Rows:
            nonlocal encoded
            rows = self._encode_batch(group[batch], extract)
            encoded += batch.stop - batch.start
            self._report(encoded + counts.gray + counts.unreadable)
            return rows

        for group in self._equal_shape_groups(indices, counts, quiet):
            h, w = group.shape[2:]
            device_manager = self.colorizer.device_manager
            yield from run_in_batches(
                encode_batch,
                len(group),
                batch_size=device_manager.max_batch_size(self._memory_required(h, w)),
                device_manager=device_manager,
                name=self.colorizer.name,
                single_item_error=(
                    f"out of memory on one image of {w}x{h}. Lower the side, choose bfloat16, or "
                    "free memory."
                ),
            )
        self._report(len(indices))  # photos after the last batch may have been skipped
        self.done += len(indices)

    def encode_sample(self, indices: np.ndarray, extract: Extract) -> Iterator[Rows]:
        """Encode photos without logging skipped ones, which another pass logs.

        Raises:
            ValueError: no photo was used.
        """
        counts = PhotoCounts()
        yield from self.encode(indices, extract, counts, quiet=True)
        counts.require_used(len(indices))

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress(min(self.done + done, self.total - 1), self.total)

    def _equal_shape_groups(
        self, indices: Sequence[int] | np.ndarray, counts: PhotoCounts, quiet: bool
    ) -> Iterator[Tensor]:
        """Yield working images (b, 3, h, w) of equal shape, in an order set by `indices` alone."""
        pending: dict[tuple[int, ...], list[Tensor]] = {}
        multiple = self.colorizer.spec.multiple
        read = partial(_working_image, self.photos, self.side, multiple)
        for future in read_ahead(read, indices):
            self.colorizer.device_manager.check_interrupt()
            try:
                image = future.result()
            except ImageError as error:
                counts.unreadable += 1
                if len(counts.skipped_names) < MAX_SKIPPED_NAMES:
                    counts.skipped_names.append(str(error).partition(": ")[0])  # the file name
                if not quiet:
                    log.warning("skipped: %s", error)
                continue
            if image is None:
                counts.gray += 1
                continue
            counts.used += 1
            shape = tuple(image.shape)
            pending.setdefault(shape, []).append(image)
            if len(pending[shape]) >= GROUP_SIZE:
                yield torch.stack(pending.pop(shape))
            elif sum(map(len, pending.values())) >= MAX_PENDING:
                most_frequent = max(pending, key=lambda shape: len(pending[shape]))
                yield torch.stack(pending.pop(most_frequent))
        for images in pending.values():
            yield torch.stack(images)

    def _memory_required(self, height: int, width: int, images: int = 1) -> int:
        geometry = Geometry(height, width, height, width, height, width)
        return self.colorizer.memory_required(geometry, images)

    def _encode_batch(self, images: Tensor, extract: Extract) -> Rows:
        """Extract features and colors of the patches of working images (b, 3, h, w)."""
        device_manager = self.colorizer.device_manager
        count, _, height, width = images.shape
        network = device_manager.acquire(self._memory_required(height, width, count))
        with torch.inference_mode():
            rgb = images.to(device_manager.device)
            gray_rgb = color.gray_rgb(color.lightness(rgb)).to(self.colorizer.dtype)
            features = extract(cast(MemoryNetwork, network), gray_rgb)
            patch_rgb = F.interpolate(rgb, size=features[0].shape[1:3], mode="area")
            ab = color.rgb_to_lab(patch_rgb)[:, 1:].movedim(1, -1)
            rows = [x.float().flatten(0, 2).cpu() for x in (*features, ab)]
        return tuple(x.clone() for x in rows)  # no inference tensors
