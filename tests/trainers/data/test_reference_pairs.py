"""Training pairs of target and reference, and tables of retrieved references."""

import io
import itertools
import json
import logging
import math
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.trainers.data import batches, color_filter, reference_pairs, shards
from comfyui_colorist.trainers.data import photos as data_photos
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


# --- References ------------------------------------------------------------------------------

TOP = [[(i + k) % 5 for k in range(1, 4)] for i in range(5)]


def first_pairs(photos, count, pairs=TOP, shares=reference_pairs.SHARES, **settings):
    pair = reference_pairs.ReferencePair(photos, lambda step: 32, pairs, shares)
    source = batches.load_batches(photos, pair, batch=4, seed=3, **settings)
    return [batch.images for batch in itertools.islice(source, count)]


def draws(times, top, shares, count=40, target=7):
    rng = np.random.default_rng(0)
    return [reference_pairs.draw_reference(rng, target, count, top, shares) for _ in range(times)]


def within_3_sigma(count, times, share):
    return abs(count - times * share) <= 3 * math.sqrt(times * share * (1 - share))


def test_shares_of_references_are_those_of_the_paper():
    top, times = [3, 9, 0, 39, 8], 5000
    drawn = draws(times, top, tuple(reference_pairs.SHARES.values()))
    kinds = [kind for kind, _ in drawn]
    for kind, share in reference_pairs.SHARES.items():
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
        ((0.5, 0.1, 0.2, 0.2), [], 40, {"random", "self"}),  # no candidates: the other kinds
        ((0.6, 0.4, 0, 0), [], 40, {"random"}),
        ((0.6, 0.4, 0, 0), [7], 40, {"random"}),  # the target is not its own candidate
        ((0, 0, 1, 0), [], 1, {"self"}),  # nothing but the target
        ((0, 0, 1, 0), [0, 1], 3, {"self"}),
    ],
)
def test_references_when_a_kind_is_impossible(shares, top, count, kinds):
    target = 7 if count > 7 else count - 1
    drawn = draws(300, top, shares, count, target)
    assert {kind for kind, _ in drawn} == kinds
    assert all((index == target) == (kind == "self") for kind, index in drawn)


def test_shares_are_validated():
    assert reference_pairs.validate_shares(reference_pairs.SHARES, True) == (0.6, 0.3, 0.1, 0.0)
    assert reference_pairs.validate_shares({"self": 1}, False) == (0, 0, 0, 1)
    for shares in ((0.5, 0.5), (0.6, 0.3, 0.2, 0), (1.2, -0.2, 0, 0)):
        with pytest.raises(ValueError, match="probabilities of top1, top5, random, self"):
            reference_pairs.validate_shares(shares, True)
    with pytest.raises(ValueError, match="shares has unknown kinds: best; expected top1"):
        reference_pairs.validate_shares({"best": 1.0}, True)


def test_pairs_repeat_from_any_step(folder):
    photos = data_photos.Photos([folder])
    shares = (0.3, 0.2, 0.2, 0.3)
    unbroken = first_pairs(photos, 6, shares=shares)
    resumed = first_pairs(photos, 2, shares=shares, start=4, threads=1)
    for (target, reference), again in zip(unbroken[4:], resumed, strict=True):
        assert target.shape == reference.shape == (4, 3, 32, 32)
        assert target.dtype == reference.dtype == torch.uint8
        assert torch.equal(target, again[0]) and torch.equal(reference, again[1])
    assert not torch.equal(unbroken[0][0], unbroken[5][0])


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """Five photos of one color each."""
    # Photos of one color would pass for toned prints.
    monkeypatch.setattr(color_filter, "no_color_reason", lambda image: "")
    (tmp_path / "plain").mkdir()
    for i in range(5):
        Image.new("RGB", (56, 40), (90 + 20 * i, 130, 120)).save(tmp_path / "plain" / f"{i}.png")
    return tmp_path / "plain"


def photo_of(crop):
    return round((crop[0].float().mean().item() - 90) / 20)


def test_the_reference_is_the_retrieved_photo(plain):
    for targets, references in first_pairs(data_photos.Photos([plain]), 5, shares=(1, 0, 0, 0)):
        for target, reference in zip(targets, references, strict=True):
            assert photo_of(reference) == TOP[photo_of(target)][0]


def test_an_unreadable_reference_is_replaced_by_the_target(plain, caplog):
    (plain / "4.png").write_bytes(b"nothing")
    top = [[4]] * 5
    with caplog.at_level(logging.WARNING):
        pairs = first_pairs(data_photos.Photos([plain]), 3, pairs=top, shares=(1, 0, 0, 0))
    assert "4.png" in caplog.text
    for targets, references in pairs:
        for target, reference in zip(targets, references, strict=True):
            same_ab(target, reference, 0.5)


