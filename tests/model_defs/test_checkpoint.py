"""Checkpoints are read safely and strictly; errors name the problem."""

import argparse
import copyreg
import dataclasses
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from safetensors.torch import save


class RunsCode:
    """A pickle that writes a file when it is opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


def assert_refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        registry.load(path)
    message = str(caught.value)
    for word in (path.name, *words):
        assert word in message
    return message


def test_missing_file_and_folder(tmp_path):
    assert_refused(tmp_path / "none.pth", "no such file")
    (tmp_path / "folder.pth").mkdir()
    assert_refused(tmp_path / "folder.pth", "a folder")


def test_empty_file(tmp_path):
    (tmp_path / "empty.pth").touch()
    assert_refused(tmp_path / "empty.pth", "empty", "download it again")


def test_web_page(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    assert_refused(tmp_path / "page.pth", "web page")


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_that_would_run_code(tmp_path, legacy):
    path, target = tmp_path / "evil.pth", tmp_path / "written"
    if legacy:
        path.write_bytes(pickle.dumps({"params": RunsCode(target)}))
    else:
        torch.save({"params": RunsCode(target)}, path)
    assert_refused(path, "would run code")
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
    assert_refused(cut)


def test_foreign_network(tmp_path):
    path = tmp_path / "photo.pth"
    torch.save({"net.0.weight": torch.rand(3)}, path)
    message = assert_refused(
        path, "not a known colorization checkpoint", "1 tensors", "net.0.weight"
    )
    assert "Known: ddcolor" in message


def test_no_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "holds no weights")


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


def test_file_of_another_version(tmp_path, mini_network):
    path = tmp_path / "new.safetensors"
    path.write_bytes(
        checkpoint.to_bytes(
            mini_network.state_dict(), {"architecture": "ddcolor", "config": {"depth": 3}}
        )
    )
    assert_refused(path, "config", "version")
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
def test_malformed_metadata_is_refused(tmp_path, mini_network, mini_config, info):
    config = dataclasses.asdict(mini_config)
    if isinstance(info, dict):
        configs = {"MINI": config, "NEGATIVE": config | {"queries": -1}}
        info = info | {"config": configs.get(str(info["config"]), info["config"])}
    path = tmp_path / "malformed.safetensors"
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    with pytest.raises(CheckpointError):
        registry.load(path)


def test_published_file_that_lacks_a_tensor(tmp_path):
    state = {"decoder.color_decoder.query_feat.weight": torch.rand(4, 32)}
    torch.save(state | {"refine_net.0.0.bias": torch.rand(2)}, tmp_path / "part.pth")
    assert_refused(tmp_path / "part.pth", "looks like ddcolor", "missing")


def test_half_precision_files_become_float32(tmp_path, mini_network, mini_config):
    path = tmp_path / "half.safetensors"
    state = {
        k: t.half() if t.is_floating_point() else t for k, t in mini_network.state_dict().items()
    }
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(mini_config)}
    path.write_bytes(checkpoint.to_bytes(state, info))
    network = registry.load(path)[0]
    assert {p.dtype for p in network.parameters()} == {torch.float32}


# --- Small files that ask for much memory ---------------------------------------------------------


class Asks:
    """Pickles as a call of a global function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def storage(count=4):
    return torch.zeros(count)._typed_storage()


@pytest.fixture
def never_loaded(monkeypatch):
    """Fails if a file is unpickled: it must be refused by what it declares."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        Asks(bytearray, 8 * 2**30),
        Asks(bytes, 8 * 2**30),
        Asks(torch._utils._rebuild_tensor_v2, storage(), 0, (2**31,), (1,), False, {}),
        Asks(torch._utils._rebuild_tensor_v2, storage(), 2**40, (1,), (1,), False, {}),
        Asks(torch._utils._rebuild_tensor_v2, storage(), 0, (2**20,) * 3, (1, 0, 0), False, {}),
        Asks(torch._utils._rebuild_tensor_v2, storage(), 0, (-1,), (1,), False, {}),
        Asks(torch._utils._rebuild_tensor_v2, storage(), 0, (1,) * 99, (1,) * 99, False, {}),
        {((((1,),),),): 1},
    ],
)
def test_declared_sizes_are_checked_first(tmp_path, never_loaded, content, legacy):
    path = tmp_path / "small.pth"
    torch.save({"a": content}, path, _use_new_zipfile_serialization=not legacy)
    assert_refused(path, "fill the memory", ".safetensors")


def test_tensors_that_repeat_one_value(tmp_path):
    """Stride 0 needs no memory until a tensor is converted."""
    path = tmp_path / "wide.pth"
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, path)
    assert_refused(path, "4,398,046,511,104 bytes", "save them again")
    torch.save({"a": torch.zeros(1).expand(2**10)}, path)
    assert_refused(path, "not a known colorization checkpoint")


def test_one_tensor_under_many_names(tmp_path):
    path, tensor = tmp_path / "many.pth", torch.zeros(2**12)
    torch.save({str(i): tensor for i in range(10_000)}, path)
    assert_refused(path, "many times the size of the file")


def test_objects_that_are_copied_again_and_again(tmp_path, never_loaded):
    path, items = tmp_path / "copies.pth", [(str(i), i) for i in range(2000)]
    torch.save({str(i): Asks(OrderedDict, items) for i in range(1000)}, path)
    assert_refused(path, "copies too much")


@pytest.mark.parametrize("member", ["small/data.pkl", "small/data/0", "small/other"])
def test_compressed_members(tmp_path, never_loaded, member):
    whole, path = tmp_path / "whole.pth", tmp_path / "small.pth"
    torch.save({"a": torch.zeros(10)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            inner = name.replace("whole/", "small/")
            kind = zipfile.ZIP_DEFLATED if inner == member else zipfile.ZIP_STORED
            new.writestr(inner, old.read(name), kind)
        if member.endswith("other"):
            new.writestr(member, bytes(10**6), zipfile.ZIP_DEFLATED)
    assert_refused(path, "compressed")


def test_repeated_members(tmp_path, never_loaded):
    path = tmp_path / "twice.pth"
    torch.save({"a": torch.zeros(10)}, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("TWICE/DATA.PKL", b"")
    assert_refused(path, "same name")


def test_safetensors_with_a_huge_header(tmp_path):
    path = tmp_path / "header.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert_refused(path, "header")


class OldParameter:
    """Pickles as a parameter of torch before 0.4, such as those of torchvision's VGG-19."""

    def __init__(self, *state):
        self.state = state

    @property
    def __class__(self):
        return torch.nn.Parameter

    def __reduce_ex__(self, _):
        return copyreg.__newobj__, (torch.nn.Parameter,), self.state


