"""Find References; the search is tested in tests/pipeline."""

import os

import numpy as np
import pytest
import torch
from comfyui_colorist.ops import color
from PIL import Image


def photo(seed: int = 0, height: int = 48, width: int = 64) -> torch.Tensor:
    """A colourful picture (H, W, 3) of soft patches."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 4 + seed % 3, 5, generator=generator)
    return torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0].movedim(0, 2)


def grey(rgb: torch.Tensor) -> torch.Tensor:
    """The same lightness without color."""
    return color.gray_rgb(color.lightness(rgb.movedim(-1, 0))).movedim(0, -1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is kept outside of the test."""
    monkeypatch.setenv("COLORIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def inputs(host, tmp_path):
    """The host's input folder, empty."""
    place = tmp_path / "input"
    place.mkdir()
    before = host.folder_paths.get_input_directory()
    host.folder_paths.set_input_directory(str(place))
    yield place
    host.folder_paths.set_input_directory(before)


@pytest.fixture
def album(inputs):
    """Three colour photos of different shapes, a grey and a damaged one in input/album."""
    (inputs / "album" / "1930").mkdir(parents=True)
    sizes = ((48, 64), (90, 60), (32, 64))
    for i, name in enumerate(("a.png", "b.png", "1930/c.png")):
        pixels = (photo(i, *sizes[i]).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(inputs / "album" / name)
    Image.fromarray((photo(5)[..., 0].numpy() * 255).astype(np.uint8)).save(
        inputs / "album" / "grey.png"
    )
    (inputs / "album" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return inputs / "album"


@pytest.fixture
def find(host, folder, inputs):
    return lambda *args, **options: host.nodes.FindReference.execute(*args, **options).args


def test_finds_in_a_folder(find, album, cache):
    target = grey(photo(1, 90, 60))[None]
    photos_rgb, report, score = find(target, folder="album", count=3)
    assert photos_rgb.shape == (3, 90, 60, 3) and photos_rgb.dtype == torch.float32
    assert torch.allclose(photos_rgb[0], photo(1, 90, 60), atol=1 / 255)
    lines = report.splitlines()
    assert lines[0] == "References for the image, from 3 color photos:"
    assert lines[1].startswith(f"1. b.png: score {score:.3f}, ") and lines[1].endswith(" % similar")
    assert {line.split(". ")[1].split(":")[0] for line in lines[2:4]} == {"a.png", "1930/c.png"}
    assert lines[4:] == ["Gray photos skipped: 1", "Unreadable files skipped: 1 (broken.jpg)"]
    assert 0 <= score < 0.1
    assert len(list((cache / "references").iterdir())) == 1
    assert sorted(path.name for path in album.iterdir()) == [
        "1930",
        "a.png",
        "b.png",
        "broken.jpg",
        "grey.png",
    ]
    assert find(target, folder="album", count=3)[1] == report
    assert find(target, folder="album/1930", count=3)[1].splitlines()[1].startswith("1. c.png")


def test_finds_among_images(find, cache):
    gallery = torch.stack([photo(i) for i in range(4)])
    photos_rgb, report, score = find(grey(photo(2))[None].half(), gallery=gallery)
    assert torch.equal(photos_rgb, gallery[2:3])
    assert report.splitlines()[1].startswith("1. image 3: ") and isinstance(score, float)
    assert not cache.exists()
    alpha = torch.cat([gallery, torch.ones(4, 48, 64, 1)], dim=-1)
    assert torch.equal(find(grey(photo(2))[None], gallery=alpha)[0], photos_rgb)


def test_what_is_transparent_stays_so(find):
    """Hidden colours must not come out as colours to take."""
    gallery = torch.stack([photo(i) for i in range(4)])
    alpha = torch.ones(4, 48, 64, 1)
    alpha[2, :, :8] = 0
    photos_rgb, *_ = find(grey(photo(2))[None], gallery=torch.cat([gallery, alpha], dim=-1))
    assert torch.equal(photos_rgb[..., 3:], alpha[2:3])


def test_frames_are_ranked_for_together(find):
    gallery = torch.stack([photo(i) for i in range(3)])
    frames = torch.stack([grey(photo(i)) for i in (0, 1, 0, 0)])
    _, report, score = find(frames, gallery=gallery, count=3)
    assert report.startswith("References for 4 frames, from 3 color photos:\n1. image 1: ")
    each = [find(frame[None], gallery=gallery, count=3)[1].splitlines()[1:] for frame in frames]
    scores = [
        float(line.split("score ")[1][:5]) for lines in each for line in lines if "image 1:" in line
    ]
    assert score == pytest.approx(sum(scores) / 4, abs=2e-3)


def test_a_chosen_folder_leaves_the_gallery_aside(find, album):
    report = find(photo(9)[None], folder="album/1930", gallery=photo(0)[None])[1]
    assert "from 1 color photos" in report


def test_an_image_is_never_its_own_reference(find, album):
    report = find(photo(1, 90, 60)[None], folder="album", count=9)[1]
    assert "b.png" not in report and "1930/c.png" in report


def test_no_photos_are_refused(find, album):
    with pytest.raises(ValueError, match="connect gallery, or choose a folder"):
        find(photo()[None])
    with pytest.raises(ValueError, match="none of the 2 photos can be a reference: 2 gray"):
        find(photo()[None], gallery=torch.stack([grey(photo(1)), grey(photo(2))]))


@pytest.mark.parametrize("name", ["..", "album/..", "../input/album", "other", "/etc", ""])
def test_folder_names_are_untrusted(host, find, album, name):
    with pytest.raises(ValueError, match="is not in the list"):
        find(photo()[None], folder=name)
    assert host.nodes.FindReference.fingerprint_inputs(folder=name).endswith("missing")


def test_fingerprint_follows_the_folder(host, album):
    mark = host.nodes.FindReference.fingerprint_inputs
    first, images = mark(folder="album"), mark(folder="(images)")
    assert mark(folder="album") == first and mark(folder="(images)") == images
    facts = (album / "a.png").stat()
    os.utime(album / "a.png", ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**9))
    assert mark(folder="album") != first
    assert mark(image=None, gallery=None, folder="(images)", count=3) == images


def test_a_changed_folder_gives_another_result(find, album):
    target = grey(photo(1, 90, 60))[None]
    assert "1. b.png" in find(target, folder="album")[1]
    (album / "b.png").unlink()
    assert "b.png" not in find(target, folder="album", count=9)[1]


def test_references_are_cut_not_stretched(host):
    module = __import__(host.nodes.FindReference.__module__, fromlist=["stack_images"])
    wide = torch.zeros(20, 80, 3)
    wide[:, 30:50] = 1.0  # the middle square
    batch = module.stack_images([torch.full((10, 10, 3), 0.5), wide])
    assert batch.shape == (2, 10, 10, 3)
    assert torch.allclose(batch[1], torch.ones(10, 10, 3))
    assert module.clamp_size(3000, 4096) == (1500, 2048) and module.clamp_size(5, 7) == (5, 7)
    assert module.center_crop(torch.zeros(1, 3, 30, 20), 1.0).shape == (1, 3, 20, 20)
    assert module.center_crop(torch.zeros(1, 3, 1, 500), 3.0).shape == (1, 3, 1, 1)


def test_progress_reaches_its_end_and_stop_is_heard(host, find, album, cache, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total):
            pass

        def update_absolute(self, value, total):
            seen.append((value, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    find(photo(9)[None], folder="album")
    assert seen == sorted(seen) and seen[-1] == (5, 5)
    host.mm.interrupt_current_processing()
    with pytest.raises(host.mm.InterruptProcessingException):
        find(photo(9)[None], folder="album")


def test_the_cache_lies_in_the_hosts_user_folder(host, monkeypatch, tmp_path):
    monkeypatch.setattr(
        host.folder_paths, "get_user_directory", lambda: str(tmp_path / "user"), raising=False
    )
    assert host.bridge.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("COLORIST_CACHE")
    assert host.bridge.cache_folder() == tmp_path / "user" / "__colorist" / "cache"
