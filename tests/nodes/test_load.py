"""The model folder, Load Automatic Colorizer, and downloads."""

import asyncio
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfyui_colorist.model_store import catalog, download, paths
from safetensors.torch import save_file

FILE_SERVER = Path(__file__).resolve().parents[1] / "file_server.py"
file_server = SimpleNamespace(**runpy.run_path(str(FILE_SERVER)))


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in (*download.OFFLINE_VARIABLES, "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


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
    boxed = set(paths.bundled_models())
    ahead = {name for name in listed if "(download " in name}
    assert listed - boxed - ahead == {"a.safetensors", "b.pth", "sub/c.pt", "d.BIN"}


def test_a_file_added_later_is_listed_and_loads(host, folder, network_bytes):
    assert "new.safetensors" not in options(host, "model")
    (folder / "new.safetensors").write_bytes(network_bytes())
    assert "new.safetensors" in options(host, "model")
    loaded = host.nodes.LoadAutomatic.execute("new.safetensors", "auto").args[0]
    assert loaded.spec.role == "automatic"
    assert loaded.dtype == torch.float32  # auto on a CPU


def test_bundled_networks_come_first(host, folder, network_bytes, monkeypatch):
    (folder / "a.safetensors").write_bytes(b"x")
    box = folder.parent / "box"
    box.mkdir()
    (box / "tiny.safetensors").write_bytes(network_bytes())
    monkeypatch.setattr(paths, "BUNDLED_DIR", box)
    assert options(host, "model")[:2] == ["tiny", "a.safetensors"]
    assert host.nodes.LoadAutomatic.execute("tiny", "fp32").args[0].name == "tiny.safetensors"


@pytest.mark.parametrize(
    "shown, meant",
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision(host, folder, network_bytes, shown, meant):
    (folder / "mini.safetensors").write_bytes(network_bytes())
    loaded = host.nodes.LoadAutomatic.execute("mini.safetensors", shown).args[0]
    assert {p.dtype for p in loaded.device_manager.patcher.model.parameters()} == {meant}


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
    expected = "is a model with the role 'automatic' .*this node loads 'pointhint' models"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadPointHint.execute("automatic.safetensors", "auto")
    expected = "is a model with the role 'pointhint' .*this node loads 'automatic' models"
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


def test_files_other_than_checkpoints_are_refused(host, folder):
    (folder / "page.pth").write_bytes(b"<!doctype html>")
    with pytest.raises(ValueError, match="page.pth: this is a web page"):
        host.nodes.LoadAutomatic.execute("page.pth", "auto")


@pytest.mark.parametrize(
    "name", ["../x.pth", "/etc/x.pth", "..", "", "sub/../../x.pth", "nope.pth"]
)
def test_only_listed_names_are_opened(host, folder, network_bytes, name):
    (folder.parent / "x.pth").write_bytes(network_bytes())
    expected = "is not in the list" if name else "the name of the model is empty"
    with pytest.raises(ValueError, match=expected):
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
    names = [n for n in host.bridge.network_names("automatic") if "." in n and "(" not in n]
    assert names == ["mine.safetensors"] * known


def test_placement_goes_through_the_hosts_patcher(host, colorizer, monkeypatch):
    asked = []
    real = host.mm.load_models_gpu

    def load_models_gpu(models, **options):
        asked.append((models, options))
        return real(models, **options)

    monkeypatch.setattr(host.mm, "load_models_gpu", load_models_gpu)
    assert colorizer.device_manager.acquire(12345) is colorizer.device_manager.patcher.model
    [(models, sizes)] = asked
    assert models == [colorizer.device_manager.patcher]
    assert sizes == {"memory_required": 12345, "force_full_load": True}
    assert colorizer.device_manager.max_batch_size(1) == 1  # on a CPU


def test_placement_moves_what_the_host_left_behind(host, colorizer, monkeypatch):
    monkeypatch.setattr(host.mm, "load_models_gpu", lambda models, **options: None)
    colorizer.device_manager.device = torch.device("meta")  # stands for a GPU here
    network = colorizer.device_manager.acquire(0)
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_chunks_on_a_gpu_follow_free_memory(host, colorizer, monkeypatch):
    monkeypatch.setattr(host.mm, "get_free_memory", lambda device=None: 1000)
    colorizer.device_manager.device = torch.device("cuda")
    assert colorizer.device_manager.max_batch_size(100) == 5
    assert colorizer.device_manager.max_batch_size(1) == 16
    assert colorizer.device_manager.max_batch_size(10**6) == 1


@pytest.mark.parametrize("newer", [True, False])
def test_out_of_memory_is_recognised(host, colorizer, monkeypatch, newer):
    if newer:
        own = RuntimeError("device says: no room")
        monkeypatch.setattr(host.mm, "is_oom", lambda error: error is own, raising=False)
        assert colorizer.device_manager.is_out_of_memory(own)
    else:
        monkeypatch.delattr(host.mm, "is_oom", raising=False)
    assert colorizer.device_manager.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert colorizer.device_manager.is_out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory")
    )
    assert not colorizer.device_manager.is_out_of_memory(RuntimeError("shapes differ"))
    assert not colorizer.device_manager.is_out_of_memory(ValueError("no"))


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


# ---- published checkpoints ----


@pytest.fixture
def server(network_bytes, monkeypatch):
    """Serves the miniature, which with a file by hand is all that is published."""
    monkeypatch.setattr(download, "RETRY_DELAY", 0.0)
    running = file_server.FileServer(network_bytes())
    hand = running.known(name="hand", file="by_hand.pth", hub_path="", sha256="", size=0)
    table = [catalog.Published(**facts) for facts in (running.known(), hand)]
    monkeypatch.setattr(catalog, "PUBLISHED", {known.name: known for known in table})
    fetch = download.fetch
    monkeypatch.setattr(
        download, "fetch", lambda *args, **options: fetch(*args, base=running.url, **options)
    )
    yield running
    running.close()


PLAIN, MARKED = "mine.safetensors", "mine.safetensors (download 0 MB)"


def test_what_can_be_downloaded_is_listed_last(host, folder):
    listed = options(host, "model")
    assert listed[-3:] == [
        "ddcolor_modelscope.pth (download 912 MB)",
        "ddcolor_artistic.pth (download 912 MB)",
        "ddcolor_paper_tiny.bin (download 220 MB)",
    ]
    assert "(download " not in listed[0]
    for node in (host.nodes.LoadExemplar, host.nodes.LoadPointHint):
        names = node.GET_SCHEMA().inputs[0].options
        assert not [name for name in names if "(" in name or name.endswith(".pth")]


@pytest.mark.parametrize("there", ["", "sub/", "yaml"])
def test_what_is_there_is_listed_plainly(host, folder, there, tmp_path):
    """Also in a folder, in one of extra_model_paths.yaml, and with another ending."""
    place = folder / there
    if there == "yaml":
        place = tmp_path / "from_yaml"
        host.folder_paths.add_model_folder_path("colorization", str(place))
    place.mkdir(exist_ok=True)
    (place / "ddcolor_modelscope.pth").write_bytes(b"x")
    (place / "ddcolor_paper_tiny.pth").write_bytes(b"x")
    listed = [name.replace(os.sep, "/") for name in options(host, "model") if "ddcolor_" in name]
    before = there if there == "sub/" else ""
    assert listed == [
        before + "ddcolor_modelscope.pth",
        before + "ddcolor_paper_tiny.pth",
        "ddcolor_artistic.pth (download 912 MB)",
    ]
    find = host.bridge.network_path
    for name in ("ddcolor_modelscope.pth", "ddcolor_modelscope.pth (download 912 MB)"):
        assert find(name) == place / "ddcolor_modelscope.pth"
    for name in ("ddcolor_paper_tiny.bin", "ddcolor_paper_tiny.bin (download 220 MB)"):
        assert find(name) == place / "ddcolor_paper_tiny.pth"


def test_files_by_hand_are_listed_for_their_role(host, folder):
    for name in ("xcnet_model.pth", "net_g_200000.pth"):
        (folder / name).write_bytes(b"x")
    assert "xcnet_model.pth" in host.nodes.LoadExemplar.GET_SCHEMA().inputs[0].options
    assert "net_g_200000.pth" not in host.nodes.LoadExemplar.GET_SCHEMA().inputs[0].options
    assert "net_g_200000.pth" in options(host, "model")
    assert "xcnet_model.pth" not in options(host, "model")


@pytest.mark.parametrize("chosen", [MARKED, PLAIN, "mine.pth", "mine"])
def test_a_published_network_is_downloaded(host, folder, server, chosen, monkeypatch):
    reported = []

    class Bar:
        def __init__(self, total):
            assert total == len(server.content)

        def update_absolute(self, done, total):
            reported.append((done, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    assert options(host, "model")[-1] == MARKED
    assert host.nodes.LoadAutomatic.fingerprint_inputs(model=chosen).endswith("missing")
    loaded = host.nodes.LoadAutomatic.execute(chosen, "auto").args[0]
    assert loaded.name == PLAIN
    assert reported[-1] == (len(server.content), len(server.content))
    assert (folder / PLAIN).read_bytes() == server.content
    assert options(host, "model")[-1] == PLAIN
    mark = host.nodes.LoadAutomatic.fingerprint_inputs
    for name in (MARKED, PLAIN):
        assert host.nodes.LoadAutomatic.execute(name, "auto").args[0].name == PLAIN
        assert mark(model=name) == mark(model=chosen)
    assert len(server.asked) == 1


def test_interrupted_download_resumes(host, folder, server, monkeypatch):
    class Interrupt(BaseException):
        pass

    def interrupt():
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(host.mm, "throw_exception_if_processing_interrupted", interrupt)
        with pytest.raises(Interrupt):
            host.nodes.LoadAutomatic.execute(MARKED, "auto")
    (folder / f"{PLAIN}.part").write_bytes(server.content[:100])
    assert options(host, "model")[-1] == MARKED  # a part is no model
    host.nodes.LoadAutomatic.execute(MARKED, "auto")
    assert server.asked[-1] == "bytes=100-"
    assert [path.name for path in folder.iterdir()] == [PLAIN]


def test_a_failed_download_says_what_to_do(host, folder, server):
    server.close()
    with pytest.raises(ValueError, match="no connection") as error:
        host.nodes.LoadAutomatic.execute(MARKED, "auto")
    address = "https://huggingface.co/somebody/models/resolve/1/mine"
    assert f"Get it from {address} (0 MB) and put it into {folder} as {PLAIN}." in str(error.value)


def test_offline_lists_and_fetches_nothing(host, folder, server, monkeypatch):
    monkeypatch.setenv("COLORIST_OFFLINE", "1")
    assert MARKED not in options(host, "model")
    expected = r"downloads are switched off \(COLORIST_OFFLINE\). Get it from https://"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadAutomatic.execute(MARKED, "auto")
    (folder / PLAIN).write_bytes(server.content)
    assert host.nodes.LoadAutomatic.execute(MARKED, "auto").args[0].name == PLAIN
    assert server.asked == []


def test_names_are_checked_before_the_run(host, folder, server, monkeypatch):
    check = host.nodes.LoadAutomatic.validate_inputs
    assert check(model="ddcolor-nano") is True
    assert check(model=MARKED) is check(model=PLAIN) is True
    assert check(model=None) is True  # connected
    assert "is not in the list" in check(model="../mine.safetensors")
    assert "is not in the list" in check(model=5)
    assert f"put it into {folder} as by_hand.pth" in check(model="by_hand.pth")
    other = host.nodes.LoadExemplar.validate_inputs(model=MARKED)
    assert "role 'automatic'; this node loads 'exemplar' models" in other
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "downloads are switched off (HF_HUB_OFFLINE)" in check(model=MARKED)
    (folder / PLAIN).write_bytes(server.content)
    assert check(model=MARKED) is check(model=PLAIN) is True
    assert server.asked == []


def test_the_host_takes_both_names(host, folder, server, monkeypatch):
    """A saved workflow runs with and without the mark, before and after the download."""
    if not host.real:
        pytest.skip("needs a real host")
    import execution

    import nodes

    known = {"ColoristLoadAutomatic": host.nodes.LoadAutomatic}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", nodes.NODE_CLASS_MAPPINGS | known)

    def problems(name):
        inputs = {"model": name, "dtype": "auto"}
        prompt = {"1": {"class_type": "ColoristLoadAutomatic", "inputs": inputs}}
        good, errors, _ = asyncio.run(execution.validate_inputs("run", prompt, "1", {}))
        assert good is not bool(errors)
        return [error["details"] for error in errors]

    for _ in range(2):
        assert problems(MARKED) == problems(PLAIN) == problems("ddcolor-nano") == []
        [result] = problems("nope.pth")
        assert "is not in the list" in result
        host.nodes.LoadAutomatic.execute(MARKED, "auto")
