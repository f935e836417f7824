"""Exit codes, refusals, and the sentence for an error.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

# What a file or a setting can bring up; anything else is a bug and may show its traceback.
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)

DONE, FAILED, REFUSED, STOPPED = 0, 1, 2, 130


class Refusal(Exception):
    """What was asked for cannot be begun; nothing has been written."""


def sentence(error: BaseException, name: str = "") -> str:
    """One line for the user, which names the file."""
    from ..media.image_data import PictureError
    from ..media.video_info import FilmError

    if isinstance(error, OSError) and error.strerror:
        name, text = name or str(error.filename), f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{name}: {text}" if name and not isinstance(error, PictureError | FilmError) else text
