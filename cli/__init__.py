"""The command `colorist`, which runs without ComfyUI.

Nothing is imported before `main` can report Ctrl-C; `colorist --help` needs the standard library
alone, and answers at once.
"""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Raises:
        SystemExit: with code 2 for a command line that cannot be parsed.
    """
    try:
        return _run(argv)
    except KeyboardInterrupt:  # before or after the command, which reports it in its own words
        print("stopped.", file=sys.stderr)
        return 130


def _run(argv: list[str] | None) -> int:
    import os

    from ..console.errors import run_command
    from ..media.errors import silence_libraries
    from .parser import parse_arguments

    # Huge pages for large tensors; torch reads this when it is imported (see docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = parse_arguments(argv)
    silence_libraries()
    return run_command(lambda: arguments.run(arguments), "colorist")
