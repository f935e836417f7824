"""Shards that are read from front to back: the same photos for any number of processes, from any
place on."""

import io
import itertools
import logging
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.trainers.data import batches
from comfyui_colorist.trainers.data import photos as data_photos
from comfyui_colorist.trainers.data import shards as streams
from PIL import Image

pytest.importorskip("webdataset", reason="streams need WebDataset")


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def shard(path, numbers):
    """As WebDataset writes them: other facts beside each photo."""
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for suffix, content in ((".jpg", jpeg(number)), (".json", b"{}")):
                member = tarfile.TarInfo(f"some/{number:03d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards of 3, 4, 5 and 6 photos."""
    folder = tmp_path_factory.mktemp("shards")
    numbers = iter(range(100))
    for i in range(4):
        shard(folder / f"s-{i:02d}.tar", list(itertools.islice(numbers, 3 + i)))
    return folder


def opened(shards, **more):
    return data_photos.open_photos([str(shards / "s-{00..03}.tar")], stream=True, **more)


def first(photos, count, **settings):
    settings = {"batch": 8} | settings
    source = batches.batches(photos, size=lambda step: 32, seed=3, **settings)
    return list(itertools.islice(source, count))


def test_names_with_braces_and_urls(shards):
    assert len(opened(shards).urls) == 4
    remote = data_photos.open_photos(["https://host/a-{0..9}.tar", "pipe:cat b.tar"])
    assert isinstance(remote, streams.Shards) and remote.counted() == {"shards": 11}


def test_each_pass_gives_all_photos_of_a_stream_in_another_order(shards):
    source = opened(shards).read(1, 4, 0, (0, 0, 0))  # stream 1 of 4: the second shard
    keys = [key for _, key, _ in itertools.islice(source, 12)]
    passes = [keys[i : i + 4] for i in (0, 4, 8)]
    assert all(sorted(one) == [f"some/00{i}" for i in (3, 4, 5, 6)] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_batches_go_on_from_their_places(shards):
    unbroken = first(opened(shards), 12)
    for at in (1, 3, 7):
        resumed = first(opened(shards), 2, start=at, places=unbroken[at - 1].places)
        for one, other in zip(resumed, unbroken[at:], strict=False):
            assert one.names == other.names and one.places == other.places
            assert torch.equal(one.pictures[0], other.pictures[0])


def test_processes_make_the_same_parts(shards):
    whole = first(opened(shards), 3, parts=2)
    shares = [first(opened(shards), 3, rank=rank, ranks=2, parts=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = (some.parts(2) for some in (batch, *(share[step] for share in shares)))
        for one, *many in zip(*parts, strict=True):
            assert one.names == sum((some.names for some in many), [])
            assert list(one.rows) == [row for some in many for row in some.rows]


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_make_the_same_batches(shards, ranks):
    whole = first(opened(shards), 4)
    parts = [first(opened(shards), 4, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        assert sum((part[step].names for part in parts), []) == batch.names
        assert torch.equal(torch.cat([part[step].pictures[0] for part in parts]), batch.pictures[0])
        assert {k: v for part in parts for k, v in part[step].places.items()} == batch.places


def test_processes_that_cannot_share(shards):
    with pytest.raises(ValueError, match="4 streams, which 8 processes cannot share evenly"):
        first(opened(shards), 1, ranks=8)


def test_damaged_shards_and_photos_are_passed_over(shards, tmp_path, caplog):
    cut = tmp_path / "cut.tar"
    cut.write_bytes((shards / "s-03.tar").read_bytes()[:9000])
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as tar:
        member = tarfile.TarInfo("broken.jpg")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"none"))
    sources = [str(cut), str(tmp_path / "missing.tar"), str(bad), str(shards / "s-00.tar")]
    with caplog.at_level(logging.WARNING):
        batch = first(data_photos.open_photos(sources, stream=True), 4, batch=1)
    assert {"some/000", "some/001", "some/002"} <= {
        name for some in batch for name in some.names
    } | {
        name
        for some in first(data_photos.open_photos(sources, stream=True), 16, batch=1)
        for name in some.names
    }
    assert "missing.tar: the rest is passed over" in caplog.text
    assert "cut.tar: the rest is passed over" in caplog.text


def test_no_photos(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    with pytest.raises(ValueError, match="no photos found in .*a.tar"):
        first(data_photos.open_photos([str(tmp_path / "a.tar")], stream=True), 1)


def test_folders_are_not_streamed(tmp_path):
    with pytest.raises(ValueError, match="only .tar shards can be streamed; a folder needs no"):
        data_photos.open_photos([str(tmp_path), "https://host/a.tar"])


def test_licences_are_left_out(shards, tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("key,licence_kind\n000,open\n001,unstated\n")
    photos = opened(shards, index=[index], skip_licences=("unstated",))
    names = {name for batch in first(photos, 12) for name in batch.names}
    assert "some/001" not in names and "some/000" in names


def test_dots_in_names_and_all_formats(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1935.04.01 harbour.jpg", "1935.04.02 harbour.jpg", "b.tiff", "._b.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(0))
            tar.addfile(member, io.BytesIO(jpeg(0)))
    source = data_photos.open_photos([str(tmp_path / "a.tar")], stream=True).read(
        0, 1, 0, (0, 0, 0)
    )
    keys = {key for _, key, _ in itertools.islice(source, 3)}
    assert keys == {"1935.04.01 harbour", "1935.04.02 harbour", "b"}
    assert keys == set(data_photos.Photos([tmp_path / "a.tar"]).keys)


def test_a_stream_without_colours_ends(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        grey = io.BytesIO()
        Image.new("L", (40, 40), 90).save(grey, "JPEG")
        for i in range(3):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(grey.getvalue())
            tar.addfile(member, io.BytesIO(grey.getvalue()))
    with pytest.raises(ValueError, match="not one of the streamed photos could be read and has"):
        first(data_photos.open_photos([str(tmp_path / "a.tar")], stream=True), 1, batch=1)


def test_other_streams_than_before_begin_anew(shards, caplog):
    begun = first(opened(shards), 2)
    with caplog.at_level(logging.WARNING):
        (now,) = first(opened(shards), 1, batch=2, places=begun[-1].places)
    assert "4 streams went on, and now there are 2: all begin anew" in caplog.text
    assert torch.equal(now.pictures[0], first(opened(shards), 1, batch=2)[0].pictures[0])
