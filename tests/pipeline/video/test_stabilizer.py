"""The stabilizer removes flicker, follows real color changes and keeps lightness."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.metrics.flicker import FlickerMeter
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.video.stabilizer import (
    Stabilizer,
    StabilizerOptions,
    StabilizerState,
)

SYNTHETIC_VIDEO = Path(__file__).resolve().parents[2] / "synthetic_video.py"
synthetic_video = SimpleNamespace(**runpy.run_path(str(SYNTHETIC_VIDEO)))

DELAY = StabilizerOptions().frames_after


def steady(video, parts=None, **options):
    stabilizer = Stabilizer(StabilizerOptions(**options))
    returned = [stabilizer.push(part) for part in video.split(parts or len(video))]
    return torch.cat([*returned, *stabilizer.finish()])


def tinted(video, shifts):
    """Shift the chroma of each frame by a row of `shifts` (T, 2)."""
    lab = color.rgb_to_lab(video.movedim(-1, 1))
    lab[:, 1:] = 0.5 * lab[:, 1:] + shifts[:, :, None, None]
    return color.to_gamut(lab).movedim(1, -1)


def flickering(video, deviation=6.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    return tinted(video, deviation * torch.randn(len(video), 2, generator=random))


def ab(video):
    return color.rgb_to_lab(video.movedim(-1, 1))[:, 1:]


def lightness(video):
    return color.lightness(video.movedim(-1, 1))


def flicker(video):
    meter = FlickerMeter()
    meter.push(video)
    return meter.scores()["flicker"]


@pytest.fixture(scope="module")
def video():
    return flickering(synthetic_video.pan(0, 20))


@pytest.fixture(scope="module")
def steadied(video):
    return steady(video)


def test_removes_flicker_and_keeps_color(video, steadied):
    assert steadied.shape == video.shape
    assert flicker(steadied) < 0.15 * flicker(video)
    true = tinted(synthetic_video.pan(0, 20), torch.zeros(20, 2))
    error = torch.linalg.vector_norm(ab(steadied) - ab(true), dim=1).mean()
    before = torch.linalg.vector_norm(ab(video) - ab(true), dim=1).mean()
    assert error < 0.5 * before
    vivid, vivid_before = (torch.linalg.vector_norm(ab(x), dim=1).mean() for x in (steadied, video))
    assert vivid > 0.9 * vivid_before


def test_keeps_lightness(video, steadied):
    assert (lightness(steadied) - lightness(video)).abs().max() < 0.02


def test_stable_video_is_unchanged():
    video = tinted(synthetic_video.pan(1, 1), torch.zeros(1, 2)).expand(6, -1, -1, -1)
    assert (steady(video) - video).abs().max() < 2e-3


def test_strength_zero_is_bit_exact(video):
    assert torch.equal(steady(video[:4], strength=0.0), video[:4])


@pytest.mark.parametrize("parts", [1, 7])
def test_result_does_not_depend_on_batches(video, steadied, parts):
    assert (steady(video, parts) - steadied).abs().max() < 1e-4


@pytest.mark.parametrize("frames_after", [0, 3])
def test_resumes_from_state(video, frames_after):
    whole = steady(video, frames_after=frames_after)
    done, state = [], None
    for part in video.split(8):
        stabilizer = Stabilizer(StabilizerOptions(frames_after=frames_after), state=state)
        done += [stabilizer.push(part), *stabilizer.finish()]
        state = StabilizerState.from_tensors(stabilizer.state.to_tensors())
    parts = torch.cat(done)
    # All but the last `frames_after` frames of a part that is followed by another are the same
    same = torch.ones(len(video), dtype=torch.bool)
    for end in (8, 16):
        same[end - frames_after : end] = False
    assert (parts - whole)[same].abs().max() < 1e-4
    if frames_after:
        assert (parts - whole)[~same].abs().max() > 1e-3


def test_resumes_exactly_from_committed_state(video, steadied):
    first = Stabilizer()
    returned = first.push(video[:15])
    again = Stabilizer(state=StabilizerState.from_tensors(first.committed_state.to_tensors()))
    rest = torch.cat([again.push(video[len(returned) :]), *again.finish()])
    assert (torch.cat([returned, rest]) - steadied).abs().max() < 1e-4


def test_delay_is_frames_after(video):
    stabilizer = Stabilizer()
    numbers = [len(stabilizer.push(frame)) for frame in video[:12].split(1)]
    assert numbers == [0] * DELAY + [1] * (12 - DELAY)
    assert len([*stabilizer.finish()]) == DELAY


@pytest.mark.parametrize("frames_after", [0, DELAY])
def test_no_color_crosses_a_cut(frames_after):
    red, blue = torch.tensor([[40.0, 20.0]]), torch.tensor([[0.0, -40.0]])
    first_shot = tinted(synthetic_video.pan(2, 6), red.expand(6, -1))
    second_shot = tinted(synthetic_video.pan(12, 6), blue.expand(6, -1))
    stabilizer = Stabilizer(StabilizerOptions(frames_after=frames_after))
    both = torch.cat([stabilizer.push(torch.cat([first_shot, second_shot])), *stabilizer.finish()])
    apart = torch.cat(
        [
            steady(first_shot, frames_after=frames_after),
            steady(second_shot, frames_after=frames_after),
        ]
    )
    assert stabilizer.cuts == [0, 6]
    assert (both - apart).abs().max() < 1e-4


@pytest.mark.parametrize("length", [1, 2])
def test_flash_has_no_lasting_effect(length):
    video = tinted(synthetic_video.pan(3, 12), torch.zeros(12, 2))
    flashed = video.clone()
    other = tinted(
        synthetic_video.pan(30, length, (0.0, 0.0)), torch.tensor([[60.0, 40.0]] * length)
    )
    flashed[5 : 5 + length] = other
    stabilizer = Stabilizer(StabilizerOptions(frames_after=0))
    after = torch.cat([stabilizer.push(flashed), *stabilizer.finish()])[5 + length :]
    assert (ab(after) - ab(video[5 + length :])).abs().mean() < 1.0
    assert stabilizer.cuts == [0]
    # and the color from before it is still there
    assert stabilizer.state.last.weight.median() > 5


def test_brief_light_change_has_little_weight():
    video = tinted(synthetic_video.pan(4, 9), torch.zeros(9, 2))
    lab = color.rgb_to_lab(video.movedim(-1, 1))
    lab[4, :1] = 0.6 * lab[4, :1] + 40
    lab[4, 1:] += 30
    bright = color.to_gamut(lab).movedim(1, -1)
    steadied = steady(bright, frames_after=0)
    assert (ab(steadied[5:]) - ab(video[5:])).abs().mean() < 1.5


def test_new_content_keeps_its_color():
    video, disc = synthetic_video.with_disc(
        tinted(synthetic_video.pan(5, 8, (1.0, 0.0)), torch.zeros(8, 2)), first=4
    )
    steadied = steady(video, frames_after=0)
    change, was = (
        torch.linalg.vector_norm(ab(other) - ab(video[4:5]), dim=1)[0][disc[4]].mean()
        for other in (steadied[4:5], video[3:4])
    )
    assert was > 40
    assert change < 0.25 * was


def test_keeps_alpha_and_dtype(video):
    alpha = torch.rand(3, *video.shape[1:3], 1)
    out = steady(torch.cat([video[:3], alpha], dim=-1).half())
    assert out.dtype == torch.float16
    assert torch.equal(out[..., 3:], alpha.half())


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (40, 6)])
def test_any_size(size):
    out = steady(torch.rand(3, *size, 3))
    assert out.shape == (3, *size, 3)
    assert out.isfinite().all()


def test_rejects_unsuitable_input(video):
    with pytest.raises(ValueError, match="the video is gray"):
        Stabilizer().push(video[..., :1])
    stabilizer = Stabilizer()
    stabilizer.push(video[:1])
    with pytest.raises(ValueError, match="frame 1 is 96x128 at working size, but the previous"):
        stabilizer.push(video[:1].swapaxes(1, 2))
    with pytest.raises(ValueError, match="frames_before is 0; expected 1 to 240"):
        StabilizerOptions(frames_before=0)


def test_can_be_interrupted(video):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stabilizer(check_interrupt=stop).push(video)
