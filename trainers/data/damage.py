"""Damage of old prints and scans, put on the gray input of a training photo.

The network sees the damaged picture and learns the colors of the undamaged one. ColorFormer names
bad scans as its limitation (section 5). Every function takes gray (H, W) float32 in 0..1 and the
random numbers of the photo, and returns the same shape and range.
"""

import io
import string

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

Gray = np.ndarray

# What each kind of damage is likely to be found on, given that a photo is damaged.
CHANCES = {
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
BORDER = 0.15


def damage(rgb: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put a neutral border around some photos, and damage their gray version.

    Args:
        rgb: (H, W, 3) uint8.
    Returns:
        the photo with its border, (H, W, 3) uint8; its damaged gray version, (H, W) uint8.
    """
    border = add_border(rgb, rng) if rng.random() < BORDER else None
    target = rgb if border is None else border
    chosen = {name for name, chance in CHANCES.items() if rng.random() < chance}
    channels = np.array([0.299, 0.587, 0.114], np.float32)
    if "film_response" in chosen:
        channels = film_response(rng)
    gray = target.astype(np.float32) @ (channels / 255)
    for name in CHANCES:
        if name in chosen and name != "film_response":
            gray = KINDS[name](gray, rng)
    return target, to_uint8(gray)


def to_uint8(gray: Gray) -> np.ndarray:
    """(H, W) in 0..1 -> uint8, rounded and clipped."""
    return (gray * 255 + 0.5).clip(0, 255).astype(np.uint8)


# --- What the film saw -------------------------------------------------------------------------


def film_response(rng: Generator) -> np.ndarray:
    """Weights of R, G, B: old emulsions are blind to red, and filters darken the sky."""
    orthochromatic = np.array([0.06, 0.5, 0.44])
    red_filter = np.array([0.6, 0.34, 0.06])
    luma = np.array([0.299, 0.587, 0.114])
    other = orthochromatic if rng.random() < 0.7 else red_filter
    share = rng.uniform(0, 1)
    return (share * other + (1 - share) * luma).astype(np.float32)


def tones(gray: Gray, rng: Generator) -> Gray:
    """Gamma, then faded to a narrow range or crushed beyond black and white."""
    gray = gray ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        low, high = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
        return (low + (high - low) * gray).astype(np.float32)
    middle, contrast = rng.uniform(0.35, 0.65), rng.uniform(1, 1.4)
    return (middle + contrast * (gray - middle)).clip(0, 1).astype(np.float32)


def vignette(gray: Gray, rng: Generator) -> Gray:
    """Corners, or one side, darker or faded."""
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


# --- What the lens, the paper and the scanner did ----------------------------------------------


def blur(gray: Gray, rng: Generator) -> Gray:
    """Out of focus, or a small original enlarged."""
    picture = Image.fromarray(to_uint8(gray))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    else:
        part = rng.uniform(0.35, 0.8)
        small = [max(8, round(length * part)) for length in picture.size]
        picture = picture.resize(small, Image.Resampling.BOX)
        picture = picture.resize(gray.shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def halftone(gray: Gray, rng: Generator) -> Gray:
    """Dots of a printing screen, as a scan at moderate resolution shows them."""
    height, width = gray.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi / 2), rng.uniform(2.5, 5)
    u = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)
    v = (np.cos(angle) * y - np.sin(angle) * x) * (2 * np.pi / period)
    screen = (np.cos(u) + np.cos(v)) / 4
    strength = rng.uniform(0.1, 0.6)
    return (gray + strength * screen * (1 - np.abs(2 * gray - 1))).clip(0, 1).astype(np.float32)


def grain(gray: Gray, rng: Generator) -> Gray:
    """Noise of film, coarser than a pixel at times, strongest in the middle tones."""
    height, width = gray.shape
    size = max(1, rng.uniform(0.8, 2.2))
    coarse = [round(length / size) for length in (height, width)]
    noise = Image.fromarray(rng.standard_normal(coarse, np.float32))
    noise = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    noise = noise * np.float32(rng.uniform(0.01, 0.06))
    return (gray + noise * (0.4 + 2.4 * gray * (1 - gray))).clip(0, 1).astype(np.float32)


def scratches(gray: Gray, rng: Generator) -> Gray:
    """Thin light or dark lines."""
    return _drawn(gray, rng, _draw_scratch, rng.integers(1, 6))


def spots(gray: Gray, rng: Generator) -> Gray:
    """Dust, mold and lost emulsion."""
    return _drawn(gray, rng, _draw_spot, rng.integers(2, 25))


def jpeg(gray: Gray, rng: Generator) -> Gray:
    """A scan saved small."""
    file = io.BytesIO()
    Image.fromarray(to_uint8(gray)).save(file, "JPEG", quality=int(rng.integers(15, 80)))
    return np.asarray(Image.open(file), np.float32) / 255


def _drawn(gray: Gray, rng: Generator, draw_one: object, count: int) -> Gray:
    """Blend marks of one tone over the picture, with soft edges."""
    mask = Image.new("L", gray.shape[::-1])
    draw = ImageDraw.Draw(mask)
    for _ in range(count):
        draw_one(draw, mask.size, rng)
    mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    share = np.asarray(mask, np.float32) / 255
    tone = np.float32(rng.choice([0.0, 0.1, 0.9, 1.0]))
    return gray + share * (tone - gray)


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


# --- Margins -----------------------------------------------------------------------------------


def add_border(rgb: np.ndarray, rng: Generator) -> np.ndarray:
    """Margins of paper or film, on any sides, neutral, at times with a caption."""
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


KINDS = {
    "tones": tones,
    "vignette": vignette,
    "blur": blur,
    "halftone": halftone,
    "grain": grain,
    "scratches": scratches,
    "spots": spots,
    "jpeg": jpeg,
}
