"""Lines in the terminal: results go to stdout; progress, warnings and errors to stderr.

Names of files, licenses and other text of unknown origin may contain control characters, with which
a terminal can be made to hide or forge lines. All text passes through `escape_controls`.

Only the standard library is imported at the top, so that `colorist --help` answers at once.
"""

import argparse
import logging
import sys
import unicodedata
from typing import NoReturn

# Control characters, line and paragraph separators, bytes of undecodable names
UNSAFE_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
UNSAFE_BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # reverse the text


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Replace every character that a terminal could obey by its escape, such as \x1b.

    Args:
        text: any text.
        keep: control characters that the caller itself has put in, such as line breaks.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if _is_unsafe(c) and c not in keep else c for c in text)


def _is_unsafe(character: str) -> bool:
    return (
        unicodedata.category(character) in UNSAFE_CATEGORIES
        or unicodedata.bidirectional(character) in UNSAFE_BIDI
    )


def print_result(text: str) -> None:
    """Print a line to stdout; characters that cannot be shown are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(escape_controls(text).encode(encoding, "backslashreplace").decode(encoding))


def log_stderr(text: str) -> None:
    """Print a line to stderr, so that stdout holds nothing but results."""
    print(escape_controls(text), file=sys.stderr, flush=True)


class ArgumentParser(argparse.ArgumentParser):
    """Parser whose error messages may quote the names of files."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with code 2."""
        super().error(escape_controls(message, keep="\n"))


def skipped_summary(gray: int, unreadable: int) -> str:
    """Return the line about photos that were left out; empty without such photos."""
    counts = {"gray": gray, "unreadable": unreadable}
    parts = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return parts and f"left out: {parts}."


class SafeFormatter(logging.Formatter):
    """Formats log records of one or more lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return escape_controls(super().format(record), keep="\n")


class _StderrHandler(logging.Handler):
    """Prints log records above a progress bar instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(escape_controls(f"{level}{record.getMessage()}"), file=sys.stderr)


def configure_logging() -> None:
    """Show the log of this package on stderr. Further calls have no effect."""
    logger = logging.getLogger(__name__.rsplit(".", 2)[0])
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
        logger.setLevel(logging.INFO)
