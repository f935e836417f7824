"""Reading checkpoints: safe, strict, and clear about what is wrong."""

import dataclasses
import os
import pickle

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.model_defs.checkpoint import CheckpointError


class RunsCode:
    """A pickle that writes a file when it is opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        registry.load(path)
    message = str(caught.value)
    for word in (path.name, *words):
        assert word in message
    return message


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "a folder")


def test_empty_file(tmp_path):
    (tmp_path / "empty.pth").touch()
    refused(tmp_path / "empty.pth", "empty", "download it again")


def test_web_page(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    refused(tmp_path / "page.pth", "web page")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_that_would_run_code(tmp_path, legacy):
    path, target = tmp_path / "evil.pth", tmp_path / "written"
    if legacy:
        path.write_bytes(pickle.dumps({"params": RunsCode(target)}))
    else:
        torch.save({"params": RunsCode(target)}, path)
    refused(path, "would run code")
    assert not target.exists()


@pytest.mark.parametrize("kept", [20, 700, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_truncated(tmp_path, mini_file, mini_network, kind, kept):
    whole = tmp_path / f"whole.{kind}"
    if kind == "pth":
        torch.save({"params": mini_network.state_dict()}, whole)
    else:
        whole.write_bytes(mini_file.read_bytes())
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    refused(cut)


def test_foreign_network(tmp_path):
    path = tmp_path / "photo.pth"
    torch.save({"net.0.weight": torch.rand(3)}, path)
    message = refused(path, "not a known colorization checkpoint", "1 tensors", "net.0.weight")
    assert "Known: ddcolor" in message


def test_no_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "holds no weights")


def test_strict_load_names_tensors_and_shapes(mini_network, mini_config):
    state = dict(mini_network.state_dict())
    state["extra.weight"] = torch.rand(1)
    del state["fusion.conv.bias"]
    state["color_decoder.query_start"] = state["color_decoder.query_start"].T
    network = registry.build("ddcolor", mini_config, device="meta")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_strict(network, state, "a.pth")
    message = str(caught.value)
    assert "1 tensors missing: fusion.conv.bias" in message
    assert "1 tensors not known: extra.weight" in message
    assert (
        "1 tensors differ in shape: color_decoder.query_start is (32, 4), expected (4, 32)"
        in message
    )


def test_name_does_not_matter(tmp_path, mini_file, mini_config):
    path = tmp_path / "holiday.bin"
    path.write_bytes(mini_file.read_bytes())
    assert registry.load(path)[0].config == mini_config


def test_own_file_of_another_version(tmp_path, mini_network):
    path = tmp_path / "new.safetensors"
    path.write_bytes(
        checkpoint.to_bytes(
            mini_network.state_dict(), {"architecture": "ddcolor", "config": {"depth": 3}}
        )
    )
    refused(path, "config", "version")
    path.write_bytes(
        checkpoint.to_bytes(mini_network.state_dict(), {"architecture": "crayon", "config": {}})
    )
    with pytest.raises(CheckpointError, match="unknown architecture 'crayon'. Known: ddcolor"):
        registry.load(path)


@pytest.mark.parametrize(
    "info",
    [
        {"architecture": ["ddcolor"], "config": {}},
        {"architecture": "ddcolor", "config": {"depths": "abcd", "dims": (8, 8, 8, 8)}},
        {"architecture": "ddcolor", "config": "MINI", "spec": {"later": 1}},
        {"architecture": "ddcolor", "config": "NEGATIVE"},
        ["ddcolor"],
    ],
)
def test_odd_metadata_is_refused(tmp_path, mini_network, mini_config, info):
    config = dataclasses.asdict(mini_config)
    if isinstance(info, dict):
        named = {"MINI": config, "NEGATIVE": config | {"queries": -1}}
        info = info | {"config": named.get(str(info["config"]), info["config"])}
    path = tmp_path / "odd.safetensors"
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    with pytest.raises(CheckpointError):
        registry.load(path)


def test_published_file_that_lacks_a_tensor(tmp_path):
    state = {"decoder.color_decoder.query_feat.weight": torch.rand(4, 32)}
    torch.save(state | {"refine_net.0.0.bias": torch.rand(2)}, tmp_path / "part.pth")
    refused(tmp_path / "part.pth", "looks like ddcolor", "missing")


def test_half_precision_files_become_float32(tmp_path, mini_network, mini_config):
    path = tmp_path / "half.safetensors"
    state = {
        k: t.half() if t.is_floating_point() else t for k, t in mini_network.state_dict().items()
    }
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(mini_config)}
    path.write_bytes(checkpoint.to_bytes(state, info))
    network = registry.load(path)[0]
    assert {p.dtype for p in network.parameters()} == {torch.float32}
