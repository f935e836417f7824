"""From colour photos to a color memory: ColorFormer, section 3.4 and Algorithm 1 (supplement).

A row is a patch of 32 x 32 pixels of a working picture: a key (the encoder's features, projected)
and a colour (ab of its mean sRGB). What becomes of rows is in `clustering`.
"""

import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...media import image_io
from ...media.image_data import PictureError
from ...ops import color
from ...ops.resize import LONGEST, Geometry, shrink
from ...ops.tensors import as_batch, repaired
from ..automatic import Colorizer
from . import clustering
from . import projection as projections
from .memory import ColorMemory

log = logging.getLogger(__name__)

ENTRIES = 512  # section 4.1 of the paper
GREY = 2.0  # mean C* below which a photo counts as grey and teaches nothing
SEEDS = 2**32  # scikit-learn takes no larger ones
ROWS_PER_ENTRY = 16  # at least; with fewer, an entry's colours would be chance
READERS = 2  # threads that read photos, each of which holds a whole photo for a moment
GROUP = 8  # pictures of one shape that follow each other: the order of rows, whatever the device
PENDING = 64  # small pictures, at most, that wait for others of their shape
NAMES = 100  # unreadable photos that are named in the provenance


def build(
    colorizer: Colorizer,
    photos: Sequence[str | Path | Tensor],
    *,
    entries: int = ENTRIES,
    seed: int = 0,
    side: int | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ColorMemory:
    """Cluster what the network's encoder sees in `photos`, and the colours it has there.

    Keys live in the space of the network's own keys, unless `fresh`. The same photos in the same
    order and the same seed give the same memory on the same machine, whatever memory is free.

    Args:
        colorizer: its network works with a color memory.
        photos: files, or (H, W, C) float sRGB in 0..1; each is asked for when it is its turn, up to
            twice, from several threads. A sequence of its own may raise PictureError.
        entries: m. Lowered, with a warning, to one for each 16 patches; clusters to which no patch
            belongs are left out.
        seed: of the choice of photos and rows, and of k-means; 0 ... 2^32 - 1.
        side: photos are scaled to about side x side pixels, keeping their aspect ratio; None = the
            size at which the network works (256 in the paper).
        fresh: make a new projection by PCA, for a network that is yet to be trained.
        progress: called with (done, total) photos after each batch; photos of which a projection is
            made count twice. The last one counts as done when all rows are clustered.
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
    refuse(colorizer, photos, entries, side, seed, fresh)
    sample = clustering.sample(len(photos), projections.PHOTOS, seed)
    encoding = _Encoding(colorizer, photos, side, progress, total=len(photos))
    width, groups = colorizer.spec.memory.key_width, colorizer.spec.memory.groups
    projection, made, explained, variance = None, "the network's own", None, None
    if not fresh:
        projection = projections.own(colorizer.placement.acquire(0))
    if projection is None:
        encoding.total += len(sample)
        if fresh:
            made = "PCA of these photos"
            rows = encoding.sampled(sample, projections.features)
            projection, explained = projections.principal(rows, width)
        else:
            made = "fitted to the network's attention"
            rows = encoding.sampled(sample, projections.features_and_attended)
            projection, explained, variance = projections.fitted(rows, width)
    tally = Tally()
    with tempfile.TemporaryFile() as file:
        spool = clustering.Spool(file, width, encoding.rows_expected)
        for features, ab in encoding.run(range(len(photos)), projections.features, tally):
            spool.append(projection(features), ab, colorizer.name)
        tally.refuse_none(len(photos))
        wanted = max(1, min(entries, spool.rows // ROWS_PER_ENTRY))
        if wanted < entries:
            log.warning(
                "%d photos have %d patches, enough for %d entries instead of %d.",
                *(tally.used, spool.rows, wanted, entries),
            )
        check_interrupt = colorizer.placement.check_interrupt
        check_interrupt()
        centers = clustering.centers(spool, wanted, seed)
        check_interrupt()
        keys, counts, bins = clustering.labelled(spool, centers, check_interrupt)
    values = clustering.color_groups(bins, len(keys), groups, seed, check_interrupt)
    if variance is not None:
        keys, projection = projections.stretched(variance, keys, counts, projection)
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
    memory = ColorMemory(
        keys=torch.from_numpy(keys).float(),
        values=torch.from_numpy(values).float(),
        encoder=colorizer.encoder,
        projection=projection,
        provenance=provenance,
    )
    if progress:
        progress(encoding.total, encoding.total)
    return memory


def refuse(
    colorizer: Colorizer,
    photos: Sequence[str | Path | Tensor],
    entries: int,
    side: int | None = None,
    seed: int = 0,
    fresh: bool = False,
) -> None:
    """Raise ValueError, or RuntimeError without scikit-learn, where `build` could not begin."""
    if colorizer.spec.memory is None:
        raise ValueError(
            f"{colorizer.name} has no color memory; choose a network with a color memory (such as "
            "colorformer-nano)."
        )
    if isinstance(photos, str | Path):
        raise ValueError(f"photos is one path, '{photos}'; expected a list of photo files.")
    if entries < 1:
        raise ValueError(f"entries is {entries}; expected at least 1.")
    if side is not None and side < colorizer.spec.multiple:
        raise ValueError(f"side is {side}; this network needs at least {colorizer.spec.multiple}.")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed is {seed}; expected 0 to {SEEDS - 1}.")
    if not len(photos):
        raise ValueError("no photos to build a color memory of; give colour photos.")
    clustering.k_means()
    if not fresh and not colorizer.placement.acquire(0).memory.keys.any():
        raise ValueError(
            f"{colorizer.name}: its own color memory is empty, so that there is no key space to "
            "build in; train it first with a memory of trainers/build_color_memory.py --fresh."
        )


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


def _small(
    photos: Sequence[str | Path | Tensor], index: int, side: int, multiple: int
) -> Tensor | None:
    """One photo as its working picture (3, h, w) float32 on the CPU; None for a grey one."""
    photo = photos[index]
    rgb, _ = as_batch(image_io.read(Path(photo)).pixels if isinstance(photo, str | Path) else photo)
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
    photos: Sequence[str | Path | Tensor]
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

        Args:
            tally: of this run alone.
        Yields:
            tensors (rows, ...) float32 on the CPU, a row for each patch; the last one is ab (rows,
            2) in Lab units. Only their division into batches depends on the device.
        """
        encoded = 0
        for group in self._groups(order, tally, quiet):
            for pictures in group.split(self._at_once(group)):
                self.colorizer.placement.check_interrupt()
                yield self._encoded(pictures, what)
                encoded += len(pictures)
                self._report(encoded + tally.grey + tally.unreadable)
        self._report(len(order))  # the last ones taught nothing
        self.done += len(order)

    def sampled(
        self, order: Sequence[int], what: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]
    ) -> Iterator[tuple[Tensor, ...]]:
        """As `run`, but silent about photos left out, which another run names.

        Raises:
            ValueError: no photo was used.
        """
        tally = Tally()
        yield from self.run(order, what, tally, quiet=True)
        tally.refuse_none(len(order))

    def _report(self, done: int) -> None:
        if self.progress:
            self.progress(min(self.done + done, self.total - 1), self.total)

    def _groups(self, order: Sequence[int], tally: Tally, quiet: bool) -> Iterator[Tensor]:
        """Working pictures (b, 3, h, w) of equal shape, in an order that `order` alone decides."""
        pending: dict[tuple[int, int], list[Tensor]] = {}
        for reading in self._read_ahead(order):
            self.colorizer.placement.check_interrupt()
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
            if len(same) >= GROUP:
                yield torch.stack(pending.pop(tuple(small.shape[1:])))
            elif sum(map(len, pending.values())) >= PENDING:
                longest = max(pending, key=lambda shape: len(pending[shape]))
                yield torch.stack(pending.pop(longest))
        for same in pending.values():
            yield torch.stack(same)

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

    def _at_once(self, pictures: Tensor) -> int:
        required = self.colorizer.memory_required(self._shape(pictures))
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
