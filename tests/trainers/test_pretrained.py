"""Names of four parties lead to one encoder, which then computes what theirs does."""

import importlib
import json
import re

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import colorformer, ddcolor, xcnet
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.efficientnet_lite import EfficientNetLite
from comfyui_colorist.trainers import pretrained

NEXT = ddcolor.Config(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), width=32)
SWIN = colorformer.Config(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4)


def reference(name: str):
    """A library to compare with; skips where it is not installed, or cannot be loaded."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs {name} to compare with ({error})")


def randomised(state, seed=0):
    """Lively weights, those of norms and layer scales near 1."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        if "scale" in key or "gamma" in key or tensor.ndim == 1 and key.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(
                std=0.1 if tensor.ndim == 1 else tensor[0].numel() ** -0.5, generator=generator
            )
    return state


def rewritten(state, table):
    """A state dict under other names: (pattern, replacement), all that match."""
    renamed = {}
    for key, tensor in state.items():
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor
    return renamed


@pytest.fixture
def saved(tmp_path):
    """Saves a state dict as a .pth file."""

    def save(state, name="given.pth"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def handed(monkeypatch):
    """Hands a state dict over as if it had been read from a file."""

    def hand(state):
        monkeypatch.setattr(pretrained.checkpoint, "read", lambda path: (dict(state), {}))
        return "handed.pth"

    return hand


# --- ConvNeXt --------------------------------------------------------------------------------


def next_state():
    """Under our names, without the norms behind the stages."""
    state = randomised(ddcolor.ConvNeXt(NEXT).state_dict())
    return {key: tensor for key, tensor in state.items() if not key.startswith("norms.")}


def next_authors(state):
    block = (
        (r"\.depthwise\.", ".dwconv."),
        (r"\.expand\.", ".pwconv1."),
        (r"\.project\.", ".pwconv2."),
    )
    renamed = rewritten(state, [(r"^downsample\.", "downsample_layers."), *block])
    return renamed | {
        "norm.weight": torch.ones(32),
        "head.weight": torch.ones(5, 32),
        "head.bias": torch.ones(5),
    }


def next_timm(state):
    block = (
        (r"\.depthwise\.", ".conv_dw."),
        (r"\.expand\.", ".mlp.fc1."),
        (r"\.project\.", ".mlp.fc2."),
    )
    places = (
        (r"^downsample\.0\.", "stem."),
        (r"^stages\.(\d)\.", r"stages.\1.blocks."),
        (r"^downsample\.(\d)\.", r"stages.\1.downsample."),
    )
    return rewritten(state, [*places, *block]) | {
        "head.norm.weight": torch.ones(32),
        "head.fc.bias": torch.ones(5),
    }


def next_torchvision(state):
    block = (
        (r"\.depthwise\.", ".block.0."),
        (r"\.norm\.", ".block.2."),
        (r"\.expand\.", ".block.3."),
        (r"\.project\.", ".block.5."),
        (r"\.gamma$", ".layer_scale"),
    )
    places = [(rf"^downsample\.{i}\.", f"features.{2 * i}.") for i in range(4)]
    places += [(rf"^stages\.{i}\.", f"features.{2 * i + 1}.") for i in range(4)]
    renamed = rewritten(state, [*places, *block]) | {"classifier.0.weight": torch.ones(32)}
    return {k: t[:, None, None] if k.endswith("layer_scale") else t for k, t in renamed.items()}


def next_convolutions(state):
    """Rename to timm's variant whose linear layers are 1x1 convolutions."""
    state = next_timm(state)
    return {
        k: t[..., None, None] if ".mlp.fc" in k and t.ndim == 2 else t for k, t in state.items()
    }


def next_published(state):
    """A whole DDColor file of the authors of DDColor; this one has the norms behind the stages."""
    norms = {
        f"norm{i}.{part}": torch.full((d,), 3.0)
        for i, d in enumerate(NEXT.dims)
        for part in ("weight", "bias")
    }
    state = {f"encoder.arch.{key}": t for key, t in (next_authors(state) | norms).items()}
    return state | {"decoder.layers.0.bn.weight": torch.ones(3)}


@pytest.mark.parametrize(
    "naming",
    [dict, next_authors, next_timm, next_torchvision, next_convolutions, next_published],
)
def test_convnext_is_read_under_all_names(naming, saved):
    state = next_state()
    encoder = ddcolor.ConvNeXt(NEXT)
    said = pretrained.load_backbone(encoder, saved(naming(state)), "convnext")
    taken = encoder.state_dict()
    assert all(torch.equal(taken[key], tensor) for key, tensor in state.items())
    whole = naming is next_published
    norms = [
        tensor for key, tensor in taken.items() if key.startswith("norms.") and "weight" in key
    ]
    assert all((tensor == (3 if whole else 1)).all() for tensor in norms)
    kept = "" if whole else "; initial values kept: norms.0, norms.1, norms.2, norms.3"
    assert said == f"given.pth: {len(state) + 8 * whole} tensors loaded{kept}."
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_convnext_of_another_size_is_refused(saved):
    file = saved(next_timm(next_state()), "convnext_tiny.pth")
    encoder = ddcolor.ConvNeXt(ddcolor.Config(depths=(1, 1, 3, 1), dims=(8, 16, 24, 48), width=32))
    with pytest.raises(
        CheckpointError,
        match="convnext_tiny.pth: a convnext of 1, 1, 2, 1 blocks of 8, 16, 24, 32 channels; this "
        "encoder has 1, 1, 3, 1 blocks of 8, 16, 24, 48 channels",
    ):
        pretrained.load_backbone(encoder, file, "convnext")
    with pytest.raises(
        CheckpointError, match=r"no Swin with known tensor names \(\d+ tensors, first"
    ):
        pretrained.load_backbone(colorformer.GLHTransformer(SWIN), file, "swin")
    with pytest.raises(
        ValueError, match="kind is 'resnet'; expected one of convnext, efficientnet"
    ):
        pretrained.load_backbone(encoder, file, "resnet")
    broken = next_timm(next_state())
    broken.pop("stages.2.blocks.1.gamma")
    with pytest.raises(CheckpointError, match="1 tensors missing: stages.2.1.gamma"):
        pretrained.load_backbone(ddcolor.ConvNeXt(NEXT), saved(broken), "convnext")


def test_weights_keep_the_encoders_dtype_and_share_no_memory(saved):
    state = {key: tensor.half() for key, tensor in next_state().items()}
    encoder = ddcolor.ConvNeXt(NEXT)
    pretrained.load_backbone(encoder, saved(state), "convnext")
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}
    encoder = colorformer.GLHTransformer(SWIN)
    pretrained.load_backbone(encoder, saved(swin_authors(swin_state())), "swin")
    attention = encoder.stages[0][0].attention
    before = attention.qkv.weight.detach().clone()
    with torch.no_grad():
        attention.global_kv.weight.zero_()
    assert torch.equal(attention.qkv.weight, before)


