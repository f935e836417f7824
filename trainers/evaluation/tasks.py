"""What is compared with what: photos as networks are given them, and all that colours them.

One protocol for each role of a network. docs/evaluation.md says which paper has which.
"""

import json
import logging
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...ops import color, gaussian_process
from ...pipeline import by_hints
from ...pipeline.automatic import Colorizer
from ...pipeline.hints import rasterize
from ...pipeline.hints import schema as hint_schema
from ...pipeline.postprocess import Finish
from ..data.decoding import UNREADABLE
from ..data.photos import Photos
from ..data.reference_pairs import load_pairs

if TYPE_CHECKING:
    from .config import Config

SIDES = {"automatic": 256, "pointhint": 224, "exemplar": 224}  # that their papers squash photos to
SMALLEST = 33  # pixels: below, there is no border of two patches of 32
PATCHES = 16, 32  # sides for PEV and B-PSNR: of the metric, and of what the paper's network sees
LEVELS = 101  # one table entry for each whole L
TRUTH = "the photos themselves"
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class Item:
    """A photo to colour, and what is told about it."""

    place: int
    """Among the photos."""
    key: str
    true: Tensor
    """(3, H, W) in 0..1, of 8 bits."""
    reference: Tensor | None = None
    """(3, H', W')."""
    hints: dict[int, list[hint_schema.Hint]] = field(default_factory=dict)
    """Number of points -> the points."""


def as_tensor(photo: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.array(photo)).movedim(-1, 0)[None].float() / 255


def squashed(photo: Image.Image, size: int) -> Tensor:
    """(3, size, size) in 0..1; with size 0 as it is.

    Raises:
        ValueError: too small to be measured.
    """
    if size:
        photo = photo.resize((size, size), Image.Resampling.BICUBIC)
    elif min(photo.size) < SMALLEST:
        raise ValueError(f"{photo.width}x{photo.height} pixels; {SMALLEST} are needed")
    return as_tensor(photo)[0]


def views(photo: Image.Image, size: int, key: str, seed: int) -> tuple[Tensor, Tensor]:
    """Target and reference: the left and the right part of a photo, the right one mirrored.

    Both are 62 % wide and 80 % high, so that they share a strip in the middle.
    """
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    width, height = int(photo.width * 0.62), int(photo.height * 0.8)
    parts = []
    for left in (0, photo.width - width):
        top = int(rng.integers(0, photo.height - height + 1))
        parts.append(squashed(photo.crop((left, top, left + width, top + height)), size))
    return parts[0], parts[1].flip(-1)


