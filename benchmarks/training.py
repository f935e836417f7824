"""What the trainers cost and what they survive. Each run is a process of its own.

    # Photos a second, time spent waiting for them, most memory: all four, small presets
    python benchmarks/training.py pace --photos shard-*.tar
    # Most memory of a preset, computed from parts of one photo and of two
    python benchmarks/training.py memory --photos shard-*.tar --presets paper 8gb finetune nano
    # Two processes against one: largest difference of any loss
    python benchmarks/training.py processes --photos shard-*.tar
    # SIGKILL at random moments, resumed each time: does it end as the unbroken run?
    python benchmarks/training.py kill --photos shard-*.tar --kills 10

On a CPU the memory is the peak resident set of the process, interpreter and libraries included, and
`auto` is float32. VGG-16 and VGG-19 are random numbers here: they cost what ImageNet's do.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from large_photo import ROOT, commit
from safetensors.torch import load_file, save_file

TRAINERS = ("ddcolor", "colorformer", "exemplar", "pointhint")
VGG = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
PAIRS = ("--shares", "0", "0", "0.1", "0.9")  # there is no table of references
LOSSES = {  # what the small presets leave out
    "ddcolor": ("--adversarial", "1", "--colorfulness", "0.5", "--spectral-norm"),
    "colorformer": ("--adversarial", "1", "--spectral-norm", "--recolor", "0.5"),
    "exemplar": ("--adversarial", "1", "--histogram", "2", "--variation", "50"),
    "pointhint": (),
}
TIMES = {"step", "seconds", "photos_per_second", "waiting", "peak_mib"}


def vgg(folder: Path, depth: int) -> Path:
    """A file with the convolutions of VGG-16 (batch norm) or VGG-19, random."""
    state, place, before = {}, 0, 3
    for block, count in enumerate(VGG[depth]):
        width = min(64 * 2**block, 512)
        for _ in range(count):
            state[f"features.{place}.weight"] = torch.randn(width, before, 3, 3) * 0.05
            state[f"features.{place}.bias"] = torch.zeros(width)
            if depth == 16:
                norm = f"features.{place + 1}."
                state |= {norm + name: torch.zeros(width) for name in ("bias", "running_mean")}
                state |= {norm + name: torch.ones(width) for name in ("weight", "running_var")}
                state[norm + "num_batches_tracked"] = torch.tensor(1)
            place, before = place + (3 if depth == 16 else 2), width
        place += 1
    path = folder / f"vgg{depth}.safetensors"
    save_file(state, path)
    return path


def command(
    trainer: str, options: argparse.Namespace, out: Path, *more: object, processes: int = 1
) -> list[str]:
    """How a trainer is started."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", processes]
    pairs = PAIRS if trainer == "exemplar" else ()
    given = [*("--photos", *options.photos), *("--out", out), *("--device", options.device)]
    script = ROOT / "trainers" / f"train_{trainer}.py"
    parts = [sys.executable, *launcher * (processes > 1), script, *given, *pairs, *more]
    return list(map(str, parts))


