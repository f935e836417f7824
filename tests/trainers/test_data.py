"""Photos come from folders and shards, in an order that a resumed run repeats."""

import io
import itertools
import logging
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.trainers import data
from PIL import Image


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        (tmp_path / "photos" / "sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "sub" / f"p{i}.jpg").write_bytes(jpeg(i))
    return tmp_path / "photos"


def first(photos, count, **settings):
    source = data.batches(photos, size=lambda step: 32, batch=2, seed=3, **settings)
    return list(itertools.islice(source, count))


def test_shard_equals_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.rglob("*.jpg")):
            tar.add(path, path.name)
    from_folder, from_tar = data.Photos([folder]), data.Photos([tmp_path / "a.tar"])
    assert len(from_folder) == len(from_tar) == 5
    for a, b in zip(from_folder, from_tar, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_batches_repeat_from_any_step(folder):
    photos = data.Photos([folder])
    unbroken = first(photos, 6)
    resumed = first(photos, 2, start=4)
    assert unbroken[0].shape == (2, 3, 32, 32) and unbroken[0].max() <= 1
    assert torch.equal(unbroken[4], resumed[0]) and torch.equal(unbroken[5], resumed[1])
    assert not torch.equal(unbroken[0], unbroken[5])


def test_batch_larger_than_all_photos(folder):
    source = data.batches(data.Photos([folder]), size=lambda step: 32, batch=16, seed=3)
    assert next(source).shape == (16, 3, 32, 32)


def test_unreadable_photo_is_named_and_replaced(folder, caplog):
    (folder / "broken.jpg").write_bytes(jpeg(9)[:60])
    with caplog.at_level(logging.WARNING):
        assert len(first(data.Photos([folder]), 3)) == 3
    assert "broken.jpg" in caplog.text


def test_licences_are_left_out(folder, tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("key,licence_kind\np0,open\np1,unstated\np2,research\n")
    assert len(data.Photos([folder], index, ("unstated", "research"))) == 3


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos found"):
        data.Photos([tmp_path / "empty"])
    with pytest.raises(ValueError, match="expected a folder of photos or an uncompressed .tar"):
        data.Photos([tmp_path / "missing"])
