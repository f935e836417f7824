"""The model folder and Load Automatic Colorizer."""

import os

import pytest
import torch
from safetensors.torch import save_file


def options(host, put):
    schema = host.nodes.LoadAutomatic.GET_SCHEMA()
    return next(i.options for i in schema.inputs if i.id == put)


def test_lists_networks_and_nothing_else(host, folder, network_bytes):
    for name in ("memories", "training", "sub"):
        (folder / name).mkdir()
    for name in (
        "a.safetensors",
        "b.pth",
        "sub/c.pt",
        "d.BIN",
        "README.md",
        "memories/m.safetensors",
        "training/vgg16_bn.safetensors",
    ):
        (folder / name).write_bytes(b"x")
    listed = {name.replace(os.sep, "/") for name in options(host, "model")}
    boxed = set(host.bridge.models.boxed())
    assert listed - boxed == {"a.safetensors", "b.pth", "sub/c.pt", "d.BIN"}


def test_a_file_added_later_is_listed_and_loads(host, folder, network_bytes):
    assert "new.safetensors" not in options(host, "model")
    (folder / "new.safetensors").write_bytes(network_bytes())
    assert "new.safetensors" in options(host, "model")
    loaded = host.nodes.LoadAutomatic.execute("new.safetensors", "auto").args[0]
    assert loaded.spec.role == "automatic"
    assert loaded.dtype == torch.float32  # auto on a CPU


def test_boxed_networks_come_first(host, folder, network_bytes, monkeypatch):
    (folder / "a.safetensors").write_bytes(b"x")
    box = folder.parent / "box"
    box.mkdir()
    (box / "tiny.safetensors").write_bytes(network_bytes())
    monkeypatch.setattr(host.bridge.models, "BOX", box)
    assert options(host, "model") == ["tiny", "a.safetensors"]
    assert host.nodes.LoadAutomatic.execute("tiny", "fp32").args[0].name == "tiny.safetensors"


