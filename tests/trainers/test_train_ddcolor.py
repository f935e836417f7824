"""The trainer as a user runs it: files, resume, all four losses, one batch learned by heart."""

import copy
import dataclasses
import errno
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.model_defs import ddcolor, registry
from comfyui_colorist.model_defs.efficientnet_lite import VARIANTS, EfficientNetLite, Variant
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import loader
from comfyui_colorist.trainers import (
    train_colorformer,
    train_ddcolor,
    train_exemplar,
    train_pointhint,
)
from comfyui_colorist.trainers.data import photos as data
from comfyui_colorist.trainers.runtime import ema
from comfyui_colorist.trainers.runtime.command_line import field_docs, parse


@pytest.fixture
def mini_preset(monkeypatch, mini_config):
    monkeypatch.setitem(ddcolor.PRESETS, "mini", mini_config)


def settings(folder, out, **changes):
    values = {
        "photos": (folder,),
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
    return train_ddcolor.Config(**(values | changes))


def weights(out):
    return registry.load(out / "weights.safetensors")[0].state_dict()


def test_resumed_run_equals_unbroken_run(photos, tmp_path, mini_preset):
    """All networks, both optimizers, data order: bit-equal after 6 steps and after 3 + 3."""
    changes = {"adversarial": 1.0, "discriminator_width": 4, "crop": (32, 64), "crop_until": (4,)}
    train_ddcolor.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    train_ddcolor.main(dataclasses.replace(broken, steps=3))
    train_ddcolor.main(broken)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


LITE = ddcolor.Config(
    encoder="efficientnet-lite",
    depths=(1, 1, 1, 1, 1, 1, 1),
    dims=(4, 6, 8, 10, 12, 14, 16),
    decoder_dims=(16, 16, 8),
    width=32,
    ffn_width=32,
    blocks=3,
    queries=4,
)


@pytest.fixture
def lite_preset(monkeypatch, tmp_path):
    """A miniature on an EfficientNet-Lite; returns a file of weights for its encoder."""
    monkeypatch.setitem(ddcolor.PRESETS, "lite", LITE)
    monkeypatch.setitem(VARIANTS, "mini", Variant(LITE.depths, LITE.dims))
    torch.manual_seed(1)
    file = tmp_path / "lite.pth"
    torch.save(EfficientNetLite(LITE.depths, LITE.dims).state_dict(), file)
    return str(file)


def test_resumed_run_on_a_frozen_encoder_equals_unbroken_run(photos, tmp_path, lite_preset):
    """Damage, feature loss and the encoder's own learning rate: bit-equal after 6 and 3 + 3."""
    changes = {
        "architecture": "lite",
        "backbone": lite_preset,
        "frozen_stages": 3,
        "encoder_rate": 0.1,
        "damage": 0.5,
        "feature": 0.1,
        "feature_network": lite_preset,
        "psnr": 1.0,
        "spectral_norm": False,
    }
    train_ddcolor.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    train_ddcolor.main(dataclasses.replace(broken, steps=3))
    train_ddcolor.main(broken)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("stages", [0, 5, 7])
def test_frozen_stages_keep_their_weights(photos, tmp_path, lite_preset, stages):
    start = torch.load(lite_preset, weights_only=True)
    changes = {"architecture": "lite", "backbone": lite_preset, "frozen_stages": stages}
    changes |= {"steps": 2, "learning_rate": 1e-2, "average": 0.0, "spectral_norm": False}
    changes |= {"crop": (64,)}
    train_ddcolor.main(settings(photos, tmp_path / "out", **changes))
    result = weights(tmp_path / "out")
    for key, tensor in start.items():
        same = torch.allclose(result[f"encoder.{key}"], tensor, atol=1e-3)  # stored as float16
        stage = -1 if key.startswith("stem.") else int(key.split(".")[1])
        frozen = stage < stages and stages > 0
        assert same or not frozen, key
        if not frozen and key.endswith("project.weight"):
            assert not same, key


def test_result_is_mixed_with_the_start(photos, tmp_path, mini_preset):
    """Half of each; a resumed run continues from the weights before mixing."""
    plain = {"steps": 2, "spectral_norm": False, "average": 0.0, "learning_rate": 1e-2}
    train_ddcolor.main(settings(photos, tmp_path / "1", **plain))
    again = plain | {"weights": str(tmp_path / "1" / "weights.safetensors"), "save_every": 2}
    train_ddcolor.main(settings(photos, tmp_path / "2", **again))
    train_ddcolor.main(settings(photos, tmp_path / "3", **again, start_share=0.5))
    start, end, half = (weights(tmp_path / n) for n in "123")
    for key in ("fusion.conv.weight", "encoder.stages.0.0.expand.weight"):
        expected = (start[key] + end[key]) / 2
        torch.testing.assert_close(half[key], expected, atol=2e-3, rtol=2e-3)
        assert not torch.allclose(half[key], end[key], atol=2e-3)
    with pytest.raises(ValueError, match="start_share is 0.5, but the model to start"):
        settings(photos, tmp_path, start_share=0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"damage": 1.5}, r"damage is 1.5; expected 0.0 to 1.0"),
        ({"damage": -0.1}, r"damage is -0.1; expected 0.0 to 1.0"),
        ({"encoder_rate": -1.0}, "encoder_rate is -1.0; expected 0.0 or more"),
        ({"feature": 0.5}, "no feature network is given"),
        ({"frozen_stages": -1}, "frozen_stages is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(photos, tmp_path, mini_preset, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        settings(photos, tmp_path, **changes)


def test_more_frozen_stages_than_the_encoder_has(photos, tmp_path, mini_preset):
    with pytest.raises(ValueError, match="frozen_stages is 5; this encoder has 4 stages"):
        train_ddcolor.main(settings(photos, tmp_path, frozen_stages=5))


def test_files_and_provenance(photos, tmp_path, mini_preset, mini_config):
    train_ddcolor.main(settings(photos, tmp_path))
    network, _, info = registry.load(tmp_path / "weights.safetensors")
    assert network.config == mini_config
    assert info["training"]["steps"] == 6 and info["training"]["photos"] == 6
    listed = "".join(f"{i}\n" for i in range(6)).encode()
    assert info["training"]["photo_list_sha256"] == hashlib.sha256(listed).hexdigest()
    assert str(tmp_path) not in json.dumps(info), "no folder of the machine in the metadata"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "state.safetensors",
        "log.jsonl",
        "tensorboard",
    }


