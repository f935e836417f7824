"""How steady colour is over a film, and what that costs: beside plain and smoothed colour.

    python benchmarks/film.py --photos DIR                      # flicker, true colour, pace
    python benchmarks/film.py --photos DIR --model colorformer-nano --films 8
    python benchmarks/film.py --photos DIR --lengths 100 2000   # memory and pace of the command

Films with known motion are made of photos: a camera pans and zooms over one, a piece of another
moves across it, there is grain and the light flickers; every third film has a cut in the middle.
Each frame is coloured by itself, then steadied. Flicker is the mean change of chroma from frame to
frame along the true motion, in ab units, at places seen in both; that of true colour is what moving
pixels between frames costs. ab error and PSNR are to the true colour.
"""

import argparse
import json
import math
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()

import comfyui_colorist as colorist
from comfyui_colorist.media import image_io
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color, optical_flow
from comfyui_colorist.pipeline.video import stabilizer

FRAMES, HEIGHT, WIDTH = 24, 192, 256
SHOWN = 0.75  # of the photo that the camera sees
GRAIN, FLICKER = 1.5, 0.04  # deviation of L; part of the light
PIECE = (45.0, 35.0)  # half axes in pixels of what moves across
COLUMNS = {"flicker": ".2f", "ab error": ".2f", "PSNR": ".2f", "colourfulness": ".1f", "ms": ".0f"}


class Film(NamedTuple):
    """A film whose motion is known."""

    true: Tensor
    """(T, 3, h, w) in true colour."""
    flow: Tensor
    """(T - 1, 2, h, w) where a place was in the frame before."""
    seen: Tensor
    """(T - 1, 1, h, w) 1 where it was to be seen there."""


def main() -> None:
    """Tables, and JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of colour photos")
    parser.add_argument("--model", default="ddcolor-nano", help="colours each frame")
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", help="frames of films for the command")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    photos = sorted(options.photos.glob("*.jpg"))[: 2 * options.films]
    if len(photos) < 2:
        parser.error(f"{options.photos}: expected at least two .jpg photos.")
    found = lengths(photos[0], options) if options.lengths else steadiness(photos, options)
    if options.json:
        where = {"torch": torch.__version__, "device": options.device, "cpu": platform.machine()}
        options.json.write_text(json.dumps({"results": found, **where}, indent=1) + "\n")


# --- How steady --------------------------------------------------------------------------------


def steadiness(photos: list[Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The mean over films of every method's figures."""
    engine = colorist.load(options.model, device=options.device)
    rows: dict[str, list[list[float]]] = {}
    for seed, pair in enumerate(zip(photos[::2], photos[1::2], strict=False)):
        film = made_of(*map(read, pair), seed)
        gray = color.gray_rgb(shaken(color.lightness(film.true), seed)).movedim(1, -1)
        began = time.perf_counter()
        plain = engine.colorize(gray)
        results = {"true colour": (film.true.movedim(1, -1), began), "plain": (plain, began)}
        results = {name: (made, time.perf_counter() - t) for name, (made, t) in results.items()}
        for name, method in METHODS.items():
            began = time.perf_counter()
            results[name] = method(plain, options.device), time.perf_counter() - began
        for name, (made, seconds) in results.items():
            own = figures(made.movedim(-1, 1), film)
            rows.setdefault(name, []).append([*own, 1000 * seconds / FRAMES])
    means = {
        name: dict(zip(COLUMNS, map(statistics.fmean, zip(*own, strict=True)), strict=True))
        for name, own in rows.items()
    }
    means["true colour"]["ms"] = 0.0
    print(f"| colour | {' | '.join(COLUMNS)} |\n" + "| --- " * (1 + len(COLUMNS)) + "|")
    for name, row in means.items():
        print(f"| {name} | {' | '.join(format(row[k], f) for k, f in COLUMNS.items())} |")
    return means


