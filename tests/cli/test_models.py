"""`colorist models`: list, fetch, verify, convert."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist import cli
from comfyui_colorist.cli import options as cli_options
from comfyui_colorist.console.progress import Progress
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.model_store import catalog, download, resolve
from safetensors.torch import save

ROOT = Path(__file__).resolve().parents[1]
file_server = SimpleNamespace(**runpy.run_path(str(ROOT / "file_server.py")))


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An empty models folder."""
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def server(mini_file, monkeypatch):
    """Serves the miniature, which with a file by hand is all that is published."""
    for name in (*download.OFFLINE_VARIABLES, "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "RETRY_DELAY", 0.0)
    running = file_server.FileServer(mini_file.read_bytes())
    table = [
        catalog.Published(**running.known()),
        catalog.Published(
            name="by_hand",
            file="by_hand.pth",
            role="exemplar",
            description="another",
            license="none stated",
            source="its author",
        ),
    ]
    monkeypatch.setattr(catalog, "PUBLISHED", {known.name: known for known in table})
    fetch = download.fetch
    monkeypatch.setattr(
        download, "fetch", lambda *args, **options: fetch(*args, base=running.url, **options)
    )
    yield running
    running.close()


# --- list --------------------------------------------------------------------------------------


def test_list(installed, mini_file, capsys):
    (installed / "mine.safetensors").write_bytes(mini_file.read_bytes())
    (installed / "ddcolor_artistic.pth").write_bytes(b"x" * 100_000)
    assert run("models", "list") == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "bundled        Apache-2.0; ImageNet-pretrained encoder" in rows["ddcolor-nano"]
    assert "models folder" in rows["mine.safetensors"]
    assert "0.1 MB  models folder  Apache-2.0" in rows["ddcolor_artistic.pth"]
    assert "ddcolor_artistic" not in rows
    assert "912.0 MB  to download    Apache-2.0" in rows["ddcolor_modelscope"]
    assert "manual         code GPL-3.0, none stated for the weights" in rows["xcnet"]
    assert f"models folder: {installed}" in err


def test_list_json(installed, mini_file, capsys):
    (installed / "mine.safetensors").write_bytes(mini_file.read_bytes())
    (installed / "net_g_200000.pth").write_bytes(b"x")
    assert run("models", "list", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["folder"] == str(installed)
    assert {
        "name": "mine.safetensors",
        "file": str(installed / "mine.safetensors"),
        "bytes": mini_file.stat().st_size,
        "boxed": False,
        "licence": "",
    } in result["models"]
    published = {model["name"]: model for model in result["published"]}
    assert published["colorformer"]["at_hand"] == "net_g_200000.pth"
    assert published["colorformer"]["url"] is None
    large = published["ddcolor_modelscope"]
    assert large["at_hand"] is None
    assert large["bytes"] == 911_950_059
    assert large["url"].startswith("https://")
    assert len(large["sha256"]) == 64


def test_list_survives_bad_files(installed, mini_file, capsys):
    """Each bad file is one line with its name; the others are listed."""
    good = mini_file.read_bytes()
    (installed / "good.safetensors").write_bytes(good)
    for name, text in {
        "digits": '{"licence": ' + "9" * 5000 + "}",
        "deep": "[" * 100_000,
        "type": '{"licence": ["a"]}',
        "config": '{"architecture": "ddcolor", "config": {"depths": 1e999}}',
    }.items():
        (installed / f"{name}.safetensors").write_bytes(
            save({"a": torch.zeros(1)}, metadata={"colorist": text})
        )
    license = json.dumps({"architecture": "ddcolor", "licence": "\x1b[2Jfree\r\n"})
    (installed / "kind.safetensors").write_bytes(
        save({"a": torch.zeros(1)}, metadata={"colorist": '{"kind": "x", ' + license[1:]})
    )
    (installed / "cut.safetensors").write_bytes(good[:100])
    for options in ([], ["--json"]):
        assert run("models", "list", *options) == 0
        out, err = capsys.readouterr()
        assert "good.safetensors" in out and "ddcolor-nano" in out
        problems = [line for line in err.splitlines() if line.startswith("unusable: ")]
        for name in ("digits", "deep", "type", "config", "cut"):
            (line,) = (line for line in problems if f"{name}.safetensors: " in line)
            assert line.endswith(" again.")
        assert len(problems) == 5
        assert "\x1b" not in out + err
    assert resolve.may_have_role(installed / "deep.safetensors", "automatic")


# --- fetch -------------------------------------------------------------------------------------


def test_fetch(server, installed, capsys):
    file = installed / "mine.safetensors"
    assert run("models", "fetch", "all") == 0
    out, err = capsys.readouterr()
    assert out == f"{file}\n"
    assert "mine: a miniature; license: MIT" in err
    assert file.read_bytes() == server.content
    assert run("models", "fetch", "mine", "mine.pth") == 0
    out, err = capsys.readouterr()
    assert out == f"{file}\n"
    assert err == "mine is already installed.\n"
    assert len(server.asked) == 1


def test_fetch_of_a_manual_download(server, installed, capsys):
    assert run("models", "fetch", "by_hand", "mine") == 1
    out, err = capsys.readouterr()
    assert out == f"{installed / 'mine.safetensors'}\n"
    assert (
        "failed: by_hand.pth is not installed, and cannot be downloaded automatically. Get it from"
        in err
    )
    assert f"its author and put it into {installed} as by_hand.pth." in err


def test_fetch_fails(server, installed, capsys, monkeypatch):
    server.status = [404]
    assert run("models", "fetch", "mine") == 1
    assert "failed: mine.safetensors could not be downloaded: the server answers 404" in (
        capsys.readouterr().err
    )
    monkeypatch.setenv("COLORIST_OFFLINE", "1")
    assert run("models", "fetch", "mine") == 1
    assert "downloads are switched off (COLORIST_OFFLINE)" in capsys.readouterr().err
    assert run("models", "fetch", "mine", "nope") == 2
    assert (
        "nope is not a published model. Published: mine, by_hand; or all."
        in capsys.readouterr().err
    )
    assert list(installed.iterdir()) == []


def test_fetch_interrupted(server, installed, monkeypatch):
    def stop(self, done, total):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "report", stop)
        assert run("models", "fetch", "mine") == 130
    assert [path.name for path in installed.iterdir()] == ["mine.safetensors.part"]
    assert run("models", "fetch", "mine") == 0
    assert server.asked[1].startswith("bytes=")


def test_model_is_downloaded_on_first_use(server, installed, tmp_path, capsys):
    out = tmp_path / "new.safetensors"
    assert run("models", "convert", "mine", "-o", out) == 0
    assert registry.load(out)
    assert (installed / "mine.safetensors").is_file()


# --- verify ------------------------------------------------------------------------------------


def test_verify(installed, mini_file, capsys):
    (installed / "mine.safetensors").write_bytes(mini_file.read_bytes())
    assert run("models", "verify") == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert rows["mine.safetensors"].endswith("good: ddcolor, automatic")
    assert rows["exemplar-nano"].endswith("good: exemplar, exemplar")
    assert err == f"{len(rows)} good, 0 not.\n"


def test_verify_published_files(server, installed, mini_network, monkeypatch, capsys):
    """Recognised by their content under any name; one under its own name must be the published."""
    plain = checkpoint.to_bytes(mini_network.state_dict(), {})
    server.content = plain
    known = catalog.Published(**server.known())
    monkeypatch.setattr(catalog, "PUBLISHED", {"mine": known})
    loaded = (mini_network, registry.module_of("ddcolor").spec(mini_network.config), {})
    monkeypatch.setattr(registry, "load", lambda _: loaded)
    (installed / "mine.safetensors").write_bytes(plain)
    (installed / "renamed.safetensors").write_bytes(plain)
    (installed / "other.pth").write_bytes(b"other")
    names = ("mine.safetensors", "renamed.safetensors", "other.pth")
    assert run("models", "verify", *names) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("good: ")[1] for row in rows] == [
        "ddcolor, automatic, as published",
        "ddcolor, automatic, as published",
        "ddcolor, automatic, its SHA-256 is not in the catalog",
    ]
    (installed / "mine.safetensors").write_bytes(plain[:-1] + b"x")
    assert run("models", "verify", "mine", "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["failed"] == 1
    [record] = result["files"]
    assert record["published"] is None
    assert "delete it and run: colorist models fetch mine" in record["error"]


def test_verify_damaged_files(installed, mini_file, capsys):
    (installed / "cut.safetensors").write_bytes(mini_file.read_bytes()[:-10])
    assert run("models", "verify", "cut.safetensors", "ddcolor-nano") == 1
    out, err = capsys.readouterr()
    assert "failed: cut.safetensors: damaged or truncated" in out
    assert err == "1 good, 1 not.\n"
    assert run("models", "verify", "nope") == 2
    assert "nope is not installed. Installed: ddcolor-nano, " in capsys.readouterr().err


# --- convert -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", cli_options.DTYPES)
def test_models_convert(tmp_path, mini_file, mini_network, dtype):
    import torch

    out = tmp_path / "new" / "x.safetensors"
    assert run("models", "convert", mini_file, "-o", out, "--dtype", dtype) == 0
    state, info = checkpoint.read(out)
    assert info["architecture"] == "ddcolor"
    assert info["origin"]["file"] == mini_file.name
    assert len(info["origin"]["sha256"]) == 64
    network, _, _ = registry.load(out)
    assert network.config == mini_network.config
    for name, tensor in mini_network.state_dict().items():
        if tensor.is_floating_point():
            assert state[name].dtype == getattr(torch, dtype)
            assert torch.equal(state[name], tensor.to(state[name].dtype))


def test_models_convert_of_a_published_file(tmp_path, mini_network):
    """A plain .pth has no metadata; the converted file has, and is recognised by it alone."""
    import torch

    state = checkpoint.to_bytes(mini_network.state_dict(), {})
    (tmp_path / "x.safetensors").write_bytes(state)
    torch.save({"params": mini_network.state_dict()}, tmp_path / "x.pth")
    with pytest.MonkeyPatch.context() as patch:
        loaded = (mini_network, registry.module_of("ddcolor").spec(mini_network.config), {})
        patch.setattr(registry, "load", lambda _: loaded)
        assert run("models", "convert", tmp_path / "x.pth", "-o", tmp_path / "y.safetensors") == 0
    assert registry.load(tmp_path / "y.safetensors")[0].config == mini_network.config


def test_models_convert_usage_errors(tmp_path, mini_file, mini_network, capsys):
    import torch

    def message(*arguments: object) -> str:
        assert run("models", "convert", *arguments) == 2
        return capsys.readouterr().err

    out = tmp_path / "x.safetensors"
    assert "must end in .safetensors" in message(mini_file, "-o", tmp_path / "x.pth")
    out.write_bytes(b"mine")
    (tmp_path / "cut.safetensors").write_bytes(mini_file.read_bytes()[:500])
    assert "already exists" in message(mini_file, "-o", out)
    assert "is the input" in message(mini_file, "-o", mini_file, "--overwrite")
    assert "damaged" in message(tmp_path / "cut.safetensors", "-o", tmp_path / "y.safetensors")
    state = {name: tensor.clone() for name, tensor in mini_network.state_dict().items()}
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[first].fill_(1e6)
    info = checkpoint.read(mini_file)[1]
    (tmp_path / "big.safetensors").write_bytes(checkpoint.to_bytes(state, info))
    result = message(tmp_path / "big.safetensors", "-o", out, "--overwrite", "--dtype", "float16")
    assert f"{first} does not fit into float16; use bfloat16." in result
    assert out.read_bytes() == b"mine"
    assert torch.isfinite(state[first]).all()