def test_parameters_of_old_files(tmp_path, monkeypatch):
    path, tensor = tmp_path / "old.pth", torch.arange(4.0)
    old = OldParameter(tensor, None, OrderedDict(), True, False)
    torch.save({"a": old}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(checkpoint.read(path)[0]["a"], tensor)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for state in [(storage(), 0, (2**40,)), (storage(), 0, (2**40,), (1,)), (tensor,)]:
        torch.save({"a": OldParameter(*state)}, path)
        assert_refused(path, "refused")


def test_unknown_storage_key(tmp_path):
    """torch.load answers with an AssertionError."""
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    key = re.findall(rb"X.\x00\x00\x00(\d{6,})", data)[-1]
    before, _, after = data.rpartition(key)
    path.write_bytes(before + b"7" * len(key) + after)
    with pytest.raises(CheckpointError, match="x.pth: damaged, truncated or not a checkpoint"):
        checkpoint.read(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_files_of_training_scripts_are_read(tmp_path, legacy):
    """Every kind of value that weights-only files contain beside tensors."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(3, 2)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.rand(2)),
        "values": [1, -1, 2**40, 1.5, None, True, (1, 2), {3}, b"x", "text", torch.Size([2])],
        "dtype": torch.float32,
        "views": torch.rand(4, 4)[1:, ::2],
        "half": [torch.zeros(2, dtype=d) for d in (torch.half, torch.bfloat16, torch.int8)],
    }
    path = tmp_path / "training.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    tensors, info = checkpoint.read(path)
    assert info == {}
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensors[key], tensor)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1e-4), "argparse.Namespace"),
        (np.float64(23.4), "scalar"),
        (np.zeros(3), "_reconstruct"),
        (Path("runs"), "Path"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("legacy", [True, False])
def test_objects_of_training_scripts_are_refused_by_name(tmp_path, value, name, legacy):
    path = tmp_path / "training.pth"
    content = {"state_dict": {"a": torch.zeros(2)}, "args": value}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = assert_refused(path, "more than tensors", name, "Use a file with plain weights")
    assert "\n" not in message


@pytest.mark.parametrize("container", [*checkpoint.CONTAINERS, None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_containers_and_prefixes(tmp_path, container, prefix):
    path = tmp_path / "published.pth"
    state = {f"{prefix}{name}": torch.full((2,), float(i)) for i, name in enumerate("ab")}
    content = {container: state, "epoch": 3, "optimizer": {"state": {}}} if container else state
    torch.save(content, path)
    tensors, _ = checkpoint.read(path)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [0, 0], "b": [1, 1]}


# --- Odd contents --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({1: torch.zeros(2)}, "a tensor has the name 1, which is not text"),
        ({"a": torch.zeros(2), 2: torch.zeros(2)}, "the name 2"),
        ([torch.zeros(2)], "holds no weights"),
        (torch.zeros(2), "holds no weights"),
        ({}, "holds no weights"),
        ({"a": torch.zeros(0)}, "not a known colorization checkpoint"),
    ],
)
def test_odd_names(tmp_path, state, words):
    torch.save(state, tmp_path / "odd.pth")
    assert_refused(tmp_path / "odd.pth", words)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_weights_that_are_not_floating_point(tmp_path, mini_network, mini_config, dtype):
    path = tmp_path / "odd.safetensors"
    state = {key: tensor.to(dtype) for key, tensor in mini_network.state_dict().items()}
    info = {"architecture": "ddcolor", "config": dataclasses.asdict(mini_config)}
    path.write_bytes(checkpoint.to_bytes(state, info))
    assert_refused(path, "not of the expected type", str(dtype).removeprefix("torch."), "float32")


@pytest.mark.parametrize(
    "text",
    [
        '{"architecture": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a": ' * 100_000,
        "[]",
        "1",
        "",
        '{"a": NaN}',
        '{"architecture": ["ddcolor"], "config": {}}',
        '{"architecture": "ddcolor", "config": []}',
        '{"architecture": "ddcolor", "config": {}, "licence": {"a": 1}}',
        '{"kind": ["color memory"]}',
        '{"training": 1}',
    ],
)
def test_hostile_metadata(tmp_path, text):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"colorist": text}))
    assert_refused(path)
    assert isinstance(checkpoint.read_info(path), dict)
    assert registry.role_of(path) is None
    with pytest.raises(CheckpointError, match=r"^hostile.safetensors: .* again\.$"):
        registry.describe(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_opened(tmp_path):
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    assert_refused(path, "not a regular file")
    assert checkpoint.read_info(path) == {}
