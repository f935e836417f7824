"""Reference search: ranking, skipped photos and the index."""

import json
import os

import numpy as np
import pytest
import torch
from comfyui_colorist.media import image_io
from comfyui_colorist.model_store import paths
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline import loader
from comfyui_colorist.pipeline.automatic import Colorizer
from comfyui_colorist.pipeline.device_manager import DeviceManager
from comfyui_colorist.pipeline.references import descriptors, index, search
from PIL import Image
from safetensors.torch import save_file


def photo(seed: int, height: int = 120, width: int = 160) -> torch.Tensor:
    """Return a colorful image (H, W, 3) of patches; each seed gives a different one."""
    generator = torch.Generator().manual_seed(seed)
    patches = 3 + seed % 7
    small = torch.rand(1, 3, patches, patches + 2, generator=generator)
    whole = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return whole[0].movedim(0, 2).clamp(0, 1)


def gray_of(rgb: torch.Tensor) -> torch.Tensor:
    """Return the image (H, W, 3) without color."""
    return color.gray_rgb(color.lightness(rgb.movedim(-1, 0))).movedim(0, -1)


def write(path, rgb: torch.Tensor):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb * 255).round().byte().numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def bundled():
    return loader.load(descriptors.ENCODER, device="cpu")


@pytest.fixture
def album(tmp_path):
    """Write eight color photos to a folder and its subfolder."""
    return [
        write(tmp_path / "album" / ("sub" if i > 5 else "") / f"{i}.png", photo(i))
        for i in range(8)
    ]


@pytest.fixture
def described_counts(monkeypatch):
    """Record the number of images in each call of the encoder."""
    seen = []
    original = descriptors.describe

    def counted(colorizer, images):
        seen.append(len(images))
        return original(colorizer, images)

    monkeypatch.setattr(search, "describe", counted)
    return seen


def indices_of(ranking):
    return [match.index for match in ranking.matches]


# --- Ranking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2, 5])
def test_modified_gray_copy_finds_its_photo(bundled, seed):
    gallery = [photo(i) for i in range(10)]
    whole = gray_of(gallery[seed])
    view = whole[6:114, 8:150] ** 1.15 * 0.95
    ranking = search.find_references(view, gallery, bundled, count=3)
    assert indices_of(ranking)[0] == seed
    scores = [match.score for match in ranking.matches]
    assert scores == sorted(scores) and 0 < scores[0] < scores[1]
    assert ranking.matches[0].similarity == pytest.approx(1 - scores[0])
    assert (ranking.photos, ranking.gray, ranking.unreadable) == (10, [], {})


def test_color_of_the_target_has_no_influence(bundled):
    gallery = [photo(i) for i in range(9)]
    target = photo(20)
    colored, gray = (
        search.find_references(x, gallery, bundled, count=9) for x in (target, gray_of(target))
    )
    assert indices_of(colored) == indices_of(gray)
    assert [m.score for m in colored.matches] == pytest.approx(
        [m.score for m in gray.matches], abs=2e-3
    )


def test_files_arrays_and_tensors_are_equivalent(mini, album, tmp_path):
    target = write(tmp_path / "target.png", photo(30))
    pixels = image_io.read_image(target).pixels
    gallery = [torch.from_numpy(image_io.read_image(path).pixels) for path in album]
    by_file = search.find_references(target, album, mini, count=5)
    assert search.find_references(pixels, gallery, mini, count=5) == by_file
    assert (
        search.find_references(torch.from_numpy(pixels), list(map(str, album)), mini, count=5)
        == by_file
    )
    alpha = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    assert search.find_references(alpha, album, mini, count=5) == by_file


def test_frames_are_ranked_together(mini, monkeypatch):
    gallery = [photo(i) for i in range(4)]
    frames = torch.stack([photo(40), photo(41)])
    each = [search.find_references(frame, gallery, mini, count=4) for frame in frames]
    together = search.find_references(frames, gallery, mini, count=4)
    scores = [{m.index: m.score for m in ranking.matches} for ranking in each]
    for match in together.matches:
        mean = (scores[0][match.index] + scores[1][match.index]) / 2
        assert match.score == pytest.approx(mean, abs=1e-5)
    monkeypatch.setattr(search, "MAX_FRAMES", 2)
    many = torch.stack([photo(40), photo(50), photo(51), photo(41)])
    assert indices_of(search.find_references(many, gallery, mini, count=4)) == indices_of(together)


