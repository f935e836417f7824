"""Exemplar trainer: pretrained backbones, discriminators for each scale, confidence."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import comfyui_colorist
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import checkpoint, match_confidence, registry, xcnet
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.layers import SmallBackbone
from comfyui_colorist.ops import color
from comfyui_colorist.trainers import losses, pretrained, train_exemplar
from comfyui_colorist.trainers.data import batches as data_batches
from comfyui_colorist.trainers.data import photos as data_photos
from comfyui_colorist.trainers.data import reference_pairs
from comfyui_colorist.trainers.runtime import ema, provenance, sample_grid, state
from comfyui_colorist.trainers.runtime.command_line import parse
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

CPU = torch.device("cpu")


@pytest.fixture
def mini_preset(monkeypatch, mini_exemplar_config):
    monkeypatch.setitem(xcnet.PRESETS, "mini", mini_exemplar_config)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Discriminators that cost little."""
    gan = partial(losses.LeastSquaresPatchGAN, width=4)
    monkeypatch.setattr(losses, "LeastSquaresPatchGAN", gan)


def narrow_vgg(monkeypatch):
    """The preset is the paper's network, with few channels."""
    layers = [8, 8, 0, 8, 8, 0, *[8] * 4, 0, *[8] * 4, 0, *[8] * 4]
    monkeypatch.setattr(xcnet, "VGG19_CHANNELS", layers)
    monkeypatch.setattr(xcnet.VGG19, "widths", dict.fromkeys([1, 2, 3, 4, 5, "B"], 8))
    config = xcnet.Config(width=16, heads=2, head_width=8)
    monkeypatch.setitem(xcnet.PRESETS, "mini", config)


def settings(photos, out, **changes):
    values = {
        "photos": (str(photos),),
        "out": out,
        "architecture": "mini",
        "freeze_backbone": False,
        "shares": (0, 0, 0.5, 0.5),
        "crop": (32,),
        "batch": 2,
        "steps": 6,
        "adversarial": 0.0,
        "report_every": 2,
        "save_every": 3,
        "device": "cpu",
    }
    return train_exemplar.Config(**(values | changes))


def weights(out):
    return registry.load(out / "weights.safetensors")[0]


def lines_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- Runs ----------------------------------------------------------------------------------------


def test_resumed_run_equals_unbroken_run(photos, tmp_path, mini_preset):
    """Networks, both optimizers, data order, recolouring: bit-equal after 4 and after 2 + 2."""
    changes = {"adversarial": 1.0, "crop": (64,), "recolor": 0.5, "steps": 4, "save_every": 2}
    train_exemplar.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    train_exemplar.main(dataclasses.replace(broken, steps=2))
    train_exemplar.main(broken)
    whole, resumed = (weights(tmp_path / name) for name in ("whole", "broken"))
    assert whole.config == resumed.config  # confidence is fitted
    whole, resumed = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_files_and_provenance(photos, tmp_path, mini_preset, mini_exemplar_config):
    train_exemplar.main(settings(photos, tmp_path, resolution=96, licence="CC0"))
    network, spec, info = registry.load(tmp_path / "weights.safetensors")
    assert dataclasses.replace(network.config, confidence=(0,) * 8) == dataclasses.replace(
        mini_exemplar_config, confidence=(0,) * 8
    )
    assert network.config.confidence != mini_exemplar_config.confidence
    assert spec.resolution == 96 and spec.role == "exemplar" and info["licence"] == "CC0"
    assert info["training"]["steps"] == 6 and info["training"]["photos"] == 6
    assert str(tmp_path) not in json.dumps(info), "no folder of the machine in the metadata"
    assert [line["step"] for line in lines_of(tmp_path)] == [2, 3, 4, 6]
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "state.safetensors",
        "log.jsonl",
        "tensorboard",
    }


@pytest.mark.parametrize("full_res", [False, True])
def test_all_four_losses(photos, tmp_path, monkeypatch, mini_preset, full_res):
    """A discriminator for each scale, also where the finest prediction is half the photo."""
    if full_res:
        narrow_vgg(monkeypatch)
    changes = {"adversarial": 1.0, "crop": (64,), "steps": 1, "report_every": 1, "save_every": 1}
    train_exemplar.main(settings(photos, tmp_path, **changes))
    (line,) = lines_of(tmp_path)
    for term in ("pixel", "histogram", "variation", "adversarial", "discriminators"):
        assert line[term] > 0, term


