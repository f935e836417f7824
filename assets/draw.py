"""Draw icon, banner and the thumbnails of the example workflows, with the networks in the box.

    python benchmarks/public_photos.py photos/       # photos that anyone may show
    python assets/draw.py photos/ [NAME ...]

The networks see grey photos; true colours appear only as references, hints and the like, as the
workflow has them. The photos used here are in the public domain or CC0, see
benchmarks/public_photos.py.
"""

import runpy
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()

import comfyui_colorist as colorist  # noqa: E402
from comfyui_colorist.ops import color  # noqa: E402
from comfyui_colorist.pipeline import merge  # noqa: E402
from comfyui_colorist.pipeline.postprocess import Finish  # noqa: E402
from comfyui_colorist.pipeline.video import stabilizer  # noqa: E402

SIDE = 400  # of a thumbnail
WORKFLOWS = ROOT / "example_workflows"
INK = (38, 38, 42)
HUES = (
    (214, 64, 52),
    (238, 158, 44),
    (226, 208, 70),
    (76, 158, 84),
    (58, 122, 200),
    (120, 84, 176),
)


# --- Photos --------------------------------------------------------------------------------------


class Photos:
    """Squares of the photos, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def square(self, name: str, x: float = 0.5, y: float = 0.5, part: float = 1.0) -> Image.Image:
        """A part of the shorter side, around a place of the photo, SIDE x SIDE."""
        photo = Image.open(self.folder / f"{name}.jpg").convert("RGB")
        side = part * min(photo.size)
        left, top = x * (photo.width - side), y * (photo.height - side)
        box = (left, top, left + side, top + side)
        return photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)


def pixels(photo: Image.Image) -> Tensor:
    """(H, W, 3) in 0..1."""
    flat = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8)
    return flat.reshape(photo.height, photo.width, 3) / 255


def picture(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().numpy())


def gray(photo: Image.Image) -> Image.Image:
    return picture(color.gray_rgb(color.lightness(pixels(photo).movedim(-1, 0))).movedim(0, -1))


def colored(photo: Image.Image, name: str = "ddcolor-nano", **options: object) -> Image.Image:
    return picture(colorist.load(name, device="cpu").colorize(pixels(photo), **options))


# --- Layout --------------------------------------------------------------------------------------


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    out = left.copy()
    middle = out.width // 2
    out.paste(right.crop((middle, 0, *right.size)), (middle, 0))
    ImageDraw.Draw(out).line([(middle, 0), (middle, out.height)], fill="white", width=3)
    return out


def inset(out: Image.Image, photo: Image.Image, side: int = 124, x: int = 14, y: int = 0) -> None:
    """A small picture with a frame, lower left."""
    y = y or out.height - side - 14
    out.paste(photo.resize((side, side), Image.Resampling.LANCZOS), (x, y))
    edge = (x - 2, y - 2, x + side + 1, y + side + 1)
    ImageDraw.Draw(out).rectangle(edge, outline="white", width=2)


def four(photos: list[Image.Image]) -> Image.Image:
    side = SIDE // 2 - 1
    out = Image.new("RGB", (SIDE, SIDE), "white")
    for k, photo in enumerate(photos):
        small = photo.resize((side, side), Image.Resampling.LANCZOS)
        out.paste(small, (k % 2 * (side + 2), k // 2 * (side + 2)))
    return out


def disc(side: int) -> Image.Image:
    """Half grey steps, half hues: the sign of the pack, on nothing."""
    big = 4 * side
    out = Image.new("RGBA", (big, big))
    draw = ImageDraw.Draw(out)
    box = (0.06 * big, 0.06 * big, 0.94 * big, 0.94 * big)
    for k, hue in enumerate(HUES):
        tone = ImageOps.grayscale(Image.new("RGB", (1, 1), hue)).getpixel((0, 0))
        step = 180 / len(HUES)
        draw.pieslice(box, -90 + k * step, -90 + (k + 1) * step, fill=hue)
        draw.pieslice(box, 270 - (k + 1) * step, 270 - k * step, fill=(tone,) * 3)
    draw.line([(big / 2, 0.06 * big), (big / 2, 0.94 * big)], fill="white", width=big // 50)
    draw.ellipse(box, outline=INK, width=big // 50)
    return out.resize((side, side), Image.Resampling.LANCZOS)


# --- Thumbnails ----------------------------------------------------------------------------------


def first_photo(photos: Photos) -> Image.Image:
    photo = gray(photos.square("rocket", 0.52, 0.9, 0.9))
    return halves(photo, colored(photo))


def before_after(photos: Photos) -> Image.Image:
    photo = gray(photos.square("cat", 0.25, 0.7, 0.65))
    out = halves(photo, colored(photo))
    draw, middle = ImageDraw.Draw(out), SIDE // 2
    draw.ellipse((middle - 18, middle - 18, middle + 18, middle + 18), fill="white", outline=INK)
    for sign in (-1, 1):
        tip, foot = middle + 13 * sign, middle + 5 * sign
        draw.polygon([(tip, middle), (foot, middle - 8), (foot, middle + 8)], fill=INK)
    return out


def restore_then_colour(photos: Photos) -> Image.Image:
    """As the workflow does: open, close, blur, sharpen."""
    photo = gray(photos.square("cat", 0.55, 0.5))
    random = torch.Generator().manual_seed(4)
    damaged = photo.copy()
    draw = ImageDraw.Draw(damaged)
    for x, y, long in (torch.rand(90, 3, generator=random) * SIDE).tolist():
        tone = (225,) * 3 if y < 1.4 * x else (10,) * 3
        draw.line([(x, y), (x + long / 100, y + long / 60)], fill=tone, width=1)
    for x in (61, 143, 233, 330):
        draw.line([(x, 0), (x + 3, SIDE)], fill=(205,) * 3, width=2)
    damaged = picture(pixels(damaged) + torch.randn(SIDE, SIDE, 1, generator=random) * 0.012)
    lower, higher, mended = ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3), damaged
    for step in (lower, higher, higher, lower):
        mended = mended.filter(step)
    mended = mended.filter(ImageFilter.GaussianBlur(0.5)).filter(ImageFilter.UnsharpMask(1, 30, 0))
    return halves(damaged, colored(mended))


def by_reference(photos: Photos) -> Image.Image:
    reference = photos.square("coffee", 0.2, 0.2, 0.85).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    photo = gray(photos.square("coffee"))
    result = colored(photo, "exemplar-nano", reference=pixels(reference)[None])
    out = halves(photo, result)
    inset(out, reference)
    return out


def by_hints(photos: Photos) -> Image.Image:
    true = photos.square("coffee")
    places = [(0.12, 0.12), (0.9, 0.1), (0.2, 0.55), (0.5, 0.93), (0.9, 0.62), (0.5, 0.42)]
    places += [(0.43, 0.16), (0.06, 0.93), (0.94, 0.94), (0.62, 0.62)]
    soft = true.filter(ImageFilter.GaussianBlur(5))
    hints = [
        {
            "x": x,
            "y": y,
            "color": "#{:02x}{:02x}{:02x}".format(*soft.getpixel((x * SIDE, y * SIDE))),
        }
        for x, y in places
    ]
    photo = gray(true)
    base = colorist.load("ddcolor-nano", device="cpu")
    out = halves(photo, colored(photo, "pointhint-nano", hints=hints, base=base))
    draw = ImageDraw.Draw(out)
    for hint in hints:
        x, y = hint["x"] * SIDE, hint["y"] * SIDE
        for radius, fill in ((9, "black"), (8, "white"), (6, hint["color"])):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return out


def own_memory(photos: Photos) -> Image.Image:
    engine = colorist.load("colorformer-nano", device="cpu")
    own = [photos.square("coffee", x, y, 0.7) for x, y in ((0, 0), (1, 0), (0.5, 1))]
    memory = colorist.build_memory(engine, [pixels(photo) for photo in own])
    photo = gray(photos.square("coffee"))
    out = halves(
        picture(engine.colorize(pixels(photo))),
        picture(engine.with_memory(memory).colorize(pixels(photo))),
    )
    for k, one in enumerate(own):
        inset(out, one, side=76, x=140 + 86 * k)
    return out


def variations(photos: Photos) -> Image.Image:
    photo = gray(photos.square("astronaut", 0.35, 0.1, 0.8))
    results = colorist.load("colorformer-nano", device="cpu").vary(
        pixels(photo), count=4, seed=3, spread=0.6
    )
    out = four([picture(result) for result in results])
    inset(out, photo, side=110, x=145, y=145)
    return out


def merge_chroma(photos: Photos) -> Image.Image:
    """The photo at a twelfth of its size stands for the generator's picture."""
    true = photos.square("coffee", 0.5, 0.3, 0.9)
    small = true.resize((SIDE // 12, SIDE // 12), Image.Resampling.BOX)
    photo = gray(true)
    result = picture(merge.merge_chroma(pixels(photo)[None], pixels(small)[None])[0])
    out = halves(photo, result)
    inset(out, small.resize((124, 124), Image.Resampling.NEAREST))
    return out


def published_model(photos: Photos) -> Image.Image:
    """By the network in the box: the published one is not there when this is drawn."""
    photo = gray(photos.square("rocket", 0.68, 0.7, 0.8))
    out = halves(photo, colored(photo))
    draw, x, y = ImageDraw.Draw(out), 62, SIDE - 62
    draw.ellipse((x - 44, y - 44, x + 44, y + 44), fill="white", outline=INK, width=2)
    draw.rectangle((x - 7, y - 26, x + 7, y + 4), fill=INK)
    draw.polygon([(x - 20, y), (x + 20, y), (x, y + 20)], fill=INK)
    draw.rectangle((x - 22, y + 24, x + 22, y + 28), fill=INK)
    return out


def shot_from_one_frame(photos: Photos) -> Image.Image:
    frames = [photos.square("coffee", x, 0.5, 0.8) for x in (0.1, 0.35, 0.6, 0.85)]
    grays = torch.stack([pixels(gray(frame)) for frame in frames[1:]])
    engine = colorist.load("exemplar-nano", device="cpu")
    base = colorist.load("ddcolor-nano", device="cpu")
    results = engine.colorize(grays, reference=pixels(frames[0])[None], fallback=base)
    out = four([frames[0], *map(picture, results)])
    ImageDraw.Draw(out).rectangle((3, 3, 195, 195), outline="white", width=4)
    for k, one in enumerate(grays, start=1):
        inset(out, picture(one), side=58, x=k % 2 * 201 + 8, y=k // 2 * 201 + 132)
    return out


def film(photos: Photos) -> Image.Image:
    """Four frames of a pan, steadied."""
    frames = [photos.square("rocket", 0.3 + 0.03 * t, 0.8, 0.8) for t in range(16)]
    grays = torch.stack([pixels(gray(frame)) for frame in frames])
    steady = stabilizer.Stabilizer()
    parts = steady.push(colorist.load("ddcolor-nano", device="cpu").colorize(grays))
    results = torch.cat([parts, *steady.finish()])
    out = Image.new("RGB", (SIDE, SIDE), "black")
    draw = ImageDraw.Draw(out)
    for k in range(4):
        x, y = 6 + k % 2 * 198, 16 + k // 2 * 192
        out.paste(picture(results[5 * k]).resize((190, 168), box=(0, 23, SIDE, 377)), (x, y))
        inset(out, picture(grays[5 * k]), side=52, x=x + 8, y=y + 108)
    for y in (4, 188, 198, 386):
        for x in range(8, SIDE, 24):
            draw.rectangle((x, y, x + 12, y + 6), fill="white")
    return out


# --- Registry ------------------------------------------------------------------------------------


def icon() -> Image.Image:
    return disc(SIDE)


def banner(photos: Photos) -> Image.Image:
    """21:9: the rocket from grey to colour, and the sign."""
    photo = Image.open(photos.folder / "rocket.jpg").convert("RGB")
    high = round(photo.width * 9 / 21)
    top = (photo.height - high) // 2 + 20
    photo = gray(photo).resize(
        (1260, 540), Image.Resampling.LANCZOS, (0, top, photo.width, top + high)
    )
    result = colored(photo)
    fade = Image.linear_gradient("L").rotate(90).resize((500, 540))
    mask = Image.new("L", photo.size, 255)
    mask.paste(0, (0, 0, 380, 540))
    mask.paste(fade, (380, 0))
    out = Image.composite(result, photo, mask)
    sign = disc(200)
    out.paste(sign, (70, 170), sign)
    return out


def colorize_photo(photos: Photos) -> Image.Image:
    photo = gray(photos.square("temple", 0.5, 0.5, 0.9))
    looks = ("natural", "vivid", "hand-tinted", "autochrome")
    return four([halves(photo, colored(photo, finish=Finish(look=look))) for look in looks])


DRAWN = {
    "colorize-photo": colorize_photo,
    "first-photo": first_photo,
    "restore-then-colour": restore_then_colour,
    "before-after": before_after,
    "published-model": published_model,
    "by-reference": by_reference,
    "shot-from-one-frame": shot_from_one_frame,
    "by-hints": by_hints,
    "own-memory": own_memory,
    "variations": variations,
    "merge-chroma": merge_chroma,
    "film": film,
}


@torch.inference_mode()
def main(folder: Path, names: list[str]) -> None:
    """Draw those of these names; all where none is given."""
    photos = Photos(folder)
    for name in names or [*DRAWN, "icon", "banner"]:
        if name == "icon":
            icon().save(ROOT / "assets" / "icon.png", optimize=True)
        elif name == "banner":
            banner(photos).save(ROOT / "assets" / "banner.jpg", quality=88, optimize=True)
        else:
            DRAWN[name](photos).save(WORKFLOWS / f"{name}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
