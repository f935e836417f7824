"""Files of version 1.0.0, roles from metadata, and the protocols of architectures and networks."""

import dataclasses
import inspect
import json
import logging

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, protocols, registry
from safetensors import safe_open

KERNEL_FIELDS = {"use_x": "sideways", "kernel_count": "spaces", "embedding_width": "learned"}
KERNEL_TENSORS = {
    "kernel.inverse_lightness_scale": "kernel.light",
    "kernel.inverse_spatial_scale": "kernel.place",
    "kernel.constant": "kernel.shared",
}


def bundled(root, name):
    """Return the path, the metadata and the tensor names of a bundled file."""
    path = root / "weights" / f"{name}.safetensors"
    with safe_open(path, framework="pt") as file:
        return path, json.loads(file.metadata()["colorist"]), set(file.keys())


@pytest.mark.parametrize("name", ["exemplar-nano", "pointhint-nano"])
def test_bundled_files_load_by_their_old_names(root, name):
    path, info, names = bundled(root, name)
    assert {"sideways", "spaces", "learned"} <= info["config"]["kernel"].keys()
    assert set(KERNEL_TENSORS.values()) <= names
    network, spec, _ = registry.load(path)
    kernel = network.config.kernel
    assert (kernel.kernel_count, kernel.embedding_width) == (3, 8)
    assert kernel.use_x == (name == "pointhint-nano")
    assert registry.role_of(path) == spec.role
    stored, _ = checkpoint.read(path)
    state = network.state_dict()
    for new, old in KERNEL_TENSORS.items():
        assert torch.equal(state[new], stored[old].float())


def test_every_old_name_has_a_current_one(root):
    """A file with all old names and one with all new names give the same network."""
    path, info, _ = bundled(root, "exemplar-nano")
    assert info["config"]["told"] == 256
    network, _, _ = registry.load(path)
    assert network.config.cells_per_reference == 256
    fields = dataclasses.asdict(network.config)
    assert registry.parse_config("exemplar", fields) == network.config
    old = {**fields, "told": fields["cells_per_reference"]}
    del old["cells_per_reference"]
    old["kernel"] = {KERNEL_FIELDS.get(k, k): v for k, v in fields["kernel"].items()}
    assert registry.parse_config("exemplar", old) == network.config
    used = set(KERNEL_FIELDS.values()) | {"told"}
    assert used == registry.CONFIG_ALIASES.keys()
    assert set(KERNEL_TENSORS.values()) == registry.TENSOR_ALIASES.keys()


OLD_SPECS = {  # as the trainers of version 1.0.0 wrote them
    "mini_network": {"resolution": 512, "fade": 3.0, "gain": 1.2},
    "mini_colorformer_network": {"resolution": 128, "fade": 0.0, "gain": 1.0},
    "mini_exemplar_network": {"resolution": 256},
    "mini_pointhint_network": {"resolution": 224, "prior": True},
}
OLD_CONFIG_FIELDS = {new: old for old, new in registry.CONFIG_ALIASES.items()}
ADDED_FIELDS = {"mini_network": ["encoder"], "mini_colorformer_network": ["encoder", "dims"]}


def old_config(fields):
    """Return a config with the field names of version 1.0.0."""
    return {
        OLD_CONFIG_FIELDS.get(name, name): old_config(value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }


@pytest.mark.parametrize("fixture", OLD_SPECS)
def test_files_of_the_trainers_of_version_1_0_0_load(request, tmp_path, fixture):
    network = request.getfixturevalue(fixture)
    fields, spec = dataclasses.asdict(network.config), OLD_SPECS[fixture]
    for name in ADDED_FIELDS.get(fixture, []):
        del fields[name]
    old_tensors = {new: old for old, new in registry.TENSOR_ALIASES.items()}
    state = {old_tensors.get(key, key): tensor for key, tensor in network.state_dict().items()}
    architecture = next(
        name
        for name, (_, class_name) in registry.ARCHITECTURES.items()
        if class_name == type(network).__name__
    )
    training = {"steps": 8, "licences": ["CC0"], "before": [{"what": "preset nano"}]}
    info = {"architecture": architecture, "config": old_config(fields), "training": training}
    path = tmp_path / "old.safetensors"
    path.write_bytes(checkpoint.to_bytes(state, info | {"licence": "", "spec": spec}))
    loaded, loaded_spec, _ = registry.load(path)
    assert loaded.config == network.config
    assert {name: getattr(loaded_spec, name) for name in spec} == spec
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_current_names_are_written(mini_pointhint_network, tmp_path):
    path = tmp_path / "new.safetensors"
    info = {
        "architecture": "pointhint",
        "config": dataclasses.asdict(mini_pointhint_network.config),
    }
    path.write_bytes(checkpoint.to_bytes(mini_pointhint_network.state_dict(), info))
    state, info = checkpoint.read(path)
    assert not registry.TENSOR_ALIASES.keys() & state.keys()
    assert not registry.CONFIG_ALIASES.keys() & info["config"]["kernel"].keys()
    assert registry.load(path)[0].config == mini_pointhint_network.config


# --- Roles ---------------------------------------------------------------------------------------


def test_role_is_read_again_when_the_file_changes(mini_file, mini_pointhint_file, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(mini_file.read_bytes())
    assert registry.role_of(path) == "automatic"
    path.write_bytes(mini_pointhint_file.read_bytes())
    assert registry.role_of(path) == "pointhint"
    path.unlink()
    with pytest.raises(OSError):
        registry.role_of(path)


def test_unreadable_roles_are_logged_for_debugging(tmp_path, caplog):
    foreign, broken = tmp_path / "foreign.pth", tmp_path / "broken.safetensors"
    torch.save({"weight": torch.zeros(1)}, foreign)
    info = {"architecture": "ddcolor", "config": {"depth": 3}}
    broken.write_bytes(checkpoint.to_bytes({"weight": torch.zeros(1)}, info))
    with caplog.at_level(logging.DEBUG, registry.__name__):
        assert registry.role_of(foreign) is None
        assert not caplog.records
        assert registry.role_of(broken) is None
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and "broken.safetensors" in record.getMessage()


# --- Protocols -----------------------------------------------------------------------------------


def members(protocol):
    return {name for name in vars(protocol) if not name.startswith("_") or name == "__call__"}


@pytest.mark.parametrize("architecture", registry.ARCHITECTURES)
def test_architecture_modules_satisfy_the_protocol(architecture):
    module = registry.module_of(architecture)
    assert architecture == module.NAME
    for name in members(protocols.ArchitectureModule):
        assert hasattr(module, name), name
    published = isinstance(module, protocols.PublishedArchitecture)
    assert published == (architecture != "pointhint")


@pytest.mark.parametrize(
    ("fixture", "protocol"),
    [
        ("mini_network", protocols.AutomaticNetwork),
        ("mini_colorformer_network", protocols.MemoryNetwork),
        ("mini_exemplar_network", protocols.ReferenceNetwork),
        ("mini_pointhint_network", protocols.HintNetwork),
    ],
)
def test_networks_satisfy_the_protocol_of_their_role(fixture, protocol, request):
    network = request.getfixturevalue(fixture)
    for name in members(protocol):
        assert hasattr(network, name), name
        if name != "__call__" and inspect.isfunction(member := vars(protocol)[name]):
            expected = list(inspect.signature(member).parameters)[1:]
            actual = list(inspect.signature(getattr(network, name)).parameters)
            assert actual[: len(expected)] == expected
