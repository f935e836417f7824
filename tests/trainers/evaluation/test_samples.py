"""Evaluation samples: hint points, views, pairs and the selection of photos."""

import json
import logging
import zlib

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.evaluation import samples
from comfyui_colorist.trainers.evaluation.config import Config
from PIL import Image


def test_hints_are_drawn_by_key_count_and_seed():
    """Cells of 2x2 pixels in their mean color, as in the literature."""
    truth = torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(0))
    hints = samples.random_hints(truth, 7, "harbor", 3)
    rng = np.random.default_rng([3, zlib.crc32(b"harbor"), 7])
    cells = rng.choice(10 * 15, size=7, replace=False)
    lab = color.rgb_to_lab(truth)
    for hint, cell in zip(hints, cells, strict=True):
        y, x = 2 * (cell // 15), 2 * (cell % 15)
        assert (hint.x * 31, hint.y * 20) == pytest.approx((x + 1, y + 1))
        expected = lab[1:, y : y + 2, x : x + 2].mean((1, 2)).tolist()
        assert hint.ab == pytest.approx(expected, abs=1.5)  # 8 bits
    assert hints == samples.random_hints(truth, 7, "harbor", 3)
    assert hints != samples.random_hints(truth, 7, "market", 3)
    assert len(samples.random_hints(truth, 1000, "harbor", 3)) == 150


def test_views_share_the_middle():
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[..., 0] = 2 * np.arange(100)
    target, reference = samples.split_views(Image.fromarray(pixels), 0, "a", 0)
    assert target.shape == reference.shape == (3, 40, 62)
    columns = (255 * target[0, 0] / 2).round(), (255 * reference[0, 0].flip(0) / 2).round()
    assert columns[0].tolist() == list(range(62))
    assert columns[1].tolist() == list(range(38, 100))
    again = samples.split_views(Image.fromarray(pixels), 0, "a", 0)
    assert torch.equal(again[1], reference)


def test_pairs_from_all_formats(photos, tmp_path, caplog):
    gallery = Photos([photos])
    listed = tmp_path / "list.json"
    pairs = [
        {"target": "3.png", "reference": "1.png"},
        {"target": "0.png", "reference": "5.png"},
    ]
    listed.write_text(json.dumps(pairs))
    lines = tmp_path / "pairs.tsv"
    lines.write_text("# comment\n3.png\t1.png\tnote\n\nsome/folder/0.png\t5.png\n")
    table = tmp_path / "table.json"
    content = {"version": 1, "keys": list("012345"), "top": [[5, 1], [], [], [1, 0], [], []]}
    table.write_text(json.dumps(content))
    assert samples.read_pairs(listed, gallery) == [(3, 1), (0, 5)]
    assert samples.read_pairs(lines, gallery) == [(3, 1), (0, 5)]
    assert samples.read_pairs(table, gallery) == [(0, 5), (3, 1)]

    lines.write_text("3.png\t1.png\n3.png\t2.png\nelse.png\t1.png\n")
    with caplog.at_level(logging.WARNING):
        assert samples.read_pairs(lines, gallery) == [(3, 1)]  # the first pair of a target
    assert "left out 2 of 3 pairs" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "[1]", "not a list of pairs"),
        ("a.json", "{", "not a list of pairs"),
        ("a.tsv", "3.png 1.png", "not a list of pairs"),
        ("a.tsv", "else.png\tother.png", "none of its pairs is among the photos"),
    ],
)
def test_other_files_are_rejected(photos, tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        samples.read_pairs(tmp_path / name, Photos([photos]))


def test_photos_are_selected(photos, tmp_path):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "1.png")
    gallery = Photos([tmp_path])

    def select(**changes):
        return samples.select_photos(gallery, Config(photos=(tmp_path,), **changes), {})

    assert select() == [0, 1, 2, 3, 4, 5]
    assert select(min_chroma=4.0) == [0, 2, 3, 4, 5]
    assert select(min_chroma=4.0, limit=2) == [0, 2]
    assert select(skip=4, limit=5) == [4, 5]
    with pytest.raises(ValueError, match="none of 6 photos is left; lower --skip or --min-chroma"):
        select(min_chroma=120.0)