# --- EfficientNet-Lite -----------------------------------------------------------------------

LITE = (1, 2, 1, 1, 1, 1, 1), (4, 6, 8, 10, 12, 14, 16)


def lite_blocks():
    """(stage, block, has an expansion) of all blocks, in their order."""
    return [(s, b, s > 0) for s, depth in enumerate(LITE[0]) for b in range(depth)]


def lite_state():
    """Layers of the published form: convolutions without bias, each with its batch norm."""
    layers = {"stem": None}
    for stage, block, expands in lite_blocks():
        for layer in ("expand", "depthwise", "project")[not expands :]:
            layers[f"stages.{stage}.{block}.{layer}"] = None
    with torch.random.fork_rng():
        shapes = EfficientNetLite(*LITE).state_dict()
    state = {}
    for layer in layers:
        weight = shapes[f"{layer}.weight"]
        width = len(weight)
        norms = ("weight", "bias", "running_mean", "running_var")
        state |= {f"{layer}.weight": weight}
        state |= {f"{layer}_norm.{part}": torch.empty(width) for part in norms}
        state[f"{layer}_norm.num_batches_tracked"] = torch.tensor(7)
    state = randomised(state)
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return state


def lite_port(state):
    """Blocks are counted through, as in the wheels on the Python package index."""
    names = [(r"^stem\.", "_conv_stem."), (r"^stem_norm\.", "_bn0.")]
    for number, (stage, block, _) in enumerate(lite_blocks()):
        for ours, theirs in (("expand", "_expand_conv"), ("depthwise", "_depthwise_conv")):
            names.append((rf"^stages\.{stage}\.{block}\.{ours}\.", f"_blocks.{number}.{theirs}."))
        names.append((rf"^stages\.{stage}\.{block}\.project\.", f"_blocks.{number}._project_conv."))
        for i, ours in enumerate(("expand", "depthwise", "project")):
            names.append(
                (rf"^stages\.{stage}\.{block}\.{ours}_norm\.", f"_blocks.{number}._bn{i}.")
            )
    return rewritten(state, names) | {
        "_conv_head.weight": torch.ones(8, 16, 1, 1),
        "_bn1.weight": torch.ones(8),
        "_fc.bias": torch.ones(5),
    }


