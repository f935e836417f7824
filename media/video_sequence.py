"""Image sequences: the frames of a video as files, in a folder or named by a pattern."""

import logging
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from .errors import VideoError, video_errors
from .formats import FRAME_SUFFIXES
from .image_data import DecodedImage, ImageMetadata
from .image_io import read_image
from .video_container import open_input
from .video_info import VideoInfo, frame_size_error, usual_color_tags
from .yuv import frame_bit_depth, frame_to_rgb

log = logging.getLogger(__name__)

NUMBER = re.compile(r"%(?:0(\d+))?d")
"""Place of the frame number in a pattern, as in FFmpeg: %d, %05d."""
DPX_TRANSFER = 801  # position of the byte in a DPX file (SMPTE 268M)
DPX_TRANSFERS = {1: "logarithmic (printing density)", 2: "linear", 3: "logarithmic"}
"""Transfer characteristics of DPX that are not those of video."""


def is_pattern(path: Path) -> bool:
    """Return True for a name such as frame-%05d.png, if no file is called that."""
    return len(NUMBER.findall(path.name)) == 1 and not os.path.exists(path)


def is_sequence(path: Path) -> bool:
    """Return True for a folder of frames, and for a pattern."""
    return os.path.isdir(path) or is_pattern(path)


def list_frames(source: Path) -> list[Path]:
    """Return the files of a sequence in the order of their numbers: frame2 before frame10.

    Raises:
        VideoError: there are none.
    """
    if not os.path.isdir(source):
        return _list_pattern(source)

    def natural_order(path: Path) -> tuple[list[tuple[str, int]], str]:
        parts = re.findall(r"(\D*)(\d*)", path.name)
        return [(text, int(digits or 0)) for text, digits in parts], path.name

    images = [
        path
        for path in source.iterdir()
        if path.suffix.lower() in FRAME_SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise VideoError(f"{source}: no images in this folder ({', '.join(FRAME_SUFFIXES)}).")
    return sorted(images, key=natural_order)


def probe_sequence(source: Path, frame_rate: Fraction) -> VideoInfo:
    """Return the properties of a sequence. See `video_reader.probe`."""
    if frame_rate <= 0:
        raise VideoError(f"{source.name}: {frame_rate} frames per second; expected more than 0.")
    images = list_frames(source)
    if not os.path.isdir(source):
        _check_complete(source, images)
    _check_transfer(source, images[0])
    first = read_frame(images[0])
    height, width, channels = first.pixels.shape
    return VideoInfo(
        width=width,
        height=height,
        frame_rate=frame_rate,
        time_base=1 / frame_rate,
        bit_depth=min(first.metadata.bit_depth, 10),
        frame_count=len(images),
        duration=float(len(images) / frame_rate),
        color_tags=usual_color_tags(width, height),
        full_range=False,
        pixel_aspect=Fraction(1),
        chroma="420" if channels == 1 else "444",
        has_alpha=channels == 4,
    )


def read_sequence(source: Path, start: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield pixels (H, W, 3 or 4) and numbers of the frames from `start` on."""
    images = list_frames(source)
    shape = read_frame(images[0]).pixels.shape
    size = shape[1], shape[0]
    channels = 4 if shape[2] == 4 else 3
    for number, path in enumerate(images[start:], start):
        pixels = read_frame(path).pixels
        height, width = pixels.shape[:2]
        if (width, height) != size:
            raise frame_size_error(f"{source.name}/{path.name}", number, (width, height), size)
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        if pixels.shape[2] < channels:
            pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        yield pixels[..., :channels], number


def read_frame(path: Path) -> DecodedImage:
    """Read one file of a sequence.

    Raises:
        ImageError, VideoError: it cannot be read.
    """
    from av.video.reformatter import VideoReformatter

    if path.suffix.lower() != ".dpx":
        return read_image(path)
    with video_errors(path.name), open_input(path) as container:
        frame = next(container.decode(video=0))
        matrix = usual_color_tags(frame.width, frame.height)[0]
        return DecodedImage(
            frame_to_rgb(frame, matrix, VideoReformatter()),
            ImageMetadata(bit_depth=16 if frame_bit_depth(frame) > 8 else 8),
        )


def _list_pattern(pattern: Path) -> list[Path]:
    match = NUMBER.search(pattern.name)
    if not match:
        raise VideoError(f"{pattern.name}: no such file; expected a video or a folder of images.")
    before, after = pattern.name[: match.start()], pattern.name[match.end() :]
    digits = rf"\d{{{int(match[1] or 1)},}}"
    name = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    numbered = {}
    if os.path.isdir(pattern.parent):
        for path in pattern.parent.iterdir():
            if number := name.fullmatch(path.name):
                numbered[int(number[1])] = path
    if not numbered:
        raise VideoError(f"{pattern}: no file has a name of this form.")
    if pattern.suffix.lower() not in FRAME_SUFFIXES:
        known = ", ".join(FRAME_SUFFIXES)
        raise VideoError(f"{pattern.name}: expected the pattern of images ({known}).")
    return [numbered[number] for number in sorted(numbered)]


def _check_complete(pattern: Path, images: list[Path]) -> None:
    """Warn if a number is missing."""
    match = NUMBER.search(pattern.name)
    assert match  # a pattern
    end = match.end() - len(pattern.name)
    numbers = [int(path.name[match.start() : end or None]) for path in images]
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing:
        first = next(a + 1 for a, b in zip(numbers, numbers[1:], strict=False) if b > a + 1)
        log.warning(
            "%s: frames are missing (%d, the first is number %d); the others follow each other.",
            *(pattern.name, missing, first),
        )


def _check_transfer(source: Path, image: Path) -> None:
    """Warn about DPX with values that are not those of video."""
    if image.suffix.lower() != ".dpx":
        return
    with image.open("rb") as file:
        header = file.read(DPX_TRANSFER + 1)
    kind = DPX_TRANSFERS.get(header[-1]) if len(header) > DPX_TRANSFER else None
    if kind:
        log.warning(
            "%s: %s by its header, but read as video; if it looks too flat or too dark, convert "
            "it to sRGB first.",
            *(source.name, kind),
        )
