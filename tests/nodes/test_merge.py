"""Merge Chroma on the host; the merging itself is tested in tests/pipeline/test_merge.py."""

import pytest
import torch


@pytest.fixture
def merge(host):
    return lambda *images, **options: host.nodes.MergeChroma.execute(*images, **options).args[0]


def colored(batch, height, width):
    return torch.tensor([0.8, 0.4, 0.3]).expand(batch, height, width, 3).contiguous()


def test_merges(merge, grey):
    photo = grey(2, 48, 64)
    merged = merge(photo, colored(1, 24, 32))
    assert merged.shape == photo.shape
    assert (merged[..., 0] > merged[..., 2]).all()


def test_mask_and_strength(merge, grey):
    photo = grey(1, 48, 64)
    mask = torch.zeros(1, 48, 64)
    mask[:, :, 32:] = 1
    merged = merge(photo, colored(1, 24, 32), mask=mask)
    assert torch.equal(merged[:, :, :32], photo[:, :, :32])
    assert torch.equal(merge(photo, colored(1, 24, 32), strength=0.0), photo)


def test_interrupt_stops_between_images(host, merge, grey):
    host.mm.interrupt_current_processing(True)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            merge(grey(2, 48, 64), colored(1, 24, 32))
    finally:
        host.mm.interrupt_current_processing(False)


def test_another_crop_is_refused_with_both_sizes(merge, grey):
    with pytest.raises(ValueError, match="color is 32x32 and luminance is 64x48"):
        merge(grey(1, 48, 64), colored(1, 32, 32))
