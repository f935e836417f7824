"""From colour photos to a color memory: ColorFormer, section 3.4 and Algorithm 1 (supplement).

A row is a patch of 32 x 32 pixels of a working picture: a key (the encoder's features, projected)
and a colour (ab of its mean sRGB). What becomes of rows is in `clusters`.
"""

import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import clusters, color, files
from .batch import as_batch, repaired
from .engine import Colorizer
from .files import PictureError
from .geometry import LONGEST, Geometry, shrink
from .memory import ColorMemory, Projection

log = logging.getLogger(__name__)

ENTRIES = 512  # section 4.1 of the paper
GREY = 2.0  # mean C* below which a photo counts as grey and teaches nothing
PROJECTION_PHOTOS = 512  # photos, at most, of which a projection is made
ROWS_PER_ENTRY = 16  # at least; with fewer, an entry's colours would be chance
PCA_ROWS = 4096  # rows that PCA takes at once
READERS = 2  # threads that read photos, each of which holds a whole photo for a moment
PENDING = 64  # small pictures, at most, that wait for others of their shape
NAMES = 100  # unreadable photos that are named in the provenance
RIDGE = 1e-3  # part of the features' mean variance


def build(
    colorizer: Colorizer,
    photos: Sequence[Path | Tensor],
    *,
    entries: int = ENTRIES,
    seed: int = 0,
    side: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ColorMemory:
    """Cluster what the network's encoder sees in `photos`, and the colours it has there.

    Keys live in the space of the network's own keys, unless `fresh`. The same photos in the same
    order and the same seed give the same memory on the same machine.

    Args:
        colorizer: its network works with a color memory.
        photos: files, or (H, W, C) float sRGB in 0..1; each is asked for when it is its turn, up to
            twice, from several threads. A sequence of its own may raise PictureError.
        entries: m. Lowered, with a warning, to one for each 16 patches; clusters to which no patch
            belongs are left out.
        seed: of the choice of photos and rows, and of k-means.
        side: photos are scaled to about side x side pixels, keeping their aspect ratio; None = the
            size at which the network works (256 in the paper).
        fresh: make a new projection by PCA, for a network that is yet to be trained.
        progress: called with (done, total) photos after each batch; photos of which a projection is
            made count twice.
    Returns:
        keys (m, k) and values (n, m, 2): n colours of each entry by ascending hue angle, that is
        counter-clockwise in the ab plane. An entry with fewer than n colours repeats them.
        `provenance` tells photos used, grey, unreadable (`skipped`: names of the first 100), and
        patches, seed, side, projection.
    Raises:
        ValueError: no photo that teaches anything, or settings or a network that cannot be used.
        OSError: no room for the temporary file.
        RuntimeError: scikit-learn is missing.
        MemoryError: one photo alone does not fit.
    """
    side = side or colorizer.spec.resolution
    refuse(colorizer, photos, entries, side)
    sample = clusters.sample(len(photos), PROJECTION_PHOTOS, seed)
    encoding = _Encoding(colorizer, photos, side, progress, total=len(photos))
    width, groups = colorizer.spec.memory.key_width, colorizer.spec.memory.groups
    projection, made = _own_projection(colorizer, fresh), "the network's own"
    explained = spread = None
    if projection is None:
        encoding.total += len(sample)
        if fresh:
            made = "PCA of these photos"
            projection, explained = _principal(encoding, sample, width)
        else:
            made = "fitted to the network's attention"
            projection, explained, spread = _fitted(encoding, sample, width)
    tally = Tally()
    with tempfile.TemporaryFile() as file:
        spool = clusters.Spool(file, width, encoding.rows_expected)
        for features, ab in encoding.run(range(len(photos)), _features, tally):
            spool.append(projection(features), ab, colorizer.name)
        tally.refuse_none(len(photos))
        wanted = max(1, min(entries, spool.rows // ROWS_PER_ENTRY))
        if wanted < entries:
            log.warning(
                "%d photos have %d patches, enough for %d entries instead of %d.",
                *(tally.used, spool.rows, wanted, entries),
            )
        centers = clusters.centers(spool, wanted, seed)
        colorizer.placement.check_interrupt()
        keys, counts, bins = clusters.labelled(spool, centers, colorizer.placement.check_interrupt)
    values = clusters.color_groups(bins, len(keys), groups, seed)
    if spread is not None:
        keys, projection = _as_spread_as(spread, keys, counts, projection)
    provenance = {
        "network": colorizer.name,
        "photos": tally.used,
        "grey": tally.grey,
        "unreadable": tally.unreadable,
        "skipped": tally.names,
        "patches": spool.rows,
        "entries": len(keys),
        "entries_asked": entries,
        "seed": seed,
        "side": side,
        "projection": made,
    }
    if explained is not None:
        provenance["explained_variance"] = round(explained, 4)
    return ColorMemory(
        keys=torch.from_numpy(keys).float(),
        values=torch.from_numpy(values).float(),
        encoder=colorizer.encoder,
        projection=projection,
        provenance=provenance,
    )


def refuse(colorizer: Colorizer, photos: Sequence, entries: int, side: int | None = None) -> None:
    """Raise ValueError, or RuntimeError without scikit-learn, where `build` could not begin."""
    if colorizer.spec.memory is None:
        raise ValueError(f"{colorizer.name} has no color memory; choose a ColorFormer network.")
    if entries < 1:
        raise ValueError(f"entries is {entries}; expected at least 1.")
    if side is not None and side < colorizer.spec.multiple:
        raise ValueError(f"side is {side}; this network needs at least {colorizer.spec.multiple}.")
    if not len(photos):
        raise ValueError("no photos to build a color memory of; give colour photos.")
    clusters.k_means()


# --- Photos to features and colours (lines 2 to 8) -----------------------------------------------


@dataclass
class Tally:
    """What became of the photos."""

    used: int = 0
    grey: int = 0
    unreadable: int = 0
    names: list[str] = field(default_factory=list)

    def refuse_none(self, photos: int) -> None:
        """Raise ValueError unless a photo was used."""
        if not self.used:
            raise ValueError(
                f"none of the {photos} photos teaches colours: {self.grey} grey, "
                f"{self.unreadable} unreadable. Give colour photos (JPEG, PNG, TIFF, WebP)."
            )


def working_size(height: int, width: int, side: int, multiple: int) -> tuple[int, int]:
    """(h, w) of about side x side pixels in the photo's proportions, multiples of `multiple`."""
    scale = min(side / math.sqrt(height * width), LONGEST * side / max(height, width))
    h, w = (max(1, round(length * scale / multiple)) * multiple for length in (height, width))
    return h, w


def _small(photos: Sequence[Path | Tensor], index: int, side: int, multiple: int) -> Tensor | None:
    """One photo as its working picture (3, h, w) float32 on the CPU; None for a grey one."""
    photo = photos[index]
    rgb, _ = as_batch(files.read(photo).pixels if isinstance(photo, Path) else photo)
    if len(rgb) != 1:
        raise ValueError(f"photo {index + 1} has shape {tuple(photo.shape)}; expected (H, W, C).")
    if rgb.shape[-1] == 1:
        return None
    rgb = repaired(rgb[..., :3].movedim(-1, 1), f"photo {index + 1}")
    h, w = working_size(*rgb.shape[2:], side, multiple)
    small = shrink(rgb, Geometry(*rgb.shape[2:], h, w, h, w), "cpu")
    grey = color.chroma(color.rgb_to_lab(small)[:, 1:]).mean() < GREY
    return None if grey else small[0]


@dataclass
class _Encoding:
    """Runs the network over photos."""

    colorizer: Colorizer
    photos: Sequence[Path | Tensor]
    side: int
    progress: Callable[[int, int], None] | None
    total: int
    """Photos to look at, over all passes."""
    done: int = 0

    @property
    def rows_expected(self) -> int:
        """About so many patches, rather more."""
        per_photo = (self.side / self.colorizer.spec.multiple + 0.5) ** 2
        return math.ceil(len(self.photos) * per_photo)

    def run(
        self,
        order: Sequence[int],
        what: Callable[[nn.Module, Tensor], tuple[Tensor, ...]],
        tally: Tally,
        quiet: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]:
        """For each batch of photos in `order`: `what`(network, grey pictures), and ab of patches.

        Yields:
            tensors (rows, ...) float32 on the CPU, a row for each patch; the last one is ab (rows,
            2) in Lab units.
        """
        looked_at = 0
        for pictures, looked_at in self._batches(order, tally, quiet):
            yield self._encoded(pictures, what)
            if self.progress:
                self.progress(self.done + looked_at, self.total)
        self.done += len(order)
        if self.progress and looked_at < len(order):  # the last ones taught nothing
            self.progress(self.done, self.total)

    def _batches(
        self, order: Sequence[int], tally: Tally, quiet: bool
    ) -> Iterator[tuple[Tensor, int]]:
        """Working pictures (b, 3, h, w) of equal shape, and the number of photos looked at."""
        pending: dict[tuple[int, int], list[Tensor]] = {}
        looked_at = 0
        for reading in self._read_ahead(order):
            self.colorizer.placement.check_interrupt()
            looked_at += 1
            try:
                small = reading.result()
            except PictureError as error:
                tally.unreadable += 1
                if len(tally.names) < NAMES:  # a PictureError begins with the name
                    tally.names.append(str(error).partition(": ")[0])
                if not quiet:
                    log.warning("left out: %s", error)
                continue
            if small is None:
                tally.grey += 1
                continue
            tally.used += 1
            same = pending.setdefault(tuple(small.shape[1:]), [])
            same.append(small)
            if len(same) >= self._at_once(small):
                yield torch.stack(pending.pop(tuple(small.shape[1:]))), looked_at
            elif sum(map(len, pending.values())) >= PENDING:
                longest = max(pending, key=lambda shape: len(pending[shape]))
                yield torch.stack(pending.pop(longest)), looked_at
        for same in pending.values():
            self.colorizer.placement.check_interrupt()
            yield torch.stack(same), looked_at

    def _read_ahead(self, order: Sequence[int]) -> Iterator["Future[Tensor | None]"]:
        with ThreadPoolExecutor(READERS) as pool:
            waiting: deque[Future] = deque()
            multiple = self.colorizer.spec.multiple
            try:
                for index in order:
                    waiting.append(pool.submit(_small, self.photos, index, self.side, multiple))
                    if len(waiting) > 2 * READERS:
                        yield waiting.popleft()
                yield from waiting
            finally:
                pool.shutdown(cancel_futures=True)

    def _shape(self, picture: Tensor) -> Geometry:
        h, w = picture.shape[-2:]
        return Geometry(h, w, h, w, h, w)

    def _at_once(self, picture: Tensor) -> int:
        required = self.colorizer.memory_required(self._shape(picture))
        return self.colorizer.placement.images_at_once(required)

    def _encoded(
        self, pictures: Tensor, what: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        placement = self.colorizer.placement
        try:
            required = self.colorizer.memory_required(self._shape(pictures), len(pictures))
            network = placement.acquire(required)
            with torch.inference_mode():
                rgb = pictures.to(placement.device)
                gray = color.gray_rgb(color.lightness(rgb)).to(self.colorizer.dtype)
                found = what(network, gray)
                h, w = found[0].shape[1:3]
                lab = color.rgb_to_lab(F.interpolate(rgb, size=(h, w), mode="area"))
                maps = (*found, lab[:, 1:].movedim(1, -1))
                rows = [x.float().flatten(0, 2).cpu() for x in maps]
            return tuple(x.clone() for x in rows)  # no inference tensors
        except Exception as error:
            if not placement.is_out_of_memory(error):
                raise
        placement.release()
        if len(pictures) == 1:
            size = f"{pictures.shape[3]}x{pictures.shape[2]}"
            raise MemoryError(
                f"{self.colorizer.name}: out of memory on one picture of {size}. Lower the side, "
                "choose bfloat16, or free memory."
            )
        halves = [self._encoded(half, what) for half in pictures.chunk(2)]
        return tuple(torch.cat(parts) for parts in zip(*halves, strict=True))


def _features(network: nn.Module, gray: Tensor) -> tuple[Tensor]:
    """(B, h, w, c): what is clustered."""
    return (network.semantics(gray),)


# --- The way from features to keys (line 9) ------------------------------------------------------


def _own_projection(colorizer: Colorizer, fresh: bool) -> Projection | None:
    """The projection in the network's weights; None where there is none, or a new one is wanted."""
    if fresh:
        return None
    memory = colorizer.placement.acquire(0).memory
    if not memory.keys.any():
        raise ValueError(
            f"{colorizer.name}: its own color memory is empty, so that there is no key space to "
            "build in; train it first, or build a fresh memory."
        )
    if not hasattr(memory, "components") or not memory.components.any():
        return None
    components, offset = (x.detach().float().cpu() for x in (memory.components, memory.offset))
    return Projection(components.clone(), offset.clone())


class _Moments:
    """Mean and covariance of rows that pass by, in float64."""

    def __init__(self) -> None:
        self.rows, self.sum, self.products = 0, 0.0, 0.0

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.rows += len(rows)
        self.sum = self.sum + rows.sum(0)
        self.products = self.products + rows.mT @ rows

    def of(self) -> tuple[Tensor, Tensor]:
        """Mean (c,) and covariance (c, c)."""
        mean = self.sum / self.rows
        return mean, self.products / self.rows - torch.outer(mean, mean)


def _principal(encoding: _Encoding, sample: Sequence[int], width: int) -> tuple[Projection, float]:
    """PCA to `width` dimensions, batch by batch: projection, explained part of the variance."""
    from sklearn.decomposition import IncrementalPCA

    pca, tally, waiting = IncrementalPCA(width), Tally(), []
    for features, _ in encoding.run(sample, _features, tally, quiet=True):
        waiting.append(features)
        if sum(map(len, waiting)) >= PCA_ROWS + width:
            rows = torch.cat(waiting)
            pca.partial_fit(rows[:PCA_ROWS].numpy())
            waiting = [rows[PCA_ROWS:]]  # at least `width` rows, which the last batch needs
    tally.refuse_none(len(sample))
    rows = torch.cat(waiting)
    if width > min(rows.shape):
        raise ValueError(
            f"the network wants keys of width {width}, but its features have {rows.shape[1]} "
            f"channels and the photos {len(rows)} patches. Give more photos."
        )
    pca.partial_fit(rows.numpy())
    components, mean = (torch.from_numpy(x).float() for x in (pca.components_, pca.mean_))
    return Projection(components, -(components @ mean)), float(pca.explained_variance_ratio_.sum())


def _fitted(
    encoding: _Encoding, sample: Sequence[int], width: int
) -> tuple[Projection, float, float]:
    """Ridge regression from a patch's features to the key that the network attends to there.

    For networks whose projection is lost (the published program throws its PCA basis away).

    Returns:
        projection, explained part of the attended keys' variance, and `spread`: variance, summed
        over the k dimensions, of the network's own keys, each counted as often as these photos
        attend to it.
    """
    moments, tally = _Moments(), Tally()
    for features, attended, _ in encoding.run(sample, _features_and_attended, tally, quiet=True):
        moments.add(torch.cat([features, attended], dim=1))
    tally.refuse_none(len(sample))
    mean, covariance = moments.of()
    channels = len(mean) - width - 1
    x, y = slice(0, channels), slice(channels, channels + width)
    within = covariance[x, x]
    within = within + RIDGE * within.diagonal().mean() * torch.eye(channels, dtype=torch.double)
    components = torch.linalg.solve(within, covariance[x, y]).mT
    spread = float(mean[-1] - mean[y].square().sum())  # E |S|^2 - |E S|^2
    error = covariance[y, y] - components @ (2 * covariance[x, y])
    error = error + components @ covariance[x, x] @ components.mT
    explained = 1 - float(error.trace() / covariance[y, y].trace().clamp_min(1e-12))
    offset = mean[y] - components @ mean[x]
    return Projection(components.float(), offset.float()), explained, spread


def _features_and_attended(network: nn.Module, gray: Tensor) -> tuple[Tensor, Tensor]:
    """(B, h, w, c), and (B, h, w, k + 1): mean over a patch of the attended keys and of |key|^2."""
    semantics = network.semantics(gray)
    features = network.encode(gray).features.permute(0, 2, 3, 1)
    keys = network.memory.keys.float()
    known = torch.cat([keys, keys.square().sum(1, keepdim=True)], dim=1)
    attended = network.memory.attend(features, known.expand(len(gray), -1, -1)).float()
    attended = F.interpolate(attended.movedim(-1, 1), size=semantics.shape[1:3], mode="area")
    return semantics, attended.movedim(1, -1)


def _as_spread_as(
    spread: float, keys: np.ndarray, counts: np.ndarray, projection: Projection
) -> tuple[np.ndarray, Projection]:
    """Keys of a fitted projection, stretched from their mean until their variance is `spread`.

    Regression shrinks, and so do the softmax in its targets and the mean over a cluster; shrunken
    keys would be attended to more evenly than those the network has learned with. One factor for
    all dimensions: a dimension that features tell little about stays as small as it should. As
    measure serve the network's own keys as these photos use them, not all keys: photos of nothing
    but forests must not be stretched over all the world.
    """
    mean = counts @ keys / counts.sum()
    now = counts @ np.square(keys - mean).sum(1) / counts.sum()
    if now <= 0:  # a single entry
        return keys, projection
    factor = math.sqrt(max(spread, 0.0) / now)
    center = torch.from_numpy(mean).float()
    stretched = Projection(
        projection.components * factor, center + factor * (projection.offset - center)
    )
    return mean + factor * (keys - mean), stretched
