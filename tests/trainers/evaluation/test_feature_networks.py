"""VGG and Inception v3 in miniature and, where the libraries are at hand, beside their makers'."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.trainers.evaluation import feature_networks
from torch import nn

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def reference(name: str):
    """A library to compare with; skips where it is not installed, or cannot be loaded."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs {name} to compare with ({error})")


def randomised(state, seed=0):
    """Weights of a lively network: variances and gains near 1, everything else small."""
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
    """torchvision's `features` with 2, 3, 4, 5, 6 channels; nothing in place."""
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
    """A whole miniature classifier of 10 classes under torchvision's names."""
    parts = {
        "features": vgg_layers(kind, norm),
        "classifier": nn.ModuleDict(
            {"0": nn.Linear(6 * 49, 8), "3": nn.Linear(8, 7), "6": nn.Linear(7, 10)}
        ),
    }
    return randomised(nn.ModuleDict(parts).state_dict())


def as_timm(state):
    """The same under timm's names, whose first linear layers are convolutions."""
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
KERNELS = {  # of the convolutions of each kind of block, and what passes it by
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
    """An Inception v3 whose every convolution has 2 channels, under torchvision's names."""
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
    """Saves a state dict as a .pth file."""

    def save(state, name="given.pth"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


# --- VGG -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
def test_vgg_maps_are_the_first_convolutions_of_the_blocks(kind, norm, rgb, saved):
    state = vgg_state(kind, norm)
    network = feature_networks.vgg(saved(state))
    assert network.name == kind + "_bn" * norm
    whole = vgg_layers(kind, norm)
    whole.load_state_dict(
        {k.removeprefix("features."): t for k, t in state.items() if k.startswith("features.")}
    )
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in (feature_networks.IMAGENET_MEAN, [0.229, 0.224, 0.225])
    )
    x, expected, new = (rgb - mean) / std, [], True
    for layer in whole.eval():
        x = layer(x)
        if new:
            expected.append(x)
        new = isinstance(layer, nn.MaxPool2d)
    maps = network(rgb)
    assert [m.shape[1] for m in maps] == [2, 3, 4, 5, 6]
    for made, wanted in zip(maps, expected, strict=False):
        torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)
    assert len(network.features) == network.taps[-1] + 1  # nothing behind the last map


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_classifier_reads_both_namings(norm, rgb, saved):
    state = vgg_state("vgg16", norm)
    ours = feature_networks.classifier(saved(state))
    theirs = feature_networks.classifier(saved(as_timm(state), "timm.pth"))
    logits = ours(rgb)
    assert logits.shape == (2, 10) and logits.std() > 0.01
    assert torch.equal(theirs(rgb), logits)
    torch.testing.assert_close(ours(rgb[1:]), logits[1:], rtol=1e-4, atol=1e-5)


def test_networks_stay_as_they_are(rgb, saved):
    """In eval mode and without gradients of their own; files from before 2018 count no batches."""
    state = {k: t for k, t in vgg_state("vgg16", True).items() if "num_batches" not in k}
    network = feature_networks.vgg(saved({k: t.half() for k, t in state.items()})).train()
    assert not any(module.training for module in network.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())
    picture = rgb.requires_grad_()
    sum(m.mean() for m in network(picture)).backward()
    assert picture.grad.abs().sum() > 0


def test_other_networks_are_refused(saved):
    with pytest.raises(CheckpointError, match="this is vgg19; expected ImageNet weights of vgg16"):
        feature_networks.vgg(saved(vgg_state("vgg19", False)), ("vgg16",))
    with pytest.raises(CheckpointError, match="neither VGG-16, VGG-19 nor Inception v3"):
        feature_networks.classifier(saved({"conv1.weight": torch.zeros(1)}))
    maps = {k: t for k, t in vgg_state("vgg16", False).items() if k.startswith("features")}
    with pytest.raises(CheckpointError, match="vgg16 without the tensor 'classifier.0.weight'"):
        feature_networks.classifier(saved(maps))
    with pytest.raises(CheckpointError, match="this is vgg16; expected an Inception v3"):
        feature_networks.inception(saved(maps))
    maps.pop("features.5.weight")
    with pytest.raises(CheckpointError, match="neither"):
        feature_networks.vgg(saved(maps))


# --- Inception -------------------------------------------------------------------------------


