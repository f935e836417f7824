"""Find the best reference photos for black-and-white photos.

Follows the recommendation of the exemplar paper (section 4.1) and He et al. 2018 (section 4): the
photos with the most similar descriptors form a shortlist, and a patchwise comparison ranks it. See
`descriptors` for both.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...console.checks import file_id
from ...media.errors import ImageError
from ...ops.tensors import Image, as_batch
from ..loaded_network import LoadedNetwork
from ..photos import Photo, read_ahead, read_photo
from .descriptors import (
    BATCH_SIZE,
    Descriptors,
    WhitenedSpace,
    concat,
    describe,
    encoder_name,
    is_gray_reference,
    patch_distances,
    to_working_images,
)
from .index import COLOR, GRAY, UNREADABLE, PhotoRecord, ReferenceIndex, index_file

log = logging.getLogger(__name__)

SHORTLIST = 5  # candidates that are compared patchwise (paper, section 4.1)
MAX_FRAMES = 32  # frames of a target batch that are used, evenly spaced
SAME_IMAGE_TOLERANCE = 1.5 / 255  # largest difference between two copies of one working image
TARGETS_PER_STEP = 16  # targets compared at a time when a whole gallery is ranked


@dataclass(frozen=True)
class Match:
    """Reference found for a target."""

    index: int
    """Position in the gallery."""
    score: float
    """Distance: 0 for the same scene, about 0.2 for everyday photos. Lower is better."""

    @property
    def similarity(self) -> float:
        """Similarity 1 - score, 0..1, for display: higher is better."""
        return max(0.0, 1 - self.score)


@dataclass
class Ranking:
    """References found for one target, best first, and the photos that cannot be references."""

    matches: list[Match] = field(default_factory=list)
    photos: int = 0
    """Number of color photos to choose from."""
    gray: list[int] = field(default_factory=list)
    """Positions of gray photos in the gallery."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Position in the gallery -> error."""


@dataclass
class GalleryRanking:
    """References of every photo of a gallery among the others."""

    top: np.ndarray
    """(n, 5) int64 positions of the references, best first; -1 if there are fewer."""
    gray: list[int] = field(default_factory=list)
    """Positions of gray photos in the gallery."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Position in the gallery -> error."""