def figures(made: Tensor, film: Film) -> list[float]:
    """Flicker, ab error, PSNR at the true lightness, colourfulness."""
    ab, true_ab = (color.rgb_to_lab(rgb)[:, 1:] for rgb in (made, film.true))
    change = torch.linalg.vector_norm(ab[1:] - optical_flow.warp(ab[:-1], film.flow), dim=1)
    rgb = color.to_gamut(torch.cat([color.lightness(film.true), ab], dim=1))
    return [
        ((change[:, None] * film.seen).sum() / film.seen.sum()).item(),
        torch.linalg.vector_norm(ab - true_ab, dim=1).mean().item(),
        image_metrics.psnr(rgb, film.true).mean().item(),
        image_metrics.colorfulness(rgb).mean().item(),
    ]


def smoothed(frames: Tensor, device: str) -> Tensor:
    """Exponential smoothing place by place, over as many frames as the stabilizer."""
    keep = 1 - 1 / (stabilizer.Controls().frames + 1)
    lab, made = color.rgb_to_lab(frames.movedim(-1, 1)), []
    ab = lab[:1, 1:]
    for frame in lab.split(1):
        ab = keep * ab + (1 - keep) * frame[:, 1:]
        made.append(color.to_gamut(torch.cat([frame[:, :1], ab], dim=1)))
    return torch.cat(made).movedim(1, -1)


def steadied(**controls: int) -> Callable[[Tensor, str], Tensor]:
    """The stabilizer with these controls."""

    def method(frames: Tensor, device: str) -> Tensor:
        own = stabilizer.Stabilizer(stabilizer.Controls(**controls), device=device)
        return torch.cat([own.push(frames), *own.finish()])

    return method


METHODS = {
    "smoothed over time": smoothed,
    "stabilized, frames before alone": steadied(ahead=0),
    "**stabilized**": steadied(),
    "stabilized, 30 before, 16 after": steadied(frames=30, ahead=16),
}


# --- Films -------------------------------------------------------------------------------------


def read(path: Path) -> Tensor:
    """(1, 3, H, W)."""
    return torch.from_numpy(image_io.read(path).pixels[..., :3]).movedim(-1, 0)[None]


