"""Published checkpoints: how they come into the models folder.

A file is fetched only where its size and SHA-256 are known, lies beside its target as NAME.part
until both fit, and goes on from there after a stop. COLORIST_OFFLINE=1 (or HF_HUB_OFFLINE=1)
forbids downloads; HF_ENDPOINT names a mirror, which is safe because of the SHA-256.
"""

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

log = logging.getLogger(__name__)
SWITCHES = ("COLORIST_OFFLINE", "HF_HUB_OFFLINE")
ON = ("1", "ON", "YES", "TRUE")
PART, LOCK = ".part", ".lock"
CHUNK = 2**16  # bytes between two looks at the user's stop
BLOCK = 2**20  # bytes hashed at once
TIMEOUT = 30.0  # seconds of silence after which a connection counts as broken
TRIES = 3  # in a row that bring less than ENOUGH bytes; then the download gives up
ENOUGH = 2**20
PAUSE = 1.0  # seconds before the second try; twice that before the third
TELL = 0.1  # seconds between two calls of `progress`
TRANSIENT = (408, 416, 425, 429, 500, 502, 503, 504)  # answers that another try may change

Progress = Callable[[int, int], None]
Check = Callable[[], None]


class DownloadError(CheckpointError):
    """A published checkpoint cannot be had; the message says where to get it and where to put it.

    One line, because the command line shows one.
    """


class _Refused(Exception):
    """No other try would bring the file."""


class _Broken(Exception):
    """Another try may bring the file."""


def switched_off() -> str:
    """The environment variable that forbids downloads, or ""."""
    return next((name for name in SWITCHES if os.environ.get(name, "").upper() in ON), "")


def by_hand(known: Published, folder: Path) -> str:
    """A sentence: where to get the file and where to put it."""
    where = f"{known.url()} ({megabytes(known.bytes)})" if known.fetchable else known.get
    return f"Get it from {where} and put it into {folder} as {known.file}."


def why_not(known: Published, folder: Path, *, offline: bool = False) -> str:
    """Why a file that is not at hand cannot be downloaded, and what to do; "" where it can."""
    if not known.fetchable:
        return f"{known.file} is not at hand and cannot be downloaded. {by_hand(known, folder)}"
    if switch := switched_off() or ("offline" if offline else ""):
        return (
            f"{known.file} is not at hand, and downloads are switched off ({switch}). "
            f"{by_hand(known, folder)}"
        )
    return ""


# ---- downloads ----