def find_references(
    target: Image | str | Path,
    gallery: Sequence[Photo],
    colorizer: LoadedNetwork,
    *,
    count: int = 1,
    index: ReferenceIndex | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Find the photos of `gallery` that are the best references for `target`.

    The target itself is excluded: its file, and images with the same pixels. The same target and
    gallery give the same ranking, with or without an index.

    Args:
        target: a file, or (H, W, C) or (B, H, W, C) float sRGB in 0..1 with C = 1, 3 or 4. The
            frames of a batch are ranked together by their mean score; at most 32 are used.
        gallery: files, or (H, W, C) float sRGB in 0..1. The best ones are read a second time.
        colorizer: its encoder describes the images: `loader.load(descriptors.ENCODER)`.
        count: number of references to find, if there are as many color photos.
        index: stores descriptors of photo files for the next search.
        progress: called with (done, total) photos.
    Raises:
        ImageError: `target` is a file that cannot be read.
        ValueError: the gallery has no color photo, an argument is unsuitable, or the network has no
            encoder.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1.")
    if isinstance(gallery, str | Path):
        raise ValueError(f"gallery is one path, '{gallery}'; expected a list of photo files.")
    frames = _target_images(target)
    target_descriptors = describe(colorizer, frames)
    target_id = _file_id(target)
    ranking = Ranking()
    vectors = _describe_gallery(gallery, colorizer, index, ranking, progress)
    usable = [i for i in vectors if target_id is None or _file_id(gallery[i]) != target_id]
    ranking.photos = len(usable)
    _require_references(ranking, len(gallery))
    usable_vectors = torch.stack([vectors[i] for i in usable]).float()
    space = WhitenedSpace(usable_vectors)
    similarity = space(target_descriptors.vectors.float()) @ space(usable_vectors).T
    nearest = similarity.mean(0).argsort(descending=True, stable=True).tolist()
    indices, candidates = _describe_candidates(
        (usable[i] for i in nearest), max(SHORTLIST, count), gallery, colorizer, frames
    )
    if candidates is None:
        ranking.photos = 0
        raise _no_references(ranking, len(gallery))
    nested = Descriptors(*(x[None] for x in candidates))
    distances = [patch_distances(target_descriptors.select(i), nested) for i in range(len(frames))]
    scores = torch.cat(distances).mean(0)
    best = scores.argsort(stable=True).tolist()[:count]
    ranking.matches = [Match(indices[i], float(scores[i])) for i in best]
    if progress:
        progress(len(gallery), len(gallery))
    return ranking


def rank_gallery(
    gallery: Sequence[Photo],
    colorizer: LoadedNetwork,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> GalleryRanking:
    """Find the five best references of every photo of `gallery` among the others.

    Gray photos get references but are not references themselves. Needs 22 kB per photo.

    Args:
        gallery: see `find_references`; each photo is read once.
        colorizer: see `find_references`.
        progress: called with (done, total) photos.
    Raises:
        ValueError: see `find_references`.
    """
    ranking = GalleryRanking(np.full((len(gallery), SHORTLIST), -1))
    indices: list[int] = []
    has_color: list[bool] = []
    storage: Descriptors | None = None
    for photo in _describe_photos(gallery, range(len(gallery)), colorizer, progress):
        if isinstance(photo, _UnreadablePhoto):
            ranking.unreadable[photo.index] = photo.error
            continue
        if photo.is_gray:
            ranking.gray.append(photo.index)
        if storage is None:  # allocated once, for the whole gallery
            storage = Descriptors(
                *(x.new_empty(len(gallery), *x.shape[1:]) for x in photo.descriptors)
            )
        for rows, row in zip(storage, photo.descriptors, strict=True):
            rows[len(indices)] = row[0]
        indices.append(photo.index)
        has_color.append(not photo.is_gray)
    if storage is None or not any(has_color):
        raise _no_references(ranking, len(gallery))
    descriptors = Descriptors(*(x[: len(indices)] for x in storage))
    usable = torch.tensor(has_color)
    vectors = descriptors.vectors.float()
    points = WhitenedSpace(vectors[usable])(vectors)
    gallery_index = np.asarray(indices)
    shortlist = min(SHORTLIST, int(usable.sum()))
    for first in range(0, len(points), TARGETS_PER_STEP):
        colorizer.device_manager.check_interrupt()
        targets = torch.arange(first, min(first + TARGETS_PER_STEP, len(points)))
        similarity = points[targets] @ points.T
        similarity[:, ~usable] = -torch.inf
        similarity[torch.arange(len(targets)), targets] = -torch.inf
        similarity, nearest = similarity.topk(shortlist, dim=1)
        scores = patch_distances(descriptors.select(targets), descriptors.select(nearest))
        scores[similarity.isinf()] = torch.inf  # the target itself, if there are few photos
        scores, order = scores.sort(dim=1, stable=True)
        best = gallery_index[nearest.gather(1, order).numpy()]
        best[scores.isinf().numpy()] = -1
        ranking.top[gallery_index[targets.numpy()], :shortlist] = best
    if progress:
        progress(len(gallery), len(gallery))
    return ranking


def open_index(
    folder: str | Path, colorizer: LoadedNetwork, cache: Path | None = None
) -> ReferenceIndex:
    """Open the index of the photos in `folder`, in `cache` or the default cache folder."""
    return ReferenceIndex(index_file(folder, cache), folder, encoder_name(colorizer))


def _require_references(ranking: Ranking, photos: int) -> None:
    if not ranking.photos:
        raise _no_references(ranking, photos)


def _no_references(ranking: Ranking | GalleryRanking, photos: int) -> ValueError:
    return ValueError(
        f"none of the {photos} photos can be a reference: {len(ranking.gray)} gray, "
        f"{len(ranking.unreadable)} unreadable (the target itself is excluded). "
        "Add color photos (JPEG, PNG, TIFF, WebP)."
    )


# --- Reading and describing --------------------------------------------------------------------


def _target_images(target: Image | str | Path) -> Tensor:
    """Return at most MAX_FRAMES frames of the target at working size: (B, 3, SIDE, SIDE)."""
    from ...media import image_io  # it imports Pillow, which nodes must not do when they load

    rgb, _ = as_batch(
        image_io.read_image(target).pixels if isinstance(target, str | Path) else target
    )
    if len(rgb) > MAX_FRAMES:
        rgb = rgb[torch.linspace(0, len(rgb) - 1, MAX_FRAMES).round().long()]
    return torch.cat([to_working_images(frame[None], "target") for frame in rgb])


def _working_image(gallery: Sequence[Photo], index: int) -> Tensor:
    """Return photo `index` at working size: (3, SIDE, SIDE)."""
    return to_working_images(read_photo(gallery, index), f"photo {index + 1}")[0]


@dataclass(frozen=True)
class _UnreadablePhoto:
    index: int
    error: str


@dataclass(frozen=True)
class _DescribedPhoto:
    index: int
    image: Tensor
    """(3, SIDE, SIDE) working image."""
    is_gray: bool
    descriptors: Descriptors
    """Descriptors of this photo (B = 1)."""


def _read_photos(
    gallery: Sequence[Photo], indices: Sequence[int], colorizer: LoadedNetwork
) -> Iterator[tuple[int, Tensor | _UnreadablePhoto]]:
    """Yield the index and the working image (3, SIDE, SIDE) of photos, in order."""
    read = partial(_working_image, gallery)
    # No local variable for the futures: a traceback would keep the reader threads alive.
    for index, future in zip(indices, read_ahead(read, indices), strict=True):
        colorizer.device_manager.check_interrupt()
        try:
            yield index, future.result()
        except ImageError as error:
            log.warning("skipped: %s", error)
            yield index, _UnreadablePhoto(index, str(error))


def _describe_photos(
    gallery: Sequence[Photo],
    indices: Sequence[int],
    colorizer: LoadedNetwork,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[_DescribedPhoto | _UnreadablePhoto]:
    """Read and describe photos in batches; yield them one by one, in order."""
    done = len(gallery) - len(indices)
    photos = _read_photos(gallery, indices, colorizer)
    while batch := list(islice(photos, BATCH_SIZE)):
        images = [image for _, image in batch if isinstance(image, Tensor)]
        descriptors = describe(colorizer, torch.stack(images)) if images else None
        row = 0
        for index, image in batch:
            if isinstance(image, _UnreadablePhoto):
                yield image
            elif descriptors is not None:
                gray = is_gray_reference(image)
                yield _DescribedPhoto(index, image, gray, descriptors.select(row))
                row += 1
        done += len(batch)
        if progress:
            progress(min(done, len(gallery) - 1), len(gallery))


def _file_id(photo: Image | str | Path) -> tuple[int, int] | str | None:
    """Return an identifier that is equal for all names of a file; None for pixels."""
    if not isinstance(photo, str | Path):
        return None
    try:
        return file_id(Path(photo))
    except OSError:
        return os.path.realpath(photo)


def _describe_gallery(
    gallery: Sequence[Photo],
    colorizer: LoadedNetwork,
    index: ReferenceIndex | None,
    ranking: Ranking,
    progress: Callable[[int, int], None] | None,
) -> dict[int, Tensor]:
    """Return the descriptor vector (D,) float16 of each color photo by position in the gallery.

    Gray and unreadable photos are added to `ranking`.
    """
    records = index.lookup(gallery) if index else [None] * len(gallery)
    missing = [i for i, record in enumerate(records) if record is None]
    try:
        for photo in _describe_photos(gallery, missing, colorizer, progress):
            record = _to_record(photo)
            records[photo.index] = record
            if index:
                index.add(photo.index, record)
    finally:  # keep what is done, whatever stopped the rest
        if index:
            index.save()
    vectors: dict[int, Tensor] = {}
    for i, record in enumerate(records):
        if record is None:
            continue
        if record.vector is not None:
            vectors[i] = record.vector
        elif record.kind == GRAY:
            ranking.gray.append(i)
        else:
            ranking.unreadable[i] = record.error
    return vectors


def _to_record(photo: _DescribedPhoto | _UnreadablePhoto) -> PhotoRecord:
    if isinstance(photo, _UnreadablePhoto):
        return PhotoRecord(UNREADABLE, error=photo.error)
    if photo.is_gray:
        return PhotoRecord(GRAY)
    return PhotoRecord(COLOR, photo.descriptors.vectors[0])


def _describe_candidates(
    indices: Iterable[int],
    count: int,
    gallery: Sequence[Photo],
    colorizer: LoadedNetwork,
    frames: Tensor,
) -> tuple[list[int], Descriptors | None]:
    """Describe the first `count` photos that can be read and do not equal a frame of the target."""
    remaining = iter(indices)
    accepted: list[int] = []
    descriptors: list[Descriptors] = []
    while len(accepted) < count:
        batch = list(islice(remaining, count - len(accepted)))
        if not batch:
            break
        for photo in _describe_photos(gallery, batch, colorizer):
            if isinstance(photo, _DescribedPhoto) and not _equals_any(photo.image, frames):
                accepted.append(photo.index)
                descriptors.append(photo.descriptors)
    return accepted, concat(descriptors) if descriptors else None


def _equals_any(image: Tensor, frames: Tensor) -> bool:
    """Return True if an image equals one of the target's frames in color."""
    return bool((image - frames).abs().flatten(1).amax(1).min() <= SAME_IMAGE_TOLERANCE)