def run(parts: list[str]) -> None:
    """Run it; what it says is shown only if it fails."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(parts, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise SystemExit(f"{' '.join(parts)}\n{done.stderr[-2000:]}")


def lines(out: Path) -> list[dict]:
    """Its reports."""
    read = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line for line in read if "photos_per_second" in line]


# --- Photos a second -------------------------------------------------------------------------


def pace(options: argparse.Namespace, folder: Path) -> list[dict]:
    """The later half of a short run."""
    rows = []
    for trainer in options.trainers:
        out = folder / trainer
        half = options.steps // 2
        every = ("--report-every", half, "--save-every", 10**6, "--held-out", 0)
        settings = ("--preset", options.presets[0], "--steps", 2 * half, *every)
        run(command(trainer, options, out, *settings, *_start(trainer, options.presets[0], folder)))
        line = lines(out)[-1]
        keys = ("photos_per_second", "waiting", "peak_mib")
        rows.append({"trainer": trainer, "preset": options.presets[0]} | {k: line[k] for k in keys})
    return rows


# --- Memory ----------------------------------------------------------------------------------


def memory(options: argparse.Namespace, folder: Path) -> list[dict]:
    """Peak of one step in parts of one photo and of two, and by the line through both of a part."""
    rows = []
    for trainer in options.trainers:
        for preset in options.presets:
            config = _config(trainer, preset, folder, options)
            row = {"trainer": trainer, "preset": preset, "batch": config["batch"]}
            row["parts"] = config["accumulate"]
            for photos in (1, 2):
                out = folder / f"{trainer}-{preset}-{photos}"
                settings = ("--preset", preset, "--steps", 2, "--batch", 2 * photos)
                some = ("--accumulate", 2, "--report-every", 1, "--held-out", 0)
                side = ("--crop", max(config["crop"]))
                start = _start(trainer, preset, folder)
                run(command(trainer, options, out, *settings, *some, *side, *start))
                row[f"peak_mib_{photos}"] = max(line["peak_mib"] for line in lines(out))
            each = row["peak_mib_2"] - row["peak_mib_1"]
            row["peak_mib_at_preset"] = row["peak_mib_1"] + each * (
                row["batch"] // row["parts"] - 1
            )
            rows.append(row)
    return rows


def _start(trainer: str, preset: str, folder: Path) -> tuple[object, ...]:
    """What a preset cannot do without, and the paper not without ImageNet."""
    if preset == "finetune":
        return "--weights", f"{trainer}-nano"
    if preset == "nano" and trainer == "pointhint":  # the second of its runs
        return "--weights", "pointhint-nano"
    if preset == "nano":
        return ("--encoder", "pointhint-nano") if trainer == "exemplar" else ()
    if trainer in ("ddcolor", "colorformer"):
        return "--vgg", vgg(folder, 16)
    return ("--backbone", vgg(folder, 19)) if trainer == "exemplar" else ()


def _config(trainer: str, preset: str, folder: Path, options: argparse.Namespace) -> dict:
    """Settings of a preset, as the trainer itself reads them."""
    import importlib
    import runpy

    runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()
    module = importlib.import_module(f"comfyui_colorist.trainers.train_{trainer}")
    common = importlib.import_module("comfyui_colorist.trainers.runtime.settings")
    parts = command(trainer, options, folder, "--preset", preset, *_start(trainer, preset, folder))
    return vars(common.parse(module.Config, module.PRESETS, parts[2:]))


# --- Processes, kills ------------------------------------------------------------------------


def small(trainer: str, folder: Path) -> tuple[object, ...]:
    """A few steps of the small preset with every loss it can have."""
    size = ("--batch", 8, "--crop", 64, "--warmup", 4, "--discriminator-width", 16)
    kept = size if trainer in ("ddcolor", "colorformer") else size[:-2]
    crop = ("--dtype", "float32")
    return ("--preset", "nano", *kept, *crop, *LOSSES[trainer], *_start(trainer, "nano", folder))


def processes(options: argparse.Namespace, folder: Path) -> list[dict]:
    """Losses of one process and of two at the same batch, from the first step to the last.

    The learning rate is small: at the usual one, training amplifies the last digit within steps.
    """
    rows = []
    for trainer in options.trainers:
        found = []
        for number in (1, 2):
            out = folder / f"{trainer}-{number}"
            every = ("--steps", options.steps, "--report-every", 1, "--held-out", 0)
            settings = (*small(trainer, folder), *every, "--learning-rate", 1e-5)
            run(command(trainer, options, out, *settings, processes=number))
            found.append(lines(out))
        differences = [
            max(abs(a[k] - b[k]) / max(abs(a[k]), 1e-3) for k in a if k not in TIMES)
            for a, b in zip(*found, strict=True)
        ]
        first, last = differences[0], max(differences)
        rows.append({"trainer": trainer, "steps": options.steps, "first": first, "largest": last})
    return rows


def kill(options: argparse.Namespace, folder: Path) -> list[dict]:
    """SIGKILL at moments spread over the whole run, while files are written, too."""
    rows, moments = [], random.Random(0)
    for trainer in options.trainers:
        every = ("--steps", options.steps, "--save-every", 3, "--report-every", 1)
        settings = (*small(trainer, folder), *every, "--held-out", 2)
        whole, broken = folder / f"{trainer}-whole", folder / f"{trainer}-broken"
        run(command(trainer, options, whole, *settings))
        parts, kills = command(trainer, options, broken, *settings), 0
        while kills < options.kills:
            process = subprocess.Popen(
                parts,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            # Most of a run is its start: wait until something is done, then strike.
            before = _stamp(broken)
            while process.poll() is None and _stamp(broken) == before:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 1.5))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
        run(parts)
        files = ("weights.safetensors", "state.safetensors")
        pairs = [(load_file(whole / file), load_file(broken / file)) for file in files]
        same = all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)
        rows.append({"trainer": trainer, "steps": options.steps, "kills": kills, "equal": same})
    return rows


def _stamp(out: Path) -> int:
    log = out / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


def table(rows: list[dict]) -> str:
    """Markdown."""
    heads = list(rows[0])
    cells = [
        [f"{v:.2g}" if isinstance(v, float) and v < 0.1 else str(v) for v in row.values()]
        for row in rows
    ]
    text = [heads, ["---"] * len(heads), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pace", "memory", "processes", "kill"])
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--presets", nargs="+", default=["nano"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = {"pace": pace, "memory": memory, "processes": processes, "kill": kill}
    with tempfile.TemporaryDirectory() as scratch:
        found = work[given.what](given, Path(scratch))
    print(table(found))
    if given.json:
        facts = {"commit": commit(), "torch": torch.__version__, "machine": platform.machine()}
        facts |= {"what": given.what, "rows": found}
        given.json.write_text(json.dumps(facts, indent=1))