def test_steps_of_network_and_discriminators_leave_each_other_alone(
    photos, tmp_path, mini_preset, monkeypatch
):
    """Discriminators first, on detached predictions; then the network, past frozen ones."""
    output, seen = {}, []

    def keep(name, real):
        def kept(*given):
            result = real(*given)
            output[name] = result[0] if name == "build" else result
            return result

        monkeypatch.setattr(train_exemplar, name, kept)

    for name in ("build", "Discriminators"):
        keep(name, getattr(train_exemplar, name))

    def before_step(optimizer, *_):
        stepping = {id(p) for group in optimizer.param_groups for p in group["params"]}
        gradients = {
            name: [None if p.grad is None else p.grad.clone() for p in module.parameters()]
            for name, module in output.items()
        }
        owners = [n for n, m in output.items() if {id(p) for p in m.parameters()} == stepping]
        seen.append((*owners, gradients))

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        changes = {"adversarial": 1.0, "crop": (64,), "steps": 2, "save_every": 2}
        train_exemplar.main(settings(photos, tmp_path, **changes))
    finally:
        handle.remove()
    owners, gradients = zip(*seen, strict=True)
    assert owners == ("Discriminators", "build") * 2
    for owner, result in zip(owners, gradients, strict=True):
        other = "build" if owner == "Discriminators" else "Discriminators"
        assert all(g is None for g in result[other])
    assert any(g.any() for g in gradients[1]["build"])
    assert all(g.any() for g in gradients[0]["Discriminators"])


def test_statistics_of_the_result_are_updated(photos, tmp_path, mini_preset, monkeypatch):
    calls = []
    real = ema.update_bn_statistics
    monkeypatch.setattr(ema, "update_bn_statistics", lambda *args: calls.append(1) or real(*args))
    train_exemplar.main(settings(photos, tmp_path, steps=2, save_every=1))
    assert len(calls) == 2


def test_trains_on_retrieved_references(photos, tmp_path, mini_preset):
    table = {
        "version": 1,
        "keys": [str(i) for i in range(6)],
        "top": [[(i + 1) % 6] for i in range(6)],
    }
    (tmp_path / "pairs.json").write_text(json.dumps(table))
    changes = {"pairs": tmp_path / "pairs.json", "shares": (0.6, 0.3, 0.1, 0.0)}
    train_exemplar.main(settings(photos, tmp_path / "run", steps=2, **changes))
    assert len(lines_of(tmp_path / "run")) == 1


def test_parts_of_a_batch_are_recolored_like_the_whole(photos, tmp_path, mini_preset):
    """And another step in another way."""
    config = settings(photos, tmp_path, recolor=0.7, batch=6)
    lab = 0.3 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = train_exemplar.recolor(config, lab, lab.flip(3), 5, range(6))
    for rows in (range(0, 3), range(3, 6)):
        subset = lab[rows.start : rows.stop]
        part = train_exemplar.recolor(config, subset, subset.flip(3), 5, rows)
        for got, wanted in zip(part, whole, strict=True):
            assert torch.equal(got, wanted[rows.start : rows.stop])
    other = train_exemplar.recolor(config, lab, lab.flip(3), 6, range(6))
    assert not torch.equal(other[0], whole[0])
    assert torch.equal(whole[0][:, 0], lab[:, 0]), "L stays"


# --- Held-out photos -----------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path):
    """Thirty photos of two colours each; the last has none."""
    rng = np.random.default_rng(0)
    for i in range(30):
        values = rng.integers(0, 256, (1, 2, 3), np.uint8)
        Image.fromarray(values).resize((48, 36)).save(tmp_path / f"{i}.png")
    return tmp_path


def grey(path):
    Image.open(path).convert("L").save(path)


