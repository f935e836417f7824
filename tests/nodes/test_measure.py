"""Measure Color on the host; the numbers themselves are tested in tests/pipeline."""

import json

import pytest
import torch


@pytest.fixture
def measured(host):
    names = [put.id for put in host.nodes.MeasureColor.GET_SCHEMA().outputs]
    execute = host.nodes.MeasureColor.execute
    return lambda *images, **options: dict(
        zip(names, execute(*images, **options).args, strict=True)
    )


def pictures(count=2, size=(24, 32)):
    return torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(0))


def test_without_truth_reports_colorfulness(measured):
    found = measured(pictures())
    assert found["colorfulness"] > 20
    assert found["report"].splitlines() == [f"colorfulness: {found['colorfulness']:.1f}"]
    assert (found["psnr"], found["flicker"]) == (0, 0)


def test_with_truth_and_reference(measured):
    image = pictures()
    found = measured(image, truth=image, reference=image[:1])
    assert found["psnr"] == pytest.approx(50)
    assert found["ssim"] == pytest.approx(1)
    assert found["ciede2000"] == pytest.approx(0, abs=1e-3)
    reported = json.loads(found["json"])
    assert len(reported["pictures"]) == 2
    assert reported["mean"]["delta_colorfulness"] == 0
    assert reported["pictures"][0]["his"] == pytest.approx(1)
    first = measured(image, truth=image[:1])
    assert 5 < first["psnr"] < 50


def test_flicker_of_a_video(measured):
    frames = pictures(1, (48, 64)).expand(4, -1, -1, -1) * 0.5 + 0.2
    calm = measured(frames, film=True)
    assert calm["flicker"] < 0.1
    shifts = torch.tensor([0.05, -0.05, 0.05, -0.05])[:, None, None]
    frames = torch.stack([frames[..., 0] + shifts, frames[..., 1], frames[..., 2] - shifts], -1)
    found = measured(frames, film=True)
    assert found["flicker"] > 5
    assert "flicker: " in found["report"]


def test_refusals(measured):
    with pytest.raises(ValueError, match="image is 32x24, but truth is 24x32"):
        measured(pictures(), truth=pictures(1, (32, 24)))
    with pytest.raises(ValueError, match="truth has 3 images, but image has 2"):
        measured(pictures(), truth=pictures(3))
    with pytest.raises(ValueError, match="reference is connected, but truth is not"):
        measured(pictures(), reference=pictures(1))
