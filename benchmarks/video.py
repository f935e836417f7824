"""Flicker of colorized videos and the cost of reducing it, for several methods.

    python benchmarks/video.py --photos DIR                      # flicker, accuracy, time
    python benchmarks/video.py --photos DIR --model colorformer-nano --films 8
    python benchmarks/video.py --photos DIR --lengths 100 2000   # memory and speed of the command

Videos with known motion are rendered from photos: a camera pans and zooms over one photo, an
ellipse of another one moves across it, grain is added and the lightness flickers. Every third video
has a cut in the middle. Each frame is colorized on its own, then stabilized. Flicker is the mean
change of chroma between frames along the true motion, in ab units, over pixels visible in both; its
value for the true color is the cost of resampling. ab error and PSNR compare with the true color.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bench
import comfyui_colorist as colorist
import torch
import torch.nn.functional as F
from comfyui_colorist.media import image_io
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.ops import color, optical_flow
from comfyui_colorist.pipeline.video import stabilizer
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 24, 192, 256
VIEW_SCALE = 0.75  # part of the photo that the camera sees
GRAIN, FLICKER = 1.5, 0.04  # deviations: of L; of the factor on L
ELLIPSE = (45.0, 35.0)  # half axes of the moving ellipse in pixels
COLUMNS = {"flicker": ".2f", "ab error": ".2f", "PSNR": ".2f", "colorfulness": ".1f", "ms": ".0f"}


class Video(NamedTuple):
    """A video with known motion."""

    truth: Tensor
    """(T, 3, h, w) in true color."""
    flow: Tensor
    """(T - 1, 2, h, w): offset in pixels to the position in the frame before."""
    visible: Tensor
    """(T - 1, 1, h, w): 1 if visible in the frame before, else 0."""


class View(NamedTuple):
    """One frame: camera, placement of the ellipse's photo, and mask of the ellipse."""

    camera: Tensor
    """(2, 3): frame coordinates -> photo coordinates."""
    overlay: Tensor
    """(2, 3): the same for the photo in the ellipse."""
    mask: Tensor
    """(1, 1, h, w): 1 inside the ellipse."""


def main() -> None:
    """Print the tables."""
    parser = bench.argument_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of color photos")
    parser.add_argument("--model", default="ddcolor-nano", help="colorizes each frame")
    parser.add_argument("--films", type=int, default=12, help="number of videos")
    parser.add_argument("--lengths", type=int, nargs="+", help="frames of videos for the command")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    photos = bench.list_photos(options.photos, 2 * options.films)
    if len(photos) < 2:
        parser.error(f"{options.photos}: expected at least two .jpg photos.")
    if options.lengths:
        results = measure_command(photos[0], options)
    else:
        results = measure_flicker(photos, options)
    facts = {"torch": torch.__version__, "device": options.device, "cpu": platform.machine()}
    bench.write_json(options.json, {"results": results, **facts})


# --- Flicker -----------------------------------------------------------------------------------


