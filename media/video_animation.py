"""Animated images as videos: GIF, WebP and PNG, read with Pillow, which composes their frames."""

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .errors import VideoError, video_errors
from .formats import ANIMATED_SUFFIXES
from .video_info import VideoInfo, usual_color_tags

FORMATS = ("GIF", "WEBP", "PNG")
TIME_BASE = Fraction(1, 1000)  # durations are milliseconds
# Browsers show frames of up to 10 ms, which nobody means, for 100 ms.
SHORTEST, INSTEAD = 10, 100
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def is_animated(path: Path) -> bool:
    """Return True for a GIF, WebP or PNG with several frames.

    Of most images only the beginning is read, so that large folders of photos are listed quickly.
    """
    if path.suffix.lower() not in ANIMATED_SUFFIXES or not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(32)
            may_be_animated = head[:4] == b"GIF8"
            if head.startswith(PNG_SIGNATURE):
                file.seek(len(PNG_SIGNATURE))
                may_be_animated = _has_animation_chunk(file)
            elif head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
                may_be_animated = bool(head[20] & 2)
        if not may_be_animated:
            return False
        with Image.open(path, formats=FORMATS) as image:  # it may announce a single frame
            return bool(getattr(image, "is_animated", False))
    except Exception:  # damaged; whoever reads it says so
        return False


def probe_animation(path: Path) -> VideoInfo:
    """Return the properties of an animated image. See `video_reader.probe`."""
    with video_errors(path.name):
        durations, has_alpha, size = [], False, (0, 0)
        for frame, duration in _frames(path):
            durations.append(duration)
            has_alpha = has_alpha or frame.getchannel("A").getextrema()[0] != 255
            size = frame.size
    total = sum(durations)
    return VideoInfo(
        width=size[0],
        height=size[1],
        frame_rate=Fraction(1000 * len(durations), total),
        time_base=TIME_BASE,
        bit_depth=8,
        frame_count=len(durations),
        duration=total / 1000,
        color_tags=usual_color_tags(*size),
        full_range=False,
        pixel_aspect=Fraction(1),
        has_alpha=has_alpha,
        last_duration=durations[-1],
    )


def read_animation(path: Path, start: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield pixels (H, W, 4) and times of the frames from number `start` on."""
    time = 0
    with video_errors(path.name):
        for number, (frame, duration) in enumerate(_frames(path)):
            if number >= start:
                yield np.asarray(frame, np.float32) / np.float32(255), time
            time += duration


def _frames(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """Yield each frame, complete and as RGBA, and its duration in milliseconds."""
    with Image.open(path, formats=FORMATS) as image:
        if not getattr(image, "is_animated", False):
            raise VideoError(f"{path.name}: an image, not a video; colorize it as an image.")
        # The first image of an APNG may be meant for programs that cannot show animations.
        first = 1 if getattr(image, "default_image", False) else 0
        size = _final_size(path) if image.format == "GIF" else image.size
        for number in range(first, getattr(image, "n_frames", 1)):
            image.seek(number)
            frame = image.convert("RGBA")  # decodes it; the duration is known afterwards
            if frame.size != size:
                smaller, frame = frame, Image.new("RGBA", size)
                frame.paste(smaller)
            duration = round(image.info.get("duration") or 0)
            yield frame, duration if duration > SHORTEST else INSTEAD


def _final_size(path: Path) -> tuple[int, int]:
    """Return the size of the last frame of a GIF: frames beyond the edge enlarge later ones."""
    with Image.open(path, formats=FORMATS) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        return image.size


def _has_animation_chunk(file: BinaryIO) -> bool:
    """Return True if a PNG, read up to its signature, has `acTL` before its pixels."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
        file.seek(length + 4, os.SEEK_CUR)
    return False
