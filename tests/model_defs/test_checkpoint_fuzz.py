"""Structured mutation of checkpoints: every file loads or is refused in one sentence.

The short run is part of the suite. The long one is `pytest -m slow` of this file.
"""

import copy
import dataclasses
import json
import math
import pickle
import struct
import zipfile

import pytest
import torch
from comfyui_colorist.model_defs import registry
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

LIMITS = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
SHORT, LONG = settings(max_examples=25, **LIMITS), settings(max_examples=2000, **LIMITS)
SCALARS = st.sampled_from(
    [None, True, "", "ddcolor", "\x1b[2J", 0, -1, 1, 3, 2**40, 10**4000, 0.5, -1.0, 1e308]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=9,
)
TENSORS = st.sampled_from(
    [
        torch.zeros(0),
        torch.zeros(()),
        torch.tensor([math.nan, math.inf]),
        torch.zeros(3, 4, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(1).expand(2**40),
        torch.zeros(2, 0, 3).half(),
    ]
)


def check(path, network):
    """Load a file; the only other outcome is one line that names it."""
    registry.role_of(path)
    try:
        loaded, spec, _ = registry.load(path)
    except CheckpointError as error:
        assert "\n" not in str(error).strip() and len(str(error)) < 2000
        return
    assert isinstance(loaded, nn.Module) and 0 <= spec.gain <= 4
    count = sum(p.numel() for p in loaded.parameters())
    assert count == sum(p.numel() for p in network.parameters())


def mutate_info(info, draw):
    """Change, add or remove one entry at any depth."""
    here = info
    while True:
        keys = sorted(here)
        key = draw(st.sampled_from([*keys, "unknown"]))
        inner = here.get(key)
        if isinstance(inner, dict) and inner and draw(st.booleans()):
            here = inner
            continue
        break
    if draw(st.booleans()) and key in here:
        del here[key]
    elif isinstance(inner, list | tuple) and inner and draw(st.booleans()):
        here[key] = [*inner[:-1], draw(VALUES)]
    else:
        here[key] = draw(VALUES)


def mutate_state(state, draw):
    key = draw(st.sampled_from(sorted(state)))
    action = draw(st.sampled_from(["delete", "rename", "replace", "transpose", "scale"]))
    tensor = state.pop(key)
    if action == "rename":
        state[draw(st.sampled_from(["", "a", f"module.{key}", f"{key}.x", "\x1b"]))] = tensor
    elif action == "replace":
        state[key] = draw(TENSORS)
    elif action == "transpose":
        state[key] = tensor.mT.contiguous() if tensor.ndim > 1 else tensor[None]
    elif action == "scale":
        state[key] = tensor * draw(st.sampled_from([0, 1e38, math.nan]))


def fuzz_own_files(path, network, draw):
    state, architecture = dict(network.state_dict()), type(network).__name__.lower()
    info = {
        "architecture": {"xcnet": "exemplar"}.get(architecture, architecture),
        "config": dataclasses.asdict(network.config),
        "spec": {"resolution": 64, "fade": 1.0, "gain": 0.9},
        "licence": "none",
    }
    info = json.loads(json.dumps(info))
    for _ in range(draw(st.integers(0, 2))):
        mutate_info(info, draw)
    if draw(st.booleans()):
        mutate_state(state, draw)
    state = {key: tensor.contiguous() for key, tensor in state.items() if tensor.numel() < 2**30}
    text = json.dumps(info)
    if draw(st.integers(0, 9)) == 0:
        text = text.replace("[", "[" * draw(st.sampled_from([2, 10**5])))
    path.write_bytes(mutate_bytes(save(state, metadata={"colorist": text}), draw))
    check(path, network)


def fuzz_pickles(path, network, draw):
    state = dict(network.state_dict())
    if draw(st.booleans()):
        mutate_state(state, draw)
    content = draw(st.sampled_from([state, {"params": state}, {"state_dict": {"a": state}}]))
    content = copy.copy(content)
    content[draw(st.sampled_from(["epoch", 1, (1, 2), None]))] = draw(VALUES)
    torch.save(content, path, _use_new_zipfile_serialization=draw(st.booleans()))
    if zipfile.is_zipfile(path) and draw(st.booleans()):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = draw(st.sampled_from(sorted(members)))
        members[name] = mutate_bytes(members[name], draw)
        kind = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    check(path, network)


def mutate_bytes(data, draw):
    """Cut, flip, insert or overwrite a few bytes, sometimes with opcodes and large lengths."""
    if not data or draw(st.integers(0, 3)):
        return data
    start = draw(st.integers(0, min(len(data), 4000) - 1))
    piece = draw(
        st.sampled_from(
            [
                b"",
                b"\0",
                b"\xff" * 8,
                struct.pack("<Q", 2**40),
                pickle.REDUCE,
                pickle.BUILD,
                pickle.LONG_BINPUT + b"\xff" * 4,
                pickle.BINUNICODE + b"\xff" * 4,
                b"cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R",
            ]
        )
    )
    end = draw(st.sampled_from([start, start + 1, start + len(piece), len(data)]))
    return data[:start] + piece + data[end:]


RUNS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("fuzz", [fuzz_own_files, fuzz_pickles])
@pytest.mark.filterwarnings("ignore")
def test_mutated_checkpoints(tmp_path, mini_network, mini_pointhint_network, fuzz, run):
    number = 0

    @run
    @given(st.data())
    def mutate(data):
        nonlocal number
        number += 1  # a new name, because roles are cached by path and time
        network = mini_network
        if fuzz is fuzz_own_files and data.draw(st.booleans()):
            network = mini_pointhint_network
        path = tmp_path / f"{number}.pth"
        fuzz(path, network, data.draw)
        path.unlink()

    mutate()
