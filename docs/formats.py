"""Write the table of image formats into docs/command-line.md.

    python docs/formats.py

Every format that is written is tried: an image with all kinds of metadata is written and read
again. `tests/test_docs.py` compares the page with a new table.
"""

import runpy
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
runpy.run_path(str(ROOT / "trainers" / "_standalone.py"))["package"]()

from comfyui_colorist.media import formats
from comfyui_colorist.media.icc import srgb_profile
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import read_image, write_image

PAGE = ROOT / "docs" / "command-line.md"
BEGIN, END = "<!-- docs/formats.py: begin -->\n", "<!-- docs/formats.py: end -->\n"
NAMES = {
    **{"WEBP": "WebP", "PPM": "PBM, PGM, PPM", "JPEG2000": "JPEG 2000", "HEIF": "HEIC"},
    **{"MPO": "MPO (several JPEGs)"},
}
READ_BITS = {
    **{"JPEG": "8", "PNG": "1 to 16", "TIFF": "1 to 64", "WEBP": "8", "BMP": "8", "GIF": "8"},
    **{"PPM": "1 to 16", "MPO": "8", "JPEG2000": "8, gray 16", "TGA": "8", "QOI": "8"},
    **{"AVIF": "8", "HEIF": "8"},
}
NEEDS = {"AVIF": "Pillow 11.3", "HEIF": "the extra `heif`"}
COLUMNS = (
    *("format", "suffixes", "bits read", "written as", "bits written", "transparency"),
    *("EXIF", "XMP", "IPTC", "profile", "dpi", "text"),
)


def table() -> str:
    """Return the table in Markdown."""
    rows: list[list[str]] = [list(COLUMNS), ["---"] * len(COLUMNS)]
    for name in dict.fromkeys(formats.IMAGE_FORMATS.values()):
        suffixes = [s for s, kind in formats.IMAGE_FORMATS.items() if kind == name]
        rows.append([*_reading(name, suffixes), _title(name), *_measured(suffixes[0])])
    for name in dict.fromkeys(formats.READ_ONLY_FORMATS.values()):
        suffixes = [s for s, kind in formats.READ_ONLY_FORMATS.items() if kind == name]
        output = Path(formats.output_name(Path(f"x{suffixes[0]}"))).suffix
        target = formats.IMAGE_FORMATS[output]
        rows.append([*_reading(name, suffixes), target, *[""] * (len(COLUMNS) - 4)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _title(name: str) -> str:
    return NAMES.get(name, name)


def _reading(name: str, suffixes: list[str]) -> list[str]:
    title = _title(name) + (f", needs {NEEDS[name]}" if name in NEEDS else "")
    return [title, " ".join(f"`{suffix}`" for suffix in suffixes), READ_BITS[name]]


def _measured(suffix: str) -> list[str]:
    """Write and read an image with metadata; return the last columns of the table."""
    exif = Image.Exif()
    exif[0x010F] = "Kodak"
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
    )
    metadata = ImageMetadata(
        bit_depth=16,
        exif=exif.tobytes(),
        icc=srgb_profile(),
        xmp=xmp,
        iptc=b"\x1c\x02\x05\0\x06Harbor",
        dpi=(300.0, 300.0),
        comment=b"harbor",
        png_text=((b"tEXt", b"Title\0Harbor"),),
    )
    pixels = np.full((8, 8, 4), 0.5, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_image(path, pixels, metadata)
        result = read_image(path)
    kept = result.metadata
    text = "comment" if kept.comment else "yes" if kept.png_text else ""
    blocks = (kept.exif, kept.xmp, kept.iptc, kept.icc, kept.dpi)
    bits = "8, 16" if kept.bit_depth == 16 else "8"
    has_alpha = result.pixels.shape[2] == 4
    return [bits, _yes(has_alpha), *(_yes(bool(block)) for block in blocks), text]


def _yes(value: bool) -> str:
    return "yes" if value else ""


def main() -> None:
    """Replace the table in the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
