"""What the exemplar trainer adds: backbones from elsewhere, judges for each scale, confidence."""

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
from comfyui_colorist.model_defs import checkpoint, exemplar, registry, surety
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.pipeline import color
from comfyui_colorist.trainers import common, data, evaluate, losses, train_exemplar
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_pre_hook

CPU = torch.device("cpu")


@pytest.fixture
def mini_preset(monkeypatch, mini_exemplar_config):
    monkeypatch.setitem(exemplar.PRESETS, "mini", mini_exemplar_config)


@pytest.fixture
def narrow(monkeypatch):
    """Discriminators that cost little."""
    gan = partial(losses.LeastSquaresPatchGAN, width=4)
    monkeypatch.setattr(losses, "LeastSquaresPatchGAN", gan)


def settings(photos, out, **changes):
    values = {
        "photos": (photos,),
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


def test_resumed_run_equals_unbroken_run(photos, tmp_path, mini_preset, narrow):
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
    assert dataclasses.replace(network.config, confidence=()) == dataclasses.replace(
        mini_exemplar_config, confidence=()
    )
    assert network.config.confidence != mini_exemplar_config.confidence
    assert spec.resolution == 96 and spec.role == "exemplar" and info["licence"] == "CC0"
    assert info["training"]["steps"] == 6 and info["training"]["photos"] == 6
    assert str(tmp_path) not in json.dumps(info), "no folder of the machine in the metadata"
    assert [line["step"] for line in lines_of(tmp_path)] == [2, 4, 6]
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "state.safetensors",
        "log.jsonl",
    }


@pytest.mark.parametrize("full_res", [False, True])
def test_all_four_losses(photos, tmp_path, monkeypatch, mini_preset, narrow, full_res):
    """A discriminator for each scale, also where the finest prediction is half the photo."""
    if full_res:
        wide = exemplar.Config(width=16, heads=2, head_width=8)
        monkeypatch.setattr(
            exemplar, "_VGG19", [8, 8, 0, 8, 8, 0, *[8] * 4, 0, *[8] * 4, 0] + [8] * 4
        )
        monkeypatch.setattr(exemplar.VGG19, "widths", dict.fromkeys([1, 2, 3, 4, 5, "B"], 8))
        monkeypatch.setitem(exemplar.PRESETS, "mini", wide)
    changes = {"adversarial": 1.0, "crop": (64,), "steps": 1, "report_every": 1, "save_every": 1}
    train_exemplar.main(settings(photos, tmp_path, **changes))
    (line,) = lines_of(tmp_path)
    for term in ("pixel", "histogram", "variation", "adversarial", "discriminators"):
        assert line[term] > 0, term


def test_steps_of_network_and_discriminators_leave_each_other_alone(
    photos, tmp_path, mini_preset, narrow, monkeypatch
):
    """Discriminators first, on detached predictions; then the network, past frozen ones."""
    made, seen = {}, []
    for name in ("build", "discriminators_for"):
        real = getattr(train_exemplar, name)
        kept = partial(lambda name, real, *given: made.setdefault(name, real(*given)), name, real)
        monkeypatch.setattr(train_exemplar, name, kept)

    def before_step(optimizer, *_):
        stepping = {id(p) for group in optimizer.param_groups for p in group["params"]}
        gradients = {
            name: [None if p.grad is None else p.grad.clone() for p in module.parameters()]
            for name, module in made.items()
        }
        owners = [n for n, m in made.items() if {id(p) for p in m.parameters()} == stepping]
        seen.append((*owners, gradients))

    handle = register_optimizer_step_pre_hook(before_step)
    try:
        changes = {"adversarial": 1.0, "crop": (64,), "steps": 2, "save_every": 2}
        train_exemplar.main(settings(photos, tmp_path, **changes))
    finally:
        handle.remove()
    owners, gradients = zip(*seen, strict=True)
    assert owners == ("discriminators_for", "build") * 2
    assert not any(g is not None for g in gradients[0]["build"])
    for before, after in zip(gradients, gradients[1:], strict=False):
        other = "build" if before is gradients[1] else "discriminators_for"
        for old, new in zip(before[other], after[other], strict=True):
            assert torch.equal(old, new)
    assert any(g.any() for g in gradients[1]["build"])
    assert all(g.any() for g in gradients[0]["discriminators_for"])


