"""Find references: which colour photos are good references for a black-and-white one.

The recommendation of the exemplar paper (section 4.1) and He et al. 2018 (section 4): the photos
whose descriptors are most similar, and of these the best by a patchwise comparison. What is looked
at, and how it is compared, is in `descriptors`.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...media import image_io
from ...media.image_data import PictureError
from ...ops.tensors import as_batch
from ..automatic import Colorizer
from ..color_memory.builder import READERS
from .descriptors import (
    AT_ONCE,
    Looks,
    Space,
    encoder_name,
    is_grey,
    joined,
    looks,
    rows,
    scores_of,
    working_pictures,
)
from .index import COLOR, GREYISH, UNREADABLE, Index, index_file

log = logging.getLogger(__name__)

SHORTLIST = 5  # candidates that are compared patchwise (paper, section 4.1)
FRAMES = 32  # of a batch of targets that are looked at, evenly spread
SAME = 1.5 / 255  # largest difference of two working pictures that are one picture
ROWS = 16  # targets that are compared at once where every photo is one


class Match(NamedTuple):
    """A reference that was found."""

    index: int
    """Place in the gallery."""
    score: float
    """Distance: 0 = looks the same; about 0.2 for everyday photos. Lower is better."""

    @property
    def similarity(self) -> float:
        """1 - score, 0..1, for a person: higher is better."""
        return max(0.0, 1 - self.score)


@dataclass
class Ranking:
    """References found for one target, best first, and what could not be one."""

    matches: list[Match] = field(default_factory=list)
    photos: int = 0
    """Colour photos there were to choose from."""
    grey: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    """Place in the gallery -> why."""


@dataclass
class Pairs:
    """References of every photo of a gallery."""

    top: np.ndarray
    """(n, 5) int64: places of the references, best first; -1 where there are fewer."""
    grey: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)


def find(
    target: Tensor | np.ndarray | str | Path,
    gallery: Sequence[str | Path | Tensor],
    colorizer: Colorizer,
    *,
    count: int = 1,
    index: Index | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """The photos of `gallery` that are the best references for `target`.

    Never the target itself: not its file, and no picture with its very pixels. The same target and
    gallery give the same ranking, with or without an index.

    Args:
        target: a file, or (H, W, C) or (B, H, W, C) float sRGB in 0..1, C = 1, 3 or 4. Frames of a
            batch are ranked for together, by their mean score; of more than 32, 32 are looked at.
        gallery: files, or (H, W, C) float sRGB in 0..1. The best are read a second time.
        colorizer: whose encoder looks at the pictures: `loader.load(descriptors.ENCODER)`.
        count: references wanted, 1 or more; fewer are found where there are fewer colour photos.
        index: keeps what is known of photo files for the next time.
        progress: called with (done, total) photos.
    Raises:
        PictureError: `target` is a file that cannot be read.
        ValueError: no colour photo in the gallery; a count below 1, a picture of another shape; a
            network without an encoder of four maps.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1.")
    if isinstance(gallery, str | Path):
        raise ValueError(f"gallery is one path, '{gallery}'; expected a list of photo files.")
    frames = _target(target)
    wanted = looks(colorizer, frames)
    own = _identity(target)
    found = Ranking()
    known = _described(gallery, colorizer, index, found, progress)
    usable = [place for place in known if own is None or _identity(gallery[place]) != own]
    found.photos = len(usable)
    _refuse_none(found, len(gallery))
    descriptors = torch.stack([known[place] for place in usable]).float()
    space = Space(descriptors)
    nearness = (space(wanted.descriptors.float()) @ space(descriptors).T).mean(0)
    ahead = (usable[i] for i in nearness.argsort(descending=True, stable=True).tolist())
    places, candidates = _candidates(ahead, max(SHORTLIST, count), gallery, colorizer, frames)
    if not places:
        found.photos = 0
        _refuse_none(found, len(gallery))
    nested = Looks(*(x[None] for x in candidates))
    scores = torch.cat([scores_of(rows(wanted, i), nested) for i in range(len(frames))]).mean(0)
    best = scores.argsort(stable=True).tolist()[:count]
    found.matches = [Match(places[i], float(scores[i])) for i in best]
    if progress:
        progress(len(gallery), len(gallery))
    return found


