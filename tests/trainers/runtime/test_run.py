"""Runs of a trainer: log, resume after any interruption, settings, batch norm, metadata."""

import dataclasses
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, ddcolor
from comfyui_colorist.trainers import train_ddcolor
from comfyui_colorist.trainers.runtime import distributed, ema, provenance
from comfyui_colorist.trainers.runtime.command_line import parse
from safetensors.torch import load_file


@pytest.fixture
def mini_preset(monkeypatch, mini_config):
    monkeypatch.setitem(ddcolor.PRESETS, "mini", mini_config)


def settings(folder, out, **changes):
    values = {
        "photos": (str(folder),),
        "out": out,
        "architecture": "mini",
        "crop": (32,),
        "batch": 2,
        "steps": 4,
        "adversarial": 0.0,
        "report_every": 2,
        "save_every": 2,
        "device": "cpu",
    }
    return train_ddcolor.Config(**(values | changes))


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same_files(one, other):
    """Names of the tensors that differ between two runs, in what they wrote."""
    different = []
    for file in ("weights.safetensors", "state.safetensors"):
        mine, theirs = load_file(one / file), load_file(other / file)
        assert set(mine) == set(theirs)
        different += [name for name in mine if not torch.equal(mine[name], theirs[name])]
    return different


# --- Killed ----------------------------------------------------------------------------------


