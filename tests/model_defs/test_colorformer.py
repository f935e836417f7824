"""ColorFormer: golden parity with the official code; equations; published files."""

import dataclasses
import runpy

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import checkpoint, colorformer, efficientnet_lite, registry
from comfyui_colorist.model_defs.layers import rename_key
from comfyui_colorist.model_defs.spec import MemoryEntries
from safetensors.torch import load_file, save_file

# Largest error in ab units, relative rms: the difference of the official code between settings.
TOLERANCE = (1.2e-3, 1e-5)


@pytest.fixture(scope="module")
def fill(root):
    return runpy.run_path(str(root / "tests" / "golden" / "fill.py"))


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests" / "golden" / "colorformer.safetensors")


@pytest.fixture(scope="module")
def full(fill, tmp_path_factory):
    """The published network with synthetic weights, loaded from a file with published names."""
    path = tmp_path_factory.mktemp("full") / "net_g_200000.pth"
    torch.save({"params": fill["make_state_dict"](fill["load_manifest"]("colorformer"))}, path)
    return registry.load(path)[0]


@pytest.fixture(scope="module")
def tabled(mini_colorformer_config):
    """A miniature like the published files: color tables, no projection."""
    config = dataclasses.replace(mini_colorformer_config, color_table=4, projection=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = registry.build("colorformer", config)
        torch.nn.init.normal_(network.memory.keys)
        network.memory.values = torch.randint(-100, 100, network.memory.values.shape).float()
        torch.nn.init.normal_(network.out.weight)
    return network.eval()


@pytest.fixture(params=["mini_colorformer_network", "mini_lite_colorformer_network"])
def either(request):
    """A miniature with each kind of encoder."""
    return request.getfixturevalue(request.param)


def as_published(network, fill):
    """Return the state dict of a network with published names and unfolded spectral norm."""
    ours, state = network.state_dict(), {}
    for key, _, _ in fill["load_manifest"]("colorformer")["tensors"]:
        parts = key.split(".")
        if ".blocks." in key and int(parts[5]) >= network.config.depths[int(parts[3])]:
            continue
        if key.endswith(("weight_u", "weight_v")):
            continue
        if key.endswith("relative_position_index"):
            state[key] = torch.zeros(1, 1, dtype=torch.int64)
            continue
        if "color_center" in key:
            state[key] = (ours["memory.values"][int(key[-1]) - 1] + 128).long()
            continue
        name = rename_key(key.replace("weight_orig", "weight"), colorformer.PUBLISHED_NAMES)
        tensor = ours[name]
        state[key] = tensor[:, :, None, None] if name == "memory.out.weight" else tensor
        if key.endswith("weight_orig"):
            u, s, v = torch.linalg.svd(tensor.flatten(1), full_matrices=False)
            base = key.removesuffix("weight_orig")
            state[key] = 3 * tensor  # u^T (3 W) v = 3
            state[base + "weight_u"], state[base + "weight_v"] = u[:, 0] / s[0], v[0]
    return state


def test_golden(full, fill, golden):
    with torch.inference_mode():
        encoded = full.encode(fill["gray_input"](256, 256))
        ab = full.decode(encoded)
    torch.testing.assert_close(encoded.weights, golden["lambda"], atol=1e-5, rtol=0)
    error = (ab[:, :, ::8, 4::8].double() - golden["colorformer"].double()).abs()
    assert error.max() <= TOLERANCE[0]
    assert error.pow(2).mean().sqrt() / golden["colorformer"].double().std() <= TOLERANCE[1]


def test_published_image(full, fill, golden):
    """`finish="published"` is the official script's image, at 256x256."""
    import comfyui_colorist
    from comfyui_colorist.pipeline.device_manager import DeviceManager

    colorizer = comfyui_colorist.Colorizer(
        colorformer.spec(full.config),
        name="full",
        info={},
        dtype=torch.float32,
        device_manager=DeviceManager(full),
    )
    rgb = torch.from_numpy(fill["color_image"](160, 224, seed=31)).float() / 255
    image = colorizer.colorize(rgb, finish="published")
    assert image.shape == (256, 256, 3)
    levels = (image * 255).round()[::2, ::2] - golden["published_picture"].float()
    assert (levels.abs() > 1).float().mean() <= 0.001


def test_presets_have_the_published_sizes(fill):
    network = registry.build("colorformer", colorformer.PRESETS["colorformer"], device="meta")
    # 44,816,990 with BatchNorm's statistics and the memory, which are buffers here.
    manifest = fill["load_manifest"]("colorformer")
    state = {k: torch.empty(s, device="meta") for k, s, _ in manifest["tensors"]}
    assert colorformer.config_from(state) == network.config
    trainable = sum(p.numel() for p in network.parameters())
    assert trainable == 44_780_126
    nano = registry.build("colorformer", colorformer.PRESETS["colorformer-nano"], device="meta")
    assert sum(p.numel() for p in nano.parameters()) <= 8e6


# --- The paper's equations ---------------------------------------------------------------------


def test_global_local_attention_is_equation_1_and_2():
    """Window by window: softmax over 16 local and 4 global keys, in one call."""
    torch.manual_seed(0)
    module = colorformer.GlobalLocalAttention(dim=8, heads=2, side=4, pooled=2)
    torch.nn.init.normal_(module.position_bias)
    x = torch.randn(1, 6, 9, 8)  # padded to 8 x 12
    padded = F.pad(x, (0, 0, 0, 3, 0, 2))
    q, k, v = module.qkv(padded).unflatten(-1, (3, 2, 4)).unbind(-3)
    pooled = F.adaptive_avg_pool2d(padded.movedim(-1, 1), 2).flatten(2).mT
    gk, gv = module.global_kv(module.global_norm(pooled)).unflatten(-1, (2, 2, 4)).unbind(-3)
    want = torch.empty(1, 8, 12, 2, 4)
    for i in range(2):
        for j in range(3):
            window = (0, slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
            for h in range(2):
                keys = torch.cat([k[window][..., h, :].flatten(0, 1), gk[0, :, h]])
                values = torch.cat([v[window][..., h, :].flatten(0, 1), gv[0, :, h]])
                logits = q[window][..., h, :].flatten(0, 1) @ keys.T / 4**0.5
                for t in range(16):
                    for s in range(16):
                        row, column = t // 4 - s // 4 + 3, t % 4 - s % 4 + 3
                        logits[t, s] += module.position_bias[7 * row + column, h]
                want[window][..., h, :] = (logits.softmax(-1) @ values).unflatten(0, (4, 4))
    want = module.project(want.flatten(-2)[:, :6, :9])
    torch.testing.assert_close(module(x), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (5, 11), (12, 12)])
def test_shifted_windows_do_not_attend_across_edges(size):
    """Equal to attention over the whole map, masked to tokens of the same window."""
    torch.manual_seed(0)
    side, shift, heads = 4, 2, 2
    module = colorformer.ShiftedWindowAttention(dim=8, heads=heads, side=side)
    torch.nn.init.normal_(module.position_bias)
    x = torch.randn(2, *size, 8)
    height, width = (-(-n // side) * side for n in size)
    padded = F.pad(x, (0, 0, 0, width - size[1], 0, height - size[0]))
    q, k, v = (
        t.flatten(1, 2).movedim(-2, 1)
        for t in module.qkv(padded).unflatten(-1, (3, heads, 4)).unbind(-3)
    )
    y, x_index = (
        p.flatten() for p in torch.meshgrid(*map(torch.arange, (height, width)), indexing="ij")
    )
    window = (y + side - shift) // side * 1000 + (x_index + side - shift) // side
    same_window = window[:, None] == window[None]
    row, column = (p[:, None] - p[None] + side - 1 for p in (y, x_index))
    index = (row * (2 * side - 1) + column).clamp(0, (2 * side - 1) ** 2 - 1)
    bias = module.position_bias[index].movedim(-1, 0).masked_fill(~same_window, -torch.inf)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    want = want.movedim(1, -2).flatten(-2).unflatten(1, (height, width))
    want = module.project(want[:, : size[0], : size[1]])
    torch.testing.assert_close(module(x), want, atol=1e-5, rtol=1e-5)


def test_inner_windows_get_no_mask(monkeypatch):
    """Nine windows: four inside with the bias alone; three masks for the other five."""
    calls = []
    real = F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, **options):
        calls.append((len(q), attn_mask.min().item()))
        return real(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.inference_mode():
        colorformer.ShiftedWindowAttention(dim=8, heads=2, side=4)(torch.randn(1, 12, 12, 8))
        assert calls == [(4, 0.0), (2, -100.0), (2, -100.0), (1, -100.0)]
        calls.clear()
        colorformer.GlobalLocalAttention(dim=8, heads=2, side=4, pooled=2)(
            torch.randn(1, 12, 12, 8)
        )
    assert calls == [(9, 0.0)]


def test_color_memory_is_equation_4_to_7(mini_colorformer_network):
    module = mini_colorformer_network.memory
    x, weights = torch.randn(2, 3, 5, 8), torch.rand(2, 4).softmax(-1)
    tokens = x.flatten(1, 2)
    logits = module.project_query(module.query_norm(tokens)) @ module.project_key(module.keys).T
    colors = torch.stack(
        [
            sum(
                share * project(group / 110)
                for share, project, group in zip(
                    shares, module.project_color, module.values, strict=True
                )
            )
            for shares in weights
        ]
    )
    z = module.joined_norm(torch.cat([tokens, logits.softmax(-1) @ colors], dim=-1))
    want = module.out(module.out_norm(z + module.mlp(z))).unflatten(1, (3, 5))
    torch.testing.assert_close(module(x, weights), want, atol=1e-4, rtol=1e-4)


def test_tables_are_indexed_by_rounded_values(tabled):
    values = torch.zeros(4, 16, 2)
    values[..., 0], values[..., 1] = -128.4, 300.0
    colors = tabled.memory.embed_colors(values)
    row = torch.cat([tabled.memory.tables[0].weight[0], tabled.memory.tables[1].weight[255]])
    torch.testing.assert_close(colors[2, 5], tabled.memory.project_color[2](row))


def test_values_of_another_memory_are_rounded_to_trained_ones(tabled):
    trained, module = tabled.memory.values, tabled.memory
    assert torch.equal(module.nearest_trained_values(trained), trained)
    trained_a = trained[..., 0].unique()
    values = torch.full((4, 3, 2), 500.0)
    values[0, 0] = torch.tensor([trained_a[3] + 0.2, -500.0])
    rounded = module.nearest_trained_values(values)
    assert rounded[0, 0].tolist() == [trained_a[3], trained[..., 1].min()]
    assert rounded[1, 1].tolist() == [trained[..., 0].max(), trained[..., 1].max()]


def test_another_memory_and_other_fusion_weights(either):
    network, x = either, torch.rand(1, 1, 64, 32).expand(-1, 3, -1, -1)
    stored = MemoryEntries(network.memory.keys.clone(), network.memory.values.clone())
    # Fewer entries, other colors
    other = MemoryEntries(stored.keys[:3] + 1, stored.values[:, :3].flip(-1))
    one_group = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    with torch.inference_mode():
        encoded, plain = network.encode(x), network(x)
        assert not torch.allclose(network(x, other), plain)
        torch.testing.assert_close(network(x, stored), plain)
        torch.testing.assert_close(network(x, weights=encoded.weights), plain)
        # With all weight on one group the colors of the others do not matter.
        factors = torch.tensor([5, -1, 1, 0]).view(4, 1, 1)
        changed = MemoryEntries(stored.keys, stored.values * factors)
        torch.testing.assert_close(network(x, changed, one_group), network(x, stored, one_group))
    assert torch.equal(network.memory.values, stored.values)


# --- EfficientNet-Lite in place of the GLH-Transformer ------------------------------------------


def test_lite_maps_equal_the_plain_encoder_with_a_normalized_last_map(
    mini_lite_colorformer_network,
):
    network = mini_lite_colorformer_network
    plain = efficientnet_lite.EfficientNetLite(network.config.depths, network.config.dims)
    plain.load_state_dict(network.encoder.state_dict())
    gray = torch.rand(2, 1, 96, 64).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        maps = plain((gray - 127 / 255) / (128 / 255))
        taps, semantics = network.encoder(network.normalize(gray)), network.semantics(gray)
    sizes = [(24, 16), (12, 8), (6, 4), (3, 2)]
    for tap, size, dim in zip(taps, sizes, network.config.tap_dims, strict=True):
        assert tap.shape == (2, dim, *size)
    torch.testing.assert_close(taps[:3], maps[:3])
    last = maps[3].movedim(1, -1)
    last = last - last.mean(-1, keepdim=True)
    last = last / (last.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(semantics, last, atol=1e-4, rtol=1e-4)
    assert network.memory.components.shape == (8, 24)


def test_lite_in_half_precision(mini_lite_colorformer_file):
    import comfyui_colorist

    rgb = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(0))
    exact, rounded = (
        comfyui_colorist.load(mini_lite_colorformer_file, device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    )
    assert rounded.encoder_id == exact.encoder_id
    want, got = (engine.colorize(rgb, resolution=64) for engine in (exact, rounded))
    assert (got - want).abs().mean() < 0.02
    assert (want - rgb).abs().mean() > 0.02


# --- Any size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (32, 224), (160, 96)])
def test_batch_equals_images_one_by_one(either, size):
    x = torch.rand(3, 1, *size).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        together = either(x)
        apart = torch.cat([either(image[None]) for image in x])
    assert together.shape == (3, 2, *size)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 1, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_refuses_other_shapes(either, shape):
    with pytest.raises(ValueError, match="multiples of 32"):
        either(torch.rand(shape))


# --- Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["params", "flat", "module.", "safetensors"])
def test_every_published_form_loads(tabled, fill, tmp_path, form):
    """Build small, save as published, detect and load: same config, same output."""
    state = as_published(tabled, fill)
    if form == "module.":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save({"params": state} if form == "params" else state, path)
    network, spec, info = registry.load(path)
    assert network.config == tabled.config
    assert not network.training and spec.role == "automatic" and info == {}
    assert torch.equal(network.memory.values, tabled.memory.values)
    x = torch.rand(1, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), tabled(x), atol=1e-3, rtol=1e-3)


def test_unfolded_spectral_norm_gives_the_same_network(tabled, fill):
    """A network for further training has the same outputs as one for inference."""
    from torch.nn.utils.parametrizations import spectral_norm

    network = registry.build("colorformer", tabled.config)
    for convolution in network.spectral_convolutions():
        spectral_norm(convolution)
    network.load_state_dict(colorformer.convert(as_published(tabled, fill), fold=False))
    x = torch.rand(1, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(x), tabled(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["mini", "mini_lite"])
def test_own_file_keeps_config_and_weights(kind, request):
    saved = request.getfixturevalue(f"{kind}_colorformer_network")
    network, spec, _ = registry.load(request.getfixturevalue(f"{kind}_colorformer_file"))
    assert network.config == saved.config
    assert (spec.memory.key_width, spec.memory.groups) == (8, 4)
    for key, tensor in saved.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key


def test_files_of_version_1_0_0_load(tmp_path, mini_colorformer_network):
    """Their config names no encoder."""
    config = dataclasses.asdict(mini_colorformer_network.config)
    del config["encoder"], config["dims"]
    path = tmp_path / "old.safetensors"
    info = {"architecture": "colorformer", "config": config}
    path.write_bytes(checkpoint.to_bytes(mini_colorformer_network.state_dict(), info))
    assert registry.load(path)[0].config == mini_colorformer_network.config


def test_config_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="do not divide"):
        colorformer.Config(embed_dim=32, heads=(3, 2, 4, 8))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "resnet"}, "encoder is 'resnet'; expected one of glh, efficientnet-lite"),
        ({"depths": (1, 1, 1, 1)}, "depths has 4 and dims 7 values; .* needs 7 and 7"),
        ({"dims": ()}, "depths has 7 and dims 0 values"),
        ({"encoder": "glh"}, "the encoder glh needs 4 and 0"),
    ],
)
def test_config_refuses_other_encoders(mini_lite_colorformer_config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(mini_lite_colorformer_config, **changes)


def test_training_reaches_every_parameter(either):
    """Every parameter receives a gradient."""
    network = registry.build("colorformer", either.config)
    torch.nn.init.normal_(network.memory.keys)
    torch.nn.init.normal_(network.memory.values, std=30)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not without
