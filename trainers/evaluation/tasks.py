"""Evaluation tasks: the samples of each role of models, and the methods that colorize them.

docs/evaluation.md says which paper uses which protocol.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ...ops import color
from ...pipeline import by_hints
from ...pipeline.automatic import Colorizer
from ...pipeline.by_hints import PointHintColorizer
from ...pipeline.by_reference import ExemplarColorizer
from ...pipeline.hints.rasterize import draw_hints
from ...pipeline.loader import AnyColorizer
from ...pipeline.postprocess import Finish, FinishOption
from ..data.photos import Photos
from .config import Config
from .samples import (
    Sample,
    prefetch,
    quantize_8bit,
    random_hints,
    read_pairs,
    resize_to_square,
    select_photos,
    split_views,
)

ModelT = TypeVar("ModelT", bound=AnyColorizer)
PAPER_SIZES = {"automatic": 256, "pointhint": 224, "exemplar": 224}  # role -> side of the squares
PATCHES = 16, 32  # sides for PEV and B-PSNR: of the metric, and of the paper's network
LIGHTNESS_LEVELS = 101  # one for each integer L

# Names of methods that need no network. They are keys in the JSON report and must not change, so
# one of them keeps its British spelling.
GRAY = "grey"
GROUND_TRUTH = "the photos themselves"
MEAN_BY_LIGHTNESS = "mean ab per lightness"
REINHARD = f"mean {'colour'} (Reinhard)"
KRIGING = "kriging"

# Samples, their gray versions (B, 3, H, W) -> colorized (B, 3, H, W)
Method = Callable[[list[Sample], Tensor], Tensor]


@dataclass
class EvaluationTask:
    """Samples of one role and the methods that colorize them."""

    role: str
    photos: Photos
    indices: list[int]
    """Photos to use."""
    load: Callable[[int], Sample]
    """Index of a photo -> its sample."""
    methods: dict[str, Method]
    """Name -> method, models included."""
    models: list[str]
    """Names of those methods that are models."""
    patches: tuple[int, ...] = ()
    """Patch sides for PEV and B-PSNR; empty = not scored."""
    extras: dict[str, Callable[[Sample], Tensor]] = field(default_factory=dict)
    """Heading -> an additional image (1, 3, H, W) for the contact sheet."""
    note: str = ""
    """Detail of the protocol, appended to the title."""

    def title(self, count: int, size: int) -> str:
        """Return the heading of the table of scores."""
        shape = f"resized to {size}x{size}" if size else "at their original size"
        return f"{self.role}: {count} photos {shape}{self.note}"

    def results(self, samples: list[Sample], device: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the result of each method, (B, 3, H, W), quantized to 8 bits.

        Args:
            samples: samples of equal size.
            device: where to compute.
        """
        truth = torch.stack([sample.truth for sample in samples]).to(device)
        gray = color.gray_rgb(color.lightness(truth)).contiguous()
        yield GRAY, quantize_8bit(gray)
        for name, method in self.methods.items():
            yield name, quantize_8bit(method(samples, gray))
        yield GROUND_TRUTH, truth


class MeanColorByLightness:
    """Baseline: the mean ab of all pixels of each lightness.

    Its score is what color statistics are worth without looking at the content.
    """

    def __init__(self) -> None:
        self.total = torch.zeros(LIGHTNESS_LEVELS, 2, dtype=torch.float64)
        self.count = torch.zeros(LIGHTNESS_LEVELS, dtype=torch.float64)

    @classmethod
    def of(cls, photos: Iterable[Tensor]) -> "MeanColorByLightness":
        """Return the statistics of all pixels of photos (3, H, W)."""
        means = cls()
        for photo in photos:
            L, *ab = color.rgb_to_lab(photo).flatten(1).double()
            level = L.round().long().clamp(0, LIGHTNESS_LEVELS - 1)
            means.total.index_add_(0, level, torch.stack(ab, dim=1))
            means.count.index_add_(0, level, torch.ones_like(L))
        return means

    def without(self, photo: Tensor) -> "MeanColorByLightness":
        """Return the statistics without one photo (3, H, W)."""
        own, rest = MeanColorByLightness.of([photo]), MeanColorByLightness()
        rest.total, rest.count = self.total - own.total, self.count - own.count
        return rest

    def colorize(self, gray: Tensor) -> Tensor:
        """Colorize (B, 3, H, W)."""
        L = color.lightness(gray)
        means = (self.total / self.count.clamp_min(1)[:, None]).to(L)
        ab = means[L[:, 0].round().long().clamp(0, LIGHTNESS_LEVELS - 1)].movedim(-1, 1)
        return color.to_gamut(torch.cat([L, ab], dim=1))


def reinhard_transfer(samples: list[Sample], gray: Tensor) -> Tensor:
    """Apply the color transfer of Reinhard et al. 2001: the mean ab of the reference everywhere.

    The transfer scales deviations from the mean, and a and b of a gray target have none.
    """
    means = [color.rgb_to_lab(_reference(sample))[1:].mean((1, 2), True) for sample in samples]
    ab = torch.stack(means).to(gray).expand(-1, -1, *gray.shape[2:])
    return color.to_gamut(torch.cat([color.lightness(gray), ab], dim=1))


def kriging(count: int, samples: list[Sample], gray: Tensor) -> Tensor:
    """Spread the colors of `count` hint points by kriging, the first guess of point-hint models."""
    results = []
    for sample, gray_image in zip(samples, gray.split(1), strict=True):
        L = color.lightness(gray_image)
        ab, _ = by_hints.encode_hints(L, sample.hints[count], None, prior=True)
        results.append(color.to_gamut(torch.cat([L, ab], dim=1)))
    return torch.cat(results)