def fetch(
    known: Published,
    folder: Path,
    *,
    base: str = "",
    offline: bool = False,
    progress: Progress | None = None,
    check: Check = lambda: None,
) -> Path:
    """Download a published checkpoint into `folder`, whole and as published or not at all.

    What has come stays beside it, as NAME.part, when the download breaks, when it is stopped, and
    when `check` raises; the next call goes on there. Where another process downloads the same
    file, this one waits for it.

    Args:
        base: a server to use instead of the hub. Only one that is given here may be plain http.
        offline: download nothing.
        progress: told of (bytes that have come, bytes of the file), at most ten times a second.
        check: called between chunks; what it raises ends the download.
    Returns:
        the file, which is not touched where it is there already.
    Raises:
        DownloadError: it is got by hand; downloads are switched off; no network; the server has
            something else; no room.
    """
    target = folder / known.file
    if target.is_file():
        return target
    if refused := why_not(known, folder, offline=offline):
        raise DownloadError(refused)
    url = known.url(base)
    if not base and urlsplit(url).scheme != "https":
        raise DownloadError(f"{url}: HF_ENDPOINT must begin with https://; change or unset it.")
    tell = _throttled(progress or (lambda done, total: None))
    part = target.with_name(target.name + PART)

    def wait() -> None:
        if come := _size(part):
            tell(come, known.bytes)
        _pause(0.5, check)

    log.info("downloading %s (%s) to %s", url, known.licence, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(target.with_name(target.name + LOCK), wait):
            if not target.is_file():  # unless the process waited for has brought it
                _complete(part, known, url, tell, check)
                _refuse_unless_published(part, known, check)
                os.replace(part, target)
    except (_Refused, _Broken, OSError) as error:
        come = f" {megabytes(_size(part))} have come and are kept." if _size(part) else ""
        raise DownloadError(
            f"{known.file} could not be downloaded: {_reason(error)}.{come} Try again later, or do "
            f"it by hand. {by_hand(known, folder)}"
        ) from error
    tell(known.bytes, known.bytes)
    return target


def on_stderr(name: str) -> Progress:
    """A progress that writes a line to stderr each five seconds."""
    began, first, said = time.monotonic(), -1, 0.0

    def progress(done: int, total: int) -> None:
        nonlocal first, said
        now = time.monotonic()
        first = done if first < 0 else first
        if now - said >= 5 or done == total:
            said = now
            pace = (done - first) / max(now - began, 1e-3) / 1e6
            sys.stderr.write(f"{name}: {done / 1e6:.0f} of {megabytes(total)}, {pace:.1f} MB/s\n")
            sys.stderr.flush()

    return progress


def sha256(path: Path, check: Check = lambda: None) -> str:
    """Of a file, in hex; `check` is called between blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            check()
    return digest.hexdigest()


def _complete(part: Path, known: Published, url: str, tell: Progress, check: Check) -> None:
    """Bring `part` to its full size, in as many requests as it takes."""
    if _size(part) > known.bytes:
        part.unlink()
    missing, free = known.bytes - _size(part), shutil.disk_usage(part.parent).free
    if missing > free:
        raise _Refused(
            f"there is no room: {megabytes(missing)} are needed, {megabytes(free)} are free"
        )
    opener, failures = _opener(), 0
    while (have := _size(part)) < known.bytes:
        check()
        try:
            _receive(opener, url, part, known, tell, check)
        except _Broken:
            failures = 1 if _size(part) - have >= ENOUGH else failures + 1
            if failures == TRIES:
                raise
            _pause(PAUSE * failures, check)


def _receive(
    opener: OpenerDirector, url: str, part: Path, known: Published, tell: Progress, check: Check
) -> None:
    """One request: what `part` lacks, or as much of it as comes."""
    have = _size(part)
    request = Request(url, headers={"User-Agent": "comfyui-colorist"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network():
        try:
            response = opener.open(request, timeout=TIMEOUT)
        except HTTPError as error:
            if error.code == 416:  # no such range: the next try begins anew
                part.unlink(missing_ok=True)
            raise
    with response:
        start = _start(response, known)
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise _Broken(f"the server sent bytes from {start} on, {have} were asked for")
        with part.open("ab" if start else "wb") as file:
            have = start  # 0 from servers that know no ranges
            while have < known.bytes:
                with _network():
                    chunk = response.read1(min(CHUNK, known.bytes - have))
                if not chunk:
                    raise _Broken(f"the connection ended after {have} of {known.bytes} bytes")
                file.write(chunk)
                have += len(chunk)
                tell(have, known.bytes)
                check()
            file.flush()
            os.fsync(file.fileno())


def _start(response: http.client.HTTPResponse, known: Published) -> int:
    """Which byte of the file an answer begins with; _Refused where it is another file."""
    if response.headers.get_content_type() == "text/html":
        raise _Refused("a web page came instead, perhaps the login of this network")
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d*)", response.headers.get("Content-Range", ""))
        start, total = (int(found[1]), found[2]) if found else (-1, "")
    if total.isdigit() and int(total) != known.bytes:
        raise _Refused(f"the file there has {total} bytes, expected {known.bytes}")
    return start


def _refuse_unless_published(part: Path, known: Published, check: Check) -> None:
    digest = sha256(part, check)
    if digest != known.sha256:
        part.unlink()
        raise _Refused(
            f"what came has the SHA-256 {digest}, expected {known.sha256}; it has been removed"
        )


@contextmanager
def _network() -> Iterator[None]:
    """Tells failures of the network from those of the disk, which are OSErrors, too."""
    try:
        yield
    except HTTPError as error:
        kind = _Broken if error.code in TRANSIENT else _Refused
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"no connection ({_reason(getattr(error, 'reason', error))})") from error


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to https alone; tests, which begin with http, may stay there."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise _Refused(f"the server sends on to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Opens addresses, through the proxies of the environment."""
    trust = ssl.create_default_context()
    with suppress(ImportError):  # beside the system's: some Pythons of macOS come without any
        import certifi

        trust.load_verify_locations(certifi.where())
    return build_opener(_Redirects, HTTPSHandler(context=trust))


@contextmanager
def _alone(path: Path, wait: Check) -> Iterator[None]:
    """Hold the lock file `path`; calls `wait` again and again while another process holds it.

    The system gives it back when a process dies: a file that is left over holds nobody up.
    """
    while True:
        file = path.open("ab")
        try:
            free = _lock(file)
            if free and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        except FileNotFoundError:
            free = True  # the other one has just removed it
        except BaseException:
            file.close()
            raise
        file.close()
        if not free:
            wait()
    try:
        yield
    finally:
        if fcntl:
            path.unlink(missing_ok=True)  # while it is held: nobody can have taken it
        file.close()
        if not fcntl:
            with suppress(OSError):  # Windows keeps it while another process has it open
                path.unlink()


def _lock(file: BinaryIO) -> bool:
    """Whether the lock is ours now; also where the file system knows no locks."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def _throttled(progress: Progress) -> Progress:
    """Calls `progress` at most each TELL seconds, and once at the end."""
    said, last = 0.0, -1

    def tell(done: int, total: int) -> None:
        nonlocal said, last
        if done != last and (done == total or time.monotonic() - said >= TELL):
            said, last = time.monotonic(), done
            progress(done, total)

    return tell


def _pause(seconds: float, check: Check) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: object) -> str:
    """A few words on an error; names the file of those of the disk."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    return f"{words}: {name}" if name and not isinstance(error, HTTPError) else words