def test_the_result_is_calibrated(photos, tmp_path, mini_preset, monkeypatch):
    seen = []
    real = common.calibrate
    monkeypatch.setattr(common, "calibrate", lambda *given: seen.append(1) or real(*given))
    train_exemplar.main(settings(photos, tmp_path))
    assert len(seen) == 2  # saved after 3 and 6 steps


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


# --- It learns -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory, mini_exemplar_config):
    """A miniature that was trained where the colours are in the reference and nowhere else."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setitem(exemplar.PRESETS, "mini", mini_exemplar_config)
        train_exemplar.main(
            settings(
                photos,
                out,
                recolor=1.0,
                shares=(0, 0, 0, 1),
                steps=150,
                batch=4,
                learning_rate=5e-3,
                schedule="cosine",
                warmup=10,
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
    assert lines[-1]["pixel"] < 0.8 * lines[0]["pixel"]  # reached: 0.6


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
    assert redder > 12  # reached with three seeds: 34 to 43 of about 64 in the references


# --- Backbones from elsewhere --------------------------------------------------------------------


def test_a_frozen_backbone_stays(photos, tmp_path, mini_exemplar_file, mini_exemplar_network):
    changes = {"start": str(mini_exemplar_file), "learning_rate": 1e-2, "weight_decay": 0.1}
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
    train_exemplar.take_encoder(network, str(mini_file))
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


def test_encoder_refusals(mini_exemplar_network, mini_exemplar_file, mini_file):
    with pytest.raises(ValueError, match="encoder is .*, a exemplar network; expected a DDColor"):
        train_exemplar.take_encoder(mini_exemplar_network, str(mini_exemplar_file))
    with pytest.raises(CheckpointError, match="not known: stages.2.1"):
        train_exemplar.take_encoder(mini_exemplar_network, str(mini_file))


def test_vgg19_takes_torchvision_s_file(tmp_path):
    """Half precision and a classifier, as some files come."""
    with torch.device("meta"):
        shapes = exemplar.VGG19(exemplar.Config()).state_dict()
    state = {key: torch.randn(tensor.shape).half() for key, tensor in shapes.items()}
    torch.save(state | {"classifier.0.weight": torch.rand(4, 4)}, tmp_path / "vgg19.pth")
    for last in (35, 33):
        config = exemplar.Config(backbone_last=last)
        with torch.device("meta"):
            network = SimpleNamespace(backbone=exemplar.VGG19(config))
        train_exemplar.take_vgg19(network, tmp_path / "vgg19.pth")
        loaded = network.backbone.state_dict()
        assert len(loaded) == (32 if last == 35 else 30)
        for key, tensor in loaded.items():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[key].float())
    torch.save({"features.0.weight": state["features.0.weight"]}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="29 tensors missing: features.0.bias"):
        train_exemplar.take_vgg19(network, tmp_path / "other.pth")


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
        return exemplar.Answer(ab, torch.ones(len(target), 1, 8, 8), facts)

    network = SimpleNamespace(
        config=mini_exemplar_config, read=lambda references, size: None, answer=answer
    )
    gray = torch.rand(8, 1, 32, 32).expand(-1, 3, -1, -1)
    train_exemplar.fit_confidence(network, ((gray, gray) for _ in range(30)), CPU)
    fitted = network.config.confidence
    assert len(fitted) == clues + 1
    facts = torch.zeros(1, clues, 1, 2)
    facts[0, 1, 0] = torch.tensor([1.0, 0.0])
    sure = surety.confidence(torch.ones(1, 1, 1, 2), facts, fitted).flatten()
    torch.testing.assert_close(sure, torch.tensor([0.8, 0.2]), atol=0.05, rtol=0)
    others = [abs(w) for i, w in enumerate(fitted) if i not in (0, 2)]
    assert max(others) < 0.1


def test_confidence_of_a_trained_network_is_calibrated(trained, photos, monkeypatch):
    """Over the pairs that it was fitted to, its mean is the part of the places that is right."""
    network = weights(trained)
    shares, size = (0, 0, 0.5, 0.5), lambda step: 64
    source = data.pair_batches(data.Photos([photos]), size=size, batch=4, seed=6, shares=shares)
    pairs = list(itertools.islice(source, 4))
    source.close()

    def answers():
        for pair in pairs:
            target, reference = train_exemplar.seen(pair, CPU)
            with torch.inference_mode():
                yield network.answer(target, network.read([reference], (64, 64)))

    errors = []
    for got, (rgb, _) in zip(answers(), pairs, strict=True):
        ab = F.interpolate(got.ab, size=(64, 64), mode="bilinear")
        true = exemplar.AB * train_exemplar.lab_norm(rgb)[:, 1:]
        errors.append(F.avg_pool2d((ab - true).norm(dim=1, keepdim=True), 4))
    errors = torch.stack(errors)
    limit = errors.quantile(0.6).item()
    monkeypatch.setattr(train_exemplar, "RIGHT", (limit, 0.0))
    train_exemplar.fit_confidence(network, (pair for pair in pairs), CPU)
    sure = torch.stack([got.confidence for got in answers()])
    assert sure.min() >= 0 and sure.max() <= 1
    assert sure.mean().item() == pytest.approx(0.6, abs=0.01)
    assert sure[errors < limit].mean() > sure[errors > limit].mean()


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"photos": ()}, "name at least one folder"),
        ({"shares": (0.6, 0.3, 0.1, 0.0)}, "no table of pairs"),
        ({"architecture": "exemplar-huge"}, "expected one of exemplar-vgg19, exemplar-nano"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected constant or cosine"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected float32 or bfloat16"),
        ({"crop": (50,)}, "multiple of 32"),
    ],
)
def test_settings_refusals(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_exemplar.Config(**({"photos": (tmp_path,), "shares": (0, 0, 1, 0)} | changes))


def test_refuses_a_frozen_backbone_without_weights(photos, tmp_path, mini_preset):
    with pytest.raises(ValueError, match="frozen but has only start values: give ImageNet"):
        train_exemplar.main(settings(photos, tmp_path, freeze_backbone=True))


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_file):
    sentence = r"start is .*mini.safetensors, a ddcolor network; expected one .* exemplar\."
    with pytest.raises(ValueError, match=sentence):
        train_exemplar.main(settings(photos, tmp_path, start=str(mini_file)))


def test_stops_on_a_loss_that_is_not_a_number(photos, tmp_path, mini_preset):
    with pytest.raises(SystemExit, match="the last good state is kept"):
        train_exemplar.main(settings(photos, tmp_path, learning_rate=float("inf")))


def test_attention_can_be_chosen(tmp_path, mini_preset):
    attention = ("axial", "axial", "standard")
    changes = {"attention": attention, "second_kv": "reference"}
    network = train_exemplar.build(settings(tmp_path, tmp_path, **changes))
    assert network.config.attention == attention and network.config.second_kv == "reference"


def test_every_preset_parses():
    for preset in train_exemplar.PRESETS:
        argv = [
            "--photos",
            "p",
            "--preset",
            preset,
            "--start",
            "a.safetensors",
            "--pairs",
            "p.json",
        ]
        assert common.parse(train_exemplar.Config, train_exemplar.PRESETS, argv).steps > 0


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_exemplar.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--freeze-backbone" in run.stdout


def test_provenance_names_no_folders(photos, tmp_path, mini_preset):
    train_exemplar.main(settings(photos, tmp_path / "first"))
    start = tmp_path / "secret place" / "start.safetensors"
    start.parent.mkdir()
    (tmp_path / "first" / "weights.safetensors").rename(start)
    train_exemplar.main(settings(photos, tmp_path / "second", architecture="", start=start))
    _, info = checkpoint.read(tmp_path / "second" / "weights.safetensors")
    assert info["training"]["config"]["start"] == "start.safetensors"
    assert "secret place" not in json.dumps(info)


def test_start_decides_the_network(photos, tmp_path):
    with pytest.raises(ValueError, match="the one or the others"):
        settings(photos, tmp_path, start=tmp_path / "a.safetensors", second_kv="fused")


def test_evaluate_takes_automatic_networks(photos, mini_exemplar_file):
    config = evaluate.Config(photos=(photos,), model=str(mini_exemplar_file), device="cpu")
    with pytest.raises(ValueError, match="role 'exemplar'.*benchmarks/by_reference.py"):
        evaluate.main(config)


def test_weights_are_there_before_the_state(photos, tmp_path, mini_preset, monkeypatch):
    """Stopped between the two, a run makes both again."""
    written = []
    for name in ("export", "save_state"):
        monkeypatch.setattr(common, name, lambda *_, name=name: written.append(name))
    train_exemplar.main(settings(photos, tmp_path, steps=2, save_every=2))
    assert written == ["export", "save_state"]
