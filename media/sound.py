"""Sound that the container of the result cannot hold, or that few players know, encoded again."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import OutputContainer
    from av.filter import Graph
    from av.stream import Stream

SOUND_ENCODERS = {
    "mp4": ("aac", "AAC"),
    "mov": ("aac", "AAC"),
    "webm": ("libopus", "Opus"),
}
"""Encoder of sound, and the name of its codec, for each container that does not hold all sound."""
BITS_PER_SECOND = 96_000  # per channel: no difference is heard
SAMPLE_RATES = {
    "aac": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    "libopus": (48000,),
}
LAYOUTS = {"1 channels": "mono", "2 channels": "stereo", "6 channels": "5.1", "8 channels": "7.1"}


class SoundEncoder:
    """Turns the packets of one sound stream into those of another codec, with the same times.

    Gaps between the packets become silence, and overlaps are cut, because the encoder needs
    samples without interruption.
    """

    def __init__(self, source: "AudioStream", result: "OutputContainer") -> None:
        """Add a stream to the result.

        Raises:
            ValueError, av.FFmpegError: this sound cannot be decoded or encoded.
        """
        encoder, self.name = SOUND_ENCODERS[result.format.name]
        context = source.codec_context
        if not context.sample_rate:
            raise ValueError("the sample rate is unknown")
        rate = context.sample_rate if context.sample_rate in SAMPLE_RATES[encoder] else 48000
        # "6 channels" stands for a source that does not say which channels these are
        layout = LAYOUTS.get(context.layout.name, context.layout.name)
        self.stream = cast("AudioStream", result.add_stream(encoder, rate=rate))
        self.stream.layout = layout
        self.stream.bit_rate = BITS_PER_SECOND * self.stream.layout.nb_channels
        self._format = f"sample_fmts={self.stream.format.name}:sample_rates={rate}"
        self._format += f":channel_layouts={layout}"
        self._graph: Graph | None = None

    def encode(self, packet: "Packet[Stream]") -> "Iterator[Packet[AudioStream]]":
        """Yield the encoded packets that follow from one of the source; damaged ones give none."""
        import av

        frames: list[AudioFrame] = []
        with suppress(av.error.InvalidDataError):
            frames = cast("list[AudioFrame]", packet.decode())
        for frame in frames:
            self._graph = self._graph or self._make_graph(frame)
            self._graph.push(frame)
            yield from self._encode_filtered()

    def flush(self) -> "Iterator[Packet[AudioStream]]":
        """Yield the last packets."""
        if self._graph:
            self._graph.push(None)
            yield from self._encode_filtered()
        yield from self.stream.encode(None)

    def _encode_filtered(self) -> "Iterator[Packet[AudioStream]]":
        import av

        assert self._graph
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield from self.stream.encode(cast("AudioFrame", self._graph.pull()))

    def _make_graph(self, frame: "AudioFrame") -> "Graph":
        from av.filter import Graph

        graph = Graph()
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base,
        )
        nodes = [
            source,
            graph.add("aresample", "async=1"),
            graph.add("aformat", self._format),
            graph.add("abuffersink"),
        ]
        for node, following in zip(nodes, nodes[1:], strict=False):
            node.link_to(following)
        graph.configure()
        return graph
