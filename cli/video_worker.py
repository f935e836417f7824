"""A process that colorizes videos, so that a decoder that crashes or hangs loses one video only.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from ..console.errors import EXPECTED_ERRORS, UsageError, format_error
from ..console.output import configure_logging
from ..media.errors import silence_libraries

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

ColorizeVideo = Callable[[Path, Path], None]
"""Colorizes the video (source, target)."""

HANG_SECONDS = 300
"""Time after which one call into a decoder counts as hanging."""
STOP_SECONDS = 20
"""Time for a stopped process to remove its unfinished files."""
HANG_CODE = 75
"""Exit code of a process whose decoder hangs."""


class WorkerError(ValueError):
    """A video failed in the process; the message is for the user."""


class VideoWorker:
    """Colorizes videos one by one in a process that is started again after a crash."""

    def __init__(self, load: Callable[[], ColorizeVideo], hang_seconds: float = HANG_SECONDS):
        """Start nothing yet.

        Args:
            load: called in the process; loads the model. It must be possible to pickle it.
            hang_seconds: see HANG_SECONDS.
        """
        self._load, self._hang_seconds = load, hang_seconds
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "VideoWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and load the model, unless that is done.

        Raises:
            UsageError: as `load`, or the process cannot be started.
        """
        if self._process:
            return
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(
            target=_run, args=(theirs, self._load, self._hang_seconds), daemon=True
        )
        with _ignored_interrupts():  # it stops when `stop` tells it to, not by Ctrl-C
            process.start()
        self._process = process
        theirs.close()
        reply = self._receive()
        if reply is None:
            code = self._ended()
            raise UsageError(
                f"the process for videos ended at its start ({_exit_reason(code)}); colorize the "
                "videos one by one."
            )
        if reply:
            raise UsageError(reply)

    def colorize(self, source: Path, target: Path) -> None:
        """Colorize one video.

        Raises:
            WorkerError: it cannot be read or written, or the process crashed.
            UsageError: as `start`.
        """
        self.start()
        try:
            if self._connection:
                self._connection.send((source, target))
        except OSError:
            reply = None  # it has ended meanwhile
        else:
            reply = self._receive()
        if reply:
            raise WorkerError(reply)
        if reply is None:
            if sys.stderr.isatty():
                print(file=sys.stderr)  # leaves the line of the progress bar
            raise WorkerError(_crash_message(source.name, self._ended()))

    def stop(self) -> None:
        """End the process. Finished segments of a video stay for a later run."""
        if self._process and self._process.is_alive():
            self._process.terminate()
        self._ended()

    def _receive(self) -> str | None:
        """Return the error message of the next reply, empty if all went well; None if it ended."""
        try:
            return str(self._connection.recv()) if self._connection else None
        except (EOFError, OSError):
            return None

    def _ended(self) -> int | None:
        """Wait for the end of the process, and return its exit code."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection:
            connection.close()
        if not process:
            return None
        process.join(STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode


class _ignored_interrupts:
    """Let processes that are started here ignore Ctrl-C, where processes inherit that."""

    def __enter__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._previous = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._previous)


# --- In the process ----------------------------------------------------------------------------


def _run(connection: Connection, load: Callable[[], ColorizeVideo], hang_seconds: float) -> None:
    """Colorize the videos that arrive, until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch, args=(hang_seconds,), daemon=True).start()
    silence_libraries()
    configure_logging()
    try:
        try:
            colorize = load()
        except UsageError as error:
            connection.send(str(error))
            return
        connection.send("")
        while True:
            source, target = connection.recv()
            try:
                colorize(source, target)
            except EXPECTED_ERRORS as error:
                connection.send(format_error(error, source.name))
            else:
                connection.send("")
    except (EOFError, OSError, KeyboardInterrupt):  # stopped, or nobody is waiting any longer
        pass


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _watch(hang_seconds: float) -> None:
    """End this process if its parent has ended, or if one call into a decoder takes too long.

    Seconds are counted while this process runs, so that a suspended one does not seem to hang.
    """
    from ..media.video_container import decoder_activity

    parent = multiprocessing.parent_process()
    call, seconds = -1, 0
    while seconds < hang_seconds:
        time.sleep(1)
        if parent and not parent.is_alive():
            os._exit(1)
        same = decoder_activity.is_running and decoder_activity.calls == call
        call, seconds = decoder_activity.calls, seconds + 1 if same else 0
    os._exit(HANG_CODE)


# --- Messages ----------------------------------------------------------------------------------


def _crash_message(name: str, code: int | None) -> str:
    if code == HANG_CODE:
        return f"{name}: the decoder hangs on this file; convert it with another program."
    if os.name == "posix" and code == -signal.SIGKILL:
        return (
            f"{name}: ended by the system ({_exit_reason(code)}), mostly because memory ran out; "
            "close other programs, or scale the video down."
        )
    return (
        f"{name}: the decoder crashed on this file ({_exit_reason(code)}); convert it with another "
        "program, and try again."
    )


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:  # a real-time signal
            return f"signal {-code}"
    return f"exit code {code}"
