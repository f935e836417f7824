"""Colorize Variations on the host; the sampling is tested in tests/pipeline."""

import pytest
import torch
from comfyui_colorist.pipeline.color_memory.memory import ColorMemory

COLOR = 0.3  # largest difference of a channel, in 255, that counts as another colour


@pytest.fixture
def former(host, folder, mini_colorformer_file):
    """The miniature ColorFormer under the host's placement."""
    (folder / "former.safetensors").write_bytes(mini_colorformer_file.read_bytes())
    return host.nodes.LoadAutomatic.execute("former.safetensors", "auto").args[0]


@pytest.fixture
def vary(host, former):
    """Variations.execute with the miniature network, working at 64 pixels."""

    def run(image, **options):
        options = {"resolution": 64, **options}
        return host.nodes.Variations.execute(image, former, **options).args[0]

    return run


@pytest.fixture
def colorize(host, former):
    def run(image, **options):
        return host.nodes.Colorize.execute(image, former, resolution=64, **options).args[0]

    return run


def difference(one, other):
    return 255 * (one - other).abs().max()


def test_results_differ_and_come_photo_by_photo(vary, grey):
    image = grey(2, 48, 56)
    gallery = vary(image, count=3)
    assert gallery.shape == (6, 48, 56, 3)
    assert gallery.is_contiguous()
    torch.testing.assert_close(gallery[:3], vary(image[:1], count=3))
    torch.testing.assert_close(gallery[3:], vary(image[1:], count=3))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert difference(gallery[one], gallery[other]) > COLOR


def test_same_seed_same_gallery(vary, grey):
    image = grey(1, 48, 56)
    first = vary(image, seed=5)
    assert torch.equal(vary(image, seed=5), first)
    assert difference(vary(image, seed=6), first) > COLOR


@pytest.mark.parametrize("count", [1, 16])
def test_count(vary, grey, count):
    assert len(vary(grey(1), count=count, seed=2**64 - 1)) == count


def test_spread_0_is_what_colorize_gives(vary, colorize, grey):
    image = grey(2, 48, 56)
    gallery = vary(image, count=3, spread=0.0)
    torch.testing.assert_close(gallery, colorize(image).repeat_interleave(3, dim=0))


def test_spread_1_is_one_group_each(vary, former, grey):
    groups = former.spec.memory.groups
    gallery = vary(grey(1), count=2 * groups, spread=1.0)
    firsts = [min(i for i, x in enumerate(gallery) if torch.equal(x, one)) for one in gallery]
    assert len(set(firsts)) == groups


def test_a_memory_that_was_applied_is_used(host, former, vary, grey):
    generator = torch.Generator().manual_seed(3)
    sizes = former.spec.memory
    memory = ColorMemory(
        keys=torch.randn(6, sizes.key_width, generator=generator),
        values=(60 * torch.randn(sizes.groups, 6, 2, generator=generator)).clamp(-128, 127),
        encoder=former.encoder_id,
    )
    changed = host.nodes.ApplyMemory.execute(former, memory).args[0]
    other = host.nodes.Variations.execute(grey(1), changed, resolution=64).args[0]
    assert difference(other, vary(grey(1))) > COLOR


def test_controls_and_mask_reach_the_finish(vary, grey):
    image = grey(1, 48, 56)
    assert torch.equal(vary(image, count=2, strength=0.0), image.expand(2, -1, -1, -1))
    mask = torch.zeros(1, 48, 56)
    mask[:, :, 28:] = 1
    gallery = vary(image, count=2, mask=mask)
    assert torch.equal(gallery[:, :, :28], image.expand(2, -1, -1, -1)[:, :, :28])
    assert difference(gallery[:, :, 28:], image[:, :, 28:]) > COLOR
    pale = vary(image, count=2, chroma_ceiling=1.0, saturation=4.0)
    assert difference(pale, vary(image, count=2, saturation=4.0)) > COLOR


@pytest.mark.parametrize("channels, expected", [(1, 3), (4, 4)])
def test_channels(vary, grey, channels, expected):
    image = grey(1, 48, 56, channels)
    gallery = vary(image, count=2)
    assert gallery.shape == (2, 48, 56, expected)
    if channels == 4:
        assert torch.equal(gallery[..., 3], image[..., 3].expand(2, -1, -1))


def test_fp16_intermediates(host, vary, grey, monkeypatch):
    monkeypatch.setattr(host.mm, "intermediate_dtype", lambda: torch.float16, raising=False)
    assert vary(grey(1).half(), count=2).dtype == torch.float16


def test_a_network_without_memory_is_refused(host, colorizer, grey):
    with pytest.raises(
        ValueError, match=r"\(ddcolor\) has no color memory.*choose a network with a color memory"
    ):
        host.nodes.Variations.execute(grey(1), colorizer)


@pytest.mark.parametrize(
    "options, message",
    [({"count": 0}, "count is 0"), ({"spread": 1.5}, "spread is 1.5"), ({"resolution": 8}, "is 8")],
)
def test_untrusted_values_are_refused(vary, grey, options, message):
    with pytest.raises(ValueError, match=message):
        vary(grey(1), **options)


def test_progress_counts_results(host, vary, grey, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total):
            seen.append((value, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    vary(grey(2), count=2)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_interrupt_stops_between_results(host, former, vary, grey):
    runs = []

    def stop_during_second(*_):
        runs.append(1)
        if len(runs) == 2:
            host.mm.interrupt_current_processing(True)

    hook = former.device_manager.patcher.model.memory.register_forward_pre_hook(stop_during_second)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            vary(grey(1), count=8)
    finally:
        host.mm.interrupt_current_processing(False)
        hook.remove()
    assert len(runs) == 2


def test_interrupt_stops(host, vary, grey):
    host.mm.interrupt_current_processing(True)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            vary(grey(2))
    finally:
        host.mm.interrupt_current_processing(False)
