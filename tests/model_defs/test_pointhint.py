"""Point-hint network: identity at initialization, windows, the paper's variants, files."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import checkpoint, pointhint, registry
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

MINI = pointhint.Config(inner=(8, 8, 8, 8), depths=(1, 1, 2, 1), heads=(1, 2, 4, 2))
# Changes to the miniature configuration; Models 1 to 5 are the paper's.
VARIANTS = {
    "paper": {},
    "Model 1": {"stabilizer": "none"},
    "Model 2": {"stabilizer": "linear"},
    "Model 3": {"stabilizer": "attention"},
    "Model 4": {"merge": "reduce"},
    "Model 5": {"cluster": "cosine"},
    "texture": {"cluster": "brightness_texture"},
    "three channels": {"hint_mask": False},
}
CLUSTERS = ("brightness", "brightness_texture", "cosine")
COUNTS = (5, 50, 73, 120, 200, 1000, 3200)


def seeded(config):
    """Build a network with random weights and visible colors, in eval mode."""
    adds = (".project.weight", "mlp.2.weight", "widen.weight", "upsample.weight")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("pointhint", config)
        for name, parameter in network.named_parameters():
            random = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.data += 0.1 * random
            else:
                scale = 0.1 if name.endswith(adds) else 0.05 if "embed" in name else 1
                parameter.data += scale * parameter[0].numel() ** -0.5 * random
    return network.eval()


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """A miniature of each variant."""
    return seeded(dataclasses.replace(MINI, **VARIANTS[request.param]))


@pytest.fixture(scope="module")
def network():
    """The miniature of the paper's network."""
    return seeded(MINI)


