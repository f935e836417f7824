"""Automatic colorization: any image in, the same type of image out."""

import copy
import dataclasses
import logging

import comfyui_colorist as colorist
import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.color_memory.memory import ColorMemory
from comfyui_colorist.pipeline.device_manager import DeviceManager
from comfyui_colorist.pipeline.postprocess import suppress_low_chroma


def photo(batch=1, height=50, width=70, channels=3, seed=0):
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 31), (300, 20), (97, 211)])
def test_any_size_keeps_size_and_lightness(mini, size):
    rgb = photo(1, *size)
    out = mini.colorize(rgb, resolution=64)
    assert out.shape == rgb.shape
    torch.testing.assert_close(lightness(out), lightness(rgb), atol=0.01, rtol=0)


def test_adds_color(mini):
    out = mini.colorize(photo(channels=1), resolution=64)
    assert color.chroma(color.rgb_to_lab(out.movedim(-1, 1))[:, 1:]).mean() > 1


def test_fade_and_gain_of_the_spec(mini, mini_colorformer):
    """They apply to every prediction, before any user control."""
    rgb = torch.rand(1, 3, 64, 64)
    for engine in (mini, mini_colorformer):
        plain, adjusted = engine.chroma(rgb), copy.copy(engine)
        adjusted.spec = dataclasses.replace(engine.spec, fade=6.0, gain=1.5)
        torch.testing.assert_close(adjusted.chroma(rgb), 1.5 * suppress_low_chroma(plain, 6.0))


@pytest.mark.parametrize(("factor", "words"), [(1e12, "as large as"), (1e38, "NaN or infinite")])
def test_colors_that_overflow_are_refused(mini, mini_network, factor, words):
    """Finite predictions whose squares are infinite would become a black image."""
    network = copy.deepcopy(mini_network)
    network.fusion.conv.weight.data.mul_(factor)
    engine = copy.copy(mini)
    engine.device_manager = type(mini.device_manager)(network, "cpu")
    with pytest.raises(ValueError, match=f"mini.* colors that are {words}"):
        engine.colorize(photo(1, 32, 32), resolution=32)


def test_channels(mini):
    assert mini.colorize(photo(channels=1), resolution=64).shape[-1] == 3
    rgba = photo(channels=4)
    out = mini.colorize(rgba, resolution=64)
    assert torch.equal(out[..., 3], rgba[..., 3])
    torch.testing.assert_close(out[..., :3], mini.colorize(rgba[..., :3], resolution=64))


def test_the_network_sees_only_lightness(mini):
    """A sepia print gets the colors of its neutral version."""
    gray = photo(channels=1).expand(-1, -1, -1, 3) * 0.8 + 0.1
    lab = color.rgb_to_lab(gray.movedim(-1, 1))
    lab[:, 1] += 4
    lab[:, 2] += 9
    sepia = color.lab_to_rgb(lab).movedim(1, -1)
    assert sepia.min() >= 0 and sepia.max() <= 1
    out, want = mini.colorize(sepia, resolution=64), mini.colorize(gray, resolution=64)
    torch.testing.assert_close(out, want, atol=0.02, rtol=0)


def test_batch_equals_images_one_by_one(mini, monkeypatch):
    rgb = photo(5)
    apart = torch.cat([mini.colorize(image[None], resolution=64) for image in rgb])
    monkeypatch.setattr(mini.device_manager, "max_batch_size", lambda memory: 2)
    done = []
    together = mini.colorize(rgb, resolution=64, progress=done.append)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)
    assert done == [2, 4, 5]


def test_array_in_array_out(mini):
    array = photo()[0].numpy()
    out = mini.colorize(array, resolution=64)
    assert isinstance(out, np.ndarray) and out.shape == array.shape and out.dtype == array.dtype
    torch.testing.assert_close(torch.from_numpy(out), mini.colorize(photo(), resolution=64)[0])


def test_half_precision_in_half_precision_out(mini):
    out = mini.colorize(photo().half(), resolution=64)
    assert out.dtype == torch.float16
    torch.testing.assert_close(
        out.float(), mini.colorize(photo(), resolution=64), atol=0.03, rtol=0
    )


def test_mask(mini):
    rgb, mask = photo(2), torch.zeros(50, 70)
    mask[:, 35:] = 1
    out = mini.colorize(rgb, mask=mask, resolution=64)
    assert torch.equal(out[:, :, :35], rgb[:, :, :35])
    assert not torch.equal(out[:, :, 35:], rgb[:, :, 35:])


def test_bad_values_are_repaired_with_a_warning(mini, caplog):
    rgb = photo()
    rgb[0, 3, 3] = float("nan")
    rgb[0, 4, 4] = 2.0
    with caplog.at_level(logging.WARNING):
        out = mini.colorize(rgb, resolution=64)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    assert "NaN or values outside 0..1" in caplog.text