def test_held_out_photos_are_shown_with_the_best_reference(album, tmp_path, mini_preset):
    photos, held_out = data_photos.hold_out(data_photos.Photos([album]), 3, 0)
    assert len(held_out) == 3
    keys = [*photos.keys, *held_out.keys]
    top = [[] for _ in photos.keys] + [[28, 5, 6], [28, 29], [5]]
    table = {"version": 1, "keys": keys, "top": top}
    (tmp_path / "pairs.json").write_text(json.dumps(table))
    grey(album / f"{held_out.keys[2]}.png")
    config = settings(album, tmp_path, pairs=tmp_path / "pairs.json")
    references = train_exemplar.sample_references(config, held_out, photos)
    images = list(sample_grid.sample_images(held_out))
    assert len(references) == len(images) == 2  # the third is grey
    (wanted,) = sample_grid.sample_images(photos.subset([5]))
    assert torch.equal(references[0], wanted)
    # All that is like the second is held out, too: another view of itself
    assert references[1].shape == (1, 3, sample_grid.SIDE, sample_grid.SIDE)
    same = train_exemplar.another_view(images[1], 1)
    assert torch.equal(references[1], same) and not torch.equal(references[1], images[1])


def test_the_sheet_shows_target_reference_result_truth(
    photos, mini_exemplar, mini_exemplar_network
):
    true = torch.from_numpy(np.asarray(Image.open(photos / "0.png")).copy())
    true = true.movedim(-1, 0)[None].float() / 255
    reference = true.flip(3)
    colorize = train_exemplar.exemplar_samples(
        mini_exemplar_network, mini_exemplar.spec, [torch.zeros_like(true), reference]
    )
    row = colorize(true, 1)
    assert list(row) == ["gray", "reference", "result", "photo"]
    gray, shown, output, last = row.values()
    assert torch.equal(last, true) and torch.equal(shown, reference)
    assert color.rgb_to_lab(gray)[:, 1:].abs().max() < 0.1
    wanted = mini_exemplar.colorize(gray.movedim(1, -1), reference=reference.movedim(1, -1))
    assert torch.equal(output.movedim(1, -1), wanted)


# --- It learns -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory, mini_exemplar_config):
    """A miniature that was trained where the colours are in the reference and nowhere else."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setitem(xcnet.PRESETS, "mini", mini_exemplar_config)
        train_exemplar.main(
            settings(
                photos,
                out,
                recolor=1.0,
                shares=(0, 0, 0, 1),
                steps=150,
                batch=4,
                learning_rate=3e-3,
                schedule="cosine",
                warmup=40,
                pixel=1.0,
                huber=20.0,
                histogram=0.0,
                variation=0.0,
                clip=1.0,
                average=0.9,
                report_every=30,
                save_every=150,
            )
        )
    return out


def test_the_loss_falls(trained):
    lines = lines_of(trained)
    assert lines[-1]["pixel"] < 0.85 * lines[0]["pixel"]  # reached with seven seeds: 0.67 to 0.76


def test_a_red_reference_gives_a_redder_sky_than_a_blue_one(trained, photos):
    """The target's own photo, its colours turned so that the sky is red, or blue."""
    colorizer = comfyui_colorist.load(trained / "weights.safetensors", device="cpu")
    rgb = torch.from_numpy(np.asarray(Image.open(photos / "0.png")).copy()).float() / 255
    lab = color.rgb_to_lab(rgb.movedim(-1, 0))
    sky = lab[0] > 55
    a, b = lab[1:, sky].mean(1)
    directions, skies = [], []
    for hue in (0.35, -1.4):  # radians from a towards b: red, blue
        turn = hue - torch.atan2(b, a)
        matrix = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
        ab = torch.einsum("dc,chw->dhw", matrix, lab[1:])
        reference = color.lab_to_rgb(torch.cat([lab[:1], ab])).clamp(0, 1).movedim(0, -1)
        out = colorizer.colorize(rgb, reference=reference, resolution=48)
        skies.append(color.rgb_to_lab(out.movedim(-1, 0))[1:, sky].mean(1))
        directions.append(torch.tensor([math.cos(hue), math.sin(hue)]))
    redder = F.normalize(directions[0] - directions[1], dim=0) @ (skies[0] - skies[1])
    assert redder > 12  # reached: 78; with six other seeds 5 to 66


# --- Backbones from elsewhere --------------------------------------------------------------------