def measure_flicker(photos: list[Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the mean scores of every method over all videos."""
    colorizer = colorist.load(options.model, device=options.device)
    scores: dict[str, list[list[float]]] = {}
    for seed, pair in enumerate(zip(photos[::2], photos[1::2], strict=False)):
        video = render_video(*map(read_photo, pair), seed)
        gray = color.gray_rgb(add_grain(color.lightness(video.truth), seed)).movedim(1, -1)
        start = time.perf_counter()
        plain = colorizer.colorize(gray)
        seconds = time.perf_counter() - start
        results = {"true color": (video.truth.movedim(1, -1), 0.0), "plain": (plain, seconds)}
        for name, method in METHODS.items():
            start = time.perf_counter()
            frames = method(plain, options.device)
            results[name] = frames, time.perf_counter() - start
        for name, (frames, seconds) in results.items():
            values = score_video(frames.movedim(-1, 1), video)
            scores.setdefault(name, []).append([*values, 1000 * seconds / FRAMES])
    means = {
        name: dict(zip(COLUMNS, map(statistics.fmean, zip(*rows, strict=True)), strict=True))
        for name, rows in scores.items()
    }
    bench.print_table(
        ["color", *COLUMNS],
        [[name, *(format(row[k], f) for k, f in COLUMNS.items())] for name, row in means.items()],
    )
    return means


def score_video(rgb: Tensor, video: Video) -> list[float]:
    """Return flicker, ab error, PSNR at the true lightness and colorfulness of (T, 3, h, w)."""
    ab, true_ab = (color.rgb_to_lab(frames)[:, 1:] for frames in (rgb, video.truth))
    change = torch.linalg.vector_norm(ab[1:] - optical_flow.warp(ab[:-1], video.flow), dim=1)
    at_true_L = color.to_gamut(torch.cat([color.lightness(video.truth), ab], dim=1))
    return [
        ((change[:, None] * video.visible).sum() / video.visible.sum()).item(),
        torch.linalg.vector_norm(ab - true_ab, dim=1).mean().item(),
        image_metrics.psnr(at_true_L, video.truth).mean().item(),
        image_metrics.colorfulness(at_true_L).mean().item(),
    ]


def smooth(frames: Tensor, device: str) -> Tensor:
    """Smooth each pixel exponentially, over as many frames as the stabilizer."""
    decay = 1 - 1 / (stabilizer.StabilizerOptions().frames_before + 1)
    lab, results = color.rgb_to_lab(frames.movedim(-1, 1)), []
    ab = lab[:1, 1:]
    for frame in lab.split(1):
        ab = decay * ab + (1 - decay) * frame[:, 1:]
        results.append(color.to_gamut(torch.cat([frame[:, :1], ab], dim=1)))
    return torch.cat(results).movedim(1, -1)


def stabilize(**options: int) -> Callable[[Tensor, str], Tensor]:
    """Return a function that applies the stabilizer with these options."""

    def method(frames: Tensor, device: str) -> Tensor:
        stream = stabilizer.Stabilizer(stabilizer.StabilizerOptions(**options), device=device)
        return torch.cat([stream.push(frames), *stream.finish()])

    return method


METHODS = {
    "smoothed over time": smooth,
    "stabilized, frames before alone": stabilize(frames_after=0),
    "**stabilized**": stabilize(),
    "stabilized, 30 before, 16 after": stabilize(frames_before=30, frames_after=16),
}


# --- Rendering ---------------------------------------------------------------------------------


def read_photo(path: Path) -> Tensor:
    """Read a photo as (1, 3, H, W) in 0..1."""
    return torch.from_numpy(image_io.read_image(path).pixels[..., :3]).movedim(-1, 0)[None]


def render_video(photo: Tensor, other: Tensor, seed: int, frames: int = FRAMES) -> Video:
    """Render a camera move over `photo`, with an ellipse of `other` moving across it."""
    generator = torch.Generator().manual_seed(seed)
    scenes = [(photo, other), (other, photo)] if seed % 3 == 2 else [(photo, other)]
    images, flows, visibilities = [], [], []
    for scene, overlay in scenes:
        angle, zoom, turn, height = torch.rand(4, generator=generator).tolist()
        before = None
        for t in range(frames // len(scenes)):
            s = t / frames - 0.25
            scale = VIEW_SCALE * min(scene.shape[2] / HEIGHT, scene.shape[3] / WIDTH)
            reach = 0.25 * min(scene.shape[2:]) * s
            center = direction(angle) * reach
            camera = camera_matrix(
                scene, center, scale * (1 + 0.3 * (zoom - 0.5) * s), 0.2 * (turn - 0.5) * s
            )
            middle = torch.tensor([WIDTH * (t / frames - 0.5), HEIGHT * (height - 0.5) / 2])
            distance = (pixel_grid() - middle[:, None, None]) / torch.tensor(ELLIPSE)[:, None, None]
            mask = (distance.square().sum(1, keepdim=True) < 1).float()
            view = View(camera, camera_matrix(overlay, -0.9 * middle, 0.9, 0.0), mask)
            inside, outside = sample(overlay, view.overlay), sample(scene, view.camera)
            images.append(torch.where(mask > 0, inside, outside))
            if before is not None:
                flow, visible = flow_between(view, before)
                flows.append(flow)
                visibilities.append(visible)
            elif images[1:]:  # a cut
                flows.append(torch.zeros(1, 2, HEIGHT, WIDTH))
                visibilities.append(torch.zeros(1, 1, HEIGHT, WIDTH))
            before = view
    return Video(torch.cat(images), torch.cat(flows), torch.cat(visibilities))


def direction(angle: float) -> Tensor:
    """Return the unit vector (x, y) of an angle in turns."""
    return torch.tensor([math.cos(math.tau * angle), math.sin(math.tau * angle)])


def pixel_grid() -> Tensor:
    """Return x and y from the center of the frame: (1, 2, h, w)."""
    y, x = torch.arange(HEIGHT) - (HEIGHT - 1) / 2, torch.arange(WIDTH) - (WIDTH - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


def camera_matrix(photo: Tensor, center: Tensor, scale: float, turn: float) -> Tensor:
    """Return the matrix (2, 3) from frame coordinates to photo coordinates."""
    c, s = scale * math.cos(turn), scale * math.sin(turn)
    middle = (torch.tensor([photo.shape[3], photo.shape[2]]) - 1) / 2 + center
    return torch.cat([torch.tensor([[c, -s], [s, c]]), middle[:, None]], dim=1)


def transform(camera: Tensor, points: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", camera[:, :2], points) + camera[:, 2, None, None]


def sample(photo: Tensor, camera: Tensor) -> Tensor:
    """Return the frame (1, 3, h, w) that a camera sees of a photo."""
    size = torch.tensor([photo.shape[3], photo.shape[2]])
    grid = (2 * transform(camera, pixel_grid()).movedim(1, -1) + 1) / size - 1
    return F.grid_sample(
        photo, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    ).clamp(0, 1)


def flow_between(view: View, before: View) -> tuple[Tensor, Tensor]:
    """Return the flow to the frame before, and 1 where that position is visible there."""
    flows = []
    for matrix, matrix_before in zip(view[:2], before[:2], strict=True):
        offset = transform(matrix, pixel_grid()) - matrix_before[:, 2, None, None]
        inverse = torch.linalg.inv(matrix_before[:, :2])
        flows.append(torch.einsum("ij,bjhw->bihw", inverse, offset) - pixel_grid())
    flow = torch.where(view.mask > 0, flows[1], flows[0])
    position = pixel_grid() + flow
    inside = (position[:, :1].abs() < WIDTH / 2 - 1) & (position[:, 1:].abs() < HEIGHT / 2 - 1)
    same_layer = (optical_flow.warp(before.mask, flow) - view.mask).abs() < 1e-3
    return flow, (inside & same_layer).float()


def add_grain(L: Tensor, seed: int) -> Tensor:
    """Add grain and flickering light to lightness (T, 1, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    light = 1 + FLICKER * torch.randn(len(L), 1, 1, 1, generator=generator)
    return (L * light + GRAIN * torch.randn(L.shape, generator=generator)).clamp(0, 100)


# --- The command -------------------------------------------------------------------------------


def measure_command(photo: Path, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """Return peak memory and speed of `colorist colorize --stabilize` by number of frames."""
    results = {}
    bench.print_table(["frames", "peak MiB", "frames per second"])
    with tempfile.TemporaryDirectory() as folder:
        for count in options.lengths:
            source = Path(folder, f"{count}.mkv")
            write_video(source, read_photo(photo), count)
            standalone = str(bench.ROOT / "trainers" / "_standalone.py")
            code = (
                "import resource, runpy, sys; "
                f"runpy.run_path({standalone!r})['package'](); "
                "from comfyui_colorist.cli import main; code = main(sys.argv[1:]); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024); sys.exit(code)"
            )
            out = Path(folder, f"{count}-colorized.mkv")
            command = [sys.executable, "-c", code, "colorize", str(source), "-o", str(out)]
            command += ["--model", options.model, "--device", options.device, "--stabilize"]
            start = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            peak = float(done.stdout.split()[-1])
            results[count] = {"peak_mib": peak, "frames_per_second": count / seconds}
            bench.print_row([count, f"{peak:.0f}", f"{count / seconds:.1f}"])
    return results


def write_video(path: Path, scene: Tensor, count: int) -> None:
    """Write a gray video of a camera circling over a photo."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(count):
            center = direction(t / 240) * 0.1 * min(scene.shape[2:])
            rgb = sample(scene, camera_matrix(scene, center, VIEW_SCALE, 0.0))
            gray = color.gray_rgb(color.lightness(rgb))[0].movedim(0, -1)
            levels = (255 * gray).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, "rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