def test_metadata_name_encoder_and_all_runs(photos, tmp_path, lite_preset):
    plain = {"architecture": "lite", "steps": 1, "spectral_norm": False}
    train_ddcolor.main(settings(photos, tmp_path / "1", **plain, backbone=lite_preset))
    for number in (2, 3):
        start = str(tmp_path / str(number - 1) / "weights.safetensors")
        train_ddcolor.main(settings(photos, tmp_path / str(number), **plain, weights=start))
    training = registry.load(tmp_path / "3" / "weights.safetensors")[2]["training"]
    first, second = training["before"]
    assert first["backbone"]["file"] == "lite.pth" and len(first["backbone"]["sha256"]) == 12
    assert [run["config"]["out"] for run in (first, second, training)] == ["1", "2", "3"]
    assert "before" not in first and "before" not in second


def test_how_the_result_is_to_be_read(photos, tmp_path, mini_preset):
    plain = {"steps": 1, "spectral_norm": False}
    changes = plain | {"fade": 5.0, "gain": 1.25, "resolution": 64}
    train_ddcolor.main(settings(photos, tmp_path / "first", **changes))
    start = tmp_path / "first" / "weights.safetensors"
    _, spec, info = registry.load(start)
    assert info["spec"] == {"resolution": 64, "fade": 5.0, "gain": 1.25}
    again = plain | {"weights": str(start), "architecture": "", "gain": 1.0}
    train_ddcolor.main(settings(photos, tmp_path / "second", **again))
    _, spec, _ = registry.load(tmp_path / "second" / "weights.safetensors")
    assert (spec.resolution, spec.fade, spec.gain) == (64, 5.0, 1.0)
    with pytest.raises(ValueError, match="gain is 5; expected 0.0 to 4.0"):
        settings(photos, tmp_path, gain=5)


def test_learns_a_few_photos_by_heart(photos, tmp_path, mini_preset):
    changes = {
        "steps": 150,
        "learning_rate": 5e-3,
        "batch": 6,
        "spectral_norm": False,
        "average": 0.9,
    }
    train_ddcolor.main(settings(photos, tmp_path, colorfulness=0.0, save_every=150, **changes))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["pixel"] < 0.5 * lines[0]["pixel"]
    colorizer = loader.load(tmp_path / "weights.safetensors", device="cpu")
    true = torch.from_numpy(np.array(data.Photos([photos])[0])).float()[None] / 255
    gray = color.gray_rgb(color.lightness(true.movedim(-1, 1)))
    result = colorizer.colorize(gray.movedim(1, -1), resolution=32).movedim(-1, 1)
    true = true.movedim(-1, 1)
    assert image_metrics.psnr(result, true) > image_metrics.psnr(gray, true) + 1


def test_starts_from_a_checkpoint(photos, tmp_path, mini_file, mini_network):
    config = settings(
        photos,
        tmp_path,
        weights=mini_file,
        spectral_norm=False,
        steps=1,
        learning_rate=0.0,
        average=0.0,
    )
    train_ddcolor.main(config)
    key = "encoder.stages.0.0.expand.weight"
    torch.testing.assert_close(
        weights(tmp_path)[key], mini_network.state_dict()[key], atol=1e-3, rtol=1e-3
    )