# --- Tasks -------------------------------------------------------------------------------------


def automatic(
    photos: Photos,
    models: Mapping[str, AnyColorizer],
    config: Config,
    size: int,
    skipped: dict[str, str],
) -> EvaluationTask:
    """Return the task of the automatic models, with mean colors by lightness as baseline."""
    own_models = _of_type(models, Colorizer)
    indices = select_photos(photos, config, skipped)

    def load(index: int) -> Sample:
        return Sample(index, photos.keys[index], resize_to_square(photos[index], size))

    samples = prefetch(photos, indices, load, skipped, MEAN_BY_LIGHTNESS)
    means = MeanColorByLightness.of(sample.truth for sample in samples)

    def by_lightness(samples: list[Sample], gray: Tensor) -> Tensor:
        """Colorize each photo with the statistics of the others."""
        pairs = zip(samples, gray.split(1), strict=True)
        return torch.cat([means.without(sample.truth).colorize(image) for sample, image in pairs])

    def network(colorizer: Colorizer, _: list[Sample], gray: Tensor) -> Tensor:
        rgb = colorizer.colorize(
            gray.movedim(1, -1), resolution=config.resolution or None, finish=_finish(config)
        )
        return rgb.movedim(-1, 1)

    methods: dict[str, Method] = {MEAN_BY_LIGHTNESS: by_lightness}
    methods |= {name: partial(network, colorizer) for name, colorizer in own_models.items()}
    return EvaluationTask("automatic", photos, indices, load, methods, list(own_models))


def by_points(
    photos: Photos,
    models: Mapping[str, AnyColorizer],
    config: Config,
    size: int,
    skipped: dict[str, str],
) -> EvaluationTask:
    """Return the task of the point-hint models, with kriging as baseline."""
    own_models = _of_type(models, PointHintColorizer)

    def load(index: int) -> Sample:
        key, truth = photos.keys[index], resize_to_square(photos[index], size)
        hints = {count: random_hints(truth, count, key, config.seed) for count in config.hints}
        return Sample(index, key, truth, hints=hints)

    def network(
        colorizer: PointHintColorizer, count: int, samples: list[Sample], gray: Tensor
    ) -> Tensor:
        results = [
            colorizer.colorize(
                image,
                hints=sample.hints[count],
                resolution=config.resolution or None,
                finish=Finish(saturation=config.saturation, fade=config.fade),
            )
            for sample, image in zip(samples, gray.movedim(1, -1).split(1), strict=True)
        ]
        return torch.cat(results).movedim(-1, 1)

    def with_hints(sample: Sample) -> Tensor:
        return draw_hints(sample.truth.movedim(0, -1)[None], sample.hints[middle]).movedim(-1, 1)

    methods: dict[str, Method] = {}
    middle = sorted(config.hints)[len(config.hints) // 2]
    for count in config.hints:
        methods[_with_hints(KRIGING, count)] = partial(kriging, count)
        for name, colorizer in own_models.items():
            methods[_with_hints(name, count)] = partial(network, colorizer, count)
    return EvaluationTask(
        "pointhint",
        photos,
        select_photos(photos, config, skipped),
        load,
        methods,
        [_with_hints(name, middle) for name in own_models],
        patches=PATCHES,
        extras={f"the {middle} hints": with_hints},
    )


def by_reference(
    photos: Photos,
    models: Mapping[str, AnyColorizer],
    config: Config,
    size: int,
    skipped: dict[str, str],
) -> EvaluationTask:
    """Return the task of the exemplar models, with the reference's mean color as baseline."""
    own_models = _of_type(models, ExemplarColorizer)
    references: dict[int, int] = {}
    if config.pairs == "self":
        indices = select_photos(photos, config, skipped)
    else:
        pairs = read_pairs(Path(config.pairs), photos)[config.skip :]
        references = dict(pairs[: config.limit or None])
        indices = list(references)

    def load(index: int) -> Sample:
        key = photos.keys[index]
        if config.pairs == "self":
            return Sample(index, key, *split_views(photos[index], size, key, config.seed))
        target, reference = (resize_to_square(photos[i], size) for i in (index, references[index]))
        return Sample(index, key, target, reference)

    def network(colorizer: ExemplarColorizer, samples: list[Sample], gray: Tensor) -> Tensor:
        results = [
            colorizer.colorize(
                image,
                reference=_reference(sample).movedim(0, -1),
                resolution=config.resolution or None,
                finish=_finish(config),
            )
            for sample, image in zip(samples, gray.movedim(1, -1).split(1), strict=True)
        ]
        return torch.cat(results).movedim(-1, 1)

    methods: dict[str, Method] = {REINHARD: reinhard_transfer}
    methods |= {name: partial(network, colorizer) for name, colorizer in own_models.items()}
    return EvaluationTask(
        "exemplar",
        photos,
        indices,
        load,
        methods,
        list(own_models),
        extras={"reference": lambda sample: _reference(sample)[None]},
        note=f", references: {Path(config.pairs).name}",
    )


TASKS = {"automatic": automatic, "pointhint": by_points, "exemplar": by_reference}


def _of_type(models: Mapping[str, AnyColorizer], kind: type[ModelT]) -> dict[str, ModelT]:
    return {name: model for name, model in models.items() if isinstance(model, kind)}


def _finish(config: Config) -> FinishOption:
    if config.finish == "published":
        return "published"
    return Finish(saturation=config.saturation, fade=config.fade)


def _reference(sample: Sample) -> Tensor:
    if sample.reference is None:
        raise ValueError(f"{sample.key}: the sample has no reference.")
    return sample.reference


def _with_hints(name: str, count: int) -> str:
    return f"{name}, {count} hint{'s' * (count != 1)}"
