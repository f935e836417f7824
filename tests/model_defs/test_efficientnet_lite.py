"""EfficientNet-Lite: sizes, padding, and DDColor with it as encoder."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import checkpoint, ddcolor, efficientnet_lite, registry
from comfyui_colorist.model_defs.efficientnet_lite import EfficientNetLite, SameConv2d

# Published parameters in millions, without the layers after the last map (conv_head, classifier)
# and with batch norm folded into biases.
PARAMETERS = {"lite0": 2.939, "lite1": 3.698, "lite2": 4.330}
MINI = ddcolor.Config(
    encoder="efficientnet-lite",
    depths=(1, 2, 1, 1, 1, 1, 1),
    dims=(4, 6, 8, 8, 12, 12, 16),
    decoder_dims=(16, 16, 8),
    width=32,
    ffn_width=32,
    blocks=3,
    queries=4,
)


@pytest.fixture(scope="module")
def mini_lite():
    """DDColor of a few thousand parameters on an EfficientNet-Lite, eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("ddcolor", MINI)
        torch.nn.init.normal_(network.fusion.conv.weight, std=3)
    return network.eval()


@pytest.mark.parametrize("variant", list(efficientnet_lite.VARIANTS))
def test_variants_have_the_published_sizes(variant):
    sizes = efficientnet_lite.VARIANTS[variant]
    with torch.device("meta"):
        encoder = EfficientNetLite(*sizes)
        maps = encoder(torch.empty(1, 3, 64, 96))
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[variant], abs=1e-3)
    widths = (24, 40, 112, 320) if variant != "lite2" else (24, 48, 120, 352)
    shapes = [(1, w, 64 // s, 96 // s) for w, s in zip(widths, (4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == shapes


@pytest.mark.parametrize(("kernel", "first", "last"), [(3, 0, 1), (5, 1, 2)])
def test_padding_at_stride_two_is_tensorflows(kernel, first, last):
    """The extra pixel is on the right and bottom."""
    convolution = SameConv2d(2, 3, kernel, stride=2)
    x = torch.rand(1, 2, 8, 12)
    padded = F.pad(x, (first, last, first, last))
    expected = F.conv2d(padded, convolution.weight, convolution.bias, stride=2)
    assert torch.equal(convolution(x), expected)
    assert convolution(x).shape == (1, 3, 4, 6)
    assert SameConv2d(2, 3, kernel)(x).shape == (1, 3, 8, 12)


def test_saved_and_loaded_network_is_the_same(mini_lite, tmp_path):
    path = tmp_path / "lite.safetensors"
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(MINI)}
    path.write_bytes(checkpoint.to_bytes(mini_lite.state_dict(), info))
    network, spec, _ = registry.load(path)
    assert network.config == MINI and spec.role == "automatic"
    x = torch.rand(2, 1, 64, 96).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        ab = network(x)
        assert ab.shape == (2, 2, 64, 96)
        assert torch.equal(ab, mini_lite(x))


def test_input_is_normalized_as_in_training_of_the_encoder(mini_lite):
    assert torch.allclose(mini_lite.mean, torch.tensor(127 / 255))
    assert torch.allclose(mini_lite.std, torch.tensor(128 / 255))


def test_bfloat16_is_close(mini_lite):
    x = torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        full = mini_lite(x)
        network = registry.build("ddcolor", MINI)
        network.load_state_dict(mini_lite.state_dict())
        half = network.eval().bfloat16()(x.bfloat16()).float()
    assert (full - half).abs().mean() < 0.05 * full.std()


def test_training_reaches_every_parameter():
    network = registry.build("ddcolor", MINI)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "resnet"}, "encoder is 'resnet'; expected one of convnext, efficientnet-lite"),
        (
            {"depths": (1, 1, 2, 1)},
            "depths and dims have 4 and 7 values; .* has 7 stages",
        ),
        ({"encoder": "convnext"}, "have 7 and 7 values; the encoder convnext has 4 stages"),
    ],
)
def test_config_refuses_sizes_of_another_encoder(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(MINI, **changes)


def test_nano_is_small():
    with torch.device("meta"):
        nano = registry.build("ddcolor", ddcolor.PRESETS["ddcolor-nano"])
    assert sum(p.numel() for p in nano.parameters()) <= 8e6


def test_query_products_have_the_gradients_of_the_plain_form():
    """For training on a CPU; 300 rows are more than one strip."""
    generator = torch.Generator().manual_seed(0)
    features, weight, bias, mix = (
        torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True)
        for shape in ((2, 300, 12), (16 * 8, 12), (16 * 8,), (2, 8, 2))
    )
    plain = (features @ weight.T + bias).relu().reshape(2, -1, 8) @ mix
    strips = ddcolor.QueryProducts.apply(features, weight, bias, mix)
    torch.testing.assert_close(strips, plain)
    gradient = torch.randn(plain.shape, generator=generator, dtype=torch.double)
    inputs = features, weight, bias, mix
    for ours, expected in zip(
        torch.autograd.grad(strips, inputs, gradient),
        torch.autograd.grad(plain, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_training_and_inference_compute_the_same(mini_lite):
    x = torch.rand(2, 1, 64, 96).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        inferred = mini_lite(x)
    torch.testing.assert_close(mini_lite(x).detach(), inferred, atol=1e-4, rtol=1e-4)
