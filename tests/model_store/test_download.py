"""Downloads of published checkpoints, from a server on this machine."""

import hashlib
import json
import logging
import runpy
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request

import filelock
import pytest
from comfyui_colorist import load_model
from comfyui_colorist.model_defs.checkpoint import SUFFIXES, CheckpointError
from comfyui_colorist.model_store import catalog, download, resolve

FILE_SERVER = Path(__file__).resolve().parents[1] / "file_server.py"
file_server = SimpleNamespace(**runpy.run_path(str(FILE_SERVER)))
CONTENT = bytes(range(256)) * 4000  # a megabyte, many chunks


@pytest.fixture
def server(monkeypatch):
    for name in (*download.OFFLINE_VARIABLES, "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "RETRY_DELAY", 0.0)
    running = file_server.FileServer(CONTENT)
    yield running
    running.close()


@pytest.fixture
def known(server):
    return catalog.Published(**server.known())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


def part_of(folder: Path, content: bytes = b"") -> Path:
    """The unfinished file; with content, as an earlier download left it."""
    part = folder / "mine.safetensors.part"
    if content:
        folder.mkdir()
        part.write_bytes(content)
    return part


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- What comes --------------------------------------------------------------------------------


def test_complete_download(server, known, folder, caplog):
    reported = []
    with caplog.at_level(logging.INFO):
        path = download.fetch(
            known, folder, base=server.url, progress=lambda *now: reported.append(now)
        )
    assert path == folder / "mine.safetensors"
    assert path.read_bytes() == CONTENT
    assert left(folder) == [path.name]
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert reported.count(reported[-1]) == 1
    assert known.url(server.url) in caplog.text and "MIT" in caplog.text


def test_existing_file_is_kept(server, known, folder):
    folder.mkdir()
    (folder / known.file).write_bytes(b"put here by hand")
    download.fetch(known, folder, base=server.url)
    assert (folder / known.file).read_bytes() == b"put here by hand"
    assert server.asked == []


def test_resume(server, known, folder):
    part_of(folder, CONTENT[:300_000])
    reported = []
    download.fetch(known, folder, base=server.url, progress=lambda *now: reported.append(now))
    assert server.asked == ["bytes=300000-"]
    assert reported[0][0] > 300_000
    assert (folder / known.file).read_bytes() == CONTENT
    assert left(folder) == [known.file]


def test_server_without_range_requests(server, known, folder):
    part_of(folder, b"x" * 300_000)
    server.ranges = False
    download.fetch(known, folder, base=server.url)
    assert (folder / known.file).read_bytes() == CONTENT


def test_complete_part_is_only_verified(server, known, folder):
    part_of(folder, CONTENT)
    download.fetch(known, folder, base=server.url)
    assert server.asked == []
    assert left(folder) == [known.file]


def test_oversized_part_is_discarded(server, known, folder):
    part_of(folder, CONTENT + b"x")
    download.fetch(known, folder, base=server.url)
    assert server.asked == [""]
    assert (folder / known.file).read_bytes() == CONTENT


def test_rejected_range_starts_over(server, known, folder):
    part_of(folder, CONTENT[:300_000])
    server.status = [416]
    download.fetch(known, folder, base=server.url)
    assert server.asked == ["bytes=300000-", ""]
    assert (folder / known.file).read_bytes() == CONTENT


def test_wrong_range_starts_over(server, known, folder):
    part_of(folder, CONTENT[:300_000])
    server.headers = {"Content-Range": f"bytes 5-9/{len(CONTENT)}"}
    download.fetch(known, folder, base=server.url)
    assert server.asked == ["bytes=300000-", ""]
    assert (folder / known.file).read_bytes() == CONTENT


def test_broken_connections_are_resumed(server, known, folder, monkeypatch):
    monkeypatch.setattr(download, "PROGRESS_BYTES", 1)
    server.cut = 400_000
    download.fetch(known, folder, base=server.url)
    assert server.asked == ["", "bytes=400000-", "bytes=800000-"]
    assert (folder / known.file).read_bytes() == CONTENT


def test_busy_server_is_retried(server, known, folder):
    server.status = [503, 429]
    download.fetch(known, folder, base=server.url)
    assert len(server.asked) == 3


# --- What does not -----------------------------------------------------------------------------


def refused(known, folder, server, **options) -> str:
    with pytest.raises(download.DownloadError) as error:
        download.fetch(known, folder, base=server.url, **options)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message and known.file in message
    assert known.url() in message or known.source in message
    assert not (folder / known.file).exists()
    return message


def test_truncated_transfer_is_kept(server, known, folder):
    server.cut = 100_000
    message = refused(known, folder, server)
    assert "connection" in message and "0 MB were received and are kept" in message
    assert len(server.asked) == download.MAX_FAILURES
    assert part_of(folder).read_bytes() == CONTENT[: 3 * 100_000]
    server.cut = 0
    download.fetch(known, folder, base=server.url)
    assert (folder / known.file).read_bytes() == CONTENT


def test_wrong_bytes_are_removed(server, known, folder):
    server.content = CONTENT[:-1] + b"x"
    message = refused(known, folder, server)
    assert hashlib.sha256(server.content).hexdigest() in message
    assert known.sha256 in message
    assert left(folder) == []


def test_file_of_another_size_is_not_downloaded(server, known, folder):
    part = part_of(folder, CONTENT[:300_000])
    for server.ranges in (True, False):
        server.content = CONTENT + b"x"
        message = refused(known, folder, server)
        assert f"has {len(CONTENT) + 1} bytes, expected {len(CONTENT)}" in message
        assert part.read_bytes() == CONTENT[:300_000]


def test_web_page_instead_of_file(server, known, folder):
    part = part_of(folder, CONTENT[:300_000])
    server.ranges, server.headers = False, {"Content-Type": "text/html; charset=utf-8"}
    assert "a web page instead" in refused(known, folder, server)
    assert part.read_bytes() == CONTENT[:300_000]


def test_missing_file(server, known, folder):
    server.status = [404]
    assert "the server answers 404 Not Found" in refused(known, folder, server)
    assert len(server.asked) == 1


def test_no_network(server, known, folder):
    server.close()
    assert "no connection (" in refused(known, folder, server)


def test_silent_server(server, known, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    server.stall = 0.5
    assert "no connection (timed out)" in refused(known, folder, server)


def test_full_disk(server, known, folder, monkeypatch):
    usage = SimpleNamespace(free=len(CONTENT) - 1)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    assert "the disk is full: 1 MB are needed, 1 MB are free." in refused(known, folder, server)
    assert server.asked == []
    part_of(folder).write_bytes(CONTENT[:2])  # what is there needs no room
    download.fetch(known, folder, base=server.url)


def test_impossible_folder(server, known, tmp_path):
    (tmp_path / "models").write_bytes(b"a file")
    message = refused(known, tmp_path / "models" / "colorization", server)
    assert "Not a directory" in message


@pytest.mark.parametrize("switch", [*download.OFFLINE_VARIABLES, ""])
def test_offline(server, known, folder, monkeypatch, switch):
    if switch:
        monkeypatch.setenv(switch, "1")
    message = refused(known, folder, server, offline=not switch)
    assert f"downloads are switched off ({switch or 'offline'})" in message
    assert server.asked == []


def test_cancel_keeps_the_part(server, known, folder):
    class Stop(BaseException):
        pass

    chunks = iter(range(5))

    def check():
        if next(chunks, None) is None:
            raise Stop

    with pytest.raises(Stop):
        download.fetch(known, folder, base=server.url, check=check)
    come = part_of(folder).stat().st_size
    assert 0 < come < len(CONTENT)
    assert left(folder) == ["mine.safetensors.part"]
    download.fetch(known, folder, base=server.url)
    assert server.asked == ["", f"bytes={come}-"]
    assert (folder / known.file).read_bytes() == CONTENT


def test_concurrent_calls_download_once(server, known, folder):
    server.stall = 0.3
    found = []

    def one():
        found.append(download.fetch(known, folder, base=server.url))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [folder / known.file] * 3
    assert server.asked == [""]
    assert left(folder) == [known.file]


def test_waiting_can_be_cancelled(server, known, folder):
    def check():
        raise KeyboardInterrupt

    folder.mkdir()
    lock = folder / "mine.safetensors.lock"
    with filelock.FileLock(lock), pytest.raises(KeyboardInterrupt):
        download.fetch(known, folder, base=server.url, check=check)
    assert left(folder) == [lock.name]


def test_only_https(server, known, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(download.DownloadError, match="HF_ENDPOINT must begin with https://"):
        download.fetch(known, folder)
    assert server.asked == []
    follow = download._HttpsRedirects().redirect_request
    asked = Request("https://example.org/a")
    assert follow(asked, None, 302, "", {}, "https://example.org/b").full_url.endswith("/b")
    with pytest.raises(download._PermanentError, match="http://example.org/b, which is not https"):
        follow(asked, None, 302, "", {}, "http://example.org/b")


def test_mirror(known, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert known.url() == "https://huggingface.co/somebody/models/resolve/1/mine"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert known.url() == "https://mirror.example.org/somebody/models/resolve/1/mine"


# --- The table ---------------------------------------------------------------------------------


def test_catalog():
    names = set()
    for name, known in catalog.PUBLISHED.items():
        assert known.name == name
        assert known.license and known.description and known.source
        assert known.role in ("automatic", "exemplar")
        assert Path(known.file).suffix in SUFFIXES
        assert bool(known.size) == bool(known.sha256) == bool(known.hub_path) == known.downloadable
        assert all(
            len(digest) == 64 for digest in (known.sha256, *known.equivalent_sha256) if digest
        )
        names |= {known.file, name}
    assert len(names) == 2 * len(catalog.PUBLISHED)  # nothing answers to two


def test_catalog_agrees_with_the_reference_data(reference):
    for name, known in catalog.PUBLISHED.items():
        file = reference / f"{name.removesuffix('_no_pos')}.json"
        files = json.loads(file.read_bytes())["checkpoint"]["files"]
        assert known.file in {f["file"] for f in files} | {f"{name}.bin"}
        hashes = {f["sha256"]: f for f in files if "sha256" in f and "hub" not in f}
        assert {known.sha256, *known.equivalent_sha256} - {""} == set(hashes)
        if known.downloadable:
            source = hashes[known.sha256]
            revision = source.get("revision", "main")
            assert known.hub_path == f"{source['repo']}/resolve/{revision}/{source['file']}"
            assert known.size == source["bytes"]


@pytest.mark.parametrize(
    "name, found",
    [
        ("ddcolor_modelscope", "ddcolor_modelscope"),
        ("ddcolor_modelscope.pth", "ddcolor_modelscope"),
        ("ddcolor_modelscope.safetensors", "ddcolor_modelscope"),
        ("ddcolor_modelscope.pth (download 912 MB)", "ddcolor_modelscope"),
        ("ddcolor_paper_tiny.pth", "ddcolor_paper_tiny"),
        ("ddcolor_paper.PTH", "ddcolor_paper"),
        ("net_g_200000.pth", "colorformer"),
        ("xcnet_no_pos_model.pth", "xcnet_no_pos"),
        ("ddcolor_modelscope.jpg", None),
        ("sub/ddcolor_modelscope.pth", None),
        ("../ddcolor_modelscope.pth", None),
        ("ddcolor-nano", None),
        ("", None),
    ],
)
def test_names(name, found):
    known = catalog.find_published(name)
    assert (known and known.name) == found


def test_find_installed():
    tiny = catalog.PUBLISHED["ddcolor_paper_tiny"]
    names = ["a.pth", "sub/ddcolor_paper_tiny.pth", "sub\\ddcolor_paper_tiny.bin"]
    assert catalog.find_installed(tiny, names[:1]) is None
    assert catalog.find_installed(tiny, names[:2]) == names[1]
    assert catalog.find_installed(tiny, names) == names[2]  # its own ending first
    assert catalog.display_label(tiny) == "ddcolor_paper_tiny.bin (download 220 MB)"


# --- Opening by name ---------------------------------------------------------------------------


@pytest.fixture
def published(server, known, mini_file, monkeypatch, tmp_path):
    """The miniature as a published checkpoint, and an empty models folder."""
    server.content = mini_file.read_bytes()
    known = catalog.Published(**server.known())
    monkeypatch.setattr(catalog, "PUBLISHED", {"mine": known})
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "installed"))
    fetch = download.fetch
    monkeypatch.setattr(
        download, "fetch", lambda *args, **options: fetch(*args, base=server.url, **options)
    )
    return known


@pytest.mark.parametrize("name", ["mine", "mine.safetensors", "mine.pth"])
def test_load_downloads(published, server, name, mini_network, capsys, tmp_path):
    network = load_model(name)
    assert network.config == mini_network.config
    assert (tmp_path / "installed" / "mine.safetensors").is_file()
    assert "mine.safetensors: " in capsys.readouterr().err
    load_model(name)
    assert len(server.asked) == 1


def test_load_finds_installed_files(published, server, mini_file, tmp_path):
    there = tmp_path / "installed" / "sub" / "mine.bin"
    there.parent.mkdir(parents=True)
    there.write_bytes(mini_file.read_bytes())
    assert resolve.model_path("mine") == resolve.model_path("mine.pth") == there
    assert server.asked == []


def test_load_offline(published, server, monkeypatch):
    with pytest.raises(CheckpointError, match="downloads are switched off"):
        resolve.model_path("mine", offline=True)
    monkeypatch.setenv("COLORIST_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="downloads are switched off"):
        load_model("mine")
    assert server.asked == []


def test_manual_instructions(monkeypatch, tmp_path):
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path))
    for name, part in {
        "colorformer": "https://drive.google.com/drive/folders/1ktv0DJFteII4kLb7II0c88jW36aE_hBu",
        "xcnet_model.pth": "https://github.com/bbc/xcnet",
        "ddcolor_paper": "https://huggingface.co/piddnad/DDColor-models",
    }.items():
        with pytest.raises(
            download.DownloadError, match="cannot be downloaded automatically"
        ) as error:
            load_model(name)
        file = catalog.find_published(name).file
        assert part in str(error.value)
        assert str(error.value).endswith(f"put it into {tmp_path} as {file}.")


def test_unknown_names_list_the_published_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path))
    for name in ("nope", "./ddcolor_modelscope.pth", "sub/ddcolor_modelscope.pth"):
        with pytest.raises(CheckpointError, match="Published: ddcolor_modelscope, "):
            resolve.model_path(name)


def test_published_files_are_listed_by_role(tmp_path):
    (tmp_path / "xcnet_model.pth").write_bytes(b"x")
    assert resolve.may_have_role(tmp_path / "xcnet_model.pth", "exemplar")
    assert not resolve.may_have_role(tmp_path / "xcnet_model.pth", "automatic")