def test_inception_tells_fid_from_imagenet(rgb, saved):
    state = inception_state(1008)
    fid = feature_networks.inception(saved(state))
    assert fid.name == "inception_fid"
    plain = feature_networks.inception(saved(inception_state(1000), "plain.pth"))
    assert plain.name == "inception_v3 (ImageNet)"
    features = fid(rgb)
    assert features.shape == (2, 12)
    torch.testing.assert_close(fid(rgb[1:]), features[1:], rtol=1e-4, atol=1e-5)
    shared = {k: t for k, t in state.items() if not k.startswith("fc.")}
    shared |= {k: t[:1000] for k, t in state.items() if k.startswith("fc.")}
    other = feature_networks.inception(saved(shared, "shared.pth"))(
        rgb
    )  # means and a maximum differ
    assert (other - features).abs().max() > 1e-2
    with pytest.raises(CheckpointError, match="1008 classes are not ImageNet's"):
        feature_networks.classifier(saved(state))
    with pytest.raises(CheckpointError, match="without its last layer"):
        feature_networks.inception(saved({k: t for k, t in state.items() if "fc." not in k}))
    state.pop("Mixed_6c.branch1x1.conv.weight")
    with pytest.raises(
        CheckpointError, match="inception_fid without the tensor 'blocks.Mixed_6c.branch1x1"
    ):
        feature_networks.inception(saved(state))


@pytest.mark.parametrize(("fid", "corner"), [(True, 1.0), (False, 4 / 9)])
def test_mean_of_fid_does_not_count_what_is_padded(fid, corner):
    made = feature_networks.InceptionBlock((("mean",),), {}, "", fid=fid)(torch.ones(1, 1, 5, 5))
    assert made[0, 0, 0, 0].item() == pytest.approx(corner)
    assert made[0, 0, 2, 2].item() == pytest.approx(1)


def test_inception_classifier(rgb, saved):
    network = feature_networks.classifier(saved(inception_state(1000)))
    logits = network(rgb)
    assert logits.shape == (2, 1000) and logits.std() > 1e-3
    assert torch.equal(network(rgb), logits)


def test_resize_and_crop(rgb):
    assert feature_networks.resize_and_crop(rgb, 256, 224).shape == (2, 3, 224, 224)
    ramp = torch.arange(300.0).expand(1, 3, 256, 300)
    assert torch.equal(feature_networks.resize_and_crop(ramp, 256, 224), ramp[..., 16:240, 38:262])


# --- Beside their makers' --------------------------------------------------------------------


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_is_torchvision_s(norm, rgb, saved):
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
    torch.testing.assert_close(feature_networks.classifier(saved(state))(rgb), expected)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_is_timm_s(norm, saved):
    timm = reference("timm.models.vgg")
    cfg = [w for width, n in enumerate(BLOCKS["vgg19"], 2) for w in (*[width] * n, "M")]
    layer = nn.BatchNorm2d if norm else None
    model = timm.VGG(cfg, num_classes=10, mlp_ratio=0.01, norm_layer=layer).eval()
    state = randomised(model.state_dict())
    picture = torch.rand(
        1, 3, 256, 256, generator=torch.Generator().manual_seed(0)
    )  # at which nothing is scaled
    seen = (picture[..., 16:240, 16:240] - 0.45) / 0.2
    network = feature_networks.classifier(saved(state))
    network.mean, network.std = torch.tensor(0.45), torch.tensor(0.2)
    torch.testing.assert_close(network(picture), model(seen), rtol=1e-4, atol=1e-4)


@pytest.fixture
def handed(monkeypatch):
    """Hands a state dict over as if it had been read from a file: these are large."""

    def hand(state):
        monkeypatch.setattr(feature_networks.checkpoint, "read", lambda path: (dict(state), {}))
        return "handed.pth"

    return hand


def test_features_are_pytorch_fid_s(rgb, handed, monkeypatch):
    vision, fid = reference("torchvision").models, reference("pytorch_fid.inception")
    plain = vision.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    state = randomised(plain.state_dict())
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *_, **__: state)
    model = fid.InceptionV3().eval()
    features = feature_networks.inception(handed(state))(rgb)
    assert features.shape == (2, 2048) and features.std() > 0.05
    torch.testing.assert_close(features, model(rgb)[0].flatten(1), rtol=1e-4, atol=1e-5)


def test_inception_classifier_is_torchvision_s_and_timm_s(rgb, handed):
    vision, timm = reference("torchvision").models, reference("timm")
    model = vision.Inception3(init_weights=False).eval()  # as its weights: normalised for -1..1
    state = randomised(model.state_dict())
    made = feature_networks.classifier(handed(state))(rgb)
    seen = vision.Inception_V3_Weights.IMAGENET1K_V1.transforms()(rgb)
    model.transform_input = True
    torch.testing.assert_close(made, model(seen), rtol=1e-3, atol=1e-4)
    other = timm.create_model("inception_v3", aux_logits=True).eval()
    other.load_state_dict(state)
    seen = 2 * feature_networks.resize_and_crop(rgb, 342, 299) - 1
    torch.testing.assert_close(made, other(seen)[0], rtol=1e-3, atol=1e-4)
    assert set(other.state_dict()) == set(state)  # the namings are one
    picture = F.interpolate(rgb, (299, 299), mode="bilinear")
    features = feature_networks.inception(handed(state))(rgb)
    expected = other.forward_head(other.forward_features(2 * picture - 1)[0], pre_logits=True)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
