"""Samples of a TIFF page at their full depth: strips, tiles, planes, and any bits per sample.

Pillow has no mode for 16-bit color and reads other depths and layouts wrongly or not at all. Only
decompression is left to it here.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from .tiff_directory import ByteOrder, Page, Tag

NONE, DEFLATE, OLD_DEFLATE = 1, 8, 32946
LIBTIFF = (5, 32773, 34925, 50000)  # LZW, PackBits, LZMA, Zstandard
LOSSLESS = (NONE, DEFLATE, OLD_DEFLATE, *LIBTIFF)
NO_PREDICTOR, HORIZONTAL, FLOATING_POINT = 1, 2, 3
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # SampleFormat
YCBCR = 6  # PhotometricInterpretation
PACKED_BITS = range(1, 32)  # depths that are unpacked bit by bit
CHUNK_SAMPLES = 2**20  # unpacked in one go; bounds memory
BATCH_BYTES = 2**24  # decompressed in one go
MAX_SAMPLES_PER_PIXEL = 16
LARGEST_TILE = 2**24  # pixels of a tile that is larger than the image


@dataclass(frozen=True)
class SampleLayout:
    """Arrangement of the samples of a page."""

    width: int
    height: int
    samples: int
    """Samples per pixel, extra samples included."""
    bits: int
    sample_format: int
    planar: bool
    """Each sample of a pixel is stored in its own plane."""
    compression: int
    predictor: int
    reversed_bits: bool
    tiled: bool
    segment_width: int
    segment_height: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    byte_order: ByteOrder
    subsampling: tuple[int, int]
    """Columns and rows that share one chroma sample; (1, 1) except in YCbCr."""

    @classmethod
    def of(cls, page: Page) -> "SampleLayout | None":
        """Return the layout of a page; None if `read_samples` cannot read it."""
        samples = page.number(Tag.SAMPLES_PER_PIXEL, 1)
        bits = page.numbers(Tag.BITS_PER_SAMPLE, (1,))
        formats = page.numbers(Tag.SAMPLE_FORMAT, (UNSIGNED,))
        if bits[0] == 8 or formats[0] == UNDEFINED:
            formats = (UNSIGNED,)  # bytes: the reader decides, as many files are marked wrongly
        # Tiles may have the offsets of strips (Silicon Graphics).
        tiled = Tag.TILE_OFFSETS in page.tags or {Tag.TILE_WIDTH, Tag.TILE_LENGTH} <= set(page.tags)
        offsets = page.numbers(Tag.STRIP_OFFSETS, ())
        byte_counts = page.numbers(Tag.STRIP_BYTE_COUNTS, ())
        if tiled:
            offsets = page.numbers(Tag.TILE_OFFSETS, offsets)
            byte_counts = page.numbers(Tag.TILE_BYTE_COUNTS, byte_counts)
        subsampling = (1, 1)
        if page.number(Tag.PHOTOMETRIC, -1) == YCBCR:
            across, down = (page.numbers(Tag.YCBCR_SUBSAMPLING, ()) + (2, 2))[:2]
            subsampling = (across, down)
        layout = cls(
            width=page.width,
            height=page.height,
            samples=samples,
            bits=bits[0],
            sample_format=formats[0],
            planar=page.number(Tag.PLANAR_CONFIGURATION, 1) == 2 and samples > 1,
            compression=page.number(Tag.COMPRESSION, NONE),
            predictor=page.number(Tag.PREDICTOR, NO_PREDICTOR),
            reversed_bits=page.number(Tag.FILL_ORDER, 1) == 2,
            tiled=tiled,
            segment_width=page.number(Tag.TILE_WIDTH, 0) if tiled else page.width,
            segment_height=(
                page.number(Tag.TILE_LENGTH, 0)
                if tiled
                else min(page.number(Tag.ROWS_PER_STRIP, page.height), page.height)
            ),
            offsets=offsets,
            byte_counts=byte_counts,
            byte_order=page.byte_order,
            subsampling=subsampling,
        )
        whole_bytes = layout.bits in (8, 16, 32, 64)
        is_unsigned = layout.sample_format == UNSIGNED
        is_packed = is_unsigned and layout.bits in PACKED_BITS
        readable = (
            len(set(bits)) == len(set(formats)) == 1
            and 0 < samples <= MAX_SAMPLES_PER_PIXEL
            and layout.compression in LOSSLESS
            and (
                (is_unsigned and (is_packed or whole_bytes))
                or (layout.sample_format == SIGNED and whole_bytes)
                or (layout.sample_format == FLOAT and layout.bits in (16, 32, 64))
            )
            and (
                layout.predictor == NO_PREDICTOR
                or (layout.predictor == HORIZONTAL and (is_packed or whole_bytes))
                or (layout.predictor == FLOATING_POINT and layout.sample_format == FLOAT)
            )
            and (
                subsampling == (1, 1)
                or (
                    set(subsampling) <= {1, 2, 4}
                    and (samples, layout.bits, layout.planar) == (3, 8, False)
                    and layout.predictor == NO_PREDICTOR
                )
            )
        )
        return layout if readable else None

    @property
    def segment_samples(self) -> int:
        """Samples per pixel within a segment."""
        return 1 if self.planar else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row of a segment, once decompressed."""
        across, down = self.subsampling
        if self.subsampling != (1, 1):  # units of the luma of a block and its Cb and Cr
            return -(-self.segment_width // across) * (across * down + 2)
        return -(-self.segment_width * self.segment_samples * self.bits // 8)

    def stored_rows(self, rows: int) -> int:
        """Return how many stored rows hold `rows` rows of pixels."""
        return -(-rows // self.subsampling[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the samples in memory."""
        if self.sample_format == FLOAT:
            return np.dtype(f"f{self.bits // 8}")
        size = next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)
        return np.dtype(f"{'i' if self.sample_format == SIGNED else 'u'}{size}")


def read_samples(file: BinaryIO, layout: SampleLayout, channels: list[int]) -> np.ndarray:
    """Read the samples `channels` of each pixel: (H, W, len(channels)) of `layout.dtype`.

    Raises:
        ValueError: the file ends early, or a segment holds too little.
    """
    segment_pixels = layout.segment_width * layout.segment_height
    if not 0 < segment_pixels <= max(layout.width * layout.height, LARGEST_TILE):
        raise ValueError(f"strips or tiles of {segment_pixels} pixels")
    pixels = np.zeros((layout.height, layout.width, len(channels)), layout.dtype)
    for batch in _batches(layout, channels):
        stored = [_read_segment(file, layout, segment) for segment in batch]
        for segment, data in zip(batch, _decompress(stored, layout, batch[0].rows), strict=True):
            if len(data) < layout.stored_rows(segment.rows) * layout.row_bytes:
                raise ValueError(f"strip or tile {segment.index} ends early")
            samples = _unpack(data, layout, segment.rows)
            rows = slice(segment.top, segment.top + segment.rows)
            target = pixels[rows, segment.left : segment.left + layout.segment_width]
            samples = samples[: target.shape[0], : target.shape[1]]
            if layout.planar:
                target[..., channels.index(segment.plane)] = samples[..., 0]
            else:
                target[:] = samples[..., channels]
    return pixels


class Segment(NamedTuple):
    """A strip or tile: its number in the file, and its place in the image."""

    index: int
    plane: int
    top: int
    left: int
    rows: int


def _segments(layout: SampleLayout) -> Iterator[Segment]:
    """Yield the strips or tiles in file order."""
    index = 0
    for plane in range(layout.samples if layout.planar else 1):
        for top in range(0, layout.height, layout.segment_height):
            # The last strip may be short
            rows = layout.segment_height if layout.tiled else layout.height - top
            for left in range(0, layout.width, layout.segment_width):
                yield Segment(index, plane, top, left, min(rows, layout.segment_height))
                index += 1


def _batches(layout: SampleLayout, channels: list[int]) -> Iterator[list[Segment]]:
    """Group the segments of some channels, of equal size, for one call of the decompressor.

    A call of libtiff through Pillow costs more than it takes to decompress a small strip.
    """
    batch: list[Segment] = []
    most = 1
    if layout.compression in LIBTIFF:
        most = max(1, BATCH_BYTES // (layout.segment_height * layout.row_bytes))
    for segment in _segments(layout):
        if layout.planar and segment.plane not in channels:
            continue
        if batch and (len(batch) == most or segment.rows != batch[0].rows):
            yield batch
            batch = []
        batch.append(segment)
    yield batch


def _read_segment(file: BinaryIO, layout: SampleLayout, segment: Segment) -> bytes:
    """Read a strip or tile as stored; uncompressed ones need no byte count."""
    index = segment.index
    size = layout.byte_counts[index] if index < len(layout.byte_counts) else 0
    if not size and layout.compression == NONE:
        size = layout.stored_rows(segment.rows) * layout.row_bytes
    if index >= len(layout.offsets) or not size:
        raise ValueError(f"strip or tile {index} is missing")
    file.seek(layout.offsets[index])
    return file.read(size)


def _decompress(stored: list[bytes], layout: SampleLayout, rows: int) -> list[bytes]:
    """Decompress segments of `rows` rows each."""
    rows = layout.stored_rows(rows)
    size = rows * layout.row_bytes
    if layout.compression in LIBTIFF:
        data = _decompress_with_libtiff(stored, layout, rows)
        return [data[start : start + size] for start in range(0, len(stored) * size, size)]
    if layout.reversed_bits:
        stored = [
            np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
            for data in stored
        ]
    if layout.compression == NONE:
        return stored
    return [zlib.decompressobj().decompress(data, size) for data in stored]  # not more than size


def _decompress_with_libtiff(stored: list[bytes], layout: SampleLayout, rows: int) -> bytes:
    """Decompress segments of `rows` stored rows, presented to libtiff as strips of gray bytes."""
    lengths = [len(data) for data in stored]
    fields = {
        256: [layout.row_bytes],
        257: [rows * len(stored)],
        258: [8],
        259: [layout.compression],
        262: [1],
        266: [2 if layout.reversed_bits else 1],
        273: [0, *accumulate(lengths[:-1])],
        277: [1],
        278: [rows],
        279: lengths,
    }
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in fields.items():
        tags[tag], tags.tagtype[tag] = values, TiffTags.LONG
    # Pillow adds the end of the directory to these offsets: the strips begin there.
    header = b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8)
    with TiffImagePlugin.TiffImageFile(io.BytesIO(b"".join([header, *stored]))) as image:
        return image.tobytes()


def _unpack(data: bytes, layout: SampleLayout, rows: int) -> np.ndarray:
    """Decode decompressed bytes into samples (rows, segment width, segment samples)."""
    stored_rows, row_bytes = layout.stored_rows(rows), layout.row_bytes
    raw = np.frombuffer(data, np.uint8)[: stored_rows * row_bytes].reshape(stored_rows, row_bytes)
    if layout.subsampling != (1, 1):
        return _unpack_subsampled(raw, layout)
    shape = rows, layout.segment_width, layout.segment_samples
    if layout.predictor == FLOATING_POINT:
        return _undo_float_predictor(raw, layout).reshape(shape)
    if layout.bits not in (8, 16, 32, 64):
        samples = _unpack_bits(raw, layout).reshape(shape)
        if layout.predictor == HORIZONTAL:
            samples = np.cumsum(samples, axis=1, dtype=layout.dtype)
            samples &= layout.dtype.type(2**layout.bits - 1)
        return samples
    samples = raw.reshape(-1).view(layout.dtype.newbyteorder(layout.byte_order)).reshape(shape)
    if layout.predictor == HORIZONTAL:
        unsigned = samples.view(samples.dtype.str.replace("i", "u").replace("f", "u"))
        total = np.cumsum(unsigned, axis=1, dtype=unsigned.dtype.newbyteorder("="))
        samples = total.view(layout.dtype)
    return samples


def _unpack_bits(raw: np.ndarray, layout: SampleLayout) -> np.ndarray:
    """Unpack samples of any depth, stored from the highest bit on (TIFF 6.0, BitsPerSample)."""
    count = layout.segment_width * layout.segment_samples
    if layout.bits == 24:  # the only depth of whole bytes here, in the byte order of the file
        parts = raw.reshape(len(raw), count, 3).astype(np.uint32)
        parts = parts if layout.byte_order == ">" else parts[..., ::-1]
        return parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
    samples = np.empty((len(raw), count), layout.dtype)
    step = max(1, CHUNK_SAMPLES // count)
    for top in range(0, len(raw), step):
        bits = np.unpackbits(raw[top : top + step], axis=1)[:, : count * layout.bits]
        bits = bits.reshape(len(bits), count, layout.bits)
        values = np.zeros(bits.shape[:2], layout.dtype)
        for place in range(layout.bits):
            values = values << 1 | bits[..., place]
        samples[top : top + step] = values
    return samples


def _unpack_subsampled(raw: np.ndarray, layout: SampleLayout) -> np.ndarray:
    """Unpack YCbCr blocks and repeat their chroma: at least (rows, segment width, 3)."""
    across, down = layout.subsampling
    blocks = raw.reshape(len(raw), -1, across * down + 2)
    luma = blocks[..., :-2].reshape(*blocks.shape[:2], down, across).swapaxes(1, 2)
    luma = luma.reshape(len(raw) * down, -1, 1)
    chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    return np.concatenate([luma, chroma], axis=2)


def _undo_float_predictor(raw: np.ndarray, layout: SampleLayout) -> np.ndarray:
    """Undo the floating-point predictor (TIFF Technical Note 3): bytes by significance, summed."""
    size = layout.bits // 8
    rows, stride = len(raw), layout.segment_samples
    summed = np.cumsum(raw.reshape(rows, -1, stride), axis=1, dtype=np.uint8)
    by_significance = summed.reshape(rows, size, -1)
    samples = np.ascontiguousarray(by_significance.swapaxes(1, 2)).view(f">f{size}")
    return samples.astype(layout.dtype)
