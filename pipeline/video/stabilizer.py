"""Steady colour over the frames of a film: chroma is carried along motion and averaged.

Each frame was coloured by itself, so its colours flicker. What a place showed in frames before and
after is brought to it along the motion of lightness (`optical_flow`), as far as that is trusted:

    forward   x_t = (w' M(x_t-1) + ab_t) / (w' + 1),   w_t = w' + 1,   w' = kept(M(w_t-1))
    backward  the same from `ahead` frames later, without the frame itself: y_t, v_t
    result    (w_t x_t + v_t y_t) / (w_t + v_t)

x is the mean so far, w how many frames' worth of colour stand behind it, M what motion brings to a
place. Of w a part of frames / (frames + 1) is kept, and no more than trust in the motion allows.
After a cut, and where something comes into sight, that is about 0: colour begins anew. Only chroma
changes, by a smooth difference at working size; a film without flicker stays as it is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...ops import color, optical_flow, resize
from ...ops.chroma_upsampling import Upsampler
from ...ops.optical_flow import small_lab
from ...ops.tensors import as_batch, repaired

LIGHT = 12.0  # change of L along motion at which a frame's own colour has a third of its say,
LEAST = 0.05  # and the least that it has


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What a user sees."""

    strength: float = 1.0
    """0 leaves the film as it is, 1 gives fully steadied colour."""
    frames: int = 12
    """How many frames before have a say: more is steadier, but follows changes of light later."""
    ahead: int = 8
    """How many frames after have a say, too; 0 = none."""
    resolution: int = 256
    """Square root of the area at which motion is looked for and colour is carried."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("strength", 0, 1),
            ("frames", 1, 240),
            ("ahead", 0, 64),
            ("resolution", 16, 1024),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")

    @property
    def keep(self) -> float:
        """What is left of the weight of the past from frame to frame."""
        return self.frames / (self.frames + 1)


class Carried(NamedTuple):
    """The colour of a frame at working size."""

    ab: Tensor
    """(1, 2, h, w) mean chroma so far, in Lab units."""
    weight: Tensor
    """(1, 1, h, w) frames' worth of colour behind it."""