def image_with_hints(*shape, seed=0, hints=4):
    """Return smooth lightness with `hints` colored 2x2 cells: (B, 4, H, W) for (B, H, W)."""
    batch, height, width = shape
    rng = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand(batch, 1, height // 8 + 2, width // 8 + 2, generator=rng) - 1
    lightness = F.interpolate(coarse, size=(height, width), mode="bilinear")
    x = torch.cat([lightness, torch.zeros(batch, 3, height, width)], dim=1)
    for image in x:
        for _ in range(hints):
            row, column = (
                2 * int(torch.randint(-(-n // 2), (1,), generator=rng)) for n in (height, width)
            )
            hint(image[None], row, column, torch.rand(2, generator=rng) - 0.5)
    return x


def hint(x, row, column, ab):
    """Write a hint of 2x2 pixels into x, in place."""
    x[:, 1:3, row : row + 2, column : column + 2] = torch.as_tensor(ab).view(1, 2, 1, 1)
    x[:, 3, row : row + 2, column : column + 2] = 1


def run(network, x):
    with torch.inference_mode():
        return network(x)


# --- At initialization the network returns the hints ---------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (33, 40)])
def test_a_network_without_blocks_returns_the_hints_exactly(size):
    config = dataclasses.replace(MINI, depths=(0, 0, 0, 0), stabilizer="none")
    network, x = registry.build("pointhint", config), image_with_hints(1, *size, hints=9)
    assert x[:, 1:3].any()
    assert torch.equal(run(network, x), 110 * x[:, 1:3])


@pytest.mark.parametrize("name", [*VARIANTS, "pointhint-nano"])
def test_a_new_network_returns_the_hints_exactly(name):
    config = pointhint.PRESETS.get(name) or dataclasses.replace(MINI, **VARIANTS[name])
    network, x = registry.build("pointhint", config), image_with_hints(2, 64, 96, hints=9)
    want = 110 * x[:, 1:3] if config.merge == "keep" else torch.zeros(2, 2, 64, 96)
    assert torch.equal(run(network, x), want)


def test_dupsampling_undoes_patches_and_merges():
    x = torch.randn(2, 3, 64, 96)
    z = x.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 3, 5, 1).flatten(3)
    for _ in range(3):
        z = pointhint._merge(z)
    assert z.shape == (2, 2, 3, 3072)
    assert torch.equal(pointhint._dupsample(z), x)


# --- Feature windows (section 3.4) ---------------------------------------------------------------


def windows(lightness, cluster="brightness", size=49):
    return pointhint.feature_windows(lightness, 1, size, cluster)


@pytest.mark.parametrize("count", COUNTS)
def test_feature_attention_puts_every_token_back(monkeypatch, count):
    """If attention returns its values, the output is the input."""
    module = pointhint.FeatureWindowAttention(4, 4, 2)
    nn.init.zeros_(module.qkv.bias)
    module.qkv.weight.data = torch.cat([torch.zeros(8, 4), torch.eye(4)])
    module.project.weight.data = torch.eye(4)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, attn_mask: v)
    x = torch.randn(2, 1, count, 4)
    groups = windows(torch.rand(2, 1, 1, count))
    assert torch.equal(module(x, groups), x)


def test_equal_tokens_keep_raster_order():
    gray = torch.full((2, 1, 14, 7), 0.3)
    assert torch.equal(windows(gray).token.flatten(), torch.arange(196))
    levels = torch.randint(3, (1, 1, 14, 14), generator=torch.Generator().manual_seed(1)) / 2
    order = windows(levels).token.flatten()
    sorted_levels = levels.flatten()[order]
    assert (sorted_levels.diff() >= 0).all()
    assert (order.diff()[sorted_levels.diff() == 0] > 0).all()


def cluster_recursively(keys, order, levels):
    """Eq. 11 and 12, level by level: centers are the darkest and the brightest of a group."""
    if not levels:
        return [order]
    group = keys[order]
    to_first, to_second = ((group - c) ** 2 + 1e-12 for c in (group.min(), group.max()))
    order = order[(to_first / to_second).argsort(stable=True)]
    half = len(order) // 2
    return [
        part
        for o in (order[:half], order[half:])
        for part in cluster_recursively(keys, o, levels - 1)
    ]


@pytest.mark.parametrize("levels", [1, 2, 4, 6])
@pytest.mark.parametrize("tones", [5, 256, 10**6])
def test_one_sort_equals_the_clustering_of_the_paper(levels, tones):
    count = 49 * 2**levels
    rng = torch.Generator().manual_seed(levels)
    keys = torch.randint(tones, (count,), generator=rng) / tones
    want = cluster_recursively(keys.double(), torch.arange(count), levels)
    assert torch.equal(windows(keys.view(1, 1, 7, -1)).token, torch.stack(want))


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("count", COUNTS)
def test_every_token_is_in_one_feature_window(cluster, count):
    module = pointhint.FeatureWindowAttention(8, 8, 2)
    nn.init.normal_(module.project.weight)
    x = torch.randn(2, 1, count, 8, requires_grad=True)
    groups = windows(torch.rand(2, 1, 1, count), cluster)
    out = module(x, groups)
    out.square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    valid = torch.ones_like(groups.token) if groups.valid is None else groups.valid[:, 0, 0]
    members = groups.token[valid.bool()]
    assert torch.equal(members.sort().values, torch.arange(2 * count))
    assert torch.equal(groups.token.flatten()[groups.slot], torch.arange(2 * count))
    assert all(len(set((row // count).tolist())) == 1 for row in groups.token)  # one image each
    lengths = valid.sum(1)
    assert lengths.max() - lengths.min() <= 1
    assert len(lengths) == 2 or 35 <= lengths.min() <= lengths.max() <= 70


def test_surplus_slots_of_feature_windows_are_masked():
    """They repeat a token, which would count twice."""
    torch.manual_seed(0)
    module = pointhint.FeatureWindowAttention(8, 8, 2)
    nn.init.normal_(module.project.weight)
    x, groups = torch.randn(1, 1, 99, 8), windows(torch.rand(1, 1, 1, 99))
    assert groups.valid.sum(-1).flatten().tolist() == [49, 50]
    out = module(x, groups)
    for row, valid in zip(groups.token, groups.valid[:, 0, 0], strict=True):
        members = row[valid]
        q, k, v = module.qkv(x[0, 0, members]).unflatten(-1, (3, 2, 4)).permute(1, 2, 0, 3)
        attended = ((q @ k.mT / 2).softmax(-1) @ v).movedim(0, 1).flatten(1)
        torch.testing.assert_close(out[0, 0, members], module.project(attended))


def test_texture_and_cosine_separate_patches_of_equal_brightness():
    """98 patches of 4x4 with one mean: flat or striped; or two patterns, scaled at random."""
    rng = torch.Generator().manual_seed(0)
    kind = torch.zeros(98, dtype=torch.bool)
    kind[torch.randperm(98, generator=rng)[:49]] = True
    stripes = torch.tensor([-0.25, 0.25]).repeat(8).view(1, 1, 4, 4)

    def separates(patches, cluster):
        lightness = patches.view(7, 14, 4, 4).permute(0, 2, 1, 3).reshape(1, 1, 28, 56)
        groups = pointhint.feature_windows(lightness, 4, 49, cluster)
        return sorted(kind[groups.token].sum(1).tolist()) == [0, 49]

    patches = stripes.expand(98, 1, 4, 4) * kind.view(-1, 1, 1, 1)
    assert separates(patches, "brightness_texture") and not separates(patches, "brightness")
    light = 0.25 + torch.rand(98, 1, 1, 1, generator=rng)
    patches = torch.where(kind.view(-1, 1, 1, 1), 0.5 + stripes, 0.5 + stripes.mT) * light - 1
    assert separates(patches, "cosine") and not separates(patches, "brightness")


def cluster_by_cosine(x, order, levels):
    """Cluster unit vectors x (N, D) as in the paper's Model 5."""
    if not levels:
        return [order]
    group, half = x[order], len(order) // 2
    shares = torch.zeros(2, len(order), dtype=x.dtype)
    shares[0, :half] = shares[1, half:] = 1
    for _ in range(2):
        shares = (F.normalize(shares @ group, dim=-1) @ group.T).softmax(0)
    to_first, to_second = F.normalize(shares @ group, dim=-1) @ group.T
    order = order[(to_first / to_second).argsort(descending=True)]
    return [
        part for o in (order[:half], order[half:]) for part in cluster_by_cosine(x, o, levels - 1)
    ]


@pytest.mark.parametrize("count", [98, 197, 199])
def test_cosine_clustering_level_by_level(count):
    rng = torch.Generator().manual_seed(count)
    lightness = 2 * torch.rand(1, 1, 4, 4 * count, generator=rng, dtype=torch.float64) - 1
    patches = (lightness.view(4, count, 4).transpose(0, 1).flatten(1) + 1) / 2
    want = cluster_by_cosine(F.normalize(patches, dim=-1), torch.arange(count), round(count / 98))
    groups = pointhint.feature_windows(lightness, 4, 49, "cosine")
    valid = groups.token >= 0 if groups.valid is None else groups.valid[:, 0, 0]
    got = [set(row[slots].tolist()) for row, slots in zip(groups.token, valid, strict=True)]
    assert got == [set(part.tolist()) for part in want]


# --- Spatial windows (section 3.3) ---------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (5, 11), (3, 9), (12, 13), (1, 1)])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_equal_masked_attention_over_the_whole_map(size, shift):
    """Tokens attend to tokens of the same window only."""
    torch.manual_seed(0)
    side, heads = 4, 2
    module = pointhint.WindowAttention(12, 8, heads, side, shift=shift)
    nn.init.normal_(module.position_bias)
    nn.init.normal_(module.project.weight)
    x = torch.randn(2, *size, 12)
    q, k, v = (
        t.flatten(1, 2).movedim(-2, 1)
        for t in module.qkv(x).unflatten(-1, (3, heads, 4)).unbind(-3)
    )
    y, x_index = (p.flatten() for p in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    shifts = [shift if n > side else 0 for n in size]  # an axis of one window is not shifted
    window = (y + side - shifts[0]) // side * 1000 + (x_index + side - shifts[1]) // side
    same_window = window[:, None] == window
    row, column = (p[:, None] - p + side - 1 for p in (y, x_index))
    index = (row * (2 * side - 1) + column).clamp(0, (2 * side - 1) ** 2 - 1)
    bias = module.position_bias[index].movedim(-1, 0).masked_fill(~same_window, -math.inf)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    want = module.project(want.movedim(1, -2).flatten(-2).unflatten(1, size))
    torch.testing.assert_close(module(x), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 3])
def test_padding_of_windows_does_not_leak(monkeypatch, shift):
    torch.manual_seed(0)
    module = pointhint.WindowAttention(8, 8, 2, 7, shift=shift)
    nn.init.normal_(module.project.weight)
    x, real = torch.randn(1, 9, 16, 8), F.pad
    want = module(x)
    monkeypatch.setattr(F, "pad", lambda x, rim: real(x, rim, value=1e3))
    assert torch.equal(module(x), want)


def test_inner_windows_get_no_mask(monkeypatch):
    """Nine shifted windows: four inside with the bias alone; three masks for the other five."""
    calls, real = [], F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None):
        calls.append((len(q), int(attn_mask.isinf().any())))
        return real(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    pointhint.WindowAttention(8, 8, 2, 4, shift=2)(torch.randn(1, 12, 12, 8))
    assert calls == [(4, 0), (2, 1), (2, 1), (1, 1)]
    calls.clear()
    pointhint.WindowAttention(8, 8, 2, 4)(torch.randn(1, 12, 12, 8))
    assert calls == [(9, 0)]


def test_positions_are_distinct_and_scale_with_the_size():
    cpu = torch.device("cpu")
    position = pointhint._sine_position(5, 7, 48, 7, cpu)
    assert len(position.flatten(0, 1).unique(dim=0)) == 35
    assert position.abs().max() <= 1
    # On the training grid positions are 0, 1, 2, ...; the first frequency is 1.
    square = pointhint._sine_position(7, 7, 48, 7, cpu)
    torch.testing.assert_close(square[:, 0, 0], torch.arange(7.0).sin())
    torch.testing.assert_close(square[0, :, 24], torch.arange(7.0).sin())
    # On a grid of twice the size, positions are half as far apart.
    larger = pointhint._sine_position(14, 14, 48, 7, cpu)
    torch.testing.assert_close(larger[:, 0, 0], ((torch.arange(14) - 0.5) / 2).sin())


def test_block_is_equation_6_to_9(network):
    block, z = network.stages[1].blocks[0], torch.randn(2, 8, 12, 192)
    position = torch.randn(8, 12, 192)
    groups = pointhint.feature_windows(torch.rand(2, 1, 64, 96), 8, 49, "brightness")
    with torch.inference_mode():
        want = z + block.window(block.norm1(z) + position)
        want = want + block.shifted(block.norm2(want) + position)
        want = want + block.feature(block.norm3(want) + position, groups)
        want = want + block.mlp(block.norm4(want))
        torch.testing.assert_close(block(z, position, groups), want)
    assert (block.window.shift, block.shifted.shift) == (0, 3)


def test_stabilizer_is_a_narrow_convolution(network):
    layer, z = network.stabilizer, torch.randn(2, 3, 2, 3072)
    with torch.inference_mode():
        x = F.gelu(layer.narrow(layer.norm(z))).movedim(-1, 1)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), layer.conv.weight, layer.conv.bias)
        want = z + layer.widen(F.gelu(x).movedim(1, -1))
        torch.testing.assert_close(layer(z), want, atol=1e-4, rtol=1e-4)


# --- The network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (33, 40), (225, 300), (64, 64), (1, 1), (7, 90)])
def test_any_size(network, size):
    out = run(network, image_with_hints(1, *size))
    assert out.shape == (1, 2, *size) and out.isfinite().all()


def test_odd_sizes_of_all_variants(variant):
    out = run(variant, image_with_hints(2, 33, 70))
    assert out.shape == (2, 2, 33, 70) and out.isfinite().all()


def test_padding_repeats_the_last_pixel_without_hints(network):
    x = image_with_hints(1, 33, 40)
    hint(x, 32, 38, (0.5, -0.5))
    lightness = F.pad(x[:, :1], (0, 24, 0, 31), mode="replicate")
    whole = torch.cat([lightness, F.pad(x[:, 1:], (0, 24, 0, 31))], dim=1)
    assert torch.equal(run(network, x), run(network, whole)[:, :, :33, :40])


def test_batch_equals_images_one_by_one(variant):
    x = image_with_hints(3, 72, 96)
    apart = torch.cat([run(variant, image[None]) for image in x])
    torch.testing.assert_close(run(variant, x), apart, atol=1e-3, rtol=1e-4)
    assert torch.equal(run(variant, x), run(variant, x))
    for cluster in CLUSTERS:
        count = 24 * 18
        together = pointhint.feature_windows(x[:, :1], 4, 49, cluster).token.unflatten(0, (3, -1))
        for i, tokens in enumerate(together):
            alone = pointhint.feature_windows(x[i : i + 1, :1], 4, 49, cluster).token
            assert torch.equal(alone, tokens - i * count)


def test_a_hint_colors_its_surroundings(variant):
    x = image_with_hints(1, 96, 96, hints=0)
    hinted = x.clone()
    hint(hinted, 40, 56, (0.6, -0.4))
    change = (run(variant, hinted) - run(variant, x)).norm(dim=1)[0]
    near = change[32:48, 48:64].mean()
    assert near > 0.05 and near > 3 * change[:, :32].mean()
    if variant.config.merge == "keep":  # only an exact copy is as sharp
        assert change[40:42, 56:58].mean() > 10 * near


def test_a_gray_hint_acts_through_the_mask():
    """After a few training steps; without the mask channel it has no effect."""
    x = image_with_hints(2, 32, 32)
    gray = x.clone()
    hint(gray, 12, 12, (0, 0))
    x[:, 1:, 12:14, 12:14] = 0
    for config in (MINI, dataclasses.replace(MINI, hint_mask=False)):
        network = registry.build("pointhint", config)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        first = last = None
        for _ in range(8):  # an image of one color
            loss = F.huber_loss(network(x), torch.full((2, 2, 32, 32), 20.0))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            first, last = loss.item() if first is None else first, loss.item()
        assert last < 0.9 * first
        change = (run(network.eval(), gray) - run(network, x)).abs()
        assert bool(change.any()) == config.hint_mask


def test_training_reaches_every_parameter(variant):
    """Every parameter receives a gradient."""
    variant(image_with_hints(2, 64, 96)).square().mean().backward()
    without = [n for n, p in variant.named_parameters() if p.grad is None or not p.grad.any()]
    variant.zero_grad()
    assert not without


def test_only_inference_clamps(network):
    x = image_with_hints(1, 32, 32)
    x[:, 1:3, :2, :2] = 2
    assert run(network, x).max() == 128
    assert run(network.train(), x).max() > 200
    network.eval()


def test_half_precision_takes_float32(monkeypatch):
    """Feature windows use float32 lightness; the stream stays float32 under autocast."""
    x, seen, real = image_with_hints(1, 64, 64), [], pointhint.feature_windows
    want = run(seeded(MINI), x)
    monkeypatch.setattr(pointhint, "feature_windows", lambda *a: (seen.append(a[0]), real(*a))[1])
    half = run(seeded(MINI).bfloat16(), x)
    assert len(seen) == 4 and all(torch.equal(lightness, x[:, :1]) for lightness in seen)
    assert half.dtype == torch.bfloat16
    assert (half - want).abs().mean() < 0.05 * want.abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert run(seeded(MINI), x).dtype == torch.float32


# --- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "parameters", "gmac"),
    [
        ("pointhint-s", 36.66, 3.62),  # "GFLOPs" of the paper: 3.47
        ("pointhint-t", 10.62, 1.07),  # 1.01
        ("pointhint-nano", 2.84, 0.355),
    ],
)
def test_presets_cost_what_the_paper_claims(preset, parameters, gmac):
    """Without the kernel, which is not in the paper."""
    config = dataclasses.replace(pointhint.PRESETS[preset], kernel=None)
    network = registry.build("pointhint", config, device="meta").eval()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(parameters, rel=0.01)
    x = torch.empty(1, 4, 224, 224, device="meta")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.01)


def test_the_literal_widths_of_the_paper_can_be_built():
    """535 M parameters with Swin's depths and a full convolution; 1/1/1/1 without it 201 M."""
    config = dataclasses.replace(
        pointhint.PRESETS["pointhint-t"], inner=(48, 192, 768, 3072), stabilizer="none"
    )
    network = registry.build("pointhint", config, device="meta")
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(201.5, rel=0.01)


def test_reducing_has_the_channels_of_swin():
    assert MINI.channels == (48, 192, 768, 3072)
    assert dataclasses.replace(MINI, merge="reduce").channels == (48, 96, 192, 384)


# --- Refusals and files --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (4, 64, 64), (1, 4, 0, 64)])
def test_refuses_other_shapes(network, shape):
    with pytest.raises(ValueError, match=r"pointhint: input has shape .*; expected \(B, 4, H, W\)"):
        network(torch.rand(shape))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"stabilizer": "conv2"}, "stabilizer is 'conv2'; expected one of conv, none, linear"),
        ({"merge": "half"}, "merge is 'half'; expected one of keep, reduce"),
        ({"cluster": "kmeans"}, "cluster is 'kmeans'; expected one of brightness"),
        ({"heads": (3, 2, 2, 2)}, "3 heads do not divide the inner widths"),
        ({"depths": (2, 2, 6)}, r"depths is \(2, 2, 6\); expected 4 values"),
    ],
)
def test_refuses_other_configs(change, sentence):
    with pytest.raises(ValueError, match=f"pointhint: {sentence}"):
        dataclasses.replace(MINI, **change)


