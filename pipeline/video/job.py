"""Colorization of a whole video: read, colorize in batches, stabilize, write. Resumable."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from ...media import video_reader
from ...media.video_info import VideoInfo, check_transfer
from ..hints.schema import HintInput
from ..loader import AnyColorizer
from ..postprocess import FinishOption
from .frame_colorizers import FrameColorizer, Images, ResumeTensors, frame_colorizer
from .frame_sinks import FrameSink, open_sink
from .stabilizer import Stabilizer, StabilizerOptions, StabilizerState

log = logging.getLogger(__name__)

SEGMENT_FRAMES = 240
"""Frames of a segment: what an interrupted run has to repeat at most."""
BATCH_PIXELS = 2**24
"""Pixels of the frames that are colorized at once."""
MAX_BATCH = 16
COLORIZER_PREFIX, STABILIZER_PREFIX = "colorizer.", "stabilizer."  # of saved tensors


def colorize_video(
    source: str | Path,
    target: str | Path,
    engine: AnyColorizer | FrameColorizer,
    *,
    stabilize: bool | StabilizerOptions = False,
    finish: FinishOption = None,
    resolution: int | None = None,
    mask: Images | None = None,
    reference: Images | Sequence[Images] | None = None,
    hints: HintInput | Mapping[int, HintInput] = None,
    frame_rate: Fraction | int = 24,
    deinterlace: bool = False,
    codec: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Colorize a video of any length. The same call resumes an interrupted run.

    Sound, subtitles, chapters and tags are copied. Frames are read, colorized, stabilized and
    written one batch at a time, so memory does not grow with the length of the video.

    Args:
        source: video or animated image; folder of frames, or their pattern (frames/%05d.png).
        target: video (.mkv, .mp4, .m4v, .mov, .webm), or folder for the frames as images.
        engine: colorizer from `colorist.load`; or an object that colorizes frames in order, with
            its own options.
        stabilize: True, or options, to reduce flicker.
        finish, resolution, mask: see `colorize` of the engine.
        reference: color images, for an exemplar colorizer.
        hints: for a point-hint colorizer, the hints of the first frame, or frame number -> hints.
            They follow what they lie on.
        frame_rate: frames per second of a folder or pattern of frames.
        deinterlace: turn both fields of each frame of an interlaced video into one full frame.
        codec: h264, h265, vp9, prores or ffv1; None = h264, in .webm vp9.
        quality: CRF, lower is better; None = the default of the codec.
        overwrite: replace other images in the target folder.
        progress: called with (frames done, frames in total or None).
    Raises:
        VideoError: the source cannot be read, or the target cannot be written.
        ValueError: an option does not fit the engine.
    """
    source, target = Path(source), Path(target)
    options = StabilizerOptions() if stabilize is True else stabilize or None
    colorizer = (
        engine
        if isinstance(engine, FrameColorizer)
        else frame_colorizer(
            engine,
            finish=finish,
            resolution=resolution,
            mask=mask,
            reference=reference,
            hints=hints,
        )
    )
    info = video_reader.probe(source, frame_rate=frame_rate)
    check_transfer(info, source.name)
    if deinterlace:
        info = replace(info, field_order=None)
    with open_sink(
        source,
        target,
        info,
        settings={
            "stabilize": options and asdict(options),
            "deinterlace": deinterlace,
            **colorizer.settings,
        },
        codec=codec,
        quality=quality,
        overwrite=overwrite,
    ) as sink:
        _note_losses(info, sink, source.name)
        tensors = load(sink.state) if sink.state else {}
        if sink.done:
            log.info("%s: resuming after frame %d", source.name, sink.done)
            colorizer.restore(_with_prefix(tensors, COLORIZER_PREFIX), sink.done)
        alpha = info.has_alpha and sink.keeps_alpha
        with closing(
            video_reader.read_frames(source, sink.done, alpha=alpha, deinterlace=deinterlace)
        ) as frames:
            finished = _colorized(frames, colorizer, info)
            if options:
                state = _with_prefix(tensors, STABILIZER_PREFIX)
                finished = _stabilized(finished, options, colorizer.device, state)
            if progress:
                finished = _reported(finished, progress, sink.done, info.frame_count)
            segment = _Segment(finished)
            while sink.write(segment, segment.state) == SEGMENT_FRAMES:
                segment = _Segment(finished)
        sink.join()