def random_hints(true: Tensor, count: int, key: str, seed: int) -> list[hint_schema.Hint]:
    """Cells of 2x2 of (3, H, W), drawn without replacement, each in its mean colour.

    The same for every method: they depend on the photo's name, the number and the seed alone.
    """
    cell = gaussian_process.CELL
    rows, columns = (length // cell for length in true.shape[1:])
    rng = np.random.default_rng([seed, zlib.crc32(key.encode()), count])
    cells = rng.choice(rows * columns, size=min(count, rows * columns), replace=False)
    means = F.avg_pool2d(color.rgb_to_lab(true), cell).flatten(1)[:, cells]
    levels = (255 * color.lab_to_rgb(means[..., None]).clamp(0, 1)[..., 0]).round().int()
    return [
        hint_schema.Hint(
            (x + 0.5) * cell / true.shape[2],
            (y + 0.5) * cell / true.shape[1],
            "#" + "".join(f"{level:02x}" for level in rgb),
        )
        for y, x, rgb in zip(*divmod(cells, columns), levels.T.tolist(), strict=True)
    ]


def read_pairs(path: Path, photos: Photos) -> list[tuple[int, int]]:
    """Target and reference as places among the photos, which are known by their keys.

    Args:
        path: JSON [{"target": file, "reference": file}, ...]; lines `target<TAB>reference`; or
            what build_reference_pairs writes, of which the best reference is taken.
    Raises:
        ValueError: another format; none of the pairs is among the photos.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        if path.suffix.lower() == ".json":
            told = json.loads(text)
            if isinstance(told, dict):
                rows = load_pairs(path, photos)
                return [(place, row[0]) for place, row in enumerate(rows) if row]
            pairs = [(pair["target"], pair["reference"]) for pair in told]
        else:
            lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"]
            pairs = [tuple(line.split("\t")[:2]) for line in lines]
        named = dict(reversed(pairs))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a list of pairs ({error}). Expected JSON "
            '[{"target": FILE, "reference": FILE}, ...], lines of two files with a tab between '
            "them, or what build_reference_pairs.py writes."
        ) from error
    places = {PurePosixPath(key).name: place for place, key in enumerate(photos.keys)}
    places |= {key: place for place, key in enumerate(photos.keys)}

    def place(name: str) -> int | None:
        """Of a photo that is named by its path below the folder, or by its name alone."""
        path = PurePath(name)
        return places.get(path.with_suffix("").as_posix(), places.get(path.stem))

    found = [(place(target), place(reference)) for target, reference in named.items()]
    known = list(dict.fromkeys(pair for pair in found if None not in pair))
    if not known:
        raise ValueError(f"{path}: not one of its pairs is among the photos; pairs of others?")
    if left_out := len(pairs) - len(known):
        log.warning("%s: %d of %d pairs are left out: of other photos, or a target's second.",
                    path, left_out, len(pairs))  # fmt: skip
    return known[::-1]


def chosen(photos: Photos, config: "Config", skipped: dict[str, str]) -> list[int]:
    """Places of the photos to use; opens them only if `min_chroma` asks for it."""
    places = range(config.skip, len(photos))
    if config.min_chroma:

        def load(place: int) -> tuple[int, float]:
            lab = color.rgb_to_lab(as_tensor(photos[place].resize((64, 64)))[0])
            return place, color.chroma(lab[1:]).mean().item()

        found = read_ahead(photos, places, load, skipped, "chroma")
        places = (place for place, chroma in found if chroma >= config.min_chroma)
    # The limit first: of two it is the one that may be asked for one too many.
    limited = [place for _, place in zip(range(config.limit or len(photos)), places, strict=False)]
    if not limited:
        raise ValueError(
            f"there are no photos left of {len(photos)}; lower --skip or --min-chroma."
        )
    return limited


def read_ahead(
    photos: Photos,
    places: Sequence[int],
    load: Callable[[int], T],
    skipped: dict[str, str],
    what: str,
) -> Iterator[T]:
    """load(place) of each, made ahead in two threads; a bar shows how far this has come.

    What cannot be read is left out, and named in the log and in `skipped`.
    """
    from tqdm import tqdm

    pending: deque[tuple[int, Future]] = deque()
    rest = iter(places)
    with ThreadPoolExecutor(2) as pool:
        for _ in tqdm(places, desc=what, unit="photo", disable=None):
            while len(pending) < 16 and (place := next(rest, None)) is not None:
                pending.append((place, pool.submit(load, place)))
            place, future = pending.popleft()
            try:
                yield future.result()
            except UNREADABLE as error:
                name = photos.name(place)
                if name not in skipped:
                    skipped[name] = str(error)
                    log.warning("skipped %s: %s", name, error)


def eight_bits(rgb: Tensor) -> Tensor:
    """Pictures in 0..1 with the values that a file would keep."""
    return (255 * rgb.clamp(0, 1)).round() / 255


# --- Studies ---------------------------------------------------------------------------------

# Photos, their grey versions (B, 3, H, W) -> coloured (B, 3, H, W)
Method = Callable[[list[Item], Tensor], Tensor]


@dataclass
class Study:
    """Photos of one protocol, and all that colours them."""

    role: str
    photos: Photos
    places: list[int]
    load: Callable[[int], Item]
    methods: dict[str, Method]
    """Name -> what makes the pictures; those of networks are named in `networks`."""
    networks: list[str]
    patches: tuple[int, ...] = ()
    extras: dict[str, Callable[[Item], Tensor]] = field(default_factory=dict)
    """Heading -> a picture (1, 3, H, W) that a contact sheet shows besides."""

    told: str = ""
    """Of the protocol, for the heading."""

    def title(self, count: int, size: int) -> str:
        """Heading of the table."""
        how = f"squashed to {size}x{size}" if size else "of their own size"
        return f"{self.role}: {count} photos {how}{self.told}"

    def made(self, items: list[Item], device: str) -> Iterator[tuple[str, Tensor]]:
        """What each method makes of photos of one shape: name, (B, 3, H, W) of 8 bits."""
        true = torch.stack([item.true for item in items]).to(device)
        gray = color.gray_rgb(color.lightness(true)).contiguous()
        yield "grey", eight_bits(gray)
        for name, method in self.methods.items():
            made = method(items, gray)
            yield name, eight_bits(made)
        yield TRUTH, true


def automatic(
    photos: Photos,
    engines: dict[str, Colorizer],
    config: "Config",
    size: int,
    skipped: dict[str, str],
) -> Study:
    """Networks that see lightness alone, beside a table of lightness."""
    places = chosen(photos, config, skipped)

    def load(place: int) -> Item:
        return Item(place, photos.keys[place], squashed(photos[place], size))

    seen = read_ahead(photos, places, load, skipped, "mean ab per lightness")
    means = Means.of(item.true for item in seen)

    def by_lightness(items: list[Item], gray: Tensor) -> Tensor:
        """A photo's own colours are not in its table."""
        pairs = zip(items, gray.split(1), strict=True)
        return torch.cat([(means - Means.of([item.true])).painted(one) for item, one in pairs])

    def network(colorizer: Colorizer, items: list[Item], gray: Tensor) -> Tensor:
        return _colorized(colorizer, gray, config)

    methods = {"mean ab per lightness": by_lightness}
    methods |= {name: partial(network, own) for name, own in engines.items()}
    return Study("automatic", photos, places, load, methods, list(engines))


def by_points(
    photos: Photos,
    engines: dict[str, Colorizer],
    config: "Config",
    size: int,
    skipped: dict[str, str],
) -> Study:
    """Networks that spread the colours of points, beside kriging, which is their first guess."""

    def load(place: int) -> Item:
        key, true = photos.keys[place], squashed(photos[place], size)
        hints = {count: random_hints(true, count, key, config.seed) for count in config.hints}
        return Item(place, key, true, hints=hints)

    def kriged(count: int, items: list[Item], gray: Tensor) -> Tensor:
        out = []
        for item, one in zip(items, gray.split(1), strict=True):
            L = color.lightness(one)
            ab, _ = by_hints.spread(L, item.hints[count], None, prior=True)
            out.append(color.to_gamut(torch.cat([L, ab], dim=1)))
        return torch.cat(out)

    def network(colorizer: Colorizer, count: int, items: list[Item], gray: Tensor) -> Tensor:
        pairs = zip(items, gray.split(1), strict=True)
        return torch.cat([_colorized(colorizer, x, config, hints=i.hints[count]) for i, x in pairs])

    def shown(item: Item) -> Tensor:
        picture = item.true.movedim(0, -1)[None]
        return rasterize.overlay(picture, item.hints[middle]).movedim(-1, 1)

    methods: dict[str, Method] = {}
    middle = sorted(config.hints)[len(config.hints) // 2]
    for count in config.hints:
        methods[_with_hints("kriging", count)] = partial(kriged, count)
        for name, colorizer in engines.items():
            methods[_with_hints(name, count)] = partial(network, colorizer, count)
    return Study(
        "pointhint",
        photos,
        chosen(photos, config, skipped),
        load,
        methods,
        [_with_hints(name, middle) for name in engines],
        patches=PATCHES,
        extras={f"the {middle} hints": shown},
    )


def by_reference(
    photos: Photos,
    engines: dict[str, Colorizer],
    config: "Config",
    size: int,
    skipped: dict[str, str],
) -> Study:
    """Networks that take colours from another picture, beside the mean of its colours."""
    if config.pairs == "self":
        places = chosen(photos, config, skipped)

        def load(place: int) -> Item:
            key = photos.keys[place]
            return Item(place, key, *views(photos[place], size, key, config.seed))

    else:
        pairs = read_pairs(Path(config.pairs), photos)[config.skip :]
        references = dict(pairs[: config.limit or None])
        places = list(references)

        def load(place: int) -> Item:
            both = (squashed(photos[i], size) for i in (place, references[place]))
            return Item(place, photos.keys[place], *both)

    def reinhard(items: list[Item], gray: Tensor) -> Tensor:
        """Reinhard et al. 2001: a grey target's a and b have no deviation, so the mean alone."""
        means = [color.rgb_to_lab(item.reference)[1:].mean((1, 2), True) for item in items]
        ab = torch.stack(means).to(gray).expand(-1, -1, *gray.shape[2:])
        return color.to_gamut(torch.cat([color.lightness(gray), ab], dim=1))

    def network(colorizer: Colorizer, items: list[Item], gray: Tensor) -> Tensor:
        references = [item.reference.movedim(0, -1) for item in items]
        pairs = zip(references, gray.split(1), strict=True)
        return torch.cat([_colorized(colorizer, x, config, reference=r) for r, x in pairs])

    methods: dict[str, Method] = {"mean colour (Reinhard)": reinhard}
    methods |= {name: partial(network, own) for name, own in engines.items()}
    extras = {"reference": lambda item: item.reference[None]}
    told = f", references: {Path(config.pairs).name}"
    return Study("exemplar", photos, places, load, methods, list(engines), (), extras, told)


PROTOCOLS = {"automatic": automatic, "pointhint": by_points, "exemplar": by_reference}


def _colorized(colorizer: Colorizer, gray: Tensor, config: "Config", **given: object) -> Tensor:
    """(B, 3, H, W) -> the same, coloured as the settings say."""
    published = config.finish == "published"
    finish = Finish(saturation=config.saturation, fade=config.fade)
    out = colorizer.colorize(
        gray.movedim(1, -1),
        resolution=config.resolution or None,
        finish="published" if published else finish,
        **given,
    )
    return out.movedim(-1, 1)


def _with_hints(name: str, count: int) -> str:
    return f"{name}, {count} hint{'s' * (count != 1)}"


@dataclass
class Means:
    """Mean ab of the pixels of each lightness: what colour knowledge is worth without looking."""

    total: Tensor
    """(LEVELS, 2) float64."""
    number: Tensor
    """(LEVELS,)."""

    @classmethod
    def of(cls, photos: Iterable[Tensor]) -> "Means":
        """Of all pixels of (3, H, W) each."""
        means = cls(torch.zeros(LEVELS, 2).double(), torch.zeros(LEVELS).double())
        for photo in photos:
            L, *ab = color.rgb_to_lab(photo).flatten(1).double()
            level = L.round().long().clamp(0, LEVELS - 1)
            means.total.index_add_(0, level, torch.stack(ab, dim=1))
            means.number.index_add_(0, level, torch.ones_like(L))
        return means

    def __sub__(self, other: "Means") -> "Means":
        return Means(self.total - other.total, self.number - other.number)

    def painted(self, gray: Tensor) -> Tensor:
        """Colour (B, 3, H, W)."""
        L = color.lightness(gray)
        means = (self.total / self.number.clamp_min(1)[:, None]).to(L)
        ab = means[L[:, 0].round().long().clamp(0, LEVELS - 1)].movedim(-1, 1)
        return color.to_gamut(torch.cat([L, ab], dim=1))
