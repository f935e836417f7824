"""Finding and fetching networks; the downloads themselves are stood in for."""

import hashlib
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.model_store import download as downloads
from comfyui_colorist.trainers import pretrained_files

CONTENT = b"weights of a network"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty models folder; its sub-folder for networks of others."""
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    for switch in downloads.OFFLINE_VARIABLES:
        monkeypatch.delenv(switch, raising=False)
    return tmp_path / "models" / "training"


class Hub:
    """Stands in for huggingface_hub: gives CONTENT, declares `digest`."""

    def __init__(self, digest=DIGEST, error=None):
        self.digest, self.error, self.asked = digest, error, []

    def HfApi(self):
        return self

    def get_paths_info(self, repository, paths):
        self.asked.append((repository, *paths))
        return [SimpleNamespace(lfs=SimpleNamespace(sha256=self.digest))]

    def hf_hub_download(self, repository, file, local_dir):
        (local_dir / file).write_bytes(CONTENT[:5])
        if self.error:
            raise self.error
        (local_dir / file).write_bytes(CONTENT)
        return str(local_dir / file)


@pytest.fixture
def hub(monkeypatch):
    def start(**options):
        hub = Hub(**options)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        return hub

    return start


def nothing_left(folder):
    return not folder.exists() or not list(folder.iterdir())


def test_a_file_goes_first(tmp_path, folder, hub):
    asked = hub().asked
    own = tmp_path / "vgg16_bn"
    own.write_bytes(b"mine")
    assert pretrained_files.locate(own) == own
    folder.mkdir(parents=True)
    (folder / "vgg16_bn.pth").write_bytes(b"put there")
    (folder / "special.safetensors").write_bytes(b"put there")
    assert pretrained_files.locate("vgg16_bn", offline=True) == folder / "vgg16_bn.pth"
    assert pretrained_files.locate("vgg16_bn.pth") == folder / "vgg16_bn.pth"
    assert pretrained_files.locate("special") == folder / "special.safetensors"
    assert not asked


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="resnet: no such file, and not a known name.*vgg16_bn"):
        pretrained_files.locate("resnet")


def test_download_from_the_hub(folder, hub):
    asked = hub().asked
    result = pretrained_files.locate("vgg16_bn")
    assert result == folder / "vgg16_bn.safetensors" and result.read_bytes() == CONTENT
    assert asked == [("timm/vgg16_bn.tv_in1k", "model.safetensors")]
    assert pretrained_files.locate("vgg16_bn") == result and len(asked) == 1
    note = json.loads((folder / "vgg16_bn.safetensors.json").read_text())
    assert note["sha256"] == DIGEST and note["licence"] == "BSD-3-Clause"
    assert sorted(p.name for p in folder.iterdir()) == [result.name, result.name + ".json"]


def test_wrong_hash_is_refused_and_removed(folder, hub):
    hub(digest="0" * 64)
    with pytest.raises(
        ValueError, match=f"has the SHA-256 {DIGEST}, expected 0000.*it was removed"
    ):
        pretrained_files.locate("vgg19")
    assert nothing_left(folder)


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("lost")])
def test_failed_download_leaves_nothing_and_says_what_to_do(error, folder, hub):
    hub(error=error)
    with pytest.raises(ValueError) as refused:
        pretrained_files.locate("swin_tiny")
    assert str(error) in str(refused.value)
    assert "https://huggingface.co/timm/swin_tiny_patch4_window7_224" in str(refused.value)
    assert f"put it at {folder / 'swin_tiny.safetensors'}" in str(refused.value)
    assert nothing_left(folder)


def test_interrupted_download_leaves_nothing(folder, hub):
    hub(error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pretrained_files.locate("vgg16_bn")
    assert nothing_left(folder)


def test_without_the_hub_s_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        ValueError, match="vgg16 .*download failed.*huggingface_hub.*Download https"
    ):
        pretrained_files.locate("vgg16")
    assert nothing_left(folder)


@pytest.mark.parametrize("how", ["argument", *downloads.OFFLINE_VARIABLES])
def test_offline_says_what_is_missing(how, folder, hub, monkeypatch):
    asked = hub().asked
    if how != "argument":
        monkeypatch.setenv(how, "1")
    known = pretrained_files.CATALOG["inception_fid"]
    expected = (
        f"inception_fid ({known.description}; for: FID) is not installed, and downloads are "
        f"switched off ({'offline' if how == 'argument' else how}). Download {known.url} and put "
        f"it at {folder / 'inception_fid.pth'}, or give the path of your own file."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        pretrained_files.locate("inception_fid", offline=how == "argument")
    assert nothing_left(folder) and not asked


def test_zero_does_not_switch_downloads_off(folder, hub, monkeypatch):
    hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert pretrained_files.locate("vgg16").is_file()


def test_download_from_a_link(folder, monkeypatch):
    known = pretrained_files.CATALOG["inception_fid"]

    def download(url, path, hash_prefix):
        assert url == known.download_url and hash_prefix in ("6726825d", DIGEST[:8])
        with open(path, "wb") as file:
            file.write(CONTENT)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ValueError, match=f"has the SHA-256 {DIGEST}, expected 6726825d"):
        pretrained_files.locate("inception_fid")
    assert nothing_left(folder)
    good = pretrained_files.PretrainedNetwork(
        description="", purpose="", licence="", download_url=known.download_url, sha256=DIGEST
    )
    monkeypatch.setitem(pretrained_files.CATALOG, "inception_fid", good)
    assert pretrained_files.locate("inception_fid") == folder / "inception_fid.pth"


def test_file_digest(tmp_path, folder, hub, monkeypatch):
    file = tmp_path / "own.pth"
    file.write_bytes(CONTENT)
    assert pretrained_files.file_digest(file) == DIGEST[:12]
    (tmp_path / "own.pth.json").write_text("[]")  # somebody else's
    assert pretrained_files.file_digest(file) == DIGEST[:12]
    hub()
    fetched = pretrained_files.locate("vgg16")
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "sha256", None)  # what was noted is not computed again
        assert pretrained_files.file_digest(fetched) == DIGEST[:12]
    fetched.write_bytes(b"another network")
    assert (
        pretrained_files.file_digest(fetched) == hashlib.sha256(b"another network").hexdigest()[:12]
    )


@pytest.mark.parametrize("name", pretrained_files.CATALOG)
def test_known_networks_say_all_there_is_to_say(name):
    known = pretrained_files.CATALOG[name]
    assert known.description and known.purpose and known.licence
    assert bool(known.repository) != bool(known.download_url)
    assert not known.download_url or (
        len(known.sha256) == 64 and known.sha256[:8] in known.download_url
    )
    assert known.url.startswith("https://") and known.suffix in (".safetensors", ".pth")