def lightness(crop):
    return color.lightness(crop / 255)


def same_ab(first, second, tolerance):
    ab, other = (color.rgb_to_lab(x / 255)[1:].mean((1, 2)) for x in (first, second))
    torch.testing.assert_close(ab, other, atol=tolerance, rtol=0)


def test_pairs_refusals(folder):
    photos = data_photos.Photos([folder])
    with pytest.raises(ValueError, match="table of pairs is missing"):
        first_pairs(photos, 1, pairs=None)
    assert len(first_pairs(photos, 1, pairs=None, shares={"random": 0.5, "self": 0.5})) == 1
    with pytest.raises(ValueError, match="2 rows for 5 photos"):
        first_pairs(photos, 1, pairs=[[1], [0]])


def test_a_stream_allows_other_views_alone(folder, tmp_path):
    pytest.importorskip("webdataset", reason="streams need WebDataset")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.rglob("*.jpg")):
            tar.add(path, path.name)
    stream = shards.Shards([str(tmp_path / "a.tar")])
    with pytest.raises(ValueError, match="but a stream cannot load them.*--shares 0 0 0 1"):
        first_pairs(stream, 1, pairs=None, shares=(0, 0, 0.5, 0.5))
    ((target, reference),) = first_pairs(stream, 1, pairs=None, shares=(0, 0, 0, 1))
    assert target.shape == reference.shape == (4, 3, 32, 32)


def test_processes_share_a_batch_of_pairs(folder):
    photos, shares = data_photos.Photos([folder]), (0.3, 0.2, 0.2, 0.3)
    whole = first_pairs(photos, 3, shares=shares)
    by_rank = [first_pairs(photos, 3, shares=shares, rank=rank, world_size=2) for rank in range(2)]
    for images, *halves in zip(whole, *by_rank, strict=True):
        for image, *parts in zip(images, *halves, strict=True):
            assert torch.equal(image, torch.cat(parts))


@pytest.mark.parametrize("size", [(160, 160), (240, 160), (120, 160), (400, 160)])
def test_windows_of_one_photo(size):
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = reference_pairs._random_window(size, rng)
        assert left >= 0 and right <= size[0] + 1e-6 and top >= 0 and bottom <= size[1] + 1e-6
        sides = (right - left) / size[0], (bottom - top) / size[1]
        assert min(sides) >= 0.5 - 1e-6


def test_views_overlap_and_differ_in_lightness(monkeypatch):
    """Windows nearly always overlap by a third. A plain photo keeps its color, but not its L."""
    rng, boxes = np.random.default_rng(0), []
    resize_box = reference_pairs.resize_box
    monkeypatch.setattr(
        reference_pairs, "resize_box", lambda *args: boxes.append(args[2]) or resize_box(*args)
    )
    image = Image.new("RGB", (60, 40), (150, 120, 90))
    pairs = [reference_pairs.two_views(image, 16, rng) for _ in range(100)]
    shared = [reference_pairs.overlap(a, b) for a, b in zip(boxes[::2], boxes[1::2], strict=True)]
    assert sum(part >= 1 / 3 for part in shared) >= 95
    for target, reference in pairs:
        assert target.shape == reference.shape == (3, 16, 16)
        same_ab(target, reference, 0.5)
    changes = [(lightness(r) - lightness(t)).mean().item() for t, r in pairs]
    assert min(changes) < -5 and max(changes) > 5


def test_overlap():
    assert reference_pairs.overlap((0, 0, 4, 4), (2, 2, 4, 4)) == 1
    assert reference_pairs.overlap((0, 0, 4, 4), (2, 0, 6, 4)) == 0.5
    assert reference_pairs.overlap((0, 0, 4, 4), (4, 4, 5, 5)) == 0


