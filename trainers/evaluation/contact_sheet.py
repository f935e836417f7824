"""Contact sheets: images in labeled rows and columns."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...media.atomic import write_atomic

CELL_SIDE, GAP, FONT_SIZE = 176, 6, 13  # pixels
LINE_HEIGHT = FONT_SIZE + 4
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}  # suffix -> Pillow's


def contact_sheet(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    headings: Mapping[int, str] | None = None,
    cell: int = CELL_SIDE,
) -> Image.Image:
    """Arrange images (1, 3, H, W) in rows, each fitted into a cell of the same size.

    Args:
        rows: the images.
        names: column names above the first row.
        captions: a line of text below each image.
        headings: row number -> heading above that row.
        cell: longer side of a cell in pixels.
    """
    shapes = [image.shape[2:] for row in rows for image in row]
    aspect = float(np.median([width / height for height, width in shapes]))
    width, height = (cell, round(cell / aspect)) if aspect > 1 else (round(cell * aspect), cell)
    font = ImageFont.load_default(FONT_SIZE)
    titles = [_wrap(name, width, font) for name in names]
    y = GAP + max(map(len, titles), default=0) * LINE_HEIGHT
    spacing, headings = LINE_HEIGHT + GAP if captions else GAP, headings or {}
    columns = max(map(len, rows))
    size = (
        GAP + columns * (width + GAP),
        y + len(rows) * (height + spacing) + len(headings) * (LINE_HEIGHT + GAP),
    )
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(titles):
        corner = GAP + column * (width + GAP), GAP // 2
        draw.multiline_text(
            corner, "\n".join(lines), "black", font, spacing=LINE_HEIGHT - FONT_SIZE
        )
    for number, row in enumerate(rows):
        if number in headings:
            draw.rectangle((0, y, size[0], y + LINE_HEIGHT), "gainsboro")
            draw.text((GAP, y), headings[number], "black", font)
            y += LINE_HEIGHT + GAP
        for column, image in enumerate(row):
            x = GAP + column * (width + GAP)
            thumbnail = _thumbnail(image, width, height)
            left, top = (width - thumbnail.width) // 2, (height - thumbnail.height) // 2
            sheet.paste(thumbnail, (x + left, y + top))
            if captions:
                text = _wrap(captions[number][column], width, font)[0]
                draw.text((x, y + height + 1), text, "dimgrey", font)
        y += height + spacing
    return sheet


def _thumbnail(image: Tensor, width: int, height: int) -> Image.Image:
    """Return an image (1, 3, H, W) in 0..1 fitted into width x height."""
    levels = (image[0].movedim(0, -1).cpu() * 255).round().byte().numpy()
    scale = min(width / levels.shape[1], height / levels.shape[0])
    size = max(1, round(scale * levels.shape[1])), max(1, round(scale * levels.shape[0]))
    return Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS)


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break text at its spaces. Words that are too long, such as paths, keep their end."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            word = "\u2026" + word.lstrip("\u2026")[1:]
        extended = f"{lines[-1]} {word}".strip()
        if font.getlength(extended) > width:
            lines.append(word)
        else:
            lines[-1] = extended
    return lines


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a contact sheet atomically, in the format of the suffix."""
    data = io.BytesIO()
    sheet.save(data, pillow_format(path), quality=90)
    write_atomic(path, data.getvalue())


def pillow_format(path: Path) -> str:
    """Return Pillow's name of the format.

    Raises:
        ValueError: sheets are not written in this format.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: the name must end in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]
