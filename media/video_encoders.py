"""Choice of the encoder, its options and its pixel format for a video to be written."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import VideoError
from .formats import VIDEO_FORMATS
from .video_info import VideoInfo

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


@dataclass(frozen=True)
class EncoderSettings:
    """All that determines how frames are encoded."""

    codec: str
    """Key of `CODECS`."""
    encoder: str
    options: dict[str, str]
    pixel_format: str
    full_range: bool


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
    if info.pixel_aspect != 1 and codec in ("vp9", "prores") and suffix in (".mkv", ".webm"):
        log.warning(
            "%s: %s in %s cannot say that pixels are not square; "  # through PyAV
            "write .mp4 or .mov to keep their shape.",
            *(out.name, codec, suffix),
        )
    return EncoderSettings(
        codec=codec,
        encoder=settings.encoder,
        options=options,
        pixel_format=_pixel_format(out, info, codec),
        full_range=info.full_range and codec != "prores",  # ProRes is always limited
    )


def _quality_option(codec: str, crf: tuple[int, int] | None, quality: int | None) -> dict[str, str]:
    if quality is not None and (crf is None or not 0 <= quality <= crf[1]):
        expected = f"expected 0 (best) to {crf[1]}" if crf else "it has no quality setting"
        raise VideoError(f"quality {quality} for {codec}: {expected}.")
    return {"crf": str(crf[0] if quality is None else quality)} if crf else {}


def _pixel_format(out: Path, info: VideoInfo, codec: str) -> str:
    import av

    odd_size = info.width % 2 or info.height % 2
    chroma = "444" if odd_size else CHROMA.get(codec, "420")
    deep = info.bit_depth > 8 or codec == "prores"
    pixel_format = f"yuv{chroma}p10le" if deep else f"yuv{chroma}p"
    supported = [f.name for f in av.Codec(CODECS[codec].encoder, "w").video_formats or ()]
    if supported and pixel_format not in supported:
        log.warning("%s: this PyAV writes %s with 8 bits only.", out.name, codec)
        pixel_format = pixel_format.removesuffix("10le")
    return pixel_format