def test_count(mini):
    gallery = [photo(i) for i in range(7)]
    assert len(search.find_references(photo(9), gallery, mini).matches) == 1
    ranking = search.find_references(photo(9), gallery, mini, count=50)
    assert sorted(indices_of(ranking)) == list(range(7))
    with pytest.raises(ValueError, match="count is 0; expected at least 1"):
        search.find_references(photo(9), gallery, mini, count=0)
    with pytest.raises(ValueError, match="gallery is one path, 'a.jpg'; expected a list"):
        search.find_references(photo(9), "a.jpg", mini)


def test_one_photo_is_a_gallery(mini):
    assert indices_of(search.find_references(photo(1), [photo(0)], mini)) == [0]


def test_target_is_excluded(mini, album, tmp_path):
    link = tmp_path / "other name.png"
    link.symlink_to(album[3])
    pixels = torch.from_numpy(image_io.read_image(album[3]).pixels)
    for target in (album[3], str(album[3]), link, pixels):
        ranking = search.find_references(target, album, mini, count=8)
        assert sorted(indices_of(ranking)) == [0, 1, 2, 4, 5, 6, 7]
    gray = search.find_references(gray_of(pixels), album, mini, count=8)
    assert indices_of(gray)[0] == 3  # its colors are what we look for
    with pytest.raises(ValueError, match="the target itself is excluded"):
        search.find_references(pixels, [pixels], mini)
    with pytest.raises(ValueError, match="the target itself is excluded"):
        search.find_references(album[3], [album[3]], mini)