@pytest.mark.parametrize(
    "shown, meant",
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision(host, folder, network_bytes, shown, meant):
    (folder / "mini.safetensors").write_bytes(network_bytes())
    loaded = host.nodes.LoadAutomatic.execute("mini.safetensors", shown).args[0]
    assert {p.dtype for p in loaded.placement.patcher.model.parameters()} == {meant}


def test_auto_precision_on_a_gpu_is_bf16_where_the_host_says_so(host, monkeypatch):
    monkeypatch.setattr(host.mm, "get_torch_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(host.mm, "should_use_bf16", lambda device=None: True)
    assert host.bridge.best_dtype() == "bfloat16"
    monkeypatch.setattr(host.mm, "should_use_bf16", lambda device=None: False)
    assert host.bridge.best_dtype() == "float32"


def test_unknown_precision_is_refused(host, folder, network_bytes):
    (folder / "mini.safetensors").write_bytes(network_bytes())
    with pytest.raises(ValueError, match="precision is 'fp8'; expected one of auto, fp32"):
        host.nodes.LoadAutomatic.execute("mini.safetensors", "fp8")


def test_a_network_of_another_role_is_refused(host, folder, network_bytes):
    (folder / "other.safetensors").write_bytes(network_bytes(spec={"role": "exemplar"}))
    expected = "is a network of the role 'exemplar'.*this node opens 'automatic' networks"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadAutomatic.execute("other.safetensors", "auto")


def test_point_hint_networks_have_their_own_loader(
    host, folder, network_bytes, mini_pointhint_file
):
    (folder / "automatic.safetensors").write_bytes(network_bytes())
    (folder / "hints.safetensors").write_bytes(mini_pointhint_file.read_bytes())
    names = host.nodes.LoadPointHint.GET_SCHEMA().inputs[0].options
    assert "hints.safetensors" in names
    assert "automatic.safetensors" not in names
    assert "hints.safetensors" not in options(host, "model")
    loaded = host.nodes.LoadPointHint.execute("hints.safetensors", "auto").args[0]
    assert loaded.spec.role == "pointhint"
    expected = "is a network of the role 'automatic' .*this node opens 'pointhint' networks"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadPointHint.execute("automatic.safetensors", "auto")
    expected = "is a network of the role 'pointhint' .*this node opens 'automatic' networks"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadAutomatic.execute("hints.safetensors", "auto")


def test_fingerprint_of_a_point_hint_network_follows_its_file(host, folder, mini_pointhint_file):
    file = folder / "hints.safetensors"
    file.write_bytes(mini_pointhint_file.read_bytes())
    mark = host.nodes.LoadPointHint.fingerprint_inputs
    first = mark(model="hints.safetensors")
    os.utime(file, ns=(0, 10**9))
    assert mark(model="hints.safetensors") != first
    assert mark(model="../hints.safetensors").endswith("missing")


def test_a_file_that_is_no_checkpoint_is_refused(host, folder):
    (folder / "page.pth").write_bytes(b"<!doctype html>")
    with pytest.raises(ValueError, match="page.pth: this is a web page"):
        host.nodes.LoadAutomatic.execute("page.pth", "auto")


@pytest.mark.parametrize(
    "name", ["../x.pth", "/etc/x.pth", "..", "", "sub/../../x.pth", "nope.pth"]
)
def test_only_listed_names_are_opened(host, folder, network_bytes, name):
    (folder.parent / "x.pth").write_bytes(network_bytes())
    with pytest.raises(ValueError, match="is not in the list"):
        host.nodes.LoadAutomatic.execute(name, "auto")
    assert host.nodes.LoadAutomatic.fingerprint_inputs(model=name).endswith("missing")


def test_an_absolute_path_is_refused(host, folder, network_bytes):
    file = folder / "mini.safetensors"
    file.write_bytes(network_bytes())
    with pytest.raises(ValueError, match="is not in the list"):
        host.bridge.network_path(str(file))


def test_fingerprint_follows_the_file(host, folder, network_bytes):
    file = folder / "mini.safetensors"
    file.write_bytes(network_bytes())
    mark = host.nodes.LoadAutomatic.fingerprint_inputs
    first = mark(model="mini.safetensors", dtype="auto")
    assert mark(model="mini.safetensors", dtype="auto") == first
    facts = file.stat()
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    assert mark(model="mini.safetensors", dtype="auto") != first


@pytest.mark.parametrize("known", [False, True])
def test_folder_registration(host, folder, known, tmp_path):
    """extra_model_paths.yaml comes first and leaves an empty set, which would list every file."""
    table = host.folder_paths.folder_names_and_paths
    del table["colorization"]
    if known:
        yaml = tmp_path / "from_yaml"
        yaml.mkdir()
        (yaml / "mine.safetensors").write_bytes(b"x")
        (yaml / "README.md").write_bytes(b"x")
        table["colorization"] = ([str(yaml)], set())
    host.bridge.register_folder()
    host.bridge.register_folder()
    folders, suffixes = table["colorization"]
    assert set(suffixes) == {".safetensors", ".pth", ".pt", ".bin"}
    assert folders == ([str(yaml)] if known else []) + [str(folder)]
    assert [n for n in host.bridge.network_names("automatic") if "." in n] == [
        "mine.safetensors"
    ] * known


def test_placement_goes_through_the_hosts_patcher(host, colorizer, monkeypatch):
    asked = []
    real = host.mm.load_models_gpu

    def load_models_gpu(models, **options):
        asked.append((models, options))
        return real(models, **options)

    monkeypatch.setattr(host.mm, "load_models_gpu", load_models_gpu)
    assert colorizer.placement.acquire(12345) is colorizer.placement.patcher.model
    [(models, sizes)] = asked
    assert models == [colorizer.placement.patcher]
    assert sizes == {"memory_required": 12345, "force_full_load": True}
    assert colorizer.placement.images_at_once(1) == 1  # on a CPU


def test_placement_moves_what_the_host_left_behind(host, colorizer, monkeypatch):
    monkeypatch.setattr(host.mm, "load_models_gpu", lambda models, **options: None)
    colorizer.placement.device = torch.device("meta")  # stands for a GPU here
    network = colorizer.placement.acquire(0)
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_chunks_on_a_gpu_follow_free_memory(host, colorizer, monkeypatch):
    monkeypatch.setattr(host.mm, "get_free_memory", lambda device=None: 1000)
    colorizer.placement.device = torch.device("cuda")
    assert colorizer.placement.images_at_once(100) == 5
    assert colorizer.placement.images_at_once(1) == 16
    assert colorizer.placement.images_at_once(10**6) == 1


@pytest.mark.parametrize("newer", [True, False])
def test_out_of_memory_is_recognised(host, colorizer, monkeypatch, newer):
    if newer:
        own = RuntimeError("device says: no room")
        monkeypatch.setattr(host.mm, "is_oom", lambda error: error is own, raising=False)
        assert colorizer.placement.is_out_of_memory(own)
    else:
        monkeypatch.delattr(host.mm, "is_oom", raising=False)
    assert colorizer.placement.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert colorizer.placement.is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory")
    )
    assert not colorizer.placement.is_out_of_memory(RuntimeError("shapes differ"))
    assert not colorizer.placement.is_out_of_memory(ValueError("no"))


def test_nothing_in_the_folder_keeps_the_pack_from_loading(host, folder):
    """Schemas are made at the host's start: an error in one of them loses every node."""
    (folder / "gone.pth").symlink_to(folder / "nowhere.pth")
    info = {"format": "pt", "colorist": '{"architecture": "exemplar", "config": {"heads": 0}}'}
    save_file({"x": torch.zeros(1)}, folder / "odd.safetensors", metadata=info)
    info["colorist"] = "[" * 100_000
    save_file({"x": torch.zeros(1)}, folder / "deep.safetensors", metadata=info)
    (folder / "cut.safetensors").write_bytes(b"\xff" * 40)
    for node in (host.nodes.LoadAutomatic, host.nodes.LoadExemplar, host.nodes.LoadPointHint):
        names = node.define_schema().inputs[0].options
        assert "gone.pth" not in names
        assert {"odd.safetensors", "deep.safetensors", "cut.safetensors"} <= set(names)
        for name in ("odd.safetensors", "deep.safetensors", "cut.safetensors"):
            with pytest.raises(ValueError, match=name):
                node.execute(name)