def _note_losses(info: VideoInfo, sink: FrameSink, name: str) -> None:
    """Log what becomes of transparency and of interlaced frames."""
    if info.has_alpha and not sink.keeps_alpha:
        log.warning(
            "%s: transparency is laid on white; --codec prores (.mov), vp9 (.webm) and ffv1 (.mkv) "
            "keep it, and so do images (--frames).",
            name,
        )
    if info.field_order and sink.keeps_fields:
        log.info(
            "%s: interlaced, and written as interlaced; --deinterlace makes full frames.", name
        )
    elif info.field_order:
        log.warning(
            "%s: interlaced, but written as full frames, which show combs where something moves; "
            "add --deinterlace.",
            name,
        )


class _FinishedFrame(NamedTuple):
    pixels: np.ndarray
    time: int
    tensors: ResumeTensors
    """What a resumed run needs to continue behind this frame."""
    alpha: np.ndarray
    """(H, W, 0 or 1)"""


class _Segment:
    """Up to SEGMENT_FRAMES of the remaining frames, and the state behind the last one."""

    def __init__(self, frames: Iterator[_FinishedFrame]) -> None:
        self._frames = frames
        self._tensors: ResumeTensors = {}

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        for frame in islice(self._frames, SEGMENT_FRAMES):
            self._tensors = frame.tensors
            pixels = frame.pixels
            if frame.alpha.shape[2]:
                pixels = np.concatenate([pixels, frame.alpha], axis=2)
            yield pixels, frame.time

    def state(self) -> bytes:
        """Return the state behind the last frame that was iterated over."""
        return save(self._tensors) if self._tensors else b""


def _colorized(
    frames: Iterator[tuple[np.ndarray, int]], colorizer: FrameColorizer, info: VideoInfo
) -> Iterator[_FinishedFrame]:
    """Colorize frames in batches."""
    size = max(1, min(MAX_BATCH, BATCH_PIXELS // (info.width * info.height)))
    while batch := list(islice(frames, size)):
        frames_in, times = zip(*batch, strict=True)
        pixels = np.stack(frames_in)
        colored, tensors = colorizer.colorize_frames(pixels[..., :3])
        for image, time, after, alpha in zip(colored, times, tensors, pixels[..., 3:], strict=True):
            tensors_after = _add_prefix(after, COLORIZER_PREFIX)
            yield _FinishedFrame(image, time, tensors_after, alpha.copy())  # frees the batch


def _stabilized(
    frames: Iterable[_FinishedFrame],
    options: StabilizerOptions,
    device: torch.device,
    tensors: ResumeTensors,
) -> Iterator[_FinishedFrame]:
    """Stabilize frames; each comes out after the stabilizer has seen some of the following ones.

    Args:
        frames: colorized frames.
        options: of the stabilizer.
        device: where to compute.
        tensors: state of the stabilizer at the end of the interrupted run; empty to start.
    """
    state = StabilizerState.from_tensors(tensors) if tensors else None
    stabilizer = Stabilizer(options, device=device, state=state)
    pending: deque[_FinishedFrame] = deque()

    def next_finished(pixels: Tensor) -> _FinishedFrame:
        frame = pending.popleft()
        state = stabilizer.committed_state.to_tensors() if stabilizer.committed_state else {}
        state = {name: x.cpu() for name, x in state.items()}
        tensors = frame.tensors | _add_prefix(state, STABILIZER_PREFIX)
        return frame._replace(pixels=pixels.numpy(), tensors=tensors)

    for frame in frames:
        pending.append(frame._replace(pixels=np.empty(0)))  # the stabilizer has them
        for stable in stabilizer.push(torch.from_numpy(frame.pixels)[None]):
            yield next_finished(stable)
    for stable in stabilizer.finish():
        yield next_finished(stable[0])


def _reported(
    frames: Iterable[_FinishedFrame],
    progress: Callable[[int, int | None], None],
    done: int,
    total: int | None,
) -> Iterator[_FinishedFrame]:
    """Report each frame after it has been written."""
    progress(done, total)
    for number, frame in enumerate(frames, done + 1):
        yield frame
        progress(number, total)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> ResumeTensors:
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}


def _add_prefix(tensors: Mapping[str, Tensor], prefix: str) -> ResumeTensors:
    return {f"{prefix}{name}": x for name, x in tensors.items()}
