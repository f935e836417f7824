"""Errors and exit codes shared by all commands and trainers.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import errno
import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import PurePath

from .output import log_stderr

log = logging.getLogger(__name__)

EXPECTED_ERRORS = (ValueError, OSError, MemoryError, RuntimeError)
"""Errors that a file or a setting can cause. They are reported in one line, without traceback."""
REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space, or write to another disk",
    errno.EFBIG: "write to a disk that holds larger files",
    errno.EROFS: "write to another disk",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give the name of a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.EPIPE: "let the program behind the pipe read to its end",
}
"""Number of an error of the operating system -> remedy."""


class ExitCode(IntEnum):
    """Exit codes of all commands and trainers, as documented in docs/command-line.md."""

    OK = 0
    """Everything that was asked for is done, now or by an earlier run."""
    FAILED = 1
    """The command started, but at least one item failed."""
    USAGE = 2
    """Nothing was started or written; also the exit code of argparse."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C."""


class UsageError(Exception):
    """The request cannot be started; nothing has been written."""


@contextmanager
def as_usage_errors(option: str = "") -> Generator[None, None, None]:
    """Convert expected errors to UsageError. For the steps before anything is written.

    Args:
        option: option of the command line that caused the error, put before its message.
    """
    try:
        yield
    except EXPECTED_ERRORS as error:
        message = format_error(error)
        raise UsageError(f"{option}: {message}" if option else message) from error


def run_command(command: Callable[[], ExitCode], program: str = "") -> ExitCode:
    """Run a command and return its exit code; report expected errors in one line on stderr.

    Args:
        command: the command, without arguments.
        program: name of the program, put before the error message.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UsageError as error:
        code, message = ExitCode.USAGE, str(error)
    except EXPECTED_ERRORS as error:
        log.debug("the command failed", exc_info=True)
        is_stdout = isinstance(error, OSError) and not error.filename and _discard_stdout()
        code, message = ExitCode.FAILED, format_error(error, "stdout" if is_stdout else "")
    except KeyboardInterrupt:
        log_stderr("stopped.")
        return ExitCode.INTERRUPTED
    log_stderr(f"{program}: error: {message}" if program else f"error: {message}")
    return code


def format_error(error: BaseException, name: str = "") -> str:
    """Return one line that describes an error and names the file that it concerns.

    Args:
        error: any exception.
        name: the file, unless the message of the exception already begins with it.
    """
    if isinstance(error, OSError) and error.strerror:
        name = name or str(error.filename or "")
        remedy = REMEDIES.get(error.errno or 0)
        text = f"{error.strerror}; {remedy}." if remedy else f"{error.strerror}."
    else:
        text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if not name or text.startswith(f"{PurePath(name).name}: ") else f"{name}: {text}"


def _discard_stdout() -> bool:
    """Return True if stdout cannot be written; Python then does not fail a second time at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError), open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        return True
    return False