def start(root, mini_file, photos, out):
    return subprocess.Popen(
        [
            *(sys.executable, root / "trainers" / "train_ddcolor.py", "--weights", mini_file),
            *("--photos", photos, "--out", out, "--crop", "32", "--batch", "2", "--steps", "40"),
            "--no-spectral-norm",
            *("--discriminator-width", "4", "--save-every", "2", "--device", "cpu"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition, process, seconds=120):
    for _ in range(seconds * 50):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError("the run makes no progress")


def test_killed_and_resumed_run_equals_unbroken_run(root, mini_file, photos, tmp_path):
    """SIGKILL, wherever it strikes: the same weights, optimizers, averages, bit for bit."""
    whole = start(root, mini_file, photos, tmp_path / "whole")
    state, moments = tmp_path / "broken" / "state.safetensors", random.Random(0)
    for _ in range(2):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(root, mini_file, photos, tmp_path / "broken")
        wait_for(lambda b=before: state.exists() and state.stat().st_mtime_ns > b, process)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start(root, mini_file, photos, tmp_path / "broken")
    assert last.wait() == 0 and whole.wait() == 0
    assert same_files(tmp_path / "whole", tmp_path / "broken") == []
    steps = [line["step"] for line in lines(tmp_path / "broken") if "pixel" in line]
    assert steps == list(range(2, 41, 2)), "each step is logged once"


def test_killed_between_two_renamings(photos, tmp_path, mini_preset):
    config = settings(photos, tmp_path / "broken")
    train_ddcolor.main(dataclasses.replace(config, steps=2))
    (tmp_path / "broken" / "state.safetensors").rename(
        tmp_path / "broken" / "state-before.safetensors"
    )
    (tmp_path / "broken" / ".colorist-0123.part").write_bytes(b"half a file")
    train_ddcolor.main(config)
    train_ddcolor.main(settings(photos, tmp_path / "whole"))
    assert same_files(tmp_path / "whole", tmp_path / "broken") == []
    assert not list((tmp_path / "broken").glob("*.part"))


def test_a_damaged_state_is_refused(photos, tmp_path, mini_preset):
    (tmp_path / "state.safetensors").write_bytes(b"what")
    with pytest.raises(
        ValueError, match="not a training state .* Give another --out, or remove the"
    ):
        train_ddcolor.main(settings(photos, tmp_path))


def test_streams_resume_where_they_stopped(photos, tmp_path, mini_preset):
    """The state holds the position in each shard."""
    import tarfile

    for i in range(2):
        with tarfile.open(tmp_path / f"s{i}.tar", "w") as tar:
            for path in sorted(photos.iterdir())[3 * i : 3 * i + 3]:
                tar.add(path, path.name)
    shards = (str(tmp_path / "s{0..1}.tar"),)
    whole = settings(photos, tmp_path / "whole", photos=shards, stream=True, steps=6)
    train_ddcolor.main(whole)
    broken = dataclasses.replace(whole, out=tmp_path / "broken")
    train_ddcolor.main(dataclasses.replace(broken, steps=2))
    train_ddcolor.main(broken)
    assert same_files(tmp_path / "whole", tmp_path / "broken") == []


# --- Signals ---------------------------------------------------------------------------------


def test_sigterm_saves_and_stops(photos, tmp_path, mini_preset, monkeypatch, caplog):
    """Clusters send it before they reclaim a machine; Ctrl-C does the same."""
    real, handler = ema.WeightAverage.update_parameters, signal.getsignal(signal.SIGTERM)

    def update(self, network):
        real(self, network)
        if self.n_averaged == 4:  # one more than the steps
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ema.WeightAverage, "update_parameters", update)
    config = settings(photos, tmp_path / "broken", save_every=100, steps=6)
    with caplog.at_level(logging.WARNING):
        train_ddcolor.main(config)
    assert "SIGTERM: saving and stopping" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is handler
    assert checkpoint.read_info(tmp_path / "broken" / "state.safetensors")["step"] == 3
    monkeypatch.setattr(ema.WeightAverage, "update_parameters", real)
    train_ddcolor.main(config)
    train_ddcolor.main(settings(photos, tmp_path / "whole", save_every=100, steps=6))
    assert same_files(tmp_path / "whole", tmp_path / "broken") == []


# --- Log -------------------------------------------------------------------------------------


def test_log_samples_and_curves(tmp_path, photos, mini_preset):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(photos, tmp_path, photos=(str(photos),) * 4, held_out=2)
    train_ddcolor.main(config)
    report = next(line for line in lines(tmp_path) if "pixel" in line)
    assert report["photos_per_second"] > 0 and 0 <= report["waiting"] <= 1
    assert report["peak_mib"] > 50 and report["gradient"] > 0
    scores = [line for line in lines(tmp_path) if "held_out_psnr" in line]
    assert [line["step"] for line in scores] == [2, 4] and 5 < scores[0]["held_out_psnr"] < 50
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "0000002.jpg",
        "0000004.jpg",
    ]
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert {"pixel", "rate", "held_out_psnr"} <= set(curves.Tags()["scalars"])
    assert [event.step for event in curves.Scalars("pixel")] == [2, 4]
    assert curves.Tags()["images"] == ["held out"]


def test_changed_settings_are_logged_on_resume(photos, tmp_path, mini_preset, caplog):
    train_ddcolor.main(settings(photos, tmp_path, steps=2))
    with caplog.at_level(logging.WARNING):
        train_ddcolor.main(settings(photos, tmp_path, learning_rate=1e-5))
    assert "learning_rate was 0.0001 and is now 1e-05" in caplog.text
    assert "steps was" not in caplog.text


def test_missing_packages_are_named(photos, tmp_path, monkeypatch):
    real = distributed.importlib.util.find_spec
    monkeypatch.setattr(
        distributed.importlib.util, "find_spec", lambda name: None if name == "tqdm" else real(name)
    )
    with pytest.raises(ValueError, match="training needs tqdm: pip install tqdm"):
        distributed.create_accelerator(settings(photos, tmp_path, architecture="ddcolor-nano"))


# --- Parts and processes ---------------------------------------------------------------------


