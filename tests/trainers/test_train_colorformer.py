"""ColorFormer trainer: backbone, color memory, frozen encoder, recoloring."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from comfyui_colorist.model_defs import checkpoint, colorformer, registry
from comfyui_colorist.pipeline.color_memory import memory
from comfyui_colorist.trainers import build_color_memory, losses, train_colorformer
from comfyui_colorist.trainers.runtime import ema, optimization
from comfyui_colorist.trainers.runtime.command_line import parse
from safetensors.torch import save_file


@pytest.fixture
def mini_preset(monkeypatch, mini_colorformer_config, mini_lite_colorformer_config):
    monkeypatch.setitem(colorformer.PRESETS, "mini", mini_colorformer_config)
    monkeypatch.setitem(colorformer.PRESETS, "lite", mini_lite_colorformer_config)


@pytest.fixture
def lite_file(tmp_path, mini_lite_colorformer_network):
    """ImageNet weights, so to speak, of the miniature's EfficientNet-Lite."""
    path = tmp_path / "lite.safetensors"
    save_file(mini_lite_colorformer_network.encoder.state_dict(), path)
    return path


@pytest.fixture
def memory_file(tmp_path, mini_colorformer_network):
    """A memory of 5 entries made with the encoder of the miniature."""
    path = tmp_path / "memory.safetensors"
    memory.save_memory(
        memory.ColorMemory(
            keys=torch.randn(5, 8),
            values=30 * torch.randn(4, 5, 2),
            encoder=memory.identify_encoder(mini_colorformer_network.encoder),
            projection=memory.Projection(torch.randn(8, 64), torch.randn(8)),
        ),
        path,
    )
    return path


def settings(photos, out, **changes):
    values = {
        "photos": (str(photos),),
        "out": out,
        "architecture": "mini",
        "crop": (32,),
        "batch": 2,
        "steps": 6,
        "adversarial": 0.0,
        "report_every": 2,
        "save_every": 3,
        "device": "cpu",
    }
    return train_colorformer.Config(**(values | changes))


def weights(out):
    return registry.load(out / "weights.safetensors")[0]


