"""Contact sheets: pictures in rows and columns with names, for a person to look at."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...media.atomic import write_whole

CELL, GAP, LETTER = 176, 6, 13  # pixels: longer side of a cell, between two, height of letters
LINE = LETTER + 4


def contact_sheet(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    headings: Mapping[int, str] | None = None,
    cell: int = CELL,
) -> Image.Image:
    """Pictures (1, 3, H, W) in rows, each fitted into a cell of one size.

    Args:
        names: of the columns, above the first row.
        captions: a line of text under each picture.
        headings: number of a row -> a line above it.
        cell: longer side of a picture in pixels.
    """
    shapes = [picture.shape[2:] for row in rows for picture in row]
    wide = float(np.median([width / height for height, width in shapes]))
    width, height = (cell, round(cell / wide)) if wide > 1 else (round(cell * wide), cell)
    font = ImageFont.load_default(LETTER)
    titles = [_lines(name, width, font) for name in names]
    y = GAP + max(map(len, titles), default=0) * LINE
    below, headings = LINE + GAP if captions else GAP, headings or {}
    columns = max(map(len, rows))
    size = (
        GAP + columns * (width + GAP),
        y + len(rows) * (height + below) + len(headings) * (LINE + GAP),
    )
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    for column, lines in enumerate(titles):
        place = GAP + column * (width + GAP), GAP // 2
        draw.multiline_text(place, "\n".join(lines), "black", font, spacing=LINE - LETTER)
    for number, row in enumerate(rows):
        if number in headings:
            draw.rectangle((0, y, size[0], y + LINE), "gainsboro")
            draw.text((GAP, y), headings[number], "black", font)
            y += LINE + GAP
        for column, picture in enumerate(row):
            x = GAP + column * (width + GAP)
            small = _thumbnail(picture, width, height)
            whole.paste(small, (x + (width - small.width) // 2, y + (height - small.height) // 2))
            if captions:
                text = _lines(captions[number][column], width, font)[0]
                draw.text((x, y + height + 1), text, "dimgrey", font)
        y += height + below
    return whole


def _thumbnail(picture: Tensor, width: int, height: int) -> Image.Image:
    """(1, 3, H, W) in 0..1, fitted into width x height."""
    levels = (picture[0].movedim(0, -1).cpu() * 255).round().byte().numpy()
    scale = min(width / levels.shape[1], height / levels.shape[0])
    size = tuple(max(1, round(scale * length)) for length in levels.shape[1::-1])
    return Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS)


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Text broken at its spaces; of a word that is too long, such as a path, the end."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            word = "\u2026" + word.lstrip("\u2026")[1:]
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture whole; its format is that of the suffix, see `kind_of`."""
    data = io.BytesIO()
    picture.save(data, kind_of(path), quality=90)
    write_whole(path, data.getvalue())


def kind_of(path: Path) -> str:
    """Pillow's name of the format; ValueError where it is none that a sheet is written in."""
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: the name must end in {', '.join(kinds)}.")
    return kinds[path.suffix.lower()]
