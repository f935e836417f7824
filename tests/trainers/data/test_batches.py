"""Batches of photos from folders and shards: order, resuming, skipped photos."""

import io
import itertools
import logging
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.trainers.data import batches, color_filter, decoding
from comfyui_colorist.trainers.data import photos as data_photos
from PIL import Image, ImageCms


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


CROP = batches.RandomCrop(lambda step: 32)


def load_batches(photos, batch=2, **settings):
    return batches.load_batches(photos, CROP, batch=batch, seed=3, **settings)


def first_images(photos, count, **settings):
    return [part.images[0] for part in itertools.islice(load_batches(photos, **settings), count)]


def test_shard_equals_folder(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.rglob("*.jpg")):
            tar.add(path, path.name)
    from_folder, from_tar = data_photos.Photos([folder]), data_photos.Photos([tmp_path / "a.tar"])
    assert len(from_folder) == len(from_tar) == 5
    for a, b in zip(from_folder, from_tar, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_batches_repeat_from_any_step(folder):
    photos = data_photos.Photos([folder])
    unbroken = first_images(photos, 6)
    resumed = first_images(photos, 2, start=4)
    assert unbroken[0].shape == (2, 3, 32, 32) and unbroken[0].dtype == torch.uint8
    assert torch.equal(unbroken[4], resumed[0]) and torch.equal(unbroken[5], resumed[1])
    assert not torch.equal(unbroken[0], unbroken[5])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("world_size", "threads"), [(1, 1), (1, 3), (2, 1), (4, 2)])
def test_processes_and_threads_make_the_same_parts(folder, world_size, threads, parts):
    """Parts of a batch hold the same photos, too: batch norm depends on them."""
    photos = data_photos.Photos([folder])

    def first_parts(rank, world_size, threads):
        source = load_batches(
            photos, batch=8, rank=rank, world_size=world_size, parts=parts, threads=threads
        )
        return [list(batch.split(parts)) for batch in itertools.islice(source, 3)]

    single = first_parts(0, 1, 2)
    by_rank = [first_parts(rank, world_size, threads) for rank in range(world_size)]
    for step, part in itertools.product(range(3), range(parts)):
        whole, shares = single[step][part], [steps[step][part] for steps in by_rank]
        assert list(whole.rows) == [row for share in shares for row in share.rows]
        assert whole.names == [name for share in shares for name in share.names]
        assert torch.equal(whole.images[0], torch.cat([share.images[0] for share in shares]))


def test_a_batch_that_cannot_be_divided(folder):
    with pytest.raises(ValueError, match="batch of 2 photos cannot be divided evenly over 3"):
        first_images(data_photos.Photos([folder]), 1, world_size=3)


def test_parts_of_a_batch(folder):
    batch = next(load_batches(data_photos.Photos([folder]), batch=8, rank=1, world_size=2))
    parts = list(batch.split(2))
    assert [part.rows for part in parts] == [range(4, 6), range(6, 8)]
    assert sum((part.names for part in parts), []) == batch.names
    assert torch.equal(torch.cat([part.images[0] for part in parts]), batch.images[0])


def test_batch_larger_than_all_photos(folder):
    assert next(load_batches(data_photos.Photos([folder]), batch=16)).images[0].shape == (
        16,
        3,
        32,
        32,
    )


def test_unreadable_photo_is_named_and_replaced(folder, caplog):
    (folder / "broken.jpg").write_bytes(jpeg(9)[:60])
    with caplog.at_level(logging.WARNING):
        assert len(first_images(data_photos.Photos([folder]), 3)) == 3
    assert caplog.text.count("broken.jpg") == 1, "logged once, though each pass reads it"


def test_colorless_photos_are_replaced(folder, caplog):
    """A gray JPEG, and a color JPEG of a gray print."""
    noise = Image.open(io.BytesIO(jpeg(7))).convert("L")
    noise.save(folder / "gray.jpg")
    noise.convert("RGB").save(folder / "print.jpg")
    with caplog.at_level(logging.WARNING):
        photos = data_photos.Photos([folder])
        source = load_batches(photos, batch=7)
        names = next(source).names + next(source).names
    assert set(names) == {f"sub/p{i}" for i in range(5)}
    assert len(photos.skipped) == 2 and not data_photos.Photos([folder]).skipped
    assert "gray.jpg: it has no colors" in caplog.text and "print.jpg" in caplog.text


