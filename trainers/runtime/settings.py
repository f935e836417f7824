"""Settings that trainers share, and their validation."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

AT_LEAST_ONE, COUNT = (1, math.inf), (0, math.inf)
NON_NEGATIVE, FRACTION = (0.0, math.inf), (0.0, 1.0)
# Setting -> smallest and largest value, for the settings of all trainers.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "batch", "accumulate", "threads"), AT_LEAST_ONE),
    **dict.fromkeys(("report_every", "save_every", "discriminator_width"), AT_LEAST_ONE),
    **dict.fromkeys(("held_out", "seed", "warmup", "resolution", "frozen_stages"), COUNT),
    **dict.fromkeys(("learning_rate", "encoder_rate", "weight_decay", "clip"), NON_NEGATIVE),
    **dict.fromkeys(("pixel", "huber", "psnr", "perceptual", "feature"), NON_NEGATIVE),
    **dict.fromkeys(("adversarial", "colorfulness", "color_enhance"), NON_NEGATIVE),
    **dict.fromkeys(("histogram", "variation"), NON_NEGATIVE),
    **dict.fromkeys(("average", "recolor", "damage", "start_share", "teacher_share"), FRACTION),
    **dict.fromkeys(("without", "base_share", "last_rate"), FRACTION),
    "smallest": (0.05, 1.0),
    "fade": (0.0, 50.0),
    "gain": (0.0, 4.0),
}
CHOICES = {
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cuda", "cpu"),
}


@dataclass
class Settings:
    """Settings shared by all trainers. Their docstrings are the help texts of the flags."""

    photos: tuple[str, ...] = ()
    """Training photos: folders and .tar shards. URLs and pipe:COMMAND of shards are streamed;
    {000..099} in a name expands to many shards."""
    stream: bool = False
    """Read local shards sequentially, too, which suits slow disks and network drives."""
    index: tuple[Path, ...] = ()
    """CSV files with the columns `key` and `licence_kind`, for --skip-licences."""
    skip_licences: tuple[str, ...] = ()
    """Leave out photos with these values of `licence_kind`."""
    held_out: int = 24
    """Number of photos to hold out from training and to score at each save; at most a tenth."""
    watch: tuple[str, ...] = ()
    """Folders or .tar files of photos to score instead of held-out ones; required for scores when
    photos are streamed."""
    out: Path = Path("runs/training")
    """Output folder. An existing run in it is resumed."""
    architecture: str = ""
    """Preset of the network."""
    weights: str | None = None
    """Model to start from: a file, or the name of a bundled or installed model. It determines the
    architecture."""
    resolution: int = 0
    """Default working resolution of the trained model; 0 = as in --weights or the architecture."""
    offline: bool = False
    """Never download anything."""
    licence: str = ""
    """License of the trained model, stored in its metadata."""
    steps: int = 1
    """Number of training steps."""
    batch: int = 1
    """Photos per step, over all processes."""
    accumulate: int = 1
    """Split the batch of each process into this many parts to save memory. Batch norm then sees one
    part at a time, and the discriminator is updated before the last part."""
    crop: tuple[int, ...] = (256,)
    """Side of the training crop in pixels. Several sides are used one after the other."""
    crop_until: tuple[int, ...] = ()
    """Steps at which --crop switches to the next side; one fewer than sides."""
    smallest: float = 1.0
    """Smallest crop, as a fraction of the shorter side of the photo; 1 = always the whole side."""
    learning_rate: float = 1e-4
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Weight decay of AdamW. Norms, biases and position tables are exempt."""
    warmup: int = 0
    """Number of steps in which the learning rate rises linearly."""
    huber: float = 0.0
    """Error in ab units below which the pixel loss is quadratic."""
    average: float = 0.999
    """Decay of the moving average of the weights. The average is the result."""
    clip: float = 0.0
    """Largest gradient norm; 0 = no limit."""
    seed: int = 0
    """Random seed for initialization, data order and augmentation."""
    device: str = "auto"
    """cuda, cpu, or auto = the best device available."""
    dtype: str = "float32"
    """Precision of the forward pass: float32, bfloat16, float16, or auto = bfloat16 on GPUs that
    support it, float16 on other GPUs, float32 on CPUs."""
    threads: int = 2
    """Number of threads that load photos, per process."""
    report_every: int = 100
    """Steps between two lines in the log."""
    save_every: int = 1000
    """Steps between two saves."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise ValueError("photos: name at least one folder or .tar file (--photos PATH ...).")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name, low)
            if value is not None and not low <= value <= high:
                end = f"to {high}" if math.isfinite(high) else "or more"
                raise ValueError(f"{name} is {value}; expected {low} {end}.")
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}, but a batch of {self.batch} photos cannot be "
                "divided evenly into that many parts."
            )
        if any(side % 32 or side < 32 for side in self.crop):
            raise ValueError(f"crop is {self.crop}; each side must be a multiple of 32.")
        switches = list(self.crop_until)
        if len(self.crop) > 1 and (
            len(switches) != len(self.crop) - 1 or sorted(switches) != switches
        ):
            raise ValueError(
                f"crop has {len(self.crop)} sides and crop_until {len(switches)} steps; "
                "expected one step fewer than sides, in rising order."
            )
        for name, choices in CHOICES.items():
            require_choice(name, getattr(self, name), choices)

    def side(self, step: int) -> int:
        """Return the side of the training crop at `step`."""
        index = sum(step >= until for until in self.crop_until)
        return self.crop[min(index, len(self.crop) - 1)]

    def fixed_side(self, step: int) -> Callable[[int], int]:
        """Return a function that gives the side at `step` for every step."""
        side = self.side(step)
        return lambda _: side


def require_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}'; expected one of {', '.join(choices)}.")


def validate_architecture(weights: str | None, architecture: str, presets: Collection[str]) -> None:
    """Raise ValueError unless there are weights to start from, or a known preset."""
    if weights or architecture in presets:
        return
    if not architecture:
        raise ValueError(
            "this preset continues the training of a model: name one with --weights, such as "
            f"{list(presets)[-1]}."
        )
    raise ValueError(
        f"architecture is '{architecture}'; expected one of {', '.join(presets)}, or a model "
        "to start from (--weights FILE)."
    )


@dataclass
class AutomaticSettings(Settings):
    """Settings shared by the trainers of automatic colorizers: encoder, teacher and losses."""

    backbone: str | None = None
    """ImageNet weights for the encoder: a file, or the name of a network of the encoder's type."""
    frozen_stages: int = 0
    """Number of encoder stages to freeze, counted from the input."""
    encoder_rate: float = 1.0
    """Factor on the learning rate of the encoder."""
    damage: float = 0.0
    """Fraction of photos whose gray input is damaged like old prints and scans (grain, blur,
    scratches, faded tones, borders). Target colors are not changed."""
    teacher: str | None = None
    """Trained automatic model to learn from (distillation): a file, or the name of a bundled or
    installed model. Its answers are blended into the target colors."""
    teacher_share: float = 0.5
    """Weight of the teacher's answers in the target colors; 0 = photos only."""
    vgg: str | None = None
    """ImageNet weights of VGG-16 for the perceptual loss: a file, or vgg16_bn."""
    fade: float | None = None
    """Chroma C* that the trained model reduces by half when it colors photos; weaker colors turn
    gray. Does not affect training. Default: as in --weights, else 0 = off."""
    gain: float | None = None
    """Factor on the chroma of the trained model's results. Does not affect training. Default: as in
    --weights, else 1."""
    schedule: str = "halving"
    """Learning rate: halving, or cosine = falls to zero at --steps."""
    warmup: int = 0
    """Number of steps in which the learning rate rises linearly; for the cosine schedule."""
    pixel: float = 0.1
    """Weight of the pixel loss."""
    psnr: float = 0.0
    """Weight of the PSNR loss in RGB (-PSNR / 10)."""
    perceptual: float = 5.0
    """Weight of the perceptual loss; needs --vgg."""
    adversarial: float = 1.0
    """Weight of the adversarial loss; 0 trains without a discriminator."""
    colorfulness: float = 0.0
    """Weight of the colorfulness loss."""
    feature: float = 0.0
    """Weight of the feature loss: distance between result and photo in the feature maps of
    --feature-network."""
    feature_network: str | None = None
    """ImageNet weights of an EfficientNet-Lite for the feature loss: a file, or a name such as
    efficientnet_lite1."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer."""
    spectral_norm: bool = True
    """Apply spectral norm to the decoder. Turn it off for models trained without it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.backbone:
            raise ValueError("weights and backbone both initialize the encoder; give one of them.")
        if self.feature and not self.feature_network:
            raise ValueError(
                f"feature is {self.feature}, but no feature network is given. Add "
                "--feature-network efficientnet_lite1, or the file of an EfficientNet-Lite."
            )
        require_choice("schedule", self.schedule, ("halving", "cosine"))

    @property
    def needs_rgb_gradient(self) -> bool:
        """True if a loss is computed from the result in RGB."""
        perceptual = self.perceptual if self.vgg else 0
        return any((self.psnr, perceptual, self.adversarial, self.colorfulness, self.feature))
