"""Colorize Photo and Color Look."""

import json

import pytest
import torch
from comfyui_colorist.ops import color
from PIL import Image


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1))


@pytest.fixture
def run(host, folder, mini_file):
    """Run Colorize Photo with a miniature model in the models folder."""
    (folder / "mini.safetensors").write_bytes(mini_file.read_bytes())

    def execute(image, **options):
        return host.nodes.photo.ColorizePhoto.execute(image, "mini.safetensors", **options)

    return execute


def test_photo_in_color_and_comparison_out(host, run, grey):
    image = grey(2)
    output = run(image, saturation=1.2)
    colored, comparison = output.args
    assert (lightness(colored) - lightness(image)).abs().max() < 0.02
    assert torch.equal(comparison, torch.cat([image, colored], dim=2))
    files = output.ui["colorist_comparison"]
    folder = host.folder_paths.get_temp_directory()
    sizes = [Image.open(f"{folder}/{f['subfolder']}/{f['filename']}").size for f in files]
    assert sizes == [(56, 40), (56, 40)]


def test_gray_and_alpha(run, grey):
    assert run(grey(1, 40, 56, 1)).args[1].shape == (1, 40, 112, 3)
    assert run(grey(1, 40, 56, 4)).args[1].shape == (1, 40, 112, 4)


def test_looks(run, grey):
    image = grey(1)
    natural, warm = run(image).args[0], run(image, look="warm").args[0]
    b = [color.rgb_to_lab(x.movedim(-1, 1))[:, 2].mean() for x in (natural, warm)]
    assert b[1] > b[0] + 1
    assert (lightness(warm) - lightness(natural)).abs().max() < 0.02


def test_the_model_is_loaded_once(host, run, grey, monkeypatch):
    host.nodes.photo._load.cache_clear()
    loads = []
    load = host.nodes.photo.load_colorizer
    monkeypatch.setattr(
        host.nodes.photo, "load_colorizer", lambda *args: loads.append(args) or load(*args)
    )
    run(grey(1))
    run(grey(1), look="vivid")
    assert len(loads) == 1


def test_the_first_model_is_the_best(host, folder):
    inputs = {put.id: put for put in host.nodes.photo.ColorizePhoto.GET_SCHEMA().inputs}
    assert inputs["model"].options[0] == "ddcolor-nano"
    assert inputs["look"].options[0] == "natural"


def test_looks_of_the_user_are_listed_and_noticed(host, folder, caplog):
    node = host.nodes.look.ColorLook
    key = host.nodes.look.looks_key()
    path = host.nodes.look.host.models_folder() / "looks.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mine": {"tint": [[0, 5]] * 3}}))
    look = next(put for put in node.define_schema().inputs if put.id == "look")
    assert look.options[-1] == "mine" and host.nodes.look.looks_key() != key
    gray = torch.full((1, 4, 4, 3), 0.5)
    result = node.execute(gray, look="mine", temperature=10, midtones_tint=20).args[0]
    lab = color.rgb_to_lab(result.movedim(-1, 1))
    middle = lab[:, :, 0, 0][0]
    assert abs(middle[2] - 7) < 0.3 and 3 < middle[1] < 4.1  # L is 53, so not all of the midtones
    path.write_text("{")
    look = next(put for put in node.define_schema().inputs if put.id == "look")
    assert "mine" not in look.options and "looks cannot be read" in caplog.text
    with pytest.raises(ValueError, match="cannot be read"):
        node.execute(gray, look="mine")