def test_all_reduce_batch_norm_is_batch_norm(tmp_path):
    """With one process: result, gradient, running statistics."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        generator = torch.Generator().manual_seed(0)
        plain = torch.nn.BatchNorm2d(4)
        torch.nn.init.uniform_(plain.weight, 0.5, 2, generator=generator)
        shared = torch.nn.BatchNorm2d(4)
        shared.load_state_dict(plain.state_dict())
        shared.__class__ = distributed.AllReduceBatchNorm2d
        x = (3 + 2 * torch.randn(5, 4, 6, 7, generator=generator)).requires_grad_()
        expected, result = plain(x), shared(x)
        torch.testing.assert_close(result, expected)
        weight = torch.randn(expected.shape, generator=generator)
        (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), x)
        (gradient,) = torch.autograd.grad((result * weight).sum(), x)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(shared.get_buffer(name), buffer)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": -1}, "held_out is -1; expected 0 or more"),
        ({"smallest": 0.0}, "smallest is 0.0; expected 0.05 to 1.0"),
        ({"clip": float("nan")}, "clip is nan; expected 0.0 or more"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected 0.0 or more"),
        ({"average": 2.0}, "average is 2.0; expected 0.0 to 1.0"),
        ({"crop": (33,)}, "crop is .*; each side must be a multiple of 32"),
        ({"device": "tpu"}, "device is 'tpu'; expected one of auto, cuda, cpu"),
        ({"architecture": ""}, "name one with --weights, such as ddcolor-nano"),
    ],
)
def test_settings_are_checked(photos, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(photos, tmp_path, **{"architecture": "ddcolor-nano", **changes})


def test_metadata_keeps_no_folders_and_no_secrets(tmp_path):
    sources = ("town/photos/", "https://host/a.tar?Signature=SECRET", "pipe:aws s3 cp s3://b/c -")
    config = settings(tmp_path, tmp_path, architecture="ddcolor-nano", photos=sources)
    kept = provenance.portable_settings(config)
    assert kept["photos"] == ["photos", "a.tar", "pipe:"]
    assert str(tmp_path) not in json.dumps(kept)


def test_launched_processes_that_do_not_find_each_other_are_rejected(photos, tmp_path, monkeypatch):
    """Each would train alone and write the same files."""
    import accelerate

    class Alone:
        num_processes = 1

        def __init__(self, **_):
            pass

    monkeypatch.setattr(accelerate, "Accelerator", Alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="a launcher started 2 processes, but they do not find each"
    ):
        distributed.create_accelerator(settings(photos, tmp_path, architecture="ddcolor-nano"))


def test_spectral_norm_is_rejected_for_weights_trained_without_it(photos, tmp_path):
    config = settings(
        photos, tmp_path, weights="ddcolor-nano", architecture="", spectral_norm=True, crop=(32,)
    )
    with pytest.raises(ValueError, match="trained without spectral norm: .* Give --no-spectral-n"):
        train_ddcolor.build(config)
    network, spec = train_ddcolor.build(dataclasses.replace(config, spectral_norm=False))
    assert spec.resolution == 320, "as the file says"


def test_finetuning_logs_samples_of_the_initial_weights(photos, tmp_path):
    """As step 0."""
    flags = ["--preset", "finetune", "--weights", "ddcolor-nano", "--device", "cpu"]
    flags += ["--photos", *[str(photos)] * 4, "--out", str(tmp_path), "--held-out", "1"]
    flags += ["--steps", "1", "--batch", "1", "--crop", "64", "--learning-rate", "0"]
    flags += ["--discriminator-width", "4", "--average", "0"]
    config = parse(train_ddcolor.Config, train_ddcolor.PRESETS, flags)
    train_ddcolor.main(config)
    scores = [line for line in lines(tmp_path) if "held_out_psnr" in line]
    assert [line["step"] for line in scores] == [0, 1]
    assert (tmp_path / "samples" / "0000000.jpg").exists()


def test_a_batch_that_cannot_be_divided(photos, tmp_path):
    with pytest.raises(ValueError, match="accumulate is 2, but a batch of 3 photos cannot"):
        settings(photos, tmp_path, architecture="ddcolor-nano", batch=3, accumulate=2)