def test_toned_prints_are_colorless():
    """In sepia each lightness has one color."""
    rng = np.random.default_rng(0)
    gray = Image.fromarray(rng.integers(0, 255, (12, 16), dtype=np.uint8)).resize((320, 240))
    tones = (np.asarray(gray)[..., None] / 255) ** np.array([0.9, 1.0, 1.15]) * [255, 235, 190]
    buffer = io.BytesIO()
    Image.fromarray(tones.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    assert "a toned print" in color_filter.no_color_reason(Image.open(buffer))
    assert color_filter.no_color_reason(Image.open(io.BytesIO(jpeg(0)))) == ""


def test_few_usable_photos_among_many_are_not_repeated_in_a_row(tmp_path, monkeypatch):
    """Replacing by the next in order would turn all neighbors of a usable photo into it."""
    for i in range(200):
        (tmp_path / f"{i:03d}.jpg").write_bytes(b"")
    image = Image.open(io.BytesIO(jpeg(0)))

    def load_usable(photos, index, min_side):
        return image if index % 20 == 0 else None

    monkeypatch.setattr(data_photos.Photos, "load_usable", load_usable)
    source = load_batches(data_photos.Photos([tmp_path]), batch=8)
    different = [len(set(next(source).names)) for _ in range(10)]
    assert sum(different) / 10 > 4.5  # of 10 usable photos, drawn 8 times: 5.7
    assert {int(name) % 20 for name in next(source).names} == {0}


def test_photos_of_one_name_in_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IMG_1.jpg").write_bytes(jpeg(0))
        (tmp_path / name / "._IMG_1.jpg").write_bytes(b"metadata of macOS")
    photos = data_photos.Photos([tmp_path])
    assert photos.keys == ["a/IMG_1", "b/IMG_1"] and photos.folders == ["a", "b"]


def test_photos_to_watch(folder, tmp_path):
    photos, watched = data_photos.hold_out(data_photos.Photos([folder] * 4), 24, 0, [folder])
    assert (len(photos), len(watched)) == (20, 5)


def test_only_gray_photos(tmp_path):
    Image.new("L", (40, 40), 99).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="none of the photos is readable and colored"):
        first_images(data_photos.Photos([tmp_path]), 1)


def test_photos_are_upright_and_in_srgb():
    """Like all images that the pipeline reads."""
    image = Image.new("RGB", (40, 20), (200, 40, 40))
    image.paste((30, 90, 200), (0, 0, 10, 20))  # left edge of the stored pixels
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    buffer = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(buffer, "PNG", exif=exif, icc_profile=profile)
    upright = decoding.decode(buffer.getvalue())
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (30, 90, 200)


def test_large_photos_are_decoded_smaller():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((1600, 1200), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    assert decoding.decode(buffer.getvalue()).size == (1600, 1200)
    assert decoding.decode(buffer.getvalue(), 400).size == (800, 600)
    assert decoding.decode(buffer.getvalue(), 1300).size == (1600, 1200)


def test_hold_out(folder):
    photos = data_photos.Photos([folder] * 4)  # 20
    rest, held_out = data_photos.hold_out(photos, 24, seed=0)
    assert len(held_out) == 2 and len(rest) == 18, "at most a tenth"
    again = data_photos.hold_out(photos, 24, seed=0)[1]
    assert again.entries == held_out.entries
    assert len(rest.folders) == 18 and set(rest.folders) == {"sub"}


def test_licences_are_left_out(folder, tmp_path):
    index = tmp_path / "index.csv"
    index.write_text("key,licence_kind\np0,open\np1,unstated\np2,research\n")
    assert len(data_photos.Photos([folder], [index], ("unstated", "research"))) == 3


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no photos found"):
        data_photos.Photos([tmp_path / "empty"])
    with pytest.raises(ValueError, match="missing: no such file or folder"):
        data_photos.Photos([tmp_path / "missing"])
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "empty", "empty")
    with pytest.raises(ValueError, match="a.tar.gz: compressed; unpack it"):
        data_photos.Photos([tmp_path / "a.tar.gz"])
    (tmp_path / "b.tar").write_bytes(b"not a tar file" * 50)
    with pytest.raises(ValueError, match="b.tar: damaged, truncated or not a .tar file"):
        data_photos.Photos([tmp_path / "b.tar"])


def test_order_of_batches_is_pinned(folder, monkeypatch):
    """Runs of earlier versions resume: seed, epoch and position determine the crop."""
    photos = data_photos.Photos([folder])
    seen, crop = [], torch.zeros(3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(
        batches,
        "random_crop",
        lambda image, size, rng, min_scale: seen.append(rng.random()) or crop,
    )
    first_images(photos, 1, threads=1)
    assert seen[:2] == [np.random.default_rng([3, 0, position]).random() for position in range(2)]