def test_gray_and_unreadable_photos_are_skipped(mini, album, tmp_path, caplog):
    gray = write(tmp_path / "album" / "grey.png", gray_of(photo(5)))
    one_channel = tmp_path / "album" / "l.png"
    Image.fromarray((photo(6)[..., 0] * 255).byte().numpy()).save(one_channel)
    (tmp_path / "album" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    gallery = [gray, *album, one_channel, tmp_path / "album" / "bad.jpg", tmp_path / "gone.jpg"]
    ranking = search.find_references(photo(9), gallery, mini, count=20)
    assert sorted(indices_of(ranking)) == list(range(1, 9))
    assert ranking.photos == 8
    assert ranking.gray == [0, 9]
    assert list(ranking.unreadable) == [10, 11]
    assert ranking.unreadable[10].startswith("bad.jpg: damaged")
    assert "skipped: gone.jpg: no such file" in caplog.text
    with pytest.raises(ValueError, match="none of the 3 photos can be a reference: 2 gray, 1 unr"):
        search.find_references(photo(5), [gray, one_channel, tmp_path / "gone.jpg"], mini)


def test_progress_reaches_its_end(mini, album):
    seen = []
    search.find_references(photo(9), album, mini, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen) and seen[-1] == (8, 8)
    assert {total for _, total in seen} == {8}


def test_network_without_encoder_is_rejected(mini):
    class Other(torch.nn.Module):
        pass

    other = Colorizer(
        mini.spec, name="x.pth", info={}, dtype=torch.float32, device_manager=DeviceManager(Other())
    )
    with pytest.raises(ValueError, match="x.pth has no encoder that can describe photos; use ddc"):
        search.find_references(photo(0), [photo(1)], other)


# --- Distances ---------------------------------------------------------------------------------


def make_descriptors(cells, histograms) -> descriptors.Descriptors:
    """Return descriptors of one image with a few cells."""
    cells = torch.nn.functional.normalize(torch.tensor(cells, dtype=torch.float32), dim=-1)
    counts = torch.zeros(1, len(histograms), descriptors.HISTOGRAM_BINS, dtype=torch.uint8)
    for i, at in enumerate(histograms):
        counts[0, i, at] = 200
    return descriptors.Descriptors(torch.zeros(1, 1), cells[None], counts)


def nested(*candidates) -> descriptors.Descriptors:
    return descriptors.Descriptors(*(x[None] for x in descriptors.concat(candidates)))


def test_both_terms_are_distances():
    """Equal images have distance 0, and each term alone increases it."""
    target = make_descriptors([[1, 0], [0, 1]], [3, 30])
    same = make_descriptors([[0, 1], [1, 0]], [30, 3])  # cells elsewhere: matched by features
    other_features = make_descriptors([[1, 1], [1, 1]], [3, 30])
    other_tones = make_descriptors([[1, 0], [0, 1]], [9, 40])
    scores = descriptors.patch_distances(target, nested(same, other_features, other_tones))[0]
    assert scores[0] == pytest.approx(0, abs=1e-3)
    assert scores[1] > 0.25
    uncorrelated = 1 + 1 / (descriptors.HISTOGRAM_BINS - 1)
    assert scores[2] == pytest.approx(descriptors.HISTOGRAM_WEIGHT * uncorrelated, rel=1e-3)


def test_distances_equal_a_loop():
    generator = torch.Generator().manual_seed(0)

    def random(batch):
        cells = torch.randn(batch, 6, 5, generator=generator)
        counts = torch.randint(
            0, 9, (batch, 6, descriptors.HISTOGRAM_BINS), generator=generator
        ).byte()
        unit = torch.nn.functional.normalize(cells, dim=-1)
        return descriptors.Descriptors(torch.zeros(batch, 1), unit, counts)

    targets, candidates = random(2), random(6)
    of_each = candidates.select(torch.tensor([[0, 1, 2], [3, 4, 5]]))
    scores = descriptors.patch_distances(targets, of_each)
    for b in range(2):
        for k in range(3):
            features, tones = [], []
            for p in range(6):
                cosines = of_each.cells[b, k] @ targets.cells[b, p]
                q = int(cosines.argmax())
                pair = torch.stack([targets.histograms[b, p], of_each.histograms[b, k, q]])
                features.append(1 - cosines[q])
                tones.append(1 - torch.corrcoef(pair.double())[0, 1])
            expected = torch.stack(features).mean() + descriptors.HISTOGRAM_WEIGHT * sum(tones) / 6
            assert float(scores[b, k]) == pytest.approx(float(expected), abs=1e-5)


def test_histograms_count_the_pixels_of_each_cell():
    side = descriptors.GRID * descriptors.CELL
    L = torch.full((1, 1, side, side), 99.9)
    L[..., :16, 16:32] = 50.0
    L[..., :8, 16:32] = 0.0
    counts = descriptors.lightness_histograms(L)
    assert counts.shape == (1, 100, descriptors.HISTOGRAM_BINS)
    assert counts[0, 1, [0, 25]].tolist() == [128, 128]
    assert counts[0, 0, -1] == 255 and counts[0, 1].sum() == 256
    full = torch.full((1, 1, descriptors.SIDE, descriptors.SIDE), 100.0)
    assert descriptors.lightness_histograms(full)[0, 0, -1] == 255


def test_whitened_space_has_unit_vectors():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 176, generator=generator)
    rows[:, 3] = 7  # the same in all
    for count, dimensions in ((300, descriptors.PCA_DIMENSIONS), (9, 8), (2, 1), (1, 1)):
        space = descriptors.WhitenedSpace(rows[:count])
        points = space(rows[:count])
        assert points.shape == (count, dimensions)
        lengths = points.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(count) if count > 1 else lengths, atol=1e-5)
        assert points.isfinite().all()


# --- All pairs ---------------------------------------------------------------------------------


def test_rank_gallery_equals_single_searches(mini):
    gallery = [photo(i) for i in range(9)]
    seen = []
    pairs = search.rank_gallery(gallery, mini, progress=lambda *step: seen.append(step))
    assert pairs.top.shape == (9, 5) and pairs.gray == [] and pairs.unreadable == {}
    assert seen[-1] == (9, 9) and seen == sorted(seen)
    for i, row in enumerate(pairs.top.tolist()):
        assert i not in row and len(set(row)) == 5
    exhaustive = search.rank_gallery(gallery[:6], mini)
    for i, row in enumerate(exhaustive.top.tolist()):
        assert row == indices_of(search.find_references(gallery[i], gallery[:6], mini, count=5))


