"""Laws of the lightness-and-chroma merge."""

import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.merge import merge_chroma
from comfyui_colorist.pipeline.postprocess import Finish


def random_image(batch=1, height=48, width=64, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(batch, channels, 6, 8, generator=generator) * 0.6 + 0.2
    image = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    return image.movedim(1, -1).contiguous()


def lab(image):
    return color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())


@pytest.mark.parametrize("size", [(12, 16), (48, 64), (96, 128), (47, 64), (25, 33)])
def test_lightness_of_the_first_chroma_of_the_second(size):
    photo, source = random_image(channels=1), random_image(height=size[0], width=size[1], seed=1)
    merged = lab(merge_chroma(photo, source))
    gray = lab(photo.expand(-1, -1, -1, 3))
    assert (merged[:, :1] - gray[:, :1]).abs().max() < 0.02
    wanted = lab(random_image(seed=1))[:, 1:]
    wanted_rgb = color.to_gamut(torch.cat([gray[:, :1], wanted], dim=1))
    assert (merged[:, 1:] - color.rgb_to_lab(wanted_rgb)[:, 1:]).abs().mean() < 3


def test_merging_an_image_with_itself_changes_nothing():
    photo = random_image()
    assert (merge_chroma(photo, photo) - photo).abs().max() < 0.05


def test_batches():
    photos, sources = random_image(3), random_image(3, 24, 32, seed=1)
    merged = merge_chroma(photos, sources)
    for i in range(3):
        single = merge_chroma(photos[i : i + 1], sources[i : i + 1])
        torch.testing.assert_close(merged[i : i + 1], single)
    shared = merge_chroma(photos, sources[:1])
    torch.testing.assert_close(shared[:1], merged[:1])
    with pytest.raises(ValueError, match="color has 2 images but luminance has 3"):
        merge_chroma(photos, sources[:2])


def test_alpha_is_kept_and_gray_gains_color():
    photo = random_image(channels=4)
    merged = merge_chroma(photo, random_image(1, 24, 32, seed=1))
    assert torch.equal(merged[..., 3], photo[..., 3])
    assert merge_chroma(random_image(channels=1), random_image(channels=4, seed=1)).shape == (
        1,
        48,
        64,
        3,
    )


def test_dtype_stays():
    photo = random_image()
    half = merge_chroma(photo.half(), random_image(1, 24, 32, seed=1))
    assert half.dtype == torch.float16
    assert (half.float() - merge_chroma(photo, random_image(1, 24, 32, seed=1))).abs().max() < 5e-3


def test_controls_and_mask():
    photo, source = random_image(), random_image(seed=1)
    assert torch.equal(merge_chroma(photo, source, controls=Finish(strength=0)), photo)
    gray = lab(merge_chroma(photo, source, controls=Finish(saturation=0)))
    assert gray[:, 1:].abs().max() < 0.1
    mask = torch.zeros(1, 48, 64)
    assert torch.equal(merge_chroma(photo, source, mask=mask), photo)


def test_aspect_ratio():
    merge_chroma(
        random_image(height=333, width=500), random_image(height=344, width=512)
    )  # multiples of 8
    with pytest.raises(ValueError, match="color is 512x512 and luminance is 500x333.*aspect"):
        merge_chroma(random_image(height=333, width=500), random_image(height=512, width=512))
    merge_chroma(random_image(height=1, width=1), random_image(height=1, width=1))


def test_hooks():
    calls = []
    merge_chroma(
        random_image(2),
        random_image(seed=1),
        check_interrupt=lambda: calls.append("before"),
        progress=calls.append,
    )
    assert calls == ["before", 1, "before", 2]


def test_color_edges_follow_the_photo():
    """The color of a small image changes at the photo's edge although its tones differ."""
    photo = torch.full((1, 64, 64, 3), 0.3)
    photo[:, :, 29:] = 0.6
    source = torch.tensor([0.7, 0.5, 0.45]).repeat(1, 64, 64, 1)
    source[:, :, 29:] = torch.tensor([0.45, 0.5, 0.75])
    small = torch.nn.functional.interpolate(
        source.movedim(-1, 1), size=(16, 16), mode="bilinear", antialias=True
    ).movedim(1, -1)
    a = lab(merge_chroma(photo, small))[0, 1, 32]
    plain = lab(merge_chroma(photo, small, controls=Finish(upsample="bilinear")))[0, 1, 32]
    step, plain_step = (a[28] - a[29]), (plain[28] - plain[29])
    assert step > 2 * plain_step > 0