def test_a_frozen_backbone_stays(photos, tmp_path, mini_exemplar_file, mini_exemplar_network):
    changes = {"weights": str(mini_exemplar_file), "learning_rate": 1e-2, "weight_decay": 0.1}
    config = settings(photos, tmp_path, freeze_backbone=True, **changes)
    train_exemplar.main(config)
    before, after = mini_exemplar_network.state_dict(), weights(tmp_path).state_dict()
    for key, tensor in before.items():
        same = torch.equal(after[key], tensor.half().float())
        assert same or not key.startswith("backbone."), key
    moved = after["decoder.2.mix.weight"] - before["decoder.2.mix.weight"]
    assert moved.abs().max() > 1e-3


def test_the_small_backbone_takes_a_ddcolor_encoder(mini_exemplar_config, mini_network, mini_file):
    config = dataclasses.replace(mini_exemplar_config, depths=mini_network.config.depths[:3])
    network = registry.build("exemplar", config).eval()
    stem = network.backbone.stem[0].weight.clone()
    pretrained.transfer_encoder(network.backbone, str(mini_file))
    assert torch.equal(network.backbone.stem[0].weight, stem)
    theirs = mini_network.encoder.state_dict()
    for key, tensor in network.backbone.state_dict().items():
        if not key.startswith(("stem.", "downsample.0.0.")):
            assert torch.equal(tensor, theirs[key]), key

    def features(gray):  # (B, 1, H, W) in 0..1, as DDColor takes it
        normal = (gray.expand(-1, 3, -1, -1) - mini_network.mean) / mini_network.std
        return mini_network.encoder(normal)

    L = 30 + 40 * torch.rand(1, 1, 64, 96)
    with torch.inference_mode():
        got = [tap for level, tap in network.backbone(L / 50 - 1).items() if level in (3, 4, 5)]
        same, near = features(L / 100), features(color.gray_rgb(L)[:, :1])
    for ours, exact, real in zip(got, same, near, strict=False):
        torch.testing.assert_close(ours, exact, atol=1e-3, rtol=1e-3)
        assert (ours - real).abs().mean() < 0.3 * real.std()  # of noise; reached: 0.21


def test_a_kernel_of_another_network(mini_exemplar_config, mini_pointhint_file):
    """Its numbers, without the coordinate that means nothing in another picture; the rest stays."""
    plain = registry.build("exemplar", dataclasses.replace(mini_exemplar_config, kernel=None))
    for network in (plain, registry.build("exemplar", mini_exemplar_config)):
        output = pretrained.transplant_kernel(network, str(mini_pointhint_file), use_x=False)
        theirs = registry.load(mini_pointhint_file)[0].kernel
        for key, tensor in output.kernel.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[key])
        assert output.config.kernel == dataclasses.replace(theirs.config, use_x=False)
        for key, tensor in network.state_dict().items():
            if not key.startswith("kernel."):
                assert torch.equal(tensor, output.state_dict()[key])
    with pytest.raises(ValueError, match="without one; expected one such as pointhint-nano"):
        pretrained.transplant_kernel(plain, "ddcolor-nano", use_x=False)


def test_a_backbone_from_a_kernel(mini_exemplar_config, mini_pointhint_file):
    network = registry.build("exemplar", dataclasses.replace(mini_exemplar_config, stem=4))
    pretrained.transfer_encoder(network.backbone, str(mini_pointhint_file))
    theirs = registry.load(mini_pointhint_file)[0].kernel.backbone.state_dict()
    assert all(torch.equal(t, theirs[k]) for k, t in network.backbone.state_dict().items())


def test_encoder_refusals(mini_exemplar_network, mini_colorformer_file, mini_file):
    with pytest.raises(
        ValueError, match="a colorformer network; this backbone needs the encoder of"
    ):
        pretrained.transfer_encoder(mini_exemplar_network.backbone, str(mini_colorformer_file))
    wider = SmallBackbone(8, (8, 8, 24), (1, 1, 1))
    with pytest.raises(CheckpointError, match="stages.2.0"):
        pretrained.transfer_encoder(wider, str(mini_file))
    with pytest.raises(ValueError, match="encoder is ddcolor-nano, a ddcolor network; this back"):
        pretrained.transfer_encoder(wider, "ddcolor-nano")
    deeper = SmallBackbone(8, (8, 8, 16), (1, 1, 3))
    with pytest.raises(CheckpointError, match="missing: stages.2.2"):
        pretrained.transfer_encoder(deeper, str(mini_file))


