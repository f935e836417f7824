"""Lines of a terminal: results to stdout, progress and errors to stderr.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import sys
import time
from collections.abc import Callable


def pace(tell: Callable[[str], None], every: float = 2.0) -> Callable[[int, int], None]:
    """What tells of (done, total) photos: their number and pace, a line each `every` seconds."""
    began = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= every or done == total:
            said = now
            tell(f"[{done}/{total}] {done / max(now - began, 1e-3):.1f} photos/s")

    return progress


def left_out(grey: int, unreadable: int) -> str:
    """The line about photos of which a color memory was not built; empty where there are none."""
    counts = {"grey": grey, "unreadable": unreadable}
    some = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return some and f"left out: {some}."


def show(text: str) -> None:
    """A result goes to stdout, with escapes for what stdout cannot show: undecodable file names."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def say(text: str) -> None:
    """Progress and errors go to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)
