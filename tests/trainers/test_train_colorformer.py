"""What the ColorFormer trainer adds: the memory, the frozen encoder, recolouring."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from comfyui_colorist.model_defs import colorformer, registry
from comfyui_colorist.pipeline import memory
from comfyui_colorist.trainers import common, train_colorformer


@pytest.fixture
def mini_preset(monkeypatch, mini_colorformer_config):
    monkeypatch.setitem(colorformer.PRESETS, "mini", mini_colorformer_config)


@pytest.fixture
def memory_file(tmp_path, mini_colorformer_network):
    """A memory of 5 entries made with the encoder of the miniature."""
    path = tmp_path / "memory.safetensors"
    memory.save(
        memory.ColorMemory(
            keys=torch.randn(5, 8),
            values=30 * torch.randn(4, 5, 2),
            encoder=memory.fingerprint(mini_colorformer_network.encoder),
            projection=memory.Projection(torch.randn(8, 64), torch.randn(8)),
        ),
        path,
    )
    return path


def settings(photos, out, **changes):
    values = {
        "photos": (photos,),
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


def test_trains_the_decoder_on_a_built_memory(
    photos, tmp_path, mini_colorformer_file, mini_colorformer_network, memory_file
):
    """The memory is taken over, the encoder stays, so the memory fits the result."""
    config = settings(
        photos, tmp_path, start=mini_colorformer_file, memory=memory_file, freeze_encoder=True
    )
    train_colorformer.main(config)
    network, given = weights(tmp_path), memory.load(memory_file)
    assert network.config.entries == 5
    torch.testing.assert_close(network.memory.keys, given.keys, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(network.memory.values, given.values, atol=0.1, rtol=1e-2)
    torch.testing.assert_close(
        network.memory.components, given.projection.components, atol=1e-2, rtol=1e-2
    )
    assert memory.fingerprint(network.encoder) == given.encoder
    moved = network.memory.project_key.weight - mini_colorformer_network.memory.project_key.weight
    assert moved.abs().max() > 1e-4
    assert str(tmp_path) not in json.dumps(registry.load(tmp_path / "weights.safetensors")[2])


def test_refuses_a_memory_of_another_encoder(photos, tmp_path, memory_file, mini_preset):
    with pytest.raises(ValueError, match="was built with the encoder of"):
        train_colorformer.main(settings(photos, tmp_path, memory=memory_file))


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_file):
    sentence = r"start is .*mini.safetensors, a ddcolor network; expected one .* colorformer\."
    with pytest.raises(ValueError, match=sentence):
        train_colorformer.main(settings(photos, tmp_path, start=mini_file))


def test_the_result_is_calibrated(photos, tmp_path, mini_preset, monkeypatch):
    seen = []
    real = common.calibrate
    monkeypatch.setattr(common, "calibrate", lambda *given: seen.append(1) or real(*given))
    train_colorformer.main(settings(photos, tmp_path))
    assert len(seen) == 2  # saved after 3 and 6 steps


def test_recolouring_moves_photos_as_the_entries_they_attend_to(mini_colorformer_network):
    network, module = mini_colorformer_network, mini_colorformer_network.memory
    torch.manual_seed(0)
    ab = 20 * torch.randn(2, 2, 64, 64)
    with torch.inference_mode():
        encoded = network.encode(torch.rand(2, 3, 64, 64))
    torch.manual_seed(1)
    moved_ab, entries = train_colorformer.recolored(ab, encoded, module)
    kept = (entries.keys[:, None] == module.keys[None]).all(-1).nonzero()[:, 1]
    assert 2 <= len(kept) == len(set(kept.tolist())) <= 16
    # What is left after the common turn and stretch is the attended shift.
    torch.manual_seed(1)
    zero, _ = train_colorformer.recolored(torch.zeros_like(ab), encoded, module)
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


def test_learns_a_few_photos_by_heart(photos, tmp_path, mini_preset):
    changes = {
        "steps": 150,
        "learning_rate": 5e-3,
        "batch": 6,
        "spectral_norm": False,
        "average": 0.9,
        "save_every": 150,
    }
    train_colorformer.main(settings(photos, tmp_path, **changes))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.5 * lines[0]["pixel"]


def test_every_preset_parses():
    for preset in train_colorformer.PRESETS:
        argv = ["--photos", "p", "--preset", preset, "--start", "a.safetensors"]
        assert common.parse(train_colorformer.Config, train_colorformer.PRESETS, argv).steps > 0


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_colorformer.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--freeze-encoder" in run.stdout