def test_the_paper_s_backbone_takes_imagenet_weights(photos, tmp_path, monkeypatch):
    """Half precision and a classifier, as some files come; it then may be frozen."""
    narrow_vgg(monkeypatch)
    state = xcnet.VGG19(xcnet.Config()).state_dict()
    state = {key: torch.randn(tensor.shape).half() for key, tensor in state.items()}
    torch.save(state | {"classifier.0.weight": torch.rand(4, 4)}, tmp_path / "vgg19.pth")
    changes = {"freeze_backbone": True, "backbone": str(tmp_path / "vgg19.pth")}
    network, _ = train_exemplar.build(settings(photos, tmp_path, **changes))
    for key, tensor in network.backbone.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[key].float())


# --- Confidence ----------------------------------------------------------------------------------


def test_confidence_becomes_the_part_that_is_right(mini_exemplar_config):
    """Of places with a clue of 1 eight of ten have the right colour, of others two of ten."""
    torch.manual_seed(0)
    clues = len(mini_exemplar_config.confidence) - 1

    def answer(target, evidence):
        facts = torch.randn(len(target), clues, 8, 8)
        facts[:, 1] = (facts[:, 1] > 0).float()
        right = torch.rand(len(target), 8, 8) < 0.2 + 0.6 * facts[:, 1]
        ab = torch.where(right, 0.0, 60.0)[:, None].expand(-1, 2, -1, -1)
        ab = ab.repeat_interleave(4, 2).repeat_interleave(4, 3)
        return xcnet.ReferencePrediction(ab, torch.ones(len(target), 1, 8, 8), facts)

    network = SimpleNamespace(
        config=mini_exemplar_config, encode_references=lambda references, size: None, predict=answer
    )
    gray = torch.randint(256, (8, 1, 32, 32), dtype=torch.uint8).expand(-1, 3, -1, -1)
    batch = data_batches.Batch(range(8), [], (gray, gray), {})
    train_exemplar.fit_confidence(network, (batch for _ in range(30)), CPU)
    fitted = network.config.confidence
    assert len(fitted) == clues + 1
    facts = torch.zeros(1, clues, 1, 2)
    facts[0, 1, 0] = torch.tensor([1.0, 0.0])
    sure = match_confidence.confidence(torch.ones(1, 1, 1, 2), facts, fitted).flatten()
    torch.testing.assert_close(sure, torch.tensor([0.8, 0.2]), atol=0.05, rtol=0)
    others = [abs(w) for i, w in enumerate(fitted) if i not in (0, 2)]
    assert max(others) < 0.1