def made_of(photo: Tensor, other: Tensor, seed: int, frames: int = FRAMES) -> Film:
    """A camera over `photo`, and a piece of `other` that moves across it."""
    random = torch.Generator().manual_seed(seed)
    scenes = [(photo, other), (other, photo)] if seed % 3 == 2 else [(photo, other)]
    pictures, flows, seen = [], [], []
    for scene, piece in scenes:
        angle, zoom, turn, height = torch.rand(4, generator=random).tolist()
        before = None
        for t in range(frames // len(scenes)):
            s = t / frames - 0.25
            scale = SHOWN * min(scene.shape[2] / HEIGHT, scene.shape[3] / WIDTH)
            reach = 0.25 * min(scene.shape[2:]) * s
            centre = torch.tensor([math.cos(math.tau * angle), math.sin(math.tau * angle)]) * reach
            camera = view(
                scene, centre, scale * (1 + 0.3 * (zoom - 0.5) * s), 0.2 * (turn - 0.5) * s
            )
            middle = torch.tensor([WIDTH * (t / frames - 0.5), HEIGHT * (height - 0.5) / 2])
            own = view(piece, -0.9 * middle, 0.9, 0.0)
            away = (places() - middle[:, None, None]) / torch.tensor(PIECE)[:, None, None]
            mask = (away.square().sum(1, keepdim=True) < 1).float()
            pictures.append(torch.where(mask > 0, sample(piece, own), sample(scene, camera)))
            if before is not None:
                flow, visible = moved((camera, own, mask), before)
                flows.append(flow)
                seen.append(visible)
            elif pictures[1:]:  # a cut
                flows.append(torch.zeros(1, 2, HEIGHT, WIDTH))
                seen.append(torch.zeros(1, 1, HEIGHT, WIDTH))
            before = camera, own, mask
    return Film(torch.cat(pictures), torch.cat(flows), torch.cat(seen))


def places() -> Tensor:
    """(1, 2, h, w) x and y from the middle of the frame."""
    y, x = torch.arange(HEIGHT) - (HEIGHT - 1) / 2, torch.arange(WIDTH) - (WIDTH - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


def view(photo: Tensor, centre: Tensor, scale: float, turn: float) -> Tensor:
    """(2, 3): places of a frame to those of the photo."""
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    middle = (torch.tensor([photo.shape[3], photo.shape[2]]) - 1) / 2 + centre
    return torch.cat([torch.tensor([[c, -s], [s, c]]), middle[:, None]], dim=1)


def through(camera: Tensor, at: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", camera[:, :2], at) + camera[:, 2, None, None]


def sample(photo: Tensor, camera: Tensor) -> Tensor:
    """What a view of the photo shows: (1, 3, h, w)."""
    size = torch.tensor([photo.shape[3], photo.shape[2]])
    grid = (2 * through(camera, places()).movedim(1, -1) + 1) / size - 1
    options = {"mode": "bicubic", "padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(photo, grid, **options).clamp(0, 1)


def moved(now: tuple, before: tuple) -> tuple[Tensor, Tensor]:
    """From (camera, view of the piece, its mask) of two frames: flow, and whether it is seen."""
    flows = []
    for view_now, view_before in zip(now[:2], before[:2], strict=True):
        at = through(view_now, places()) - view_before[:, 2, None, None]
        inverse = torch.linalg.inv(view_before[:, :2])
        flows.append(torch.einsum("ij,bjhw->bihw", inverse, at) - places())
    flow = torch.where(now[2] > 0, flows[1], flows[0])
    place = places() + flow
    inside = (place[:, :1].abs() < WIDTH / 2 - 1) & (place[:, 1:].abs() < HEIGHT / 2 - 1)
    return flow, (inside & ((optical_flow.warp(before[2], flow) - now[2]).abs() < 1e-3)).float()


def shaken(L: Tensor, seed: int) -> Tensor:
    """Lightness (T, 1, h, w) with grain, and light that flickers."""
    random = torch.Generator().manual_seed(seed)
    light = 1 + FLICKER * torch.randn(len(L), 1, 1, 1, generator=random)
    return (L * light + GRAIN * torch.randn(L.shape, generator=random)).clamp(0, 100)


# --- The command -------------------------------------------------------------------------------


def lengths(photo: Path, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Peak memory and pace of `colorist colorize --stabilize` on films of these lengths."""
    import av

    found = {}
    print("| frames | peak MiB | frames a second |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.lengths:
            source = Path(folder, f"{count}.mkv")
            with av.open(str(source), "w") as container:
                stream = container.add_stream("libx264", rate=24, options={"crf": "18"})
                stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
                scene = read(photo)
                for t in range(count):
                    angle = math.tau * t / 240
                    reach = 0.1 * min(scene.shape[2:])
                    centre = torch.tensor([math.cos(angle), math.sin(angle)]) * reach
                    rgb = sample(scene, view(scene, centre, SHOWN, 0.0))
                    gray = color.gray_rgb(color.lightness(rgb))[0].movedim(0, -1)
                    levels = (255 * gray).round().byte().numpy()
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, "rgb24")))
                container.mux(stream.encode())
            code = (
                "import resource, runpy, sys; "
                f"runpy.run_path({str(ROOT / 'trainers' / '_standalone.py')!r})['package'](); "
                "from comfyui_colorist.cli import main; code = main(sys.argv[1:]); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
            )
            out = Path(folder, f"{count}-coloured.mkv")
            command = [sys.executable, "-c", code, "colorize", str(source), "-o", str(out)]
            command += ["--model", options.model, "--device", options.device, "--stabilize"]
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - began
            peak = float(done.stdout.split()[-1])
            found[count] = {"peak_mib": peak, "frames_per_second": count / seconds}
            print(f"| {count} | {peak:.0f} | {count / seconds:.1f} |")
    return found


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
