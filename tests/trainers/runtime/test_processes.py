"""Two processes give the results of one at the same batch: all four trainers, with a launcher."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import json, runpy, sys
from pathlib import Path
root, out, jobs = sys.argv[1:]
runpy.run_path(root + "/trainers/_standalone.py")["package"]()
train = runpy.run_path(root + "/tests/trainers/runtime/test_processes.py")["train"]
train(json.loads(jobs), Path(out))
"""


@pytest.fixture(scope="module")
def jobs(photos, mini_file, mini_colorformer_file, mini_exemplar_file, mini_pointhint_file):
    """Trainer -> flags for everything that draws random numbers or depends on a whole batch."""
    every = [
        *("--photos", *[photos] * 4, "--device", "cpu", "--crop", 32, "--held-out", 0),
        *("--batch", 8, "--accumulate", 2, "--steps", 2, "--report-every", 1),
        *("--save-every", 2, "--learning-rate", 1e-5),
    ]
    adversarial = ["--adversarial", 1, "--discriminator-width", 4, "--no-spectral-norm"]
    flags = {
        "ddcolor": ["--weights", mini_file, *adversarial],
        "colorformer": ["--weights", mini_colorformer_file, *adversarial, "--recolor", 0.7],
        "exemplar": [
            *("--weights", mini_exemplar_file, "--shares", 0, 0, 0.5, 0.5, "--crop", 64),
            *("--adversarial", 1, "--recolor", 0.5, "--no-freeze-backbone"),
        ],
        "pointhint": [
            *("--weights", mini_pointhint_file, "--hints", 1, 8, "--prior", "--base", mini_file)
        ],
    }
    return {name: list(map(str, [*every, *more])) for name, more in flags.items()}


def train(jobs, out):
    """Run the trainers one after the other in this process."""
    prefix = "comfyui_colorist.trainers"
    command_line = importlib.import_module(f"{prefix}.runtime.command_line")
    ema = importlib.import_module(f"{prefix}.runtime.ema")
    with pytest.MonkeyPatch.context() as patch:
        # The first process calibrates and writes the result alone; its quality is not tested here.
        patch.setattr(ema.update_bn_statistics, "__defaults__", (1,))
        for name, flags in jobs.items():
            trainer = importlib.import_module(f"{prefix}.train_{name}")
            if hasattr(trainer, "fit_confidence"):
                patch.setattr(trainer.fit_confidence, "__defaults__", (1,))
            flags = [*flags, "--out", str(out / name)]
            trainer.main(command_line.parse(trainer.Config, trainer.PRESETS, flags))


def losses(out):
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    # The gradient norm of a miniature amplifies rounding from the last digit to the second.
    skipped = {"seconds", "photos_per_second", "waiting", "peak_mib", "gradient"}
    return [
        {k: v for k, v in line.items() if k not in skipped} for line in lines if "seconds" in line
    ]


def test_two_processes_train_as_one(root, jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second, script = tmp_path / "1", tmp_path / "2", tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *(script, root, second, json.dumps(jobs)),
    ]
    with (tmp_path / "stderr").open("w+") as stderr:
        run = subprocess.Popen(list(map(str, command)), stderr=stderr)
        try:
            train(jobs, first)
        except BaseException:
            run.kill()
            raise
        finally:
            run.wait()
        stderr.seek(0)
        assert run.returncode == 0, stderr.read()[-3000:]
    for name in jobs:
        ours, theirs = losses(first / name), losses(second / name)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [1, 2]
        for our, their in zip(ours, theirs, strict=True):
            assert our == pytest.approx(their, rel=5e-3, abs=5e-4), name
        ours, theirs = (load_file(out / name / "state.safetensors") for out in (first, second))
        for key in ours:
            if key.startswith(("network/", "discriminator")) and "running_" in key:
                torch.testing.assert_close(ours[key], theirs[key], rtol=3e-2, atol=2e-3)