def rank_all(
    gallery: Sequence[str | Path | Tensor],
    colorizer: Colorizer,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """The five best references of every photo of `gallery` among the others.

    Grey photos get references and are none. Holds 22 kB for each photo.

    Args:
        gallery: as for `find`; each photo is read once.
        colorizer: as for `find`.
        progress: called with (done, total) photos.
    Raises:
        ValueError: as `find`.
    """
    pairs = Pairs(np.full((len(gallery), SHORTLIST), -1))
    places, colored, whole = [], [], None
    for photo in _look(gallery, range(len(gallery)), colorizer, progress):
        if photo.looks is None:
            pairs.unreadable[photo.place] = photo.error
            continue
        if photo.grey:
            pairs.grey.append(photo.place)
        if whole is None:  # room for all, once
            whole = Looks(*(x.new_empty(len(gallery), *x.shape[1:]) for x in photo.looks))
        for room, tensor in zip(whole, photo.looks, strict=True):
            room[len(places)] = tensor[0]
        places.append(photo.place)
        colored.append(not photo.grey)
    usable = torch.tensor(colored, dtype=torch.bool)
    if not usable.any():
        _refuse_none(Ranking(grey=pairs.grey, unreadable=pairs.unreadable), len(gallery))
    known = Looks(*(x[: len(places)] for x in whole))
    descriptors = known.descriptors.float()
    space = Space(descriptors[usable])
    points = space(descriptors)
    order = np.asarray(places)
    take = min(SHORTLIST, int(usable.sum()))
    for first in range(0, len(points), ROWS):
        colorizer.placement.check_interrupt()
        part = torch.arange(first, min(first + ROWS, len(points)))
        nearness = points[part] @ points.T
        nearness[:, ~usable] = -torch.inf
        nearness[torch.arange(len(part)), part] = -torch.inf
        nearness, near = nearness.topk(take, dim=1)
        scores = scores_of(rows(known, part), rows(known, near))
        scores[nearness.isinf()] = torch.inf  # itself, where there are but a few photos
        scores, best = scores.sort(dim=1, stable=True)
        found = order[near.gather(1, best).numpy()]
        found[scores.isinf().numpy()] = -1
        pairs.top[order[part.numpy()], :take] = found
    if progress:
        progress(len(gallery), len(gallery))
    return pairs


def open_index(folder: str | Path, colorizer: Colorizer, cache: Path | None = None) -> Index:
    """What is known of the photos in `folder`, from `cache` or the standard cache folder."""
    return Index(index_file(folder, cache), folder, encoder_name(colorizer))


def _refuse_none(found: Ranking, photos: int) -> None:
    if not found.photos:
        raise ValueError(
            f"none of the {photos} photos can be a reference: {len(found.grey)} grey, "
            f"{len(found.unreadable)} unreadable (the target itself does not count). "
            "Give other colour photos (JPEG, PNG, TIFF, WebP)."
        )


# --- Reading and looking ----------------------------------------------------------------------


def _target(target: Tensor | np.ndarray | str | Path) -> Tensor:
    """(B, 3, SIDE, SIDE): at most FRAMES of the target's frames."""
    rgb, _ = as_batch(image_io.read(target).pixels if isinstance(target, str | Path) else target)
    if len(rgb) > FRAMES:
        rgb = rgb[torch.linspace(0, len(rgb) - 1, FRAMES).round().long()]
    return torch.cat([working_pictures(frame[None], "target") for frame in rgb])


def _small(gallery: Sequence[str | Path | Tensor], place: int) -> Tensor:
    photo = gallery[place]
    rgb, _ = as_batch(image_io.read(photo).pixels if isinstance(photo, str | Path) else photo)
    if len(rgb) != 1:
        raise ValueError(f"photo {place + 1} has shape {tuple(photo.shape)}; expected (H, W, C).")
    return working_pictures(rgb, f"photo {place + 1}")[0]


def _read(
    gallery: Sequence[str | Path | Tensor],
    places: Sequence[int],
    colorizer: Colorizer,
) -> Iterator[tuple[int, Tensor | None, str]]:
    """(place, working picture (3, SIDE, SIDE), "") or (place, None, why not), in order.

    Threads read ahead; no more than a few photos are held, and whole ones only while they shrink.
    """
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future] = deque()
        ahead = iter(places)
        try:
            for place in places:
                for further in islice(ahead, 2 * READERS + 1 - len(waiting)):
                    waiting.append(pool.submit(_small, gallery, further))
                colorizer.placement.check_interrupt()
                try:
                    small, error = waiting.popleft().result(), ""
                except PictureError as problem:
                    log.warning("left out: %s", problem)
                    small, error = None, str(problem)
                yield place, small, error
        finally:
            pool.shutdown(cancel_futures=True)


