"""VGG and Inception v3: miniatures and, where installed, the libraries that define them."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.trainers.evaluation import feature_networks
from torch import nn

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def reference(name: str):
    """Import a library to compare with; skip the test if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs {name} to compare with ({error})")


def randomised(state, seed=0):
    """Fill in place with random weights that keep activations near unit variance."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("running_var") or tensor.ndim == 1 and key.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(std=0.1, generator=generator)
        else:
            tensor.normal_(std=1.4 * tensor[0].numel() ** -0.5, generator=generator)
    return state


def vgg_layers(kind: str, norm: bool) -> nn.Sequential:
    """Return torchvision's `features` with 2, 3, 4, 5, 6 channels and no in-place layers."""
    layers, before = [], 3
    for width, count in enumerate(BLOCKS[kind], start=2):
        for _ in range(count):
            layers.append(nn.Conv2d(before, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU())
            before = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg_state(kind: str, norm: bool) -> dict[str, torch.Tensor]:
    """Return a miniature classifier of 10 classes under torchvision's names."""
    parts = {
        "features": vgg_layers(kind, norm),
        "classifier": nn.ModuleDict(
            {"0": nn.Linear(6 * 49, 8), "3": nn.Linear(8, 7), "6": nn.Linear(7, 10)}
        ),
    }
    return randomised(nn.ModuleDict(parts).state_dict())


def as_timm(state):
    """Rename to timm, whose first linear layers are convolutions."""
    renamed = {}
    for key, tensor in state.items():
        if key == "classifier.0.weight":
            tensor = tensor.unflatten(1, (-1, 7, 7))
        elif key == "classifier.3.weight":
            tensor = tensor[:, :, None, None]
        for theirs, ours in (("0", "pre_logits.fc1"), ("3", "pre_logits.fc2"), ("6", "head.fc")):
            key = key.replace(f"classifier.{theirs}.", f"{ours}.")
        renamed[key] = tensor
    return renamed


E_BLOCK = {
    **{"branch1x1": (1, 1), "branch3x3_1": (1, 1), "branch3x3_2a": (1, 3)},
    **{"branch3x3_2b": (3, 1), "branch3x3dbl_1": (1, 1), "branch3x3dbl_2": (3, 3)},
    **{"branch3x3dbl_3a": (1, 3), "branch3x3dbl_3b": (3, 1), "branch_pool": (1, 1)},
}
KERNELS = {  # kind of block -> kernels of its convolutions, and number of concatenated maps
    "A": (
        {
            **{"branch1x1": (1, 1), "branch5x5_1": (1, 1), "branch5x5_2": (5, 5)},
            **{"branch3x3dbl_1": (1, 1), "branch3x3dbl_2": (3, 3), "branch3x3dbl_3": (3, 3)},
            "branch_pool": (1, 1),
        },
        4,
    ),
    "B": (
        {
            **{"branch3x3": (3, 3), "branch3x3dbl_1": (1, 1)},
            **{"branch3x3dbl_2": (3, 3), "branch3x3dbl_3": (3, 3)},
        },
        2,
    ),
    "C": (
        {
            **{"branch1x1": (1, 1), "branch7x7_1": (1, 1), "branch7x7_2": (1, 7)},
            **{"branch7x7_3": (7, 1), "branch7x7dbl_1": (1, 1), "branch7x7dbl_2": (7, 1)},
            **{"branch7x7dbl_3": (1, 7), "branch7x7dbl_4": (7, 1), "branch7x7dbl_5": (1, 7)},
            "branch_pool": (1, 1),
        },
        4,
    ),
    "D": (
        {
            **{"branch3x3_1": (1, 1), "branch3x3_2": (3, 3), "branch7x7x3_1": (1, 1)},
            **{"branch7x7x3_2": (1, 7), "branch7x7x3_3": (7, 1), "branch7x7x3_4": (3, 3)},
        },
        2,
    ),
    "E": (E_BLOCK, 6),
}
STEM = {
    **{"Conv2d_1a_3x3": 3, "Conv2d_2a_3x3": 3, "Conv2d_2b_3x3": 3},
    **{"Conv2d_3b_1x1": 1, "Conv2d_4a_3x3": 3},
}
MIXED = {"5b": "A", "5c": "A", "5d": "A", "6a": "B", **dict.fromkeys(("6b", "6c", "6d", "6e"), "C")}
MIXED |= {"7a": "D", "7b": "E", "7c": "E"}


def inception_state(classes: int) -> dict[str, torch.Tensor]:
    """Return an Inception v3 with 2 channels per convolution, under torchvision's names."""
    shapes, before = {}, 3
    for name, side in STEM.items():
        shapes[name], before = (2, before, side, side), 2
    for name, kind in MIXED.items():
        kernels, ends = KERNELS[kind]
        for conv, kernel in kernels.items():
            first = conv.endswith(("_1", "branch1x1", "branch_pool", "branch3x3"))
            shapes[f"Mixed_{name}.{conv}"] = (2, before if first else 2, *kernel)
        before = 2 * ends + (before if kind in "BD" else 0)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.conv.weight"] = torch.empty(shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = torch.empty(2)
    state |= {"fc.weight": torch.empty(classes, before), "fc.bias": torch.empty(classes)}
    return randomised(state | {"AuxLogits.fc.weight": torch.empty(classes, 3)})


@pytest.fixture
def rgb():
    return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(tmp_path):
    """A function that saves a state dict as a .pth file."""

    def save(state, name="given.pth"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


# --- VGG -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
def test_vgg_maps_are_the_first_convolutions_of_the_blocks(kind, norm, rgb, saved):
    state = vgg_state(kind, norm)
    network = feature_networks.load_vgg_features(saved(state))
    assert network.name == kind + "_bn" * norm
    whole = vgg_layers(kind, norm)
    whole.load_state_dict(
        {k.removeprefix("features."): t for k, t in state.items() if k.startswith("features.")}
    )
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (feature_networks.IMAGENET_MEAN, [0.229, 0.224, 0.225])
    )
    x, expected, first_of_block = (rgb - mean) / std, [], True
    for layer in whole.eval():
        x = layer(x)
        if first_of_block:
            expected.append(x)
        first_of_block = isinstance(layer, nn.MaxPool2d)
    maps = network(rgb)
    assert [m.shape[1] for m in maps] == [2, 3, 4, 5, 6]
    for actual, wanted in zip(maps, expected, strict=False):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)
    assert len(network.features) == network.taps[-1] + 1  # no layers after the last map


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_classifier_reads_both_namings(norm, rgb, saved):
    state = vgg_state("vgg16", norm)
    ours = feature_networks.load_classifier(saved(state))
    theirs = feature_networks.load_classifier(saved(as_timm(state), "timm.pth"))
    logits = ours(rgb)
    assert logits.shape == (2, 10) and logits.std() > 0.01
    assert torch.equal(theirs(rgb), logits)
    torch.testing.assert_close(ours(rgb[1:]), logits[1:], rtol=1e-4, atol=1e-5)


