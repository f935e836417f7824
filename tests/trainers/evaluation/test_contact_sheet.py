"""Contact sheets: layout, long names, file formats."""

import numpy as np
import pytest
import torch
from comfyui_colorist.trainers.evaluation import contact_sheet
from PIL import Image


def test_sheets_have_names_headings_and_captions():
    rows = [[torch.zeros(1, 3, 20, 40), torch.ones(1, 3, 10, 20)]] * 3
    bare = contact_sheet.contact_sheet(rows)
    assert bare.size == (6 + 2 * 182, 6 + 3 * (88 + 6))
    named = contact_sheet.contact_sheet(
        rows, ["a", "two words " * 12], [["x", "y"]] * 3, {0: "Best", 2: "Worst"}
    )
    assert named.width == bare.width
    assert named.height > bare.height + 3 * 13 + 2 * 13
    assert np.asarray(named)[:14, :20].min() < 100  # letters of the first name


def test_long_names_keep_their_end():
    font = contact_sheet.ImageFont.load_default(13)
    (line,) = contact_sheet._wrap(
        "runs/of/many/networks/with/long/names/weights.safetensors", 150, font
    )
    assert line.startswith("\u2026") and line.endswith("weights.safetensors")
    assert font.getlength(line) <= 150


def test_the_suffix_decides_the_format(tmp_path):
    contact_sheet.save_sheet(Image.new("RGB", (3, 3)), tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
    with pytest.raises(ValueError, match="must end in .jpg, .jpeg, .png, .webp"):
        contact_sheet.save_sheet(Image.new("RGB", (3, 3)), tmp_path / "a.tar")