def test_resumed_run_equals_unbroken_run(photos, tmp_path, mini_preset):
    """Networks, both optimizers, data order, recolouring: bit-equal after 6 and after 3 + 3."""
    changes = {"adversarial": 1.0, "discriminator_width": 4, "recolor": 0.5}
    train_colorformer.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    train_colorformer.main(dataclasses.replace(broken, steps=3))
    train_colorformer.main(broken)
    whole, resumed = (weights(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_resumed_run_equals_unbroken_run_on_a_lite_encoder(
    photos, tmp_path, mini_preset, lite_file
):
    """Damage, recolouring, a slower encoder that is frozen in part: bit-equal too."""
    changes = {
        "architecture": "lite",
        "backbone": str(lite_file),
        "frozen_stages": 3,
        "encoder_rate": 0.1,
        "damage": 0.5,
        "recolor": 0.5,
        "colorfulness": 0.1,
    }
    train_colorformer.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    train_colorformer.main(dataclasses.replace(broken, steps=3))
    train_colorformer.main(broken)
    whole, resumed = (weights(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    inputs = checkpoint.read(lite_file)[0]
    for name, tensor in inputs.items():
        frozen = name.startswith(("stem.", "stages.0.", "stages.1.", "stages.2."))
        moved = not torch.equal(whole[f"encoder.{name}"], tensor.half().float())
        assert moved != frozen, name
    line = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    assert "colorfulness" in line


def test_accumulated_parts_are_the_batch(photos, tmp_path, mini_preset, monkeypatch):
    """One recolouring for all parts, equal gradients: apart from batch norm one run."""
    fixed = lambda self, x: torch.nn.functional.batch_norm(  # noqa: E731
        x, self.running_mean, self.running_var, self.weight, self.bias
    )
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", fixed)
    monkeypatch.setattr(ema, "update_bn_statistics", lambda *_: None)
    lines = []
    for parts in (1, 2):
        out = tmp_path / str(parts)
        changes = {"recolor": 0.9, "batch": 4, "spectral_norm": False, "report_every": 1}
        train_colorformer.main(
            settings(photos, out, accumulate=parts, steps=3, learning_rate=1e-6, **changes)
        )
        lines.append([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()])
    for first, second in zip(*lines, strict=True):
        for term in ("pixel", "gradient", "made_colorfulness"):
            assert first[term] == pytest.approx(second[term], rel=1e-3, abs=1e-3)


def test_training_goes_through_the_prepared_module(photos, tmp_path, mini_preset, monkeypatch):
    """What Accelerate prepares is what several processes share; nothing goes past its forward."""
    prepare, seen = Accelerator.prepare, []

    def counted(self, model, *others):
        model.register_forward_hook(lambda *_: seen.append("forward"))
        model.network.encoder.register_forward_hook(lambda *_: seen.append("encoder"))
        return prepare(self, model, *others)

    monkeypatch.setattr(Accelerator, "prepare", counted)
    train_colorformer.main(settings(photos, tmp_path, steps=2, batch=4, accumulate=2, recolor=1.0))
    assert seen == ["encoder", "forward"] * 4


def test_every_trained_parameter_gets_a_gradient(mini_colorformer_config):
    """With and without recolouring, frozen or not: several processes would wait for one without."""
    network = registry.build("colorformer", mini_colorformer_config)
    model = train_colorformer.RecoloringModel(network)
    for frozen in (False, True):
        network.encoder.requires_grad_(not frozen)
        for recoloring in (
            None,
            train_colorformer.draw_recoloring(network.memory, optimization.step_generator(0, 0)),
        ):
            model.zero_grad()
            ab, true_ab = model(torch.rand(2, 3, 32, 32), torch.zeros(2, 2, 32, 32), recoloring)
            (ab - true_ab).square().sum().backward()
            without = {name for name, p in model.named_parameters() if p.grad is None}
            wanted = {name for name, p in model.named_parameters() if not p.requires_grad}
            assert without == wanted and bool(wanted) == frozen


def test_takes_a_backbone_and_a_memory_of_it(
    photos, tmp_path, mini_colorformer_file, mini_colorformer_network, memory_file, mini_preset
):
    """ImageNet weights for the encoder alone; a memory made with them fits."""
    config = settings(photos, tmp_path, backbone=str(mini_colorformer_file), memory=memory_file)
    train_colorformer.main(dataclasses.replace(config, steps=1, learning_rate=0.0))
    network = weights(tmp_path)
    torch.testing.assert_close(
        network.encoder.state_dict(),
        mini_colorformer_network.encoder.state_dict(),
        atol=1e-3,
        rtol=1e-3,
    )
    assert memory.identify_encoder(network.encoder) == memory.load_memory(memory_file).encoder
    assert network.config.entries == 5
    assert not torch.allclose(network.out.weight, mini_colorformer_network.out.weight, atol=0.1)


def test_says_that_the_encoder_starts_at_random(photos, tmp_path, mini_preset, caplog):
    with caplog.at_level("INFO"):
        train_colorformer.build(settings(photos, tmp_path))
    assert "for ImageNet weights: --backbone NAME or FILE" in caplog.text


def test_refuses_two_starts_of_the_encoder(photos, tmp_path):
    with pytest.raises(ValueError, match="weights and backbone both initialize the encoder"):
        settings(photos, tmp_path, weights="a.safetensors", backbone="swin_tiny")


def test_trains_the_decoder_on_a_built_memory(
    photos, tmp_path, mini_colorformer_file, mini_colorformer_network, memory_file
):
    """The memory is taken over, the encoder stays, so the memory fits the result."""
    config = settings(
        photos,
        tmp_path,
        weights=str(mini_colorformer_file),
        memory=memory_file,
        freeze_encoder=True,
        spectral_norm=False,
    )
    train_colorformer.main(config)
    network, inputs = weights(tmp_path), memory.load_memory(memory_file)
    assert network.config.entries == 5
    torch.testing.assert_close(network.memory.keys, inputs.keys, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(network.memory.values, inputs.values, atol=0.1, rtol=1e-2)
    torch.testing.assert_close(
        network.memory.components, inputs.projection.components, atol=1e-2, rtol=1e-2
    )
    assert memory.identify_encoder(network.encoder) == inputs.encoder
    moved = network.memory.project_key.weight - mini_colorformer_network.memory.project_key.weight
    assert moved.abs().max() > 1e-4
    assert str(tmp_path) not in json.dumps(registry.load(tmp_path / "weights.safetensors")[2])


def test_a_memory_is_built_for_a_network_that_is_to_be_trained(
    photos, tmp_path, mini_preset, lite_file
):
    """The first two steps of colorformer-nano: the encoder's memory, then the decoder with both."""
    built = build_color_memory.main(
        build_color_memory.Config(
            photos=(str(photos),),
            out=tmp_path / "built.safetensors",
            model="lite",
            backbone=str(lite_file),
            fresh=True,
            entries=4,
            side=64,
            device="cpu",
        )
    )
    assert built.provenance["network"] == "lite on lite.safetensors"
    config = settings(
        photos,
        tmp_path / "decoder",
        architecture="lite",
        backbone=str(lite_file),
        memory=tmp_path / "built.safetensors",
        freeze_encoder=True,
        recolor=0.5,
        spectral_norm=False,
    )
    train_colorformer.main(config)
    network = weights(tmp_path / "decoder")
    assert memory.identify_encoder(network.encoder) == built.encoder
    for mine, theirs in (
        (network.memory.keys, built.keys),
        (network.memory.components, built.projection.components),
        (network.memory.offset, built.projection.offset),
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-2, rtol=1e-2)
    with pytest.raises(ValueError, match="model is none; with --backbone expected a preset"):
        build_color_memory.untrained_colorizer(
            build_color_memory.Config(photos=("p",), model="none"), str(lite_file)
        )


def test_takes_the_encoder_of_a_trained_ddcolor(
    photos, tmp_path, mini_preset, mini_config, mini_lite_colorformer_config
):
    lite = mini_lite_colorformer_config
    config = dataclasses.replace(
        mini_config, encoder=lite.encoder, depths=lite.depths, dims=lite.dims
    )
    network = registry.build("ddcolor", config)
    path = tmp_path / "ddcolor.safetensors"
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(config)}
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    started, _ = train_colorformer.build(
        settings(photos, tmp_path, architecture="lite", backbone=str(path))
    )
    want = network.encoder.state_dict()
    assert all(torch.equal(t, want[key]) for key, t in started.encoder.state_dict().items())


@pytest.mark.parametrize("kind", ["mini", "mini_lite"])
def test_freezes_an_encoder_from_its_input_on(kind, request):
    config = request.getfixturevalue(f"{kind}_colorformer_config")
    frozen = {}
    for stages in range(len(config.depths) + 1):
        encoder = colorformer.build_encoder(config)
        optimization.freeze_stages(encoder, stages)
        frozen[stages] = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    assert not frozen[0]
    assert frozen[stages] == {name for name, _ in encoder.named_parameters()}
    for before, after in zip(range(stages), range(1, stages + 1), strict=True):
        assert frozen[before] < frozen[after]
        assert any(name.startswith(f"stages.{before}.") for name in frozen[after])
        assert not any(name.startswith(f"stages.{after}.") for name in frozen[after])
    with pytest.raises(ValueError, match=f"this encoder has {stages} stages"):
        optimization.freeze_stages(encoder, stages + 1)


def test_damaged_images_keep_the_colors_of_the_photo(photos, tmp_path, mini_preset, monkeypatch):
    seen = []
    real = train_colorformer.RecoloringModel.forward

    def spy(self, gray_rgb, true_ab, recoloring):
        ab, wanted = real(self, gray_rgb, true_ab, recoloring)
        seen.append((gray_rgb, recoloring, wanted))
        return ab, wanted

    monkeypatch.setattr(train_colorformer.RecoloringModel, "forward", spy)
    for damage in (0.0, 1.0):
        changes = {"damage": damage, "recolor": 0.5, "steps": 4, "save_every": 4}
        train_colorformer.main(settings(photos, tmp_path / str(damage), **changes))
    for (gray, clean, _), (damaged, recoloring, wanted) in zip(seen[:4], seen[4:], strict=True):
        assert damaged.shape == gray.shape
        assert (damaged - gray).abs().mean() > 0.01
        assert (clean is None) == (recoloring is None)
        assert wanted.std() > 1
    assert {recoloring is None for _, recoloring, _ in seen} == {True, False}


def test_feature_loss(photos, tmp_path, mini_preset, monkeypatch, mini_lite_colorformer_network):
    with pytest.raises(ValueError, match="feature is 2.0, but no feature network is given"):
        settings(photos, tmp_path, feature=2.0)
    encoder = mini_lite_colorformer_network.encoder
    monkeypatch.setattr(losses.pretrained, "load_efficientnet_lite", lambda _: encoder)
    (tmp_path / "lite.pth").touch()
    changes = {"feature": 2.0, "feature_network": str(tmp_path / "lite.pth"), "recolor": 0.5}
    train_colorformer.main(settings(photos, tmp_path, **changes))
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert line["feature"] > 0


def test_refuses_a_memory_of_another_encoder(photos, tmp_path, memory_file, mini_preset):
    with pytest.raises(ValueError, match="was built with the encoder of"):
        train_colorformer.main(settings(photos, tmp_path, memory=memory_file))


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_file):
    sentence = r"weights is .*mini.safetensors, a ddcolor network; expected one .* colorformer\."
    with pytest.raises(ValueError, match=sentence):
        train_colorformer.main(settings(photos, tmp_path, weights=str(mini_file)))


def test_statistics_of_the_result_are_updated(photos, tmp_path, mini_preset, monkeypatch):
    calls = []
    real = ema.update_bn_statistics
    monkeypatch.setattr(ema, "update_bn_statistics", lambda *args: calls.append(1) or real(*args))
    train_colorformer.main(settings(photos, tmp_path))
    assert len(calls) == 2  # saved after 3 and 6 steps


def test_recoloring_moves_photos_as_the_entries_they_attend_to(mini_colorformer_network):
    network, module = mini_colorformer_network, mini_colorformer_network.memory
    torch.manual_seed(0)
    ab = 20 * torch.randn(2, 2, 64, 64)
    with torch.inference_mode():
        encoded = network.encode(torch.rand(2, 3, 64, 64))
    drawn = train_colorformer.draw_recoloring(module, optimization.step_generator(0, 1))
    moved_ab, entries = train_colorformer.recolor(ab, encoded, module, drawn)
    kept = (entries.keys[:, None] == module.keys[None]).all(-1).nonzero()[:, 1]
    assert 2 <= len(kept) == len(set(kept.tolist())) <= 16
    # What is left after the common turn and stretch is the attended shift.
    zero, _ = train_colorformer.recolor(torch.zeros_like(ab), encoded, module, drawn)
    change = torch.linalg.lstsq(
        ab.movedim(1, -1).reshape(-1, 2), (moved_ab - zero).movedim(1, -1).reshape(-1, 2)
    ).solution
    torch.testing.assert_close(
        change @ change.T, (change @ change.T)[0, 0] * torch.eye(2), atol=1e-3, rtol=1e-3
    )
    shift = entries.values - module.values[:, kept] @ change
    fused = torch.einsum("Bn,nmc->Bmc", encoded.weights, shift)
    with torch.no_grad():
        want = module.attend(encoded.features.permute(0, 2, 3, 1), fused, entries.keys)
    want = torch.nn.functional.interpolate(want.movedim(-1, 1), size=(64, 64), mode="bilinear")
    torch.testing.assert_close(zero, want, atol=0.01, rtol=0.01)
    assert want.std() > 1


def test_recoloring_is_drawn_from_seed_and_step_alone(mini_colorformer_network):
    """Processes and parts draw the same, whatever else has been drawn; steps do not."""

    def draw(step):
        return train_colorformer.draw_recoloring(
            mini_colorformer_network.memory, optimization.step_generator(3, step)
        )

    before = torch.get_rng_state()
    first = draw(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert all(map(torch.equal, first, draw(5)))
    assert not torch.equal(first.matrix, draw(6).matrix)


@pytest.mark.parametrize("architecture", ["mini", "lite"])
def test_learns_a_few_photos_by_heart(photos, tmp_path, mini_preset, architecture):
    changes = {
        "architecture": architecture,
        "steps": 60,
        "learning_rate": 5e-3,
        "batch": 6,
        "spectral_norm": False,
        "average": 0.9,
        "save_every": 60,
    }
    train_colorformer.main(settings(photos, tmp_path, **changes))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.25 * lines[0]["pixel"]


def test_every_preset_parses():
    for preset in train_colorformer.PRESETS:
        argv = ["--photos", "p", "--preset", preset, "--weights", "a.safetensors"]
        assert parse(train_colorformer.Config, train_colorformer.PRESETS, argv).steps > 0


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_colorformer.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--freeze-encoder" in run.stdout
