"""Errors about image and video files, and the one place where errors of libraries become ours."""

import ctypes
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class ImageError(ValueError):
    """An image cannot be read or written; the message names the file and the remedy."""


class UnsupportedImageError(ImageError):
    """An image is sound, but of a kind that cannot be read with the installed libraries."""


class VideoError(ValueError):
    """A video cannot be read or written; the message names the file and the remedy."""


def error_reason(error: BaseException) -> str:
    """Return the first line of an error's text, without the full stop."""
    text = str(getattr(error, "strerror", None) or "") or str(error)
    lines = text.splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def silence_libraries() -> None:
    """Keep the messages of decoding libraries off the terminal; our errors say the same.

    For programs of ours, not for the host: the setting holds for the whole process. libtiff writes
    to standard error unless its handler is removed; where Pillow's module hides it (Windows), it
    still does.
    """
    from PIL import _imaging

    warnings.filterwarnings("ignore", module="PIL")
    for library in ("PIL", "tifffile"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    try:  # a symbol of a library that is loaded already, the one that Pillow uses
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)


@contextmanager
def image_errors(name: str) -> Generator[None, None, None]:
    """Turn every error of a decoding library into an `ImageError` about the file `name`.

    Pillow, PyAV, NumPy and tifffile share no base class: damaged files raise OSError, SyntaxError,
    struct.error, DecompressionBombError, and whatever their parsers stumble over. Hence all of
    `Exception` is caught, and the traceback is logged for those who look for a fault of ours.
    """
    try:
        yield
    except ImageError:
        raise
    except PermissionError as error:
        raise ImageError(f"{name}: cannot be read ({error_reason(error)}).") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it; scale it down.") from error
    except Exception as error:
        log.debug("%s: cannot be decoded", name, exc_info=True)
        reason = error_reason(error)
        if reason.lower().startswith("unsupported"):  # by Pillow
            message = f"{name}: cannot be read ({reason}); save it as PNG or TIFF."
            raise UnsupportedImageError(message) from error
        message = f"{name}: damaged or cut short ({reason}); get the file again."
        raise ImageError(message) from error


@contextmanager
def video_errors(name: str) -> Generator[None, None, None]:
    """Turn every error of a decoding library into a `VideoError` about the file `name`."""
    try:
        yield
    except (VideoError, ImageError):
        raise
    except PermissionError as error:
        raise VideoError(f"{name}: cannot be read ({error_reason(error)}).") from error
    except MemoryError as error:
        raise VideoError(f"{name}: not enough memory to decode it; scale it down.") from error
    except Exception as error:
        log.debug("%s: cannot be decoded", name, exc_info=True)
        raise VideoError(f"{name}: not a video, or damaged ({error_reason(error)}).") from error
