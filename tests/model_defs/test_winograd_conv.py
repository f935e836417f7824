"""Winograd convolutions, linear layers and strips against their plain forms."""

import copy
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from comfyui_colorist.model_defs import layers, winograd_conv
from comfyui_colorist.model_defs.winograd_conv import Conv3x3

needs_onednn = pytest.mark.skipif(
    not winograd_conv.is_supported(), reason="needs torch with oneDNN on an x86-64 processor"
)
TOLERANCE = 2e-5  # root mean square, of results of about 1; the plain convolution itself has 1e-6


def module(in_channels=256, out_channels=256, bias=True):
    torch.manual_seed(0)
    return Conv3x3(in_channels, out_channels, bias=bias).requires_grad_(False)


def plain(conv, x):
    return torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias, padding=1)


def image(*size):
    x = torch.randn(*size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def distance(a, b):
    return (a - b).square().mean().sqrt()


@needs_onednn
@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels"),
    [
        ((28, 28), 256, 256),
        ((33, 61), 259, 259),  # neither tiles nor channel blocks divide evenly
        ((100, 90), 256, 272),  # more than one strip
        ((29, 130), 320, 256),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_plain_convolution(size, in_channels, out_channels, bias):
    conv = module(in_channels, out_channels, bias=bias).double().float()
    x = image(2, in_channels, *size)
    assert winograd_conv.use_winograd(conv, x) is False  # gradients are on
    with torch.inference_mode():
        assert winograd_conv.use_winograd(conv, x)
        result = conv(x)
    conv = conv.double()
    assert result.shape == (2, out_channels, *size)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert distance(result, plain(conv, x)) < TOLERANCE


@needs_onednn
def test_several_maps_are_concatenated():
    conv, x = module(400), image(1, 400, 40, 30)
    with torch.inference_mode():
        assert torch.equal(conv(x), conv(*x.split([300, 100], dim=1)))


@needs_onednn
def test_images_of_a_batch_are_independent():
    conv, x = module(), image(3, 256, 30, 30)
    with torch.inference_mode():
        assert torch.equal(conv(x), torch.cat([conv(sample[None]) for sample in x]))


@needs_onednn
def test_changed_weights_are_repacked():
    conv, x = module(bias=False), image(1, 256, 28, 28)
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(2)
        assert torch.allclose(conv(x), 2 * before, atol=1e-3)
        conv.load_state_dict({"weight": torch.zeros_like(conv.weight)})
        assert not conv(x).any()
        for value in (1.0, 2.0, 3.0):  # new tensors may reuse the address of old ones
            del conv.weight
            weight = torch.full((256, 256, 3, 3), value)
            conv.weight = torch.nn.Parameter(weight, requires_grad=False)
            del weight
            middle = conv(x)[0, 0, 9, 9]
            assert torch.isclose(middle, value * x[0, :, 8:11, 8:11].sum(), rtol=1e-3, atol=1e-2)


@needs_onednn
def test_a_module_owns_its_packed_filters():
    conv, x = module(), image(1, 256, 28, 28)
    with torch.inference_mode():
        conv(x)
    filters = conv.packed_filters
    assert not filters.empty and set(conv.state_dict()) == {"weight", "bias"}
    for duplicate in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert duplicate.packed_filters is not filters and duplicate.packed_filters.empty
        with torch.inference_mode():
            assert torch.equal(duplicate(x), conv(x))
    kept = weakref.ref(filters)
    del conv, filters, duplicate
    assert kept() is None


@needs_onednn
def test_packed_filters_are_freed_when_the_module_is_converted():
    conv, x = module(), image(1, 256, 28, 28)
    with torch.inference_mode():
        conv(x)
    packed = conv.packed_filters.get(conv.weight, winograd_conv.strip_tiles(28, 28))
    conv.to("cpu")  # no change
    assert conv.packed_filters.get(conv.weight, winograd_conv.strip_tiles(28, 28)) is packed
    conv.bfloat16()
    assert conv.packed_filters.empty


@needs_onednn
def test_threads_share_one_packing(monkeypatch):
    conv, x, calls = module(), image(1, 256, 28, 28), []
    pack = winograd_conv.pack_filters
    monkeypatch.setattr(
        winograd_conv, "pack_filters", lambda *args: calls.append(args) or pack(*args)
    )

    def run(_):
        with torch.inference_mode():
            return conv(x)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert len(calls) == 1
    assert all(torch.equal(result, results[0]) for result in results)


def test_small_maps_and_training_use_the_plain_convolution():
    conv = module()
    with torch.no_grad():
        assert not winograd_conv.use_winograd(conv, image(1, 256, 16, 16))
        assert not winograd_conv.use_winograd(conv.bfloat16(), image(1, 256, 64, 64).bfloat16())
        narrow = Conv3x3(64, 64)
        assert not winograd_conv.use_winograd(narrow, image(1, 64, 64, 64))
        spectral = torch.nn.utils.parametrizations.spectral_norm(Conv3x3(256, 256)).eval()
        assert not winograd_conv.use_winograd(spectral, image(1, 256, 64, 64))


@pytest.mark.parametrize("shape", [(4, 700, 256), (512, 256), (2, 3, 5, 700, 64), (0, 64), (1, 64)])
def test_linear_equals_torch(shape):
    torch.manual_seed(0)
    layer, x = layers.Linear(shape[-1], 384), torch.randn(shape)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_strips_cover_all_rows_once():
    with torch.inference_mode():
        limit = layers.STRIP_ELEMENTS
        for rows, per_row in ((1, 1), (7, limit // 2), (100, limit * 3), (64, 1000)):
            strips = layers.row_strips(rows, per_row)
            assert [i for top, bottom in strips for i in range(top, bottom)] == list(range(rows))
            heights = [bottom - top for top, bottom in strips]
            assert all(height == 1 or height * per_row <= limit for height in heights)
    assert layers.row_strips(64, limit) == [(0, 64)]  # autograd would keep the whole map


@pytest.mark.parametrize("name", ["ddcolor-nano", "colorformer-nano"])
def test_strips_show_no_seams(name, monkeypatch):
    from comfyui_colorist.pipeline import loader

    network = loader.load_model(name)
    gray = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    gray = torch.nn.functional.interpolate(gray, scale_factor=2, mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        monkeypatch.setattr(layers, "STRIP_ELEMENTS", 2**40)
        whole = network(gray.expand(-1, 3, -1, -1))
        monkeypatch.setattr(layers, "STRIP_ELEMENTS", 1)  # one row per strip
        assert (network(gray.expand(-1, 3, -1, -1)) - whole).abs().max() < 1e-3
