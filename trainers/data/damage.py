"""Simulated damage of old prints and scans for the gray input of a training photo.

The network sees the damaged image and learns the colors of the undamaged one. The ColorFormer paper
names bad scans as a limitation (section 5). Each damage function accepts gray (H, W) float32 in
0..1 and the random numbers of the photo, and returns the same shape and range.
"""

import io
import string
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

Gray = np.ndarray
Damage = Callable[[Gray, Generator], Gray]
DrawMark = Callable[[ImageDraw.ImageDraw, tuple[int, int], Generator], None]

PROBABILITIES = {
    "film_response": 0.4,
    "tones": 0.6,
    "vignette": 0.3,
    "blur": 0.3,
    "halftone": 0.06,
    "grain": 0.5,
    "scratches": 0.2,
    "spots": 0.25,
    "jpeg": 0.4,
}
BORDER_PROBABILITY = 0.15


def damage(rgb: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Damage the gray version of a photo, and give some photos a neutral border.

    Args:
        rgb: (H, W, 3) uint8.
        rng: random numbers of the photo.
    Returns:
        the photo, possibly with a border, (H, W, 3) uint8; its damaged gray version, (H, W) uint8.
    """
    border = add_border(rgb, rng) if rng.random() < BORDER_PROBABILITY else None
    target = rgb if border is None else border
    selected = {name for name, chance in PROBABILITIES.items() if rng.random() < chance}
    channels = np.array([0.299, 0.587, 0.114], np.float32)
    if "film_response" in selected:
        channels = film_response(rng)
    gray = target.astype(np.float32) @ (channels / 255)
    for name in PROBABILITIES:
        if name in selected and name != "film_response":
            gray = DAMAGES[name](gray, rng)
    return target, to_uint8(gray)


def to_uint8(gray: Gray) -> np.ndarray:
    """Convert (H, W) in 0..1 to uint8, rounded and clipped."""
    return (gray * 255 + 0.5).clip(0, 255).astype(np.uint8)


# --- Emulsion and print ------------------------------------------------------------------------


def film_response(rng: Generator) -> np.ndarray:
    """Return weights of R, G, B: old emulsions are blind to red, red filters darken skies."""
    orthochromatic = np.array([0.06, 0.5, 0.44])
    red_filter = np.array([0.6, 0.34, 0.06])
    luma = np.array([0.299, 0.587, 0.114])
    other = orthochromatic if rng.random() < 0.7 else red_filter
    weight = rng.uniform(0, 1)
    return (weight * other + (1 - weight) * luma).astype(np.float32)


def tones(gray: Gray, rng: Generator) -> Gray:
    """Apply a gamma, then fade tones to a narrow range or crush them beyond black and white."""
    gray = gray ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        return (low + (high - low) * gray).astype(np.float32)
    middle, contrast = rng.uniform(0.35, 0.65), rng.uniform(1, 1.4)
    return (middle + contrast * (gray - middle)).clip(0, 1).astype(np.float32)


def vignette(gray: Gray, rng: Generator) -> Gray:
    """Darken or fade the corners, or one side."""
    height, width = gray.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    if rng.random() < 0.6:
        shape = (x - rng.uniform(-0.3, 0.3)) ** 2 + (y - rng.uniform(-0.3, 0.3)) ** 2
        shape = (shape / 2) ** rng.uniform(0.7, 2)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        shape = (1 + np.cos(angle) * x + np.sin(angle) * y).clip(0) / 2.5
    strength = rng.uniform(0.1, 0.5)
    toward = 0.0 if rng.random() < 0.7 else 1.0
    return (gray + strength * shape * (toward - gray)).clip(0, 1).astype(np.float32)


# --- Lens, paper and scanner -------------------------------------------------------------------


def blur(gray: Gray, rng: Generator) -> Gray:
    """Blur as if out of focus, or as an enlarged small original."""
    image = Image.fromarray(to_uint8(gray))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    else:
        scale = rng.uniform(0.35, 0.8)
        width, height = (max(8, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
        image = image.resize((gray.shape[1], gray.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / 255


def halftone(gray: Gray, rng: Generator) -> Gray:
    """Add the dots of a halftone screen, as in a scan of moderate resolution."""
    height, width = gray.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi / 2), rng.uniform(2.5, 5)
    u = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)
    v = (np.cos(angle) * y - np.sin(angle) * x) * (2 * np.pi / period)
    screen = (np.cos(u) + np.cos(v)) / 4
    strength = rng.uniform(0.1, 0.6)
    return (gray + strength * screen * (1 - np.abs(2 * gray - 1))).clip(0, 1).astype(np.float32)


def grain(gray: Gray, rng: Generator) -> Gray:
    """Add film grain of 0.8 to 2.2 pixels, strongest in the midtones."""
    height, width = gray.shape
    size = max(1, rng.uniform(0.8, 2.2))
    coarse = [round(length / size) for length in (height, width)]
    noise = Image.fromarray(rng.standard_normal(coarse, np.float32))
    noise = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    noise = noise * np.float32(rng.uniform(0.01, 0.06))
    return (gray + noise * (0.4 + 2.4 * gray * (1 - gray))).clip(0, 1).astype(np.float32)


def scratches(gray: Gray, rng: Generator) -> Gray:
    """Draw thin light or dark lines."""
    return _blend_marks(gray, rng, _draw_scratch, int(rng.integers(1, 6)))


def spots(gray: Gray, rng: Generator) -> Gray:
    """Draw spots: dust, mold and lost emulsion."""
    return _blend_marks(gray, rng, _draw_spot, int(rng.integers(2, 25)))


def jpeg(gray: Gray, rng: Generator) -> Gray:
    """Compress as JPEG of quality 15 to 79."""
    file = io.BytesIO()
    Image.fromarray(to_uint8(gray)).save(file, "JPEG", quality=int(rng.integers(15, 80)))
    return np.asarray(Image.open(file), np.float32) / 255


def _blend_marks(gray: Gray, rng: Generator, draw_mark: DrawMark, count: int) -> Gray:
    """Blend marks of one tone over the image, with soft edges."""
    mask = Image.new("L", (gray.shape[1], gray.shape[0]))
    draw = ImageDraw.Draw(mask)
    for _ in range(count):
        draw_mark(draw, mask.size, rng)
    mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    opacity = np.asarray(mask, np.float32) / 255
    tone = np.float32(rng.choice([0.0, 0.1, 0.9, 1.0]))
    return gray + opacity * (tone - gray)


def _draw_scratch(draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: Generator) -> None:
    width, height = size
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    length = rng.uniform(0.1, 1.5) * max(size)
    angle = np.pi / 2 + rng.normal(0, 0.1) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    points, steps = [(x, y)], 6
    for _ in range(steps):
        angle += rng.normal(0, 0.06)
        x, y = x + np.cos(angle) * length / steps, y + np.sin(angle) * length / steps
        points.append((x, y))
    draw.line(points, fill=int(rng.integers(90, 256)), width=1)


def _draw_spot(draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: Generator) -> None:
    x, y = (rng.uniform(0, length) for length in size)
    radius = np.exp(rng.uniform(np.log(0.4), np.log(0.025 * max(size) + 1)))
    across, down = radius * rng.uniform(0.6, 1.4, 2)
    draw.ellipse((x - across, y - down, x + across, y + down), fill=int(rng.integers(90, 256)))


# --- Borders -----------------------------------------------------------------------------------


def add_border(rgb: np.ndarray, rng: Generator) -> np.ndarray:
    """Return (H, W, 3) uint8 with neutral margins on random sides, sometimes with a caption."""
    height, width = rgb.shape[:2]
    result = rgb.copy()
    tone = float(rng.choice([rng.uniform(0, 30), rng.uniform(170, 255)]))
    paper = np.full((height, width), tone, np.float32) + rng.normal(0, 2, (height, width))
    sides = rng.random(4) < (1.0 if rng.random() < 0.5 else 0.4)
    left, top, right, bottom = (
        int(length * rng.uniform(0.02, 0.12)) if on else 0
        for length, on in zip((width, height, width, height), sides, strict=True)
    )
    inside = np.zeros((height, width), bool)
    inside[top : height - bottom, left : width - right] = True
    paper = Image.fromarray(paper.clip(0, 255).astype(np.uint8))
    if max(top, bottom) > 8 and rng.random() < 0.5:
        text = "".join(rng.choice(list(string.ascii_letters + string.digits + "  .-"), 16))
        y = height - bottom + 1 if bottom > 8 else 0
        ink = 20 if tone > 128 else 230
        draw = ImageDraw.Draw(paper)
        draw.text((rng.uniform(0, width / 2), y), text, fill=ink)
    result[~inside] = np.asarray(paper)[~inside][:, None]
    return result


DAMAGES: dict[str, Damage] = {
    "tones": tones,
    "vignette": vignette,
    "blur": blur,
    "halftone": halftone,
    "grain": grain,
    "scratches": scratches,
    "spots": spots,
    "jpeg": jpeg,
}
