"""Photos come from folders and shards, in an order that a resumed run repeats."""

import io
import itertools
import json
import logging
import math
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.pipeline import color
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


def test_order_of_batches_is_pinned(folder, monkeypatch):
    """Runs that were started earlier resume where they were: seed, epoch, place give the crop."""
    photos = data.Photos([folder])
    seen, crop = [], np.zeros((3, 32, 32), np.uint8)
    monkeypatch.setattr(
        data, "random_crop", lambda image, size, rng, smallest: seen.append(rng.random()) or crop
    )
    first(photos, 1, threads=1)
    assert seen[:2] == [np.random.default_rng([3, 0, place]).random() for place in range(2)]


# --- Pairs -----------------------------------------------------------------------------------

TOP = [[(i + k) % 5 for k in range(1, 4)] for i in range(5)]


def first_pairs(photos, count, **settings):
    settings = {"pairs": TOP, "batch": 4} | settings
    source = data.pair_batches(photos, size=lambda step: 32, seed=3, **settings)
    return list(itertools.islice(source, count))


def draws(times, top, shares, count=40, target=7):
    rng = np.random.default_rng(0)
    return [data.draw_reference(rng, target, count, top, shares) for _ in range(times)]


def within_3_sigma(found, times, share):
    return abs(found - times * share) <= 3 * math.sqrt(times * share * (1 - share))


def test_references_come_as_often_as_the_paper_says():
    top, times = [3, 9, 0, 39, 8], 5000
    drawn = draws(times, top, tuple(data.SHARES.values()))
    kinds = [kind for kind, _ in drawn]
    for kind, share in data.SHARES.items():
        assert within_3_sigma(kinds.count(kind), times, share)
    best = [index for _, index in drawn].count(3)
    assert within_3_sigma(best, times, 0.6 + 0.3 / 5)
    for other in top[1:]:
        assert within_3_sigma([index for _, index in drawn].count(other), times, 0.3 / 5)
    rest = {index for kind, index in drawn if kind == "random"}
    assert rest == set(range(40)) - {7, *top}
    assert all(index != 7 for _, index in drawn)


@pytest.mark.parametrize(
    ("shares", "top", "count", "kinds"),
    [
        ((0, 0, 0.5, 0.5), [], 40, {"random", "self"}),
        ((0.5, 0.1, 0.2, 0.2), [], 40, {"random", "self"}),  # no candidates: the others
        ((0.6, 0.4, 0, 0), [], 40, {"random"}),
        ((0.6, 0.4, 0, 0), [7], 40, {"random"}),  # the target is no candidate of itself
        ((0, 0, 1, 0), [], 1, {"self"}),  # nothing but the target
        ((0, 0, 1, 0), [0, 1], 3, {"self"}),
    ],
)
def test_references_when_a_kind_cannot_be_had(shares, top, count, kinds):
    target = 7 if count > 7 else count - 1
    drawn = draws(300, top, shares, count, target)
    assert {kind for kind, _ in drawn} == kinds
    assert all((index == target) == (kind == "self") for kind, index in drawn)


def test_shares_are_checked():
    assert data.check_shares(data.SHARES, True) == (0.6, 0.3, 0.1, 0.0)
    assert data.check_shares({"self": 1}, False) == (0, 0, 0, 1)
    for shares in ((0.5, 0.5), (0.6, 0.3, 0.2, 0), (1.2, -0.2, 0, 0)):
        with pytest.raises(ValueError, match="probabilities of top1, top5, random, self"):
            data.check_shares(shares, True)
    with pytest.raises(ValueError, match="shares has best; known: top1"):
        data.check_shares({"best": 1.0}, True)


def test_pairs_repeat_from_any_step(folder):
    photos = data.Photos([folder])
    shares = (0.3, 0.2, 0.2, 0.3)
    unbroken = first_pairs(photos, 6, shares=shares)
    resumed = first_pairs(photos, 2, shares=shares, start=4, threads=1)
    for (target, reference), again in zip(unbroken[4:], resumed, strict=True):
        assert target.shape == reference.shape == (4, 3, 32, 32)
        assert target.dtype == reference.dtype == torch.float32
        assert 0 <= min(target.min(), reference.min()) <= max(target.max(), reference.max()) <= 1
        assert torch.equal(target, again[0]) and torch.equal(reference, again[1])
    assert not torch.equal(unbroken[0][0], unbroken[5][0])


@pytest.fixture
def plain(tmp_path):
    """Five photos of one colour each."""
    (tmp_path / "plain").mkdir()
    for i in range(5):
        Image.new("RGB", (56, 40), (90 + 20 * i, 130, 120)).save(tmp_path / "plain" / f"{i}.png")
    return tmp_path / "plain"


def photo_of(picture):
    return round((picture[0].mean().item() * 255 - 90) / 20)


def test_the_reference_is_the_retrieved_photo(plain):
    for targets, references in first_pairs(data.Photos([plain]), 5, shares=(1, 0, 0, 0)):
        for target, reference in zip(targets, references, strict=True):
            assert photo_of(reference) == TOP[photo_of(target)][0]


def test_an_unreadable_reference_gives_way_to_the_target(plain, caplog):
    (plain / "4.png").write_bytes(b"nothing")
    top = [[4]] * 5
    with caplog.at_level(logging.WARNING):
        pairs = first_pairs(data.Photos([plain]), 3, pairs=top, shares=(1, 0, 0, 0))
    assert "4.png" in caplog.text
    for targets, references in pairs:
        for target, reference in zip(targets, references, strict=True):
            same_ab(target, reference, 0.5)


def same_ab(first, second, tolerance):
    ab, other = (color.rgb_to_lab(x)[1:].mean((1, 2)) for x in (first, second))
    torch.testing.assert_close(ab, other, atol=tolerance, rtol=0)


