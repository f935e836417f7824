"""File suffixes and formats: the one table of what is read and written."""

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

IMAGE_SUFFIXES = (*IMAGE_FORMATS, ".gif", ".pgm", ".ppm")
"""Suffixes of images that are read."""

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
