"""Cost and robustness of the trainers. Each run is a separate process.

    # Photos per second, time spent waiting for them, peak memory: all four trainers, small presets
    python benchmarks/training.py pace --photos shard-*.tar
    # Peak memory of a preset, computed from parts of one photo and of two
    python benchmarks/training.py memory --photos shard-*.tar --presets paper 8gb finetune nano
    # Two processes against one: largest difference of any loss
    python benchmarks/training.py processes --photos shard-*.tar
    # SIGKILL at random moments, resumed each time: is the result that of an uninterrupted run?
    python benchmarks/training.py kill --photos shard-*.tar --kills 10

On a CPU, memory is the peak resident set of the process, including interpreter and libraries, and
`auto` is float32. VGG-16 and VGG-19 have random weights, which cost the same as ImageNet's.
"""

import argparse
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import torch
from safetensors.torch import load_file, save_file

TRAINERS = ("ddcolor", "colorformer", "exemplar", "pointhint")
VGG_BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions of each block
SHARES = ("--shares", "0", "0", "0.1", "0.9")  # without a table of references
LOSSES = {  # losses that the small presets leave out
    "ddcolor": ("--adversarial", "1", "--colorfulness", "0.5", "--spectral-norm"),
    "colorformer": ("--adversarial", "1", "--spectral-norm", "--recolor", "0.5"),
    "exemplar": ("--adversarial", "1", "--histogram", "2", "--variation", "50"),
    "pointhint": (),
}
NOT_LOSSES = {"step", "seconds", "photos_per_second", "waiting", "peak_mib"}  # keys of log lines
Row = dict[str, Any]


def main() -> None:
    """Print the table of one experiment."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--presets", nargs="+", default=["nano"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = EXPERIMENTS[options.experiment](options, Path(folder))
    bench.print_table(
        list(rows[0]),
        [
            [f"{v:.2g}" if isinstance(v, float) and v < 0.1 else v for v in row.values()]
            for row in rows
        ],
    )
    facts = {"commit": bench.commit(), "torch": torch.__version__, "machine": platform.machine()}
    bench.write_json(options.json, facts | {"what": options.experiment, "rows": rows})


# --- Runs ------------------------------------------------------------------------------------


def write_vgg(folder: Path, depth: int) -> Path:
    """Write random convolutions of VGG-16 (with batch norm) or VGG-19."""
    state: dict[str, torch.Tensor] = {}
    index, channels = 0, 3
    for block, count in enumerate(VGG_BLOCKS[depth]):
        width = min(64 * 2**block, 512)
        for _ in range(count):
            state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * 0.05
            state[f"features.{index}.bias"] = torch.zeros(width)
            if depth == 16:
                norm = f"features.{index + 1}."
                state |= {norm + name: torch.zeros(width) for name in ("bias", "running_mean")}
                state |= {norm + name: torch.ones(width) for name in ("weight", "running_var")}
                state[norm + "num_batches_tracked"] = torch.tensor(1)
            index, channels = index + (3 if depth == 16 else 2), width
        index += 1
    path = folder / f"vgg{depth}.safetensors"
    save_file(state, path)
    return path


def command(
    trainer: str, options: argparse.Namespace, out: Path, *settings: object, processes: int = 1
) -> list[str]:
    """Return the command line that starts a trainer."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", processes]
    shares = SHARES if trainer == "exemplar" else ()
    paths = [*("--photos", *options.photos), *("--out", out), *("--device", options.device)]
    script = bench.ROOT / "trainers" / f"train_{trainer}.py"
    parts = [sys.executable, *launcher * (processes > 1), script, *paths, *shares, *settings]
    return list(map(str, parts))


def run(parts: list[str]) -> None:
    """Run a command; its stderr is shown only if it fails."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(parts, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise SystemExit(f"{' '.join(parts)}\n{done.stderr[-2000:]}")


def log_lines(out: Path) -> list[Row]:
    """Return the lines about training steps in the log of a run."""
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if "photos_per_second" in line]


def required_settings(trainer: str, preset: str, folder: Path) -> tuple[object, ...]:
    """Return settings that a preset requires, or ImageNet weights in the paper's presets."""
    if preset == "finetune":
        return "--weights", f"{trainer}-nano"
    if preset == "nano" and trainer == "pointhint":  # the second of its runs
        return "--weights", "pointhint-nano"
    if preset == "nano":
        return ("--encoder", "pointhint-nano") if trainer == "exemplar" else ()
    if trainer in ("ddcolor", "colorformer"):
        return "--vgg", write_vgg(folder, 16)
    return ("--backbone", write_vgg(folder, 19)) if trainer == "exemplar" else ()


