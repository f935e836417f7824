"""Exemplar network: golden parity with the official code; equations; published files."""

import dataclasses
import json
import math
import runpy

import comfyui_colorist
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import (
    checkpoint,
    colorformer,
    ddcolor,
    match_confidence,
    registry,
    xcnet,
    xcnet_attention,
    xcnet_config,
    xcnet_convert,
)
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.layers import rename_key
from comfyui_colorist.ops import color
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Largest error of a prediction in -1..1, relative rms. About four times the difference of the
# official code between memory formats at 224 pixels; measured here: 8e-6, 3e-6.
TOLERANCE = {"xcnet": (2e-3, 6e-4), "xcnet_no_pos": (1e-4, 6e-5)}
VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
SCALES = ("pred1", "pred2", "pred3", "pred4")
# Changes to the miniature configuration.
VARIANTS = {
    "fused": {},
    "literal": {"second_kv": "reference"},
    "standard": {"attention": ("standard",) * 3},
    "mixed": {"attention": ("axial", "standard", "standard")},
    "plain": {"positions": False, "scale": 0.35, "second_kv": "reference"},
    "span": {"span": 3},
    "program": {"compat": "xcnet", "second_kv": "reference"},
    "apart": {"share": False, "reference_color": False},
    "single": {"stack": 1},
    "prior": {},
}


@pytest.fixture(scope="module")
def fill(root):
    return runpy.run_path(str(root / "tests" / "golden" / "fill.py"))


@pytest.fixture(scope="module")
def golden(root):
    return load_file(root / "tests" / "golden" / "exemplar.safetensors")


def published_tensors(fill, positions):
    """Return (name, shape, dtype) of all tensors of a published file."""
    tensors = fill["load_manifest"]("xcnet")["tensors"]
    positional = (".relative", ".flatten_index")
    return [t for t in tensors if positions or not t[0].endswith(positional)]


@pytest.fixture(scope="module", params=["xcnet", "xcnet_no_pos"])
def published(request, fill, tmp_path_factory):
    """Name and file of a published network with synthetic weights, in the published container."""
    tensors = published_tensors(fill, positions=request.param == "xcnet")
    path = tmp_path_factory.mktemp("published") / f"{request.param}_model.pth"
    state = fill["make_state_dict"]({"tensors": tensors})
    torch.save({"model_state_dict": state, "epoch": 89, "step": 1}, path)
    return request.param, path


@pytest.fixture(scope="module")
def predictions(published, fill):
    """Predictions for the golden inputs, finest first."""
    target = 2 * fill["gray_input"](224, 224, 1) - 1
    reference = 2 * fill["tinted_input"](224, 224, 101) - 1
    reference = reference * torch.tensor([1, 0.5, 0.5]).view(1, 3, 1, 1)
    with torch.inference_mode():
        return registry.load(published[1])[0](target, reference)


@pytest.fixture(scope="module")
def paper():
    """The paper's network on the meta device."""
    return registry.build("exemplar", xcnet.PRESETS["exemplar-vgg19"], device="meta").eval()


@pytest.fixture(scope="module", params=VARIANTS)
def network(request, mini_exemplar_config):
    """A miniature of each variant: seeded weights, nontrivial batch norms, eval mode."""
    return seeded(variant(mini_exemplar_config, request.param))


def variant(config, name):
    kernel = config.kernel if name == "prior" else None
    return dataclasses.replace(config, kernel=kernel, **VARIANTS[name])


