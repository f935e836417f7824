"""File suffixes and formats: the one table of what is read and written."""

from pathlib import Path

IMAGE_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
"""Suffixes of images that are written, with Pillow's name of the format. All are read, too."""

READ_ONLY_FORMATS = {
    **dict.fromkeys((".gif",), "GIF"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".mpo",), "MPO"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf"), "JPEG2000"),
    **dict.fromkeys((".tga",), "TGA"),
    **dict.fromkeys((".qoi",), "QOI"),
    **dict.fromkeys((".avif",), "AVIF"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
}
"""Suffixes of images that are read but not written, with Pillow's name of the format."""

IMAGE_SUFFIXES = (*IMAGE_FORMATS, *READ_ONLY_FORMATS)
"""Suffixes of images that are read."""

OUTPUT_SUFFIXES = {".mpo": ".jpg"}
"""Suffix of the outputs of formats that are not written, if it is not `DEFAULT_OUTPUT_SUFFIX`."""

DEFAULT_OUTPUT_SUFFIX = ".png"

UNSUPPORTED_SUFFIXES = (
    *(".psd", ".psb", ".xcf", ".jxl", ".exr", ".hdr", ".pdf", ".djvu", ".svg"),
    *(".dng", ".crw", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".rw2", ".orf"),
    *(".pef", ".srw", ".rwl", ".3fr", ".fff", ".iiq", ".x3f", ".kdc", ".dcr", ".mrw", ".erf"),
)
"""Suffixes of images that are not read. A folder with some is mentioned."""

FRAME_SUFFIXES = (*IMAGE_SUFFIXES, ".dpx")
"""Suffixes of images that are read as the frames of a video."""

ANIMATED_SUFFIXES = (".gif", ".webp", ".png", ".apng")
"""Suffixes of images that may have several frames, and are then read as videos."""

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of training photos."""

VIDEO_FORMATS = {
    ".mkv": ("matroska", ("h264", "h265", "vp9", "ffv1", "prores")),
    ".mp4": ("mp4", ("h264", "h265", "vp9")),
    ".m4v": ("mp4", ("h264", "h265")),
    ".mov": ("mov", ("h264", "h265", "prores")),
    ".webm": ("webm", ("vp9",)),
}
"""Suffixes of videos that are written: FFmpeg's container and the codecs, the default first."""

VIDEO_SUFFIXES = (
    *(".mkv", ".mp4", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".m2v", ".ts"),
    *(".mts", ".m2ts", ".wmv", ".asf", ".flv", ".mxf", ".ogv", ".dv", ".3gp", ".nut"),
)
"""Suffixes of videos that are read."""


def output_name(path: Path) -> str:
    """Return the file name of the colorized copy of an image."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_FORMATS:
        return path.name
    return path.stem + OUTPUT_SUFFIXES.get(suffix, DEFAULT_OUTPUT_SUFFIX)
