"""Find References: what is found, what is left out, what is kept for the next time."""

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
from comfyui_colorist.pipeline.device_manager import Placement
from comfyui_colorist.pipeline.references import descriptors
from comfyui_colorist.pipeline.references import index as reference_index
from comfyui_colorist.pipeline.references import search as reference_search
from PIL import Image
from safetensors.torch import save_file


def photo(seed: int, height: int = 120, width: int = 160) -> torch.Tensor:
    """A colourful picture (H, W, 3) of patches, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    patches = 3 + seed % 7
    small = torch.rand(1, 3, patches, patches + 2, generator=generator)
    whole = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    return whole[0].movedim(0, 2).clamp(0, 1)


def grey_of(rgb: torch.Tensor) -> torch.Tensor:
    """The same picture (H, W, 3) without colour."""
    return color.gray_rgb(color.lightness(rgb.movedim(-1, 0))).movedim(0, -1)


def write(path, rgb: torch.Tensor):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rgb * 255).round().byte().numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def boxed():
    return loader.load(descriptors.ENCODER, device="cpu")


@pytest.fixture
def album(tmp_path):
    """Eight colour photos in a folder and one below it."""
    return [
        write(tmp_path / "album" / ("sub" if i > 5 else "") / f"{i}.png", photo(i))
        for i in range(8)
    ]


@pytest.fixture
def looked(monkeypatch):
    """How many pictures the encoder was shown."""
    seen = []
    original = descriptors.looks

    def counted(colorizer, pictures):
        seen.append(len(pictures))
        return original(colorizer, pictures)

    monkeypatch.setattr(reference_search, "looks", counted)
    return seen


def place_of(found):
    return [match.index for match in found.matches]


# --- What is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [2, 5])
def test_a_changed_grey_copy_finds_its_photo(boxed, seed):
    gallery = [photo(i) for i in range(10)]
    whole = grey_of(gallery[seed])
    view = whole[6:114, 8:150] ** 1.15 * 0.95
    found = reference_search.find(view, gallery, boxed, count=3)
    assert place_of(found)[0] == seed
    scores = [match.score for match in found.matches]
    assert scores == sorted(scores) and 0 < scores[0] < scores[1]
    assert found.matches[0].similarity == pytest.approx(1 - scores[0])
    assert (found.photos, found.grey, found.unreadable) == (10, [], {})


def test_colour_of_the_target_is_not_looked_at(mini):
    gallery = [photo(i) for i in range(9)]
    target = photo(20)
    one, other = (
        reference_search.find(x, gallery, mini, count=9) for x in (target, grey_of(target))
    )
    assert place_of(one) == place_of(other)
    assert [m.score for m in one.matches] == pytest.approx(
        [m.score for m in other.matches], abs=2e-3
    )


def test_files_arrays_and_tensors_are_the_same(mini, album, tmp_path):
    target = write(tmp_path / "target.png", photo(30))
    pixels = image_io.read(target).pixels
    gallery = [torch.from_numpy(image_io.read(path).pixels) for path in album]
    by_file = reference_search.find(target, album, mini, count=5)
    assert reference_search.find(pixels, gallery, mini, count=5) == by_file
    assert (
        reference_search.find(torch.from_numpy(pixels), list(map(str, album)), mini, count=5)
        == by_file
    )
    alpha = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    assert reference_search.find(alpha, album, mini, count=5) == by_file


def test_frames_are_ranked_for_together(mini, monkeypatch):
    gallery = [photo(i) for i in range(4)]
    frames = torch.stack([photo(40), photo(41)])
    each = [reference_search.find(frame, gallery, mini, count=4) for frame in frames]
    together = reference_search.find(frames, gallery, mini, count=4)
    scores = [{m.index: m.score for m in one.matches} for one in each]
    for match in together.matches:
        mean = (scores[0][match.index] + scores[1][match.index]) / 2
        assert match.score == pytest.approx(mean, abs=1e-5)
    monkeypatch.setattr(reference_search, "FRAMES", 2)
    many = torch.stack([photo(40), photo(50), photo(51), photo(41)])
    assert place_of(reference_search.find(many, gallery, mini, count=4)) == place_of(together)


def test_count(mini):
    gallery = [photo(i) for i in range(7)]
    assert len(reference_search.find(photo(9), gallery, mini).matches) == 1
    found = reference_search.find(photo(9), gallery, mini, count=50)
    assert sorted(place_of(found)) == list(range(7))
    with pytest.raises(ValueError, match="count is 0; expected at least 1"):
        reference_search.find(photo(9), gallery, mini, count=0)
    with pytest.raises(ValueError, match="gallery is one path, 'a.jpg'; expected a list"):
        reference_search.find(photo(9), "a.jpg", mini)


def test_one_photo_is_a_gallery(mini):
    assert place_of(reference_search.find(photo(1), [photo(0)], mini)) == [0]


def test_the_target_is_never_found(mini, album, tmp_path):
    link = tmp_path / "other name.png"
    link.symlink_to(album[3])
    pixels = torch.from_numpy(image_io.read(album[3]).pixels)
    for target in (album[3], str(album[3]), link, pixels):
        found = reference_search.find(target, album, mini, count=8)
        assert sorted(place_of(found)) == [0, 1, 2, 4, 5, 6, 7]
    grey = reference_search.find(grey_of(pixels), album, mini, count=8)
    assert place_of(grey)[0] == 3  # its colours are what we look for
    with pytest.raises(ValueError, match="the target itself does not count"):
        reference_search.find(pixels, [pixels], mini)
    with pytest.raises(ValueError, match="the target itself does not count"):
        reference_search.find(album[3], [album[3]], mini)


def test_grey_and_bad_photos_are_left_out_and_told(mini, album, tmp_path, caplog):
    grey = write(tmp_path / "album" / "grey.png", grey_of(photo(5)))
    one_channel = tmp_path / "album" / "l.png"
    Image.fromarray((photo(6)[..., 0] * 255).byte().numpy()).save(one_channel)
    (tmp_path / "album" / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    gallery = [grey, *album, one_channel, tmp_path / "album" / "bad.jpg", tmp_path / "gone.jpg"]
    found = reference_search.find(photo(9), gallery, mini, count=20)
    assert sorted(place_of(found)) == list(range(1, 9))
    assert found.photos == 8
    assert found.grey == [0, 9]
    assert list(found.unreadable) == [10, 11]
    assert found.unreadable[10].startswith("bad.jpg: damaged")
    assert "left out: gone.jpg: no such file" in caplog.text
    with pytest.raises(ValueError, match="none of the 3 photos can be a reference: 2 grey, 1 unr"):
        reference_search.find(photo(5), [grey, one_channel, tmp_path / "gone.jpg"], mini)


def test_progress_reaches_its_end(mini, album):
    seen = []
    reference_search.find(photo(9), album, mini, progress=lambda *step: seen.append(step))
    assert seen == sorted(seen) and seen[-1] == (8, 8)
    assert {total for _, total in seen} == {8}


def test_a_network_without_encoder_is_refused(mini):
    class Other(torch.nn.Module):
        pass

    other = Colorizer(
        mini.spec, name="x.pth", info={}, dtype=torch.float32, placement=Placement(Other())
    )
    with pytest.raises(ValueError, match="x.pth has no encoder that describes pictures; take ddc"):
        reference_search.find(photo(0), [photo(1)], other)


# --- Distances ---------------------------------------------------------------------------------


def looks_of(cells, histograms) -> descriptors.Looks:
    """Looks of one picture of a few cells."""
    cells = torch.nn.functional.normalize(torch.tensor(cells, dtype=torch.float32), dim=-1)
    counts = torch.zeros(1, len(histograms), descriptors.BINS, dtype=torch.uint8)
    for i, at in enumerate(histograms):
        counts[0, i, at] = 200
    return descriptors.Looks(torch.zeros(1, 1), cells[None], counts)


def nested(*candidates) -> descriptors.Looks:
    return descriptors.Looks(*(x[None] for x in descriptors.joined(candidates)))


def test_both_terms_are_distances():
    """The score of the same is 0, and each term alone makes it larger."""
    target = looks_of([[1, 0], [0, 1]], [3, 30])
    same = looks_of([[0, 1], [1, 0]], [30, 3])  # cells elsewhere: matched by features
    other_features = looks_of([[1, 1], [1, 1]], [3, 30])
    other_tones = looks_of([[1, 0], [0, 1]], [9, 40])
    scores = descriptors.scores_of(target, nested(same, other_features, other_tones))[0]
    assert scores[0] == pytest.approx(0, abs=1e-3)
    assert scores[1] > 0.25
    uncorrelated = 1 + 1 / (descriptors.BINS - 1)
    assert scores[2] == pytest.approx(descriptors.HISTOGRAM_WEIGHT * uncorrelated, rel=1e-3)


def test_scores_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)

    def random(batch):
        cells = torch.randn(batch, 6, 5, generator=generator)
        counts = torch.randint(0, 9, (batch, 6, descriptors.BINS), generator=generator).byte()
        unit = torch.nn.functional.normalize(cells, dim=-1)
        return descriptors.Looks(torch.zeros(batch, 1), unit, counts)

    targets, candidates = random(2), random(6)
    of_each = descriptors.rows(candidates, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    scores = descriptors.scores_of(targets, of_each)
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
    L = torch.full((1, 1, descriptors.SIDE, descriptors.SIDE), 99.9)
    L[..., :16, 16:32] = 50.0
    L[..., :8, 16:32] = 0.0
    counts = descriptors.histograms(L)
    assert counts.shape == (1, 100, descriptors.BINS)
    assert counts[0, 1, [0, 25]].tolist() == [128, 128]
    assert counts[0, 0, -1] == 255 and counts[0, 1].sum() == 256
    assert descriptors.histograms(torch.full_like(L, 100.0))[0, 0, -1] == 255


def test_the_space_has_unit_vectors_and_few_dimensions():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 32 + descriptors.HOG_WIDTH, generator=generator)
    rows[:, 3] = 7  # the same in all
    for count, dimensions in ((300, descriptors.PRINCIPAL), (9, 8), (2, 1), (1, 1)):
        space = descriptors.Space(rows[:count])
        points = space(rows[:count])
        assert points.shape == (count, dimensions)
        lengths = points.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(count) if count > 1 else lengths, atol=1e-5)
        assert points.isfinite().all()


# --- All pairs ---------------------------------------------------------------------------------


def test_rank_all_is_find_for_each(mini):
    gallery = [photo(i) for i in range(9)]
    seen = []
    pairs = reference_search.rank_all(gallery, mini, progress=lambda *step: seen.append(step))
    assert pairs.top.shape == (9, 5) and pairs.grey == [] and pairs.unreadable == {}
    assert seen[-1] == (9, 9) and seen == sorted(seen)
    for i, row in enumerate(pairs.top.tolist()):
        assert i not in row and len(set(row)) == 5
    exhaustive = reference_search.rank_all(gallery[:6], mini)
    for i, row in enumerate(exhaustive.top.tolist()):
        assert row == place_of(reference_search.find(gallery[i], gallery[:6], mini, count=5))


def test_rank_all_with_few_grey_and_bad_ones(mini, tmp_path):
    gallery = [photo(0), tmp_path / "gone.png", grey_of(photo(1)), photo(2), photo(3)]
    pairs = reference_search.rank_all(gallery, mini)
    assert pairs.grey == [2] and list(pairs.unreadable) == [1]
    assert pairs.top[1].tolist() == [-1] * 5
    assert sorted(pairs.top[0].tolist()) == [-1, -1, -1, 3, 4]
    assert sorted(pairs.top[2].tolist()) == [-1, -1, 0, 3, 4]
    assert (pairs.top[2][:3] >= 0).all()  # best first, then none
    with pytest.raises(ValueError, match="2 grey, 1 unreadable"):
        reference_search.rank_all([gallery[1], gallery[2], gallery[2]], mini)


# --- The index ---------------------------------------------------------------------------------


@pytest.fixture
def search(mini, album, tmp_path):
    """A search in the album with its index; the gallery is listed anew."""
    folder = tmp_path / "album"

    def run(**options):
        index = reference_search.open_index(folder, mini, tmp_path / "cache")
        gallery = sorted(folder.rglob("*.*"))
        found = reference_search.find(photo(60), gallery, mini, count=3, index=index, **options)
        return [gallery[match.index].name for match in found.matches], found

    return run


SEARCH = 1 + 5  # pictures that every search looks at: the target, and the shortlist


def test_what_is_known_is_not_looked_at_again(mini, search, album, looked, tmp_path):
    plain = reference_search.find(photo(60), sorted(album), mini, count=3)
    looked.clear()
    first = search()
    assert sum(looked) == SEARCH + 8
    looked.clear()
    assert search() == first
    assert sum(looked) == SEARCH
    assert [m.score for m in first[1].matches] == [m.score for m in plain.matches]
    (file,) = (tmp_path / "cache" / "references").iterdir()
    assert file.stat().st_size < 8 * 1000
    assert sorted(p.name for p in (tmp_path / "album").iterdir()) == [
        *(f"{i}.png" for i in range(6)),
        "sub",
    ]


def test_added_changed_and_removed_photos(search, album, looked):
    names, _ = search()
    write(album[0].parent / "new.png", photo(61))
    looked.clear()
    assert search()[1].photos == 9
    assert sum(looked) == SEARCH + 1
    write(album[1], photo(62))
    os.utime(album[1], ns=(0, 10**18))
    looked.clear()
    search()
    assert sum(looked) == SEARCH + 1
    next(path for path in album if path.name == names[0]).unlink()
    looked.clear()
    changed, found = search()
    assert sum(looked) == SEARCH and names[0] not in changed and found.photos == 8
    looked.clear()
    assert search()[0] == changed


def test_a_search_with_an_old_index_is_a_search_without(mini, search, album):
    """No trace of photos that are gone or were other ones."""
    search()
    write(album[0], photo(70))
    os.utime(album[0], ns=(0, 10**18))
    album[1].unlink()
    names, found = search()
    gallery = sorted(path for path in album if path.exists())
    fresh = reference_search.find(photo(60), gallery, mini, count=3)
    assert [gallery[m.index].name for m in fresh.matches] == names
    assert [m.score for m in fresh.matches] == [m.score for m in found.matches]


def test_grey_and_bad_photos_are_remembered_until_they_change(search, album, looked, monkeypatch):
    bad = album[0].parent / "bad.jpg"
    bad.write_bytes(b"no picture")
    write(album[0].parent / "grey.png", grey_of(photo(1)))
    _, first = search()
    read = []
    original = image_io.read
    monkeypatch.setattr(image_io, "read", lambda path: read.append(path.name) or original(path))
    _, found = search()
    assert (found.grey, found.unreadable) == (first.grey, first.unreadable)
    assert list(found.unreadable.values())[0].startswith("bad.jpg: not a picture")
    assert len(read) == 5 and not {"bad.jpg", "grey.png"} & set(read)
    write(album[0].parent / "bad.jpg", photo(80))
    os.utime(bad, ns=(0, 10**18))
    _, found = search()
    assert found.unreadable == {} and found.photos == 9


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "foreign", "rows", "nan"])
def test_a_damaged_index_is_made_anew(search, looked, damage, tmp_path, caplog):
    names, _ = search()
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
    looked.clear()
    assert search()[0] == names
    assert sum(looked) == SEARCH + 8
    assert ("a damaged index of photos" in caplog.text) == (damage != "foreign")
    looked.clear()
    assert search()[0] == names
    assert sum(looked) == SEARCH


def test_another_encoder_or_version_makes_it_worthless(search, mini, looked, monkeypatch):
    search()
    for where, name, value in (
        (reference_index, "VERSION", 99),
        (reference_search, "encoder_name", lambda colorizer: "another"),
    ):
        monkeypatch.setattr(where, name, value)
        looked.clear()
        search()
        assert sum(looked) == SEARCH + 8
    assert descriptors.encoder_name(mini).endswith("-float32")


def test_an_interrupted_search_keeps_its_part(search, looked, monkeypatch, mini):
    monkeypatch.setattr(reference_search, "AT_ONCE", 2)
    calls = iter(range(5))

    def stop(self):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Placement, "check_interrupt", stop)
    with pytest.raises(KeyboardInterrupt):
        search()
    monkeypatch.undo()
    seen = []
    original = descriptors.looks
    monkeypatch.setattr(
        reference_search, "looks", lambda c, x: seen.append(len(x)) or original(c, x)
    )
    search()
    assert sum(seen) == SEARCH + 8 - 4


def test_it_is_saved_now_and_then(search, monkeypatch):
    saved = []
    monkeypatch.setattr(reference_index, "SAVE_EVERY", 3)
    monkeypatch.setattr(reference_index, "write_whole", lambda path, data: saved.append(len(data)))
    search()
    assert len(saved) == 3 and saved == sorted(saved)


def test_a_place_that_cannot_be_written_costs_a_warning(search, monkeypatch, caplog):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(reference_index, "write_whole", refuse)
    names, _ = search()
    assert len(names) == 3
    assert caplog.text.count("cannot be kept (Permission denied)") == 1
    assert "COLORIST_CACHE" in caplog.text


def test_odd_names_are_kept(mini, tmp_path, looked):
    album = tmp_path / "ünï"
    names = ["a b.png", "é.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    gallery = [write(album / name, photo(i)) for i, name in enumerate(names)]
    for _ in range(2):
        looked.clear()
        index = reference_search.open_index(album, mini, tmp_path)
        reference_search.find(photo(9), gallery, mini, index=index)
    assert sum(looked) == 1 + len(names)


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("COLORIST_CACHE", str(tmp_path))
    file = reference_index.index_file(tmp_path / "photos")
    assert file.parent == tmp_path / "references" and file.suffix == ".safetensors"
    assert reference_index.index_file(tmp_path / "other") != file
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert reference_index.index_file(tmp_path / "link") == file
    monkeypatch.delenv("COLORIST_CACHE")
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    assert reference_index.cache_folder() == paths.data_folder() / "cache"


def test_what_is_transparent_gives_no_colour(boxed):
    """A photo whose colours are all hidden cannot be a reference."""
    hidden = torch.cat([photo(1), torch.zeros(120, 160, 1)], dim=-1)
    found = reference_search.find(grey_of(photo(1)), [hidden, photo(2)], boxed)
    assert found.grey == [0]
    assert [match.index for match in found.matches] == [1]
