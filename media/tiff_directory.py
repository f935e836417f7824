"""TIFF directories: the pages of a file and their tags (TIFF 6.0, section 2; BigTIFF)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO, Literal

MAX_PAGES = 1000
FIELD_TYPES = {  # TIFF type -> struct codes of one value
    **{1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii"},
    **{11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"},
}
ASCII, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 2, 5, 7, 10

Value = int | float | bytes
ByteOrder = Literal["<", ">"]


class Tag(IntEnum):
    """Tags that say how the pixels are stored and displayed."""

    NEW_SUBFILE_TYPE = 254
    WIDTH = 256
    LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    MIN_SAMPLE_VALUE = 280
    MAX_SAMPLE_VALUE = 281
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR_CONFIGURATION = 284
    RESOLUTION_UNIT = 296
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    SMIN_SAMPLE_VALUE = 340
    SMAX_SAMPLE_VALUE = 341
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    XMP = 700
    IPTC = 33723
    PHOTOSHOP = 34377
    ICC_PROFILE = 34675


TAGS = frozenset(Tag)
BLOCKS = (Tag.XMP, Tag.IPTC, Tag.PHOTOSHOP, Tag.ICC_PROFILE)
"""Tags whose values are bytes, whatever type the file declares."""


@dataclass(frozen=True)
class Page:
    """One image of a TIFF file."""

    offset: int
    """Position of its directory in the file."""
    index: int
    """Index among the pages of the file, from 0; a page in a SubIFD has that of its parent."""
    in_sub_ifd: bool
    byte_order: ByteOrder
    """`<` or `>`."""
    big: bool
    """BigTIFF, with 64-bit offsets."""
    tags: Mapping[int, tuple[Value, ...]]

    def numbers(self, tag: Tag, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the integers of a tag."""
        values = tuple(value for value in self.tags.get(tag, ()) if isinstance(value, int))
        return values or default

    def number(self, tag: Tag, default: int) -> int:
        """Return the first integer of a tag."""
        return self.numbers(tag, (default,))[0]

    def data(self, tag: Tag) -> bytes:
        """Return the bytes of a tag; empty without it."""
        return b"".join(value for value in self.tags.get(tag, ()) if isinstance(value, bytes))

    def decimals(self, tag: Tag) -> tuple[float, ...]:
        """Return the numbers of a tag."""
        return tuple(
            float(value) for value in self.tags.get(tag, ()) if not isinstance(value, bytes)
        )

    @property
    def width(self) -> int:
        """Columns as stored, before rotation."""
        return self.number(Tag.WIDTH, 0)

    @property
    def height(self) -> int:
        """Rows as stored, before rotation."""
        return self.number(Tag.LENGTH, 0)

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8."""
        orientation = self.number(Tag.ORIENTATION, 1)
        return orientation if 1 <= orientation <= 8 else 1

    @property
    def is_secondary(self) -> bool:
        """Return True for a page that is marked as a reduced copy or as a transparency mask."""
        return bool(self.number(Tag.NEW_SUBFILE_TYPE, 0) & 5)


def read_pages(file: BinaryIO) -> list[Page]:
    """Read all pages of a TIFF file: the main chain, each followed by its SubIFDs.

    Raises:
        ValueError: the first directory is damaged. Later damage ends the list.
    """
    file.seek(0)
    head = file.read(16)
    byte_order: ByteOrder = "<" if head[:2] == b"II" else ">"
    big = 43 in head[2:4]
    layout = f"{byte_order}8xQ" if big else f"{byte_order}4xI"
    if len(head) < struct.calcsize(layout):
        raise ValueError("truncated header")
    (offset,) = struct.unpack_from(layout, head)
    pages: list[Page] = []
    seen: set[int] = set()
    index = 0
    while offset and offset not in seen and len(pages) < MAX_PAGES:
        seen.add(offset)
        try:
            tags, following = _read_directory(file, offset, byte_order, big)
        except ValueError:
            if pages:
                break
            raise
        pages.append(Page(offset, index, False, byte_order, big, tags))
        for child in pages[-1].numbers(Tag.SUB_IFDS, ())[: MAX_PAGES - len(pages)]:
            if child in seen:
                continue
            seen.add(child)
            try:
                child_tags, _ = _read_directory(file, child, byte_order, big)
            except ValueError:
                continue
            pages.append(Page(child, index, True, byte_order, big, child_tags))
        offset, index = following, index + 1
    if not pages:
        raise ValueError("no page")
    return pages


def _read_directory(
    file: BinaryIO, offset: int, byte_order: ByteOrder, big: bool
) -> tuple[dict[int, tuple[Value, ...]], int]:
    """Return the tags of `Tag` in one directory, and the offset of the next directory."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(min(offset, size))
    count_code, entry_code, offset_code = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count = _read_number(file, byte_order + count_code)
    entry_size = struct.calcsize(byte_order + entry_code)
    data = file.read(count * entry_size) if count * entry_size <= size else b""
    if not count or len(data) < count * entry_size:
        raise ValueError("truncated directory")
    try:
        following = _read_number(file, byte_order + offset_code)
    except ValueError:
        following = 0
    tags: dict[int, tuple[Value, ...]] = {}
    for tag, field_type, length, inline in struct.iter_unpack(byte_order + entry_code, data):
        if tag not in TAGS or field_type not in FIELD_TYPES or tag in tags:
            continue
        code = FIELD_TYPES[field_type]
        data_size = length * struct.calcsize("=" + code)
        if data_size > size:
            continue
        content = inline[:data_size]
        if data_size > len(inline):
            (place,) = struct.unpack(byte_order + offset_code, inline)
            file.seek(min(place, size))
            content = file.read(data_size)
        if len(content) == data_size:
            if tag in BLOCKS or field_type in (ASCII, UNDEFINED):
                tags[tag] = (content,)
            else:
                tags[tag] = _decode_values(content, field_type, length, byte_order)
    return tags, following


def _read_number(file: BinaryIO, code: str) -> int:
    data = file.read(struct.calcsize(code))
    if len(data) < struct.calcsize(code):
        raise ValueError("truncated directory")
    return int(struct.unpack(code, data)[0])


def _decode_values(
    data: bytes, field_type: int, count: int, byte_order: ByteOrder
) -> tuple[Value, ...]:
    code = FIELD_TYPES[field_type]
    values = struct.unpack(f"{byte_order}{count * len(code)}{code[0]}", data)
    if field_type in (RATIONAL, SIGNED_RATIONAL):
        pairs = zip(values[::2], values[1::2], strict=True)
        return tuple(above / below if below else float("nan") for above, below in pairs)
    return values