def lite_timm(state):
    first = [
        (r"^stages\.0\.(\d+)\.depthwise_norm\.", r"blocks.0.\1.bn1."),
        (r"^stages\.0\.(\d+)\.project_norm\.", r"blocks.0.\1.bn2."),
        (r"^stages\.0\.(\d+)\.project\.", r"blocks.0.\1.conv_pw."),
    ]
    others = [
        (r"\.expand\.", ".conv_pw."),
        (r"\.depthwise\.", ".conv_dw."),
        (r"\.project\.", ".conv_pwl."),
        (r"\.expand_norm\.", ".bn1."),
        (r"\.depthwise_norm\.", ".bn2."),
        (r"\.project_norm\.", ".bn3."),
        (r"^stages\.", "blocks."),
        (r"^stem\.", "conv_stem."),
        (r"^stem_norm\.", "bn1."),
    ]
    return rewritten(state, first + others) | {
        "conv_head.weight": torch.ones(8, 16, 1, 1),
        "bn2.weight": torch.ones(8),
        "classifier.bias": torch.ones(5),
    }


def lite_unfolded(state, x):
    """The network as published, layer by layer: maps at all four taps."""

    def layer(name, x, stride=1, groups=1, act=True):
        weight = state[f"{name}.weight"]
        surplus = max(weight.shape[-1] - stride, 0)
        first = surplus // 2
        x = F.pad(x, (first, surplus - first, first, surplus - first))
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        norm = [
            state[f"{name}_norm.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        ]
        x = F.batch_norm(x, *norm, eps=1e-3)
        return F.relu6(x) if act else x

    x, maps = layer("stem", x, stride=2), {}
    for stage, block, expands in lite_blocks():
        name, inputs = f"stages.{stage}.{block}", x
        stride = (1, 2, 2, 2, 1, 2, 1)[stage] if block == 0 else 1
        if expands:
            x = layer(f"{name}.expand", x)
        x = layer(f"{name}.depthwise", x, stride, groups=x.shape[1])
        x = layer(f"{name}.project", x, act=False)
        x = x + inputs if x.shape == inputs.shape else x
        maps[stage] = x
    return [maps[stage] for stage in (1, 2, 4, 6)]


@pytest.mark.parametrize("naming", [lite_port, lite_timm])
def test_lite_computes_what_the_published_network_does(naming, saved):
    state = lite_state()
    encoder = EfficientNetLite(*LITE)
    said = pretrained.load_backbone(encoder, saved(naming(state)), "efficientnet-lite")
    assert said == f"given.pth: {len(encoder.state_dict())} tensors loaded."
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for ours, theirs in zip(encoder(x), lite_unfolded(state, x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_encoder_of_a_trained_ddcolor_is_taken(saved):
    encoder = EfficientNetLite(*LITE)
    inputs = {f"encoder.{key}": tensor + 1 for key, tensor in encoder.state_dict().items()}
    inputs |= {"pixel_decoder.embedding.weight": torch.ones(3), "mean": torch.ones(3)}
    pretrained.load_backbone(encoder, saved(inputs), "efficientnet-lite")
    taken = encoder.state_dict()
    assert all(
        torch.equal(taken[key.removeprefix("encoder.")], inputs[key])
        for key in inputs
        if key.startswith("encoder.")
    )


def test_other_files_are_not_detected_as_lite(saved):
    encoder = EfficientNetLite(*LITE)
    with pytest.raises(
        CheckpointError, match=r"no EfficientNet-Lite with known tensor names \(\d+"
    ):
        pretrained.load_backbone(encoder, saved(next_timm(next_state())), "efficientnet-lite")
    with pytest.raises(CheckpointError, match="no ConvNeXt with known tensor names"):
        pretrained.load_backbone(ddcolor.ConvNeXt(NEXT), saved(lite_port(lite_state())), "convnext")
    cut = {k: t for k, t in lite_port(lite_state()).items() if "_blocks.7" not in k}
    with pytest.raises(CheckpointError, match="efficientnet-lite of 1, 2, 1, 1, 1, 1 blocks of"):
        pretrained.load_backbone(encoder, saved(cut), "efficientnet-lite")
    damaged = lite_port(lite_state())
    damaged.pop("_blocks.3._bn1.running_var")
    with pytest.raises(CheckpointError, match="batch norm after stages.2.0.depthwise has no .*var"):
        pretrained.load_backbone(encoder, saved(damaged), "efficientnet-lite")
    without = lite_port(lite_state())
    without.pop("_blocks.3._depthwise_conv.weight")
    with pytest.raises(CheckpointError, match="missing: stages.2.0.depthwise.weight"):
        pretrained.load_backbone(encoder, saved(without), "efficientnet-lite")
    with pytest.raises(CheckpointError, match="expected one of lite0, lite1, lite2"):
        pretrained.load_efficientnet_lite(saved(lite_port(lite_state())))


# --- Swin ------------------------------------------------------------------------------------


def swin_state(glh: bool = False):
    """Under our names, without what only a GLH-Transformer has."""
    state = randomised(colorformer.GLHTransformer(SWIN).state_dict())
    if glh:
        return state
    return {
        k: t
        for k, t in state.items()
        if ".global_" not in k and k[:7] not in ("norms.0", "norms.1", "norms.2")
    }


SWIN_NAMES = [
    (r"^patches\.", "patch_embed.proj."),
    (r"^patch_norm\.", "patch_embed.norm."),
    (r"^stages\.(\d)\.", r"layers.\1.blocks."),
    (r"\.attention\.position_bias$", ".attn.relative_position_bias_table"),
    (r"\.attention\.global_", ".attn."),
    (r"\.attention\.project\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
]
DERIVED = {
    "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16),
    "layers.0.blocks.1.attn_mask": torch.ones(4),
}


def swin_authors(state):
    places = [(r"^merging\.(\d)\.", r"layers.\1.downsample."), (r"^norms\.3\.", "norm.")]
    return rewritten(state, SWIN_NAMES + places) | DERIVED | {"head.weight": torch.ones(5, 64)}


def swin_timm(state):
    places = [(rf"^merging\.{i}\.", f"layers.{i + 1}.downsample.") for i in range(3)]
    return rewritten(state, [*SWIN_NAMES, *places, (r"^norms\.3\.", "norm.")]) | {
        "head.fc.weight": torch.ones(5, 64)
    }


def swin_torchvision(state):
    block = (
        (r"\.attention\.position_bias$", ".attn.relative_position_bias_table"),
        (r"\.attention\.qkv\.", ".attn.qkv."),
        (r"\.attention\.project\.", ".attn.proj."),
        (r"\.mlp\.2\.", ".mlp.3."),
    )
    places = [
        (r"^patches\.", "features.0.0."),
        (r"^patch_norm\.", "features.0.2."),
        (r"^norms\.3\.", "norm."),
    ]
    places += [(rf"^merging\.{i}\.", f"features.{2 * i + 2}.") for i in range(3)]
    places += [(rf"^stages\.{i}\.", f"features.{2 * i + 1}.") for i in range(4)]
    derived = {"features.1.0.attn.relative_position_index": torch.zeros(256)}
    return rewritten(state, [*places, *block]) | derived | {"head.weight": torch.ones(5, 64)}


@pytest.mark.parametrize("naming", [dict, swin_authors, swin_timm, swin_torchvision])
def test_swin_is_read_under_all_names(naming, saved):
    state = swin_state()
    encoder = colorformer.GLHTransformer(SWIN)
    said = pretrained.load_backbone(encoder, saved(naming(state)), "swin")
    taken = encoder.state_dict()
    assert all(torch.equal(taken[key], tensor) for key, tensor in state.items())
    for stage, dim in zip(encoder.stages, SWIN.tap_dims, strict=True):
        own, pooled = stage[0].attention.qkv, stage[0].attention.global_kv
        assert torch.equal(pooled.weight, own.weight[dim:])
        assert torch.equal(pooled.bias, own.bias[dim:])
    assert said == (
        f"given.pth: {len(state) + 8} tensors loaded; keys and values of the pooled tokens are "
        "copied from Swin's own; initial values kept: attention.global_norm, norms.0, norms.1, "
        "norms.2."
    )


@pytest.mark.parametrize("prefix", ["", "encoder.arch."])
def test_glh_is_taken_whole(prefix, saved):
    state = swin_state(glh=True)
    places = [(r"^merging\.(\d)\.", r"layers.\1.downsample."), (r"^norms\.", "norm")]
    inputs = rewritten(state, SWIN_NAMES + places) | DERIVED
    inputs |= {"norm_cls.weight": torch.ones(64), "head_cls.weight": torch.ones(5, 64)}
    encoder = colorformer.GLHTransformer(SWIN)
    said = pretrained.load_backbone(
        encoder, saved({prefix + key: t for key, t in inputs.items()}), "swin"
    )
    taken = encoder.state_dict()
    assert all(torch.equal(taken[key], tensor) for key, tensor in state.items())
    assert said == f"given.pth: {len(state)} tensors loaded."


# --- VGG-19 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [33, 35])
def test_vgg19_is_taken_as_far_as_the_backbone_goes(last, handed):
    with torch.device("meta"):  # the sizes are VGG's own
        whole = xcnet.VGG19(xcnet.Config()).state_dict()
        backbone = xcnet.VGG19(xcnet.Config(backbone_last=last))
        inputs = whole | {"classifier.0.weight": torch.empty(3, 3), "head.fc.bias": torch.empty(3)}
    said = pretrained.load_backbone(backbone, handed(inputs), "vgg19")
    assert said == f"handed.pth: {30 if last == 33 else 32} tensors loaded."


def test_other_vggs_are_refused(handed):
    backbone = xcnet.VGG19(xcnet.Config())
    with pytest.raises(CheckpointError, match="has batch norm; expected plain VGG-19"):
        norms = {"features.34.weight": torch.ones(1), "features.1.running_mean": torch.ones(1)}
        pretrained.load_backbone(backbone, handed(norms), "vgg19")
    with pytest.raises(CheckpointError, match="no VGG-19"):
        pretrained.load_backbone(backbone, handed({"features.28.weight": torch.ones(1)}), "vgg19")


# --- True sizes ------------------------------------------------------------------------------


def names_of(root, file):
    listed = json.loads((root / "tests" / "golden" / file).read_text())["tensors"]
    return {key: torch.empty(shape, device="meta") for key, shape, _ in listed}


def test_published_networks_fit(root, handed):
    with torch.device("meta"):
        encoder = ddcolor.ConvNeXt(ddcolor.PRESETS["ddcolor-tiny"])
        other = colorformer.GLHTransformer(colorformer.PRESETS["colorformer"])
    said = pretrained.load_backbone(
        encoder, handed(names_of(root, "ddcolor_paper_tiny.keys.json")), "convnext"
    )
    assert said == f"handed.pth: {len(encoder.state_dict())} tensors loaded."
    said = pretrained.load_backbone(other, handed(names_of(root, "colorformer.keys.json")), "swin")
    assert said == f"handed.pth: {len(other.state_dict())} tensors loaded."


@pytest.mark.parametrize(
    ("name", "preset"), [("convnext_large", "ddcolor-large"), ("convnext_tiny", "ddcolor-tiny")]
)
def test_timm_and_torchvision_convnexts_fit(name, preset, handed):
    timm, vision = reference("timm"), reference("torchvision").models
    with torch.device("meta"):
        inputs = (
            timm.create_model(name, num_classes=21841).state_dict(),
            vision.get_model(name).state_dict(),
        )
        encoder = ddcolor.ConvNeXt(ddcolor.PRESETS[preset])
    for state in inputs:
        assert "kept: norms.0, norms.1, norms.2, norms.3." in pretrained.load_backbone(
            encoder, handed(state), "convnext"
        )


def test_timm_and_torchvision_swins_fit(handed):
    timm, vision = reference("timm"), reference("torchvision").models
    with torch.device("meta"):
        inputs = (
            timm.models.swin_transformer.SwinTransformer(
                num_classes=21841, embed_dim=96
            ).state_dict(),
            vision.swin_t().state_dict(),
        )
        encoder = colorformer.GLHTransformer(colorformer.PRESETS["colorformer"])
    for state in inputs:
        assert pretrained.load_backbone(encoder, handed(state), "swin").endswith(
            "norms.0, norms.1, norms.2."
        )


# --- Beside their makers' --------------------------------------------------------------------


@pytest.fixture
def picture():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def normed(maps):
    """What our encoder gives with norms as they are built: (B, C, h, w) each."""
    return [
        F.layer_norm(m.permute(0, 2, 3, 1), m.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        for m in maps
    ]


def close(made, expected):
    for mine, theirs in zip(made, normed(expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("whose", ["timm", "convolutions", "authors"])
def test_convnext_computes_what_timm_s_does(whose, picture, saved):
    convnext = reference("timm.models.convnext")
    model = convnext.ConvNeXt(
        depths=NEXT.depths, dims=NEXT.dims, num_classes=5, conv_mlp=whose == "convolutions"
    )
    state = randomised(model.state_dict())
    if whose == "authors":  # timm itself says what their names mean
        state = next_authors(next_state()) | {"norm.bias": torch.ones(32)}
        model.load_state_dict(convnext.checkpoint_filter_fn(state, model))
    encoder = ddcolor.ConvNeXt(NEXT)
    pretrained.load_backbone(encoder, saved(state), "convnext")
    close(encoder(picture), model.eval().forward_intermediates(picture, intermediates_only=True))


def test_convnext_computes_what_torchvision_s_does(picture, saved):
    vision = reference("torchvision").models.convnext
    dims = [*NEXT.dims, None]
    setting = [vision.CNBlockConfig(*dims[i : i + 2], depth) for i, depth in enumerate(NEXT.depths)]
    model = vision.ConvNeXt(setting, num_classes=5).eval()
    encoder = ddcolor.ConvNeXt(NEXT)
    pretrained.load_backbone(encoder, saved(randomised(model.state_dict())), "convnext")
    maps = []
    for i, layer in enumerate(model.features):
        picture = layer(picture) if i else layer(inputs := picture)
        maps += [picture] if i % 2 else []
    close(encoder(inputs), maps)


@pytest.fixture
def unpooled(monkeypatch):
    """Without the pooled tokens, which Swin does not have."""
    attend = colorformer.WindowAttention.attend

    def local(self, q, k, v, bias):
        tokens = q.shape[2]
        return attend(self, q, k[:, :, :tokens], v[:, :, :tokens], bias[..., :tokens])

    monkeypatch.setattr(colorformer.WindowAttention, "attend", local)


@pytest.mark.parametrize("whose", ["timm", "authors"])
def test_swin_computes_what_timm_s_does(whose, unpooled, saved):
    swin = reference("timm.models.swin_transformer")
    # Maps of whole windows: where they are not, timm pads after it shifts, torchvision before.
    picture = torch.randn(1, 3, 256, 384, generator=torch.Generator().manual_seed(0))
    model = swin.SwinTransformer(
        **{"img_size": (256, 384), "window_size": 4, "embed_dim": 8, "num_classes": 5},
        **{"depths": SWIN.depths, "num_heads": SWIN.heads},
    )
    state = randomised(model.state_dict())
    if whose == "authors":
        state = swin_authors(swin_state()) | {"head.bias": torch.ones(5)}
        model.load_state_dict(swin.checkpoint_filter_fn(state, model))
    encoder = colorformer.GLHTransformer(SWIN)
    pretrained.load_backbone(encoder, saved(state), "swin")
    made = encoder(picture)
    maps = model.eval().forward_intermediates(picture, intermediates_only=True)
    last = model.norm(maps[3].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(made[3], last, rtol=1e-3, atol=1e-4)
    close(made[:3], maps[:3])


def test_swin_computes_what_torchvision_s_does(unpooled, saved):
    vision = reference("torchvision").models.swin_transformer
    inputs = picture = torch.randn(1, 3, 160, 256, generator=torch.Generator().manual_seed(0))
    model = vision.SwinTransformer(
        [4, 4], 8, list(SWIN.depths), list(SWIN.heads), [4, 4], num_classes=5
    )
    encoder = colorformer.GLHTransformer(SWIN)
    pretrained.load_backbone(encoder, saved(randomised(model.eval().state_dict())), "swin")
    maps = []
    for i, layer in enumerate(model.features):
        picture = layer(picture)
        maps += [picture.permute(0, 3, 1, 2)] if i % 2 else []
    made = encoder(inputs)
    last = model.norm(picture).permute(0, 3, 1, 2)
    torch.testing.assert_close(made[3], last, rtol=1e-3, atol=1e-4)
    close(made[:3], maps[:3])
