"""How much the colour of a film flickers: two numbers, over frames that come in order."""

import torch
from torch import Tensor

from ..ops import optical_flow
from ..ops.optical_flow import small_lab
from ..ops.tensors import as_batch

RESOLUTION = 256  # square root of the area at which motion is looked for
STILL = 0.3  # pixels at working size that a still place moves by at most from frame to frame
STILL_FRAMES = 4  # that long it has to be still


class Flicker:
    """Takes the frames of a film in order; memory does not grow with their number.

    The warping error of Lai et al. 2018 ("Learning blind video temporal consistency", eq. 8), of
    chroma in place of RGB, because lightness is the film's own; and the deviation over time of
    chroma where nothing moves.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.frames, self.cuts = 0, 0
        self._before: tuple[Tensor, Tensor] | None = None
        self._changes = self._places = 0.0
        self._deviations = self._still = 0.0
        self._run: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.inference_mode()
    def push(self, frames: Tensor) -> None:
        """Frames (T, H, W, C), sRGB in 0..1; grey ones do not flicker.

        Raises:
            ValueError: frames of another size than those before.
        """
        frames, _ = as_batch(frames, "film")
        rgb = frames.movedim(-1, 1)
        rgb = rgb.expand(-1, 3, -1, -1) if rgb.shape[1] == 1 else rgb[:, :3]
        for frame in rgb.split(1):
            L, ab = small_lab(frame, RESOLUTION, self.device)
            self._frame(L, ab)
            self._before = L, ab
            self.frames += 1

    def scores(self) -> dict[str, float | int]:
        """What there is up to now.

        Returns:
            flicker: mean change of chroma along motion from frame to frame, in ab units;
            still_deviation: mean standard deviation over time of chroma at places that are still
            for some frames, in ab units; frames; cuts, over which nothing is compared. 0 where
            there is nothing to compare.
        """
        deviations, still = self._deviations, self._still
        if self._run:
            more = self._ended(torch.ones_like(self._run[0]))
            deviations, still = deviations + more[0], still + more[1]
        return {
            "flicker": self._changes / max(self._places, 1e-6),
            "still_deviation": deviations / max(still, 1e-6),
            "frames": self.frames,
            "cuts": self.cuts,
        }

    def _frame(self, L: Tensor, ab: Tensor) -> None:
        if self._before is None:
            self._run = torch.ones_like(L), ab, torch.zeros_like(L)
            return
        L_before, ab_before = self._before
        if L_before.shape != L.shape:
            raise ValueError(
                f"frame {self.frames} is {L.shape[3]}x{L.shape[2]} at working size, but those "
                f"before it are {L_before.shape[3]}x{L_before.shape[2]}; measure them one by one."
            )
        came, _ = optical_flow.between(L_before, L)
        cut = came.likeness.item() < optical_flow.CUT
        self.cuts += cut
        trust = came.trust * (not cut)
        change = torch.linalg.vector_norm(ab - optical_flow.warp(ab_before, came.flow), dim=1)
        self._changes += (trust * change[:, None]).sum().item()
        self._places += trust.sum().item()
        moved = torch.linalg.vector_norm(came.flow, dim=1, keepdim=True) > STILL
        moved = moved | (trust < 0.5)
        deviations, still = self._ended(moved)
        self._deviations, self._still = self._deviations + deviations, self._still + still
        # Welford 1962: count, mean and sum of squares of each place that is still
        count, mean, squares = self._run
        count = torch.where(moved, 1, count + 1)
        away = ab - mean
        mean = torch.where(moved, ab, mean + away / count)
        more = (away * (ab - mean)).sum(1, keepdim=True)
        self._run = count, mean, torch.where(moved, 0, squares + more)

    def _ended(self, over: Tensor) -> tuple[float, float]:
        """Sum of the deviations of runs that are over, counted by their frames; those frames."""
        count, _, squares = self._run
        counted = count * (over.bool() & (count >= STILL_FRAMES))
        deviation = (squares / count).sqrt()
        return (deviation * counted).sum().item(), counted.sum().item()