def test_pairs_refusals(folder):
    photos = data.Photos([folder])
    with pytest.raises(ValueError, match="no table of pairs"):
        first_pairs(photos, 1, pairs=None)
    assert len(first_pairs(photos, 1, pairs=None, shares={"random": 0.5, "self": 0.5})) == 1
    with pytest.raises(ValueError, match="2 rows for 5 photos"):
        first_pairs(photos, 1, pairs=[[1], [0]])


@pytest.mark.parametrize("size", [(160, 160), (240, 160), (120, 160), (400, 160)])
def test_windows_of_one_photo(size):
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = data._window(size, rng)
        assert left >= 0 and right <= size[0] + 1e-6 and top >= 0 and bottom <= size[1] + 1e-6
        sides = (right - left) / size[0], (bottom - top) / size[1]
        assert min(sides) >= 0.5 - 1e-6


def test_views_show_the_same_place_in_another_light(monkeypatch):
    """Windows overlap by a third nearly always; colours of a plain photo stay, its L does not."""
    rng, boxes = np.random.default_rng(0), []
    view = data._view
    monkeypatch.setattr(data, "_view", lambda *args: boxes.append(args[2]) or view(*args))
    image = Image.new("RGB", (60, 40), (150, 120, 90))
    pairs = [data.views(image, 16, rng) for _ in range(100)]
    shared = [data.overlap(a, b) for a, b in zip(boxes[::2], boxes[1::2], strict=True)]
    assert sum(part >= 1 / 3 for part in shared) >= 95
    for target, reference in pairs:
        assert target.shape == reference.shape == (3, 16, 16)
        same_ab(target, reference, 0.5)
    changes = [(color.lightness(r) - color.lightness(t)).mean().item() for t, r in pairs]
    assert min(changes) < -5 and max(changes) > 5


def test_overlap():
    assert data.overlap((0, 0, 4, 4), (2, 2, 4, 4)) == 1
    assert data.overlap((0, 0, 4, 4), (2, 0, 6, 4)) == 0.5
    assert data.overlap((0, 0, 4, 4), (4, 4, 5, 5)) == 0


def test_recolor_alike_keeps_what_belongs_together():
    generator = torch.Generator().manual_seed(0)
    target = 40 * torch.randn(64, 2, 6, 6, generator=generator).clamp(-2.5, 2.5)
    reference = target.flip(3)
    made, wanted = data.recolor_alike(target, reference, generator)
    torch.testing.assert_close(made.flip(3), wanted)  # like colours stay alike
    assert made.abs().max() <= 110 + 1e-4
    # Linear but for a shift: differences of colours keep their angles and are stretched alike
    before = torch.linalg.vector_norm(target - target[..., :1, :1], dim=1).flatten(1)[:, 1:]
    after = torch.linalg.vector_norm(made - made[..., :1, :1], dim=1).flatten(1)[:, 1:]
    stretch = after / before
    torch.testing.assert_close(stretch, stretch[:, :1].expand_as(stretch), atol=1e-3, rtol=1e-3)
    assert stretch.min() > 0.4 and stretch.max() < 1.41
    angles = torch.atan2(*(made - made.mean((2, 3), keepdim=True))[:, :, 0, 0].unbind(1)) - (
        torch.atan2(*(target - target.mean((2, 3), keepdim=True))[:, :, 0, 0].unbind(1))
    )
    assert all(((angles % (2 * math.pi)) // (math.pi / 2) == k).any() for k in range(4))


def test_recolor_alike_of_some():
    ab = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    which = torch.tensor([True, False] * 4)
    target, reference = data.recolor_alike(ab, ab, torch.Generator().manual_seed(1), which)
    same = (target == ab).flatten(1).all(1)
    assert torch.equal(same, ~which) and torch.equal(target, reference)
    again, _ = data.recolor_alike(ab, ab, torch.Generator().manual_seed(1), which)
    assert torch.equal(target, again)
    untouched, _ = data.recolor_alike(ab, ab, which=0.0)
    assert torch.equal(untouched, ab)


def table(path, **changes):
    content = {
        "version": 1,
        "keys": ["p3", "p1", "gone", "p0", "p4"],
        "top": [[1, 2, 3], [0], [0, 1], [4, 1], []],
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_pairs_are_found_by_key(folder, tmp_path):
    photos = data.Photos([folder])
    assert photos.keys == ["p0", "p1", "p2", "p3", "p4"]
    assert data.load_pairs(table(tmp_path / "pairs.json"), photos) == [[4, 1], [3], [], [1, 0], []]


def test_keys_of_shards(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.rglob("*.jpg")):
            tar.add(path, f"deep/{path.name}")
    assert data.Photos([tmp_path / "a.tar"]).keys == data.Photos([folder]).keys


def test_keys_of_two_photos_are_left_out(folder, tmp_path, caplog):
    (folder / "p0.jpg").write_bytes(jpeg(7))
    photos = data.Photos([folder])
    pairs = data.load_pairs(table(tmp_path / "pairs.json"), photos)
    assert "the first 'p0'" in caplog.text
    assert dict(zip(photos.keys, pairs, strict=True))["p3"] == [photos.keys.index("p1")]
    assert all(not row for key, row in zip(photos.keys, pairs, strict=True) if key == "p0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2; this program reads version 1"),
        ({"top": [[9]] * 5}, "not a table of pairs"),
        ({"top": [[1]]}, "5 keys but 1 rows"),
        ({"keys": None}, "not a table of pairs"),
        ({"keys": list("abcde")}, "not one of its pairs is among the photos"),
    ],
)
def test_tables_that_are_refused(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load_pairs(table(tmp_path / "pairs.json", **changes), data.Photos([folder]))
