"""Downloads of published checkpoints into the models folder.

Only files with a known size and SHA-256 are downloaded. An unfinished file is kept as NAME.part
and resumed by the next attempt. COLORIST_OFFLINE=1 (or HF_HUB_OFFLINE=1) forbids downloads;
HF_ENDPOINT selects a mirror, which is safe because of the SHA-256.

huggingface_hub is not used, because these guarantees would be lost (version 2.4, 2026-11):
`hf_hub_download` deletes the unfinished file when it is interrupted, only warns if the disk is too
small, and offers no way to cancel; `http_get` resumes and can be cancelled, but only between blocks
of 10 MB, and is not public.
"""

import hashlib
import http.client
import importlib
import logging
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from ..model_defs.checkpoint import CheckpointError
from .catalog import Published, megabytes

log = logging.getLogger(__name__)

OFFLINE_VARIABLES = ("COLORIST_OFFLINE", "HF_HUB_OFFLINE")
TRUE_VALUES = ("1", "ON", "YES", "TRUE")
CHUNK_BYTES = 2**16
HASH_BLOCK_BYTES = 2**20
TIMEOUT = 30.0  # seconds without data
MAX_FAILURES = 3  # in a row, each with less than PROGRESS_BYTES
PROGRESS_BYTES = 2**20
RETRY_DELAY = 1.0  # seconds before the second attempt; twice that before the third
REPORT_INTERVAL = 0.1  # seconds between calls of `progress`
TRANSIENT_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int, int], None]


class DownloadError(CheckpointError):
    """A published checkpoint cannot be downloaded; the message says where to get it.

    The message is a single line, because the command line shows only the first one.
    """


class _PermanentError(Exception):
    """A failure that another attempt cannot mend."""


class _TransientError(Exception):
    """A failure that another attempt may mend."""


def offline_variable() -> str:
    """Return the name of the environment variable that forbids downloads; empty if none does."""
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").upper() in TRUE_VALUES:
            return name
    return ""


def manual_instructions(model: Published, folder: Path) -> str:
    """Return a sentence that says where to get the file and where to put it."""
    size = f" ({megabytes(model.size)})" if model.downloadable else ""
    source = model.url() or model.source
    return f"Get it from {source}{size} and put it into {folder} as {model.file}."


def unavailable_reason(model: Published, folder: Path, *, offline: bool = False) -> str:
    """Return why a model that is not installed cannot be downloaded; empty if it can."""
    if not model.downloadable:
        reason = "cannot be downloaded automatically"
    elif variable := offline_variable() or ("offline" if offline else ""):
        reason = f"downloads are switched off ({variable})"
    else:
        return ""
    return f"{model.file} is not installed, and {reason}. {manual_instructions(model, folder)}"


