"""WebDataset shards read from front to back: data that is larger than any disk.

A batch is always made of the same number of streams, whatever the number of processes: each has its
own shards, in a new order for each pass, and mixes the photos of one shard in a buffer. Streams are
shared out among the processes. How far each has been read is three numbers, from which it goes on.
"""

import importlib
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np

STREAMS = 16  # at most; each is a thread with one open shard
BUFFER = 500  # photos in which those of a shard are mixed
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}  # of photos

Place = tuple[int, int, int]  # pass over the shards, shard in its order, photos of it
log = logging.getLogger(__name__)


def is_stream(source: str) -> bool:
    """Whether a source is read from front to back in any case: a URL, or `pipe:COMMAND`."""
    return "://" in str(source) or str(source).startswith("pipe:")


def expanded(sources: Sequence[str]) -> list[str]:
    """Sources with each `{000..099}` spelt out, unless there is a file of that very name."""
    if not any("{" in str(source) for source in sources):
        return list(sources)
    braceexpand = _webdataset("braceexpand").braceexpand
    return [
        one
        for source in sources
        for one in ([source] if Path(source).exists() else braceexpand(str(source)))
    ]


def _webdataset(name: str = "webdataset") -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"streaming shards needs {name}: pip install webdataset") from error


class Shards:
    """Tar shards by path, URL or `pipe:COMMAND`.

    Args:
        sources: the shards.
        skipped: stems of photos to leave out.
    Raises:
        ValueError: a folder among them, or WebDataset is not installed.
    """

    def __init__(self, sources: Sequence[str], skipped: set[str] | frozenset[str] = frozenset()):
        _webdataset()
        self.urls = [str(source) for source in sources]
        wrong = [url for url in self.urls if not is_stream(url) and ".tar" not in url]
        if wrong:
            raise ValueError(
                f"{wrong[0]}: only .tar shards can be streamed; a folder needs no --stream, and "
                "cannot be mixed with URLs."
            )
        self.skipped = skipped

    def shared(
        self, streams: int, rank: int, ranks: int, seed: int, places: Mapping[str, Place]
    ) -> dict[int, Iterator[tuple[Place, str, bytes]]]:
        """The streams of one process, of so many: number -> photos.

        Args:
            places: of streams, where they go on; see `read`.
        Raises:
            ValueError: the processes cannot share the streams evenly.
        """
        if streams % ranks:
            raise ValueError(
                f"{len(self.urls)} shards and this batch give {streams} streams, which {ranks} "
                "processes cannot share evenly. Take more shards, or another batch."
            )
        if places and len(places) != streams:
            log.warning(
                "%d streams went on, and now there are %d: all begin anew", len(places), streams
            )
            places = {}
        return {
            stream: self.read(stream, streams, seed, places.get(str(stream), (0, 0, 0)))
            for stream in range(rank * streams // ranks, (rank + 1) * streams // ranks)
        }

    def counted(self) -> dict[str, int]:
        """How many there are; the photos in them are not known."""
        return {"shards": len(self.urls)}

    def streams(self, batch: int) -> int:
        """How many streams make a batch."""
        most = min(STREAMS, len(self.urls))
        return max(n for n in range(1, most + 1) if batch % n == 0)

    def read(
        self, stream: int, streams: int, seed: int, place: Place
    ) -> Iterator[tuple[Place, str, bytes]]:
        """(place, key, file) of the photos of one stream after `place`, without end.

        Shards that cannot be read are named in the log and passed over.

        Raises:
            ValueError: there is not one photo in them.
        """
        urls = self.urls[stream::streams]
        first_pass, first_shard, passed = place
        for epoch in itertools.count(first_pass):
            order = np.random.default_rng([seed, stream, epoch]).permutation(len(urls))
            photos = passed
            for number in range(first_shard, len(urls)):
                mixed = random.Random(f"{seed} {stream} {epoch} {number}")
                samples = self._mixed(urls[order[number]], mixed)
                for used, (key, data) in enumerate(itertools.islice(samples, passed, None), 1):
                    photos += 1
                    yield (epoch, number, passed + used), key, data
                passed = 0
            if not photos and not first_shard:
                raise ValueError(f"no photos found in {', '.join(urls)}.")
            first_shard = 0

    def _mixed(self, url: str, mixed: random.Random) -> Iterator[tuple[str, bytes]]:
        """Key and file of the photos of one shard."""
        shuffle = _webdataset("webdataset.filters").shuffle
        tar = _webdataset("webdataset.tariterators")
        opened = tar.url_opener([{"url": url}], handler=_pass_over(url))
        members = tar.tar_file_expander(opened, handler=_pass_over(url), eof_value=None)
        photos = (
            (path.with_suffix("").as_posix(), member["data"])
            for member in members
            if is_photo(path := PurePosixPath(member["fname"])) and path.stem not in self.skipped
        )
        return iter(shuffle(BUFFER, initial=BUFFER, rng=mixed)(photos))


def is_photo(path: PurePosixPath) -> bool:
    """By its name: not hidden, such as ._IMG_1.JPG, which Macs leave behind."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _pass_over(url: str) -> Callable[[Exception], bool]:
    def handler(error: Exception) -> bool:
        log.warning("%s: the rest is passed over (%s)", url, str(error).splitlines()[0])
        return True

    return handler