def preset_values(
    trainer: str, preset: str, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the settings of a preset as the trainer parses them."""
    from comfyui_colorist.trainers.runtime import command_line

    module = importlib.import_module(f"comfyui_colorist.trainers.train_{trainer}")
    settings = ("--preset", preset, *required_settings(trainer, preset, folder))
    parts = command(trainer, options, folder, *settings)
    return vars(command_line.parse(module.Config, module.PRESETS, parts[2:]))


def small_run(trainer: str, folder: Path) -> tuple[object, ...]:
    """Return settings of a small run with every loss of the trainer."""
    size: tuple[object, ...] = ("--batch", 8, "--crop", 64, "--warmup", 4)
    if trainer in ("ddcolor", "colorformer"):
        size += ("--discriminator-width", 16)
    required = required_settings(trainer, "nano", folder)
    return ("--preset", "nano", *size, "--dtype", "float32", *LOSSES[trainer], *required)


# --- Experiments -----------------------------------------------------------------------------


def pace(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure the second half of a short run."""
    rows = []
    for trainer in options.trainers:
        out, preset = folder / trainer, options.presets[0]
        half = options.steps // 2
        intervals = ("--report-every", half, "--save-every", 10**6, "--held-out", 0)
        settings = ("--preset", preset, "--steps", 2 * half, *intervals)
        required = required_settings(trainer, preset, folder)
        run(command(trainer, options, out, *settings, *required))
        line = log_lines(out)[-1]
        keys = ("photos_per_second", "waiting", "peak_mib")
        rows.append({"trainer": trainer, "preset": preset} | {key: line[key] for key in keys})
    return rows


def memory(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure a step in parts of one photo and of two; extrapolate linearly to the preset."""
    rows = []
    for trainer in options.trainers:
        for preset in options.presets:
            values = preset_values(trainer, preset, folder, options)
            row: Row = {"trainer": trainer, "preset": preset, "batch": values["batch"]}
            row["parts"] = values["accumulate"]
            for photos in (1, 2):
                out = folder / f"{trainer}-{preset}-{photos}"
                settings = ("--preset", preset, "--steps", 2, "--batch", 2 * photos)
                settings += ("--accumulate", 2, "--report-every", 1, "--held-out", 0)
                settings += ("--crop", max(values["crop"]))
                required = required_settings(trainer, preset, folder)
                run(command(trainer, options, out, *settings, *required))
                row[f"peak_mib_{photos}"] = max(line["peak_mib"] for line in log_lines(out))
            per_photo = row["peak_mib_2"] - row["peak_mib_1"]
            photos_per_part = row["batch"] // row["parts"]
            row["peak_mib_at_preset"] = row["peak_mib_1"] + per_photo * (photos_per_part - 1)
            rows.append(row)
    return rows


def processes(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Compare the losses of one process and of two at the same batch.

    The learning rate is small, because at the usual one training amplifies rounding errors within
    a few steps.
    """
    rows = []
    for trainer in options.trainers:
        logs = []
        for count in (1, 2):
            out = folder / f"{trainer}-{count}"
            intervals = ("--steps", options.steps, "--report-every", 1, "--held-out", 0)
            settings = (*small_run(trainer, folder), *intervals, "--learning-rate", 1e-5)
            run(command(trainer, options, out, *settings, processes=count))
            logs.append(log_lines(out))
        differences = [
            max(abs(a[k] - b[k]) / max(abs(a[k]), 1e-3) for k in a if k not in NOT_LOSSES)
            for a, b in zip(*logs, strict=True)
        ]
        first, largest = differences[0], max(differences)
        row = {"trainer": trainer, "steps": options.steps, "first": first, "largest": largest}
        rows.append(row)
    return rows


def kill(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Send SIGKILL at moments spread over the whole run, including writes of files."""
    rows, rng = [], random.Random(0)
    for trainer in options.trainers:
        intervals = ("--steps", options.steps, "--save-every", 3, "--report-every", 1)
        settings = (*small_run(trainer, folder), *intervals, "--held-out", 2)
        whole, interrupted = folder / f"{trainer}-whole", folder / f"{trainer}-interrupted"
        run(command(trainer, options, whole, *settings))
        parts, kills = command(trainer, options, interrupted, *settings), 0
        while kills < options.kills:
            process = subprocess.Popen(
                parts,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            # Most of a run is its start, so wait for a step before the kill.
            before = log_size(interrupted)
            while process.poll() is None and log_size(interrupted) == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
        run(parts)
        files = ("weights.safetensors", "state.safetensors")
        pairs = [(load_file(whole / file), load_file(interrupted / file)) for file in files]
        same = all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)
        rows.append({"trainer": trainer, "steps": options.steps, "kills": kills, "equal": same})
    return rows


def log_size(out: Path) -> int:
    log = out / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


EXPERIMENTS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "pace": pace,
    "memory": memory,
    "processes": processes,
    "kill": kill,
}

if __name__ == "__main__":
    main()