@pytest.mark.parametrize(
    ("rgb", "words"),
    [
        (torch.zeros(2, 2, 3, dtype=torch.uint8), "divide by 255"),
        (torch.zeros(1, 3, 5, 5), r"expected \(B, H, W, C\)"),
        (torch.zeros(5, 5, 2), r"expected \(B, H, W, C\)"),
        (torch.zeros(0, 5, 5, 3), r"expected \(B, H, W, C\)"),
    ],
)
def test_refusals(mini, rgb, words):
    with pytest.raises(ValueError, match=words):
        mini.colorize(rgb)


def test_refuses_a_mask_of_another_size(mini):
    with pytest.raises(
        ValueError, match=r"mask has shape \(1, 9, 9\); expected \(1 or 1, 50, 70\)"
    ):
        mini.colorize(photo(), mask=torch.ones(9, 9))


class CrowdedDevice(DeviceManager):
    """Device on which `limit` images fit."""

    def __init__(self, network, limit):
        super().__init__(network)
        self.limit, self.tried = limit, []

    def max_batch_size(self, memory_per_image):
        return 8

    def acquire(self, memory_required):
        network = super().acquire(memory_required)

        def run(x):
            self.tried.append(len(x))
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("out of memory")
            return network(x)

        return run


@pytest.fixture
def crowded(mini, mini_network):
    def engine(limit):
        device_manager = CrowdedDevice(mini_network, limit)
        dtype = torch.float32
        return colorist.Colorizer(
            mini.spec, name="mini", info={}, dtype=dtype, device_manager=device_manager
        )

    return engine


def test_out_of_memory_halves_the_batch(mini, crowded):
    engine, rgb = crowded(2), photo(5)
    torch.testing.assert_close(
        engine.colorize(rgb, resolution=64), mini.colorize(rgb, resolution=64), atol=1e-4, rtol=0
    )
    assert engine.device_manager.tried == [5, 2, 2, 1]


def test_out_of_memory_with_a_single_image_gives_advice(crowded):
    with pytest.raises(MemoryError, match="70x50.*Lower the resolution"):
        crowded(0).colorize(photo(3), resolution=64)


def test_interrupt_stops_between_images(mini, monkeypatch):
    class Stop(BaseException):
        pass

    seen = []

    def check():
        if len(seen) == 2:
            raise Stop

    monkeypatch.setattr(mini.device_manager, "check_interrupt", check)
    with pytest.raises(Stop):
        mini.colorize(photo(5), resolution=64, progress=seen.append)
    assert seen == [1, 2]


# --- Color memory ------------------------------------------------------------------------------


def other_memory(engine):
    """Return a memory that fits, with other colors."""
    groups, width = engine.spec.memory.groups, engine.spec.memory.key_width
    generator = torch.Generator().manual_seed(5)
    return ColorMemory(
        keys=torch.randn(7, width, generator=generator),
        values=40 * torch.randn(groups, 7, 2, generator=generator),
        encoder=engine.encoder_id,
    )


def test_a_memory_changes_the_result_of_its_colorizer_alone(mini_colorformer):
    rgb = photo(2)
    own = mini_colorformer.colorize(rgb, resolution=64)
    changed = mini_colorformer.with_memory(other_memory(mini_colorformer))
    assert (changed.colorize(rgb, resolution=64) - own).abs().max() > 0.02
    assert torch.equal(mini_colorformer.colorize(rgb, resolution=64), own)
    assert torch.equal(changed.with_memory(None).colorize(rgb, resolution=64), own)
    torch.testing.assert_close(
        lightness(changed.colorize(rgb, resolution=64)), lightness(rgb), atol=0.01, rtol=0
    )


def test_memories_that_do_not_fit_are_refused(mini, mini_colorformer):
    memory = other_memory(mini_colorformer)
    with pytest.raises(ValueError, match="has no color memory"):
        mini.with_memory(memory)
    with pytest.raises(ValueError, match="was built with the encoder of another network"):
        mini_colorformer.with_memory(dataclasses.replace(memory, encoder="0123456789abcdef"))
    with pytest.raises(ValueError, match="keys of width 3 and 4 groups; mini.* needs width 8"):
        mini_colorformer.with_memory(dataclasses.replace(memory, keys=memory.keys[:, :3]))


