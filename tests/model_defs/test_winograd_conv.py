"""The short way of large 3x3 convolutions against the plain one."""

import copy

import pytest
import torch
from comfyui_colorist.model_defs import layers, winograd_conv
from comfyui_colorist.model_defs.winograd_conv import Conv3x3

short = pytest.mark.skipif(
    not winograd_conv.possible(), reason="needs torch with oneDNN on an x86-64 processor"
)
TOLERANCE = 2e-5  # root mean square, of results of about 1; the plain convolution itself has 1e-6


def module(before=256, after=256, bias=True):
    torch.manual_seed(0)
    return Conv3x3(before, after, bias=bias).requires_grad_(False)


def plain(conv, x):
    return torch.nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias, padding=1)


def picture(*size):
    x = torch.randn(*size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def distance(one, two):
    return (one - two).square().mean().sqrt()


@short
@pytest.mark.parametrize(
    ("size", "before", "after"),
    [
        ((28, 28), 256, 256),
        ((33, 61), 259, 259),  # neither tiles nor blocks of channels come out even
        ((100, 90), 256, 272),  # more than one strip
        ((29, 130), 320, 256),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_gives_the_sums_of_the_plain_convolution(size, before, after, bias):
    conv, x = module(before, after, bias=bias).double().float(), picture(2, before, *size)
    assert winograd_conv.pays(conv, x) is False  # with gradients never
    with torch.inference_mode():
        assert winograd_conv.pays(conv, x)
        made = conv(x)
    conv = conv.double()
    assert made.shape == (2, after, *size)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert distance(made, plain(conv, x)) < TOLERANCE


@short
def test_several_maps_are_one():
    conv, x = module(400), picture(1, 400, 40, 30)
    with torch.inference_mode():
        assert torch.equal(conv(x), conv(*x.split([300, 100], dim=1)))


@short
def test_each_picture_of_a_batch_is_its_own():
    conv, x = module(), picture(3, 256, 30, 30)
    with torch.inference_mode():
        assert torch.equal(conv(x), torch.cat([conv(one[None]) for one in x]))


@short
def test_changed_weights_are_seen():
    conv, x = module(bias=False), picture(1, 256, 28, 28)
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(2)
        assert torch.allclose(conv(x), 2 * before, atol=1e-3)
        conv.load_state_dict({"weight": torch.zeros_like(conv.weight)})
        assert not conv(x).any()
        for value in (1.0, 2.0, 3.0):  # new ones may come to lie where old ones did
            del conv.weight
            weight = torch.full((256, 256, 3, 3), value)
            conv.weight = torch.nn.Parameter(weight, requires_grad=False)
            del weight
            middle = conv(x)[0, 0, 9, 9]
            assert torch.isclose(middle, value * x[0, :, 8:11, 8:11].sum(), rtol=1e-3, atol=1e-2)


@short
def test_packed_filters_go_with_their_module():
    conv, x = module(), picture(1, 256, 28, 28)
    with torch.inference_mode():
        conv(x)
        assert conv in winograd_conv._packed
        assert set(conv.state_dict()) == {"weight", "bias"}
        assert torch.equal(copy.deepcopy(conv)(x), conv(x))
    kept = len(winograd_conv._packed)
    del conv
    assert len(winograd_conv._packed) < kept


def test_small_work_and_training_go_the_plain_way():
    conv = module()
    with torch.no_grad():
        assert not winograd_conv.pays(conv, picture(1, 256, 16, 16))
        assert not winograd_conv.pays(conv.bfloat16(), picture(1, 256, 64, 64).bfloat16())
        few = Conv3x3(64, 64)
        assert not winograd_conv.pays(few, picture(1, 64, 64, 64))
        normal = torch.nn.utils.parametrizations.spectral_norm(Conv3x3(256, 256)).eval()
        assert not winograd_conv.pays(normal, picture(1, 256, 64, 64))


@pytest.mark.parametrize("shape", [(4, 700, 256), (512, 256), (2, 3, 5, 700, 64), (0, 64), (1, 64)])
def test_linear_gives_the_sums_of_torch(shape):
    torch.manual_seed(0)
    layer, x = layers.Linear(shape[-1], 384), torch.randn(shape)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    layer(x).sum().backward()  # and can be trained
    assert layer.weight.grad is not None
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_strips_cover_all_rows_once():
    with torch.inference_mode():
        for rows, row in ((1, 1), (7, layers.STRIP // 2), (100, layers.STRIP * 3), (64, 1000)):
            parts = layers.strips(rows, row)
            assert [i for top, bottom in parts for i in range(top, bottom)] == list(range(rows))
            assert all(
                bottom - top == 1 or (bottom - top) * row <= layers.STRIP for top, bottom in parts
            )
    assert layers.strips(64, layers.STRIP) == [(0, 64)]  # gradients would keep all of it


@pytest.mark.parametrize("name", ["ddcolor-nano", "colorformer-nano"])
def test_strips_show_no_seams(name, monkeypatch):
    from comfyui_colorist.pipeline import loader

    network = loader.load_model(name)
    gray = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    gray = torch.nn.functional.interpolate(gray, scale_factor=2, mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        monkeypatch.setattr(layers, "STRIP", 2**40)
        whole = network(gray.expand(-1, 3, -1, -1))
        monkeypatch.setattr(layers, "STRIP", 1)  # a row each
        assert (network(gray.expand(-1, 3, -1, -1)) - whole).abs().max() < 1e-3