def test_recolor_pairs_maps_both_alike():
    generator = torch.Generator().manual_seed(0)
    target = 40 * torch.randn(64, 2, 6, 6, generator=generator).clamp(-2.5, 2.5)
    reference = target.flip(3)
    recolored, other = reference_pairs.recolor_pairs(target, reference, generator)
    torch.testing.assert_close(recolored.flip(3), other)  # equal colors stay equal
    assert recolored.abs().max() <= 110 + 1e-4
    # Affine: differences of colors keep their angles and are all stretched by one factor.
    before = torch.linalg.vector_norm(target - target[..., :1, :1], dim=1).flatten(1)[:, 1:]
    after = torch.linalg.vector_norm(recolored - recolored[..., :1, :1], dim=1).flatten(1)[:, 1:]
    stretch = after / before
    torch.testing.assert_close(stretch, stretch[:, :1].expand_as(stretch), atol=1e-3, rtol=1e-3)
    assert stretch.min() > 0.4 and stretch.max() < 1.41
    angles = torch.atan2(
        *(recolored - recolored.mean((2, 3), keepdim=True))[:, :, 0, 0].unbind(1)
    ) - (torch.atan2(*(target - target.mean((2, 3), keepdim=True))[:, :, 0, 0].unbind(1)))
    assert all(((angles % (2 * math.pi)) // (math.pi / 2) == k).any() for k in range(4))


def test_recolor_pairs_with_a_probability():
    ab = torch.randn(400, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    target, reference = reference_pairs.recolor_pairs(ab, ab, torch.Generator().manual_seed(1), 0.3)
    changed = (target != ab).flatten(1).any(1)
    assert within_3_sigma(changed.sum(), 400, 0.3) and torch.equal(target, reference)
    again, _ = reference_pairs.recolor_pairs(ab, ab, torch.Generator().manual_seed(1), 0.3)
    assert torch.equal(target, again)
    untouched, _ = reference_pairs.recolor_pairs(ab, ab, torch.Generator(), 0.0)
    assert torch.equal(untouched, ab)


def test_recolor_pairs_of_a_part_is_that_part_of_the_whole():
    """Processes and parts of a batch recolor as one process would."""
    ab = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    whole, _ = reference_pairs.recolor_pairs(ab, ab, torch.Generator().manual_seed(1), 0.5)
    for rows in (range(0, 4), range(4, 8), range(6, 8)):
        own = ab[rows.start : rows.stop]
        part, _ = reference_pairs.recolor_pairs(
            own, own, torch.Generator().manual_seed(1), 0.5, rows, len(ab)
        )
        assert torch.equal(part, whole[rows.start : rows.stop])


# --- Tables ----------------------------------------------------------------------------------


def table(path, **changes):
    content = {
        "version": 1,
        "keys": ["sub/p3", "sub/p1", "gone", "sub/p0", "sub/p4"],
        "top": [[1, 2, 3], [0], [0, 1], [4, 1], []],
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_pairs_are_found_by_key(folder, tmp_path):
    photos = data_photos.Photos([folder])
    assert photos.keys == [f"sub/p{i}" for i in range(5)]
    assert reference_pairs.load_pairs(table(tmp_path / "pairs.json"), photos) == [
        [4, 1],
        [3],
        [],
        [1, 0],
        [],
    ]


def test_keys_of_shards(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folder.rglob("*.jpg")):
            tar.add(path, f"sub/{path.name}")
    assert data_photos.Photos([tmp_path / "a.tar"]).keys == data_photos.Photos([folder]).keys


def test_references_of_photos_that_are_held_out(folder, tmp_path):
    """Indices refer to the remaining photos."""
    photos = data_photos.Photos([folder])
    rest, held_out = photos.subset([0, 2, 4]), photos.subset([3, 1])
    path = table(tmp_path / "pairs.json")
    assert reference_pairs.load_pairs(path, rest, held_out) == [[0], []]
    assert reference_pairs.load_pairs(path, rest) == [[2], [], []]


def test_keys_of_two_photos_are_left_out(folder, tmp_path, caplog):
    (tmp_path / "more" / "sub").mkdir(parents=True)
    (tmp_path / "more" / "sub" / "p0.jpg").write_bytes(jpeg(7))
    photos = data_photos.Photos([folder, tmp_path / "more"])
    pairs = reference_pairs.load_pairs(table(tmp_path / "pairs.json"), photos)
    assert "the first is 'sub/p0'" in caplog.text
    assert dict(zip(photos.keys, pairs, strict=True))["sub/p3"] == [photos.keys.index("sub/p1")]
    assert all(not row for key, row in zip(photos.keys, pairs, strict=True) if key == "sub/p0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2; this program reads version 1"),
        ({"top": [[9]] * 5}, "not a table of pairs"),
        ({"top": [[1]]}, "5 keys but 1 rows"),
        ({"keys": None}, "not a table of pairs"),
        ({"keys": list("abcde")}, "none of its pairs is among the photos"),
    ],
)
def test_tables_that_are_refused(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        reference_pairs.load_pairs(
            table(tmp_path / "pairs.json", **changes), data_photos.Photos([folder])
        )