class _Photo(NamedTuple):
    """A photo of the gallery that was looked at, or could not be read."""

    place: int
    grey: bool = False
    small: Tensor | None = None
    looks: Looks | None = None
    """Of this one (B = 1)."""
    error: str = ""


def _look(
    gallery: Sequence[str | Path | Tensor],
    places: Sequence[int],
    colorizer: Colorizer,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[_Photo]:
    """Each photo, in order, a few at a time."""
    done = len(gallery) - len(places)
    reading = _read(gallery, places, colorizer)
    while some := list(islice(reading, AT_ONCE)):
        smalls = [small for _, small, _ in some if small is not None]
        seen = looks(colorizer, torch.stack(smalls)) if smalls else None
        row = 0
        for place, small, error in some:
            if small is None:
                yield _Photo(place, error=error)
            else:
                yield _Photo(place, is_grey(small), small, rows(seen, row))
                row += 1
        done += len(some)
        if progress:
            progress(min(done, len(gallery) - 1), len(gallery))


def _identity(photo: object) -> object:
    """The same for all names of one file; None for pixels, which `_candidates` compares."""
    if not isinstance(photo, str | Path):
        return None
    try:
        found = os.stat(photo)
    except OSError:
        return os.path.realpath(photo)
    return found.st_dev, found.st_ino


def _described(
    gallery: Sequence[str | Path | Tensor],
    colorizer: Colorizer,
    index: Index | None,
    found: Ranking,
    progress: Callable[[int, int], None] | None,
) -> dict[int, Tensor]:
    """Place of each colour photo -> descriptor (D,) float16; the others go into `found`."""
    known: dict[int, Tensor] = {}

    def sort_in(place: int, kind: str, what: Tensor | str | None) -> None:
        if kind == COLOR:
            known[place] = what
        elif kind == GREYISH:
            found.grey.append(place)
        else:
            found.unreadable[place] = what

    missing = list(range(len(gallery)))
    if index is not None:
        entries = index.begin(gallery)
        missing = [place for place in missing if entries[place] is None]
        for place, entry in enumerate(entries):
            if entry is not None:
                sort_in(place, *entry)
    try:
        for photo in _look(gallery, missing, colorizer, progress):
            if photo.looks is None:
                kind, what = UNREADABLE, photo.error
            elif photo.grey:
                kind, what = GREYISH, None
            else:
                kind, what = COLOR, photo.looks.descriptors[0]
            sort_in(photo.place, kind, what)
            if index is not None:
                index.add(photo.place, kind, what)
    finally:  # what is done stays, whatever stopped the rest
        if index is not None:
            index.save()
    found.grey.sort()
    found.unreadable = dict(sorted(found.unreadable.items()))
    return dict(sorted(known.items()))


def _candidates(
    ahead: Iterator[int],
    count: int,
    gallery: Sequence[str | Path | Tensor],
    colorizer: Colorizer,
    frames: Tensor,
) -> tuple[list[int], Looks | None]:
    """The first `count` places that can be read and are not the target, and their looks."""
    places, seen = [], []
    while len(places) < count and (some := list(islice(ahead, count - len(places)))):
        for photo in _look(gallery, some, colorizer):
            if photo.looks is None or _same(photo.small, frames):
                continue
            places.append(photo.place)
            seen.append(photo.looks)
    return places, joined(seen) if seen else None


def _same(small: Tensor, frames: Tensor) -> bool:
    """Whether a picture is one of the target's frames, colour and all."""
    return bool((small - frames).abs().flatten(1).amax(1).min() <= SAME)
