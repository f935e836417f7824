"""Stabilize Chroma on the host; the steadying itself is tested in tests/pipeline."""

import pytest
import torch


@pytest.fixture
def stabilize(host):
    return lambda *images, **options: host.nodes.StabilizeChroma.execute(*images, **options).args


def film(frames=6):
    """A still scene whose colour changes from frame to frame."""
    random = torch.Generator().manual_seed(0)
    scene = 0.3 + 0.4 * torch.rand(1, 32, 40, 1, generator=random)
    return (scene + 0.05 * torch.randn(frames, 1, 1, 3, generator=random)).clamp(0, 1)


def test_steadies(stabilize):
    frames = film()
    steadied, state, cuts = stabilize(frames)
    assert steadied.shape == frames.shape
    shade = frames[..., 0] - frames[..., 2], steadied[..., 0] - steadied[..., 2]
    before, after = (x.mean((1, 2)).std() for x in shade)
    assert after < 0.4 * before
    assert state.tracker.frame_count == 6
    assert cuts == "0"
    assert torch.equal(stabilize(frames, strength=0.0)[0], frames)


def test_parts_with_the_state_are_the_whole(stabilize):
    frames = film()
    whole, _, _ = stabilize(frames, ahead=0)
    first, state, _ = stabilize(frames[:2], ahead=0)
    second, state, _ = stabilize(frames[2:], ahead=0, state=state)
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-4, rtol=0)
    assert state.tracker.frame_count == 6


def test_interrupt_stops_between_frames(host, stabilize):
    host.mm.interrupt_current_processing(True)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            stabilize(film())
    finally:
        host.mm.interrupt_current_processing(False)
