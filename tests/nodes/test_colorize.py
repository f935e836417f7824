"""Colorize: batches, masks, channels, dtypes, interrupt, memory."""

import pytest
import torch
from comfyui_colorist.ops import color

L_TOLERANCE = 0.02  # of 100, float32
COLOR = 0.3  # C* that an untrained miniature network makes at the least


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


def chroma(image):
    return color.chroma(color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())[:, 1:])


def test_adds_colour_and_keeps_lightness(colorize, grey):
    image = grey(1, 41, 57)
    colored = colorize(image)
    assert colored.shape == image.shape
    assert colored.dtype == torch.float32
    assert colored.is_contiguous()
    assert chroma(colored).max() > COLOR
    assert (lightness(colored) - lightness(image)).abs().max() < L_TOLERANCE


@pytest.mark.parametrize("channels, expected", [(1, 3), (3, 3), (4, 4)])
def test_channels(colorize, grey, channels, expected):
    image = grey(1, 40, 56, channels)
    if channels == 4:
        image[..., 3] = torch.linspace(0, 1, 56)
    colored = colorize(image)
    assert colored.shape == (1, 40, 56, expected)
    three = colorize(grey(1, 40, 56, 3))
    torch.testing.assert_close(colored[..., :3], three)
    if channels == 4:
        assert torch.equal(colored[..., 3], image[..., 3])


def test_a_batch_equals_its_images_one_by_one(colorize, grey):
    image = grey(3)
    single = torch.cat([colorize(image[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(colorize(image), single)


def test_fp16_intermediates(host, colorize, grey, monkeypatch):
    monkeypatch.setattr(host.mm, "intermediate_dtype", lambda: torch.float16, raising=False)
    image = grey(2).half()
    colored = colorize(image)
    assert colored.dtype == torch.float16
    assert (colored - colorize(image.float())).abs().max() < 2e-3


def test_no_mask_zero_mask_and_loader_mask_mean_everywhere(colorize, grey):
    image = grey(2)
    plain = colorize(image)
    assert torch.equal(colorize(image, mask=torch.zeros(1, 64, 64)), plain)
    assert torch.equal(colorize(image, mask=torch.zeros(2, 40, 56)), plain)
    torch.testing.assert_close(colorize(image, mask=torch.ones(1, 40, 56)), plain)


@pytest.mark.parametrize("size", [(40, 56), (80, 112), (10, 14)])
def test_mask_of_any_size_colours_only_inside(colorize, grey, size):
    image = grey(2)
    mask = torch.zeros(1, *size)
    mask[:, :, size[1] // 2 :] = 1
    colored = colorize(image, mask=mask)
    assert torch.equal(colored[:, :, :20], image[:, :, :20])
    assert chroma(colored[:, :, 36:]).max() > COLOR


def test_one_mask_each(colorize, grey):
    image = grey(2)
    mask = torch.zeros(2, 40, 56)
    mask[1] = 1
    colored = colorize(image, mask=mask)
    assert torch.equal(colored[0], image[0])
    assert chroma(colored[1:]).max() > COLOR


def test_a_mask_batch_that_does_not_fit_is_refused(colorize, grey):
    with pytest.raises(ValueError, match=r"the mask has shape \(2, 40, 56\); expected \(3 or 1"):
        colorize(grey(3), mask=torch.ones(2, 64, 64))


def test_controls_reach_the_finish(colorize, grey):
    image = grey(1)
    assert torch.equal(colorize(image, strength=0.0), image)
    assert chroma(colorize(image, saturation=0.0)).max() < 0.1
    assert chroma(colorize(image, saturation=4.0, chroma_ceiling=0.5)).max() < 0.6
    assert chroma(colorize(image, fade=50.0)).mean() < 0.5 * chroma(colorize(image)).mean()


def test_published_finish(colorize, grey):
    assert colorize(grey(1), finish="published").shape == (1, 40, 56, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"finish": "fast"}, "finish is 'fast'; expected exact or published"),
        ({"upsample": "magic"}, "upsample is 'magic'; expected one of"),
        ({"strength": 2.0}, "strength is 2.0; expected 0 to 1"),
        ({"resolution": 8}, "resolution is 8; this network needs at least 32"),
    ],
)
def test_untrusted_values_are_refused(colorize, grey, options, message):
    with pytest.raises(ValueError, match=message):
        colorize(grey(1), **options)


def test_progress_counts_images(host, colorize, grey, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total):
            seen.append((value, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    colorize(grey(3))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_interrupt_stops_between_images(host, colorizer, colorize, grey):
    runs = []

    def stop_during_second(*_):
        runs.append(1)
        if len(runs) == 2:
            host.mm.interrupt_current_processing(True)

    colorizer.device_manager.patcher.model.register_forward_pre_hook(stop_during_second)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            colorize(grey(5))
    finally:
        host.mm.interrupt_current_processing(False)
    assert len(runs) == 2


def test_out_of_memory_halves_the_chunk(host, colorizer, colorize, grey, monkeypatch):
    plain = colorize(grey(4))
    sizes, emptied = [], []

    def fits_two(_, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    colorizer.device_manager.patcher.model.register_forward_pre_hook(fits_two)
    monkeypatch.setattr(colorizer.device_manager, "max_batch_size", lambda memory: 4)
    monkeypatch.setattr(host.mm, "soft_empty_cache", lambda force=False: emptied.append(1))
    torch.testing.assert_close(colorize(grey(4)), plain)
    assert sizes == [4, 2, 2]
    assert emptied == [1]


def test_out_of_memory_on_one_image_says_what_to_do(colorizer, colorize, grey):
    def never_fits(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    colorizer.device_manager.patcher.model.register_forward_pre_hook(never_fits)
    with pytest.raises(
        MemoryError, match="out of memory on one image of 56x40.*Lower the resolution"
    ) as raised:
        colorize(grey(2))
    assert raised.value.__context__ is None  # holds no tensors of the failed run


def test_other_errors_pass_unchanged(colorizer, colorize, grey):
    def broken(*_):
        raise RuntimeError("shapes differ")

    colorizer.device_manager.patcher.model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        colorize(grey(1))
