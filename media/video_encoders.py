"""Choice of the encoder, its options and its pixel format for a video to be written."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import VideoError
from .formats import VIDEO_FORMATS
from .video_info import FieldOrder, VideoInfo, written_color_tags

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Codec:
    """A codec that is written."""

    encoder: str
    """FFmpeg's name."""
    crf: tuple[int, int] | None
    """Default and maximum of the constant rate factor; None if the codec has none."""
    options: Mapping[str, str]


CODECS = {
    "h264": Codec("libx264", (16, 51), {"preset": "medium"}),
    "h265": Codec("libx265", (18, 51), {"preset": "medium", "x265-params": "log-level=error"}),
    "vp9": Codec("libvpx-vp9", (24, 63), {"b": "0", "row-mt": "1", "cpu-used": "2"}),
    "prores": Codec("prores_ks", None, {"vendor": "apl0"}),  # its profile for 4:2:2 is HQ
    "ffv1": Codec("ffv1", None, {"level": "3", "g": "1", "slicecrc": "1"}),
}
CHROMA = {"ffv1": "444", "prores": "422"}  # 4:2:0 for all other codecs
EVEN_SIZES = ("h264", "h265")  # in 4:2:0; players show no other H.264 and hardly any other H.265
FIELD_OPTIONS = {
    "h264": {"flags": "+ildct+ilme"},
    "prores": {"flags": "+ildct"},
    "ffv1": {},
}
"""Options for interlaced video, by codec; all others cannot mark it."""
ALPHA_FORMATS = {"vp9": "yuva420p", "prores": "yuva444p", "ffv1": "yuva444p"}


@dataclass(frozen=True)
class EncoderSettings:
    """All that determines how frames are encoded."""

    codec: str
    """Key of `CODECS`."""
    encoder: str
    options: dict[str, str]
    pixel_format: str
    full_range: bool
    width: int
    """Width of the encoded frames: that of the source, rounded up if it must be even."""
    height: int
    color_tags: tuple[int, int, int]
    """Matrix, primaries and transfer."""
    field_order: FieldOrder | None
    """Field order that the frames are marked with."""

    @property
    def has_alpha(self) -> bool:
        """True if alpha is encoded."""
        return self.pixel_format.startswith("yuva")


def choose_encoder(
    out: Path, info: VideoInfo, codec: str | None, quality: int | None
) -> EncoderSettings:
    """Return the settings for a file.

    Args:
        out: file to write; its suffix selects the container.
        info: properties of the source.
        codec: key of `CODECS`; None for the default of the container.
        quality: constant rate factor; None for the default of the codec.

    Raises:
        VideoError: container, codec and quality do not go together, or the encoder is missing.
    """
    import av

    suffix = out.suffix.lower()
    if suffix not in VIDEO_FORMATS:
        raise VideoError(f"{out.name}: videos are written as {', '.join(VIDEO_FORMATS)}.")
    codecs = VIDEO_FORMATS[suffix][1]
    codec = codec or codecs[0]
    available = [name for name in codecs if CODECS[name].encoder in av.codecs_available]
    if codec not in available:
        reason = "this PyAV cannot write" if codec in codecs else f"{suffix} cannot hold"
        others = ", ".join(available) or "none; install PyAV from PyPI"
        raise VideoError(f"{out.name}: {reason} {codec}. Available for it: {others}.")
    settings = CODECS[codec]
    options = {**settings.options, **_quality_option(codec, settings.crf, quality)}
    fields = _field_order(info, codec)
    if fields:
        options |= {**FIELD_OPTIONS[codec], "field_order": "tt" if fields == "tff" else "bb"}
    if info.pixel_aspect != 1 and codec in ("vp9", "prores") and suffix in (".mkv", ".webm"):
        log.warning(
            "%s: %s in %s cannot say that pixels are not square; "  # through PyAV
            "write .mp4 or .mov to keep their shape.",
            *(out.name, codec, suffix),
        )
    even = codec in EVEN_SIZES
    encoder = EncoderSettings(
        codec=codec,
        encoder=settings.encoder,
        options=options,
        pixel_format=_pixel_format(out, info, codec),
        full_range=info.full_range and codec != "prores",  # ProRes is always limited
        width=info.width + (info.width % 2 if even else 0),
        height=info.height + (info.height % 2 if even else 0),
        color_tags=written_color_tags(info.color_tags),
        field_order=fields,
    )
    _note_losses(out, info, encoder)
    return encoder


def _note_losses(out: Path, info: VideoInfo, encoder: EncoderSettings) -> None:
    """Log what the codec cannot hold, and how to keep it."""
    size = encoder.width, encoder.height
    if size != (info.width, info.height):
        log.warning(
            "%s: %dx%d is written as %dx%d, with the last column or row repeated, because players "
            "need even sizes for %s; --codec vp9, prores or ffv1 keeps the size.",
            *(out.name, info.width, info.height, *size, encoder.codec),
        )
    if encoder.codec == "h264" and (info.bit_depth > 8 or info.chroma != "420"):
        log.info(
            "%s: written with 8 bits and 4:2:0, which every player shows; the source has %s. To "
            "keep more: --codec h265 (10 bits), prores (.mov; 10 bits, 4:2:2) or ffv1 (.mkv; "
            "10 bits, 4:4:4).",
            *(out.name, _sampling(info)),
        )


def _sampling(info: VideoInfo) -> str:
    bits = "8 bits" if info.bit_depth == 8 else "10 bits or more"
    return f"{bits} and {':'.join(info.chroma)}"


def _field_order(info: VideoInfo, codec: str) -> FieldOrder | None:
    """Return the field order that the codec can mark the frames with."""
    fits = codec in FIELD_OPTIONS and info.height % 4 == 0  # as interlaced 4:2:0 needs
    return info.field_order if fits else None


def _quality_option(codec: str, crf: tuple[int, int] | None, quality: int | None) -> dict[str, str]:
    if quality is not None and (crf is None or not 0 <= quality <= crf[1]):
        expected = f"expected 0 (best) to {crf[1]}" if crf else "it has no quality setting"
        raise VideoError(f"quality {quality} for {codec}: {expected}.")
    return {"crf": str(crf[0] if quality is None else quality)} if crf else {}


def _pixel_format(out: Path, info: VideoInfo, codec: str) -> str:
    import av

    odd_prores = codec == "prores" and (info.width % 2 or info.height % 2)
    chroma = "444" if odd_prores else CHROMA.get(codec, "420")
    deep = codec == "prores" or (info.bit_depth > 8 and codec != "h264")
    supported = [f.name for f in av.Codec(CODECS[codec].encoder, "w").video_formats or ()]
    if info.has_alpha and codec in ALPHA_FORMATS:
        base = ALPHA_FORMATS[codec]
        for pixel_format in (f"{base}10le", base) if deep else (base,):
            if pixel_format in supported:
                return pixel_format
    pixel_format = f"yuv{chroma}p10le" if deep else f"yuv{chroma}p"
    if supported and pixel_format not in supported:
        log.warning("%s: this PyAV writes %s with 8 bits only.", out.name, codec)
        pixel_format = pixel_format.removesuffix("10le")
    return pixel_format