def test_rank_gallery_with_gray_and_unreadable_photos(mini, tmp_path):
    gallery = [photo(0), tmp_path / "gone.png", gray_of(photo(1)), photo(2), photo(3)]
    pairs = search.rank_gallery(gallery, mini)
    assert pairs.gray == [2] and list(pairs.unreadable) == [1]
    assert pairs.top[1].tolist() == [-1] * 5
    assert sorted(pairs.top[0].tolist()) == [-1, -1, -1, 3, 4]
    assert sorted(pairs.top[2].tolist()) == [-1, -1, 0, 3, 4]
    assert (pairs.top[2][:3] >= 0).all()  # best first, then none
    with pytest.raises(ValueError, match="2 gray, 1 unreadable"):
        search.rank_gallery([gallery[1], gallery[2], gallery[2]], mini)


# --- The index ---------------------------------------------------------------------------------


@pytest.fixture
def album_search(mini, album, tmp_path):
    """Search the album with its index, listing the gallery again each time."""
    folder = tmp_path / "album"

    def run(**options):
        index = search.open_index(folder, mini, tmp_path / "cache")
        gallery = sorted(folder.rglob("*.*"))
        ranking = search.find_references(photo(60), gallery, mini, count=3, index=index, **options)
        return [gallery[match.index].name for match in ranking.matches], ranking

    return run


SEARCH = 1 + 5  # images that every search looks at: the target, and the shortlist


def test_indexed_photos_are_not_described_again(
    mini, album_search, album, described_counts, tmp_path
):
    plain = search.find_references(photo(60), sorted(album), mini, count=3)
    described_counts.clear()
    first = album_search()
    assert sum(described_counts) == SEARCH + 8
    described_counts.clear()
    assert album_search() == first
    assert sum(described_counts) == SEARCH
    assert [m.score for m in first[1].matches] == [m.score for m in plain.matches]
    (file,) = (tmp_path / "cache" / "references").iterdir()
    assert file.stat().st_size < 8 * 1000
    assert sorted(p.name for p in (tmp_path / "album").iterdir()) == [
        *(f"{i}.png" for i in range(6)),
        "sub",
    ]


def test_added_changed_and_removed_photos(album_search, album, described_counts):
    names, _ = album_search()
    write(album[0].parent / "new.png", photo(61))
    described_counts.clear()
    assert album_search()[1].photos == 9
    assert sum(described_counts) == SEARCH + 1
    write(album[1], photo(62))
    os.utime(album[1], ns=(0, 10**18))
    described_counts.clear()
    album_search()
    assert sum(described_counts) == SEARCH + 1
    next(path for path in album if path.name == names[0]).unlink()
    described_counts.clear()
    changed, ranking = album_search()
    assert sum(described_counts) == SEARCH and names[0] not in changed and ranking.photos == 8
    described_counts.clear()
    assert album_search()[0] == changed


def test_old_index_gives_the_same_result_as_none(mini, album_search, album):
    """Removed and changed photos have no influence."""
    album_search()
    write(album[0], photo(70))
    os.utime(album[0], ns=(0, 10**18))
    album[1].unlink()
    names, ranking = album_search()
    gallery = sorted(path for path in album if path.exists())
    fresh = search.find_references(photo(60), gallery, mini, count=3)
    assert [gallery[m.index].name for m in fresh.matches] == names
    assert [m.score for m in fresh.matches] == [m.score for m in ranking.matches]


