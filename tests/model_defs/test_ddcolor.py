"""DDColor: golden parity with the official code; every published file format, without download."""

import dataclasses
import json
import runpy

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, ddcolor, registry
from safetensors.torch import load_file

# Largest error in ab units, relative rms: the difference of the official code between settings.
TOLERANCE = {
    "ddcolor_tiny": (1e-3, 4e-5),
    "ddcolor_large": (2e-3, 3e-5),
}


@pytest.fixture(scope="module")
def fill(root):
    return runpy.run_path(str(root / "tests" / "golden" / "fill.py"))


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests" / "golden" / "ddcolor.safetensors")


@pytest.fixture(scope="module")
def tiny_state(fill):
    """Synthetic weights under the published names and shapes."""
    return fill["make_state_dict"](fill["load_manifest"]("ddcolor_paper_tiny"))


@pytest.fixture(scope="module")
def tiny(tiny_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "weights.pth"
    torch.save({"params": tiny_state}, path)
    return registry.load(path)[0]


def agrees(ab, want, name):
    error = (ab[:, :, ::8, 4::8].double() - want.double()).abs()
    worst, rms = TOLERANCE[name]
    assert error.max() <= worst
    assert error.pow(2).mean().sqrt() / want.double().std() <= rms


def as_published(network):
    """Return the state dict of a network with published names and unfolded spectral norm."""
    state = {}
    spectral = {id(conv.weight) for conv in network.spectral_convolutions()}
    ours = network.state_dict(keep_vars=True)
    published = published_names(network)
    for key, tensor in ours.items():
        name, tensor_id, tensor = published[key], id(tensor), tensor.detach()
        if key.startswith("pixel_decoder.embedding."):
            tensor = tensor.unflatten(0, (16, -1)).transpose(0, 1).flatten(0, 1)
        if tensor_id in spectral:
            u, s, v = torch.linalg.svd(tensor.flatten(1), full_matrices=False)
            base = name.removesuffix("weight")
            state[base + "weight_orig"] = 3 * tensor
            # u^T (3 W) v = 3
            state[base + "weight_u"], state[base + "weight_v"] = u[:, 0] / s[0], v[0]
        else:
            state[name] = tensor
    return state


def published_names(network):
    """Return our name -> published name, by converting every published name."""
    c = network.config
    names = ["mean", "std"]
    for i in range(4):
        norm, conv = (1, 0) if i == 0 else (0, 1)
        names += [
            f"encoder.arch.downsample_layers.{i}.{n}.{p}"
            for n in (norm, conv)
            for p in ("weight", "bias")
        ]
        names += [f"encoder.arch.norm{i}.{p}" for p in ("weight", "bias")]
        for j in range(c.depths[i]):
            block = f"encoder.arch.stages.{i}.{j}."
            names.append(block + "gamma")
            names += [
                f"{block}{m}.{p}"
                for m in ("dwconv", "norm", "pwconv1", "pwconv2")
                for p in ("weight", "bias")
            ]
    stats = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for i in range(3):
        names += [f"decoder.layers.{i}.{m}.0.weight" for m in ("shuf.conv", "conv")]
        names += [
            f"decoder.layers.{i}.{m}.{p}" for m in ("shuf.conv.1", "bn", "conv.2") for p in stats
        ]
        names += [f"decoder.color_decoder.input_proj.{i}.{p}" for p in ("weight", "bias")]
        names += [f"decoder.color_decoder.color_embed.layers.{i}.{p}" for p in ("weight", "bias")]
    names += [
        f"{m}.{p}"
        for m in ("decoder.last_shuf.conv.0", "refine_net.0.0")
        for p in ("weight", "bias")
    ]
    names += [
        f"decoder.color_decoder.{m}.weight" for m in ("query_feat", "query_embed", "level_embed")
    ]
    names += [f"decoder.color_decoder.decoder_norm.{p}" for p in ("weight", "bias")]
    for i in range(c.blocks):
        for kind, inner in (("self", "self_attn"), ("cross", "multihead_attn")):
            block = f"decoder.color_decoder.transformer_{kind}_attention_layers.{i}."
            names += [
                f"{block}{m}{p}"
                for m in (f"{inner}.in_proj_", f"{inner}.out_proj.", "norm.")
                for p in ("weight", "bias")
            ]
        names += [
            f"decoder.color_decoder.transformer_ffn_layers.{i}.{m}.{p}"
            for m in ("linear1", "linear2", "norm")
            for p in ("weight", "bias")
        ]
    return {next(iter(ddcolor.convert({name: torch.zeros(16)}))): name for name in names}


def test_golden_tiny(tiny, fill, golden):
    with torch.inference_mode():
        agrees(tiny(fill["gray_input"](256, 256)), golden["ddcolor_tiny"], "ddcolor_tiny")


def test_golden_large(reference, fill, golden):
    manifest = json.loads((reference / "ddcolor_paper.keys.json").read_text())
    state = ddcolor.convert(fill["make_state_dict"](manifest))
    network = registry.build("ddcolor", ddcolor.PRESETS["ddcolor-large"], device="meta").eval()
    checkpoint.load_strict(network, state, "ddcolor_large")
    with torch.inference_mode():
        agrees(network(fill["gray_input"](256, 256)), golden["ddcolor_large"], "ddcolor_large")


def test_published_image(tiny, fill, golden):
    """`finish="published"` is the official script's image, within one level of 255."""
    import comfyui_colorist
    from comfyui_colorist.pipeline.device_manager import DeviceManager

    colorizer = comfyui_colorist.Colorizer(
        ddcolor.spec(tiny.config),
        name="tiny",
        info={},
        dtype=torch.float32,
        device_manager=DeviceManager(tiny),
    )
    rgb = torch.from_numpy(fill["color_image"](160, 224, seed=31)).float() / 255
    image = colorizer.colorize(rgb, finish="published", resolution=256)
    levels = (image * 255).round()[::2, ::2] - golden["published_picture"].float()
    assert (levels.abs() > 1).float().mean() <= 0.001


def test_batch_equals_images_one_by_one(mini_network):
    x = torch.rand(3, 1, 64, 96).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        together = mini_network(x)
        apart = torch.cat([mini_network(image[None]) for image in x])
    assert together.shape == (3, 2, 64, 96)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_refuses_other_shapes(mini_network, shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        mini_network(torch.rand(shape))


def test_presets_have_the_published_sizes(fill):
    network = registry.build("ddcolor", ddcolor.PRESETS["ddcolor-tiny"], device="meta")
    names = published_names(network)
    tensors = fill["load_manifest"]("ddcolor_paper_tiny")["tensors"]
    shapes = {key.replace("weight_orig", "weight"): tuple(shape) for key, shape, _ in tensors}
    for ours, tensor in network.state_dict().items():
        assert tuple(tensor.shape) == shapes[names[ours]], ours


@pytest.mark.parametrize("form", ["params", "flat", "module.", "head_cls", "safetensors"])
def test_every_published_form_loads(mini_network, tmp_path, form):
    """Build small, save as published, detect and load: same config, same output."""
    state = as_published(mini_network)
    if form == "head_cls":
        state["encoder.arch.head_cls.weight"], state["encoder.arch.head_cls.bias"] = (
            torch.rand(4, 16),
            torch.rand(4),
        )
        state["encoder.arch.norm.weight"], state["encoder.arch.norm.bias"] = (
            torch.rand(16),
            torch.rand(16),
        )
    if form == "module.":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.bin")
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state if form in ("flat", "module.") else {"params": state}, path)
    network, spec, info = registry.load(path)
    assert network.config == mini_network.config
    assert not network.training and spec.role == "automatic" and info == {}
    x = torch.rand(1, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), mini_network(x), atol=1e-3, rtol=1e-3)


def test_unfolded_spectral_norm_gives_the_same_network(mini_network):
    """A network for further training has the same outputs as one for inference."""
    from torch.nn.utils.parametrizations import spectral_norm

    network = registry.build("ddcolor", mini_network.config)
    for convolution in network.spectral_convolutions():
        spectral_norm(convolution)
    network.load_state_dict(ddcolor.convert(as_published(mini_network), fold=False))
    x = torch.rand(1, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(x), mini_network(x), atol=1e-3, rtol=1e-3)


def test_convert_leaves_its_input_alone(mini_network):
    state = as_published(mini_network)
    before = {key: tensor.clone() for key, tensor in state.items()}
    ddcolor.convert(state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in state)


def test_config_refuses_a_width_without_whole_heads():
    with pytest.raises(ValueError, match="multiple of 32"):
        dataclasses.replace(ddcolor.PRESETS["ddcolor-nano"], width=48)


def test_training_reaches_every_parameter(mini_config):
    """Every parameter receives a gradient."""
    network = registry.build("ddcolor", mini_config)
    ddcolor.initialize(network)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not without
