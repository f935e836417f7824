"""Test videos written with PyAV alone, and readers that share no code with ours."""

import itertools
from fractions import Fraction

import av
import numpy as np
from comfyui_colorist.media.segmented_writer import SegmentedVideoWriter
from comfyui_colorist.media.video_reader import probe, read_frames

WIDTH, HEIGHT = 64, 48


def luma(number: int, width: int = WIDTH, height: int = HEIGHT, bits: int = 8) -> np.ndarray:
    """Return a smooth moving pattern within the limited range."""
    y, x = np.mgrid[:height, :width] / 16
    wave = 0.5 + 0.5 * np.sin(x + number / 3) * np.cos(y - number / 5)
    return np.rint((20 + 200 * wave) * 2 ** (bits - 8)).astype(np.uint8 if bits == 8 else np.uint16)


def make_video(
    path,
    *,
    frames: int = 12,
    codec: str = "libx264",
    kind: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: Fraction = Fraction(24),
    time_base: Fraction | None = None,
    times: list[int] | None = None,
    tags: tuple[int, int, int, int] = (0, 2, 2, 2),
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    sound: str | None = None,
    values: tuple | None = None,
    prepare=lambda container, stream: None,
):
    """Write a video with PyAV alone, so that our reader is not tested with our writer.

    Args:
        tags: range, matrix, primaries, transfer.
        values: of the planes, instead of `luma` and gray.
        prepare: called with container and stream before the first frame.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        (stream.width, stream.height), stream.pix_fmt = size, kind
        context = stream.codec_context
        context.time_base = time_base or 1 / rate
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        context.sample_aspect_ratio = aspect or Fraction(0)
        prepare(container, stream)
        packets = []
        if sound:
            voice = container.add_stream(sound, rate=48000)
            voice.layout, voice.metadata["language"] = "mono", "deu"
            seconds = np.arange(int(48000 * frames / rate)) / 48000
            tone = (10000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts = 48000, 0
            resampler = av.AudioResampler(voice.format.name, "mono", 48000, 1024)
            for piece in [*resampler.resample(heard), *resampler.resample(None), None]:
                packets += voice.encode(piece)
        for number in range(frames):
            frame = av.VideoFrame(*size, kind)
            bits = frame.format.components[0].bits
            for index, plane in enumerate(frame.planes):
                rows = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
                rows[:] = np.resize(values[index], rows.shape) if values else 2 ** (bits - 1)
                if index == 0 and not values:
                    rows = rows.reshape(plane.height, -1)[:, : plane.width]
                    rows[:] = luma(number, *size, bits)
            frame.pts, frame.time_base = times[number] if times else number, context.time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def gray(number: int, bits: int = 8, **size: int) -> np.ndarray:
    """Return the gray values that a reader should return for `luma`: (H, W) in 0..1."""
    values = luma(number, bits=bits, **size).astype(float)
    return (values / 2 ** (bits - 8) - 16) / 219


def copy_video(source, out, *, size: int = 5, **options):
    """Read and write a whole video without changing its pixels."""
    with SegmentedVideoWriter(source, out, probe(source), settings={}, **options) as writer:
        frames = read_frames(source, writer.done)
        while writer.write(itertools.islice(frames, size)):
            pass
        writer.join()
    return out


def decoded(path) -> tuple[list[np.ndarray], list[Fraction]]:
    """Return the first plane of each frame, and times in seconds."""
    planes, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            rows = np.frombuffer(frame.planes[0], dtype).reshape(frame.height, -1)
            planes.append(rows[:, : frame.width].copy())
            times.append(frame.pts * frame.time_base)
    return planes, times


def is_close(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Return True for 8-bit levels with the small, unbiased errors of a lossy codec."""
    away = actual.astype(float) - expected
    return np.abs(away).mean() < 1.5 and np.abs(away).max() < 12 and abs(away.mean()) < 0.3


def other_packets(path, kind: str = "audio") -> tuple[list[bytes], list[Fraction]]:
    """Return the packets of the streams of a kind, and their times in seconds."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux() if p.stream.type == kind and p.size]
        return [bytes(p) for p in packets], [p.pts * p.time_base for p in packets]


def color_tags(path) -> tuple:
    """Return range, matrix, primaries, transfer and pixel format."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        names = ("color_range", "colorspace", "color_primaries", "color_trc", "pix_fmt")
        return tuple(getattr(context, name) for name in names)


def file_names(folder) -> list[str]:
    """Return the sorted names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def with_extras(path, kind: str = "matroska"):
    """Write a video with two languages, subtitles, a font, chapters and a title."""

    def prepare(container, stream):
        container.metadata.update(title="Ein Film", encoder="old")
        stream.metadata.update(language="eng", title="Picture")
        container.add_attachment("a.ttf", "application/x-truetype-font", b"font")
        chapter = {"id": 1, "start": 0, "end": 500, "time_base": Fraction(1, 1000)}
        container.set_chapters([{**chapter, "metadata": {"title": "One"}}])

    plain = make_video(path.with_name("plain.mkv"), sound="pcm_s16le", prepare=prepare)
    subtitles = path.with_name("x.srt")
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,400\nHello\n\n", encoding="utf-8")
    with (
        av.open(str(plain)) as one,
        av.open(str(subtitles)) as two,
        av.open(str(path), "w", format=kind) as out,
    ):
        out.metadata.update(one.metadata)
        out.set_chapters(one.chapters())
        streams = {}
        for stream in [*one.streams, *two.streams]:
            streams[stream] = out.add_stream_from_template(stream)
            streams[stream].metadata.update(stream.metadata)
        for stream in two.streams:
            streams[stream].metadata["language"], streams[stream].disposition = "fra", 64
        for source in (one, two):
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream]
                    out.mux(packet)
    return path


def write_four_frames(source, out, settings) -> SegmentedVideoWriter:
    """Write the next four frames as one segment, and stop."""
    with SegmentedVideoWriter(source, out, probe(source), settings=settings) as writer:
        writer.write(itertools.islice(read_frames(source, writer.done), 4))
    return writer