def saved(network, path, **changes):
    config = dataclasses.asdict(network.config) | changes
    info = {"architecture": "pointhint", "config": config}
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    return path


def test_own_file_keeps_config_and_weights(variant, tmp_path):
    loaded, spec, _ = registry.load(saved(variant, tmp_path / "a.safetensors"))
    assert loaded.config == variant.config and not loaded.training
    assert (spec.role, spec.model_input, spec.multiple) == ("pointhint", "L_hints", 32)
    x = image_with_hints(1, 40, 64)
    assert torch.equal(run(loaded, x), run(variant, x))


def test_file_that_does_not_fit_is_refused(network, tmp_path):
    with pytest.raises(
        CheckpointError, match="config in its metadata does not fit .*expected 4 values"
    ):
        registry.load(saved(network, tmp_path / "a.safetensors", depths=(1, 1)))
    with pytest.raises(CheckpointError, match="tensors missing: stages.0.blocks.1.norm1.weight"):
        registry.load(saved(network, tmp_path / "b.safetensors", depths=(2, 1, 2, 1)))


def test_a_file_without_metadata_is_refused(network, tmp_path):
    """Nothing is published, so no tensor names are recognized."""
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="not a known colorization checkpoint .*pointhint"):
        registry.load(tmp_path / "a.pth")


def test_presets_are_registered():
    presets = registry.presets()
    assert {presets[name] for name in pointhint.PRESETS} == {"pointhint"}
    assert [pointhint.spec(c).role for c in pointhint.PRESETS.values()] == 3 * ["pointhint"]