def fetch(
    model: Published,
    folder: Path,
    *,
    base: str = "",
    offline: bool = False,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Download a published checkpoint into `folder`, completely and verified, or not at all.

    If another process is downloading the same file, wait for it.

    Args:
        model: entry of the catalog.
        folder: models folder; created if needed.
        base: server used instead of the hub. Only one that is given here may use plain HTTP.
        offline: download nothing.
        progress: called with (bytes received, bytes in total), at most ten times a second. None
            shows a progress bar on stderr.
        check: called between chunks; may raise to cancel. The part received so far is kept.
    Returns:
        the file. An existing one is returned as it is.
    Raises:
        DownloadError: the file has to be downloaded manually, downloads are switched off, the
            network fails, the server has another file, or the disk is full.
    """
    target = folder / model.file
    if target.is_file():
        return target
    if reason := unavailable_reason(model, folder, offline=offline):
        raise DownloadError(reason)
    url = model.url(base)
    if not base and urlsplit(url).scheme != "https":
        raise DownloadError(f"{url}: HF_ENDPOINT must begin with https://; change or unset it.")
    part, lock = (target.with_name(f"{target.name}.{suffix}") for suffix in ("part", "lock"))
    log.info("downloading %s (%s) to %s", url, model.license, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _bar_unless(progress, model) as report:
            transfer = _Transfer(url, part, model, report, check)
            with _locked(lock, transfer.report_and_check):
                if not target.is_file():  # otherwise the process waited for has downloaded it
                    transfer.run()
                    os.replace(part, target)
            report(model.size, model.size)
    except (_PermanentError, _TransientError, OSError) as error:
        kept = f" {megabytes(_size(part))} were received and are kept." if _size(part) else ""
        raise DownloadError(
            f"{model.file} could not be downloaded: {_reason(error)}.{kept} Try again later, or "
            f"download it manually. {manual_instructions(model, folder)}"
        ) from error
    return target


def sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file in hex; `check` is called between blocks and may raise."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
            check()
    return digest.hexdigest()


@contextmanager
def _bar_unless(progress: Progress | None, model: Published) -> Generator[Progress, None, None]:
    """Return `progress`, or else a progress bar on stderr."""
    if progress is not None:
        yield progress
        return
    from ..console.progress import Progress as ProgressBar

    with ProgressBar(model.file, "B", model.size) as bar:
        yield bar.report


@dataclass
class _Transfer:
    """Transfer of one file, in as many requests as it needs."""

    url: str
    part: Path
    model: Published
    progress: Progress
    check: Callable[[], None]
    last_report: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Bring `part` to its full size and verify it."""
        if _size(self.part) > self.model.size:
            self.part.unlink()
        needed, free = self.model.size - _size(self.part), shutil.disk_usage(self.part.parent).free
        if needed > free:
            raise _PermanentError(
                f"the disk is full: {megabytes(needed)} are needed, {megabytes(free)} are free"
            )
        opener, failures = _opener(), 0
        while (received := _size(self.part)) < self.model.size:
            self.check()
            try:
                self._request(opener, received)
            except _TransientError:
                advanced = _size(self.part) - received >= PROGRESS_BYTES
                failures = 1 if advanced else failures + 1
                if failures == MAX_FAILURES:
                    raise
                self._sleep(RETRY_DELAY * failures)
        digest = sha256(self.part, self.check)
        if digest != self.model.sha256:
            self.part.unlink()
            raise _PermanentError(
                f"the downloaded file has the SHA-256 {digest}, expected {self.model.sha256}; "
                "it has been removed"
            )

    def report_and_check(self) -> None:
        """Report the size of the part, at most every REPORT_INTERVAL, and call `check`."""
        now, size = time.monotonic(), _size(self.part)
        if 0 < size < self.model.size and now - self.last_report >= REPORT_INTERVAL:
            self.last_report = now
            self.progress(size, self.model.size)
        self.check()

    def _request(self, opener: OpenerDirector, received: int) -> None:
        """Request the rest of the file and append as much of it as arrives."""
        request = Request(self.url, headers={"User-Agent": "comfyui-colorist"})
        if received:
            request.add_header("Range", f"bytes={received}-")
        with _network_errors():
            try:
                response = opener.open(request, timeout=TIMEOUT)
            except HTTPError as error:
                if error.code == 416:  # range not satisfiable: the next attempt starts over
                    self.part.unlink(missing_ok=True)
                raise
        with response:
            start = _first_byte(response, self.model)
            if start not in (0, received):
                self.part.unlink(missing_ok=True)
                raise _TransientError(f"the server sent bytes from {start} instead of {received}")
            with self.part.open("ab" if start else "wb", buffering=0) as file:
                received = start  # 0 from servers without range requests
                while received < self.model.size:
                    with _network_errors():
                        chunk = response.read1(min(CHUNK_BYTES, self.model.size - received))
                    if not chunk:
                        raise _TransientError(
                            f"the connection ended after {received} of {self.model.size} bytes"
                        )
                    file.write(chunk)
                    received += len(chunk)
                    self.report_and_check()
                os.fsync(file.fileno())

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(remaining, 0.1))


def _first_byte(response: http.client.HTTPResponse, model: Published) -> int:
    """Return the position at which a response starts; -1 if it does not say so.

    Raises:
        _PermanentError: the response is another file.
    """
    if response.headers.get_content_type() == "text/html":
        raise _PermanentError(
            "the server sent a web page instead, perhaps the login of this network"
        )
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.match(r"bytes (\d+)-\d+/(\d*)", content_range)
        start, total = (int(match[1]), match[2]) if match else (-1, "")
    if total.isdigit() and int(total) != model.size:
        raise _PermanentError(f"the file there has {total} bytes, expected {model.size}")
    return start


@contextmanager
def _network_errors() -> Generator[None, None, None]:
    """Convert errors of the network, to tell them from errors of the disk, also OSErrors."""
    try:
        yield
    except HTTPError as error:
        kind = _TransientError if error.code in TRANSIENT_STATUS else _PermanentError
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = _reason(getattr(error, "reason", error))
        raise _TransientError(f"no connection ({reason})") from error


class _HttpsRedirects(HTTPRedirectHandler):
    """Follows redirects only to HTTPS, or to HTTP if the first request used it, as in tests."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise _PermanentError(f"the server redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Return an opener that uses the proxies of the environment."""
    context = ssl.create_default_context()
    with suppress(ImportError):  # Pythons on macOS may lack certificates
        context.load_verify_locations(importlib.import_module("certifi").where())
    return build_opener(_HttpsRedirects, HTTPSHandler(context=context))


@contextmanager
def _locked(path: Path, wait: Callable[[], None]) -> Generator[None, None, None]:
    """Hold the lock file `path`; call `wait` repeatedly while another process holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            wait()
        except (NotImplementedError, OSError):  # some network drives have no locks
            break  # two downloads at once then fail by their SHA-256
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove a file that is open, and keeps it
            path.unlink()  # before the release, or another process could already hold the lock
        lock.release()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: object) -> str:
    """Return the reason of an error in a few words, with the name of the file if known."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    return f"{text}: {name}" if name and not isinstance(error, HTTPError) else text