def test_variations(mini_colorformer):
    """Seeded and independent of the batch; spread 0 is the prediction, 1 a single group."""
    rgb = photo(2)
    five = mini_colorformer.vary(rgb, count=5, seed=3, spread=0.7, resolution=64)
    assert five.shape == (10, *rgb.shape[1:])
    again = mini_colorformer.vary(rgb[1], count=5, seed=3, spread=0.7, resolution=64)
    torch.testing.assert_close(five[5:], again, atol=1e-4, rtol=0)
    assert all((five[i] - five[j]).abs().max() > 1e-3 for i in range(5) for j in range(i))
    same = mini_colorformer.vary(rgb, count=2, spread=0, resolution=64)
    own = mini_colorformer.colorize(rgb, resolution=64)
    torch.testing.assert_close(same, own.repeat_interleave(2, 0), atol=1e-5, rtol=0)
    # One group only: four different results, then the same four in another order.
    single = mini_colorformer.vary(rgb[:1], count=8, seed=1, spread=1, resolution=64)
    different = {tuple(image.flatten()[::97].tolist()) for image in single}
    assert len(different) == 4
    other = mini_colorformer.vary(rgb, count=5, seed=4, spread=0.7, resolution=64)
    assert not torch.equal(five, other)


def test_variations_share_the_encoder(mini_colorformer, monkeypatch):
    network = mini_colorformer.device_manager.acquire(0)
    calls, encode = [], network.encode
    monkeypatch.setattr(network, "encode", lambda x: calls.append(1) or encode(x))
    mini_colorformer.vary(photo(), count=6, resolution=64)
    assert len(calls) == 1


def test_each_variation_is_reported_and_can_be_the_last(mini_colorformer, monkeypatch):
    class Stop(BaseException):
        pass

    monkeypatch.setattr(mini_colorformer.device_manager, "max_batch_size", lambda memory: 2)
    done, last = [], 99
    rgb, options = photo(3), {"count": 3, "resolution": 64, "progress": done.append}

    def check():
        if done and done[-1] >= last:
            raise Stop

    monkeypatch.setattr(mini_colorformer.device_manager, "check_interrupt", check)
    mini_colorformer.vary(rgb, **options)
    assert done == [2, 4, 6, 7, 8, 9]
    for last in (2, 7):
        done.clear()
        with pytest.raises(Stop):
            mini_colorformer.vary(rgb, **options)
        assert done[-1] == last


def test_no_memory_for_the_results(mini_colorformer):
    rgb = torch.zeros(1, 1, 1, 3).expand(1, 10**6, 10**6, 3)
    sentence = r"mini.*: no memory for 64 results of 1000000x1000000 \(768000\.0 GB\)\. Ask for few"
    with pytest.raises(MemoryError, match=sentence):
        mini_colorformer.vary(rgb, count=64)


@pytest.mark.parametrize("model", ["mini_file", "mini_colorformer_file"])
@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [
        ("float16", "colors that are NaN or infinite in float16; choose float32 or bfloat16"),
        ("float32", "infinite in float32; its weights or its color memory are damaged"),
    ],
)
def test_nan_predictions_are_refused(request, model, dtype, sentence):
    engine = colorist.load(request.getfixturevalue(model), device="cpu", dtype=dtype)
    network = engine.device_manager.acquire(0)
    with torch.no_grad():
        last = network.out if engine.spec.memory else network.fusion.conv
        last.weight.view(-1)[0] = float("inf")
    with pytest.raises(ValueError, match=sentence):
        engine.colorize(photo(), resolution=64)
    if engine.spec.memory:
        with pytest.raises(ValueError, match=sentence):
            engine.vary(photo(), resolution=64)


def test_variations_refusals(mini, mini_colorformer):
    with pytest.raises(ValueError, match="has no color memory"):
        mini.vary(photo())
    with pytest.raises(ValueError, match="count is 0"):
        mini_colorformer.vary(photo(), count=0)
    with pytest.raises(ValueError, match="seed is -3"):
        mini_colorformer.vary(photo(), seed=-3)
    with pytest.raises(ValueError, match="spread is 1.5"):
        mini_colorformer.vary(photo(), spread=1.5)


def test_variations_of_an_array_with_alpha(mini_colorformer):
    rgba = photo(channels=4).numpy()
    out = mini_colorformer.vary(rgba, count=2, resolution=64)
    assert isinstance(out, np.ndarray) and out.shape == (2, 50, 70, 4)
    assert (out[..., 3] == rgba[..., 3]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_color_memory_in_half_precision(mini_colorformer_file, mini_colorformer, dtype):
    """Equal colors except for rounding, and the same encoder id."""
    engine = colorist.load(mini_colorformer_file, device="cpu", dtype=dtype)
    assert engine.encoder_id == mini_colorformer.encoder_id
    memory, rgb = other_memory(mini_colorformer), photo()
    a, b = (e.with_memory(memory).colorize(rgb, resolution=64) for e in (engine, mini_colorformer))
    assert (a - b).abs().mean() < 0.02
