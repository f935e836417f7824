"""Destinations of colorized frames: a video file, or images in a folder."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from ...media import atomic, errors, formats, image_io, video_sequence
from ...media.segmented_writer import SegmentedVideoWriter
from ...media.video_info import VideoInfo

log = logging.getLogger(__name__)


class FrameSink(Protocol):
    """Destination of the frames of one video, written segment by segment."""

    @property
    def done(self) -> int:
        """Frames in finished segments: where to resume."""

    @property
    def state(self) -> bytes:
        """State that was saved with the last finished segment; empty if there is none."""

    @property
    def keeps_alpha(self) -> bool:
        """True if frames of a source with alpha are written with it."""

    @property
    def keeps_fields(self) -> bool:
        """True if interlaced frames are marked as such."""

    def __enter__(self) -> "FrameSink": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    def write(self, frames: Iterable[tuple[np.ndarray, int]], state: Callable[[], bytes]) -> int:
        """Write one segment and return its number of frames.

        Args:
            frames: pixels (H, W, 3 or 4), sRGB in 0..1 and alpha if it is kept, with their times.
            state: called after the last frame; returns what a resumed run needs to continue.
        """

    def join(self) -> None:
        """Finish the result."""


def open_sink(
    source: Path,
    target: Path,
    info: VideoInfo,
    *,
    settings: Mapping[str, object],
    codec: str | None,
    quality: int | None,
    overwrite: bool,
) -> FrameSink:
    """Return a sink for `target`: a video if its suffix is that of one, else a folder of images.

    Raises:
        VideoError: the video cannot be written like this, or the folder holds other images.
        OSError: a folder cannot be created.
    """
    if target.suffix.lower() in formats.VIDEO_FORMATS:
        return SegmentedVideoWriter(
            source, target, info, settings=settings, codec=codec, quality=quality
        )
    return FrameFolderSink(source, target, settings=settings, overwrite=overwrite)


class FrameFolderSink:
    """Frames of a video as images in a folder. See `FrameSink`.

    Frames of a folder keep their names and metadata, those of a video are named 000000.png, ...
    """

    def __init__(
        self, source: Path, folder: Path, *, settings: Mapping[str, object], overwrite: bool
    ) -> None:
        """Open the folder, to start or to resume.

        Args:
            source: video, or folder of frames.
            folder: for the images; created with the first one.
            settings: everything that changes the result, as values that JSON can hold.
            overwrite: replace the images of other and of finished runs.
        Raises:
            VideoError: the folder holds other images that may not be overwritten.
            OSError: the work folder in it is a link, or belongs to another user.
        """
        self.folder, self.work = folder, folder / ".colorist-film"
        self.keeps_alpha, self.keeps_fields = True, False
        atomic.check_work_folder(self.work)
        for parent in (folder, self.work):
            atomic.remove_abandoned_parts(parent)
        self.done, self.state = 0, b""
        self._frames = (
            video_sequence.list_frames(source) if video_sequence.is_sequence(source) else None
        )
        if self._frames:  # `folder` may be a subfolder, which changes the time of its parent
            size, modified = len(self._frames), 0
        else:
            status = os.stat(source)
            size, modified = status.st_size, status.st_mtime_ns
        made = [str(source.absolute()), size, modified, dict(settings)]
        self._made = json.loads(json.dumps(made))
        self._resume(overwrite)

    def __enter__(self) -> "FrameFolderSink":
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, frames: Iterable[tuple[np.ndarray, int]], state: Callable[[], bytes]) -> int:
        """Write one segment. See `FrameSink.write`."""
        count = 0
        for count, (pixels, _) in enumerate(frames, 1):
            number = self.done + count - 1
            if number == 0:
                self._save("")  # from now on, the images in this folder are ours
            name, metadata = f"{number:06}.png", None
            if self._frames:
                original = self._frames[number]
                metadata = video_sequence.read_frame(original).metadata
                writable = original.suffix.lower() in formats.IMAGE_FORMATS
                name = original.name if writable else f"{original.stem}.png"
            image_io.write_image(self.folder / name, pixels, metadata)
        if count:
            previous, self.done = self.done, self.done + count
            atomic.write_atomic(self.work / f"{self.done}.state", state())
            self._save(f"{self.done}.state")
            (self.work / f"{previous}.state").unlink(missing_ok=True)
        return count

    def join(self) -> None:
        """Record that all frames are written; a later run then has nothing to do."""
        self._save(None)
        (self.work / f"{self.done}.state").unlink(missing_ok=True)

    def _resume(self, overwrite: bool) -> None:
        """Read where an earlier run with the same settings stopped."""
        try:
            saved = json.loads((self.work / "made.json").read_bytes())
            if saved["made"] != self._made:
                log.warning(
                    "%s: starting over, because the video or a setting changed.", self.folder
                )
            elif saved["state"] is not None or not overwrite:  # None: finished
                if saved["state"]:
                    self.state = (self.work / saved["state"]).read_bytes()
                self.done = saved["done"]
        except (OSError, ValueError, KeyError):
            self._check_empty(overwrite)

    def _check_empty(self, overwrite: bool) -> None:
        """Raise VideoError if the folder holds images of another origin."""
        if overwrite or not self.folder.is_dir():
            return
        if any(path.suffix.lower() in formats.IMAGE_SUFFIXES for path in self.folder.iterdir()):
            raise errors.VideoError(
                f"{self.folder} already holds other images; name another folder, or allow to "
                "overwrite them (--overwrite)."
            )

    def _save(self, state: str | None) -> None:
        saved = {"made": self._made, "state": state, "done": self.done}
        atomic.write_atomic(self.work / "made.json", json.dumps(saved).encode())