def test_gray_and_unreadable_photos_are_indexed(album_search, album, described_counts, monkeypatch):
    bad = album[0].parent / "bad.jpg"
    bad.write_bytes(b"no image")
    write(album[0].parent / "grey.png", gray_of(photo(1)))
    _, first = album_search()
    read = []
    original = image_io.read_image
    monkeypatch.setattr(
        image_io, "read_image", lambda path: read.append(path.name) or original(path)
    )
    _, ranking = album_search()
    assert (ranking.gray, ranking.unreadable) == (first.gray, first.unreadable)
    assert list(ranking.unreadable.values())[0].startswith("bad.jpg: not an image")
    assert len(read) == 5 and not {"bad.jpg", "grey.png"} & set(read)
    write(album[0].parent / "bad.jpg", photo(80))
    os.utime(bad, ns=(0, 10**18))
    _, ranking = album_search()
    assert ranking.unreadable == {} and ranking.photos == 9


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign", "rows", "nan"])
def test_damaged_index_is_rebuilt(album_search, described_counts, damage, tmp_path, caplog):
    names, _ = album_search()
    (file,) = (tmp_path / "cache" / "references").iterdir()
    data = file.read_bytes()
    if damage in ("cut", "text", "empty"):
        file.write_bytes({"cut": data[:-100], "text": b"hello", "empty": b""}[damage])
    else:
        metadata = {"references": json.dumps({"version": 1, "encoder": "x"})}
        tensors = {"descriptors": torch.zeros(1, 4).half()}
        if damage != "foreign":
            from safetensors import safe_open

            with safe_open(file, "pt") as opened:
                metadata, rows = opened.metadata(), opened.get_tensor("descriptors")
            tensors = {"descriptors": rows[:-1] if damage == "rows" else rows / 0}
        save_file(tensors, file, metadata)
    described_counts.clear()
    assert album_search()[0] == names
    assert sum(described_counts) == SEARCH + 8
    assert ("rebuilding the index of photos" in caplog.text) == (damage != "foreign")
    described_counts.clear()
    assert album_search()[0] == names
    assert sum(described_counts) == SEARCH


def test_another_encoder_or_version_invalidates_the_index(
    album_search, mini, described_counts, monkeypatch
):
    album_search()
    for where, name, value in (
        (index, "VERSION", 99),
        (search, "encoder_name", lambda colorizer: "another"),
    ):
        monkeypatch.setattr(where, name, value)
        described_counts.clear()
        album_search()
        assert sum(described_counts) == SEARCH + 8
    assert descriptors.encoder_name(mini).endswith("-float32")


def test_interrupted_search_saves_its_progress(album_search, described_counts, monkeypatch, mini):
    monkeypatch.setattr(search, "BATCH_SIZE", 2)
    calls = iter(range(5))

    def stop(self):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(DeviceManager, "check_interrupt", stop)
    with pytest.raises(KeyboardInterrupt):
        album_search()
    monkeypatch.undo()
    seen = []
    original = descriptors.describe
    monkeypatch.setattr(search, "describe", lambda c, x: seen.append(len(x)) or original(c, x))
    album_search()
    assert sum(seen) == SEARCH + 8 - 4


def test_index_is_saved_periodically(album_search, monkeypatch):
    saved = []
    monkeypatch.setattr(index, "SAVE_INTERVAL", 3)
    monkeypatch.setattr(index, "write_atomic", lambda path, data: saved.append(len(data)))
    album_search()
    assert len(saved) == 3 and saved == sorted(saved)


def test_unwritable_cache_causes_a_warning(album_search, monkeypatch, caplog):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(index, "write_atomic", refuse)
    names, _ = album_search()
    assert len(names) == 3
    assert caplog.text.count("cannot write the index of photos (Permission denied)") == 1
    assert "COLORIST_CACHE" in caplog.text


def test_unusual_file_names(mini, tmp_path, described_counts):
    album = tmp_path / "ünï"
    names = ["a b.png", "é.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    gallery = [write(album / name, photo(i)) for i, name in enumerate(names)]
    for _ in range(2):
        described_counts.clear()
        index = search.open_index(album, mini, tmp_path)
        search.find_references(photo(9), gallery, mini, index=index)
    assert sum(described_counts) == 1 + len(names)


def test_index_location(monkeypatch, tmp_path):
    monkeypatch.setenv("COLORIST_CACHE", str(tmp_path))
    file = index.index_file(tmp_path / "photos")
    assert file.parent == tmp_path / "references" and file.suffix == ".safetensors"
    assert index.index_file(tmp_path / "other") != file
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert index.index_file(tmp_path / "link") == file
    monkeypatch.delenv("COLORIST_CACHE")
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    assert index.cache_folder() == paths.data_folder() / "cache"


def test_transparent_pixels_give_no_color(bundled):
    """A fully transparent photo cannot be a reference."""
    hidden = torch.cat([photo(1), torch.zeros(120, 160, 1)], dim=-1)
    ranking = search.find_references(gray_of(photo(1)), [hidden, photo(2)], bundled)
    assert ranking.gray == [0]
    assert [match.index for match in ranking.matches] == [1]