def test_confidence_of_a_trained_network_is_calibrated(trained, photos, monkeypatch):
    """Over the pairs that it was fitted to, its mean is the part of the places that is right."""
    network = weights(trained)
    shares, size = (0, 0, 0.5, 0.5), lambda step: 64
    opened = data_photos.Photos([photos])
    pair = reference_pairs.ReferencePair(opened, size, shares=shares)
    source = data_batches.load_batches(opened, pair, batch=4, seed=6)
    batches = list(itertools.islice(source, 4))
    source.close()

    def answers():
        for batch in batches:
            target, reference = train_exemplar.network_inputs(batch, CPU)
            with torch.inference_mode():
                yield network.predict(target, network.encode_references([reference], (64, 64)))

    errors = []
    for got, batch in zip(answers(), batches, strict=True):
        ab = F.interpolate(got.ab, size=(64, 64), mode="bilinear")
        true = xcnet.AB_SCALE * train_exemplar.normalize_lab(batch.images[0] / 255)[:, 1:]
        errors.append(F.avg_pool2d((ab - true).norm(dim=1, keepdim=True), 4))
    errors = torch.stack(errors)
    limit = errors.quantile(0.6).item()
    monkeypatch.setattr(train_exemplar, "MAX_ERROR", limit)
    monkeypatch.setattr(train_exemplar, "MAX_RELATIVE_ERROR", 0.0)
    train_exemplar.fit_confidence(network, (batch for batch in batches), CPU)
    sure = torch.stack([got.confidence for got in answers()])
    assert sure.min() >= 0 and sure.max() <= 1
    assert sure.mean().item() == pytest.approx(0.6, abs=0.01)
    assert sure[errors < limit].mean() > sure[errors > limit].mean()


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"photos": ()}, "name at least one folder"),
        ({"shares": (0.6, 0.3, 0.1, 0.0)}, "table of pairs is missing"),
        ({"architecture": "exemplar-huge"}, "expected one of exemplar-vgg19, exemplar-nano"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of constant, cosine"),
        ({"crop": (50,)}, "multiple of 32"),
        ({"crop": (32,)}, "discriminators need 64 pixels or more"),
        ({"stream": True}, "but a stream cannot load them.*--shares 0 0 0 1"),
        ({"photos": ("http://host/a.tar",)}, "but a stream cannot load them.*--shares 0 0 0 1"),
        (
            {"stream": True, "pairs": "p.json", "shares": (0, 0, 0, 1)},
            "pairs is a table .* but a stream cannot load them.*replace --pairs by",
        ),
    ],
)
def test_settings_refusals(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_exemplar.Config(**({"photos": (str(tmp_path),), "shares": (0, 0, 1, 0)} | changes))


def test_refuses_a_frozen_backbone_without_weights(photos, tmp_path, mini_preset):
    with pytest.raises(
        ValueError, match=r"frozen but has random weights.*\(--backbone vgg19, or FILE"
    ):
        train_exemplar.main(settings(photos, tmp_path, freeze_backbone=True))


def test_refuses_weights_of_vgg19_for_a_small_backbone(photos, tmp_path, mini_preset):
    with pytest.raises(ValueError, match="mini has a small backbone.*--encoder pointhint-nano"):
        train_exemplar.build(settings(photos, tmp_path, backbone="vgg19"))


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_file):
    sentence = r"weights is .*mini.safetensors, a ddcolor network; expected one .* exemplar\."
    with pytest.raises(ValueError, match=sentence):
        train_exemplar.main(settings(photos, tmp_path, weights=str(mini_file)))


def test_stops_on_a_loss_that_is_not_a_number(photos, tmp_path, mini_preset):
    with pytest.raises(SystemExit, match=r"a loss is not finite \(pixel nan.* photos \d, \d"):
        train_exemplar.main(settings(photos, tmp_path, learning_rate=1e30))


def test_attention_can_be_chosen(tmp_path, mini_preset):
    attention = ("axial", "axial", "standard")
    changes = {"attention": attention, "second_kv": "reference"}
    network, _ = train_exemplar.build(settings(tmp_path, tmp_path, **changes))
    assert network.config.attention == attention and network.config.second_kv == "reference"


def test_every_preset_parses():
    for preset in train_exemplar.PRESETS:
        argv = [
            "--photos",
            "p",
            "--preset",
            preset,
            "--weights",
            "a.safetensors",
            "--pairs",
            "p.json",
        ]
        assert parse(train_exemplar.Config, train_exemplar.PRESETS, argv).steps > 0


def test_runs_by_path(root):
    done = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_exemplar.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--freeze-backbone" in done.stdout


def test_provenance_names_no_folders(photos, tmp_path, mini_preset):
    train_exemplar.main(settings(photos, tmp_path / "first", steps=1))
    start = tmp_path / "secret place" / "start.safetensors"
    start.parent.mkdir()
    (tmp_path / "first" / "weights.safetensors").rename(start)
    changes = {"architecture": "", "weights": str(start), "steps": 1}
    train_exemplar.main(settings(photos, tmp_path / "second", **changes))
    _, info = checkpoint.read(tmp_path / "second" / "weights.safetensors")
    assert info["training"]["config"]["weights"] == "start.safetensors"
    assert "secret place" not in json.dumps(info)


def test_weights_determine_the_network(photos, tmp_path):
    with pytest.raises(ValueError, match="give the one or the others"):
        settings(photos, tmp_path, weights="a.safetensors", second_kv="fused")


def test_weights_are_there_before_the_state(photos, tmp_path, mini_preset, monkeypatch):
    """Stopped between the two, a run makes both again."""
    written = []
    for owner, name in ((provenance, "write_weights"), (state.TrainingState, "save")):
        monkeypatch.setattr(owner, name, lambda *_, name=name: written.append(name))
    train_exemplar.main(settings(photos, tmp_path, steps=2, save_every=2))
    assert written == ["write_weights", "save"]