@dataclass(frozen=True)
class State:
    """What one part of a film leaves to the next: its last frame with its colour, a megabyte."""

    trail: optical_flow.Trail
    last: Carried
    parked: Carried | None = None
    """Of the frame before a flash; where the trail has one."""

    def to(self, device: torch.device | str) -> "State":
        """The same on another device."""
        return self.of({name: x.to(device) for name, x in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """For a safetensors file."""
        trail = self.trail
        named = {"L": trail.last, "ab": self.last.ab, "weight": self.last.weight}
        if trail.parked is not None:
            parked = {"L": trail.parked, "ab": self.parked.ab, "weight": self.parked.weight}
            named |= {f"parked.{name}": x for name, x in parked.items()}
        counts = {"counts": torch.tensor([trail.since, trail.number])}
        return {name: x.contiguous() for name, x in named.items()} | counts

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "State":
        """What `tensors` came of. Raises KeyError where one is missing."""
        since, number = tensors["counts"].tolist()
        trail = optical_flow.Trail(tensors["L"], tensors.get("parked.L"), since, number)
        parked = None
        if trail.parked is not None:
            parked = Carried(tensors["parked.ab"], tensors["parked.weight"])
        return cls(trail, Carried(tensors["ab"], tensors["weight"]), parked)


@dataclass
class _Waiting:
    """A frame whose later frames have not all been seen."""

    number: int
    rgb: Tensor
    """(1, 3 or 4, H, W) as it came."""
    own: Tensor
    """(1, 2, h, w) its own chroma."""
    say: Tensor
    """(1, 1, h, w) the weight of that."""
    L: Tensor
    """(1, 1, h, w) its lightness."""
    carried: Carried
    """Its colour with that of the frames before."""
    state: State
    """After it."""
    follows: int | None = None
    """Number of the frame that its colour was carried from."""
    back: optical_flow.Motion | None = None
    """From that frame's places to this one's."""


class Stabilizer:
    """Takes frames in order, gives them back steadied, `ahead` frames later.

    How the frames are cut into parts makes no difference. With the state of another stabilizer it
    goes on where that one stopped; only that one's last `ahead` frames then miss what came after.

    Args:
        controls: see `Controls`.
        device: where to compute.
        state: what the part before left.
        before_each: called before each frame; may raise to stop.
    Attributes:
        state: what is left to the next part; None before the first frame.
        given: the state after the last frame that was given back: from there a stabilizer goes on
            exactly as this one, if it gets the frames after that one again.
        cuts: numbers of the frames that begin a shot, counted from the beginning of the film.
    """

    def __init__(
        self,
        controls: Controls | None = None,
        *,
        device: torch.device | str = "cpu",
        state: State | None = None,
        before_each: Callable[[], None] | None = None,
    ):
        self.controls = controls or Controls()
        self.device = torch.device(device)
        self.state = self.given = state and state.to(self.device)
        self.cuts: list[int] = []
        self._before_each = before_each
        self._waiting: deque[_Waiting] = deque()

    @torch.inference_mode()
    def push(self, frames: Tensor) -> Tensor:
        """Take frames (T, H, W, C), sRGB in 0..1, C of 3 or 4 (alpha is kept).

        Returns:
            (N, H, W, C) the frames that are finished now, in order; N may be 0.
        Raises:
            ValueError: grey frames, or frames of another size than those before.
        """
        frames, _ = as_batch(frames, "film")
        if frames.shape[-1] == 1:
            raise ValueError("the film is grey (one channel): there is no colour to steady.")
        done = []
        for frame in frames.split(1):
            if self._before_each:
                self._before_each()
            self._take(frame)
            if len(self._waiting) > self.controls.ahead:
                done.append(self._give())
        return torch.cat(done) if done else frames[:0]

    @torch.inference_mode()
    def finish(self) -> Iterator[Tensor]:
        """The frames (1, H, W, C) that still wait, steadied without more to come."""
        while self._waiting:
            yield self._give()

    def _take(self, frame: Tensor) -> None:
        """A frame comes in: what has a say about it from before."""
        rgb = repaired(frame.movedim(-1, 1), "film")
        L, own = small_lab(rgb[:, :3], self.controls.resolution, self.device)
        link, trail = None, optical_flow.Trail(L)
        before, number = self.state, 0
        if before is not None:
            number = before.trail.number
            link, trail = before.trail.follow(L)
        say, carried, parked = torch.ones_like(L), Carried(own, torch.ones_like(L)), None
        if link is None:
            self.cuts.append(number)
        else:
            if link.gap > 1:  # it was a flash
                self.cuts = [cut for cut in self.cuts if cut <= number - link.gap]
            from_L, colour = (
                (before.trail.last, before.last)
                if link.gap == 1
                else (before.trail.parked, before.parked)
            )
            say, carried = self._carried(L, own, from_L, colour, link.came)
        if trail.parked is not None:
            parked = before.last if trail.parked is before.trail.last else before.parked
        self.state = State(trail, carried, parked)
        self._waiting.append(
            _Waiting(
                *(number, rgb, own, say, L, carried, self.state),
                *((number - link.gap, link.went) if link else ()),
            )
        )

    def _carried(
        self, L: Tensor, own: Tensor, from_L: Tensor, colour: Carried, came: optical_flow.Motion
    ) -> tuple[Tensor, Carried]:
        """The say of a frame's own colour, and that with what another frame brings to it."""
        moved = optical_flow.warp(torch.cat([from_L, *colour], dim=1), came.flow)
        was, ab, weight = moved.split([1, 2, 1], dim=1)
        # Another light on the same thing makes other colours, and goes again: a flicker, a flash
        light = optical_flow.blur(L - was, optical_flow.CONTRAST)
        say = torch.lerp(torch.ones_like(L), (-(light / LIGHT).square()).exp(), came.trust)
        say = say.clamp_min(LEAST)
        weight = self._kept(weight, came.trust)
        return say, Carried((weight * ab + say * own) / (weight + say), weight + say)

    def _kept(self, weight: Tensor, trust: Tensor) -> Tensor:
        """What is left of the weight of carried colour: however old, no more than its odds."""
        odds = (trust / (1 - trust).clamp_min(1e-3)).square()
        weight = self.controls.keep * weight
        return weight * odds / (weight + odds).clamp_min(1e-9)

    def _give(self) -> Tensor:
        """The first frame that waits, with what has a say about it from after."""
        frame = self._waiting.popleft()
        chain, last = [], frame.number
        for later in self._waiting:
            if later.follows == last:
                chain.append(later)
                last = later.number
        ab, weight = torch.zeros_like(frame.own), torch.zeros_like(frame.say)
        for later in reversed(chain):
            total = weight + later.say
            ab = (weight * ab + later.say * later.own) / total
            ab, total = optical_flow.warp(torch.cat([ab, total], dim=1), later.back.flow).split(
                [2, 1], 1
            )
            weight = self._kept(total, later.back.trust)
        mean, behind = frame.carried
        steady = (behind * mean + weight * ab) / (behind + weight)
        change = self.controls.strength * (steady - frame.own)
        self.given = frame.state
        return self._finished(frame.rgb, frame.L, change)

    def _finished(self, rgb: Tensor, L: Tensor, change: Tensor) -> Tensor:
        """(1, C, H, W) and the change of its chroma at working size -> (1, H, W, C)."""
        out = rgb.clone()
        upsampler = Upsampler(change, L, rgb.shape[2:])
        for top, bottom in resize.strips(*rgb.shape[2:]):
            rows = rgb[:, :3, top:bottom].to(self.device, torch.float32)
            lab = color.rgb_to_lab(rows)
            changed = upsampler.rows(top, bottom, lab[:, :1])
            new = color.to_gamut(torch.cat([lab[:, :1], lab[:, 1:] + changed], dim=1))
            same = (changed == 0).all(1, keepdim=True)
            out[:, :3, top:bottom] = torch.where(same, rows, new)
        return out.movedim(1, -1)