def test_stops_on_a_loss_that_is_not_a_number(photos, tmp_path, mini_preset):
    """Names the photos of the batch, and discards the state that led to the loss."""
    config = settings(photos, tmp_path, save_every=1, report_every=1)
    train_ddcolor.main(dataclasses.replace(config, steps=1))
    before = (tmp_path / "state.safetensors").read_bytes()
    sentence = r"step 3: a loss is not finite \(pixel nan.* photos \d, \d\. The state of"
    with pytest.raises(SystemExit, match=sentence):  # step 2 makes weights that are huge
        train_ddcolor.main(dataclasses.replace(config, learning_rate=1e30))
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not (tmp_path / "state-before.safetensors").exists()


def test_refuses_to_resume_a_run_with_another_network(photos, tmp_path, mini_preset):
    config = settings(photos, tmp_path, steps=3)
    train_ddcolor.main(config)
    with pytest.raises(ValueError, match="another network"):
        train_ddcolor.main(dataclasses.replace(config, spectral_norm=False, steps=6))


def test_a_network_that_no_longer_colors_is_not_saved(photos, tmp_path, mini_preset):
    """Weights and loss are still finite; the samples show it."""
    folders = (str(photos),) * 4  # enough to hold some out
    config = settings(photos, tmp_path, photos=folders, save_every=1, average=0.0)
    train_ddcolor.main(dataclasses.replace(config, steps=1))
    files = [tmp_path / name for name in ("weights.safetensors", "state.safetensors")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(SystemExit, match="step 2: the network no longer colors .* smaller --learn"):
        train_ddcolor.main(dataclasses.replace(config, learning_rate=1e30))
    assert [file.read_bytes() for file in files] == before


def test_a_full_disk_leaves_the_old_state(photos, tmp_path, mini_preset, monkeypatch):
    config = settings(photos, tmp_path, save_every=1, steps=1)
    train_ddcolor.main(config)
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SystemExit, match=r"step 2: .* \(No space left on device\).* still there"):
        train_ddcolor.main(dataclasses.replace(config, steps=2))
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".colorist-*"))


def test_flags_presets_and_files(tmp_path):
    def parsed(*argv):
        return parse(train_ddcolor.Config, train_ddcolor.PRESETS, list(argv))

    assert parsed("--photos", "p").learning_rate == 1e-4
    assert parsed("--photos", "p", "--preset", "nano", "--steps", "5").steps == 5
    config_file = tmp_path / "a.toml"
    config_file.write_text("steps = 7\n")
    from_file = parsed("--photos", "p", "--preset", "nano", "--config", str(config_file))
    assert from_file.steps == 7
    config_file.write_text("stepz = 7\n")
    with pytest.raises(SystemExit):
        parsed("--photos", "p", "--config", str(config_file))
    with pytest.raises(SystemExit):
        parsed()


def test_every_setting_has_a_help_text():
    trainers = (train_ddcolor, train_colorformer, train_exemplar, train_pointhint)
    for trainer in trainers:
        docs = field_docs(trainer.Config)
        for field in dataclasses.fields(trainer.Config):
            assert docs.get(field.name, "").endswith("."), f"{trainer.__name__}: {field.name}"


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_ddcolor.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--learning-rate" in run.stdout


def test_batch_norm_statistics_are_updated(mini_config):
    """The network in eval mode then does what it does with the statistics of the photos."""
    torch.manual_seed(0)
    network = registry.build("ddcolor", mini_config).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(3.0)  # of some other weights
    rgb = torch.rand(8, 3, 64, 64)
    gray = color.gray_rgb(color.lightness(rgb))
    with torch.no_grad():
        before, want = network(gray), copy.deepcopy(network).train()(gray)
        ema.update_bn_statistics(network, (gray for _ in range(3)), lambda batch: (batch,))
        after = network(gray)
    assert not network.training
    assert (before - want).abs().mean() > 0.2 * want.std()
    assert (after - want).abs().mean() < 0.02 * want.std()


def test_statistics_of_the_result_are_updated(photos, tmp_path, mini_preset, monkeypatch):
    calls = []
    real = ema.update_bn_statistics
    monkeypatch.setattr(ema, "update_bn_statistics", lambda *args: calls.append(1) or real(*args))
    train_ddcolor.main(settings(photos, tmp_path))
    assert len(calls) == 2  # saved after 3 and 6 steps


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_colorformer_file):
    sentence = (
        "weights is .*mini-colorformer.safetensors, a colorformer network; expected one .* ddc"
    )
    with pytest.raises(ValueError, match=sentence):
        train_ddcolor.main(settings(photos, tmp_path, weights=mini_colorformer_file))
