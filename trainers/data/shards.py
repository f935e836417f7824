"""WebDataset shards read sequentially, for data sets larger than the disk.

A batch is made of the same number of streams whatever the number of processes. Each stream has its
own shards, visits them in a new order in each pass, and shuffles the photos of a shard in a buffer.
Processes share the streams. A stream resumes from three numbers, its `StreamPosition`.
"""

import importlib
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np

from ...media.formats import PHOTO_SUFFIXES
from .color_filter import SkippedPhotos

MAX_STREAMS = 16  # each is a thread with one open shard
SHUFFLE_BUFFER = 500  # photos

StreamPosition = tuple[int, int, int]  # pass over the shards, shard in its order, photos read of it
log = logging.getLogger(__name__)


def is_stream(source: str) -> bool:
    """Return True for sources that can only be read sequentially: URLs and `pipe:COMMAND`."""
    return "://" in source or source.startswith("pipe:")


def expand_braces(sources: Sequence[str | Path]) -> list[str]:
    """Expand `{000..099}` in sources, except where a file of that very name exists."""
    names = [str(source) for source in sources]
    if not any("{" in name for name in names):
        return names
    braceexpand = _import_webdataset("braceexpand").braceexpand
    return [
        expanded
        for name in names
        for expanded in ([name] if Path(name).exists() else braceexpand(name))
    ]


def _import_webdataset(name: str = "webdataset") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"streaming shards needs {name}: pip install webdataset") from error


class Shards:
    """Tar shards by path, URL or `pipe:COMMAND`.

    Args:
        sources: the shards.
        excluded_stems: stems of photos to leave out.
    Attributes:
        skipped: photos found to be unusable so far.
    Raises:
        ValueError: a source is a folder, or WebDataset is not installed.
    """

    def __init__(
        self, sources: Sequence[str], excluded_stems: set[str] | frozenset[str] = frozenset()
    ):
        _import_webdataset()
        self.urls = list(sources)
        wrong = [url for url in self.urls if not is_stream(url) and ".tar" not in url]
        if wrong:
            raise ValueError(
                f"{wrong[0]}: only .tar shards can be streamed; a folder needs no --stream, and "
                "cannot be mixed with URLs."
            )
        self.excluded_stems = excluded_stems
        self.skipped = SkippedPhotos()

    def open_streams(
        self,
        count: int,
        rank: int,
        world_size: int,
        seed: int,
        positions: Mapping[str, StreamPosition],
    ) -> dict[int, Iterator[tuple[StreamPosition, str, bytes]]]:
        """Open the streams of one process: number of the stream -> its photos, see `read`.

        Args:
            count: streams of all processes.
            rank, world_size: number of this process, and of all.
            seed: seed of shard order and shuffling.
            positions: where to resume each stream, by its number. Ignored if `count` changed.
        Raises:
            ValueError: the streams cannot be divided evenly.
        """
        if count % world_size:
            raise ValueError(
                f"{len(self.urls)} shards and this batch size give {count} streams, which "
                f"{world_size} processes cannot share evenly. Use more shards, or another batch "
                "size."
            )
        if positions and len(positions) != count:
            log.warning(
                "the saved run has %d streams, this one %d: all streams restart",
                len(positions),
                count,
            )
            positions = {}
        return {
            stream: self.read(stream, count, seed, positions.get(str(stream), (0, 0, 0)))
            for stream in range(rank * count // world_size, (rank + 1) * count // world_size)
        }

    def counts(self) -> dict[str, int]:
        """Return the number of shards, for logs and metadata; photos are not counted."""
        return {"shards": len(self.urls)}

    def stream_count(self, batch: int) -> int:
        """Return the largest number of streams that divides a batch evenly."""
        limit = min(MAX_STREAMS, len(self.urls))
        return max(n for n in range(1, limit + 1) if batch % n == 0)

    def read(
        self, stream: int, count: int, seed: int, position: StreamPosition
    ) -> Iterator[tuple[StreamPosition, str, bytes]]:
        """Yield (position, key, file) of the photos of one stream after `position`, endlessly.

        Unreadable shards are logged and skipped.

        Raises:
            ValueError: the shards hold no photos.
        """
        urls = self.urls[stream::count]
        first_pass, first_shard, already_read = position
        for epoch in itertools.count(first_pass):
            order = np.random.default_rng([seed, stream, epoch]).permutation(len(urls))
            photos = already_read
            for number in range(first_shard, len(urls)):
                rng = random.Random(f"{seed} {stream} {epoch} {number}")
                samples = self._shuffled_shard(urls[order[number]], rng)
                unread = itertools.islice(samples, already_read, None)
                for n, (key, data) in enumerate(unread, already_read + 1):
                    photos += 1
                    yield (epoch, number, n), key, data
                already_read = 0
            if not photos and not first_shard:
                raise ValueError(f"no photos found in {', '.join(urls)}.")
            first_shard = 0

    def _shuffled_shard(self, url: str, rng: random.Random) -> Iterator[tuple[str, bytes]]:
        """Yield key and file of the photos of one shard."""
        shuffle = _import_webdataset("webdataset.filters").shuffle
        tar = _import_webdataset("webdataset.tariterators")
        opened = tar.url_opener([{"url": url}], handler=_log_and_skip(url))
        members = tar.tar_file_expander(opened, handler=_log_and_skip(url), eof_value=None)
        photos = (
            (path.with_suffix("").as_posix(), member["data"])
            for member in members
            if is_photo(path := PurePosixPath(member["fname"]))
            and path.stem not in self.excluded_stems
        )
        return iter(shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)(photos))


def is_photo(path: PurePosixPath) -> bool:
    """Return True for photo suffixes, except hidden files such as ._IMG_1.JPG of macOS."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _log_and_skip(url: str) -> Callable[[Exception], bool]:
    """Return an error handler for WebDataset that skips the rest of a shard."""

    def handler(error: Exception) -> bool:
        log.warning("%s: skipped the rest of the shard (%s)", url, str(error).splitlines()[0])
        return True

    return handler
