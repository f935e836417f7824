"""Streamed shards: the same photos for any number of processes, and from any position."""

import io
import itertools
import logging
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.trainers.data import batches
from comfyui_colorist.trainers.data import photos as data_photos
from comfyui_colorist.trainers.data import shards as shard_streams
from PIL import Image

pytest.importorskip("webdataset", reason="streams need WebDataset")


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def shard(path, numbers):
    """Write a shard as WebDataset does: other files beside each photo."""
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


def first(photos, count, batch=8, **settings):
    crop = batches.RandomCrop(lambda step: 32)
    source = batches.load_batches(photos, crop, batch=batch, seed=3, **settings)
    return list(itertools.islice(source, count))


def test_names_with_braces_and_urls(shards):
    assert len(opened(shards).urls) == 4
    remote = data_photos.open_photos(["https://host/a-{0..9}.tar", "pipe:cat b.tar"])
    assert isinstance(remote, shard_streams.Shards) and remote.counts() == {"shards": 11}


def test_each_pass_gives_all_photos_of_a_stream_in_another_order(shards):
    source = opened(shards).read(1, 4, 0, (0, 0, 0))  # stream 1 of 4: the second shard
    keys = [key for _, key, _ in itertools.islice(source, 12)]
    passes = [keys[i : i + 4] for i in (0, 4, 8)]
    assert all(sorted(keys) == [f"some/00{i}" for i in (3, 4, 5, 6)] for keys in passes)
    assert len(set(map(tuple, passes))) > 1


def test_batches_resume_from_their_positions(shards):
    unbroken = first(opened(shards), 12)
    for at in (1, 3, 7):
        positions = unbroken[at - 1].stream_positions
        resumed = first(opened(shards), 2, start=at, stream_positions=positions)
        for batch, expected in zip(resumed, unbroken[at:], strict=False):
            assert batch.names == expected.names
            assert batch.stream_positions == expected.stream_positions
            assert torch.equal(batch.images[0], expected.images[0])


def test_processes_make_the_same_parts(shards):
    whole = first(opened(shards), 3, parts=2)
    by_rank = [first(opened(shards), 3, rank=rank, world_size=2, parts=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        splits = (item.split(2) for item in (batch, *(batches[step] for batches in by_rank)))
        for part, *shares in zip(*splits, strict=True):
            assert part.names == sum((share.names for share in shares), [])
            assert list(part.rows) == [row for share in shares for row in share.rows]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_make_the_same_batches(shards, world_size):
    whole = first(opened(shards), 4)
    by_rank = [
        first(opened(shards), 4, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for batch, *shares in zip(whole, *by_rank, strict=True):
        assert sum((share.names for share in shares), []) == batch.names
        assert torch.equal(torch.cat([share.images[0] for share in shares]), batch.images[0])
        positions = [share.stream_positions.items() for share in shares]
        assert dict(itertools.chain(*positions)) == batch.stream_positions


def test_streams_that_cannot_be_divided(shards):
    with pytest.raises(ValueError, match="4 streams, which 8 processes cannot share evenly"):
        first(opened(shards), 1, world_size=8)


def test_damaged_shards_and_photos_are_skipped(shards, tmp_path, caplog):
    cut = tmp_path / "cut.tar"
    cut.write_bytes((shards / "s-03.tar").read_bytes()[:9000])
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as tar:
        member = tarfile.TarInfo("broken.jpg")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"none"))
    sources = [str(cut), str(tmp_path / "missing.tar"), str(bad), str(shards / "s-00.tar")]
    with caplog.at_level(logging.WARNING):
        batches = first(data_photos.open_photos(sources, stream=True), 16, batch=1)
    names = {name for batch in batches for name in batch.names}
    assert {"some/000", "some/001", "some/002"} <= names
    assert "missing.tar: skipped the rest of the shard" in caplog.text
    assert "cut.tar: skipped the rest of the shard" in caplog.text


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


def test_a_stream_without_colors_ends(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        gray = io.BytesIO()
        Image.new("L", (40, 40), 90).save(gray, "JPEG")
        for i in range(3):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(gray.getvalue())
            tar.addfile(member, io.BytesIO(gray.getvalue()))
    with pytest.raises(ValueError, match="none of the streamed photos is readable and colored"):
        first(data_photos.open_photos([str(tmp_path / "a.tar")], stream=True), 1, batch=1)


def test_streams_restart_when_their_number_changes(shards, caplog):
    positions = first(opened(shards), 2)[-1].stream_positions
    with caplog.at_level(logging.WARNING):
        (batch,) = first(opened(shards), 1, batch=2, stream_positions=positions)
    assert "the saved run has 4 streams, this one 2: all streams restart" in caplog.text
    assert torch.equal(batch.images[0], first(opened(shards), 1, batch=2)[0].images[0])
