"""The progress bar of long work: downloads, photos, video frames."""

import sys

from tqdm import tqdm

from .output import escape_controls


class Progress:
    """A tqdm bar on stderr, moved by callbacks of the form (done, total).

    Where stderr is a log file, the bar is drawn only every few seconds. To be used in a `with`.
    """

    def __init__(
        self, label: str, unit: str, total: int | None = None, *, keep: bool = True
    ) -> None:
        """Start a bar.

        Args:
            label: text before the bar.
            unit: what is counted, such as " photos"; "B" for bytes, shown as kB, MB, GB.
            total: expected count, or None if unknown.
            keep: leave the finished bar on the screen.
        """
        self._bar = tqdm(
            desc=escape_controls(label),
            unit=unit,
            total=total,
            unit_scale=unit == "B",
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
            miniters=1,
            leave=keep,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        self._resumed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def report(self, done: int, total: int | None) -> None:
        """Move the bar to `done` of `total`.

        The first call gives the starting point, so that resumed work does not inflate the rate.
        """
        self._bar.total = total
        if not self._resumed and done:
            self._resumed = True
            self._bar.initial = self._bar.n = self._bar.last_print_n = done
        self._bar.update(done - self._bar.n)
