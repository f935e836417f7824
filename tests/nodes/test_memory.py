"""Build, Apply, Save, Load Color Memory; the building is tested in tests/pipeline."""

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

SMALL = {"entries": 4, "seed": 0}
COLOR = 0.3  # largest difference of a channel, in 255, that counts as another colour


def photo(seed: int = 0, height: int = 64, width: int = 96) -> torch.Tensor:
    """A colourful picture (H, W, 3) of soft patches."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 8, 12, generator=generator)
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0].movedim(0, 2)


@pytest.fixture
def inputs(host, tmp_path, monkeypatch):
    """The host's input folder, empty."""
    place = tmp_path / "input"
    place.mkdir()
    before = host.folder_paths.get_input_directory()
    host.folder_paths.set_input_directory(str(place))
    yield place
    host.folder_paths.set_input_directory(before)


@pytest.fixture
def album(inputs):
    """Two colour photos, a damaged one and a text in input/album, one photo below it."""
    (inputs / "album" / "1930").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "b.PNG", "1930/c.png")):
        Image.fromarray((photo(i).numpy() * 255).astype(np.uint8)).save(inputs / "album" / name)
    (inputs / "album" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (inputs / "album" / "notes.txt").write_text("summer")
    return inputs / "album"


@pytest.fixture
def former(host, folder, inputs, mini_colorformer_file):
    """The miniature ColorFormer under the host's placement."""
    (folder / "former.safetensors").write_bytes(mini_colorformer_file.read_bytes())
    return host.nodes.LoadAutomatic.execute("former.safetensors", "auto").args[0]


@pytest.fixture
def memory(host, former):
    """Built of one colourful picture."""
    images = photo()[None]
    return host.nodes.BuildMemory.execute(former, images=images, **SMALL).args[0]


@pytest.fixture
def save(host):
    return lambda memory, name: host.nodes.SaveMemory.execute(memory, name).args[1]


def options(node, put):
    return next(i.options for i in node.GET_SCHEMA().inputs if i.id == put)


def files(folder):
    place = folder / "memories"
    return sorted(file.name for file in place.iterdir()) if place.is_dir() else []


# ---- build ----


def test_builds_of_connected_images(host, former):
    images = torch.stack([photo(0), photo(1), photo(2)])
    memory, text = host.nodes.BuildMemory.execute(former, images=images, **SMALL).args
    assert memory.encoder == former.encoder_id
    assert memory.values.shape[0] == former.spec.memory.groups
    assert 1 <= len(memory.keys) <= 4
    assert text.splitlines()[0] == "Photos used: 3"
    assert f"Entries: {len(memory.keys)} (requested 4)" in text


def test_the_report_tells_the_pace(host, former, album, monkeypatch):
    """Of all photos looked at, the damaged one too."""
    module = sys.modules[host.nodes.BuildMemory.__module__]
    ticks = iter((100.0, 102.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks, 102.0))
    _, text = host.nodes.BuildMemory.execute(former, folder="album", **SMALL).args
    assert text.splitlines()[-1] == "Time: 2.0 s (2.0 photos per second)"


def test_fp16_images_and_alpha(host, former):
    images = torch.cat([photo()[None], torch.ones(1, 64, 96, 1)], dim=3).half()
    _, text = host.nodes.BuildMemory.execute(former, images=images, **SMALL).args
    assert "Photos used: 1" in text


def test_builds_of_a_folder_and_those_below_it(host, former, album):
    memory, text = host.nodes.BuildMemory.execute(former, folder="album", **SMALL).args
    assert text.splitlines()[:3] == [
        "Photos used: 3",
        "Gray photos skipped: 0",
        "Unreadable files skipped: 1 (broken.jpg)",
    ]
    again, _ = host.nodes.BuildMemory.execute(former, folder="album", **SMALL).args
    assert torch.equal(again.keys, memory.keys)
    assert torch.equal(again.values, memory.values)


def test_a_chosen_folder_leaves_connected_images_aside(host, former, album):
    _, text = host.nodes.BuildMemory.execute(
        former, folder="album/1930", images=torch.stack([photo(5), photo(6)]), **SMALL
    ).args
    assert "Photos used: 1" in text


def test_no_photos_is_refused(host, former):
    with pytest.raises(ValueError, match="connect images, or choose a folder"):
        host.nodes.BuildMemory.execute(former)


def test_a_network_without_memory_is_refused(host, inputs, colorizer):
    with pytest.raises(
        ValueError, match="mini.safetensors has no color memory; choose a network with"
    ):
        host.nodes.BuildMemory.execute(colorizer, images=photo()[None])


def test_without_scikit_learn_it_says_so(host, former, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(RuntimeError, match="needs scikit-learn, which is not installed"):
        host.nodes.BuildMemory.execute(former, images=photo()[None])


def test_lists_folders_that_hold_photos(host, album):
    inputs = album.parent
    (inputs / "single.png").write_bytes(b"x")
    (inputs / "empty").mkdir()
    (inputs / "texts").mkdir()
    (inputs / "texts" / "a.txt").write_bytes(b"x")
    for hidden in (".hidden", "(images)"):
        (inputs / hidden).mkdir()
        (inputs / hidden / "a.png").write_bytes(b"x")
    deep = inputs.joinpath(*"12345")
    deep.mkdir(parents=True)
    (deep / "too-deep.png").write_bytes(b"x")
    (deep.parent / "just-right.png").write_bytes(b"x")
    (album / "loop").symlink_to(inputs, target_is_directory=True)
    assert options(host.nodes.BuildMemory, "folder") == [
        "(images)",
        *("1", "1/2", "1/2/3", "1/2/3/4"),
        *("album", "album/1930"),
    ]


def test_the_listing_is_bounded(host, inputs, monkeypatch):
    monkeypatch.setattr(host.bridge.folders, "INPUT_FOLDERS", 4)
    for name in "abcdef":
        (inputs / name).mkdir()
        (inputs / name / "p.png").write_bytes(b"x")
    assert host.bridge.input_folders() == ["a", "b", "c"]


def test_no_input_folder_lists_nothing(host, inputs):
    inputs.rmdir()
    assert options(host.nodes.BuildMemory, "folder") == ["(images)"]


@pytest.mark.parametrize(
    "name", ["..", "../elsewhere", "", ".", "/", "album/..", "album/../album", "nope", "album/"]
)
def test_only_listed_folders_are_read(host, former, album, name):
    outside = album.parent.parent / "elsewhere"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"x")
    (album.parent / "single.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is not in the list \(album, album/1930\)"):
        host.nodes.BuildMemory.execute(former, folder=name)
    assert host.nodes.BuildMemory.fingerprint_inputs(folder=name).endswith("missing")


def test_an_absolute_folder_is_refused(host, former, album):
    with pytest.raises(ValueError, match="is not in the list"):
        host.nodes.BuildMemory.execute(former, folder=str(album))


def test_fingerprint_follows_the_folder(host, album):
    def mark(folder="album"):
        return host.nodes.BuildMemory.fingerprint_inputs(
            colorizer=None, images=None, folder=folder, entries=4, seed=0
        )

    first = mark()
    assert mark() == first
    facts = (album / "a.jpg").stat()
    os.utime(album / "a.jpg", ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    second = mark()
    assert second != first
    (album / "1930" / "c.png").rename(album / "1930" / "d.png")
    assert mark() != second


def test_connected_images_leave_the_folders_out_of_the_fingerprint(host, album):
    """The host compares images itself; a photo that is not looked at must change nothing."""
    mark = host.nodes.BuildMemory.fingerprint_inputs
    before = mark(folder="(images)"), mark(folder="album")
    (album / "a.jpg").unlink()
    assert mark(folder="(images)") == before[0]
    assert mark(folder="album") != before[1]
    assert before[0] not in (before[1], mark(folder="album"))


def test_progress_reaches_its_end(host, former, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total):
            seen.append((value, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    host.nodes.BuildMemory.execute(former, images=torch.stack([photo(0), photo(1)]), **SMALL)
    assert len({total for _, total in seen}) == 1
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_interrupt_stops_the_building_and_leaves_no_file(host, folder, former, album):
    runs = []

    def stop_during_second(*_):
        runs.append(1)
        if len(runs) == 2:
            host.mm.interrupt_current_processing(True)

    former.device_manager.patcher.model.encoder.register_forward_pre_hook(stop_during_second)
    before = sorted(folder.rglob("*")), sorted(album.rglob("*"))
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            host.nodes.BuildMemory.execute(former, folder="album", **SMALL)
    finally:
        host.mm.interrupt_current_processing(False)
    assert len(runs) == 2
    assert (sorted(folder.rglob("*")), sorted(album.rglob("*"))) == before


# ---- apply ----


def test_apply_changes_the_result_and_leaves_the_other_branch(host, former, memory, grey):
    image = grey(1, 64, 64)

    def colored(colorizer):
        return host.nodes.Colorize.execute(image, colorizer, resolution=64).args[0]

    before = colored(former)
    changed = host.nodes.ApplyMemory.execute(former, memory).args[0]
    assert changed.memory is memory
    assert former.memory is None
    assert 255 * (colored(changed) - before).abs().max() > COLOR
    assert torch.equal(colored(former), before)
    assert changed.device_manager is former.device_manager  # one copy of the weights


def test_a_memory_of_another_encoder_is_refused(host, former, memory):
    other = replace(memory, encoder="0" * 16)
    expected = r"built with the encoder of former.safetensors \(0{16}\), but former.safetensors has"
    with pytest.raises(ValueError, match=expected):
        host.nodes.ApplyMemory.execute(former, other)


def test_a_network_without_memory_takes_none(host, colorizer, memory):
    with pytest.raises(
        ValueError, match="mini.safetensors has no color memory; choose a network with"
    ):
        host.nodes.ApplyMemory.execute(colorizer, memory)


# ---- save ----


def test_saves_lists_and_loads(host, folder, memory, save):
    assert options(host.nodes.LoadMemory, "file") == []
    assert save(memory, " Grandma's garden.SAFETENSORS ") == "Grandma's garden.safetensors"
    assert files(folder) == options(host.nodes.LoadMemory, "file")
    assert files(folder) == ["Grandma's garden.safetensors"]
    loaded = host.nodes.LoadMemory.execute("Grandma's garden.safetensors").args[0]
    assert torch.equal(loaded.keys, memory.keys)
    assert torch.equal(loaded.values, memory.values)
    assert loaded.encoder == memory.encoder
    assert loaded.provenance == memory.provenance
    assert torch.equal(loaded.projection.components, memory.projection.components)


def test_passes_the_memory_through(host, folder, memory):
    assert host.nodes.SaveMemory.execute(memory, "a").args[0] is memory
    assert host.nodes.SaveMemory.GET_SCHEMA().is_output_node


def test_never_overwrites_and_never_writes_twice(host, folder, former, memory, save):
    other = host.nodes.BuildMemory.execute(former, images=photo(7)[None], **SMALL).args[0]
    assert save(memory, "mine") == "mine.safetensors"
    first = (folder / "memories" / "mine.safetensors").read_bytes()
    assert save(memory, "mine") == "mine.safetensors"
    assert save(other, "mine") == "mine-2.safetensors"
    assert save(other, "mine") == "mine-2.safetensors"
    assert save(memory, "mine") == "mine.safetensors"
    (folder / "memories" / "mine-3.safetensors").write_bytes(b"something else")
    third = replace(memory, provenance={"seed": 9})
    assert save(third, "mine") == "mine-4.safetensors"
    assert files(folder) == [f"mine{n}.safetensors" for n in ("-2", "-3", "-4", "")]
    assert (folder / "memories" / "mine.safetensors").read_bytes() == first
    assert (folder / "memories" / "mine-3.safetensors").read_bytes() == b"something else"


def test_a_name_taken_in_another_model_folder_is_not_used_again(
    host, folder, tmp_path, former, memory, save
):
    """The host opens the first file of a name, so a second one could not be loaded."""
    elsewhere = tmp_path / "from_yaml"
    (elsewhere / "memories").mkdir(parents=True)
    host.folder_paths.folder_names_and_paths["colorization"][0].insert(0, str(elsewhere))
    assert save(memory, "mine") == "mine.safetensors"
    (folder / "memories" / "mine.safetensors").rename(elsewhere / "memories" / "mine.safetensors")
    assert save(memory, "mine") == "mine.safetensors"
    other = host.nodes.BuildMemory.execute(former, images=photo(7)[None], **SMALL).args[0]
    assert save(other, "mine") == "mine-2.safetensors"
    assert files(folder) == ["mine-2.safetensors"]
    listed = options(host.nodes.LoadMemory, "file")
    assert listed == ["mine-2.safetensors", "mine.safetensors"]
    for name, kept in zip(listed, (other, memory), strict=True):
        assert torch.equal(host.nodes.LoadMemory.execute(name).args[0].keys, kept.keys)


BAD_NAMES = [
    *("", "  ", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "..\\x", "C:x", "C:\\x", ".hidden"),
    *("nul", "CON", "com1.old", "LPT9", "Aux .txt", "a\0b", "a\nb", "x" * 201, "é" * 101),
    *("what?", "a*", '"a"', "a|b", "<a>", ".safetensors", "\ud800"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_would_leave_the_folder_or_fail_are_refused(host, folder, memory, save, name):
    before = sorted(folder.parent.parent.rglob("*"))
    with pytest.raises(ValueError, match="expected a plain file name such as my-memory"):
        save(memory, name)
    assert sorted(folder.parent.parent.rglob("*")) == before
    assert "expected a plain file name" in host.nodes.SaveMemory.validate_inputs(name=name)


@pytest.mark.parametrize("name", ["my-memory", "a..b", "console", "Ünï codé 1930", "x" * 200, "1"])
def test_names_that_will_do(host, name):
    assert host.nodes.SaveMemory.validate_inputs(name=name) is True


def test_a_connected_name_is_judged_in_the_run(host):
    assert host.nodes.SaveMemory.validate_inputs(name=None) is True


# ---- load ----


def test_lists_memories_of_every_folder_and_nothing_else(host, folder, tmp_path):
    elsewhere = tmp_path / "from_yaml"
    for place in (folder, elsewhere):
        (place / "memories" / "sub").mkdir(parents=True)
    host.folder_paths.folder_names_and_paths["colorization"][0].append(str(elsewhere))
    for file in (
        *(folder / "a.safetensors", folder / "memories" / "b.safetensors"),
        *(folder / "memories" / "c.pth", folder / "memories" / "README.md"),
        *(elsewhere / "memories" / "sub" / "d.SAFETENSORS", elsewhere / "e.safetensors"),
    ):
        file.write_bytes(b"x")
    (folder / "memories" / "gone.safetensors").symlink_to(folder / "nowhere.safetensors")
    assert set(options(host.nodes.LoadMemory, "file")) == {"b.safetensors", "sub/d.SAFETENSORS"}
    path = host.bridge.memory_path("sub/d.SAFETENSORS")
    assert path == elsewhere / "memories" / "sub" / "d.SAFETENSORS"


@pytest.mark.parametrize("name", ["../former.safetensors", "", "..", "/etc/passwd", "no", "b/../b"])
def test_only_listed_memories_are_opened(host, folder, former, name):
    reason = "is not in the list" if name else "the name of the color memory is empty"
    with pytest.raises(ValueError, match=f"{reason}.*Save one with Save Color Memory"):
        host.nodes.LoadMemory.execute(name)
    assert host.nodes.LoadMemory.fingerprint_inputs(file=name).endswith("missing")


def test_networks_are_refused_as_color_memories(host, folder, network_bytes):
    (folder / "memories").mkdir()
    (folder / "memories" / "net.safetensors").write_bytes(network_bytes())
    with pytest.raises(ValueError, match="net.safetensors: not a color memory"):
        host.nodes.LoadMemory.execute("net.safetensors")


def test_load_fingerprint_follows_the_file(host, folder, memory, save):
    save(memory, "a")
    file = folder / "memories" / "a.safetensors"
    mark = host.nodes.LoadMemory.fingerprint_inputs
    first = mark(file="a.safetensors")
    assert mark(file="a.safetensors") == first
    facts = file.stat()
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    assert mark(file="a.safetensors") != first