def test_networks_stay_frozen(rgb, saved):
    """Eval mode, float32, no parameter gradients; files from before 2018 lack batch counters."""
    state = {k: t for k, t in vgg_state("vgg16", True).items() if "num_batches" not in k}
    network = feature_networks.load_vgg_features(
        saved({k: t.half() for k, t in state.items()})
    ).train()
    assert not any(module.training for module in network.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    image = rgb.requires_grad_()
    sum(m.mean() for m in network(image)).backward()
    assert image.grad.abs().sum() > 0


def test_other_networks_are_refused(saved):
    with pytest.raises(CheckpointError, match="this is vgg19; expected ImageNet weights of vgg16"):
        feature_networks.load_vgg_features(saved(vgg_state("vgg19", False)), ("vgg16",))
    with pytest.raises(CheckpointError, match="not a VGG-16, VGG-19 or Inception v3"):
        feature_networks.load_classifier(saved({"conv1.weight": torch.zeros(1)}))
    maps = {k: t for k, t in vgg_state("vgg16", False).items() if k.startswith("features")}
    with pytest.raises(CheckpointError, match="the vgg16 lacks the tensor 'classifier.0.weight'"):
        feature_networks.load_classifier(saved(maps))
    with pytest.raises(CheckpointError, match="this is vgg16; expected an Inception v3"):
        feature_networks.load_inception(saved(maps))
    maps.pop("features.5.weight")
    with pytest.raises(CheckpointError, match="not a VGG-16"):
        feature_networks.load_vgg_features(saved(maps))


# --- Inception -------------------------------------------------------------------------------


def test_inception_distinguishes_fid_from_imagenet(rgb, saved):
    state = inception_state(1008)
    fid = feature_networks.load_inception(saved(state))
    assert fid.name == "inception_fid"
    plain = feature_networks.load_inception(saved(inception_state(1000), "plain.pth"))
    assert plain.name == "inception_v3 (ImageNet)"
    features = fid(rgb)
    assert features.shape == (2, 12)
    torch.testing.assert_close(fid(rgb[1:]), features[1:], rtol=1e-4, atol=1e-5)
    shared = {k: t for k, t in state.items() if not k.startswith("fc.")}
    shared |= {k: t[:1000] for k, t in state.items() if k.startswith("fc.")}
    other = feature_networks.load_inception(saved(shared, "shared.pth"))(rgb)  # other pools
    assert (other - features).abs().max() > 1e-2
    with pytest.raises(CheckpointError, match="1008 classes are not ImageNet's"):
        feature_networks.load_classifier(saved(state))
    with pytest.raises(CheckpointError, match="without its last layer"):
        feature_networks.load_inception(saved({k: t for k, t in state.items() if "fc." not in k}))
    state.pop("Mixed_6c.branch1x1.conv.weight")
    with pytest.raises(
        CheckpointError, match="the inception_fid lacks the tensor 'blocks.Mixed_6c.branch1x1"
    ):
        feature_networks.load_inception(saved(state))


@pytest.mark.parametrize(("fid", "corner"), [(True, 1.0), (False, 4 / 9)])
def test_average_pools_of_fid_leave_out_the_padding(fid, corner):
    pooled = feature_networks.InceptionBlock((("mean",),), {}, "", fid=fid)(torch.ones(1, 1, 5, 5))
    assert pooled[0, 0, 0, 0].item() == pytest.approx(corner)
    assert pooled[0, 0, 2, 2].item() == pytest.approx(1)


def test_inception_classifier(rgb, saved):
    network = feature_networks.load_classifier(saved(inception_state(1000)))
    logits = network(rgb)
    assert logits.shape == (2, 1000) and logits.std() > 1e-3
    assert torch.equal(network(rgb), logits)


def test_resize_and_crop(rgb):
    assert feature_networks.resize_and_crop(rgb, 256, 224).shape == (2, 3, 224, 224)
    ramp = torch.arange(300.0).expand(1, 3, 256, 300)
    assert torch.equal(feature_networks.resize_and_crop(ramp, 256, 224), ramp[..., 16:240, 38:262])


# --- Original libraries ----------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_equals_torchvision(norm, rgb, saved):
    vision = reference("torchvision").models.vgg
    cfg = [w for width, n in enumerate(BLOCKS["vgg16"], 2) for w in (*[width] * n, "M")]
    state = vgg_state("vgg16", norm)
    with torch.device("meta"):
        model = vision.VGG(vision.make_layers(cfg, batch_norm=norm), init_weights=False)
    for i, shape in ((0, (6 * 49, 8)), (3, (8, 7)), (6, (7, 10))):
        model.classifier[i] = nn.Linear(*shape)
    model.load_state_dict(state, assign=True)
    seen = vision.VGG16_Weights.IMAGENET1K_V1.transforms()(rgb)
    expected = model.eval()(seen)
    torch.testing.assert_close(feature_networks.load_classifier(saved(state))(rgb), expected)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_equals_timm(norm, saved):
    timm = reference("timm.models.vgg")
    cfg = [w for width, n in enumerate(BLOCKS["vgg19"], 2) for w in (*[width] * n, "M")]
    layer = nn.BatchNorm2d if norm else None
    model = timm.VGG(cfg, num_classes=10, mlp_ratio=0.01, norm_layer=layer).eval()
    state = randomised(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 256, 256, generator=generator)  # a size that is not resized
    normalized = (image[..., 16:240, 16:240] - 0.45) / 0.2
    network = feature_networks.load_classifier(saved(state))
    network.normalize.mean, network.normalize.std = torch.tensor(0.45), torch.tensor(0.2)
    torch.testing.assert_close(network(image), model(normalized), rtol=1e-4, atol=1e-4)


@pytest.fixture
def unsaved(monkeypatch):
    """A function that passes off a large state dict as the content of a file."""

    def replace_read(state):
        monkeypatch.setattr(feature_networks.checkpoint, "read", lambda path: (dict(state), {}))
        return "unsaved.pth"

    return replace_read


def test_features_equal_pytorch_fid(rgb, unsaved, monkeypatch):
    vision, fid = reference("torchvision").models, reference("pytorch_fid.inception")
    plain = vision.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    state = randomised(plain.state_dict())
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: state)
    model = fid.InceptionV3().eval()
    features = feature_networks.load_inception(unsaved(state))(rgb)
    assert features.shape == (2, 2048) and features.std() > 0.05
    torch.testing.assert_close(features, model(rgb)[0].flatten(1), rtol=1e-4, atol=1e-5)


def test_inception_classifier_equals_torchvision_and_timm(rgb, unsaved):
    vision, timm = reference("torchvision").models, reference("timm")
    model = vision.Inception3(init_weights=False).eval()  # its weights expect inputs in -1..1
    state = randomised(model.state_dict())
    logits = feature_networks.load_classifier(unsaved(state))(rgb)
    seen = vision.Inception_V3_Weights.IMAGENET1K_V1.transforms()(rgb)
    model.transform_input = True
    torch.testing.assert_close(logits, model(seen), rtol=1e-3, atol=1e-4)
    other = timm.create_model("inception_v3", aux_logits=True).eval()
    other.load_state_dict(state)
    seen = 2 * feature_networks.resize_and_crop(rgb, 342, 299) - 1
    torch.testing.assert_close(logits, other(seen)[0], rtol=1e-3, atol=1e-4)
    assert set(other.state_dict()) == set(state)  # both use the same names
    resized = F.interpolate(rgb, (299, 299), mode="bilinear")
    features = feature_networks.load_inception(unsaved(state))(rgb)
    expected = other.forward_head(other.forward_features(2 * resized - 1)[0], pre_logits=True)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
