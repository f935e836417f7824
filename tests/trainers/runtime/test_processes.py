"""Two processes give the results of one at the same batch: all four trainers, with a launcher."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import importlib, json, runpy, sys
root, jobs = sys.argv[1:]
runpy.run_path(root + "/trainers/_standalone.py")["package"]()
command_line = importlib.import_module("comfyui_colorist.trainers.runtime.command_line")
for name, flags in json.loads(jobs):
    trainer = importlib.import_module("comfyui_colorist.trainers.train_" + name)
    trainer.main(command_line.parse(trainer.Config, trainer.PRESETS, flags))
"""


@pytest.fixture(scope="module")
def jobs(photos, mini_file, mini_colorformer_file, mini_exemplar_file, mini_pointhint_file):
    """Trainer -> flags for everything that draws random numbers or depends on a whole batch."""
    every = [
        *("--photos", *[photos] * 4, "--device", "cpu", "--crop", 32),
        *("--batch", 8, "--accumulate", 2, "--steps", 3, "--report-every", 1),
        *("--save-every", 3, "--learning-rate", 1e-5),
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


def start(root, jobs, out, processes):
    arguments = [[name, [*flags, "--out", str(out / name)]] for name, flags in jobs.items()]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    script = out / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, *launcher * (processes > 1), script, root, json.dumps(arguments)]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)


def losses(out):
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    # The gradient norm of a miniature amplifies rounding from the last digit to the second.
    skipped = {"seconds", "photos_per_second", "waiting", "peak_mib", "gradient"}
    return [
        {k: v for k, v in line.items() if k not in skipped} for line in lines if "seconds" in line
    ]


def test_two_processes_train_as_one(root, jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        out.mkdir()
        runs[processes] = start(root, jobs, out, processes)
    for run in runs.values():
        stderr = run.communicate()[1]
        assert run.returncode == 0, stderr[-3000:]
    for name in jobs:
        one, two = (losses(tmp_path / str(n) / name) for n in (1, 2))
        assert [line["step"] for line in one] == [line["step"] for line in two]
        for mine, theirs in zip(one, two, strict=True):
            assert mine == pytest.approx(theirs, rel=5e-3, abs=5e-4), name
        one, two = (load_file(tmp_path / str(n) / name / "state.safetensors") for n in (1, 2))
        for key in one:
            if key.startswith(("network/", "discriminator")) and "running_" in key:
                torch.testing.assert_close(one[key], two[key], rtol=3e-2, atol=2e-3)