def seeded(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("exemplar", config)
        xcnet.initialize(network)
        for parameter in network.parameters():
            if parameter.ndim > 1:  # for visible colors
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        randomize(network)
    return network.eval()


def randomize(module):
    """Randomize batch norms and sharpen attention, in place."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
        if isinstance(part, xcnet_attention.AxialAttention | xcnet_attention.StandardAttention):
            nn.init.normal_(part.project_in.weight, std=2 * part.project_in.in_features**-0.5)
            nn.init.normal_(part.project_in.bias, std=0.2)


def image(seed, batch=1, height=64, width=64):
    """Return smooth Lab in -1..1: (B, 3, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand(batch, 3, height // 8, width // 8, generator=rng) - 1
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(-1, 1)


def gray(lab):
    return lab[:, :1].expand(-1, 3, -1, -1)


def predict(network, target, references, trusts=None):
    with torch.inference_mode():
        return network.predict(
            target, network.encode_references(references, target.shape[2:], trusts)
        )


def agrees(got, want, name):
    error = (got.double() - want.double()).abs()
    worst, rms = TOLERANCE[name]
    assert error.max() <= worst
    assert error.pow(2).mean().sqrt() / want.double().std() <= rms


# --- Parity --------------------------------------------------------------------------------------


def test_golden(published, predictions, golden):
    name, _ = published
    for scale, got in zip(SCALES, predictions, strict=True):
        agrees(got[:, :, ::8, 4::8], golden[f"{name}.{scale}"], name)


def test_golden_in_full(published, predictions, reference):
    name, _ = published
    want = load_file(reference / "golden" / f"{name}_224.safetensors")
    for scale, got in zip(SCALES, predictions, strict=True):
        agrees(got, want[scale], name)


def test_published_image(published, fill, golden):
    """`finish="published"` is the official notebook's image before quantization to bytes."""
    name, path = published
    if name != "xcnet":
        pytest.skip("no golden image")
    target, reference = (
        torch.from_numpy(fill["color_image"](224, 224, seed=seed)).float() / 255
        for seed in (31, 32)
    )
    out = comfyui_colorist.load(path).colorize(target, reference=reference, finish="published")
    assert out.shape == (224, 224, 3)
    error = (out[::8, ::8] - golden["published_picture"]).abs()
    assert error.max() < 2 / 255  # measured: 4e-4
    assert error.mean() < 1e-4


# --- Sizes ---------------------------------------------------------------------------------------


def trained(network):
    names = network.named_parameters()
    return sum(p.numel() for name, p in names if not name.startswith("backbone."))


def test_sizes_of_the_paper(paper):
    assert trained(paper) == 9_720_456
    assert trained(built(attention=("standard",) * 3)) == 9_301_000
    assert trained(built(share=False)) == 10_932_488
    assert trained(built(stack=1)) == trained(paper)
    nano = registry.build("exemplar", xcnet.PRESETS["exemplar-nano"], device="meta")
    assert sum(p.numel() for p in nano.parameters()) <= 6e6


def built(**changes):
    config = dataclasses.replace(xcnet.PRESETS["exemplar-vgg19"], **changes)
    return registry.build("exemplar", config, device="meta").eval()


def test_arithmetic_of_the_paper(paper):
    """The program takes 141.8 GMAC; ours computes keys and values once for both passes."""
    for network, macs in ((paper, 141.8e9), (built(attention=("standard",) * 3), 150.7e9)):
        with FlopCounterMode(display=False) as counter:
            network(*torch.empty(2, 1, 3, 224, 224, device="meta"))
        assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=0.01)


def test_maps_of_the_paper(paper):
    maps = paper.backbone(torch.empty(2, 3, 224, 224, device="meta"))
    sides = {1: 224, 2: 112, 3: 56, 4: 28, 5: 14, "B": 14}
    widths = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512, "B": 512}
    assert {level: tuple(map.shape) for level, map in maps.items()} == {
        level: (2, widths[level], side, side) for level, side in sides.items()
    }
    for size, other in (((224, 224), (224, 224)), ((160, 208), (224, 128))):
        target = torch.empty(2, 3, *size, device="meta")
        reference = torch.empty(2, 3, *other, device="meta")
        shapes = [tuple(ab.shape) for ab in paper(target, reference)]
        assert shapes == [(2, 2, size[0] // 2**i, size[1] // 2**i) for i in range(4)]


@pytest.mark.parametrize("size", [(64, 64), (80, 112), (33, 47), (16, 71)])
@pytest.mark.parametrize("other", [(64, 64), (112, 48), (16, 39)])
def test_any_sizes(network, size, other):
    target, reference = gray(image(1, 2, *size)), image(2, 2, *other)
    with torch.inference_mode():
        predictions = network(target, reference)
    got = predict(network, target, [reference])
    assert len(predictions) == 3
    assert predictions[0].shape == got.ab.shape == (2, 2, *(math.ceil(n / 2) for n in size))
    assert got.confidence.shape == (2, 1, *(n // 4 for n in size))
    assert all(x.isfinite().all() for x in (*predictions, *got))


# --- Backbones -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg19():
    """The paper's backbone with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return xcnet.VGG19(xcnet.Config()).eval()


def test_vgg19_has_the_names_of_torchvision(vgg19):
    widths = [w for w in xcnet.VGG19_CHANNELS if w]
    expected = {}
    inputs = [3, *widths[:-1]]
    for i, out, channels in zip(VGG19_CONVOLUTIONS, widths, inputs, strict=True):
        expected[f"features.{i}.weight"] = (out, channels, 3, 3)
        expected[f"features.{i}.bias"] = (out,)
    assert {key: tuple(t.shape) for key, t in vgg19.state_dict().items()} == expected


@pytest.mark.parametrize("last", [33, 35])
def test_vgg19_taps_are_the_first_activations(vgg19, last):
    """Equal to torchvision's layers run one by one; in-place layers do not change taps."""
    x, state, want = torch.randn(1, 3, 32, 48), vgg19.state_dict(), {}
    network = xcnet.VGG19(xcnet.Config(backbone_last=last))
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    with torch.inference_mode():
        taps, reference_taps = network(x), network.forward_reference(x)
        y = x
        for i in range(last + 1):
            if i in VGG19_CONVOLUTIONS:
                weight, bias = (state[f"features.{i}.{part}"] for part in ("weight", "bias"))
                y = F.conv2d(y, weight, bias, padding=1)
            elif i - 1 in VGG19_CONVOLUTIONS:
                y = y.relu()
            else:
                y = F.max_pool2d(y, 2)
            want[i] = y
    for level, index in {1: 1, 2: 6, 3: 11, 4: 20, 5: 29, "B": last}.items():
        torch.testing.assert_close(taps[level], want[index], atol=1e-5, rtol=1e-4)
    for level in xcnet_config.LEVELS:
        torch.testing.assert_close(reference_taps[level], want[xcnet.VGG19_TAPS[level]])


def test_vgg19_with_imagenet_input():
    """`vgg_input="imagenet"`: RGB with ImageNet mean and std; the target is gray."""
    network = built(vgg_input="imagenet")
    rgb = torch.rand(1, 3, 16, 16)
    lab = color.rgb_to_lab(rgb)
    scaled = torch.cat([lab[:, :1] / 50 - 1, lab[:, 1:] / 110], dim=1)
    statistics = xcnet.IMAGENET_MEAN, xcnet.IMAGENET_STD
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in statistics)
    torch.testing.assert_close(
        network._backbone_input(scaled), (rgb - mean) / std, atol=1e-3, rtol=1e-3
    )
    want = (color.gray_rgb(lab[:, :1]) - mean) / std
    torch.testing.assert_close(
        network._backbone_input(gray(scaled), gray=True), want, atol=1e-3, rtol=1e-3
    )
    assert torch.equal(built()._backbone_input(scaled), scaled)


def test_small_backbone_ignores_color(mini_exemplar_network):
    backbone, lab = mini_exemplar_network.backbone, image(1)
    with torch.inference_mode():
        for level, tap in backbone(lab).items():
            assert torch.equal(tap, backbone(gray(lab))[level])


# --- The paper's equations -----------------------------------------------------------------------


def reference_of(features, trust=None):
    """Return a reference at one level, without moments."""
    return xcnet_attention.Reference(
        features, trust, features.new_empty(len(features), 0, *features.shape[2:])
    )


def equation_2(module, query, references, trusts, table, reach):
    """Attend along W with scalar loops; `table` is for lines of the query's length."""
    heads, width = module.heads, query.shape[1]
    d_k, d_v, m = width // (2 * heads), width // heads, query.shape[3]
    weight, bias = module.project_in.weight, module.project_in.bias
    attended = torch.zeros(query.shape[2], m, width)
    for y in range(query.shape[2]):
        q = query[0, :, y].T @ weight[: width // 2].T + bias[: width // 2]
        kv = [r[0, :, y].T @ weight[width // 2 :].T + bias[width // 2 :] for r in references]
        for head in range(heads):
            keys = slice(head * d_k, (head + 1) * d_k)
            values = slice(width // 2 + head * d_v, width // 2 + (head + 1) * d_v)
            for i in range(m):
                weights, terms = [], []
                for n in range(len(references)):
                    for j in range(m):
                        if reach and abs(j - i) >= reach:
                            continue
                        r_q, r_k, r_v = table[j - i + len(table) // 2].split([d_k, d_k, d_v])
                        k_j, v_j, q_i = kv[n][j, keys], kv[n][j, values], q[i, keys]
                        logit = module.scale * (q_i @ k_j + q_i @ r_q + k_j @ r_k)
                        weights.append(logit.exp() * trusts[n][0, 0, y, j])
                        terms.append(v_j + r_v)
                weights = torch.stack(weights) / sum(weights)
                attended[y, i, head * d_v : (head + 1) * d_v] = weights @ torch.stack(terms)
    return module.project_out(attended).movedim(-1, 0)[None]


def axial(axis="w", length=5, **changes):
    torch.manual_seed(0)
    config = xcnet.Config(width=8, heads=2, **changes)
    module = xcnet_attention.AxialAttention(config, config.span or length, axis)
    randomize(module)
    return module


@pytest.mark.parametrize("changes", [{}, {"span": 3, "scale": 0.5}])
@pytest.mark.parametrize("count", [1, 3])
@torch.inference_mode()
def test_axial_attention_is_equation_2(changes, count):
    """Several references form one longer line of keys; trust multiplies the weights."""
    module = axial(**changes)
    query, references = torch.randn(1, 8, 2, 5), list(torch.randn(count, 1, 8, 2, 5))
    trusts = list(torch.rand(count, 1, 1, 2, 5).clamp_min(0.01))
    table = module.relative  # r^q, r^k, r^v concatenated
    if "span" in changes:  # entries beyond the span are never read
        table = torch.cat([torch.full((2, 8), math.nan), table, torch.full((2, 8), math.nan)])
    for case in ([None] * count, trusts):
        encoded = [reference_of(*pair) for pair in zip(references, case, strict=True)]
        got, _ = module(query, module.keys_values(encoded))
        weights = [torch.ones(1, 1, 2, 5) if t is None else t for t in case]
        want = equation_2(module, query, references, weights, table, changes.get("span", 0))
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_positions_are_interpolated_for_another_grid():
    module = axial(length=5)
    query, reference = torch.randn(1, 8, 2, 3), torch.randn(1, 8, 2, 3)
    got, _ = module(query, module.keys_values([reference_of(reference)]))
    table = module.relative[[0, 2, 4, 6, 8]]  # 9 entries for lines of 5 -> 5 for lines of 3
    want = equation_2(module, query, [reference], [torch.ones(1, 1, 2, 3)], table, 0)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_other_axis_equals_the_transposed_image():
    along_w, along_h = axial("w"), axial("h")
    query, reference = torch.randn(2, 8, 4, 5), torch.randn(2, 8, 4, 5)
    want, _ = along_w(query, along_w.keys_values([reference_of(reference)]))
    got, _ = along_h(query.mT, along_h.keys_values([reference_of(reference.mT)]))
    torch.testing.assert_close(got.mT, want)


def module_of(**changes):
    torch.manual_seed(0)
    module = xcnet_attention.AttentionModule(xcnet.Config(width=16, heads=2, **changes), 5).eval()
    randomize(module)
    return module


@pytest.mark.parametrize("second_kv", ["reference", "fused"])
@torch.inference_mode()
def test_swapped_axes_equal_the_transposed_image(second_kv):
    """Width before height equals height before width on the transposed image."""
    module = module_of(second_kv=second_kv)
    target, reference = torch.randn(2, 16, 4, 6), torch.randn(2, 16, 4, 6)
    want, _ = module(target, module.keys_values([reference_of(reference)], (4, 6)))
    module.first.axis, module.second.axis = "h", "w"
    got, _ = module(target.mT, module.keys_values([reference_of(reference.mT)], (6, 4)))
    torch.testing.assert_close(got.mT, want, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(
        want, module(target, module.keys_values([reference_of(reference)], (4, 6)))[0]
    )


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize(
    ("changes", "visible"),
    [({}, 6 + 5 - 1), ({"second_kv": "fused"}, 6 * 5), ({"attention": ("standard",) * 3}, 6 * 5)],
    ids=["literal", "fused", "standard"],
)
def test_receptive_field(changes, visible, stack):
    """With reference keys on both axes: one row and one column, however often applied."""
    module, reference = module_of(**changes), torch.randn(1, 16, 6, 5, requires_grad=True)
    x = torch.randn(1, 16, 6, 5)
    for _ in range(stack):
        x, _ = module(x, module.keys_values([reference_of(reference)], (6, 5)))
    x[0, :, 2, 3].sum().backward()
    cells = reference.grad[0].abs().sum(0) > 0
    assert cells.sum() == visible
    assert cells[2].all() and cells[:, 3].all()


@torch.inference_mode()
def test_standard_attention_is_equation_1():
    torch.manual_seed(0)
    module = xcnet_attention.StandardAttention(xcnet.Config(width=16, heads=2))
    randomize(module)
    plain = nn.MultiheadAttention(16, 2, batch_first=True)
    plain.load_state_dict(
        {
            "in_proj_weight": module.project_in.weight,
            "in_proj_bias": module.project_in.bias,
            "out_proj.weight": module.project_out.weight,
            "out_proj.bias": module.project_out.bias,
        }
    )
    query, references = (
        torch.randn(2, 16, 3, 4),
        [torch.randn(2, 16, 5, 2), torch.randn(2, 16, 1, 6)],
    )
    got, _ = module(query, module.keys_values([reference_of(r) for r in references]))
    cells = torch.cat([r.flatten(2) for r in references], dim=2).mT
    want, _ = plain(query.flatten(2).mT, cells, cells)
    torch.testing.assert_close(got, want.mT.unflatten(2, (3, 4)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["axial", "standard"])
@torch.inference_mode()
def test_moments_are_averaged_by_attention(attention):
    """With the mean weights of all heads: a constant stays constant."""
    module = module_of(attention=(attention,) * 3)
    moments = torch.stack([torch.full((2, 4, 6), 7.0), torch.arange(48.0).view(2, 4, 6)], dim=1)
    reference = xcnet_attention.Reference(torch.randn(2, 16, 4, 6), None, moments)
    _, attended = module(torch.randn(2, 16, 4, 6), module.keys_values([reference], (4, 6)))
    assert attended.shape == (2, 2, 4, 6)
    torch.testing.assert_close(attended[:, 0], torch.full((2, 4, 6), 7.0))
    assert (attended[0, 1] >= 0).all() and (attended[0, 1] <= 23).all()
    assert (attended[1, 1] >= 24).all() and (attended[1, 1] <= 47).all()


# --- Prediction ----------------------------------------------------------------------------------


def test_predict_gives_the_finest_prediction(network):
    target, reference = gray(image(1, 2)), image(2, 2)
    with torch.inference_mode():
        finest = network(target, reference)[0]
    got = predict(network, target, [reference])
    torch.testing.assert_close(got.ab, 110 * finest, atol=1e-3, rtol=1e-4)


def test_one_reference_serves_a_batch(network):
    target, reference = gray(image(1, 3, 64, 80)), image(2)
    with torch.inference_mode():
        encoded = network.encode_references([reference], (64, 80))
        together = network.predict(target, encoded)
        apart = [network.predict(image[None], encoded) for image in target]
    for got, want in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(want), atol=1e-3, rtol=1e-3)


def test_batch_equals_pairs_one_by_one(network):
    target, reference = gray(image(1, 3)), image(2, 3)
    together = predict(network, target, [reference])
    apart = [predict(network, t[None], [r[None]]) for t, r in zip(target, reference, strict=True)]
    for got, want in zip(together, zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(want), atol=1e-3, rtol=1e-3)


def test_two_equal_references_act_as_one(network):
    target, reference = gray(image(1)), image(2)
    once, twice = (predict(network, target, [reference] * n) for n in (1, 2))
    if network.kernel:  # for the color prior it is twice the evidence
        assert (twice.ab - once.ab).abs().mean() < 0.1 * once.ab.std()
        return
    for got, want in zip(twice, once, strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_the_reference_colors_matter(network):
    """The result depends on the reference's ab, not only on its L."""
    target, reference = gray(image(1)), image(2)
    other = torch.cat([reference[:, :1], -reference[:, 1:]], dim=1)
    first, second = (predict(network, target, [r]).ab for r in (reference, other))
    if network.config.reference_color:
        assert (first - second).abs().mean() > 0.1
    else:  # the backbone reads L only
        torch.testing.assert_close(first, second)


# --- Trust and confidence ------------------------------------------------------------------------


def test_colors_without_trust_do_not_matter(network):
    target, reference, trust = gray(image(1)), image(2), torch.ones(1, 1, 64, 64)
    trust[..., :32] = 0
    other = reference.clone()
    other[:, 1:, :, :32] = image(3)[:, 1:, :, :32]  # the same L
    first, second = (predict(network, target, [r], [trust]) for r in (reference, other))
    for got, want in zip(first, second, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    full = predict(network, target, [reference])
    assert (full.ab - first.ab).abs().max() > 1e-3


def test_full_trust_is_the_default(network):
    target, reference = gray(image(1)), image(2)
    plain, full = (
        predict(network, target, [reference], [t]) for t in (None, torch.ones(1, 1, 64, 64))
    )
    for got, want in zip(full, plain, strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_a_reference_without_trust_is_ignored(network):
    target, reference, untrusted = gray(image(1)), image(2), image(3)
    want = predict(network, target, [reference])
    trusts = [None, torch.zeros(1, 1, 64, 64)]
    got = predict(network, target, [reference, untrusted], trusts)
    # Not exactly zero (MIN_TRUST): the untrusted reference may be much more similar.
    assert (got.ab - want.ab).abs().mean() < 0.1 * want.ab.std() + 1e-3


def test_confidence_without_trust_is_zero(network):
    target, reference = gray(image(1)), image(2)
    got = predict(network, target, [reference], [torch.zeros(1, 1, 64, 64)])
    assert torch.equal(got.confidence, torch.zeros(1, 1, 16, 16))


def test_cosine_cues_separate_the_image_itself_from_noise(network):
    """The best cosines at two levels, and their means over the image."""
    target, reference, cosines = gray(image(1)), image(1), [1, 2, 5, 6]
    noise = 2 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)) - 1
    itself, other = (predict(network, target, [r]) for r in (reference, noise))
    for got in (itself, other):
        assert (got.confidence >= 0).all() and (got.confidence <= 1).all()
        means = got.cues[:, 1:3].mean(dim=(2, 3), keepdim=True).expand(-1, -1, 16, 16)
        torch.testing.assert_close(got.cues[:, 5:], means)
    torch.testing.assert_close(itself.cues[:, cosines], torch.ones(1, 4, 16, 16))
    sure, unsure = (
        match_confidence.confidence(
            torch.ones(1, 1, 16, 16), got.cues[:, cosines], (-6, 1, 1, 3, 3)
        )
        for got in (itself, other)
    )
    assert (sure > unsure).float().mean() > 0.9


def test_color_cues_of_a_uniform_reference(network):
    """A reference of one color: no deviation, and the distance from that color."""
    target, plain = gray(image(1)), image(2)
    plain[:, 1], plain[:, 2] = 0.3, -0.2
    got, unsure = (predict(network, target, [r]) for r in (plain, image(2)))
    assert got.cues[:, 0].max() < 0.5 < unsure.cues[:, 0].mean()  # deviation
    distance = (got.ab - torch.tensor([33, -22]).view(2, 1, 1)).norm(dim=1).mean().item()
    for cue in got.cues[:, 3:5].unbind(1):  # smoothed
        assert cue.mean().item() == pytest.approx(distance, rel=0.2)


def test_confidence_is_trust_times_sigmoid():
    trust, cues = (
        torch.tensor([1.0, 0.5]).view(2, 1, 1, 1),
        torch.arange(1.0, 4.0).view(1, 3, 1, 1),
    )
    sure = match_confidence.confidence(trust, cues, (-14, 1, 2, 3)).flatten()
    torch.testing.assert_close(sure, torch.tensor([0.5, 0.25]))


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backbone": "resnet"}, "backbone is 'resnet'; expected one of vgg19, convnext"),
        ({"backbone_last": 34}, "backbone_last is 34; expected one of 33, 35"),
        ({"vgg_input": "rgb"}, "vgg_input is 'rgb'; expected one of raw, imagenet"),
        ({"second_kv": "target"}, "second_kv is 'target'; expected one of reference, fused"),
        ({"compat": "program"}, "compat is 'program'; expected one of paper, xcnet"),
        ({"attention": ("axial",)}, "attention is .*; expected 3 values"),
        ({"attention": ("axial", "axial", "full")}, "'full'; expected one of axial, standard"),
        ({"confidence": (1.0, 2.0)}, "confidence has 2 values; expected 8"),
        ({"width": 40}, "width is 40; expected a multiple of 16, twice the heads"),
        ({"backbone": "convnext"}, "no full-size map; set full_res_head to False"),
    ],
)
def test_config_refuses(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        xcnet.Config(**changes)


def test_network_refuses(mini_exemplar_network):
    network, good = mini_exemplar_network, image(1)
    with pytest.raises(ValueError, match="no reference; give at least one"):
        network.encode_references([], (64, 64))
    for bad in (good[0], good[:, :1]):
        with pytest.raises(ValueError, match=r"a reference has shape .*; expected \(G, 3, H, W\)"):
            network.encode_references([bad], (64, 64))
        with pytest.raises(ValueError, match=r"the target has shape .*; expected \(B, 3, H, W\)"):
            network.predict(bad, network.encode_references([good], (64, 64)))
    with pytest.raises(ValueError, match="an image is 15x64 pixels; expected at least 16x16"):
        network.encode_references([good], (64, 15))
    with pytest.raises(ValueError, match="an image is 64x15 pixels; expected at least 16x16"):
        network.encode_references([good[:, :, :15]], (64, 64))
    with pytest.raises(ValueError, match="an image is 64x8 pixels; expected at least 16x16"):
        network(good[:, :, :8], good)


# --- Files ---------------------------------------------------------------------------------------


def test_own_file_keeps_config_and_weights(network, tmp_path):
    path = tmp_path / "a.safetensors"
    info = {"architecture": "exemplar", "config": dataclasses.asdict(network.config)}
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    loaded, spec, _ = registry.load(path)
    assert loaded.config == network.config and spec == xcnet.spec(network.config)
    assert not loaded.training
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", xcnet.PRESETS)
def test_presets_are_json(name):
    preset = xcnet.PRESETS[name]
    assert xcnet.Config(**json.loads(json.dumps(dataclasses.asdict(preset)))) == preset


def small_published(fill, positions):
    """Return a narrow network of the published form, and its state dict with published names."""
    heads, width = (2, 16) if positions else (8, 32)
    scale = 1.0 if positions else (width / heads) ** -0.5
    config = xcnet.Config(
        width=width, heads=heads, head_width=8, positions=positions, scale=scale, compat="xcnet"
    )
    network = seeded(config)
    ours, state = network.state_dict(), {}
    for name, shape, _ in published_tensors(fill, positions):
        if name.endswith(".flatten_index"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        tensor = ours[
            rename_key(name.replace(".module.0.", ".module.1."), xcnet_convert.PUBLISHED_NAMES)
        ]
        if name.endswith(".relative"):  # the program reverses two of the three tables
            d = width // heads // 2
            q, k, v = tensor.T.split([d, d, 2 * d])
            tensor = torch.cat([q.flip(1), k, v.flip(1)])
        state[name] = tensor
    return network, state


@pytest.mark.parametrize(
    ("form", "positions"), [("published", True), ("published", False), ("module.", True)]
)
def test_every_published_form_loads(fill, tmp_path, form, positions):
    """Build small, save as published, detect and load: same config, same output."""
    network, state = small_published(fill, positions)
    content = {"model_state_dict": state, "epoch": 89, "step": 1}
    if form == "module.":
        content = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save(content, tmp_path / "xcnet_model.pth")
    loaded, spec, info = registry.load(tmp_path / "xcnet_model.pth")
    assert loaded.config == network.config
    assert not loaded.training and spec.role == "exemplar" and spec.aligned and info == {}
    target, reference = gray(image(1, 1, 32, 48)), image(2, 1, 32, 48)
    with torch.inference_mode():
        for got, want in zip(loaded(target, reference), network(target, reference), strict=True):
            torch.testing.assert_close(got, want)


def test_the_second_of_two_unequal_modules_is_kept():
    """The program reads module.1 last."""
    state = {
        "att3.module.1.bn_tgt.bias": torch.ones(2),
        "att3.module.0.bn_tgt.bias": torch.zeros(2),
    }
    for ordered in (state, dict(reversed(state.items()))):
        converted = xcnet.convert(ordered)
        assert converted.keys() == {"attention.3.0.target_norm.bias"}
        assert torch.equal(converted["attention.3.0.target_norm.bias"], torch.ones(2))
    assert len(state) == 2


def test_a_published_file_that_lacks_a_tensor(fill, tmp_path):
    state = {name: torch.zeros(16, 16, 3, 3) for name, *_ in published_tensors(fill, False)}
    del state["dec2.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="1 tensors missing: decoder.2.mix.weight"):
        registry.load(tmp_path / "part.pth")


def test_detection_is_exclusive(fill):
    manifests = {
        "ddcolor_paper_tiny": ddcolor,
        "colorformer": colorformer,
        "xcnet": xcnet,
    }
    for name, expected in manifests.items():
        keys = {key for key, _, _ in fill["load_manifest"](name)["tensors"]}
        for module in manifests.values():
            assert module.detect(keys) == (module is expected)


# --- Training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_training_reaches_every_parameter(name, mini_exemplar_config):
    """Every parameter receives a gradient."""
    config = variant(mini_exemplar_config, name)
    torch.manual_seed(0)
    network = registry.build("exemplar", config)
    xcnet.initialize(network)
    sum(ab.square().mean() for ab in network(gray(image(1, 2)), image(2, 2))).backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not without


def test_initial_attention_is_not_saturated(mini_exemplar_config):
    config = dataclasses.replace(mini_exemplar_config, width=64, heads=4)
    torch.manual_seed(0)
    network = registry.build("exemplar", config)
    xcnet.initialize(network)
    for module in network.modules():
        if isinstance(module, xcnet_attention.AxialAttention):
            assert module.project_in.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
            assert not module.project_in.bias.any()
        if hasattr(module, "gamma"):
            assert (module.gamma == 1).all()


def test_fused_ignores_lines_without_trust():
    """The first axis passes on the trust of the lines that it read."""
    module, features = module_of(second_kv="fused"), torch.randn(1, 16, 6, 5)
    trust, other = torch.ones(1, 1, 6, 5), features.clone()
    trust[:, :, :2] = 0
    other[:, :, :2] = torch.randn(1, 16, 2, 5)
    moments, target = torch.cat([trust, torch.zeros(1, 3, 6, 5)], 1), torch.randn(1, 16, 6, 5)
    first, second = (
        module(target, module.keys_values([xcnet_attention.Reference(x, trust, moments)], (6, 5)))[
            0
        ]
        for x in (features, other)
    )
    assert (first - second).abs().mean() < 0.1 * first.std()


def test_a_file_that_keeps_one_name_of_a_module(fill):
    """Safetensors stores shared tensors once."""
    tensors = published_tensors(fill, positions=True)
    whole = {name: torch.empty(shape, device="meta") for name, shape, *_ in tensors}
    once = {name: tensor for name, tensor in whole.items() if ".module.1." not in name}
    assert len(once) < len(whole) and xcnet.detect(set(once))
    assert xcnet.config_from(once) == xcnet.config_from(whole)
    assert xcnet.convert(once).keys() == xcnet.convert(whole).keys()


def test_a_line_of_one_cell_uses_the_middle_position():
    attention = axial(length=5)
    entries = torch.arange(9.0)[:, None].expand(9, attention.relative.shape[1])
    attention.relative = torch.nn.Parameter(entries.clone())
    for table in attention.position_tables(1, torch.float32):
        assert (table == 4).all()


def test_references_come_in_groups_of_one_size(mini_exemplar_network):
    with pytest.raises(ValueError, match="groups of 1 and 2"):
        mini_exemplar_network.encode_references([image(0), image(1, batch=2)], (64, 64))


# --- The color prior -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_prior(mini_exemplar_config):
    """An untrained miniature: its kernel uses position and lightness."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = dataclasses.replace(mini_exemplar_config, cells_per_reference=400)
        return registry.build("exemplar", config).eval()


def cells(lab):
    return F.avg_pool2d(lab[:, 1:], 2)


@torch.no_grad()
def test_the_prior_takes_colors_from_similar_cells(with_prior):
    """An image is its own best reference, even with an untrained kernel."""
    target, other = image(1), image(2)
    itself, unrelated = (
        with_prior.predict_prior(target, with_prior.encode_references([lab], (64, 64)).posterior)
        for lab in (target, other)
    )
    assert itself.shape == (1, 3, 32, 32)
    error, larger = ((x[:, :2] - cells(target)).square().mean() for x in (itself, unrelated))
    assert error < 0.6 * larger
    assert itself[:, 2].mean() > unrelated[:, 2].mean() > 0 and itself[:, 2].max() <= 1


@torch.no_grad()
def test_cells_without_trust_do_not_affect_the_prior(with_prior):
    reference = image(1)
    reference[:, 1:, :, :32], reference[:, 1:, :, 32:] = 0.4, -0.4
    trust = torch.zeros(1, 1, 64, 64)
    trust[..., :32] = 1
    encoded = with_prior.encode_references([reference], (64, 64), [trust])
    assert with_prior.predict_prior(image(3), encoded.posterior)[:, :2].min() > 0
    encoded = with_prior.encode_references([reference] * 2, (64, 64), [trust, 1 - trust])
    assert with_prior.predict_prior(image(3), encoded.posterior)[:, :2].min() < 0


@torch.no_grad()
def test_a_prior_can_be_passed(with_prior):
    target, reference = image(1, 2), image(2, 2)
    encoded = with_prior.encode_references([reference], (64, 64))
    want = with_prior(gray(target), reference)
    prior = with_prior.predict_prior(target, encoded.posterior)
    for a, b in zip(with_prior(gray(target), reference, prior=prior), want, strict=True):
        torch.testing.assert_close(a, b)
    finest = with_prior(gray(target), reference, prior=torch.zeros(2, 3, 32, 32))[0]
    assert (finest - want[0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_blend_lies_between_prior_and_prediction(with_prior):
    x, ab = torch.randn(1, 16, 8, 8), torch.rand(1, 2, 8, 8)
    prior = torch.rand(1, 3, 8, 8) - 1
    mixed = with_prior.blend(x, ab, prior)
    assert (mixed <= ab).all() and (mixed >= prior[:, :2]).all()


def test_a_prior_has_no_full_size(mini_exemplar_config):
    with pytest.raises(ValueError, match="the color prior has half the image's height and width"):
        dataclasses.replace(xcnet.Config(), kernel=mini_exemplar_config.kernel)
